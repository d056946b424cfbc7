"""nginx, HAProxy and Envoy in front of the server, as users deploy it (`make test-proxies`).

Behind a proxy many users share one connection to the server. What one of them does must stay with him.
"""

import collections
import concurrent.futures
import contextlib
import struct
import threading
import time

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import http2
from certificates import Certificates
from client import Client, fresh, line, refused
from http2 import Closed, Connection, frame, grpc_fields, grpc_message, header_block
from holdfast.v1 import reservation_pb2, stock_pb2
from proxies import PROXIES, TLS, AnnouncingHAProxy, Envoy
from server import Server, eventually
from test_lifecycle import fetch, metric

pytestmark = pytest.mark.proxies

CHECK = "/grpc.health.v1.Health/Check"
RESERVE = "/holdfast.v1.ReservationService/Reserve"
SERVING = health_pb2.HealthCheckResponse.SERVING
USERS = 8
# A quarter of these hurt the other users before late frames were ignored.
ROUNDS = 60
# More early rejections than a connection remembered one by one.
REJECTED_AT_ONCE = 20


@pytest.fixture(scope="module", params=PROXIES, ids=lambda kind: kind.name)
def kind(request):
    if not request.param.executable():
        pytest.skip(f"{request.param.name} is not installed; `make bootstrap-proxies` does it")
    return request.param


@pytest.fixture(scope="module", params=["plain", "tls"])
def security(request, binary, tmp_path_factory):
    """What the server is started with, and what the proxies then need to know."""
    if request.param == "plain":
        return [], None
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    pair = made.issue("server")
    flags = ["--tls-cert", pair.certificate, "--tls-key", pair.key]
    return flags, TLS(made.authority, pair.certificate, pair.key)


def user(proxy):
    """A client with a connection to the proxy of its own."""
    if not proxy.tls:
        return Client(proxy.target)
    with open(proxy.tls.authority, "rb") as file:
        return Client(proxy.target, credentials=grpc.ssl_channel_credentials(file.read()))


def raw(proxy):
    """A client that sends anything at all."""
    return Connection(proxy, authority=proxy.tls.authority if proxy.tls else None)


@pytest.fixture(scope="module")
def behind(kind, security, binary):
    """(server, proxy) that the tests of this module share."""
    flags, tls = security
    with Server(binary, *flags) as server, kind([server], tls) as proxy:
        yield server, proxy
        assert server.is_alive() and proxy.is_alive(), server.log_text() + proxy.log_text()


@pytest.fixture
def proxy(behind):
    return behind[1]


@pytest.fixture
def customer(proxy):
    with user(proxy) as client:
        yield client


# What every call needs.


def test_unary_calls(customer):
    sku = customer.item(10)
    held = customer.reserve(line(sku, 3))
    assert customer.level(sku).held == 3
    assert customer.confirm(held.reservation_id).reservation.state == reservation_pb2.RESERVATION_STATE_CONFIRMED
    assert customer.level(sku).on_hand == 7


def test_long_requests_and_responses(customer):
    names = [stock_pb2.StockItem(sku=f"{n:064}", location="x" * 64) for n in range(500)]
    for _ in range(20):
        response = customer.stock.BatchGetStock(stock_pb2.BatchGetStockRequest(items=names), **customer.call)
        assert len(response.not_found) == 500


def test_errors_keep_their_details(customer):
    sku = customer.item(1)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=sku, available=1) as seen:
        customer.reserve(line(sku, 2))
    assert seen[0].violations[0][:2] == ("INSUFFICIENT_STOCK", sku)
    # The longest details that there are.
    names = [(f"{fresh():~<64}", "x" * 64) for _ in range(64)]
    with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND", bad_lines=64):
        customer.reserve(*[line(sku, 1, location) for sku, location in names])


def test_deadlines(customer):
    """Calls that the client gives up end nobody's connection."""
    sku = customer.item(1000)
    codes = collections.Counter()
    for number in range(200):
        request = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])
        try:
            customer.reservations.Reserve(request, timeout=0.0002 * (number % 10 + 1))
            codes[StatusCode.OK] += 1
        except grpc.RpcError as error:
            codes[error.code()] += 1
    assert set(codes) <= {StatusCode.OK, StatusCode.DEADLINE_EXCEEDED}, codes
    customer.reserve(line(sku))


def test_a_cancelled_watch_ends_at_the_server(behind, customer):
    server, _ = behind

    def ended():
        rows = [row for row in fetch(server, "/metrics").read().decode().splitlines()
                if row.startswith("grpc_server_handled_total{") and 'grpc_method="Watch"' in row]
        return sum(int(row.rsplit(" ", 1)[1]) for row in rows)

    before = ended()
    for _ in range(10):
        watch = customer.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        watch.cancel()
    eventually(lambda: ended() >= before + 10)


def test_watch_lives_as_long_as_its_client_wants(customer):
    """Longer than the proxy's pings are apart, and silent all the time."""
    watch = customer.health.Watch(health_pb2.HealthCheckRequest(), timeout=3)
    assert next(watch).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED


def test_reflection(customer):
    call = customer.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString)
    turn = threading.Semaphore(1)

    def questions():
        for _ in range(20):
            turn.acquire()  # each waits for the answer before
            yield reflection_pb2.ServerReflectionRequest(list_services="*")

    answers = 0
    for response in call(questions(), timeout=20):
        assert response.list_services_response.service
        answers += 1
        turn.release()
    assert answers == 20


def test_keepalive_pings(behind, security):
    """A client that pings its proxy often, and Envoy, which pings the server each second: nothing breaks."""
    server, proxy = behind
    tls = proxy.tls
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0), ("grpc.use_local_subchannel_pool", 1)]
    if tls:
        with open(tls.authority, "rb") as file:
            channel = grpc.secure_channel(proxy.target, grpc.ssl_channel_credentials(file.read()), options)
    else:
        channel = grpc.insecure_channel(proxy.target, options)
    with channel:
        check = channel.unary_unary(CHECK)
        check(b"", timeout=10)
        made = metric(server, "holdfast_connections_accepted_total")
        abuse = metric(server, "holdfast_connection_abuse_total")
        end = time.monotonic() + 4
        while time.monotonic() < end:
            check(b"", timeout=10)
            time.sleep(0.5)
        assert metric(server, "holdfast_connections_accepted_total") == made
        assert metric(server, "holdfast_connection_abuse_total") == abuse


# Many users.


class Users:
    """Customers who call all the time, each over a connection of his own. `failures` counts what failed."""

    def __init__(self, proxy, count=USERS):
        self.proxy, self.failures, self.calls = proxy, collections.Counter(), 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]

    def run(self):
        with user(self.proxy) as client:
            while not self.stopping.is_set():
                code = self.try_call(client)
                with self.lock:
                    self.calls += 1
                    if code:
                        self.failures[code] += 1

    def try_call(self, client):
        try:
            client.health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return None

    def wait(self, calls=100):
        """Returns once so many calls more have ended."""
        end = self.calls + calls
        eventually(lambda: self.calls >= end, 60)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait(len(self.threads))
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def test_many_users_share_a_connection(behind):
    """The premise of the tests that follow."""
    server, proxy = behind
    with Users(proxy) as users:
        users.wait(200)
        # Another one may stand unused, from a moment when the first was not yet there.
        assert metric(server, "holdfast_connections") <= (2 if proxy.shares_connection else USERS + 1)
    assert not users.failures


@pytest.mark.skipif(not AnnouncingHAProxy.executable(), reason="HAProxy is not installed")
def test_a_proxy_that_says_whose_its_connections_are(security, binary):
    """With the PROXY protocol, which comes before TLS."""
    flags, tls = security
    with Server(binary, *flags, "--proxy-protocol") as server, AnnouncingHAProxy([server], tls) as proxy:
        with Users(proxy) as users:
            users.wait(200)
        assert not users.failures
        assert metric(server, "holdfast_connections_accepted_total") >= USERS
        assert metric(server, 'holdfast_connection_abuse_total{kind="proxy_header"}') == 0


def test_early_rejection_while_the_request_is_on_its_way(behind):
    """The proxy has DATA on its way for streams that the server has ended: nobody else's call fails."""
    server, proxy = behind
    abuse = metric(server, "holdfast_connection_abuse_total")
    with Users(proxy, 4) as users:
        for _ in range(ROUNDS):
            if users.failures:
                break
            with concurrent.futures.ThreadPoolExecutor(REJECTED_AT_ONCE) as pool, user(proxy) as hostile:
                call = hostile.channel.unary_unary(RESERVE)
                calls = [pool.submit(code_of, call, bytes(1_000_000)) for _ in range(REJECTED_AT_ONCE)]
                rejected = [each.result() for each in calls]
            assert metric(server, "holdfast_connection_abuse_total") == abuse
            # A proxy may lose the reason where the request was cut off, not more than that.
            assert set(rejected) <= {StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE,
                                     StatusCode.CANCELLED, StatusCode.INTERNAL, StatusCode.UNKNOWN}, rejected
    assert not users.failures, f"of {users.calls} calls: {users.failures}"


def code_of(call, message):
    try:
        call(message, timeout=5)
    except grpc.RpcError as error:
        return error.code()
    return StatusCode.OK


def large_metadata(connection, stream):
    """66 KB of metadata in one call."""
    block = header_block(grpc_fields(CHECK) + [(f"x-{number}", "v" * 6000) for number in range(11)])
    pieces = [block[at:at + 16384] for at in range(0, len(block), 16384)]
    connection.send(frame(http2.HEADERS, http2.END_STREAM, stream, pieces[0]) + b"".join(
        frame(http2.CONTINUATION, http2.END_HEADERS if piece is pieces[-1] else 0, stream, piece)
        for piece in pieces[1:]))


def long_metadata(connection, stream):
    """17 KB in one call: more than the server takes, little enough that any proxy hands it on."""
    block = header_block(grpc_fields(CHECK) + [(f"x-{number}", "v" * 5000) for number in range(3)])
    connection.send(frame(http2.HEADERS, http2.END_STREAM | http2.END_HEADERS, stream, block))


