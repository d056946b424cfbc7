"""Carts that change while they are held, references, and reservations found again."""

import concurrent.futures
import threading

import grpc
import pytest
from grpc import StatusCode
from holdfast.v1 import reservation_pb2

from client import Client, fresh, line, refused
from server import eventually, holdfast
from watching import Watch, kind_name


def quantities(reservation):
    return {part.sku: part.quantity for part in reservation.lines}


def test_a_cart_changes_on_the_last_units(client):
    shirt, socks = client.item(3), client.item(1)
    held = client.reserve(line(shirt, 3))
    answer = client.replace(held.reservation_id, line(shirt, 2), line(socks))
    assert quantities(answer.reservation) == {shirt: 2, socks: 1} and not answer.replayed
    assert answer.reservation.revision == 2
    assert answer.reservation.state == reservation_pb2.RESERVATION_STATE_HELD
    assert answer.reservation.expires_at == held.expires_at
    assert (client.level(shirt).available, client.level(socks).available) == (1, 0)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=socks, requested=1, available=0):
        client.replace(held.reservation_id, line(socks, 2), line(shirt, 2))
    assert quantities(client.get(held.reservation_id)) == {shirt: 2, socks: 1}
    client.confirm(held.reservation_id)
    assert (client.level(shirt).on_hand, client.level(socks).on_hand) == (1, 0)


def test_to_another_warehouse(client):
    sku = client.item(5)
    client.adjust(sku, location="south", set_on_hand=5)
    held = client.reserve(line(sku, 5))
    answer = client.replace(held.reservation_id, line(sku, 5, "south"))
    assert [(part.location, part.quantity) for part in answer.reservation.lines] == [("south", 5)]
    assert client.level(sku).available == 5 and client.level(sku, "south").available == 0


def test_a_guest_becomes_a_customer(client):
    sku, guest, customer = client.item(2), fresh("guest"), fresh("customer")
    held = client.reserve(line(sku, 2), reference=guest)
    assert client.get(held.reservation_id).reference == guest
    answer = client.replace(held.reservation_id, line(sku, 2), reference=customer, ttl=1200)
    assert answer.reservation.reference == customer
    assert answer.reservation.expires_at.seconds > held.expires_at.seconds + 500
    assert client.list(reference=guest) == []
    assert [found.reservation_id for found in client.list(reference=customer)] == [held.reservation_id]
    # Without a reference it keeps the one that it has.
    assert client.replace(held.reservation_id, line(sku, 1)).reservation.reference == customer


def test_no_window_for_a_thief_and_never_in_its_own_way(server, client):
    """3 of the last units become 1, then 3 again; thieves get what is given back, and no more."""
    sku = client.item(3)
    held = client.reserve(line(sku, 3))
    done = threading.Event()
    stolen = []

    def steal():
        with Client(server.target) as thief:
            while not done.is_set():
                try:
                    stolen.append(thief.reserve(line(sku)).reservation_id)
                except grpc.RpcError:
                    pass

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        thieves = [pool.submit(steal) for _ in range(4)]
        for _ in range(200):
            # The same units of the same items, in other lines: nothing is given back.
            client.replace(held.reservation_id, line(sku, 2), line(sku))
        assert stolen == []
        client.replace(held.reservation_id, line(sku, 1))
        while len(stolen) < 2: pass
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=2):
            client.replace(held.reservation_id, line(sku, 3))
        done.set()
        for thief in thieves: thief.result()
    assert len(stolen) == 2 and quantities(client.get(held.reservation_id)) == {sku: 1}
    assert client.level(sku).held == 3


def test_of_two_changes_of_one_revision_one_is_made(server, client):
    sku = client.item(100)
    held = client.reserve(line(sku, 1))

    def change(quantity):
        with Client(server.target) as other:
            try:
                return other.replace(held.reservation_id, line(sku, quantity), expected_revision=1)
            except grpc.RpcError as error:
                assert error.code() == StatusCode.ABORTED
                return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = [answer for answer in pool.map(change, range(2, 10)) if answer]
    assert len(made) == 1
    reservation = client.get(held.reservation_id)
    assert reservation == made[0].reservation and reservation.revision == 2
    key = fresh("key")
    for _ in range(2):
        with refused(StatusCode.ABORTED, "REVISION_MISMATCH", current_revision=2) as found:
            client.replace(held.reservation_id, line(sku), expected_revision=1, key=key)
        assert "replayed" not in found[0].info.metadata
    # It was not recorded.
    assert not client.replace(held.reservation_id, line(sku), expected_revision=2, key=key).replayed


