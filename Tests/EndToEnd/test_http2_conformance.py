"""HTTP/2 clause by clause: what RFC 9113 and RFC 7541 say of each frame, field and table.

A case is what a client sends and what must come of it: an error of the connection, an error of the
stream, or nothing at all. The client of these tests also judges every frame that the server sends.
After each case the server must still answer a call on a new connection, in the same process.
"""

import struct

import hpack
import pytest

from http2 import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, Closed, Response, frame, grpc_fields, grpc_message,
    header_block, reset, window_update)
from http2_peer import (
    CHECK, CHECK_ANSWER, ENABLE_PUSH, FRAME_BYTES_MAX, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_STREAMS, OK,
    PRIORITY_FLAG, WINDOW, WINDOW_MAX, Peer, setting)

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
COMPRESSION_ERROR = 9


@pytest.fixture(autouse=True)
def survives(server):
    yield
    assert server.is_alive(), server.log_text()[-2000:]
    with Peer(server) as peer:
        peer.goes_on()


@pytest.fixture
def peer(server):
    with Peer(server) as connected:
        yield connected


# What must come of it.


def connection_error(*codes):
    """Section 5.4.1: GOAWAY with one of the codes, then the connection ends."""
    def judge(peer):
        assert peer.drain(), "the connection is still open"
        assert peer.goaway in codes, f"GOAWAY {peer.goaway}, not {codes}"
    return judge


def closed(peer):
    """The connection ends; section 3.4 lets GOAWAY be left out where the preface is wrong."""
    assert peer.drain(), "the connection is still open"


def stream_error(*codes, stream=1):
    """Section 5.4.2: RST_STREAM with one of the codes, or the same as an error of the connection."""
    def judge(peer):
        try:
            while (response := peer.responses.setdefault(stream, Response())).reset is None:
                peer.read_frame()
        except Closed:
            assert peer.goaway in codes
            return
        assert response.reset in codes, f"RST_STREAM {response.reset}, not {codes}"
        assert response.grpc_status is None, "reset, and answered as well"
        if peer.goaway is None:
            peer.goes_on()
    return judge


def malformed(peer):
    """Section 8.1.1: a stream error PROTOCOL_ERROR; a server may answer with a 4xx before it."""
    try:
        response = peer.response(1)
        if (response.header(":status") or "").startswith("4"):
            return peer.goes_on()
    except Closed:
        assert peer.goaway == PROTOCOL_ERROR
        return
    assert response.reset == PROTOCOL_ERROR, response
    peer.goes_on()


def ignored(peer):
    peer.goes_on()


def answered(peer):
    """The call on stream 1 is good, and the connection goes on."""
    response = peer.response(1)
    assert response.grpc_status == OK and response.body == CHECK_ANSWER, response
    peer.goes_on()


def answered_at_least(peer):
    """Section 6.8: whether the connection then ends is up to the server."""
    assert peer.response(1).grpc_status == OK


def survived(peer):
    """Whatever it does with the connection."""


def ignored_or(judge):
    """Nothing at all, not even RST_STREAM for a stream that is idle; or an error of the connection."""
    def not_reset(peer):
        peer.goes_on()
        assert peer.responses.get(1, Response()).reset is None, "6.4: RST_STREAM on an idle stream"
    return any_of(judge, not_reset)


def refused(peer):
    """A good request by HTTP/2's rules that no method answers to."""
    response = peer.response(1)
    assert response.reset is not None or response.grpc_status != OK or response.header(":status") != "200"
    peer.goes_on()


def any_of(*judges):
    def judge(peer):
        failures = []
        for one in judges:
            try:
                return one(peer)
            except (AssertionError, Closed, TimeoutError) as failure:
                failures.append(failure)
        raise AssertionError(failures)
    return judge


# What is sent. A number among the steps waits for the end of that stream.

BLOCK = header_block(grpc_fields(CHECK))
BODY = grpc_message(b"")


def open_stream(stream=1):
    return frame(HEADERS, END_HEADERS, stream, BLOCK)


def end(stream=1, body=BODY):
    return frame(DATA, END_STREAM, stream, body)


def call(stream=1):
    return open_stream(stream) + end(stream)


def with_fields(*fields, **changed):
    return frame(HEADERS, END_HEADERS, 1, header_block(grpc_fields(CHECK, **changed) + list(fields))) + end()


