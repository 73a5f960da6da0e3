"""Everything the suites before left in the broker is there, byte for byte, after a restart.

Run twice by scripts/test: `before` remembers what every partition holds in the file named by the second argument,
`after` compares. The second run reads from the disk: the caches of the first process are gone.
"""

import hashlib
import json
import sys

import wire
from suite import Suite, assert_eq, topic_name

suite = Suite("restart")
PHASE, MEMORY = sys.argv[1], sys.argv[2]
TOPIC_PREFIX = "t-"


def contents(connection, topic, partition):
    """[earliest, latest, SHA-256 of all batches]; offsets must be without gaps."""
    low, high = (connection.list_offset(topic, partition, at)[2] for at in (-2, -1))
    at, digest = low, hashlib.sha256()
    while at < high:
        _, _, parts = connection.fetch([(topic, partition, at, 1 << 22)])
        code, _, records = parts[(topic, partition)]
        assert_eq(code, 0, f"fetch of {topic}-{partition} at {at}")
        found = wire.batches_of(records)
        assert found, f"{topic}-{partition}: nothing at {at}, the end is {high}"
        for base, last, _, raw in found:
            assert_eq(base, at, f"{topic}-{partition}: base offset")
            digest.update(raw)
            at = last + 1
    return [low, high, digest.hexdigest()]


def everything(connection):
    out = {}
    for topic, (code, partitions) in connection.metadata(None).items():
        if topic.startswith(TOPIC_PREFIX):
            assert_eq(code, 0, topic)
            for partition, *_ in partitions:
                out[f"{topic}/{partition}"] = contents(connection, topic, partition)
    return out


def before():
    with wire.Connection() as c:
        topic = topic_name("restart")
        assert_eq(c.create_topic(topic), 0)
        c.settle(topic)
        code, producer_id, epoch = c.init_producer_id()
        assert_eq(code, 0, "producer id")
        for i in range(7):
            batch = wire.batch([b"%d" % i], producer=(producer_id, epoch, i))
            assert_eq(c.produce(topic, 0, batch), (0, i))
        memory = {"topic": topic, "producer": [producer_id, epoch], "logs": everything(c)}
    with open(MEMORY, "w") as file:
        json.dump(memory, file)


def same_logs(memory):
    with wire.Connection() as c:
        now = everything(c)
        assert_eq(sorted(now), sorted(memory["logs"]), "partitions")
        for name, want in memory["logs"].items():
            assert_eq(now[name], want, name)


def same_producers(memory):
    with wire.Connection() as c:
        topic, (producer_id, epoch) = memory["topic"], memory["producer"]
        assert c.init_producer_id()[1] != producer_id, "a producer id was given twice"
        for i in (6, 2):
            duplicate = wire.batch([b"%d" % i], producer=(producer_id, epoch, i))
            assert_eq(c.produce(topic, 0, duplicate), (0, i), "a duplicate")
        gap = wire.batch([b"x"], producer=(producer_id, epoch, 9))
        assert_eq(c.produce(topic, 0, gap)[0], 45, "a gap")
        following = wire.batch([b"7"], producer=(producer_id, epoch, 7))
        assert_eq(c.produce(topic, 0, following), (0, 7), "the next one")


if PHASE == "before":
    suite.case("what every partition holds is read before the restart")(before)
else:
    with open(MEMORY) as file:
        remembered = json.load(file)
    suite.case(f"{len(remembered['logs'])} partitions are byte for byte the same")(lambda: same_logs(remembered))
    suite.case("duplicates and gaps of an earlier idempotent producer are recognised")(lambda: same_producers(remembered))
suite.run()
