"""What a server still knows after it ended, and what the commands on its directory say."""

import json
import os
import subprocess
import time

import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from holdfast.v1 import reservation_pb2 as api
from journal import segments
from server import holdfast, serve_command
from test_lifecycle import metric

HELD, CONFIRMED, RELEASED, EXPIRED = (
    api.RESERVATION_STATE_HELD, api.RESERVATION_STATE_CONFIRMED, api.RESERVATION_STATE_RELEASED,
    api.RESERVATION_STATE_EXPIRED)


class Story:
    """Something of everything, and then whether a server still knows it."""

    def __init__(self, client):
        self.keys = {name: fresh(name) for name in ("adjusted", "held", "confirmed", "refused", "unknown")}
        self.sku, self.other = fresh(), fresh()
        self.adjusted = self.adjust(client)
        client.adjust(self.other, set_on_hand=7, location="oslo", set_safety_stock=2)
        self.held = self.reserve_two(client)
        self.confirmed = client.reserve(line(self.sku, 2), key=self.keys["confirmed"])
        client.confirm(self.confirmed.reservation_id, line(self.sku, 1))
        self.released = client.reserve(line(self.sku, 3))
        client.release(self.released.reservation_id)
        self.extended = client.reserve(line(self.sku, 1), ttl=60)
        client.extend(self.extended.reservation_id, ttl=7200)
        self.refuse(client)
        self.state = self.look(client)

    def adjust(self, client):
        return client.adjust(self.sku, key=self.keys["adjusted"], set_on_hand=10)

    def reserve_two(self, client):
        return client.reserve(
            line(self.sku, 2), line(self.other, 1, "oslo"), key=self.keys["held"], ttl=3600)

    def refuse(self, client, **metadata):
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=50, **metadata) as seen:
            client.reserve(line(self.sku, 50), key=self.keys["refused"])
        with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", **metadata):
            client.reserve(line("no-such-item"), key=self.keys["unknown"])
        return seen[0].info.metadata["available"]

    def look(self, client):
        return [client.level(self.sku), client.level(self.other, "oslo")] + [
            client.get(each.reservation_id)
            for each in (self.held, self.confirmed, self.released, self.extended)]

    def check(self, client):
        """Everything is as it was, and every retry gets the answer that the first try got."""
        assert self.look(client) == self.state
        again = self.reserve_two(client)
        assert again.replayed and again.reservation_id == self.held.reservation_id
        assert again.expires_at == self.held.expires_at
        again = self.adjust(client)
        assert again.replayed and again.stock == self.adjusted.stock
        assert self.refuse(client, replayed="true") == "6"
        assert client.release(self.released.reservation_id).replayed
        with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            client.reserve(line(self.sku, 1), key=self.keys["held"])
        assert self.look(client) == self.state


def state_of(binary, data):
    """(decisions, digest) of a directory that no server has."""
    done = holdfast(binary, "verify", data)
    assert done.returncode == 0, done.stderr
    word, decisions, digest = done.stdout.split()
    assert word == "state" and done.stdout.count("\n") == 1 and len(digest) == 32
    return int(decisions), digest


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_keeps_everything(binary, start, tmp_path, durability, end):
    data = tmp_path / "data"
    first = start("--durability", durability, data=data)
    with Client(first.target) as client:
        story = Story(client)
    getattr(first, end)()
    known = state_of(binary, data)
    # One for each call of the story that decided something, refusals included.
    assert known[0] == 11
    second = start("--durability", durability, data=data)
    assert known[1] in second.log_text()
    with Client(second.target) as client:
        story.check(client)
    second.kill()
    assert state_of(binary, data) == known, "the retries have changed something"
    with Client(start(data=data).target) as client:
        story.check(client)
        # And it goes on from there.
        client.confirm(story.held.reservation_id)
        assert client.level(story.sku).on_hand == 7
        assert client.reserve(line(story.sku, 4)).reservation_id != story.held.reservation_id


