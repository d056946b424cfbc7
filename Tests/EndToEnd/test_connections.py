"""What one connection may do to others: late frames, stalled windows, slow header blocks, idle peers."""

import pytest

from client import Client
from holdfast.v1 import stock_pb2
from http2 import (
    DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, NO_ERROR, Response, frame, grpc_fields, grpc_message,
    header_block)
from http2_peer import CHECK, INITIAL_WINDOW_SIZE, Peer
from server import eventually

OK, UNIMPLEMENTED = 0, 12
UNKNOWN = header_block(grpc_fields("/no.Such/Method"))
TRAILERS = header_block([("checksum", "1")])


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
        assert all(peer.responses[stream].reset == NO_ERROR for stream in streams)
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
        for peer in hostile:
            while any(peer.responses.setdefault(stream, Response()).reset is None for stream in (1, 999)):
                peer.read_frame()
            # Those that had a response wait in vain; the others were refused, and are told to send no more.
            assert peer.responses[1].reset == ENHANCE_YOUR_CALM
        eventually(lambda: server.resident_bytes() - before < 32 * MEGABYTE)
        for peer in hostile:
            peer.set((INITIAL_WINDOW_SIZE, 1 << 16))
            peer.goes_on()
