"""What one connection may do to others: late frames, stalled windows, slow header blocks, idle peers."""

import contextlib
import os
import pathlib
import socket
import time
import urllib.request

import pytest

from client import Client
from holdfast.v1 import stock_pb2
from http2 import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, NO_ERROR, PING, PREFACE, PRIORITY,
    SETTINGS, Closed, Response, frame, grpc_fields, grpc_message, header_block)
from http2_peer import CHECK, INITIAL_WINDOW_SIZE, WINDOW_MAX, EagerPeer, Peer
from server import Server, eventually

OK, UNIMPLEMENTED, UNAVAILABLE = 0, 12, 14
REFUSED_STREAM = 7
IMPATIENCE = 0.4
# Requests of one connection that are read to their end after an early response, at a time.
DRAINED = 128
UNKNOWN = header_block(grpc_fields("/no.Such/Method"))
TRAILERS = header_block([("checksum", "1")])


@pytest.fixture(scope="module")
def impatient(binary):
    """A server that gives a frame little time."""
    with Server(binary, "--handshake-timeout", f"{int(IMPATIENCE * 1000)}ms") as running:
        yield running


def metric(server, sample):
    """The value of one sample of the metrics page, such as name{label="value"}."""
    page = urllib.request.urlopen(f"http://{server.host}:{server.admin_port}/metrics").read().decode()
    return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"{sample} "))


def abuse(server, kind):
    return metric(server, f'holdfast_connection_abuse_total{{kind="{kind}"}}')


# RFC 9113 section 5.1: frames on a stream that the server has reset are read and dropped.


@pytest.mark.parametrize("calls", [1, 17, 500, 1500])
@pytest.mark.parametrize("late", ["data", "trailers", "both"])
def test_late_frames_of_calls_that_were_rejected_early(server, calls, late):
    """As behind a proxy: many users' calls are rejected before their bodies came, and the rest still comes."""
    streams = range(1, 2 * calls, 2)
    with Peer(server) as peer:
        for stream in streams:
            peer.send(frame(HEADERS, END_HEADERS, stream, UNKNOWN))
            response = peer.response(stream)
            assert response.grpc_status == UNIMPLEMENTED
        peer.barrier()
        # The first are read to their end; where there are more than that, they are reset.
        assert [stream for stream in streams if peer.responses[stream].reset is not None] == list(streams)[DRAINED:]
        assert all(peer.responses[stream].reset == NO_ERROR for stream in list(streams)[DRAINED:])
        for stream in streams:
            if late != "trailers":
                peer.send(frame(DATA, END_STREAM if late == "data" else 0, stream, grpc_message(bytes(100))))
            if late != "data":
                peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS))
        peer.goes_on(2 * calls + 1)
        assert peer.goaway is None
        assert peer.call(2 * calls + 3, CHECK, b"").grpc_status == OK


# Responses that nobody takes.

LIST = "/holdfast.v1.StockService/ListStock"
MEGABYTE = 1 << 20


def list_stock(page_size):
    return grpc_message(stock_pb2.ListStockRequest(page_size=page_size).SerializeToString())


