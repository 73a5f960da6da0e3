"""Apache Kafka's own command-line tools, run as Java classes against the endpoint in BOOTSTRAP.

JAVA_LIBS names the directory of their jars, JAVA_CLASSES that of ToolRunner. kafka-dump-log runs only where the broker's data directory is at hand.
"""

import json
import os
import re
import select
import subprocess
import tempfile
import time
from pathlib import Path

import wire
from suite import (BOOTSTRAP, DATA_DIR, PEER_IS_KAFKA, WAIT_SECONDS_MAX, Skip, Suite, assert_eq, eventually, noise, now_ms,
                   topic_name)

suite = Suite("apache-tools")
TOOLS = "org.apache.kafka.tools."
SEGMENT_BYTES = 1_048_576


class Runner:
    """One JVM for all tools (ToolRunner.java): a start of its own would take longer than most of them do."""

    def __init__(self):
        command = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                   "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp",
                   os.environ["JAVA_CLASSES"] + ":" + os.environ["JAVA_LIBS"] + "/*", "ToolRunner"]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, name, arguments, stdin):
        """(exit status, standard output, standard error)."""
        fields = [name.encode(), stdin, *(argument.encode() for argument in arguments)]
        self.child.stdin.write(b" ".join(field.hex().encode() for field in fields) + b"\n")
        self.child.stdin.flush()
        ready, _, _ = select.select([self.child.stdout], [], [], 2 * WAIT_SECONDS_MAX)
        answer = self.child.stdout.readline().split(b" ") if ready else []
        if len(answer) != 3:
            self.child.kill()
            raise AssertionError(f"{name} {arguments} does not end" if not ready else f"{name} ended the JVM")
        return int(answer[0]), *(bytes.fromhex(part.decode()).decode() for part in answer[1:])


RUNNER = None


def call(name, *arguments, stdin=b""):
    global RUNNER
    if RUNNER is None or RUNNER.child.poll() is not None:
        RUNNER = Runner()
    return RUNNER.run(name, arguments, stdin)


def tool(name, *arguments, stdin=b""):
    status, out, err = call(name, *arguments, stdin=stdin)
    assert status == 0, f"{name}: {out[-1000:]} {err[-1000:]}"
    for word in ("ERROR", "Exception"):
        assert word not in err, f"{name}: {err[-1000:]}"
    return out


def alone(name, *arguments):
    """In a JVM of its own: for tools that do their work, or print it, in a shutdown hook of the JVM itself."""
    command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
               "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", os.environ["JAVA_LIBS"] + "/*", TOOLS + name,
               "--bootstrap-server", BOOTSTRAP, *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=2 * WAIT_SECONDS_MAX)
    assert done.returncode == 0, f"{name}: {done.stdout[-1000:]} {done.stderr[-1000:]}"
    return done.stdout.decode()


def online(name, *arguments, stdin=b""):
    return tool(TOOLS + name, "--bootstrap-server", BOOTSTRAP, *arguments, stdin=stdin)


def create(label, partitions=1, **configs):
    name = topic_name("tools-" + label)
    with wire.Connection() as connection:
        assert_eq(connection.create_topic(name, partitions, {k.replace("_", "."): v for k, v in configs.items()}), 0)
        connection.settle(name, partitions)
    return name


def console_consume(topic, partition, offset, count):
    shown = [f"print.{what}=true" for what in ("key", "offset", "timestamp", "headers", "partition")]
    more = [part for one in (*shown, "null.literal=<null>") for part in ("--formatter-property", one)]
    out = online("consumer.ConsoleConsumer", "--topic", topic, "--partition", str(partition), "--offset", str(offset),
                 "--max-messages", str(count), "--timeout-ms", "30000", *more)
    return [line.split("\t") for line in out.splitlines()]


