#!/usr/bin/env bash
# Everything that `make test` runs; ends with one line "N passed, N failed", and fails if anything did.
# A failed lint counts as one failed test; so does a build that breaks.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
broken=0
started=$SECONDS

# step NAME COMMAND...: what is no cargo test counts one failure at most.
step() {
  local name=$1 begun=$SECONDS
  shift
  if "$@"; then
    echo "test: $name: done in $((SECONDS - begun)) s"
  else
    echo "test: $name: FAILED after $((SECONDS - begun)) s"
    broken=$((broken + 1))
  fi
}

tests() {
  cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
  return "${PIPESTATUS[0]}"
}

step "plugins" plugins/build.sh
step "plugins that misbehave" env OUT="$CARGO_TARGET_DIR/test-components" plugins/build.sh tests/guests/*
step "lint" tests/lint.sh
# Of the whole workspace, as the tests are: features are the same then, and no dependency is compiled twice.
step "the router" cargo build --workspace --bin anabranch
step "the README's first plugin" tests/first_plugin.sh
begun=$SECONDS
tests
status=$?
echo "test: cargo test: done in $((SECONDS - begun)) s"

# "test result: ok. 12 passed; 0 failed; ..." once for each binary and for each crate's documentation.
passed=$(sed -n 's/^test result: .* \([0-9]*\) passed;.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
failed=$(sed -n 's/^test result: .* \([0-9]*\) failed;.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
# A test binary that does not build, or dies, has no such line.
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then broken=$((broken + 1)); fi
failed=$((failed + broken))
echo "test: everything: $((SECONDS - started)) s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
