"""What one client does stays with it: each test measures the harm to another client, on its own connection or,
as behind a proxy, on the same one. And what gRPC's own servers take, this one takes: they run side by side."""

import concurrent.futures
import contextlib
import gzip
import statistics
import struct
import time
import urllib.request

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import http2
from client import Client, Refusal, fresh, line, refused
from holdfast.v1 import reservation_pb2, stock_pb2
from http2 import Closed, Connection, frame, grpc_fields, grpc_message, header_block
from http2_peer import INITIAL_WINDOW_SIZE, EagerPeer, Peer, setting
from server import eventually

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
RESERVE = "/holdfast.v1.ReservationService/Reserve"
GET_STOCK = "/holdfast.v1.StockService/GetStock"
BATCH = "/holdfast.v1.StockService/BatchGetStock"
LIST_STOCK = "/holdfast.v1.StockService/ListStock"
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 3, 4, 5, 8, 12
MEGABYTE = 1 << 20
LIST_SERVICES = grpc_message(b"\x3a\x01*")
# A connection remembers more rejected streams than any fixed number: 17 were one too many.
REJECTED = 40


@pytest.fixture(autouse=True)
def others_are_served(server):
    """Whatever the test did to the shared server, the next client is served by the same process."""
    yield
    assert server.is_alive(), server.log_text()[-2000:]
    with Client(server.target) as client:
        assert client.reserve(line(client.item(1))).reservation_id


def head(stream, path=CHECK, flags=0, **changed):
    return frame(http2.HEADERS, http2.END_HEADERS | flags, stream, header_block(grpc_fields(path, **changed)))


def goes_on(connection, stream):
    """A call of another user of this connection is served."""
    connection.request(stream, grpc_fields(CHECK), grpc_message(b""))
    response = connection.response(stream)
    assert response.grpc_status == OK and connection.goaway is None, (response, connection.goaway)


def ping(connection):
    """Everything that was sent is handled."""
    connection.send(frame(http2.PING, payload=b"all read"))
    while connection.read_frame()[3] != b"all read":
        pass


# Frames that were on their way when the server ended their stream (RFC 9113 section 5.1).

EARLY = {  # requests that the server ends before they are whole
    "too large": lambda stream: head(stream, RESERVE) + frame(http2.DATA, 0, stream, b"\0\x7f\0\0\0" + bytes(100)),
    "bad prefix": lambda stream: head(stream, RESERVE) + frame(http2.DATA, 0, stream, b"\7\0\0\0\1"),
    "two messages": lambda stream: head(stream, RESERVE) + frame(http2.DATA, 0, stream, grpc_message(b"") * 2),
    "unknown method": lambda stream: head(stream, "/no.Such/Method"),
    "not gRPC": lambda stream: head(stream, content_type="text/plain"),
    "no more time": lambda stream: head(stream, grpc_timeout="0n"),
    "bad fields": lambda stream: head(stream, **{"connection": "close"}),
}
LATE = {
    "DATA": lambda stream: frame(http2.DATA, 0, stream, bytes(1000)),
    "the last DATA": lambda stream: frame(http2.DATA, http2.END_STREAM, stream, bytes(1000)),
    "padded DATA": lambda stream: frame(http2.DATA, http2.PADDED, stream, b"\4abcd" + bytes(4)),
    "empty DATA": lambda stream: frame(http2.DATA, http2.END_STREAM, stream),
    "trailers": lambda stream: frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream,
                                     header_block([("x-checksum", "1")])),
    "trailers in two frames": lambda stream: (
        frame(http2.HEADERS, http2.END_STREAM, stream, header_block([("x-checksum", "1")]))
        + frame(http2.CONTINUATION, http2.END_HEADERS, stream, header_block([("x-more", "2")]))),
    "DATA, then trailers": lambda stream: LATE["DATA"](stream) + LATE["trailers"](stream),
    "WINDOW_UPDATE": lambda stream: http2.window_update(stream, 1000),
    "RST_STREAM": lambda stream: http2.reset(stream),
    "PRIORITY": lambda stream: frame(http2.PRIORITY, 0, stream, struct.pack(">IB", 0, 15)),
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("early", EARLY)
def test_late_frames_of_rejected_calls(server, early, late):
    streams = range(3, 2 * REJECTED + 3, 2)
    with Connection(server) as connection:
        connection.send(head(1))  # another user's call, half sent
        connection.send(b"".join(EARLY[early](stream) for stream in streams))
        ping(connection)
        connection.send(b"".join(LATE[late](stream) for stream in streams))
        ping(connection)
        assert connection.goaway is None, (connection.goaway, connection.goaway_text)
        connection.send(frame(http2.DATA, http2.END_STREAM, 1, grpc_message(b"")))
        assert connection.response(1).grpc_status == OK
        goes_on(connection, 1001)


