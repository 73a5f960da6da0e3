"""Runs the tests of librdkafka's own suite that need a broker, each in a process of its own, against BOOTSTRAP.

usage: librdkafka_runner.py TESTS_DIR LOG_DIR [NUMBER...]

TESTS_DIR holds the built `test-runner`. Prints one line a test, as the suites of tests/clients/python do; what a test
printed goes to LOG_DIR. Invariants: a test that hangs or crashes costs only itself; at most JOBS run at a time, because
their time-outs expect a machine that is not overloaded. GROUP_PROTOCOL=consumer runs them with KIP-848 groups.
SECONDS_MAX bounds the whole run: what has not been started by then is left out (exit 3), to be given as NUMBER later.
"""

import concurrent.futures
import glob
import json
import os
import re
import signal
import subprocess
import sys
import time

JOBS = int(os.environ.get("JOBS", "3"))
TEST_SECONDS_MAX = int(os.environ.get("TEST_SECONDS_MAX", "150"))
SECONDS_MAX = int(os.environ.get("SECONDS_MAX", "0")) or None
KAFKA_VERSION = os.environ.get("TEST_KAFKA_VERSION", "4.1.0")
PROTOCOL = os.environ.get("GROUP_PROTOCOL", "classic")
SUITE = "librdkafka" if PROTOCOL == "classic" else "librdkafka-kip848"
# The tests whose parts are run one by one, because the first part that fails ends the whole test: here the admin client.
PARTS = {"0081": ["CreateTopics", "DeleteTopics", "CreatePartitions", "CreateAcls", "DescribeAcls", "DeleteAcls",
                  "AlterConfigs", "IncrementalAlterConfigs", "DescribeConfigs", "DescribeConfigs_groups",
                  "DeleteRecords",
                  "ListConsumerGroups", "DescribeConsumerGroups", "DescribeTopics", "DescribeCluster", "DeleteGroups",
                  "DeleteConsumerGroupOffsets", "ListOffsets", "AlterConsumerGroupOffsets", "ListConsumerGroupOffsets",
                  "UserScramCredentials", "unclean_destroy"]}
