#!/usr/bin/env bash
# The benchmarks behind the figures in docs/BENCHMARKING.md. Usage: scripts/bench.sh [arguments of tools/bench/ratio.py]
#   1. CPU per Reserve as a ratio to a C server that answers a constant
#   2. the same with 100,000 uniform SKUs
#   3. the store by itself: nanoseconds, bytes per item and per hold
# The exit status is that of a bar which was missed, once all of it has run.
set -euo pipefail
cd "$(dirname "$0")/.."

missed=0
echo "== CPU per Reserve beside the floor: one hot SKU, one loop"
tools/bench/ratio.py --bars b=1.5,c=1.5,e=1.4 "$@" || missed=$?
echo "== the same with 100,000 uniform SKUs"
tools/bench/ratio.py --skus 100000 "$@" || missed=$?

echo "== the store, in process"
.build/release/store-benchmark
exit "$missed"
