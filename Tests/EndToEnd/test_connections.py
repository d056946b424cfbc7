"""What one connection may do to others: late frames, stalled windows, slow header blocks, idle peers."""

import pytest

from http2 import DATA, END_HEADERS, END_STREAM, HEADERS, NO_ERROR, frame, grpc_fields, grpc_message, header_block
from http2_peer import CHECK, Peer

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
