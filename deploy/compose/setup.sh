#!/usr/bin/env bash
# Makes what compose.yml needs: the federation's root key, a folder of config and keys for each daemon, and .env.
#
#   deploy/compose/setup.sh [HOST]
#
# HOST is where clients reach this machine [default: 127.0.0.1, for clients on it alone]. CHAPPE_IMAGE names the image
# [default: chappe:latest], CONTAINER_ENGINE the program that runs it [default: docker], and CHAPPE_USER whom the daemons run
# as, whose the folders are [default: UID:GID of the caller; for root 65532:65532, the image's user].
set -euo pipefail
umask 077
cd "$(dirname "$0")"
host=${1:-127.0.0.1}
image=${CHAPPE_IMAGE:-chappe:latest}
engine=${CONTAINER_ENGINE:-docker}
bind=0.0.0.0
if [[ $host == 127.0.0.1 ]]; then bind=127.0.0.1; fi

if [[ -e federation ]]; then
  echo 'federation/ exists: nothing was changed. Remove it to start another federation.' >&2
  exit 1
fi
user=$(id -u):$(id -g)
if [[ $user == 0:* ]]; then user=65532:65532; fi
user=${CHAPPE_USER:-$user}

folder() { install -d -m 700 -o "${user%:*}" -g "${user#*:}" "federation/$1"; }
# Runs chappe in the folder of one daemon; prints the JSON that it prints.
chappe() {
  "$engine" run --rm --network none --user "$user" --volume "$PWD/federation/$1:/var/lib/chappe" "$image" --json "${@:2}"
}

# Half a federation is of no use.
done=
trap '[[ $done ]] || rm -rf federation' EXIT
install -d -m 755 federation
folder registry
root=$(chappe registry bootstrap init --config bootstrap.toml | sed -n 's/.*"root":"\([^"]*\)".*/\1/p')
[[ -n $root ]]
mv federation/registry/root.key federation/root.key
for number in 1 2 3; do
  folder "node$number"
  # "=" before the key: one in 64 begins with a hyphen.
  chappe "node$number" node init --config node.toml --registry http://10.87.0.2:8700 --root="$root" \
    --url "ws://$host:872$number" --advertise "10.87.0.$((8 + number)):8711" --region "compose$number" >/dev/null
done
printf 'CHAPPE_IMAGE=%s\nCHAPPE_USER=%s\nCHAPPE_BIND=%s\n' "$image" "$user" "$bind" >.env
done=1

cat <<END
made federation/ and .env
next: take $PWD/federation/root.key to a place that is not online, and start:
  $engine compose --project-directory $PWD up --detach
clients: chappe discover --registry http://$host:8700 --root=$root
END