@suite.case("kafka-topics: create, list, describe, alter, delete")
def _():
    topic = topic_name("tools-topics")
    made = online("TopicCommand", "--create", "--topic", topic, "--partitions", "3", "--replication-factor", "1",
                  "--config", "retention.ms=3600000")
    assert f"Created topic {topic}." in made, made
    assert topic in online("TopicCommand", "--list").split()
    described = online("TopicCommand", "--describe", "--topic", topic)
    assert "PartitionCount: 3" in described and "retention.ms=3600000" in described, described
    assert len(re.findall(r"Partition: \d+\s+Leader: \d+\s+Replicas: \d+\s+Isr: \d+", described)) == 3, described
    online("TopicCommand", "--alter", "--topic", topic, "--partitions", "5")
    described = eventually(lambda: (lambda d: "PartitionCount: 5" in d and d)(
        online("TopicCommand", "--describe", "--topic", topic)), "five partitions")
    online("TopicCommand", "--delete", "--topic", topic)
    eventually(lambda: topic not in online("TopicCommand", "--list").split(), "topic gone")


@suite.case("kafka-configs, kafka-log-dirs, kafka-cluster, kafka-broker-api-versions")
def _():
    topic = create("describe", retention_ms="3600000")
    configs = tool("kafka.admin.ConfigCommand", "--bootstrap-server", BOOTSTRAP, "--describe", "--all", "--topic", topic)
    assert "retention.ms=3600000" in configs and "segment.bytes=1073741824" in configs, configs
    logs = online("LogDirsCommand", "--describe", "--topic-list", topic)
    found = json.loads(logs[logs.index("{"):].splitlines()[0])
    assert f"{topic}-0" in str(found) and "'error': None" in str(found), logs
    assert "Cluster ID: " in tool(TOOLS + "ClusterTool", "cluster-id", "--bootstrap-server", BOOTSTRAP)
    versions = online("BrokerApiVersionsCommand")
    for api in ("Produce(0)", "Fetch(1)", "DescribeTopicPartitions(75)"):
        assert re.search(re.escape(api) + r": \d+", versions), versions


@suite.case("kafka-configs changes topics, brokers, quotas and client metrics while the broker runs")
def _():
    topic = create("alter")

    def configs(*arguments):
        return tool("kafka.admin.ConfigCommand", "--bootstrap-server", BOOTSTRAP, *arguments)

    configs("--alter", "--topic", topic, "--add-config", "cleanup.policy=[compact,delete],segment.ms=60000")
    shown = configs("--describe", "--topic", topic)
    assert "cleanup.policy=compact,delete" in shown and "DYNAMIC_TOPIC_CONFIG:segment.ms=60000" in shown, shown
    configs("--alter", "--broker-defaults", "--add-config", "log.cleaner.threads=2")
    shown = configs("--describe", "--broker-defaults")
    assert "log.cleaner.threads=2" in shown and "DYNAMIC_DEFAULT_BROKER_CONFIG" in shown, shown
    configs("--alter", "--broker-defaults", "--delete-config", "log.cleaner.threads")
    configs("--alter", "--entity-type", "users", "--entity-name", topic, "--entity-type", "clients",
            "--entity-default", "--add-config",
            "producer_byte_rate=1048576,request_percentage=50.5,controller_mutation_rate=1000")
    shown = configs("--describe", "--user", topic, "--client-defaults")
    assert "producer_byte_rate=1048576" in shown and "request_percentage=50.5" in shown, shown
    assert "controller_mutation_rate=1000" in shown, shown
    configs("--alter", "--user", topic, "--client-defaults", "--delete-config",
            "producer_byte_rate,request_percentage,controller_mutation_rate")
    online("ClientMetricsCommand", "--alter", "--name", topic, "--metrics", "org.apache.kafka.producer.",
           "--interval", "30000")
    shown = online("ClientMetricsCommand", "--describe", "--name", topic)
    assert "interval.ms=30000" in shown, shown
    assert topic in online("ClientMetricsCommand", "--list").split()
    online("ClientMetricsCommand", "--delete", "--name", topic)


