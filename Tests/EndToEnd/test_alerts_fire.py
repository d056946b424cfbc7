"""Each alert of deploy/prometheus: a real server is brought into the condition, a real Prometheus scrapes it, and just
that alert fires, and ends with the condition. `make test-alerts` runs these; times are shortened as prometheus.py says."""

import contextlib
import shutil
import socket
import subprocess
import threading
import time

import grpc
import pytest
from grpc import StatusCode
from holdfast.v1 import event_pb2_grpc, reservation_pb2

import prometheus as real
from client import Client, Refusal, fresh, line, refused
from http2 import Connection, grpc_fields, grpc_message, window_update
from server import Server, eventually
from test_disk_faults import faults, fill, small_disk  # noqa: F401  fixtures
from test_lifecycle import metric
from watching import watch_request

pytestmark = [pytest.mark.alerts,
              pytest.mark.skipif(not real.is_installed(), reason="Prometheus is missing (Debian: prometheus)")]

MEMORY = ("--durability", "memory", "--loops", "2")
SMALL_SEGMENTS = ("--journal-segment-bytes", str(256 * 1024), "--loops", "2")
HOUR = 3600


@pytest.fixture(scope="session")
def prometheus():
    with real.Prometheus(real.RULES) as running:
        yield running


@pytest.fixture
def watched(prometheus, request):
    """watched(server, …): their alerts, under a job of the test's own."""
    job = request.node.name.replace("[", "-").replace("]", "")
    yield lambda *servers: real.Watched(prometheus, job, *(server.admin_port for server in servers))
    prometheus.remove(job)


class Repeated:
    """Calls something again and again on a thread, until it is left."""

    def __init__(self, body):
        self.body, self.is_ending = body, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.is_ending.is_set():
            self.body()

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.is_ending.set()
        self.thread.join()


def again(binary, server, *flags, **options):
    """Another server in the place of one that is gone, with the same admin port."""
    return Server(binary, *flags, "--admin-port", str(server.admin_port), **options)


@contextlib.contextmanager
def stalled(marker):
    """The disk does not sync meanwhile."""
    marker.touch()
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)


@pytest.fixture
def slow_disk(start, faults, tmp_path):  # noqa: F811
    """A server whose disk stalls while the marker is there: (server, marker)."""
    marker = tmp_path / "stall"
    server = start(*SMALL_SEGMENTS, data=tmp_path / "data",
                   environment={"LD_PRELOAD": str(faults), "FAULT_STALL": str(marker)})
    yield server, marker
    # Or it could not end.
    marker.unlink(missing_ok=True)


# Of the service.


def test_a_good_day(start, watched):
    """A server with calls, holds, refusals and a watcher: nothing fires."""
    server = start()
    with Client(server.target) as client:
        alerts = watched(server)
        sku = client.item(1_000_000)
        watch = event_pb2_grpc.EventServiceStub(client.channel).Watch(watch_request())
        threading.Thread(target=lambda: [None for _ in iterate(watch)], daemon=True).start()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            held = client.reserve(line(sku), ttl=1)
            client.confirm(held.reservation_id)
            client.release(client.reserve(line(sku)).reservation_id)
            with refused(StatusCode.FAILED_PRECONDITION):
                client.reserve(line(sku, 10_000_000))
            assert alerts.prometheus.firing(alerts.job) == {}
        watch.cancel()


def iterate(call):
    """What comes, until it ends."""
    with contextlib.suppress(grpc.RpcError):
        yield from call


def test_down(binary, start, watched, tmp_path):
    server = start(*MEMORY)
    alerts = watched(server)
    server.kill()
    alerts.fires("HoldfastDown")
    with again(binary, server, *MEMORY):
        alerts.resolves()


def test_restarts(binary, start, watched):
    server = start(*MEMORY)
    alerts = watched(server)
    started = f'process_start_time_seconds{{job="{alerts.job}"}}'
    server.kill()
    for _ in range(3):
        before = alerts.prometheus.value(f"last_over_time({started}[1m])")
        last = again(binary, server, *MEMORY)
        eventually(lambda: (alerts.prometheus.value(started) or before) > before, 20)
        if _ < 2:
            last.kill()
            last.stop()
    try:
        assert alerts.fires("HoldfastRestarts", also=["HoldfastDown"])["instance"] == f"127.0.0.1:{server.admin_port}"
        alerts.resolves()
    finally:
        last.stop()


