"""What a standby shows, and what other commands do with its directory or an owner's."""

import contextlib
import threading
import time

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, Refusal, change, fresh, line, refused
# Fixtures are found where they are imported.
from quorum import (HOUR, Orders, complaint, database, empty_log, engine, log, needs_engine, reserve_request,  # noqa: F401
                    stock_request)
from server import eventually, serve_command
from test_durability import state_of

pytestmark = needs_engine


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_commands_on_a_copy(log, start, tmp_path):
    """What reads it works; what would make it another than the log is refused, in one line."""
    owner, standby = log.owner(), log.standby()
    with Client(owner.target) as client:
        orders = Orders(client)
    lsn = log.sql("select end_lsn from holdfast.shard")
    standby.kill()
    owner.kill()
    copy, backup, restored = owner.data, tmp_path / "backup", tmp_path / "restored"
    before = contents(copy)
    for command, status, told in (
            (("verify", copy), 0, "a copy of a log in an engine"),
            (("dump", copy), 0, '"kind"'),
            (("backup", "--data-dir", copy, backup), 0, "was read back whole"),
            (("restore", copy, restored), 1, "backup"),
            (("restore", backup, copy), 1, "is there already"),
            (("restore", backup, restored), 0, "restored"),
            (("repair", copy, "--truncate-at", lsn), 1, "a copy of a log in an engine"),
            (("repair", copy, "--truncate-at", "0", "--list", tmp_path / "list"), 1, "made anew"),
            (serve_command(log.binary, copy, "--durability", "fsync")[1:], 1, "a copy of a log in an engine"),
            (serve_command(log.binary, copy, "--durability", "os")[1:], 1, "--durability quorum"),
            (serve_command(log.binary, backup, *log.flags())[1:], 1, "a store of its own"),
            (serve_command(log.binary, restored, *log.flags())[1:], 1, "a store of its own")):
        done = log.run(*command)
        assert done.returncode == status and told in done.stdout + done.stderr, (command, done.stdout, done.stderr)
        if status:
            complaint(done)
        assert contents(copy) == before, command
    assert not (tmp_path / "list").exists()
    # What was restored is a store of its own.
    server = start("--durability", "fsync", data=restored)
    with Client(server.target) as client:
        assert client.level(orders.sku).held == len(orders.held)
    server.stop()
    # Damage is no reason to give anything up: the log has it.
    segment = min(copy.glob("journal-0*"))
    bytes_ = bytearray(segment.read_bytes())
    # In the records of its first batch.
    bytes_[4096 + 60] ^= 1
    segment.write_bytes(bytes_)
    for command in (("verify", copy), ("dump", copy), ("backup", "--data-dir", copy, tmp_path / "another")):
        done = log.run(*command)
        assert done.returncode == 3, (command, done.stderr)
        assert "makes it anew" in done.stderr and "repair" not in done.stderr, (command, done.stderr)
    owner = log.owner(data=copy)
    assert "made anew" in owner.log_text()
    with Client(owner.target) as client:
        orders.check(client)
    owner.kill()
    assert "restored" not in state_of(log.binary, copy)


STALE = "holdfast.stale-reads"


class Stale:
    """Reads of a standby, each with its trailers."""

    def __init__(self, client):
        self.client, self.lsn = client, 0

    def __call__(self, method, request):
        """Waits until the standby shows something."""
        answer, call = method.with_call(request, **self.client.call)
        self.note(call.trailing_metadata())
        return answer

    def note(self, trailers):
        trailers = dict(trailers)
        # It goes with the log: the copy is not made anew here.
        assert int(trailers["holdfast-lsn"]) >= self.lsn
        assert 0 <= int(trailers["holdfast-age-ms"]) < 60_000
        self.lsn = int(trailers["holdfast-lsn"])

    def level(self, sku):
        return self(self.client.stock.GetStock, stock_request(sku)).stock

    def refusal(self, method, request):
        with pytest.raises(grpc.RpcError) as error:
            method(request, **self.client.call)
        return Refusal(error.value), error.value.trailing_metadata()


def shows(client, sku, on_hand):
    """Whether the standby shows that already."""
    try:
        return client.level(sku).on_hand == on_hand
    except grpc.RpcError as error:
        assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.NOT_FOUND), error
        return False


