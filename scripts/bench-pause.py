#!/usr/bin/env python3
"""How long a call waits at most while a great many holds expire, beside the same at rest.

    bench-pause.py [--holds N] [--skus N] [--repetitions N] [--rate R] [--seconds S] [--durability D] [--server PATH]

A million holds of one unit over 600,000 items are made to fall due at one moment. A steady probe, half Reserve and
half GetStock of those items, asks for S seconds before that (rest) and for S seconds around it (storm): one after the
other in each repetition, so that the machine is the same for both. Printed: the longest wait of each window, the time
until all holds have ended, and the median of the ratios.

Exit status 1 where the median is above 2. The data directory is made in a temporary folder of --folder, which must be
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
    def __init__(self, options, folder):
        command = [options.server, "serve", "--port", "0", "--admin-port", "0", "--durability", options.durability]
        if options.durability != "memory":
            command += ["--data-dir", tempfile.mkdtemp(dir=folder)]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holds", type=int, default=1_000_000)
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
    server = None
    try:
        subprocess.run(["cc", "-O2", "-o", folder / "hammer", HERE / "tools/bench/hammer.c", "-lnghttp2", "-lssl",
                        "-lcrypto", "-lm"], check=True)
        server = Server(options, folder)
        subprocess.run([options.load, "prepare", "--target", server.target, "--skus", str(options.skus)], check=True,
                       stdout=subprocess.DEVNULL)
        ratios = [repetition(options, folder, server, number) for number in range(options.repetitions)]
    finally:
        if server:
            server.stop()
        shutil.rmtree(folder)
    median = statistics.median(ratios)
    print(f"median ratio {median:.2f} (bar {BAR:.0f})")
    return median > BAR


if __name__ == "__main__":
    sys.exit(main())
