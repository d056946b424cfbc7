"""--durability quorum: owners of a log in PostgreSQL, and the standbys that take it over."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, Refusal, change, fresh, line, refused
from engine_databases import EngineDatabases
from engines import is_installed
from server import eventually, holdfast, serve_command
from test_durability import state_of
from watching import Books, Watch

pytestmark = pytest.mark.skipif(not is_installed(), reason="PostgreSQL's server is not installed (Debian: postgresql)")

LEASE_SECONDS = 0.5
# A takeover is a lease, a look at the log, and the rest of it.
TAKEOVER_SECONDS = LEASE_SECONDS + 1.5
FENCED = 75
HOUR = 3600


@pytest.fixture(scope="module")
def engine():
    running = EngineDatabases()
    yield running
    running.stop()


class Log:
    """A log of the test's own in the engine, and how servers of it are started."""

    def __init__(self, binary, start, engine, database):
        self.binary, self.engine, self.database = binary, engine, database
        self._start = start
        self.address = engine.address + database

    def flags(self, *flags):
        return ("--durability", "quorum", "--engine", self.address, "--lease", f"{int(LEASE_SECONDS * 1000)}ms", *flags)

    def owner(self, *flags, environment=(), **options):
        return self._start(*self.flags(*flags), environment={**self.engine.environment, **dict(environment)}, **options)

    def standby(self, *flags, **options):
        """Returns when it follows the log."""
        server = self.owner("--standby", *flags, waits=False, **options)
        try:
            eventually(lambda: f":{server.pid}:" in self.sql("select name from holdfast.standby") or not server.is_alive())
        except BaseException:
            print(server.log_text())
            raise
        assert server.is_alive(), server.log_text()
        return server

    def sql(self, text):
        return self.engine.sql(text, database=self.database)

    def run(self, *arguments):
        """A command of the binary with the engine's passwords."""
        return holdfast(self.binary, *arguments, environment=self.engine.environment)

    def refuse(self, *flags, data, environment=()):
        """What a server says that does not start: one line, and status 1."""
        done = holdfast(*serve_command(self.binary, data, *flags),
                        environment={**self.engine.environment, **dict(environment)})
        return complaint(done)