def test_late_data_gives_its_window_back(server):
    """More late DATA than the connection's window takes, behind early rejections, as HAProxy sends it."""
    piece = bytes(16384)
    with EagerPeer(server) as peer:
        peer.barrier()
        spent = 0
        for stream in range(1, 201, 2):
            peer.send(EARLY["too large"](stream))
            peer.barrier()
            spent += 105
            for _ in range(24):
                while peer.allowed[0] - spent < len(piece):
                    peer.read_frame()  # TimeoutError: the window was not given back
                spent += len(piece)
                peer.send(frame(http2.DATA, 0, stream, piece))
        peer.goes_on(1001)
        assert peer.goaway is None


def test_a_new_table_entry_in_late_trailers_counts(server):
    """The table of the connection changes with every block, whomever it is for."""
    entry = b"\x40" + header_block([("x-late", "v")])[1:]
    with Connection(server) as connection:
        for stream in range(1, 101, 2):
            connection.send(EARLY["too large"](stream))
        ping(connection)
        for stream in range(1, 101, 2):
            connection.send(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, entry))
        # 62 is there only if the blocks were read; a bad index would end the connection.
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 201, header_block(grpc_fields(CHECK)) + b"\xbe")
                        + frame(http2.DATA, http2.END_STREAM, 201, grpc_message(b"")))
        assert connection.response(201).grpc_status == OK


# Metadata over the limit ends one call.


def send_block(connection, stream, block, body=grpc_message(b"")):
    pieces = [block[at:at + 16384] for at in range(0, len(block), 16384)]
    connection.send(
        frame(http2.HEADERS, http2.END_HEADERS if len(pieces) == 1 else 0, stream, pieces[0])
        + b"".join(frame(http2.CONTINUATION, http2.END_HEADERS if number == len(pieces) - 2 else 0, stream, piece)
                   for number, piece in enumerate(pieces[1:])))
    with contextlib.suppress(Closed):
        connection.send(frame(http2.DATA, http2.END_STREAM, stream, body))


@pytest.mark.parametrize("fields", [
    pytest.param([("x-long", "v" * 66_000)], id="one field of 66 KB"),
    pytest.param([(f"x-{n}", "v" * 6000) for n in range(11)], id="11 fields of 6 KB"),
    pytest.param([(f"x-{n}", "v" * 5) for n in range(1500)], id="1,500 short fields"),
    pytest.param([(f"x-{n}", "v" * 6000) for n in range(40)], id="240 KB"),
])
@pytest.mark.parametrize("indexed", [False, True])
def test_metadata_over_the_limit_ends_one_call(server, fields, indexed):
    with Connection(server) as connection:
        connection.send(head(1))  # another user's, half sent
        block = header_block(grpc_fields(CHECK) + fields)
        if indexed:
            block = header_block(grpc_fields(CHECK)) + b"".join(
                b"\x40" + header_block([field])[1:] for field in fields)
        send_block(connection, 3, block)
        response = connection.response(3)
        assert response.grpc_status == RESOURCE_EXHAUSTED or response.reset is not None
        assert response.grpc_status != OK
        goes_on(connection, 5)
        connection.send(frame(http2.DATA, http2.END_STREAM, 1, grpc_message(b"")))
        assert connection.response(1).grpc_status == OK


# Streams that stay.


def ask(stream, path, body, **changed):
    """Opens a stream that the server keeps open."""
    ends = http2.END_STREAM if path == WATCH else 0
    return head(stream, path, **changed) + frame(http2.DATA, ends, stream, body)


