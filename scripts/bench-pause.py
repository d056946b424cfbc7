#!/usr/bin/env python3
"""How long a call waits at most while the server is at its largest chores, beside the same at rest.

    bench-pause.py [--only storm|checkpoint|growth] [--holds N] [--skus N] [--many N] [--repetitions N] [--rate R]
                   [--seconds S] [--durability D] [--server PATH]

storm: a million holds of one unit over 600,000 items are made to fall due at one moment.
checkpoint: a checkpoint of 5 million holds is written (--many).
growth: a server without a hold gets 5 million, at a steady rate, so that all its tables grow.

A steady probe, half Reserve and half GetStock of those items, asks for S seconds at rest and for S seconds around it:
one after the other in each repetition, so that the machine is the same for both. For growth, which takes longer, it
asks all the while, in windows as long as that at rest, and rest is under the same load once the holds are there. Printed:
the longest wait of each window, and the median of the ratios.

Exit status 1 where a median is above 2. The data directory is made in a temporary folder of --folder, which must be
on the disk that is meant.
"""
import argparse, json, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
RELEASE = HERE / ".build/release"
BAR = 2.0
KEY, SKU = b"0" * 16, b"sku-0000000"


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


class Server:
    def __init__(self, options, folder, *flags):
        command = [options.server, "serve", "--port", "0", "--admin-port", "0", "--durability", options.durability, *flags]
        self.data = None
        if options.durability != "memory":
            self.data = pathlib.Path(tempfile.mkdtemp(dir=folder))
            command += ["--data-dir", self.data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"grpc (\S+) admin (\S+) pid", self.process.stdout.readline())
        if not found:
            sys.exit("bench-pause: the server did not come up")
        self.target, self.admin = found.groups()

    def metric(self, name):
        with urllib.request.urlopen(self.admin + "/metrics") as page:
            for line in page.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        sys.exit(f"bench-pause: no metric {name}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def probe(options, folder, server, seed):
    """Both halves of the probe for a window: the longest wait in microseconds."""
    reserve = field(1, KEY) + field(2, field(1, SKU) + b"\x18\x01")
    bodies = {"Reserve": ("ReservationService", reserve, 22), "GetStock": ("StockService", field(1, SKU), 2)}
    running = []
    for index, (method, (service, body, sku)) in enumerate(bodies.items()):
        file = folder / method
        file.write_bytes(body)
        command = [folder / "hammer", "-c", "4", "-m", "100", "-d", options.seconds, "-w", "0.5", "--json",
                   "-r", options.rate / 2, "--seed", seed * 2 + index, "--path", f"/holdfast.v1.{service}/{method}",
                   "--patch", f"{sku + 4}:7:uniform:{options.skus}"]
        if method == "Reserve":
            command += ["--patch", "2:16:hexseq"]
        running.append(subprocess.Popen([*map(str, command), "--body", str(file), server.target], stdout=subprocess.PIPE, text=True))
    longest = 0
    for process in running:
        text, _ = process.communicate()
        report = json.loads(text)
        if process.returncode != 0 or set(report["grpc_status"]) != {"0"}:
            sys.exit(f"bench-pause: the probe failed: {report}")
        longest = max(longest, report["max_us"])
    return longest


def repetition(options, folder, server, number):
    expired = server.metric("holdfast_expired_holds_total")
    began = time.time()
    storm = subprocess.Popen(
        [str(options.load), "run", "--target", server.target, "--scenario", "expiry-storm", "--skus", str(options.skus),
         "--operations", str(options.holds), "--due-together", str(options.due), "--connections", "4",
         "--streams", "50", "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    due = began + options.due
    # The load has stopped, and the storm is further away than the window is long.
    while server.metric("holdfast_live_holds") < options.holds * 0.999:
        time.sleep(0.5)
    made = time.time() - began
    if due - time.time() < 2 * options.seconds:
        sys.exit(f"bench-pause: {made:.0f} s to make the holds: --due must be {made + 3 * options.seconds:.0f} or more")
    time.sleep(1)
    rest = probe(options, folder, server, 2 * number)
    time.sleep(max(0, due - options.seconds / 2 - time.time()))
    stormy = probe(options, folder, server, 2 * number + 1)
    while server.metric("holdfast_expired_holds_total") < expired + options.holds * 0.999:
        time.sleep(0.1)
    lag = server.metric("holdfast_expiry_lag_seconds_max")
    storm.communicate()
    print(f"{number + 1}: rest {rest / 1e3:.2f} ms, storm {stormy / 1e3:.2f} ms, ratio {stormy / rest:.2f}; "
          f"the last hold ended {lag:.2f} s after it was due", flush=True)
    return stormy / rest


def fill(options, server, holds, rate=None):
    """Starts to make live holds over all items, at a rate or as fast as can be: the generator's process."""
    length = ["--rate", str(rate), "--duration", str(holds // rate), "--warm-up", "0"] if rate else ["--operations", str(holds)]
    return subprocess.Popen(
        [str(options.load), "run", "--target", server.target, "--no-check", "--skus", str(options.skus), "--ttl", "86400",
         "--confirm-share", "0", "--release-share", "0", "--duplicate-share", "0", *length,
         "--connections", "4", "--streams", "50"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def storm(options, folder):
    """A million holds fall due."""
    server = Server(options, folder)
    try:
        prepare(options, server)
        return [repetition(options, folder, server, number) for number in range(options.repetitions)]
    finally:
        server.stop()


def checkpoint(options, folder):
    """A checkpoint of many holds is written."""
    # Eight segments start one: of these so soon that what starts it is over at once.
    server = Server(options, folder, "--journal-segment-bytes", str(4 << 20), "--max-reservations", str(3 * options.many + 1_000_000))
    unfinished = server.data / "checkpoint.tmp"
    try:
        prepare(options, server)
        fill(options, server, options.many).wait()
        ratios = []
        for number in range(options.repetitions):
            while unfinished.exists():
                time.sleep(0.1)
            time.sleep(2)
            rest = probe(options, folder, server, 2 * number)
            burst = fill(options, server, options.many)
            while not unfinished.exists():
                time.sleep(0.01)
            burst.kill()
            burst.wait()
            began = time.time()
            busy = probe(options, folder, server, 2 * number + 1)
            while unfinished.exists():
                time.sleep(0.05)
            ratios.append(busy / rest)
            print(f"{number + 1}: rest {rest / 1e3:.2f} ms, checkpoint {busy / 1e3:.2f} ms, ratio {busy / rest:.2f}; of "
                  f"{server.metric('holdfast_live_holds'):,.0f} holds it took {time.time() - began:.1f} s and more", flush=True)
        return ratios
    finally:
        server.stop()


def growth(options, folder):
    """All tables grow from nothing."""
    ratios = []
    for number in range(options.repetitions):
        server = Server(options, folder, "--max-reservations", str(3 * options.many + 1_000_000))
        try:
            prepare(options, server)
            load = fill(options, server, 2 * options.many, options.growth_rate)
            waits = []
            while server.metric("holdfast_live_holds") < options.many:
                waits.append(probe(options, folder, server, 100 * number + len(waits)))
                if load.poll() is not None:
                    sys.exit("bench-pause: the load that fills the tables has ended")
            # Room for as many as there are was made before: now nothing grows for a while.
            rests = [probe(options, folder, server, 100 * number + 99 - each) for each in range(3)]
            load.kill()
            load.wait()
            rest = max(rests)
            ratios.append(max(waits) / rest)
            print(f"{number + 1}: rest {rest / 1e3:.2f} ms ({', '.join(f'{each / 1e3:.2f}' for each in rests)}), growth "
                  f"{max(waits) / 1e3:.2f} ms (median window {statistics.median(waits) / 1e3:.2f} of {len(waits)}), "
                  f"ratio {ratios[-1]:.2f}", flush=True)
        finally:
            server.stop()
    return ratios


def prepare(options, server):
    subprocess.run([options.load, "prepare", "--target", server.target, "--skus", str(options.skus)], check=True,
                   stdout=subprocess.DEVNULL)


CHORES = {"storm": storm, "checkpoint": checkpoint, "growth": growth}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CHORES)
    parser.add_argument("--holds", type=int, default=1_000_000, help="that fall due")
    parser.add_argument("--many", type=int, default=5_000_000, help="holds of the checkpoint, and that tables grow to")
    parser.add_argument("--growth-rate", type=int, default=25_000, help="holds a second while tables grow")
    parser.add_argument("--skus", type=int, default=600_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--due", type=int, default=90, help="seconds from the first hold to the storm")
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--server", type=pathlib.Path, default=RELEASE / "holdfast")
    parser.add_argument("--load", type=pathlib.Path, default=RELEASE / "holdfast-load")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "out")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=options.folder))
    medians = {}
    try:
        subprocess.run(["cc", "-O2", "-o", folder / "hammer", HERE / "tools/bench/hammer.c", "-lnghttp2", "-lssl",
                        "-lcrypto", "-lm"], check=True)
        for name, chore in CHORES.items():
            if options.only in (None, name):
                print(name, flush=True)
                medians[name] = statistics.median(chore(options, folder))
    finally:
        shutil.rmtree(folder)
    for name, median in medians.items():
        print(f"{name}: median ratio {median:.2f} (bar {BAR:.0f})")
    return max(medians.values()) > BAR


if __name__ == "__main__":
    sys.exit(main())
