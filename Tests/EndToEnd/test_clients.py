"""examples/: the same checkout in every language, each held to the same table against the real server.

`make test-clients` builds them and runs this. HOLDFAST_CLIENTS names those to try; default: all that are built here.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import subprocess
import threading

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from client import duration, fresh, line
from conftest import REPOSITORY
from holdfast.v1 import event_pb2, reservation_pb2
from lossy import Lossy
from server import Server, eventually, holdfast

EXAMPLES = REPOSITORY / "examples"
# Those that are run. C# has no toolchain, and Node no library, where this is developed: see test_client_sources.py.
LANGUAGES = ["python", "go", "java", "ruby", "cpp", "swift"]
WANTED = os.environ.get("HOLDFAST_CLIENTS", "").split() or LANGUAGES
# Not over TLS, and why.
WITHOUT_TLS = {"java": "Debian's Netty has neither the JDK's ALPN nor a tcnative that loads"}
SOLD, NOT_SOLD, FAILED = 0, 1, 3
RUN_SECONDS = 120

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module", params=WANTED)
def program(request):
    path = EXAMPLES / request.param / "build" / "checkout"
    assert path.exists(), f"{path} is missing: run `make test-clients`"
    return path


class Running:
    """A checkout under way, whose lines are read as they come."""

    def __init__(self, program, target, sku, order, *flags, environment=()):
        self.process = subprocess.Popen(
            [program, "--target", target, "--sku", sku, "--order", order, *map(str, flags)],
            env={**os.environ, **dict(environment)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.watchdog = threading.Timer(RUN_SECONDS, self.process.kill)
        self.watchdog.start()
        self.lines = []

    def wait_for(self, text):
        for row in self.process.stdout:
            self.lines.append(row.rstrip("\n"))
            if self.lines[-1] == text:
                return
        raise AssertionError(f"{text!r} did not come: {self.lines}\n{self.process.stderr.read()}")

    def end(self, typed=""):
        """(status, all lines), after what was typed."""
        rest, errors = self.process.communicate(typed)
        self.watchdog.cancel()
        self.errors = errors
        return self.process.returncode, self.lines + rest.splitlines()


def check(running, wanted, typed=""):
    """The lines are those of `wanted`, whose last word is the status."""
    status, found = running.end(typed)
    *rows, code = wanted
    assert (found, status) == (rows, code), running.errors


@pytest.fixture
def order():
    return fresh("order")


@pytest.fixture
def sku():
    return fresh("ticket")


def sale(sku, order, again=(), confirm_again=(), replayed="", confirm_replayed=""):
    return [f"watching {order}", *again, f"held 2 {sku} (HELD){replayed}", "payment ok", *confirm_again,
            f"confirmed 2 {sku}{confirm_replayed}", f"event HELD 2 {sku}", f"event CONFIRMED 2 {sku}", "sold", SOLD]


def shortage(sku, call, available, replayed=False):
    text = f"2 requested, {available} available"
    return [f"refused {call}: FAILED_PRECONDITION", f"  message not enough stock of {sku}: {text}",
            f"  reason INSUFFICIENT_STOCK: available={available}, location=, " + ("replayed=true, " if replayed else "")
            + f"requested=2, sku={sku}", f"  failed {sku}: {text}"]


def test_a_sale(program, server, client, sku, order):
    check(Running(program, server.target, sku, order, "--units", 2, "--stock", 5),
          [f"stock {sku}: 5 on hand, 5 available", *sale(sku, order)])
    assert client.level(sku).on_hand == 3 and client.level(sku).held == 0
    # The whole again, as after a crash of the shop: every answer is the first one, and nobody pays twice.
    check(Running(program, server.target, sku, order, "--units", 2, "--stock", 5),
          [f"stock {sku}: 5 on hand, 5 available", f"watching {order}", f"held 2 {sku} (CONFIRMED), replayed",
           "sold", SOLD])
    assert client.level(sku).on_hand == 3


def test_what_its_readme_says(program, start):
    """Its two lines, in its folder, against a server at which HOLDFAST_TARGET points."""
    folder = program.parents[1]
    server = start()
    rows = [row.split() for row in (folder / "README.md").read_text().splitlines() if row.startswith("    build/checkout")]
    assert len(rows) == 2
    for words, last in zip(rows, ["sold", "not sold: no payment"]):
        done = subprocess.run(words, cwd=folder, env={**os.environ, "HOLDFAST_TARGET": server.target}, text=True,
                              capture_output=True, timeout=RUN_SECONDS)
        assert done.stdout.splitlines()[-1] == last, done.stderr


def test_a_declined_card(program, server, client, sku, order):
    client.adjust(sku, set_on_hand=5)
    flags = ["--units", 2, "--payment", "declined"]
    check(Running(program, server.target, sku, order, *flags),
          [f"watching {order}", f"held 2 {sku} (HELD)", "payment declined", f"released 2 {sku}", f"event HELD 2 {sku}",
           f"event RELEASED 2 {sku}", "not sold: no payment", NOT_SOLD])
    assert client.level(sku).available == 5
    check(Running(program, server.target, sku, order, *flags),
          [f"watching {order}", f"held 2 {sku} (RELEASED), replayed", "not sold: the hold is RELEASED", NOT_SOLD])
    check(Running(program, server.target, sku, order, "--units", 2, "--attempt", 2), sale(sku, order))
    assert client.level(sku).on_hand == 3


def test_sold_out(program, server, client, sku, order):
    client.adjust(sku, set_on_hand=1)
    check(Running(program, server.target, sku, order, "--units", 2),
          [f"watching {order}", *shortage(sku, "Reserve", 1), f"event REFUSED 2 {sku}",
           "not sold: INSUFFICIENT_STOCK", NOT_SOLD])
    # Units that come later change no answer that was given.
    client.adjust(sku, set_on_hand=9)
    check(Running(program, server.target, sku, order, "--units", 2),
          [f"watching {order}", *shortage(sku, "Reserve", 1, replayed=True), "not sold: INSUFFICIENT_STOCK", NOT_SOLD])


def test_an_unknown_item(program, server, sku, order):
    check(Running(program, server.target, sku, order),
          [f"watching {order}", "refused Reserve: NOT_FOUND", f"  message unknown item {sku}",
           f"  reason ITEM_NOT_FOUND: location=, sku={sku}", f"  failed {sku}: unknown item", "event REFUSED",
           "not sold: ITEM_NOT_FOUND", NOT_SOLD])


def test_a_bad_request_names_the_field(program, server, sku, order):
    rule = "1 s to the server's max_hold, with 0 to 999999999 nanos"
    check(Running(program, server.target, sku, order, "--ttl", 10_000_000),
          [f"watching {order}", "refused Reserve: INVALID_ARGUMENT", f"  message ttl: {rule}", "  reason INVALID_FIELD",
           f"  field ttl: {rule}", "failed: INVALID_FIELD", FAILED])


@pytest.mark.parametrize("how, seconds", [("cut", 5), ("late", 2)])
@pytest.mark.parametrize("call", ["Reserve", "Confirm", "Release", "AdjustStock"])
def test_an_answer_is_lost(program, server, client, sku, order, call, how, seconds):
    """The connection is cut in its place, or it comes too late: the same call again gets it."""
    service = "StockService" if call == "AdjustStock" else "ReservationService"
    again = {call: [f"again {call}: DEADLINE_EXCEEDED"]} if how == "late" else {}
    replayed = {call: ", replayed"}
    with Lossy(server.host, server.port) as proxy:
        proxy.lose(f"{service}/{call}", how)
        running = Running(program, proxy.target, sku, order, "--units", 2, "--stock", 5, "--deadline", seconds,
                          "--payment", "declined" if call == "Release" else "ok")
        rows = [*again.get("AdjustStock", []), f"stock {sku}: 5 on hand, 5 available"]
        if call == "Release":
            rows += [f"watching {order}", f"held 2 {sku} (HELD)", "payment declined", *again.get(call, []),
                     f"released 2 {sku}, replayed", f"event HELD 2 {sku}", f"event RELEASED 2 {sku}",
                     "not sold: no payment", NOT_SOLD]
        else:
            rows += sale(sku, order, again.get("Reserve", []), again.get("Confirm", []), replayed.get("Reserve", ""),
                         replayed.get("Confirm", ""))
        check(running, rows)
        assert proxy.lost == 1
    # Nothing was done twice.
    assert client.level(sku).on_hand == (5 if call == "Release" else 3)


@pytest.fixture
def paying(program, server, client, sku, order):
    """A checkout whose hold has expired while the customer pays."""
    client.adjust(sku, set_on_hand=2)
    running = Running(program, server.target, sku, order, "--units", 2, "--ttl", 1, "--payment", "ask")
    running.wait_for("payment? ok or declined")
    eventually(lambda: client.level(sku).held == 0)
    return running


def test_an_expired_hold_is_taken_again(paying, client, sku, order):
    check(paying, [f"watching {order}", f"held 2 {sku} (HELD)", "payment? ok or declined", "payment ok",
                   f"confirmed 2 {sku}", f"event HELD 2 {sku}", f"event EXPIRED 2 {sku}", f"event CONFIRMED 2 {sku}",
                   "sold", SOLD], "ok\n")
    assert client.level(sku).on_hand == 0


def test_an_expired_hold_whose_units_are_gone(paying, client, sku, order):
    client.reserve(line(sku, 1))
    check(paying, [f"watching {order}", f"held 2 {sku} (HELD)", "payment? ok or declined", "payment ok",
                   *shortage(sku, "Confirm", 1), "refunded", f"event HELD 2 {sku}", f"event EXPIRED 2 {sku}",
                   "not sold: INSUFFICIENT_STOCK", NOT_SOLD], "ok\n")
    assert client.level(sku).on_hand == 2


def test_an_expired_hold_that_nobody_pays_for(paying, sku, order):
    check(paying, [f"watching {order}", f"held 2 {sku} (HELD)", "payment? ok or declined", "payment declined",
                   "refused Release: FAILED_PRECONDITION", "  message the reservation has expired",
                   "  reason RESERVATION_EXPIRED", f"event HELD 2 {sku}", f"event EXPIRED 2 {sku}",
                   "not sold: no payment", NOT_SOLD], "declined\n")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_server_is_restarted_in_between(program, binary, tmp_path, sku, order, how):
    """Another process on the same directory: the hold, the watch and the keys go on."""
    first = Server(binary, data=tmp_path / "data")
    with Lossy(first.host, first.port) as proxy:
        running = Running(program, proxy.target, sku, order, "--units", 2, "--stock", 5, "--payment", "ask",
                          "--deadline", 20)
        running.wait_for("payment? ok or declined")
        proxy.away()
        getattr(first, how)()
        with Server(binary, data=tmp_path / "data") as second:
            proxy.back(second.host, second.port)
            check(running, [f"stock {sku}: 5 on hand, 5 available", f"watching {order}", f"held 2 {sku} (HELD)",
                            "payment? ok or declined", "payment ok", f"confirmed 2 {sku}", f"event HELD 2 {sku}",
                            f"event CONFIRMED 2 {sku}", "sold", SOLD], "ok\n")


def test_a_server_that_is_away_is_waited_for(program, binary, tmp_path, sku, order):
    """The restart comes while the customer's call is on its way, not only between two.

    In Swift the call may stay behind in the channel until its deadline, and goes well when it is made again.
    """
    first = Server(binary, data=tmp_path / "data")
    with Lossy(first.host, first.port) as proxy:
        running = Running(program, proxy.target, sku, order, "--units", 2, "--stock", 5, "--payment", "ask",
                          "--deadline", 20)
        running.wait_for("payment? ok or declined")
        proxy.away()
        first.kill()
        running.process.stdin.write("ok\n")
        running.process.stdin.flush()
        running.wait_for("payment ok")
        with Server(binary, data=tmp_path / "data") as second:
            proxy.back(second.host, second.port)
            status, rows = running.end()
            if program.parents[1].name == "swift":
                rows = [row for row in rows if row != "again Confirm: DEADLINE_EXCEEDED"]
            assert (status, rows) == (SOLD, [
                f"stock {sku}: 5 on hand, 5 available", f"watching {order}", f"held 2 {sku} (HELD)",
                "payment? ok or declined", "payment ok", f"confirmed 2 {sku}", f"event HELD 2 {sku}",
                f"event CONFIRMED 2 {sku}", "sold"]), running.errors


@pytest.fixture
def secure_program(program):
    if reason := WITHOUT_TLS.get(program.parents[1].name):
        pytest.skip(reason)
    return program


@pytest.fixture(scope="module")
def guarded(binary, pair, tmp_path_factory):
    """A server with TLS and callers, and a token for one of them."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    token = holdfast(binary, "token", "create", "--caller", "shop", "--role", "stock", "--file", tokens).stdout.strip()
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key, "--tokens", tokens) as server:
        yield server, token


