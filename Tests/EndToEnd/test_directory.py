"""A data directory that is taken away, shared, or not fit to be one."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import grpc
import pytest

from client import Client, line
from journal import segments
from server import eventually, holdfast, serve_command
from test_lifecycle import metric

DISK_FAILED = 74
SMALL = ["--journal-segment-bytes", str(256 * 1024), "--loops", "1"]


def test_a_directory_without_its_lock_file_has_one_server(binary, start, tmp_path):
    data = tmp_path / "data"
    server = start(data=data)
    with Client(server.target) as client:
        sku = client.item(10)
        (data / "lock").unlink()
        done = holdfast(binary, *serve_command(binary, data)[1:])
        assert done.returncode == 1 and "in use" in done.stderr
        client.reserve(line(sku, 10))
    assert server.is_alive()


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced", "unmounted", "without a segment"])
def test_a_directory_that_is_taken_away_ends_the_server(start, tmp_path, how):
    data = tmp_path / "data"
    if how == "unmounted":
        data.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", data], capture_output=True)
        if mount.returncode != 0:
            pytest.skip(f"needs the right to mount: {mount.stderr.decode().strip()}")
    server = start(data=data)
    with Client(server.target) as client:
        sku = client.item(1_000_000)
        client.reserve(line(sku))
        match how:
            case "removed":
                # The server makes and renames a spare segment beside it: what went by itself is no error.
                while data.exists(): shutil.rmtree(data, ignore_errors=True)
            case "renamed": data.rename(tmp_path / "aside")
            case "replaced":
                data.rename(tmp_path / "aside")
                with contextlib.suppress(shutil.Error):
                    shutil.copytree(tmp_path / "aside", data, ignore=shutil.ignore_patterns("*.tmp"))
            case "unmounted": subprocess.run(["umount", "--lazy", data], check=True)
            case _: segments(data)[0].unlink()
        taken = time.monotonic()
        with pytest.raises(grpc.RpcError):
            while time.monotonic() < taken + 10:
                client.reserve(line(sku))
        assert time.monotonic() < taken + 3
    assert server.process.wait(10) == DISK_FAILED
    (entry,) = [row for row in map(json.loads, server.log_text().splitlines()) if row["level"] == "critical"]
    assert "not in its place" in entry["message"] and str(data) in entry["error"]
    assert entry["status"] == DISK_FAILED


def test_sockets_and_tokens_may_lie_in_the_data_directory(binary, start, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    create = ["token", "create", "--caller", "shop", "--role", "admin", "--file", data / "tokens"]
    assert holdfast(binary, *create).returncode == 0
    server = start("--host", f"unix:{data}/socket", "--tokens", str(data / "tokens"), data=data)
    assert holdfast(binary, *create).returncode == 0
    assert server.stop() == 0


def test_readers_keep_no_server_from_starting_and_read_beside_it(binary, start, tmp_path):
    data = tmp_path / "data"
    server = start(*SMALL, data=data)
    with Client(server.target) as client:
        sku = client.item(1_000_000)
        for _ in range(1000):
            client.reserve(line(sku), ttl=3600)
        verified = holdfast(binary, "verify", data)
        assert verified.returncode == 0 and verified.stdout.split()[1] == "1001", verified.stderr
        # It has more to say than a pipe holds, so it stands still until somebody reads on.
        dump = subprocess.Popen([binary, "dump", data], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = dump.stdout.readline()
        server.kill()
    server = start(*SMALL, data=data)
    with Client(server.target) as client:
        # Segments are given up and used again meanwhile.
        carts = [[line(client.item(1_000_000)) for _ in range(64)] for _ in range(2)]
        while metric(server, "holdfast_checkpoints_total") < 2:
            for cart in carts:
                client.release(client.reserve(*cart).reservation_id)
        rows = [json.loads(row) for row in [first, *dump.stdout]]
    assert dump.stderr.read() == "" and dump.wait(60) == 0
    assert rows[0]["kind"] == "checkpoint" and sum(row["kind"] == "held" for row in rows) == 1000


def test_a_directory_is_whole_whenever_it_is_read(binary, start, tmp_path):
    data = tmp_path / "data"
    server = start(*SMALL, data=data)
    with Client(server.target) as client:
        cart = [line(client.item(1_000_000)) for _ in range(64)]
        while metric(server, "holdfast_checkpoints_total") < 3:
            reader = subprocess.Popen([binary, "verify", data], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            before = metric(server, "holdfast_journal_decisions")
            while reader.poll() is None:
                client.release(client.reserve(*cart).reservation_id)
            state, complaints = reader.communicate()
            assert reader.returncode == 0, complaints
            assert int(state.split()[1]) <= metric(server, "holdfast_journal_decisions")
            assert before - 200 < int(state.split()[1])


SEGMENT, SPARE = "journal-00000000000000000001", "journal-00000000000000000003"


@pytest.fixture
def closed(start, tmp_path):
    """The directory of a server that was stopped."""
    server = start(*SMALL, data=tmp_path / "data")
    with Client(server.target) as client:
        client.item(10)
    eventually(lambda: (tmp_path / "data" / SPARE).exists())
    assert server.stop() == 0
    return tmp_path / "data"


def put(kind, path):
    """Puts something that is no file where the file was."""
    path.unlink(missing_ok=True)
    match kind:
        case "fifo": os.mkfifo(path)
        case "socket":
            # Bound where its name is short: a socket's has 107 bytes at most.
            with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as short:
                listener.bind(f"{short}/s")
                os.rename(f"{short}/s", path)
        case "directory": path.mkdir()


@pytest.mark.parametrize("name", ["lock", SEGMENT, SPARE, "checkpoint", "journal.closed"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "directory"])
def test_what_is_no_file_is_told_before_the_server_is_ready(binary, closed, kind, name):
    path = next(closed.glob("checkpoint-*")) if name == "checkpoint" else closed / name
    put(kind, path)
    done = holdfast(binary, *serve_command(binary, closed, *SMALL)[1:])
    assert done.returncode == 1 and done.stdout == "", done.stdout
    assert f"{path.name}: not a regular file" in done.stderr
    done = holdfast(binary, "verify", closed)
    if name != "lock":
        assert done.returncode == 1 and f"{path.name}: not a regular file" in done.stderr
    else:
        assert done.returncode == 0


@pytest.mark.parametrize("names, status", [
    ([], 1), ([SEGMENT], 1), ([SEGMENT, "checkpoint.tmp"], 1), (["segment.tmp"], 1), ([SPARE], 3)])
def test_a_half_made_directory_is_the_same_to_verify_and_to_a_start(binary, start, closed, tmp_path, names, status):
    half = tmp_path / "half"
    half.mkdir()
    for name in names:
        # What is made first: a segment without a batch.
        (half / name).write_bytes((closed / SPARE).read_bytes())
    done = holdfast(binary, "verify", half)
    assert done.returncode == status, done.stderr
    assert ("cut short" in done.stderr) == (SEGMENT in names)
    if status == 1:
        with Client(start(*SMALL, data=half).target) as client:
            client.item(1)
    else:
        assert holdfast(binary, *serve_command(binary, half, *SMALL)[1:]).returncode == status


@pytest.mark.parametrize("what", [".", SPARE], ids=["the directory", "a segment"])
def test_what_must_not_be_written_is_told_before_the_server_is_ready(binary, closed, what):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs the right to become somebody else")
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        data = pathlib.Path(shutil.copytree(closed, pathlib.Path(parent) / "data"))
        for path in (data, *data.iterdir()):
            os.chown(path, 65534, 65534)
        if what == ".":
            data.chmod(0o500)
        else:
            (data / what).chmod(0o400)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = subprocess.run([*nobody, *serve_command(binary, data, *SMALL)], capture_output=True, text=True, timeout=60)
        if "cannot execute" in done.stderr or "failed to execute" in done.stderr:
            pytest.skip("nobody else may run the server")
        assert done.returncode == 1 and done.stdout == "" and "Permission denied" in done.stderr, done.stderr
        assert holdfast(*nobody, binary, "verify", data).returncode == 0


def test_too_few_open_files_are_told_before_the_server_is_ready(binary, tmp_path):
    done = subprocess.run(["prlimit", "--nofile=20", *serve_command(binary, tmp_path / "data")],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert "20 open files (ulimit -n)" in done.stderr


@pytest.mark.parametrize("room, is_short", [(400, True), (10_000_000, False)])
def test_a_retention_that_is_cut_short_is_told_before_it_is(start, room, is_short):
    retention = 3600
    server = start("--max-reservations", str(room), "--retention", f"{retention}s")
    with Client(server.target) as client:
        sku = client.item(1_000_000)
        began = time.monotonic()
        # 350 of 400 records: nothing is forgotten yet.
        for _ in range(350):
            client.release(client.reserve(line(sku)).reservation_id)
        rate = 350 / (time.monotonic() - began)
        seen = eventually(lambda: metric(server, "holdfast_retention_horizon_seconds") < retention or not is_short)
        assert seen
        if is_short:
            assert metric(server, "holdfast_retention_horizon_seconds") < 4 * room / rate
            eventually(lambda: "faster than they can be remembered" in server.log_text())
        assert metric(server, "holdfast_decisions_evicted_early_total") == 0
    time.sleep(1.5)
    assert server.log_text().count("faster than they can be remembered") == is_short
