"""When an item may be reserved: the start of a sale, a freeze in its middle, pre-orders with an end."""

import threading
import time

import pytest
from google.protobuf import timestamp_pb2
from grpc import StatusCode
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, fresh, line, refused
from server import Server, holdfast
from watching import Watch

HELD = reservation_pb2.RESERVATION_STATE_HELD
SECOND = 1_000_000_000


def at(nanoseconds):
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(nanoseconds)
    return message


def window(start=None, end=None, frozen=False):
    return stock_pb2.SaleWindow(sellable_from=None if start is None else at(start),
                                sellable_until=None if end is None else at(end), frozen=frozen)


def not_on_sale(client, sku, **metadata):
    with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE", sku=sku, location="", **metadata) as seen:
        client.reserve(line(sku))
    return seen[0]


def server_time(client):
    """The server's own clock: when a hold was made."""
    sku = client.item(1)
    held = client.reserve(line(sku))
    return client.get(held.reservation_id).created_at.ToNanoseconds()


def test_a_sale_begins_with_fifty_waiting(server):
    """Nobody gets a unit before the instant, by the server's clock; then all are gone, each once."""
    units, buyers = 20, 50
    with Client(server.target) as client:
        start = server_time(client) + 2 * SECOND
        sku = client.item(units, set_sale=window(start=start))
        level = client.level(sku)
        assert level.sale == window(start=start) and level.available == units
        assert not_on_sale(client, sku).violations[0][:2] == ("NOT_ON_SALE", sku)
        held, refusals, unexpected = [], [], []

        def buy():
            with Client(server.target) as own:
                while True:
                    try:
                        held.append(own.get(own.reserve(line(sku)).reservation_id))
                        return
                    except Exception as error:
                        reason = refused_reason(error)
                        if reason == "INSUFFICIENT_STOCK":
                            return
                        (refusals if reason == "NOT_ON_SALE" else unexpected).append(error)
                        if reason != "NOT_ON_SALE":
                            return
                        time.sleep(0.02)

        threads = [threading.Thread(target=buy) for _ in range(buyers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not unexpected and len(held) == units and len(refusals) >= buyers
        assert min(each.created_at.ToNanoseconds() for each in held) >= start
        assert client.level(sku).available == 0


def refused_reason(error):
    with refused(error.code()) as seen:
        raise error
    return seen[0].info.reason


def test_a_freeze_keeps_holds(client):
    sku, other = client.item(10), client.item(10)
    first, second = (client.reserve(line(sku, 2)).reservation_id for _ in range(2))
    frozen = client.adjust(sku, set_sale=window(frozen=True), reason="recall").stock
    assert frozen.sale == window(frozen=True) and frozen.available == 6
    refusal = not_on_sale(client, sku, frozen="true")
    assert "sellable_from" not in refusal.info.metadata and "frozen" in refusal.message
    # What is held goes on; what is added is not held.
    client.confirm(first)
    client.extend(second, ttl=3000)
    client.replace(second, line(sku, 1), line(other, 1))
    with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE", sku=sku):
        client.replace(second, line(sku, 2), line(other, 1))
    assert [each.quantity for each in client.get(second).lines] == [1, 1]
    client.confirm(second)
    key = fresh("key")
    with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE"):
        client.reserve(line(sku), key=key)
    assert client.adjust(sku, set_sale=window()).stock.sale == window()
    assert not client.level(sku).HasField("sale")
    # The decision under the key stays, as any does.
    with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE", replayed="true"):
        client.reserve(line(sku), key=key)
    assert client.get(client.reserve(line(sku)).reservation_id).state == HELD


def test_a_refusal_names_every_item_that_is_not_on_sale(client):
    now = server_time(client)
    ended, frozen, open_ = client.item(5, set_sale=window(1, now)), client.item(5, set_sale=window(frozen=True)), client.item(5)
    with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE", sku=ended, bad_lines=2,
                 sellable_from="1970-01-01T00:00:00.000000001Z") as seen:
        client.reserve(line(open_), line(ended), line(frozen))
    assert [each[:2] for each in seen[0].violations] == [("NOT_ON_SALE", ended), ("NOT_ON_SALE", frozen)]
    assert seen[0].violations[1][2] == "frozen" and "until" in seen[0].violations[0][2]


def test_a_preorder_with_an_end(client):
    """Nothing is on hand, five may be promised until the end of the sale; then none."""
    end = server_time(client) + SECOND
    sku = fresh()
    client.adjust(sku, set_safety_stock=-5, set_sale=window(end=end))
    held = client.reserve(line(sku, 3)).reservation_id
    client.confirm(held, keep_committed=True)
    while True:
        try:
            client.reserve(line(sku), ttl=1)
        except Exception as error:
            if refused_reason(error) == "NOT_ON_SALE":
                break
            assert refused_reason(error) == "INSUFFICIENT_STOCK"
        time.sleep(0.05)
    assert server_time(client) >= end
    client.adjust(sku, delta=3, reason="delivery")
    assert client.adjust(sku, ship=3).stock.on_hand == 0


def test_a_window_outlives_kill(binary, tmp_path):
    """Windows, refusals and answers are what they were, from the journal and from a checkpoint."""
    data = tmp_path / "data"
    late, key = window(4_000_000_000 * SECOND + 1, 5_000_000_000 * SECOND, frozen=True), fresh("key")
    with Server(binary, data=data) as server, Client(server.target) as client:
        with Watch(client, kinds=["ADJUSTED", "REFUSED"]).begun() as watch:
            sku = client.item(5, set_sale=late)
            plain = client.item(5)
            made = client.adjust(sku, delta=1, key=key).stock
            with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE") as first:
                client.reserve(line(sku), key=key)
            events = watch.wait(lambda: len(watch.events()) >= 4 and watch.events())
            # Who sets it tells it.
            assert events[0].stock[0].sale == late
            assert not any(event.stock[0].HasField("sale") for event in events[1:3])
            assert events[3].reason == "NOT_ON_SALE" and events[3].lines[0].sku == sku
        server.kill()
    dump = holdfast(binary, "dump", data).stdout
    assert '"sellable_from":"2096-10-02T07:06:40.000000001Z"' in dump and '"refusal":"not_on_sale"' in dump
    for _ in range(2):
        with Server(binary, data=data) as server, Client(server.target) as client:
            assert client.level(sku).sale == late and not client.level(plain).HasField("sale")
            again = client.adjust(sku, delta=1, key=key)
            assert again.replayed and again.stock == made and made.sale == late
            with refused(StatusCode.FAILED_PRECONDITION, "NOT_ON_SALE", replayed="true") as seen:
                client.reserve(line(sku), key=key)
            assert seen[0].violations == first[0].violations
    assert holdfast(binary, "verify", data).returncode == 0
