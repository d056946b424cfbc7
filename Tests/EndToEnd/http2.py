"""Just enough HTTP/2 (RFC 9113) to send anything at all, right or wrong, over a plain socket."""

import dataclasses
import socket
import ssl
import struct

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 3
CANCEL, ENHANCE_YOUR_CALM = 8, 11


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def header_block(fields):
    """HPACK literals without indexing: no state on either side."""
    def text(value):
        value = value.encode() if isinstance(value, str) else value
        return hpack.hpack.encode_integer(len(value), 7) + value

    return b"".join(b"\0" + bytes(text(name)) + bytes(text(value)) for name, value in fields)


def grpc_message(message):
    return b"\0" + struct.pack(">I", len(message)) + message


def grpc_fields(path, **changed):
    """The request headers of a gRPC call; name=None leaves one out ("_" in names stands for "-")."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
              "content-type": "application/grpc", "te": "trailers"}
    fields.update({name.replace("_", "-"): value for name, value in changed.items()})
    return [(name, value) for name, value in fields.items() if value is not None]


@dataclasses.dataclass
class Response:
    """What came back on one stream."""

    headers: list = dataclasses.field(default_factory=list)  # one dict for each header block
    body: bytes = b""
    reset: int | None = None  # the code of RST_STREAM
    ended: bool = False

    def header(self, name):
        return next((block[name] for block in self.headers if name in block), None)

    @property
    def grpc_status(self):
        status = self.header("grpc-status")
        return None if status is None else int(status)


class Closed(Exception):
    """The server closed the connection."""


class Connection:
    """One connection; it acknowledges SETTINGS and gives window back, and does nothing else by itself."""

    def __init__(self, server, preface=True, settings=b"", timeout=10, authority=None, source=None):
        """Over TLS where the certificate of an authority is named; from the address `source`."""
        self.socket = socket.create_connection(
            (server.host, server.port), timeout, source_address=(source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if authority:
            context = ssl.create_default_context(cafile=authority)
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.received = b""
        self.decoder = hpack.Decoder()
        self.responses = {}
        self.goaway = None  # the code of GOAWAY
        self.goaway_text = None  # its debug data
        if preface:
            self.send(PREFACE + frame(SETTINGS, payload=settings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Raises Closed where the server no longer listens."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            raise Closed from error

    def send_slowly_refused(self, data, chunk=16384):
        """Sends while the server takes it; False as soon as it has closed or stopped reading."""
        try:
            for at in range(0, len(data), chunk):
                self.send(data[at:at + chunk])
        except (Closed, TimeoutError):
            return False
        return True

    def read_frame(self):
        """(kind, flags, stream, payload); raises Closed at the end, TimeoutError when nothing comes."""
        while len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3], "big"):
            try:
                data = self.socket.recv(1 << 16)
            except (ConnectionResetError, ssl.SSLEOFError) as error:
                raise Closed from error
            if not data:
                raise Closed(self.goaway_text)
            self.received += data
        length = int.from_bytes(self.received[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
        payload, self.received = self.received[9:9 + length], self.received[9 + length:]
        self.note(kind, flags, stream, payload)
        return kind, flags, stream, payload

    def note(self, kind, flags, stream, payload):
        response = self.responses.setdefault(stream, Response()) if stream else None
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK))
        elif kind == HEADERS:
            response.headers.append(dict(self.decoder.decode(payload)))
        elif kind == DATA:
            response.body += payload
            if payload:
                self.send(window_update(0, len(payload)))
        elif kind == RST_STREAM:
            response.reset = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
            self.goaway_text = payload[8:].decode()
        if response and (kind == RST_STREAM or kind in (HEADERS, DATA) and flags & END_STREAM):
            response.ended = True

    def response(self, stream):
        """Reads until the stream has ended."""
        while not self.responses.setdefault(stream, Response()).ended:
            self.read_frame()
        return self.responses[stream]

    def request(self, stream, fields, body=None):
        """HEADERS, and DATA where there is a body, in one write."""
        head = frame(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), stream, header_block(fields))
        self.send(head + (b"" if body is None else frame(DATA, END_STREAM, stream, body)))

    def call(self, stream, path, message, **changed):
        self.request(stream, grpc_fields(path, **changed), grpc_message(message))
        return self.response(stream)

    def drain(self):
        """Reads what comes until the server closes; True if it did within the time limit."""
        try:
            while True:
                self.read_frame()
        except Closed:
            return True
        except TimeoutError:
            return False