def complaint(done):
    assert done.returncode == 1 and "ready" not in done.stdout, (done.returncode, done.stdout, done.stderr)
    lines = [row for row in done.stderr.splitlines() if not row.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def database(engine):
    """Given back when the servers have ended that use it: ask for it before `start`."""
    name = engine.database()
    yield name
    engine.give_back(name)


@pytest.fixture
def empty_log(database, binary, start, engine):
    """One without tables."""
    return Log(binary, start, engine, database)


@pytest.fixture
def log(empty_log):
    done = empty_log.run("engine", "init", "--engine", empty_log.address)
    assert done.returncode == 0, done.stderr
    return empty_log


class Orders:
    """What a client was told, to compare with what it is told later."""

    def __init__(self, client, count=20):
        self.sku = fresh()
        self.stock_key = fresh("key")
        client.adjust(self.sku, key=self.stock_key, set_on_hand=1000)
        self.held = {}
        self.more(client, count)
        confirmed, released = (client.reserve(line(self.sku, 3), ttl=HOUR).reservation_id for _ in range(2))
        client.confirm(confirmed)
        client.release(released)
        self.confirmed, self.released = confirmed, released

    def more(self, client, count=5):
        for _ in range(count):
            key = fresh("key")
            self.held[key] = client.reserve(line(self.sku), key=key, ttl=HOUR)

    def check(self, client):
        assert client.adjust(self.sku, key=self.stock_key, set_on_hand=1000).replayed
        for key, was in self.held.items():
            again = client.reserve(line(self.sku), key=key, ttl=HOUR)
            assert again.replayed and again.reservation_id == was.reservation_id and again.expires_at == was.expires_at
        assert client.get(key=key).reservation_id == was.reservation_id
        level = client.level(self.sku)
        assert (level.on_hand, level.held) == (997, len(self.held))
        assert client.confirm(self.confirmed).reservation.state == client.get(self.confirmed).state
        client.release(self.released)
        assert client.level(self.sku) == level


def test_a_machine_that_is_lost(log):
    """With its disk; everything is there at the standby, and Watch goes on where it was."""
    owner, standby = log.owner(), log.standby()
    with Client(owner.target) as client:
        orders = Orders(client)
        short = client.reserve(line(orders.sku, 2), ttl=1)
        with Watch(client, oldest=True).begun() as watch:
            seen = list(watch.wait_for_events(len(orders.held) + 6))
            token = watch.token()
        orders.more(client)
    owner.kill()
    killed = time.monotonic()
    shutil.rmtree(owner.data)
    standby.wait_until_ready()
    assert time.monotonic() - killed < TAKEOVER_SECONDS
    with Client(standby.target) as client:
        # Holds end when they would have.
        eventually(lambda: client.level(orders.sku).held == len(orders.held))
        with refused(StatusCode.FAILED_PRECONDITION):
            client.confirm(short.reservation_id)
        orders.check(client)
        with Watch(client, resume_token=token).begun() as later, Watch(client, oldest=True).begun() as all_of_it:
            client.adjust(orders.sku, delta=1)
            books = Books()
            # Each once, with no gap.
            everything = all_of_it.wait_for_events(len(seen) + 7)
            events = seen + later.wait_for_events(7)
            for event in events:
                books.apply(event)
            assert events == everything
            assert books.levels[(orders.sku, "")].on_hand == 998
    standby.kill()
    state_of(log.binary, standby.data)


def test_an_orderly_stop(log):
    """Nobody waits for a lease to end."""
    owner, standby = log.owner(), log.standby()
    with Client(owner.target) as client:
        orders = Orders(client)
    asked = time.monotonic()
    owner.terminate()
    standby.wait_until_ready()
    assert time.monotonic() - asked < LEASE_SECONDS + 0.4
    assert owner.stop() == 0
    with Client(standby.target) as client:
        orders.check(client)


def test_handover_and_back(log):
    first, second = log.owner(), log.standby()
    with Client(first.target) as client:
        orders = Orders(client)
    asked = time.monotonic()
    done = log.run("handover", "--engine", log.address)
    assert done.returncode == 0 and second.wait_until_ready().target in done.stdout, done.stderr
    assert first.process.wait(10) == FENCED
    assert time.monotonic() - asked < 3
    with Client(second.target) as client:
        orders.more(client)
    # With its old directory.
    third = log.standby(data=first.data)
    assert log.run("handover", "--engine", log.address).returncode == 0
    assert second.process.wait(10) == FENCED
    third.wait_until_ready()
    assert "made anew" not in third.log_text()
    with Client(third.target) as client:
        orders.check(client)
    third.kill()
    for server in (second, third):
        state_of(log.binary, server.data)


def test_handover_needs_an_owner_and_a_standby(log):
    assert complaint(log.run("handover", "--engine", log.address)).endswith("the log has no owner")
    owner = log.owner()
    assert "no standby" in complaint(log.run("handover", "--engine", log.address))
    with Client(owner.target) as client:
        client.item(1)


def test_an_owner_that_was_frozen(log):
    """It does not show what was so before."""
    owner, standby = log.owner(), log.standby()
    with Client(owner.target) as old:
        orders = Orders(old)
        owner.process.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        standby.wait_until_ready()
        assert time.monotonic() - frozen < TAKEOVER_SECONDS
        with Client(standby.target) as client:
            orders.check(client)
            client.adjust(orders.sku, delta=-1)
            pending = [old.stock.GetStock.future(stock_request(orders.sku), timeout=10) for _ in range(20)]
            time.sleep(0.1)
            owner.process.send_signal(signal.SIGCONT)
            for call in pending:
                with pytest.raises(grpc.RpcError) as error:
                    call.result()
                assert error.value.code() == StatusCode.UNAVAILABLE
            assert owner.process.wait(10) == FENCED
            assert client.level(orders.sku).on_hand == 996


def stock_request(sku):
    return stock_pb2.GetStockRequest(sku=sku)


@pytest.mark.parametrize("keeps", [True, False], ids=["with its directory", "with an empty one"])
def test_an_owner_that_comes_back(log, keeps):
    first, second = log.owner(), log.standby()
    with Client(first.target) as client:
        orders = Orders(client)
    first.kill()
    second.wait_until_ready()
    with Client(second.target) as client:
        orders.more(client)
        if not keeps:
            shutil.rmtree(first.data)
            first.data.mkdir()
        third = log.standby(data=first.data)
        orders.more(client)
    second.kill()
    third.wait_until_ready(TAKEOVER_SECONDS)
    with Client(third.target) as client:
        orders.check(client)


def test_one_of_two_standbys(log):
    owner = log.owner()
    standbys = [log.standby(), log.standby()]
    with Client(owner.target) as client:
        orders = Orders(client)
    owner.kill()
    eventually(lambda: any("has taken the log" in each.log_text() for each in standbys))
    [taker] = [each for each in standbys if "has taken the log" in each.log_text()]
    [other] = [each for each in standbys if each is not taker]
    taker.wait_until_ready()
    with Client(taker.target) as client:
        orders.more(client)
    assert other.is_alive() and "has taken the log" not in other.log_text()
    taker.kill()
    other.wait_until_ready(TAKEOVER_SECONDS)
    with Client(other.target) as client:
        orders.check(client)


def test_a_second_server_that_was_not_told_to_stand_by(log, tmp_path):
    owner = log.owner()
    said = log.refuse(*log.flags(), data=tmp_path / "other")
    assert owner.target in said and "--standby" in said
    with Client(owner.target) as client:
        client.item(1)


def test_a_directory_of_its_own_begins_the_log(log, start, tmp_path):
    """One that has seen several runs."""
    data = tmp_path / "data"
    for round in range(4):
        server = start("--durability", "fsync", data=data)
        with Client(server.target) as client:
            if round == 0:
                orders = Orders(client)
            else:
                orders.more(client)
        server.kill() if round == 2 else server.stop()
    shutil.copytree(data, tmp_path / "copy")
    owner, standby = log.owner(data=data), log.standby()
    with Client(owner.target) as client:
        orders.check(client)
        orders.more(client)
    owner.kill()
    standby.wait_until_ready(TAKEOVER_SECONDS)
    with Client(standby.target) as client:
        orders.check(client)
    # The copy decides nothing by itself.
    said = log.refuse("--durability", "fsync", data=data)
    assert "it is a copy of a log in an engine" in said and "--durability quorum" in said
    # And what was there before is another store.
    said = log.refuse(*log.flags("--standby"), data=tmp_path / "copy")
    assert "a store of its own" in said and "--data-dir" in said


def test_a_copy_of_another_log(log, binary, start, engine, tmp_path):
    """It is set aside."""
    other = Log(binary, start, engine, engine.database())
    assert other.run("engine", "init", "--engine", other.address).returncode == 0
    stranger = other.owner(data=tmp_path / "stranger")
    with Client(stranger.target) as client:
        client.item(1)
    stranger.stop()
    # An engine that has nothing does not begin with it.
    said = log.refuse(*log.flags(), data=stranger.data)
    assert "another engine, or it has lost all" in said
    owner = log.owner()
    with Client(owner.target) as client:
        orders = Orders(client)
    standby = log.standby(data=stranger.data)
    eventually(lambda: "set aside" in standby.log_text())
    owner.kill()
    standby.wait_until_ready(TAKEOVER_SECONDS)
    with Client(standby.target) as client:
        orders.check(client)


def fill(client, seconds=20):
    """Changes until one is refused: the refusal, and the calls that wait for an answer."""
    waiting, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        changes = [change(fresh("s" * 40), set_on_hand=1) for _ in range(40)]
        waiting.append(client.stock.BatchAdjustStock.future(stock_pb2.BatchAdjustStockRequest(
            idempotency_key=fresh("key"), reason="test", changes=changes), timeout=60))
        time.sleep(0.005)
        for call in waiting:
            if call.done() and call.exception():
                return Refusal(call.exception()), [each for each in waiting if not each.done()]
    raise AssertionError("nothing was refused")


def test_an_engine_without_standbys(log, engine):
    """Changes wait, then they are refused; what was answered under a lease is, until it is over. Then it goes on."""
    owner = log.owner("--journal-segment-bytes", "1048576")
    with Client(owner.target) as client:
        orders, other = Orders(client), client.item(1)
        engine.do("freeze", "the-standbys")
        try:
            waiting = client.reservations.Reserve.future(reserve_request(orders.sku), timeout=60)
            # What the lease still covers is answered.
            began = time.monotonic()
            while True:
                try:
                    client.level(other)
                except grpc.RpcError as error:
                    refusal = Refusal(error)
                    break
            assert refusal.code == StatusCode.UNAVAILABLE and refusal.info.reason == "LEASE_OVER", refusal.message
            assert refusal.retry is not None and time.monotonic() - began < LEASE_SECONDS + 0.2
            refusal, held_up = fill(client)
            assert refusal.code == StatusCode.UNAVAILABLE and refusal.retry is not None, refusal.message
            assert not waiting.done() and held_up
        finally:
            engine.do("thaw", "the-standbys")
        assert waiting.result(30).reservation_id
        for call in held_up:
            assert len(call.result(30).stock) == 40
        client.release(waiting.result().reservation_id)
        orders.more(client)
        orders.check(client)
    assert owner.is_alive()


def reserve_request(sku):
    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])


