#!/usr/bin/env python3
"""Two servers with one log in PostgreSQL lose what they may lose, under load, again and again; nothing acknowledged may.

A round: the load generator and a probe call whichever of the two servers owns the log; something is done to them or to
the engine (KINDS, drawn from the seed); the load goes on where the log is owned next. Then the generator checks its
history, across the takeover, reads and balances included, and audits it: every acknowledged decision must be repeated as
it was, every call that was cut off is decided once. What was killed comes back as a standby. Up to ten rounds share an
engine; in the end all their ledgers are audited once more, and `holdfast verify` has to agree with both directories.

The probe adds units to an item of its own, one after the other, and asks both servers for it twenty times a second. An
answer is stale where it lacks a unit that was acknowledged before the question was sent. That also goes for questions that
were sent to a frozen owner and are answered after it was thawed. The time from the harm to the next acknowledgement is
that of the first addition that was sent after the harm was done.

Where we are root and namespaces can be made, all of it runs in a network of its own, each server on a machine of its own
in it, with a link to the engine and one to clients; otherwise on loopback, without the kinds that cut links.
Exit status: 0 nothing was lost, changed or stale, 1 something was: the data directories are kept and named.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import crash  # it puts the end-to-end tests' folder on the path
import conftest  # noqa: F401  it generates the clients' modules
import grpc
from client import Client, fresh
from crash import Failure
from engines import Engine
from holdfast.v1 import stock_pb2
from lifetime import tied
from ports import free_ports
from server import Server, eventually

ROUNDS_PER_ENGINE = 10
# The longest time to the next acknowledgement that is not a failure.
ACKNOWLEDGED_SECONDS = 90
# Within which a server that has lost the log has to end, once it can know.
END_SECONDS = 30
LOST_THE_LOG = 75
IN_NETWORK = "HOLDFAST_CRASH_NETWORK"
PAUSE_SECONDS = 0.02
EXPIRY_SECONDS = 3  # more than an audit's holds last


class Network:
    """A machine for each of two servers: a network namespace with a link to the engine and a link to clients.

    We are in a namespace that is ours alone: all of it goes with us.
    """

    ENGINE = "10.77.255.1"

    def __init__(self):
        self.ip("link", "set", "lo", "up")
        self.ip("address", "add", f"{self.ENGINE}/32", "dev", "lo")
        self.holders = []
        ours = os.readlink("/proc/self/ns/net")
        for number in (0, 1):
            # It holds the namespace until its input ends, which it does with us.
            holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
            self.holders.append(holder)
            eventually(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != ours)
            inside = self.prefix(number)
            self.ip("link", "set", "lo", "up", prefix=inside)
            for link, subnet in (("engine", 77), ("clients", 78)):
                self.ip("link", "add", f"{link}{number}", "type", "veth", "peer", "name", link, "netns", str(holder.pid))
                self.ip("address", "add", f"10.{subnet}.{number}.1/24", "dev", f"{link}{number}")
                self.ip("link", "set", f"{link}{number}", "up")
                self.ip("address", "add", f"10.{subnet}.{number}.2/24", "dev", link, prefix=inside)
                self.ip("link", "set", link, "up", prefix=inside)
            self.ip("route", "add", self.ENGINE, "via", f"10.77.{number}.1", prefix=inside)

    @staticmethod
    def ip(*arguments, prefix=()):
        subprocess.run([*prefix, "ip", *arguments], check=True)

    def prefix(self, number):
        """Of a command that runs on that machine."""
        return ("nsenter", f"--net=/proc/{self.holders[number].pid}/ns/net")

    @staticmethod
    def address(number):
        return f"10.78.{number}.2"

    def set(self, number, links, state):
        """Packets are lost without a word while a link is down."""
        for link in links:
            self.ip("link", "set", f"{link}{number}", state)


class Pair:
    """Two servers with one log in an engine, and the ledgers of the rounds that they have seen."""

    def __init__(self, options, draw, network):
        self.options, self.network = options, network
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=options.directory))
        self.data = [self.path / f"data{number}" for number in (0, 1)]
        self.servers, self.ledgers, self.logs = [None, None], [], []
        self.lease_milliseconds = draw.choice([1500, 2500, 2500])
        self.flags = ["--journal-segment-bytes", str(draw.choice([256, 1024, 4096]) * 1024),
                      "--loops", str(draw.choice([1, 2])), "--lease", f"{self.lease_milliseconds}ms"]
        self.addresses = [network.address(number) if network else "127.0.0.1" for number in (0, 1)]
        self.ports = free_ports(2)
        self.engine = Engine(*(["--address", network.ENGINE] if network else []), manager=options.manager)
        self.owner = 0

    @property
    def targets(self):
        return [f"{address}:{port}" for address, port in zip(self.addresses, self.ports)]

    def start_all(self, first=0):
        self.start(first)
        self.start(1 - first, "--standby")
        self.owner = first

    def start(self, number, *flags):
        address = self.addresses[number]
        self.servers[number] = Server(
            self.options.server, "--durability", "quorum", "--engine", self.engine.url, *self.flags, "--host", address,
            "--port", str(self.ports[number]), "--admin-host", address, "--advertise", self.targets[number], *flags,
            data=self.data[number], environment=self.engine.environment,
            prefix=self.network.prefix(number) if self.network else ())

    def kill(self, number, and_its_data):
        server = self.servers[number]
        if not server.is_alive():
            raise Failure(f"server {number} has ended by itself, status {server.process.returncode}:\n{server.log_text()}")
        server.kill()
        if and_its_data:
            shutil.rmtree(self.data[number])

    def settle(self):
        """Knows the owner. A server that is not it any more has to end by itself."""
        other = 1 - self.owner
        if not self.servers[other].owns.is_set():
            return
        deposed, self.owner = self.servers[self.owner], other
        try:
            status = deposed.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"a server that lost the log has not ended in {END_SECONDS} s:\n{deposed.log_text()[-4000:]}")
        if status not in (LOST_THE_LOG, -signal.SIGKILL):
            raise Failure(f"a server that lost the log ended with status {status}:\n{deposed.log_text()[-4000:]}")

    def mend(self):
        """Who was killed comes back as a standby."""
        self.engine.start_all()
        other = 1 - self.owner
        if not self.servers[other].is_alive():
            self.start(other, "--standby")

    def audit(self, ledgers):
        try:
            return crash.audit(self.options, self.path, ledgers, self.targets[self.owner])
        except Failure as failure:
            # What the audit sends again is held for two seconds, and balances are read when these are over. While the
            # engine stands still, no expiry can be recorded: those holds are shown as held until it goes on. So where
            # that is all there is, it has to be right when it has gone on.
            if "VIOLATED: held units differ (" not in str(failure):
                raise
            print("expiries were late: audited again", flush=True)
            time.sleep(EXPIRY_SECONDS)
            return crash.audit(self.options, self.path, ledgers, self.targets[self.owner])

    def finish(self):
        """All rounds once more, an orderly end, and the verdict of `holdfast verify`."""
        findings = self.audit(self.ledgers)
        for number in (1 - self.owner, self.owner):
            if status := self.servers[number].stop():
                raise Failure(f"server {number} ended with status {status}:\n{self.servers[number].log_text()[-4000:]}")
            # A standby that has just begun has copied nothing yet.
            if any(self.data[number].glob("journal-*")):
                crash.verify(self.options, self.data[number])
        self.engine.stop()
        shutil.rmtree(self.path)
        return findings

    def abandon(self):
        """Ends everything, leaves the files, and returns the ends of the servers' logs."""
        ends = []
        for number, server in enumerate(self.servers):
            if server:
                server.kill()
                ends.append(f"server {number}:\n{server.log_text()[-4000:]}")
        for log in self.engine.folder.glob("*.log"):
            shutil.copy(log, self.path)
        self.engine.stop()
        return "\n".join(ends)


