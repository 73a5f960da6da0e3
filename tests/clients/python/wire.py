"""A minimal Kafka client on a plain socket: just enough to send exact bytes and look at exact bytes.

Only non-flexible request versions, but for ApiVersions 3. Encodings follow the public Kafka protocol guide. Nothing in
here retries or hides an error: that is the point of it.
"""

import gzip
import socket
import struct

from suite import BOOTSTRAP, eventually, now_ms

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID, OFFSET_FOR_LEADER_EPOCH = 18, 19, 20, 22, 23
CODECS = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
SOCKET_TIMEOUT_SECONDS = 20
BATCH_HEADER_BYTES = 61


class Closed(Exception):
    """The peer closed the connection instead of answering."""


class Reader:
    """Reads big-endian primitives off a response body."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        assert len(piece) == count, f"response too short: wanted {count} bytes at {self.at} of {len(self.data)}"
        self.at += count
        return piece

    def i8(self):
        return struct.unpack(">b", self.take(1))[0]

    def i16(self):
        return struct.unpack(">h", self.take(2))[0]

    def i32(self):
        return struct.unpack(">i", self.take(4))[0]

    def i64(self):
        return struct.unpack(">q", self.take(8))[0]

    def string(self):
        size = self.i16()
        return None if size < 0 else self.take(size).decode()

    def bytes(self):
        size = self.i32()
        return None if size < 0 else self.take(size)

    def uvarint(self):
        shift = value = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def array(self, item):
        return [item() for _ in range(self.i32())]

    def done(self):
        assert self.at == len(self.data), f"{len(self.data) - self.at} bytes left over in the response"


def string(text):
    if text is None:
        return struct.pack(">h", -1)
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


def varint(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def batch(values, timestamps=None, codec=0, producer=(-1, -1, -1), keys=None):
    """A record batch v2. `producer` is (id, epoch, first sequence); `codec` is 0 (none) or 1 (gzip)."""
    timestamps = timestamps or [now_ms()] * len(values)
    first = timestamps[0]
    records = b""
    for i, (value, timestamp) in enumerate(zip(values, timestamps)):
        key = keys[i] if keys else None
        body = b"\0" + varint(timestamp - first) + varint(i)
        body += varint(-1) if key is None else varint(len(key)) + key
        body += (varint(-1) if value is None else varint(len(value)) + value) + varint(0)
        records += varint(len(body)) + body
    if codec == 1:
        records = gzip.compress(records)
    tail = struct.pack(">hiqqqhii", codec, len(values) - 1, first, max(timestamps), *producer, len(values)) + records
    return struct.pack(">qiib", 0, len(tail) + 9, 0, 2) + struct.pack(">I", crc32c(tail)) + tail


def batches_of(records):
    """Splits fetched bytes into (base offset, last offset, codec, bytes); an incomplete last batch is left out."""
    out, at = [], 0
    while len(records) - at >= BATCH_HEADER_BYTES:
        base, size = struct.unpack_from(">qi", records, at)
        if at + 12 + size > len(records):
            break
        attributes, last_delta = struct.unpack_from(">hi", records, at + 21)
        out.append((base, base + last_delta, attributes & 7, records[at : at + 12 + size]))
        at += 12 + size
    return out


class Connection:
    """One socket. Requests can be pipelined: `send` several, then `receive` in order."""

    def __init__(self, bootstrap=BOOTSTRAP):
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=SOCKET_TIMEOUT_SECONDS)
        self.correlation_id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send_frame(self, frame):
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def send(self, api_key, version, body, flexible_header=False):
        """Returns the correlation id."""
        self.correlation_id += 1
        header = struct.pack(">hhi", api_key, version, self.correlation_id) + string("raw-suite")
        self.send_frame(header + (b"\0" if flexible_header else b"") + body)
        return self.correlation_id

    def _exactly(self, count):
        parts, left = [], count
        while left:
            try:
                piece = self.socket.recv(min(left, 1 << 20))
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not piece:
                raise Closed("the broker closed the connection")
            parts.append(piece)
            left -= len(piece)
        return b"".join(parts)

    def receive(self, correlation_id=None):
        """The next response's body, behind its correlation id, which must be the given one."""
        frame = self._exactly(struct.unpack(">i", self._exactly(4))[0])
        got = struct.unpack(">i", frame[:4])[0]
        assert correlation_id is None or got == correlation_id, f"correlation id {got}, not {correlation_id}"
        return Reader(frame[4:])

    def call(self, api_key, version, body, flexible_header=False):
        return self.receive(self.send(api_key, version, body, flexible_header))

    # --- one method per API, each returning plain Python data ---

    def api_versions(self, version=0):
        """({api key: (min, max)}, error code)."""
        if version < 3:
            reader = self.call(API_VERSIONS, version, b"")
            code = reader.i16()
            keys = reader.array(lambda: (reader.i16(), reader.i16(), reader.i16()))
            if version:
                reader.i32()
            reader.done()
        else:
            body = b"\x04raw" + b"\x021" + b"\0"
            reader = self.call(API_VERSIONS, version, body, flexible_header=True)
            code = reader.i16()
            keys = []
            for _ in range(reader.uvarint() - 1):
                keys.append((reader.i16(), reader.i16(), reader.i16()))
                assert reader.uvarint() == 0, "tagged fields in an ApiVersions key"
        return {key: (low, high) for key, low, high in keys}, code

    def create_topic(self, name, partitions=1, configs=None, replication=1, validate_only=False):
        """The error code. CreateTopics 2."""
        entries = [string(k) + string(v) for k, v in (configs or {}).items()]
        topic = string(name) + struct.pack(">ih", partitions, replication) + array([]) + array(entries)
        body = array([topic]) + struct.pack(">ib", 30_000, validate_only)
        reader = self.call(CREATE_TOPICS, 2, body)
        reader.i32()
        result = reader.array(lambda: (reader.string(), reader.i16(), reader.string()))
        reader.done()
        assert result[0][0] == name
        return result[0][1]

    def delete_topic(self, name):
        """The error code. DeleteTopics 1."""
        reader = self.call(DELETE_TOPICS, 1, array([string(name)]) + struct.pack(">i", 30_000))
        reader.i32()
        result = reader.array(lambda: (reader.string(), reader.i16()))
        reader.done()
        return result[0][1]

    def metadata(self, topics, version=1, auto_create=False):
        """{topic: (error code, [(partition, error code, leader)])}; `topics` None asks for all."""
        names = [string(t) for t in topics or []]
        body = struct.pack(">i", -1) if topics is None and version else array(names)
        if version >= 4:
            body += struct.pack(">b", auto_create)
        reader = self.call(METADATA, version, body)
        if version >= 3:
            reader.i32()
        brokers = reader.array(
            lambda: (reader.i32(), reader.string(), reader.i32(), reader.string() if version else None)
        )
        assert brokers, "no broker in the metadata"
        if version >= 2:
            reader.string()
        if version >= 1:
            reader.i32()

        def partition():
            code, index, leader = reader.i16(), reader.i32(), reader.i32()
            if version >= 7:
                reader.i32()
            reader.array(reader.i32)
            reader.array(reader.i32)
            if version >= 5:
                reader.array(reader.i32)
            return index, code, leader

        def topic():
            code, name = reader.i16(), reader.string()
            if version >= 1:
                reader.i8()
            return name, (code, reader.array(partition))

        result = dict(reader.array(topic))
        reader.done()
        return result

    def settle(self, topic, partitions=1):
        """Waits until all partitions have leaders that serve: Kafka tells its metadata before its partitions answer,
        and an idempotent producer whose first batch comes too early and whose second does not is stuck for good."""

        def ready():
            code, found = self.metadata([topic])[topic]
            known = code == 0 and len(found) == partitions and all(p[1] == 0 for p in found)
            return known and all(self.list_offset(topic, p, -1)[0] == 0 for p in range(partitions))

        eventually(ready, f"{topic} has leaders that serve")

    def produce_body(self, parts, acks=-1, timeout_ms=30_000, version=7):
        """`parts` is [(topic, partition, records)]."""
        topics = [string(t) + array([struct.pack(">ii", p, len(r)) + r]) for t, p, r in parts]
        head = string(None) if version >= 3 else b""
        return head + struct.pack(">hi", acks, timeout_ms) + array(topics)

    def produce_result(self, reader, version=7):
        """[(topic, partition, error code, base offset)] in the order of the response."""
        out = []
        for _ in range(reader.i32()):
            name = reader.string()
            for _ in range(reader.i32()):
                out.append((name, reader.i32(), reader.i16(), reader.i64()))
                if version >= 2:
                    reader.i64()
                if version >= 5:
                    reader.i64()
        if version >= 1:
            reader.i32()
        reader.done()
        return out

    def produce(self, topic, partition, records, acks=-1):
        """(error code, base offset). Produce 7."""
        reader = self.call(PRODUCE, 7, self.produce_body([(topic, partition, records)], acks))
        return self.produce_result(reader)[0][2:]

    def fetch_body(self, parts, version=11, session=(0, -1), forgotten=(), **limits):
        """`parts` is [(topic, partition, offset, partition max bytes)]."""
        wait_ms, min_bytes = limits.get("wait_ms", 500), limits.get("min_bytes", 1)
        body = struct.pack(">iiii", limits.get("replica_id", -1), wait_ms, min_bytes, limits.get("max_bytes", 1 << 26))
        body += b"\0"
        if version >= 7:
            body += struct.pack(">ii", *session)
        topics = []
        for topic, partition, offset, part_bytes in parts:
            epoch = struct.pack(">i", -1) if version >= 9 else b""
            start = struct.pack(">q", -1) if version >= 5 else b""
            one = struct.pack(">i", partition) + epoch + struct.pack(">q", offset) + start + struct.pack(">i", part_bytes)
            topics.append(string(topic) + array([one]))
        body += array(topics)
        if version >= 7:
            body += array([string(t) + array([struct.pack(">i", p)]) for t, p in forgotten])
        return body + (string("") if version >= 11 else b"")

    def fetch_result(self, reader, version=11):
        """(error code, session id, {(topic, partition): (error code, high watermark, records)})."""
        reader.i32()
        code = session_id = 0
        if version >= 7:
            code, session_id = reader.i16(), reader.i32()
        parts = {}
        for _ in range(reader.i32()):
            name = reader.string()
            for _ in range(reader.i32()):
                index, error, high = reader.i32(), reader.i16(), reader.i64()
                reader.i64()
                if version >= 5:
                    reader.i64()
                for _ in range(max(reader.i32(), 0)):
                    reader.i64(), reader.i64()
                if version >= 11:
                    reader.i32()
                parts[(name, index)] = (error, high, reader.bytes() or b"")
        reader.done()
        return code, session_id, parts

    def fetch(self, parts, version=11, **rest):
        return self.fetch_result(self.call(FETCH, version, self.fetch_body(parts, version, **rest)), version)

    def list_offset(self, topic, partition, timestamp, version=1):
        """(error code, timestamp, offset)."""
        isolation = b"\0" if version >= 2 else b""
        epoch = struct.pack(">i", -1) if version >= 4 else b""
        one = struct.pack(">i", partition) + epoch + struct.pack(">q", timestamp)
        body = struct.pack(">i", -1) + isolation + array([string(topic) + array([one])])
        reader = self.call(LIST_OFFSETS, version, body)
        if version >= 2:
            reader.i32()
        assert reader.i32() == 1
        reader.string()
        assert reader.i32() == 1 and reader.i32() == partition
        result = reader.i16(), reader.i64(), reader.i64()
        if version >= 4:
            reader.i32()
        reader.done()
        return result

    def init_producer_id(self):
        """(error code, producer id, epoch). InitProducerId 1."""
        reader = self.call(INIT_PRODUCER_ID, 1, string(None) + struct.pack(">i", 60_000))
        reader.i32()
        return reader.i16(), reader.i64(), reader.i16()


def settle(topic, partitions):
    """`Connection.settle` on a connection of its own."""
    with Connection() as connection:
        connection.settle(topic, partitions)


def codecs_on_disk(topic, partitions):
    """The names of the codecs that the broker's batches of a topic carry: shows whether a client did compress."""
    names = set()
    with Connection() as connection:
        for partition in range(partitions):
            at = 0
            while True:
                _, _, parts = connection.fetch([(topic, partition, at, 1 << 24)], wait_ms=0, min_bytes=0)
                code, _, records = parts[(topic, partition)]
                assert code == 0, f"fetch error {code}"
                found = batches_of(records)
                if not found:
                    break
                names.update(CODECS[codec] for _, _, codec, _ in found)
                at = found[-1][1] + 1
    return names
