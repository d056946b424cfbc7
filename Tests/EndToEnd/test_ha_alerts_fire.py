"""Each alert of holdfast-ha.rules.yml: servers and their engine of three PostgreSQL servers are brought into the
condition, a real Prometheus scrapes them, and just that alert fires, and ends with the condition (`make test-alerts`)."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest
from holdfast.v1 import reservation_pb2

import engines
import prometheus as real
from client import Client, fresh, line
from server import eventually
from test_alerts_fire import Repeated, watched  # noqa: F401  a fixture
from test_lifecycle import metric
from test_quorum import database, empty_log, engine, log  # noqa: F401  fixtures

pytestmark = [pytest.mark.alerts,
              pytest.mark.skipif(not (real.is_installed() and engines.is_installed()),
                                 reason="Prometheus or PostgreSQL's server is missing (Debian: prometheus, postgresql)")]

# What servers have without flags. Those that are killed in turn have less, so that it does not take long.
LEASE = ("--lease", "2500ms")
SMALL_SEGMENTS = ("--journal-segment-bytes", str(256 * 1024), "--loops", "2")


@pytest.fixture(scope="session")
def prometheus():
    with real.Prometheus(real.HA_RULES) as running:
        yield running


@contextlib.contextmanager
def frozen(engine, names):  # noqa: F811
    """They do not answer meanwhile."""
    engine.do("freeze", names)
    try:
        yield
    finally:
        engine.do("thaw", names)


class Gate:
    """Passes connections on to the engine's servers, until it is closed; then it keeps them and what comes in."""

    def __init__(self, address):
        self.is_open = threading.Event()
        self.is_open.set()
        self.sockets = []
        # postgresql://USER@HOST:PORT,HOST:PORT/DATABASE
        self.address = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{self.listen(int(found[1]))}", address)

    def listen(self, port):
        listener = socket.create_server(("127.0.0.1", 0))
        self.sockets.append(listener)
        threading.Thread(target=self.accept, args=(listener, port), daemon=True).start()
        return listener.getsockname()[1]

    def accept(self, listener, port):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                self.sockets += [near, far]
                threading.Thread(target=self.pass_on, args=(near, far), daemon=True).start()

    def pass_on(self, near, far):
        with contextlib.suppress(OSError, ValueError):
            while True:
                for source in select.select([near, far], [], [])[0]:
                    self.is_open.wait()
                    data = source.recv(65536)
                    if not data:
                        return near.close(), far.close()
                    (far if source is near else near).sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_open.set()
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def write(client, cart, calls=40):
    """Holds of a cart of 64 lines each, 1.5 KiB of decisions; no more at once than wait in memory."""
    for _ in range(calls // 10):
        pending = [client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key"), lines=cart), timeout=60) for _ in range(10)]
        for each in pending:
            each.result()


def standby_of(log, *flags):  # noqa: F811
    """One whose page is there."""
    server = log.standby(*flags)
    server.wait_until_up()
    return server


def cart_of(client):
    return [line(client.item(1_000_000_000)) for _ in range(64)]


def test_no_owner(log, engine, watched):  # noqa: F811
    """The owner is gone, and its standby does not reach the engine."""
    owner, standby = log.owner(*LEASE), standby_of(log, *LEASE)
    alerts = watched(owner, standby)
    with frozen(engine, "the-primary"):
        owner.kill()
        alerts.fires("HoldfastNoOwner", also=["HoldfastStandbyBehind"])
    standby.wait_until_ready(60)
    alerts.resolves(but=["HoldfastNoStandby"])


def test_two_owners(log, engine, start, binary, watched):  # noqa: F811
    """Two logs are scraped as one job."""
    with contextlib.ExitStack() as stack:
        first = log.owner(*LEASE)
        name = engine.database()
        stack.callback(engine.give_back, name)
        other = type(log)(binary, start, engine, name)
        assert other.run("engine", "init", "--engine", other.address).returncode == 0
        second = other.owner(*LEASE)
        alerts = watched(first, second)
        alerts.fires("HoldfastTwoOwners", also=["HoldfastNoStandby"])
        second.stop()
        alerts.resolves(but=["HoldfastNoStandby"])


def test_a_lease_that_runs_out(log, engine, watched):  # noqa: F811
    """No synchronous standby of the engine answers."""
    owner = log.owner(*LEASE)
    alerts = watched(owner)
    with frozen(engine, "the-standbys"):
        alerts.fires("HoldfastLeaseShort", also=["HoldfastNoStandby", "HoldfastAppendSlow"])
    alerts.resolves(but=["HoldfastNoStandby"])


def test_slow_appends(log, engine, watched):  # noqa: F811
    owner = log.owner(*LEASE)
    alerts = watched(owner)
    with Client(owner.target) as client:
        sku = client.item(1_000_000)

        def append_slowly():
            with frozen(engine, "the-standbys"):
                slow = client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
                    idempotency_key=fresh("key"), lines=[line(sku)]), timeout=20)
                time.sleep(0.3)
            slow.result()

        with Repeated(append_slowly):
            alerts.fires("HoldfastAppendSlow", also=["HoldfastNoStandby"])
    alerts.resolves(but=["HoldfastNoStandby"])


