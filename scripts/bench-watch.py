#!/usr/bin/env python3
"""What the change feed costs the server, and how fast it is.

    bench-watch.py [--repetitions N] [--seconds S] [--durability fsync,memory] [--only cost,rate,expiry] [--server PATH]

cost    CPU of the server per Reserve at 8 connections x 100 streams: without a watcher, with 100 that wait for an item
        which nobody touches, and with one that reads everything. A fresh server for each, one after the other in each
        repetition; the median of the ratios. In memory, where decisions are kept only while somebody watches, also
        --history beside it: what the keeping alone costs.
rate    Events a second that one reader gets of a load of 110,000 Reserves/s, and that it has missed none.
expiry  How long after a hold fell due its watcher knows, at 1,000 holds of a second each second.

Server on CPU 0, load and reader on CPU 1. Exit status 1 where a bar is missed: 100 that wait cost 10 % at most (less is
no difference here), one that reads everything 10 % (--bar reader=1.1), 100,000 events/s, a second. The data directory is
made in a temporary folder of --folder, which must be on the disk that is meant.
"""
import argparse, json, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
RELEASE = HERE / ".build/release"
KEY, SKU, RESERVE = b"0" * 16, b"sku-0000000", "/holdfast.v1.ReservationService/Reserve"
BARS = {"idle": 1.10, "reader": 1.10, "rate": 100_000, "expiry": 1.0}


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def reserve(ttl=None):
    body = field(1, KEY) + field(2, field(1, SKU) + b"\x18\x01")
    return body if ttl is None else body + field(3, b"\x08" + bytes([ttl]))