@pytest.mark.parametrize("how", ["released", "confirmed", "expired", "unknown"])
def test_what_has_ended_is_not_changed(client, how):
    sku = client.item(5)
    held = client.reserve(line(sku), ttl=1 if how == "expired" else 60).reservation_id
    code, reason = StatusCode.FAILED_PRECONDITION, f"RESERVATION_{how.upper()}"
    match how:
        case "released": client.release(held)
        case "confirmed": client.confirm(held)
        case "expired":
            assert eventually(
                lambda: client.get(held).state == reservation_pb2.RESERVATION_STATE_EXPIRED)
        case _: held, code, reason = "0" * 20, StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"
    with refused(code, reason):
        client.replace(held, line(sku, 2))


def test_each_field_has_its_rule(client):
    sku = client.item(5)
    held = client.reserve(line(sku)).reservation_id
    for fields, request in [
            (["reference"], {"reference": "a b"}), (["reference"], {"reference": "x" * 65}),
            (["ttl"], {"ttl": 0.5}), (["ttl"], {"ttl": 24 * 3600 + 1}), (["idempotency_key"], {"key": ""})]:
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as found:
            client.replace(held, line(sku), **request)
        assert found[0].fields == fields
    for lines in [(), [line(sku)] * 65]:
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            client.replace(held, *lines)
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        client.replace("short", line(sku))
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND") as found:
        client.replace(held, line(sku), line("no-such-item"))
    assert found[0].info.metadata["sku"] == "no-such-item"
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as found:
        client.reserve(line(sku), reference="ü")
    assert found[0].fields == ["reference"]


def test_a_reservation_by_its_key_makes_none(client):
    sku, key = client.item(2), fresh("key")
    with refused(StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"):
        client.get(key=key)
    assert client.level(sku).held == 0
    held = client.reserve(line(sku, 2), key=key)
    assert client.get(key=key).reservation_id == held.reservation_id
    other = fresh("key")
    for again in [False, True]:
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK",
                     sku=sku, requested=1, available=0) as found:
            client.get(key=other) if again else client.reserve(line(sku), key=other)
        assert ("replayed" in found[0].info.metadata) == again
    client.release(held.reservation_id)
    assert client.get(key=key).state == reservation_pb2.RESERVATION_STATE_RELEASED
    unknown = fresh("key")
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
        client.reserve(line("no-such-item"), key=unknown)
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", replayed="true"):
        client.get(key=unknown)
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        client.get(held.reservation_id, key=key)
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        client.get()


