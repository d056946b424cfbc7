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
