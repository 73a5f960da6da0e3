"""Exact bytes on a plain socket: the traps other Kafka implementations fell into, one case each.

The cases marked with `not_on_kafka` hold Ringlog to a promise that Apache Kafka keeps in another way; the reason is
given there.
"""

import struct

import wire
from suite import BIG_VALUE_BYTES, PEER_IS_KAFKA, Skip, Suite, assert_eq, eventually, noise, now_ms, topic_name
from wire import API_VERSIONS, FETCH, METADATA, PRODUCE, Closed, Connection, batch, batches_of

suite = Suite("raw")
NONE, OFFSET_OUT_OF_RANGE, CORRUPT_MESSAGE, UNKNOWN_TOPIC = 0, 1, 2, 3
MESSAGE_TOO_LARGE, INVALID_TOPIC, INVALID_REQUIRED_ACKS = 10, 17, 21
UNSUPPORTED_VERSION, TOPIC_EXISTS, INVALID_PARTITIONS, INVALID_REPLICATION = 35, 36, 37, 38
INVALID_CONFIG, OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH = 40, 45, 47
SESSION_NOT_FOUND, INVALID_SESSION_EPOCH = 70, 71


def not_on_kafka(why):
    if PEER_IS_KAFKA:
        raise Skip("Apache Kafka: " + why)


def create(connection, label, partitions=1, **configs):
    name = topic_name("raw-" + label)
    assert_eq(connection.create_topic(name, partitions, {k.replace("_", "."): v for k, v in configs.items()}), NONE)

    connection.settle(name, partitions)
    return name


def read_all(connection, topic, partition=0, offset=0):
    """All values' raw bytes would need decoding: the batches' offset ranges are enough here."""
    _, _, parts = connection.fetch([(topic, partition, offset, 1 << 24)], wait_ms=0)
    code, _, records = parts[(topic, partition)]
    assert_eq(code, NONE, "fetch error")
    return batches_of(records)


def assert_alive():
    with Connection() as fresh:
        assert_eq(fresh.api_versions(0)[1], NONE)


# --- ApiVersions ---


@suite.case("ApiVersions 0 to 3 list the same ranges, without gaps in what clients need")
def _():
    with Connection() as c:
        ranges, code = c.api_versions(0)
        assert_eq(code, NONE)
        for version in (1, 2, 3):
            # Kafka hides from version 0 to 3 what needs a version above; both listings must agree on the rest.
            assert_eq(c.api_versions(version), (ranges, NONE), f"version {version}")
        for key in (0, 1, 2, 3, 18, 19, 20, 22, 23, 32, 37, 60, 75, 35):
            assert key in ranges, f"api {key} is not listed"
            assert 0 <= ranges[key][0] <= ranges[key][1], f"api {key}: {ranges[key]}"
        assert ranges[FETCH][1] >= 13 and ranges[METADATA][1] >= 12, "topic ids need Fetch 13 and Metadata 12"


@suite.case("Produce is advertised from version 0 (librdkafka turns compression off otherwise)")
def _():
    with Connection() as c:
        low, high = c.api_versions(0)[0][PRODUCE]
        assert_eq(low, 0, "min")
        assert high >= 9, high


@suite.case("Produce 0 to 2 is answered with UNSUPPORTED_VERSION in its own format, and the connection lives")
def _():
    not_on_kafka("closes the connection")
    with Connection() as c:
        topic = create(c, "old-produce")
        for version in (0, 1, 2):
            body = c.produce_body([(topic, 0, b"\0" * 30)], acks=1, version=version)
            found = c.produce_result(c.call(PRODUCE, version, body), version)
            assert_eq([(r[0], r[1], r[2]) for r in found], [(topic, 0, UNSUPPORTED_VERSION)], f"version {version}")
        assert_eq(c.produce(topic, 0, batch([b"x"])), (NONE, 0))


