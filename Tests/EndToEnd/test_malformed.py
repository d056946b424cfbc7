"""Malformed fields: INVALID_ARGUMENT, a BadRequest that names the field, and nothing is changed."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from client import Client, fresh, line, refused
from holdfast.v1 import reservation_pb2, stock_pb2

MOST = 2**40
BAD_NAMES = {
    "65 bytes": "x" * 65, "space": "two words", "leading space": " a", "newline": "a\n",
    "NUL inside": "a\0b", "DEL": "a\x7f", "not ASCII": "größe",
}
HOURS_25 = Duration(seconds=25 * 3600)


def bad_reserves():
    """(what is wrong, fields of a ReserveRequest, the field that must be named)"""
    good = [line("sku-a", 1)]
    yield "no key", dict(idempotency_key="", lines=good), "idempotency_key"
    yield "key of 65 bytes", dict(idempotency_key="k" * 65, lines=good), "idempotency_key"
    yield "key of 65 bytes in 33 characters", dict(idempotency_key="ü" * 32 + "k", lines=good), "idempotency_key"
    yield "no lines", dict(lines=[]), "lines"
    yield "65 lines", dict(lines=[line(f"sku-{n}") for n in range(65)]), "lines"
    yield "empty sku", dict(lines=[line("")]), "lines[0].sku"
    for what, name in BAD_NAMES.items():
        yield f"sku: {what}", dict(lines=[line(name)]), "lines[0].sku"
        yield f"location: {what}", dict(lines=[line("sku-a", 1, name)]), "lines[0].location"
    for quantity in (0, -1, MOST + 1, 2**63 - 1, -(2**63)):
        yield f"quantity {quantity}", dict(lines=[line("sku-a", quantity)]), "lines[0].quantity"
    yield "second line", dict(lines=[*good, line("sku-b", 0)]), "lines[1].quantity"
    for what, ttl in {
        "half a second": Duration(nanos=500_000_000), "zero": Duration(), "25 hours": HOURS_25,
        "24 hours and 1 ns": Duration(seconds=24 * 3600, nanos=1), "negative": Duration(seconds=-1),
        "negative nanos": Duration(seconds=5, nanos=-1), "nanos past the second": Duration(seconds=5, nanos=10**9),
        "most seconds": Duration(seconds=2**63 - 1), "fewest": Duration(seconds=-(2**63), nanos=-(2**31)),
    }.items():
        yield f"ttl: {what}", dict(lines=good, ttl=ttl), "ttl"


@pytest.mark.parametrize("fields, field", [
    pytest.param(fields, field, id=what) for what, fields, field in bad_reserves()])
def test_reserve(client, fields, field):
    request = reservation_pb2.ReserveRequest(**{"idempotency_key": fresh("key"), **fields})
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.reservations.Reserve(request, **client.call)
    assert seen[0].fields == [field]


@pytest.mark.parametrize("ttl", [Duration(seconds=1), Duration(seconds=24 * 3600),
                                 Duration(seconds=1, nanos=999_999_999)], ids=str)
def test_the_edges_of_ttl_are_good(client, ttl):
    request = reservation_pb2.ReserveRequest(
        idempotency_key="k" * 20 + fresh(), lines=[line(client.item(1))], ttl=ttl)
    client.reservations.Reserve(request, **client.call)


def test_the_edges_of_names_are_good(client):
    sku, location = fresh().ljust(64, "~"), "!" * 64
    client.adjust(sku, location=location, set_on_hand=1, key=fresh("ü").ljust(63, "k"), reason="r" * 256)
    client.reserve(line(sku, 1, location), key=fresh("\t\0").ljust(64, "k"))


def bad_adjustments():
    """(what is wrong, fields of an AdjustStockRequest, the field that must be named)"""
    yield "no key", dict(idempotency_key=""), "idempotency_key"
    yield "empty sku", dict(sku=""), "sku"
    for what, name in BAD_NAMES.items():
        yield f"sku: {what}", dict(sku=name), "sku"
        yield f"location: {what}", dict(location=name), "location"
    for delta in (MOST + 1, -MOST - 1, 2**63 - 1, -(2**63)):
        yield f"delta {delta}", dict(delta=delta), "delta"
    for units in (-1, MOST + 1, 2**63 - 1):
        yield f"set_on_hand {units}", dict(set_on_hand=units), "set_on_hand"
        yield f"expected_on_hand {units}", dict(any_version=None, expected_on_hand=units), "expected_on_hand"
    for units in (0, -1, MOST + 1, 2**63 - 1):
        yield f"ship {units}", dict(delta=None, ship=units), "ship"
        yield f"uncommit {units}", dict(delta=None, uncommit=units), "uncommit"
    for units in (-MOST - 1, MOST + 1, 2**63 - 1):
        yield f"set_safety_stock {units}", dict(set_safety_stock=units), "set_safety_stock"
    yield "no change", dict(delta=None), "change"
    yield "no version check", dict(any_version=None), "version_check"
    yield "any_version is false", dict(any_version=False), "any_version"
    yield "no reason", dict(reason=""), "reason"
    yield "reason of 257 bytes", dict(reason="r" * 257), "reason"


@pytest.mark.parametrize("fields, field", [
    pytest.param(fields, field, id=what) for what, fields, field in bad_adjustments()])
def test_adjust_stock(client, fields, field):
    good = dict(idempotency_key=fresh("key"), sku=fresh(), delta=1, any_version=True, reason="test")
    if "set_on_hand" in fields:
        del good["delta"]
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.stock.AdjustStock(stock_pb2.AdjustStockRequest(**good | fields), **client.call)
    assert seen[0].fields == [field]


@pytest.mark.parametrize("fields, field", [
    (dict(sku=""), "sku"), (dict(sku="x" * 65), "sku"), (dict(sku="a", location="a b"), "location")])
def test_get_stock(client, fields, field):
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.stock.GetStock(stock_pb2.GetStockRequest(**fields), **client.call)
    assert seen[0].fields == [field]


@pytest.mark.parametrize("lines, field", [
    ([line("a")] * 65, "lines"), ([line("", 1)], "lines[0].sku"), ([line("a", 0)], "lines[0].quantity"),
    ([line("a", 1), line("a", 1, "b c")], "lines[1].location")])
def test_confirm(client, lines, field):
    reservation_id = client.reserve(line(client.item(1))).reservation_id
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.confirm(reservation_id, *lines)
    assert seen[0].fields == [field]


@pytest.mark.parametrize("ttl", [0.5, -1, 25 * 3600, 0])
def test_extend(client, ttl):
    reservation_id = client.reserve(line(client.item(1))).reservation_id
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        client.extend(reservation_id, ttl=ttl)
    assert seen[0].fields == ["ttl"]


def test_caller(server):
    with Client(server.target, caller="x" * 65) as client:
        with refused(StatusCode.INVALID_ARGUMENT) as seen:
            client.level("sku-a")
        assert "holdfast-caller" in seen[0].message


# Bytes that no protobuf library would send.

METHODS = [f"/holdfast.v1.{method}" for method in (
    "ReservationService/Reserve", "ReservationService/Confirm", "ReservationService/Release",
    "ReservationService/Extend", "ReservationService/GetReservation",
    "ReservationService/ListReservations", "StockService/AdjustStock", "StockService/GetStock",
    "StockService/BatchGetStock", "StockService/ListStock")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("message", [
    pytest.param(b"\xff" * 40, id="not protobuf"),
    pytest.param(b"\x0a\x7fshort", id="a length past the end"),
    pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="a length of 2^64 - 1"),
    pytest.param(b"\x0a", id="a tag without its value"),
    pytest.param(b"\x0b" * 64, id="groups")])
def test_malformed_protobuf(client, method, message):
    call = client.channel.unary_unary(method, lambda sent: sent, lambda received: received)
    with refused(StatusCode.INVALID_ARGUMENT):
        call(message, **client.call)


def test_a_key_that_is_not_utf8(client):
    good = reservation_pb2.ReserveRequest(
        idempotency_key="key!", lines=[line(client.item(1))]).SerializeToString()
    call = client.channel.unary_unary(METHODS[0], lambda sent: sent, lambda received: received)
    with refused(StatusCode.INVALID_ARGUMENT) as seen:
        call(good.replace(b"key!", b"ke\xc3("), **client.call)
    assert seen[0].fields == ["idempotency_key"]


LATER_FIELD = b"\xca\x3e\x05later"  # field 1001, as a newer client might send


def test_a_change_with_unknown_fields_is_refused_and_not_recorded(client):
    request = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(client.item(1))])
    later_line = request.lines[0].SerializeToString() + LATER_FIELD
    in_a_line = b"\x12" + bytes([len(later_line)]) + later_line
    call = client.channel.unary_unary(
        METHODS[0], lambda sent: sent, reservation_pb2.ReserveResponse.FromString)
    for strange, path in ((LATER_FIELD, ""), (in_a_line, "lines[1]")):
        with refused(StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD", path=path, number=1001) as seen:
            call(request.SerializeToString() + strange, **client.call)
        assert seen[0].fields == [f"{path}.1001".lstrip(".")]
    assert not call(request.SerializeToString(), **client.call).replayed


def test_a_read_passes_unknown_fields_over(client):
    request = stock_pb2.GetStockRequest(sku=client.item(3))
    call = client.channel.unary_unary(METHODS[7], lambda sent: sent, stock_pb2.GetStockResponse.FromString)
    assert call(request.SerializeToString() + LATER_FIELD, **client.call).stock.on_hand == 3


def test_an_empty_message_is_a_message(client):
    call = client.channel.unary_unary(METHODS[-1], lambda sent: sent, lambda received: received)
    assert isinstance(call(b"", **client.call), bytes)


def test_error_messages_survive_the_wire(client):
    """grpc-message is percent-encoded: names with % and non-ASCII bytes come back whole."""
    sku = fresh("100%25")
    with pytest.raises(grpc.RpcError) as caught:
        client.level(sku)
    assert sku in caught.value.details()
