"""What the measuring scripts share: brokers by process id, the harness, medians, results.

Owner: the script that imports it. Invariants: only processes started here are ever signalled; data lies below
data/ in the checkout and is removed at the end; commands use paths relative to the checkout, so that what a manifest
records holds on any machine. It must not interpret a figure.
"""
import atexit
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.chdir(ROOT)
BINARY = os.environ.get("RINGLOG_BINARY", "target/release/ringlog")
BENCH = os.environ.get("RINGLOG_BENCH", "target/release/ringlog-bench")
CORES = os.cpu_count() or 1
CLIENT_CPU, SERVER_CPU = 0, CORES - 1
DATA = os.path.join("data", "lab-%d" % os.getpid())
READY_SECONDS_MAX = 120
STOP_SECONDS_MAX = 30

_running = []


def say(text):
    print("== " + text, file=sys.stderr, flush=True)


def shell(functions):
    """Runs functions of scripts/lib.sh."""
    subprocess.run(["bash", "-c", ". scripts/lib.sh && " + functions], check=True)


def build():
    if "RINGLOG_BINARY" not in os.environ:
        shell("ensure_build_tools && cargo build --release --workspace --quiet")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    with open("/proc/%d/status" % pid) as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _limits():
    import resource
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK):
        try:
            hard = resource.getrlimit(which)[1]
            if os.geteuid() == 0 and which == resource.RLIMIT_MEMLOCK:
                hard = resource.RLIM_INFINITY
            resource.setrlimit(which, (hard, hard))
        except (ValueError, OSError):
            pass


class Broker:
    """A Ringlog of its own; `admin` is its admin address when it has one."""

    def __init__(self, name="ringlog", cores=None, overrides=(), memory=None, data=None, binary=None):
        self.data = data or os.path.join(DATA, name)
        self.log = self.data + ".log"
        self.port = free_port()
        os.makedirs(self.data, exist_ok=True)
        cores = cores or "%d-%d" % (SERVER_CPU, SERVER_CPU)
        self.command = [binary or BINARY, "serve", "--data-dir", self.data, "--listen",
                        "127.0.0.1:%d" % self.port, "--cores", cores]
        if memory:
            self.command += ["--memory", memory]
        pairs = ["log.retention.check.interval.ms=1000"] + list(overrides)
        for pair in pairs:
            self.command += ["--override", pair]
        self.start()

    @property
    def bootstrap(self):
        return "127.0.0.1:%d" % self.port

    def start(self):
        began = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, preexec_fn=_limits)
        _running.append(self)
        self.pid = self.process.pid
        while True:
            with open(self.log) as log:
                text = log.read()
            if " ready on " in text:
                break
            if self.process.poll() is not None or time.monotonic() - began > READY_SECONDS_MAX:
                raise SystemExit("the broker does not start: %s\n%s" % (" ".join(self.command), text[-2000:]))
            time.sleep(0.005)
        self.ready_seconds = time.monotonic() - began
        self.admin = text.split("admin http://")[1].split(")")[0].split(",")[0] if "admin http://" in text else None

    def stop(self, hard=False):
        if self in _running:
            _running.remove(self)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def metrics(self):
        """Sums over cores of the admin endpoint's metrics, by name and by name{labels without core}."""
        import urllib.request
        totals = {}
        with urllib.request.urlopen("http://%s/metrics" % self.admin, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("#") or " " not in line:
                    continue
                name, value = line.rsplit(" ", 1)
                base, _, labels = name.partition("{")
                rest = ",".join(part for part in labels.rstrip("}").split(",") if part and not part.startswith("core="))
                for key in {base, base + "{" + rest + "}" if rest else base}:
                    totals[key] = totals.get(key, 0.0) + float(value)
        return totals

    def remove(self):
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)


class Kafka:
    """Apache Kafka by scripts/peer-kafka."""

    def __init__(self, flush, heap="2g"):
        self.port = free_port()
        self.data = os.path.join(DATA, "kafka")
        os.makedirs(self.data, exist_ok=True)
        command = ["scripts/peer-kafka", "start", "--port", str(self.port), "--data-dir", self.data, "--heap", heap]
        subprocess.run(command + (["--flush-every-batch"] if flush else []), check=True, stdout=subprocess.DEVNULL)
        _running.append(self)
        out = subprocess.run(["scripts/peer-kafka", "pid"], check=True, capture_output=True, text=True)
        self.pid = int(out.stdout)

    @property
    def bootstrap(self):
        return "127.0.0.1:%d" % self.port

    def stop(self):
        if self in _running:
            _running.remove(self)
            subprocess.run(["scripts/peer-kafka", "stop"], check=False, stdout=subprocess.DEVNULL)

    def remove(self):
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)


def stop_all():
    """Stops what runs and removes what it wrote; results of the harness stay."""
    for one in list(_running):
        one.remove()


@atexit.register
def _clean():
    for one in list(_running):
        one.stop()
    shutil.rmtree(DATA, ignore_errors=True)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
_commands = []


def take_commands():
    """The harness commands since the last call, each once, addresses and process ids left out."""
    taken = list(dict.fromkeys(_commands))
    _commands.clear()
    return taken


def bench(*arguments, quiet=True, note=True, background=False):
    """Runs the harness; its summary.json."""
    arguments = [str(argument) for argument in arguments]
    out = os.path.join(DATA, "out-%d" % time.monotonic_ns())
    os.makedirs(out, exist_ok=True)
    command = [BENCH] + arguments + ["--out", out]
    if note:
        shown = []
        skip = False
        for argument in ["ringlog-bench"] + arguments:
            if skip or argument in ("--bootstrap", "--server-pid"):
                skip = not skip
                continue
            shown.append(argument)
        _commands.append(" ".join(shown))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None,
                               stderr=subprocess.PIPE, text=True)

    def finish():
        error = process.communicate()[1]
        if process.returncode != 0:
            raise RuntimeError("%s: %s" % (" ".join(command), error.strip()[-600:]))
        with open(os.path.join(out, "summary.json")) as file:
            summary = json.load(file)
        bench.last_out = out
        return summary[0] if isinstance(summary, list) and len(summary) == 1 else summary

    return finish if background else finish()


bench.last_out = None
WARM = ("--warmup", 1.5)


def load(broker, command, *arguments, seconds=2.5, cpu=CLIENT_CPU):
    """A harness command on a broker with the client's core."""
    return bench(command, "--bootstrap", broker.bootstrap, "--server-pid", broker.pid, "--cpus", cpu,
                 "--duration", seconds, *arguments)


def roofline(only, connections=4, request_bytes=1 << 20, sync=False, in_flight=5, seconds=1.0):
    return bench("roofline", "--dir", DATA, "--probe-file-bytes", 1 << 30, "--probe-seconds", seconds, "--cpus-client",
                 CLIENT_CPU, "--cpus-server", SERVER_CPU, "--connections", connections, "--in-flight", in_flight,
                 "--request-bytes", request_bytes, "--only", only, *(["--sink-sync"] if sync else []))


def gb_in(phase):
    return phase["produced"]["gb_per_s"] if phase["produced"] else 0.0


def gb_out(phase):
    return phase["consumed"]["gb_per_s"] if phase["consumed"] else 0.0


def p99(phase, kind):
    return phase["latency"][kind]["p99_ns"]


def median(values):
    return statistics.median(values)


def short_ns(value):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if value >= size:
            return "%.3g %s" % (value / size, unit)
    return "%d ns" % value


def git_commit():
    out = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return out.stdout.strip()