def test_a_primary_that_is_lost(log, engine):
    """Its manager promotes a standby; the owner finds it, before its own standby takes the log."""
    owner, standby = log.owner(), log.standby()
    primary = engine.primary()
    with Client(owner.target) as client:
        orders = Orders(client)
        engine.do("kill", primary)
        try:
            waiting = client.reservations.Reserve.future(reserve_request(orders.sku), timeout=60)
            time.sleep(LEASE_SECONDS)
            with refused(StatusCode.UNAVAILABLE, "LEASE_OVER"):
                client.level(orders.sku)
            engine.do("promote")
            assert waiting.result(30).reservation_id
            client.release(waiting.result().reservation_id)
            orders.more(client)
            orders.check(client)
        finally:
            engine.do("start", primary)
    owner.kill()
    standby.wait_until_ready()
    with Client(standby.target) as client:
        orders.check(client)


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_do_not_agree(log, wall_clock, hours):
    """Leases are by clocks that nobody sets; times of holds do not go back."""
    owner = log.owner()
    wall_clock.shift(hours * HOUR)
    standby = log.standby(environment=wall_clock.environment)
    with Client(owner.target) as client:
        orders = Orders(client)
        long = client.reserve(line(orders.sku, 2), ttl=10 * HOUR)
    time.sleep(LEASE_SECONDS * 1.5)
    assert owner.is_alive() and "has taken the log" not in standby.log_text()
    owner.kill()
    standby.wait_until_ready(TAKEOVER_SECONDS)
    with Client(standby.target) as client:
        if hours < 0:
            client.release(long.reservation_id)
            orders.check(client)
        else:
            # An hour is over there: what was to be held that long is not any more.
            eventually(lambda: client.level(orders.sku).held == 2)
            client.confirm(long.reservation_id)
            assert client.level(orders.sku).on_hand == 995
    assert "the newest record" in standby.log_text()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_commands_on_a_copy(log, start, tmp_path):
    """What reads it works; what would make it another than the log is refused, in one line."""
    owner, standby = log.owner(), log.standby()
    with Client(owner.target) as client:
        orders = Orders(client)
    lsn = log.sql("select end_lsn from holdfast.shard")
    standby.kill()
    owner.kill()
    copy, backup, restored = owner.data, tmp_path / "backup", tmp_path / "restored"
    before = contents(copy)
    for command, status, told in (
            (("verify", copy), 0, "a copy of a log in an engine"),
            (("dump", copy), 0, '"kind"'),
            (("backup", "--data-dir", copy, backup), 0, "was read back whole"),
            (("restore", copy, restored), 1, "backup"),
            (("restore", backup, copy), 1, "is there already"),
            (("restore", backup, restored), 0, "restored"),
            (("repair", copy, "--truncate-at", lsn), 1, "a copy of a log in an engine"),
            (("repair", copy, "--truncate-at", "0", "--list", tmp_path / "list"), 1, "made anew"),
            (serve_command(log.binary, copy, "--durability", "fsync")[1:], 1, "a copy of a log in an engine"),
            (serve_command(log.binary, copy, "--durability", "os")[1:], 1, "--durability quorum"),
            (serve_command(log.binary, backup, *log.flags())[1:], 1, "a store of its own"),
            (serve_command(log.binary, restored, *log.flags())[1:], 1, "a store of its own")):
        done = log.run(*command)
        assert done.returncode == status and told in done.stdout + done.stderr, (command, done.stdout, done.stderr)
        if status:
            complaint(done)
        assert contents(copy) == before, command
    assert not (tmp_path / "list").exists()
    # What was restored is a store of its own.
    server = start("--durability", "fsync", data=restored)
    with Client(server.target) as client:
        assert client.level(orders.sku).held == len(orders.held)
    server.stop()
    # Damage is no reason to give anything up: the log has it.
    segment = min(copy.glob("journal-0*"))
    bytes_ = bytearray(segment.read_bytes())
    # In the records of its first batch.
    bytes_[4096 + 60] ^= 1
    segment.write_bytes(bytes_)
    for command in (("verify", copy), ("dump", copy), ("backup", "--data-dir", copy, tmp_path / "another")):
        done = log.run(*command)
        assert done.returncode == 3, (command, done.stderr)
        assert "makes it anew" in done.stderr and "repair" not in done.stderr, (command, done.stderr)
    owner = log.owner(data=copy)
    assert "made anew" in owner.log_text()
    with Client(owner.target) as client:
        orders.check(client)
    owner.kill()
    assert "restored" not in state_of(log.binary, copy)


