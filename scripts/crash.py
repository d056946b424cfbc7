#!/usr/bin/env python3
"""Kills the server with SIGKILL at random moments under load, starts it again, and proves that it lost nothing.

A round: the load generator hammers the server and takes down every answer; the server is killed; in some
rounds it is killed again while it recovers; it is started; the generator audits its ledger: every
acknowledged decision must be repeated as it was, every call that was cut off is decided exactly once, the
balances must be what the ledger says, and each decision must be in the change feed once. Ten rounds share a data directory; in the end all their ledgers
are audited once more, the server is stopped, and `holdfast verify` has to agree.

What a round does is drawn from the seed: plain carts, or a scenario of the load generator (SCENARIOS; --scenario has
one of them in every round). When exactly the kill strikes is up to the machine.
Exit status: 0 nothing was lost or applied twice, 1 something was: the data directory is kept and named.
"""

import argparse
import json
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "Tests" / "EndToEnd"))

from lifetime import tied  # noqa: E402
from server import Server  # noqa: E402

ROUNDS_PER_DIRECTORY = 10
GENERATOR_SECONDS = 60
HISTORY_BYTES = 8 << 30
AWAITED_SECONDS = 1  # how long a kill waits for a certain file to appear
# Violations (see Violation.Kind of the load generator) that a decision which was applied twice shows as.
TWICE = ("oversold", "more than a limit for one subject", "units lost or invented", "held units differ", "decided twice", "reservation id used twice",
         "twice in the feed")


# Scenarios of the load generator, and what else they take to come to something in half a second.
PLAIN = "plain"
SCENARIOS = {
    PLAIN: [],
    "cart-changes": ["--distribution", "uniform", "--replace-share", "0.6"],
    "preorder": ["--overcommit", "50"],
    "count": ["--ship-time", "0-20ms", "--count-share", "0.1"],
    "warehouses": ["--warehouses", "3", "--partial-share", "0.5"],
    "per-customer": ["--subjects", "60"],
    "batch": ["--batch", "50", "--confirm-share", "0.2"],
    "stream": ["--batch", "50", "--confirm-share", "0.2"],
}


class Failure(Exception):
    """Something that must not happen."""


def wait_for_load(load, server):
    """Until the first Reserve is there, or the generator has ended: a busy machine lets it take its time."""
    page = f"http://{server.admin}/metrics"
    begun = re.compile(rb'^grpc_server_started_total{.*grpc_method="Reserve"} [1-9]', re.MULTILINE)
    while load.poll() is None and not begun.search(urllib.request.urlopen(page, timeout=20).read()):
        time.sleep(0.02)


def audit(options, folder, ledgers, target, *flags):
    """Holds `ledgers` against a running server. Returns one finding for each."""
    report = folder / "audit.json"
    done = subprocess.run([options.generator, "audit", *ledgers, "--target", target, "--json", report, *flags],
                          capture_output=True, text=True, timeout=GENERATOR_SECONDS)
    if done.returncode != 0:
        raise Failure(f"audit, status {done.returncode}:\n{done.stdout}{done.stderr}")
    return [history["audit"] for history in json.loads(report.read_text())["histories"]]


def verify(options, data):
    done = subprocess.run([options.server, "verify", data], capture_output=True, text=True, timeout=GENERATOR_SECONDS)
    if done.returncode != 0:
        raise Failure(f"verify, status {done.returncode}:\n{done.stdout}{done.stderr}")


def draw_scenario(draw, options):
    """Half of the rounds are plain."""
    others = [name for name in SCENARIOS if name != PLAIN]
    return options.scenario or draw.choice([PLAIN, draw.choice(others)])


def load_command(draw, options, scenario, target, ledger, *flags):
    """The command line of the generator: what a round asks for, as drawn."""
    skus = draw.choice([1, 10, 100, 400])
    command = [options.generator, "run", "--target", target, "--history", ledger, "--warm-up", "0", *flags,
               "--seed", str(draw.getrandbits(32)), "--units", str(draw.choice([5, 100, 10_000])),
               "--connections", str(draw.choice([1, 4, 16])), "--streams", str(draw.choice([1, 10, 50])),
               "--duplicate-share", "0.05", "--ttl", str(draw.choice([600, 600, 2, 1]))]
    carts = ["--distribution", draw.choice(["uniform", "zipf:0.9"]),
             "--lines", draw.choice(["1", "1", "1-3", "1-8"]), "--quantity", draw.choice(["1", "1-3"]),
             "--confirm-share", "0.4", "--release-share", "0.4"]
    if scenario == PLAIN:
        return [*command, "--skus", str(skus), *carts]
    # Each product lies in three warehouses.
    return [*command, "--scenario", scenario, "--skus", str(3 * skus), *SCENARIOS[scenario]]