@suite.case("kafka-features, kafka-leader-election, kafka-reassign-partitions, kafka-metadata-quorum")
def _():
    topic = create("place")
    features = online("FeatureCommand", "describe")
    assert re.search(r"Feature: metadata.version\s", features), features
    elected = online("LeaderElectionCommand", "--election-type", "preferred", "--topic", topic, "--partition", "0")
    assert "Valid replica already elected" in elected, elected
    status = online("MetadataQuorumCommand", "describe", "--status")
    node = int(re.search(r"LeaderId:\s+(\d+)", status).group(1))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
        json.dump({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [node]}]}, plan)
        plan.flush()
        started = online("reassign.ReassignPartitionsCommand", "--reassignment-json-file", plan.name, "--execute")
        assert "Successfully started partition reassignment" in started, started
        verified = online("reassign.ReassignPartitionsCommand", "--reassignment-json-file", plan.name, "--verify")
        assert f"Reassignment of partition {topic}-0 is completed." in verified, verified


@suite.case("kafka-console-producer and -consumer with an assigned partition, all compressions")
def _():
    topic = create("console", 1)
    want = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        lines = [f"h1:v1,h2:{codec}\t{codec}-{i}\t{'value ' * 30}{i}" for i in range(100)]
        lines.append("h:1\tgone\t<null>")
        reader = [p for one in ("parse.key=true", "parse.headers=true", "null.marker=<null>")
                  for p in ("--reader-property", one)]
        online("ConsoleProducer", "--topic", topic, "--compression-codec", codec, *reader,
               stdin=("\n".join(lines) + "\n").encode())
        want += [line.split("\t") for line in lines]

    def without_time(rows):
        return [(row[1], row[2], row[3], row[4], row[5]) for row in rows]

    expected = [("Partition:0", f"Offset:{i}", *w) for i, w in enumerate(want)]
    got = console_consume(topic, 0, "earliest", len(want))
    assert_eq(without_time(got), expected, "from the start")
    assert all(0 <= now_ms() - int(row[0].removeprefix("CreateTime:")) < 600_000 for row in got), "timestamps"
    assert_eq(without_time(console_consume(topic, 0, 250, len(want) - 250)), expected[250:], "from the middle")
    assert_eq(wire.codecs_on_disk(topic, 1), {"none", "gzip", "snappy", "lz4", "zstd"}, "codecs in the log")


@suite.case("kafka-get-offsets: earliest, latest, largest timestamp, by timestamp")
def _():
    topic = create("getoffsets")
    base_ms = now_ms() - 100_000
    with wire.Connection() as connection:
        stamps = [base_ms, base_ms + 500, base_ms + 100]
        assert_eq(connection.produce(topic, 0, wire.batch([b"a", b"b", b"c"], stamps, codec=1)), (0, 0))
    for time, want in (("earliest", "0"), ("latest", "3"), ("max-timestamp", "1"), (str(base_ms + 1), "1"),
                       (str(base_ms + 9999), "")):
        got = online("GetOffsetShell", "--topic", topic, "--time", time).strip()
        assert_eq(got, want and f"{topic}:0:{want}", time)


@suite.case("kafka-transactions: list, describe, describe-producers, find-hanging")
def _():
    topic = create("txn", 1)
    online("ProducerPerformance", "--topic", topic, "--num-records", "2000", "--record-size", "100", "--throughput",
           "-1", "--transactional-id", topic + "-id", "--transaction-duration-ms", "100")
    listed = online("TransactionsCommand", "list")
    assert re.search(re.escape(topic) + r"-id\s+\d+\s+\d+\s+Complete(Commit|Abort)", listed), listed
    described = online("TransactionsCommand", "describe", "--transactional-id", topic + "-id")
    assert "Complete" in described, described
    producers = online("TransactionsCommand", "describe-producers", "--topic", topic, "--partition", "0")
    assert re.search(r"^\d+\s+\d+\s+\d+\s+-?\d+\s+\d+\s+None", producers, re.M), producers
    online("TransactionsCommand", "find-hanging", "--topic", topic)


def groups(*arguments):
    return online("consumer.group.ConsumerGroupCommand", *arguments)