def test_doubts(log, engine, watched):  # noqa: F811
    """Connections are cut while writes wait for their answers."""
    owner = log.owner(*LEASE)
    alerts = watched(owner)
    with Client(owner.target) as client:
        sku = client.item(1_000_000)

        def doubt():
            before = metric(owner, "holdfast_engine_doubts_total")
            with frozen(engine, "the-standbys"):
                doubtful = client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
                    idempotency_key=fresh("key"), lines=[line(sku)]), timeout=60)
                eventually(lambda: metric(owner, "holdfast_journal_lag_bytes") > 0)
                def cut():
                    engine.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
                    return metric(owner, "holdfast_engine_doubts_total") > before
                eventually(cut)
            doubtful.result()

        alerts.fires("HoldfastDoubts", meanwhile=doubt,
                     also=["HoldfastNoStandby", "HoldfastAppendSlow", "HoldfastLeaseShort"])
    alerts.resolves(but=["HoldfastNoStandby"])


def test_a_standby_that_is_behind(log, watched):  # noqa: F811
    """Its way to the engine is cut, and the others' is not."""
    owner = log.owner(*LEASE)
    with Gate(log.address) as gate:
        standby = standby_of(log, *LEASE, "--engine", gate.address)
        alerts = watched(owner, standby)
        gate.is_open.clear()
        # A standby that is not heard of is none.
        alerts.fires("HoldfastStandbyBehind", also=["HoldfastNoStandby"])
        gate.is_open.set()
        alerts.resolves()
        standby.stop()


def test_no_standby(log, watched):  # noqa: F811
    owner = log.owner(*LEASE)
    alerts = watched(owner)
    alerts.fires("HoldfastNoStandby")
    log.standby(*LEASE)
    alerts.resolves()


def test_checkpoints_that_the_engine_does_not_take(log, watched):  # noqa: F811
    owner = log.owner(*LEASE, *SMALL_SEGMENTS)
    alerts = watched(owner)
    log.sql("alter table holdfast.checkpoint_part rename to parked")
    with Client(owner.target) as client:
        cart = cart_of(client)
        while metric(owner, "holdfast_checkpoints_total") == 0:
            write(client, cart)
        alerts.fires("HoldfastCheckpointNotCarried", also=["HoldfastNoStandby", "HoldfastAppendSlow"])
        log.sql("alter table holdfast.parked rename to checkpoint_part")
    alerts.resolves(but=["HoldfastNoStandby"])


