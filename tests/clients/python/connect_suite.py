"""Kafka Connect with its file connectors: lines travel from a file through a topic into another file.

CONNECT_LIBS names the directory of its jars. Workers are killed with SIGKILL while lines arrive and started again:
CONNECT_KILLS times (1), CONNECT_LINES lines before and after each kill (2000).
"""

import json
import os
import re
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import wire
from confluent_kafka.admin import AdminClient, ConfigResource
from jvm import Process, end_all, java, read_topic, soon
from suite import BOOTSTRAP, Suite, assert_eq, eventually, topic_name

suite = Suite("connect")
KILLS = int(os.environ.get("CONNECT_KILLS", "1"))
LINES = int(os.environ.get("CONNECT_LINES", "2000"))
LIBS = [os.environ["CONNECT_LIBS"]]
FOLDER = tempfile.TemporaryDirectory(prefix="connect-")
LINE = re.compile(rb"line-\d{7}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def properties(path, values):
    Path(path).write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return path


def worker(**more):
    """What both modes share: strings as they are, offsets stored often, the rest as Kafka's samples have it."""
    return {"bootstrap.servers": BOOTSTRAP, "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter", "offset.flush.interval.ms": 300,
            "plugin.discovery": "service_load", **{k.replace("_", "."): v for k, v in more.items()}}


def source(topic, path, **more):
    # When a batch is full the connector keeps the lines it has already read, and looks at them again only when the file
    # has grown: the last lines of a file would stay away for ever. No batch here is ever full.
    return {"connector.class": "FileStreamSource", "tasks.max": 1, "file": path, "topic": topic, "batch.size": 1 << 30,
            **more}


def sink(topic, path):
    # A killed member must not hold its partition longer than the coordinator allows at least.
    return {"connector.class": "FileStreamSink", "tasks.max": 1, "file": path, "topics": topic,
            "consumer.override.session.timeout.ms": 6000, "consumer.override.heartbeat.interval.ms": 500,
            "consumer.override.metadata.max.age.ms": 1000}


class Feed:
    """The file that is read, growing."""

    def __init__(self, path):
        self.path, self.count = Path(path), 0
        self.path.touch()

    def grow(self, lines=None):
        lines = lines or LINES
        with open(self.path, "a") as file:
            file.write("".join(f"line-{i:07d}\n" for i in range(self.count, self.count + lines)))
        self.count += lines

    def all(self):
        return [b"line-%07d" % i for i in range(self.count)]


def arrived(path):
    """The lines of the sink's file. A kill may leave a torn line there, which the next one then continues."""
    return set(LINE.findall(path.read_bytes())) if path.exists() else set()


def kill_and_restart(start, feed, topic, out):
    """Grows the file, kills the worker while it works and starts it again, KILLS times; then all must arrive."""
    process = start()
    for _ in range(KILLS):
        feed.grow()
        soon(lambda: len(arrived(out)) > feed.count - LINES, "the first lines of a part", process)
        feed.grow()
        time.sleep(0.2)
        process.kill()
        feed.grow()
        process = start()
    feed.grow()
    try:
        soon(lambda: len(arrived(out)) == feed.count, f"{feed.count} lines in the sink's file", process)
    except AssertionError as error:
        missing, there = sorted(set(feed.all()) - arrived(out)), {value for _, _, _, value in read_topic(topic)}
        raise AssertionError(f"{len(missing)} lines, {missing[:1]} to {missing[-1:]}, are missing in the sink, of those "
                             f"{len(set(missing) - there)} in the topic: {error}") from error
    assert_eq(arrived(out), set(feed.all()), "lines in the sink's file")
    return process


def create(label):
    name = topic_name("connect-" + label)
    with wire.Connection() as connection:
        assert_eq(connection.create_topic(name, 1), 0)
        connection.settle(name, 1)
    return name


@suite.case("standalone: a file through a topic into a file, the worker killed and started again")
def _():
    folder, topic = Path(FOLDER.name), create("standalone")
    feed, out = Feed(folder / "standalone.in"), folder / "standalone.out"
    config = properties(folder / "standalone.properties", worker(
        offset_storage_file_filename=folder / "standalone.offsets", listeners=f"HTTP://127.0.0.1:{free_port()}"))
    connectors = [properties(folder / f"{name}.properties", {"name": f"{topic}-{name}", **what}) for name, what in
                  (("source", source(topic, feed.path)), ("sink", sink(topic, out)))]

    def start():
        command = java(LIBS, "org.apache.kafka.connect.cli.ConnectStandalone", config, *connectors)
        return Process("standalone", command, folder)

    process = kill_and_restart(start, feed, topic, out)
    process.stop()
    # The source promises at least once: what was sent and not yet noted in its file of offsets comes twice.
    values = [value for _, _, _, value in read_topic(topic)]
    assert_eq(list(dict.fromkeys(values)), feed.all(), "lines in the topic, each where it came first")


class Rest:
    """The worker's REST interface."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method, headers={"Content-Type": "application/json"},
                                         data=None if body is None else json.dumps(body, default=str).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def soon(self, method, path, body=None, process=None):
        """A worker that has just started or is rebalancing answers 404, 409 or 503, or not at all."""

        def attempt():
            try:
                return (self.call(method, path, body),)
            except urllib.error.HTTPError as error:
                if error.code in (404, 409, 500, 503):
                    return None
                raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]}") from error
            except OSError:
                return None

        return soon(attempt, f"{method} {path}", process)[0]


def distributed(label, exactly_once):
    folder, topic = Path(FOLDER.name), create(label)
    feed, out, port = Feed(folder / f"{label}.in"), folder / f"{label}.out", free_port()
    internal = {kind: f"{topic}-{kind}" for kind in ("config", "offset", "status")}
    config = properties(folder / f"{label}.properties", worker(
        group_id=topic, listeners=f"HTTP://127.0.0.1:{port}",
        **{f"{kind}.storage.topic": name for kind, name in internal.items()},
        **{f"{kind}.storage.replication.factor": 1 for kind in internal},
        offset_storage_partitions=5, status_storage_partitions=2, session_timeout_ms=6000, heartbeat_interval_ms=1000,
        scheduled_rebalance_max_delay_ms=0, exactly_once_source_support="enabled" if exactly_once else "disabled"))
    rest, process = Rest(port), None

    def start():
        nonlocal process
        first = process is None
        process = Process(label, java(LIBS, "org.apache.kafka.connect.cli.ConnectDistributed", config), folder)
        if first:
            more = {"exactly.once.support": "required", "transaction.boundary": "poll"} if exactly_once else {}
            for name, what in (("source", source(topic, feed.path, **more)), ("sink", sink(topic, out))):
                rest.soon("PUT", f"/connectors/{name}/config", what, process)
        return process

    process = kill_and_restart(start, feed, topic, out)
    values = [value for _, _, _, value in read_topic(topic)]
    if exactly_once:
        assert_eq(values, feed.all(), "committed lines in the topic")
    else:
        assert_eq(list(dict.fromkeys(values)), feed.all(), "lines in the topic, each where it came first")
    for name in ("source", "sink"):
        status = rest.soon("GET", f"/connectors/{name}/status", process=process)
        assert_eq([t["state"] for t in status["tasks"]], ["RUNNING"], f"{name}: {status}")
    # Offsets through the REST interface: both kinds of connector, the source's from its topic, the sink's as a group.
    eventually(lambda: rest.call("GET", "/connectors/source/offsets")["offsets"][0]["offset"]["position"]
               == feed.path.stat().st_size, "the source's position")
    eventually(lambda: rest.call("GET", "/connectors/sink/offsets")["offsets"][0]["offset"]["kafka_offset"]
               >= len(values), "the sink's offset")
    rest.soon("DELETE", "/connectors/sink", process=process)
    rest.soon("DELETE", "/connectors/source", process=process)
    process.stop()
    policies = compact_policies(internal.values())
    assert_eq(policies, {name: "compact" for name in internal.values()}, "cleanup.policy of Connect's topics")


def compact_policies(topics):
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    wanted = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics])
    return {resource.name: future.result()["cleanup.policy"].value for resource, future in wanted.items()}


@suite.case("distributed: connectors by REST, internal topics compacted, the worker killed and started again")
def _():
    distributed("distributed", exactly_once=False)


@suite.case("distributed with exactly.once.source.support: each line exactly once, the worker killed and started again")
def _():
    distributed("exactly-once", exactly_once=True)


suite.run(end_all, FOLDER.cleanup)
