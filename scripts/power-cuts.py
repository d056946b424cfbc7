#!/usr/bin/env python3
"""Cuts the power of the real server at every kind of moment, and proves that it lost nothing that it had promised.

A run: the server is started on what the run before has left, and what it does to its data directory is recorded
(Tests/EndToEnd/disk_recorder.c), while clients reserve, confirm, release and adjust and take down every answer; then it
is killed, or stopped in an orderly way. From the record, images are made: at a boundary between two calls of the
server, all that was synced, and of the rest any of the sectors and names (disk_record.py). On each image `holdfast
verify` must find no damage and at least the decisions that were answered before the boundary, equal counts of decisions
must be equal states, and a server that starts on it must know every key's answer and have the balances that follow.
Every other run is killed, and the next one begins on one of its images: so the power is cut while a server recovers,
too; the others are stopped, and the next one goes on there. Every fourth begins with no directory, and the last one with
one of the first release.

All is drawn from the seed but for how the server's threads run.
Exit status: 0 nothing was lost, 1 something was: the image is kept and named.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
END_TO_END = REPOSITORY / "Tests" / "EndToEnd"
sys.path.insert(0, str(END_TO_END))

import conftest  # noqa: E402  makes the modules of the API
import disk_record  # noqa: E402
import grpc  # noqa: E402
from client import CALL_SECONDS, Client, Refusal, duration, line  # noqa: E402
from disk_record import CREATE, END, MKDIR, RENAME, SEND, SYNC, TRUNCATE, UNLINK, WRITE  # noqa: E402
from holdfast.v1 import reservation_pb2, stock_pb2  # noqa: E402
from server import Server, holdfast  # noqa: E402

# Syncs that a server might forget, by what they are of (Disk.sync_kind).
MUTANTS = {"journal": "journal", "segment": "segment.tmp", "checkpoint": "checkpoint.tmp",
           "closing": "journal.closed.tmp", "directory": "directory", "parent": "parent"}
SEGMENT_BYTES = 256 * 1024
ITEMS = 60
UNITS = 200
HOT_UNITS = 60
RUNS_PER_DIRECTORY = 4
BEFORE_START = -1  # what was promised before the record began


class Failure(Exception):
    """Something that must not happen, and the image on which it did."""

    def __init__(self, what, image=None):
        super().__init__(what)
        self.image = image


class Decision:
    """A call that changes something, what came of it, and the lane's items after it."""

    def __init__(self, method, request, refusal=None):
        self.method, self.request, self.expected_refusal = method, request, refusal
        self.reply = None
        self.promised = None  # the event with which the answer was sent, or BEFORE_START
        self.levels = None

    def make(self, client):
        """Makes the call: its answer, without what differs in a retry."""
        service = client.stock if self.method == "AdjustStock" else client.reservations
        try:
            reply = getattr(service, self.method)(self.request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            refusal = Refusal(error)
            if refusal.info is None or refusal.code == grpc.StatusCode.UNAVAILABLE:
                raise
            metadata = {name: value for name, value in refusal.info.metadata.items() if name != "replayed"}
            return (refusal.code.name, refusal.info.reason, tuple(sorted(metadata.items())))
        for field in "replayed", "remaining", "state":
            if field in reply.DESCRIPTOR.fields_by_name:
                reply.ClearField(field)
        return reply


class Lane:
    """One client after the other's heels: its next call is made when the last one is answered, and its items are its
    own. So after any crash they are as its last answered call has left them, or the one that was cut off."""

    def __init__(self, name, draw):
        self.name, self.draw = name, draw
        self.skus = [f"{name}-{number}" for number in range(ITEMS)]
        self.decisions = []
        self.pending = None
        self.levels = {sku: (0, 0, 0) for sku in self.skus}  # on hand, held, version
        self.live = {}  # reservation id: lines
        self.hot = 0

    def copy(self, decisions):
        """The lane after so many decisions, all of them safe; the next one, if there was one, goes first."""
        other = Lane(self.name, random.Random(self.draw.random()))
        for decision in self.decisions[:decisions]:
            again = Decision(decision.method, decision.request)
            again.promised, again.reply = BEFORE_START, decision.reply
            other.settle(again)
        rest = self.decisions[decisions:] + ([self.pending] if self.pending else [])
        other.pending = Decision(rest[0].method, rest[0].request) if rest else None
        return other

    def next(self):
        """A call, and whether it must be refused."""
        number = len(self.decisions)
        key = f"{self.name}-key-{number}-" + "k" * self.draw.choice([0, 1, 20, 40])
        if number < ITEMS:
            return Decision("AdjustStock", stock_pb2.AdjustStockRequest(
                idempotency_key=key, sku=self.skus[number], set_on_hand=UNITS, any_version=True, reason="delivery"))
        what = self.draw.random()
        if what < 0.35 and self.live:
            reservation_id = self.draw.choice(list(self.live))
            if what < 0.15:
                return Decision("Confirm", reservation_pb2.ConfirmRequest(reservation_id=reservation_id))
            return Decision("Release", reservation_pb2.ReleaseRequest(reservation_id=reservation_id))
        if what < 0.45:
            return Decision("AdjustStock", stock_pb2.AdjustStockRequest(
                idempotency_key=key, sku=self.draw.choice(self.skus), delta=self.draw.randint(1, 9), any_version=True,
                reason="delivery " * self.draw.choice([1, 20])))
        if what < 0.48:
            return self.reserve(key, [line("no-such-item")])
        if what < 0.6:
            return self.reserve(key, [line("hot")])
        skus = self.draw.sample(self.skus, self.draw.choice([1, 2, 20, 40, ITEMS, ITEMS]))
        return self.reserve(key, [line(sku, self.draw.randint(1, 3)) for sku in skus])

    def reserve(self, key, lines):
        return Decision("Reserve", reservation_pb2.ReserveRequest(idempotency_key=key, lines=lines, ttl=duration(3600)))

    def settle(self, decision):
        """The answer is there: the items as they must be from now on."""
        self.decisions.append(decision)
        is_refused = isinstance(decision.reply, tuple)
        request = decision.request
        if decision.method == "AdjustStock":
            on_hand, held, version = self.levels[request.sku]
            on_hand = request.set_on_hand if request.WhichOneof("change") == "set_on_hand" else on_hand + request.delta
            self.levels[request.sku] = (on_hand, held, version + 1)
        elif decision.method == "Reserve":
            lines = [(part.sku, part.quantity) for part in request.lines]
            if not is_refused:
                self.live[decision.reply.reservation_id] = lines
                self.move(lines, 0, 1)
        elif not is_refused:
            self.move(self.live.pop(request.reservation_id), -1 if decision.method == "Confirm" else 0, -1)
        decision.levels = dict(self.levels)

    def move(self, lines, on_hand, held):
        for sku, quantity in lines:
            if sku == "hot":
                self.hot += 1 if held > 0 else 0
                continue
            before = self.levels[sku]
            self.levels[sku] = (before[0] + on_hand * quantity, before[1] + held * quantity, before[2] + 1)

    def run(self, server, recorder, may_go_on):
        """Makes calls until it may not go on, or the server is gone."""
        with Client(server.target) as client:
            while may_go_on():
                if self.pending is None:
                    self.pending = self.next()
                try:
                    reply = self.pending.make(client)
                except grpc.RpcError:
                    return
                self.pending.size = recorder.size()
                self.pending.reply = reply
                self.settle(self.pending)
                self.pending = None

    def note_promises(self, record):
        for decision in self.decisions:
            if decision.promised is None:
                decision.promised = record.promise_before(decision.size)

    def count_promised(self, position):
        """How many of its decisions were answered before the event at `position`."""
        return sum(decision.promised < position for decision in self.decisions)

    # Against a server that has started on an image

    def count_found(self, client, promised):
        """How many decisions the server knows by the items: those that were promised, and perhaps the one after."""
        reply = client.stock.BatchGetStock(stock_pb2.BatchGetStockRequest(
            items=[stock_pb2.StockItem(sku=sku) for sku in self.skus]), timeout=CALL_SECONDS)
        found = {sku: (0, 0, 0) for sku in self.skus}
        found |= {level.sku: (level.on_hand, level.held, level.version) for level in reply.stock}
        for count in promised, promised + 1:
            if count > len(self.decisions):
                break
            if found == self.levels_after(count):
                return count
        if promised == len(self.decisions) and self.pending and self.is_pending_done(found):
            return promised
        raise Failure(f"{self.name}: after {promised} decisions the items are {self.difference(found, promised)}")

    def levels_after(self, count):
        return self.decisions[count - 1].levels if count else {sku: (0, 0, 0) for sku in self.skus}

    def is_pending_done(self, found):
        """Whether the items are as the call that was cut off would leave them."""
        lines = {part.sku for part in self.pending.request.lines} if self.pending.method == "Reserve" else set()
        if self.pending.method == "AdjustStock":
            lines = {self.pending.request.sku}
        elif self.pending.method != "Reserve":
            lines = {sku for sku, _ in self.live.get(self.pending.request.reservation_id, [])}
        before = self.levels_after(len(self.decisions))
        return {sku for sku in self.skus if found[sku] != before[sku]} == lines - {"hot"} and all(
            found[sku][2] == before[sku][2] + (sku in lines) for sku in self.skus)

    def difference(self, found, count):
        expected = self.levels_after(count)
        return ", ".join(f"{sku}: {found[sku]} for {expected[sku]}" for sku in self.skus if found[sku] != expected[sku])

    def check_answers(self, client, count, draw):
        """Every key has the answer that it got: the newest, and some of the older ones."""
        newest = max(0, count - 25)
        for index in [*draw.sample(range(newest), min(newest, 25)), *range(newest, count)]:
            decision = self.decisions[index]
            if decision.method in ("Confirm", "Release") and isinstance(decision.reply, tuple):
                continue
            reply = decision.make(client)
            if reply != decision.reply:
                raise Failure(f"{self.name}: decision {index} of {count}, {decision.method}, was answered with\n"
                              f"{decision.reply}\nand now with\n{reply}")


class FirstRelease:
    """The directory of the first release, and its clock."""

    def __init__(self, folder):
        self.folder = folder / "first-release"
        with tarfile.open(END_TO_END / "fixtures/first-release.tar.xz") as archive:
            archive.extractall(self.folder, filter="data")
        self.facts = json.loads((END_TO_END / "fixtures/first-release.json").read_text())
        self.flags = ["--max-reservations", "20000", "--retention", "8760h"]
        library = folder / "wall_clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, END_TO_END / "wall_clock.c", "-ldl"], check=True)
        self.clock = conftest.WallClock(library, folder / "wall-clock")
        self.clock.set(self.facts["seconds"] + 5)

    def check(self, client):
        for call in self.facts["calls"]:
            if "id" in call:
                reply = client.reserve(*(line(*parts) for parts in call["lines"]), key=call["key"], ttl=call["ttl"])
                if not reply.replayed or reply.reservation_id != call["id"]:
                    raise Failure(f"{call} is answered with {reply}")


class Run:
    """A server on a directory, recorded, and the images of it."""

    def __init__(self, options, number, folder, library, lanes, base, old=None):
        self.options, self.number, self.folder, self.lanes, self.old = options, number, folder, lanes, old
        self.draw = random.Random(f"{options.seed}/{number}")
        self.data = folder / f"data-{number}"
        if base:
            base.rename(self.data)
        self.recorder = disk_record.Recorder(library, self.data, folder / f"record-{number}")
        self.is_stopped = number % 2 == 1
        self.flags = ["--journal-segment-bytes", str(SEGMENT_BYTES), "--loops", str(self.draw.choice([1, 2])),
                      *(old.flags if old else [])]
        self.states = {}  # decisions: digest
        self.images = 0

    def environment(self, recorded=True):
        environment = dict(self.old.clock.environment) if self.old else {}
        if recorded:
            libraries = [each["LD_PRELOAD"] for each in (self.recorder.environment, environment) if each]
            environment |= self.recorder.environment | {"LD_PRELOAD": " ".join(libraries)}
        return environment

    def serve(self):
        """The load, and the end of it."""
        server = Server(self.options.server, *self.flags, data=self.data, environment=self.environment())
        wanted = sum(len(lane.decisions) for lane in self.lanes) + self.options.decisions
        ended = threading.Event()

        def may_go_on():
            return not ended.is_set() and sum(len(lane.decisions) for lane in self.lanes) < wanted

        def work(lane):
            lane.run(server, self.recorder, (lambda: not ended.is_set()) if not self.is_stopped else may_go_on)

        if not self.lanes[0].decisions:
            with Client(server.target) as client:
                client.adjust("hot", key="hot", set_on_hand=HOT_UNITS)
        threads = [threading.Thread(target=work, args=[lane]) for lane in self.lanes]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        while may_go_on() and server.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        if self.is_stopped:
            for thread in threads:
                thread.join()
            status = server.stop()
        else:
            server.kill()
            status = 0
        ended.set()
        for thread in threads:
            thread.join()
        if status or may_go_on() and not self.is_stopped and sum(len(lane.decisions) for lane in self.lanes) < wanted:
            raise Failure(f"the server ended with status {status} under load:\n{server.log_text()[-3000:]}")
        self.record = disk_record.Record(self.recorder)
        if self.is_stopped and not disk_record.is_complete(self.record, self.data):
            raise Failure("the record is not complete: replayed, it gives another directory")
        for lane in self.lanes:
            lane.note_promises(self.record)

    def boundaries(self):
        """Where the power is cut, and what is left then: at what is rare as often as at what is not, and in every way at
        the end."""
        events = self.record.events
        inode_names = {inode: name for name, (inode, _) in self.recorder.before.items()}
        by_kind = collections.defaultdict(list)
        for index, event in enumerate(events):
            if event.kind in (CREATE, RENAME, UNLINK, MKDIR, TRUNCATE):
                kind = event.names[-1].split("-")[0] if event.kind != TRUNCATE else "truncate"
                if event.kind == CREATE:
                    inode_names[event.inode] = event.names[0]
                by_kind[event.kind, kind].append(index)
            elif event.kind in (WRITE, SYNC):
                name = inode_names.get(event.inode, "directory").split("-")[0]
                by_kind[event.kind, name].append(index)
            elif event.kind in (END, SEND):
                by_kind[event.kind].append(index)
        chosen = []
        at_end = sorted(set(disk_record.WAYS))
        for index in range(self.options.images - len(at_end)):
            kind = list(by_kind)[index % len(by_kind)]
            # Before it, and with it.
            place = self.draw.choice(by_kind[kind]) + self.draw.choice([0, 1])
            chosen.append((place, self.draw.choice(disk_record.WAYS)))
        return [*sorted(chosen), *((len(events), way) for way in at_end)]

    def cut(self, lost=()):
        """Makes and checks the images. Returns one for the next run, with its lanes, or None."""
        disk = disk_record.Disk(self.record, lost)
        boundaries = self.boundaries()
        kept = None if self.is_stopped else self.draw.randrange(len(boundaries) // 2, len(boundaries))
        carried = None
        for number, (boundary, way) in enumerate(boundaries):
            disk.advance(boundary)
            image = self.folder / "image"
            what = disk.image(image, way, self.draw)
            copy = disk_record.copy(image, self.folder / "copy") if image.exists() else None
            try:
                counts = self.check(image, boundary)
            except (Failure, RuntimeError, AssertionError, grpc.RpcError) as error:
                place = f"run {self.number}, before event {boundary} of {len(self.record.events)}, {what}"
                raise Failure(f"{place}: {error}", copy) from error
            self.images += 1
            shutil.rmtree(image, ignore_errors=True)
            if copy and number == kept:
                carried = copy.rename(self.folder / f"carried-{self.number}"), [
                    lane.copy(count) for lane, count in zip(self.lanes, counts)]
            elif copy:
                shutil.rmtree(copy)
        return carried

    def check(self, image, boundary):
        """Holds an image against what was promised. Returns how many decisions of each lane are there."""
        promised = [lane.count_promised(boundary) for lane in self.lanes]
        if not image.exists():
            if any(promised):
                raise Failure("the directory is gone")
            return promised
        verified = holdfast(self.options.server, "verify", image)
        if verified.returncode == 0:
            _, decisions, digest = verified.stdout.split()
            if int(decisions) < sum(promised):
                raise Failure(f"verify finds {decisions} decisions, and {sum(promised)} were promised")
            if self.states.setdefault(decisions, digest) != digest:
                raise Failure(f"two states after {decisions} decisions")
        elif verified.returncode != 1 or any(promised):
            raise Failure(f"verify, status {verified.returncode}: {verified.stderr}")
        if "damage" in verified.stderr:
            raise Failure(f"verify finds damage where there is none: {verified.stderr}")
        with Server(self.options.server, *self.flags, data=image, environment=self.environment(False)) as server:
            counts = self.check_server(server, promised)
            if '"warning"' in server.log_text() and "damage" in server.log_text():
                raise Failure(f"the server found damage: {server.log_text()}")
            if self.draw.random() < 0.7:
                server.kill()
            elif status := server.stop():
                raise Failure(f"the server ended with status {status}:\n{server.log_text()[-3000:]}")
        again = holdfast(self.options.server, "verify", image)
        if again.returncode != 0:
            raise Failure(f"verify after the start, status {again.returncode}: {again.stderr}")
        return counts

    def check_server(self, server, promised):
        draw = random.Random(self.draw.random())
        with Client(server.target) as client:
            counts = [lane.count_found(client, count) for lane, count in zip(self.lanes, promised)]
            for lane, count in zip(self.lanes, counts):
                lane.check_answers(client, count, draw)
            if self.old:
                self.old.check(client)
            if any(promised):
                hot = client.level("hot")
                sold = HOT_UNITS - hot.on_hand
                if not 0 <= hot.held <= hot.on_hand or sold + hot.held > HOT_UNITS:
                    raise Failure(f"oversold: {hot}")
        return counts

    def line(self):
        kinds = collections.Counter(
            "checkpoints" if event.names[-1].startswith("checkpoint-") else "segments"
            for event in self.record.events if event.kind == RENAME and re.match("checkpoint-|journal-", event.names[-1]))
        return (f"run {self.number:3} · {sum(len(lane.decisions) for lane in self.lanes):,} decisions · "
                f"{'stopped' if self.is_stopped else 'killed'} · {len(self.record.events):,} events, "
                f"{kinds['segments']} segments, {kinds['checkpoints']} checkpoints · {self.images} images")


def run_all(options, folder):
    """All runs: how many images were held, and the runs' events."""
    library = disk_record.build_recorder(folder)
    images = 0
    lanes = base = None
    lost = [MUTANTS[options.mutant]] if options.mutant else []
    for number in range(options.runs):
        old = None
        if number == options.runs - 1 and options.runs > 1:
            old = FirstRelease(folder)
            base, lanes = old.folder, None
        if lanes is None or number % RUNS_PER_DIRECTORY == 0 and not old:
            base = base if old else None
            lanes = [Lane(f"lane-{number}-{each}", random.Random(f"{options.seed}/{number}/{each}")) for each in range(4)]
        run = Run(options, number, folder, library, lanes, base, old)
        run.serve()
        carried = run.cut(lost)
        images += run.images
        print(run.line(), flush=True)
        base, lanes = carried or (run.data, [lane.copy(len(lane.decisions)) for lane in lanes])
        run.recorder.file.unlink()
        if carried:
            shutil.rmtree(run.data)
    return images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--images", type=int, default=60, help="of each run")
    parser.add_argument("--decisions", type=int, default=3000, help="of each run")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--mutant", choices=MUTANTS, help="a server that forgets these syncs: it must be found out")
    parser.add_argument("--directory", help="where data directories are made (default: the system's temporary one)")
    parser.add_argument("--server", default=REPOSITORY / ".build/release/holdfast")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-power-", dir=options.directory))
    try:
        images = run_all(options, folder)
    except Failure as failure:
        print(f"FAILED, seed {options.seed}: {failure}", file=sys.stderr)
        if options.mutant:
            shutil.rmtree(folder)
        else:
            print(f"kept: {failure.image or folder}", file=sys.stderr)
        raise SystemExit(1) from failure
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    print(f"{images} images of {options.runs} runs: nothing that was promised is lost, no damage, nothing oversold")


if __name__ == "__main__":
    main()
