#!/usr/bin/env bash
# Builds the Debian package of a binary. Needs dpkg-deb and strip; build-static.sh makes a binary.
#
#   deploy/debian/build.sh BINARY FOLDER
#
# Prints the name of the package in FOLDER. CHAPPE_VERSION replaces the version, which is that of Cargo.toml. CHAPPE_XZ_LEVEL is
# the level of compression, 0 to 9 [default: 6]. The package is the same for the same inputs: its times are SOURCE_DATE_EPOCH
# [default: of the last commit].
set -euo pipefail
umask 022
binary=$(realpath "${1:?name the binary}")
output=$(realpath "${2:?name the folder for the package}")
cd "$(dirname "$0")/../.."
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
version=${CHAPPE_VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)}
architecture=$(dpkg --print-architecture)
units=(chappe-node.service chappe-node-{client,federation,http,turn}.socket chappe-registry.service chappe-registry-http.socket)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
install -D -m 755 -s "$binary" "$root/usr/bin/chappe"
for unit in "${units[@]}"; do
  install -D -m 644 "deploy/systemd/$unit" "$root/usr/lib/systemd/system/$unit"
done
sed -i 's|/usr/local/bin/chappe|/usr/bin/chappe|' "$root"/usr/lib/systemd/system/*.service
install -D -m 644 -t "$root/usr/lib/systemd/system/chappe-.service.d" deploy/systemd/chappe-.service.d/backoff.conf
install -D -m 644 deploy/systemd/chappe.sysusers.conf "$root/usr/lib/sysusers.d/chappe.conf"
install -D -m 644 deploy/debian/tmpfiles.conf "$root/usr/lib/tmpfiles.d/chappe.conf"
install -D -m 644 deploy/debian/copyright "$root/usr/share/doc/chappe/copyright"
gzip -9n <CHANGELOG.md >"$root/usr/share/doc/chappe/changelog.gz"
install -D -m 755 -t "$root/DEBIAN" deploy/debian/{postinst,prerm,postrm}
size=$(du -k --summarize "$root/usr" | cut -f1)
sed "s/@version@/$version/; s/@architecture@/$architecture/; s/@size@/$size/" deploy/debian/control >"$root/DEBIAN/control"
find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

package=$output/chappe_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z"${CHAPPE_XZ_LEVEL:-6}" --build "$root" "$package" >&2
printf '%s\n' "$package"
