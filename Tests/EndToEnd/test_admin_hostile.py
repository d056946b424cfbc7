"""Bad clients of the admin port: whatever they do, probes answer within a second and nothing grows."""

import contextlib
import resource
import socket
import struct
import threading
import time
import urllib.request

import pytest

PROBE_SECONDS = 1
MEGABYTE = 1024 * 1024
# The server's own number of connections on this port.
CONNECTIONS_MAX = 128


@pytest.fixture(scope="module", autouse=True)
def descriptors():
    """Enough of them for thousands of clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(server, host="127.0.0.1"):
    return socket.create_connection((host, server.admin_port), 10)


def read_to_end(connection):
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def exchange(server, request):
    """All that one connection is answered, to its end."""
    with connect(server) as connection:
        connection.sendall(request)
        return read_to_end(connection)


def get(path, *fields, version="1.1"):
    lines = [f"GET {path} HTTP/{version}", "Host: x", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def probe(server, path="/livez"):
    """Seconds that a probe takes."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}{path}", timeout=10) as response:
        assert (response.status, response.read()) == (200, b"ok\n")
    return time.monotonic() - began


def probes_are_quick(server, rounds=10):
    took = sorted(probe(server, path) for _ in range(rounds) for path in ("/livez", "/readyz"))
    # A few may have waited for a processor: who holds the server up holds up more than those, or for long.
    assert took[len(took) // 2] < PROBE_SECONDS and took[-1] < 5 * PROBE_SECONDS, f"probes took {took} s"


SLOW = {
    "silence": b"",
    "part of a head": b"GET /metr",
    "a head without an end": b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
    "idle after an answer": get("/livez"),
    "an answer that is not read": get("/metrics"),
    "many answers that are not read": get("/metrics") * 50,
    "events that are not read": b"GET /console/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a body that does not come": get("/livez", "Content-Length: 1000000"),
    "chunks that do not come": get("/livez", "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("count", [80, 2000])
@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_slow_clients(server, sent, count):
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(connect(server)) for _ in range(count)]
        for client in clients:
            # Those of the first have lost their place by now.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(sent)
        probes_are_quick(server)


@contextlib.contextmanager
def running(body, count=4):
    """Runs body on some threads until the end of the block."""
    stopped = threading.Event()

    def repeat():
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                body()

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_connections_that_come_and_reset_without_end(server):
    def once():
        connection = connect(server)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"GET / HT")
        connection.close()

    with running(once):
        probes_are_quick(server, rounds=20)


def test_pages_asked_for_without_end(server):
    """A probe waits for one page at most, not for all that were asked for before it."""
    def once():
        with connect(server) as connection:
            connection.settimeout(2)
            connection.sendall(get("/metrics") * 100)
            while connection.recv(1 << 20):
                pass

    with running(once):
        probes_are_quick(server, rounds=5)


def test_probes_asked_for_without_end(server):
    def once():
        with connect(server) as connection:
            connection.settimeout(2)
            connection.sendall(get("/livez") * 200)
            while connection.recv(1 << 20):
                pass

    with running(once):
        probes_are_quick(server, rounds=20)


def test_a_byte_a_time_is_answered_or_ended(server):
    """Whoever is slow and not too slow gets its answer, beside others."""
    with connect(server) as connection:
        for byte in get("/livez", "Connection: close"):
            connection.sendall(bytes([byte]))
        assert read_to_end(connection).endswith(b"\r\n\r\nok\n")


def test_a_head_that_does_not_end_is_408(server):
    began = time.monotonic()
    answer = exchange(server, b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") and b"Connection: close" in answer
    assert 4 < time.monotonic() - began < 12


REQUESTS = {
    "two hosts": (get("/", "Host: y"), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "NUL": (get("/", "X: a\0b"), 400),
    "NUL in the path": (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a folded line": (get("/", "X: a", " b"), 400),
    "a blank before the colon": (get("/", "Transfer-Encoding : chunked"), 400),
    "two lengths": (get("/", "Content-Length: 0", "Content-Length: 5"), 400),
    "length and chunks": (get("/", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "chunks that are not the last coding": (get("/", "Transfer-Encoding: chunked, x"), 400),
    "a huge head": (get("/", "X: " + "a" * 100_000), 431),
    "ten thousand lines": (get("/", *["a:"] * 10_000), 431),
    "a TLS handshake": (bytes.fromhex("16030100c8010000c40303") + bytes(200), 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
    "version 2": (get("/", version="2.0"), 505),
    "PUT": (b"PUT /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
}


@pytest.mark.parametrize("request_bytes, status", REQUESTS.values(), ids=REQUESTS)
def test_what_is_no_request_gets_one_answer_and_an_end(server, request_bytes, status):
    answer = exchange(server, request_bytes + get("/metrics"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"HTTP/1.1 ") == 1 and b"holdfast_build_info" not in answer


@pytest.mark.parametrize("body", ["Content-Length: 40", "Transfer-Encoding: chunked"])
def test_a_request_in_a_body_is_no_request(server, body):
    answer = exchange(server, get("/livez", body) + b"0\r\n\r\n" + get("/metrics"))
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nok\n")


def test_a_connection_is_kept_for_the_next_request(server):
    with connect(server) as connection:
        for path, expected in [("/livez", b"ok\n"), ("/no", b"is\n"), ("/readyz", b"ok\n")]:
            connection.sendall(get(path))
            answer = connection.recv(65536)
            assert answer.endswith(expected) and b"Connection: close" not in answer
        connection.sendall(get("/livez") + get("/livez", "Connection: close"))
        assert read_to_end(connection).count(b"HTTP/1.1 200 OK") == 2


def test_a_newcomer_takes_the_place_of_the_oldest(start):
    server = start()
    with contextlib.ExitStack() as opened:
        clients = []
        for _ in range(CONNECTIONS_MAX + 10):
            clients.append(opened.enter_context(connect(server)))
            clients[-1].sendall(get("/livez"))
            assert clients[-1].recv(65536).endswith(b"ok\n")
        for old in clients[:10]:
            assert read_to_end(old) == b""
        for young in clients[10:]:
            young.sendall(get("/livez"))
            assert young.recv(65536).endswith(b"ok\n")


def test_memory_does_not_grow_with_clients(start):
    server = start()
    probes_are_quick(server)
    grown = []
    for _ in range(3):
        with contextlib.ExitStack() as opened:
            for _ in range(1000):
                client = opened.enter_context(connect(server))
                client.sendall(get("/metrics") * 20)
            probes_are_quick(server)
            grown.append(server.resident_bytes())
    assert grown[2] - grown[0] < 8 * MEGABYTE, grown


def test_a_stop_does_not_wait_for_clients(start):
    server = start()
    with contextlib.ExitStack() as opened:
        for sent in SLOW.values():
            for _ in range(10):
                opened.enter_context(connect(server)).sendall(sent)
        probe(server)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
