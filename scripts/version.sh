# Sourced by the scripts that package: version, commit, dirty, debian_version, SOURCE_DATE_EPOCH.
#
# A commit with the tag of its version, v0.1.0, is 0.1.0; any other comes before the version that it leads to, in
# the order of the commits' times: 0.1.0~20270131120000.0123456789ab.
version=$(sed -n 's/^#define HF_VERSION "\(.*\)"$/\1/p' Sources/CVersion/include/CVersion.h)
commit=$(git rev-parse HEAD 2>/dev/null || sed -n 's/^#define HF_ARCHIVE_COMMIT "\([0-9a-f]*\)"$/\1/p' Sources/CVersion/archive.h)
dirty=
if [ -n "$(git status --porcelain -- Package.swift Sources LoadTest deploy scripts proto docs 2>/dev/null)" ]; then dirty=-dirty; fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
debian_version=$version-1
if [ -n "$dirty" ] || ! git tag --points-at HEAD 2>/dev/null | grep -qx "v$version"; then
  debian_version="$version~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).${commit:0:12}${dirty:+.dirty}-1"
fi