@pytest.mark.parametrize("name", ["address", "name", "environment"])
def test_tls_and_a_token(secure_program, guarded, ours, sku, order, name):
    server, token = guarded
    flags = {"address": ["--tls-ca", ours.authority], "environment": [],
             "name": ["--tls-ca", ours.authority, "--tls-name", "localhost"]}[name]
    environment = {"HOLDFAST_TOKEN": token}
    if name == "environment":
        environment["HOLDFAST_TLS_CA"] = str(ours.authority)
    check(Running(secure_program, server.target, sku, order, "--units", 2, "--stock", 5, *flags, environment=environment),
          [f"stock {sku}: 5 on hand, 5 available", *sale(sku, order)])


def test_a_token_is_wanted(secure_program, guarded, ours, sku, order):
    server, _ = guarded
    status, rows = Running(secure_program, server.target, sku, order, "--tls-ca", ours.authority).end()
    assert status == FAILED and rows[0] == "refused Watch: UNAUTHENTICATED" and rows[-1] == "failed: CREDENTIALS_MISSING"
    assert "  reason CREDENTIALS_MISSING" in [row.split(":")[0] for row in rows]


@pytest.fixture(scope="module")
def elsewhere(binary, ours):
    """A server whose certificate is another's."""
    pair = ours.issue("elsewhere", hosts=["DNS:elsewhere.example"])
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key) as server:
        yield server