# Reads of a standby


STALE = "holdfast.stale-reads"


class Stale:
    """Reads of a standby, each with its trailers."""

    def __init__(self, client):
        self.client, self.lsn = client, 0

    def __call__(self, method, request):
        """Waits until the standby shows something."""
        answer, call = method.with_call(request, **self.client.call)
        self.note(call.trailing_metadata())
        return answer

    def note(self, trailers):
        trailers = dict(trailers)
        # It goes with the log: the copy is not made anew here.
        assert int(trailers["holdfast-lsn"]) >= self.lsn
        assert 0 <= int(trailers["holdfast-age-ms"]) < 60_000
        self.lsn = int(trailers["holdfast-lsn"])

    def level(self, sku):
        return self(self.client.stock.GetStock, stock_request(sku)).stock

    def refusal(self, method, request):
        with pytest.raises(grpc.RpcError) as error:
            method(request, **self.client.call)
        return Refusal(error.value), error.value.trailing_metadata()


def shows(client, sku, on_hand):
    """Whether the standby shows that already."""
    try:
        return client.level(sku).on_hand == on_hand
    except grpc.RpcError as error:
        assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.NOT_FOUND), error
        return False


def health(client, service):
    return client.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def test_stale_reads(log):
    """What the owner said a moment ago; all else is the owner's."""
    owner, standby = log.owner(), log.standby("--stale-reads")
    standby.wait_until_up()
    with Client(owner.target) as client, Client(standby.target) as reader:
        orders = Orders(client)
        named = client.reserve(line(orders.sku, 2), ttl=HOUR, reference="order-123")
        gone = client.item(0)
        client.remove(gone)
        last = client.item(7)
        eventually(lambda: shows(reader, last, 7))
        stale = Stale(reader)
        assert stale.level(orders.sku) == client.level(orders.sku)
        batch = stock_pb2.BatchGetStockRequest(items=[stock_pb2.StockItem(sku=sku) for sku in (last, gone, orders.sku)])
        assert stale(reader.stock.BatchGetStock, batch) == client.stock.BatchGetStock(batch)
        for method, request in (
                (lambda each: each.stock.ListStock, stock_pb2.ListStockRequest()),
                (lambda each: each.reservations.ListReservations, reservation_pb2.ListReservationsRequest()),
                (lambda each: each.reservations.ListReservations,
                 reservation_pb2.ListReservationsRequest(reference="order-123")),
                (lambda each: each.reservations.ListReservations, reservation_pb2.ListReservationsRequest(
                    state=reservation_pb2.RESERVATION_STATE_CONFIRMED))):
            mine, theirs = stale(method(reader), request), method(client)(request)
            assert mine == theirs and not mine.next_page_token
        # A page that one has begun goes on at the other.
        page = stale(reader.stock.ListStock, stock_pb2.ListStockRequest(page_size=1))
        assert len(page.stock) == 1
        rest = client.stock.ListStock(stock_pb2.ListStockRequest(page_token=page.next_page_token))
        assert {level.sku for level in (*page.stock, *rest.stock)} == {orders.sku, last}
        for each in (named.reservation_id, orders.confirmed, orders.released):
            request = reservation_pb2.GetReservationRequest(reservation_id=each)
            assert stale(reader.reservations.GetReservation, request).reservation == client.get(each)
        # What is not there, and what is asked wrongly, is told as it stands, too.
        for method, request, code in (
                (reader.stock.GetStock, stock_request(gone), StatusCode.NOT_FOUND),
                (reader.stock.GetStock, stock_request(fresh()), StatusCode.NOT_FOUND),
                (reader.reservations.GetReservation, reservation_pb2.GetReservationRequest(
                    reservation_id=named.reservation_id[:-1] + ("0" if named.reservation_id[-1] != "0" else "1")),
                 StatusCode.NOT_FOUND),
                (reader.stock.GetStock, stock_request(""), StatusCode.INVALID_ARGUMENT)):
            for _ in range(2):
                refusal, trailers = stale.refusal(method, request)
                assert refusal.code == code, refusal.message
                stale.note(trailers)
        for method, request in (
                (reader.reservations.GetReservation, reservation_pb2.GetReservationRequest(idempotency_key="key")),
                (reader.reservations.Reserve, reserve_request(orders.sku)),
                (reader.stock.AdjustStock, change(orders.sku, delta=1))):
            refusal, trailers = stale.refusal(method, request)
            assert (refusal.code, refusal.info.reason) == (StatusCode.UNAVAILABLE, "NOT_OWNER"), refusal.message
            assert refusal.info.metadata["owner"] == owner.target and "holdfast-lsn" not in dict(trailers)
        serving = health_pb2.HealthCheckResponse
        assert health(reader, STALE) == serving.SERVING
        assert health(reader, "") == health(reader, "holdfast.v1.StockService") == serving.NOT_SERVING
        with refused(StatusCode.NOT_FOUND):
            health(client, STALE)
        # The owner's answers are of now.
        _, call = client.stock.GetStock.with_call(stock_request(last))
        assert "holdfast-lsn" not in dict(call.trailing_metadata())