def test_what_is_decided_between_restarts_adds_up(binary, start, tmp_path):
    """Several runs in one directory: each goes on where the one before has ended, however it did."""
    data, decisions = tmp_path / "data", 0
    for number in range(4):
        server = start(data=data)
        with Client(server.target) as client:
            if number == 0:
                sku = client.item(100)
                decisions += 1
            for _ in range(5):
                client.confirm(client.reserve(line(sku)).reservation_id)
                decisions += 2
            assert client.level(sku).on_hand == 100 - 5 * (number + 1)
        server.kill() if number % 2 else server.stop()
        assert state_of(binary, data)[0] == decisions


def test_checkpoints_take_the_place_of_old_segments(binary, start, tmp_path):
    """Holding and releasing for ever needs no more disk; what a start reads is a checkpoint and some journal."""
    data, segment_bytes = tmp_path / "data", 256 * 1024
    server = start("--journal-segment-bytes", str(segment_bytes), "--loops", "2", data=data)
    with Client(server.target) as client:
        cart = [line(client.item(100)) for _ in range(64)]
        kept = client.reserve(*cart, key="kept", ttl=3600)
        rounds = 0
        while metric(server, "holdfast_checkpoints_total") < 2:
            for _ in range(50):
                client.release(client.reserve(*cart).reservation_id)
            rounds += 50
            assert rounds < 20_000
        # Those since the last checkpoint but two, spare ones, and as many to be used again.
        assert metric(server, "holdfast_journal_disk_bytes") <= 34 * segment_bytes
        assert metric(server, "holdfast_journal_bytes_total") > 16 * segment_bytes
        assert metric(server, "holdfast_checkpoint_bytes") > 0
    server.kill()
    decisions, _ = state_of(binary, data)
    assert decisions == 64 + 1 + 2 * rounds
    checkpoints = sorted(data.glob("checkpoint-0*"))
    assert len(checkpoints) == 2 and int(checkpoints[0].name.removeprefix("checkpoint-")) > 0
    # One bad bit in the newest: the one before and the journal since have all that it had.
    state, harmed = state_of(binary, data), bytearray(checkpoints[1].read_bytes())
    harmed[len(harmed) // 2] ^= 1
    checkpoints[1].write_bytes(harmed)
    assert state_of(binary, data) == state
    assert f"{checkpoints[1].name} is damaged" in holdfast(binary, "verify", data).stderr
    server = start(data=data)
    assert "a checkpoint is damaged" in server.log_text()
    assert 0 < metric(server, "holdfast_recovery_records") < decisions
    with Client(server.target) as client:
        again = client.reserve(*cart, key="kept", ttl=3600)
        assert again.replayed and again.reservation_id == kept.reservation_id
        level = client.level(cart[0].sku)
        assert (level.on_hand, level.held, level.version) == (100, 1, 2 + 2 * rounds)


def test_holds_that_fell_due_while_it_was_down(start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(10)
        due = [client.reserve(line(sku), ttl=ttl) for ttl in (2, 1)]
        live = client.reserve(line(sku), ttl=3600)
    server.kill()
    last = max(hold.expires_at.ToNanoseconds() for hold in due)
    time.sleep(max(0, last - time.time_ns()) / 1e9)
    with Client(start(data=tmp_path / "data").target) as client:
        for hold in due:
            reservation = client.get(hold.reservation_id)
            assert reservation.state == EXPIRED
            assert reservation.ended_at == hold.expires_at == reservation.expires_at
        assert client.get(live.reservation_id).state == HELD
        assert client.get(live.reservation_id).expires_at == live.expires_at
        level = client.level(sku)
        assert (level.on_hand, level.held) == (10, 1)
        client.reserve(line(sku, 9))


def test_a_second_server_is_told_to_take_another_directory(binary, start, tmp_path):
    start(data=tmp_path)
    for arguments in (serve_command(binary, tmp_path)[1:], ["repair", tmp_path, "--truncate-at", "0"]):
        done = holdfast(binary, *arguments)
        assert done.returncode == 1 and done.stdout == ""
        (complaint,) = done.stderr.splitlines()
        assert str(tmp_path) in complaint and "in use" in complaint
        assert ("--data-dir" in complaint) == (arguments[0] == "serve")


def test_memory_needs_no_directory_and_keeps_nothing(start, tmp_path):
    server = start("--durability", "memory", data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(10)
    server.stop()
    assert not (tmp_path / "data").exists()
    with Client(start("--durability", "memory", data=tmp_path / "data").target) as client:
        with refused(StatusCode.NOT_FOUND):
            client.level(sku)


def test_the_durability_may_change_between_runs(start, tmp_path):
    server = start("--durability", "os", data=tmp_path / "data")
    with Client(server.target) as client:
        story = Story(client)
    server.kill()
    with Client(start("--durability", "fsync", data=tmp_path / "data").target) as client:
        story.check(client)


def test_a_directory_keeps_its_segments(start, tmp_path):
    """It was made with small ones: a server that would make larger ones goes on with what is there."""
    start("--journal-segment-bytes", str(256 * 1024), "--loops", "2", data=tmp_path / "data").stop()
    server = start("--loops", "2", data=tmp_path / "data")
    with Client(server.target) as client:
        Story(client).check(client)
    assert {path.stat().st_size for path in segments(tmp_path / "data")} == {256 * 1024}


def test_the_directory_is_the_owners_alone(start, tmp_path):
    start(data=tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("spoil", [
    lambda data: data.write_text("a file"), lambda data: (data.mkdir(), (data / "x").mkdir()) and None])
def test_a_directory_that_cannot_be_one(binary, tmp_path, spoil):
    """A file where the directory should be; strangers' files in it are left alone."""
    spoil(tmp_path / "data")
    done = holdfast(binary, "verify", tmp_path / "data")
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["verify"], ["dump"], ["repair", "--truncate-at", "0"]], ids=" ".join)
def test_a_directory_that_is_not_there(binary, tmp_path, command):
    done = holdfast(binary, command[0], tmp_path / "none", *command[1:])
    assert done.returncode == 1 and done.stdout == "" and str(tmp_path / "none") in done.stderr
    assert not (tmp_path / "none").exists()


# The journal for programs.


def test_a_dump_is_complete_and_in_order(binary, start, tmp_path):
    server = start(data=tmp_path)
    with Client(server.target) as client:
        story = Story(client)
    server.stop()
    done = holdfast(binary, "dump", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    records = [json.loads(row) for row in done.stdout.splitlines()]
    assert records.pop(0)["kind"] == "checkpoint"
    kinds = [record["kind"] for record in records if record["kind"] != "clock"]
    assert kinds == ["adjusted", "adjusted", "held", "held", "confirmed", "held", "released", "held", "extended",
                     "refused", "refused"]
    assert len(kinds) == state_of(binary, tmp_path)[0]
    numbers = [record["lsn"] for record in records]
    assert numbers == sorted(set(numbers))
    assert story.keys["held"] in done.stdout and story.sku in done.stdout


def test_a_dump_whose_reader_leaves(binary, start, tmp_path):
    server = start(data=tmp_path)
    with Client(server.target) as client:
        sku = client.item(10_000)
        for call in [client.reservations.Reserve.future(api.ReserveRequest(
                idempotency_key=fresh("key"), lines=[line(sku)]), timeout=20) for _ in range(1000)]:
            call.result()
    server.stop()
    dump = subprocess.Popen([binary, "dump", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    dump.stdout.readline()
    dump.stdout.close()
    assert dump.wait(20) == 0 and dump.stderr.read() == b""


def test_settings_of_the_journal(binary, tmp_path):
    done = subprocess.run([binary, "serve", "--print-config"], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "HOLDFAST_DATA_DIR": "/somewhere/else"}, timeout=20)
    settings = done.stdout.splitlines()
    assert "data-dir = /somewhere/else  (HOLDFAST_DATA_DIR)" in settings
    assert "durability = fsync  (default)" in settings
    assert list(tmp_path.iterdir()) == []
