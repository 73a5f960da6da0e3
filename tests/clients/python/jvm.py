"""What the suites of JVM frameworks share: processes that are killed and started again, and reading a topic whole.

Invariant: every process started here is ended by its id when the suite ends. It must not: know any framework.
"""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from suite import BOOTSTRAP, WAIT_SECONDS_MAX

# Frameworks start slowly on a busy machine with two cores; only a failing case waits this long.
FRAMEWORK_SECONDS_MAX = 2 * WAIT_SECONDS_MAX
_running = []


def die_with_parent():
    """A suite that is ended by force takes its processes along (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """A child with its log in a file. `wait_log` looks for a text; `kill` is SIGKILL."""

    def __init__(self, label, command, folder, **environment):
        self.label, self.log = label, Path(folder) / f"{label}.log"
        self.file = open(self.log, "ab")
        self.child = subprocess.Popen(command, stdout=self.file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                      env={**os.environ, **environment}, start_new_session=True,
                                      preexec_fn=die_with_parent)
        _running.append(self)

    def alive(self):
        return self.child.poll() is None

    def check(self):
        """Fails, with the end of its log, when the process is gone."""
        assert self.alive(), f"{self.label} ended with {self.child.returncode}: {self.tail()}"

    def tail(self, characters=3000):
        return self.log.read_text(errors="replace")[-characters:]

    def kill(self):
        """SIGKILL to it and to what it started, such as the JVM below PySpark."""
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def wait(self):
        """Waits for its own end; fails unless it ended well."""
        soon(lambda: not self.alive(), f"the end of {self.label}. {self.tail()}")
        code = self.child.wait()
        assert code == 0, f"{self.label} ended with {code}: {self.tail()}"

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(WAIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()


def end_all():
    """Kills what still runs: to be given to Suite.run, which leaves without running exit handlers."""
    for process in _running:
        if process.alive():
            process.kill()


def java(libs, main, *arguments, heap="384m", options=()):
    """The command line of a JVM that starts fast and stays small."""
    classpath = ":".join(f"{one}/*" if Path(one).name == "libs" else str(one) for one in libs)
    return ["java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *options, "-cp", classpath, main, *map(str, arguments)]


def soon(check, what, *processes):
    """Polls `check` until it is true, as long as the processes live; returns its result."""
    deadline = time.monotonic() + FRAMEWORK_SECONDS_MAX
    while True:
        for process in processes:
            process.check()
        result = check()
        if result:
            return result
        logs = " ".join(p.tail(1500) for p in processes)
        assert time.monotonic() < deadline, f"not in time: {what}. {logs}"
        time.sleep(0.1)


def read_topic(topic, partitions=1, committed=True, bootstrap=BOOTSTRAP, what=None):
    """All records that are there now, in order of offset within a partition: what `what` makes of each message, else
    (partition, offset, key, value)."""
    what = what or (lambda m: (m.partition(), m.offset(), m.key(), m.value()))
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False,
                         "isolation.level": "read_committed" if committed else "read_uncommitted",
                         "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    found, open_partitions = [], set(range(partitions))
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while open_partitions:
        assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
        for message in consumer.consume(1000, 0.2):
            error = message.error()
            if error is None:
                found.append(what(message))
            elif error.name() == "_PARTITION_EOF":
                open_partitions.discard(message.partition())
            else:
                raise AssertionError(f"{topic}: {error}")
    consumer.close()
    return found