def test_stale_reads_are_of_one_moment_until_the_standby_owns(log):
    """Two items that change together are the same in every answer; what was read is there at the next owner."""
    owner, standby = log.owner(), log.standby("--stale-reads")
    standby.wait_until_up()
    with Client(owner.target) as client, Client(standby.target) as reader:
        orders = Orders(client)
        pair = [client.item(0), client.item(0)]
        both = stock_pb2.BatchGetStockRequest(items=[stock_pb2.StockItem(sku=sku) for sku in pair])
        eventually(lambda: shows(reader, pair[1], 0))
        stale, seen, ended = Stale(reader), [], threading.Event()

        def write():
            # Until the owner is killed.
            with contextlib.suppress(grpc.RpcError):
                while not ended.is_set():
                    client.adjust_all([(sku, {"delta": 1}) for sku in pair])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            killed = None
            while not standby.owns.is_set():
                try:
                    answer = stale(reader.stock.BatchGetStock, both)
                except grpc.RpcError as error:
                    assert killed and error.code() == StatusCode.UNAVAILABLE, error
                    continue
                except KeyError:
                    # The owner has no trailers.
                    assert killed
                    break
                first, second = (level.on_hand for level in answer.stock)
                assert first == second >= (seen[-1] if seen else 0)
                seen.append(first)
                if not killed and len(set(seen)) > 5:
                    owner.kill()
                    killed = time.monotonic()
                assert time.monotonic() - (killed or time.monotonic()) < 20
        finally:
            ended.set()
            writer.join()
            owner.kill()
        standby.wait_until_ready()
        assert reader.level(pair[0]).on_hand == reader.level(pair[1]).on_hand >= seen[-1]
        orders.check(reader)


