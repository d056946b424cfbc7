#!/usr/bin/env python3
"""What a Replace costs the server beside the Release and the Reserve that it takes the place of, as whole calls.

    bench-replace.py [--scenarios bc] [--repetitions N] [--seconds S] [--skus N] [--holds N] [--bar RATIO] [--server PATH]

Holds are made ahead, of one unit of a SKU drawn uniformly. Then one kind of call after the other, each on its own: Reserve,
Replace (each hold gets a unit of another SKU), Release: CPU of the server per call. Two customers' calls never meet, so
what is compared is the work alone: one call and one decision beside two. Decisions are remembered as by default.

A fresh server for each repetition (CPU 0, --durability memory, one loop), load on CPU 1, 8 connections x 10 calls at the
same time (b) and 8 x 100 (c). The median of the ratios counts. Exit status 1 where it is above the bar, or a call was not OK.
"""
import argparse, importlib.resources, json, pathlib, re, signal, statistics, subprocess, sys, tempfile

import grpc
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent.parent
SCENARIOS = {"b": (8, 10), "c": (8, 100)}
ID_BYTES = 20
BATCH = 8000


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def line(sku=0):
    return field(1, b"sku-%07d" % sku) + b"\x18\x01"


KEY, ID = b"0" * 16, b"0" * ID_BYTES
MESSAGES = {
    "Reserve": field(1, KEY) + field(2, line()),
    "Replace": field(1, KEY) + field(2, ID) + field(3, line()),
    "Release": field(1, ID),
}


def generate_stubs(folder):
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    protos = sorted((HERE / "proto/holdfast").rglob("*.proto"))
    if protoc.main(["protoc", f"-I{HERE / 'proto'}", f"-I{well_known}", f"--python_out={folder}", *map(str, protos)]):
        sys.exit("bench-replace: no messages")
    sys.path.insert(0, str(folder))


def make_holds(target, options):
    """The ids of so many holds."""
    from holdfast.v1 import reservation_pb2
    ids = []
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/holdfast.v1.ReservationService/BatchReserve",
                                   response_deserializer=reservation_pb2.BatchReserveResponse.FromString)
        while len(ids) < options.holds:
            requests = (field(1, b"made-%011d" % number) + field(2, line(number * 7919 % options.skus))
                        for number in range(len(ids), len(ids) + BATCH))
            response = call(b"".join(field(1, request) for request in requests))
            ids += [result.held.reservation_id.encode() for result in response.results]
    if any(len(id) != ID_BYTES for id in ids):
        sys.exit("bench-replace: a hold was not made")
    return b"".join(ids)


def hammer(folder, options, scenario, method, target, pid):
    connections, streams = SCENARIOS[scenario]
    message = MESSAGES[method]
    (folder / "body").write_bytes(message)
    patches = []
    if KEY in message and method != "Release":
        patches.append("2:16:hexseq")
    if method != "Reserve":
        patches.append(f"{message.index(field(2 if method == 'Replace' else 1, ID)) + 2}:{ID_BYTES}:file:{folder / 'ids'}")
    if method != "Release":
        patches.append(f"{message.index(b'sku-') + 4}:7:uniform:{options.skus}")
    command = ["taskset", "-c", "1", str(folder / "hammer"), "-c", str(connections), "-m", str(streams),
               "-d", str(options.seconds), "-w", "0.3", "--path", f"/holdfast.v1.ReservationService/{method}",
               "--body", str(folder / "body"), "--pid", str(pid), "--json"]
    for patch in patches:
        command += ["--patch", patch]
    done = subprocess.run([*command, target], capture_output=True, text=True, timeout=options.seconds + 60)
    if not done.stdout.strip():
        sys.exit(f"bench-replace: no answer from the client: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    if result["requests"] != result["grpc_status_measured"].get("0", 0):
        sys.exit(f"bench-replace: {method}: not all were OK: {result['grpc_status_measured']}")
    if method != "Reserve" and result["sent"] > options.holds:
        sys.exit(f"bench-replace: {method}: {result['sent']:.0f} calls for {options.holds} holds: give --holds more")
    return result["server_cpu_us"]


def repetition(folder, options, scenario):
    """CPU per call of each method, in microseconds."""
    command = ["taskset", "-c", "0", options.server, "serve", "--port", "0", "--admin-port", "0", "--loops", "1",
               "--durability", "memory"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        found = re.search(r"grpc (\S+) .*pid (\d+)", process.stdout.readline())
        if not found:
            sys.exit("bench-replace: the server did not come up")
        target, pid = found.groups()
        subprocess.run([options.load, "prepare", "--target", target, "--skus", str(options.skus)],
                       check=True, stdout=subprocess.DEVNULL)
        (folder / "ids").write_bytes(make_holds(target, options))
        return {method: hammer(folder, options, scenario, method, target, pid) for method in MESSAGES}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default="bc")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--skus", type=int, default=10_000)
    parser.add_argument("--holds", type=int, default=800_000)
    parser.add_argument("--bar", type=float, default=0.7)
    parser.add_argument("--server", default=str(HERE / ".build/release/holdfast"))
    parser.add_argument("--load", default=str(HERE / ".build/release/holdfast-load"))
    options = parser.parse_args()
    options.holds = -(-options.holds // BATCH) * BATCH
    is_missed = False
    with tempfile.TemporaryDirectory(prefix="bench-replace-") as folder:
        folder = pathlib.Path(folder)
        generate_stubs(folder)
        subprocess.run(["cc", "-O2", "-o", folder / "hammer", HERE / "tools/bench/hammer.c",
                        "-lnghttp2", "-lssl", "-lcrypto", "-lm"], check=True)
        print("cell  Replace µs  Release µs  Reserve µs  ratio (min–max)")
        for scenario in options.scenarios:
            runs = [repetition(folder, options, scenario) for _ in range(options.repetitions)]
            ratios = [run["Replace"] / (run["Release"] + run["Reserve"]) for run in runs]
            ratio = statistics.median(ratios)
            is_missed |= ratio > options.bar
            costs = "".join(f"{statistics.median(run[name] for run in runs):12.2f}" for name in ("Replace", "Release", "Reserve"))
            print(f"{scenario} {costs}    {ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})  "
                  f"bar {options.bar}: {'ok' if ratio <= options.bar else 'MISSED'}", flush=True)
    sys.exit(is_missed)


main()