@suite.case("ApiVersions of an unknown version gets error 35, a version 0 body and the supported range")
def _():
    with Connection() as c:
        for version, body in ((99, b""), (32767, b""), (60, b"\x04raw\x021\0")):
            reader = c.call(API_VERSIONS, version, body, flexible_header=True)
            assert_eq(reader.i16(), UNSUPPORTED_VERSION, "error")
            keys = dict(reader.array(lambda: (reader.i16(), (reader.i16(), reader.i16()))))
            reader.done()
            low, high = keys[API_VERSIONS]
            assert low == 0 and high >= 3, keys
        assert_eq(c.api_versions(3)[1], NONE, "the same connection afterwards")


@suite.case("versions and APIs that do not exist harm nobody else")
def _():
    for key, version in ((FETCH, 99), (METADATA, 99), (PRODUCE, 99), (999, 0), (-1, 0), (METADATA, -1)):
        with Connection() as c:
            id_ = c.send(key, version, b"\0" * 16)
            try:
                c.receive(id_)
            except Closed:
                pass
        assert_alive()


# --- Metadata and topics ---


@suite.case("Metadata 0 to 7 describe a topic")
def _():
    with Connection() as c:
        topic = create(c, "metadata", 3)
        for version in range(8):
            code, parts = c.metadata([topic], version)[topic]
            assert_eq((code, sorted(p[0] for p in parts)), (NONE, [0, 1, 2]), f"version {version}")
            assert topic in c.metadata(None, version), f"version {version}: all topics"
        missing = topic_name("missing")
        assert_eq(c.metadata([missing], 4, auto_create=False)[missing][0], UNKNOWN_TOPIC)
        assert_eq(c.metadata(["bad name"], 4)["bad name"][0], INVALID_TOPIC)


@suite.case("Metadata creates a missing topic when it is asked to")
def _():
    with Connection() as c:
        topic = topic_name("auto")
        eventually(lambda: c.metadata([topic], 4, auto_create=True)[topic][0] == NONE, "auto-created")
        c.settle(topic)
        assert_eq(c.produce(topic, 0, batch([b"x"])), (NONE, 0))


@suite.case("CreateTopics refuses what cannot be")
def _():
    with Connection() as c:
        topic = create(c, "exists")
        assert_eq(c.create_topic(topic), TOPIC_EXISTS, "twice")
        for bad in ("", "..", "a/b", "sp ace", "x" * 250):
            assert_eq(c.create_topic(bad), INVALID_TOPIC, bad)
        assert_eq(c.create_topic(topic_name("zero"), 0), INVALID_PARTITIONS)
        assert_eq(c.create_topic(topic_name("rf"), 1, replication=3), INVALID_REPLICATION)
        assert_eq(c.create_topic(topic_name("cfg"), 1, {"no.such.config": "1"}), INVALID_CONFIG)
        assert_eq(c.create_topic(topic_name("cfg"), 1, {"retention.ms": "soon"}), INVALID_CONFIG)
        dry = topic_name("dry")
        assert_eq(c.create_topic(dry, 1, validate_only=True), NONE)
        assert_eq(c.metadata([dry], 4)[dry][0], UNKNOWN_TOPIC)
        assert_eq(c.delete_topic(topic_name("never")), UNKNOWN_TOPIC)


@suite.case("a topic made again under the same name starts empty")
def _():
    with Connection() as c:
        topic = create(c, "again")
        assert_eq(c.produce(topic, 0, batch([b"old"])), (NONE, 0))
        assert_eq(c.delete_topic(topic), NONE)
        eventually(lambda: c.create_topic(topic) == NONE, "created again")
        c.settle(topic)
        assert_eq(c.list_offset(topic, 0, -1)[2], 0, "log end")
        assert_eq(c.produce(topic, 0, batch([b"new"])), (NONE, 0))


# --- Produce ---


