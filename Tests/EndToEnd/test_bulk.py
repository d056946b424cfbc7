"""Many changes of stock at once: all or none with BatchAdjustStock, each by itself with ImportStock."""

import concurrent.futures
import threading

import pytest
from grpc import StatusCode
from holdfast.v1 import stock_pb2

from client import Client, Refusal, change, fresh, line, refused
from server import Server, eventually
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


def all_stock(client):
    levels, token = {}, ""
    while True:
        page = client.stock.ListStock(stock_pb2.ListStockRequest(page_size=500, page_token=token), **client.call)
        levels.update({level.sku: level for level in page.stock})
        token = page.next_page_token
        if not token: return levels


def test_rows_are_decided_each_by_itself(client):
    known = client.item(5)
    new = [fresh() for _ in range(3)]
    client.reserve(line(known, 4))
    rows = [change(new[0], set_on_hand=7), change(known, set_on_hand=3), change(new[1], delta=-1),
            change(known, delta=2), change(new[2], delta=4, set_safety_stock=1, expected_version=0),
            change(new[2], delta=4, expected_version=0), change(known, delta=1, expected_on_hand=7)]
    import_id = fresh("import")
    answer = client.import_rows(import_id, rows, rows_per_message=3)
    assert (answer.next_row, answer.changed, answer.failed) == (7, 4, 3)
    assert [(failure.row, failure.reason) for failure in answer.failures] == [
        (1, "INSUFFICIENT_STOCK"), (2, "ITEM_NOT_FOUND"), (5, "VERSION_MISMATCH")]
    assert balances(client.level(known)) == (8, 4, 0, 4) and client.level(new[2]).available == 3
    # Again, from anywhere: what is done is passed over.
    for first in (0, 4):
        again = client.import_rows(import_id, rows[first:], first_row=first)
        assert (again.next_row, again.changed, again.failed) == (7, 0, 0)
    with refused(StatusCode.FAILED_PRECONDITION, "IMPORT_GAP", next_row=7):
        client.import_rows(import_id, rows, first_row=8)
    assert client.import_rows(import_id, rows[:1], first_row=7).next_row == 8
    assert balances(client.level(known)) == (8, 4, 0, 4)


def message(**fields):
    fields.setdefault("import_id", "i")
    fields.setdefault("rows", [change("hostile", delta=1)])
    return stock_pb2.ImportStockRequest(**fields)


@pytest.mark.parametrize("messages, field", [
    ([], "rows"),
    ([message(rows=[])], "rows"),
    ([message(rows=[change("hostile", delta=1)] * 501)], "rows"),
    ([message(import_id="")], "import_id"),
    ([message(import_id="a b")], "import_id"),
    ([message(first_row=2 ** 63)], "first_row"),
    ([message(first_row=2 ** 64 - 1)], "first_row"),
    ([message(rows=[change("hostile", delta=1), change("", delta=1)])], "rows[1].sku"),
    ([message(rows=[change("hostile", delta=1, idempotency_key="k")])], "rows[0].idempotency_key"),
    ([message(rows=[change("hostile")])], "rows[0].change"),
], ids=range(10))
def test_what_is_no_message_of_an_import(client, messages, field):
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
        client.stock.ImportStock(iter(messages), **client.call)
    assert seen[0].fields == [field]
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
        client.level("hostile")


@pytest.mark.parametrize("second, field", [
    (dict(first_row=1, import_id="other"), "import_id"), (dict(first_row=0), "first_row"), (dict(first_row=2), "first_row"),
])
def test_messages_that_do_not_go_on(client, second, field):
    """What came before is done, and may be gone on with."""
    sku, import_id = fresh(), fresh("import")
    second = {"import_id": import_id, **second}
    rows = [change(sku, delta=1)]
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
        client.stock.ImportStock(
            iter([message(import_id=import_id, rows=rows), message(rows=rows, **second)]), **client.call)
    assert seen[0].fields == [field]
    assert client.import_rows(import_id, rows * 2).next_row == 2
    assert client.level(sku).on_hand == 2


def test_two_streams_of_one_import_do_no_row_twice(server):
    skus, import_id = [fresh() for _ in range(500)], fresh("import")
    rows = [change(sku, delta=1) for _ in range(6) for sku in skus]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        def run(_):
            with Client(server.target) as client:
                return client.import_rows(import_id, rows)
        answers = list(pool.map(run, range(3)))
    assert all(answer.next_row == len(rows) for answer in answers)
    assert sum(answer.changed for answer in answers) == len(rows)
    with Client(server.target) as client:
        assert {client.level(sku).on_hand for sku in skus[::50]} == {6}


def test_an_import_cut_off_by_a_kill_is_the_one_that_was_not(binary, tmp_path):
    """Deltas, so that a row that is made twice or left out shows."""
    rows = [change(f"sku-{number % 4000}", delta=number % 7 + 1) for number in range(30_000)]
    with Server(binary) as server, Client(server.target) as client:
        assert client.import_rows("i", rows, rows_per_message=500).changed == len(rows)
        expected = {sku: level.on_hand for sku, level in all_stock(client).items()}
    directory = tmp_path / "data"
    done, kills = 0, 0
    while done < len(rows):
        with Server(binary, data=directory) as server, Client(server.target) as client:
            killer = None
            if kills < 3:
                # Some rows in: once the store has items to show.
                def kill(server=server, enough=(kills + 1) * 800):
                    with Client(server.target) as watcher:
                        eventually(lambda: len(all_stock(watcher)) >= enough, 30)
                    server.kill()
                killer = threading.Thread(target=kill)
                killer.start()
            try:
                done = client.import_rows("i", rows, rows_per_message=200).next_row
            except Exception:
                kills += 1
            if killer: killer.join()
            if done == len(rows):
                if server.is_alive():
                    assert {sku: level.on_hand for sku, level in all_stock(client).items()} == expected
                else:
                    done = 0
    assert kills > 0


def test_an_import_ends_with_the_server_and_is_resumed(binary, tmp_path):
    directory = tmp_path / "data"
    rows = [change(f"sku-{number}", delta=1) for number in range(400)]
    with Server(binary, data=directory) as server, Client(server.target) as client:
        gate = threading.Event()

        def messages():
            yield message(rows=rows[:200])
            gate.wait(20)
            yield message(first_row=200, rows=rows[200:])

        call = client.stock.ImportStock.future(messages(), **client.call)
        eventually(lambda: len(all_stock(client)) == 200)
        server.terminate()
        refusal = Refusal(call.exception(20))
        gate.set()
        assert (refusal.code, refusal.info.reason) == (StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    with Server(binary, data=directory) as server, Client(server.target) as client:
        answer = client.import_rows("i", rows)
        assert (answer.next_row, answer.changed) == (400, 200)
        assert {level.on_hand for level in all_stock(client).values()} == {1}
