"""proto/retry-policy.json in a gRPC client: it retries by itself what is worth it, as late as it is told."""

import concurrent.futures
import contextlib
import json
import time

import grpc
import pytest
from grpc import StatusCode

from client import Client, fresh, line
from conftest import REPOSITORY
from holdfast.v1 import reservation_pb2, stock_pb2
from server import eventually
from test_disk_faults import SMALL_SEGMENTS, fill, small_disk  # noqa: F401  a fixture
from test_lifecycle import fetch, metric

POLICY = (REPOSITORY / "proto" / "retry-policy.json").read_text()
METHODS = [f"/{service.full_name}/{method.name}"
           for service in (reservation_pb2.DESCRIPTOR.services_by_name["ReservationService"],
                           stock_pb2.DESCRIPTOR.services_by_name["StockService"])
           for method in service.methods]
RESERVE = METHODS[0]


class Script(grpc.GenericRpcHandler):
    """A server that answers every call with the next (status, pushback in ms) of a list, then with OK."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.times = []

    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        self.times.append(time.monotonic())
        if len(self.times) > len(self.answers):
            return request
        status, pushback = self.answers[len(self.times) - 1]
        if pushback is not None:
            context.set_trailing_metadata([("grpc-retry-pushback-ms", str(pushback))])
        context.abort(status, "not now")


@contextlib.contextmanager
def scripted(answers, policy=POLICY):
    """(the script, a function that calls a method of a server that plays it)"""
    script = Script(answers)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[script])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    options = [("grpc.service_config", policy)] if policy else []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        yield script, lambda method=RESERVE: channel.unary_unary(method)(b"sent", timeout=20)
    server.stop(None)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_retried(method):
    with scripted([(StatusCode.UNAVAILABLE, 5)]) as (script, call):
        assert call(method) == b"sent"
        assert len(script.times) == 2


def test_the_client_waits_as_long_as_it_is_told():
    """The policy's own back-off would be at most 0.05 s and 0.15 s, a fifth more with jitter."""
    with scripted([(StatusCode.UNAVAILABLE, 400), (StatusCode.UNAVAILABLE, 600)]) as (script, call):
        assert call() == b"sent"
        first, second, third = script.times
        assert second - first >= 0.4 and third - second >= 0.6


def test_without_the_policy_nothing_is_retried():
    with scripted([(StatusCode.UNAVAILABLE, 5)], policy=None) as (script, call):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == StatusCode.UNAVAILABLE and len(script.times) == 1


@pytest.mark.parametrize("status, pushback", [
    (StatusCode.ABORTED, None), (StatusCode.RESOURCE_EXHAUSTED, None), (StatusCode.FAILED_PRECONDITION, None),
    (StatusCode.INTERNAL, None), (StatusCode.UNAVAILABLE, -1)])
def test_what_is_not_worth_it_is_not_retried(status, pushback):
    with scripted([(status, pushback)]) as (script, call):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == status and len(script.times) == 1


def test_it_gives_up_after_its_attempts():
    attempts = json.loads(POLICY)["methodConfig"][0]["retryPolicy"]["maxAttempts"]
    with scripted([(StatusCode.UNAVAILABLE, 1)] * 9) as (script, call):
        with pytest.raises(grpc.RpcError):
            call()
        assert len(script.times) == attempts


# The real server.


@contextlib.contextmanager
def retrying_client(target):
    with Client(target) as client:
        client.channel.close()
        client.channel = grpc.insecure_channel(target, [("grpc.service_config", POLICY)])
        client.reservations = type(client.reservations)(client.channel)
        client.stock = type(client.stock)(client.channel)
        yield client


def handled(server, code):
    return sum(float(row.rsplit(" ", 1)[1]) for row in fetch(server, "/metrics").read().decode().splitlines()
               if row.startswith("grpc_server_handled_total{") and f'grpc_code="{code}"' in row)


def test_a_stale_version_is_not_retried(server):
    with retrying_client(server.target) as client:
        sku = client.item(5)
        before = handled(server, "Aborted")
        with pytest.raises(grpc.RpcError) as caught:
            client.adjust(sku, delta=1, expected_version=9)
        assert caught.value.code() == StatusCode.ABORTED
        assert "grpc-retry-pushback-ms" not in dict(caught.value.trailing_metadata())
        assert handled(server, "Aborted") == before + 1


def test_a_full_disk_is_waited_for(start, small_disk):  # noqa: F811
    """STORAGE_FULL says two seconds; when they are over there is room, and the call succeeds by itself."""
    server = start(*SMALL_SEGMENTS, data=small_disk / "data")
    filler = small_disk / "filler"
    with Client(server.target) as plain, retrying_client(server.target) as client:
        cart = [line(plain.item(1_000_000)) for _ in range(64)]
        fill(filler)
        with pytest.raises(grpc.RpcError) as caught:
            for _ in range(10_000):
                plain.reserve(*cart)
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "2000"
        refused, held = handled(server, "Unavailable"), plain.level(cart[0].sku).held
        begun = time.monotonic()
        call = client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key"), lines=cart), timeout=20)
        eventually(lambda: handled(server, "Unavailable") == refused + 1)
        filler.unlink()
        eventually(lambda: metric(server, "holdfast_journal_accepting") == 1)
        assert call.result().reservation_id and not call.result().replayed
        assert time.monotonic() - begun >= 2
        assert plain.level(cart[0].sku).held == held + 1