class Server:
    def __init__(self, options, folder, durability, *flags):
        command = ["taskset", "-c", "0", options.server, "serve", "--port", "0", "--admin-port", "0", "--loops", "1",
                   "--durability", durability, *flags]
        self.data = None
        if durability != "memory":
            self.data = tempfile.mkdtemp(dir=folder)
            command += ["--data-dir", self.data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"grpc (\S+) admin (\S+) pid (\d+)", self.process.stdout.readline())
        if not found:
            sys.exit("bench-watch: the server did not come up")
        self.target, self.admin, self.pid = found.groups()
        subprocess.run([options.load, "prepare", "--target", self.target, "--skus", "1"], check=True, stdout=subprocess.DEVNULL)

    def metric(self, name):
        with urllib.request.urlopen(self.admin + "/metrics") as page:
            for line in page.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        sys.exit(f"bench-watch: no metric {name}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        if self.data:
            shutil.rmtree(self.data)


class Watchers:
    """So many watches, of everything or of one item, from now on."""

    def __init__(self, options, server, count, sku=None):
        command = ["taskset", "-c", "1", options.reader, server.target, str(count), *([sku] if sku else [])]
        self.process = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "watching\n":
            sys.exit("bench-watch: the reader did not come up")

    def end(self, server):
        """What they saw, once they have all that was decided."""
        deadline = time.monotonic() + 60
        while server.metric("holdfast_watch_lag_bytes") > 0:
            if time.monotonic() > deadline:
                sys.exit("bench-watch: the reader does not catch up")
            time.sleep(0.1)
        text, _ = self.process.communicate()
        if self.process.returncode != 0:
            sys.exit("bench-watch: the reader has failed")
        return json.loads(text)


def hammer(folder, server, body, seconds, connections, streams, *flags):
    file = folder / "body"
    file.write_bytes(body)
    command = ["taskset", "-c", "1", folder / "hammer", "-c", connections, "-m", streams, "-d", seconds, "-w", "0.5", "--path",
               RESERVE, "--body", file, "--patch", "2:16:hexseq", "--pid", server.pid, "--json", *flags, server.target]
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    if done.returncode != 0 or set(report["grpc_status"]) != {"0"}:
        sys.exit(f"bench-watch: the load failed: {report}")
    return report


def cost(options, folder, durability):
    """Microseconds of the server per Reserve, by who watches; and the ratios to nobody."""
    cells = {"nobody": (0, ()), "idle": (100, ()), "reader": (1, ())}
    if durability == "memory":
        cells = {"nobody": (0, ()), "kept": (0, ("--history", str(64 << 20))), **cells}
    figures = {name: [] for name in cells}
    for _ in range(options.repetitions):
        for name, (watchers, flags) in cells.items():
            server = Server(options, folder, durability, *flags)
            try:
                watching = watchers and Watchers(options, server, watchers, "untouched" if watchers > 1 else None)
                report = hammer(folder, server, reserve(), options.seconds, 8, 100)
                seen = watching.end(server) if watching else None
                if name == "reader" and seen["events"] < report["requests"]:
                    sys.exit(f"bench-watch: {seen['events']} events of {report['requests']} reserves")
                figures[name].append(report["server_cpu_us"])
            finally:
                server.stop()
    missed = False
    for name, values in figures.items():
        ratios = [a / b for a, b in zip(values, figures["nobody"])]
        ratio = statistics.median(ratios)
        bar = options.bars.get(name)
        verdict = "" if bar is None else f"  bar {bar}: {'ok' if ratio <= bar else 'MISSED'}"
        missed |= bar is not None and ratio > bar
        print(f"{durability:6}  {name:7} {statistics.median(values):6.2f} us/Reserve  {ratio:5.2f} "
              f"({min(ratios):.2f}-{max(ratios):.2f}){verdict}", flush=True)
    return missed


def rate(options, folder, durability):
    rates = []
    for _ in range(options.repetitions):
        server = Server(options, folder, durability)
        try:
            watching = Watchers(options, server, 1)
            report = hammer(folder, server, reserve(), options.seconds, 8, 100, "-r", "110000")
            lag = server.metric("holdfast_watch_lag_bytes")
            seen = watching.end(server)
            if seen["events"] < report["requests"]:
                sys.exit(f"bench-watch: {seen['events']} events of {report['requests']} reserves")
            rates.append(seen["events"] / seen["seconds"])
        finally:
            server.stop()
    median = statistics.median(rates)
    print(f"{durability:6}  one reader {median:8.0f} events/s ({min(rates):.0f}-{max(rates):.0f}), {lag:.0f} bytes behind when "
          f"the load ended  bar {options.bars['rate']}: {'ok' if median >= options.bars['rate'] else 'MISSED'}", flush=True)
    return median < options.bars["rate"]


def expiry(options, folder, durability):
    worst = []
    for _ in range(options.repetitions):
        server = Server(options, folder, durability)
        try:
            watching = Watchers(options, server, 1)
            report = hammer(folder, server, reserve(ttl=1), options.seconds, 4, 10, "-r", "1000")
            while server.metric("holdfast_live_holds") > 0:
                time.sleep(0.1)
            seen = watching.end(server)
            if seen["expired"] < report["requests"]:
                sys.exit(f"bench-watch: {seen['expired']} expiries of {report['requests']} holds")
            worst.append(seen["expiry_seconds_max"])
        finally:
            server.stop()
    median = statistics.median(worst)
    print(f"{durability:6}  the last expiry was seen {median:.2f} s after it was due ({min(worst):.2f}-{max(worst):.2f})  "
          f"bar {options.bars['expiry']} s: {'ok' if median <= options.bars['expiry'] else 'MISSED'}", flush=True)
    return median > options.bars["expiry"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--durability", default="fsync,memory", type=lambda text: text.split(","))
    parser.add_argument("--only", default="cost,rate,expiry", type=lambda text: text.split(","))
    parser.add_argument("--bar", action="append", default=[], metavar="NAME=VALUE", help="another bar (may be repeated)")
    parser.add_argument("--server", type=pathlib.Path, default=RELEASE / "holdfast")
    parser.add_argument("--load", type=pathlib.Path, default=RELEASE / "holdfast-load")
    parser.add_argument("--reader", type=pathlib.Path, default=RELEASE / "watch-benchmark")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "out")
    options = parser.parse_args()
    options.bars = {**BARS, **{name: float(value) for name, value in (bar.split("=") for bar in options.bar)}}
    options.folder.mkdir(exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=options.folder))
    try:
        subprocess.run(["cc", "-O2", "-o", folder / "hammer", HERE / "tools/bench/hammer.c", "-lnghttp2", "-lssl", "-lcrypto",
                        "-lm"], check=True)
        measures = {"cost": cost, "rate": rate, "expiry": expiry}
        missed = [measures[name](options, folder, durability) for name in options.only for durability in options.durability]
    finally:
        shutil.rmtree(folder)
    return any(missed)


if __name__ == "__main__":
    sys.exit(main())
