"""BatchReserve and ReserveStream: many reserves in a message, each as if it had come alone."""

import contextlib
import itertools
import queue
import threading
import time

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from holdfast.v1 import reservation_pb2

from client import Client, Refusal, fresh, line
from server import eventually

MEBIBYTE = 1024 * 1024


def requests_of(sku, count, quantity=1):
    prefix = fresh("key")
    return [reservation_pb2.ReserveRequest(idempotency_key=f"{prefix}-{number}", lines=[line(sku, quantity)])
            for number in range(count)]


def batch(client, requests):
    return client.reservations.BatchReserve(
        reservation_pb2.BatchReserveRequest(requests=requests), **client.call).results


def message(requests):
    return reservation_pb2.ReserveStreamRequest(requests=requests)


def ids(results):
    return [result.held.reservation_id for result in results]


@contextlib.contextmanager
def stream(client, **options):
    """A ReserveStream: (send, responses). send(None) ends what the client sends."""
    outgoing = queue.SimpleQueue()
    responses = client.reservations.ReserveStream(iter(outgoing.get, None), **{**client.call, **options})
    try:
        yield outgoing.put, responses
    finally:
        outgoing.put(None)
        responses.cancel()


# BatchReserve


@pytest.mark.parametrize("count", [1, 64, 8192])
def test_each_request_has_its_result(client, count):
    sku = client.item(count)
    results = batch(client, requests_of(sku, count))
    assert len(results) == count
    assert len(set(ids(results))) == count and all(len(each) == 20 for each in ids(results))
    assert {result.held.state for result in results} == {reservation_pb2.RESERVATION_STATE_HELD}
    assert client.level(sku).available == 0
    reservation = client.get(results[-1].held.reservation_id)
    assert reservation.expires_at == results[-1].held.expires_at


