"""Stock as it is on the shelf: what is sold and not shipped, counts while people buy, what is owed, pre-orders."""

import pathlib
import random
import tarfile
import threading

import pytest
from grpc import StatusCode
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, fresh, line, refused
from server import holdfast
from test_backup import back_up, restore
from watching import Books, Watch, kind_name

HELD = reservation_pb2.RESERVATION_STATE_HELD
EXPIRED = reservation_pb2.RESERVATION_STATE_EXPIRED


def balances(level):
    return level.on_hand, level.held, level.committed, level.available


def sell(client, sku, units, keep_committed=True):
    held = client.reserve(line(sku, units))
    client.confirm(held.reservation_id, keep_committed=keep_committed)
    return held.reservation_id


def test_what_is_sold_stays_on_hand_until_it_is_shipped(client):
    sku = client.item(10)
    held = client.reserve(line(sku, 3))
    answer = client.confirm(held.reservation_id, keep_committed=True)
    assert not answer.replayed and answer.reservation.lines[0].quantity == 3
    assert balances(client.level(sku)) == (10, 0, 3, 7)
    assert balances(client.adjust(sku, ship=3).stock) == (7, 0, 0, 7)


def test_partial_shipment_and_partial_cancel(client):
    """Of five sold, two leave in the first parcel, one is cancelled, two follow."""
    sku = client.item(5)
    sell(client, sku, 5)
    assert balances(client.adjust(sku, ship=2, reason="parcel 1").stock) == (3, 0, 3, 0)
    assert balances(client.adjust(sku, uncommit=1, reason="cancelled").stock) == (3, 0, 2, 1)
    other = client.reserve(line(sku))
    assert balances(client.adjust(sku, ship=2, reason="parcel 2").stock) == (1, 1, 0, 0)
    for fields in (dict(ship=1), dict(uncommit=1)):
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_COMMITTED", sku=sku, location="",
                     requested=1, committed=0) as seen:
            client.adjust(sku, **fields)
        assert seen[0].violations == [
            ("INSUFFICIENT_COMMITTED", sku, "1 requested, 0 committed")]
    assert client.get(other.reservation_id).state == HELD


def test_a_return(client):
    sku = client.item(2)
    sell(client, sku, 2)
    client.adjust(sku, ship=2)
    assert balances(client.adjust(sku, delta=1, reason="return").stock) == (1, 0, 0, 1)


def test_confirm_in_part_keeps_what_is_sold(client):
    sku = client.item(10)
    held = client.reserve(line(sku, 4))
    client.confirm(held.reservation_id, line(sku, 3), keep_committed=True)
    assert balances(client.level(sku)) == (10, 0, 3, 7)
    assert client.confirm(held.reservation_id, line(sku, 3), keep_committed=True).replayed


def test_keep_committed_is_part_of_what_a_repeat_repeats(client):
    sku = client.item(10)
    kept, gone = (sell(client, sku, 1, keep_committed=kept) for kept in (True, False))
    assert client.confirm(kept, keep_committed=True).replayed
    assert client.confirm(gone).replayed
    with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_CONFIRMED"):
        client.confirm(kept)
    with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_CONFIRMED"):
        client.confirm(gone, keep_committed=True)
    assert balances(client.level(sku)) == (9, 0, 1, 8)


@pytest.mark.parametrize("keep_committed, sold", [(False, 8), (True, 5)])
def test_a_nightly_count_resells_sold_units_unless_they_are_committed(client, keep_committed, sold):
    """Three of five are sold and wait for the parcel service. At night somebody counts five."""
    sku = client.item(5)
    sell(client, sku, 3, keep_committed)
    client.adjust(sku, set_on_hand=5, reason="count")
    more = 0
    while client.level(sku).available > 0:
        sell(client, sku, 1, keep_committed)
        more += 1
    assert 3 + more == sold


def test_a_count_below_what_is_held(client):
    """The shelf is what it is; who holds units keeps the promise, and what is owed is told."""
    sku = client.item(10)
    holds = [client.reserve(line(sku, 4)).reservation_id for _ in range(2)]
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=sku, requested=5, available=2):
        client.adjust(sku, set_on_hand=5)
    assert balances(client.adjust(sku, set_on_hand=5, allow_shortage=True).stock) == (5, 8, 0, -3)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=1, available=-3):
        client.reserve(line(sku))
    client.confirm(holds[0])
    assert balances(client.level(sku)) == (1, 4, 0, -3)
    # The units are sold; to take them away, they must be there.
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=4, available=1):
        client.confirm(holds[1])
    assert client.get(holds[1]).state == HELD
    client.confirm(holds[1], keep_committed=True)
    assert balances(client.level(sku)) == (1, 0, 4, -3)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=4, available=1):
        client.adjust(sku, ship=4)
    client.adjust(sku, delta=3, reason="delivery")
    assert balances(client.adjust(sku, ship=4).stock) == (0, 0, 0, 0)


