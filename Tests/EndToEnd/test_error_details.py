"""Every error that the server sends has an ErrorInfo, and its reason stands in the .proto files."""

import re

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import http2
from client import Client, Refusal, fresh, line, refused
from conftest import REPOSITORY
from holdfast.v1 import reservation_pb2, stock_pb2
from http2 import Connection, frame, grpc_fields, grpc_message, header_block
from server import eventually

DOCUMENTED = set(re.findall(r"[A-Z][A-Z_]+", "".join(
    path.read_text() for path in (REPOSITORY / "proto/holdfast").rglob("*.proto"))))
RESERVE = "/holdfast.v1.ReservationService/Reserve"
CHAT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
CHECK = "/grpc.health.v1.Health/Check"
GOOD = grpc_message(reservation_pb2.ReserveRequest(
    idempotency_key="key", lines=[line("nothing")]).SerializeToString())
QUESTION = grpc_message(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
UNKNOWN_SERVICE = grpc_message(health_pb2.HealthCheckRequest(service="nobody").SerializeToString())

ERRORS = [  # reason, status, path, changed header fields, body
    ("UNKNOWN_METHOD", StatusCode.UNIMPLEMENTED, "/no.Such/Method", {}, GOOD),
    ("COMPRESSION_UNSUPPORTED", StatusCode.UNIMPLEMENTED, RESERVE, {"grpc_encoding": "snappy"}, GOOD),
    ("NOT_GRPC", StatusCode.UNKNOWN, RESERVE, {"content_type": "text/html"}, GOOD),
    ("NOT_GRPC", StatusCode.UNKNOWN, RESERVE, {":method": "GET"}, b""),
    ("METADATA_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED, RESERVE, {f"x-{n}": "v" * 1900 for n in range(9)}, None),
    ("MALFORMED_TIMEOUT", StatusCode.INTERNAL, RESERVE, {"grpc_timeout": "soon"}, GOOD),
    ("DEADLINE_EXCEEDED", StatusCode.DEADLINE_EXCEEDED, RESERVE, {"grpc_timeout": "0n"}, GOOD),
    ("REQUEST_TIMEOUT", StatusCode.DEADLINE_EXCEEDED, RESERVE, {"grpc_timeout": "50m"}, GOOD[:-1]),
    ("MESSAGE_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED, RESERVE, {}, b"\0\x7f\0\0\0" + bytes(100)),
    ("MALFORMED_FRAMING", StatusCode.INTERNAL, RESERVE, {}, b""),
    ("MALFORMED_FRAMING", StatusCode.INTERNAL, RESERVE, {}, GOOD[:-1]),
    ("MALFORMED_FRAMING", StatusCode.INTERNAL, RESERVE, {}, b"\1" + GOOD[1:]),
    ("MALFORMED_FRAMING", StatusCode.INTERNAL, RESERVE, {}, b"\7" + GOOD[1:]),
    ("MALFORMED_FRAMING", StatusCode.UNIMPLEMENTED, RESERVE, {}, GOOD * 2),
    ("MALFORMED_MESSAGE", StatusCode.INVALID_ARGUMENT, RESERVE, {}, grpc_message(b"\xff")),
    ("UNKNOWN_FIELD", StatusCode.INVALID_ARGUMENT, RESERVE, {}, grpc_message(GOOD[5:] + b"\x78\1")),
    ("INVALID_FIELD", StatusCode.INVALID_ARGUMENT, RESERVE, {}, grpc_message(b"")),
    ("INVALID_FIELD", StatusCode.INVALID_ARGUMENT, RESERVE, {"holdfast_caller": "a b"}, GOOD),
    ("ITEM_NOT_FOUND", StatusCode.NOT_FOUND, RESERVE, {}, GOOD),
    ("UNKNOWN_SERVICE", StatusCode.NOT_FOUND, CHECK, {}, UNKNOWN_SERVICE),
    ("MALFORMED_MESSAGE", StatusCode.INVALID_ARGUMENT, CHECK, {}, grpc_message(b"\xff")),
    # Streams: before the first answer, and after it, in the trailers.
    ("MALFORMED_MESSAGE", StatusCode.INVALID_ARGUMENT, CHAT, {}, grpc_message(b"\xff")),
    ("MALFORMED_MESSAGE", StatusCode.INVALID_ARGUMENT, CHAT, {}, QUESTION + grpc_message(b"\xff")),
    ("MALFORMED_FRAMING", StatusCode.INTERNAL, CHAT, {}, QUESTION + b"\0\0"),
    ("MALFORMED_FRAMING", StatusCode.INTERNAL, CHAT, {}, QUESTION + b"\7" + QUESTION[1:]),
    ("MESSAGE_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED, CHAT, {}, QUESTION + b"\0\x7f\0\0\0"),
    ("INVALID_FIELD", StatusCode.INVALID_ARGUMENT, CHAT, {"holdfast_caller": "a b"}, QUESTION),
]


@pytest.mark.parametrize("reason, status, path, changed, body", ERRORS,
                         ids=[f"{number}-{error[0]}" for number, error in enumerate(ERRORS)])
def test_every_error_says_why(server, reason, status, path, changed, body):
    with Connection(server) as connection:
        block = header_block(grpc_fields(path, **changed))
        if len(block) > 16384:  # of more than one frame
            connection.send(frame(http2.HEADERS, http2.END_STREAM, 1, block[:16384])
                            + frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[16384:]))
        else:
            # An unfinished request is what passes its deadline.
            ends = 0 if reason == "REQUEST_TIMEOUT" else http2.END_STREAM
            connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, block))
            if reason == "DEADLINE_EXCEEDED":  # in a turn of its own
                connection.call(3, CHECK, b"")
            connection.send(frame(http2.DATA, ends, 1, body))
        response = connection.response(1)
        assert response.grpc_status == status.value[0]
        refusal = Refusal.of(response)
        assert refusal.info.domain == "holdfast" and refusal.info.reason == reason
        assert reason in DOCUMENTED
        assert response.header("grpc-retry-pushback-ms") is None and refusal.retry is None
        assert len(response.headers) == (2 if response.body else 1)


def test_the_longest_batch_fits(client):
    names = [stock_pb2.StockItem(sku=f"{n:064}", location="x" * 64) for n in range(500)]
    request = stock_pb2.BatchGetStockRequest(items=names)
    assert request.ByteSize() > 64 * 1024
    answer = client.stock.BatchGetStock(request, **client.call)
    assert len(answer.not_found) == 500


def test_the_longest_names_leave_room_for_the_reason(client):
    """Details have to fit what clients take of trailers: 8 KiB at most of them."""
    names = [(f"{fresh():~<64}", "x" * 64) for _ in range(64)]
    for sku, location in names:
        client.adjust(sku, location=location, set_on_hand=1)
    for lines, code, reason in (
            ([line(sku, 2**40, location) for sku, location in names], StatusCode.FAILED_PRECONDITION,
             "INSUFFICIENT_STOCK"),
            ([line(sku, 1, "y" * 64) for sku, _ in names], StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"),
            ([line("\N{SNOWMAN}" * 64, 0, location) for _, location in names], StatusCode.INVALID_ARGUMENT,
             "INVALID_FIELD")):
        with pytest.raises(grpc.RpcError) as caught:
            client.reserve(*lines)
        refusal = Refusal(caught.value)
        assert refusal.code == code and refusal.info is not None, refusal.message
        assert refusal.info.reason == reason
        size = sum(len(name) + len(value) + 32 for name, value in caught.value.trailing_metadata())
        assert size < 8 * 1024


def test_watches_that_a_shutdown_ends_say_so(start):
    server = start()
    with Client(server.target) as client:
        watch = client.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.terminate()
        with refused(StatusCode.UNAVAILABLE, "SHUTTING_DOWN") as seen:
            list(watch)
        assert seen[0].retry.retry_delay.ToNanoseconds() == 250_000_000
        assert dict(watch.trailing_metadata())["grpc-retry-pushback-ms"] == "250"
    eventually(lambda: not server.is_alive())


def test_page_tokens_survive_a_restart_and_no_other_server(start, tmp_path):
    def page(client, token=""):
        return client.stock.ListStock(
            stock_pb2.ListStockRequest(page_size=1, page_token=token), **client.call)

    first = start(data=tmp_path / "data")
    with Client(first.target) as client:
        made = [client.item(1) for _ in range(3)]
        token = page(client).next_page_token
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
            client.reservations.ListReservations(
                reservation_pb2.ListReservationsRequest(page_token=token), **client.call)
        assert seen[0].fields == ["page_token"]
    first.kill()
    with Client(start(data=tmp_path / "data").target) as client:
        assert page(client, token).stock[0].sku == made[1]
    with Client(start(data=tmp_path / "other").target) as client:
        for _ in range(3):
            client.item(1)
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            page(client, token)
