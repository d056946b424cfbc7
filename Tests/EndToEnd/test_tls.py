"""TLS and mutual TLS: who gets in, who does not and is told so, and certificates that are replaced under load."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from grpc import StatusCode

import http2
from certificates import Certificates
from client import Client, fresh, line
from http2 import Connection, grpc_fields, grpc_message
from holdfast.v1 import reservation_pb2, stock_pb2
from server import Server, eventually

# What is replaced is noticed within about a second.
NOTICED_SECONDS = 10


@pytest.fixture(scope="module")
def secure(binary, pair):
    """A server with TLS, and clients without certificates."""
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(binary, ours, pair):
    """A server that asks for certificates of our authority."""
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key,
                "--tls-client-ca", ours.authority) as server:
        yield server


def trust(authority, pair=None):
    """What grpcio needs to know."""
    key, certificate = pair.read() if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.authority.read_bytes(), key, certificate)


def context(authority, version=None, pair=None, protocols=("h2",)):
    """The same for a plain TLS socket; `version` alone is spoken."""
    made = ssl.create_default_context(cafile=authority.authority)
    if version:
        made.minimum_version = made.maximum_version = version
    if pair:
        made.load_cert_chain(pair.certificate, pair.key)
    made.set_alpn_protocols(list(protocols))
    return made


def connect(server, security, session=None):
    return connect_to(server.host, server.port, security, session)


def connect_to(host, port, security, session=None):
    plain = socket.create_connection((host, port), 10)
    return security.wrap_socket(plain, server_hostname="localhost", session=session)


def buys(server, credentials):
    with Client(server.target, credentials=credentials) as client:
        return client.reserve(line(client.item(1))).reservation_id


def refused_code(server, credentials):
    with pytest.raises(grpc.RpcError) as caught:
        buys(server, credentials)
    return caught.value.code()


def test_tls(secure, ours):
    assert buys(secure, trust(ours))


def test_mutual_tls(mutual, ours):
    assert buys(mutual, trust(ours, ours.issue("shop")))


def test_a_server_that_the_client_does_not_trust(secure, theirs, ours):
    assert refused_code(secure, trust(theirs)) == StatusCode.UNAVAILABLE
    assert buys(secure, trust(ours))


@pytest.mark.parametrize("whose", ["nobody's", "another authority's", "expired"])
def test_client_certificates_that_are_refused(mutual, ours, theirs, whose):
    pair = {"nobody's": lambda: None, "another authority's": lambda: theirs.issue("shop"),
            "expired": lambda: ours.issue("late", days=-1)}[whose]()
    assert refused_code(mutual, trust(ours, pair)) == StatusCode.UNAVAILABLE
    assert buys(mutual, trust(ours, ours.issue("shop")))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(secure, ours, version):
    with connect(secure, context(ours, version)) as opened:
        assert opened.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert opened.selected_alpn_protocol() == "h2"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_are_refused(secure, ours):
    security = context(ours)
    security.minimum_version, security.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    security.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secure, security)


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h2c"], ["spdy/3"]])
def test_alpn_without_h2_is_refused(secure, ours, protocols):
    """RFC 7301: no_application_protocol."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secure, context(ours, protocols=protocols)).recv(1)


def test_alpn_with_h2_among_others(secure, ours):
    with connect(secure, context(ours, protocols=["http/1.1", "h2"])) as opened:
        assert opened.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["secure", "mutual"])
def test_sessions_are_resumed(request, ours, version, kind):
    server = request.getfixturevalue(kind)
    security = context(ours, version, ours.issue("shop") if kind == "mutual" else None)
    with connect(server, security) as first:
        first.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))
        first.recv(1000)  # TLS 1.3: tickets come with the first data
        session = first.session
    assert session is not None and session.has_ticket
    with connect(server, security, session) as second:
        assert second.session_reused
        second.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))
        assert second.recv(1000)


