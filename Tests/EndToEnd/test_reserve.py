"""Reserve: all or nothing, idempotency, expiry to the instant."""

import concurrent.futures
import random
import time

import grpc
import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from server import eventually


def test_holds_units(client):
    sku = client.item(10)
    answer = client.reserve(line(sku, 3), ttl=60)
    assert len(answer.reservation_id) == 20
    assert not answer.replayed
    assert 55 < answer.expires_at.seconds - time.time() < 65
    level = client.level(sku)
    assert (level.on_hand, level.held, level.available, level.version) == (10, 3, 7, 2)


def test_default_ttl_is_600_seconds(client):
    answer = client.reserve(line(client.item(1)))
    assert 595 < answer.expires_at.seconds - time.time() < 605


def test_refuses_more_than_available(client):
    sku = client.item(5)
    client.reserve(line(sku, 3))
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK",
                 sku=sku, location="", requested=3, available=2):
        client.reserve(line(sku, 3))
    assert client.level(sku).held == 3


def test_safety_stock_is_never_offered(client):
    sku = client.item(5, set_safety_stock=4)
    client.reserve(line(sku, 1))
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", available=0):
        client.reserve(line(sku, 1))


def test_available_in_the_details_is_never_below_zero(client):
    sku = client.item(5)
    client.reserve(line(sku, 5))
    client.adjust(sku, set_safety_stock=3)
    assert client.level(sku).available == -3
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=1):
        client.reserve(line(sku, 1))


def test_unknown_item(client):
    sku = fresh()
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", sku=sku):
        client.reserve(line(sku))


def test_several_lines_are_all_or_nothing(client):
    plenty, scarce = client.item(100), client.item(1)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=scarce, available=1):
        client.reserve(line(plenty, 2), line(scarce, 2))
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
        client.reserve(line(plenty, 2), line(fresh()))
    assert client.level(plenty).held == 0
    client.reserve(line(plenty, 2), line(scarce, 1))
    assert (client.level(plenty).held, client.level(scarce).held) == (2, 1)


def test_lines_of_one_item_are_summed(client):
    sku = client.item(5)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=6, available=5):
        client.reserve(line(sku, 3), line(sku, 3))
    answer = client.reserve(line(sku, 3), line(sku, 2))
    assert [(part.sku, part.quantity) for part in client.get(answer.reservation_id).lines] == [(sku, 5)]


def test_64_lines(client):
    skus = [client.item(1) for _ in range(64)]
    answer = client.reserve(*(line(sku) for sku in skus))
    assert [part.sku for part in client.get(answer.reservation_id).lines] == skus
    assert all(client.level(sku).held == 1 for sku in skus)


def test_locations_are_items_of_their_own(client):
    sku = client.item(1)
    client.adjust(sku, location="berlin", set_on_hand=2)
    client.reserve(line(sku, 2, "berlin"))
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", location="berlin", available=0):
        client.reserve(line(sku, 1, "berlin"))
    client.reserve(line(sku, 1))


def test_the_largest_quantity(client):
    sku = client.item(2**40)
    client.reserve(line(sku, 2**40))
    assert client.level(sku).available == 0


# Idempotency.


def test_an_accepted_decision_is_replayed(client):
    sku, key = client.item(10), fresh("key")
    first = client.reserve(line(sku, 4), key=key)
    again = client.reserve(line(sku, 4), key=key)
    assert not first.replayed and again.replayed
    assert again.reservation_id == first.reservation_id and again.expires_at == first.expires_at
    assert client.level(sku).held == 4


def test_an_accepted_decision_is_replayed_after_the_hold_ended(client):
    sku, key = client.item(10), fresh("key")
    first = client.reserve(line(sku, 4), key=key)
    client.release(first.reservation_id)
    again = client.reserve(line(sku, 4), key=key)
    assert again.replayed and again.reservation_id == first.reservation_id
    assert client.level(sku).held == 0


