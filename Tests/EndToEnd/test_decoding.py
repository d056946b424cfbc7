"""Requests beside Python's protobuf: whatever the bytes, the server reads them as it does.

Each message is made at random, field by field, with what the wire format leaves open: order, repetition,
submessages in parts, long forms, groups and other unknown fields; some are damaged. Python reads it and
writes it again in the usual form. Both forms are sent, and must mean the same to the server.
"""

import random
import uuid

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc import StatusCode
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, Refusal, line

MESSAGES = 150
ROUTE = "/holdfast.v1."


def varint(value, rng=None, most=10):
    """A varint; with a generator, now and then longer than it need be, up to `most` bytes."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    if rng and rng.random() < 0.1 and len(out) < most:
        out[-1] |= 128
        out += b"\x80" * rng.randrange(most - len(out)) + b"\0"
    return bytes(out)


def tag(number, wire_type, rng=None):
    return varint(number << 3 | wire_type, rng, most=5)


class Maker:
    """Makes the bytes of a request from a table: {field number: how to make its value}."""

    def __init__(self, rng):
        self.rng = rng

    def field(self, number, make):
        value = make() if callable(make) else self.rng.choice(make)
        if isinstance(value, int):
            return tag(number, 0, self.rng) + varint(value, self.rng)
        value = value.encode() if isinstance(value, str) else value
        return tag(number, 2, self.rng) + varint(len(value), self.rng, most=5) + value

    def message(self, table, unknown=0.05):
        parts = []
        for number, make in table.items():
            times = self.rng.choices((0, 1, 2), (1, 16, 2))[0]
            parts += [self.field(number, make) for _ in range(times)]
        if self.rng.random() < unknown:
            parts.append(self.unknown())
        self.rng.shuffle(parts)
        return b"".join(parts)

    def unknown(self, depth=0):
        number = self.rng.choice((1, 2, 3, 15, 16, 1001, 2**29 - 1))
        kind = self.rng.randrange(5 if depth < 4 else 4)
        if kind == 4:
            inner = b"".join(self.unknown(depth + 1) for _ in range(self.rng.randrange(4)))
            return tag(number, 3) + inner + tag(number, 4)
        return tag(number, (0, 1, 2, 5)[kind]) + (b"\x05", b"8 bytes.", b"\x02ab", b"four")[kind]

    def damage(self, message):
        message = bytearray(message)
        at = self.rng.randrange(len(message) + 1)
        match self.rng.randrange(4):
            case 0: del message[at:]
            case 1: message[at:at] = self.rng.choice((b"\x0b", b"\x0c", b"\x00", b"\xff", b"\x7b\x7c"))
            case 2: message += self.rng.choice((b"\x7b", b"\x7c", b"\x0e\x01", b"\x0a\x7f", b"\x80"))
            case 3 if at < len(message): message[at] ^= 1 << self.rng.randrange(8)
        return bytes(message)


def tables(maker, skus, ids, key):
    """{method: (message class, it changes something, table)}"""
    def ttl():
        return maker.message({1: (1, 60, 600, 2**40, -1), 2: (0, 5, 10**9 - 1, 10**9, -1, 2**32 + 7)}, 0.02)

    def instant():
        return maker.message({1: (0, 1, 2**31, -5, 2**60), 2: (0, 5, 10**9 - 1, 10**9, -1)}, 0.02)

    def sale():
        return maker.message({1: instant, 2: instant, 3: (0, 1)}, 0.02)

    def item():
        return maker.message({1: (*skus, "no such"), 2: ("", "", "x")}, 0.02)

    def a_line():
        return maker.message({1: (*skus, *skus, "no such"), 2: ("", "", "", "x"), 3: (1, 1, 2, 300, 0, -1, 2**41),
                              4: (0, 0, 0, 1, 2, -1)}, 0.02)

    def alternative():
        return maker.message({1: a_line}, 0.02)

    r, s = reservation_pb2, stock_pb2
    page = {1: (0, 1, 2, 600, -1, 2**32 + 1), 2: ("", "", "", "x")}
    return {
        "ReservationService/Reserve": (r.ReserveRequest, True, {1: (key, key, ""), 2: a_line, 3: ttl, 4: ("", "cart", "a b"),
                                                               5: alternative}),
        "ReservationService/Confirm": (r.ConfirmRequest, True, {1: ids, 2: a_line, 3: (0, 1, 2), 4: (0, 1)}),
        "ReservationService/Release": (r.ReleaseRequest, True, {1: ids}),
        "ReservationService/Extend": (r.ExtendRequest, True, {1: ids, 2: ttl, 3: (0, 1)}),
        "ReservationService/Replace": (r.ReplaceRequest, True, {
            1: (key, key, ""), 2: ids, 3: a_line, 4: (0, 0, 1, 2), 5: ttl, 6: ("", "order:1", "a b")}),
        "ReservationService/GetReservation": (r.GetReservationRequest, False, {1: ids}),
        "ReservationService/ListReservations": (r.ListReservationsRequest, False, page | {3: (0, 1, 2, 4, 5, -1)}),
        "StockService/AdjustStock": (s.AdjustStockRequest, True, {
            1: (key, key, ""), 2: skus, 3: ("", "", ""), 4: (1, 2, -1), 5: (100, -1), 6: (1, 2), 7: (1, 1, 1, 0),
            8: (0, 5), 9: ("test", ""), 10: (0, 1), 11: (1, -1), 12: (100, 0, 1), 13: (0, 1),
            14: ("", "", "order:1", "a b"), 15: sale}),
        "StockService/GetStock": (s.GetStockRequest, False, {1: (*skus, "no such"), 2: ("", "", "x")}),
        "StockService/BatchGetStock": (s.BatchGetStockRequest, False, {1: item}),
        "StockService/ListStock": (s.ListStockRequest, False, page),
    }


METHODS = {name: index for index, name in enumerate(tables(None, ("",), ("",), ""))}


def unknown_fields(message):
    """Of the message and of all in it: ("known" where another wire type was expected, or "unknown")."""
    numbers = message.DESCRIPTOR.fields_by_number
    found = {"known" if field.field_number in numbers else "unknown" for field in UnknownFieldSet(message)}
    for descriptor, value in message.ListFields():
        if descriptor.message_type:
            for each in [value] if not descriptor.is_repeated else value:
                found |= unknown_fields(each)
    return found


def outcome(call, message, **options):
    """What came of it, comparable: the response without what tells a replay, or the error."""
    try:
        response = call(message, **options)
    except grpc.RpcError as error:
        refusal = Refusal(error)
        return refusal.code, refusal.info.reason, refusal.message, refusal.fields
    for name in ("replayed", "remaining"):
        if name in response.DESCRIPTOR.fields_by_name:
            response.ClearField(name)
    return response


@pytest.mark.parametrize("method", METHODS)
def test_beside_python(server, method):
    rng = random.Random(METHODS[method])
    maker = Maker(rng)
    seen = {"read": 0, "refused": 0}
    # Names of the same length in every run: then the seed says all of what is sent.
    unique = uuid.uuid4().hex[:12]
    skus = (f"sku-{unique}-a", f"sku-{unique}-b")
    with Client(server.target) as client:
        for sku in skus:
            client.adjust(sku, set_on_hand=1000)
        for number in range(MESSAGES):
            if number % 5 == 0:
                held = client.reserve(line(skus[0], 2), line(skus[1], 2)).reservation_id
            ids = (held, held, held, "0" * 20, "x")
            kind, changes, table = tables(maker, skus, ids, f"key-{unique}-{number:04}")[method]
            sent = maker.message(table)
            if rng.random() < 0.15:
                sent = maker.damage(sent)
            name = method.split("/")[1] + "Response"
            answer = getattr(reservation_pb2 if "Reservation" in method.split("/")[0] else stock_pb2, name)
            call = client.channel.unary_unary(ROUTE + method, lambda bytes_: bytes_, answer.FromString)
            try:
                read = kind.FromString(sent)
            except DecodeError:
                # Also where a text is no UTF-8, which breaks that field's rule.
                seen["refused"] += 1
                assert outcome(call, sent, **client.call)[0] == StatusCode.INVALID_ARGUMENT, sent
                continue
            strange = unknown_fields(read)
            first = outcome(call, sent, **client.call)
            if "known" in strange:
                assert first[:2] in [(StatusCode.INVALID_ARGUMENT, reason) for reason in
                                     ("MALFORMED_MESSAGE", "UNKNOWN_FIELD")], sent
            elif changes and strange:
                assert first[:2] == (StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD"), sent
            else:
                seen["read"] += 1
                read.DiscardUnknownFields()
                again = outcome(call, read.SerializeToString(), **client.call)
                assert normal(again) == normal(first), (sent, read)
    assert seen["read"] > MESSAGES / 3 and seen["refused"] > 3, seen


def normal(result):
    """Without what differs between the two calls: an Extend counts from now, and is counted."""
    if isinstance(result, reservation_pb2.ExtendResponse):
        result.reservation.ClearField("expires_at")
        result.reservation.ClearField("revision")
    return result
