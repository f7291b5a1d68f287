#!/usr/bin/env bash
# Plugins in JavaScript and Python: builds tests/languages/* with the tools of those languages (npm, PyPI: some hundred megabytes, kept in
# the cache) and lets each decide about live records of the demo. `make languages` runs it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}
router=${ANABRANCH_BIN:-$CARGO_TARGET_DIR/debug/anabranch}
tools=${ANABRANCH_CACHE:-$HOME/.cache/anabranch}/languages
work=$(mktemp -d)
source "$root/tests/shop.sh"
say() { echo "languages: $*"; }
need() { command -v "$1" >/dev/null || { echo "languages: $1 is missing: $2" >&2; exit 1; }; }
need npm "apt-get install nodejs npm (Node.js 20 or later)"
need python3 "apt-get install python3 python3-venv"

say "JavaScript: ComponentizeJS"
mkdir -p "$tools"
cp -r "$root/tests/languages/javascript" "$tools"
cd "$tools/javascript"
npm install --silent --no-audit --no-fund >"$work/npm.log" 2>&1 || { cat "$work/npm.log"; exit 1; }
WIT=$root/wit npm run --silent build
cp big-orders.wasm "$work/javascript.wasm"

say "Python: componentize-py"
[ -x "$tools/python/bin/componentize-py" ] || { python3 -m venv "$tools/python"; "$tools/python/bin/pip" install --quiet componentize-py==0.25.1; }
cp -r "$root/tests/languages/python" "$work/sources"
cd "$work/sources"
"$tools/python/bin/componentize-py" -d "$root/wit" -w plugin componentize app --stub-wasi -o "$work/python.wasm" >/dev/null

say "the demo makes orders"
open_shop
for language in javascript python; do
  config=$work/$language.toml
  sed '/^through = \[/,/^\]/c through = [{ plugin = "big-orders", config = { from = 100 } }]' "$shop/anabranch.toml" >"$config"
  printf '\n[plugin.big-orders]\npath = "%s"\nmemory_max = "256 MiB"\ndeadline = "10 s"\ninit_deadline = "30 s"\n' "$work/$language.wasm" >>"$config"
  # Its own mistakes are told with their place, as those of any plugin are.
  sed 's/from = 100/from = "much"/' "$config" >"$work/wrong.toml"
  if "$router" check "$work/wrong.toml" >"$work/wrong.log" 2>&1; then cat "$work/wrong.log"; exit 1; fi
  grep -q 'say from which amount on' "$work/wrong.log" || { cat "$work/wrong.log"; exit 1; }
  "$router" try "$config" --records 200 >"$work/try.log" 2>&1 || { cat "$work/try.log"; exit 1; }
  for outcome in 'big/' 'filtered'; do
    grep -q "$outcome" "$work/try.log" || { cat "$work/try.log"; exit 1; }
  done
  say "$language decides about live records: $(grep -c '^.* delivered$' "$work/try.log" || true) delivered of 200 ($(stat -c %s "$work/$language.wasm") bytes)"
done
