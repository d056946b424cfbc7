"""The load generator over TLS: certificates of both sides, tokens, and what it says where the two do not fit."""

import contextlib
import json
import select
import socket
import ssl
import threading

import pytest

from server import Server, holdfast
from test_load_flags import one_line, run

SETTINGS = bytes(3) + b"\x04" + bytes(5)


@pytest.fixture(scope="module")
def tokens(binary, tmp_path_factory):
    """(the file, the token)"""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    made = holdfast(binary, "token", "create", "--caller", "load", "--role", "admin", "--file", file)
    assert made.returncode == 0, made.stderr
    return file, made.stdout.split()[0]


@pytest.fixture(scope="module")
def secure(binary, pair, ours, tokens):
    """A server that wants certificates of our authority and a token, and has its admin port over TLS."""
    with Server(binary, "--durability", "memory", "--tls-cert", pair.certificate, "--tls-key", pair.key,
                "--tls-client-ca", ours.authority, "--admin-tls", "--tokens", tokens[0]) as server:
        yield server


def load(generator, server, *flags):
    return run(generator, "run", "--target", server.target, "--operations", 300, "--connections", 4, "--skus", 3,
               *flags)


def trusting(authority, pair=None):
    flags = ["--tls", "--tls-ca", authority.authority]
    return [*flags, "--tls-cert", pair.certificate, "--tls-key", pair.key] if pair else flags


def test_a_run_over_mutual_tls_with_a_token(generator, secure, ours, pair, tokens, tmp_path):
    report = tmp_path / "report.json"
    done = load(generator, secure, *trusting(ours, ours.issue("load")),
                "--metadata", f"authorization=Bearer {tokens[1]}",
                "--admin", f"https://127.0.0.1:{secure.admin_port}", "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    assert text.count("authorization=...") == 1 and json.loads(text)
    assert tokens[1] not in text + done.stdout + done.stderr


def test_prepare_over_mutual_tls_with_a_token(generator, secure, ours, tokens):
    done = run(generator, "prepare", "--target", secure.target, "--skus", 2, *trusting(ours, ours.issue("load")),
               "--metadata", f"authorization=Bearer {tokens[1]}")
    assert done.returncode == 0, done.stdout + done.stderr


def fails(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    said = one_line(done.stderr)
    assert all(word in said for word in words), said


def test_a_ca_that_the_certificate_is_not_of(generator, secure, theirs, ours):
    fails(load(generator, secure, *trusting(theirs, ours.issue("load"))), secure.target, "certificate")


def test_a_name_that_the_certificate_does_not_have(generator, secure, ours):
    mine = ours.issue("load")
    fails(load(generator, secure, *trusting(ours, mine), "--server-name", "other.example"), secure.target,
          "certificate")
    # The certificate has it: TLS is through, and without a token the call is not.
    fails(load(generator, secure, *trusting(ours, mine), "--server-name", "localhost"), "UNAUTHENTICATED")


@pytest.mark.parametrize("whose", ["nobody", "another authority"])
def test_a_certificate_of_the_client_that_the_server_does_not_take(generator, secure, ours, theirs, whose):
    mine = {"nobody": lambda: None, "another authority": lambda: theirs.issue("load")}[whose]()
    fails(load(generator, secure, *trusting(ours, mine)), secure.target, "certificate")


def test_a_wrong_token(generator, secure, ours):
    wrong = "hft_" + "x" * 38
    done = load(generator, secure, *trusting(ours, ours.issue("load")), "--metadata", f"authorization=Bearer {wrong}")
    fails(done, "UNAUTHENTICATED")
    assert wrong not in done.stdout + done.stderr


def test_plaintext_to_a_tls_port(generator, secure):
    fails(load(generator, secure), secure.target)


def test_tls_to_a_plaintext_port(generator, server, ours):
    fails(load(generator, server, *trusting(ours)), server.target, "TLS")


@pytest.mark.parametrize("flags, words", [
    (["--tls-ca", "ca.pem"], "--tls-ca goes with --tls"),
    (["--server-name", "a"], "--server-name goes with --tls"),
    (["--tls", "--tls-cert", "a.pem"], "--tls-cert and --tls-key go together"),
    (["--tls", "--tls-ca", "/nonexistent/ca.pem"], "/nonexistent/ca.pem"),
    (["--metadata", "s3cret"], "--metadata (1 of 1)"),
    (["--metadata", "s3cret+x=="], "--metadata (1 of 1)"),
    (["--metadata", "authorization=Bearer s3cret\n"], "'authorization'"),
    (["--metadata", "grpc-timeout=s3cret"], "'grpc-timeout'"),
    (["--metadata", "a=1", "--metadata", "x-bin=s3cret!"], "'x-bin'"),
    (["--metadata", "a=" + 20_000 * "s3cret"], "bytes"),
])
def test_flags_that_cannot_be(generator, flags, words):
    done = run(generator, "run", "--target", "127.0.0.1:1", *flags)
    fails(done, words)
    assert "s3cret" not in done.stdout + done.stderr


def forward(peer, backend):
    """Both ways, until either ends."""
    while True:
        readable = [peer] if peer.pending() else select.select([peer, backend], [], [], 20)[0]
        for source in readable:
            data = source.recv(65536)
            if not data:
                return
            (backend if source is peer else peer).sendall(data)
        if not readable:
            return


@contextlib.contextmanager
def tls_server(pair, protocols=("h2",), clients=None, backend=None):
    """TLS in front of a server without. Yields its port and what it saw of each connection: (ALPN protocol, name
    asked for, whether the session was resumed, whether there was a certificate). Without `backend` it only says
    SETTINGS."""
    security = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    security.load_cert_chain(pair.certificate, pair.key)
    security.set_alpn_protocols(list(protocols))
    if clients:
        security.load_verify_locations(clients.authority)
        security.verify_mode = ssl.CERT_REQUIRED
    names, seen, threads = {}, [], []
    security.sni_callback = lambda peer, name, _: names.__setitem__(peer.fileno(), name)

    def serve(plain):
        with contextlib.suppress(OSError), plain:
            plain.settimeout(10)
            with security.wrap_socket(plain, server_side=True) as peer:
                seen.append((peer.selected_alpn_protocol(), names.pop(peer.fileno(), None), peer.session_reused,
                             bool(peer.getpeercert())))
                if backend:
                    with socket.create_connection((backend.host, backend.port), 10) as to:
                        forward(peer, to)
                else:
                    peer.recv(65536)
                    peer.sendall(SETTINGS)
                    peer.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=[plain]))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()[1], seen
        listener.shutdown(socket.SHUT_RDWR)
        for thread in [accepting, *threads]:
            thread.join(20)
            assert not thread.is_alive()


