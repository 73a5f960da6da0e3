"""Flink's KafkaSource and KafkaSink with DeliveryGuarantee.EXACTLY_ONCE: a failure inside the job, and the process killed.

FLINK_LIBS and FLINK_CLASSES name the jars and the compiled FlinkJob. FLINK_RECORDS: records before and after each kill.
"""

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import wire
from confluent_kafka import Producer
from jvm import Process, end_all, java, read_topic, soon
from suite import BOOTSTRAP, WAIT_SECONDS_MAX, Suite, assert_eq, topic_name

suite = Suite("flink")
KILLS = int(os.environ.get("FLINK_KILLS", "2"))
RECORDS = int(os.environ.get("FLINK_RECORDS", "20000"))
PARTITIONS = 3
FOLDER = tempfile.TemporaryDirectory(prefix="flink-")
# Flink's serializers look into the JDK's own classes.
OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.util", "java.lang", "java.util.concurrent",
                                                                       "java.util.concurrent.atomic", "java.time")]


def create(label):
    name = topic_name("flink-" + label)
    with wire.Connection() as connection:
        assert_eq(connection.create_topic(name, PARTITIONS), 0)
        connection.settle(name, PARTITIONS)
    return name


def last_checkpoint(folder):
    """The newest complete one; `-` when there is none. Each job has a folder of its own with chk-N in it."""
    found = [path.parent for path in folder.glob("*/chk-*/_metadata")]
    return str(max(found, key=lambda path: path.stat().st_mtime)) if found else "-"


def exactly_once(naming):
    source, out = create("in"), create(f"out-{naming.lower()}")
    checkpoints = Path(FOLDER.name) / naming
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "linger.ms": 5})
    sent = 0

    def feed():
        nonlocal sent
        for i in range(sent, sent + RECORDS):
            producer.produce(source, value=b"v%d" % i, partition=i % PARTITIONS)
            producer.poll(0)
        sent += RECORDS
        assert_eq(producer.flush(WAIT_SECONDS_MAX), 0, "unsent")

    def start(fail_after):
        command = java([os.environ["FLINK_CLASSES"], os.environ["FLINK_LIBS"]], "FlinkJob", source, out, checkpoints,
                       last_checkpoint(checkpoints), fail_after, naming, heap="768m", options=OPENS)
        return Process(f"flink-{naming}", command, FOLDER.name)

    feed()
    for kill in range(KILLS):
        before = len(read_topic(out, PARTITIONS))
        # Fails inside the records that come last, the first time; a process that was restored goes on undisturbed.
        process = start(RECORDS + RECORDS // 2 if kill == 0 else 0)
        soon(lambda: len(read_topic(out, PARTITIONS)) > before, "committed records after a start", process)
        feed()
        if kill == 0:
            soon(lambda: "failing on purpose" in process.tail(100_000), "the failure inside", process)
            soon(lambda: len(read_topic(out, PARTITIONS)) == sent, "what the failure interrupted", process)
        feed()
        time.sleep(0.3)
        process.kill()
    feed()
    process = start(0)
    soon(lambda: len(read_topic(out, PARTITIONS)) >= sent, "all records", process)
    # Two more checkpoints would commit what came twice.
    time.sleep(1)
    process.kill()
    values = Counter(value for _, _, _, value in read_topic(out, PARTITIONS))
    twice = [value for value, count in values.items() if count > 1]
    assert not twice, f"{len(twice)} values twice, such as {twice[:3]}"
    assert_eq(len(values), sent, "different values")
    assert_eq(set(values), {b"v%d" % i for i in range(sent)}, "values")


for strategy in ("INCREMENTING", "POOLING"):
    suite.case(f"KafkaSource to KafkaSink, exactly once, {strategy} transactional ids: a failure inside, {KILLS} kills")(
        lambda naming=strategy: exactly_once(naming))
suite.run(end_all, FOLDER.cleanup)
