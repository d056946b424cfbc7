"""Who calls, and what he may do: bearer tokens, client certificates, roles, and names that nobody may borrow."""

import queue
import subprocess
import threading
import time

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import http2
from certificates import Certificates
from client import Client, Refusal, fresh, line, refused
from http2 import Connection, grpc_fields, grpc_message
from holdfast.v1 import reservation_pb2, stock_pb2
from server import Server, eventually, holdfast

ROLES = ["read", "reserve", "stock", "admin"]
# A token that is taken away counts until it is noticed.
NOTICED_SECONDS = 10
RESERVE = "/holdfast.v1.ReservationService/Reserve"


class Tokens:
    """A token file, and the tokens in it by what they are for."""

    def __init__(self, binary, path):
        self.binary, self.path = binary, path

    def create(self, caller, role, *flags):
        done = holdfast(self.binary, "token", "create", "--caller", caller, "--role", role, "--file", self.path, *flags)
        assert done.returncode == 0, done.stderr
        (token,) = done.stdout.split()
        return token


@pytest.fixture
def tokens(binary, tmp_path):
    return Tokens(binary, tmp_path / "tokens")


@pytest.fixture(scope="module")
def all_roles(binary, tmp_path_factory):
    """(server, {role: token}, a SKU with much stock)"""
    made = Tokens(binary, tmp_path_factory.mktemp("roles") / "tokens")
    by_role = {role: made.create(f"caller-{role}", role) for role in ROLES}
    with Server(binary, "--tokens", str(made.path), "--log-level", "trace") as server:
        with Client(server.target, token=by_role["admin"]) as client:
            sku = client.item(1_000_000)
        yield server, by_role, sku
        for token in by_role.values():
            assert token not in server.log_text()


def test_only_hashes_are_kept(tokens):
    token = tokens.create("shop", "reserve")
    assert len(token) >= 32 and token not in tokens.path.read_text()
    assert tokens.path.stat().st_mode & 0o077 == 0
    assert tokens.create("shop", "reserve") != token


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic c2hvcDpzaG9w", "bearer", "Token x"])
def test_who_has_no_token_is_nobody(all_roles, header):
    server, _, sku = all_roles
    message = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])
    with Connection(server) as connection:
        fields = grpc_fields(RESERVE, **({} if header is None else {"authorization": header}))
        connection.request(1, fields, grpc_message(message.SerializeToString()))
        response = connection.response(1)
        assert response.grpc_status == StatusCode.UNAUTHENTICATED.value[0]
        info = Refusal.of(response).info
        # An empty field is none.
        assert info.domain == "holdfast" and info.reason == ("TOKEN_INVALID" if header else "CREDENTIALS_MISSING")


def test_a_token_in_any_spelling_of_bearer(all_roles):
    """RFC 7235: the scheme's case does not matter; the token's does."""
    server, by_role, sku = all_roles
    token = by_role["reserve"]
    with Connection(server) as connection:
        for stream, header, good in [(1, f"Bearer {token}", True), (3, f"bearer {token}", True),
                                     (5, f"Bearer {token.swapcase()}", False), (7, f"Bearer {token}x", False),
                                     (9, f"Bearer {token[:-1]}", False), (11, token, False)]:
            message = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])
            status = connection.call(stream, RESERVE, message.SerializeToString(), authorization=header).grpc_status
            assert status == (0 if good else StatusCode.UNAUTHENTICATED.value[0]), header


def one_of(sku):
    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])


def calls_of(client, sku):
    """Every method, as a call that is good but for who makes it."""
    nobody = "0" * 20
    return {
        "Reserve": lambda: client.reserve(line(sku)),
        "BatchReserve": lambda: client.reservations.BatchReserve(reservation_pb2.BatchReserveRequest(
            requests=[one_of(sku)]), **client.call),
        "ReserveStream": lambda: list(client.reservations.ReserveStream(iter(
            [reservation_pb2.ReserveStreamRequest(requests=[one_of(sku)])]), **client.call)),
        "Confirm": lambda: client.confirm(nobody), "Release": lambda: client.release(nobody),
        "Extend": lambda: client.extend(nobody), "GetReservation": lambda: client.get(nobody),
        "ListReservations": lambda: client.reservations.ListReservations(
            reservation_pb2.ListReservationsRequest(), **client.call),
        "AdjustStock": lambda: client.adjust(sku, delta=1), "GetStock": lambda: client.level(sku),
        "BatchGetStock": lambda: client.stock.BatchGetStock(stock_pb2.BatchGetStockRequest(
            items=[stock_pb2.StockItem(sku=sku)]), **client.call),
        "ListStock": lambda: client.stock.ListStock(stock_pb2.ListStockRequest(), **client.call),
    }