def test_later_connections_resume_a_session_of_earlier_ones(generator, server, pair, ours):
    mine = ours.issue("load")
    with tls_server(pair, clients=ours, backend=server) as (port, seen):
        done = run(generator, "run", "--target", f"localhost:{port}", "--operations", 300, "--connections", 4,
                   "--skus", 3, *trusting(ours, mine))
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(seen) >= 5 and all(entry[:2] == ("h2", "localhost") and entry[3] for entry in seen)
    # Connections that begin together have one ticket, and whichever is through first uses it up.
    assert not seen[0][2] and seen[1][2] and seen[-1][2], seen


def test_what_a_server_sees(generator, pair, ours):
    with tls_server(pair, clients=ours) as (port, seen):
        done = run(generator, "prepare", "--target", f"localhost:{port}", "--skus", 1,
                   *trusting(ours, ours.issue("load")))
        fails(done, f"127.0.0.1:{port}")
    assert seen and seen[0] == ("h2", "localhost", False, True)


def test_a_tls_server_without_http2(generator, pair, ours):
    with tls_server(pair, protocols=("http/1.1",)) as (port, _):
        fails(run(generator, "prepare", "--target", f"127.0.0.1:{port}", "--skus", 1, *trusting(ours)), "HTTP/2")


@pytest.mark.parametrize("name", ["127.0.0.1", "other.example"])
def test_an_address_is_no_name_to_ask_for(generator, ours, name):
    """SNI has names alone (RFC 6066, section 3), and what --server-name says is asked for and checked."""
    pair = ours.issue("named", hosts=["DNS:other.example", "IP:127.0.0.1"])
    with tls_server(pair) as (port, seen):
        flags = ["--server-name", name] if name != "127.0.0.1" else []
        run(generator, "prepare", "--target", f"127.0.0.1:{port}", "--skus", 1, *trusting(ours), *flags)
    assert seen and seen[0][1] == (None if name == "127.0.0.1" else name)