def patiently(call):
    """Makes a call until the server is not overloaded."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


class Probe:
    """Adds units to an item of its own, one after the other, and asks both servers for it."""

    READ_SECONDS = 0.05
    # An addition may wait so long for a server that does not answer; the other one is asked meanwhile.
    CALL_SECONDS = 2
    # A question may wait for a frozen server.
    PATIENCE_SECONDS = 30
    # New connections are tried at once, whatever happened to the ones before.
    OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 200),
               ("grpc.max_reconnect_backoff_ms", 100)]

    def __init__(self, targets, owner):
        self.sku = fresh("probe")
        self.lock, self.stopping = threading.Lock(), threading.Event()
        # Units that were acknowledged; one more may have been added.
        self.units, self.key = 0, fresh("key")
        self.acknowledged = []  # when each addition was sent, and when it was acknowledged
        self.reads, self.stale = 0, []
        self.clients = [Client(target, options=self.OPTIONS) for target in targets]
        patiently(lambda: self.clients[owner].adjust(self.sku, key=self.sku, set_on_hand=0))
        self.threads = [threading.Thread(target=work, args=(client,), daemon=True)
                        for client in self.clients for work in (self.add, self.read)]
        for thread in self.threads:
            thread.start()

    def add(self, client):
        while not self.stopping.is_set():
            with self.lock:
                key, sent = self.key, time.monotonic()
            request = stock_pb2.AdjustStockRequest(idempotency_key=key, sku=self.sku, delta=1, any_version=True,
                                                   reason="probe")
            try:
                client.stock.AdjustStock(request, timeout=self.CALL_SECONDS)
            except grpc.RpcError:
                self.stopping.wait(PAUSE_SECONDS)
                continue
            with self.lock:
                # Or the other server has answered already.
                if key == self.key:
                    self.units, self.key = self.units + 1, fresh("key")
                    self.acknowledged.append((sent, time.monotonic()))

    def read(self, client):
        while not self.stopping.wait(self.READ_SECONDS):
            with self.lock:
                least = self.units
            call = client.stock.GetStock.future(stock_pb2.GetStockRequest(sku=self.sku), timeout=self.PATIENCE_SECONDS)
            call.add_done_callback(lambda call, least=least: self.compare(call, least))

    def compare(self, call, least):
        if call.cancelled() or call.exception() is not None:
            return
        on_hand = call.result().stock.on_hand
        with self.lock:
            self.reads += 1
            if not least <= on_hand <= self.units + 1:
                self.stale.append(f"{on_hand} on hand was answered; {least} were acknowledged before it was asked, "
                                  f"{self.units} by now")

    def first_after(self, moment):
        """When the first addition that was sent after it was acknowledged; None: none was."""
        with self.lock:
            return next((at for sent, at in self.acknowledged if sent >= moment), None)

    def stop(self, owner):
        """Ends it, and compares what there is."""
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        on_hand = patiently(lambda: self.clients[owner].level(self.sku).on_hand)
        for client in self.clients:
            client.channel.close()
        if not self.units <= on_hand <= self.units + 1:
            raise Failure(f"the probe added {self.units} units that were acknowledged; {on_hand} are there")
        if self.stale:
            raise Failure(f"{len(self.stale)} stale answers: {self.stale[0]}")


class Round:
    """One round, and what came of it."""

    def __init__(self, number, pair):
        self.number, self.pair = number, pair
        self.draw = random.Random(f"{pair.options.seed}/{number}")
        self.ledger = pair.path / f"ledger-{number:06}"
        self.struck = None
        self.scenario = crash.draw_scenario(self.draw, pair.options)
        self.kind = pair.options.kind or self.draw.choice(possible_kinds(pair.network, pair.options))

    def run(self):
        pair, draw = self.pair, self.draw
        report = pair.path / "report.json"
        command = crash.load_command(draw, pair.options, self.scenario, ",".join(pair.targets), self.ledger,
                                     "--retries-unknown", "true", "--duration", "600", "--json", report)
        probe = None
        load = subprocess.Popen(tied(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            crash.wait_for_load(load, pair.servers[pair.owner])
            probe = Probe(pair.targets, pair.owner)
            eventually(lambda: len(probe.acknowledged) > 5, END_SECONDS)
            time.sleep(draw.uniform(0.1, 1) * pair.options.load_seconds)
            afterwards = KINDS[self.kind](self)
            self.seconds = self.await_acknowledgement(probe) - self.struck
            for each in afterwards or ():
                each()
            pair.settle()
            crash.wait_for_load(load, pair.servers[pair.owner])
            time.sleep(draw.uniform(0.1, 1) * pair.options.load_seconds)
            probe.stop(pair.owner)
            self.reads = probe.reads
            load.send_signal(signal.SIGINT)
            output = load.communicate(timeout=crash.GENERATOR_SECONDS)[0]
        finally:
            load.kill()
            if probe:
                probe.stopping.set()
        if load.returncode != 128 + signal.SIGINT or json.loads(report.read_text())["verdict"]["result"] != "good":
            raise Failure(f"the load generator ended with status {load.returncode}:\n{output}")
        self.check = json.loads(report.read_text())["check"]
        [self.finding] = pair.audit([self.ledger])
        pair.ledgers.append(self.ledger)
        pair.mend()

    def await_acknowledgement(self, probe):
        deadline = self.struck + ACKNOWLEDGED_SECONDS
        while not (found := probe.first_after(self.struck)):
            if time.monotonic() > deadline:
                raise Failure(f"no acknowledgement in {ACKNOWLEDGED_SECONDS} s")
            time.sleep(PAUSE_SECONDS / 2)
        return found

    # Kinds of harm. Each calls strikes() once it is done, or the first of it where the next acknowledgement takes a new
    # owner, and returns what is to be done once there was an acknowledgement.

    def strikes(self):
        self.struck = self.struck or time.monotonic()

    def kill_the_owner(self):
        self.pair.kill(self.pair.owner, and_its_data=True)
        self.strikes()

    def freeze_the_owner(self):
        """Until another one has taken over, or for about as long as a lease."""
        owner = self.pair.servers[self.pair.owner].process
        owner.send_signal(signal.SIGSTOP)
        self.strikes()
        if self.draw.choice([True, False]):
            time.sleep(self.pair.lease_milliseconds / 1000 * self.draw.uniform(0.5, 1.6))
            owner.send_signal(signal.SIGCONT)
            return []
        return [lambda: time.sleep(self.draw.uniform(0, 1)), lambda: owner.send_signal(signal.SIGCONT)]

    def kill_the_primary(self):
        self.pair.engine.do("kill", "the-primary")
        self.strikes()
        self.pair.engine.promote()

    def cut(self, *links):
        number, network = self.pair.owner, self.pair.network
        network.set(number, links, "down")
        self.strikes()
        return [lambda: time.sleep(self.draw.uniform(0, 1)), lambda: network.set(number, links, "up")]

    def kill_owner_and_primary(self):
        self.kill_the_owner()
        self.kill_the_primary()

    def kill_both_servers(self):
        pair = self.pair
        for number in (0, 1):
            pair.kill(number, and_its_data=self.draw.choice([True, False]))
        self.strikes()
        pair.start_all(first=self.draw.choice([0, 1]))

    def line(self):
        finding = self.finding
        return " · ".join([
            f"round {self.number:4}", self.kind, self.scenario, f"{self.seconds:.2f} s to the next acknowledgement",
            f"{finding['calls']:,} calls", f"{finding['acknowledged']:,} acknowledged",
            f"{finding['unknown']:,} unknown ({finding['had_happened']:,} had happened)",
            f"{self.check['reads_justified'] + self.check['samples_compared'] + self.reads:,} reads compared"])


KINDS = {
    "owner": Round.kill_the_owner,
    "frozen": Round.freeze_the_owner,
    "primary": Round.kill_the_primary,
    "cut-engine": lambda each: each.cut("engine"),
    "cut-all": lambda each: each.cut("engine", "clients"),
    "owner-and-primary": Round.kill_owner_and_primary,
    "servers": Round.kill_both_servers,
}
KIND_TEXTS = {
    "owner": "owner killed, its data gone", "frozen": "owner frozen and thawed", "primary": "primary killed, another promoted",
    "cut-engine": "owner cut off from the engine", "cut-all": "owner cut off from all",
    "owner-and-primary": "owner and primary killed at once", "servers": "both servers killed",
}


def possible_kinds(network, options):
    return [kind for kind in KINDS if network or not kind.startswith("cut")]


def enter_network(options):
    """Goes on in a network of its own, where that can be. Returns it; None where it cannot."""
    if options.manager:
        print("no link is cut: Patroni's servers are on loopback", flush=True)
        return None
    if os.environ.get(IN_NETWORK):
        return Network()
    can = os.getuid() == 0 and shutil.which("ip") and subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "one", "type", "veth", "peer", "name", "other"], capture_output=True)
    if can and can.returncode == 0:
        os.environ[IN_NETWORK] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    print("no link is cut: that takes root, ip(8), and a kernel that makes network namespaces and veth", flush=True)
    return None


def run_all(options, network):
    """All rounds. Returns them, and the findings of the audits at the end of each engine."""
    rounds, final_findings = [], []
    while len(rounds) < options.rounds:
        draw = random.Random(f"{options.seed}/engine/{len(rounds)}")
        pair = Pair(options, draw, network)
        print(f"engine {options.manager or ''} {' '.join(pair.flags)}", flush=True)
        try:
            pair.engine.make_tables(options.server)
            pair.start_all()
            for _ in range(min(ROUNDS_PER_ENGINE, options.rounds - len(rounds))):
                rounds.append(Round(len(rounds), pair))
                rounds[-1].run()
                print(rounds[-1].line(), flush=True)
            final_findings += pair.finish()
        except Exception as error:
            kind = f" ({rounds[-1].kind}, {rounds[-1].scenario})" if rounds else ""
            print(f"FAILED in round {len(rounds) - 1}{kind} of seed {options.seed}: {error!r}\n{pair.abandon()}\n"
                  f"kept: {pair.path}, flags {' '.join(pair.flags)}", file=sys.stderr)
            raise SystemExit(1) from error
        except KeyboardInterrupt:
            pair.abandon()
            shutil.rmtree(pair.path)
            raise
    return rounds, final_findings


def summary(rounds, final_findings):
    findings = [each.finding for each in rounds]
    lines = [f"{'to the next acknowledgement, s':34} rounds  median   worst"]
    for kind, text in KIND_TEXTS.items():
        if seconds := [each.seconds for each in rounds if each.kind == kind]:
            lines.append(f"{text:34} {len(seconds):6} {statistics.median(seconds):7.2f} {max(seconds):7.2f}")
    reads = sum(each.check["reads_justified"] + each.check["samples_compared"] + each.reads for each in rounds)
    return "\n".join([
        *lines, f"{crash.counts(rounds, findings, final_findings)}; {reads:,} reads compared",
        f"{crash.lost(findings + final_findings)} acknowledged decisions lost or changed, "
        f"{crash.twice(findings + final_findings)} applied twice, 0 stale answers"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    crash.add_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, help="of every round (default: drawn)")
    parser.add_argument("--manager", choices=["debian", "pypi"],
                        help="the engine is under Patroni of that version, which promotes by itself")
    options = parser.parse_args()
    network = enter_network(options)
    if options.kind and options.kind not in possible_kinds(network, options):
        raise SystemExit(f"crash-engine: {options.kind} needs links to cut")
    print(f"seed {options.seed}", flush=True)
    print(summary(*run_all(options, network)))


if __name__ == "__main__":
    main()