def with_block(block):
    return frame(HEADERS, END_HEADERS, 1, block) + end()


def priority(stream, depends_on=0):
    return frame(PRIORITY, 0, stream, struct.pack(">IB", depends_on, 15))


def raw_length(length, kind, stream=0, sent=b""):
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, 0, stream) + sent


def goaway(stream=0, payload=bytes(8)):
    return frame(GOAWAY, 0, stream, payload)


TRAILERS = header_block([("x-checksum", "1")])
STATELESS_PSEUDO = header_block(grpc_fields(CHECK)[:4])
REST = header_block(grpc_fields(CHECK)[4:])
SPLIT = [frame(HEADERS, 0, 1, BLOCK[:9]), frame(CONTINUATION, 0, 1, BLOCK[9:30]),
         frame(CONTINUATION, END_HEADERS, 1, BLOCK[30:])]

FRAMING = [
    ("4.1 reserved bit of the stream is ignored",
     [b"".join(part[:5] + b"\x80" + part[6:] for part in (open_stream(), end()))], answered),
    ("4.1 unknown flags are ignored", [frame(HEADERS, END_HEADERS | 0x52, 1, BLOCK), frame(DATA, 0xF7, 1, BODY)],
     answered),
    ("4.1 unknown flags of PING are ignored", [frame(PING, 0xFE, 0, bytes(8)), call()], answered),
    ("4.2 largest DATA", [open_stream(), frame(DATA, PADDED, 1, b"\xff" + bytes(FRAME_BYTES_MAX - 1))], ignored),
    ("4.2 DATA too large", [open_stream(), frame(DATA, 0, 1, bytes(FRAME_BYTES_MAX + 1))],
     stream_error(FRAME_SIZE_ERROR)),
    ("4.2 HEADERS too large", [frame(HEADERS, END_HEADERS, 1, BLOCK + bytes(FRAME_BYTES_MAX))],
     connection_error(FRAME_SIZE_ERROR)),
    ("4.2 unknown frame too large", [raw_length(FRAME_BYTES_MAX + 1, 0xFA)],
     any_of(connection_error(FRAME_SIZE_ERROR), stream_error(FRAME_SIZE_ERROR))),
    ("4.2 SETTINGS of 2^24 - 1", [raw_length(2**24 - 1, SETTINGS)], connection_error(FRAME_SIZE_ERROR)),
    ("4.3 a block in three frames", [*SPLIT, end()], answered),
    ("4.3 a block that ends in an empty CONTINUATION",
     [frame(HEADERS, 0, 1, BLOCK), frame(CONTINUATION, END_HEADERS, 1), end()], answered),
    ("4.3 an empty HEADERS, all in CONTINUATION",
     [frame(HEADERS, END_STREAM, 1), frame(CONTINUATION, END_HEADERS, 1, BLOCK)], ignored),
    ("4.3 END_STREAM stands on HEADERS, not on CONTINUATION",
     [SPLIT[0], frame(CONTINUATION, END_HEADERS | END_STREAM, 1, BLOCK[9:]), end()], answered),
    ("4.3 a block that is cut off", [frame(HEADERS, END_HEADERS, 1, BLOCK[:-1])], connection_error(COMPRESSION_ERROR)),
    ("5.5 unknown frames", [frame(0xFA, 0xFF, 0, bytes(99)), frame(0xFB, 0xFF, 1, bytes(9)), call(),
                            frame(0xFC, 0, 1), frame(0xFD, 0, 777)], answered),
    ("5.5 unknown frame in a block", [SPLIT[0], frame(0xFA, 0, 1), *SPLIT[1:]], connection_error(PROTOCOL_ERROR)),
    ("5.5 unknown settings", [setting((0x4A4A, 2**32 - 1), (0, 0), (0xFFFF, 1)), call()], answered),
    ("5.5 ORIGIN and ALTSVC", [frame(0x0C, 0, 0, b"\0\1a"), frame(0x0A, 0, 0, b"\0\0"), call()], answered),
]