@pytest.mark.alone
def test_windows_that_never_open_cost_others_nothing(start):
    """14 connections ask for far more than the server may keep, and give no credit for it."""
    server = start("--loops", "1", "--stall-timeout", "2s")
    with Client(server.target) as client:
        # Names as long as they may be: a page is some 50 KB.
        for number in range(500):
            client.adjust(f"{number:064}", set_on_hand=1)
        before = server.resident_bytes()
        hostile = [Peer(server, [(INITIAL_WINDOW_SIZE, 0)], gives_credit=False) for _ in range(14)]
        for peer in hostile:
            peer.send(b"".join(
                frame(HEADERS, END_HEADERS, stream, header_block(grpc_fields(LIST)))
                + frame(DATA, END_STREAM, stream, list_stock(500)) for stream in range(1, 1001, 2)))
            assert len(client.stock.ListStock(stock_pb2.ListStockRequest(page_size=500), **client.call).stock) == 500
        grown = server.resident_bytes() - before
        for peer in hostile:
            while any(peer.responses.setdefault(stream, Response()).reset is None for stream in (1, 999)):
                peer.read_frame()
            # Those that had a response wait in vain; the others were refused, and are told to send no more.
            assert peer.responses[1].reset == ENHANCE_YOUR_CALM
        # All loops together keep 256 MiB at most of what nobody takes.
        assert grown < 288 * MEGABYTE, f"{grown >> 20} MiB"
        eventually(lambda: server.resident_bytes() - before < 32 * MEGABYTE)
        for peer in hostile:
            peer.set((INITIAL_WINDOW_SIZE, 1 << 16))
            peer.goes_on()


# Frames that do not come to their end.

CALL = frame(HEADERS, END_HEADERS, 1, header_block(grpc_fields(CHECK)))


@pytest.mark.parametrize("begun, drip", [
    pytest.param(frame(HEADERS, 0, 1, UNKNOWN[:1]), [], id="HEADERS alone"),
    pytest.param(frame(HEADERS, 0, 1, UNKNOWN[:1]), [frame(CONTINUATION, 0, 1, b"")] * 10, id="CONTINUATION by and by"),
    pytest.param(CALL[:9], [CALL[at:at + 1] for at in range(9, 19)], id="HEADERS byte by byte"),
    pytest.param(b"", [CALL[at:at + 1] for at in range(10)], id="a header byte by byte"),
    pytest.param(CALL + frame(DATA, 0, 1, bytes(100))[:20], [b"\0"] * 10, id="DATA byte by byte"),
    pytest.param(frame(PING, 0, 0, bytes(8))[:-1], [], id="PING cut off"),
])
def test_what_was_begun_has_to_end_in_time(impatient, begun, drip):
    before = abuse(impatient, "frame_timeout")
    with Peer(impatient) as peer, Peer(impatient) as other:
        peer.barrier()
        other.barrier()
        if begun:
            peer.send(begun)
        # More often than the time that it has, so that only its beginning can count.
        for part in drip:
            time.sleep(IMPATIENCE / 4)
            with contextlib.suppress(Closed):
                peer.send(part)
        assert peer.drain()
        assert (peer.goaway, peer.goaway_text) == (ENHANCE_YOUR_CALM, "frame_timeout")
        assert abuse(impatient, "frame_timeout") == before + 1
        other.goes_on()


def test_frames_that_end_in_time_may_come_slowly_one_after_the_other(impatient):
    """For longer than one of them may take, and never with nothing begun."""
    body = grpc_message(b"")
    with Peer(impatient) as peer:
        for stream in range(1, 13, 2):
            whole = (frame(HEADERS, 0, stream, UNKNOWN[:9]) + frame(CONTINUATION, END_HEADERS, stream, UNKNOWN[9:])
                     + frame(DATA, END_STREAM, stream, body))
            cut = len(whole) - 3
            peer.send((b"" if stream == 1 else held) + whole[:cut])
            held = whole[cut:]
            time.sleep(IMPATIENCE / 3)
        peer.send(held)
        assert peer.response(11).grpc_status == UNIMPLEMENTED
        peer.goes_on()


# Floods: what the GOAWAY frame says.


@pytest.mark.parametrize("flood, text", [
    pytest.param(frame(PING, payload=bytes(8)) * 20_000, "too_many_pings", id="PING"),
    pytest.param(frame(SETTINGS) * 1_000, "too_many_settings", id="SETTINGS"),
    pytest.param(frame(PRIORITY, 0, 1, bytes(5)) * 3_000, "too_many_empty_frames", id="PRIORITY"),
    pytest.param(frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 100, "header_list_too_large",
                 id="CONTINUATION"),
])
def test_goaway_says_what_was_too_much(server, flood, text):
    with EagerPeer(server) as peer:
        peer.barrier()
        peer.send(flood)
        with contextlib.suppress(OSError):
            while not peer.goaway:
                peer.read_frame()
        assert (peer.goaway, peer.goaway_text) == (ENHANCE_YOUR_CALM, text)


