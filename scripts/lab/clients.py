"""The users' clients as loads: librdkafka (rdkafka_load.c) and Java (Apache's own perf-test classes).

Owner: scripts/limits, row 11. Invariants: the same client binary and settings against every endpoint; the client's
processor time is its own process's, the broker's that of its process id, both over the same time.
It must not leave topics behind that a later case would meet: every case has a topic of its own.
"""
import json
import os
import re
import subprocess
import sys
import time

from common import CLIENT_CPU, cpu_seconds, shell

TOOL = ".tools/bin/rdkafka_load"
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]
PARTITIONS = 4
SECONDS_MAX = 120


def prepare():
    shell("ensure_java && ensure_commands cc:gcc,libc6-dev pkg-config:pkg-config")
    if not os.path.exists(TOOL) or os.path.getmtime(TOOL) < os.path.getmtime("scripts/lab/rdkafka_load.c"):
        shell("{ pkg-config --exists rdkafka || install_packages librdkafka-dev; } && mkdir -p .tools/bin && "
              "cc -O2 -Wall -o %s scripts/lab/rdkafka_load.c -lrdkafka" % TOOL)


def _run(command):
    """Output, wall seconds and processor seconds of a child."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError("%s: %s" % (" ".join(command[:6]), output.strip()[-400:]))
    return output, time.monotonic() - began, usage.ru_utime + usage.ru_stime


def _pinned(command):
    return ["timeout", str(SECONDS_MAX), "taskset", "-c", str(CLIENT_CPU)] + command


def _java(class_name, arguments):
    libs = ".tools/java/libs/*"
    return _pinned(["java", "-Xmx1g", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", libs,
                    class_name] + arguments)


class Case:
    def __init__(self, client, way, size, compression, records):
        self.client, self.way, self.size, self.compression, self.records = client, way, size, compression, records
        self.topic = "%s-%s-%d-%s" % (client, way, size, compression)
        self.name = "%s %s, %d B, %s" % ({"rdkafka": "librdkafka", "java": "Java"}[client], way, size, compression)

    def _produce_command(self, broker, topic, records):
        if self.client == "rdkafka" or self.way == "consume":
            return _pinned([TOOL, "produce", broker.bootstrap, topic, str(records), str(self.size), self.compression])
        properties = ["bootstrap.servers=" + broker.bootstrap, "acks=all", "compression.type=" + self.compression,
                      "linger.ms=5", "batch.size=131072", "buffer.memory=134217728"]
        return _java("org.apache.kafka.tools.ProducerPerformance",
                     ["--topic", topic, "--num-records", str(records), "--record-size", str(self.size), "--throughput",
                      "-1", "--producer-props"] + properties)

    def _consume_command(self, broker, topic):
        if self.client == "rdkafka":
            return _pinned([TOOL, "consume", broker.bootstrap, topic, str(self.records)])
        return _java("org.apache.kafka.tools.ConsumerPerformance",
                     ["--bootstrap-server", broker.bootstrap, "--topic", topic, "--num-records", str(self.records),
                      "--timeout", "20000"])

    def run(self, broker, topic):
        subprocess.run(_java("org.apache.kafka.tools.TopicCommand",
                             ["--bootstrap-server", broker.bootstrap, "--create", "--topic", topic, "--partitions",
                              str(PARTITIONS)]), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.way == "consume":
            _run(self._produce_command(broker, topic, self.records))
            command = self._consume_command(broker, topic)
        else:
            command = self._produce_command(broker, topic, self.records)
        before = cpu_seconds(broker.pid)
        output, wall, cpu = _run(command)
        used = cpu_seconds(broker.pid) - before
        rate = self._rate(output, wall)
        return {"records_per_s": rate, "mb_per_s": rate * self.size / 1e6, "client_cores": cpu / wall,
                "broker_cores": used / wall, "broker_cpu_s_per_million": used * 1e6 / self.records}

    def _rate(self, output, wall):
        """The client's own figure, which leaves its start out."""
        if self.client == "rdkafka":
            figures = json.loads(output.strip().splitlines()[-1])
            return figures["records"] / figures["seconds"]
        if self.way == "produce":
            return float(re.findall(r"([0-9.]+) records/sec", output)[-1])
        # start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms,
        # fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec
        fields = [line.split(", ") for line in output.splitlines() if line.count(", ") >= 9 and line[0].isdigit()][-1]
        return float(fields[9])


def cases(quick):
    found = []
    for client, factor in (("rdkafka", 2.0), ("java", 1.0)):
        for size, records in ((100, 1_500_000), (1024, 400_000)):
            for compression in COMPRESSIONS:
                slow = 0.3 if compression == "gzip" else 1.0
                count = int(records * factor * slow)
                if quick and compression not in ("none", "lz4" if size == 1024 else "none"):
                    continue
                found.append(Case(client, "produce", size, compression, count))
                if not quick or compression == "none":
                    found.append(Case(client, "consume", size, compression, count))
    return found


if __name__ == "__main__":
    sys.exit("a part of scripts/limits")