def compressed_garbage(connection, stream):
    garbage = b"\1" + struct.pack(">I", 600) + bytes(range(200)) * 3
    connection.request(stream, grpc_fields(CHECK, grpc_encoding="gzip"), garbage)


def bad_framing(connection, stream):
    connection.request(stream, grpc_fields(CHECK), b"\7\xff\xff\xff\xff" + bytes(500))


def aborted(connection, stream):
    connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, header_block(grpc_fields(CHECK)))
                    + frame(http2.DATA, 0, stream, b"\0\0\0\0\5ab") + http2.reset(stream))


def odd_fields(connection, stream):
    connection.request(stream, grpc_fields(CHECK, te="trailers, deflate", **{"x-blank": " a "}), grpc_message(b""))


def unread(connection, stream):
    """A response that nobody gives a window for."""
    connection.send(frame(http2.SETTINGS, payload=struct.pack(">HI", 4, 0)))
    names = [stock_pb2.StockItem(sku="s" * 60, location="l" * 50)] * 250
    body = grpc_message(stock_pb2.BatchGetStockRequest(items=names).SerializeToString())
    connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, header_block(grpc_fields(
        "/holdfast.v1.StockService/BatchGetStock"))))
    for at in range(0, len(body), 16384):
        connection.send(frame(http2.DATA, http2.END_STREAM if at + 16384 >= len(body) else 0, stream,
                              body[at:at + 16384]))


HOSTILE = [large_metadata, long_metadata, compressed_garbage, bad_framing, aborted, odd_fields, unread]


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_one_hostile_user_among_many(proxy, attack):
    with Users(proxy, 4) as users:
        for _ in range(20):
            with contextlib.suppress(Closed, TimeoutError, AssertionError), raw(proxy) as connection:
                connection.socket.settimeout(2)
                for stream in range(1, 21, 2):
                    attack(connection, stream)
                # The proxy has taken the attack, or ended it.
                connection.send(frame(http2.PING, payload=bytes(8)))
                while connection.read_frame()[:2] != (http2.PING, http2.ACK):
                    pass
            users.wait(20)
    assert not users.failures, f"of {users.calls} calls: {users.failures}"


# The way down.


class Buyers(Users):
    """Users who reserve; `answered` are the reservations that they know of."""

    def __init__(self, proxy, sku, count=USERS):
        super().__init__(proxy, count)
        self.sku, self.answered = sku, []

    def try_call(self, client):
        try:
            self.answered.append(client.reserve(line(self.sku)).reservation_id)
        except grpc.RpcError as error:
            time.sleep(0.01)
            return f"{error.code().name}: {error.details()}"
        return None


def test_restart_of_the_only_server(kind, security, binary, tmp_path):
    """While it is away calls are UNAVAILABLE; what was answered is there afterwards."""
    flags, tls = security
    data = tmp_path / "data"
    server = Server(binary, *flags, data=data)
    with kind([server], tls) as proxy:
        with user(proxy) as client:
            sku = client.item(1_000_000)
        with Buyers(proxy, sku) as buyers:
            buyers.wait(500)
            assert server.stop() == 0
            server = Server(binary, *flags, "--port", str(server.port), data=data)
            answered = len(buyers.answered)
            eventually(lambda: len(buyers.answered) >= answered + 200, 30)
        try:
            with user(proxy) as client:
                for reservation_id in buyers.answered[::20] + buyers.answered[-1:]:
                    assert client.get(reservation_id).state == reservation_pb2.RESERVATION_STATE_HELD
                assert client.level(sku).held >= len(buyers.answered)
        finally:
            server.stop()
    others = {text: count for text, count in buyers.failures.items() if not text.startswith("UNAVAILABLE")}
    assert not others, others


def test_rolling_restart_of_two_servers(kind, security, binary, tmp_path):
    """A server that goes away tells its proxy by GOAWAY, so that no call fails that the other may take."""
    flags, tls = security
    servers = [Server(binary, *flags, data=tmp_path / str(number)) for number in range(2)]
    try:
        with kind(servers, tls) as proxy, Users(proxy) as users:
            users.wait(200)
            for number, server in enumerate(servers):
                assert server.stop() == 0
                users.wait(200)
                servers[number] = Server(binary, *flags, "--port", str(server.port), data=tmp_path / str(number))
                users.wait(200)
    finally:
        for server in servers:
            server.stop()
    assert not users.failures, f"of {users.calls} calls: {users.failures}"


@pytest.mark.skipif(not Envoy.executable(), reason="Envoy is not installed")
def test_envoy_keeps_its_connection_through_all_that(binary):
    """One connection to the server serves every user, before and after a user that does everything wrong."""
    with Server(binary) as server, Envoy([server]) as proxy, Users(proxy, 4) as users:
        made = proxy.stats("upstream_cx_total")
        for attack in HOSTILE:
            with contextlib.suppress(Closed, TimeoutError), raw(proxy) as connection:
                attack(connection, 1)
                connection.socket.settimeout(1)
                connection.response(1)
            users.wait(20)
        assert proxy.stats("upstream_cx_total") == made
    assert not users.failures