# How many connections, and how long they live.


def from_address(server, address):
    """A connected socket whose other side sees that address."""
    return socket.create_connection((server.host, server.port), 10, source_address=(address, 0))


def is_open(connected):
    """The server has not closed it: its SETTINGS come, and no end."""
    connected.sendall(PREFACE + frame(SETTINGS))
    try:
        return bool(connected.recv(1 << 16))
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("loops", [1, 2])
def test_idle_connections_give_way(start, loops):
    """A full server is not locked: who has no call goes, who has one stays."""
    server = start("--max-connections", "20", "--loops", str(loops))
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Peer(server)) for _ in range(4)]
        for peer in busy:
            peer.send(CALL)
            peer.barrier()
        idle = [stack.enter_context(Peer(server)) for _ in range(8)]
        for peer in idle:
            peer.barrier()
        for _ in range(8):
            stack.enter_context(contextlib.closing(socket.create_connection((server.host, server.port), 10)))
        for _ in range(6):
            newcomer = None

            def served():
                nonlocal newcomer
                with contextlib.suppress(Closed, TimeoutError):
                    newcomer = Peer(server)
                    newcomer.goes_on()
                    return True

            eventually(served)
            stack.enter_context(newcomer)
            # Above the stream of the call that showed that it is served.
            newcomer.send(frame(HEADERS, END_HEADERS, 1003, header_block(grpc_fields(CHECK))))
            newcomer.barrier()
        for peer in busy:
            peer.send(frame(DATA, END_STREAM, 1, grpc_message(b"")))
            assert peer.response(1).grpc_status == OK
        # The longest idle one of its loop goes first, and is told; of several loops any may be the one.
        if loops == 1:
            assert idle[0].drain() and idle[0].goaway == NO_ERROR
        # A newcomer that was not served in time leaves its place to the next.
        assert metric(server, "holdfast_connections_evicted_total") >= 1


def test_an_evicted_peer_hears_of_it_whatever_it_is_sending(start):
    """Its calls may be on their way: they must not turn the GOAWAY into a reset of the socket."""
    server = start("--max-connections", "2", "--loops", "1")
    with Peer(server) as idle, Peer(server) as busy:
        busy.send(CALL)
        busy.barrier()
        assert idle.call(1, CHECK, b"").grpc_status == OK
        time.sleep(1.1)
        with Peer(server) as newcomer:
            newcomer.goes_on()
            assert metric(server, "holdfast_connections_evicted_total") == 1
            assert metric(server, "holdfast_connections") == 2
            # Each in a packet of its own, with time for an answer to the one before.
            for stream in (3, 5, 7):
                idle.request(stream, grpc_fields(CHECK), grpc_message(b""))
                time.sleep(0.05)
            assert idle.drain()
            # Streams above the last one were not looked at: a client may send them again.
            assert (idle.goaway, idle.last_stream) == (NO_ERROR, 1)


