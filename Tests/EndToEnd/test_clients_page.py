"""docs/CLIENTS.md: its tables are what the server and the retry policy do, its commands work, its advice holds."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client import Client, fresh, line
from conftest import REPOSITORY
from error_table import SOURCES, server_errors
from server import Server, holdfast

PAGE = (REPOSITORY / "docs/CLIENTS.md").read_text()
POLICY = json.loads((REPOSITORY / "proto/retry-policy.json").read_text())
RETRY = POLICY["methodConfig"][0]["retryPolicy"]


def table(heading):
    """The rows of the table that begins with these columns."""
    (rows,) = re.findall(rf"^{re.escape(heading)}\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


BY_CODE = {code: advice for codes, advice in table("| code | what to do |") for code in codes.split(", ")}
BY_REASON = {(code, reason): wait for code, reason, wait, _ in table("| code | reason | wait | what it says to a client |")}


def test_every_error_of_the_server_is_listed_and_no_other():
    assert BY_REASON.keys() == server_errors()
    assert len(BY_REASON) > 50


def test_every_code_has_advice():
    codes = {code.name for code in grpc.StatusCode}
    assert BY_CODE.keys() <= codes
    assert {code for code, _ in BY_REASON} <= BY_CODE.keys()


def test_the_channel_retries_what_the_page_says():
    assert {code for code, advice in BY_CODE.items() if advice.startswith("the channel retries")} == set(
        RETRY["retryableStatusCodes"])
    assert {code for code, advice in BY_CODE.items() if advice.startswith("your code retries")} == {
        "DEADLINE_EXCEEDED", "CANCELLED"}


def test_what_the_server_asks_to_wait_is_what_the_page_says():
    """And only what is retried says how long: gRPC for Java retries whatever does."""
    source = (SOURCES / "ReservationService/ErrorReplies.swift").read_text()
    names = {name: int(value.replace("_", "")) // 1_000_000 for name, value in
             re.findall(r"static let (\w+RetryNanoseconds): Int64 = ([\d_]+)", source)}
    waits = {reason: names[name] for reason, name in re.findall(
        r'\.unavailable, "(\w+)", retryNanoseconds: Self\.(\w+)', source)}
    # Those that the loop makes.
    waits |= dict.fromkeys(["OVERLOADED", "SHUTTING_DOWN"], names["overloadRetryNanoseconds"])
    told = {}
    for (code, reason), wait in BY_REASON.items():
        assert bool(wait) == (code == "UNAVAILABLE"), reason
        if wait:
            number, unit = wait.split()
            told[reason] = int(number) * {"ms": 1, "s": 1000}[unit]
    assert told == waits


def test_the_policy_is_as_told():
    (text,) = re.findall(r"\*\*The policy\.\*\* (.*?)\n\n", PAGE, re.DOTALL)
    text = " ".join(text.split())
    initial, most = (float(RETRY[name].rstrip("s")) for name in ("initialBackoff", "maxBackoff"))
    assert f"At most {RETRY['maxAttempts']} attempts of {RETRY['retryableStatusCodes'][0]}" in text
    assert f"after {initial:g} s, then {RETRY['backoffMultiplier']} times as long each time, up to {most:g} s" in text
    throttling = POLICY["retryThrottling"]
    assert f"one of {throttling['maxTokens']} tokens" in text and f"gives {throttling['tokenRatio']} back" in text
    assert f"with {throttling['maxTokens'] // 2} or fewer left" in text
    assert [each["service"] for each in POLICY["methodConfig"][0]["name"]] == [
        "holdfast.v1.ReservationService", "holdfast.v1.StockService"]
    # Hedged calls would all be sent, whatever the first one gets.
    assert not any("hedgingPolicy" in each for each in POLICY["methodConfig"])
    assert f"{RETRY['maxAttempts']} attempts become {RETRY['maxAttempts'] ** 2}" in PAGE


# The commands.

PLAIN, BUF, SECURE = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TOOLS = [REPOSITORY / ".venv-clients/bin", pathlib.Path(sys.executable).parent]
PATH = os.pathsep.join([*map(str, TOOLS), os.environ["PATH"]])
# What a command prints, by a part of it; and whether it is refused.
PRINTS = [
    ("7420 list", "holdfast.v1.ReservationService", False), ("describe", "repeated .holdfast.v1.ReservationLine lines", False),
    ("AdjustStock", '"onHand": "100"', False), ("order-7/1\", \"reference", '"state": "RESERVATION_STATE_HELD"', False),
    ("order-8/1", '"reason":"INSUFFICIENT_STOCK"', True), ("ListReservations", '"reference": "order-7"', False),
    ("Watch", '"kind": "EVENT_KIND_HELD"', True), ("--list-methods", "holdfast.v1.StockService/GetStock", False),
    ("GetStock", '"sku": "ticket"', False), ("GetReservation", '"state": "RESERVATION_STATE_HELD"', False),
    ("order-9/1", '"reservationId"', False)]
needs_grpcurl = pytest.mark.skipif(not shutil.which("grpcurl", path=PATH), reason="no grpcurl; make bootstrap-clients installs it")


def commands(block, target):
    joined = block.replace("\\\n", " ").replace("127.0.0.1:7420", target).replace("localhost:7420", target)
    return [re.sub(r"\s+#.*", "", command) for command in joined.splitlines()]


def run(command, target, folder, **environment):
    """Runs it and holds what it prints against PRINTS."""
    _, wanted, is_refused = next(each for each in PRINTS if each[0].replace("7420", target.split(":")[1]) in command)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PATH": PATH, **environment})
    assert (done.returncode != 0) == is_refused, (command, done.stdout, done.stderr)
    assert wanted in done.stdout + done.stderr, (command, done.stdout, done.stderr)


@needs_grpcurl
@pytest.mark.clients
def test_grpcurl(start, tmp_path):
    server = start()
    assert len([run(command, server.target, tmp_path) for command in commands(PLAIN, server.target)]) == 7


def test_buf_curl(start, tmp_path):
    server = start()
    with Client(server.target) as client:
        client.adjust("ticket", set_on_hand=100)
        client.reserve(line("ticket", 2), key="order-7/1", reference="order-7")
    assert len([run(command, server.target, tmp_path) for command in commands(BUF, server.target)]) == 4


@pytest.mark.parametrize("tool", ["buf", pytest.param("grpcurl", marks=[needs_grpcurl, pytest.mark.clients])])
def test_with_tls_and_a_token(binary, ours, tmp_path, tool):
    pair = ours.issue("server")
    shutil.copy(ours.authority, tmp_path / "server.pem")
    made = holdfast(binary, "token", "create", "--caller", "shop", "--role", "stock", "--file", tmp_path / "tokens")
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key, "--tokens", tmp_path / "tokens") as server:
        credentials = grpc.ssl_channel_credentials(ours.authority.read_bytes())
        token = made.stdout.strip()
        with Client(server.target, credentials=credentials, token=token) as client:
            client.adjust("ticket", set_on_hand=100)
        target = f"localhost:{server.port}"
        (command,) = [each for each in commands(SECURE, target) if each.startswith(tool)]
        run(command, target, tmp_path, HOLDFAST_TOKEN=token)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PATH": PATH, "HOLDFAST_TOKEN": "wrong"})
        assert done.returncode != 0 and not done.stdout


# A list of addresses, of which one is a standby's.


class Standby(grpc.GenericRpcHandler):
    """What a standby says to every call."""

    def __init__(self, owner):
        info = any_pb2.Any()
        info.Pack(error_details_pb2.ErrorInfo(reason="NOT_OWNER", domain="holdfast", metadata={"owner": owner}))
        self.status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="a standby", details=[info])
        self.calls = 0

    def service(self, call):
        return None if "grpc.health" in call.method else grpc.unary_unary_rpc_method_handler(self.refuse)

    def refuse(self, _, context):
        self.calls += 1
        context.set_trailing_metadata([("grpc-status-details-bin", self.status.SerializeToString())])
        context.abort(grpc.StatusCode.UNAVAILABLE, "a standby")


@pytest.fixture
def standby(server):
    script = Standby(server.target)
    process = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[script])
    servicer = health.HealthServicer()
    for service in ("", "holdfast.v1.ReservationService"):
        servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, process)
    script.target = f"127.0.0.1:{process.add_insecure_port('127.0.0.1:0')}"
    process.start()
    yield script
    process.stop(None).wait()


def test_a_list_of_addresses_with_health_checks_finds_the_owner(server, standby):
    (block,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    addresses = f"ipv4:{standby.target},{server.target}"
    with Client(addresses, options=[("grpc.service_config", json.dumps({**POLICY, **json.loads(block)}))]) as client:
        sku = client.item(20)
        for _ in range(20):
            client.reserve(line(sku))
        assert client.level(sku).held == 20
    assert standby.calls == 0


def test_without_them_it_stays_with_the_standby(server, standby):
    """The reason for the advice; the owner's address comes with the refusal."""
    with Client(f"ipv4:{standby.target},{server.target}") as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.level(fresh())
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.metadata["owner"] == server.target and standby.calls == 1
