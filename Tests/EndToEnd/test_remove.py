"""Items that nobody needs any more: RemoveItem, what it leaves, and what makes the item anew."""

import threading

from grpc import RpcError, StatusCode
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, fresh, line, refused
from server import Server, holdfast
from watching import Watch


def unknown(*calls):
    for call in calls:
        with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
            call()


def test_an_item_goes_and_comes_again(client):
    sku, key = client.item(1), fresh("key")
    held = client.reserve(line(sku)).reservation_id
    with refused(StatusCode.FAILED_PRECONDITION, "ITEM_NOT_EMPTY", sku=sku, location="", on_hand=1, held=1,
                 committed=0) as seen:
        client.remove(sku)
    assert seen[0].violations == [("ITEM_NOT_EMPTY", sku, "it has units on hand, held or committed")]
    client.release(held)
    version = client.adjust(sku, set_on_hand=0, set_safety_stock=3).stock.version
    with Watch(client, kinds=["REMOVED", "ADJUSTED"], items=[sku]).begun() as watch:
        with refused(StatusCode.ABORTED, "VERSION_MISMATCH", current_version=version):
            client.remove(sku, expected_version=version + 1)
        assert not client.remove(sku, key, expected_version=version).replayed
        assert client.remove(sku, key, expected_version=version).replayed
        with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            client.remove(sku, key)
        unknown(lambda: client.level(sku), lambda: client.reserve(line(sku)), lambda: client.remove(sku),
                lambda: client.adjust(sku, delta=-1))
        assert client.get(held).lines[0].sku == sku
        assert client.adjust(sku, set_on_hand=2).stock == stock_pb2.StockLevel(
            sku=sku, on_hand=2, available=2, version=version + 2)
        removed, made = watch.wait_for_events(2)
        assert (removed.stock[0], removed.reason, removed.idempotency_key) == (
            stock_pb2.StockLevel(sku=sku, safety_stock=3, available=-3, version=version + 1), "test", key)
        assert made.stock[0].version == version + 2
    assert client.reserve(line(sku, 2)).reservation_id


def test_whatever_changes_stock_makes_it_anew(client):
    for make in (lambda sku: client.adjust(sku, delta=4),
                 lambda sku: client.adjust_all([(sku, {"delta": 4})]),
                 lambda sku: client.import_rows(fresh("import"), [
                     stock_pb2.AdjustStockRequest(sku=sku, delta=4, any_version=True)])):
        sku = client.item(0, set_safety_stock=2)
        client.remove(sku)
        make(sku)
        level = client.level(sku)
        assert (level.on_hand, level.safety_stock, level.version) == (4, 0, 3)


def test_what_subjects_have_bought_goes_with_it(client):
    sku, limits = client.item(2), [reservation_pb2.Limit(subject=fresh("customer"), max_units=2)]
    bought = client.reserve(line(sku, 2), limits=limits).reservation_id
    client.confirm(bought, line(sku, 2))
    client.remove(sku)
    # What was sold of it is not asked for anew.
    assert client.confirm(bought, line(sku, 2)).replayed
    client.adjust(sku, delta=5)
    client.reserve(line(sku, 2), limits=limits)
    with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", used=2):
        client.reserve(line(sku), limits=limits)


def test_it_is_gone_after_kill(binary, tmp_path):
    """And the places of items that were removed are given to others, once nothing names them."""
    data, key, gone, kept = tmp_path / "data", fresh("key"), [fresh("gone") for _ in range(3)], fresh("kept")
    flags = ("--max-items", "4")
    with Server(binary, *flags, data=data) as server, Client(server.target) as client:
        client.adjust(kept, set_on_hand=5)
        for sku in gone:
            client.adjust(sku, set_on_hand=0, set_safety_stock=1)
        for sku in gone:
            client.remove(sku, key + sku)
        with refused(StatusCode.RESOURCE_EXHAUSTED, "TABLE_FULL", table="items"):
            client.adjust(fresh(), set_on_hand=1)
        server.kill()
    dump = holdfast(binary, "dump", data).stdout
    assert dump.count('"kind":"removed"') == 3 and f'"sku":"{gone[0]}"' in dump
    for restart in range(2):
        with Server(binary, *flags, data=data) as server, Client(server.target) as client:
            unknown(*(lambda sku=sku: client.level(sku) for sku in gone[restart:]))
            assert [level.sku for level in client.stock.ListStock(stock_pb2.ListStockRequest()).stock] == (
                [kept] if restart == 0 else [kept, gone[0]])
            assert all(client.remove(sku, key + sku).replayed for sku in gone)
            assert client.adjust(gone[0], delta=1).stock.version == 3 + restart
            if restart == 0:
                server.kill()
    assert holdfast(binary, "verify", data).returncode == 0


def test_reserves_beside_removals_lose_nothing(client, server):
    """What is held can be sold, whatever is removed and made anew meanwhile."""
    sku, held, failures = client.item(1), [], []

    def buy():
        with Client(server.target) as buyer:
            for _ in range(60):
                try:
                    reservation = buyer.reserve(line(sku)).reservation_id
                    buyer.confirm(reservation)
                    held.append(reservation)
                except RpcError as error:
                    if error.code() not in (StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND):
                        failures.append(error)

    def change():
        with Client(server.target) as shop:
            for round in range(120):
                try:
                    shop.remove(sku) if round % 2 else shop.adjust(sku, delta=1)
                except RpcError as error:
                    if error.code() not in (StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND):
                        failures.append(error)

    threads = [threading.Thread(target=target) for target in (buy, buy, change, change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # 1 at first, and 60 each by two who put units there: what was not sold is on hand.
    try:
        left = client.level(sku).on_hand
    except RpcError:
        left = 0
    assert len(held) + left == 121
