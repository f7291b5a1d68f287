#!/usr/bin/env bash
# fuzz.sh MINUTES: random inputs against every reader of foreign bytes, two targets at a time, MINUTES in all; ends with a table.
# ANABRANCH_SEED=n starts every target with input n, so a finding comes again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
minutes=${1:-10}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Targets stand in modules of this name, below what they are for; what they found are tests of their own.
targets=(cargo test --quiet --package anabranch --lib -- ::fuzz:: --skip ::found::)
count=$("${targets[@]}" --list 2>/dev/null | grep -c ': test$')
seconds=$(awk -v minutes="$minutes" -v count="$count" 'BEGIN { printf "%.1f", minutes * 60 * 2 / count }')
echo "fuzz: $count targets, $seconds s each"
status=0
ANABRANCH_FUZZ_SECONDS=$seconds "${targets[@]}" --test-threads=2 --nocapture 2>&1 | tee "$log" || status=1
echo
awk '
  BEGIN { printf "%-38s %12s %9s\n", "target", "inputs", "findings" }
  # "fuzz: TARGET: N inputs, N findings", behind the dots of the test runner.
  match($0, /fuzz: .*: [0-9]+ inputs, [0-9]+ finding/) {
    line = substr($0, RSTART + 6)
    match(line, /: [0-9]+ inputs/)
    split(substr(line, RSTART + 2), counts, " ")
    printf "%-38s %12d %9d\n", substr(line, 1, RSTART - 1), counts[1], counts[3]
    inputs += counts[1]; findings += counts[3]
  }
  END { printf "%-38s %12d %9d\n", "all", inputs, findings }
' "$log"
exit "$status"