@suite.case("Produce refuses what it must, with the right error")
def _():
    with Connection() as c:
        topic = create(c, "refuse", max_message_bytes="2000")
        good = batch([b"x"])
        assert_eq(c.produce(topic_name("nowhere"), 0, good)[0], UNKNOWN_TOPIC, "topic")
        assert_eq(c.produce(topic, 7, good)[0], UNKNOWN_TOPIC, "partition")
        assert_eq(c.produce(topic, 0, good, acks=2)[0], INVALID_REQUIRED_ACKS, "acks")
        assert_eq(c.produce(topic, 0, batch([b"x" * 3000]))[0], MESSAGE_TOO_LARGE, "max.message.bytes")
        flipped = bytearray(good)
        flipped[-1] ^= 1
        assert_eq(c.produce(topic, 0, bytes(flipped))[0], CORRUPT_MESSAGE, "CRC")
        for what, bad in (("magic 1", good[:16] + b"\1" + good[17:]), ("cut", good[:-3]), ("header only", good[:20]),
                          ("length", good[:8] + struct.pack(">i", -5) + good[12:])):
            try:
                code = c.produce(topic, 0, bad)[0]
                assert code != NONE, f"{what} was accepted"
            except Closed:
                c = Connection()
        assert_eq(c.produce(topic, 0, good), (NONE, 0), "a good one afterwards")
        assert_eq(len(read_all(c, topic)), 1, "batches in the log")


@suite.case("records that the batch header does not tell the truth about are refused")
def _():
    with Connection() as c:
        topic = create(c, "liar")
        good = batch([b"a", b"b"])

        def with_tail(change):
            tail = bytearray(good[21:])
            change(tail)
            return good[:17] + struct.pack(">I", wire.crc32c(bytes(tail))) + bytes(tail)

        def count(tail):
            tail[36:40] = struct.pack(">i", 9)

        def last_delta(tail):
            tail[2:6] = struct.pack(">i", 7)

        def negative(tail):
            tail[36:40] = struct.pack(">i", -1)

        for what, change in (("count", count), ("last offset delta", last_delta), ("negative count", negative)):
            assert c.produce(topic, 0, with_tail(change))[0] != NONE, f"{what} was accepted"
        assert_eq(c.list_offset(topic, 0, -1)[2], 0, "log end")


@suite.case("many topics and partitions in one request, one bad one among them")
def _():
    with Connection() as c:
        one, two = create(c, "many-a", 3), create(c, "many-b")
        parts = [(one, 0, batch([b"a"])), (one, 2, batch([b"b", b"c"])), (one, 9, batch([b"x"])), (two, 0, batch([b"d"]))]
        found = c.produce_result(c.call(PRODUCE, 7, c.produce_body(parts)))
        assert_eq(sorted(r[:3] for r in found), sorted([(one, 0, 0), (one, 2, 0), (one, 9, UNKNOWN_TOPIC), (two, 0, 0)]))
        _, _, got = c.fetch([(one, 0, 0, 1 << 20), (one, 2, 0, 1 << 20), (two, 0, 0, 1 << 20)])
        assert_eq([got[k][1] for k in ((one, 0), (one, 2), (two, 0))], [1, 2, 1], "high watermarks")