@pytest.mark.parametrize("case", ["another authority", "another address", "another name", "no TLS"])
def test_who_is_not_trusted_gets_no_call(secure_program, elsewhere, ours, theirs, sku, order, case):
    flags = {"another authority": ["--tls-ca", theirs.authority, "--tls-name", "elsewhere.example"],
             "another address": ["--tls-ca", ours.authority],
             "another name": ["--tls-ca", ours.authority, "--tls-name", "localhost"], "no TLS": []}[case]
    running = Running(secure_program, elsewhere.target, sku, order, "--stock", 5, "--deadline", 1, *flags)
    status, rows = running.end()
    assert status == FAILED and re.fullmatch("failed: (DEADLINE_EXCEEDED|UNAVAILABLE)", rows[-1]), (rows, running.errors)
    check(Running(secure_program, elsewhere.target, sku, order, "--units", 2, "--stock", 5, "--tls-ca", ours.authority,
                  "--tls-name", "elsewhere.example"), [f"stock {sku}: 5 on hand, 5 available", *sale(sku, order)])


@pytest.mark.parametrize("flags", [["--no-such-flag"], ["--payment", "perhaps"], ["--units", "two"]])
def test_a_wrong_flag(program, sku, order, flags):
    running = Running(program, "127.0.0.1:1", sku, order, *flags)
    status, rows = running.end()
    assert status in (2, 64) and not rows and flags[0].strip("-") in running.errors


