#!/usr/bin/env python3
"""Makes backups of a server under load, restores each, and proves that it lost nothing and invented nothing.

A round: while carts are held, confirmed and released on a server with small segments, so that checkpoints and
recycled segments pass, a backup is made, of the directory and of the server in turn. It is restored, in every
second round with the archive up to a moment after it. A server on what was restored must repeat every answer
that was acknowledged before the backup began, must know nothing of a call that began after it had ended, and
the books must balance: of each item, units that were added are on hand or confirmed, and held is what live
reservations hold.
Exit status: 0 every backup was right, 1 one was not: the directories are kept and named.
"""

import argparse
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "Tests" / "EndToEnd"))

import conftest  # noqa: E402,F401  it generates the clients' modules
from client import Client, fresh, line  # noqa: E402
from server import Server  # noqa: E402

ITEMS = 64
UNITS = 1_000_000
REPEATED = 200  # answers before each backup that are asked for again


class Failure(Exception):
    """Something that must not happen."""


class Load:
    """Calls on threads of its own. `answers` has what each was told, and when it began and ended."""

    def __init__(self, target, threads, seed):
        self.target, self.stopping = target, threading.Event()
        self.answers, self.failures = [], []
        with Client(target) as client:
            self.skus = [client.item(UNITS) for _ in range(ITEMS)]
        self.threads = [threading.Thread(target=self.run, args=(random.Random(f"{seed}/{number}"),))
                        for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, draw):
        try:
            with Client(self.target) as client:
                while not self.stopping.is_set():
                    cart = [line(sku, draw.randint(1, 3)) for sku in draw.sample(self.skus, draw.randint(1, ITEMS))]
                    key, began = fresh("key"), time.monotonic()
                    held = client.reserve(*cart, key=key, ttl=3600)
                    held_at = time.monotonic()
                    end = draw.choice([client.confirm, client.release, None])
                    if end:
                        end(held.reservation_id)
                    self.answers.append((began, held_at, time.monotonic() if end else None, key, cart,
                                         held.reservation_id, end and end.__name__))
        except Exception as error:  # told in the main thread
            self.failures.append(error)

    def check(self):
        if self.failures:
            raise Failure(f"a call failed: {self.failures[0]}")

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def metric(server, name):
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/metrics").read().decode()
    return float(re.search(rf"^{name} (\S+)$", page, re.MULTILINE)[1])


def holdfast(options, *arguments):
    done = subprocess.run([options.server, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{done.stderr}")
    return done.stdout.split()


class Round:
    def __init__(self, number, options, server, load, path):
        self.number, self.options, self.server, self.load, self.path = number, options, server, load, path

    def run(self):
        load, path = self.load, self.path
        source = SOURCES[self.number % len(SOURCES)](self.server)
        began = time.monotonic()
        word, self.lsn, *_ = holdfast(self.options, "backup", *source, path / "backup")
        self.seconds = time.monotonic() - began
        ended = began + self.seconds
        until = []
        if self.number % 2:
            # With the archive up to a decision after the backup: what was acknowledged by then is in it.
            began = time.monotonic()
            lsn = int(metric(self.server, "holdfast_journal_durable_lsn"))
            ended = time.monotonic()
            deadline = ended + 90
            while metric(self.server, "holdfast_journal_durable_lsn") - metric(
                    self.server, "holdfast_archive_lag_bytes") < lsn + 100_000:
                load.check()
                if time.monotonic() > deadline:
                    raise Failure("the archive does not go on")
                time.sleep(0.05)
            until = ["--archive", path.parent / "archive", "--until", lsn]
        word, self.restored_lsn, *_ = holdfast(self.options, "restore", path / "backup", path / "restored", *until)
        load.check()
        self.audit(began, ended)
        shutil.rmtree(path)

    def audit(self, began, ended):
        """`began` and `ended`: between them lies the moment that was restored."""
        answers = list(self.load.answers)
        before = [answer for answer in answers if answer[1] < began]
        after = [answer for answer in answers if answer[0] > ended]
        self.acknowledged = len(before)
        with Server(self.options.server, "--loops", "1", data=self.path / "restored") as server, \
                Client(server.target) as client:
            self.balance(client)
            # All that was done and acknowledged by then, as it was answered.
            for _, _, done, key, cart, reservation, end in before[-REPEATED:]:
                again = client.reserve(*cart, key=key, ttl=3600)
                if not again.replayed or again.reservation_id != reservation:
                    raise Failure(f"{key} was acknowledged before the backup began, and is not in it")
                state = client.get(reservation).state
                if done and done < began and state != {"confirm": 2, "release": 3}[end]:
                    raise Failure(f"{reservation}: the {end} was acknowledged before the backup began, and is not in it")
            self.future = 0
            for _, _, _, key, cart, _, _ in after[:REPEATED]:
                if client.reserve(*cart, key=key, ttl=3600).replayed:
                    raise Failure(f"{key} was decided after the backup had ended, and is in it")
                self.future += 1

    def balance(self, client):
        """The invariants from outside: what the reservations say is what the items say."""
        levels = {sku: client.level(sku) for sku in self.load.skus}
        held = dict.fromkeys(levels, 0)
        token = ""
        from holdfast.v1 import reservation_pb2
        while True:
            page = client.reservations.ListReservations(reservation_pb2.ListReservationsRequest(
                page_size=500, page_token=token, state=reservation_pb2.RESERVATION_STATE_HELD), **client.call)
            for reservation in page.reservations:
                for each in reservation.lines:
                    held[each.sku] += each.quantity
            token = page.next_page_token
            if not token:
                break
        for sku, level in levels.items():
            if level.held != held[sku] or level.on_hand > UNITS or level.on_hand < level.held:
                raise Failure(f"{sku}: {level.held} held, its reservations hold {held[sku]}; {level.on_hand} on hand")

    def text(self):
        return (f"round {self.number:3} · backup at LSN {int(self.lsn):,} in {self.seconds:.2f} s · "
                f"restored to {int(self.restored_lsn):,} · {self.acknowledged:,} acknowledged before · "
                f"{self.future} of the future are foreign")


SOURCES = [lambda server: ["--data-dir", server.data], lambda server: ["--data-dir", server.data],
           lambda server: ["--target", server.target]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--server", default=REPOSITORY / ".build/release/holdfast")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    path = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-backups-"))
    server = Server(options.server, "--journal-segment-bytes", str(256 * 1024), "--loops", "1", "--history", "0",
                    "--archive", str(path / "archive"), data=path / "data")
    load = Load(server.target, options.threads, options.seed)
    rounds = []
    try:
        for number in range(options.rounds):
            rounds.append(Round(number, options, server, load, path / f"{number}"))
            rounds[-1].path.mkdir()
            rounds[-1].run()
            print(rounds[-1].text(), flush=True)
        load.stop()
        load.check()
        checkpoints = metric(server, "holdfast_checkpoints_total")
        segments = metric(server, "holdfast_archive_segments_total")
        if server.stop() != 0:
            raise Failure("the server did not end well")
    except Exception as error:
        load.stop()
        server.kill()
        print(f"FAILED in round {len(rounds) - 1} of seed {options.seed}: {error}\n{server.log_text()[-2000:]}\n"
              f"kept: {path}", file=sys.stderr)
        raise SystemExit(1) from error
    shutil.rmtree(path)
    print(f"{len(rounds)} backups under load, each restored and audited: {len(load.answers):,} carts, "
          f"{checkpoints:.0f} checkpoints, {segments:.0f} segments archived; 0 acknowledged decisions missing, "
          f"0 of the future there")


if __name__ == "__main__":
    main()