READS = {"GetReservation", "ListReservations", "GetStock", "BatchGetStock", "ListStock"}
HOLDS = {"Reserve", "BatchReserve", "ReserveStream", "Confirm", "Release", "Extend"}
ALLOWED = {"read": READS, "reserve": READS | HOLDS, "stock": READS | HOLDS | {"AdjustStock"},
           "admin": READS | HOLDS | {"AdjustStock"}}
METHODS = sorted(ALLOWED["admin"])
LEAST = {method: role for role in ("stock", "reserve", "read") for method in ALLOWED[role]}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", ROLES)
def test_what_each_role_may_do(all_roles, role, method):
    server, by_role, sku = all_roles
    with Client(server.target, token=by_role[role]) as client:
        try:
            calls_of(client, sku)[method]()
            code = StatusCode.OK
        except grpc.RpcError as error:
            code = error.code()
            if code == StatusCode.PERMISSION_DENIED:
                info = Refusal(error).info
                assert info.reason == "ROLE_REQUIRED" and info.metadata["role"] == LEAST[method]
        if method in ALLOWED[role]:
            assert code in (StatusCode.OK, StatusCode.NOT_FOUND)  # of the reservation that nobody made
        else:
            assert code == StatusCode.PERMISSION_DENIED


def test_a_denied_call_changes_nothing(all_roles):
    server, by_role, sku = all_roles
    with Client(server.target, token=by_role["read"]) as reader:
        before = reader.level(sku)
        for call in (lambda: reader.reserve(line(sku)), lambda: reader.adjust(sku, delta=5)):
            with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
                call()
        assert reader.level(sku) == before


def test_health_needs_no_token(all_roles):
    """Probes have none."""
    server, _, _ = all_roles
    with Client(server.target) as client:
        assert client.health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1


@pytest.mark.parametrize("claimed, code", [
    (None, StatusCode.OK), ("caller-reserve", StatusCode.OK), ("caller-admin", StatusCode.PERMISSION_DENIED),
    ("caller-reserv", StatusCode.PERMISSION_DENIED), ("CALLER-RESERVE", StatusCode.PERMISSION_DENIED)])
def test_the_caller_is_not_for_the_client_to_choose(all_roles, claimed, code):
    server, by_role, sku = all_roles
    with Client(server.target, caller=claimed, token=by_role["reserve"]) as client:
        if code == StatusCode.OK:
            client.reserve(line(sku))
        else:
            with refused(code, "CALLER_MISMATCH"):
                client.reserve(line(sku))


def test_keys_belong_to_the_caller(binary, tokens, start):
    """Two tokens of one caller meet, two callers do not."""
    names = {"a1": "a", "a2": "a", "b": "b"}
    made = {name: tokens.create(caller, "admin") for name, caller in names.items()}
    server = start("--tokens", tokens.path)
    key = fresh("key")
    with Client(server.target, token=made["a1"]) as client:
        sku = client.item(10)
    held = {}
    for name, token in made.items():
        with Client(server.target, token=token) as client:
            held[name] = client.reserve(line(sku), key=key)
    assert held["a2"].replayed and held["a2"].reservation_id == held["a1"].reservation_id
    assert not held["b"].replayed and held["b"].reservation_id != held["a1"].reservation_id