@pytest.mark.parametrize("count", [0, 8193])
def test_no_request_or_too_many(client, count):
    sku = client.item(10_000)
    for call in (lambda: batch(client, requests_of(sku, count)),
                 lambda: list(client.reservations.ReserveStream(iter([message(requests_of(sku, count))]), **client.call))):
        with pytest.raises(grpc.RpcError) as error:
            call()
        refusal = Refusal(error.value)
        assert (refusal.code, refusal.info.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert "requests: 1 to 8192 requests" in refusal.message
    assert client.level(sku).held == 0


def sized(sku, wanted):
    """A batch of exactly so many bytes, of requests with many lines."""
    requests = [reservation_pb2.ReserveRequest(
        idempotency_key=fresh("key"), lines=[line(sku) for _ in range(64)]) for _ in range(wanted // 1500)]
    whole = reservation_pb2.BatchReserveRequest(requests=requests)
    while whole.ByteSize() > wanted - 400:
        del whole.requests[-1]
    while (left := wanted - whole.ByteSize()) > 0:
        # The last one has a key of its own, as long as it must be.
        filler = whole.requests.add(lines=[line(sku)])
        filler.idempotency_key = fresh("k")[:10]
        extra = wanted - whole.ByteSize()
        if extra > 54:  # a key has 64 bytes at most
            continue
        filler.idempotency_key += "x" * max(0, extra)
        break
    return whole


def test_a_mebibyte_is_read_and_more_is_not(client):
    sku = client.item(1_000_000)
    longest = sized(sku, MEBIBYTE)
    assert longest.ByteSize() == MEBIBYTE
    results = client.reservations.BatchReserve(longest, **client.call).results
    assert len(results) == len(longest.requests) and all(ids(results))
    streamed = reservation_pb2.ReserveStreamRequest.FromString(longest.SerializeToString())
    [response] = client.reservations.ReserveStream(iter([streamed]), **client.call)
    assert ids(response.results) == ids(results) and all(result.held.replayed for result in response.results)
    longest.requests[0].idempotency_key += "x"
    streamed = reservation_pb2.ReserveStreamRequest.FromString(longest.SerializeToString())
    for call in (lambda: client.reservations.BatchReserve(longest, **client.call),
                 lambda: list(client.reservations.ReserveStream(iter([streamed]), **client.call))):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert Refusal(error.value).info.reason == "MESSAGE_TOO_LARGE"


def test_results_are_in_order_and_in_band(client):
    sku = client.item(2)
    good, more = requests_of(sku, 2), requests_of(sku, 2)
    bad = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line("no such sku")])
    unknown = requests_of(fresh(), 1)
    reused = reservation_pb2.ReserveRequest(idempotency_key=good[0].idempotency_key, lines=[line(sku, 2)])
    results = batch(client, [good[0], bad, good[1], more[0], *unknown, good[0], reused, more[1]])
    assert [result.WhichOneof("outcome") for result in results] == [
        "held", "failure", "held", "failure", "failure", "held", "failure", "failure"]
    assert [result.failure.reason for result in results] == [
        "", "INVALID_FIELD", "", "INSUFFICIENT_STOCK", "ITEM_NOT_FOUND", "", "IDEMPOTENCY_KEY_REUSED", "INSUFFICIENT_STOCK"]
    assert [StatusCode.INVALID_ARGUMENT.value[0], StatusCode.FAILED_PRECONDITION.value[0],
            StatusCode.NOT_FOUND.value[0]] == [results[1].failure.code, results[3].failure.code, results[4].failure.code]
    assert results[5].held.replayed and results[5].held.reservation_id == results[0].held.reservation_id
    # Alone, the same.
    with pytest.raises(grpc.RpcError) as error:
        client.reservations.Reserve(more[0], **client.call)
    refusal = Refusal(error.value)
    assert dict(refusal.info.metadata) == {**results[3].failure.metadata, "replayed": "true"}
    assert refusal.message == results[3].failure.message
    assert client.reservations.Reserve(good[1], **client.call).reservation_id == results[2].held.reservation_id


def test_compressed(client):
    sku = client.item(8192)
    requests = requests_of(sku, 8192)
    plain = batch(client, requests)
    packed = client.reservations.BatchReserve(
        reservation_pb2.BatchReserveRequest(requests=requests), compression=grpc.Compression.Gzip, **client.call)
    assert ids(packed.results) == ids(plain)
    messages = [message(requests[start:start + 100]) for start in range(0, 8192, 100)]
    responses = list(client.reservations.ReserveStream(iter(messages), compression=grpc.Compression.Gzip, **client.call))
    assert ids(itertools.chain.from_iterable(response.results for response in responses)) == ids(plain)


def test_counted_by_outcome(start):
    server = start()
    with Client(server.target) as client:
        sku = client.item(60)
        batch(client, requests_of(sku, 100))
        page = metrics(server)
    assert page['holdfast_reservations_total{outcome="held"}'] == 60
    assert page['holdfast_reservations_total{outcome="insufficient_stock"}'] == 40
    assert page["holdfast_turn_calls_sum"] >= 100


def metrics(server):
    import urllib.request
    with urllib.request.urlopen(f"http://{server.host}:{server.admin_port}/metrics") as page:
        lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_a_retry_after_a_crash_gets_the_same(start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(5000)
        requests = requests_of(sku, 8000)
        before = batch(client, requests)
        with stream(client) as (send, responses):
            more = requests_of(sku, 10)
            send(message(more))
            streamed = next(responses).results
    server.kill()
    again = start(data=tmp_path / "data")
    with Client(again.target) as client:
        for old, new in zip([*before, *streamed], batch(client, [*requests, *more])):
            if old.WhichOneof("outcome") == "held":
                assert new.held.replayed and new.held.reservation_id == old.held.reservation_id
                assert new.held.expires_at == old.held.expires_at
            else:
                assert new.failure.reason == old.failure.reason == "INSUFFICIENT_STOCK"
                assert dict(new.failure.metadata) == {**old.failure.metadata, "replayed": "true"}
        assert client.level(sku).held == 5000


def test_killed_within_a_batch(start, tmp_path):
    """What was answered is there; of what was not, a retry makes the whole, with no key decided twice."""
    server = start(data=tmp_path / "data")
    answered = []
    with Client(server.target) as client:
        sku = client.item(1_000_000)
        messages = [requests_of(sku, 1000) for _ in range(200)]

        def read(responses):
            with contextlib.suppress(grpc.RpcError):
                for response in responses:
                    answered.append(response.results)

        responses = client.reservations.ReserveStream(iter([message(each) for each in messages]), **client.call)
        reader = threading.Thread(target=read, args=[responses])
        reader.start()
        eventually(lambda: len(answered) >= 3)
        server.kill()
        reader.join()
    again = start(data=tmp_path / "data")
    with Client(again.target) as client:
        for index, requests in enumerate(messages[:len(answered) + 5]):
            results = batch(client, requests)
            if index < len(answered):
                assert ids(results) == ids(answered[index]) and all(result.held.replayed for result in results)
        assert client.level(sku).held == 1000 * (len(answered) + 5)


def test_a_batch_does_not_keep_others_waiting(client, server):
    """Batches of 8,192 one behind the other, and reads beside them: none waits for a whole batch."""
    sku = client.item(1_000_000)
    stop, batches = threading.Event(), []

    def load():
        with Client(server.target) as other:
            while not stop.is_set():
                batches.append(len(batch(other, requests_of(sku, 8192))))

    loads = [threading.Thread(target=load) for _ in range(2)]
    for thread in loads:
        thread.start()
    eventually(lambda: batches)
    waits = []
    for _ in range(200):
        began = time.monotonic()
        client.level(sku)
        waits.append(time.monotonic() - began)
    stop.set()
    for thread in loads:
        thread.join()
    assert sorted(waits)[100] < 0.25, waits
    assert set(batches) == {8192}


# ReserveStream


def test_messages_in_flight_come_back_in_order(client):
    sku = client.item(1_000_000)
    sizes = [1, 64, 1, 8192, 3, 1, 1000] * 10
    sent = [requests_of(sku, size) for size in sizes]
    responses = list(client.reservations.ReserveStream(iter(map(message, sent)), **client.call))
    assert [len(response.results) for response in responses] == sizes
    again = list(client.reservations.ReserveStream(iter(map(message, sent)), **client.call))
    assert [ids(response.results) for response in again] == [ids(response.results) for response in responses]
    assert client.level(sku).held == sum(sizes)


def test_one_by_one(client):
    sku = client.item(100)
    with stream(client) as (send, responses):
        for _ in range(20):
            send(message(requests_of(sku, 1)))
            assert len(next(responses).results) == 1
        send(None)
        with pytest.raises(StopIteration):
            next(responses)
        assert responses.code() == StatusCode.OK


def test_a_message_that_fails_ends_the_stream_behind_the_others(client):
    sku = client.item(100)
    responses = client.reservations.ReserveStream(
        iter([message(requests_of(sku, 2)), message([]), message(requests_of(sku, 3))]), **client.call)
    assert len(next(responses).results) == 2
    with pytest.raises(grpc.RpcError) as error:
        next(responses)
    assert Refusal(error.value).info.reason == "INVALID_FIELD"
    assert client.level(sku).held == 2


def test_cancelled(client):
    """What was decided stays decided, and a retry finds it."""
    sku = client.item(1_000_000)
    sent = [requests_of(sku, 2000) for _ in range(50)]
    with stream(client) as (send, responses):
        for each in sent:
            send(message(each))
        first = next(responses).results
        responses.cancel()
    held = eventually(lambda: stands_still(lambda: client.level(sku).held))
    assert 2000 <= held <= 100_000
    assert ids(batch(client, sent[0])) == ids(first)
    assert client.level(sku).held == held


def stands_still(value):
    before = value()
    time.sleep(0.2)
    return value() == before and before


def test_a_deadline(client):
    sku = client.item(100)
    with stream(client, timeout=0.5) as (send, responses):
        send(message(requests_of(sku, 1)))
        assert len(next(responses).results) == 1
        with pytest.raises(grpc.RpcError) as error:
            next(responses)
        assert error.value.code() == StatusCode.DEADLINE_EXCEEDED


def test_who_does_not_read_is_not_read(start):
    """The server keeps 4 MiB of answers and what a window holds of questions; others are served meanwhile."""
    server = start()
    options = [("grpc.http2.max_frame_size", 16384), ("grpc.http2.lookahead_bytes", 0)]
    with Client(server.target, options=options) as deaf, Client(server.target) as other:
        sku = other.item(10_000_000)
        sent = []

        def questions():
            for number in itertools.count():
                requests = requests_of(sku, 8000)
                sent.append(requests)
                yield message(requests)

        responses = deaf.reservations.ReserveStream(questions(), timeout=120)
        first = next(responses).results
        held = eventually(lambda: stands_still(lambda: other.level(sku).held), seconds=60)
        # 50 bytes each: what fits 4 MiB here, and on the way and in the client, which reads ahead a little.
        assert held < 400_000
        assert len(batch(other, requests_of(sku, 8192))) == 8192
        assert server.resident_bytes() < 600 * MEBIBYTE
        # It goes on where it was.
        for number in range(1, held // 8000 + 5):
            assert len(next(responses).results) == 8000
        assert len(first) == 8000
        responses.cancel()


def test_drain(start):
    """What was read is answered; then the stream says why it ends, and the rest goes to another server."""
    server = start()
    with Client(server.target) as client:
        sku = client.item(1_000_000)
        answered = []
        with stream(client) as (send, responses):
            for _ in range(10):
                send(message(requests_of(sku, 500)))
            answered.append(next(responses))
            server.terminate()
            with pytest.raises(grpc.RpcError) as error:
                while True:
                    answered.append(next(responses))
        refusal = Refusal(error.value)
        assert (refusal.code, refusal.info.reason) == (StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert len(answered) == 10
    assert server.process.wait(20) == 0


def test_reflection_lists_them(client):
    service = descriptor_pb2.FileDescriptorProto.FromString(
        ProtoReflectionDescriptorDatabase(client.channel).FindFileContainingSymbol(
            "holdfast.v1.ReservationService").SerializeToString()).service[0]
    methods = {method.name: (method.client_streaming, method.server_streaming) for method in service.method}
    assert methods["BatchReserve"] == (False, False)
    assert methods["ReserveStream"] == (True, True)