def test_nothing_falls_below_zero(client):
    sku = client.item(3)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=4, available=3):
        client.adjust(sku, delta=-4, allow_shortage=True)
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
        client.adjust(fresh(), ship=1, allow_shortage=True)


def test_expected_on_hand(client):
    sku, key = client.item(10), fresh("key")
    held = client.reserve(line(sku, 2))
    assert client.adjust(sku, expected_on_hand=10, set_on_hand=9).stock.on_hand == 9
    with refused(StatusCode.ABORTED, "ON_HAND_MISMATCH", current_on_hand=9):
        client.adjust(sku, key=key, expected_on_hand=10, set_on_hand=8)
    client.confirm(held.reservation_id)
    # It is not recorded: the same key is tried anew.
    assert not client.adjust(sku, key=key, expected_on_hand=7, set_on_hand=8).replayed
    made = fresh()
    with refused(StatusCode.ABORTED, "ON_HAND_MISMATCH", current_on_hand=0):
        client.adjust(made, expected_on_hand=1, set_on_hand=5)
    assert client.adjust(made, expected_on_hand=0, set_on_hand=5).stock.version == 1


def test_a_nightly_count_while_holds_come_and_go(client, server):
    """Each count is of the first try: a hold changes the version, and not what lies on the shelf."""
    sku = client.item(1000)
    stop = threading.Event()

    def buy():
        with Client(server.target) as buyer:
            chance = random.Random(7)
            while not stop.is_set():
                held = buyer.reserve(line(sku, chance.randint(1, 5)))
                if chance.random() < 0.5:
                    buyer.release(held.reservation_id)

    buyers = [threading.Thread(target=buy) for _ in range(4)]
    for buyer in buyers:
        buyer.start()
    try:
        versions = set()
        for count in range(20):
            before = client.level(sku)
            versions.add(before.version)
            after = client.adjust(
                sku, expected_on_hand=before.on_hand, set_on_hand=1000 - count, allow_shortage=True).stock
            assert after.on_hand == 1000 - count
    finally:
        stop.set()
        for buyer in buyers:
            buyer.join(20)
    assert max(versions) - min(versions) > 40


def test_a_preorder(client):
    """So many may be promised before a unit is there, and not one more."""
    sku = client.item(0, set_safety_stock=-3)
    assert client.level(sku).available == 3
    orders = [client.reserve(line(sku)).reservation_id for _ in range(3)]
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=1, available=0):
        client.reserve(line(sku))
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=1, available=0):
        client.confirm(orders[0])
    for order in orders:
        client.confirm(order, keep_committed=True)
    assert balances(client.level(sku)) == (0, 0, 3, 0)
    assert balances(client.adjust(sku, delta=2, reason="delivery").stock) == (2, 0, 3, 2)
    client.adjust(sku, ship=2)
    level = client.adjust(sku, set_safety_stock=0, reason="the pre-order is over").stock
    assert balances(level) == (0, 0, 1, -1)


def test_a_preorder_that_expired_is_taken_again(client):
    sku = client.item(0, set_safety_stock=-1)
    order = client.reserve(line(sku), ttl=1).reservation_id
    while client.get(order).state != EXPIRED:
        pass
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=1, available=0):
        client.confirm(order, reacquire=True)
    client.confirm(order, reacquire=True, keep_committed=True)
    assert balances(client.level(sku)) == (0, 0, 1, 0)


@pytest.mark.parametrize("fields, named", [
    (dict(ship=0), "ship"), (dict(ship=-1), "ship"), (dict(ship=2**40 + 1), "ship"),
    (dict(uncommit=0), "uncommit"), (dict(uncommit=2**40 + 1), "uncommit"),
    (dict(delta=1, expected_on_hand=-1), "expected_on_hand"),
    (dict(delta=1, expected_on_hand=2**40 + 1), "expected_on_hand"),
    (dict(set_safety_stock=-2**40 - 1), "set_safety_stock"),
    (dict(set_safety_stock=2**40 + 1), "set_safety_stock"),
    (dict(allow_shortage=True), "change"),
    (dict(delta=1, reference="r" * 65), "reference"), (dict(delta=1, reference="order 1"), "reference"),
], ids=str)
def test_malformed(client, fields, named):
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
        client.adjust(client.item(1), **fields)
    assert seen[0].fields == [named]


