"""The PROXY protocol, version 2: whose a connection is, when a proxy has made it."""

import ipaddress
import socket
import ssl
import struct

import pytest

from certificates import Certificates
from http2 import PREFACE, SETTINGS, Connection, frame
from server import Server, eventually
from test_connections import abuse, metric

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPECIFIED, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31
CHECK = "/grpc.health.v1.Health/Check"
PER_PEER = 3


def header(command, family, rest):
    return SIGNATURE + struct.pack(">BBH", command, family, len(rest)) + rest


def client(address, extensions=b""):
    """The header of a client's connection."""
    address = ipaddress.ip_address(address)
    family, server = (TCP4, "10.0.0.1") if address.version == 4 else (TCP6, "fd00::1")
    return header(PROXY, family, address.packed + ipaddress.ip_address(server).packed
                  + struct.pack(">HH", 40000, 7420) + extensions)


class Proxied(Connection):
    """A connection that begins with `first`."""

    def __init__(self, server, first, chunk=None, **options):
        super().__init__(server, preface=False, **options)
        for at in range(0, len(first), chunk or len(first)):
            self.send(first[at:at + (chunk or len(first))])
        self.send(PREFACE + frame(SETTINGS))

    def is_served(self):
        try:
            self.read_frame()
        except Exception:
            return False
        return True


@pytest.fixture(scope="module")
def proxied(binary):
    with Server(binary, "--proxy-protocol", "--loops", "1", "--max-connections-per-peer", str(PER_PEER),
                "--handshake-timeout", "500ms") as running:
        yield running


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("first", [
    pytest.param(client("192.0.2.1"), id="IPv4"),
    pytest.param(client("2001:db8::1"), id="IPv6"),
    pytest.param(client("192.0.2.1", b"\x04\x00\x10" + bytes(16) + b"\x02\x00\x04shop"), id="extensions"),
    pytest.param(client("192.0.2.1", bytes(4096 - 12)), id="the longest"),
    pytest.param(header(LOCAL, UNSPECIFIED, b""), id="the proxy itself"),
    pytest.param(header(LOCAL, 0x77, bytes(9)), id="LOCAL: the family is not looked at"),
    pytest.param(header(PROXY, UNSPECIFIED, b""), id="unspecified"),
    pytest.param(header(PROXY, UNIX, bytes(216)), id="unix"),
])
def test_headers(proxied, first, chunk):
    with Proxied(proxied, first, chunk) as connection:
        assert connection.is_served()


@pytest.mark.parametrize("first", [
    pytest.param(b"", id="none"),
    pytest.param(b"PROXY TCP4 192.0.2.1 10.0.0.1 40000 7420\r\n", id="version 1"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP/1"),
    pytest.param(b"\x16\x03\x01\x00\xff\x01", id="TLS"),
    pytest.param(SIGNATURE[:-1] + b"X", id="signature"),
    pytest.param(header(0x31, TCP4, bytes(12)), id="version 3"),
    pytest.param(header(0x22, TCP4, bytes(12)), id="command"),
    pytest.param(header(PROXY, TCP4, bytes(11)), id="too short for IPv4"),
    pytest.param(header(PROXY, TCP6, bytes(35)), id="too short for IPv6"),
    pytest.param(header(PROXY, UNIX, bytes(215)), id="too short for unix"),
    pytest.param(header(PROXY, UDP4, bytes(12)), id="datagrams"),
    pytest.param(header(PROXY, 0x41, bytes(12)), id="family"),
    pytest.param(header(PROXY, TCP4, bytes(4097)), id="too long"),
])
def test_what_is_no_header_ends_the_connection(proxied, first):
    before = abuse(proxied, "proxy_header")
    with socket.create_connection((proxied.host, proxied.port), 10) as connection:
        try:
            connection.sendall(first or PREFACE)
            assert not connection.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            pass
    eventually(lambda: abuse(proxied, "proxy_header") == before + 1)
    eventually(lambda: "--proxy-protocol" in proxied.log_text())


@pytest.mark.parametrize("first", [b"", client("192.0.2.1")[:-1]], ids=["none", "not whole"])
def test_a_header_has_to_come_in_time(proxied, first):
    before = abuse(proxied, "handshake_timeout")
    with socket.create_connection((proxied.host, proxied.port), 10) as connection:
        connection.sendall(first)
        assert not connection.recv(1)
    assert abuse(proxied, "handshake_timeout") == before + 1


def test_clients_are_counted_and_not_the_proxy(start):
    """Many connections of one proxy: each client has as many as it may, and no more."""
    server = start("--proxy-protocol", "--max-connections-per-peer", str(PER_PEER))
    refused = 'holdfast_connections_refused_total{reason="per_peer_limit"}'
    kept = []
    try:
        for number in range(1, 4):
            for _ in range(PER_PEER):
                kept.append(Proxied(server, client(f"192.0.2.{number}")))
                assert kept[-1].is_served()
        for _ in range(PER_PEER):
            kept.append(Proxied(server, client(f"2001:db8::{len(kept)}")))
            assert kept[-1].is_served()
        for address in ("192.0.2.1", "2001:db8::ffff"):
            before = metric(server, refused)
            with Proxied(server, client(address)) as more:
                assert not more.is_served()
            assert metric(server, refused) == before + 1
        # One goes, and another may come.
        kept.pop(0).socket.close()

        def served():
            with Proxied(server, client("192.0.2.1")) as more:
                return more.is_served()

        eventually(served)
    finally:
        for connection in kept:
            connection.socket.close()


def test_the_header_comes_before_tls(start, tmp_path):
    made = Certificates(tmp_path)
    pair = made.issue("server")
    server = start("--proxy-protocol", "--tls-cert", pair.certificate, "--tls-key", pair.key)
    context = ssl.create_default_context(cafile=made.authority)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((server.host, server.port), 10) as plain:
        # In one segment with the handshake's beginning: nothing of that may be lost.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        security = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        first = client("192.0.2.1", bytes(300))
        while True:
            try:
                security.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(first + outgoing.read())
                first = b""
                incoming.write(plain.recv(1 << 16))
        assert security.selected_alpn_protocol() == "h2"