STATES = [
    *[(f"5.1 idle: {name}", [sent], connection_error(PROTOCOL_ERROR)) for name, sent in {
        "DATA": frame(DATA, 0, 1, b"x"), "DATA far": frame(DATA, END_STREAM, WINDOW_MAX, b"x"),
        "RST_STREAM": reset(1), "WINDOW_UPDATE": window_update(1, 100)}.items()],
    ("5.1 idle: CONTINUATION", [frame(CONTINUATION, END_HEADERS, 1, BLOCK)], connection_error(PROTOCOL_ERROR)),
    ("5.1 idle: PRIORITY", [priority(1), priority(999, 1), call()], answered),
    ("5.1 half-closed: DATA", [call(), frame(DATA, END_STREAM, 1, b"x")],
     any_of(stream_error(STREAM_CLOSED), answered)),
    ("5.1 half-closed: HEADERS", [frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK),
                                  frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK)], stream_error(STREAM_CLOSED)),
    ("5.1 half-closed: WINDOW_UPDATE, PRIORITY, RST_STREAM",
     [call(), window_update(1, 1), priority(1), reset(1)], ignored),
    ("5.1 closed: DATA after the answer", [call(), 1, frame(DATA, END_STREAM, 1, b"x")],
     any_of(connection_error(STREAM_CLOSED), ignored)),
    ("5.1 closed: HEADERS after the answer", [call(), 1, frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK)],
     connection_error(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("5.1 closed: CONTINUATION after the answer", [call(), 1, frame(CONTINUATION, END_HEADERS, 1, BLOCK)],
     connection_error(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("5.1 closed: WINDOW_UPDATE, RST_STREAM, PRIORITY after the answer",
     [call(), 1, window_update(1, 1), reset(1), priority(1)], ignored),
    ("5.1 closed: DATA after RST_STREAM", [open_stream(), reset(1), frame(DATA, 0, 1, b"x")],
     stream_error(STREAM_CLOSED)),
    ("5.1 closed: HEADERS after RST_STREAM", [open_stream(), reset(1), frame(HEADERS, 5, 1, BLOCK)],
     stream_error(STREAM_CLOSED)),
    ("5.1 closed by us: DATA on its way", [with_fields(("A", "b")), frame(DATA, END_STREAM, 1, b"x")], malformed),
    ("5.1.1 even stream", [call(2)], connection_error(PROTOCOL_ERROR)),
    ("5.1.1 lower stream", [call(5), 5, open_stream(3)], connection_error(PROTOCOL_ERROR, STREAM_CLOSED)),
    ("5.1.1 skipped streams are closed: RST_STREAM", [call(5), reset(3), window_update(3, 1)], ignored),
    ("5.1.1 the highest stream", [call(WINDOW_MAX), WINDOW_MAX], survived),
]

FRAMES = [
    ("6.1 DATA on stream 0", [frame(DATA, 0, 0, b"x")], connection_error(PROTOCOL_ERROR)),
    ("6.1 padded DATA", [open_stream(), frame(DATA, PADDED | END_STREAM, 1, b"\4" + BODY + bytes(4))], answered),
    ("6.1 DATA of padding alone", [open_stream(), frame(DATA, PADDED, 1, b"\xff" + bytes(255)), end()], answered),
    ("6.1 padding of 0", [open_stream(), frame(DATA, PADDED, 1, b"\0"), end()], answered),
    ("6.1 padding as long as the payload", [open_stream(), frame(DATA, PADDED, 1, b"\1")],
     connection_error(PROTOCOL_ERROR)),
    ("6.1 padding longer than the payload", [open_stream(), frame(DATA, PADDED, 1, b"\xffabc")],
     connection_error(PROTOCOL_ERROR)),
    ("6.1 padded but empty", [open_stream(), frame(DATA, PADDED, 1)],
     connection_error(PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    ("6.2 HEADERS on stream 0", [open_stream(0)], connection_error(PROTOCOL_ERROR)),
    ("6.2 padded HEADERS with priority",
     [frame(HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, b"\3" + struct.pack(">IB", 2**31, 9) + BLOCK + bytes(3)),
      end()], answered),
    ("6.2 HEADERS padding too long", [frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + BLOCK)],
     connection_error(PROTOCOL_ERROR)),
    ("6.2 HEADERS padded but empty", [frame(HEADERS, END_HEADERS | PADDED, 1)],
     connection_error(PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    ("6.2 HEADERS padding runs into priority",
     [frame(HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, b"\3" + bytes(7))],
     connection_error(PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    ("6.2 HEADERS too short for priority", [frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 1, bytes(4))],
     connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR)),
    ("6.3 PRIORITY on stream 0", [priority(0)], connection_error(PROTOCOL_ERROR)),
    *[(f"6.3 PRIORITY of {length} bytes on an open stream", [open_stream(), frame(PRIORITY, 0, 1, bytes(length)), end()],
       stream_error(FRAME_SIZE_ERROR)) for length in (0, 4, 6)],
    ("6.3 PRIORITY of 4 bytes on an idle stream", [frame(PRIORITY, 0, 1, bytes(4))],
     ignored_or(connection_error(FRAME_SIZE_ERROR))),
    *[(f"6.4 RST_STREAM on stream 0 with code {code}", [reset(0, code)], connection_error(PROTOCOL_ERROR))
      for code in (1, 5, 8, 2**32 - 1)],
    # HAProxy 2.6 does that behind early rejections, and its other users' calls share the connection.
    ("6.4 RST_STREAM on stream 0 with NO_ERROR", [open_stream(), reset(0, 0), end()], answered),
    *[(f"6.4 RST_STREAM of {length} bytes", [open_stream(), frame(RST_STREAM, 0, 1, bytes(length))],
       connection_error(FRAME_SIZE_ERROR)) for length in (0, 3, 5)],
    ("6.4 RST_STREAM with an unknown code", [open_stream(), reset(1, 0xDEADBEEF)], ignored),
    ("6.5 SETTINGS on a stream", [frame(SETTINGS, 0, 1)], connection_error(PROTOCOL_ERROR)),
    ("6.5 SETTINGS acknowledged with a payload", [frame(SETTINGS, ACK, 0, bytes(6))],
     connection_error(FRAME_SIZE_ERROR)),
    *[(f"6.5 SETTINGS of {length} bytes", [frame(SETTINGS, 0, 0, bytes(length))], connection_error(FRAME_SIZE_ERROR))
      for length in (1, 5, 7, 13)],
    ("6.5 SETTINGS acknowledged too often", [frame(SETTINGS, ACK), frame(SETTINGS, ACK), call()], answered),
    ("6.5.2 ENABLE_PUSH 2", [setting((ENABLE_PUSH, 2))], connection_error(PROTOCOL_ERROR)),
    ("6.5.2 ENABLE_PUSH 0 and 1", [setting((ENABLE_PUSH, 0), (ENABLE_PUSH, 1)), call()], answered),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", [setting((INITIAL_WINDOW_SIZE, 2**31))], connection_error(FLOW_CONTROL_ERROR)),
    *[(f"6.5.2 MAX_FRAME_SIZE {size}", [setting((MAX_FRAME_SIZE, size))], connection_error(PROTOCOL_ERROR))
      for size in (0, 16383, 2**24, 2**32 - 1)],
    ("6.5.2 MAX_FRAME_SIZE at its edges", [setting((MAX_FRAME_SIZE, 16384), (MAX_FRAME_SIZE, 2**24 - 1)), call()],
     answered),
    ("6.5.2 MAX_CONCURRENT_STREAMS 0 is about push", [setting((MAX_STREAMS, 0)), call()], answered),
    ("6.5.3 values count in their order", [setting((INITIAL_WINDOW_SIZE, 0), (INITIAL_WINDOW_SIZE, WINDOW)), call()],
     answered),
    ("6.6 PUSH_PROMISE", [open_stream(), frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + BLOCK)],
     connection_error(PROTOCOL_ERROR)),
    ("6.7 PING on a stream", [frame(PING, 0, 1, bytes(8))], connection_error(PROTOCOL_ERROR)),
    *[(f"6.7 PING of {length} bytes", [frame(PING, 0, 0, bytes(length))], connection_error(FRAME_SIZE_ERROR))
      for length in (0, 7, 9)],
    ("6.7 PING acknowledged, never sent", [frame(PING, ACK, 0, b"whatever"), call()], answered),
    ("6.8 GOAWAY on a stream", [goaway(stream=1)], connection_error(PROTOCOL_ERROR)),
    ("6.8 GOAWAY too short", [goaway(payload=bytes(7))], connection_error(FRAME_SIZE_ERROR)),
    ("6.8 open calls are served after the client's GOAWAY", [open_stream(), goaway(payload=bytes(8) + b"debug"), end()],
     answered_at_least),
    *[(f"6.9 WINDOW_UPDATE of {length} bytes on {stream}", [open_stream(), frame(WINDOW_UPDATE, 0, stream, bytes(length))],
       connection_error(FRAME_SIZE_ERROR)) for length in (0, 3, 5) for stream in (0, 1)],
    ("6.9 WINDOW_UPDATE of 0 on the connection", [window_update(0, 0)], connection_error(PROTOCOL_ERROR)),
    ("6.9 WINDOW_UPDATE of 0 on a stream", [open_stream(), window_update(1, 0)], stream_error(PROTOCOL_ERROR)),
    ("6.9 the reserved bit is ignored", [open_stream(), window_update(1, 2**31 | 1), end()], answered),
    ("6.9.1 the connection's window past 2^31 - 1", [window_update(0, WINDOW_MAX)], connection_error(FLOW_CONTROL_ERROR)),
    ("6.9.1 a stream's window past 2^31 - 1", [open_stream(), window_update(1, WINDOW_MAX)],
     stream_error(FLOW_CONTROL_ERROR)),
    ("6.9.1 the windows at 2^31 - 1", [window_update(0, WINDOW_MAX - WINDOW), open_stream(),
                                       window_update(1, WINDOW_MAX - WINDOW), end()], answered),
    ("6.9.2 SETTINGS take a stream's window past 2^31 - 1",
     [open_stream(), window_update(1, WINDOW_MAX - WINDOW), setting((INITIAL_WINDOW_SIZE, WINDOW + 1))],
     connection_error(FLOW_CONTROL_ERROR)),
    *[(f"6.10 {name} within a block", [SPLIT[0], between, *SPLIT[1:]], connection_error(PROTOCOL_ERROR))
      for name, between in {
          "DATA": frame(DATA, 0, 1, b"x"), "HEADERS of another": open_stream(3), "HEADERS": open_stream(1),
          "PRIORITY": priority(1), "RST_STREAM": reset(1), "SETTINGS": frame(SETTINGS), "PING": frame(PING, 0, 0, bytes(8)),
          "GOAWAY": goaway(), "WINDOW_UPDATE": window_update(0, 1),
          "CONTINUATION of another": frame(CONTINUATION, 0, 3, BLOCK[9:30])}.items()],
    ("6.10 CONTINUATION after a whole block", [open_stream(), frame(CONTINUATION, END_HEADERS, 1, BLOCK)],
     connection_error(PROTOCOL_ERROR)),
    ("6.10 CONTINUATION on stream 0", [SPLIT[0], frame(CONTINUATION, END_HEADERS, 0, BLOCK)],
     connection_error(PROTOCOL_ERROR)),
    ("7 unknown error codes have no effect", [open_stream(), reset(1, 2**32 - 1), goaway(payload=b"\0\0\0\0\xff\xff\xff\xff")],
     survived),
]


MESSAGES = [
    ("8.1 trailers", [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, 5, 1, TRAILERS)], answered),
    ("8.1 trailers in two frames", [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, END_STREAM, 1, TRAILERS[:5]),
                                    frame(CONTINUATION, END_HEADERS, 1, TRAILERS[5:])], answered),
    ("8.1 empty trailers", [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, 5, 1)], answered),
    ("8.1 trailers without END_STREAM", [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, END_HEADERS, 1, TRAILERS)],
     malformed),
    ("8.1 pseudo-header in trailers",
     [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, 5, 1, header_block([(":path", "/")]))], malformed),
    ("8.1 upper case in trailers",
     [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, 5, 1, header_block([("X-Sum", "1")]))], malformed),
    ("8.1 connection-specific field in trailers",
     [open_stream(), frame(DATA, 0, 1, BODY), frame(HEADERS, 5, 1, header_block([("connection", "close")]))], malformed),
    *[(f"8.1.1 content-length {length!r}", [with_fields(("content-length", length))], malformed)
      for length in ("4", "6", "0", "-5", "+5", "5x", "", "5, 5", "0x5", "9" * 30, str(2**64 + 5))],
    ("8.1.1 two content-lengths that differ", [with_fields(("content-length", "5"), ("content-length", "6"))], malformed),
    ("8.1.1 content-length of the body", [with_fields(("content-length", "5"))], answered),
    ("8.1.1 content-length without a body",
     [frame(HEADERS, 5, 1, header_block(grpc_fields(CHECK) + [("content-length", "5")]))], malformed),
    ("8.1.1 content-length and trailers", [frame(HEADERS, END_HEADERS, 1, header_block(grpc_fields(CHECK)
                                           + [("content-length", "6")])), frame(DATA, 0, 1, BODY),
                                           frame(HEADERS, 5, 1, TRAILERS)], malformed),
    *[(f"8.2.1 name {name!r}", [with_fields((name, "x"))], malformed)
      for name in (b"", b"Upper", b"with space", b"tab\t", b"nul\0", b"del\x7f", b"high\x80", b"col:on", b"new\nline",
                   b"ret\r", b" lead", b"a(b", b"a,b", b"a@b", b"a/b", b"a[b", b"a\"b")],
    *[(f"8.2.1 value {value!r}", [with_fields(("x-field", value))], malformed)
      for value in (b"a\0b", b"a\nb", b"a\rb", b"\0", b"a\x1fb", b"del\x7f")],
    *[(f"8.2.1 good value {value!r}", [with_fields(("x-field", value))], answered)
      for value in (b"", b"a b\tc", b"\x80\xff")],
    # The RFC calls these malformed. gRPC's own servers serve them, so blanks are taken off (RFC 9110 5.5).
    *[(f"8.2.1 blanks around a value: {value!r}", [with_fields(("x-field", value))], answered)
      for value in (b" lead", b"\tlead", b"trail ", b"trail\t", b" ")],
    *[(f"8.2.2 {name}: {value}", [with_fields((name, value))], malformed) for name, value in (
        ("connection", "close"), ("connection", ""), ("keep-alive", "5"), ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"), ("upgrade", "h2c"))],
    *[(f"8.2.2 te: {value}", [with_fields(te=value)], malformed)
      for value in ("gzip", "trailer", "trailers gzip", "")],
    # The RFC allows "trailers" alone; grpc-go looks for it whatever stands beside it, as proxies add to it.
    *[(f"8.2.2 te: {value}", [with_fields(te=value)], answered) for value in ("trailers, gzip", "gzip,Trailers ")],
    *[(f"8.3.1 no {name}", [with_fields(**{name: None})], malformed) for name in (":method", ":scheme", ":path")],
    *[(f"8.3.1 {name} twice", [with_block(header_block([(name, value)] + grpc_fields(CHECK)))], malformed)
      for name, value in grpc_fields(CHECK)[:4]],
    *[(f"8.3 {name} after a field",
       [with_block(header_block([field for field in grpc_fields(CHECK) if field[0] != name] + [(name, value)]))],
       malformed) for name, value in grpc_fields(CHECK)[:4]],
    *[(f"8.3 pseudo-header {name}", [with_block(header_block([(name, "200")] + grpc_fields(CHECK)))], malformed)
      for name in (":status", ":unknown", ":", ":Path", ":protocol")],
    ("8.3.1 empty :path", [with_fields(**{":path": ""})], malformed),
    *[(f"8.2.1 {name} {value!r}", [with_fields(**{name: value})], malformed)
      for name in (":method", ":scheme", ":path", ":authority") for value in (b"/a\0b", b"/a\nb", b"/a\rb")],
    *[(f"8.2.1 {name} {value!r}", [with_fields(**{name: value})], malformed)
      for name, good in ((":method", b"POST"), (":scheme", b"http"), (":path", CHECK.encode()))
      for value in (b" " + good, good + b" ", b"\t" + good, good[:2] + b" " + good[2:])],
    # It is whatever a client calls its target: gRPC's own servers do not look at it.
    *[(f"8.2.1 :authority {value!r}", [with_fields(**{":authority": value})], answered)
      for value in (b" /ab", b"/ab ", b"/run/my shop/holdfast.sock")],
    ("8.3 no fields at all", [with_block(b"")], malformed),
    *[(f"8.3.1 :path {path}", [with_fields(**{":path": path})], refused) for path in ("*", "no-slash", "?", "/" * 9000)],
    ("8.5 CONNECT", [with_fields(**{":method": "CONNECT", ":path": None, ":scheme": None})], malformed),
    ("8.5 CONNECT without :authority",
     [with_fields(**{":method": "CONNECT", ":path": None, ":scheme": None, ":authority": None})], malformed),
    ("8.5 CONNECT with :path", [with_fields(**{":method": "CONNECT"})], malformed),
]

INTEGER_WITHOUT_END = b"\xff" * 20

COMPRESSION = [
    ("RFC 7541 2.3.3 index 0", [with_block(b"\x80")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 2.3.3 index past the tables", [with_block(BLOCK + b"\xbe")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 2.3.3 name index past the tables", [with_block(BLOCK + b"\x7f\x00\1a")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.1 integer that overflows", [with_block(INTEGER_WITHOUT_END)], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.1 huge integer", [with_block(b"\xff\xff\xff\xff\xff\x0f")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.2 string length that overflows", [with_block(b"\0\x7f" + INTEGER_WITHOUT_END)],
     connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.2 string longer than the block", [with_block(BLOCK + b"\0\5ab")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.2 padding longer than 7 bits", [with_block(BLOCK + b"\0\1a\x82\x1f\xff")],
     connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.2 padding of zeros", [with_block(BLOCK + b"\0\1a\x81\x18")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 5.2 EOS in a string", [with_block(BLOCK + b"\0\1a\x84\xff\xff\xff\xff")],
     connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 4.2 size update at the end", [with_block(BLOCK + b"\x20")], connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 4.2 size update between fields", [with_block(STATELESS_PSEUDO + b"\x20" + REST)],
     connection_error(COMPRESSION_ERROR)),
    # SETTINGS_HEADER_TABLE_SIZE is 16,384.
    ("RFC 7541 6.3 size update past our setting", [with_block(b"\x3f\xe2\x7f" + BLOCK)],
     connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 6.3 size updates up to our setting", [with_block(b"\x20\x3f\xe1\x7f" + BLOCK)], answered),
    ("RFC 7541 4.4 a field larger than the table empties it",
     [with_block(b"\x3f\xe1\x1f" + BLOCK + b"\x40\1a\1b\x40\1c\x7f\xa1\x1f" + b"x" * 4128 + b"\xbe")],
     connection_error(COMPRESSION_ERROR)),
    ("RFC 7541 6.2.3 never indexed", [with_block(BLOCK + b"\x10\1a\1b")], answered),
    ("RFC 7541 5.2 Huffman", [with_block(hpack.Encoder().encode(grpc_fields(CHECK), huffman=True))], answered),
]


@pytest.mark.parametrize("steps, judge", [
    pytest.param(steps, judge, id=what)
    for what, steps, judge in FRAMING + STATES + FRAMES + MESSAGES + COMPRESSION])
def test_clause(peer, steps, judge):
    for step in steps:
        if isinstance(step, int):
            peer.response(step)
        else:
            try:
                peer.send(step)
            except Closed:
                break
    judge(peer)


@pytest.mark.parametrize("first", [
    frame(PING, 0, 0, bytes(8)), call(), frame(SETTINGS, ACK), window_update(0, 1), b"GET / HTTP/1.1\r\n\r\n",
    frame(SETTINGS, 0, 1), frame(SETTINGS, 0, 0, bytes(5))], ids=lambda sent: sent[:12].hex())
def test_preface_ends_with_settings(server, first):
    """3.4: anything else in its place ends the connection."""
    with Peer(server, preface=False) as connection:
        connection.send(PREFACE + first)
        closed(connection)


@pytest.mark.parametrize("at", range(len(PREFACE)))
def test_preface_with_a_wrong_byte(server, at):
    with Peer(server, preface=False) as connection:
        connection.send(PREFACE[:at] + bytes([PREFACE[at] ^ 0x20]) + PREFACE[at + 1:] + setting() + call())
        closed(connection)
        assert 1 not in connection.responses


def test_goaway_names_the_last_stream(peer):
    """6.8: what was or might be processed."""
    for stream in (1, 3, 7):
        assert peer.call(stream, CHECK, b"").grpc_status == OK
    peer.send(window_update(0, 0))
    connection_error(PROTOCOL_ERROR)(peer)
    assert peer.last_stream == 7
