#!/usr/bin/env python3
"""Allocations and reference counting per Reserve in the release server, counted while it runs.

The server is started as it is under scripts/count.c, which interposes malloc, swift_retain and their
kin. Two windows of load differ in length only; what they differ by in counts, divided by what they
differ by in calls, is the cost of one call: connections, growth of pools and start-up cancel out.

Exit status: 0 within the bound, 1 above it, 2 could not run. Needs cc, libnghttp2's headers, and
tools/bench/hammer.c, a load generator that allocates nothing in the server's process.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# What scripts/count.c writes: the number of functions, a record for each, then the callers.
FUNCTIONS, RECORD, CALLER = struct.Struct("Q"), struct.Struct("56sQ"), struct.Struct("QQQ")
CALLERS_SHOWN = 12
# Of holdfast-load's windows.
CALLS_PER_SECOND = 50_000


def message():
    """A ReserveRequest, encoded by hand: one unit of the SKU that `prepare` made, a key to patch."""
    key, sku = b"0" * 16, b"sku-0000000"
    reservation_line = b"\x0a" + bytes([len(sku)]) + sku + b"\x18\x01"
    return b"\x0a\x10" + key + b"\x12" + bytes([len(reservation_line)]) + reservation_line


def read_counts(path):
    """{function: calls}, and with (function, calling address) as keys, how many of them came from there."""
    data = path.read_bytes()
    (functions,) = FUNCTIONS.unpack_from(data)
    end = FUNCTIONS.size + functions * RECORD.size
    names, counts = [], collections.Counter()
    for name, calls in RECORD.iter_unpack(data[FUNCTIONS.size:end]):
        names.append(name.rstrip(b"\0").decode())
        counts[names[-1]] = calls
    for address, function, calls in CALLER.iter_unpack(data[end:]):
        counts[names[function], address] += calls
    return counts


def run_window(options, work, port, access, seconds, seed):
    """Loads the server; returns the number of calls it answered."""
    if access:
        # Windows of so many calls, not of so much time.
        calls = int(seconds * CALLS_PER_SECOND)
        subprocess.run(
            [options.binaries / "holdfast-load", "run", "--target", f"localhost:{port}", *access,
             "--connections", "8", "--streams", "50", "--operations", str(calls), "--seed", str(seed)],
            check=True, stdout=subprocess.DEVNULL)
        return calls
    done = subprocess.run(
        [work / "hammer", "-c", "8", "-m", "50", "-w", "0", "-d", str(seconds), "--seed", str(seed),
         "--path", "/holdfast.v1.ReservationService/Reserve", "--body", work / "body",
         "--patch", "2:16:hexseq", "--json", f"127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise RuntimeError(f"the load failed: {done.stderr.strip()}")
    return json.loads(done.stdout)["grpc_status"]["0"]


def grant_access(options, work):
    """The server's flags and holdfast-load's, for `--access`."""
    if options.access == "tls":
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", work / "key.pem", "-out", work / "cert.pem"], check=True, capture_output=True)
        return ["--tls-cert", work / "cert.pem", "--tls-key", work / "key.pem"], [
            "--tls", "--tls-ca", work / "cert.pem"]
    if options.access == "token":
        done = subprocess.run(
            [options.binaries / "holdfast", "token", "create", "--caller", "count", "--role", "admin",
             "--file", work / "tokens"], check=True, stdout=subprocess.PIPE, text=True)
        return ["--tokens", work / "tokens"], ["--metadata", f"authorization=Bearer {done.stdout.strip()}"]
    return [], []


def measure(options, work):
    """Returns (figures per RPC, by read_counts' keys; RPCs they rest on; the program's load address)."""
    for source, target, flags in ((HERE / "count.c", "count.so", ["-shared", "-fPIC"]),
                                  (HERE.parent / "tools/bench/hammer.c", "hammer",
                                   ["-lnghttp2", "-lssl", "-lcrypto", "-lm"])):
        subprocess.run(["cc", "-O2", "-o", work / target, source, *flags], check=True)
    (work / "body").write_bytes(message())
    serve, access = grant_access(options, work)
    server = subprocess.Popen(
        [options.binaries / "holdfast", "serve", "--port", "0", "--admin-port", "0",
         "--durability", options.durability, "--data-dir", work / "data", *serve],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "LD_PRELOAD": str(work / "count.so"), "COUNT_FILE": str(work / "counts")})
    try:
        # holdfast ready: grpc 127.0.0.1:PORT admin http://127.0.0.1:PORT pid N
        target = next(line.split()[3] for line in server.stdout if line.startswith("holdfast ready:"))
        port = target.rsplit(":", 1)[1]
        subprocess.run(
            [options.binaries / "holdfast-load", "prepare", "--target", f"localhost:{port}", *access, "--skus", "1"],
            check=True, stdout=subprocess.DEVNULL)
        calls, counts = [], [read_counts(work / "counts")]
        for number, seconds in enumerate((options.seconds, options.seconds, 3 * options.seconds)):
            calls.append(run_window(options, work, port, access, seconds, seed=number + 1))
            counts.append(read_counts(work / "counts"))
        base = load_address(server.pid)
    finally:
        server.terminate()
        server.wait(30)
    more_calls = calls[2] - calls[1]  # the first window is warm-up
    first, short, long = counts[1:]
    more = {key: (long[key] - short[key]) - (short[key] - first[key]) for key in long}
    return {key: more[key] / more_calls for key in more}, more_calls, base


def load_address(pid):
    """Where the program itself, not its libraries, begins in memory."""
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    return int(maps[0].split("-")[0], 16)


def show_callers(binary, base, per_call, function):
    """The lines of source that make the most of these calls."""
    found = sorted(((figure, key[1]) for key, figure in per_call.items()
                    if isinstance(key, tuple) and key[0] == function and figure > 0.001), reverse=True)
    symbolizer = pathlib.Path(shutil.which("swift")).resolve().parent / "llvm-symbolizer"
    for figure, address in found[:CALLERS_SHOWN]:
        # One byte back: the address is where the call returns to.
        done = subprocess.run([symbolizer, "--inlines", "--basenames", f"--obj={binary}", hex(address - base - 1)],
                              capture_output=True, text=True)
        frames = done.stdout.split("\n\n")[0].splitlines()
        names = subprocess.run(["swift", "demangle", "--compact", "--simplified", *frames[0::2]],
                               capture_output=True, text=True).stdout.splitlines()
        print(f"      {figure:9.5f}  " + " in ".join(
            f"{place} {name}" for place, name in zip(frames[1::2], names)))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bound", type=float, default=0.01, help="most calls per RPC (0.01)")
    parser.add_argument("--seconds", type=float, default=2, help="length of the short window (2)")
    parser.add_argument("--durability", default="memory", help="of the server: memory, os or fsync (memory)")
    parser.add_argument("--access", choices=["plain", "tls", "token"], default="plain",
                        help="how the server is reached (plain); tls and token by holdfast-load. OpenSSL allocates 40 "
                             "bytes now and then for each record: some 0.1 per RPC")
    parser.add_argument("--binaries", type=pathlib.Path, default=HERE.parent / ".build/release")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as work:
            per_call, calls, base = measure(options, pathlib.Path(work))
    except (OSError, RuntimeError, StopIteration, subprocess.SubprocessError) as error:
        print(f"count-hot-path: could not run: {error!r}", file=sys.stderr)
        return 2
    print(f"per Reserve, over {calls:,} of them (bound {options.bound}; what is not listed is 0)")
    functions = {key: figure for key, figure in per_call.items() if isinstance(key, str)}
    for name, figure in sorted(functions.items(), key=lambda row: -row[1]):
        if figure < 0.000005:
            continue
        print(f"  {name:36} {figure:9.5f}{'  ABOVE THE BOUND, from' if figure > options.bound else ''}")
        if figure > options.bound:
            show_callers(options.binaries / "holdfast", base, per_call, name)
    return int(max(functions.values()) > options.bound)


sys.exit(main())
