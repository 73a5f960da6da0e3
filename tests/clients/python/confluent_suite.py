"""confluent-kafka (librdkafka) against the endpoint in BOOTSTRAP. Partitions are assigned by hand, except
where groups are what is tested."""

from confluent_kafka import (OFFSET_BEGINNING, OFFSET_END, TIMESTAMP_CREATE_TIME, Consumer, Producer, TopicCollection,
                             TopicPartition)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

import wire
from suite import (BOOTSTRAP, PARTITIONS, WAIT_SECONDS_MAX, Rec, Suite, assert_eq, assert_same, eventually, now_ms,
                   record_matrix, topic_name)

suite = Suite("confluent-kafka")
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
MESSAGE_BYTES_MAX = 1_048_588


def create(label, partitions=PARTITIONS, config=None):
    name = topic_name("ck-" + label)
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})
    admin.create_topics([new])[name].result(WAIT_SECONDS_MAX)
    eventually(lambda: len(describe(name)) == partitions, f"{name} in the metadata")
    wire.settle(name, partitions)
    return name


def describe(name):
    topics = admin.list_topics(timeout=WAIT_SECONDS_MAX).topics
    return topics[name].partitions if name in topics else {}


def produce(topic, records, partitions=PARTITIONS, **config):
    """Sends all records to every partition; returns [(partition, offset)] as acknowledged."""
    acked, failed = [], []

    def delivered(error, message):
        failed.append(error) if error else acked.append((message.partition(), message.offset()))

    settings = {"bootstrap.servers": BOOTSTRAP, "message.max.bytes": MESSAGE_BYTES_MAX, "linger.ms": 50}
    producer = Producer(settings | config)
    for partition in range(partitions):
        for r in records:
            producer.produce(topic, value=r.value, key=r.key, partition=partition, timestamp=r.timestamp_ms,
                             headers=r.headers, on_delivery=delivered)
    assert_eq(producer.flush(WAIT_SECONDS_MAX), 0, "records not flushed")
    assert not failed, failed[0]
    return acked


