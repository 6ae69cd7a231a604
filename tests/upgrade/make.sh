#!/usr/bin/env bash
# Makes what the upgrade starts from: a release's packaging, and the state that its binary writes on a machine of its own.
#
#   tests/upgrade/make.sh CHECKOUT BINARY
#
# CHECKOUT is that release, BINARY its squire, built with `--features squire-tests/failpoints` so that it can be killed in the middle.
# Writes beside itself: `packaging.tar.gz` (ops/systemd, ops/config, ops/package) and `state.tar.gz` (locations, state directory,
# configuration). Asks for root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(realpath "$1")
binary=$(realpath "$2")
shared=$(mktemp -d)
machine=$(mktemp -d)
trap 'kill -9 "$boot" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$shared" "$machine"' EXIT
pack() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 "$@"; }

pack -C "$checkout" -czf "$here/packaging.tar.gz" ops/systemd ops/config ops/package
SQUIRE_DEB_FLAGS="-Zgzip -z1" "$checkout/ops/package/build.sh" "$binary" "$shared" 0.0.9 >/dev/null
cp "$here/before.sh" "$shared/"
unshare --mount --pid --fork --kill-child --cgroup --ipc --uts --net \
  bash "$here/../tests/external/boot.sh" "$machine" "$shared" &
boot=$!
until init=$(tr -d ' ' < "/proc/$boot/task/$boot/children") && [ "$(cat "/proc/$init/comm")" = systemd ]; do sleep 0.1; done
enter() { nsenter --target "$init" --all --root --wd sh -ec "$1"; }
until enter 'systemctl is-system-running' | grep -qE 'running|degraded'; do sleep 0.1; done
enter 'dpkg --install /mnt/*.deb; sh -ex /mnt/before.sh; tar -C / --sort=name --numeric-owner -czf /mnt/state.tar.gz srv/lance var/lib/squire etc/squire/squire.toml'
cp "$shared/state.tar.gz" "$here/"
ls -l "$here"
