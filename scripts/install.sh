#!/usr/bin/env bash
# Installs what `make programs` has built, or takes it away again: `make install`, `make uninstall`.
#
#   scripts/install.sh install|uninstall
#
# DESTDIR       a root to install below, for packages
# PREFIX        /usr/local
# SYSCONFDIR    /etc
# ZSHDIR        PREFIX/share/zsh/site-functions
# RELEASE       where the programs are: .build/release
# STATIC_ONLY   refuses programs that need libraries of the Swift toolchain
#
# What is installed is listed in PREFIX/share/holdfast/installed-files; uninstall goes by that list. A configuration
# that was changed is never overwritten or removed.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/usr/local}
sysconfdir=${SYSCONFDIR:-/etc}
root=${DESTDIR:-}
release=${RELEASE:-.build/release}
zshdir=${ZSHDIR:-$prefix/share/zsh/site-functions}
share=$prefix/share/holdfast
list=$root$share/installed-files
# The units, each with the file of its variables and the folder of its credentials in $sysconfdir/holdfast.
units="holdfast:credentials holdfast-relay:relay holdfast-intake:intake"

stop() { echo "install: $*" >&2; exit 1; }

# Puts a file in its place and into the list.
put() { # MODE FILE PLACE
  install -D -m "$1" "$2" "$root$3"
  echo "$3" >>"$work/list"
}

put_programs() {
  local program
  for program in holdfast holdfast-load; do
    [ -x "$release/$program" ] || stop "$release/$program is missing: make programs"
    if readelf -d "$release/$program" | grep -Eq 'libswift|libFoundation|libdispatch'; then
      [ -z "${STATIC_ONLY:-}" ] || stop "$release/$program needs the Swift toolchain's libraries: make programs"
    fi
    # Symbols are four fifths of the file; backtraces of a release build are read beside $release.
    strip -o "$work/$program" "$release/$program"
    put 0755 "$work/$program" "$prefix/bin/$program"
    # It is read, and not run.
    "$release/$program" --generate-completion-script bash | sed '1{/^#!/d}' >"$work/completion"
    put 0644 "$work/completion" "$prefix/share/bash-completion/completions/$program"
    "$release/$program" --generate-completion-script zsh >"$work/completion"
    put 0644 "$work/completion" "$zshdir/_$program"
    "$release/$program" --generate-completion-script fish >"$work/completion"
    put 0644 "$work/completion" "$prefix/share/fish/vendor_completions.d/$program.fish"
    python3 scripts/manual-pages.py "$release/$program" "$work/man"
  done
  local page
  for page in "$work"/man/*.1; do put 0644 "$page" "$prefix/share/man/man1/${page##*/}"; done
}

put_units() {
  local unit name default credentials
  for unit in $units; do
    name=${unit%:*} default=$root$sysconfdir/default/${unit%:*} credentials=$root$sysconfdir/holdfast/${unit#*:}
    sed -e "s|@bindir@|$prefix/bin|" -e "s|@sysconfdir@|$sysconfdir|" "deploy/systemd/$name.service" >"$work/unit"
    put 0644 "$work/unit" "$prefix/lib/systemd/system/$name.service"
    # A configuration is its owner's.
    [ -e "$default" ] || install -D -m 0644 "deploy/systemd/$name.default" "$default"
    [ -e "$credentials" ] || install -d -m 0700 "$credentials"
  done
  put 0644 deploy/systemd/holdfast.sysusers "$prefix/lib/sysusers.d/holdfast.conf"
}

# For people, clients and monitoring.
put_documents() {
  local file
  # Of the pictures, those that these pages show.
  for file in README.md SECURITY.md CHANGELOG.md docs/*.md $(sed -n 's|^!\[.*\](\(docs/\)\{0,1\}\(pictures/[^)]*\))$|docs/\2|p' \
    README.md docs/*.md | LC_ALL=C sort -u); do
    put 0644 "$file" "$prefix/share/doc/holdfast/$file"
  done
  while read -r file; do
    put 0644 "$file" "$share/${file#deploy/}"
  done < <(find proto deploy -type f ! -path 'deploy/debian/*' ! -path 'deploy/systemd/*' | LC_ALL=C sort)
}

install_all() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  put_programs
  put_units
  put_documents
  echo "$share/installed-files" >>"$work/list"
  install -D -m 0644 "$work/list" "$list"
  [ -n "$root" ] || cat >&2 <<END
installed below $prefix. Next, for a service:
  systemd-sysusers && systemctl daemon-reload && systemctl enable --now holdfast
END
}

uninstall_all() {
  [ -e "$list" ] || stop "$list is missing: nothing was installed there"
  local file files
  mapfile -t files <"$list"
  for file in "${files[@]}"; do rm -f "$root$file"; done
  local unit default
  for unit in $units; do
    default=$root$sysconfdir/default/${unit%:*}
    if cmp -s "deploy/systemd/${unit%:*}.default" "$default"; then rm -f "$default"; fi
    rmdir --ignore-fail-on-non-empty "$root$sysconfdir/holdfast/${unit#*:}" 2>/dev/null || true
  done
  # Folders that hold nothing any more, as far up as they are Holdfast's.
  for file in "$share" "$prefix/share/doc/holdfast"; do
    [ ! -d "$root$file" ] || find "$root$file" -depth -type d -empty -delete
  done
  rmdir --ignore-fail-on-non-empty "$root$sysconfdir/holdfast" 2>/dev/null || true
}

case ${1:-} in
  install) install_all ;;
  uninstall) uninstall_all ;;
  *) stop "install or uninstall?" ;;
esac
