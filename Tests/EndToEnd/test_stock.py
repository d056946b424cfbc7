"""AdjustStock, GetStock, BatchGetStock, ListStock."""

import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from holdfast.v1 import stock_pb2 as api

MOST = 2**40


def test_the_first_adjustment_makes_the_item(client):
    sku = fresh()
    answer = client.adjust(sku, set_on_hand=10, set_safety_stock=2)
    assert not answer.replayed
    assert answer.stock == api.StockLevel(
        sku=sku, on_hand=10, held=0, safety_stock=2, available=8, version=1)
    assert client.level(sku) == answer.stock


def test_delta(client):
    sku = client.item(10)
    assert client.adjust(sku, delta=5).stock.on_hand == 15
    assert client.adjust(sku, delta=-15).stock.on_hand == 0
    assert client.level(sku).version == 3
    unknown = fresh()
    assert client.adjust(unknown, delta=4).stock.on_hand == 4


def test_safety_stock_alone(client):
    sku = client.item(10)
    level = client.adjust(sku, set_safety_stock=4).stock
    assert (level.on_hand, level.safety_stock, level.available, level.version) == (10, 4, 6, 2)


def test_negative_delta_of_an_unknown_item(client):
    sku = fresh()
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", sku=sku):
        client.adjust(sku, delta=-1)


def test_on_hand_never_goes_below_held(client):
    sku = client.item(10)
    client.reserve(line(sku, 6))
    for fields in (dict(delta=-5), dict(set_on_hand=5)):
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=sku):
            client.adjust(sku, **fields)
    assert client.adjust(sku, delta=-4).stock.on_hand == 6


def test_on_hand_limit(client):
    sku = client.item(MOST)
    with refused(StatusCode.FAILED_PRECONDITION, "ON_HAND_LIMIT"):
        client.adjust(sku, delta=1)
    assert client.level(sku).on_hand == MOST


def test_compare_and_swap(client):
    sku = client.item(10)
    assert client.adjust(sku, expected_version=1, delta=1).stock.version == 2
    with refused(StatusCode.ABORTED, "VERSION_MISMATCH", current_version=2):
        client.adjust(sku, expected_version=1, delta=1)
    with refused(StatusCode.ABORTED, "VERSION_MISMATCH", current_version=2):
        client.adjust(sku, expected_version=0, set_on_hand=1)
    assert client.level(sku).on_hand == 11


def test_expected_version_zero_makes_the_item(client):
    assert client.adjust(fresh(), expected_version=0, set_on_hand=1).stock.version == 1


def test_a_version_mismatch_is_not_recorded(client):
    sku, key = client.item(10), fresh("key")
    with refused(StatusCode.ABORTED, "VERSION_MISMATCH"):
        client.adjust(sku, key=key, expected_version=7, delta=1)
    assert not client.adjust(sku, key=key, expected_version=1, delta=1).replayed


def test_adjustments_are_replayed(client):
    sku, key = fresh(), fresh("key")
    first = client.adjust(sku, key=key, delta=10)
    client.adjust(sku, delta=1)
    again = client.adjust(sku, key=key, delta=10)
    assert again.replayed and again.stock == first.stock
    assert client.level(sku).on_hand == 11


def test_refused_adjustments_are_replayed(client):
    sku, key = client.item(5), fresh("key")
    for _ in range(2):
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK"):
            client.adjust(sku, key=key, delta=-6)
        client.adjust(sku, set_on_hand=100)
    assert client.level(sku).on_hand == 100


@pytest.mark.parametrize("changed", [
    dict(delta=2), dict(set_on_hand=1), dict(reason="another"), dict(expected_version=1),
    dict(set_safety_stock=1), dict(location="berlin"), dict(ship=1), dict(uncommit=1),
    dict(expected_on_hand=0), dict(allow_shortage=True), dict(reference="order:1")], ids=str)
def test_a_key_with_another_payload(client, changed):
    sku, key = fresh(), fresh("key")
    client.adjust(sku, key=key, delta=1)
    with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        another = {"set_on_hand", "ship", "uncommit"} & changed.keys()
        client.adjust(sku, key=key, **({} if another else {"delta": 1}) | changed)


def test_keys_of_different_callers_never_meet(client, server):
    sku, key = client.item(1), fresh("key")
    client.adjust(sku, key=key, delta=1)
    with Client(server.target, caller="warehouse") as warehouse:
        assert not warehouse.adjust(sku, key=key, delta=1).replayed
    assert client.level(sku).on_hand == 3


def test_get_stock_of_an_unknown_item(client):
    sku = client.item(1)
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", sku=sku, location="berlin"):
        client.level(sku, "berlin")


def test_batch_get_stock(client):
    known, unknown = [client.item(n) for n in range(3)], fresh()
    asked = [known[2], unknown, known[0], known[2]]
    answer = client.stock.BatchGetStock(api.BatchGetStockRequest(
        items=[api.StockItem(sku=sku) for sku in asked]), **client.call)
    assert [level.sku for level in answer.stock] == [known[2], known[0], known[2]]
    assert [level.on_hand for level in answer.stock] == [2, 0, 2]
    assert [item.sku for item in answer.not_found] == [unknown]


def test_batch_get_stock_of_500_items(client):
    sku = client.item(1)
    answer = client.stock.BatchGetStock(api.BatchGetStockRequest(
        items=[api.StockItem(sku=sku)] * 500), **client.call)
    assert len(answer.stock) == 500


@pytest.mark.parametrize("items, field", [
    ([], "items"),
    ([api.StockItem(sku="a")] * 501, "items"),
    ([api.StockItem(sku="a"), api.StockItem(sku="")], "items[1].sku"),
    ([api.StockItem(sku="a", location="ü")], "items[0].location"),
])
def test_malformed_batch_get_stock(client, items, field):
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.stock.BatchGetStock(api.BatchGetStockRequest(items=items), **client.call)
    assert seen[0].fields == [field]


def test_list_stock_pages_in_the_order_of_making(client):
    made = [client.item(n) for n in range(12)]
    for page_size in (0, 1, 5, 500, 2**31 - 1):
        token, listed = "", []
        while True:
            page = client.stock.ListStock(
                api.ListStockRequest(page_size=page_size, page_token=token), **client.call)
            assert len(page.stock) <= (page_size or 100)
            listed += [level.sku for level in page.stock]
            token = page.next_page_token
            if not token:
                break
        assert listed[-12:] == made


@pytest.mark.parametrize("fields, named", [
    (dict(page_size=-1), "page_size"), (dict(page_token="0" * 32), "page_token"),
    (dict(page_token="nonsense"), "page_token"),
])
def test_malformed_list_stock(client, fields, named):
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.stock.ListStock(api.ListStockRequest(**fields), **client.call)
    assert seen[0].fields == [named]