def test_own_holds_only(tokens, start):
    shops = {name: tokens.create(name, "reserve", "--own-holds-only") for name in ("one", "two")}
    desk, admin = tokens.create("desk", "reserve"), tokens.create("boss", "admin")
    server = start("--tokens", tokens.path)
    with Client(server.target, token=admin) as boss, Client(server.target, token=shops["one"]) as one, \
            Client(server.target, token=shops["two"]) as two, Client(server.target, token=desk) as clerk:
        sku = boss.item(100)
        for end in ("confirm", "release", "extend"):
            held = one.reserve(line(sku)).reservation_id
            with refused(StatusCode.PERMISSION_DENIED, "NOT_OWN_HOLD"):
                getattr(two, end)(held)
            assert boss.get(held).state == reservation_pb2.RESERVATION_STATE_HELD
            getattr(one, end)(held)
        for other in (clerk, boss):
            other.release(one.reserve(line(sku)).reservation_id)
        # It holds after a restart as well: who decided stands in the journal.
        held = one.reserve(line(sku)).reservation_id
        assert server.is_alive()
    server.kill()
    again = start("--tokens", tokens.path, data=server.data)
    with Client(again.target, token=shops["two"]) as two, Client(again.target, token=shops["one"]) as one:
        with refused(StatusCode.PERMISSION_DENIED, "NOT_OWN_HOLD"):
            two.release(held)
        one.release(held)


def test_long_tokens(tokens, start):
    """Up to 8 KiB, as another party's may be: they do not match, and the connection goes on."""
    token = tokens.create("shop", "admin")
    server = start("--tokens", tokens.path)
    with Client(server.target, token=token) as client:
        sku = client.item(100)
    with Connection(server) as connection:
        message = reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]).SerializeToString()
        for stream, length in enumerate([100, 1000, 4096, 8192]):
            response = connection.call(4 * stream + 1, RESERVE, message, authorization="Bearer " + "x" * length)
            assert response.grpc_status == StatusCode.UNAUTHENTICATED.value[0]
            response = connection.call(4 * stream + 3, RESERVE, message, authorization=f"Bearer {token}")
            assert response.grpc_status == 0