@pytest.mark.parametrize("path, body", [(WATCH, grpc_message(b"")), (REFLECTION, LIST_SERVICES)],
                         ids=["Watch", "reflection"])
def test_streams_that_stay_are_bounded_on_a_connection(server, path, body):
    """RESOURCE_EXHAUSTED with ErrorInfo past the limit; others may open theirs; places are given back."""
    with EagerPeer(server) as peer:
        streams = range(1, 2001, 2)
        for stream in streams:
            peer.send(ask(stream, path, body))
            if stream % 100 == 1:
                peer.barrier()
        peer.barrier()
        rejected = [stream for stream in streams if peer.responses[stream].grpc_status == RESOURCE_EXHAUSTED]
        assert rejected, "a connection may have 1,000 of them"
        assert Refusal.of(peer.responses[rejected[0]]).info.reason
        assert all(peer.responses[stream].body for stream in streams if stream not in set(rejected))
        with Connection(server) as other:
            other.send(ask(1, path, body))
            ping(other)
            ping(other)
            assert other.responses[1].body and not other.responses[1].ended
        for stream in streams:
            if stream not in set(rejected):
                peer.send(http2.reset(stream))
        peer.barrier()
        peer.send(ask(2001, path, body))
        peer.barrier()
        assert peer.responses[2001].body and not peer.responses[2001].ended


def test_streams_that_stay_are_bounded_in_all(start):
    server = start()
    with contextlib.ExitStack() as stack:
        for number in range(1, 501):
            peer = stack.enter_context(Connection(server))
            peer.send(b"".join(head(stream, WATCH) + frame(http2.DATA, http2.END_STREAM, stream, grpc_message(b""))
                               for stream in range(1, 201, 2)))
            ping(peer)
            ping(peer)
            if peer.responses[1].grpc_status == RESOURCE_EXHAUSTED:  # not this connection's doing
                break
        else:
            raise AssertionError(f"{number} connections have 100 watches each")
        with Client(server.target) as client:
            client.reserve(line(client.item(1)))


@pytest.mark.parametrize("path, body", [(WATCH, grpc_message(b"")), (REFLECTION, LIST_SERVICES)],
                         ids=["Watch", "reflection"])
@pytest.mark.parametrize("timeout", ["300m", "300000u", "1S"])
def test_the_deadline_of_a_stream(server, path, body, timeout):
    with Connection(server, timeout=5) as connection:
        began = time.monotonic()
        connection.send(ask(1, path, body, grpc_timeout=timeout))
        response = connection.response(1)
        assert response.grpc_status == DEADLINE_EXCEEDED and response.body
        assert Refusal.of(response).info.reason == "DEADLINE_EXCEEDED"
        assert time.monotonic() - began >= 0.29
        goes_on(connection, 3)


@pytest.fixture(scope="module")
def patience(binary):
    """Clients that are slow in every way at once, on a server of their own, so that the wait is one: a
    function that says of each, by its name, when (s after the start) and how it ended; None: it has not."""
    from server import Server

    items = [stock_pb2.StockItem(sku="s" * 60, location="l" * 50)] * 400
    question = grpc_message(stock_pb2.BatchGetStockRequest(items=items).SerializeToString())
    with (Server(binary, "--stall-timeout", "20s", "--handshake-timeout", "5s") as server,
          contextlib.ExitStack() as stack):
        def connect(**options):
            return stack.enter_context(Connection(server, timeout=0.2, **options))

        slow_head = connect()
        slow_head.send(frame(http2.HEADERS, 0, 1, header_block(grpc_fields(CHECK))[:20]))
        silent = connect()
        silent.send(head(1, REFLECTION) + frame(http2.DATA, 0, 1, LIST_SERVICES))
        never_asked = connect()
        never_asked.send(head(1, REFLECTION))
        half_sent = connect()
        half_sent.send(head(1, RESERVE) + frame(http2.DATA, 0, 1, b"\0\0\0\0\x20abc"))
        unread = connect(settings=struct.pack(">HI", 4, 0))
        unread.send(head(1, BATCH) + b"".join(
            frame(http2.DATA, 0, 1, question[at:at + 16384]) for at in range(0, len(question), 16384))
            + frame(http2.DATA, http2.END_STREAM, 1))
        connections = {"slow head": slow_head, "silent": silent, "never asked": never_asked,
                       "half sent": half_sent, "unread": unread}
        began, ended, fed = time.monotonic(), {}, 0
        while time.monotonic() - began < 36:
            now = time.monotonic() - began
            if now - fed > 3 and "slow head" not in ended:  # a byte of the header block at a time
                fed = now
                with contextlib.suppress(Closed):
                    slow_head.send(frame(http2.CONTINUATION, 0, 1, b"\0"))
            for name, connection in connections.items():
                if name in ended:
                    continue
                try:
                    connection.read_frame()
                except TimeoutError:
                    pass
                except Closed:
                    ended[name] = (now, "closed")
                if connection.responses.setdefault(1, http2.Response()).ended:
                    ended[name] = (now, connection.responses[1])
        if silent.goaway is None and "silent" not in ended:  # it still answers
            silent.socket.settimeout(5)
            silent.send(frame(http2.DATA, http2.END_STREAM, 1, LIST_SERVICES))
            ended["silent, asked again"] = (36, silent.response(1))
        yield ended.get


