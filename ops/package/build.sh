#!/usr/bin/env bash
# Makes a Debian package of a binary that is built already, with what dpkg-deb alone can do. Prints the package's path.
#
#   ops/package/build.sh BINARY DIRECTORY [VERSION]
#
# A package for others is made of `cargo build --workspace --profile dist`, as `make package` does (see [profile.dist] in Cargo.toml).
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$#" -lt 2 ]; then
  printf 'usage: %s BINARY DIRECTORY [VERSION]\n' "$0" >&2
  exit 2
fi
binary=$(realpath "$1")
mkdir -p "$2"
directory=$(realpath "$2")
version=${3:-$("$binary" --version | cut -d' ' -f2)}
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

put() { install -D -m "$1" "$2" "$root/$3"; } # MODE FILE PATH

put 755 "$binary" usr/bin/squire
if command -v strip >/dev/null 2>&1; then
  strip --strip-unneeded "$root/usr/bin/squire"
fi

put 644 ops/systemd/squire.service usr/lib/systemd/system/squire.service
put 644 ops/systemd/squire-agent@.service usr/lib/systemd/system/squire-agent@.service
put 644 ops/package/sysusers.conf usr/lib/sysusers.d/squire.conf
put 644 ops/package/tmpfiles.conf usr/lib/tmpfiles.d/squire.conf
put 644 ops/config/squire.toml etc/squire/squire.toml

# The binary writes its own completions and pages, so that they are never older than it.
squire=$root/usr/bin/squire
completions() { # SHELL PATH
  install -d "$root/$(dirname "$2")"
  "$squire" completions "$1" > "$root/$2"
}
completions bash usr/share/bash-completion/completions/squire
completions zsh usr/share/zsh/vendor-completions/_squire
completions fish usr/share/fish/vendor_completions.d/squire.fish
"$squire" man "$root/usr/share/man/man1" >/dev/null
gzip -9n "$root"/usr/share/man/man1/*.1

doc=usr/share/doc/squire
put 644 README.md $doc/README.md
put 644 ARCHITECTURE.md $doc/ARCHITECTURE.md
put 644 NOTICE $doc/copyright
for file in ops/prometheus/*.yml; do
  put 644 "$file" "$doc/prometheus/$(basename "$file")"
done
put 644 ops/grafana/squire.json $doc/grafana/squire.json
for file in ops/runbooks/*.md; do
  put 644 "$file" "$doc/runbooks/$(basename "$file")"
done

# The newest interface of the C library that the binary asks for.
libc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$squire" | sed 's/GLIBC_//' | sort -uV | tail -n 1)
control=$root/DEBIAN
install -d "$control"
cat > "$control/control" <<END
Package: squire
Version: $version
Architecture: $architecture
Maintainer: The authors of Squire <squire@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1
Recommends: ca-certificates, systemd
Section: database
Priority: optional
Description: maintenance of Lance tables beside their writers
 A daemon that compacts, reindexes and cleans up Lance and LanceDB tables while
 other processes go on writing, and atomic commits over several tables.
END
printf '/etc/squire/squire.toml\n' > "$control/conffiles"
for script in postinst prerm postrm; do
  sed "s/@VERSION@/$version/g" "ops/package/$script" > "$control/$script"
  chmod 755 "$control/$script"
done
(cd "$root" && find usr etc -type f -print0 | sort -z | xargs -0 md5sum > DEBIAN/md5sums)

package=$directory/squire_${version}_$architecture.deb
dpkg-deb --root-owner-group ${SQUIRE_DEB_FLAGS:-} --build "$root" "$package" >&2
printf '%s: %s bytes, the binary %s bytes\n' "$package" "$(stat -c %s "$package")" "$(stat -c %s "$squire")" >&2
printf '%s\n' "$package"
