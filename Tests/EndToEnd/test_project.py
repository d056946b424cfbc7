"""`holdfast project`: tables in PostgreSQL that follow a server, whatever is killed."""

import collections
import contextlib
import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
import pytest
from holdfast.v1 import event_pb2, reservation_pb2, stock_pb2

from client import Client
from server import Server, eventually
from watching import Watch

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"))
pytestmark = pytest.mark.skipif(not POSTGRES, reason="PostgreSQL's server is not installed (Debian: postgresql)")

ITEMS = "select sku, location, on_hand, held, committed, safety_stock, available, version from {} order by 1, 2"


class Database:
    """One that `engine.py run` has made, for psql."""

    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, REPOSITORY / "scripts" / "engine.py", "run", str(folder)],
                                        stdout=subprocess.PIPE, text=True)
        host = self.process.stdout.readline().strip()
        self.process.stdout.readline()
        self.address = f"{host}?passfile={folder}/pgpass"

    def rows(self, statement):
        done = subprocess.run([POSTGRES[-1], self.address, "-XAtq", "-v", "ON_ERROR_STOP=1", "-F", "\t", "-c", statement],
                              capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PGOPTIONS": "-c default_transaction_read_only=off"})
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    def value(self, statement):
        return self.rows(statement)[0][0]

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def database():
    # Not below pytest's folder, which the user postgres may not enter.
    database = Database(pathlib.Path(tempfile.gettempdir()) / f"holdfast-engine-{os.getpid()}-project")
    yield database
    database.stop()


@pytest.fixture
def cleanup():
    with contextlib.ExitStack() as stack:
        yield stack


class Project:
    """Of a server; without one, `flags` say where to look for it."""

    def __init__(self, binary, database, server, schema, *flags):
        where = ["--database", database.address, "--target", server.target] if server else []
        self.command = [binary, "project", *where, "--schema", schema, "--admin-port", "0", "--interval", "200ms", *flags]
        self.log = []
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        line = self.process.stdout.readline()
        self.admin = re.match(r"holdfast projecting: schema \S+ admin (http://\S+) pid (\d+)", line)[1]
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        return self

    def _read(self, process):
        for line in process.stderr:
            self.log.append(line)

    def text(self):
        return "".join(self.log)

    def says(self, words, seconds=30):
        eventually(lambda: words in self.text(), seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(20) == 0, self.text()

    def metric(self, name):
        page = urllib.request.urlopen(f"{self.admin}/metrics", timeout=10).read().decode()
        return float(re.search(rf"^holdfast_projection_{name} (\S+)$", page, re.M)[1])

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        print(self.text())
        if self.process.poll() is None:
            self.kill()


def caught_up(database, schema, lsn):
    """Waits until the tables have the event, and hang together."""
    eventually(lambda: database.rows(f"select 1 from {schema}.status where is_complete and exists "
                                     f"(select 1 from {schema}.event where lsn >= {lsn})"), 60)


def listed_stock(client):
    token, found = "", []
    while True:
        page = client.stock.ListStock(stock_pb2.ListStockRequest(page_size=500, page_token=token), **client.call)
        found += page.stock
        token = page.next_page_token
        if not token:
            return found


def balances(client):
    return sorted([level.sku, level.location] + [str(number) for number in (
        level.on_hand, level.held, level.committed, level.safety_stock, level.available, level.version)]
        for level in listed_stock(client))


def micros(timestamp):
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1000


def expect_reservations(client, database, schema, ids):
    """Each is as GetReservation says."""
    rows = {row[0]: row for row in database.rows(f"""
        select reservation_id, state, reference, coalesce(lines::text, ''),
          coalesce((extract(epoch from created_at) * 1000000)::bigint, 0), (extract(epoch from expires_at) * 1000000)::bigint,
          coalesce((extract(epoch from ended_at) * 1000000)::bigint, 0) from {schema}.reservation""")}
    for reservation_id in ids:
        wanted = client.reservations.GetReservation(
            reservation_pb2.GetReservationRequest(reservation_id=reservation_id), **client.call).reservation
        _, state, reference, lines, created, expires, ended = rows[reservation_id]
        assert "RESERVATION_STATE_" + state == reservation_pb2.ReservationState.Name(wanted.state)
        assert reference == wanted.reference
        assert [(line["sku"], line["location"], line["quantity"]) for line in json.loads(lines)] == \
            [(line.sku, line.location, line.quantity) for line in wanted.lines]
        assert (int(created), int(expires), int(ended)) == \
            (micros(wanted.created_at), micros(wanted.expires_at), micros(wanted.ended_at)), (reservation_id, state)


def churn(client, skus, deadline, ids, number):
    """Every kind of event that there is, from one thread."""
    turn = 0
    while time.monotonic() < deadline:
        turn += 1
        sku = skus[(turn + number) % len(skus)]
        try:
            held = client.reserve(stock_line(sku, 2), ttl=600 if turn % 5 else 1, reference=f"cart-{number}-{turn}")
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND), error
            client.adjust(sku, delta=1000)
            continue
        ids.append(held.reservation_id)
        if turn % 5 == 1:
            client.confirm(held.reservation_id, stock_line(sku, 1))
        elif turn % 5 == 2:
            client.release(held.reservation_id)
        elif turn % 5 == 3:
            client.extend(held.reservation_id, ttl=900)
            client.replace(held.reservation_id, stock_line(sku, 1))
        if turn % 20 == 0:
            own = f"{skus[0]}-{number}"
            client.adjust(own, set_on_hand=0)
            client.remove(own)


def stock_line(sku, quantity):
    return reservation_pb2.ReservationLine(sku=sku, quantity=quantity)


def test_the_tables_are_what_the_server_says_whatever_is_killed(binary, database, start):
    server = start("--durability", "fsync")
    with Client(server.target, caller="shop") as client:
        # There before the tables: part of them by the listing.
        skus = [client.item(10_000) for _ in range(5)]
        ids = [client.reserve(stock_line(skus[0], 3), reference="early").reservation_id]
        frozen = client.item(1)
        client.adjust(frozen, set_sale=stock_pb2.SaleWindow(frozen=True))
        with Watch(client, oldest=True) as watch:
            project = Project(binary, database, server, "killed")
            with project:
                deadline = time.monotonic() + 6
                clients = [Client(server.target, caller=f"shop-{number}") for number in range(3)]
                threads = [threading.Thread(target=churn, args=(clients[number], skus, deadline, ids, number))
                           for number in range(3)]
                for thread in threads:
                    thread.start()
                for _ in range(2):
                    time.sleep(1.5)
                    before = database.value("select count(*) from killed.event")
                    project.kill()
                    project.start()
                    eventually(lambda: int(database.value("select count(*) from killed.event")) > int(before), 60)
                for thread in threads:
                    thread.join()
                for each in clients:
                    each.channel.close()
                # Holds of a second fall due.
                eventually(lambda: all(state != reservation_pb2.RESERVATION_STATE_HELD for state in
                                       [client.reservations.GetReservation(reservation_pb2.GetReservationRequest(
                                           reservation_id=each), **client.call).reservation.state for each in ids[5::5]])
                           or time.monotonic() > deadline + 4, 20)
                last = client.adjust(skus[0], delta=1)
                watch.wait(lambda: any(level.version == last.stock.version and level.sku == skus[0]
                                       for event in watch.events()[-50:] for level in event.stock))
                events = watch.events()
                caught_up(database, "killed", events[-1].lsn)
                assert database.rows(ITEMS.format("killed.item_balance")) == balances(client)
                assert database.value(f"select is_frozen from killed.item_balance where sku = '{frozen}'") == "t"
                expect_reservations(client, database, "killed", ids)
                # Each event once, as Watch has it.
                names = {number: name.removeprefix("EVENT_KIND_") for name, number in event_pb2.EventKind.items()}
                rows = database.rows("select lsn, kind, (extract(epoch from decided_at) * 1000000)::bigint, coalesce(caller, '')"
                                     f" from killed.event where lsn <= {events[-1].lsn} order by lsn")
                assert rows == [[str(event.lsn), names[event.kind], str(micros(event.decided_at)), event.caller]
                                for event in events]
                assert len({row[1] for row in rows}) >= 8, collections.Counter(row[1] for row in rows)
                items = database.rows("select lsn, sku, coalesce(version, 0) from killed.event_item where lsn <= "
                                      f"{events[-1].lsn} order by lsn, sku collate \"C\"")
                assert items == [[str(event.lsn), sku, str(version)] for event in events for sku, version in sorted(
                    {**{line.sku: 0 for line in event.lines}, **{level.sku: level.version for level in event.stock}}.items())]
                eventually(lambda: project.metric("lag_seconds") < 3 and project.metric("lag_lsns") == 0)
                assert project.metric("restarts_total") == 0
                assert float(database.value("select extract(epoch from behind) from killed.status")) < 5
                documented_queries(database, "killed")
                project.stop()


def documented_queries(database, schema):
    """The examples of docs/PROJECTION.md run, and find something."""
    text = (REPOSITORY / "docs" / "PROJECTION.md").read_text()
    queries = re.findall(r"```sql\n(select.*?)```", text, re.S)
    assert len(queries) >= 3
    for query in queries:
        assert database.rows(query.replace("holdfast_view.", f"{schema}.")), query


def test_another_store_is_followed_from_its_beginning(binary, database, start):
    first = start()
    with Client(first.target) as client:
        old = client.item(5)
        project = Project(binary, database, first, "foreign_store")
        with project:
            eventually(lambda: database.rows("select 1 from pg_tables where schemaname = 'foreign_store'")
                       and database.rows(f"select 1 from foreign_store.item_balance where sku = '{old}'"))
            project.stop()
    second = start()
    with Client(second.target) as client:
        new = client.item(7)
        project.command[project.command.index(first.target)] = second.target
        with project:
            project.says("filling the tables from the beginning")
            eventually(lambda: database.rows("select sku from foreign_store.item_balance") == [[new]])
            assert project.metric("restarts_total") == 1
            assert database.rows(f"select 1 from foreign_store.event_item where sku = '{old}'") == []
            project.stop()


def test_what_the_history_has_lost_is_filled_again(binary, database, start):
    server = start("--durability", "os", "--journal-segment-bytes", "262144", "--loops", "1", "--history", "0")
    with Client(server.target) as client:
        gone, busy = client.item(0), client.item(1 << 30)
        project = Project(binary, database, server, "late")
        with project:
            eventually(lambda: database.rows("select 1 from pg_tables where schemaname = 'late'")
                       and database.rows(f"select 1 from late.event_item where sku = '{busy}'"))
            project.kill()
            token = database.value("select resume_token from late.position")
            kept = int(database.value("select count(*) from late.event"))
            client.remove(gone)
            for number in range(60):
                client.reservations.BatchReserve(reservation_pb2.BatchReserveRequest(requests=[
                    reservation_pb2.ReserveRequest(idempotency_key=f"{number}-{row}", lines=[stock_line(busy, 1)])
                    for row in range(2000)]), **client.call)
                with Watch(client, resume_token=token) as watch:
                    watch.wait(lambda: watch.responses or watch.error)
                    if watch.error:
                        break
            assert watch.error
            project.start()
            project.says("filling the tables from the beginning", 60)
            eventually(lambda: database.rows("select 1 from late.status where is_complete"), 60)
            eventually(lambda: database.rows(ITEMS.format("late.item_balance")) == balances(client), 30)
            assert project.metric("restarts_total") == 1
            # Events of the same store stay.
            assert int(database.value("select count(*) from late.event")) > kept
            assert database.rows(f"select 1 from late.event_item where sku = '{gone}'")
            held = int(database.value("select count(*) from late.reservation where state = 'HELD'"))
            # Some were refused, where small segments were full for a moment.
            assert held == client.level(busy).held > 0
            project.stop()


def test_trouble_is_said_in_a_line_and_then_it_goes_on(binary, database, start, tmp_path, cleanup):
    data = tmp_path / "data"
    server = start(data=data)
    with Client(server.target) as client:
        sku = client.item(5)
        project = Project(binary, database, server, "troubled").start()
        cleanup.callback(lambda: project.__exit__())
        eventually(lambda: database.rows("select 1 from pg_tables where schemaname = 'troubled'")
                   and database.rows("select 1 from troubled.item_balance"))
        # The database is read-only for a while: the tables wait.
        name = database.value("select current_database()")
        database.rows(f"alter database {name} set default_transaction_read_only = on")
        kill = ("select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'holdfast' and pid <> pg_backend_pid()")
        database.rows(kill)
        project.says("read-only")
        client.adjust(sku, delta=1)
        database.rows(f"alter database {name} reset default_transaction_read_only")
        eventually(lambda: database.value(f"select on_hand from troubled.item_balance where sku = '{sku}'") == "6", 30)
        # The server is away, and comes back with the same history.
        server.stop()
        project.says("trying again")
        # No busy loop: the pause doubles, and a line comes once a minute.
        time.sleep(2)
        assert project.text().count("Connection refused") <= 2, project.text()
        ticks = sum(map(int, pathlib.Path(f"/proc/{project.process.pid}/stat").read_text().split()[13:15]))
        time.sleep(1)
        assert sum(map(int, pathlib.Path(f"/proc/{project.process.pid}/stat").read_text().split()[13:15])) - ticks < 30
    server = start("--port", str(server.port), data=data)
    with Client(server.target) as client:
        client.adjust(sku, delta=1)
        eventually(lambda: database.value(f"select on_hand from troubled.item_balance where sku = '{sku}'") == "7", 30)
        assert project.metric("restarts_total") == 0 and project.metric("troubles_total") >= 3
        project.stop()
        # Tables of a newer version are not touched.
        database.rows("update troubled.version set version = 99")
        project.start()
        assert project.process.wait(20) == 1
        eventually(lambda: "are of a newer holdfast (version 99)" in project.text())


def test_a_role_needs_no_more_than_its_schema(binary, database, start):
    server = start()
    database.rows("create role projector login; create schema narrow authorization projector; "
                  "revoke all on schema public from projector")
    passfile = pathlib.Path(database.folder) / "pgpass"
    with Client(server.target) as client:
        sku = client.item(4)
        address = re.sub(r"//[^@/]*@", "//projector@", database.address)
        if "projector@" not in address:
            address = database.address.replace("//", "//projector@", 1)
        word = passfile.read_text().strip().split(":")[-1]
        database.rows(f"alter role projector password '{word}'")
        own = passfile.with_name("pgpass-projector")
        own.write_text(f"*:*:*:*:{word}\n")
        own.chmod(0o600)
        narrow = Project(binary, database, server, "narrow")
        narrow.command[narrow.command.index(database.address)] = address.replace(str(passfile), str(own))
        with narrow:
            eventually(lambda: database.rows("select 1 from pg_tables where schemaname = 'narrow'")
                       and database.rows(f"select 1 from narrow.item_balance where sku = '{sku}'"))
            narrow.stop()
        wide = Project(binary, database, server, "not_mine")
        wide.command[wide.command.index(database.address)] = address.replace(str(passfile), str(own))
        with wide:
            wide.says("permission denied")
            wide.stop()


def test_what_is_old_is_deleted(binary, database, start):
    server = start()
    with Client(server.target) as client:
        skus = [client.item(1) for _ in range(20)]
        held = client.reserve(stock_line(skus[0], 1)).reservation_id
        client.release(held)
        project = Project(binary, database, server, "bounded", "--keep-events", "1h", "--keep-reservations", "1h")
        with project:
            eventually(lambda: database.rows("select 1 from pg_tables where schemaname = 'bounded'")
                       and int(database.value("select count(*) from bounded.event")) == 22)
            # As if two hours had passed over all events but one.
            newest = database.value("select max(lsn) from bounded.event")
            database.rows(f"update bounded.event set decided_at = decided_at - interval '2 hours' where lsn < {newest};"
                          "update bounded.reservation set ended_at = ended_at - interval '2 hours'")
            eventually(lambda: database.rows("select lsn from bounded.event") == [[newest]])
            eventually(lambda: database.rows("select distinct lsn from bounded.event_item") == [[newest]])
            eventually(lambda: database.rows("select 1 from bounded.reservation") == [])
            assert database.value("select count(*) from bounded.item_balance") == "20"
            project.stop()


def has_table(database, schema):
    return database.rows(f"select 1 from pg_tables where schemaname = '{schema}'")


def test_the_owner_of_a_log_is_followed_wherever_it_is(binary, database, start):
    """`--engine`, which has the log and the tables, too; each event once over a takeover, and a while without an owner."""
    done = subprocess.run([binary, "engine", "init", "--engine", database.address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    project = Project(binary, database, None, "of_a_log", "--engine", database.address)
    quorum = ("--durability", "quorum", "--engine", database.address, "--lease", "1s")
    with project:
        # There is no owner yet.
        project.says("the log has no owner now")
        owner = start(*quorum)
        standby = start(*quorum, "--standby", waits=False)
        eventually(lambda: database.rows("select 1 from holdfast.standby"))
        with Client(owner.target) as client:
            skus = [client.item(1000) for _ in range(3)]
            ids = [client.reserve(stock_line(sku, 2), reference="cart").reservation_id for sku in skus]
            eventually(lambda: has_table(database, "of_a_log")
                       and database.rows(ITEMS.format("of_a_log.item_balance")) == balances(client), 60)
        owner.kill()
        standby.wait_until_ready()
        with Client(standby.target) as client:
            client.confirm(ids[0])
            client.release(ids[1])
            ids.append(client.reserve(stock_line(skus[2], 1)).reservation_id)
            with Watch(client, oldest=True) as watch:
                watch.wait(lambda: len(watch.events()) >= 9)
                events = watch.events()
            caught_up(database, "of_a_log", events[-1].lsn)
            assert database.rows(ITEMS.format("of_a_log.item_balance")) == balances(client)
            expect_reservations(client, database, "of_a_log", ids)
            assert database.rows("select lsn from of_a_log.event order by lsn") == [[str(event.lsn)] for event in events]
            assert project.metric("restarts_total") == 0
            standby.stop()
            project.says("trying again")
        # A third, with nothing of its own.
        third = start(*quorum)
        with Client(third.target) as client:
            last = client.adjust(skus[0], delta=7).stock
            eventually(lambda: database.value(f"select version from of_a_log.item_balance where sku = '{skus[0]}'")
                       == str(last.version), 60)
            assert project.metric("restarts_total") == 0
        project.stop()


def test_a_server_with_tls_and_tokens_is_followed(binary, database, start, tmp_path, ours, theirs, pair):
    tokens = tmp_path / "tokens"

    def token(role):
        done = subprocess.run([binary, "token", "create", "--caller", role, "--role", role, "--file", tokens],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    held = {role: token(role) for role in ("read", "stock")}
    server = start("--tokens", tokens, "--tls-cert", pair.certificate, "--tls-key", pair.key)
    credentials = grpc.ssl_channel_credentials(ours.authority.read_bytes())
    target = f"localhost:{server.port}"

    def project(schema, *flags):
        return Project(binary, database, server, schema, *map(str, flags))

    for name, flags, told in (
            ("no_tls", (), ""),
            ("not_trusted", ("--tls", "--tls-ca", theirs.authority), "certificate"),
            ("other_name", ("--tls", "--tls-ca", ours.authority, "--server-name", "elsewhere"), "certificate"),
            ("no_token", ("--tls", "--tls-ca", ours.authority), "CREDENTIALS_MISSING"),
            ("wrong_token", ("--tls", "--tls-ca", ours.authority, "--metadata", "authorization=Bearer x"), "TOKEN_INVALID")):
        with project(name, *flags) as wrong:
            wrong.says("trying again")
            lines = [line for line in wrong.text().splitlines() if "trying again" in line]
            assert len(lines) == 1 and told in lines[0], lines
            assert held["read"] not in wrong.text()
            wrong.stop()
    with Client(target, token=held["stock"], credentials=credentials) as client:
        sku = client.item(7)
        flags = ("--tls", "--tls-ca", ours.authority, "--metadata", f"authorization=Bearer {held['read']}")
        with project("with_tls", *flags) as right:
            eventually(lambda: has_table(database, "with_tls")
                       and database.rows(ITEMS.format("with_tls.item_balance")) == balances(client), 60)
            client.adjust(sku, delta=1)
            eventually(lambda: database.value(f"select on_hand from with_tls.item_balance where sku = '{sku}'") == "8")
            # Who called is not for the role read.
            assert database.rows("select distinct coalesce(caller, '') from with_tls.event") == [[""]]
            assert held["read"] not in right.text()
            right.stop()


def test_flags_are_checked_and_tables_made(binary, database):
    for flags in (["--interval", "1"], ["--interval", "1ms"], ["--keep-events", "1s"], ["--keep-events", "x"],
                  ["--schema", "pg_x"], ["--target", "nowhere"], []):
        command = [binary, "project", "--database", database.address, *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 64 and len(done.stderr.splitlines()) == 1, (flags, done.stderr)
    done = subprocess.run([binary, "project", "init", "--database", database.address, "--schema", "made"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert database.rows("select version from made.version") == [["1"]]
    assert not database.rows("select table_name from information_schema.tables t where table_schema = 'made' and "
                             "obj_description((quote_ident(table_schema) || '.' || table_name)::regclass) is null")