@suite.case("kafka-consumer-groups: list, describe, reset in all forms, delete offsets and groups")
def _():
    topic = create("groups", 2)
    base_ms = now_ms() - 3_600_000
    with wire.Connection() as connection:
        for partition in range(2):
            stamps = [base_ms + 1000 * i for i in range(20)]
            connection.produce(topic, partition, wire.batch([b"v%d" % i for i in range(20)], stamps))
    out = online("consumer.ConsoleConsumer", "--topic", topic, "--group", topic, "--from-beginning", "--max-messages",
                 "40", "--timeout-ms", "30000")
    assert_eq(len(out.split()), 40, "records read as a group")

    def described():
        out = groups("--describe", "--group", topic)
        return {int(p): int(o) for p, o in re.findall(rf"{topic}\s+(\d+)\s+(\d+)\s+20\s", out)}

    eventually(lambda: described() == {0: 20, 1: 20}, "committed")
    assert topic in groups("--list", "--state", "Empty").split()[::2], "by state"
    assert re.search(rf"{topic}\s+.*Empty", groups("--describe", "--group", topic, "--state")), "state"
    both = ("--reset-offsets", "--group", topic, "--topic", topic)
    csv = Path(os.environ.get("TMPDIR", "/tmp")) / f"{topic}.csv"
    csv.write_text(f"{topic},0,3\n{topic},1,4\n")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000", time.gmtime((base_ms + 5000) / 1000))
    forms = ((("--to-earliest",), {0: 0, 1: 0}), (("--to-offset", "7"), {0: 7, 1: 7}),
             (("--shift-by", "3"), {0: 10, 1: 10}), (("--to-current",), {0: 10, 1: 10}),
             (("--to-datetime", stamp), None), (("--by-duration", "PT1M"), {0: 20, 1: 20}),
             (("--from-file", str(csv)), {0: 3, 1: 4}), (("--to-latest",), {0: 20, 1: 20}))
    for form, want in forms:
        arguments = ("--reset-offsets", "--group", topic) if form[0] == "--from-file" else both
        out = groups(*arguments, *form, "--execute")
        got = {int(p): int(o) for p, o in re.findall(rf"{topic}\s+(\d+)\s+(\d+)\s*$", out, re.M)}
        assert got == want if want else all(4 <= offset <= 6 for offset in got.values()), f"{form}: {got}"
    csv.unlink()
    assert_eq(described(), {0: 20, 1: 20}, "after all of them")
    groups("--delete-offsets", "--group", topic, "--topic", f"{topic}:1")
    assert_eq(described(), {0: 20}, "after deleting offsets")
    groups("--delete", "--group", topic)
    assert topic not in groups("--list").split()
    if DATA_DIR:
        logs = [p for p in Path(DATA_DIR).glob("__consumer_offsets-*/*.log") if topic.encode() in p.read_bytes()]
        assert_eq(len(logs), 1, "partitions that know the group")
        out = dump(logs[0], "--offsets-decoder")
        assert re.search(r'"type":"1".*"topic":"%s".*"offset":20' % topic, out), out[-2000:]
        assert re.search(r'"type":"2".*"protocolType":"consumer"', out) and "Could not" not in out, out[-2000:]


@suite.case("kafka-delete-records, and what kafka-get-offsets and kafka-log-dirs say afterwards")
def _():
    topic = create("delete", 2)
    with wire.Connection() as connection:
        for partition in range(2):
            connection.produce(topic, partition, wire.batch([b"v%d" % i for i in range(10)]))
    parts = [{"topic": topic, "partition": 0, "offset": 4}, {"topic": topic, "partition": 1, "offset": -1}]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
        json.dump({"version": 1, "partitions": parts}, plan)
        plan.flush()
        out = online("DeleteRecordsCommand", "--offset-json-file", plan.name)
    assert_eq(sorted(re.findall(rf"{topic}-(\d+)\s+low_watermark: (\d+)", out)), [("0", "4"), ("1", "10")], out)
    earliest = online("GetOffsetShell", "--topic-partitions", f"{topic}:0-2", "--time", "earliest").split()
    assert_eq(earliest, [f"{topic}:0:4", f"{topic}:1:10"], "earliest")
    latest = online("GetOffsetShell", "--topic", topic, "--partitions", "1", "--time", "-1").split()
    assert_eq(latest, [f"{topic}:1:10"], "latest")
    logs = online("LogDirsCommand", "--describe", "--topic-list", topic)
    assert f"{topic}-1" in logs, logs
    # The suite about restarts reads from the log start, and expects a batch that begins there.
    online("TopicCommand", "--delete", "--topic", topic)