def test_a_refused_decision_is_replayed(client):
    sku, key = client.item(1), fresh("key")
    for units_then in (1, 100):
        client.adjust(sku, set_on_hand=units_then)
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK",
                     requested=5, available=1, sku=sku):
            client.reserve(line(sku, 5), key=key)


def test_an_unknown_item_is_replayed(client):
    sku, key = fresh(), fresh("key")
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
        client.reserve(line(sku), key=key)
    client.adjust(sku, set_on_hand=10)
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", sku=sku):
        client.reserve(line(sku), key=key)


@pytest.mark.parametrize("other", [
    pytest.param(lambda sku, other: dict(lines=[line(sku, 2)]), id="quantity"),
    pytest.param(lambda sku, other: dict(lines=[line(other, 1)]), id="sku"),
    pytest.param(lambda sku, other: dict(lines=[line(sku, 1), line(other, 1)]), id="more lines"),
    pytest.param(lambda sku, other: dict(lines=[line(sku, 1)], ttl=61), id="ttl"),
])
def test_a_key_with_another_payload(client, other):
    sku, other_sku, key = client.item(10), client.item(10), fresh("key")
    client.reserve(line(sku, 1), key=key, ttl=60)
    changed = {"ttl": 60, **other(sku, other_sku)}
    with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        client.reserve(*changed["lines"], key=key, ttl=changed["ttl"])
    assert (client.level(sku).held, client.level(other_sku).held) == (1, 0)


def test_a_key_of_a_refusal_with_another_payload(client):
    sku, key = client.item(1), fresh("key")
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK"):
        client.reserve(line(sku, 2), key=key)
    with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        client.reserve(line(sku, 1), key=key)


def test_a_malformed_request_is_not_a_decision(client):
    sku, key = client.item(10), fresh("key")
    with refused(StatusCode.INVALID_ARGUMENT):
        client.reserve(line(sku, 0), key=key)
    assert not client.reserve(line(sku, 1), key=key).replayed


def test_keys_of_different_callers_never_meet(client, server):
    sku, key = client.item(10), fresh("key")
    first = client.reserve(line(sku, 1), key=key)
    with Client(server.target, caller="shop-a") as shop_a, Client(server.target, caller="shop-b") as shop_b:
        a = shop_a.reserve(line(sku, 1), key=key)
        b = shop_b.reserve(line(sku, 2), key=key)
        assert not a.replayed and not b.replayed
        assert len({first.reservation_id, a.reservation_id, b.reservation_id}) == 3
        assert shop_a.reserve(line(sku, 1), key=key).reservation_id == a.reservation_id
    assert client.level(sku).held == 4


def test_keys_of_different_methods_never_meet(client):
    sku, key = fresh(), fresh("key")
    client.adjust(sku, key=key, set_on_hand=5)
    assert not client.reserve(line(sku), key=key).replayed


# Expiry. Instants are compared by the server's own stamps, so no clock but its own matters.


def test_expired_units_are_free_at_the_instant(client):
    sku = client.item(1)
    first = client.reserve(line(sku), ttl=1)

    def reserve_again():
        try:
            return client.reserve(line(sku), ttl=60)
        except grpc.RpcError as error:
            assert error.code() == StatusCode.FAILED_PRECONDITION
            return None

    second = eventually(reserve_again, seconds=5)
    reserved_at = second.expires_at.ToNanoseconds() - 60 * 10**9
    late = reserved_at - first.expires_at.ToNanoseconds()
    assert 0 <= late < 250_000_000, f"free {late} ns after it fell due"
    assert client.level(sku).held == 1


def test_expiry_shows_in_reads(client):
    sku = client.item(3)
    first = client.reserve(line(sku, 2), ttl=1)
    assert client.level(sku).held == 2
    eventually(lambda: client.level(sku).held == 0, seconds=5)
    reservation = client.get(first.reservation_id)
    assert reservation.state == 4  # RESERVATION_STATE_EXPIRED
    assert reservation.ended_at == first.expires_at == reservation.expires_at