# What is wrong with the engine



def test_an_engine_that_is_not_there(log, tmp_path):
    flags = ("--durability", "quorum", "--engine", "postgresql://holdfast@127.0.0.1:1/holdfast")
    for more in ((), ("--standby",)):
        assert "refused" in log.refuse(*flags, *more, data=tmp_path / "data").lower()
    for command in ("init", "status"):
        assert "refused" in complaint(log.run("engine", command, *flags[2:])).lower()


def test_a_wrong_password(log, tmp_path):
    wrong = tmp_path / "pgpass"
    wrong.write_text("127.0.0.1:*:*:*:wrong\n")
    wrong.chmod(0o600)
    said = log.refuse(*log.flags(), data=tmp_path / "data", environment={"PGPASSFILE": str(wrong)})
    assert "password authentication failed" in said


def test_tables_that_are_not_there_or_are_others(empty_log, tmp_path):
    log = empty_log
    serve = lambda: log.refuse(*log.flags(), data=tmp_path / "data")
    assert "no tables" in serve() and "holdfast engine init" in serve()
    assert log.run("engine", "init", "--engine", log.address).returncode == 0
    again = log.run("engine", "init", "--engine", log.address)
    assert again.returncode == 0 and "already" in again.stdout
    log.sql("update holdfast.version set version = 2")
    assert "newer holdfast" in serve()
    assert "newer holdfast" in complaint(log.run("engine", "status", "--engine", log.address))
    assert "newer holdfast" in complaint(log.run("engine", "init", "--engine", log.address))
    log.sql("update holdfast.version set version = 0")
    assert "version 0" in serve()
    log.sql("delete from holdfast.version; insert into holdfast.version values (1); delete from holdfast.shard")
    assert "no row" in serve()