# The tests that take minutes as a whole; their parts are found in their sources.
LONG = ["0170", "0172", "0174", "0184"]
# The tests of share groups do nothing at all in quick mode.
NOT_QUICK_SINCE, NOT_QUICK_UNTIL = "0170", "0190"
TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\(B")


def parts_of(tests_dir, number, source):
    """The parts a test is run in: names of functions, or None for the whole of it."""
    if number not in LONG:
        return PARTS.get(number, [None])
    with open(glob.glob(os.path.join(tests_dir, source + ".c*"))[0]) as file:
        functions = re.findall(r"^(?:static )?void\s+(\w+)\([^;{]*\{(.*?)^}", file.read(), re.M | re.S)
    return [name for name, body in functions if "SUB_TEST" in body]


def run(tests_dir, log_dir, number, source, part):
    """Returns [(state, test, why)] and the seconds it took; state is ok, not ok or skip. Local tests give nothing."""
    name = f"{source}.{part}" if part else source
    report = os.path.join(log_dir, name + ".json")
    log = os.path.join(log_dir, name + ".log")
    for stale in (report, log):
        if os.path.exists(stale):
            os.unlink(stale)
    environment = dict(os.environ, TESTS=number, TEST_KAFKA_VERSION=KAFKA_VERSION, TEST_REPORT=report,
                       TEST_CONSUMER_GROUP_PROTOCOL=PROTOCOL, RDKAFKA_TEST_CONF=os.path.join(log_dir, "test.conf"),
                       BROKERS=os.environ["BOOTSTRAP"], LD_LIBRARY_PATH="../src:../src-cpp")
    if part:
        environment["SUBTESTS"] = f"{part}:" if number in LONG else f"do_test_{part}:"
    started = time.monotonic()
    with open(log, "wb") as out:
        mode = [] if NOT_QUICK_SINCE <= number <= NOT_QUICK_UNTIL else ["-Q"]
        process = subprocess.Popen(["./test-runner", "-p1", "-L", "-K", *mode], cwd=tests_dir, env=environment, stdout=out,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            status = process.wait(TEST_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    seconds = time.monotonic() - started
    if status is None:
        return [("not ok", name, f"not done within {TEST_SECONDS_MAX} s")], seconds
    found = outcomes(report, log, number, name)
    if part:
        with open(log, errors="replace") as lines:
            if number in LONG and f" {part}:" not in lines.read() and all(one[0] == "ok" for one in found):
                return [], seconds  # a part of the file's local test, or one that is left out
        found = [(state, f"{test}/{part}", why) for state, test, why in found]
    if status != 0 and not any(state == "not ok" for state, _, _ in found):
        found = [("not ok", name, f"ended with status {status} after the test itself had passed")]
    return found, seconds


def outcomes(report, log, number, name):
    """What the report says of the tests of this number: one source file may hold several."""
    with open(log, errors="replace") as lines:
        text = TERMINAL_COLOURS.sub("", lines.read())
    try:
        with open(report) as file:
            tests = json.load(file)["tests"]
    except (OSError, ValueError):
        return [("not ok", name, "crashed: " + first(text, r"[^\n]*(?:[Aa]ssert|failed)[^\n]*", "no report"))]
    found = []
    for test, result in tests.items():
        if not test.startswith(number + "_"):
            continue
        if result["state"] == "PASSED":
            found.append(("ok", test, ""))
        elif result["state"] in ("FAILED", "RUNNING"):
            why = first(text, r"### Test \"[^\n]*###\n([^\n]*)", "") or first(text, r"[^\n]*TEST FAILURE[^\n]*", "?")
            found.append(("not ok", test, why))
        else:
            why = first(text, r"\[" + re.escape(test) + r" *\/[^\]]*\][^\n]*SKIPPING TEST: ([^\n]*)", "")
            if "negative test flags" not in why:  # what is no local test, that is
                found.append(("skip", test, why or "left out by this mode"))
    return found


def first(text, pattern, otherwise):
    found = re.search(pattern, text)
    return " ".join(found.group(found.lastindex or 0).split())[:300] if found else otherwise


def main():
    tests_dir, log_dir, numbers = sys.argv[1], os.path.abspath(sys.argv[2]), sys.argv[3:]
    os.makedirs(log_dir, exist_ok=True)
    with open(os.path.join(log_dir, "test.conf"), "w") as conf:
        # The multiplier is what librdkafka's own harness sets.
        conf.write(f"bootstrap.servers={os.environ['BOOTSTRAP']}\ntest.timeout.multiplier=2\n"
                   "test.topic.random=true\n")
    sources = sorted(glob.glob(os.path.join(tests_dir, "0[0-9][0-9][0-9]-*.c*")))
    sources = [os.path.splitext(os.path.basename(s))[0] for s in sources if s.endswith((".c", ".cpp"))]
    names = {source[:4]: source for source in sources if not numbers or source[:4] in numbers}
    deadline = time.monotonic() + SECONDS_MAX if SECONDS_MAX else None
    left, failed = [], 0

    def guarded(number, part):
        if deadline and time.monotonic() > deadline:
            return None
        return run(tests_dir, log_dir, number, names[number], part)

    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        parts = [(number, part) for number in names for part in parts_of(tests_dir, number, names[number])]
        done = {pool.submit(guarded, number, part): number for number, part in parts}
        for future in concurrent.futures.as_completed(done):
            number, result = done[future], future.result()
            if result is None:
                left.append(number)
                continue
            found, seconds = result
            for state, name, why in found:
                failed += state == "not ok"
                print(f"{state} - {SUITE}: {name} ({seconds:.1f} s){': ' + why if why else ''}", flush=True)
    if left:
        print("left: " + " ".join(sorted(set(left))), file=sys.stderr)
        sys.exit(3)
    sys.exit(1 if failed else 0)


main()