def test_a_chosen_token_of_8_kib(binary, tmp_path, start):
    """`token create` may be given the token on standard input, where another party makes it."""
    token = "ab1-" * 2048
    path = tmp_path / "tokens"
    done = subprocess.run([binary, "token", "create", "--caller", "sso", "--role", "admin", "--file", path, "--stdin"],
                          input=token, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    server = start("--tokens", path)
    with Client(server.target, token=token) as client:
        for _ in range(20):
            client.reserve(line(client.item(1)))


def test_a_token_is_revoked_under_load(tokens, start):
    """Calls before succeed; from about two seconds after, none does. Other tokens feel nothing."""
    kept = tokens.create("kept", "admin")
    before = tokens.path.read_bytes()
    lost = tokens.create("lost", "admin")
    server = start("--tokens", tokens.path)
    with Client(server.target, token=kept) as client:
        sku = client.item(1_000_000)
    stopping, seen, lock = threading.Event(), {"kept": [], "lost": []}, threading.Lock()

    def run(name, token):
        with Client(server.target, token=token) as client:
            while not stopping.is_set():
                try:
                    client.reserve(line(sku))
                    code = StatusCode.OK
                except grpc.RpcError as error:
                    code = error.code()
                with lock:
                    seen[name].append((time.monotonic(), code))

    threads = [threading.Thread(target=run, args=each) for each in [("kept", kept), ("lost", lost)] * 2]
    for thread in threads:
        thread.start()
    eventually(lambda: min(map(len, seen.values())) > 50, 30)
    new = tokens.path.with_suffix(".new")
    new.write_bytes(before)
    new.replace(tokens.path)
    revoked = time.monotonic()
    try:
        eventually(lambda: seen["lost"][-1][1] == StatusCode.UNAUTHENTICATED, NOTICED_SECONDS)
        noticed = time.monotonic()
        time.sleep(0.5)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert {code for _, code in seen["kept"]} == {StatusCode.OK}
    assert {code for when, code in seen["lost"] if when < revoked} == {StatusCode.OK}
    assert {code for when, code in seen["lost"] if when > noticed + 0.1} == {StatusCode.UNAUTHENTICATED}
    assert noticed - revoked < 4
    assert lost not in server.log_text() and kept not in server.log_text()


# Calls that are open while the token file changes.

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Conversation:
    """A reflection stream that has had its first response, and stays open."""

    def __init__(self, client):
        self.questions = queue.Queue()
        self.call = client.channel.stream_stream(
            REFLECTION, reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString)(iter(self.questions.get, None), **client.call)
        self.ask()

    def ask(self):
        self.questions.put(reflection_pb2.ServerReflectionRequest(list_services="*"))
        assert next(self.call).list_services_response.service

    def refusal(self):
        """How it ends, while its client only waits, and after how many seconds."""
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            next(self.call)
        return Refusal(caught.value), time.monotonic() - begun

    def end(self):
        self.questions.put(None)


def replace(path, text):
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("change, reason", [("revoke", "TOKEN_INVALID"), ("expire", "TOKEN_EXPIRED"),
                                            ("rename", "TOKEN_INVALID")])
def test_streams_end_when_their_token_does(tokens, start, change, reason, loops):
    """Within a second or two, though nobody sends anything. Other callers' streams and health checks go on."""
    kept, lost = tokens.create("kept", "read"), tokens.create("lost", "read")
    server = start("--tokens", tokens.path, "--loops", str(loops))
    with Client(server.target, token=kept) as keeper, Client(server.target, token=lost) as loser:
        talks = [Conversation(client) for client in (keeper, loser, loser)]
        watch = loser.health.Watch(health_pb2.HealthCheckRequest(), **loser.call)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        *others, row = tokens.path.read_text().splitlines()
        assert "caller=lost" in row
        now = {"revoke": [], "expire": [row + " expires=2001-01-01"], "rename": [row.replace("=lost", "=new")]}[change]
        replace(tokens.path, "\n".join(others + now) + "\n")
        for talk in talks[1:]:
            refusal, seconds = talk.refusal()
            assert (refusal.code, refusal.info.reason) == (StatusCode.UNAUTHENTICATED, reason)
            assert seconds < 4
        talks[0].ask()
        # Health needs nobody's name.
        assert watch.is_active()
        watch.cancel()
        for talk in talks:
            talk.end()


@pytest.mark.parametrize("role, code, reason", [
    (None, StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"), ("read", StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"),
    ("stock", StatusCode.OK, None)])
def test_a_call_whose_message_comes_after_its_token_was_changed(tokens, start, role, code, reason):
    """It began when the token was good. It is not executed, and ends before its message comes."""
    admin = tokens.create("admin", "admin")
    lost = tokens.create("lost", "reserve")
    server = start("--tokens", tokens.path)
    with Client(server.target, token=admin) as client, Connection(server) as connection:
        sku = client.item(10)
        fields = grpc_fields(RESERVE, authorization=f"Bearer {lost}")
        message = grpc_message(reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key"), lines=[line(sku)]).SerializeToString())
        block = http2.header_block(fields)
        connection.send(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, block)
                        + http2.frame(http2.DATA, 0, 1, message[:9]))
        *others, row = tokens.path.read_text().splitlines()
        now = [row.replace("role=reserve", f"role={role}")] if role else []
        replace(tokens.path, "\n".join(others + now) + "\n")
        if code == StatusCode.OK:
            time.sleep(3)
            connection.send(http2.frame(http2.DATA, http2.END_STREAM, 1, message[9:]))
        response = connection.response(1)
        assert response.grpc_status == code.value[0]
        if reason:
            assert Refusal.of(response).info.reason == reason
            connection.send(http2.frame(http2.DATA, http2.END_STREAM, 1, message[9:]))
            connection.call(3, "/grpc.health.v1.Health/Check", b"")
        assert client.level(sku).held == (1 if code == StatusCode.OK else 0)


def test_a_token_that_is_added_counts_soon(tokens, start):
    tokens.create("first", "read")
    server = start("--tokens", tokens.path)
    late = tokens.create("late", "admin")

    def works():
        with Client(server.target, token=late) as client:
            try:
                return client.item(1)
            except grpc.RpcError as error:
                assert error.code() == StatusCode.UNAUTHENTICATED

    eventually(works, NOTICED_SECONDS)


def test_a_broken_token_file_changes_nothing(tokens, start):
    token = tokens.create("shop", "admin")
    server = start("--tokens", tokens.path)
    good, before = tokens.path.read_bytes(), len(server.log_text().splitlines())
    tokens.path.write_bytes(b"\0garbage\n" * 10)
    eventually(lambda: any('"level":"warning"' in row or '"level":"error"' in row
                           for row in server.log_text().splitlines()[before:]))
    with Client(server.target, token=token) as client:
        assert client.item(1)
    tokens.path.write_bytes(good)


@pytest.mark.parametrize("content", [None, b"\0garbage\n"], ids=["missing", "garbage"])
def test_a_token_file_that_makes_no_sense_at_the_start(binary, tmp_path, content):
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run([binary, "serve", "--port", "0", "--admin-port", "0", "--durability", "memory",
                           "--tokens", path], capture_output=True, text=True, timeout=20)
    assert done.returncode in (1, 64) and str(path) in done.stderr + done.stdout


# Who listens to more than this machine.


# A network of its own, that nobody else is in.
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@pytest.mark.parametrize("host, warns", [("127.0.0.1", False), ("127.0.0.2", False), ("0.0.0.0", True)])
def test_an_open_door_is_warned_of(start, host, warns):
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare(1), ip(8), and user namespaces")
    server = start("--host", host, prefix=ALONE)
    rows = [row for row in server.log_text().splitlines()
            if '"level":"warning"' in row and "a debug build" not in row]
    assert bool(rows) == warns, rows
    if warns:
        assert any("tls" in row.lower() and "token" in row.lower() for row in rows)


# Client certificates.


def test_the_subject_of_a_certificate_names_the_caller(binary, tmp_path, start):
    made = Certificates(tmp_path / "certificates")
    pair = made.issue("server")
    tokens = tmp_path / "tokens"
    tokens.write_text("cert uri:spiffe://test/shop-1 caller=shop-1 role=admin\n"
                      "cert cn:shop-2 caller=shop-2 role=reserve\n")
    tokens.chmod(0o600)
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", made.authority,
                   "--tokens", tokens)
    hosts = {"shop-1": ["DNS:a.test", "URI:spiffe://test/shop-1"], "shop-2": ["email:a@b.test"], "shop-3": ["DNS:shop-1"]}

    def customer(name, **options):
        key, certificate = made.issue(name, hosts=hosts[name]).read()
        return Client(server.target, credentials=grpc.ssl_channel_credentials(
            made.authority.read_bytes(), key, certificate), **options)

    key = fresh("key")
    with customer("shop-1") as one, customer("shop-2") as two:
        sku = one.item(10)
        with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            two.item(10)
        first = one.reserve(line(sku), key=key)
        assert one.reserve(line(sku), key=key).replayed
        second = two.reserve(line(sku), key=key)
        assert not second.replayed and second.reservation_id != first.reservation_id
    with customer("shop-1", caller="shop-2") as liar:
        with refused(StatusCode.PERMISSION_DENIED, "CALLER_MISMATCH"):
            liar.reserve(line(sku))
    with customer("shop-3") as stranger:
        with refused(StatusCode.UNAUTHENTICATED, "CERTIFICATE_UNKNOWN"):
            stranger.reserve(line(sku))


def test_streams_end_when_their_certificates_entry_does(tmp_path, start):
    made = Certificates(tmp_path / "certificates")
    pair = made.issue("server")
    tokens = tmp_path / "tokens"
    entries = [f"cert cn:shop-{number} caller=shop-{number} role=read\n" for number in (1, 2)]
    replace(tokens, "".join(entries))
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", made.authority,
                   "--tokens", tokens)

    def customer(name):
        key, certificate = made.issue(name, hosts=["email:a@b.test"]).read()
        return Client(server.target, credentials=grpc.ssl_channel_credentials(
            made.authority.read_bytes(), key, certificate))

    with customer("shop-1") as kept, customer("shop-2") as lost:
        going, ending = Conversation(kept), Conversation(lost)
        replace(tokens, entries[0])
        refusal, seconds = ending.refusal()
        assert (refusal.code, refusal.info.reason) == (StatusCode.UNAUTHENTICATED, "CERTIFICATE_UNKNOWN")
        assert seconds < 4
        going.ask()
        going.end()
        ending.end()