def test_keys_of_other_callers_find_nothing(server):
    key = fresh("key")
    with Client(server.target, caller="shop") as shop, Client(server.target, caller="till") as till:
        held = shop.reserve(line(shop.item(1)), key=key)
        assert shop.get(key=key).reservation_id == held.reservation_id
        with refused(StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"):
            till.get(key=key)


def test_pages_of_one_reference_are_full_or_the_last(client):
    sku, customer = client.item(1000), fresh("customer")
    wanted = []
    for number in range(120):
        held = client.reserve(line(sku), reference=customer if number % 4 == 0 else fresh("other"))
        if number % 4 == 0: wanted.append(held.reservation_id)
    pages, token = [], ""
    while True:
        page = client.page(reference=customer, page_size=7, page_token=token)
        pages.append([found.reservation_id for found in page.reservations])
        assert all(found.reference == customer for found in page.reservations)
        token = page.next_page_token
        if not token: break
    assert [len(page) for page in pages] == [7, 7, 7, 7, 2]
    assert sorted(sum(pages, [])) == sorted(wanted)
    first = client.page(reference=customer, page_size=7).next_page_token
    for others in [{}, {"reference": customer + "x"}, {"reference": customer, "state": 1}]:
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            client.page(page_token=first, **others)


def test_the_feed_tells_of_references_and_other_lines(client):
    first, second, order = client.item(5), client.item(5), fresh("order")
    with Watch(client, reference_prefix=order[:-3]) as watch:
        watch.begun()
        client.reserve(line(first))
        held = client.reserve(line(first, 2), line(second, 1), reference=order).reservation_id
        client.replace(held, line(first, 2), line(second, 3))
        client.replace(held, line(first, 1))
        client.extend(held, 1200)
        client.confirm(held)
        events = watch.wait_for_events(5)
    assert [kind_name(event) for event in events] == ["HELD", "REPLACED", "REPLACED", "EXTENDED", "CONFIRMED"]
    assert {event.reference for event in events} == {order}
    assert {event.reservation_id for event in events} == {held}
    assert [quantities(event) for event in events] == [
        {first: 2, second: 1}, {first: 2, second: 3}, {first: 1}, {}, {first: 1}]
    # What is kept as it is has no balances: its version is what it was.
    assert [{level.sku: level.held for level in event.stock} for event in events] == [
        {first: 3, second: 1}, {second: 3}, {first: 2, second: 0}, {}, {first: 1}]
    assert events[1].expires_at.seconds > 0 and events[1].idempotency_key


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_replays_over_a_restart(binary, start, tmp_path, end):
    data = tmp_path / "data"
    server = start(data=data)
    keys = [fresh("key") for _ in range(5)]
    with Client(server.target) as client:
        first, second = client.item(10), client.item(10)
        held = client.reserve(line(first, 3), key=keys[0], reference="cart").reservation_id
        answer = client.replace(held, line(second, 4), line(first, 1), key=keys[1], reference="order", ttl=3000)
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=8, available=6):
            client.replace(held, line(second, 12), key=keys[2])
        client.replace(held, line(first, 2), key=keys[3])
        client.extend(held, 5000)
        known = client.get(held)
        assert known.revision == 4
    for opening in range(3):
        server.stop() if end == "stop" else server.kill()
        verified = holdfast(binary, "verify", data)
        assert verified.returncode == 0, verified.stderr
        # The second with another retention, so that what is read is a checkpoint.
        flags = ["--retention", f"{40 + opening}h"] if opening else []
        server = start(*flags, data=data)
        with Client(server.target) as client:
            again = client.replace(
                held, line(first, 1), line(second, 4), key=keys[1], reference="order", ttl=3000)
            assert again.replayed
            assert (quantities(again.reservation), again.reservation.revision) == (
                quantities(answer.reservation), 2)
            assert again.reservation.reference == "order"
            assert again.reservation.expires_at == answer.reservation.expires_at
            assert again.reservation.created_at == answer.reservation.created_at
            with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=8, available=6,
                         replayed="true"):
                client.replace(held, line(second, 12), key=keys[2])
            assert client.get(held) == known and client.get(key=keys[0]) == known
            assert [found.reservation_id for found in client.list(reference="order")] == [held]
            assert (client.level(first).held, client.level(second).held) == (2, 0)
    with Client(server.target) as client:
        assert client.confirm(held).reservation.reference == "order"
        with refused(StatusCode.FAILED_PRECONDITION, "RESERVATION_CONFIRMED"):
            client.replace(held, line(first, 2), key=keys[4])


def test_own_holds_only(binary, start, tmp_path):
    tokens = tmp_path / "tokens"
    secrets = {}
    for caller, *flags in [("shop", "--own-holds-only"), ("till", "--own-holds-only"), ("reader",)]:
        role = "read" if caller == "reader" else "reserve"
        made = holdfast(binary, "token", "create", "--caller", caller, "--role", role, "--file", tokens, *flags)
        assert made.returncode == 0, made.stderr
        secrets[caller] = made.stdout.strip()
    made = holdfast(binary, "token", "create", "--caller", "office", "--role", "stock", "--file", tokens)
    server = start("--tokens", str(tokens), data=tmp_path / "data")
    with Client(server.target, token=made.stdout.strip()) as office, \
            Client(server.target, token=secrets["shop"]) as shop, \
            Client(server.target, token=secrets["till"]) as till, \
            Client(server.target, token=secrets["reader"]) as reader:
        sku = office.item(5)
        held = shop.reserve(line(sku)).reservation_id
        with refused(StatusCode.PERMISSION_DENIED, "NOT_OWN_HOLD"):
            till.replace(held, line(sku, 2))
        with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED", role="reserve"):
            reader.replace(held, line(sku, 2))
        assert shop.replace(held, line(sku, 2)).reservation.revision == 2
