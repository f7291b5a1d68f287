#!/usr/bin/env bash
# Runs the README's first plugin, block by block, as it is written there, in a copy of the checkout's folders that it names.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}
router=${ANABRANCH_BIN:-$CARGO_TARGET_DIR/debug/anabranch}
work=$(mktemp -d)
source "$root/tests/shop.sh"

# The blocks between the two markers, one file each.
awk -v folder="$work" '
  /^<!-- first plugin/ { inside = 1 } /^<!-- end of the first plugin/ { inside = 0 }
  inside && /^```sh$/ { block = folder "/block" ++count ".sh"; next }
  /^```$/ { block = "" }
  block { print > block }' "$root/README.md"
[ -s "$work/block3.sh" ] || { echo "first plugin: the README does not have its three blocks" >&2; exit 1; }

# What the blocks use of a checkout.
mkdir "$work/checkout"
cp -r "$root/guest-sdk" "$root/plugins" "$root/wit" "$root/Cargo.toml" "$root/Cargo.lock" "$work/checkout"
sed -i 's/^members = .*/members = ["guest-sdk"]/' "$work/checkout/Cargo.toml"
cd "$work/checkout"
say() { echo "first plugin: $*"; }

say "building and testing it"
bash -euo pipefail "$work/block1.sh" >"$work/block1.log" 2>&1 || { cat "$work/block1.log"; exit 1; }
grep -q '1 passed' "$work/block1.log"
say "the demo makes orders"
open_shop
say "looking at them through it"
{
  echo 'shopt -s expand_aliases'
  sed -e "s#/tmp/shop#$shop#g" -e "s#^alias anabranch=.*#alias anabranch='$router'#" "$work/block3.sh"
} >"$work/last.sh"
bash -euo pipefail "$work/last.sh" >"$work/last.log" 2>&1 || { cat "$work/last.log" "$work/demo.log"; exit 1; }
grep -q 'big/' "$work/last.log" || { cat "$work/last.log"; exit 1; }
say "it decides about live records"