def test_a_slow_header_block_ends(patience):
    when, _ = patience("slow head")
    assert when < 20, "the time for a frame is 5 s here"


def test_a_half_sent_request_ends(patience):
    when, how = patience("half sent")
    assert when < 45 and how.grpc_status == DEADLINE_EXCEEDED


@pytest.mark.parametrize("name", ["silent", "never asked"])
def test_a_silent_bidirectional_call_lives(patience, name):
    assert patience(name) is None


def test_a_silent_bidirectional_call_is_answered_later(patience):
    _, how = patience("silent, asked again")
    assert how.grpc_status == OK


def test_a_response_that_nobody_reads_ends(patience):
    """20 s without credit, though its connection is well."""
    when, _ = patience("unread")
    assert 15 < when < 35


def test_idle_connections_make_room(start):
    """As many as there may be, all idle: a client from another address comes in, and is served."""
    server = start("--max-connections", "50")
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            with contextlib.suppress(OSError, Closed):
                idle = stack.enter_context(Connection(server, source="127.0.0.2"))
                ping(idle)
        def served():
            """At once or a second later: so long a connection may be without a call before it has to go."""
            with contextlib.suppress(grpc.RpcError), Client(server.target) as client:
                sku = client.item(100)
                for _ in range(50):
                    client.reserve(line(sku))
                return True

        eventually(served, 5)


@pytest.mark.parametrize("count", [80, 1000])
def test_slow_heads_on_the_admin_port(start, count):
    import socket

    server = start()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            with contextlib.suppress(OSError):
                slow = stack.enter_context(socket.create_connection(("127.0.0.1", server.admin_port), 1))
                slow.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        seconds = []
        for path in ("/livez", "/readyz") * 3:
            began = time.monotonic()
            assert urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}{path}", timeout=10).status == 200
            seconds.append(time.monotonic() - began)
        assert statistics.median(seconds) < 1


def test_ping_flood(server):
    with Connection(server) as connection:
        sent = connection.send_slowly_refused(frame(http2.PING, payload=bytes(8)) * 100_000)
        connection.drain()
        assert connection.goaway == http2.ENHANCE_YOUR_CALM, sent
        assert connection.goaway_text == "too_many_pings"


# Compression.


@pytest.fixture
def compressing(server):
    channel = grpc.insecure_channel(
        server.target, compression=grpc.Compression.Gzip, options=[("grpc.use_local_subchannel_pool", 1)])
    with channel:
        yield channel


def test_a_channel_that_compresses(client, compressing):
    from holdfast.v1 import reservation_pb2_grpc, stock_pb2_grpc

    sku = client.item(10)
    lines = [line(sku, 1) for _ in range(8)]
    request = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=lines)
    held = reservation_pb2_grpc.ReservationServiceStub(compressing).Reserve(request, timeout=10)
    assert client.get(held.reservation_id).lines[0].quantity == 8
    stock = stock_pb2_grpc.StockServiceStub(compressing)
    assert stock.GetStock(stock_pb2.GetStockRequest(sku=sku), timeout=10).stock.held == 8  # not worth compressing
    names = [stock_pb2.StockItem(sku=f"{n:064}") for n in range(500)]
    assert len(stock.BatchGetStock(stock_pb2.BatchGetStockRequest(items=names), timeout=10).not_found) == 500