def health(client, service):
    return client.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def test_stale_reads(log):
    """What the owner said a moment ago; all else is the owner's."""
    owner, standby = log.owner(), log.standby("--stale-reads")
    standby.wait_until_up()
    with Client(owner.target) as client, Client(standby.target) as reader:
        orders = Orders(client)
        named = client.reserve(line(orders.sku, 2), ttl=HOUR, reference="order-123")
        gone = client.item(0)
        client.remove(gone)
        last = client.item(7)
        eventually(lambda: shows(reader, last, 7))
        stale = Stale(reader)
        assert stale.level(orders.sku) == client.level(orders.sku)
        batch = stock_pb2.BatchGetStockRequest(items=[stock_pb2.StockItem(sku=sku) for sku in (last, gone, orders.sku)])
        assert stale(reader.stock.BatchGetStock, batch) == client.stock.BatchGetStock(batch)
        for method, request in (
                (lambda each: each.stock.ListStock, stock_pb2.ListStockRequest()),
                (lambda each: each.reservations.ListReservations, reservation_pb2.ListReservationsRequest()),
                (lambda each: each.reservations.ListReservations,
                 reservation_pb2.ListReservationsRequest(reference="order-123")),
                (lambda each: each.reservations.ListReservations, reservation_pb2.ListReservationsRequest(
                    state=reservation_pb2.RESERVATION_STATE_CONFIRMED))):
            mine, theirs = stale(method(reader), request), method(client)(request)
            assert mine == theirs and not mine.next_page_token
        # A page that one has begun goes on at the other.
        page = stale(reader.stock.ListStock, stock_pb2.ListStockRequest(page_size=1))
        assert len(page.stock) == 1
        rest = client.stock.ListStock(stock_pb2.ListStockRequest(page_token=page.next_page_token))
        assert {level.sku for level in (*page.stock, *rest.stock)} == {orders.sku, last}
        for each in (named.reservation_id, orders.confirmed, orders.released):
            request = reservation_pb2.GetReservationRequest(reservation_id=each)
            assert stale(reader.reservations.GetReservation, request).reservation == client.get(each)
        # What is not there, and what is asked wrongly, is told as it stands, too.
        for method, request, code in (
                (reader.stock.GetStock, stock_request(gone), StatusCode.NOT_FOUND),
                (reader.stock.GetStock, stock_request(fresh()), StatusCode.NOT_FOUND),
                (reader.reservations.GetReservation, reservation_pb2.GetReservationRequest(
                    reservation_id=named.reservation_id[:-1] + ("0" if named.reservation_id[-1] != "0" else "1")),
                 StatusCode.NOT_FOUND),
                (reader.stock.GetStock, stock_request(""), StatusCode.INVALID_ARGUMENT)):
            for _ in range(2):
                refusal, trailers = stale.refusal(method, request)
                assert refusal.code == code, refusal.message
                stale.note(trailers)
        for method, request in (
                (reader.reservations.GetReservation, reservation_pb2.GetReservationRequest(idempotency_key="key")),
                (reader.reservations.Reserve, reserve_request(orders.sku)),
                (reader.stock.AdjustStock, change(orders.sku, delta=1))):
            refusal, trailers = stale.refusal(method, request)
            assert (refusal.code, refusal.info.reason) == (StatusCode.UNAVAILABLE, "NOT_OWNER"), refusal.message
            assert refusal.info.metadata["owner"] == owner.target and "holdfast-lsn" not in dict(trailers)
        serving = health_pb2.HealthCheckResponse
        assert health(reader, STALE) == serving.SERVING
        assert health(reader, "") == health(reader, "holdfast.v1.StockService") == serving.NOT_SERVING
        with refused(StatusCode.NOT_FOUND):
            health(client, STALE)
        # The owner's answers are of now.
        _, call = client.stock.GetStock.with_call(stock_request(last))
        assert "holdfast-lsn" not in dict(call.trailing_metadata())


def test_stale_reads_are_of_one_moment_until_the_standby_owns(log):
    """Two items that change together are the same in every answer; what was read is there at the next owner."""
    owner, standby = log.owner(), log.standby("--stale-reads")
    standby.wait_until_up()
    with Client(owner.target) as client, Client(standby.target) as reader:
        orders = Orders(client)
        pair = [client.item(0), client.item(0)]
        both = stock_pb2.BatchGetStockRequest(items=[stock_pb2.StockItem(sku=sku) for sku in pair])
        eventually(lambda: shows(reader, pair[1], 0))
        stale, seen, ended = Stale(reader), [], threading.Event()

        def write():
            # Until the owner is killed.
            with contextlib.suppress(grpc.RpcError):
                while not ended.is_set():
                    client.adjust_all([(sku, {"delta": 1}) for sku in pair])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            killed = None
            while not standby.owns.is_set():
                try:
                    answer = stale(reader.stock.BatchGetStock, both)
                except grpc.RpcError as error:
                    assert killed and error.code() == StatusCode.UNAVAILABLE, error
                    continue
                except KeyError:
                    # The owner has no trailers.
                    assert killed
                    break
                first, second = (level.on_hand for level in answer.stock)
                assert first == second >= (seen[-1] if seen else 0)
                seen.append(first)
                if not killed and len(set(seen)) > 5:
                    owner.kill()
                    killed = time.monotonic()
                assert time.monotonic() - (killed or time.monotonic()) < 20
        finally:
            ended.set()
            writer.join()
            owner.kill()
        standby.wait_until_ready()
        assert reader.level(pair[0]).on_hand == reader.level(pair[1]).on_hand >= seen[-1]
        orders.check(reader)
