#!/usr/bin/env bash
# Seeds one mistake at a time and sees whether the tests catch it: tests/mutants.sh [NAME ...]; without names all of tests/mutants.
# A patch of that folder says in its first lines what the mistake is and which tests have to fail (arguments of `cargo test`).
# It works in a copy of the checkout, so the checkout stays as it is. Fails if a mistake is not caught.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}
# Compiled often and run once: the router alone, so that no dependency is compiled again.
fast=(--config 'profile.dev.package.anabranch.opt-level=0' --config 'profile.dev.package.anabranch.debug=0')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -pt "$work" 2>/dev/null
cd "$work" && git init -q && git add -A && git -c user.name=m -c user.email=m@localhost commit -qm "as it is" || exit 1
[ $# -gt 0 ] || set -- $(cd "$root/tests/mutants" && ls -- *.patch | sed 's/\.patch$//')

caught=0
missed=()
for name in "$@"; do
  patch=$root/tests/mutants/$name.patch
  arguments=$(sed -n 's/^tests: //p' "$patch")
  began=$SECONDS
  if ! git apply "$patch"; then
    echo "mutant $name: its patch does not fit the code any more"
    missed+=("$name")
    continue
  fi
  # Of the router alone and built first: a system test runs the binary, and a mistake that does not compile is caught by nobody.
  if ! cargo build "${fast[@]}" --quiet --workspace --bin anabranch >"$work.log" 2>&1; then
    tail -n 20 "$work.log"
    echo "mutant $name: does not compile"
    missed+=("$name")
  # shellcheck disable=SC2086
  elif timeout 600 cargo test "${fast[@]}" --quiet --workspace $arguments >"$work.log" 2>&1; then
    echo "mutant $name: NOT CAUGHT ($((SECONDS - began)) s): $(head -n 1 "$patch")"
    missed+=("$name")
  else
    failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^---- \(.*\) stdout ----$/\1/p' "$work.log" | sort -u)
    count=$(printf '%s' "$failed" | grep -c . || true)
    if [ "$count" -eq 0 ]; then
      tail -n 20 "$work.log"
      echo "mutant $name: NOT CAUGHT ($((SECONDS - began)) s): no test failed, the run timed out or crashed"
      missed+=("$name")
    else
      echo "mutant $name: caught by $count tests ($((SECONDS - began)) s), such as $(printf '%s' "$failed" | head -n 1)"
      caught=$((caught + 1))
    fi
  fi
  git checkout -q -- . && git clean -qfd
done
rm -f "$work.log"
echo "mutants: $caught caught, ${#missed[@]} not: ${missed[*]:-none}"
[ ${#missed[@]} -eq 0 ]
