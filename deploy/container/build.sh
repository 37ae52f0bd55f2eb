#!/usr/bin/env bash
# Builds the static binary and the image chappe:latest, or the name that is given. Needs what build-static.sh needs, and buildah.
#
#   deploy/container/build.sh [NAME[:TAG]]
#
# As root, or with CHAPPE_ISOLATION=rootless where users may make namespaces.
set -euo pipefail
umask 022
cd "$(dirname "$0")/../.."
name=${1:-chappe:latest}

missing() {
  printf 'missing: %s\n' "$1" >&2
  exit 1
}
command -v buildah >/dev/null || missing buildah
[[ $(id -u) == 0 || -n ${CHAPPE_ISOLATION:-} ]] || missing 'root (buildah --isolation chroot), or CHAPPE_ISOLATION=rootless'
binary=$(deploy/build-static.sh)

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -D -m 755 "$binary" "$context/root/bin/chappe"
install -d -m 755 "$context/root/var/lib"
install -d -m 700 "$context/root/var/lib/chappe"
# Whoever owns a folder above that of a daemon could replace it: only the last one is the daemon's.
pack() { tar --directory "$context/root" --mtime @0 --numeric-owner --no-recursion "$@"; }
pack --create --file "$context/rootfs.tar" --owner 0 --group 0 bin bin/chappe var var/lib
pack --append --file "$context/rootfs.tar" --owner 65532 --group 65532 var/lib/chappe

buildah build --isolation "${CHAPPE_ISOLATION:-chroot}" --tag "$name" --file deploy/container/Containerfile "$context"
printf 'built %s, binary of %s\n' "$name" "$(du -h "$context/root/bin/chappe" | cut -f1)"
