"""Backups, archives and restoring: what a real server has acknowledged is in them, and nothing else."""

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import grpc
import pytest

from client import Client, fresh, line, refused
from holdfast.v1 import backup_pb2, backup_pb2_grpc
from journal import segments
from server import eventually, holdfast
from test_durability import Story, state_of
from test_identity import ALONE
from test_lifecycle import metric
from watching import Watch, kind_name

SMALL = ("--journal-segment-bytes", str(256 * 1024), "--loops", "1", "--history", "0")


class Load:
    """Fills segments: carts of many lines, on a thread of its own, each with its key and what was answered."""

    def __init__(self, target, lines=64):
        self.target, self.lines = target, lines
        self.answers, self.failure = [], None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            with Client(self.target) as client:
                cart = [line(client.item(1_000_000)) for _ in range(self.lines)]
                self.skus = [each.sku for each in cart]
                while not self.stopping.is_set():
                    key = fresh("key")
                    held = client.reserve(*cart, key=key, ttl=3600)
                    self.answers.append((key, held.reservation_id, cart))
                    client.release(held.reservation_id)
        except Exception as error:  # told to the test's thread
            self.failure = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def until(self, condition, seconds=60):
        def check():
            assert self.failure is None, self.failure
            return condition()
        return eventually(check, seconds)


def back_up(binary, source, target, *flags):
    """Of a directory, or over the network of a server at this address. The backup's LSN and its decisions."""
    where = "--target" if isinstance(source, str) else "--data-dir"
    done = holdfast(binary, "backup", where, source, *flags, target)
    assert done.returncode == 0, done.stderr
    word, lsn, moment, decisions, size = done.stdout.split()
    assert word == "backup" and done.stdout.count("\n") == 1
    assert int(size) > 0 and datetime.datetime.fromisoformat(moment[:19])
    return int(lsn), int(decisions)


def restore(binary, backup, target, archive=None, until=None):
    done = holdfast(binary, "restore", backup, target, *(["--archive", archive] if archive else []),
                    *(["--until", until] if until is not None else []))
    assert done.returncode == 0, done.stderr
    word, lsn, moment, decisions = done.stdout.split()
    assert word == "restored"
    return int(lsn), int(decisions)


def dumped(binary, data):
    return [json.loads(row) for row in holdfast(binary, "dump", data).stdout.splitlines()]


def test_a_backup_of_a_running_server_has_all_that_was_acknowledged(binary, start, tmp_path):
    server = start(*SMALL, data=tmp_path / "data")
    with Client(server.target) as client:
        story = Story(client)
        with Load(server.target) as load:
            # Across checkpoints, while segments are used again.
            for number in range(4):
                load.until(lambda: load.answers and metric(server, "holdfast_checkpoints_total") >= 2 * number)
                acknowledged = len(load.answers)
                source = server.target if number % 2 else server.data
                lsn, decisions = back_up(binary, source, tmp_path / f"backup-{number}")
                begun = len(load.answers) + 1
                state = state_of(binary, tmp_path / f"backup-{number}")
                assert state[0] == decisions
                restored = tmp_path / f"restored-{number}"
                assert restore(binary, tmp_path / f"backup-{number}", restored) == (lsn, decisions)
                with start(data=restored) as second, Client(second.target) as other:
                    story_levels = [balances(other.level(story.sku)), balances(other.level(story.other, "oslo"))]
                    assert story_levels == [balances(level) for level in story.state[:2]]
                    for key, reservation, cart in load.answers[:acknowledged][-50:]:
                        again = other.reserve(*cart, key=key, ttl=3600)
                        assert again.replayed and again.reservation_id == reservation
                    # Of what came after the backup had ended there is nothing.
                    load.until(lambda: len(load.answers) > begun + 1)
                    key, reservation, cart = load.answers[begun + 1]
                    again = other.reserve(*cart, key=key, ttl=3600)
                    assert not again.replayed and again.reservation_id != reservation
        story.check(client)


def balances(level):
    return level.sku, level.location, level.on_hand, level.held, level.safety_stock


