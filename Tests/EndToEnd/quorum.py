"""Logs in PostgreSQL, their owners and standbys, for tests; and what a client of theirs remembers."""

import pytest
from holdfast.v1 import reservation_pb2, stock_pb2

from client import fresh, line
from engine_databases import EngineDatabases
from engines import is_installed
from server import eventually, holdfast, serve_command

needs_engine = pytest.mark.skipif(not is_installed(), reason="PostgreSQL's server is not installed (Debian: postgresql)")

LEASE_SECONDS = 1
# A takeover is a lease, a look at the log, and the rest of it; and what the tests beside this one take of the machine.
TAKEOVER_SECONDS = LEASE_SECONDS + 4.5
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

    def flags(self, *flags, lease=LEASE_SECONDS):
        return ("--durability", "quorum", "--engine", self.address, "--lease", f"{int(lease * 1000)}ms", *flags)

    def owner(self, *flags, lease=LEASE_SECONDS, environment=(), **options):
        return self._start(*self.flags(*flags, lease=lease), environment={**self.engine.environment, **dict(environment)},
                           **options)

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


def reserve_request(sku):
    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])


def stock_request(sku):
    return stock_pb2.GetStockRequest(sku=sku)