# Races.


def race(server, tasks, connections=8):
    """Runs tasks(client, number) on many threads at once, spread over a few connections."""
    clients = [Client(server.target) for _ in range(connections)]
    try:
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            return list(pool.map(lambda n: tasks(clients[n % connections], n), range(200)))
    finally:
        for each in clients:
            each.channel.close()


def test_a_race_for_50_units_sells_50(client, server):
    sku = client.item(50)

    def buy(buyer, _):
        try:
            return buyer.reserve(line(sku)).reservation_id
        except grpc.RpcError as error:
            assert error.code() == StatusCode.FAILED_PRECONDITION
            return None

    won = [each for each in race(server, buy) if each]
    assert len(won) == len(set(won)) == 50
    level = client.level(sku)
    assert (level.held, level.available, level.version) == (50, 0, 51)


def test_duplicates_in_flight_get_one_answer(client, server):
    sku, key = client.item(1000), fresh("key")
    answers = race(server, lambda each, _: each.reserve(line(sku, 7), key=key))
    assert len({answer.reservation_id for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert client.level(sku).held == 7


def test_carts_in_opposite_order_do_not_deadlock(client, server):
    left, right = client.item(60), client.item(100)

    def buy(buyer, number):
        cart = [line(left), line(right)]
        try:
            return bool(buyer.reserve(*(cart if number % 2 else reversed(cart))))
        except grpc.RpcError as error:
            assert error.code() in (StatusCode.FAILED_PRECONDITION, StatusCode.ABORTED)
            return False

    won = sum(race(server, buy))
    assert won == client.level(left).held == client.level(right).held <= 60


def test_every_bad_line_is_named(start, tmp_path):
    """By the first answer and by a replay, also after a restart and with the lines in another order."""
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        for sku, units in [("a", 1), ("b", 9), ("c", 2)]:
            client.adjust(sku, location="Oslo" if sku == "c" else "", set_on_hand=units)
        short = [line("a", 2), line("b", 9), line("c", 3, "Oslo")]
        unknown = [line("x"), line("b"), line("y", location="Oslo")]
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku="a", bad_lines=2) as first:
            client.reserve(*short, key="short")
        assert first[0].violations == [("INSUFFICIENT_STOCK", "a", "2 requested, 1 available"),
                                       ("INSUFFICIENT_STOCK", "c Oslo", "3 requested, 2 available")]
        with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", sku="x", bad_lines=2) as second:
            client.reserve(*unknown, key="unknown")
        assert second[0].violations == [("ITEM_NOT_FOUND", "x", "unknown item"),
                                        ("ITEM_NOT_FOUND", "y Oslo", "unknown item")]
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", bad_lines=2) as third:
            client.reserve(line("a", 0), line("b"), line("no good"))
        assert third[0].fields == ["lines[0].quantity", "lines[2].sku"]
        client.adjust("a", set_on_hand=50)
    server.stop()
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", replayed="true") as again:
            client.reserve(*reversed(short), key="short")
        assert again[0].violations == first[0].violations
        with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", replayed="true", sku="x") as again:
            client.reserve(*reversed(unknown), key="unknown")
        assert sorted(again[0].violations) == sorted(second[0].violations)


def test_refusals_that_come_again_are_read_by_clients_as_the_first(client):
    """They are short then, by entries in the client's table of header fields, which has room for few of them."""
    skus = [client.item(0) for _ in range(12)]
    order = random.Random(7)
    for number in range(400):
        # A few at a time, then others; now and then a call that is accepted, with its own entries.
        sku = skus[(number // 50 + order.randrange(3)) % len(skus)]
        quantity = order.choice([1, 1, 1, 2])
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK",
                     sku=sku, requested=quantity, available=0) as seen:
            client.reserve(line(sku, quantity))
        assert seen[0].violations == [("INSUFFICIENT_STOCK", sku, f"{quantity} requested, 0 available")]
        if number % 20 == 0:
            assert client.level(sku).available == 0
