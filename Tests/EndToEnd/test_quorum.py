"""--durability quorum: owners of a log in PostgreSQL, and the standbys that take it over."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request

import grpc
import pytest
from grpc import StatusCode
from holdfast.v1 import stock_pb2

from client import Client, Refusal, change, fresh, line, refused
# Fixtures are found where they are imported.
from quorum import (FENCED, HOUR, LEASE_SECONDS, TAKEOVER_SECONDS, Log, Orders, complaint, database, empty_log, engine,  # noqa: F401
                    log, needs_engine, reserve_request, stock_request)
from server import eventually, holdfast, serve_command
from test_durability import state_of
from test_supervision import Manager
from watching import Books, Watch

pytestmark = needs_engine


def test_the_console_tells_owner_and_standby(log):
    """Before it has stock of its own, a standby says so to who looks one up."""
    def state(server, path="state"):
        with urllib.request.urlopen(f"http://{server.admin}/console/{path}", timeout=10) as response:
            return json.loads(response.read())

    owner = log.owner()
    standby = log.standby()
    standby.wait_until_up()
    with Client(owner.target) as client:
        client.item(5)
    replication = eventually(lambda: (state(owner).get("replication") or {}).get("isOwner") and state(owner)["replication"])
    assert replication["epoch"] >= 1 and replication["leaseLeft"] is not None and replication["lagBytes"] is None
    eventually(lambda: state(owner)["replication"]["standbys"] == 1)
    follows = eventually(lambda: state(standby).get("replication"))
    assert (follows["isOwner"], follows["owner"], follows["leaseLeft"]) == (False, owner.target, None)
    eventually(lambda: state(standby)["replication"]["lagBytes"] == 0)
    assert state(standby)["server"]["state"] == "standby" and not state(standby)["server"]["hasStore"]
    assert "not ready" in state(standby, "stock?sku=a")["error"]


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
    lease = 30
    owner, standby = log.owner(lease=lease), log.standby(lease=lease)
    with Client(owner.target) as client:
        orders = Orders(client)
    asked = time.monotonic()
    owner.terminate()
    standby.wait_until_ready()
    assert time.monotonic() - asked < lease / 3
    assert owner.stop() == 0
    with Client(standby.target) as client:
        orders.check(client)


def test_handover_and_back(log):
    lease = 30
    first, second = log.owner(lease=lease), log.standby(lease=lease)
    with Client(first.target) as client:
        orders = Orders(client)
    asked = time.monotonic()
    done = log.run("handover", "--engine", log.address)
    assert done.returncode == 0 and second.wait_until_ready().target in done.stdout, done.stderr
    assert first.process.wait(10) == FENCED
    assert time.monotonic() - asked < lease / 3
    with Client(second.target) as client:
        orders.more(client)
    # With its old directory, and with another lease than the owner's.
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


def test_leases_that_differ(log):
    """They are changed on one server after the other: the owner's counts."""
    owner, _ = log.owner(lease=10), log.standby()
    assert "lease    10.0 s" in log.run("engine", "status", "--engine", log.address).stdout
    with Client(owner.target) as client:
        orders = Orders(client)
        owner.process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS * 3)
        owner.process.send_signal(signal.SIGCONT)
        orders.check(client)
        orders.more(client)
    assert log.sql("select epoch from holdfast.shard") == "1"


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
            # What the lease still covers is answered, and nothing that is asked later.
            frozen = asked = time.monotonic()
            while True:
                try:
                    client.level(other)
                except grpc.RpcError as error:
                    refusal = Refusal(error)
                    break
                assert asked - frozen < LEASE_SECONDS
                asked = time.monotonic()
            assert refusal.code == StatusCode.UNAVAILABLE and refusal.info.reason == "LEASE_OVER", refusal.message
            assert refusal.retry is not None
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


def test_a_standby_is_ready_to_a_service_manager(log, binary, tmp_path):
    manager = Manager(tmp_path / "notify")
    try:
        owner = log.owner()
        standby = log.standby(environment=manager.environment(WATCHDOG_USEC=4_000_000))
        standby.wait_until_up()
        ready = manager.wait_for("READY=1")
        assert ready[1] == f"STATUS=stands by at {standby.target}"
        done = holdfast(binary, "health", "--target", standby.target)
        assert (done.returncode, done.stdout) == (1, "NOT_SERVING\n")
        eventually(manager.pings)
        owner.kill()
        standby.wait_until_ready()
        manager.wait_for(f"STATUS=serves gRPC on {standby.target}")
        done = holdfast(binary, "health", "--target", standby.target)
        assert (done.returncode, done.stdout) == (0, "SERVING\n")
        before = len(manager.pings())
        eventually(lambda: len(manager.pings()) > before)
        assert standby.stop() == 0
    finally:
        manager.close()


def test_an_engine_that_is_away_is_no_hang(log, engine, tmp_path):
    """The journal waits for it, for longer than the watchdog would have it wait for a disk."""
    manager = Manager(tmp_path / "notify")
    try:
        owner = log.owner(environment=manager.environment(WATCHDOG_USEC=2_000_000))
        with Client(owner.target) as client:
            orders = Orders(client, count=1)
            engine.do("freeze", "the-standbys")
            try:
                waiting = client.reservations.Reserve.future(reserve_request(orders.sku), timeout=60)
                time.sleep(3)
                before = len(manager.pings())
                eventually(lambda: len(manager.pings()) > before)
                assert not waiting.done()
            finally:
                engine.do("thaw", "the-standbys")
            assert waiting.result(30).reservation_id
        assert "has not come round" not in owner.log_text()
    finally:
        manager.close()
