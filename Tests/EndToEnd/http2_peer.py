"""An HTTP/2 client that judges what the server sends: frames, windows and header tables."""

import select
import socket
import struct

from http2 import (
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, Closed, Connection, Response, frame, window_update)

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
PRIORITY_FLAG = 0x20
OK = 0
CHECK = "/grpc.health.v1.Health/Check"
CHECK_ANSWER = b"\0\0\0\0\2\x08\x01"
FRAME_BYTES_MAX = 16384
WINDOW = 65535
TIMEOUT_SECONDS = 5
WINDOW_MAX = 2**31 - 1
LATER = 1001  # the stream of the call that shows that the connection goes on


def setting(*pairs):
    """SETTINGS: setting((name, value), ...)"""
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


class Peer(Connection):
    """A client that asserts of every frame that the server may send it, windows and tables included."""

    def __init__(self, server, settings=(), gives_credit=True, preface=True):
        self.initial_window = WINDOW
        self.credit = {0: WINDOW}  # what the server may send, by stream; 0 is the connection
        self.gives_credit = gives_credit
        self.unacknowledged = []  # SETTINGS that the server need not obey yet
        self.frames = 0
        self.order = []  # (stream, length) of DATA frames as they came
        self.blocks = []  # header blocks as they came
        self.allowed = {0: WINDOW}  # what this side may send: WINDOW_UPDATE frames of the server's, by stream
        self.server_settings = {}
        self.last_stream = None  # as the last GOAWAY says
        super().__init__(server, preface=False, timeout=TIMEOUT_SECONDS)
        if preface:
            self.send(PREFACE)
            self.set(*settings)

    def set(self, *pairs):
        """Sends SETTINGS; they count once they are acknowledged."""
        self.unacknowledged.append(pairs)
        self.send(setting(*pairs))

    def give(self, stream, increment):
        self.credit[stream] = self.credit.get(stream, self.initial_window) + increment
        self.send(window_update(stream, increment))

    def obey(self, pairs):
        """The server has acknowledged SETTINGS; section 6.9.2: open windows move by the difference."""
        sizes = [value for name, value in pairs if name == HEADER_TABLE_SIZE]
        if sizes:
            self.decoder.max_allowed_table_size = sizes[-1]
        for name, value in pairs:
            if name == INITIAL_WINDOW_SIZE:
                for stream in self.credit:
                    self.credit[stream] += (value - self.initial_window) if stream else 0
                self.initial_window = value

    def note(self, kind, flags, stream, payload):
        self.frames += 1
        if self.frames == 1:
            assert kind == SETTINGS and not flags & ACK, "3.4: the server's preface is SETTINGS"
        assert len(payload) <= FRAME_BYTES_MAX, "4.2: a frame longer than SETTINGS_MAX_FRAME_SIZE"
        ended = stream and self.responses.setdefault(stream, Response()).ended
        if kind == SETTINGS and not flags & ACK:
            self.server_settings.update(struct.iter_unpack(">HI", payload))
        if kind == GOAWAY:
            self.last_stream = int.from_bytes(payload[:4], "big")
        if kind == WINDOW_UPDATE:
            self.allowed[stream] = self.allowed.get(stream, 0) + int.from_bytes(payload, "big")
        if kind == SETTINGS and flags & ACK and self.unacknowledged:
            self.obey(self.unacknowledged.pop(0))
        elif kind == HEADERS:
            assert not ended, "5.1: HEADERS on a stream that has ended"
            assert flags & END_HEADERS and not flags & (PADDED | PRIORITY_FLAG)
            self.blocks.append(payload)
        elif kind == DATA:
            assert not ended, "5.1: DATA on a stream that has ended"
            assert self.responses[stream].headers, "8.1: DATA before HEADERS"
            self.order.append((stream, len(payload)))
            for window in (0, stream):
                self.credit[window] = self.credit.get(window, self.initial_window) - len(payload)
                assert not payload or self.credit[window] >= 0, f"6.9: beyond the window of {window}"
        elif kind == RST_STREAM:
            assert len(payload) == 4
        else:
            assert kind in (SETTINGS, PING, GOAWAY, WINDOW_UPDATE), f"a server has no use for {kind}"
        if kind == DATA and not self.gives_credit:
            self.responses[stream].body += payload
            self.responses[stream].ended |= bool(flags & END_STREAM)
        else:
            if kind == DATA and payload:
                self.credit[0] += len(payload)  # `Connection` is about to give it
            super().note(kind, flags, stream, payload)
        if kind == HEADERS:
            self.judge_fields(stream)

    def judge_fields(self, stream):
        """Section 8.3.2: :status first in the first block and nowhere else; names in lower case."""
        blocks = self.responses[stream].headers
        names = list(blocks[-1])
        assert names == [name.lower() for name in names]
        pseudo = [name for name in names if name.startswith(":")]
        assert pseudo == ([":status"] if len(blocks) == 1 else []) and names[:len(pseudo)] == pseudo

    def barrier(self):
        """Everything that the server had to say by now has come."""
        self.send(frame(PING, 0, 0, b"barrier?"))
        while self.read_frame()[3] != b"barrier?":
            pass
        # What the server answers in the same turn may come behind the acknowledgement; the next turn's can't.
        self.send(frame(PING, 0, 0, b"barrier!"))
        while self.read_frame()[3] != b"barrier!":
            pass

    def goes_on(self, stream=LATER):
        response = self.call(stream, CHECK, b"")
        assert (response.grpc_status, response.reset) in ((OK, None), (OK, 0)), response


class EagerPeer(Peer):
    """Reads while it writes, as an event loop does: it never waits for room to send."""

    pending = b""

    def send(self, data):
        if not self.pending:
            self.pending = bytearray()  # what is taken off its front is not copied: megabytes wait in it
        self.pending += data

    def read_frame(self):
        while len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3], "big"):
            readable, writable, _ = select.select(
                [self.socket], [self.socket] if self.pending else [], [], TIMEOUT_SECONDS)
            if not readable and not writable:
                raise TimeoutError(f"{len(self.pending)} bytes cannot be sent, and nothing comes")
            if writable:
                del self.pending[:self.socket.send(self.pending[:1 << 16], socket.MSG_DONTWAIT)]
            if readable:
                data = self.socket.recv(1 << 16)
                if not data:
                    raise Closed(self.goaway_text)
                self.received += data
        return super().read_frame()
