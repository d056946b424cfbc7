#!/usr/bin/env bash
# Makes what a release is published as, from the commit that has its tag: docs/RELEASING.md.
#
#   scripts/release.sh --check        only looks whether this commit can be one
#   scripts/release.sh [FOLDER]       dist: a source archive, Debian packages, an archive of the installation, checksums
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/version.sh

problems=()
tag=v$version
section() { awk -v "title=$1" '/^## / { inside = ($2 == title) } inside && !/^## /' CHANGELOG.md; }

[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || problems+=("HF_VERSION in Sources/CVersion/include/CVersion.h is '$version', not X.Y.Z")
[ -z "$(git status --porcelain)" ] || problems+=("the tree is not as committed: git status")
if ! git rev-parse -q --verify "refs/tags/$tag" >/dev/null; then
  problems+=("there is no tag $tag: git tag -a $tag -m 'Holdfast $version'")
else
  [ "$(git cat-file -t "refs/tags/$tag")" = tag ] || problems+=("$tag has no message: git tag -f -a $tag")
  [ "$(git rev-parse "$tag^{commit}")" = "$(git rev-parse HEAD)" ] || problems+=("$tag is another commit than HEAD")
fi
grep -Eq "^## ${version//./\\.} - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
  problems+=("CHANGELOG.md has no line '## $version - YYYY-MM-DD'")
[ -n "$(section "$version" | tr -d '[:space:]')" ] || problems+=("CHANGELOG.md says nothing of $version")
[ -z "$(section Unreleased | tr -d '[:space:]')" ] || problems+=("CHANGELOG.md has changes that are under Unreleased still")

if [ ${#problems[@]} -gt 0 ]; then
  printf 'release: %s\n' "${problems[@]}" >&2
  exit 1
fi
echo "release: this commit is $version" >&2
[ "${1:-}" != --check ] || exit 0

dist=${1:-dist}
release=${RELEASE:-.build/release}
for program in holdfast holdfast-load; do
  said=$("$release/$program" --version)
  [ "$said" = "$version (commit ${commit:0:12})" ] ||
    { echo "release: $program says '$said': make programs" >&2; exit 1; }
done
export SOURCE_DATE_EPOCH
rm -rf "$dist"
mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# gzip's own head would have the time.
git archive --format=tar --prefix="holdfast-$version/" HEAD | gzip -9n >"$dist/holdfast-$version.tar.gz"
scripts/build-deb.sh "$dist" >/dev/null
# For other distributions: unpacked below /, it is what make install does.
binary=holdfast-$version-linux-$(uname -m)
DESTDIR=$work/root PREFIX=/usr/local STATIC_ONLY=1 RELEASE=$release scripts/install.sh install
tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work/root" . |
  gzip -9n >"$dist/$binary.tar.gz"
section "$version" >"$dist/NOTES.md"
(cd "$dist" && LC_ALL=C sha256sum -- *.tar.gz *.deb >SHA256SUMS)
cat "$dist/SHA256SUMS"
