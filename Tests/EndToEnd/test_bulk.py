"""Many changes of stock at once: all or none with BatchAdjustStock."""

import concurrent.futures
import threading

import pytest
from grpc import StatusCode

from client import Client, Refusal, fresh, line, refused
from server import Server
from watching import Watch, kind_name


def balances(level):
    return level.on_hand, level.held, level.committed, level.available


def transfer(units, source, target):
    return [(source, dict(delta=-units)), (target, dict(delta=units))]


def test_a_transfer_beside_reserves_moves_all_or_nothing(server):
    """Units go to and fro while others reserve them: none is lost, and nobody is promised what is not there."""
    with Client(server.target) as client:
        skus = [client.item(40), client.item(40)]
        stop = threading.Event()

        def buy():
            held = 0
            with Client(server.target) as buyer:
                while not stop.is_set():
                    for sku in skus:
                        try:
                            buyer.reserve(line(sku))
                            held += 1
                        except Exception as error:
                            assert Refusal(error).info.reason == "INSUFFICIENT_STOCK"
            return held

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            buyers = [pool.submit(buy) for _ in range(2)]
            moved = refusals = 0
            for number in range(120):
                source, target = skus if number % 2 else reversed(skus)
                try:
                    answer = client.adjust_all(transfer(number % 5 + 1, source, target))
                    assert [level.sku for level in answer.stock] == [source, target]
                    moved += 1
                except Exception as error:
                    refusal = Refusal(error)
                    assert refusal.info.reason == "INSUFFICIENT_STOCK"
                    assert refusal.info.metadata["index"] == "0" and refusal.info.metadata["sku"] == source
                    refusals += 1
            stop.set()
            held = sum(buyer.result() for buyer in buyers)
        levels = [client.level(sku) for sku in skus]
        assert sum(level.on_hand for level in levels) == 80 and moved + refusals == 120 and moved > 0
        assert sum(level.held for level in levels) == held
        assert all(level.available >= 0 for level in levels)


def test_a_delivery_of_known_and_new_items(client):
    known = client.item(3)
    new = [fresh() for _ in range(20)]
    changes = [(known, dict(delta=5))] + [(sku, dict(delta=number, expected_version=0))
                                          for number, sku in enumerate(new)]
    key = fresh("delivery")
    answer = client.adjust_all(changes, key=key, reference="delivery:7")
    assert [level.on_hand for level in answer.stock] == [8, *range(20)] and not answer.replayed
    client.adjust(known, delta=-1)
    again = client.adjust_all(changes, key=key, reference="delivery:7")
    assert again.replayed and list(again.stock) == list(answer.stock)
    with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        client.adjust_all(changes[:-1], key=key, reference="delivery:7")
    # One of them is there already: none is delivered.
    with refused(StatusCode.ABORTED, "VERSION_MISMATCH", index=1, sku=new[3], current_version=1):
        client.adjust_all([(known, dict(delta=5)), (new[3], dict(delta=1, expected_version=0))])
    assert client.level(known).on_hand == 7


def test_an_order_is_cancelled_and_another_one_shipped(client):
    skus = [client.item(10) for _ in range(3)]
    for _ in range(2):
        held = client.reserve(*(line(sku, 2) for sku in skus))
        client.confirm(held.reservation_id, keep_committed=True)
    answer = client.adjust_all([(sku, dict(uncommit=2)) for sku in skus], reference="order:1")
    assert [balances(level) for level in answer.stock] == [(10, 0, 2, 8)] * 3
    answer = client.adjust_all([(sku, dict(ship=2)) for sku in skus], reference="order:2")
    assert [balances(level) for level in answer.stock] == [(8, 0, 0, 8)] * 3
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_COMMITTED", index=0, sku=skus[0],
                 requested=2, committed=0):
        client.adjust_all([(sku, dict(ship=2)) for sku in skus])


@pytest.mark.parametrize("changes, field", [
    ([], "changes"),
    ([(f"s{number}", dict(delta=1)) for number in range(65)], "changes"),
    ([("a", dict(delta=1)), ("a", dict(delta=1))], "changes[1].sku"),
    ([("a", dict(delta=1, reason="inner"))], "changes[0].reason"),
])
def test_what_is_no_batch(client, changes, field):
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
        client.adjust_all(changes)
    assert seen[0].fields == [field]


def test_watchers_see_one_event_and_a_restart_keeps_the_answer(binary, tmp_path):
    """One ADJUSTED event has all balances, and safety stock as it was at each decision."""
    directory = tmp_path / "data"
    a, b, key = fresh("a"), fresh("b"), fresh("k")
    changes = [(a, dict(delta=5, set_safety_stock=2)), (b, dict(delta=7))]
    with Server(binary, data=directory) as server, Client(server.target) as client:
        client.adjust_all([(a, dict(set_on_hand=1)), (b, dict(set_on_hand=1))])
        answer = client.adjust_all(changes, key=key, reason="delivery", reference="d:1")
        client.adjust_all([(a, dict(delta=0, set_safety_stock=-3))])
    with Server(binary, data=directory) as server, Client(server.target) as client:
        again = client.adjust_all(changes, key=key, reason="delivery", reference="d:1")
        assert again.replayed and list(again.stock) == list(answer.stock)
        held = client.reserve(line(a)).reservation_id
        with Watch(client, oldest=True) as watch:
            events = watch.wait_for_events(4)
        assert [kind_name(event) for event in events] == ["ADJUSTED"] * 3 + ["HELD"]
        assert list(events[1].stock) == list(answer.stock)
        assert (events[1].reason, events[1].reference, events[1].idempotency_key) == ("delivery", "d:1", key)
        assert events[3].stock[0].safety_stock == -3 and events[3].reservation_id == held
