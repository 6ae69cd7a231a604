#!/usr/bin/env bash
# Lays out all that an image of Squire holds: the binary, the libraries that it asks for, certificates, a user. No shell, no package
# manager, no base image. The Containerfile beside this copies it.
#
#   ops/container/rootfs.sh BINARY DIRECTORY
set -euo pipefail

if [ "$#" -ne 2 ]; then
  printf 'usage: %s BINARY DIRECTORY\n' "$0" >&2
  exit 2
fi
binary=$(realpath "$1")
root=$2
[ -z "$(ls -A "$root" 2>/dev/null)" ] || { printf '%s: %s is not empty\n' "$0" "$root" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)

install -D -m 755 "$binary" "$root/usr/bin/squire"
if command -v strip >/dev/null 2>&1; then
  strip --strip-unneeded "$root/usr/bin/squire"
fi
# Each with the path under which the loader looks for it.
ldd "$binary" | grep -oE '/[^ ]+' | sort -u | while read -r library; do
  install -D -m 755 "$(realpath "$library")" "$root$library"
done
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -r "$certificates" ]; then
  install -D -m 644 "$certificates" "$root$certificates"
else
  printf '%s: no %s here; an object store over https will not be trusted\n' "$0" "$certificates" >&2
fi
install -D -m 644 "$here/../config/squire.toml" "$root/etc/squire/squire.toml"
printf 'root:x:0:0::/:/\nsquire:x:65532:65532::/:/\n' > "$root/etc/passwd"
printf 'root:x:0:\nsquire:x:65532:\n' > "$root/etc/group"
install -d -m 1777 "$root/tmp"
install -d -m 755 "$root/data"
