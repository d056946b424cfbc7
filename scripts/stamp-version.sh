#!/usr/bin/env bash
# Writes the commit that is built into Sources/CVersion/stamp.c, which git does not see. Not touched where it says so
# already: only another commit links the programs again. Without git (a source archive) the archive says it itself.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=Sources/CVersion/stamp.c
built=(Package.swift Sources LoadTest)
# A checkout of its own, and not a folder in somebody else's.
if [ "$(git rev-parse --show-toplevel 2>/dev/null)" != "$(pwd -P)" ] || ! commit=$(git rev-parse HEAD 2>/dev/null); then
  rm -f "$stamp"
  exit 0
fi
[ -z "$(git status --porcelain -- "${built[@]}")" ] || commit+=-dirty
text="// Made by scripts/stamp-version.sh.
const char *hf_version_stamp(void);
const char *hf_version_stamp(void) { return \"$commit\"; }"
[ "$(cat "$stamp" 2>/dev/null)" = "$text" ] || printf '%s\n' "$text" >"$stamp"
