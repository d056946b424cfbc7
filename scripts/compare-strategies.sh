#!/usr/bin/env bash
# The server's four strategies of concurrency control beside each other on this machine: in a closed loop,
# then all at the same rate, half of what the slowest carried; with 10,000 SKUs that hardly meet, carts of
# several lines, and one SKU that everybody wants; in memory, and one column with every answer synced.
# Writes out/strategies.html, .json and .txt; under five minutes. Usage, after `make build`:
#   scripts/compare-strategies.sh                       3 rounds of 0.8 s, 144 runs
#   scripts/compare-strategies.sh --repeat 8 --duration 3 --streams 10     arguments of holdfast-load compare
#   HOLDFAST_BINARIES=FOLDER scripts/compare-strategies.sh                 another build
# The exit status is that of holdfast-load compare: 1 where a strategy violated an invariant.
set -euo pipefail
cd "$(dirname "$0")/.."
binaries=$(realpath "${HOLDFAST_BINARIES:-.build/release}")
serve="$binaries/holdfast serve --port {port} --admin-port {admin} --data-dir {data} --loops 2"
serve+=" --log-level warning --journal-segment-bytes 16777216 --durability {durability} --concurrency"
mkdir -p out

servers=()
for strategy in optimistic locking single-writer queued; do
  servers+=(--server "$strategy=$serve $strategy")
done
# On the disk of the checkout: a folder in memory would sync for nothing.
exec "$binaries/holdfast-load" compare "${servers[@]}" --with durability=memory,fsync \
  --workload LoadTest/workloads/contention-low.json --workload LoadTest/workloads/contention-carts.json \
  --workload LoadTest/workloads/contention-extreme.json --peak-share 0.5 \
  --connections 8 --streams 100 --threads 2 --repeat 3 --duration 0.8 --warm-up 0.2 --folder out \
  --title "Four answers to overselling" --notes scripts/strategies.txt \
  --html out/strategies.html --json out/strategies.json --text out/strategies.txt "$@"
