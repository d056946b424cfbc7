#!/usr/bin/env bash
# Makes Debian packages of what `make programs` has built: holdfast, the server, and holdfast-load, the generator.
#
#   scripts/build-deb.sh [FOLDER]      where they go: dist
#
# RELEASE                 where the programs are: .build/release
# DEBFULLNAME, DEBEMAIL   who is named as maintainer
#
# No debhelper: there is nothing to be built. The same programs make the same bytes: every time is that of
# SOURCE_DATE_EPOCH, or of the commit.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/version.sh

dist=${1:-dist}
release=${RELEASE:-.build/release}
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-Holdfast maintainers} <${DEBEMAIL:-$(git log -1 --format=%ae 2>/dev/null || echo root@localhost)}>"
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# The part of the installation that belongs to a package: its root.
move() { # PACKAGE PATTERN...
  local package=$1 pattern file
  shift
  for pattern in "$@"; do
    while read -r file; do
      mkdir -p "$work/$package/$(dirname "$file")"
      mv "$work/all/$file" "$work/$package/$file"
    done < <(cd "$work/all" && find . \( -type f -o -type d -empty \) -path "./$pattern" -printf '%P\n')
  done
}

describe() { # PACKAGE DEPENDS DESCRIPTION: its control file
  local package=$1 libraries
  # dpkg-shlibdeps wants a source package around it.
  mkdir -p "$work/source/debian"
  printf 'Source: holdfast\n\nPackage: %s\nArchitecture: any\n' "$package" >"$work/source/debian/control"
  libraries=$(cd "$work/source" && dpkg-shlibdeps -O -e"$work/$package/usr/bin/$package" | sed -n 's/^shlibs:Depends=//p')
  mkdir -p "$work/$package/DEBIAN"
  cat >"$work/$package/DEBIAN/control" <<END
Package: $package
Source: holdfast
Version: $debian_version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size --exclude DEBIAN "$work/$package" | cut -f1)
Depends: $libraries${2:+, $2}
Section: misc
Priority: optional
$3
END
}

# What Debian's policy wants in every package.
finish() { # PACKAGE
  local package=$1 root=$work/$1 documents
  documents=$root/usr/share/doc/$package
  mkdir -p "$documents"
  cp deploy/debian/copyright "$documents/copyright"
  gzip -9nc CHANGELOG.md >"$documents/changelog.gz"
  rm -f "$documents/CHANGELOG.md"
  gzip -9n >"$documents/changelog.Debian.gz" <<END
holdfast ($debian_version) unstable; urgency=medium

  * Built from commit ${commit:-unknown}.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
  find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +
  (cd "$root" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' md5sum) \
    >"$root/DEBIAN/md5sums"
  find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz --build "$root" "$dist/${package}_${debian_version}_$architecture.deb" >&2
  echo "$dist/${package}_${debian_version}_$architecture.deb"
}

command -v dpkg-shlibdeps >/dev/null || { echo "build-deb: dpkg-dev is missing" >&2; exit 1; }
DESTDIR=$work/all PREFIX=/usr ZSHDIR=/usr/share/zsh/vendor-completions RELEASE=$release STATIC_ONLY=1 scripts/install.sh install
rm "$work/all/usr/share/holdfast/installed-files"
# By name, and not by folder: the rest is the server's.
move holdfast-load 'usr/bin/holdfast-load' 'usr/share/man/man1/holdfast-load*' 'usr/share/*/holdfast-load*' 'usr/share/zsh/*/_holdfast-load'
move holdfast '*'
mkdir -p "$dist"

describe holdfast "systemd-standalone-sysusers | systemd | systemd-sysusers" "Suggests: holdfast-load, prometheus, postgresql
Description: stock-reservation server that never oversells
 Holdfast holds units of a SKU while a customer pays, then confirms or
 releases them, over gRPC. It never sells a unit twice, gives every retry
 the answer that the first try got, and has each answer on the disk before
 it gives it.
 .
 This package has the server, its systemd units, the API's definitions and
 rules for Prometheus."
printf '%s\n' /etc/default/holdfast /etc/default/holdfast-relay /etc/default/holdfast-intake >"$work/holdfast/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 0755 "deploy/debian/$script" "$work/holdfast/DEBIAN/$script"; done
finish holdfast

describe holdfast-load "" "Suggests: holdfast
Description: load generator and checker for the Holdfast server
 Drives a Holdfast server with reserves, confirms and releases, takes down
 every answer, and proves from its own book that nothing was sold twice."
finish holdfast-load
