#!/usr/bin/env bash
# Makes what a release consists of, in a new folder: the static binary in an archive, the Debian package, the page for calls, the
# list of components (SBOM, CycloneDX), the image if this is root and buildah is there, and the hashes of all.
#
#   deploy/release.sh FOLDER
#
# The same commit gives the same bytes with the same compiler and Debian, but for the image, which has the time of its build.
# Needs what build-static.sh needs, dpkg-deb, and Node for the page.
set -euo pipefail
umask 022
mkdir "${1:?name a new folder}"
output=$(realpath "$1")
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
name=chappe-$version-$(uname -m)-linux
step() { printf '== %s\n' "$*" >&2; }

step 'static binary'
binary=$(deploy/build-static.sh)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
install -D -m 755 "$binary" "$stage/$name/chappe"
install -m 644 -t "$stage/$name" LICENSE-APACHE LICENSE-MIT README.md CHANGELOG.md
cp -r deploy/systemd "$stage/$name/systemd"
tar --directory "$stage" --create --sort name --mtime "@$SOURCE_DATE_EPOCH" --owner 0 --group 0 --numeric-owner "$name" |
  gzip -9n >"$output/$name.tar.gz"

step 'Debian package'
deploy/debian/build.sh "$binary" "$output" >/dev/null

step 'page for calls'
(cd web && { [[ -d node_modules ]] || npm ci --no-audit --no-fund --silent; } && node tools/page.mjs >/dev/null)
install -m 644 web/page/dist/chappe.html "$output/chappe-$version.html"

step 'components'
sbom=cargo-cyclonedx
if ! command -v $sbom >/dev/null; then
  # Unoptimised: it builds in a minute, and has little to do.
  sbom=target/tools/bin/cargo-cyclonedx
  [[ -x $sbom ]] || cargo install cargo-cyclonedx --locked --version 0.5.9 --debug --quiet --root target/tools
fi
# In a copy, since it writes a file for each package of the workspace.
mkdir "$stage/source"
git archive HEAD | tar --extract --directory "$stage/source"
"$sbom" cyclonedx --manifest-path "$stage/source/cli/Cargo.toml" --format json --override-filename components --no-build-deps \
  --features jemalloc -qq
sed "s|path+file://$stage/source|path+file:///chappe|g" "$stage/source/cli/components.json" >"$output/chappe-$version.cdx.json"

if [[ $(id -u) == 0 ]] && command -v buildah >/dev/null; then
  step 'image'
  deploy/container/build.sh "chappe:$version" >&2
  buildah push --quiet "chappe:$version" "oci-archive:$output/chappe-$version-image.tar:chappe:$version"
else
  step 'no image: this needs root and buildah'
fi

(cd "$output" && sha256sum -- * >SHA256SUMS)
cat "$output/SHA256SUMS"