def compressed(message, flag=1):
    return bytes([flag]) + struct.pack(">I", len(message)) + message


def call_gzip(connection, stream, path, message, **changed):
    body = compressed(message)
    connection.send(head(stream, path, grpc_encoding="gzip", **changed) + b"".join(
        frame(http2.DATA, 0, stream, body[at:at + 16384]) for at in range(0, len(body), 16384)))
    with contextlib.suppress(Closed):
        connection.send(frame(http2.DATA, http2.END_STREAM, stream))
    return connection.response(stream)


def test_a_gzip_bomb(server):
    """60 KB that say they are 60 MB: RESOURCE_EXHAUSTED, no memory, and no time of anybody's."""
    bomb = gzip.compress(bytes(60 * MEGABYTE), 9)
    assert len(bomb) < 80 * 1024
    before = server.resident_bytes()
    with Connection(server) as connection, Client(server.target) as client:
        sku = client.item(10)
        for stream in range(1, 101, 2):
            assert call_gzip(connection, stream, RESERVE, bomb).grpc_status == RESOURCE_EXHAUSTED
        began = time.monotonic()
        client.reserve(line(sku))
        assert time.monotonic() - began < 3
        goes_on(connection, 1001)
    assert server.resident_bytes() - before < 16 * MEGABYTE


def reserve_nothing():
    return reservation_pb2.ReserveRequest(
        idempotency_key=fresh("key"), lines=[line("nothing-" + "x" * 40)]).SerializeToString()


GOOD_GZIP = gzip.compress(reserve_nothing())


@pytest.mark.parametrize("message", [
    pytest.param(b"", id="nothing"), pytest.param(bytes(range(200)) * 3, id="no gzip at all"),
    pytest.param(GOOD_GZIP[:-1], id="cut off"), pytest.param(GOOD_GZIP[:-8] + bytes(8), id="bad checksum"),
    pytest.param(GOOD_GZIP[:12] + bytes([GOOD_GZIP[12] ^ 0xFF]) + GOOD_GZIP[13:], id="bad block"),
    pytest.param(GOOD_GZIP + b"more", id="something behind")])
def test_garbage_instead_of_gzip(server, message):
    with Connection(server) as connection:
        connection.send(head(1))
        response = call_gzip(connection, 3, RESERVE, message)
        assert response.grpc_status not in (None, OK, NOT_FOUND)
        assert Refusal.of(response).info.reason
        connection.send(frame(http2.DATA, http2.END_STREAM, 1, grpc_message(b"")))
        assert connection.response(1).grpc_status == OK
        # The item. A message that is good by itself had been decided about.
        assert call_gzip(connection, 5, RESERVE, gzip.compress(reserve_nothing())).grpc_status == NOT_FOUND


def test_a_compressed_message_at_the_limit(server):
    """80 KiB inflated is read, one byte more is not."""
    with Connection(server) as connection:
        for stream, size, status in [(1, 80 * 1024, INVALID_ARGUMENT), (3, 80 * 1024 + 1, RESOURCE_EXHAUSTED)]:
            assert call_gzip(connection, stream, RESERVE, gzip.compress(bytes(size))).grpc_status == status


@pytest.mark.parametrize("encoding, accepts, is_compressed", [
    ("gzip", "gzip", True), ("gzip", "identity,deflate,gzip", True), ("gzip", None, True),
    ("gzip", "identity", False), ("gzip", "gzipped", False), (None, "gzip", False), (None, None, False),
    ("identity", "identity,deflate,gzip", False)])
