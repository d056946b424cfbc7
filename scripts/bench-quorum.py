#!/usr/bin/env python3
"""What durability quorum costs, the engine on the same machine, beside fsync; and beside rows in that PostgreSQL.

    bench-quorum.py [--repetitions N] [--seconds S]

  1. decisions per second, CPU per decision of the server and of the engine's three PostgreSQL servers together, p50 and p99,
     closed loop: 8 x 10, 8 x 100 (connections x streams), and one stream of batches; bar: 0.5 of fsync's rate at 8 x 100
  2. the same reserve as a conditional UPDATE and an INSERT in one transaction, 80 callers, one hot SKU (pgbench, in the same
     database with the same standbys); bar: 20 x its rate at 8 x 10, which are 80 callers too

All are interleaved; what is printed is the median. The engine's folder is in the temporary one, --folder holds the data
directories: both must be on the disk that is meant. Exit status 1 where a bar is missed.
"""
import argparse, json, os, pathlib, re, shutil, statistics, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "Tests" / "EndToEnd"))

from engines import Engine  # noqa: E402
from server import Server  # noqa: E402

SERVER = HERE / ".build/release/holdfast"
LOAD = HERE / ".build/release/holdfast-load"
SHAPES = {
    "8 x 10": ["--connections", 8, "--streams", 10],
    "8 x 100": ["--connections", 8, "--streams", 100],
    "stream": ["--api", "stream", "--batch", 1000, "--connections", 1, "--streams", 16],
}
TICKS = os.sysconf("SC_CLK_TCK")
CALLERS = 80
ROWS = """
drop table if exists stock, reservation;
create table stock(sku text primary key, on_hand bigint not null, held bigint not null) with (fillfactor = 50);
create table reservation(id uuid primary key, sku text not null, quantity int not null, expires_at timestamptz not null);
insert into stock values ('hot', 1000000000000, 0);
"""
# One round trip a transaction, as a stored procedure would be: the UPDATE's row is what the INSERT is made from.
RESERVE = """
with taken as (update stock set held = held + 1 where sku = 'hot' and on_hand - held >= 1 returning sku)
insert into reservation select gen_random_uuid(), sku, 1, now() + interval '10 minutes' from taken;
"""


def stop(text):
    sys.exit(f"bench-quorum: {text}")


def processor_seconds(pid):
    """Of a process and of its children that have ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICKS


def engine_seconds(engine):
    """Of the engine's servers and their processes."""
    total = 0
    for file in engine.folder.glob("*/postmaster.pid"):
        pid = int(file.read_text().split("\n")[0])
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *children]:
            try:
                total += processor_seconds(each)
            except FileNotFoundError:
                pass  # it has ended: what it took is its parent's now, and counted next time
    return total


