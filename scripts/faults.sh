# Shell functions for the scripts that run tests of faults for longer than CI does. Sourced, never run.
#
# Purpose: run one test binary of this repository with its knobs set, print a case line for scripts/nightly, keep what
# it said for a report. It must not build with other flags than CI: these are the same tests, only longer.

# FAULTS_REPORT: file that the cases' figures are appended to, if set.

# fault_case TEST TITLE [VARIABLE=VALUE...]
fault_case() {
  local test=$1 title=$2 log status=0 started=$SECONDS; shift 2
  log=$(mktemp "${TMPDIR:-/tmp}/ringlog-$test-XXXXXX")
  (cd "$ROOT" && env "$@" cargo test --release --test "$test" -- --nocapture --test-threads=1) >"$log" 2>&1 || status=$?
  if grep -q SKIPPED "$log"; then
    echo "skip - $title: $(sed -n 's/.*SKIPPED, nothing was tested: //p' "$log" | head -n1)"
  elif [ $status = 0 ]; then
    echo "ok - $title"
  else
    echo "not ok - $title: status $status, $(grep -m1 -E 'violations|panicked' "$log" | cut -c1-200)"
    tail -n 60 "$log" >&2
  fi
  # What a test prints about itself; cargo's and the harness's lines are others.
  figures "$log" | sed "s/^/numbers - $test: /"
  if [ -n "${FAULTS_REPORT:-}" ]; then
    {
      echo "## $title"
      echo
      [ $# = 0 ] || echo "\`$*\`, $((SECONDS - started)) s, $([ $status = 0 ] && echo passed || echo FAILED)"
      echo
      figures "$log" | sed 's/^/- /'
      echo
    } >>"$FAULTS_REPORT"
  fi
  rm -f "$log"
  return $status
}

figures() {
  sed -E 's/^test [a-z0-9_]+ \.\.\. //; s/^\.+//' "$1" \
    | grep -E '^(seed: |[0-9]+ |write\.caching|soak: |flat over |the judge holds)' | cut -c1-400
}

# report_begin OUT TITLE: OUT/report.md with what was run where.
report_begin() {
  mkdir -p "$1"
  FAULTS_REPORT=$1/report.md
  {
    echo "# $2"
    echo
    echo "$(date -u +%F), commit $(git -C "$ROOT" rev-parse --short=12 HEAD 2>/dev/null || echo unknown), $(nproc) cores," \
      "Linux $(uname -r)."
    echo
  } >"$FAULTS_REPORT"
}