def test_evicted_peers_that_stay_are_few(start):
    """They get a moment to read their GOAWAY; that many may not hold more sockets than the server should have."""
    server = start("--max-connections", "150", "--loops", "1")
    with contextlib.ExitStack() as stack:
        def connect():
            peer = stack.enter_context(Peer(server))
            peer.barrier()

        for _ in range(150):
            connect()
        time.sleep(1.1)
        for _ in range(150):
            connect()
        sockets = 0
        for entry in pathlib.Path(f"/proc/{server.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets += os.readlink(entry).startswith("socket:")
        assert metric(server, "holdfast_connections") == 150
        assert metric(server, "holdfast_connections_evicted_total") == 150
        # And listeners, and the admin port's.
        assert sockets <= 150 + 64 + 10, sockets


def test_connections_that_have_calls_are_not_evicted(start):
    server = start("--max-connections", "3", "--loops", "1")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            peer = stack.enter_context(Peer(server))
            peer.send(CALL)
            peer.barrier()
        time.sleep(1.1)
        with contextlib.suppress(Closed):  # at once
            assert Peer(server).drain()
        assert metric(server, 'holdfast_connections_refused_total{reason="limit"}') == 1
        assert metric(server, "holdfast_connections_evicted_total") == 0


def test_a_peer_has_its_share(start):
    server = start("--max-connections-per-peer", "3")
    held = [from_address(server, "127.0.0.2") for _ in range(3)]
    assert all(is_open(each) for each in held)
    for refused in range(1, 4):
        assert not is_open(from_address(server, "127.0.0.2"))
        assert metric(server, 'holdfast_connections_refused_total{reason="per_peer_limit"}') == refused
    other = from_address(server, "127.0.0.3")
    assert is_open(other)
    # A place is free again once one of them is gone.
    held.pop().close()
    eventually(lambda: is_open(from_address(server, "127.0.0.2")))


def test_loopback_has_no_share_by_default(start):
    server = start("--max-connections", "8")
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(Peer(server)).goes_on()


def test_old_connections_end_in_two_steps(start):
    server = start("--max-connection-age", "400ms")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            peer = stack.enter_context(Peer(server))
            peer.send(CALL)
            begun = time.monotonic()
            while peer.goaway is None:
                peer.read_frame()
            assert time.monotonic() - begun >= 0.3
            assert (peer.goaway, peer.last_stream) == (NO_ERROR, WINDOW_MAX)
            # Still served: it may have been on its way. A second later it is not, which a busy machine may let pass.
            served = peer.call(3, CHECK, b"")
            if not served.reset:
                break
        assert served.grpc_status == OK
        while peer.last_stream == WINDOW_MAX:
            peer.read_frame()
        assert peer.last_stream == 3
        peer.request(5, grpc_fields(CHECK), grpc_message(b""))
        assert peer.response(5).reset == REFUSED_STREAM
        # Calls that are open have their time.
        peer.send(frame(DATA, END_STREAM, 1, grpc_message(b"")))
        assert peer.response(1).grpc_status == OK
        assert peer.drain()


def test_the_grace_of_old_connections_ends(start):
    server = start("--max-connection-age", "200ms", "--max-connection-age-grace", "300ms")
    with Peer(server) as peer:
        peer.send(CALL)
        assert peer.response(1).grpc_status == UNAVAILABLE
        assert peer.drain()


def test_idle_connections_end(start):
    server = start("--max-connection-idle", "500ms")
    with Peer(server) as busy, Peer(server) as peer:
        busy.send(CALL)
        begun = time.monotonic()
        for stream in (1, 3, 5):
            assert peer.call(stream, CHECK, b"").grpc_status == OK
            time.sleep(0.3)
        assert peer.goaway is None
        assert peer.drain() and peer.goaway == NO_ERROR and peer.last_stream == 5
        assert time.monotonic() - begun >= 0.6 + 0.5
        busy.barrier()
        assert busy.goaway is None


def test_silent_peers_are_asked_and_cut_off(start):
    server = start("--keepalive-time", "300ms", "--keepalive-timeout", "300ms")
    with Peer(server) as answering, Peer(server) as silent:
        deadline = time.monotonic() + 1.5
        pings = 0
        while time.monotonic() < deadline:
            kind, flags, _, payload = answering.read_frame()
            if kind == PING and not flags & ACK:
                pings += 1
                answering.send(frame(PING, ACK, 0, payload))
        assert 3 <= pings <= 6
        answering.goes_on()
        assert silent.drain()
        assert abuse(server, "keepalive_timeout") == 1
