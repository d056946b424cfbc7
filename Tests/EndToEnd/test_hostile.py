"""Bad input: a clear error or a closed connection, never a trap; memory stays flat.

After each test the server must still answer a normal call, in the same process.
"""

import contextlib
import gzip
import os
import random
import resource
import select
import socket
import struct
import zlib

import pytest

import http2
from client import Client, fresh, line
from holdfast.v1 import reservation_pb2
from http2 import Closed, Connection, frame, grpc_fields, grpc_message, header_block
from server import eventually

RESERVE = "/holdfast.v1.ReservationService/Reserve"
GET_STOCK = "/holdfast.v1.StockService/GetStock"
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 5, 8, 12, 13
MEGABYTE = 1 << 20
FLOOD_GROWTH_BYTES = 32 * MEGABYTE


@pytest.fixture(autouse=True)
def survives(server):
    """The server answers and has not grown without bound, whatever the test sent."""
    before = server.resident_bytes()
    yield
    assert server.is_alive(), server.log_text()[-2000:]
    with Client(server.target) as client:
        assert client.reserve(line(client.item(1))).reservation_id
    assert server.resident_bytes() - before < FLOOD_GROWTH_BYTES


@pytest.fixture
def reserve_message(client):
    """A well-formed Reserve, encoded."""
    request = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(client.item(1000))])
    return request.SerializeToString()


@pytest.fixture
def connection(server):
    with Connection(server) as opened:
        yield opened


# Not HTTP/2 at all.


def closes(server, data):
    with Connection(server, preface=False) as connection:
        connection.send_slowly_refused(data)
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
        return connection.drain()


@pytest.mark.parametrize("seed", range(8))
def test_garbage_bytes(server, seed):
    assert closes(server, random.Random(seed).randbytes(5000))


@pytest.mark.parametrize("seed", range(8))
def test_garbage_frames_after_the_preface(server, seed):
    assert closes(server, http2.PREFACE + frame(http2.SETTINGS) + random.Random(seed).randbytes(5000))


def test_http_1(server):
    assert closes(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert closes(server, b"POST " + RESERVE.encode() + b" HTTP/1.1\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0")


def test_http_1_with_upgrade(server):
    assert closes(server, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                          b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")


def test_tls_hello(server):
    assert closes(server, bytes.fromhex("160301020001000001fc0303") + bytes(500))


@pytest.mark.parametrize("length", range(0, len(http2.PREFACE) + 10, 3))
def test_truncated_preface(server, length):
    assert closes(server, (http2.PREFACE + frame(http2.SETTINGS))[:length])


def test_truncated_at_every_byte_of_a_request(server, reserve_message):
    whole = (http2.PREFACE + frame(http2.SETTINGS)
             + frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(grpc_fields(RESERVE)))
             + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(reserve_message)))
    for length in range(len(whole)):
        with Connection(server, preface=False) as connection:
            connection.send(whole[:length])


# HTTP/2 that is not gRPC.


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/grpcx", "", None])
def test_wrong_content_type_is_415(connection, content_type):
    connection.request(1, grpc_fields(RESERVE, content_type=content_type), grpc_message(b""))
    response = connection.response(1)
    assert response.header(":status") == "415" and response.body == b""


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_other_good_content_types(connection, reserve_message, content_type):
    assert connection.call(1, RESERVE, reserve_message, content_type=content_type).grpc_status == OK


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_methods_other_than_post(connection, method):
    connection.request(1, grpc_fields(RESERVE, **{":method": method}))
    assert connection.response(1).header(":status") in ("405", "400")


@pytest.mark.parametrize("changed", [
    {":path": None}, {":method": None}, {":scheme": None}, {":path": ""}, {"Upper-Case": "x"}, {"": "x"},
    {"connection": "close"}, {"te": "gzip"}, {"newline": "a\nb"}, {":unknown": "x"}], ids=str)
def test_malformed_headers_reset_the_stream_or_refuse(connection, reserve_message, changed):
    with contextlib.suppress(Closed):
        connection.request(1, grpc_fields(RESERVE, **changed), grpc_message(reserve_message))
        response = connection.response(1)
        assert response.grpc_status != OK or response.reset is not None
        assert connection.call(3, RESERVE, reserve_message).grpc_status == OK


# gRPC that is not quite.


def test_data_split_at_every_byte(connection, reserve_message):
    body = grpc_message(reserve_message)
    fields = header_block(grpc_fields(RESERVE))
    for stream, cut in zip(range(1, 10_000, 2), range(len(body) + 1)):
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, fields))
        connection.send(frame(http2.DATA, 0, stream, body[:cut]))
        connection.send(frame(http2.DATA, http2.END_STREAM, stream, body[cut:]))
        assert connection.response(stream).grpc_status == OK