def test_versions_ids_and_tokens_of_the_future_that_was_given_up_are_foreign(binary, start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(10)
        before = client.reserve(line(sku), ttl=3600)
        back_up(binary, server.data, tmp_path / "backup")
        token_of_before = newest_token(client)
        given_up = client.reserve(line(sku), ttl=3600)
        version = client.level(sku).version
        token = newest_token(client)
    server.stop()
    restore(binary, tmp_path / "backup", tmp_path / "restored")
    with Client(start(data=tmp_path / "restored").target) as client:
        assert client.level(sku).held == 1 and client.get(before.reservation_id).reservation_id
        with refused(grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"):
            client.get(given_up.reservation_id)
        # As many decisions as there, and yet another version and other ids.
        anew = client.reserve(line(sku), ttl=3600)
        assert anew.reservation_id != given_up.reservation_id
        assert client.level(sku).version > version
        with refused(grpc.StatusCode.ABORTED, "VERSION_MISMATCH"):
            client.adjust(sku, delta=1, any_version=False, expected_version=version)
        for foreign in (token, token_of_before):
            with Watch(client, resume_token=foreign) as watched:
                assert watched.wait_for_end().code() == grpc.StatusCode.FAILED_PRECONDITION
        client.confirm(before.reservation_id)


def newest_token(client):
    with Watch(client) as watched:
        return watched.begun().token()


def test_any_moment_since_the_backup(binary, start, tmp_path):
    archive = tmp_path / "archive"
    server = start(*SMALL, "--archive", archive, data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(1000)
        back_up(binary, server.data, tmp_path / "backup")
        moments = []
        with Load(server.target) as load:
            for number in range(5):
                client.adjust(sku, delta=-1)
                lsn = metric(server, "holdfast_journal_durable_lsn")
                now = datetime.datetime.now(datetime.timezone.utc)
                moments.append((999 - number, int(lsn), now.isoformat()))
                archived = metric(server, "holdfast_archive_segments_total")
                load.until(lambda: metric(server, "holdfast_archive_segments_total") > archived + 2)
        assert metric(server, "holdfast_archive_failures_total") == 0
    assert server.stop() == 0
    for on_hand, lsn, moment in moments:
        for until in (lsn, moment):
            name = tmp_path / "restored"
            found, _ = restore(binary, tmp_path / "backup", name, archive, until)
            assert found <= lsn or until == moment
            with start(data=name) as second, Client(second.target) as other:
                assert other.level(sku).on_hand == on_hand, until
            shutil.rmtree(name)
    # All of it: the same state as the directory has.
    restore(binary, tmp_path / "backup", tmp_path / "whole", archive)
    assert state_of(binary, tmp_path / "whole")[0] == state_of(binary, server.data)[0]
    # And what nobody can know.
    done = holdfast(binary, "restore", tmp_path / "backup", tmp_path / "no", "--archive", archive,
                    "--until", "2100-01-01T00:00:00+01:00")
    assert done.returncode == 1 and re.search(r"go from LSN \d+ \(20.+Z\) to LSN \d+ \(20.+Z\)", done.stderr)
    assert not (tmp_path / "no").exists() and not (tmp_path / "no.partial").exists()
    for wrong in ("yesterday", "2027-01-31", "2027-02-30T00:00:00Z", "-1", ""):
        done = holdfast(binary, "restore", tmp_path / "backup", tmp_path / "no", f"--until={wrong}")
        assert done.returncode == 64, wrong


def test_an_archive_across_kills_and_restarts(binary, start, tmp_path):
    data, archive = tmp_path / "data", tmp_path / "archive"
    flags = (*SMALL, "--archive", archive)
    for number in range(6):
        server = start(*flags, data=data)
        if number == 0:
            back_up(binary, data, tmp_path / "backup")
        archived = metric(server, "holdfast_archive_segments_total")
        with Load(server.target) as load:
            load.until(lambda: metric(server, "holdfast_archive_segments_total") > archived + 2)
            answers = list(load.answers)
            if number % 2 == 0:
                # In the middle of a batch, and perhaps of a copy.
                server.process.kill()
                load.thread.join()
                load.failure = None
        if number % 2:
            assert server.stop() == 0
        server.process.wait()
    # The tail is there after an orderly stop.
    restore(binary, tmp_path / "backup", tmp_path / "restored", archive)
    assert state_of(binary, tmp_path / "restored")[0] == state_of(binary, data)[0]
    with Client(start(data=tmp_path / "restored").target) as client:
        for key, reservation, cart in answers[-20:]:
            again = client.reserve(*cart, key=key, ttl=3600)
            assert again.replayed and again.reservation_id == reservation


@pytest.fixture
def archived(binary, start, tmp_path):
    """A backup, and an archive of some segments since."""
    server = start(*SMALL, "--archive", tmp_path / "archive", data=tmp_path / "data")
    back_up(binary, server.data, tmp_path / "backup")
    with Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_archive_segments_total") > 4)
    server.stop()
    return tmp_path


def test_a_segment_that_is_missing(binary, archived):
    third = sorted((archived / "archive").glob("journal-*"))[2]
    third.unlink()
    done = holdfast(binary, "restore", archived / "backup", archived / "no", "--archive", archived / "archive")
    assert done.returncode == 1 and not (archived / "no").exists()
    found = re.search(r"lacks the journal from LSN (\d+) to (\d+) \(segments 3 to 3\)", done.stderr)
    assert found and int(found[1]) < int(found[2])
    assert restore(binary, archived / "backup", archived / "before", archived / "archive", found[1])[0] == int(found[1])


def test_hostile_bytes(binary, archived):
    for name in ("backup", "archive"):
        folder = archived / name
        for path in sorted(folder.glob("*-*")):
            whole = path.read_bytes()
            # In a batch, or a block of the checkpoint; the backup's journal is empty so far but for its beginning.
            place = 4096 + 20 if "journal" in path.name else len(whole) // 2
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
            if name == "backup":
                assert holdfast(binary, "verify", folder).returncode == 3
            done = holdfast(binary, "restore", archived / "backup", archived / "no", "--archive", archived / "archive")
            if path.name.startswith("journal-00000000000000000001") and name == "backup":
                # The archive has that segment whole.
                assert done.returncode == 0, done.stderr
                shutil.rmtree(archived / "no")
            else:
                assert done.returncode == 3, f"{path}: {done.stderr}"
                assert path.name in done.stderr
                assert not (archived / "no").exists() and not (archived / "no.partial").exists()
            path.write_bytes(whole)
    restore(binary, archived / "backup", archived / "whole", archived / "archive")


def test_an_archive_of_another_store(binary, start, archived):
    with pytest.raises(RuntimeError) as failure:
        start("--archive", archived / "archive", data=archived / "other")
    assert "belongs to another store" in str(failure.value) and str(archived / "archive") in str(failure.value)
    with start(data=archived / "other") as other:
        back_up(binary, other.data, archived / "other-backup")
    done = holdfast(binary, "restore", archived / "other-backup", archived / "no", "--archive", archived / "archive")
    assert done.returncode == 1 and "belongs to another store" in done.stderr
    os.mkdir(archived / "empty")
    done = holdfast(binary, "restore", archived / "backup", archived / "no", "--archive", archived / "empty")
    assert done.returncode == 1 and "has nothing of the history" in done.stderr


def test_an_older_copy_of_the_directory_is_not_archived_over_the_newer(binary, start, tmp_path):
    server = start(*SMALL, "--archive", tmp_path / "archive", data=tmp_path / "data")
    server.stop()
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    server = start(*SMALL, "--archive", tmp_path / "archive", data=tmp_path / "data")
    with Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_archive_segments_total") > 1)
    server.stop()
    with pytest.raises(RuntimeError) as failure:
        start(*SMALL, "--archive", tmp_path / "archive", data=tmp_path / "copy")
    lsn = re.search(r"--truncate-at (\d+)", str(failure.value))[1]
    assert holdfast(binary, "repair", tmp_path / "copy", "--truncate-at", lsn).returncode == 0
    start(*SMALL, "--archive", tmp_path / "archive", data=tmp_path / "copy")


def test_an_archive_that_fails_stops_nobody(start, tmp_path, request):
    archive = tmp_path / "archive"
    archive.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", archive], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", archive], check=True))
    server = start(*SMALL, "--archive", archive, data=tmp_path / "data")
    with Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_archive_failures_total") > 0)
        # It is written on; what is not archived is kept.
        checkpoints = metric(server, "holdfast_checkpoints_total")
        load.until(lambda: metric(server, "holdfast_checkpoints_total") > checkpoints + 2)
    assert metric(server, "holdfast_archive_waiting_segments") > 10
    assert metric(server, "holdfast_archive_lost_segments_total") == 0
    assert "cannot archive a segment" in server.log_text() and "No space" in server.log_text()
    subprocess.run(["mount", "-o", "remount,size=100m", archive], check=True)
    eventually(lambda: metric(server, "holdfast_archive_waiting_segments") == 0, 60)
    assert "takes segments again" in server.log_text()
    assert server.stop() == 0
    kept = [path.name for path in sorted(archive.glob("journal-*"))]
    assert [int(name[8:28]) for name in kept] == list(range(1, len(kept) + 1))
    assert kept[-1].endswith(".tail")


