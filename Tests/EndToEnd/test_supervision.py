"""What a service manager needs: notifications (sd_notify), a watchdog, credentials, and a health check."""

import json
import os
import re
import signal
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
from client import Client, refused
from grpc_health.v1 import health as servicer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server import Server, eventually, holdfast
from test_disk_faults import faults  # noqa: F401  a fixture
from test_lifecycle import metric


class Manager:
    """The service manager's end of NOTIFY_SOCKET: what it was told, in order."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = str(address)
        self.socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)
        # (seconds, lines)
        self.messages = []
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while message := self.socket.recv(65536):
            self.messages.append((time.monotonic(), message.decode().split("\n")))

    def environment(self, **others):
        return {"NOTIFY_SOCKET": self.address, **{name: str(value) for name, value in others.items()}}

    def lines(self, name):
        return [value for _, message in list(self.messages) for value in message if value.startswith(name)]

    def wait_for(self, text, seconds=20):
        return eventually(lambda: next((lines for _, lines in list(self.messages) if text in lines), None), seconds)

    def pings(self):
        return [when for when, message in list(self.messages) if message == ["WATCHDOG=1"]]

    def close(self):
        # An empty datagram ends the thread.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    manager = Manager(tmp_path / "notify" if request.param == "path" else f"@holdfast-test-{os.getpid()}-{time.monotonic_ns()}")
    yield manager
    manager.close()


@pytest.fixture
def one_manager(tmp_path):
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def test_it_says_when_it_is_ready_reloads_and_stops(start, manager, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("")
    server = start("--tokens", tokens, environment=manager.environment())
    ready = manager.wait_for("READY=1")
    assert ready[1] == f"STATUS=serves gRPC on {server.target}"
    # A start that works may take its time.
    assert manager.lines("EXTEND_TIMEOUT_USEC=")[0] == "EXTEND_TIMEOUT_USEC=60000000"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    server.process.send_signal(signal.SIGHUP)
    reloading = manager.wait_for("RELOADING=1")
    told = int(next(each for each in reloading if each.startswith("MONOTONIC_USEC=")).split("=")[1])
    assert before <= told <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    eventually(lambda: len(manager.lines("READY=1")) == 2)
    assert server.stop() == 0
    stopping = manager.wait_for("STOPPING=1")
    assert stopping[1] == "EXTEND_TIMEOUT_USEC=15000000" and stopping[2].startswith("STATUS=")
    # No watchdog was asked for.
    assert not manager.pings()


def test_it_extends_a_start_that_recovers_and_is_not_ready_before_it_serves(binary, one_manager, tmp_path, faults):  # noqa: F811
    with Server(binary, data=tmp_path / "data") as server, Client(server.target) as client:
        client.item(10)
    marker = tmp_path / "stall"
    marker.touch()
    server = Server(binary, data=tmp_path / "data", waits=False, environment=one_manager.environment(
        LD_PRELOAD=faults, FAULT_STALL=marker))
    try:
        one_manager.wait_for("EXTEND_TIMEOUT_USEC=60000000")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "SIGHUP" in server.log_text())
        assert not one_manager.lines("READY") and not one_manager.lines("RELOADING")
        marker.unlink()
        server.wait_until_up()
        one_manager.wait_for("READY=1")
    finally:
        marker.unlink(missing_ok=True)
        server.stop()


def test_an_address_that_is_none_is_told_of_and_nothing_else(start):
    server = start(environment={"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1000000"})
    (entry,) = [json.loads(text) for text in server.log_text().splitlines() if "NOTIFY_SOCKET" in text]
    assert entry["level"] == "error" and "vsock:2:1" in entry["message"]
    with Client(server.target) as client:
        client.item(1)


def test_a_manager_that_is_gone_disturbs_nobody(start, tmp_path):
    server = start(environment={"NOTIFY_SOCKET": str(tmp_path / "nothing"), "WATCHDOG_USEC": "1000000"})
    with Client(server.target) as client:
        client.item(1)
    assert server.stop() == 0


@pytest.mark.parametrize("hung, name", [("FAULT_LOOP", "loop-0"), ("FAULT_STALL", "journal")])
def test_the_watchdog_is_told_nothing_while_a_part_hangs(start, one_manager, faults, tmp_path, hung, name):  # noqa: F811
    marker = tmp_path / "marker"
    server = start("--loops", "2", data=tmp_path / "data", environment=one_manager.environment(
        WATCHDOG_USEC=2_000_000, LD_PRELOAD=faults, **{hung: marker}))
    one_manager.wait_for("READY=1")
    eventually(lambda: len(one_manager.pings()) >= 3)
    marker.touch()
    try:
        if hung == "FAULT_STALL":
            threading.Thread(target=change, args=(server.target,), daemon=True).start()
            eventually(lambda: metric(server, "holdfast_journal_lag_bytes") > 0)
        eventually(lambda: f"{name} has not come round" in server.log_text(), 20)
        # From here on nothing, however often the other threads come round. What was said before has come by then.
        time.sleep(1)
        silent = len(one_manager.pings())
        time.sleep(1.5)
        assert len(one_manager.pings()) == silent
    finally:
        marker.unlink()
    eventually(lambda: len(one_manager.pings()) > silent, 20)
    assert server.stop() == 0


def change(target):
    """A decision that the journal has to sync; what becomes of it is not of interest."""
    with Client(target) as client:
        try:
            client.item(1)
        except grpc.RpcError:
            pass


def test_the_watchdog_of_another_process_is_not_its_own(start, one_manager):
    start(environment=one_manager.environment(WATCHDOG_USEC=200_000, WATCHDOG_PID=1))
    one_manager.wait_for("READY=1")
    time.sleep(0.5)
    assert not one_manager.pings()


# MARK: credentials


@pytest.mark.parametrize("prefix", ["", "holdfast_", "holdfast."])
def test_credentials_are_found_by_their_names(binary, start, ours, pair, tmp_path, prefix):
    folder = tmp_path / "credentials"
    folder.mkdir()
    done = holdfast(binary, "token", "create", "--caller", "shop", "--role", "stock", "--file", folder / f"{prefix}tokens")
    (folder / f"{prefix}tls-cert").write_bytes(pair.certificate.read_bytes())
    (folder / f"{prefix}tls-key").write_bytes(pair.key.read_bytes())
    environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    server = start(environment=environment)
    credentials = grpc.ssl_channel_credentials(ours.authority.read_bytes())
    target = f"localhost:{server.port}"
    with Client(target, credentials=credentials, token=done.stdout.split()[0]) as client:
        client.item(1)
    with Client(target, credentials=credentials) as client:
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
            client.level("nothing")
    shown = holdfast(binary, "serve", "--print-config", environment=environment).stdout
    assert f"tls-key = {folder}/{prefix}tls-key  (credential {prefix}tls-key)" in shown
    assert re.search(r"^tls-client-ca = +\(default\)$", shown, re.MULTILINE)


def test_what_an_operator_names_comes_before_a_credential(binary, tmp_path):
    (tmp_path / "tokens").write_text("")
    own = tmp_path / "own"
    own.write_text("")
    for flags, variables, source in [(["--tokens", own], {}, "--tokens"), ([], {"HOLDFAST_TOKENS": str(own)}, "HOLDFAST_TOKENS")]:
        shown = holdfast(binary, "serve", "--print-config", *flags,
                         environment={"CREDENTIALS_DIRECTORY": str(tmp_path), **variables}).stdout
        assert f"tokens = {own}  ({source})" in shown


@pytest.mark.parametrize("folder", ["", "/nowhere", "/etc/hostname"])
def test_a_folder_of_credentials_that_is_none_is_no_mistake(start, folder):
    with Client(start(environment={"CREDENTIALS_DIRECTORY": folder}).target) as client:
        client.item(1)


@pytest.mark.parametrize("leads_to", ["nowhere", "tokens", "folder"])
def test_a_credential_that_cannot_be_read_is_not_one_that_is_missing(binary, tmp_path, leads_to):
    """Or a server would be open to everybody, since its tokens are a link that broke."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "tokens").symlink_to(leads_to)
    done = holdfast(binary, "serve", "--port", "0", "--admin-port", "0", "--durability", "memory",
                    environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert done.returncode != 0 and "--tokens" in done.stderr and "ready" not in done.stdout


def test_half_a_pair_of_credentials_is_a_mistake(binary, pair, tmp_path):
    (tmp_path / "tls-cert").write_bytes(pair.certificate.read_bytes())
    done = holdfast(binary, "serve", environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert done.returncode == 64 and "--tls-key" in done.stderr


# MARK: health


def health(binary, *arguments, **environment):
    return holdfast(binary, "health", *arguments, environment=environment)


def test_health_of_a_server_that_serves(binary, server):
    done = health(binary, "--target", server.target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")
    done = health(binary, "--target", server.target, "--service", "holdfast.v1.StockService")
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    done = health(binary, "--target", server.target, "--service", "shop.v1.Nothing")
    assert done.returncode == 1 and done.stdout == "" and server.target in done.stderr
    # As a container asks itself.
    done = health(binary, HOLDFAST_PORT=str(server.port), HOLDFAST_HOST="0.0.0.0")
    assert (done.returncode, done.stdout) == (0, "SERVING\n")


def test_health_of_a_server_with_tls_and_tokens_of_its_own_environment(binary, start, ours, pair, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("")
    variables = {"HOLDFAST_TLS_CERT": str(pair.certificate), "HOLDFAST_TLS_KEY": str(pair.key), "HOLDFAST_TOKENS": str(tokens)}
    server = start(environment=variables)
    variables["HOLDFAST_PORT"] = str(server.port)
    assert health(binary, **variables).stdout == "SERVING\n"
    # With another environment, the certificate has to be right.
    target = ["--target", f"localhost:{server.port}"]
    assert health(binary, *target, "--tls", "--tls-ca", ours.authority).stdout == "SERVING\n"
    done = health(binary, *target, "--tls")
    assert done.returncode == 1 and "certificate" in done.stderr
    done = health(binary, *target)
    assert done.returncode == 1 and done.stdout == ""
    # Clients need certificates: the server's own is one of that authority.
    mutual = start("--tls-client-ca", ours.authority, environment=variables | {"HOLDFAST_PORT": "0"})
    variables |= {"HOLDFAST_PORT": str(mutual.port), "HOLDFAST_TLS_CLIENT_CA": str(ours.authority)}
    assert health(binary, **variables).stdout == "SERVING\n"


def test_health_over_a_unix_socket(binary, start, tmp_path):
    address = f"unix:{tmp_path}/socket"
    start("--host", address)
    assert health(binary, "--target", address).stdout == "SERVING\n"
    assert health(binary, HOLDFAST_HOST=address).stdout == "SERVING\n"


def test_health_of_what_is_no_server(binary, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        done = health(binary, "--target", f"127.0.0.1:{port}")
        assert done.returncode == 1 and "refused" in done.stderr
        silent.listen()
        done = health(binary, "--target", f"127.0.0.1:{port}", "--timeout", "200ms")
        assert done.returncode == 1 and "has not answered in 200ms" in done.stderr
    done = health(binary, "--target", f"unix:{tmp_path}/nothing")
    assert done.returncode == 1


@pytest.mark.parametrize("arguments, environment, says", [
    (["--target", "nonsense"], {}, "--target"),
    (["--timeout", "soon"], {}, "--timeout"),
    (["--tls-ca", "x", "--target", "localhost:1"], {}, "--tls"),
    ([], {"HOLDFAST_PORT": "0"}, "--target"),
    ([], {"HOLDFAST_PORT": "x"}, "HOLDFAST_PORT"),
    ([], {"HOLDFAST_PROXY_PROTOCOL": "true"}, "--proxy-protocol"),
])
def test_health_of_nonsense(binary, arguments, environment, says):
    done = health(binary, *arguments, **environment)
    assert done.returncode == 64 and says in done.stderr


def test_health_of_a_server_that_does_not_serve(binary):
    """As a standby answers, and whatever else has health checks."""
    states = servicer.HealthServicer()
    with futures.ThreadPoolExecutor(2) as pool:
        other = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(states, other)
        port = other.add_insecure_port("127.0.0.1:0")
        other.start()
        for state in ("NOT_SERVING", "SERVING"):
            states.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(state))
            done = health(binary, "--target", f"127.0.0.1:{port}")
            assert (done.returncode, done.stdout) == (int(state != "SERVING"), f"{state}\n")
        other.stop(None).wait()