# Who speaks the other thing.


def lines_about(server, words):
    return [row for row in server.log_text().splitlines() if re.search(words, row, re.IGNORECASE)]


def test_a_plaintext_client_on_the_tls_port(start, pair):
    """A clear end at once, and a log line that says which; not one for each of a flood."""
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key)
    for _ in range(200):
        with Connection(server, timeout=5) as connection:
            assert connection.drain()
    assert 1 <= len(eventually(lambda: lines_about(server, "plaintext client"))) <= 5
    with pytest.raises(grpc.RpcError) as caught:
        buys(server, None)
    assert caught.value.code() == StatusCode.UNAVAILABLE


def test_a_tls_client_on_the_plaintext_port(start, ours):
    server = start()
    for _ in range(200):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(server, context(ours))
    assert 1 <= len(eventually(lambda: lines_about(server, "a TLS client"))) <= 5
    assert refused_code(server, trust(ours)) == StatusCode.UNAVAILABLE
    assert buys(server, None)


def test_handshakes_that_stop(start, pair, ours):
    """Half a ClientHello, garbage, and a client that vanishes: all end, nobody else waits."""
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key, "--handshake-timeout", "1s")
    half = bytes.fromhex("160301020001000001fc0303") + bytes(100)
    opened = []
    for data in [b"", half[:3], half, b"\x16\x03\x01\xff\xff" + bytes(2000), bytes(range(256)) * 20] * 20:
        each = socket.create_connection((server.host, server.port), 10)
        each.sendall(data)
        opened.append(each)
    assert buys(server, trust(ours))
    for each in opened:
        try:
            while each.recv(4096):  # until it is closed
                pass
        except ConnectionResetError:
            pass
        each.close()


def test_renegotiation_is_refused(start, pair, ours):
    """TLS 1.2: a client must not make the server do handshakes without end."""
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", server.target, "-tls1_2", "-alpn", "h2", "-legacy_renegotiation"],
        input="R\n", capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 or "no renegotiation" in done.stderr + done.stdout
    assert buys(server, trust(ours))


@pytest.mark.parametrize("flags", ["no key", "no certificate", "missing file", "other key", "no PEM", "bad client CA"])
def test_files_that_make_no_sense(binary, ours, tmp_path, flags):
    pair, other = ours.issue("a"), ours.issue("b")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate\n")
    both = {"no key": ["--tls-cert", pair.certificate], "no certificate": ["--tls-key", pair.key],
            "missing file": ["--tls-cert", tmp_path / "none.pem", "--tls-key", pair.key],
            "other key": ["--tls-cert", pair.certificate, "--tls-key", other.key],
            "no PEM": ["--tls-cert", garbage, "--tls-key", pair.key],
            "bad client CA": ["--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", garbage]}
    done = subprocess.run([binary, "serve", "--port", "0", "--admin-port", "0", "--durability", "memory",
                           *map(str, both[flags])], capture_output=True, text=True, timeout=20)
    assert done.returncode in (1, 64) and "--tls-" in done.stderr + done.stdout
    assert "PRIVATE KEY" not in done.stderr + done.stdout