def consume(topic, partition, start, count):
    """[(offset, Rec)] of `count` records from `start` on; fewer when nothing more comes."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, partition, start)])
    out = []
    deadline = now_ms() + WAIT_SECONDS_MAX * 1000
    while len(out) < count and now_ms() < deadline:
        message = consumer.poll(1.0)
        if message is None or (message.error() and message.error().name() == "_PARTITION_EOF"):
            continue
        assert not message.error(), message.error()
        kind, timestamp = message.timestamp()
        assert_eq(kind, TIMESTAMP_CREATE_TIME, "timestamp type")
        out.append((message.offset(), Rec(message.key(), message.value(), timestamp, message.headers() or [])))
    consumer.close()
    return out


def times(topic, timestamp_ms):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused"})
    found = consumer.offsets_for_times([TopicPartition(topic, 0, timestamp_ms)], timeout=WAIT_SECONDS_MAX)
    consumer.close()
    assert not found[0].error, found[0].error
    return found[0].offset


@suite.case("admin: create, describe, configs, add partitions, cluster")
def _():
    name = create("admin", config={"retention.ms": "3600000"})
    partitions = describe(name)
    assert_eq(sorted(partitions), list(range(PARTITIONS)), "partitions")
    assert all(p.leader >= 0 and p.replicas == p.isrs for p in partitions.values())
    resource = ConfigResource(ResourceType.TOPIC, name)
    configs = admin.describe_configs([resource])[resource].result(WAIT_SECONDS_MAX)
    assert_eq(configs["retention.ms"].value, "3600000", "retention.ms")
    assert_eq(configs["segment.bytes"].value, "1073741824", "segment.bytes")
    admin.create_partitions([NewPartitions(name, PARTITIONS + 2)])[name].result(WAIT_SECONDS_MAX)
    eventually(lambda: len(describe(name)) == PARTITIONS + 2, "new partitions")
    cluster = admin.describe_cluster().result(WAIT_SECONDS_MAX)
    assert cluster.cluster_id and len(cluster.nodes) == 1
    info = admin.describe_topics(TopicCollection([name]))[name].result(WAIT_SECONDS_MAX)
    assert_eq(len(info.partitions), PARTITIONS + 2, "described partitions")


def codec_case(codec):
    @suite.case(f"every kind of record, compression {codec}")
    def _():
        topic = create(codec)
        records = record_matrix(codec)
        produce(topic, records, **{"compression.type": codec})
        for partition in range(PARTITIONS):
            assert_same(records, consume(topic, partition, OFFSET_BEGINNING, len(records)))
        # librdkafka gives up on a codec for a batch it cannot shrink, so 'none' may appear beside the codec.
        assert codec in wire.codecs_on_disk(topic, PARTITIONS), "the client did not compress"


for name in ("none", "gzip", "snappy", "lz4", "zstd"):
    codec_case(name)


@suite.case("from the middle, from the end, then a new record")
def _():
    topic = create("offsets", 1)
    records = record_matrix("offsets")
    produce(topic, records, 1, **{"compression.type": "lz4"})
    for start in range(1, len(records)):
        assert_same(records[start:], consume(topic, 0, start, len(records) - start), start)
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
    message = consumer.poll(WAIT_SECONDS_MAX)
    assert message is not None and message.error().name() == "_PARTITION_EOF", "the end is not empty"
    assert_eq(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30), (0, len(records)), "watermarks")
    produce(topic, [Rec(b"new", b"one", now_ms())], 1)
    message = consumer.poll(WAIT_SECONDS_MAX)
    assert_eq((message.offset(), message.value()), (len(records), b"one"), "new record")
    consumer.close()


def time_case(codec):
    @suite.case(f"offsets by timestamp are exact inside a batch, compression {codec}")
    def _():
        topic = create("time", 1)
        base_ms = now_ms() - 1_000_000
        records = [Rec(None, b"v%d" % i, base_ms + 10 * i) for i in range(50)]
        produce(topic, records, 1, **{"compression.type": codec})
        assert_eq(times(topic, base_ms - 5), 0, "before the first")
        for i in range(50):
            assert_eq(times(topic, base_ms + 10 * i), i, "exact")
            if i:
                assert_eq(times(topic, base_ms + 10 * i - 5), i, "between")
        assert_eq(times(topic, base_ms + 10_000), OFFSET_END, "after the last")


for name in ("none", "zstd"):
    time_case(name)


@suite.case("idempotent producer")
def _():
    topic = create("idem")
    records = [Rec(b"%d" % i, b"v%d" % i, now_ms() + i) for i in range(1000)]
    acked = produce(topic, records, **{"enable.idempotence": True, "batch.num.messages": 50})
    assert_eq(sorted(acked), [(p, o) for p in range(PARTITIONS) for o in range(1000)], "acknowledged offsets")
    for partition in range(PARTITIONS):
        assert_same(records, consume(topic, partition, OFFSET_BEGINNING, len(records)))


def committed(topic, group="unused"):
    """Values that a consumer of committed data reads from the start to the last stable offset."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, "enable.auto.commit": False,
                         "enable.partition.eof": True, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    out, deadline = [], now_ms() + WAIT_SECONDS_MAX * 1000
    while now_ms() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() and message.error().name() == "_PARTITION_EOF":
            break
        if message is not None:
            assert not message.error(), message.error()
            out.append(message.value())
    consumer.close()
    return out


@suite.case("transactions: commit, abort, offsets, fencing")
def _():
    topic = create("txn", 1)
    config = {"bootstrap.servers": BOOTSTRAP, "transactional.id": topic + "-id", "linger.ms": 0}
    producer = Producer(config)
    producer.init_transactions(WAIT_SECONDS_MAX)
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": topic + "-group"})
    want = []
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topic, value=b"v%d" % number, partition=0)
        offsets = [TopicPartition(topic, 0, number)]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), WAIT_SECONDS_MAX)
        if number % 2:
            producer.commit_transaction(WAIT_SECONDS_MAX)
            want.append(b"v%d" % number)
        else:
            producer.abort_transaction(WAIT_SECONDS_MAX)
        stored = consumer.committed([TopicPartition(topic, 0)], WAIT_SECONDS_MAX)[0].offset
        assert_eq(stored, number if number % 2 else (number - 1 if number else -1001), "committed offset")
    assert_eq(committed(topic), want, "committed values")
    producer.begin_transaction()
    producer.produce(topic, value=b"lost", partition=0)
    producer.flush(WAIT_SECONDS_MAX)
    second = Producer(config)
    second.init_transactions(WAIT_SECONDS_MAX)
    try:
        producer.commit_transaction(WAIT_SECONDS_MAX)
    except Exception as error:
        assert "FENCED" in str(error).upper() or "EPOCH" in str(error).upper(), error
    else:
        raise AssertionError("the first producer still commits")
    assert_eq(committed(topic), want, "nothing of the fenced one")
    consumer.close()