def test_responses_are_compressed_as_the_request_was(server, encoding, accepts, is_compressed):
    """As grpc-go does. Most clients list gzip in every request, whatever they want."""
    names = [stock_pb2.StockItem(sku=f"{n:064}") for n in range(200)]
    request = stock_pb2.BatchGetStockRequest(items=names)
    with Connection(server) as connection:
        connection.send(head(1, BATCH, grpc_accept_encoding=accepts, grpc_encoding=encoding))
        message = request.SerializeToString()
        body = compressed(gzip.compress(message)) if encoding == "gzip" else grpc_message(message)
        connection.send(b"".join(frame(http2.DATA, 0, 1, body[at:at + 16384]) for at in range(0, len(body), 16384))
                        + frame(http2.DATA, http2.END_STREAM, 1))
        response = connection.response(1)
        assert response.grpc_status == OK
        assert (response.header("grpc-encoding") == "gzip") == bool(response.body[0]) == is_compressed
        message = gzip.decompress(response.body[5:]) if is_compressed else response.body[5:]
        assert len(stock_pb2.BatchGetStockResponse.FromString(message).not_found) == 200


# Fields and messages.


@pytest.mark.parametrize("callers", [("a", "b"), ("a", "a"), ("", "a")])
def test_two_callers(server, callers):
    with Connection(server) as connection:
        connection.request(1, grpc_fields(RESERVE) + [("holdfast-caller", caller) for caller in callers], grpc_message(
            reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line("x")]).SerializeToString()))
        response = connection.response(1)
        assert response.grpc_status == INVALID_ARGUMENT
        refusal = Refusal.of(response)
        assert refusal.info.reason == "INVALID_FIELD" and refusal.fields == ["holdfast-caller"]


GROUPS = {  # field 100
    "empty": b"\xa3\x06\xa4\x06", "with a field": b"\xa3\x06\x08\x01\xa4\x06",
    "in a group": b"\xa3\x06\xab\x06\x12\x02hi\xac\x06\xa4\x06"}
BAD_GROUPS = {"open": b"\xa3\x06\x08\x01", "ended by another": b"\xa3\x06\xac\x06", "an end alone": b"\xa4\x06",
              "200 deep": b"\xa3\x06" * 200 + b"\xa4\x06" * 200}


@pytest.mark.parametrize("name", GROUPS)
def test_unknown_groups(server, client, name):
    """A field like any other that is unknown: reads go on, changes say UNKNOWN_FIELD."""
    sku = client.item(5)
    read = stock_pb2.GetStockRequest(sku=sku).SerializeToString()
    change = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]).SerializeToString()
    with Connection(server) as connection:
        response = connection.call(1, GET_STOCK, GROUPS[name] + read + GROUPS[name])
        assert response.grpc_status == OK
        assert stock_pb2.GetStockResponse.FromString(response.body[5:]).stock.on_hand == 5
        response = connection.call(3, RESERVE, change + GROUPS[name])
        assert response.grpc_status == INVALID_ARGUMENT
        info = Refusal.of(response).info
        assert info.reason == "UNKNOWN_FIELD" and info.metadata["number"] == "100"


@pytest.mark.parametrize("name", BAD_GROUPS)
def test_broken_groups(server, client, name):
    read = stock_pb2.GetStockRequest(sku=client.item(5)).SerializeToString()
    with Connection(server) as connection:
        response = connection.call(1, GET_STOCK, read + BAD_GROUPS[name])
        assert Refusal.of(response).info.reason == "MALFORMED_MESSAGE"


def test_a_sub_message_in_parts_is_merged(server, client):
    """As every protobuf library does: ttl in two parts, seconds in one and nanoseconds in the other."""
    sku = client.item(5)
    parts = [Duration(seconds=90), Duration(nanos=500_000_000), Duration(seconds=60)]
    message = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]).SerializeToString()
    for part in parts:
        message += reservation_pb2.ReserveRequest(ttl=part).SerializeToString()
    merged = reservation_pb2.ReserveRequest.FromString(message)
    assert merged.ttl.ToNanoseconds() == 60_500_000_000
    with Connection(server) as connection:
        response = connection.call(1, RESERVE, message)
        assert response.grpc_status == OK
        held = reservation_pb2.ReserveResponse.FromString(response.body[5:])
        assert 55 < held.remaining.ToNanoseconds() / 1e9 <= 60.5
        # The same payload as in one part.
        again = reservation_pb2.ReserveResponse.FromString(
            connection.call(3, RESERVE, merged.SerializeToString()).body[5:])
        assert again.replayed and again.reservation_id == held.reservation_id