class Directory:
    """A data directory, the server that runs on it, and the ledgers of the rounds that it has seen."""

    def __init__(self, options, draw):
        self.options = options
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=options.directory))
        self.data = self.path / "data"
        self.ledgers = []
        durability = options.durability or draw.choice(["fsync", "fsync", "fsync", "os"])
        # A checkpoint begins every eight segments: of the smallest, some 20,000 decisions.
        self.segment_kibibytes = draw.choice([256, 256, 1024, 1024, 4096])
        self.flags = ["--data-dir", str(self.data), "--durability", durability,
                      "--journal-segment-bytes", str(self.segment_kibibytes * 1024),
                      "--loops", str(draw.choice([1, 2]))]
        # All that the rounds decide is kept: their audits read it from the beginning.
        self.watch_flags = [] if durability == "memory" else ["--watch"]
        if self.watch_flags:
            self.flags += ["--history", str(HISTORY_BYTES)]
        self.server = None
        self.recovery_seconds = 0.1

    def make(self, draw):
        """The first start, in some directories after some that were killed while they made it."""
        for _ in range(draw.choice([0, 1, 2])):
            self.kill_while_it_recovers(draw.uniform(0, 1.2) * self.recovery_seconds)
        self.start()

    def start(self):
        begin = time.monotonic()
        self.server = Server(self.options.server, *self.flags)
        self.recovery_seconds = time.monotonic() - begin

    def kill(self):
        """SIGKILL. Returns the names of the files that were being made."""
        if not self.server.is_alive():
            raise Failure(f"the server has ended by itself, status {self.server.process.returncode}")
        self.server.process.kill()
        self.server.process.wait()
        return {path.name for path in self.data.glob("*.tmp")}

    def kill_while_it_recovers(self, after_seconds):
        process = subprocess.Popen(tied(self.options.server, "serve", "--port", "0", "--admin-port", "0", *self.flags),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(after_seconds)
        process.kill()
        log = process.communicate()[1]
        if process.returncode >= 0:
            raise Failure(f"the server would not start, status {process.returncode}:\n{log}")

    def audit(self, ledgers, *flags):
        return audit(self.options, self.path, ledgers, self.server.target, *flags)

    def finish(self):
        """All rounds once more, an orderly end, and the verdict of `holdfast verify`."""
        findings = self.audit(self.ledgers) if self.ledgers else []
        if status := self.server.stop():
            raise Failure(f"the server ended with status {status}")
        verify(self.options, self.data)
        shutil.rmtree(self.path)
        return findings

    def abandon(self):
        """Ends the server, leaves the files, and returns the end of the server's log."""
        if self.server is None:
            return ""
        self.server.process.kill()
        self.server.process.wait()
        return self.server.log_text()[-4000:]


class Round:
    """One round, and what came of it."""

    def __init__(self, number, seed, directory):
        self.number = number
        self.draw = random.Random(f"{seed}/{number}")
        self.directory = directory
        self.ledger = directory.path / f"ledger-{number:06}"
        self.scenario = draw_scenario(self.draw, directory.options)
        self.finding = None

    def run(self):
        draw, directory = self.draw, self.directory
        command = load_command(draw, directory.options, self.scenario, directory.server.target, self.ledger,
                               "--no-check", "--duration", "60")
        load = subprocess.Popen(tied(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            wait_for_load(load, directory.server)
            begin = time.monotonic()
            self.wait_for_the_moment()
            self.load_seconds = time.monotonic() - begin
            self.unfinished = directory.kill()
            output = load.communicate(timeout=GENERATOR_SECONDS)[0]
        finally:
            load.kill()
        self.recovery_kills = draw.choice([0, 0, 0, 1, 1, 2])
        for _ in range(self.recovery_kills):
            directory.kill_while_it_recovers(draw.uniform(0, 1.2) * directory.recovery_seconds)
        directory.start()
        self.recovery_seconds = directory.recovery_seconds
        if self.ledger.exists():
            [self.finding] = directory.audit([self.ledger], *directory.watch_flags)
            directory.ledgers.append(self.ledger)
        elif load.returncode != 2:
            raise Failure(f"the load generator ended with status {load.returncode}:\n{output}")

    def wait_for_the_moment(self):
        """Some time under load; where segments are small often until a checkpoint or a segment is being made."""
        time.sleep(self.draw.uniform(0.1, 1) * self.directory.options.load_seconds)
        awaited = self.draw.choice(["checkpoint.tmp", "checkpoint.tmp", "segment.tmp", None])
        if awaited is None or self.directory.segment_kibibytes > 256:
            return
        deadline = time.monotonic() + AWAITED_SECONDS
        while not (self.directory.data / awaited).exists() and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(self.draw.choice([0, self.draw.uniform(0, 0.003)]))

    def line(self):
        parts = [f"round {self.number:4}", self.scenario, f"killed after {self.load_seconds:.2f} s"]
        parts += [f"in {name}" for name in sorted(self.unfinished)]
        if self.recovery_kills:
            parts.append(f"{self.recovery_kills} × while recovering")
        if self.finding:
            parts += [f"{self.finding['calls']:,} calls", f"{self.finding['acknowledged']:,} acknowledged",
                      f"{self.finding['unknown']:,} unknown ({self.finding['had_happened']:,} had happened)",
                      f"{self.finding['standing'] + self.finding['unknown']:,} verified"]
        else:
            parts.append("before the load began")
        parts.append(f"recovery {self.recovery_seconds:.2f} s")
        return " · ".join(parts)


def run_all(options):
    """All rounds. Returns them, and the findings of the audits at the end of each directory."""
    rounds, final_findings = [], []
    while len(rounds) < options.rounds:
        draw = random.Random(f"{options.seed}/directory/{len(rounds)}")
        directory = Directory(options, draw)
        print(f"directory {' '.join(directory.flags[2:])}", flush=True)
        try:
            directory.make(draw)
            for _ in range(min(ROUNDS_PER_DIRECTORY, options.rounds - len(rounds))):
                rounds.append(Round(len(rounds), options.seed, directory))
                rounds[-1].run()
                print(rounds[-1].line(), flush=True)
            final_findings += directory.finish()
        except Exception as error:
            print(f"FAILED in round {len(rounds) - 1} of seed {options.seed}: {error}\n{directory.abandon()}\n"
                  f"kept: {directory.path}, flags {' '.join(directory.flags)}", file=sys.stderr)
            raise SystemExit(1) from error
        except KeyboardInterrupt:
            directory.abandon()
            shutil.rmtree(directory.path)
            raise
    return rounds, final_findings


def total(findings, name):
    return sum(finding[name] for finding in findings)


def lost(findings):
    return total(findings, "acknowledged") - total(findings, "standing")


def twice(findings):
    return sum(finding["check"]["violations"].get(kind, 0) for finding in findings for kind in TWICE)


def counts(rounds, findings, final_findings):
    """What the audits counted, in a line."""
    return (f"{len(rounds)} rounds: {total(findings, 'calls'):,} calls, {total(findings, 'acknowledged'):,} acknowledged "
            f"decisions; {total(findings, 'unknown'):,} cut off, {total(findings, 'had_happened'):,} of them had happened; "
            f"{total(final_findings, 'acknowledged'):,} audited again at the end of their directory")


def summary(rounds, final_findings):
    findings = [each.finding for each in rounds if each.finding]
    feed_total = sum(finding["check"].get("feed", {}).get("decisions_compared", 0) for finding in findings)
    recoveries = [each.recovery_seconds for each in rounds]
    return "\n".join([
        f"{counts(rounds, findings, final_findings)}; {feed_total:,} looked up in the feed",
        f"killed while a checkpoint was written: {sum('checkpoint.tmp' in each.unfinished for each in rounds)}, "
        f"while a segment was made: {sum('segment.tmp' in each.unfinished for each in rounds)}, "
        f"while recovering: {sum(each.recovery_kills for each in rounds)}, "
        f"before the load began: {len(rounds) - len(findings)}; "
        f"recovery {statistics.median(recoveries):.2f} s, at most {max(recoveries):.2f} s",
        f"{lost(findings + final_findings)} acknowledged decisions lost, {twice(findings + final_findings)} applied twice"])


def add_arguments(parser):
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--load-seconds", type=float, default=0.5, help="most load before a kill")
    parser.add_argument("--scenario", choices=SCENARIOS, help="of every round (default: drawn, half of them plain)")
    parser.add_argument("--directory", help="where data directories are made (default: the system's temporary one)")
    parser.add_argument("--server", default=REPOSITORY / ".build/release/holdfast")
    parser.add_argument("--generator", default=REPOSITORY / ".build/release/holdfast-load")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--durability", help="of every directory (default: mostly fsync, now and then os)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    rounds, final_findings = run_all(options)
    print(summary(rounds, final_findings))
    if sum(each.finding is None for each in rounds) > len(rounds) / 2:
        raise SystemExit("most servers were killed before the load began: this has shown nothing")


if __name__ == "__main__":
    main()