@suite.case("acks 0, 1 and all")
def _():
    topic = create("acks", 1)
    sent = []
    for acks in ("0", "1", "all"):
        records = [Rec(None, f"{acks}-{i}".encode(), now_ms()) for i in range(100)]
        produce(topic, records, 1, acks=acks)
        sent += records
        assert_same(sent, consume(topic, 0, OFFSET_BEGINNING, len(sent)))


@suite.case("a record beyond max.message.bytes is refused")
def _():
    topic = create("large", 1, {"max.message.bytes": "2000"})
    try:
        produce(topic, [Rec(None, b"x" * 3000, now_ms())], 1)
    except AssertionError as error:
        assert "MSG_SIZE_TOO_LARGE" in str(error), error
    else:
        raise AssertionError("accepted")
    produce(topic, [Rec(None, b"x" * 1000, now_ms())], 1)


def group_case(title, protocol):
    @suite.case(f"consumer group, {title}: two members share, one leaves, offsets go on")
    def _():
        topic = create("group", 4)
        records = [Rec(None, b"v%d" % i, now_ms()) for i in range(50)]
        produce(topic, records, 4)
        settings = {"bootstrap.servers": BOOTSTRAP, "group.id": topic, "auto.offset.reset": "earliest",
                    "enable.auto.commit": False} | protocol
        seen = set()

        def poll_until(check, what, *members):
            def step():
                for member in members:
                    message = member.poll(0.05)
                    if message is not None:
                        assert not message.error(), message.error()
                        seen.add((message.partition(), message.offset()))
                return check()

            eventually(step, what)

        one, two = Consumer(settings), Consumer(settings)
        one.subscribe([topic])
        poll_until(lambda: len(seen) == 4 * len(records), "all records, one member", one)
        one.commit(asynchronous=False)
        two.subscribe([topic])
        poll_until(lambda: len(one.assignment()) == len(two.assignment()) == 2, "two partitions each", one, two)
        mine = [TopicPartition(topic, p.partition, 45, metadata="left off") for p in two.assignment()]
        two.commit(offsets=mine, asynchronous=False)
        two.close()
        seen.clear()
        poll_until(lambda: len(one.assignment()) == 4 and len(seen) >= 10, "the rest comes to one", one)
        assert_eq(sorted(seen), sorted((p.partition, o) for p in mine for o in range(45, 50)), "records again")
        found = one.committed([TopicPartition(topic, p.partition) for p in mine], timeout=WAIT_SECONDS_MAX)
        assert_eq([(p.offset, p.metadata) for p in found], [(45, "left off")] * 2, "committed")
        one.close()
        groups = admin.list_consumer_groups().result(WAIT_SECONDS_MAX).valid
        assert topic in [g.group_id for g in groups], "not listed"
        eventually(lambda: admin.describe_consumer_groups([topic])[topic].result().state.name == "EMPTY", "empty")
        admin.delete_consumer_groups([topic])[topic].result(WAIT_SECONDS_MAX)


group_case("range", {"heartbeat.interval.ms": 300})
group_case("cooperative-sticky",
           {"heartbeat.interval.ms": 300, "partition.assignment.strategy": "cooperative-sticky"})
group_case("KIP-848", {"group.protocol": "consumer"})


@suite.case("delete a topic")
def _():
    topic = create("gone")
    produce(topic, [Rec(None, b"x", now_ms())])
    admin.delete_topics([topic])[topic].result(WAIT_SECONDS_MAX)
    eventually(lambda: not describe(topic), "topic gone")


suite.run()