def test_events_tell_what_is_committed(client):
    with Watch(client).begun() as watch:
        sku = client.item(5, set_safety_stock=-2)
        sell(client, sku, 2)
        client.adjust(sku, ship=1)
        client.adjust(sku, set_on_hand=0, allow_shortage=True)
        events = watch.wait_for_events(5)
    seen = [(kind_name(e)[0], [line.quantity for line in e.lines], *balances(e.stock[0])) for e in events]
    assert seen == [
        ("A", [], 5, 0, 0, 7), ("H", [2], 5, 2, 0, 5), ("C", [2], 5, 0, 2, 5), ("A", [], 4, 0, 1, 5),
        ("A", [], 0, 0, 1, 1)]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_restart_forgets_nothing(start, binary, tmp_path, checkpointed):
    """Balances, recorded answers and what a repeat must repeat, from the journal and from a checkpoint."""
    data = tmp_path / "data"
    server = start(data=data)
    with Client(server.target) as client:
        sku, other = client.item(10, set_safety_stock=-4), client.item(7)
        kept = client.reserve(line(sku, 3), line(other, 2)).reservation_id
        client.confirm(kept, line(sku, 2), line(other, 2), keep_committed=True)
        client.reserve(line(sku, 4))
        adjustments = {
            fresh("key"): dict(ship=1, reference="order:4711"), fresh("key"): dict(uncommit=1),
            fresh("key"): dict(set_on_hand=1, allow_shortage=True), fresh("key"): dict(delta=1)}
        answers = {key: client.adjust(sku, key=key, **fields).stock for key, fields in adjustments.items()}
        refusal = fresh("key")
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_COMMITTED", requested=9, committed=2):
            client.adjust(other, key=refusal, ship=9)
        levels = [client.level(each) for each in (sku, other)]
        assert [balances(level) for level in levels] == [(2, 4, 0, 2), (7, 0, 2, 5)]
    if checkpointed:
        server.stop()
        # A restore leaves a checkpoint and an empty journal.
        back_up(binary, data, tmp_path / "backup")
        restore(binary, tmp_path / "backup", tmp_path / "restored")
        data = tmp_path / "restored"
    else:
        server.kill()
    dump = holdfast(binary, "dump", data)
    assert dump.returncode == 0, dump.stderr
    if not checkpointed:
        assert '"kept_committed":"yes"' in dump.stdout and '"ship":1' in dump.stdout
        assert '"reference":"order:4711"' in dump.stdout
        assert '"allow_shortage":"yes"' in dump.stdout and '"refusal":"insufficient_committed"' in dump.stdout
    server = start(data=data)
    with Client(server.target) as client:
        for level in levels:
            seen = client.level(level.sku)
            assert balances(seen) == balances(level) and seen.safety_stock == level.safety_stock
        for key, fields in adjustments.items():
            again = client.adjust(sku, key=key, **fields)
            assert again.replayed and balances(again.stock) == balances(answers[key])
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_COMMITTED", requested=9, committed=2,
                     replayed="true"):
            client.adjust(other, key=refusal, ship=9)
        assert client.confirm(kept, line(sku, 2), line(other, 2), keep_committed=True).replayed
        with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_CONFIRMED"):
            client.confirm(kept, line(sku, 2), line(other, 2))
        client.adjust(other, ship=2)


def test_events_from_before_a_restart(start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(5, set_safety_stock=-1)
        sell(client, sku, 2)
        client.adjust(sku, set_safety_stock=-3)
        client.reserve(line(sku))
    server.kill()
    server = start(data=tmp_path / "data")
    with Client(server.target) as client, Watch(client, oldest=True) as watch:
        events = watch.wait_for_events(5)
    books = Books()
    for event in events:
        books.apply(event)
    seen = [(e.stock[0].safety_stock, *balances(e.stock[0])) for e in events]
    assert seen == [
        (-1, 5, 0, 0, 6), (-1, 5, 2, 0, 4), (-1, 5, 0, 2, 4), (-3, 5, 0, 2, 6), (-3, 5, 1, 2, 5)]


def test_an_older_directory_has_nothing_committed(start, tmp_path):
    folder = pathlib.Path(__file__).parent / "fixtures"
    with tarfile.open(next(folder.glob("first-release.tar*"))) as archive:
        archive.extractall(tmp_path / "first", filter="data")
    data = next(path.parent for path in (tmp_path / "first").rglob("checkpoint-*"))
    server = start("--accept-clock", data=data)
    with Client(server.target) as client:
        page = client.stock.ListStock(stock_pb2.ListStockRequest(page_size=500), **client.call)
        assert page.stock and all(level.committed == 0 for level in page.stock)
        level = next(level for level in page.stock if level.available > 0 and not level.location)
        sell(client, level.sku, 1)
        seen = client.level(level.sku)
        assert balances(seen) == (level.on_hand, level.held, 1, level.available - 1)
    server.kill()
    server = start("--accept-clock", data=data)
    with Client(server.target) as client:
        assert balances(client.level(level.sku)) == balances(seen)
        client.adjust(level.sku, ship=1)
