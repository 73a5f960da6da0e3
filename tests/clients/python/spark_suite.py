"""Spark Structured Streaming with the Kafka source and sink, in an application that is killed and started again.

SPARK_PYTHON runs it, SPARK_LIBS has the connector's jars. SPARK_KILLS: how often it is killed (1); SPARK_RECORDS: how
many records are there before and after each kill (3000).
"""

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import wire
from confluent_kafka import Producer
from jvm import Process, end_all, read_topic, soon
from suite import BOOTSTRAP, WAIT_SECONDS_MAX, Suite, assert_eq, topic_name

suite = Suite("spark")
KILLS = int(os.environ.get("SPARK_KILLS", "1"))
RECORDS = int(os.environ.get("SPARK_RECORDS", "3000"))
PARTITIONS = 3
KEYS = 50
FOLDER = tempfile.TemporaryDirectory(prefix="spark-")
JOB = Path(__file__).with_name("spark_job.py")


def create(label, partitions):
    name = topic_name("spark-" + label)
    with wire.Connection() as connection:
        assert_eq(connection.create_topic(name, partitions), 0)
        connection.settle(name, partitions)
    return name


@suite.case("a copy and a count from topic to topic, killed and restarted: counts exact; batch reads and writes")
def _():
    topics = [create("in", PARTITIONS), create("copy", PARTITIONS), create("counts", 1), create("written", 1)]
    source, copied, counts, written = topics
    report = Path(FOLDER.name) / "report.json"
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "linger.ms": 5})
    sent = 0

    def feed():
        nonlocal sent
        for i in range(sent, sent + RECORDS):
            producer.produce(source, key=b"w%d" % (i % KEYS), value=b"v%d" % i, headers=[("n", b"%d" % i)],
                             partition=i % PARTITIONS)
            producer.poll(0)
        sent += RECORDS
        assert_eq(producer.flush(WAIT_SECONDS_MAX), 0, "unsent")

    def start(mode):
        command = [os.environ["SPARK_PYTHON"], str(JOB), mode, *topics, FOLDER.name, str(report)]
        return Process("spark", command, FOLDER.name)

    def counted():
        """The highest count of each key: the last one, as counts only grow."""
        best = Counter()
        for _, _, key, value in read_topic(counts):
            best[key] = max(best[key], int(value))
        return best

    feed()
    for _ in range(KILLS):
        seen = sum(counted().values())
        process = start("stream")
        soon(lambda: sum(counted().values()) > seen, "the first counts after a start", process)
        feed()
        time.sleep(0.5)
        process.kill()
        feed()
    process = start("finish")
    process.wait()
    want = Counter(b"w%d" % (i % KEYS) for i in range(sent))
    assert_eq(counted(), want, "counts")
    # The sink promises at least once; every value must be there, under its key.
    copies = {(key, value) for _, _, key, value in read_topic(copied, PARTITIONS)}
    assert_eq(copies, {(b"w%d" % (i % KEYS), b"v%d" % i) for i in range(sent)}, "copied records")
    found = json.loads(report.read_text())
    assert_eq((found["all"], found["split"]), (sent, sent), "records in batch reads of everything")
    assert_eq(found["first"][:3], [0, 0, "v0"], "the first record")
    bounds = [[0, n] for n in range(10, 25)] + [[1, 0]] + [[2, n] for n in range(5)]
    assert_eq(found["middle"], bounds, "offsets between bounds")
    assert_eq(found["later"], found["later_wanted"], "records from a timestamp on")
    values = sorted(int(value) for _, _, _, value in read_topic(written))
    assert_eq(values, list(range(1000)), "records of the batch write")


suite.run(end_all, FOLDER.cleanup)