class Run:
    """One server under one shape of load: rate, microseconds of CPU per decision, latencies."""

    def __init__(self, durability, shape, engine, options):
        data = pathlib.Path(tempfile.mkdtemp(dir=options.folder))
        flags = ["--durability", durability, "--loops", "1", "--journal-segment-bytes", str(64 << 20)]
        environment = {}
        if durability == "quorum":
            flags, environment = [*flags, "--engine", engine.url], engine.environment
        with Server(SERVER, *flags, data=data, environment=environment) as server:
            before = processor_seconds(server.pid), engine_seconds(engine)
            report = self.load(server, shape, options)
            after = processor_seconds(server.pid), engine_seconds(engine)
            decisions = report["outcomes"]["reserved"]
            self.server, self.engine = ((end - begin) * 1e6 / decisions for begin, end in zip(before, after))
            self.rate = report["requests_per_second"]
            latency = report["latency_microseconds"]["all"]
            self.p50, self.p99 = latency["p50"] / 1000, latency["p99"] / 1000
        shutil.rmtree(data)

    @staticmethod
    def load(server, shape, options):
        done = subprocess.run(
            [LOAD, "run", "--target", server.target, "--json", "-", "--skus", "1", "--units", "1000000000", "--duplicate-share", "0",
             "--confirm-share", "0", "--release-share", "0", "--warm-up", "0.5", "--duration", str(options.seconds),
             *map(str, SHAPES[shape])], capture_output=True, text=True)
        if done.returncode != 0:
            stop(f"the load failed:\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout[done.stdout.index("{"):])


class Rows:
    """The same reserves as rows."""

    def __init__(self, engine, options):
        self.engine, self.options = engine, options
        self.script = options.folder / "reserve.sql"
        self.script.write_text(RESERVE)
        self.primary = re.search(r"(127\.0\.0\.1):(\d+)", engine.url).groups()
        self.environment = {**os.environ, **engine.environment}
        self.run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-c", ROWS, "holdfast")

    def run(self, program, *arguments):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
        host, port = self.primary
        done = subprocess.run([str(found[-1]) if found else program, "-h", host, "-p", port, "-U", "holdfast", *arguments],
                              env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            stop(f"{program} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def measure(self):
        """Reserves per second, and microseconds of the engine's CPU for each."""
        before = engine_seconds(self.engine)
        said = self.run("pgbench", "-n", "-M", "prepared", "-c", str(CALLERS), "-j", "2", "-T", str(int(self.options.seconds)),
                        "-f", str(self.script), "holdfast")
        taken = engine_seconds(self.engine) - before
        rate = float(re.search(r"tps = (\S+) \(without", said)[1])
        return rate, taken * 1e6 / int(re.search(r"actually processed: (\d+)", said)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "out")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    options.folder = pathlib.Path(tempfile.mkdtemp(dir=options.folder))
    try:
        with Engine("--connections", str(CALLERS + 20)) as engine:
            engine.make_tables(SERVER)
            sys.exit(compare(engine, options))
    finally:
        shutil.rmtree(options.folder)


def compare(engine, options):
    runs = {(durability, shape): [] for shape in SHAPES for durability in ("fsync", "quorum")}
    rows, in_rows = Rows(engine, options), []
    for repetition in range(options.repetitions):
        for durability, shape in runs:
            runs[durability, shape].append(Run(durability, shape, engine, options))
        in_rows.append(rows.measure())
        print(f"repetition {repetition + 1} of {options.repetitions} done", file=sys.stderr, flush=True)

    def median(durability, shape, name):
        return statistics.median(getattr(run, name) for run in runs[durability, shape])

    print(f"== {'':8} decisions/s   CPU of the server, of the engine, us per decision      p50      p99, ms")
    ratios = {}
    for shape in SHAPES:
        for durability in ("fsync", "quorum"):
            rate, server, spent, p50, p99 = (median(durability, shape, name) for name in ("rate", "server", "engine", "p50", "p99"))
            print(f"{shape:8} {durability:7} {rate:9,.0f} {server:12.2f} {spent:12.2f} {p50:44.2f} {p99:8.2f}")
        pairs = zip(runs["quorum", shape], runs["fsync", shape])
        ratios[shape] = statistics.median(quorum.rate / fsync.rate for quorum, fsync in pairs)
        print(f"{shape:8} quorum / fsync: {ratios[shape]:.2f} of the rate")
    rate, spent = (statistics.median(each[place] for each in in_rows) for place in (0, 1))
    print(f"== rows   conditional update and insert, {CALLERS} callers, one hot SKU: {rate:,.0f}/s, engine {spent:.1f} us each")
    times = {shape: median("quorum", shape, "rate") / rate for shape in SHAPES}
    print("quorum / rows: " + ", ".join(f"{shape} {ratio:.1f} x" for shape, ratio in times.items()))
    missed = [text for text, is_met in ((f"0.5 of fsync's rate at 8 x 100: {ratios['8 x 100']:.2f}", ratios["8 x 100"] >= 0.5),
                                        (f"20 x rows at 8 x 10: {times['8 x 10']:.1f}", times["8 x 10"] >= 20)) if not is_met]
    print("\n".join(f"BAR MISSED {text}" for text in missed) or "both bars are met")
    return bool(missed)


main()