def test_order_ids_that_begin_alike_are_kept_apart(program, server, client, sku, order):
    """Another order, whose id begins with this one's, is sold while this one is paid for: its events are not ours."""
    client.adjust(sku, set_on_hand=5)
    running = Running(program, server.target, sku, order, "--units", 2, "--payment", "ask")
    running.wait_for("payment? ok or declined")
    other = client.reserve(line(sku, 1), reference=f"{order}0")
    client.reservations.Confirm(reservation_pb2.ConfirmRequest(reservation_id=other.reservation_id), **client.call)
    check(running, [f"watching {order}", f"held 2 {sku} (HELD)", "payment? ok or declined", "payment ok",
                    f"confirmed 2 {sku}", f"event HELD 2 {sku}", f"event CONFIRMED 2 {sku}", "sold", SOLD], "ok\n")


class Refusing(grpc.GenericRpcHandler):
    """A server whose Watch stands, and that refuses every other call."""

    def __init__(self, code, reason, pushback):
        self.code, self.pushback, self.calls = code, pushback, 0
        self.details = status_pb2.Status(code=code.value[0], message="not now")
        for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="holdfast", metadata={"b": "2", "a": "1"}),
                       error_details_pb2.RetryInfo(retry_delay=duration(0.25))):
            packed = any_pb2.Any()
            packed.Pack(detail)
            self.details.details.append(packed)

    def service(self, call):
        if call.method.endswith("/Watch"):
            return grpc.unary_stream_rpc_method_handler(self.watch)
        return grpc.unary_unary_rpc_method_handler(self.refuse)

    def watch(self, _, context):
        yield event_pb2.WatchResponse(resume_token="token").SerializeToString()
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait()

    def refuse(self, _, context):
        self.calls += 1
        trailers = [("grpc-status-details-bin", self.details.SerializeToString())]
        if self.pushback is not None:
            trailers.append(("grpc-retry-pushback-ms", str(self.pushback)))
        context.set_trailing_metadata(trailers)
        context.abort(self.code, "not now")