@suite.case("kafka-consumer-groups --export and --dry-run, kafka-groups, kafka-configs of a group")
def _():
    topic = create("export", 2)
    with wire.Connection() as connection:
        for partition in range(2):
            connection.produce(topic, partition, wire.batch([b"v%d" % i for i in range(10)]))
    both = ("--reset-offsets", "--group", topic, "--topic", topic)
    # Offsets of a group that does not exist yet.
    groups(*both, "--to-offset", "6", "--execute")
    shown = groups(*both, "--to-earliest", "--dry-run")
    assert_eq(len(re.findall(rf"{topic}\s+\d\s+0\s*$", shown, re.M)), 2, shown)
    exported = groups("--reset-offsets", "--group", topic, "--all-topics", "--to-current", "--export", "--dry-run")
    # The tool quotes names.
    rows = sorted(line.replace('"', "") for line in exported.splitlines() if topic in line)
    assert_eq(rows, [f"{topic},0,6", f"{topic},1,6"], exported)
    listed = online("GroupsCommand", "--list")
    assert re.search(rf"{topic}\s+Classic", listed), listed
    assert topic not in online("GroupsCommand", "--list", "--share")
    assert "already exists" not in listed
    configs = ("--bootstrap-server", BOOTSTRAP, "--group", topic)
    tool("kafka.admin.ConfigCommand", *configs, "--alter", "--add-config", "consumer.session.timeout.ms=50000")
    shown = eventually(lambda: (lambda s: "50000" in s and s)(tool("kafka.admin.ConfigCommand", *configs, "--describe")),
                       "the group's configuration")
    assert "consumer.session.timeout.ms=50000" in shown, shown
    tool("kafka.admin.ConfigCommand", *configs, "--alter", "--delete-config", "consumer.session.timeout.ms")


def verifiable_consumer(topic, group, count, *more):
    """It commits after every poll and ends by itself after so many records."""
    out = alone("VerifiableConsumer", "--topic", topic, "--group-id", group, "--max-messages", str(count),
                 "--reset-policy", "earliest", "--verbose", *more)
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert all(event.get("success", True) for event in events if event["name"] == "offsets_committed"), out[-2000:]
    return sorted(int(event["value"]) for event in events if event["name"] == "record_data")


@suite.case("kafka-verifiable-producer and -consumer, both group protocols; kafka-consumer-perf-test; kafka-e2e-latency")
def _():
    topic = create("verifiable", 2)
    out = alone("VerifiableProducer", "--topic", topic, "--max-messages", "500", "--acks", "-1")
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert_eq(sum(event["name"] == "producer_send_success" for event in events), 500, "acknowledged")
    assert_eq(verifiable_consumer(topic, topic, 500), list(range(500)), "classic protocol")
    assert_eq(verifiable_consumer(topic, topic + "-new", 500, "--group-protocol", "consumer"), list(range(500)),
              "consumer protocol")
    out = online("ConsumerPerformance", "--topic", topic, "--num-records", "500", "--timeout", "20000", "--hide-header")
    assert_eq(int(float(out.strip().splitlines()[-1].split(",")[4])), 500, "records read")
    latency = create("latency", 1)
    out = tool(TOOLS + "EndToEndLatency", BOOTSTRAP, latency, "200", "all", "100")
    assert "Percentiles" in out and "Avg latency" in out, out