def test_only_a_standby_of_the_engine(log, engine, tmp_path):
    [name, _] = [each for each in ("primary", "standby1", "standby2") if each != engine.primary()]
    address = f"postgresql://holdfast@127.0.0.1:{engine.port(name)}/{log.database}"
    said = log.refuse("--durability", "quorum", "--engine", address, data=tmp_path / "data")
    assert "read-only" in said or "standby" in said


@pytest.mark.parametrize("setting, value, told", [
    ("synchronous_standby_names", "", "synchronous_standby_names"), ("fsync", "off", "fsync")])
def test_an_engine_that_does_not_keep_the_promise(log, engine, tmp_path, setting, value, told):
    before = engine.sql(f"show {setting}")
    engine.set(setting, value)
    try:
        eventually(lambda: engine.sql(f"show {setting}") == value)
        assert told in log.refuse(*log.flags(), data=tmp_path / "data")
    finally:
        engine.set(setting, before)
    eventually(lambda: engine.sql(f"show {setting}") == before)


def test_rights(log, engine, tmp_path):
    """A server needs no more than `engine init --role` gives, and says which it has not."""
    role = f"server_{log.database}"
    log.sql(f"create role {role} login password '{engine.password}'")
    try:
        address = log.address.replace("holdfast@", f"{role}@")
        flags = ("--durability", "quorum", "--engine", address)
        assert "permission denied" in log.refuse(*flags, data=tmp_path / "data")
        assert log.run("engine", "init", "--engine", log.address, "--role", role).returncode == 0
        log.address = address
        owner, standby = log.owner(), log.standby()
        with Client(owner.target) as client:
            orders = Orders(client)
        owner.stop()
        standby.wait_until_ready()
        with Client(standby.target) as client:
            orders.check(client)
        standby.stop()
        assert log.run("engine", "status", "--engine", address).returncode == 0
    finally:
        log.sql(f"drop owned by {role}; drop role {role}")