def test_a_long_log(log, watched):  # noqa: F811
    """4 MiB here: it is not trimmed while no checkpoint comes."""
    owner = log.owner(*LEASE, *SMALL_SEGMENTS)
    alerts = watched(owner)
    log.sql("alter table holdfast.checkpoint_part rename to parked")
    others = ["HoldfastNoStandby", "HoldfastAppendSlow", "HoldfastCheckpointNotCarried"]
    with Client(owner.target) as client:
        cart = cart_of(client)

        def grow():
            if metric(owner, "holdfast_engine_log_bytes") < 5 << 20:
                write(client, cart, 200)

        alerts.fires("HoldfastEngineLogLong", meanwhile=grow, also=others, seconds=120)
        log.sql("alter table holdfast.parked rename to checkpoint_part")

        # Two checkpoints are kept, with the log since the older: so two have to come, each when the one before is there.
        def state():
            return metric(owner, "holdfast_checkpoints_total"), metric(owner, "holdfast_engine_checkpoint_lsn")

        before = [state()]

        def go_on():
            made, carried = state()
            if made == before[-1][0]:
                write(client, cart, 50)
            elif carried != before[-1][1]:
                before.append((made, carried))

        alerts.resolves(but=["HoldfastNoStandby", "HoldfastAppendSlow"], meanwhile=go_on, seconds=180)


def test_a_copy_that_is_made_anew(log, watched):  # noqa: F811
    """A standby was away until the log had been trimmed."""
    owner = log.owner(*LEASE, *SMALL_SEGMENTS)
    with Gate(log.address) as gate, Client(owner.target) as client:
        standby = standby_of(log, *LEASE, *SMALL_SEGMENTS, "--engine", gate.address)
        cart = cart_of(client)
        alerts = watched(owner, standby)
        gate.is_open.clear()
        copied = metric(owner, "holdfast_journal_lsn")
        # Two checkpoints are kept, with the log since the older.
        eventually(lambda: int(log.sql("select trimmed_lsn from holdfast.shard")) > copied or write(client, cart, 200), 120)
        gate.is_open.set()
        alerts.fires("HoldfastCopyMadeAnew", also=[
            "HoldfastStandbyBehind", "HoldfastNoStandby", "HoldfastAppendSlow", "HoldfastEngineLogLong"])
        alerts.resolves(but=["HoldfastAppendSlow", "HoldfastEngineLogLong"])
        standby.stop()


def test_owners_that_change_again_and_again(log, watched):  # noqa: F811
    """Four of them in ten seconds, each gone as soon as it owned the log."""
    flags = ("--lease", "1s", "--loops", "1")
    servers = [log.owner(*flags), *(standby_of(log, *flags) for _ in range(4))]
    alerts = watched(*servers)
    for _ in range(3):
        owner = next(each for each in servers if each.is_alive() and each.owns.is_set())
        owner.kill()
        eventually(lambda: any(each.is_alive() and each.owns.is_set() for each in servers), 20)
    alerts.fires("HoldfastTakenOver", also=["HoldfastNoOwner", "HoldfastNoStandby", "HoldfastLeaseShort"])
    alerts.resolves()


def test_a_projection_that_is_behind(log, engine, binary, watched, prometheus):  # noqa: F811
    """The server that it follows has stopped; the limit is a minute, and stays that here."""
    owner = log.owner(*LEASE)
    process = subprocess.Popen(
        [binary, "project", "--database", log.address, "--target", owner.target, "--schema", "tables", "--admin-port", "0"],
        env={**os.environ, **engine.environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"admin http://\S+:(\d+)", process.stdout.readline())[1])
        alerts = real.Watched(prometheus, "projection", port)
        eventually(lambda: (alerts.prometheus.value('holdfast_projection_lag_seconds{job="projection"}') or 99) < 30, 30)
        owner.process.send_signal(signal.SIGSTOP)
        try:
            alerts.fires("HoldfastProjectionBehind", seconds=120)
        finally:
            owner.process.send_signal(signal.SIGCONT)
        # The owner finds its lease over, and takes the log again or goes on.
        alerts.resolves()
    finally:
        prometheus.remove("projection")
        process.terminate()
        process.wait(20)
