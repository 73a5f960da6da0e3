"""What every Python suite shares: the case runner, the record matrix and comparison helpers.

Output: one line a case, `ok - NAME`, `not ok - NAME: why` or `skip - NAME: why`; scripts/test counts them. A case that
fails does not stop the following ones. Invariant: nothing here depends on a client library.
"""

import hashlib
import os
import random
import sys
import time
import traceback
from dataclasses import dataclass, field

BOOTSTRAP = os.environ["BOOTSTRAP"]
# Where the broker keeps its partitions; unset when the suites run against an endpoint somebody else started.
DATA_DIR = os.environ.get("BROKER_DATA_DIR") or None
# Set when the endpoint is Apache Kafka: cases on which Kafka itself is known to differ are then skipped.
PEER_IS_KAFKA = os.environ.get("PEER") == "kafka"
PARTITIONS = 3
BIG_VALUE_BYTES = 1_000_000
# How long one poll loop waits for what must come. Only a failing case takes this long.
WAIT_SECONDS_MAX = 60


@dataclass
class Rec:
    """A record as it is sent and as it must come back. `timestamp_ms` is CreateTime."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list = field(default_factory=list)

    def brief(self):
        def show(b):
            return "null" if b is None else f"{len(b)}B:{b[:12].hex()}"

        return f"(key {show(self.key)} value {show(self.value)} ts {self.timestamp_ms} headers {self.headers})"


class Skip(Exception):
    """Raised by a case that does not apply to this endpoint."""


class Suite:
    """Collects cases in order and runs them."""

    def __init__(self, name):
        self.name = name
        self.cases = []

    def case(self, title):
        """Decorator: registers a function without arguments as a case."""

        def add(function):
            self.cases.append((title, function))
            return function

        return add

    def run(self, *afterwards):
        """Runs all cases, prints their lines, calls `afterwards`, and ends the process with 1 when a case failed."""
        wanted = os.environ.get("CASE", "")
        failed = 0
        for title, function in self.cases:
            if wanted not in title:
                continue
            try:
                function()
                print(f"ok - {self.name}: {title}", flush=True)
            except Skip as why:
                print(f"skip - {self.name}: {title}: {why}", flush=True)
            except Exception as error:  # a failing case must not hide the ones behind it
                failed += 1
                text = " ".join(str(error).split())[:500]
                print(f"not ok - {self.name}: {title}: {type(error).__name__} {text}", flush=True)
                traceback.print_exc(file=sys.stderr)
        sys.stdout.flush()
        for function in afterwards:
            function()
        # Client threads that hang in a close must not decide the outcome.
        os._exit(1 if failed else 0)


def topic_name(label):
    """A name no other run uses."""
    return f"t-{label}-{os.getpid()}-{random.randrange(1 << 32):08x}"


def noise(seed, size):
    """`size` bytes no codec can shrink, the same for the same seed."""
    return random.Random(hashlib.sha256(seed.encode()).digest()).randbytes(size)


def now_ms():
    return int(time.time() * 1000)


def record_matrix(seed):
    """The records every client has to carry: all the shapes of keys, values and headers that were ever a problem."""
    base_ms = now_ms() - 60_000
    shapes = [
        (b"key", b"value", []),
        (None, b"x", []),
        (b"tombstone", None, []),
        (b"", b"", []),
        (None, None, [("only", b"header")]),
        (b"k" * 300, b"\x00\xff" * 64, []),
        (bytes(range(256)), bytes(range(256)), []),
        (b"h", b"headers", [("a", b"1"), ("a", b"2"), ("", b"empty name"), ("empty", b""), ("null", None), ("\u00fc", b"\xff\x00")]),
        (b"text", b"compressible " * 2000, [("n", b"0")]),
        (b"noise", noise(seed + "n", 5000), []),
        (b"big", noise(seed, BIG_VALUE_BYTES), [("big", b"yes")]),
        (None, b"last", []),
    ]
    return [Rec(k, v, base_ms + 7 * i, h) for i, (k, v, h) in enumerate(shapes)]


def assert_same(want, got, start_offset=0):
    """Every byte, key, header and timestamp, and offsets without gaps. `got` is a list of (offset, Rec)."""
    assert len(got) == len(want), f"{len(got)} records instead of {len(want)}"
    for i, (expected, (offset, actual)) in enumerate(zip(want, got)):
        assert offset == start_offset + i, f"record {i} has offset {offset}, not {start_offset + i}"
        assert expected == actual, f"record {i}: sent {expected.brief()}, got {actual.brief()}"


def assert_eq(got, want, what=""):
    assert got == want, f"{what}: got {got!r}, want {want!r}"


def eventually(check, what):
    """Polls `check` until it is true: for what Kafka promises only soon, like a topic creation seen everywhere."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)
