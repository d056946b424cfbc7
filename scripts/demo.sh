#!/usr/bin/env bash
# The main job, end to end: starts the release server on free loopback ports, hammers one hot SKU
# from the load generator, shows its verdict, stops the server. The exit status is the verdict's:
# 0 every invariant holds, 1 violated, 2 could not run.
#
#   scripts/demo.sh                         a flash sale, then a mixed load
#   scripts/demo.sh --skus 100 --rate 5000  a load of your own: arguments of `holdfast-load run`
#   HOLDFAST_BINARIES=FOLDER scripts/demo.sh    another build
set -euo pipefail
cd "$(dirname "$0")/.."
binaries=${HOLDFAST_BINARIES:-.build/release}
[ $# -gt 0 ] || set -- --demo
work=$(mktemp -d)
server=
# A kill -9 of this script runs no trap, and is to end the server all the same: see setpriv(1).
tied=()
if command -v setpriv >/dev/null; then
  # Whose parent has ended before the kernel was asked would never hear of it.
  tied=(setpriv --pdeathsig KILL -- sh -c '[ "$PPID" = "$0" ] && exec "$@"' $$)
fi

clean_up() {
  if [ -n "$server" ]; then
    # The server ends by itself within its drain bound; past that it is not worth waiting for.
    kill -TERM "$server" 2>/dev/null || true
    for _ in $(seq 150); do
      kill -0 "$server" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

: >"$work/ready"
# As users get it: every answer is on the disk first.
"${tied[@]}" "$binaries/holdfast" serve --port 0 --admin-port 0 --data-dir "$work/data" >"$work/ready" 2>"$work/log" &
server=$!
for _ in $(seq 200); do
  grep -q '^holdfast ready:' "$work/ready" && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.05
done
# holdfast ready: grpc 127.0.0.1:PORT admin http://127.0.0.1:PORT pid N
read -r _ _ _ target _ admin _ < <(grep '^holdfast ready:' "$work/ready") || {
  cat "$work/log" >&2
  echo "demo: the server did not come up; its log is above" >&2
  exit 2
}
echo "server: $binaries/holdfast on $target, metrics on $admin/metrics, every answer synced to the disk"

status=0
"${tied[@]}" "$binaries/holdfast-load" run --target "$target" --admin "${admin#http://}" --server-pid "$server" "$@" ||
  status=$?
if ! kill -0 "$server" 2>/dev/null; then
  cat "$work/log" >&2
  echo "demo: the server ended under the load; its log is above" >&2
fi
exit "$status"
