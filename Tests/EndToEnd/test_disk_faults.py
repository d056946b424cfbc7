"""A disk that is full, fails or stalls under a running server."""

import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import grpc
import pytest
from grpc import StatusCode

from client import Client, Refusal, fresh, line, refused
from holdfast.v1 import reservation_pb2, stock_pb2
from server import READY, Server, eventually, serve_command
from test_lifecycle import fetch, metric

SMALL_SEGMENTS = ["--journal-segment-bytes", str(256 * 1024), "--loops", "2"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    """A library that makes syncs fail or stall."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("faults") / "disk_faults.so"
    source = pathlib.Path(__file__).with_name("disk_faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_a_full_disk_refuses_changes_until_there_is_room(binary, start, small_disk):
    server = start(*SMALL_SEGMENTS, data=small_disk / "data")
    filler = small_disk / "filler"
    with Client(server.target) as client:
        cart = [line(client.item(1_000_000)) for _ in range(64)]
        sku = cart[0].sku
        fill(filler)
        held, refusal = [], None
        while refusal is None:
            assert len(held) < 10_000, "the disk is not full yet"
            try:
                held.append(client.reserve(*cart))
            except grpc.RpcError as error:
                refusal = Refusal(error)
        assert refusal.code == StatusCode.UNAVAILABLE and refusal.info.reason == "STORAGE_FULL"
        assert refusal.retry.retry_delay.ToNanoseconds() > 0
        assert metric(server, "holdfast_journal_accepting") == 0
        # Reads go on, and nothing else changes either.
        assert client.level(sku).held == len(held)
        assert client.get(held[0].reservation_id).reservation_id == held[0].reservation_id
        for change in (lambda: client.adjust(sku, delta=1), lambda: client.release(held[0].reservation_id),
                       lambda: client.confirm(held[0].reservation_id),
                       lambda: client.extend(held[0].reservation_id)):
            with refused(StatusCode.UNAVAILABLE, "STORAGE_FULL"):
                change()
        assert client.level(sku).held == len(held) and server.is_alive()
        # What was decided before is answered as ever.
        filler.unlink()
        eventually(lambda: metric(server, "holdfast_journal_accepting") == 1)
        held.append(client.reserve(*cart))
        assert client.level(sku).held == len(held)
    server.kill()
    with Client(start(*SMALL_SEGMENTS, data=small_disk / "data").target) as client:
        assert client.level(sku).held == len(held)


def fill(path):
    """Takes every byte that is left."""
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass


def test_a_failed_sync_ends_the_server_before_anything_else_is_acknowledged(start, tmp_path, faults):
    marker = tmp_path / "eio"
    server = start(data=tmp_path / "data",
                   environment={"LD_PRELOAD": str(faults), "FAULT_EIO": str(marker)})
    with Client(server.target) as client:
        sku = client.item(10)
        held = client.reserve(line(sku), key="before", ttl=3600)
        # The spare segments are there, so that the next sync is the journal's.
        eventually(lambda: len(list((tmp_path / "data").glob("journal-0*"))) >= 3)
        marker.touch()
        for attempt in range(3):
            with refused(StatusCode.UNAVAILABLE):
                client.reserve(line(sku), key=f"after-{attempt}", ttl=3600)
    assert server.process.wait(20) == 74
    (entry,) = [row for row in server.log_text().splitlines() if '"critical"' in row]
    assert "journal-" in entry and "sync" in entry
    marker.unlink()
    with Client(start(data=tmp_path / "data").target) as client:
        again = client.reserve(line(sku), key="before", ttl=3600)
        assert again.replayed and again.reservation_id == held.reservation_id
        # The one whose sync failed was not acknowledged; it may be there or not.
        assert client.level(sku).held in (1, 2)


def test_nothing_is_shown_before_it_is_durable(start, tmp_path, faults):
    """While the disk stalls there is no answer to a change, and none to a read that has seen it."""
    marker = tmp_path / "stall"
    server = start(data=tmp_path / "data",
                   environment={"LD_PRELOAD": str(faults), "FAULT_STALL": str(marker)})
    with Client(server.target) as client, Client(server.target) as reader:
        sku = client.item(10)
        marker.touch()
        try:
            change = client.reservations.Reserve.future(request(sku), timeout=20)
            eventually(lambda: metric(server, "holdfast_journal_lag_bytes") > 0)
            read = reader.stock.GetStock.future(stock_pb2.GetStockRequest(sku=sku), timeout=20)
            with pytest.raises(grpc.FutureTimeoutError):
                read.result(timeout=0.5)
            assert not change.done()
        finally:
            marker.unlink()
        assert change.result().reservation_id
        assert read.result().stock.held == 1


def request(sku):
    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])


@pytest.mark.parametrize("is_stopped", [False, True], ids=["and then serves", "and is stopped"])
def test_it_says_that_it_recovers(binary, tmp_path, faults, is_stopped):
    marker = tmp_path / "stall"
    with Server(binary, data=tmp_path / "data") as server, Client(server.target) as client:
        sku = client.item(10)
    marker.touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin_port = free.getsockname()[1]
    process = subprocess.Popen(
        serve_command(binary, tmp_path / "data", "--admin-port", str(admin_port)), text=True,
        env={"LD_PRELOAD": str(faults), "FAULT_STALL": str(marker)}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: readiness(admin_port) == "recovering")
        if is_stopped:
            process.terminate()
            assert process.wait(20) == 0
            return
        marker.unlink()
        ready = READY.match(process.stdout.readline())
        assert readiness(admin_port) == "ok"
        with Client(f"{ready[1]}:{ready[2]}") as client:
            assert client.level(sku).on_hand == 10
    finally:
        process.kill()
        process.wait()


def readiness(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.read().decode().strip()
    except OSError:
        return None


# The journal's metrics.

METRICS = [
    "holdfast_journal_sync_seconds_bucket", "holdfast_journal_group_records_bucket",
    "holdfast_journal_bytes_total", "holdfast_journal_lsn", "holdfast_journal_durable_lsn",
    "holdfast_journal_lag_bytes", "holdfast_journal_disk_bytes", "holdfast_journal_accepting",
    "holdfast_checkpoints_total", "holdfast_checkpoint_age_seconds", "holdfast_checkpoint_duration_seconds",
    "holdfast_recovery_seconds", "holdfast_recovery_records"]


def test_the_journals_metrics(start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(10)
        for _ in range(9):
            client.reserve(line(sku))
    numbers = {name: metric(server, name) for name in METRICS}
    assert numbers["holdfast_journal_durable_lsn"] == numbers["holdfast_journal_lsn"] > 10 * 40
    assert numbers["holdfast_journal_lag_bytes"] == 0 and numbers["holdfast_journal_accepting"] == 1
    assert metric(server, "holdfast_journal_decisions") == 10
    assert metric(server, "holdfast_journal_sync_seconds_count") >= 10
    assert metric(server, "holdfast_journal_group_records_sum") >= 10
    assert numbers["holdfast_journal_disk_bytes"] >= 16 * 1024 * 1024
    server.kill()
    server = start(data=tmp_path / "data")
    assert metric(server, "holdfast_recovery_records") >= 10
    assert metric(server, "holdfast_recovery_seconds") > 0


def test_no_journal_no_metrics_of_it(start):
    server = start("--durability", "memory")
    assert b"holdfast_journal" not in fetch(server, "/metrics").read()


def test_a_shutdown_does_not_wait_for_a_disk_that_hangs(start, tmp_path, faults):
    marker = tmp_path / "stall"
    server = start("--shutdown-timeout", "1s", data=tmp_path / "data",
                   environment={"LD_PRELOAD": str(faults), "FAULT_STALL": str(marker)})
    with Client(server.target) as client:
        sku = client.item(10)
        held = client.reserve(line(sku), ttl=3600)
        marker.touch()
        try:
            calls = [client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
                idempotency_key=fresh("key"), lines=[line(sku)]), timeout=20) for _ in range(3)]
            eventually(lambda: metric(server, "holdfast_live_holds") == 4)
            began = time.monotonic()
            server.terminate()
            assert server.process.wait(20) == 74
            assert time.monotonic() - began < 10
        finally:
            marker.unlink()
        for call in calls:
            assert call.exception().code() == StatusCode.UNAVAILABLE
    (entry,) = [row for row in map(json.loads, server.log_text().splitlines()) if row["level"] == "critical"]
    assert "the disk does not answer" in entry["message"]
    assert entry["decisions-not-acknowledged"] == 3 and entry["status"] == 74
    with Client(start(data=tmp_path / "data").target) as client:
        assert client.get(held.reservation_id).reservation_id == held.reservation_id
