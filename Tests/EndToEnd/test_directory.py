"""A data directory that is taken away, shared, or not fit to be one."""

import json
import shutil
import subprocess
import time

import grpc
import pytest

from client import Client, line
from journal import segments
from server import holdfast, serve_command
from test_lifecycle import metric

DISK_FAILED = 74


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
            case "removed": shutil.rmtree(data)
            case "renamed": data.rename(tmp_path / "aside")
            case "replaced":
                data.rename(tmp_path / "aside")
                shutil.copytree(tmp_path / "aside", data)
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
    data, small = tmp_path / "data", ["--journal-segment-bytes", str(256 * 1024), "--loops", "1"]
    server = start(*small, data=data)
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
    server = start(*small, data=data)
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
    server = start("--journal-segment-bytes", str(256 * 1024), "--loops", "1", data=data)
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
