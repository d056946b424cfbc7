#!/usr/bin/env bash
# Runs commands beside each other and shows what each printed once it has ended. Fails if one of them fails.
set -euo pipefail

outputs=$(mktemp -d "${TMPDIR:-/tmp}/holdfast-side-by-side-XXXXXX")
trap 'rm -rf "$outputs"' EXIT
processes=()
for command in "$@"; do
  bash -c "$command" >"$outputs/${#processes[@]}" 2>&1 &
  processes+=($!)
done
status=0
for index in "${!processes[@]}"; do
  wait "${processes[$index]}" || status=$?
  cat "$outputs/$index"
done
exit "$status"