def test_data_in_single_bytes_with_padding(connection, reserve_message):
    connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(grpc_fields(RESERVE))))
    for byte in grpc_message(reserve_message):
        connection.send(frame(http2.DATA, http2.PADDED, 1, bytes([3, byte, 0, 0, 0])))
    connection.send(frame(http2.DATA, http2.END_STREAM, 1))
    assert connection.response(1).grpc_status == OK


def test_frames_split_at_every_byte_of_the_wire(server, reserve_message):
    with Connection(server) as connection:
        connection.read_frame()
        whole = (frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(grpc_fields(RESERVE)))
                 + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(reserve_message)))
        for at in range(len(whole)):
            connection.send(whole[at:at + 1])
        assert connection.response(1).grpc_status == OK


@pytest.mark.parametrize("body", [
    pytest.param(b"", id="no message"),
    pytest.param(b"\0\0\0", id="part of a prefix"),
    pytest.param(b"\0\0\0\0\x10abc", id="shorter than its prefix says"),
    pytest.param(b"\0\xff\xff\xff\xff", id="a length of 4 GiB"),
    pytest.param(b"\1\0\0\0\3abc", id="compressed without grpc-encoding"),
    pytest.param(b"\7\0\0\0\3abc", id="a flag that does not exist"),
    pytest.param(grpc_message(b"") * 2, id="two messages in a unary call"),
    pytest.param(grpc_message(b"") + b"\0", id="something after the message")])
def test_broken_message_framing(connection, reserve_message, body):
    connection.request(1, grpc_fields(RESERVE), body)
    response = connection.response(1)
    assert response.grpc_status not in (None, OK)
    assert response.header(":status") == "200"
    assert connection.call(3, RESERVE, reserve_message).grpc_status == OK


def test_a_message_over_the_limit_is_refused_before_it_is_whole(connection, reserve_message):
    connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(grpc_fields(RESERVE))))
    connection.send(frame(http2.DATA, 0, 1, grpc_message(bytes(80 * 1024 + 1))[:16384]))
    for _ in range(4):
        connection.send(frame(http2.DATA, 0, 1, bytes(12300)))
    assert connection.response(1).grpc_status == RESOURCE_EXHAUSTED
    assert connection.call(3, RESERVE, reserve_message).grpc_status == OK


@pytest.mark.parametrize("encoding", ["snappy", "zstd", "br", "GZIP", "gzip, gzip", "x" * 1000])
def test_unknown_encodings_are_rejected_with_what_is_accepted(connection, reserve_message, encoding):
    connection.request(1, grpc_fields(RESERVE, grpc_encoding=encoding), b"\1\0\0\0\3abc")
    response = connection.response(1)
    assert response.grpc_status == UNIMPLEMENTED
    assert response.header("grpc-accept-encoding") == "identity,deflate,gzip"
    assert connection.call(3, RESERVE, reserve_message).grpc_status == OK


