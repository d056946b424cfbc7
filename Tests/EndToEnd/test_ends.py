"""Confirm, Release, Extend, GetReservation, ListReservations: a hold ends once."""

import pytest
from grpc import StatusCode

from client import line, refused
from holdfast.v1 import reservation_pb2 as api
from server import eventually

HELD, CONFIRMED = api.RESERVATION_STATE_HELD, api.RESERVATION_STATE_CONFIRMED
RELEASED, EXPIRED = api.RESERVATION_STATE_RELEASED, api.RESERVATION_STATE_EXPIRED
UNKNOWN_ID = "00000000000000000000"


def balances(client, sku):
    level = client.level(sku)
    return level.on_hand, level.held


def expired(client, *lines):
    """The id of a reservation that has just expired."""
    reservation_id = client.reserve(*lines, ttl=1).reservation_id
    eventually(lambda: client.get(reservation_id).state == EXPIRED, seconds=5)
    return reservation_id


def quantities(reservation):
    return {part.sku: part.quantity for part in reservation.lines}


def test_confirm_sells(client):
    sku = client.item(10)
    held = client.reserve(line(sku, 3))
    answer = client.confirm(held.reservation_id)
    assert not answer.replayed
    assert answer.reservation.state == CONFIRMED and quantities(answer.reservation) == {sku: 3}
    assert answer.reservation.reservation_id == held.reservation_id
    assert answer.reservation.HasField("ended_at")
    assert balances(client, sku) == (7, 0)
    again = client.confirm(held.reservation_id)
    assert again.replayed and again.reservation == answer.reservation
    assert balances(client, sku) == (7, 0)


def test_release_gives_back(client):
    sku = client.item(10)
    held = client.reserve(line(sku, 3))
    answer = client.release(held.reservation_id)
    assert not answer.replayed and answer.reservation.state == RELEASED
    assert quantities(answer.reservation) == {sku: 3}
    again = client.release(held.reservation_id)
    assert again.replayed and again.reservation == answer.reservation
    assert balances(client, sku) == (10, 0)


def test_confirm_in_part_gives_the_rest_back(client):
    shirt, shoe = client.item(10), client.item(10)
    held = client.reserve(line(shirt, 4), line(shoe, 2))
    answer = client.confirm(held.reservation_id, line(shirt, 3))
    assert quantities(answer.reservation) == {shirt: 3}
    assert balances(client, shirt) == (7, 0) and balances(client, shoe) == (10, 0)
    assert client.confirm(held.reservation_id, line(shirt, 3)).replayed
    with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_CONFIRMED"):
        client.confirm(held.reservation_id, line(shirt, 2))
    with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_CONFIRMED"):
        client.confirm(held.reservation_id)  # everything is not what was sold


def test_lines_of_a_partial_confirm_are_summed(client):
    sku = client.item(10)
    held = client.reserve(line(sku, 4))
    answer = client.confirm(held.reservation_id, line(sku, 1), line(sku, 2))
    assert quantities(answer.reservation) == {sku: 3}
    assert balances(client, sku) == (7, 0)


def test_confirming_more_than_is_held_is_an_error(client):
    sku, other = client.item(10), client.item(10)
    held = client.reserve(line(sku, 4))
    for lines in ([line(sku, 5)], [line(sku, 3), line(sku, 2)], [line(other, 1)]):
        with refused(StatusCode.INVALID_ARGUMENT) as seen:
            client.confirm(held.reservation_id, *lines)
        assert seen[0].fields, f"no field is named: {seen[0].message}"
    assert balances(client, sku) == (10, 4)
    client.confirm(held.reservation_id)


def test_confirm_after_expiry(client):
    sku = client.item(5)
    reservation_id = expired(client, line(sku, 3))
    with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_EXPIRED"):
        client.confirm(reservation_id)
    assert balances(client, sku) == (5, 0)


def test_confirm_after_expiry_takes_the_units_again(client):
    sku = client.item(5)
    reservation_id = expired(client, line(sku, 3))
    answer = client.confirm(reservation_id, reacquire=True)
    assert answer.reservation.state == CONFIRMED
    assert balances(client, sku) == (2, 0)
    assert client.confirm(reservation_id, reacquire=True).replayed
    assert client.confirm(reservation_id).replayed


def test_confirm_after_expiry_when_the_units_are_gone(client):
    sku = client.item(5)
    reservation_id = expired(client, line(sku, 3))
    client.reserve(line(sku, 3))
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=sku, requested=3, available=2):
        client.confirm(reservation_id, reacquire=True)
    assert client.get(reservation_id).state == EXPIRED
    assert balances(client, sku) == (5, 3)


