#!/usr/bin/env python3
"""What a durable decision costs the server over a ReserveStream, beside unary calls, in one run.

    bench-stream.py [--repetitions N] [--seconds S] [--durability fsync] [--bar NAME=VALUE] [--server PATH]

unary     8 connections x 100 calls at the same time: CPU of the server per Reserve, what the others are held against
stream    one stream, one reserve in each message, 4,000 messages in flight
batch     one stream, 1,000 reserves in each message, 16 in flight, of one SKU
skus      the same over 200,000 SKUs drawn uniformly
sold-out  the same as batch, where nothing is left: refusals in-band; a figure
pause     the longest iteration of the event loop while four connections send batches of 8,192; a figure

A fresh server for each, one after the other in each repetition: server on CPU 0, load on CPU 1, --durability fsync (every
answer is on the disk). The median of the ratios counts. Exit status 1 where a bar is missed: stream 0.40, batch 0.25,
skus 0.30 of a unary call. Also prints what one core decides in a second: a million through the microseconds of one.
The data directory is made in a temporary folder of --folder, which must be on the disk that is meant.
"""
import argparse, json, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
RELEASE = HERE / ".build/release"
BARS = {"stream": 0.40, "batch": 0.25, "skus": 0.30}
SKUS = 200_000
STREAMS = {
    "stream": ("-i", "4000"),
    "batch": ("-i", "16", "-b", "1000"),
    "skus": ("-i", "16", "-b", "1000", "-s", str(SKUS)),
    "sold-out": ("-i", "16", "-b", "1000"),
    "pause": ("-c", "4", "-i", "2", "-b", "8192"),
}


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


class Server:
    def __init__(self, options, folder, *prepare):
        command = ["taskset", "-c", "0", options.server, "serve", "--port", "0", "--admin-port", "0", "--loops", "1",
                   "--durability", options.durability]
        self.data = None
        if options.durability != "memory":
            self.data = tempfile.mkdtemp(dir=folder)
            command += ["--data-dir", self.data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"grpc (\S+) admin (\S+) pid (\d+)", self.process.stdout.readline())
        if not found:
            sys.exit("bench-stream: the server did not come up")
        self.target, self.admin, self.pid = found.groups()
        subprocess.run([options.load, "prepare", "--target", self.target, *prepare], check=True, stdout=subprocess.DEVNULL)

    def iterations(self):
        """How many iterations of the loop were at most so long, by seconds."""
        with urllib.request.urlopen(self.admin + "/metrics") as page:
            found = re.findall(r'holdfast_turn_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)', page.read().decode())
        return {float(bound): int(count) for bound, count in found}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        if self.data:
            shutil.rmtree(self.data)


def report_of(command):
    done = subprocess.run(["taskset", "-c", "1", *map(str, command)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("bench-stream: the load failed")
    return json.loads(done.stdout)


def unary(options, folder):
    server = Server(options, folder, "--skus", "1")
    try:
        body = folder / "body"
        body.write_bytes(field(1, b"0" * 16) + field(2, field(1, b"sku-0000000") + b"\x18\x01"))
        report = report_of([folder / "hammer", "-c", 8, "-m", 100, "-d", options.seconds, "-w", 0.5, "--path",
                            "/holdfast.v1.ReservationService/Reserve", "--body", body, "--patch", "2:16:hexseq", "--pid",
                            server.pid, "--json", server.target])
        if set(report["grpc_status"]) != {"0"}:
            sys.exit(f"bench-stream: the load failed: {report}")
        return report["server_cpu_us"]
    finally:
        server.stop()


def stream(options, folder, name):
    skus = str(SKUS) if name == "skus" else "1"
    server = Server(options, folder, "--skus", skus, *(["--units", "1"] if name == "sold-out" else []))
    try:
        report = report_of([folder / "stream", *STREAMS[name], "-d", options.seconds, "-w", 0.5, "-p", server.pid, server.target])
        if (report["refused"] > 0) != (name == "sold-out"):
            sys.exit(f"bench-stream: {report['refused']} of {report['decisions']} were refused")
        report["iterations"] = server.iterations()
        return report
    finally:
        server.stop()


def longest(iterations):
    """The bound that all iterations but one in a hundred kept, and that all kept."""
    total = max(iterations.values())
    return tuple(min(bound for bound, count in iterations.items() if count >= part * total) for part in (0.99, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--only", default=",".join(STREAMS), type=lambda text: text.split(","))
    parser.add_argument("--bar", action="append", default=[], metavar="NAME=VALUE", help="another bar (may be repeated)")
    parser.add_argument("--server", type=pathlib.Path, default=RELEASE / "holdfast")
    parser.add_argument("--load", type=pathlib.Path, default=RELEASE / "holdfast-load")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "out")
    options = parser.parse_args()
    bars = {**BARS, **{name: float(value) for name, value in (bar.split("=") for bar in options.bar)}}
    options.folder.mkdir(exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=options.folder))
    calls, reports = [], {name: [] for name in options.only}
    try:
        tools = HERE / "tools/bench"
        subprocess.run(["cc", "-O2", "-o", folder / "hammer", tools / "hammer.c", "-lnghttp2", "-lssl", "-lcrypto", "-lm"], check=True)
        subprocess.run(["cc", "-O2", "-o", folder / "stream", tools / "stream.c"], check=True)
        for _ in range(options.repetitions):
            calls.append(unary(options, folder))
            for name in options.only:
                reports[name].append(stream(options, folder, name))
    finally:
        shutil.rmtree(folder)
    print(f"{options.durability}  unary    {statistics.median(calls):5.2f} us of the server per decision")
    missed = False
    for name, found in reports.items():
        costs = [report["server_cpu_us"] for report in found]
        cost, ratios = statistics.median(costs), [a / b for a, b in zip(costs, calls)]
        ratio, bar = statistics.median(ratios), bars.get(name)
        verdict = "" if bar is None else f"  bar {bar}: {'ok' if ratio <= bar else 'MISSED'}"
        missed |= bar is not None and ratio > bar
        wait = statistics.median(report["p50_us"] for report in found)
        print(f"{options.durability}  {name:8} {cost:5.2f} us  {ratio:5.2f} ({min(ratios):.2f}-{max(ratios):.2f}){verdict}; "
              f"{1e6 / cost:9,.0f} a second of one core; {statistics.median(report['per_second'] for report in found):9,.0f} were "
              f"decided; p50 {wait / 1000:.1f} ms")
        if name == "pause":
            usual, most = zip(*(longest(report["iterations"]) for report in found))
            print(f"{options.durability}  {name:8} 99 of 100 iterations took {max(usual) * 1000:g} ms at most, all {max(most) * 1000:g} ms")
    return missed


if __name__ == "__main__":
    sys.exit(main())