@pytest.mark.parametrize("encoding, compress", [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages(connection, reserve_message, encoding, compress):
    def call(stream, message, **fields):
        connection.request(
            stream, grpc_fields(RESERVE, grpc_encoding=encoding, **fields),
            b"\1" + len(message).to_bytes(4, "big") + message)
        return connection.response(stream)

    assert call(1, compress(reserve_message)).grpc_status == OK
    assert call(3, b"garbage").grpc_status == INTERNAL
    assert call(5, compress(reserve_message)[:-1]).grpc_status == INTERNAL
    # 10 MiB in 10 KiB.
    assert call(7, compress(bytes(10 << 20))).grpc_status == RESOURCE_EXHAUSTED
    assert call(9, compress(reserve_message)).grpc_status == OK


def test_a_deadline_that_has_passed(connection, reserve_message):
    """A passed deadline is not a decision: the key is free for the next try."""
    assert connection.call(1, RESERVE, reserve_message, grpc_timeout="0n").grpc_status == DEADLINE_EXCEEDED
    response = connection.call(3, RESERVE, reserve_message)
    assert not reservation_pb2.ReserveResponse.FromString(response.body[5:]).replayed


@pytest.mark.parametrize("timeout", ["99999999H", "1M", "20S", "5000m", "9999999u", "99999999n"])
def test_good_timeouts(connection, reserve_message, timeout):
    assert connection.call(1, RESERVE, reserve_message, grpc_timeout=timeout).grpc_status == OK


@pytest.mark.parametrize("timeout", ["5", "S", "-1S", "123456789S", "1 S", "1s", "1.5S"])
def test_bad_timeouts_are_refused(connection, reserve_message, timeout):
    response = connection.call(1, RESERVE, reserve_message, grpc_timeout=timeout)
    assert response.grpc_status not in (None, OK)
    assert connection.call(3, RESERVE, reserve_message).grpc_status == OK


# Clients that vanish.


@pytest.mark.parametrize("how", ["close", "reset"])
def test_clients_that_vanish_mid_call(server, reserve_message, how):
    for _ in range(200):
        connection = Connection(server)
        for stream in range(1, 40, 2):
            connection.request(stream, grpc_fields(RESERVE), grpc_message(reserve_message))
        if how == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.close()


def test_a_client_that_never_reads(server):
    """Unsent bytes are bounded: the server stops reading, and then this client's send blocks."""
    with Connection(server, timeout=2) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        fields = header_block(grpc_fields("/no.Such/Method"))
        calls = b"".join(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, fields)
                         for stream in range(1, 400_001, 2))
        connection.send_slowly_refused(calls)


def idle_connections(server, count):
    opened = []
    for _ in range(count):
        opened.append(socket.create_connection((server.host, server.port), 10))
    return opened


def test_2000_connections_that_send_nothing(start):
    """They cost little, go away by the handshake timeout, and a second round costs nothing more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    server = start("--handshake-timeout", "3s")
    at_rest = server.resident_bytes()
    grown = []
    for _ in range(3):
        opened = idle_connections(server, 2000)
        with Client(server.target) as client:
            client.reserve(line(client.item(1)))
        grown.append(server.resident_bytes() - at_rest)
        eventually(lambda: open_descriptors(server) < 100, seconds=15)
        for each in opened:
            each.close()
    assert grown[0] < 2000 * 16 * 1024, grown
    assert grown[2] - grown[0] < 4 * MEGABYTE, grown


def open_descriptors(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


# Floods: the connection is closed, or the stream refused, before they cost memory.


def flood(server, data, prefix=b"", timeout=5):
    """Sends it without reading, as an attacker does. True if the server closed the connection."""
    with Connection(server, timeout=timeout) as connection:
        connection.send(prefix)
        connection.send_slowly_refused(data)
        return connection.drain()


def post(stream, flags=0):
    return frame(http2.HEADERS, http2.END_HEADERS | flags, stream, header_block(grpc_fields(RESERVE)))


def test_ping_flood(server):
    assert flood(server, frame(http2.PING, payload=bytes(8)) * 200_000)


def test_settings_flood(server):
    assert flood(server, frame(http2.SETTINGS) * 200_000)


def test_settings_of_many_entries(server):
    entry = struct.pack(">HI", 0x7777, 1)
    assert flood(server, frame(http2.SETTINGS, payload=entry * 2700) * 2000)


@pytest.mark.parametrize("ends", [
    pytest.param(http2.reset, id="rapid reset"),
    # MadeYouReset: each stream draws a stream error by a window update of zero.
    pytest.param(lambda stream: http2.window_update(stream, 0), id="resets that the server is made to send")])
def test_reset_flood(server, ends):
    """20,000 at once and 10,000 a second are a client's; 100,000 at once are not."""
    block = header_block(grpc_fields(RESERVE))
    pieces = [b"".join(frame(http2.HEADERS, http2.END_HEADERS, stream, block) + ends(stream)
                       for stream in range(first, first + 2000, 2)) for first in range(1, 200_001, 2000)]
    with Connection(server) as connection:
        for piece in pieces:
            if not connection.send_slowly_refused(piece, 1 << 20):
                break
            # A server whose resets are not read would read no more, and that is not what is tested here.
            if select.select([connection.socket], [], [], 0)[0]:
                with contextlib.suppress(ConnectionError):
                    connection.received += connection.socket.recv(1 << 20)
        assert connection.drain()
        assert (connection.goaway, connection.goaway_text) == (http2.ENHANCE_YOUR_CALM, "too_many_resets")


def test_continuation_flood(server):
    assert flood(server, frame(http2.CONTINUATION, 0, 1, header_block([("x", "y" * 1000)])) * 50_000,
                 prefix=frame(http2.HEADERS, 0, 1, header_block(grpc_fields(RESERVE))))


def test_empty_data_flood(server):
    assert flood(server, frame(http2.DATA, 0, 1) * 500_000, prefix=post(1))


def test_priority_flood(server):
    """PRIORITY frames cost nothing; what counts is that the server lives on."""
    flood(server, frame(http2.PRIORITY, 0, 1, struct.pack(">IB", 0, 1)) * 100_000, timeout=1)


def test_window_update_flood(server):
    flood(server, http2.window_update(0, 1) * 200_000, timeout=1)


def test_header_list_over_the_limit(connection, reserve_message):
    fields = grpc_fields(RESERVE) + [("x-long", "v" * 6000)] * 3
    block = header_block(fields)
    with contextlib.suppress(Closed):
        connection.send(frame(http2.HEADERS, 0, 1, block[:16000])
                        + frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[16000:])
                        + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(reserve_message)))
        response = connection.response(1)
        assert response.grpc_status != OK and response.body == b""