@pytest.mark.parametrize("end, calls", [
    ("confirm", {"release": "RESERVATION_CONFIRMED", "extend": "RESERVATION_CONFIRMED"}),
    ("release", {"confirm": "RESERVATION_RELEASED", "extend": "RESERVATION_RELEASED"}),
    ("expiry", {"confirm": "RESERVATION_EXPIRED", "release": "RESERVATION_EXPIRED",
                "extend": "RESERVATION_EXPIRED"}),
])
def test_a_hold_that_ended_otherwise(client, end, calls):
    sku = client.item(5)
    if end == "expiry":
        reservation_id = expired(client, line(sku))
    else:
        reservation_id = client.reserve(line(sku)).reservation_id
        getattr(client, end)(reservation_id)
    before = client.level(sku)
    for call, reason in calls.items():
        with refused(StatusCode.FAILED_PRECONDITION, reason):
            getattr(client, call)(reservation_id)
    assert client.level(sku) == before


@pytest.mark.parametrize("call", ["confirm", "release", "extend", "get"])
def test_unknown_reservation(client, call):
    with refused(StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"):
        getattr(client, call)(UNKNOWN_ID)


@pytest.mark.parametrize("call", ["confirm", "release", "extend", "get"])
@pytest.mark.parametrize("reservation_id", ["", "short", "0" * 21, "z" * 20, "0" * 19 + " "])
def test_malformed_reservation_id(client, call, reservation_id):
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        getattr(client, call)(reservation_id)
    assert seen[0].fields == ["reservation_id"]


# Extend.


def test_extend_counts_from_now(client):
    held = client.reserve(line(client.item(1)), ttl=10)
    answer = client.extend(held.reservation_id, ttl=100)
    assert answer.reservation.state == HELD and not answer.replayed
    assert 85 < answer.reservation.expires_at.seconds - held.expires_at.seconds < 95
    assert client.get(held.reservation_id).expires_at == answer.reservation.expires_at


def test_extend_without_ttl_means_the_default(client):
    held = client.reserve(line(client.item(1)), ttl=10)
    answer = client.extend(held.reservation_id)
    assert 585 < answer.reservation.expires_at.seconds - held.expires_at.seconds < 595


def test_extend_keeps_the_hold_past_its_first_end(client):
    sku = client.item(1)
    held = client.reserve(line(sku), ttl=1)
    client.extend(held.reservation_id, ttl=30)
    other = client.reserve(line(client.item(1)), ttl=1).reservation_id
    eventually(lambda: client.get(other).state == EXPIRED, seconds=5)
    assert client.get(held.reservation_id).state == HELD
    assert balances(client, sku) == (1, 1)


def test_extend_may_shorten(client):
    sku = client.item(1)
    held = client.reserve(line(sku), ttl=600)
    client.extend(held.reservation_id, ttl=900)
    late = client.extend(held.reservation_id, ttl=1)
    assert late.replayed and late.reservation == client.get(held.reservation_id)
    assert not client.extend(held.reservation_id, ttl=1, may_shorten=True).replayed
    eventually(lambda: client.level(sku).held == 0, seconds=5)


# Reads.


def test_get_reservation(client):
    shirt, shoe = client.item(10), client.item(10)
    held = client.reserve(line(shirt, 2), line(shoe, 1), ttl=60)
    reservation = client.get(held.reservation_id)
    assert reservation.state == HELD and quantities(reservation) == {shirt: 2, shoe: 1}
    assert reservation.expires_at == held.expires_at
    lived = reservation.expires_at.ToNanoseconds() - reservation.created_at.ToNanoseconds()
    assert lived == 60 * 10**9
    assert not reservation.HasField("ended_at")


def list_all(client, **fields):
    token, found = "", []
    while True:
        page = client.reservations.ListReservations(
            api.ListReservationsRequest(page_token=token, **fields), **client.call)
        assert len(page.reservations) <= (fields.get("page_size") or 100)
        found += page.reservations
        token = page.next_page_token
        if not token:
            return found


def test_list_reservations(client):
    sku = client.item(100)
    ids = [client.reserve(line(sku)).reservation_id for _ in range(20)]
    client.confirm(ids[0])
    client.release(ids[1])
    for page_size in (0, 1, 7, 500, 501):
        listed = [each.reservation_id for each in list_all(client, page_size=page_size)]
        assert set(ids) <= set(listed) and len(listed) == len(set(listed))
    for state, expected in ((HELD, ids[2:]), (CONFIRMED, ids[:1]), (RELEASED, ids[1:2])):
        listed = list_all(client, state=state)
        assert {each.state for each in listed} == {state}
        assert set(expected) == set(ids) & {each.reservation_id for each in listed}
        by_id = {each.reservation_id: each for each in listed}
        assert by_id[expected[0]] == client.get(expected[0])


@pytest.mark.parametrize("fields, named", [
    (dict(page_size=-1), "page_size"), (dict(page_token="0" * 32), "page_token"),
    (dict(page_token="nonsense"), "page_token"), (dict(page_token="!" * 300), "page_token"),
    (dict(state=99), "state"),
])
def test_malformed_list_reservations(client, fields, named):
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.reservations.ListReservations(api.ListReservationsRequest(**fields), **client.call)
    assert seen[0].fields == [named]
