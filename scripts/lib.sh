# Shell functions shared by the scripts beside this file. Sourced, never run.
#
# Purpose: find or install what a step needs, start and stop a broker by its process id, count results.
# Invariants: nothing is installed that is already there; downloads go below .tools/ in the checkout or into the
# package managers' own user caches; only processes started here are ever signalled, each by its id.
# It must not: name a registry host, use a fixed port, or leave a broker behind when the caller exits.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/.tools
CLIENTS=$ROOT/tests/clients
JAVA_LIBS=$TOOLS/java/libs
# Seconds a broker may take from its start to its first answer: Kafka on a busy 2-core machine needs most of it.
BROKER_START_SECONDS_MAX=90
# Seconds a broker may take to stop after SIGTERM before it is killed.
BROKER_STOP_SECONDS_MAX=30

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "error: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else die "need root (or sudo) to run: $*"
  fi
}

# ensure_commands COMMAND:PACKAGE[,PACKAGE...] ...: one apt run for all commands that are missing.
ensure_commands() {
  local pair missing=()
  for pair in "$@"; do
    have "${pair%%:*}" || missing+=($(tr ',' ' ' <<<"${pair#*:}"))
  done
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

install_packages() {
  have apt-get || die "these packages are missing, and this is no Debian-like machine: $*"
  say "installing Debian packages: $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq \
    || say "apt-get update failed; going on with the package lists that are here"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null \
    || die "apt-get install failed for: $*"
}

# Rust comes from rustup (rust-toolchain.toml picks the version); a C compiler is needed to link and for io_uring's and
# the allocator's C parts.
ensure_rust() {
  if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
  have cargo || die "no Rust toolchain found. Install rustup (newer Debian releases have it as a package),
       open a new shell, and run this again; the version in rust-toolchain.toml is then fetched by itself."
  local want got
  want=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml")
  got=$(cd "$ROOT" && cargo --version 2>&1 | awk '{print $2}')
  [ "$(printf '%s\n' "$want" "$got" | sort -V | head -n1)" = "$want" ] \
    || die "Rust $want or newer is needed, 'cargo --version' says '$got'. With rustup: rustup toolchain install $want"
}

ensure_build_tools() {
  ensure_rust
  ensure_commands cc:gcc,libc6-dev make:make
  [ -e /usr/include/stdio.h ] || install_packages libc6-dev
}

# stamp_current NAME FILE...: true when .tools/NAME.stamp was written by stamp_write for the same file contents.
stamp_current() { local n=$1; shift; [ -f "$TOOLS/$n.stamp" ] && [ "$(cat "$@" | sha256sum)" = "$(cat "$TOOLS/$n.stamp")" ]; }
stamp_write() { local n=$1; shift; mkdir -p "$TOOLS"; cat "$@" | sha256sum >"$TOOLS/$n.stamp"; }

# ensure_venv NAME REQUIREMENTS: a virtual environment in .tools/NAME.
ensure_venv() {
  ensure_commands python3:python3
  if stamp_current "$1" "$2" && "$TOOLS/$1/bin/python" -c '' 2>/dev/null; then return; fi
  # Debian splits ensurepip off into python3-venv.
  python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
  say "python packages into .tools/$1"
  rm -rf "${TOOLS:?}/$1"
  mkdir -p "$TOOLS"
  python3 -m venv "$TOOLS/$1" || die "python3 -m venv failed"
  "$TOOLS/$1/bin/pip" install -q --disable-pip-version-check -r "$2" || die "pip install failed"
  stamp_write "$1" "$2"
}

ensure_python() { ensure_venv venv "$CLIENTS/python/requirements.txt"; }

java_major() { java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n1; }

ensure_jdk() {
  # Debian's name for the current JDK differs by release; 'default-jdk-headless' is 17 or newer since Debian 12.
  if ! have javac || [ "$(java_major)" -lt 17 ]; then install_packages default-jdk-headless; fi
  [ "$(java_major)" -ge 17 ] || die "Java 17 or newer is needed, 'java -version' says $(java_major)"
}

# ensure_jars NAME POM: what the pom names, with all it depends on, in .tools/NAME/libs.
ensure_jars() {
  ensure_jdk
  if stamp_current "$1" "$2" && [ -d "$TOOLS/$1/libs" ]; then return; fi
  ensure_commands mvn:maven
  say "java libraries into .tools/$1/libs"
  rm -rf "$TOOLS/$1/libs"
  mvn -B -q -f "$2" dependency:copy-dependencies -DoutputDirectory="$TOOLS/$1/libs" || die "mvn failed"
  stamp_write "$1" "$2"
}

# The jars of kafka-clients, Apache's tools and the Kafka broker.
ensure_java() { ensure_jars java "$CLIENTS/java/pom.xml"; }

# run_java CLASS ARGS...: runs one of Apache's tools or the suite's classes. JAVA_HEAP and JAVA_LOG_LEVEL tune it.
run_java() {
  java -Xmx"${JAVA_HEAP:-512m}" -XX:TieredStopAtLevel="${JAVA_TIER:-1}" -XX:+UseSerialGC \
    -Dorg.slf4j.simpleLogger.defaultLogLevel="${JAVA_LOG_LEVEL:-warn}" \
    -cp "$TOOLS/java/classes:$JAVA_LIBS/*" "$@"
}

# Sets GO to a go command that is new enough for go.mod. Debian's own is often older than the clients ask for, and
# before 1.21 a go command cannot switch by itself: the toolchain module is then fetched through the module proxy.
ensure_go() {
  local want have_version
  want=$(awk '$1=="go"{print $2}' "$CLIENTS/go/go.mod")
  GO=$TOOLS/go/bin/go
  # GOFLAGS of the caller's environment must not decide how the suites are built.
  export GOFLAGS=-mod=mod GOTOOLCHAIN=local
  if have go && go_is_at_least "$(command -v go)" "$want"; then GO=$(command -v go); return; fi
  if [ -x "$GO" ] && go_is_at_least "$GO" "$want"; then return; fi
  have go || install_packages golang-go
  if go_is_at_least "$(command -v go)" "$want"; then GO=$(command -v go); return; fi
  say "go $want as a toolchain module into .tools/go"
  local arch module dir
  case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) die "no go toolchain for $(uname -m)" ;; esac
  module=golang.org/toolchain@v0.0.1-go$want.linux-$arch
  dir=$(cd "$TOOLS" && GOFLAGS= go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
  [ -d "$dir" ] || die "could not fetch $module"
  rm -rf "$TOOLS/go"
  cp -r "$dir" "$TOOLS/go"
  chmod -R u+w "$TOOLS/go"
  # The module format drops execute bits and renames nested go.mod files; a go command of 1.21 or newer undoes both.
  chmod +x "$TOOLS"/go/bin/* "$TOOLS"/go/pkg/tool/*/* 2>/dev/null
  find "$TOOLS/go" -name _go.mod -execdir mv _go.mod go.mod \;
  go_is_at_least "$GO" "$want" || die "the fetched go toolchain does not run"
}

go_is_at_least() {
  local got
  got=$(cd / && GOTOOLCHAIN=local "$1" version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p')
  [ -n "$got" ] && [ "$(printf '%s\n' "$2" "$got" | sort -V | head -n1)" = "$2" ]
}

ensure_node() {
  ensure_commands node:nodejs npm:npm
  local lock=$CLIENTS/node/package-lock.json
  if stamp_current node "$lock" && [ -d "$CLIENTS/node/node_modules" ]; then return; fi
  say "node packages into tests/clients/node/node_modules"
  (cd "$CLIENTS/node" && npm ci --silent --no-audit --no-fund) || die "npm ci failed"
  stamp_write node "$lock"
}

free_port() {
  "${PYTHON:-python3}" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_process LOG COMMAND...: runs it in its own session, so that a Ctrl-C in the terminal reaches only the script,
# which then asks for one graceful stop. Sets STARTED_PID.
start_process() {
  local log=$1; shift
  # Emptied here, not by the process to be: whoever waits must not take an earlier process's last words for its first.
  : >"$log"
  # It may outlive the script: what the caller holds open, a lock above all, is not for it.
  (
    for fd in /proc/"$BASHPID"/fd/*; do
      [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"
    done
    exec setsid "$@"
  ) >"$log" 2>&1 </dev/null &
  STARTED_PID=$!
}

# wait_ready PID LOG PATTERN: returns when PATTERN is in the log; fails when the process ends or time runs out.
wait_ready() {
  local pid=$1 log=$2 pattern=$3 deadline=$((SECONDS + BROKER_START_SECONDS_MAX))
  until grep -q -- "$pattern" "$log" 2>/dev/null; do
    if ! kill -0 "$pid" 2>/dev/null; then tail -n 30 "$log" >&2; say "the broker ended while starting"; return 1; fi
    if [ $SECONDS -ge $deadline ]; then tail -n 30 "$log" >&2; say "the broker is not ready in time"; return 1; fi
    sleep 0.1
  done
}

# stop_process PID: SIGTERM once, then waits; SIGKILL only after BROKER_STOP_SECONDS_MAX. Fails if it had to kill.
stop_process() {
  local pid=$1 deadline=$((SECONDS + BROKER_STOP_SECONDS_MAX))
  kill -TERM "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do
    if [ $SECONDS -ge $deadline ]; then
      say "process $pid did not stop in $BROKER_STOP_SECONDS_MAX s: killing it"
      kill -KILL "$pid" 2>/dev/null
      return 1
    fi
    sleep 0.1
  done
}

# start_ringlog BINARY DATA_DIR HOST:PORT LOG [ARGS...]: sets STARTED_PID, returns when it serves.
start_ringlog() {
  local binary=$1 data_dir=$2 listen=$3 log=$4; shift 4
  mkdir -p "$data_dir" "$(dirname "$log")"
  # io_uring buffers count as locked memory; where the hard limit is too low the broker's preflight says what to do.
  ulimit -l unlimited 2>/dev/null || true
  ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
  start_process "$log" "$binary" serve --data-dir "$data_dir" --listen "$listen" "$@"
  wait_ready "$STARTED_PID" "$log" ready || { stop_process "$STARTED_PID"; return 1; }
}

# pinned POM ARTIFACT: the version a pom names for it.
pinned() { grep -A1 "<artifactId>$2<" "$1" | sed -n 's/.*<version>\(.*\)<.*/\1/p'; }
