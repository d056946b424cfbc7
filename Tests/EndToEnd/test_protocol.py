"""The gRPC protocol as grpcio speaks it: unknown methods, sizes, compression, deadlines, reflection."""

import grpc
import pytest
from grpc import StatusCode
from grpc_reflection.v1alpha import reflection_pb2

from client import Client, fresh, line, refused
from google.protobuf import descriptor_pb2

LIMIT_BYTES = 80 * 1024
RESERVE = "/holdfast.v1.ReservationService/Reserve"


def raw(client, method):
    return client.channel.unary_unary(method, lambda sent: sent, lambda received: received)


@pytest.mark.parametrize("method", [
    "/holdfast.v1.ReservationService/Steal", "/holdfast.v1.NoService/Reserve", "/holdfast.v1/Reserve",
    "/Reserve", "/holdfast.v1.ReservationService/Reserve/", "/holdfast.v1.ReservationService/reserve"])
def test_unknown_methods(client, method):
    with refused(StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD"):
        raw(client, method)(b"", **client.call)


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 2 * LIMIT_BYTES, 8 << 20])
def test_messages_over_the_limit(client, size):
    with refused(StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"):
        raw(client, RESERVE)(bytes(size), **client.call)
    client.item(1)  # the connection goes on


def test_a_message_at_the_limit_is_read(client):
    """All zero bytes are not protobuf: the refusal shows that the message itself was looked at."""
    with refused(StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"):
        raw(client, RESERVE)(bytes(LIMIT_BYTES), **client.call)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(client, compression):
    """They mean what they mean uncompressed, and so do the answers, which are compressed too."""
    from holdfast.v1 import stock_pb2

    skus = [client.item(number) for number in range(1, 40)]
    items = [stock_pb2.StockItem(sku=sku) for sku in skus]
    request = stock_pb2.BatchGetStockRequest(items=items)
    plain = client.stock.BatchGetStock(request, **client.call)
    packed, call = client.stock.BatchGetStock.with_call(request, compression=compression, **client.call)
    assert packed == plain
    names = {grpc.Compression.Gzip: "gzip", grpc.Compression.Deflate: "deflate"}
    # C-core keeps the field to itself where it has read it.
    assert dict(call.initial_metadata()).get("grpc-encoding") in (None, names[compression])


def test_deadlines(client):
    """A client that gives up gets DEADLINE_EXCEEDED, and its connection goes on."""
    from holdfast.v1 import reservation_pb2

    sku = client.item(10)
    request = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])
    for _ in range(20):
        try:
            client.reservations.Reserve(request, timeout=0.0001)
        except grpc.RpcError as error:
            assert error.code() == StatusCode.DEADLINE_EXCEEDED
    client.reservations.Reserve(request, timeout=10)
    assert client.level(sku).held == 1


def test_many_calls_at_once_on_one_connection(client):
    sku = client.item(10_000)
    from holdfast.v1 import reservation_pb2

    calls = [client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
        idempotency_key=fresh("key"), lines=[line(sku)]), timeout=60) for _ in range(3000)]
    assert len({call.result().reservation_id for call in calls}) == 3000
    assert client.level(sku).held == 3000


# Reflection. v1 and v1alpha differ in the package name alone, so one set of messages serves both.


@pytest.fixture(params=["v1", "v1alpha"])
def reflect(request, client):
    call = client.channel.stream_stream(
        f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString)

    def ask(*requests):
        sent = [reflection_pb2.ServerReflectionRequest(**fields) for fields in requests]
        return list(call(iter(sent), timeout=10))

    return ask


def files_of(response):
    return [descriptor_pb2.FileDescriptorProto.FromString(encoded)
            for encoded in response.file_descriptor_response.file_descriptor_proto]


def test_reflection_lists_services(reflect):
    (answer,) = reflect(dict(list_services="*"))
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"holdfast.v1.ReservationService", "holdfast.v1.StockService", "grpc.health.v1.Health",
                     "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("symbol", [
    "holdfast.v1.ReservationService", "holdfast.v1.ReservationService.Reserve",
    "holdfast.v1.ReserveRequest", "holdfast.v1.ReservationState"])
def test_reflection_finds_symbols(reflect, symbol):
    (answer,) = reflect(dict(file_containing_symbol=symbol))
    assert "holdfast/v1/reservation.proto" in [file.name for file in files_of(answer)]


def test_reflection_answers_every_request_of_a_stream(reflect):
    """As grpcurl does: one stream, several questions, answers in order."""
    answers = reflect(
        dict(list_services=""), dict(file_by_filename="holdfast/v1/stock.proto"),
        dict(file_by_filename="google/protobuf/duration.proto"), dict(file_containing_symbol="no.Such"),
        dict(file_by_filename="no/such.proto"))
    assert len(answers) == 5
    assert files_of(answers[1])[0].name == "holdfast/v1/stock.proto"
    assert files_of(answers[2])[0].name == "google/protobuf/duration.proto"
    for answer in answers[3:]:
        assert answer.error_response.error_code == StatusCode.NOT_FOUND.value[0]


def test_two_clients_do_not_share_streams(server):
    with Client(server.target) as a, Client(server.target) as b:
        sku = a.item(2)
        assert a.reserve(line(sku)).reservation_id != b.reserve(line(sku)).reservation_id
