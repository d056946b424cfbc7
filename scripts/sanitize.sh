#!/usr/bin/env bash
# The Swift tests, and a small load on a real server, under ThreadSanitizer and AddressSanitizer.
# Usage: scripts/sanitize.sh [thread] [address]
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- thread address

# The first finding ends the process that has it, so that it cannot be overlooked.
export TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/scripts/thread-sanitizer.suppressions"
export ASAN_OPTIONS=detect_leaks=0
for sanitizer in "$@"; do
  build=.build-$sanitizer
  flags=(--sanitize "$sanitizer" --scratch-path "$build")
  echo "== $sanitizer: the tests"
  swift build --build-tests "${flags[@]}"
  # One at a time: side by side, tests with time limits of their own would starve under a sanitizer.
  swift test --skip-build --no-parallel --skip TidyTests "${flags[@]}"
  echo "== $sanitizer: two loops, a hot SKU among 1,000, carts, duplicates, checkpoints"
  # The smallest segments, so that several checkpoints are made meanwhile.
  HOLDFAST_LOOPS=2 HOLDFAST_JOURNAL_SEGMENT_BYTES=262144 HOLDFAST_BINARIES=$build/debug scripts/demo.sh \
    --skus 1000 --hot-share 0.3 --lines 1-3 --threads 1 --connections 16 --streams 8 --operations 30000 \
    --duplicate-share 0.02
done
