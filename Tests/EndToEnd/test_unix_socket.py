"""A server on a unix socket: its file, its clients, and who gets which."""

import json
import os
import pathlib
import socket
import stat
import subprocess
import tempfile

import grpc
import pytest

from client import Client, line
from holdfast.v1 import reservation_pb2
from server import holdfast, serve_command
from test_connections import metric

ENOUGH = 24


@pytest.fixture
def path():
    """Of a socket. The folders of tests have names that may be too long for one."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        yield pathlib.Path(folder) / "s"


def refused(binary, data, path):
    """What a server says that cannot start on that socket."""
    done = holdfast(*serve_command(binary, data), "--host", f"unix:{path}", "--durability", "memory")
    assert done.returncode == 1
    told = [text for text in done.stderr.splitlines() if not text.startswith("{")]
    assert len(told) == 1
    return told[0]


@pytest.mark.parametrize("url", ["unix:", "unix://"])
def test_calls(start, path, url):
    server = start("--host", f"{url}{path}", "--loops", "2")
    assert server.target == f"unix:{path}"
    assert stat.S_ISSOCK(path.lstat().st_mode)
    with Client(server.target) as client:
        sku = client.item(10)
        held = client.reserve(line(sku, 3))
        assert client.confirm(held.reservation_id).reservation.state == reservation_pb2.RESERVATION_STATE_CONFIRMED
        assert client.level(sku).on_hand == 7
    assert server.stop() == 0
    assert not path.exists()


def test_every_loop_has_connections_and_no_peer_limit(start, path):
    """One loop accepts for all; nothing tells these peers apart, so they are not counted."""
    server = start("--host", f"unix:{path}", "--loops", "2", "--max-connections-per-peer", "2")
    clients = [Client(server.target) for _ in range(ENOUGH)]
    try:
        for client in clients:
            client.level(client.item(1))
        assert metric_of(server, "holdfast_connections") == ENOUGH
        # Each loop has one descriptor for each of its connections in its epoll set.
        assert sorted(watched(server.pid))[-2:] == [ENOUGH // 2 + 1, ENOUGH // 2 + 2]
    finally:
        for client in clients:
            client.__exit__()


def metric_of(server, sample):
    server.host = "127.0.0.1"
    return metric(server, sample)


def watched(pid):
    """How many descriptors each epoll set of the process has."""
    for number in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            text = pathlib.Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        except FileNotFoundError:  # closed since it was listed
            continue
        if "tfd:" in text:
            yield text.count("tfd:")


def test_a_file_that_a_killed_server_left_is_replaced(start, path):
    first = start("--host", f"unix:{path}")
    first.kill()
    assert path.exists()
    with pytest.raises(grpc.RpcError), Client(first.target) as client:
        client.item(1)
    second = start("--host", f"unix:{path}")
    with Client(second.target) as client:
        client.item(1)


def test_a_successor_keeps_its_file(start, path):
    """A server that ends removes its own file, not the one that took its place."""
    first = start("--host", f"unix:{path}")
    path.unlink()
    second = start("--host", f"unix:{path}")
    assert first.stop() == 0
    with Client(second.target) as client:
        client.item(1)


def test_a_socket_in_use_is_left_alone(start, binary, path, tmp_path):
    server = start("--host", f"unix:{path}")
    told = refused(binary, tmp_path, path)
    assert f"unix:{path}" in told and "in use" in told and "--host" in told
    with Client(server.target) as client:
        client.item(1)


def test_what_is_no_socket_is_left_alone(binary, path, tmp_path):
    path.write_text("precious")
    told = refused(binary, tmp_path, path)
    assert f"unix:{path}" in told and "exists" in told
    assert path.read_text() == "precious"


def test_a_link_is_left_alone(binary, path, tmp_path):
    """Not even one to a socket on which nobody listens."""
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(f"{path}-old")
    path.symlink_to(f"{path}-old")
    assert "exists" in refused(binary, tmp_path, path)
    assert path.is_symlink() and os.path.exists(f"{path}-old")


@pytest.mark.parametrize("host, says", [
    ("unix:", "no path"), ("unix:/" + "x" * 107, "107 bytes at most, this one 108"),
    ("unix:/" + "\N{SNOWMAN}" * 40, "107 bytes at most, this one 121")])
def test_paths_that_no_socket_may_have(binary, tmp_path, host, says):
    done = holdfast(*serve_command(binary, tmp_path), "--host", host)
    assert done.returncode == 64 and says in done.stderr and "--host" in done.stderr


def test_a_folder_that_is_missing(binary, path, tmp_path):
    assert "No such file" in refused(binary, tmp_path, path / "socket")


@pytest.mark.parametrize("umask, mode", [(0o077, 0o700), (0o007, 0o770)])
def test_the_umask_decides_who_may_connect(start, path, umask, mode):
    before = os.umask(umask)
    try:
        start("--host", f"unix:{path}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_no_warning_without_tokens(start, path):
    server = start("--host", f"unix:{path}")
    assert "--tokens" not in server.log_text()


def test_the_generator(start, generator, path, tmp_path):
    server = start("--host", f"unix:{path}")
    report = tmp_path / "report.json"
    done = subprocess.run(
        [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}",
         "--duration", "0.5", "--json", report], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())