@pytest.fixture
def small_disk(log, engine):
    """A disk of the primary's alone, which the log is about to fill; its folder. It goes with the test."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a file system")
    name = f"small_{log.database}"
    engine.sql("set allow_in_place_tablespaces = on", f"create tablespace {name} location ''")
    folder = engine.folder / engine.primary() / "pg_tblspc" / engine.sql(
        f"select oid from pg_tablespace where spcname = '{name}'")
    [inner] = folder.iterdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k,mode=777", "tmpfs", inner], capture_output=True)
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        log.sql(f"alter table holdfast.log set tablespace {name}; alter index holdfast.log_pkey set tablespace {name}")
        yield inner
        log.sql("drop schema holdfast cascade")
        engine.sql("checkpoint")
    finally:
        subprocess.run(["umount", "-l", inner], check=True)
    engine.sql(f"drop tablespace {name}")


def test_an_engine_whose_disk_is_full(log, small_disk):
    """Changes wait, then they are refused, and reads go on; with room again, so does all, and nothing is lost."""
    owner, standby = log.owner("--journal-segment-bytes", "1048576"), log.standby()
    with Client(owner.target) as client:
        orders = Orders(client)
        refusal, waiting = fill(client)
        assert refusal.code == StatusCode.UNAVAILABLE and refusal.retry is not None, refusal.message
        assert waiting and not any(call.done() for call in waiting)
        # It goes on owning the log: that takes no room.
        time.sleep(LEASE_SECONDS * 1.5)
        assert client.level(orders.sku).on_hand == 997
        said = [row for row in owner.log_text().splitlines() if "its disk is full" in row]
        assert len(said) == 1 and "does not answer as it should" in said[0] and "answers again" not in owner.log_text()
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        for call in waiting:
            assert len(call.result(30).stock) == 40
        orders.more(client)
        orders.check(client)
        assert "answers again" in owner.log_text() and "has taken the log" not in standby.log_text()
    owner.kill()
    standby.wait_until_ready()
    with Client(standby.target) as client:
        orders.check(client)


@pytest.mark.parametrize("flags, told", [
    (("--durability", "quorum"), "--engine"),
    (("--engine", "postgresql://db/x"), "--durability quorum"),
    (("--durability", "fsync", "--stale-reads"), "--durability quorum"),
    (("--durability", "quorum", "--engine", "postgresql://db/x", "--stale-reads"), "--standby"),
    (("--durability", "quorum", "--engine", "postgresql://db/x", "--standby", "--forward", "--stale-reads"), "--forward"),
    (("--durability", "fsync", "--standby"), "--durability quorum"),
    (("--durability", "quorum", "--engine", "postgresql://db/x", "--archive", "/tmp"), "--archive"),
    (("--durability", "quorum", "--engine", "postgresql://db/x", "--lease", "100ms"), "--lease"),
])
def test_flags_that_do_not_go_together(binary, tmp_path, flags, told):
    done = holdfast(*serve_command(binary, tmp_path / "data", *flags))
    assert done.returncode == 64 and told in done.stderr and not done.stdout


@pytest.mark.parametrize("address", [
    "postgresql://holdfast:WORD@127.0.0.1:1/holdfast", "host=127.0.0.1 port=1 user=holdfast password=WORD",
    "host=127.0.0.1 port=1 password='WORD' user=holdfast", "host=127.0.0.1 port=1 password = WORD",
    "postgresql://127.0.0.1:1/holdfast?user=x&password=WORD", "postgresql://holdfast:WORD@127.0.0.1:x/holdfast",
    "postgresql://holdfast:a@WORD@127.0.0.1:1/holdfast", r"host=127.0.0.1 port=1 password='a\'WORD'",
    r"host=127.0.0.1 port=1 password=a\ WORD", "postgresql://holdfast:WORD@127.0.0.1:1/holdfast?nonsense=1",
    "postgres://127.0.0.1:1/holdfast?sslpassword=WORD", "host=127.0.0.1 port=1 sslpassword=WORD",
    "host=127.0.0.1 port=1 password=a WORD", "postgresql://holdfast:WORD%RD@127.0.0.1:1/holdfast",
], ids=lambda address: "".join(filter(str.isalnum, address.replace("WORD", ""))))
def test_a_password_is_not_shown(binary, tmp_path, address):
    flags = ("--durability", "quorum", "--engine", address)
    shown = holdfast(*serve_command(binary, tmp_path / "data", *flags, "--print-config"))
    assert shown.returncode == 0 and "--engine" in shown.stdout or "engine" in shown.stdout, shown.stderr
    assert "WORD" not in shown.stdout + shown.stderr
    done = holdfast(*serve_command(binary, tmp_path / "data", *flags, "--log-level", "debug"))
    assert done.returncode == 1, done.stderr
    assert "WORD" not in done.stdout + done.stderr
    for command in ("init", "status"):
        done = holdfast(binary, "engine", command, "--engine", address)
        assert done.returncode == 1 and "WORD" not in done.stdout + done.stderr