@suite.case("kafka-streams-application-reset")
def _():
    topic = create("reset", 2)
    with wire.Connection() as connection:
        connection.produce(topic, 1, wire.batch([b"v%d" % i for i in range(10)]))
        assert_eq(connection.create_topic(f"{topic}-counts-changelog", 1, {"cleanup.policy": "compact"}), 0)
    groups("--reset-offsets", "--group", topic, "--topic", topic, "--to-latest", "--execute")
    out = online("StreamsResetter", "--application-id", topic, "--input-topics", topic, "--to-offset", "3", "--force")
    assert "Deleting inferred internal topics" in out and f"{topic}-counts-changelog" in out, out
    # Partition 0 is empty: the tool goes no further than its end.
    offsets = dict(re.findall(rf"{topic}\s+(\d+)\s+(\d+)\s+\d+", groups("--describe", "--group", topic)))
    assert_eq(offsets, {"0": "0", "1": "3"}, "offsets after the reset")
    eventually(lambda: f"{topic}-counts-changelog" not in online("TopicCommand", "--list").split(), "topic gone")


@suite.case("kafka-reassign-partitions --generate, --list; kafka-topics filters; kafka-metadata-quorum --replication; endpoints")
def _():
    topic = create("plans", 2)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
        json.dump({"version": 1, "topics": [{"topic": topic}]}, plan)
        plan.flush()
        node = re.search(r"LeaderId:\s+(\d+)", online("MetadataQuorumCommand", "describe", "--status")).group(1)
        out = online("reassign.ReassignPartitionsCommand", "--generate", "--topics-to-move-json-file", plan.name,
                     "--broker-list", node)
    assert_eq(len(re.findall(rf'"topic":"{topic}","partition":\d,"replicas":\[{node}\]', out)), 4, out)
    assert "No partition reassignments found" in online("reassign.ReassignPartitionsCommand", "--list")
    for wanted in ("--under-replicated-partitions", "--unavailable-partitions", "--at-min-isr-partitions"):
        out = online("TopicCommand", "--describe", "--topic", topic, wanted)
        # One replica is all of the in-sync replicas that min.insync.replicas asks for.
        assert_eq(topic in out, wanted == "--at-min-isr-partitions", wanted)
    assert re.search(rf"^{node}\s", online("MetadataQuorumCommand", "describe", "--replication"), re.M)
    elected = online("LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")
    assert "Error" not in elected, elected
    endpoints = tool(TOOLS + "ClusterTool", "list-endpoints", "--bootstrap-server", BOOTSTRAP)
    assert BOOTSTRAP.split(":")[1] in endpoints, endpoints


def dump(path, *arguments):
    """kafka-dump-log of a segment that may still be written: behind its records are zeros, where it ends with an error."""
    return call(TOOLS + "DumpLogSegments", *arguments, "--files", str(path))[1]


