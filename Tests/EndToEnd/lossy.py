"""A TCP proxy in front of a server that loses the answer to one call: the server has decided, the client never hears."""

import contextlib
import socket
import threading

import hpack

HEADERS, RST_STREAM, CONTINUATION, DATA = 1, 3, 9, 0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Frames:
    """Cuts a stream of bytes into frames: (type, flags, stream, payload, all bytes)."""

    def __init__(self):
        self.buffer = b""

    def feed(self, data):
        self.buffer += data
        while len(self.buffer) >= 9:
            end = 9 + int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < end:
                return
            frame, self.buffer = self.buffer[:end], self.buffer[end:]
            yield frame[3], frame[4], int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF, frame[9:], frame


class Lossy:
    """The server may go `away`, when nobody listens here, and come `back` as another. `lose` arms it for one call:

    cut: when the answer comes, the connection is cut in its place.
    late: the answer, and what is behind it, waits until the client has given the call up.
    """

    def __init__(self, host, port):
        self.method = self.how = None
        # Answers that were lost.
        self.lost = 0
        # Keeps the port while nobody listens.
        self.port = bound(0)
        self.target = "127.0.0.1:%d" % self.port.getsockname()[1]
        self.back(host, port)

    def back(self, host, port):
        self.backend = (host, port)
        self.listener = bound(self.port.getsockname()[1])
        self.listener.listen()
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def away(self):
        # Wakes accept(), which close() alone does not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def lose(self, method, how):
        self.method, self.how = f"/holdfast.v1.{method}".encode(), how

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.backend)
            except OSError:
                client.close()
                continue
            connection = Connection(self, client, server)
            threading.Thread(target=connection.forward_requests, daemon=True).start()
            threading.Thread(target=connection.forward_answers, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.away()
        self.port.close()


def bound(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


class Connection:
    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.lost_stream = None
        self.given_up = threading.Event()

    def close(self):
        self.given_up.set()
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def forward_requests(self):
        frames, decoder, block = Frames(), hpack.Decoder(), b""
        # As large as the server, which is not asked here, may let it become.
        decoder.max_allowed_table_size = 1 << 20
        preface = b""
        with contextlib.suppress(OSError):
            while data := self.client.recv(65_536):
                # Before it goes on: the answer may come at once.
                rest = data
                if len(preface) < len(PREFACE):
                    taken = len(PREFACE) - len(preface)
                    preface, rest = preface + data[:taken], data[taken:]
                for kind, flags, stream, payload, _ in frames.feed(rest):
                    if kind == RST_STREAM and stream == self.lost_stream:
                        self.given_up.set()
                    if kind not in (HEADERS, CONTINUATION):
                        continue
                    block += fragment(flags, payload) if kind == HEADERS else payload
                    if flags & 0x4:
                        self.see(stream, dict(decoder.decode(block, raw=True)))
                        block = b""
                self.server.sendall(data)
        self.close()

    def see(self, stream, fields):
        if self.proxy.method and fields.get(b":path") == self.proxy.method:
            self.lost_stream, self.how = stream, self.proxy.how
            self.proxy.method = None

    def forward_answers(self):
        frames = Frames()
        with contextlib.suppress(OSError):
            while data := self.server.recv(65_536):
                for kind, _, stream, _, frame in frames.feed(data):
                    if stream == self.lost_stream and kind in (HEADERS, DATA) and not self.given_up.is_set():
                        self.proxy.lost += 1
                        if self.how == "cut":
                            return self.close()
                        self.given_up.wait()
                    self.client.sendall(frame)
        self.close()


def fragment(flags, payload):
    """The header block of a HEADERS frame, without padding and priority."""
    if flags & 0x8:
        payload = payload[1:len(payload) - payload[0]]
    return payload[5:] if flags & 0x20 else payload