def hammer(generator, server, *flags):
    """The load generator on one SKU, until it is left."""
    return subprocess.Popen(
        [generator, "run", "--target", server.target, "--skus", "1", "--units", "100000000", "--duration", "60",
         "--connections", "32", "--streams", "20", *flags],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def running(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_invariant_is_violated(binary, generator, watched):
    """The store that oversells on purpose; a server that does not has the alert end."""
    server = Server(binary, "--durability", "memory", "--loops", "4", "--concurrency", "unchecked-for-demonstration")
    with server:
        alerts = watched(server)
        # What was lost of the holds is missed when all of them are ended.
        with running(hammer(generator, server, "--confirm-share", "0.5", "--release-share", "0.5")):
            eventually(lambda: metric(server, "holdfast_invariant_violations_total") > 0, 60)
        alerts.fires("HoldfastInvariantViolated", also=["HoldfastRetrySpike", "HoldfastLatencyBudgetBurns"])
    with again(binary, server, *MEMORY):
        alerts.resolves()


def test_retries_on_a_hot_sku(generator, start, watched):
    server = start("--durability", "memory", "--loops", "16")
    alerts = watched(server)
    with running(hammer(generator, server, "--confirm-share", "0.3", "--release-share", "0.3")):
        # Far more calls in flight than this machine answers at once wait for each other.
        alerts.fires("HoldfastRetrySpike", also=["HoldfastLatencyBudgetBurns"])
    alerts.resolves()


def test_keys_reused(start, watched):
    server = start(*MEMORY)
    alerts = watched(server)
    with Client(server.target) as client:
        sku = client.item(100)
        # The counter is scraped before, so that it grows.
        client.reserve(line(sku, 1), key="order")
        with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            client.reserve(line(sku, 2), key="order")
    alerts.fires("HoldfastKeysReused")
    alerts.resolves()


def test_callers_refused(binary, start, watched, tmp_path):
    tokens = tmp_path / "tokens"
    made = subprocess.run([binary, "token", "create", "--caller", "shop", "--role", "reserve", "--file", tokens],
                          capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    server = start(*MEMORY, "--tokens", tokens)
    alerts = watched(server)

    def knock():
        with refused(StatusCode.UNAUTHENTICATED):
            client.level("sku")

    with Client(server.target) as client, Repeated(knock):
        alerts.fires("HoldfastCallersRefused")
    alerts.resolves()


@pytest.fixture
def full_table(start):
    """(server, client): the next reserve is refused for lack of room, by the server's fault."""
    server = start(*MEMORY, "--max-reservations", "64")
    with Client(server.target) as client:
        sku = client.item(1000)
        held = []
        while True:
            try:
                held.append(client.reserve(line(sku), ttl=HOUR).reservation_id)
            except grpc.RpcError as error:
                assert Refusal(error).info.reason == "TABLE_FULL"
                break
        yield server, client, line(sku), held


@pytest.mark.parametrize("alert, good", [("HoldfastErrorBudgetBurnsFast", 0), ("HoldfastErrorBudgetBurns", 100)],
                         ids=["all fail", "one in a hundred fails"])
def test_calls_fail(full_table, watched, alert, good):
    server, client, wanted, held = full_table
    alerts = watched(server)

    def call():
        for _ in range(good):
            client.get(held[0])
        with refused(StatusCode.RESOURCE_EXHAUSTED):
            client.reserve(wanted)

    also = ["HoldfastLimitNear", "HoldfastRetentionShort"] + (["HoldfastErrorBudgetBurns"] if good == 0 else [])
    with Repeated(call):
        alerts.fires(alert, also=also)
    for each in held:
        client.release(each)
    alerts.resolves()


# Of the journal and its disk.


def test_slow_syncs(slow_disk, watched):
    """One in twenty: too few of the calls to spend the budget."""
    server, marker = slow_disk
    alerts = watched(server)
    with Client(server.target) as client:
        sku = client.item(1_000_000)

        def change_some():
            for _ in range(20):
                client.reserve(line(sku))
            with stalled(marker):
                slow = client.reservations.Reserve.future(request(line(sku)), timeout=20)
                time.sleep(0.3)
            slow.result()

        with Repeated(change_some):
            alerts.fires("HoldfastSyncSlow")
    alerts.resolves()


def request(*lines):
    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=lines)


def test_slow_calls(slow_disk, watched):
    server, marker = slow_disk
    alerts = watched(server)
    with Client(server.target) as client:
        sku = client.item(1_000_000)

        def change_one():
            with stalled(marker):
                slow = client.reservations.Reserve.future(request(line(sku)), timeout=20)
                time.sleep(0.2)
            slow.result()

        with Repeated(change_one):
            alerts.fires("HoldfastLatencyBudgetBurns", also=["HoldfastSyncSlow"])
    alerts.resolves()


def test_a_disk_that_stalls(slow_disk, watched):
    server, marker = slow_disk
    alerts = watched(server)
    with Client(server.target) as client:
        sku = client.item(100)
        with stalled(marker):
            slow = client.reservations.Reserve.future(request(line(sku)), timeout=60)
            alerts.fires("HoldfastSyncStalled")
        slow.result()
    # Its one sync was slow, and its one call.
    eventually(lambda: "HoldfastSyncStalled" not in alerts.prometheus.firing(alerts.job), 20)
    alerts.resolves()


def test_a_disk_that_lags(slow_disk, watched):
    server, marker = slow_disk
    alerts = watched(server)
    most = metric(server, "holdfast_journal_lag_bytes_max")
    with Client(server.target) as client:
        cart = [line(client.item(1_000_000)) for _ in range(64)]
        with stalled(marker):
            waiting = []
            while metric(server, "holdfast_journal_lag_bytes") < 0.6 * most:
                waiting.append(client.reservations.Reserve.future(request(*cart), timeout=60))
                assert len(waiting) < 1000
            alerts.fires("HoldfastJournalLag", also=["HoldfastSyncStalled"])
        for each in waiting:
            each.result()
    alerts.resolves()


@pytest.fixture(params=["64m"])
def disk(request, tmp_path):
    """A file system of that size."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def free_bytes(server):
    return metric(server, 'holdfast_disk_free_bytes')


def test_a_disk_that_fills(start, watched, disk):
    """Down to a few KiB: nothing is refused yet. The log tells the beginning and the end once."""
    server = start(*SMALL_SEGMENTS, data=disk / "data")
    alerts = watched(server)
    left = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(left - 300 * 1024))
    alerts.fires("HoldfastDiskFilling", also=["HoldfastDiskHorizon"])
    (disk / "filler").unlink()
    alerts.resolves()
    assert told(server) == ["the disk is filling: it has no room for the next segments and checkpoint",
                            "the disk has room again"]


def told(server):
    return [row for text in server.log_text().splitlines() for row in
            ["the disk is filling: it has no room for the next segments and checkpoint", "the disk has room again",
             "the disk is full: changes are refused until it has room", "changes are taken again"] if f'"{row}"' in text]


def test_a_disk_that_will_be_full(start, watched, disk):
    server = start(*SMALL_SEGMENTS, data=disk / "data")
    alerts = watched(server)
    with open(disk / "filler", "wb", buffering=0) as filler:
        filler.write(bytes(40 << 20))

        def write():
            if shutil.disk_usage(disk).free > 4 << 20:
                filler.write(bytes(256 << 10))

        alerts.fires("HoldfastDiskHorizon", meanwhile=write)
    (disk / "filler").unlink()
    alerts.resolves()


@pytest.mark.parametrize("disk", ["8m"], indirect=True)
def test_a_disk_that_is_full(start, watched, disk):
    server = start(*SMALL_SEGMENTS, data=disk / "data")
    with Client(server.target) as client:
        cart = [line(client.item(1_000_000)) for _ in range(64)]
        alerts = watched(server)
        fill(disk / "filler")

        def reserve():
            with contextlib.suppress(grpc.RpcError):
                client.reserve(*cart)

        alerts.fires("HoldfastChangesRefused", meanwhile=reserve, also=[
            "HoldfastDiskFilling", "HoldfastDiskHorizon", "HoldfastErrorBudgetBurns", "HoldfastErrorBudgetBurnsFast"])
        (disk / "filler").unlink()
    alerts.resolves()
    assert sorted(told(server)) == sorted([
        "the disk is filling: it has no room for the next segments and checkpoint",
        "the disk is full: changes are refused until it has room", "changes are taken again", "the disk has room again"])


@pytest.mark.parametrize("disk", ["1m"], indirect=True)
def test_an_archive_that_is_full(start, watched, disk, tmp_path_factory):
    server = start(*SMALL_SEGMENTS, "--archive", disk, data=tmp_path_factory.mktemp("data"))
    alerts = watched(server)
    fill(disk / "filler")
    with Client(server.target) as client:
        cart = [line(client.item(1_000_000)) for _ in range(64)]
        # The archive's disk is as full as a disk can be.
        alerts.fires("HoldfastArchiveFails", meanwhile=lambda: client.reserve(*cart), also=["HoldfastDiskHorizon"])
    (disk / "filler").unlink()
    alerts.resolves()


@pytest.mark.parametrize("disk", ["8m"], indirect=True)
def test_an_archive_that_lacks_segments(start, watched, disk):
    """No room for what is not archived: the oldest of it are given up."""
    archive = disk.parent / f"{disk.name}-archive"
    archive.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", archive], check=True)
    try:
        server = start(*SMALL_SEGMENTS, "--archive", archive, data=disk / "data")
        alerts = watched(server)
        fill(archive / "filler")
        with Client(server.target) as client:
            cart = [line(client.item(1_000_000)) for _ in range(64)]

            def reserve():
                with contextlib.suppress(grpc.RpcError):
                    for _ in range(20):
                        client.reserve(*cart)

            alerts.fires("HoldfastArchiveLost", meanwhile=reserve, also=[
                "HoldfastArchiveFails", "HoldfastDiskFilling", "HoldfastDiskHorizon", "HoldfastChangesRefused",
                "HoldfastErrorBudgetBurns", "HoldfastErrorBudgetBurnsFast"])
            (archive / "filler").unlink()
        eventually(lambda: "HoldfastArchiveLost" not in alerts.prometheus.firing(alerts.job), 90)
        server.stop()
    finally:
        subprocess.run(["umount", "--lazy", archive], check=True)


# Of time.


def test_decisions_forgotten_early(start, watched):
    """More decisions than there is room for: the room is for less than --retention, and the oldest go."""
    server = start(*MEMORY, "--max-reservations", "64")
    alerts = watched(server)
    with Client(server.target) as client:
        sku = client.item(1_000_000)
        turn = lambda: client.release(client.reserve(line(sku)).reservation_id)
        both = {"HoldfastRetentionShort", "HoldfastForgottenEarly"}
        alerts.fires("HoldfastForgottenEarly", also=both, meanwhile=turn)
        alerts.fires("HoldfastRetentionShort", also=both, meanwhile=turn)
    # The rate of the last minute has to pass.
    alerts.resolves(150)


def test_a_clock_that_was_set(start, watched, wall_clock):
    server = start(*MEMORY, environment=wall_clock.environment)
    alerts = watched(server)
    wall_clock.shift(5)
    alerts.fires("HoldfastClockOffset")
    wall_clock.shift()
    alerts.resolves()


def test_holds_that_are_swept_late(start, watched, wall_clock):
    """The machine slept: holds fell due long ago."""
    server = start(*MEMORY, environment=wall_clock.environment)
    alerts = watched(server)
    with Client(server.target) as client:
        client.reserve(line(client.item(10)), ttl=60)
        wall_clock.shift(100, asleep=100)
    alerts.fires("HoldfastExpiryLag")
    alerts.resolves()


@pytest.mark.parametrize("alert, days", [("HoldfastCertificateExpires", 5), ("HoldfastCertificateExpired", -1)])
def test_a_certificate_that_ends(start, watched, ours, tmp_path, alert, days):
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

    def put(pair):
        key.write_bytes(pair.key.read_bytes())
        certificate.write_bytes(pair.certificate.read_bytes())

    put(ours.issue("server", days=days))
    server = start(*MEMORY, "--tls-cert", certificate, "--tls-key", key)
    alerts = watched(server)
    alerts.fires(alert)
    put(ours.issue("server", days=30))
    alerts.resolves()


# Of limits and connections.


def test_near_the_limit_of_items(binary, watched):
    with Server(binary, *MEMORY, "--max-items", "10") as server, Client(server.target) as client:
        for _ in range(10):
            client.item(1)
        alerts = watched(server)
        assert alerts.fires("HoldfastLimitNear")["limit"] == "max-items"
    with again(binary, server, *MEMORY):
        alerts.resolves()


def test_near_the_limit_of_reservations(start, watched):
    server = start(*MEMORY, "--max-reservations", "64")
    with Client(server.target) as client:
        sku = client.item(100)
        held = [client.reserve(line(sku), ttl=HOUR).reservation_id for _ in range(60)]
        alerts = watched(server)
        assert alerts.fires("HoldfastLimitNear", also=["HoldfastRetentionShort"])["limit"] == "max-reservations"
        for each in held:
            client.release(each)
    alerts.resolves()


def test_near_the_limit_of_limits(binary, watched):
    with Server(binary, *MEMORY, "--max-limits", "10") as server, Client(server.target) as client:
        sku = client.item(100)
        for number in range(10):
            client.reservations.Reserve(reservation_pb2.ReserveRequest(
                idempotency_key=fresh("key"), lines=[line(sku)],
                limits=[reservation_pb2.Limit(subject=f"customer-{number}", max_units=2)]))
        alerts = watched(server)
        assert alerts.fires("HoldfastLimitNear")["limit"] == "max-limits"
    with again(binary, server, *MEMORY):
        alerts.resolves()


def connect(server):
    made = socket.create_connection((server.host, server.port), timeout=10)
    made.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    return made


def test_near_the_limit_of_connections(start, watched):
    server = start(*MEMORY, "--max-connections", "10")
    alerts = watched(server)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connect(server))
        assert alerts.fires("HoldfastLimitNear")["limit"] == "max-connections"
    alerts.resolves()


def test_near_the_limit_of_watches(start, watched):
    """A thousand of them, as many as a connection may have on each of ten."""
    server = start(*MEMORY)
    alerts = watched(server)
    with contextlib.ExitStack() as stack:
        calls = []
        for _ in range(10):
            client = stack.enter_context(Client(server.target))
            stub = event_pb2_grpc.EventServiceStub(client.channel)
            calls += [stub.Watch(watch_request()) for _ in range(95)]
        assert alerts.fires("HoldfastLimitNear")["limit"] == "watches"
        for call in calls:
            call.cancel()
    alerts.resolves()


def test_connections_refused(start, watched):
    server = start(*MEMORY, "--max-connections-per-peer", "1")
    alerts = watched(server)
    with connect(server), Repeated(lambda: is_refused(server)):
        assert alerts.fires("HoldfastConnectionsRefused")["reason"] == "per_peer_limit"
    alerts.resolves()


def is_refused(server):
    with contextlib.suppress(OSError), socket.create_connection((server.host, server.port), timeout=10) as second:
        second.recv(1)


def test_abuse(start, watched):
    server = start(*MEMORY)
    alerts = watched(server)

    def speak_http_1():
        with contextlib.suppress(OSError), socket.create_connection((server.host, server.port), timeout=10) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while other.recv(4096):
                pass

    with Repeated(speak_http_1):
        alerts.fires("HoldfastConnectionAbuse")
    alerts.resolves()


# Of watchers.


def test_a_watcher_that_does_not_read(start, watched):
    """First it is behind, and then what it has not read is gone."""
    server = start(*MEMORY, "--history", str(1 << 20), "--stall-timeout", "10m")
    alerts = watched(server)
    size = metric(server, "holdfast_history_bytes")
    with Client(server.target) as client, Connection(server) as slow:
        slow.request(1, grpc_fields("/holdfast.v1.EventService/Watch"), grpc_message(watch_request().SerializeToString()))
        eventually(lambda: metric(server, "holdfast_watches") == 1)
        cart = [line(client.item(100_000_000)) for _ in range(64)]

        def fall_behind():
            if metric(server, "holdfast_watch_lag_bytes") < 0.7 * size:
                for _ in range(20):
                    client.reserve(*cart)

        alerts.fires("HoldfastWatchBehind", meanwhile=fall_behind)
        while metric(server, "holdfast_watch_lag_bytes") < 3 * size:
            for _ in range(20):
                client.reserve(*cart)
        # It reads on where it was, and hears that this is gone.
        slow.send(window_update(0, 1 << 24) + window_update(1, 1 << 24))
        assert slow.response(1).grpc_status == StatusCode.OUT_OF_RANGE.value[0]
        assert alerts.fires("HoldfastWatchesDropped", also=["HoldfastWatchBehind"])["reason"] == "too_old"
    alerts.resolves()
