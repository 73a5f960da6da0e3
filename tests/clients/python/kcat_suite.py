"""kcat (librdkafka's legacy consumer, as its users know it) against the endpoint in BOOTSTRAP."""

import os
import subprocess
import tempfile

import wire
from suite import (BIG_VALUE_BYTES, BOOTSTRAP, PARTITIONS, WAIT_SECONDS_MAX, Suite, assert_eq, eventually, noise,
                   topic_name)

suite = Suite("kcat")
# Lengths first, so that the raw bytes behind them may be anything.
FORMAT = "%p %o %T %K %S [%h]\n%k%s\n"


def kcat(*arguments, stdin=b"", ok=True):
    command = ["kcat", "-b", BOOTSTRAP, "-X", "message.max.bytes=1048588", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=WAIT_SECONDS_MAX)
    assert not ok or done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def create(label, partitions=PARTITIONS):
    name = topic_name("kcat-" + label)
    with wire.Connection() as connection:
        assert_eq(connection.create_topic(name, partitions), 0)
        connection.settle(name, partitions)
    return name


def parse(data):
    """[(partition, offset, timestamp, key, value, headers)]"""
    out, at = [], 0
    while at < len(data):
        line_end = data.index(b"\n", at)
        # The header list may hold anything but a newline: it is cut off first.
        head, headers = data[at:line_end].split(b" [", 1)
        partition, offset, timestamp, key_size, value_size = map(int, head.split())
        at = line_end + 1
        key = None if key_size < 0 else data[at : at + key_size]
        at += max(key_size, 0)
        value = None if value_size < 0 else data[at : at + value_size]
        at += max(value_size, 0)
        assert data[at : at + 1] == b"\n", "kcat's output is out of step"
        at += 1
        out.append((partition, offset, timestamp, key, value, headers[:-1].decode()))
    return out


def consume(topic, partition, start, *more):
    return parse(kcat("-C", "-t", topic, "-p", str(partition), "-o", str(start), "-e", "-q", "-f", FORMAT, *more))


def produce_one(topic, partition, value, *more):
    """One record whose value is the content of a file, so that it may hold any byte."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(value)
        file.flush()
        kcat("-P", "-t", topic, "-p", str(partition), *more, file.name)


@suite.case("metadata listing")
def _():
    topic = create("list")
    listed = kcat("-L", "-t", topic).decode()
    assert f'topic "{topic}" with {PARTITIONS} partitions' in listed, listed
    assert "1 brokers" in listed, listed


def codec_case(codec):
    @suite.case(f"every kind of record, compression {codec}")
    def _():
        topic = create(codec)
        big = noise(codec, BIG_VALUE_BYTES)
        binary = bytes(range(256)) * 3
        z = ("-z", codec)
        for partition in range(PARTITIONS):
            produce_one(topic, partition, b"x", *z)
            produce_one(topic, partition, binary, *z, "-k", "key", "-H", "a=1", "-H", "a=2", "-H", "b=")
            kcat("-P", "-t", topic, "-p", str(partition), *z, "-Z", "-K", "|", stdin=b"tombstone|\n")
            kcat("-P", "-t", topic, "-p", str(partition), *z, "-K", "|", stdin=b"empty|\n")
            produce_one(topic, partition, big, *z, "-k", "big")
            lines = b"".join(b"k%d|%s\n" % (i, b"compressible " * 20) for i in range(200))
            kcat("-P", "-t", topic, "-p", str(partition), *z, "-K", "|", stdin=lines)
            got = consume(topic, partition, "beginning")
            want = [(None, b"x", ""), (b"key", binary, "a=1,a=2,b="), (b"tombstone", None, ""), (b"empty", b"", ""),
                    (b"big", big, "")] + [(b"k%d" % i, b"compressible " * 20, "") for i in range(200)]
            assert_eq([(g[0], g[1]) for g in got], [(partition, i) for i in range(len(want))], "offsets")
            for expected, actual in zip(want, got):
                assert expected == actual[3:], f"offset {actual[1]} differs"
        assert codec in wire.codecs_on_disk(topic, PARTITIONS), "the client did not compress"


for name in ("none", "gzip", "snappy", "lz4", "zstd"):
    codec_case(name)


@suite.case("from the middle, from the tail, from the end, by timestamp")
def _():
    topic = create("offsets", 1)
    for i in range(5):
        kcat("-P", "-t", topic, "-p", "0", "-z", "gzip", stdin=b"".join(b"%d\n" % n for n in range(10 * i, 10 * i + 10)))
    whole = consume(topic, 0, "beginning")
    assert_eq([g[4] for g in whole], [b"%d" % i for i in range(50)], "values")
    assert_eq(consume(topic, 0, 17), whole[17:], "middle")
    assert_eq(consume(topic, 0, -3), whole[-3:], "tail")
    assert_eq(consume(topic, 0, "end"), [], "end")
    for offset in (0, 9, 10, 31, 49):
        first = next(g for g in whole if g[2] >= whole[offset][2])
        asked = f"{topic}:0:{whole[offset][2]}"
        assert kcat("-Q", "-t", asked).split()[-1] == b"%d" % first[1], f"offset of {asked}"
        assert_eq(consume(topic, 0, f"s@{whole[offset][2]}")[0], first, "first record by timestamp")
    kcat("-P", "-t", topic, "-p", "0", stdin=b"new\n")
    assert_eq([g[4] for g in consume(topic, 0, 50)], [b"new"], "new record")


@suite.case("acks 0, 1 and all; idempotence")
def _():
    topic = create("acks", 1)
    lines = b"".join(b"%d\n" % i for i in range(100))
    for more in (("acks=0",), ("acks=1",), ("acks=all",), ("enable.idempotence=true",)):
        kcat("-P", "-t", topic, "-p", "0", "-X", more[0], stdin=lines)
    eventually(lambda: len(consume(topic, 0, "beginning")) == 400, "all records")
    assert_eq([g[4] for g in consume(topic, 0, "beginning")], lines.split() * 4, "values")


@suite.case("an unknown topic is an error, not a hang")
def _():
    out = subprocess.run(["kcat", "-b", BOOTSTRAP, "-C", "-t", "no such name", "-p", "0", "-e"], capture_output=True,
                         timeout=WAIT_SECONDS_MAX, env={**os.environ})
    assert out.returncode != 0, "succeeded"


suite.run()
