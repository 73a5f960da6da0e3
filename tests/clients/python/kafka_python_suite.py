"""kafka-python against the endpoint in BOOTSTRAP. Partitions are assigned by hand, except where
groups are what is tested."""

import json
import logging

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import MessageSizeTooLargeError, UnknownTopicOrPartitionError

import wire
from suite import (BOOTSTRAP, PARTITIONS, WAIT_SECONDS_MAX, Rec, Suite, assert_eq, assert_same, eventually, now_ms,
                   record_matrix, topic_name)

logging.basicConfig(level=logging.ERROR)
suite = Suite("kafka-python")
admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
REQUEST_BYTES_MAX = 1_048_588


def matrix(seed):
    """kafka-python itself refuses a record that has neither key nor value, and a header without a value."""
    records = [r for r in record_matrix(seed) if r.key is not None or r.value is not None]
    for r in records:
        r.headers = [(name, value) for name, value in r.headers if value is not None]
    return records


def partitions_of(name):
    found = [t for t in admin.describe_topics() if t["name"] == name and t.get("error_code", 0) == 0]
    return found[0]["partitions"] if found else []


def create(label, partitions=PARTITIONS, config=None):
    name = topic_name("kp-" + label)
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config or {})])
    eventually(lambda: len(partitions_of(name)) == partitions, f"{name} in the metadata")
    wire.settle(name, partitions)
    return name


def produce(topic, records, partitions=PARTITIONS, **config):
    """Sends all records to every partition; returns [(partition, offset)] as acknowledged."""
    settings = dict(bootstrap_servers=BOOTSTRAP, max_request_size=REQUEST_BYTES_MAX, linger_ms=50)
    producer = KafkaProducer(**(settings | config))
    futures = [
        producer.send(topic, value=r.value, key=r.key, headers=r.headers, partition=p, timestamp_ms=r.timestamp_ms)
        for p in range(partitions)
        for r in records
    ]
    producer.flush(timeout=WAIT_SECONDS_MAX)
    acked = [f.get(timeout=WAIT_SECONDS_MAX) for f in futures]
    producer.close()
    return [(a.partition, a.offset) for a in acked]


def consumer_at(topic, partition, start):
    """`start` is an offset, "start" or "end"."""
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=None, enable_auto_commit=False,
                             max_partition_fetch_bytes=1 << 20)
    assigned = TopicPartition(topic, partition)
    consumer.assign([assigned])
    if start == "start":
        consumer.seek_to_beginning(assigned)
    elif start == "end":
        consumer.seek_to_end(assigned)
    else:
        consumer.seek(assigned, start)
    return consumer


def take(consumer, count):
    out = []
    deadline = now_ms() + WAIT_SECONDS_MAX * 1000
    while len(out) < count and now_ms() < deadline:
        for messages in consumer.poll(timeout_ms=1000).values():
            for m in messages:
                assert_eq(m.timestamp_type, 0, "timestamp type")
                out.append((m.offset, Rec(m.key, m.value, m.timestamp, list(m.headers))))
    return out


def consume(topic, partition, start, count):
    consumer = consumer_at(topic, partition, start)
    out = take(consumer, count)
    consumer.close()
    return out


@suite.case("admin: create, describe, configs, add partitions, cluster")
def _():
    name = create("admin", config={"retention.ms": "3600000"})
    found = partitions_of(name)
    assert_eq(sorted(p["partition_index"] for p in found), list(range(PARTITIONS)), "partitions")
    assert all(p["leader_id"] >= 0 for p in found)
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    assert "3600000" in str(admin.describe_configs([resource])), "retention.ms"
    assert "1073741824" in str(admin.describe_configs([resource], config_filter="all")), "segment.bytes"
    admin.create_partitions({name: NewPartitions(PARTITIONS + 2)})
    eventually(lambda: len(partitions_of(name)) == PARTITIONS + 2, "new partitions")
    assert_eq(len(admin.describe_cluster()["brokers"]), 1, "brokers")


def codec_case(codec):
    @suite.case(f"every kind of record, compression {codec}")
    def _():
        topic = create(str(codec))
        records = matrix(str(codec))
        produce(topic, records, compression_type=codec)
        for partition in range(PARTITIONS):
            assert_same(records, consume(topic, partition, "start", len(records)))
        # A batch that a codec cannot shrink goes out as it is, so 'none' appears beside the codec.
        assert (codec or "none") in wire.codecs_on_disk(topic, PARTITIONS), "the client did not compress"


for name in (None, "gzip", "snappy", "lz4", "zstd"):
    codec_case(name)


