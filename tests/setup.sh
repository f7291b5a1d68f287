#!/usr/bin/env bash
# Installs what is missing for the named purposes: tests/setup.sh [test] [lint] [demo] [guest]
# Says in one line each what it does, asks nothing, changes nothing that is already there.
set -euo pipefail

say() { echo "setup: $*"; }
fail() {
  echo "setup: $1" >&2
  echo "setup: remedy: $2" >&2
  exit 3
}
has() { command -v "$1" >/dev/null 2>&1; }

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
apt_updated=

# install WHY PACKAGE...
install() {
  local why=$1
  shift
  has apt-get || fail "$why: this is not a Debian or Ubuntu, $* must come from elsewhere" "install what these packages hold, then run this again"
  if [ "${#as_root[@]}" -gt 0 ] && ! { has sudo && sudo -n true 2>/dev/null; }; then
    fail "$why: $* must be installed, and this user may not without a password" "sudo apt-get install --no-install-recommends $*"
  fi
  say "$why: installing $*"
  local log
  log=$(mktemp)
  if [ -z "$apt_updated" ]; then
    "${as_root[@]}" apt-get update >"$log" 2>&1 || say "apt-get update did not go through, using the package lists that are there"
    apt_updated=1
  fi
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "$why: $* could not be installed (the lines above)" "sudo apt-get install --no-install-recommends $*"
  fi
  rm -f "$log"
}

available() { [ -n "$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([^(].*\)/\1/p')" ]; }

rust() {
  has cargo && has rustc || fail "Rust is not there" "install it with rustup (https://rustup.rs), then run this again"
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have=$(rustc --version | cut -d ' ' -f 2)
  if [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    fail "Rust $have is older than $wanted" "rustup update stable"
  fi
}

native() {
  local missing=()
  has cc && has c++ || missing+=(gcc g++)
  has make || missing+=(make)
  has pkg-config || missing+=(pkg-config)
  [ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
  [ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)
  # Headers such as <sys/types.h> are not in the compiler's own package.
  [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
  [ ${#missing[@]} -eq 0 ] || install "C toolchain and headers, for librdkafka" "${missing[@]}"
}

guest() {
  local triple=wasm32-unknown-unknown sysroot
  sysroot=$(rustc --print sysroot)
  [ -d "$sysroot/lib/rustlib/$triple" ] && return
  if has rustup; then
    say "guest target: rustup target add $triple"
    timeout 120 rustup target add $triple >/dev/null 2>&1 && return
    say "guest target: rustup cannot fetch it here, building it from Debian's Rust sources instead"
  fi
  local deb_sysroot
  if [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ]; then
    deb_sysroot=$(/usr/bin/rustc --print sysroot)
    [ -d "$deb_sysroot/lib/rustlib/src" ] && return
  fi
  install "guest target, from sources" rustc-web cargo-web rust-web-src rust-web-llvm
}

java_major() { java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p'; }

servers() {
  local missing=() major=0 package chosen=
  if has java; then major=$(java_major); fi
  if [ "${major:-0}" -lt 17 ]; then
    # Candidates of a fresh machine are known only after an update.
    if ! available openjdk-17-jre-headless && ! available openjdk-21-jre-headless && has apt-get; then
      say "package lists: apt-get update"
      "${as_root[@]}" apt-get update >/dev/null 2>&1 || true
      apt_updated=1
    fi
    for package in openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless default-jre-headless; do
      if available $package; then
        chosen=$package
        break
      fi
    done
    [ -n "$chosen" ] || fail "Java 17 or newer, for Apache Kafka: no package of this distribution has it" "install a JRE, 17 or newer, so that 'java' finds it"
    missing+=("$chosen")
  fi
  has mvn || missing+=(maven)
  # Certificates of the brokers in tests.
  has openssl || missing+=(openssl)
  [ ${#missing[@]} -eq 0 ] || install "Java, Maven and OpenSSL, for Apache Kafka and a schema registry" "${missing[@]}"
}

lints() {
  for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    has rustup || fail "$component is not there" "install it beside cargo"
    say "$component: rustup component add $component"
    rustup component add $component >/dev/null 2>&1 || fail "$component could not be added" "rustup component add $component"
  done
  if ! cargo deny --version >/dev/null 2>&1; then
    say "cargo-deny: building it (cargo install cargo-deny --locked; once, some minutes)"
    if ! CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}/tools" cargo install --quiet --locked --debug cargo-deny >/dev/null 2>&1; then
      say "cargo-deny: cannot be built here, its checks will be left out (remedy: cargo install cargo-deny --locked)"
    fi
  fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || set -- test lint demo
rust
for purpose in "$@"; do
  case $purpose in
    test) native; guest; servers ;;
    demo) native; guest ;;
    guest) guest ;;
    lint) native; lints ;;
    *) fail "unknown purpose $purpose" "tests/setup.sh [test] [lint] [demo] [guest]" ;;
  esac
done
say "everything for $* is there"
