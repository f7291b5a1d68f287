#!/usr/bin/env bash
# Formatting, clippy, and the dependencies' licences and sources; says which checks ran.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}
failed=()

echo "lint: cargo fmt --check"
cargo fmt --all --check || failed+=(fmt)

echo "lint: cargo clippy --workspace --all-targets -- -D warnings"
cargo clippy --quiet --workspace --all-targets -- -D warnings || failed+=(clippy)

if cargo deny --version >/dev/null 2>&1; then
  echo "lint: cargo deny check bans licenses sources"
  cargo deny --log-level error check --hide-inclusion-graph bans licenses sources || failed+=(deny)
  # The database of advisories comes from elsewhere than the crates: a machine without it can still run all else.
  log=$(mktemp)
  if cargo deny --log-level error fetch db >"$log" 2>&1; then
    echo "lint: cargo deny check advisories"
    cargo deny --log-level error check --hide-inclusion-graph advisories || failed+=(advisories)
  else
    echo "lint: advisories were NOT checked, their database cannot be fetched here (remedy: cargo deny fetch db)"
  fi
  rm -f "$log"
else
  echo "lint: bans, licences, sources and advisories were NOT checked, cargo-deny is missing (remedy: cargo install cargo-deny --locked)"
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "lint: failed: ${failed[*]}"
  exit 1
fi
echo "lint: clean"