@pytest.mark.parametrize("key", ["tls-key", "tls-client-ca", "admin-tls"])
def test_settings_without_a_certificate(binary, tmp_path, key):
    """From any source, and the exit status says that it is a setting."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({key: True if key == "admin-tls" else "x.pem"}))
    for flags, environment in [(["--config", file], {}), ([], {"HOLDFAST_" + key.upper().replace("-", "_"): "true"})]:
        done = subprocess.run([binary, "serve", "--print-config", *flags], env={**os.environ, **environment},
                              capture_output=True, text=True, timeout=20)
        assert done.returncode == 64 and f"--{key}: goes with --tls-cert and --tls-key only" in done.stderr


def get(url, **options):
    with urllib.request.urlopen(url, timeout=10, **options) as response:
        return response.read().decode()


def test_the_admin_port(start, ours, pair):
    """The same certificate, and none asked for; plaintext is answered in its own words, and nobody else waits."""
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", ours.authority,
                   "--admin-tls")
    url = f"https://localhost:{server.admin_port}"
    silent = [socket.create_connection((server.host, server.admin_port), 10) for _ in range(20)]
    for _ in range(3):
        assert get(f"{url}/livez", context=context(ours, protocols=["http/1.1"])).strip() == "ok"
    page = get(f"{url}/metrics", context=ssl.create_default_context(cafile=ours.authority))
    ends = float(re.search(r"^holdfast_tls_certificate_expiry_seconds (\S+)", page, re.MULTILINE)[1])
    assert 29 < (ends - time.time()) / 86400 < 31
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"http://localhost:{server.admin_port}/livez")
    assert caught.value.code == 400 and "TLS" in caught.value.read().decode()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect_to(server.host, server.admin_port, context(ours)).recv(1)
    for each in silent:
        each.close()


def test_the_admin_port_is_plain_unless_asked(secure, ours):
    page = get(f"http://localhost:{secure.admin_port}/metrics")
    assert "holdfast_tls_certificate_expiry_seconds" in page


def test_what_went_wrong_is_counted(start, ours, theirs, pair):
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", ours.authority)
    with Connection(server, timeout=5) as connection:
        assert connection.drain()
    with socket.create_connection((server.host, server.port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert plain.makefile().read().startswith("HTTP/1.1 400 ")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server, context(ours, pair=theirs.issue("shop"))).recv(1)
    page = get(f"http://localhost:{server.admin_port}/metrics")
    counts = dict(re.findall(r'^holdfast_connection_abuse_total\{kind="(\w+)"\} (\d+)', page, re.MULTILINE))
    assert counts["plaintext_on_tls"] == "2" and counts["tls_handshake"] == "1" and counts["tls_on_plaintext"] == "0"
    assert eventually(lambda: lines_about(server, "unable to get local issuer"))


def test_many_records_to_a_slow_reader(secure, ours):
    """What a socket did not take of a TLS record has to be offered again, the same bytes first."""
    with Client(secure.target, credentials=trust(ours)) as client:
        for _ in range(300):
            client.item(1)
    message = stock_pb2.ListStockRequest(page_size=500).SerializeToString()
    window = (http2.frame(http2.SETTINGS, payload=b"\0\4\x7f\xff\xff\xff") + http2.window_update(0, 1 << 30))
    with Connection(secure, authority=ours.authority) as connection:
        connection.send(window)
        streams = range(1, 1001, 2)
        for stream in streams:
            connection.request(stream, grpc_fields("/holdfast.v1.StockService/ListStock"), grpc_message(message))
        bodies = [connection.response(stream) for stream in streams]
    assert {response.grpc_status for response in bodies} == {0}
    assert len({response.body for response in bodies}) == 1 and sum(len(each.body) for each in bodies) > 4 << 20


# Certificates that are replaced.


class Buyers:
    """Threads that reserve all the time: one keeps its connection, the others make one for each call."""

    def __init__(self, server, authority, count=4):
        self.server, self.credentials = server, trust(authority)
        self.failures, self.calls, self.stopping = [], 0, threading.Event()
        with Client(server.target, credentials=self.credentials) as client:
            self.sku = client.item(1_000_000)
        self.threads = [threading.Thread(target=self.run, args=[number == 0]) for number in range(count)]

    def run(self, keeps):
        client = Client(self.server.target, credentials=self.credentials)
        while not self.stopping.is_set():
            try:
                client.reserve(line(self.sku))
            except grpc.RpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")
            self.calls += 1
            if not keeps:
                client.channel.close()
                client = Client(self.server.target, credentials=self.credentials)
        client.channel.close()

    def wait(self, calls):
        end = self.calls + calls
        eventually(lambda: self.calls >= end, 60)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait(20)
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def serial(server, authority):
    """The serial number of the certificate that a new connection gets."""
    with connect(server, context(authority)) as opened:
        return opened.getpeercert()["serialNumber"]


def install(pair, certificate, key):
    """Replaces both files, each in one step, as a renewal does."""
    for source, target in [(pair.key, key), (pair.certificate, certificate)]:
        fresh_file = target.with_suffix(".new")
        shutil.copyfile(source, fresh_file)
        fresh_file.replace(target)


@pytest.mark.parametrize("told", ["SIGHUP", "by the files alone"])
def test_a_certificate_is_replaced_under_load(start, ours, tmp_path, told):
    certificate, key = tmp_path / "live.pem", tmp_path / "live.key"
    install(ours.issue("first"), certificate, key)
    server = start("--tls-cert", certificate, "--tls-key", key)
    with Buyers(server, ours) as buyers:
        for number in range(3):
            old = serial(server, ours)
            install(ours.issue(f"next-{number}"), certificate, key)
            if told == "SIGHUP":
                server.process.send_signal(signal.SIGHUP)
            eventually(lambda: serial(server, ours) != old, NOTICED_SECONDS)
            buyers.wait(50)
    assert not buyers.failures, f"{len(buyers.failures)} of {buyers.calls}: {buyers.failures[:3]}"


@pytest.mark.parametrize("broken", ["garbage", "another key", "missing"])
def test_a_bad_renewal_keeps_the_old_certificate(start, ours, tmp_path, broken):
    certificate, key = tmp_path / "live.pem", tmp_path / "live.key"
    install(ours.issue("first"), certificate, key)
    server = start("--tls-cert", certificate, "--tls-key", key)
    old, before = serial(server, ours), len(server.log_text().splitlines())
    {"garbage": lambda: certificate.write_text("garbage"),
     "another key": lambda: shutil.copyfile(ours.issue("other").key, key), "missing": certificate.unlink}[broken]()
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: any('"level":"warning"' in row or '"level":"error"' in row
                           for row in server.log_text().splitlines()[before:]))
    assert serial(server, ours) == old and buys(server, trust(ours))
    install(ours.issue("second"), certificate, key)
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: serial(server, ours) != old, NOTICED_SECONDS)


def test_a_shutdown_tells_its_tls_clients(start, pair, ours):
    """GOAWAY and close_notify: calls that were accepted are answered."""
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key)
    with Client(server.target, credentials=trust(ours)) as client:
        sku = client.item(10_000)
        calls = [client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key"), lines=[line(sku)]), timeout=20) for _ in range(500)]
        calls[0].result()
        server.terminate()
        codes = {call.exception().code() if call.exception() else StatusCode.OK for call in calls}
        assert codes <= {StatusCode.OK, StatusCode.UNAVAILABLE}
    assert server.stop() == 0


@pytest.mark.parametrize("program, flags", [
    ("holdfast", ("health", "--target", "https://127.0.0.1:1")),
    ("holdfast-load", ("run", "--tls", "--target", "127.0.0.1:1")),
])
def test_the_library_is_left_alone_at_the_end(binary, generator, tmp_path, program, flags):
    """By itself it tidies up at exit(3), under threads that still use it: some ends in a hundred were a SIGSEGV."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    library = tmp_path / "exit_handlers.so"
    source = pathlib.Path(__file__).with_name("exit_handlers.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)

    def handlers(*command):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60,
                              env={**os.environ, "LD_PRELOAD": str(library)})
        return done.stderr

    # Another program has it tidied up, and is seen.
    assert "at exit: OPENSSL_cleanup" in handlers(sys.executable, "-c", "import ssl; ssl.create_default_context()")
    said = handlers({"holdfast": binary, "holdfast-load": generator}[program], *flags)
    assert "Connection refused" in said and "OPENSSL_cleanup" not in said
