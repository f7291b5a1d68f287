#!/usr/bin/env bash
# Builds plugins into components: plugins/build.sh [CRATE_FOLDER ...]; without arguments all bundled ones.
# OUT: where the components go (default: $CARGO_TARGET_DIR/components).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target_dir=${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}
out=${OUT:-$target_dir/components}
guests=$target_dir/guests
triple=wasm32-unknown-unknown
[ $# -gt 0 ] || set -- "$here"/destination-pattern "$here"/filter "$here"/row-to-event
mkdir -p "$out" "$guests"
exec 9>"$guests/.lock"
flock 9

fail() { echo "plugins/build.sh: $1" >&2; exit 1; }

# The linker that makes components comes with every rustup toolchain; a build of the standard library is needed only where the
# target cannot be had.
sysroot=$(rustc --print sysroot)
host=$(rustc -vV | sed -n 's/^host: //p')
linker=$sysroot/lib/rustlib/$host/bin/wasm-component-ld
wasm_ld=$sysroot/lib/rustlib/$host/bin/gcc-ld/wasm-ld
[ -x "$linker" ] || fail "$linker is not there: install Rust with rustup (its toolchains bring wasm-component-ld)"

if [ -d "$sysroot/lib/rustlib/$triple" ] || { command -v rustup >/dev/null && timeout 60 rustup target add $triple >/dev/null 2>&1; }; then
  build() { cargo build "$@"; }
elif [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && /usr/bin/rustc --version | grep -q . && [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src" ]; then
  export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc
  # rustup's own proxies must not choose another compiler for build scripts.
  unset RUSTUP_TOOLCHAIN CARGO
  build() { PATH=/usr/bin:$PATH /usr/bin/cargo build -Zbuild-std=std,panic_abort "$@"; }
else
  fail "no compiler for $triple: run 'rustup target add $triple', or on Debian 'apt-get install rustc-web cargo-web rust-web-src rust-web-llvm'"
fi

# Small, fast, without unwinding; set here, so that a crate of anybody's need not say it.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=3 CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
export CARGO_PROFILE_RELEASE_PANIC=abort CARGO_PROFILE_RELEASE_STRIP=debuginfo CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker
# Messages of panics hold paths: a component says nothing of the machine that made it, and is the same from every folder.
flags="-Clink-arg=--wasm-ld-path=$wasm_ld --remap-path-prefix=$(dirname "$here")=anabranch"
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do flags+=" --remap-path-prefix=$sources=crates"; done
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS=$flags
for crate in "$@"; do
  manifest=$(cd "$crate" && pwd)/Cargo.toml
  name=$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest" | head -n 1)
  echo "building plugin $name"
  build --quiet --manifest-path "$manifest" --lib --target $triple --release --target-dir "$guests"
  made=$guests/$triple/release/${name//-/_}.wasm
  component=$out/${name#anabranch-plugin-}.wasm
  cmp -s "$made" "$component" || cp "$made" "$component"
  [ "$out" = "$target_dir/components" ] || echo "made $component"
done
