"""Moving from Apache Kafka to Ringlog, and back, with MirrorMaker 2: topics, records, configurations, groups' offsets.

KAFKA is the bootstrap address of an Apache Kafka; CONNECT_LIBS has the jars. MirrorMaker is killed in the middle.
"""

import os
import tempfile
import time
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic
from jvm import Process, end_all, java, read_topic, soon
from suite import BOOTSTRAP, WAIT_SECONDS_MAX, Suite, assert_eq, now_ms, topic_name

suite = Suite("mirror-maker")
KAFKA = os.environ["KAFKA"]
RECORDS = 6000
PARTITIONS = 3
FOLDER = tempfile.TemporaryDirectory(prefix="mirror-")


def settings(source, target, topic, exactly_once):
    """Replicates this one topic under its own name, and its group, from one cluster to the other."""
    return {"clusters": "source, target", "source.bootstrap.servers": source, "target.bootstrap.servers": target,
            "source->target.enabled": "true", "target->source.enabled": "false", "topics": topic, "groups": topic,
            "replication.policy.class": "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
            "replication.factor": 1, "checkpoints.topic.replication.factor": 1, "heartbeats.topic.replication.factor": 1,
            "offset-syncs.topic.replication.factor": 1, "offset.storage.replication.factor": 1,
            "status.storage.replication.factor": 1, "config.storage.replication.factor": 1,
            "sync.group.offsets.enabled": "true", "sync.group.offsets.interval.seconds": 1,
            "emit.checkpoints.interval.seconds": 1, "refresh.topics.interval.seconds": 2,
            "refresh.groups.interval.seconds": 2, "sync.topic.configs.interval.seconds": 2, "offset.lag.max": 0,
            "emit.heartbeats.enabled": "false", "offset.flush.interval.ms": 500, "tasks.max": 2,
            "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "scheduled.rebalance.max.delay.ms": 0,
            "target.exactly.once.source.support": "enabled" if exactly_once else "disabled",
            "plugin.discovery": "service_load"}


def mirrored(label, source, target, exactly_once):
    topic = topic_name("mirror-" + label)
    admin = AdminClient({"bootstrap.servers": source})
    new = NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "7777777", "cleanup.policy": "delete"})
    admin.create_topics([new])[topic].result(WAIT_SECONDS_MAX)
    producer = Producer({"bootstrap.servers": source, "enable.idempotence": True, "compression.type": "zstd"})
    base_ms = now_ms() - 1_000_000
    sent = 0

    def feed():
        nonlocal sent
        for i in range(sent, sent + RECORDS):
            producer.produce(topic, key=b"k%d" % (i % 97), value=b"v%d" % i, headers=[("n", b"%d" % i)],
                             timestamp=base_ms + i, partition=i % PARTITIONS)
            producer.poll(0)
        sent += RECORDS
        assert_eq(producer.flush(WAIT_SECONDS_MAX), 0, "unsent")

    feed()
    config = Path(FOLDER.name) / f"{label}.properties"
    config.write_text("".join(f"{k}={v}\n" for k, v in settings(source, target, topic, exactly_once).items()))

    def start():
        command = java([os.environ["CONNECT_LIBS"]], "org.apache.kafka.connect.mirror.MirrorMaker", config, heap="512m")
        return Process(f"mirror-{label}", command, FOLDER.name)

    def whole(message):
        return (message.partition(), message.key(), message.value(), message.timestamp(), message.headers())

    def there(bootstrap=target):
        known = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20).topics
        return read_topic(topic, PARTITIONS, bootstrap=bootstrap, what=whole) if topic in known else []

    process = start()
    soon(lambda: len(there()) >= RECORDS, "the first records", process)
    feed()
    time.sleep(0.5)
    process.kill()
    feed()
    # A group that has read a part of each partition on the other side.
    offsets = [TopicPartition(topic, p, 1000 + p) for p in range(PARTITIONS)]
    consumer = Consumer({"bootstrap.servers": source, "group.id": topic})

    def commit():
        # Kafka refuses for a moment, while the topic of offsets is being created.
        try:
            return consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].name() != "NOT_COORDINATOR":
                raise
            return None

    soon(commit, "offsets of the group committed")
    consumer.close()
    process = start()
    soon(lambda: len(set(map(str, there()))) == sent, "all records", process)
    want, got = sorted(there(source), key=str), sorted(there(), key=str)
    if exactly_once:
        assert_eq(len(got), sent, "records")
        assert got == want, "records are not the same"
    else:
        assert set(map(str, got)) == set(map(str, want)), "records are not the same"

    def committed():
        probe = Consumer({"bootstrap.servers": target, "group.id": topic})
        found = [p.offset for p in probe.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], 20)]
        probe.close()
        return found

    # Translated offsets may lag behind, never run ahead of what the group has read.
    wanted = [partition.offset for partition in offsets]
    soon(lambda: all(0 < offset for offset in committed()), "the group's offsets", process)
    if exactly_once:
        assert all(offset <= most for offset, most in zip(committed(), wanted)), committed()
    admin = AdminClient({"bootstrap.servers": target})
    found = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)])
    value = next(iter(found.values())).result(WAIT_SECONDS_MAX)["retention.ms"].value
    assert_eq(value, "7777777", "retention.ms of the copy")
    process.stop()


@suite.case("from Kafka to Ringlog, exactly once: records with all they carry, configurations, a group's offsets")
def _():
    mirrored("in", KAFKA, BOOTSTRAP, exactly_once=True)


@suite.case("from Ringlog to Kafka: the same, at least once")
def _():
    mirrored("out", BOOTSTRAP, KAFKA, exactly_once=False)


suite.run(end_all, FOLDER.cleanup)
