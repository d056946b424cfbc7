#!/usr/bin/env bash
# The benchmarks behind the figures in the README. Usage: scripts/bench.sh [FOLDER of ratio.py]
#   1. CPU per Reserve as a ratio to a C server that answers a constant (ratio.py, where it is at hand)
#   2. one hot SKU beside 100,000 uniform ones
#   3. the store by itself: nanoseconds, bytes per item and per hold
# The exit status is that of a bar which was missed, once all of it has run.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${1:-../shared/bench}

missed=0
if [ -e "$tools/ratio.py" ]; then
  echo "== CPU per Reserve beside the floor: one hot SKU, one loop"
  python3 "$tools/ratio.py" --bars b=1.5,c=1.5,e=1.4 || missed=$?
  echo "== the same with 100,000 uniform SKUs"
  python3 "$tools/ratio.py" --skus 100000 || missed=$?
else
  echo "bench: no ratio.py in $tools (name its folder: make bench TOOLS=FOLDER); only the store runs" >&2
fi

echo "== the store, in process"
.build/release/store-benchmark
exit "$missed"
