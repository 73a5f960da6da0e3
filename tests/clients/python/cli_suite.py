"""Ringlog's own command line (RINGLOG names the binary) as a client of the endpoint in BOOTSTRAP: Ringlog or any Kafka."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import wire
from confluent_kafka import Consumer, Producer
from jvm import read_topic
from suite import BOOTSTRAP, DATA_DIR, WAIT_SECONDS_MAX, Skip, Suite, assert_eq, eventually, now_ms, topic_name

suite = Suite("ringlog-cli")
RINGLOG = os.environ["RINGLOG"]


def run(*arguments, stdin="", where=BOOTSTRAP):
    command = [RINGLOG, *map(str, arguments)] + (["--bootstrap-server", where] if where else [])
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=WAIT_SECONDS_MAX)


def cli(*arguments, stdin="", where=BOOTSTRAP):
    done = run(*arguments, stdin=stdin, where=where)
    assert done.returncode == 0, f"{arguments}: {done.stdout[-500:]} {done.stderr[-1000:]}"
    return done.stdout


def refused(*arguments, stdin=""):
    done = run(*arguments, stdin=stdin)
    assert done.returncode != 0, f"{arguments} should fail: {done.stdout[-500:]}"
    return done.stderr


def create(label, partitions=1, *more):
    name = topic_name("cli-" + label)
    cli("topic", "--create", "--topic", name, "--partitions", partitions, *more)
    with wire.Connection() as connection:
        connection.settle(name, partitions)
    return name


def rows(out, *first):
    """The rows of a table whose first columns are `first`."""
    split = [line.split() for line in out.splitlines()]
    return [row for row in split if row[: len(first)] == list(first)]


@suite.case("topic: create, list, describe, grow, delete; what is refused says why")
def _():
    topic = create("topic", 3, "--config", "retention.ms=3600000", "--config", "cleanup.policy=compact")
    assert topic in cli("topic", "--list").split()
    described = cli("topic", "--describe", "--topic", topic)
    assert "retention.ms=3600000" in described and "cleanup.policy=compact" in described, described
    assert "TopicAlreadyExists" in refused("topic", "--create", "--topic", topic, "--partitions", 1)
    cli("topic", "--create", "--topic", topic, "--partitions", 1, "--if-not-exists")
    assert "InvalidConfig" in refused("topic", "--create", "--topic", topic + "x", "--config", "no.such=1")
    assert "InvalidReplicationFactor" in refused("topic", "--create", "--topic", topic + "x", "--replication-factor", 3)
    assert "InvalidTopic" in refused("topic", "--create", "--topic", "bad name!")
    cli("topic", "--alter", "--topic", topic, "--partitions", 5)
    eventually(lambda: re.search(r"\b5\b", cli("topic", "--describe", "--topic", topic)), "five partitions")
    assert "InvalidPartitions" in refused("topic", "--alter", "--topic", topic, "--partitions", 2)
    cli("topic", "--delete", "--topic", topic)
    eventually(lambda: topic not in cli("topic", "--list").split(), "topic gone")
    assert "UnknownTopicOrPartition" in refused("topic", "--describe", "--topic", topic)
    cli("topic", "--delete", "--topic", topic, "--if-exists")


KEYED = ("--property", "parse.key=true", "--property", "parse.headers=true", "--property", "null.marker=<null>")
SHOWN = [p for what in ("key", "offset", "headers", "partition") for p in ("--property", f"print.{what}=true")]


@suite.case("produce and consume: all codecs and acks, keys, headers and nulls, as another client sees them")
def _():
    topic = create("records")
    want = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for acks in ("0", "1", "all"):
            lines = [f"h:{codec}\tk{i}\t{'text ' * 20}{codec} {i}" for i in range(40)] + ["h:1\tgone\t<null>"]
            cli("produce", "--topic", topic, "--compression-codec", codec, "--acks", acks, *KEYED,
                stdin="\n".join(lines) + "\n")
            want += lines
            # Nothing answers acks 0: the next records must not overtake them.
            with wire.Connection() as connection:
                eventually(lambda: connection.list_offset(topic, 0, -1)[2] == len(want), "records in the log")
    found = [(key, value) for _, _, key, value in read_topic(topic)]
    expected = [line.split("\t")[1:] for line in want]
    assert_eq(found, [(k.encode(), None if v == "<null>" else v.encode()) for k, v in expected], "another client")
    assert_eq(wire.codecs_on_disk(topic, 1), {"none", "gzip", "snappy", "lz4", "zstd"}, "codecs in the log")
    shown = cli("consume", "--topic", topic, "--from-beginning", "--max-messages", len(want), *SHOWN, "--property",
                "null.literal=<null>").splitlines()
    expected = [["Partition:0", f"Offset:{i}", *line.split("\t")] for i, line in enumerate(want)]
    assert_eq([line.split("\t") for line in shown], expected, "our own client")
    tail = cli("consume", "--topic", topic, "--partition", 0, "--offset", -2, "--max-messages", 2, "--property",
               "null.literal=<null>")
    assert_eq(tail.splitlines(), [line.split("\t")[2] for line in want[-2:]], "the last two")
    why = refused("consume", "--topic", topic, "--partition", 7, "--offset", 0, "--timeout-ms", 1000)
    assert "partition" in why, f"refused with: {why}"


@suite.case("produce spreads over partitions as other clients do; consume ends after a silence")
def _():
    topic = create("spread", 4)
    keys = [f"key-{i}" for i in range(200)]
    cli("produce", "--topic", topic, "--property", "parse.key=true", "--property", "key.separator=:",
        stdin="".join(f"{key}:v\n" for key in keys))
    ours = {key: partition for partition, _, key, _ in read_topic(topic, 4)}
    other = Producer({"bootstrap.servers": BOOTSTRAP, "partitioner": "murmur2"})
    for key in keys:
        other.produce(topic, value=b"v", key=key)
    assert_eq(other.flush(WAIT_SECONDS_MAX), 0, "unsent")
    everything = read_topic(topic, 4)
    assert_eq(len(everything), 400)
    for partition, _, key, _ in everything:
        assert_eq(partition, ours[key], f"partition of {key}")
    out = cli("consume", "--topic", topic, "--from-beginning", "--timeout-ms", 2000)
    assert_eq(len(out.splitlines()), 400, "until nothing more came")


@suite.case("consume --isolation-level read_committed leaves out what was aborted")
def _():
    topic = create("isolation")
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": topic})
    producer.init_transactions(WAIT_SECONDS_MAX)
    for commit in (True, False, True):
        producer.begin_transaction()
        producer.produce(topic, value=b"committed" if commit else b"aborted")
        assert_eq(producer.flush(WAIT_SECONDS_MAX), 0, "unsent")
        (producer.commit_transaction if commit else producer.abort_transaction)(WAIT_SECONDS_MAX)
    for level, want in (("read_committed", "committed\n" * 2), ("read_uncommitted", "committed\naborted\ncommitted\n")):
        assert_eq(cli("consume", "--topic", topic, "--from-beginning", "--isolation-level", level, "--timeout-ms",
                      1500), want, level)


def offsets(group, topic):
    out = cli("group", "--describe", "--group", group)
    return {int(row[2]): tuple(row[3:6]) for row in rows(out, group, topic)}


@suite.case("group: lag, members, states, offsets moved in all forms, offsets and groups deleted")
def _():
    topic = create("group", 2)
    base_ms = now_ms() - 3_600_000
    with wire.Connection() as connection:
        for partition in range(2):
            connection.produce(topic, partition, wire.batch([b"v%d" % i for i in range(20)],
                                                            [base_ms + 1000 * i for i in range(20)]))
    got = cli("consume", "--topic", topic, "--group", topic, "--from-beginning", "--max-messages", 40, "--timeout-ms",
              30000)
    assert_eq(len(got.splitlines()), 40, "read as a group")
    assert_eq(offsets(topic, topic), {0: ("20", "20", "0"), 1: ("20", "20", "0")}, "after reading")
    assert topic in cli("group", "--list").split()
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": topic, "client.id": "somebody"})
    consumer.subscribe([topic])
    eventually(lambda: consumer.poll(0.1) is None and len(consumer.assignment()) == 2, "two partitions assigned")
    assert "somebody" in cli("group", "--describe", "--group", topic, "--members")
    assert "Stable" in cli("group", "--describe", "--group", topic, "--state")
    assert refused("group", "--reset-offsets", "--group", topic, "--topic", topic, "--to-earliest", "--execute")
    consumer.close()
    eventually(lambda: "Empty" in cli("group", "--describe", "--group", topic, "--state"), "empty")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000", time.gmtime((base_ms + 5000) / 1000 + 1))
    moves = [(("--to-earliest",), (0, 0)), (("--to-offset", 7), (7, 7)), (("--shift-by", 3), (10, 10)),
             (("--shift-by", -2), (8, 8)), (("--to-current",), (8, 8)), (("--to-datetime", stamp), None),
             (("--by-duration", "PT1M"), (20, 20)), (("--by-duration", "P1D"), (0, 0)), (("--to-latest",), (20, 20))]
    for form, want in moves:
        before = offsets(topic, topic)
        cli("group", "--reset-offsets", "--group", topic, "--topic", topic, *form, "--dry-run")
        assert_eq(offsets(topic, topic), before, f"{form} is only shown")
        cli("group", "--reset-offsets", "--group", topic, "--topic", topic, *form, "--execute")
        after = tuple(int(offsets(topic, topic)[p][0]) for p in range(2))
        assert after == want if want else all(5 <= offset <= 7 for offset in after), f"{form}: {after}"
    cli("group", "--reset-offsets", "--group", topic, "--topic", f"{topic}:1", "--to-offset", 4, "--execute")
    assert_eq({p: o[0] for p, o in offsets(topic, topic).items()}, {0: "20", 1: "4"}, "one partition")
    exported = cli("group", "--reset-offsets", "--group", topic, "--all-topics", "--to-current", "--export")
    assert_eq(sorted(exported.replace('"', "").split()), [f"{topic},0,20", f"{topic},1,4"], "exported")
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as plan:
        plan.write(f"{topic},0,3\n{topic},1,5\n")
        plan.flush()
        cli("group", "--reset-offsets", "--group", topic, "--from-file", plan.name, "--execute")
    assert_eq({p: o[0] for p, o in offsets(topic, topic).items()}, {0: "3", 1: "5"}, "from a file")
    cli("group", "--delete-offsets", "--group", topic, "--topic", f"{topic}:1")
    left = offsets(topic, topic)
    assert left[0][0] == "3" and left.get(1, ("-",))[0] == "-", f"after deleting offsets: {left}"
    cli("group", "--delete", "--group", topic)
    assert topic not in cli("group", "--list").split()
    assert refused("group", "--describe", "--group", topic)


@suite.case("group: the members of both protocols, with their partitions and lag; several groups at once")
def _():
    topic = create("members", 2)
    cli("produce", "--topic", topic, "--sync", stdin="a\nb\nc\n")
    names = {protocol: f"{topic}-{protocol}" for protocol in ("classic", "consumer")}
    consumers = [Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, "group.protocol": protocol, "client.id":
                           f"client-{protocol}", "auto.offset.reset": "earliest"}) for protocol, group in names.items()]
    for consumer, (protocol, group) in zip(consumers, names.items()):
        consumer.subscribe([topic])
        found = []
        eventually(lambda: found.extend(consumer.consume(3, 0.2)) or len(found) >= 3, f"three records, {protocol}")
        consumer.commit(asynchronous=False)
        row = eventually(lambda: rows(cli("group", "--describe", "--group", group, "--members"), group), "a member")[0]
        assert f"client-{protocol}" in row and f"{topic}-0" in row[-1] and f"{topic}-1" in row[-1], row
        assert "Stable" in cli("group", "--describe", "--group", group, "--state"), protocol
    described = cli("group", "--describe", *(part for group in names.values() for part in ("--group", group)))
    for protocol, group in names.items():
        lags = [row[5] for row in rows(described, group, topic)]
        assert lags and set(lags) == {"0"}, f"{protocol}: {described}"
    for consumer in consumers:
        consumer.close()
    listed = cli("group", "--list", "--state")
    assert all(group in listed for group in names.values()), listed


@suite.case("config: topics, brokers, groups, quotas and client metrics are set, shown and removed")
def _():
    topic = create("config")
    cli("config", "--alter", "--topic", topic, "--add-config", "cleanup.policy=[compact,delete],segment.ms=60000")
    shown = eventually(lambda: (lambda s: "60000" in s and s)(cli("config", "--describe", "--topic", topic)), "set")
    assert "compact,delete" in shown and "retention.bytes" not in shown, shown
    assert "retention.bytes" in cli("config", "--describe", "--all", "--topic", topic)
    cli("config", "--alter", "--topic", topic, "--delete-config", "segment.ms")
    eventually(lambda: "segment.ms" not in cli("config", "--describe", "--topic", topic), "removed")
    assert "InvalidConfig" in refused("config", "--alter", "--topic", topic, "--add-config", "no.such=1")
    cli("config", "--alter", "--broker-defaults", "--add-config", "log.cleaner.threads=2")
    eventually(lambda: "log.cleaner.threads" in cli("config", "--describe", "--broker-defaults"), "for all brokers")
    cli("config", "--alter", "--broker-defaults", "--delete-config", "log.cleaner.threads")
    cli("config", "--alter", "--group", topic, "--add-config", "consumer.session.timeout.ms=50000")
    eventually(lambda: "50000" in cli("config", "--describe", "--group", topic), "of a group")
    cli("config", "--alter", "--group", topic, "--delete-config", "consumer.session.timeout.ms")
    cli("config", "--alter", "--client-metrics", topic, "--add-config", "interval.ms=30000")
    eventually(lambda: "30000" in cli("config", "--describe", "--client-metrics", topic), "of client metrics")
    cli("config", "--alter", "--client-metrics", topic, "--delete-config", "interval.ms")
    cli("config", "--alter", "--user", topic, "--client-defaults", "--add-config", "producer_byte_rate=1048576")
    eventually(lambda: rows_with(cli("config", "--describe", "--user", topic, "--client-defaults"), "1048576"), "quota")
    cli("config", "--alter", "--user", topic, "--client-defaults", "--delete-config", "producer_byte_rate")
    eventually(lambda: not rows_with(cli("config", "--describe", "--user", topic, "--client-defaults"), "1048576"),
               "quota gone")


def rows_with(out, text):
    return [line for line in out.splitlines() if text in line]


@suite.case("log dump verifies the segments of this endpoint")
def _():
    if not DATA_DIR:
        raise Skip("the broker's data directory is not at hand")
    topic = create("dump", 1, "--config", "segment.bytes=1048576")
    with wire.Connection() as connection:
        for i in range(40):
            values = [b"%d %d " % (i, n) + os.urandom(6000) for n in range(10)]
            connection.produce(topic, 0, wire.batch(values, codec=i % 2))
    segments = sorted((Path(DATA_DIR) / f"{topic}-0").glob("*.log"))
    assert len(segments) >= 3, f"{len(segments)} segments"
    for segment, following in zip(segments, segments[1:]):
        out = cli("log", "dump", "--deep-iteration", segment, where=None)
        count = int(following.stem) - int(segment.stem)
        assert f"{count} records" in out and "DAMAGED" not in out, out[-500:]


suite.run()