@suite.case("from the middle, from the end, then a new record")
def _():
    topic = create("offsets", 1)
    records = matrix("offsets")
    produce(topic, records, 1, compression_type="gzip")
    for start in range(1, len(records), 2):
        assert_same(records[start:], consume(topic, 0, start, len(records) - start), start)
    consumer = consumer_at(topic, 0, "end")
    assert_eq(consumer.position(TopicPartition(topic, 0)), len(records), "position at the end")
    assert_eq(consumer.poll(timeout_ms=500), {}, "the end is not empty")
    new = Rec(b"new", b"one", now_ms())
    produce(topic, [new], 1)
    assert_same([new], take(consumer, 1), len(records))
    consumer.close()


def time_case(codec):
    @suite.case(f"offsets by timestamp are exact inside a batch, compression {codec}")
    def _():
        topic = create("time", 1)
        base_ms = now_ms() - 1_000_000
        produce(topic, [Rec(None, b"v%d" % i, base_ms + 10 * i) for i in range(50)], 1, compression_type=codec)
        partition = TopicPartition(topic, 0)
        consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id=None)

        def at(timestamp_ms):
            found = consumer.offsets_for_times({partition: timestamp_ms})[partition]
            return found and (found.offset, found.timestamp)

        assert_eq(at(base_ms - 5), (0, base_ms), "before the first")
        for i in range(50):
            assert_eq(at(base_ms + 10 * i), (i, base_ms + 10 * i), "exact")
            if i:
                assert_eq(at(base_ms + 10 * i - 5), (i, base_ms + 10 * i), "between")
        assert_eq(at(base_ms + 10_000), None, "after the last")
        consumer.close()


for name in (None, "zstd"):
    time_case(name)


@suite.case("idempotent producer")
def _():
    topic = create("idem")
    records = [Rec(b"%d" % i, b"v%d" % i, now_ms() + i) for i in range(1000)]
    acked = produce(topic, records, enable_idempotence=True, batch_size=2000)
    assert_eq(acked, [(p, o) for p in range(PARTITIONS) for o in range(1000)], "acknowledged offsets")
    for partition in range(PARTITIONS):
        assert_same(records, consume(topic, partition, "start", len(records)))


@suite.case("acks 0, 1 and all")
def _():
    topic = create("acks", 1)
    sent = []
    for acks in (0, 1, "all"):
        records = [Rec(None, f"{acks}-{i}".encode(), now_ms()) for i in range(100)]
        produce(topic, records, 1, acks=acks, enable_idempotence=acks == "all")
        sent += records
        assert_same(sent, consume(topic, 0, "start", len(sent)))


@suite.case("a record beyond max.message.bytes is refused")
def _():
    topic = create("large", 1, {"max.message.bytes": "2000"})
    try:
        produce(topic, [Rec(None, b"x" * 3000, now_ms())], 1)
    except MessageSizeTooLargeError:
        pass
    else:
        raise AssertionError("accepted")
    produce(topic, [Rec(None, b"x" * 1000, now_ms())], 1)


@suite.case("a tutorial's consumer: a group, earliest, automatic commits, JSON; a second one goes on")
def _():
    topic = create("group", 4)
    values = [{"n": n, "text": "\u00fc"} for n in range(100)]
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, value_serializer=lambda v: json.dumps(v).encode())
    for value in values[:60]:
        producer.send(topic, value)
    producer.flush()

    def member():
        return KafkaConsumer(topic, bootstrap_servers=BOOTSTRAP, group_id=topic, auto_offset_reset="earliest",
                             enable_auto_commit=True, auto_commit_interval_ms=100, heartbeat_interval_ms=300,
                             value_deserializer=lambda raw: json.loads(raw.decode()))

    def read(count, *members):
        got = []

        def step():
            for one in members:
                for batch in one.poll(timeout_ms=50).values():
                    got.extend(record.value for record in batch)
            return len(got) >= count

        eventually(step, f"{count} records")
        return sorted(value["n"] for value in got)

    first = member()
    assert_eq(read(60, first), list(range(60)), "the first part")
    first.close()
    one, two = member(), member()
    eventually(lambda: (one.poll(timeout_ms=50), two.poll(timeout_ms=50),
                        len(one.assignment()) == len(two.assignment()) == 2)[2], "two partitions each")
    for value in values[60:]:
        producer.send(topic, value)
    producer.flush()
    assert_eq(read(40, one, two), list(range(60, 100)), "the second part, shared, nothing twice")
    producer.close()
    one.close()
    two.close()
    assert topic in [group[0] if isinstance(group, tuple) else group["group_id"] if isinstance(group, dict) else group
                     for group in admin.list_groups()] if hasattr(admin, "list_groups") else True, "not listed"


@suite.case("delete a topic")
def _():
    topic = create("gone")
    produce(topic, [Rec(None, b"x", now_ms())])
    admin.delete_topics([topic])
    eventually(lambda: not partitions_of(topic), "topic gone")
    try:
        admin.delete_topics([topic])
    except UnknownTopicOrPartitionError:
        return
    raise AssertionError("deleted twice")


suite.run()