@suite.case("pipelined requests are answered in order and land in order")
def _():
    with Connection() as c:
        topic = create(c, "pipeline", 2)
        ids = []
        for i in range(60):
            acks = (1, -1)[i % 2]
            ids.append((c.send(PRODUCE, 7, c.produce_body([(topic, i % 2, batch([b"%d" % i]))], acks)), i))
            if i % 7 == 0:
                ids.append((c.send(API_VERSIONS, 0, b""), None))
        for id_, i in ids:
            reader = c.receive(id_)
            if i is not None:
                assert_eq(c.produce_result(reader)[0], (topic, i % 2, NONE, i // 2))


@suite.case("acks 0 gets no answer")
def _():
    with Connection() as c:
        topic = create(c, "acks0")
        for _ in range(3):
            c.send(PRODUCE, 7, c.produce_body([(topic, 0, batch([b"x"]))], acks=0))
        id_ = c.send(API_VERSIONS, 0, b"")
        c.receive(id_)
        eventually(lambda: c.list_offset(topic, 0, -1)[2] == 3, "all three written")


@suite.case("bytes come back as they were sent, but for base offset and leader epoch")
def _():
    with Connection() as c:
        topic = create(c, "bytes")
        sent = [batch([b"first"]), batch([b"a", None, b""], codec=1), batch([noise("bytes", BIG_VALUE_BYTES)])]
        for b in sent:
            assert_eq(c.produce(topic, 0, b)[0], NONE)
        got, at = [], 0
        while len(got) < len(sent):
            found = read_all(c, topic, 0, at)
            got += [f[3] for f in found]
            at = found[-1][1] + 1
        for want, have in zip(sent, got):
            assert_eq((have[8:12], have[16:]), (want[8:12], want[16:]))


# --- Fetch ---


@suite.case("a fetch in the middle of a batch returns the whole batch")
def _():
    with Connection() as c:
        topic = create(c, "middle")
        for _ in range(3):
            assert_eq(c.produce(topic, 0, batch([b"%d" % i for i in range(10)]))[0], NONE)
        for offset in range(30):
            found = read_all(c, topic, 0, offset)
            assert_eq([b[:2] for b in found], [(b, b + 9) for b in range(offset // 10 * 10, 30, 10)], f"from {offset}")


@suite.case("a first batch larger than every limit is returned, the rest is held to the limits")
def _():
    with Connection() as c:
        topic = create(c, "limit", 2)
        big = batch([noise("limit", 100_000)])
        for partition in (0, 0, 1):
            assert_eq(c.produce(topic, partition, big)[0], NONE)
        for version in (4, 7, 11):
            both = [(topic, 0, 0, 1), (topic, 1, 0, 1)]
            _, _, parts = c.fetch(both, version, max_bytes=1)
            sizes = [len(batches_of(parts[(topic, p)][2])) for p in (0, 1)]
            assert_eq(sorted(sizes), [0, 1], f"batches, version {version}")
            assert sum(len(parts[(topic, p)][2]) for p in (0, 1)) <= len(big), "more than one batch"


@suite.case("per-partition and total limits hold")
def _():
    with Connection() as c:
        topic = create(c, "limits", 2)
        for _ in range(50):
            for partition in (0, 1):
                assert_eq(c.produce(topic, partition, batch([noise("l", 10_000)]))[0], NONE)
        _, _, parts = c.fetch([(topic, 0, 0, 35_000), (topic, 1, 0, 35_000)])
        for partition in (0, 1):
            assert 20_000 < len(parts[(topic, partition)][2]) <= 35_000, len(parts[(topic, partition)][2])
        _, _, parts = c.fetch([(topic, 0, 0, 1 << 20), (topic, 1, 0, 1 << 20)], max_bytes=200_000)
        total = sum(len(parts[(topic, p)][2]) for p in (0, 1))
        assert 100_000 < total <= 200_000, total


@suite.case("offsets out of range, the end, unknown partitions")
def _():
    with Connection() as c:
        topic = create(c, "range")
        assert_eq(c.produce(topic, 0, batch([b"x"]))[0], NONE)
        for offset, want in ((-5, OFFSET_OUT_OF_RANGE), (1, NONE), (2, OFFSET_OUT_OF_RANGE), (1 << 60, OFFSET_OUT_OF_RANGE)):
            _, _, parts = c.fetch([(topic, 0, offset, 1 << 20)], wait_ms=0)
            assert_eq((parts[(topic, 0)][0], parts[(topic, 0)][2]), (want, b""), f"offset {offset}")
        _, _, parts = c.fetch([(topic, 5, 0, 1 << 20)], wait_ms=0)
        assert_eq(parts[(topic, 5)][0], UNKNOWN_TOPIC)


@suite.case("an empty fetch waits, and a produce wakes it")
def _():
    with Connection() as c, Connection() as producer:
        topic = create(c, "wake", 2)
        # The wait is longer than the socket's time-out: only a wake-up can answer in time.
        wait_ms = wire.SOCKET_TIMEOUT_SECONDS * 10_000
        id_ = c.send(FETCH, 11, c.fetch_body([(topic, 0, 0, 1 << 20), (topic, 1, 0, 1 << 20)], wait_ms=wait_ms))
        assert_eq(producer.produce(topic, 1, batch([b"x"])), (NONE, 0))
        _, _, parts = c.fetch_result(c.receive(id_))
        assert_eq(len(batches_of(parts[(topic, 1)][2])), 1)


@suite.case("fetch sessions: full, incremental, forgotten partitions, wrong epochs")
def _():
    with Connection() as c:
        topic = create(c, "session", 3)
        parts = [(topic, p, 0, 1 << 20) for p in range(3)]
        code, session, got = c.fetch(parts, session=(0, 0), wait_ms=0)
        assert code == NONE and session > 0, (code, session)
        assert_eq(sorted(k[1] for k in got), [0, 1, 2], "full fetch")
        assert_eq(c.fetch([], session=(session, 1), wait_ms=0), (NONE, session, {}), "nothing new")
        assert_eq(c.produce(topic, 1, batch([b"x"])), (NONE, 0))
        _, _, got = c.fetch([], session=(session, 2))
        assert_eq([k[1] for k in got], [1], "only what has news")
        _, _, got = c.fetch([(topic, 1, 1, 1 << 20)], session=(session, 3), wait_ms=0)
        assert (topic, 1) not in got or not got[(topic, 1)][2], "position moved"
        assert_eq(c.produce(topic, 2, batch([b"y"])), (NONE, 0))
        code, _, got = c.fetch([], session=(session, 4), forgotten=[(topic, 2)], wait_ms=0)
        assert_eq((code, got), (NONE, {}), "forgotten partition")
        assert_eq(c.fetch([], session=(session, 99), wait_ms=0)[0], INVALID_SESSION_EPOCH, "epoch")
        assert_eq(c.fetch([], session=(session + 12345, 5), wait_ms=0)[0], SESSION_NOT_FOUND, "id")
        code, _, got = c.fetch(parts, session=(session, -1), wait_ms=0)
        assert_eq((code, len(got)), (NONE, 3), "a final full fetch closes the session")
        assert_eq(c.fetch([], session=(session, 6), wait_ms=0)[0], SESSION_NOT_FOUND, "closed session")


@suite.case("a fetch that claims to be a replica gets no data")
def _():
    with Connection() as c:
        topic = create(c, "replica")
        assert_eq(c.produce(topic, 0, batch([b"x"]))[0], NONE)
        try:
            code, _, parts = c.fetch([(topic, 0, 0, 1 << 20)], replica_id=5, wait_ms=0)
            assert not any(p[2] for p in parts.values()), "records for a stranger's replica id"
            assert code != NONE or all(p[0] != NONE for p in parts.values()), "no error"
        except Closed:
            pass
        assert_alive()


# --- ListOffsets, leader epochs ---


@suite.case("ListOffsets by timestamp is exact, also inside compressed batches and out of order")
def _():
    with Connection() as c:
        for codec in (0, 1):
            topic = create(c, f"times{codec}")
            base_ms = now_ms() - 1_000_000
            # Later records with earlier timestamps: the answer is the first offset at or after the asked time.
            stamps = [base_ms + d for d in (0, 50, 20, 90, 90, 40, 200, 150, 300, 10)]
            for at in (0, 5):
                values = [b"v%d" % i for i in range(5)]
                assert_eq(c.produce(topic, 0, batch(values, stamps[at : at + 5], codec))[0], NONE)
            for asked in range(base_ms - 5, base_ms + 310, 5):
                want = next((i for i, t in enumerate(stamps) if t >= asked), -1)
                found = c.list_offset(topic, 0, asked)
                assert_eq(found, (NONE, stamps[want] if want >= 0 else -1, want), f"codec {codec} at {asked - base_ms}")


@suite.case("ListOffsets 1 to 5: earliest, latest, unknown partitions")
def _():
    with Connection() as c:
        topic = create(c, "list")
        for version in range(1, 6):
            assert_eq(c.produce(topic, 0, batch([b"x"]))[0], NONE)
            assert_eq(c.list_offset(topic, 0, -2, version)[::2], (NONE, 0), "earliest")
            assert_eq(c.list_offset(topic, 0, -1, version)[::2], (NONE, version), "latest")
        assert_eq(c.list_offset(topic, 9, -1)[0], UNKNOWN_TOPIC)


@suite.case("OffsetForLeaderEpoch answers the end of the current epoch")
def _():
    with Connection() as c:
        topic = create(c, "epoch")
        assert_eq(c.produce(topic, 0, batch([b"x", b"y"]))[0], NONE)
        # The epoch is in the batch; a topic may begin with any.
        epoch = struct.unpack(">i", read_all(c, topic, 0, 0)[0][3][12:16])[0]
        one = struct.pack(">iii", 0, -1, epoch)
        body = struct.pack(">i", -1) + wire.array([wire.string(topic) + wire.array([one])])
        reader = c.call(wire.OFFSET_FOR_LEADER_EPOCH, 3, body)
        reader.i32()
        assert_eq((reader.i32(), reader.string(), reader.i32()), (1, topic, 1))
        assert_eq((reader.i16(), reader.i32(), reader.i32(), reader.i64()), (NONE, 0, epoch, 2))
        reader.done()


# --- Idempotence ---


@suite.case("idempotence: duplicates get their first offset, gaps and old epochs are refused")
def _():
    with Connection() as c:
        topic = create(c, "idem")
        code, producer_id, epoch = eventually(lambda: (lambda r: r[0] == NONE and r)(c.init_producer_id()), "producer id")
        other = c.init_producer_id()[1]
        assert producer_id >= 0 and other != producer_id

        def send(sequence, count=2, at_epoch=epoch):
            return c.produce(topic, 0, batch([b"v"] * count, producer=(producer_id, at_epoch, sequence)))

        for i in range(7):
            assert_eq(send(2 * i), (NONE, 2 * i), f"sequence {2 * i}")
        for i in (6, 2, 5, 3, 4):
            assert_eq(send(2 * i), (NONE, 2 * i), "a duplicate among the last five")
        assert_eq(send(20)[0], OUT_OF_ORDER_SEQUENCE, "gap")
        assert_eq(c.list_offset(topic, 0, -1)[2], 14, "log end")
        assert_eq(send(14), (NONE, 14), "the next one after a refused one")
        assert_eq(send(0, at_epoch=epoch + 1), (NONE, 16), "a new epoch starts at 0")
        assert_eq(send(2), (INVALID_PRODUCER_EPOCH, -1), "old epoch")


@suite.case("idempotence: five pipelined batches, sent twice on two connections")
def _():
    with Connection() as c, Connection() as again:
        topic = create(c, "five")
        _, producer_id, epoch = eventually(lambda: (lambda r: r[0] == NONE and r)(c.init_producer_id()), "producer id")
        bodies = [
            c.produce_body([(topic, 0, batch([b"v"], producer=(producer_id, epoch, i)))]) for i in range(5)
        ]
        for connection in (c, again):
            ids = [connection.send(PRODUCE, 7, body) for body in bodies]
            for i, id_ in enumerate(ids):
                assert_eq(connection.produce_result(connection.receive(id_))[0], (topic, 0, NONE, i))
        assert_eq(c.list_offset(topic, 0, -1)[2], 5, "log end")


# --- Hostile frames ---


@suite.case("hostile lengths close the connection or are refused, and others are served")
def _():
    header = struct.pack(">hhi", METADATA, 1, 1) + wire.string("x")
    produce = struct.pack(">hhi", PRODUCE, 7, 1) + wire.string("x")
    frames = [
        struct.pack(">i", -1),
        struct.pack(">i", 0),
        struct.pack(">i", 0x7FFFFFFF),
        struct.pack(">i", 3) + b"abc",
        struct.pack(">i", len(header) + 4) + header + struct.pack(">i", 0x7FFFFFFF),
        struct.pack(">i", len(header) + 4) + header + struct.pack(">i", -77),
        struct.pack(">i", 10) + struct.pack(">hhih", METADATA, 1, 1, 0x7FFF),
        struct.pack(">i", len(produce) + 14) + produce + struct.pack(">hhii", -1, -1, 1000, 0x7FFFFFFF) + b"\0\0",
        struct.pack(">i", 8) + struct.pack(">hhi", API_VERSIONS, 3, 1),
    ] + [struct.pack(">i", 64) + noise(f"frame{i}", 64) for i in range(100)]
    held = []
    for frame in frames:
        connection = Connection()
        try:
            connection.socket.sendall(frame)
        except ConnectionError:
            pass
        held.append(connection)
    assert_alive()
    for connection in held:
        connection.socket.close()
    assert_alive()


suite.run()