def test_header_list_that_grows_in_decoding(connection, reserve_message):
    """A HPACK bomb: 4 KB in the dynamic table, referred to by one byte 4,000 times: 16 MB."""
    entry = b"\x40" + header_block([("bomb", "v" * 3900)])[1:]
    block = header_block(grpc_fields(RESERVE)) + entry + b"\xbe" * 4000
    with contextlib.suppress(Closed):
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, block)
                        + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(reserve_message)))
        response = connection.response(1)
        assert response.grpc_status != OK and response.body == b""


def test_more_streams_than_allowed(connection):
    with contextlib.suppress(Closed):
        connection.send(b"".join(post(stream) for stream in range(1, 8001, 2)))
        assert connection.response(7999).reset is not None or connection.goaway is not None


# Flow control.


def test_overflow_of_the_connection_window(connection):
    connection.send(http2.window_update(0, 2**31 - 1) * 2)
    assert connection.drain()
    assert connection.goaway == http2.FLOW_CONTROL_ERROR


def test_overflow_of_a_stream_window(connection):
    with contextlib.suppress(Closed):
        connection.send(post(1) + http2.window_update(1, 2**31 - 1) * 2)
        assert connection.response(1).reset == http2.FLOW_CONTROL_ERROR


def test_data_past_the_window(server):
    flood(server, frame(http2.DATA, 0, 1, bytes(16384)) * 4096, prefix=post(1), timeout=1)


def test_a_client_without_window_gets_its_answer_later(server, reserve_message):
    """SETTINGS_INITIAL_WINDOW_SIZE 0: the answer waits until a window is given, a byte at a time."""
    with Connection(server, settings=struct.pack(">HI", 4, 0)) as connection:
        connection.request(1, grpc_fields(RESERVE), grpc_message(reserve_message))
        for _ in range(200):
            connection.send(http2.window_update(1, 1))
        assert connection.response(1).grpc_status == OK


def test_frames_that_break_the_protocol(server):
    for broken in (
        frame(http2.DATA, 0, 0, b"x"), frame(http2.HEADERS, 0, 2, b""), frame(http2.DATA, 0, 1, b"x"),
        frame(http2.SETTINGS, 0, 0, b"12345"), frame(http2.SETTINGS, 0, 1), frame(http2.PING, 0, 0, b"1"),
        frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, bytes(4)), frame(http2.CONTINUATION, 0, 1),
        frame(http2.WINDOW_UPDATE, 0, 0, bytes(4)), frame(http2.RST_STREAM, 0, 1, bytes(4)),
        b"\xff\xff\xff" + frame(http2.DATA, 0, 1)[3:], frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff")):
        with Connection(server) as connection:
            connection.send_slowly_refused(broken)
            assert connection.drain(), broken


def test_unknown_frames_are_ignored(connection, reserve_message):
    connection.send(frame(0xEE, 0xFF, 0, bytes(100)) * 10)
    assert connection.call(1, RESERVE, reserve_message).grpc_status == OK


def test_many_seeds_of_mutated_requests(server, reserve_message):
    """Well-formed traffic with a few bytes changed: every path is entered, none traps."""
    whole = frame(http2.SETTINGS) + b"".join(
        frame(http2.HEADERS, http2.END_HEADERS, stream, header_block(grpc_fields(RESERVE)))
        + frame(http2.DATA, http2.END_STREAM, stream, grpc_message(reserve_message))
        for stream in (1, 3, 5))
    for seed in range(400):
        source = random.Random(seed)
        mutated = bytearray(whole)
        for _ in range(source.randint(1, 6)):
            mutated[source.randrange(len(mutated))] = source.randrange(256)
        with Connection(server, preface=False) as connection:
            connection.send(http2.PREFACE + bytes(mutated))