@suite.case("kafka-dump-log: a compacted segment, and __transaction_state through its decoder")
def _():
    if not DATA_DIR:
        raise Skip("the broker's data directory is not at hand")
    configs = ("--bootstrap-server", BOOTSTRAP, "--alter", "--broker-defaults")
    if not PEER_IS_KAFKA:
        tool("kafka.admin.ConfigCommand", *configs, "--add-config", "log.cleaner.backoff.ms=100")
    topic = create("compacted", 1, cleanup_policy="compact", segment_bytes=str(SEGMENT_BYTES),
                   min_cleanable_dirty_ratio="0.01", max_compaction_lag_ms="1000")
    with wire.Connection() as connection:
        for i in range(80):
            keys = [b"key-%d" % (n % 7) for n in range(10)]
            values = [noise(f"{i}-{n}", 5000) for n in range(10)]
            connection.produce(topic, 0, wire.batch(values, keys=keys))
    first = Path(DATA_DIR) / f"{topic}-0" / ("0" * 20 + ".log")

    def cleaned():
        out = dump(first, "--deep-iteration")
        count = len(re.findall(r"^\| ?offset: \d+", out, re.M))
        return out if count < 100 else None

    out = eventually(cleaned, "the first segment is compacted")
    batches = re.findall(r"^baseOffset: (\d+) lastOffset: (\d+) count: (\d+).*isvalid: (\w+)", out, re.M)
    assert all(batch[3] == "true" for batch in batches), out[:2000]
    assert "Found an invalid" not in out and "Exception" not in out, out[-2000:]
    if not PEER_IS_KAFKA:
        tool("kafka.admin.ConfigCommand", *configs, "--delete-config", "log.cleaner.backoff.ms")
    # The suite about restarts compares what is left, and expects offsets without gaps.
    online("TopicCommand", "--delete", "--topic", topic)
    online("ProducerPerformance", "--topic", topic + "-t", "--num-records", "50", "--record-size", "10",
           "--throughput", "-1", "--transactional-id", topic, "--transaction-duration-ms", "1000")
    logs = [p for p in Path(DATA_DIR).glob("__transaction_state-*/*.log") if topic.encode() in p.read_bytes()]
    assert_eq(len(logs), 1, "partitions that know the transactional id")

    def completed():
        # The producer is answered before the last state is in the log.
        out = dump(logs[0], "--transaction-log-decoder")
        assert re.search(r'"transactionalId":"%s"' % topic, out) and "Could not" not in out, out[-2000:]
        return '"transactionStatus":4' in out

    eventually(completed, "the transaction is complete")


@suite.case("kafka-producer-perf-test, acks all and acks 1")
def _():
    topic = create("perf", 3)
    for acks in ("all", "1"):
        out = online("ProducerPerformance", "--topic", topic, "--num-records", "50000", "--record-size", "1000",
                     "--throughput", "-1", "--command-property", f"acks={acks}")
        assert "50000 records sent" in out, out
    with wire.Connection() as connection:
        assert_eq(sum(connection.list_offset(topic, p, -1)[2] for p in range(3)), 100_000, "records in the log")


@suite.case("kafka-dump-log reads sealed segments")
def _():
    if not DATA_DIR:
        raise Skip("the broker's data directory is not at hand")
    topic = create("dump", 1, segment_bytes=str(SEGMENT_BYTES))
    end = 0
    with wire.Connection() as connection:
        for i in range(60):
            values = [noise(f"{i}-{n}", 6_000) for n in range(10)] if i % 3 else [b"text " * 4000] * 10
            code, base = connection.produce(topic, 0, wire.batch(values, codec=int(i % 3 == 0)))
            assert_eq((code, base), (0, end), "produce")
            end += len(values)
    directory = Path(DATA_DIR) / f"{topic}-0"
    segments = sorted(directory.glob("*.log"))
    assert len(segments) >= 3, f"{len(segments)} segments in {sorted(directory.iterdir())}"
    assert all(re.fullmatch(r"\d{20}\.log", s.name) for s in segments), segments
    for segment, following in zip(segments, segments[1:]):
        assert segment.stat().st_size <= SEGMENT_BYTES, f"{segment.name} is {segment.stat().st_size} bytes long"
        out = tool(TOOLS + "DumpLogSegments", "--deep-iteration", "--files", str(segment))
        assert f"starting offset: {int(segment.stem)}" in out, out[:500]
        batches = re.findall(r"^baseOffset: (\d+) lastOffset: (\d+) count: (\d+).*isvalid: (\w+)", out, re.M)
        assert batches and all(b[3] == "true" for b in batches), "a batch is not valid"
        offsets = [int(o) for o in re.findall(r"^\|? ?offset: (\d+)", out, re.M)]
        assert_eq(offsets, list(range(int(segment.stem), int(following.stem))), f"offsets of {segment.name}")
        for word in ("Non-consecutive", "Mismatches", "partial", "trailing", "Exception", "corrupt"):
            assert word.lower() not in out.lower(), f"{segment.name}: {word} in {out[-500:]}"


suite.run(lambda: RUNNER.child.kill())