def test_a_backup_that_does_not_fit(binary, start, tmp_path, request):
    room = tmp_path / "room"
    room.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", room], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", room], check=True))
    server = start(*SMALL, data=tmp_path / "data")
    with Load(server.target) as load:
        load.until(lambda: len(segments(server.data)) > 8)
    done = holdfast(binary, "backup", "--data-dir", server.data, room / "backup")
    assert done.returncode == 1 and "No space" in done.stderr and str(room) in done.stderr
    assert not list(room.iterdir())
    back_up(binary, server.data, tmp_path / "backup")
    done = holdfast(binary, "restore", tmp_path / "backup", room / "restored")
    assert done.returncode in (0, 1)
    if done.returncode:
        assert "No space" in done.stderr and not list(room.iterdir())


def test_what_is_no_source_or_no_target(binary, server, tmp_path):
    def refused_with(status, *arguments):
        done = holdfast(binary, *arguments)
        assert done.returncode == status and done.stdout == "", done.stderr
        return done.stderr

    assert "No such file" in refused_with(1, "backup", "--data-dir", tmp_path / "none", tmp_path / "backup")
    (tmp_path / "empty").mkdir()
    assert "no store" in refused_with(1, "backup", "--data-dir", tmp_path / "empty", tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert "is there already" in refused_with(1, "backup", "--data-dir", server.data, tmp_path / "empty")
    refused_with(1, "backup", "--data-dir", server.data, tmp_path / "none" / "backup")
    refused_with(64, "backup", tmp_path / "backup")
    back_up(binary, server.data, tmp_path / "backup")
    assert "is there already" in refused_with(1, "restore", tmp_path / "backup", tmp_path / "empty")
    assert "it is no backup" in refused_with(1, "restore", server.data, tmp_path / "new")
    assert "holdfast restore" in refused_with(
        1, "serve", "--port", "0", "--admin-port", "0", "--data-dir", tmp_path / "backup")
    assert "--archive" in refused_with(64, "serve", "--durability", "memory", "--archive", tmp_path / "archive")
    assert "data directory" in refused_with(
        64, "serve", "--data-dir", tmp_path / "same", "--archive", tmp_path / "same")


def test_a_damaged_directory_makes_no_backup(binary, start, tmp_path):
    server = start(*SMALL, data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(100)
        for _ in range(10):
            client.reserve(line(sku))
    server.stop()
    path = segments(tmp_path / "data")[0]
    whole = path.read_bytes()
    last = whole.rfind(whole[4096:4100])
    path.write_bytes(whole[:last - 8] + bytes(64) + whole[last + 56:])
    done = holdfast(binary, "backup", "--data-dir", tmp_path / "data", tmp_path / "backup")
    assert done.returncode == 3 and path.name in done.stderr
    assert not (tmp_path / "backup").exists() and not (tmp_path / "backup.partial").exists()


def test_an_interrupted_backup(binary, start, tmp_path):
    """Large enough to be interrupted; where it was done before, it is whole."""
    server = start(data=tmp_path / "data")
    with Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_journal_durable_lsn") > 4_000_000)
    for wait in (0.0, 0.05, 0.1, 0.3):
        target = tmp_path / f"backup-{wait}"
        process = subprocess.Popen([binary, "backup", "--data-dir", server.data, target],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        if process.returncode == 0:
            assert out.startswith("backup ") and state_of(binary, target)
        else:
            assert process.returncode in (1, -signal.SIGINT) and out == ""
            assert not target.exists()
            if process.returncode == 1:
                assert "interrupted" in err and not target.with_name(target.name + ".partial").exists()


def test_events_of_a_restored_server_begin_with_it(binary, start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(5)
    back_up(binary, server.data, tmp_path / "backup")
    restore(binary, tmp_path / "backup", tmp_path / "restored")
    with Client(start(data=tmp_path / "restored").target) as client:
        client.reserve(line(sku))
        with Watch(client, oldest=True) as watched:
            assert [kind_name(event) for event in watched.wait_for_events(1)] == ["HELD"]


def test_over_the_network_it_is_the_same(binary, start, tmp_path):
    server = start(*SMALL, data=tmp_path / "data")
    with Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_checkpoints_total") > 1)
    near, far = tmp_path / "near", tmp_path / "far"
    assert back_up(binary, server.data, near) == back_up(binary, server.target, far)
    assert state_of(binary, near) == state_of(binary, far)
    # One message is the pieces' order alone: every file is the same.
    assert {path.name: path.read_bytes() for path in near.iterdir()} == {
        path.name: path.read_bytes() for path in far.iterdir()}


def test_over_a_unix_socket(binary, start, tmp_path):
    server = start("--host", f"unix:{tmp_path}/socket", data=tmp_path / "data")
    back_up(binary, server.target, tmp_path / "backup")


def test_only_admin_may_back_up_over_the_network(binary, start, tmp_path, ours, pair):
    tokens = tmp_path / "tokens"
    held = {role: holdfast(binary, "token", "create", "--caller", role, "--role", role, "--file", tokens).stdout.strip()
            for role in ("stock", "admin")}
    server = start("--tokens", tokens, "--tls-cert", pair.certificate, "--tls-key", pair.key, data=tmp_path / "data")
    tls = ("--tls", "--tls-ca", ours.authority, "--server-name", "localhost")

    def fails(*flags, status=1, target=server.target):
        done = holdfast(binary, "backup", "--target", target, *flags, tmp_path / "backup")
        assert done.returncode == status and done.stdout == ""
        assert not list(tmp_path.glob("backup*"))
        assert held["admin"] not in done.stderr and held["stock"] not in done.stderr
        return done.stderr

    assert "no token" in fails(*tls)
    assert "role" in fails(*tls, "--metadata", f"authorization=Bearer {held['stock']}")
    assert "certificate" in fails("--tls", "--metadata", f"authorization=Bearer {held['admin']}")
    fails()
    fails("--tls-ca", ours.authority, status=64)
    fails(*tls, "--metadata", held["admin"], status=64)
    fails(target="nowhere", status=64)
    with start(data=tmp_path / "gone") as other:
        gone = other.target
    assert "refused" in fails(target=gone)
    back_up(binary, server.target, tmp_path / "backup", *tls, "--metadata", f"authorization=Bearer {held['admin']}")


def backup_stub(client):
    return backup_pb2_grpc.BackupServiceStub(client.channel)


def test_backups_over_the_network_are_limited(binary, start, tmp_path):
    server = start(*SMALL, "--stall-timeout", "600s", data=tmp_path / "data")
    # As little as a client can take ahead.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]
    with Client(server.target, options=options) as client, Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_checkpoints_total") > 1)
        # Their client reads nothing: the server keeps what they began with, and serves on.
        open_calls = [backup_stub(client).Backup(backup_pb2.BackupRequest()) for _ in range(2)]
        for call in open_calls:
            assert next(call).file.startswith("checkpoint-")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_BACKUPS"):
            next(backup_stub(client).Backup(backup_pb2.BackupRequest()))
        checkpoints = metric(server, "holdfast_checkpoints_total")
        load.until(lambda: metric(server, "holdfast_checkpoints_total") > checkpoints + 1, 120)
        rest = list(open_calls[0])
        assert rest[-1].file == "" and all(len(piece.data) <= 64 * 1024 for piece in rest)
        open_calls[1].cancel()

        def begins():
            call = backup_stub(client).Backup(backup_pb2.BackupRequest())
            try:
                return next(call)
            except grpc.RpcError:
                return None
            finally:
                call.cancel()
        eventually(begins)
    assert server.stop() == 0


def test_a_server_without_a_directory_has_no_backups(binary, start, tmp_path):
    server = start("--durability", "memory")
    done = holdfast(binary, "backup", "--target", server.target, tmp_path / "backup")
    assert done.returncode == 1 and "--durability memory" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host, is_given", [("127.0.0.1", True), ("0.0.0.0", False)])
def test_an_open_door_gives_no_backups(binary, start, tmp_path, host, is_given):
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare(1), ip(8), and user namespaces")
    server = start("--host", host, data=tmp_path / "data", prefix=ALONE)
    inside = ["nsenter", "-t", str(server.process.pid), "-U", "-n", "--preserve-credentials"]
    port = server.target.rsplit(":", 1)[1]
    done = subprocess.run([*inside, binary, "backup", "--target", f"127.0.0.1:{port}", tmp_path / "backup"],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == is_given, done.stderr
    assert is_given or "--tokens" in done.stderr
    assert (tmp_path / "backup").exists() == is_given


def test_a_server_that_ends_in_the_middle(binary, start, tmp_path):
    server = start(*SMALL, data=tmp_path / "data")
    with Load(server.target) as load, Client(server.target) as client:
        load.until(lambda: metric(server, "holdfast_checkpoints_total") > 0)
        call = backup_stub(client).Backup(backup_pb2.BackupRequest())
        next(call)
        load.stopping.set()
        load.thread.join()
        assert server.stop() == 0, "a backup that is not read does not keep it from ending"


def test_damage_found_by_the_server(binary, start, tmp_path):
    server = start(*SMALL, data=tmp_path / "data")
    with Load(server.target) as load:
        load.until(lambda: metric(server, "holdfast_checkpoints_total") > 1)
    # Of each, its first batch: the newest may be ready and not in use.
    for path in segments(server.data):
        with open(path, "r+b") as file:
            file.seek(4096 + 60)
            file.write(bytes(8))
    done = holdfast(binary, "backup", "--target", server.target, tmp_path / "backup")
    assert done.returncode == 3 and "damaged" in done.stderr
    assert "a backup ended: journal-" in server.log_text()
