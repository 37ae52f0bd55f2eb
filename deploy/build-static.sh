#!/usr/bin/env bash
# Builds the static binary that is shipped, and prints its path. Needs cargo, a C compiler and make.
#
#   deploy/build-static.sh
#
# The same source, compiler and C library give the same bytes in any folder: paths of this machine are replaced in the binary.
# CHAPPE_PROFILE names another profile than `dist`, for trials.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${CHAPPE_PROFILE:-dist}

missing() {
  printf 'missing: %s\n' "$1" >&2
  exit 1
}
for tool in cargo rustc cc make readelf strip; do
  command -v "$tool" >/dev/null || missing "$tool"
done
# The target is named, so that build scripts and procedural macros are not linked statically.
target=$(rustc -vV | sed -n 's/^host: //p')
[[ $target == *-linux-gnu ]] || missing "a host of *-linux-gnu (this one is $target)"

folder=$(pwd -P)
home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$folder/target}
flags=(-C target-feature=+crt-static -C strip=symbols)
paths=()
for pair in "$folder=/chappe" "$CARGO_TARGET_DIR=/chappe/target" "$home=/cargo"; do
  flags+=("--remap-path-prefix=$pair")
  paths+=("-ffile-prefix-map=$pair")
done
RUSTFLAGS=${flags[*]} CFLAGS=${paths[*]} CXXFLAGS=${paths[*]} \
  cargo build --profile "$profile" --features jemalloc --locked -p chappe --target "$target" >&2
binary=$CARGO_TARGET_DIR/$target/$profile/chappe
if readelf -l "$binary" 2>/dev/null | grep -q INTERP; then missing 'a static C library (Debian: libc6-dev)'; fi
printf '%s\n' "$binary"