@contextlib.contextmanager
def refusing(*arguments):
    script = Refusing(*arguments)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[script])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield script, f"127.0.0.1:{port}"
    server.stop(None).wait()


POLICY = json.loads((REPOSITORY / "proto/retry-policy.json").read_text())["methodConfig"][0]["retryPolicy"]


@pytest.mark.parametrize("code, reason, pushback, calls", [
    (grpc.StatusCode.UNAVAILABLE, "OVERLOADED", 5, POLICY["maxAttempts"]),
    (grpc.StatusCode.UNAVAILABLE, "OVERLOADED", -1, 1),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "TABLE_FULL", None, 1),
    (grpc.StatusCode.ABORTED, "VERSION_MISMATCH", None, 1),
    (grpc.StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", None, 1),
])
def test_the_policy_is_obeyed(program, sku, order, code, reason, pushback, calls):
    """The channel retries what the policy names, as often as it says and as the server asks for, and nothing else.

    Without pushback where nothing is to be retried, as the server does it: gRPC for Java retries any code that has one.
    """
    with refusing(code, reason, pushback) as (script, target):
        status, rows = Running(program, target, sku, order, "--stock", 1).end()
        assert (status, rows) == (FAILED, [
            f"refused AdjustStock: {code.name}", "  message not now", f"  reason {reason}: a=1, b=2", "  retry after 250 ms",
            f"failed: {reason}"])
        assert script.calls == calls
