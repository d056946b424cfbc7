#!/usr/bin/env python3
"""Allocations and reference counting per Reserve in the release server, counted while it runs.

The server is started as it is under scripts/count.c, which interposes malloc, swift_retain and their
kin. Two windows of load differ in length only; what they differ by in counts, divided by what they
differ by in calls, is the cost of one call: connections, growth of pools and start-up cancel out.

Exit status: 0 within the bound, 1 above it, 2 could not run. Needs cc, libnghttp2's headers, and
hammer.c, a load generator that allocates nothing in the server's process (--tools names its folder).
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
RECORD = struct.Struct("56sQ")  # as scripts/count.c writes it


def message():
    """A ReserveRequest, encoded by hand: one unit of the SKU that `prepare` made, a key to patch."""
    key, sku = b"0" * 16, b"sku-0000000"
    reservation_line = b"\x0a" + bytes([len(sku)]) + sku + b"\x18\x01"
    return b"\x0a\x10" + key + b"\x12" + bytes([len(reservation_line)]) + reservation_line


def read_counts(path):
    data = path.read_bytes()
    return {name.rstrip(b"\0").decode(): calls for name, calls in RECORD.iter_unpack(data)}


def run_window(work, port, seconds, seed):
    """Loads the server; returns the number of calls it answered."""
    done = subprocess.run(
        [work / "hammer", "-c", "8", "-m", "50", "-w", "0", "-d", str(seconds), "--seed", str(seed),
         "--path", "/holdfast.v1.ReservationService/Reserve", "--body", work / "body",
         "--patch", "2:16:hexseq", "--json", f"127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise RuntimeError(f"the load failed: {done.stderr.strip()}")
    return json.loads(done.stdout)["grpc_status"]["0"]


def measure(options, work):
    """Returns ({function: calls per RPC}, RPCs that the figures rest on)."""
    for source, target, flags in ((HERE / "count.c", "count.so", ["-shared", "-fPIC"]),
                                  (options.tools / "hammer.c", "hammer", ["-lnghttp2", "-lm"])):
        subprocess.run(["cc", "-O2", "-o", work / target, source, *flags], check=True)
    (work / "body").write_bytes(message())
    server = subprocess.Popen(
        [options.binaries / "holdfast", "serve", "--port", "0", "--admin-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "LD_PRELOAD": str(work / "count.so"), "COUNT_FILE": str(work / "counts")})
    try:
        # holdfast ready: grpc 127.0.0.1:PORT admin http://127.0.0.1:PORT pid N
        target = next(line.split()[3] for line in server.stdout if line.startswith("holdfast ready:"))
        subprocess.run([options.binaries / "holdfast-load", "prepare", "--target", target, "--skus", "1"],
                       check=True, stdout=subprocess.DEVNULL)
        port = target.rsplit(":", 1)[1]
        calls, counts = [], [read_counts(work / "counts")]
        for number, seconds in enumerate((options.seconds, options.seconds, 3 * options.seconds)):
            calls.append(run_window(work, port, seconds, seed=number + 1))
            counts.append(read_counts(work / "counts"))
    finally:
        server.terminate()
        server.wait(30)
    more_calls = calls[2] - calls[1]  # the first window is warm-up
    more = {name: (counts[3][name] - counts[2][name]) - (counts[2][name] - counts[1][name])
            for name in counts[3]}
    return {name: more[name] / more_calls for name in more}, more_calls


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bound", type=float, default=0.01, help="most calls per RPC (0.01)")
    parser.add_argument("--seconds", type=float, default=2, help="length of the short window (2)")
    parser.add_argument("--binaries", type=pathlib.Path, default=HERE.parent / ".build/release")
    parser.add_argument("--tools", type=pathlib.Path, default=HERE.parent / "../shared/bench")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as work:
            per_call, calls = measure(options, pathlib.Path(work))
    except (OSError, RuntimeError, StopIteration, subprocess.SubprocessError) as error:
        print(f"count-hot-path: could not run: {error!r}", file=sys.stderr)
        return 2
    print(f"calls per Reserve, over {calls:,} of them (bound {options.bound})")
    for name, figure in sorted(per_call.items(), key=lambda row: -abs(row[1])):
        if figure != 0:
            print(f"  {name:36} {figure:9.5f}{'  ABOVE THE BOUND' if figure > options.bound else ''}")
    return int(max(per_call.values()) > options.bound)


sys.exit(main())
