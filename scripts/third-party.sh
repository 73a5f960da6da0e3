# Shell functions for the suites of scripts/nightly.d that are other people's test suites. Sourced after lib.sh.
#
# Purpose: fetch a pinned release of a suite by a package manager into .tools/third-party, build it there, and say of
# each failure whether it is an explained one. Invariants: nothing of it is ever part of the repository; what is changed
# in a fetched tree is one line each, named here. They must not: name a registry host.

THIRD_PARTY=$TOOLS/third-party
THIRD_PARTY_CLIENTS=$CLIENTS/third-party
# The npm package of Confluent's client carries librdkafka's whole source tree, tests included.
LIBRDKAFKA_NPM=@confluentinc/kafka-javascript
LIBRDKAFKA_NPM_VERSION=1.10.1
# librdkafka and kafka-python are told which version the broker is: the newest whose every API Ringlog serves.
KAFKA_VERSION_SERVED=4.3.0

# explain SUITE: turns the `not ok` lines of stdin that known.tsv explains into `known` lines. For Apache Kafka the
# rows of SUITE-on-kafka count.
explain() {
  local suite=$1
  [ "${PEER:-ringlog}" = ringlog ] || suite=$1-on-$PEER
  awk -F'\t' -v suite="$suite" '
    NR == FNR { if ($1 == suite) why[$2] = $3; next }
    /^not ok - / { for (name in why) if (index($0, name)) { print "known - " suite ": " name ": " why[name]; next } }
    { print; fflush() }' "$THIRD_PARTY_CLIENTS/known.tsv" -
}

# A directory that looks like a Kafka release to a suite that calls its tools: KAFKA_PATH.
ensure_kafka_home() {
  ensure_java
  KAFKA_HOME=$THIRD_PARTY/kafka-home
  mkdir -p "$KAFKA_HOME/bin"
  ln -sfn "$JAVA_LIBS" "$KAFKA_HOME/libs"
  local pair
  for pair in kafka-topics:org.apache.kafka.tools.TopicCommand kafka-configs:kafka.admin.ConfigCommand \
    kafka-acls:org.apache.kafka.tools.AclCommand kafka-run-class:; do
    {
      echo '#!/bin/sh'
      printf 'exec java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC %s -cp "$CLASSPATH:%s/*" %s "$@"\n' \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn "$JAVA_LIBS" "${pair#*:}"
    } >"$KAFKA_HOME/bin/${pair%%:*}.sh"
    chmod +x "$KAFKA_HOME/bin/${pair%%:*}.sh"
  done
}

# Sets LIBRDKAFKA to a built source tree with its test runner.
ensure_librdkafka() {
  LIBRDKAFKA=$THIRD_PARTY/librdkafka-$LIBRDKAFKA_NPM_VERSION
  ensure_kafka_home
  [ ! -e "$LIBRDKAFKA/built" ] || return 0
  ensure_commands npm:npm,nodejs g++:g++ make:make tar:tar
  dpkg -s libssl-dev zlib1g-dev libzstd-dev rapidjson-dev >/dev/null 2>&1 \
    || install_packages libssl-dev zlib1g-dev libzstd-dev rapidjson-dev
  say "librdkafka and its tests into .tools/third-party"
  rm -rf "$LIBRDKAFKA" "$LIBRDKAFKA.pack"
  mkdir -p "$LIBRDKAFKA.pack"
  (
    cd "$LIBRDKAFKA.pack" && npm pack --silent "$LIBRDKAFKA_NPM@$LIBRDKAFKA_NPM_VERSION" >/dev/null \
      && tar xzf ./*.tgz && mv package/deps/librdkafka "$LIBRDKAFKA"
  ) || die "could not fetch librdkafka's source"
  rm -rf "$LIBRDKAFKA.pack"
  (
    cd "$LIBRDKAFKA" || exit
    # One node has no three replicas: the one place where the tests create topics asks for one.
    sed -i 's/rd_kafka_NewTopic_new(topicname, partition_cnt, replication_factor,/rd_kafka_NewTopic_new(topicname, partition_cnt, 1,/' \
      tests/test.c
    ./configure >/dev/null && make -j"$(nproc)" libs && make -C tests -j"$(nproc)" test-runner \
      && make -C tests java KAFKA_PATH="$KAFKA_HOME"
  ) >"$THIRD_PARTY/librdkafka-build.log" 2>&1 || die "librdkafka's tests do not build: .tools/third-party/librdkafka-build.log"
  touch "$LIBRDKAFKA/built"
}

# run_librdkafka SUITE GROUP_PROTOCOL
run_librdkafka() {
  ensure_librdkafka >&2
  echo "about - librdkafka $(sed -n 's/^.*RDKAFKA_VERSION_STR=[[:space:]]*//p' "$LIBRDKAFKA/Makefile.config") with $2 groups, quick mode"
  export TEST_KAFKA_VERSION=$KAFKA_VERSION_SERVED KAFKA_PATH=$KAFKA_HOME GROUP_PROTOCOL=$2
  # shellcheck disable=SC2086  # a list of numbers
  python3 "$THIRD_PARTY_CLIENTS/librdkafka_runner.py" "$LIBRDKAFKA/tests" "$WORK/librdkafka" ${TESTS:-} | explain "$1"
  # 1 says that tests failed, and they have their lines.
  [ "${PIPESTATUS[0]}" -le 1 ]
}
