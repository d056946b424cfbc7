#!/usr/bin/env python3
"""What durability costs: the same server with --durability fsync beside --durability memory, interleaved.

    bench-journal.py [--repetitions N] [--seconds S]

  1. CPU per Reserve at 8 x 10 and 8 x 100 streams, as ratios (tools/bench/ratio.py); bars 1.8 and 1.35
  2. latency in an open loop at half of the durable server's peak rate: p50 and p99 of both
  3. bytes of journal per one-line reserve with a UUID for a key

Exit status 1 where a bar is missed. The data directories are made beside each other in a temporary folder of
--folder, which must be on the disk that is meant: a folder in memory would sync for nothing.
"""
import argparse, json, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
SERVER = HERE / ".build/release/holdfast"
LOAD = HERE / ".build/release/holdfast-load"


class Server:
    def __init__(self, folder, durability):
        command = [SERVER, "serve", "--port", "0", "--admin-port", "0", "--loops", "1", "--durability", durability]
        if durability != "memory":
            command += ["--data-dir", tempfile.mkdtemp(dir=folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        ready = self.process.stdout.readline()
        found = re.search(r"grpc (\S+) admin (\S+) pid", ready)
        if not found:
            sys.exit(f"bench-journal: the server did not come up: {ready!r}")
        self.target, self.admin = found.groups()

    def metric(self, name):
        with urllib.request.urlopen(self.admin + "/metrics") as page:
            for line in page.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        sys.exit(f"bench-journal: no metric {name}")

    def load(self, *options):
        done = subprocess.run(
            [LOAD, "run", "--target", self.target, "--json", "-", "--skus", "1", "--units", "1000000000",
             "--duplicate-share", "0", *map(str, options)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"bench-journal: the load failed:\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout[done.stdout.index("{"):])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def cpu_ratios(folder, options):
    print("== CPU per Reserve, fsync beside memory (b: 8 x 10, c: 8 x 100)", flush=True)
    serve = f"{SERVER} serve --port {{port}} --admin-port 0 --loops 1"
    durable = f"sh -c 'exec {serve} --durability fsync --data-dir $(mktemp -d -p {folder})'"
    return subprocess.run(
        [sys.executable, HERE / "tools/bench/ratio.py", "--server", durable, "--against", f"{serve} --durability memory",
         "--scenarios", "bc", "--bars", "b=1.8,c=1.35", "--repetitions", str(options.repetitions),
         "--seconds", str(options.seconds)], cwd=HERE).returncode


def latency(folder, options):
    print("== latency at half of the durable server's peak, open loop, 8 x 100", flush=True)
    server = Server(folder, "fsync")
    peak = server.load("--connections", 8, "--streams", 100, "--duration", options.seconds, "--warm-up", 0.5,
                       "--confirm-share", 0, "--release-share", 0)["requests_per_second"]
    server.stop()
    rate = int(peak / 2)
    figures = {"fsync": [], "memory": []}
    for _ in range(options.repetitions):
        for durability in figures:
            server = Server(folder, durability)
            report = server.load("--connections", 8, "--streams", 100, "--duration", options.seconds, "--warm-up", 0.5,
                                 "--confirm-share", 0, "--release-share", 0, "--rate", rate)
            figures[durability].append(report["latency_microseconds"]["all"])
            server.stop()
    print(f"peak {peak:.0f} calls/s, so {rate} calls/s")
    for durability, runs in figures.items():
        p50, p99 = (statistics.median(run[name] for run in runs) for name in ("p50", "p99"))
        print(f"{durability:7} p50 {p50:.0f} us  p99 {p99:.0f} us")


def journal_bytes(folder):
    server = Server(folder, "fsync")
    shares = ("--confirm-share", 0, "--release-share", 0)
    server.load("--operations", 1, *shares)
    bytes_before, lsn_before = (server.metric(f"holdfast_journal_{name}") for name in ("bytes_total", "lsn"))
    calls = 200_000
    server.load("--connections", 8, "--streams", 100, "--operations", calls, *shares)
    written = server.metric("holdfast_journal_bytes_total") - bytes_before
    records = server.metric("holdfast_journal_lsn") - lsn_before
    print("== bytes of journal per one-line reserve, 8 x 100")
    print(f"{written / calls:.1f} with the headers of groups, {records / calls:.1f} without")
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "out")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(dir=options.folder)
    try:
        missed = cpu_ratios(folder, options)
        latency(folder, options)
        journal_bytes(folder)
    finally:
        shutil.rmtree(folder)
    sys.exit(missed)


main()