# Beside gRPC's own server.


class Reference:
    """C-core's server with the same health service."""

    def __init__(self):
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self.server)
        self.host, self.port = "127.0.0.1", self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()


@pytest.fixture(scope="module")
def reference():
    made = Reference()
    yield made
    made.server.stop(0)


def answer(server, fields, body=grpc_message(b"")):
    """What a server makes of a call, in words; a status other than OK is one word, for texts differ."""
    with Connection(server, timeout=3) as connection:
        try:
            connection.request(1, fields, body)
            response = connection.response(1)
        except Closed:
            return "connection closed"
        except TimeoutError:
            return "silence"
        if response.grpc_status is not None and response.header(":status") == "200":
            return "OK" if response.grpc_status == OK else STATUS_NAMES[response.grpc_status]
        if response.reset is not None and not response.headers:
            return "reset"
        return f"HTTP {response.header(':status')}"


STATUS_NAMES = {code.value[0]: code.name for code in StatusCode}
FIELDS = [  # what C-core serves, and so does this server; and what it does not
    {"x_blank": " v"}, {"x_blank": "v "}, {"x_blank": "\tv"}, {"x_blank": " "}, {"x_empty": ""},
    {"x_text": "gr\xf6\xdfe"}, {"x_data_bin": "AAE="}, {"x_data_bin": "AAE"},
    {":authority": "/run/holdfast.sock"}, {":authority": "%2Frun%2Fholdfast.sock"}, {":authority": "unix:/a"},
    {":authority": "a b"}, {":authority": "user@host"}, {":authority": ""}, {":authority": None},
    {":authority": None, "host": "localhost"}, {":scheme": "https"}, {":scheme": "unix"},
    {"content_type": "application/grpc+json"}, {"content_type": "application/grpc+proto"},
    {"content_type": "application/grpc+"}, {"content_type": "application/grpc;charset=utf-8"},
    {"content_type": "application/grpc; x"}, {"content_type": "application/grpc "},
    {"content_type": "Application/gRPC"}, {"content_type": "APPLICATION/GRPC+PROTO"},
    {"grpc_encoding": "identity"}, {"grpc_encoding": "gzip"}, {"grpc_encoding": "no-such"},
    {"grpc_accept_encoding": "no-such"}, {"user_agent": ""}, {"grpc_timeout": "99999999H"},
    {"te": "gzip"}, {"te": ""}, {"te": None}, {"te": "Trailers"},
]


@pytest.mark.parametrize("changed", FIELDS, ids=str)
def test_fields_as_grpcs_own_server_takes_them(server, reference, changed):
    """What C-core serves, this server serves; what it does not, we may reject in our own way."""
    fields = grpc_fields(CHECK, **changed)
    theirs, ours = answer(reference, fields), answer(server, fields)
    assert ours == "OK" if theirs == "OK" else ours not in ("silence", "connection closed"), (theirs, ours)


@pytest.mark.parametrize("te", ["trailers, deflate", "deflate, trailers", "Trailers"])
def test_te_of_a_proxy(server, te):
    """grpc-go serves these; C-core says INTERNAL to anything but "trailers"."""
    assert answer(server, grpc_fields(CHECK, te=te)) == "OK"


@pytest.mark.parametrize("te", ["trailers;q=0.5", "gzip", "trailers gzip", ""])
def test_te_without_trailers(server, te):
    """A proxy that drops trailers is in between; RFC 9110 section 10.1.4 gives "trailers" no weight."""
    assert answer(server, grpc_fields(CHECK, te=te)) == "reset"


@pytest.mark.parametrize("content_type", [
    "application/grpcweb", "application/grpc-web", "application/grpc-web+proto", "application/json", "", None])
def test_other_content_types(server, content_type):
    """The protocol says 415, and so does grpc-go; C-core serves anything."""
    assert answer(server, grpc_fields(CHECK, content_type=content_type)) == "HTTP 415"
