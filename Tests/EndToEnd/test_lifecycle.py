"""Health, the way down, the flags that bound tables, and the admin port."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2

import http2
from holdfast.v1 import reservation_pb2
from client import Client, Refusal, fresh, line, refused
from http2 import Connection, frame, grpc_fields, grpc_message, header_block
from server import Server, eventually

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
HELD, RELEASED = reservation_pb2.RESERVATION_STATE_HELD, reservation_pb2.RESERVATION_STATE_RELEASED
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = ["", "holdfast.v1.ReservationService", "holdfast.v1.StockService"]


@pytest.mark.parametrize("service", SERVICES)
def test_health_check(client, service):
    assert client.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING


def test_health_check_of_an_unknown_service(client):
    with refused(StatusCode.NOT_FOUND):
        client.health.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=10)


def test_health_watch_of_an_unknown_service_stays_open(client):
    watch = client.health.Watch(health_pb2.HealthCheckRequest(service="no.Such"), timeout=10)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize("service", SERVICES)
def test_sigterm_tells_watchers_and_ends_with_0(start, service):
    server = start()
    with Client(server.target) as client:
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert next(watch).status == SERVING
        server.terminate()
        assert next(watch).status == NOT_SERVING
        assert server.stop() == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/livez", timeout=1)


def test_sigterm_under_load_answers_what_it_accepted(start):
    """Every call ends: with its answer, or UNAVAILABLE from a server that no longer takes calls."""
    server = start()
    with Client(server.target) as client:
        sku = client.item(100_000)
        calls = [client.reservations.Reserve.future(reserve_request(sku), timeout=20) for _ in range(2000)]
        calls[0].result()
        server.terminate()
        codes = {call.exception().code() if call.exception() else StatusCode.OK for call in calls}
        assert codes <= {StatusCode.OK, StatusCode.UNAVAILABLE}
        assert server.stop() == 0


def test_a_call_that_the_shutdown_cannot_wait_for(start):
    """A request that never ends: UNAVAILABLE SHUTTING_DOWN with RetryInfo once the time is over."""
    server = start("--shutdown-timeout", "1s")
    with Connection(server) as connection:
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(
            grpc_fields("/holdfast.v1.ReservationService/Reserve"))))
        connection.send(frame(http2.PING, payload=bytes(8)))
        while connection.read_frame()[:2] != (http2.PING, http2.ACK):
            pass
        server.terminate()
        response = connection.response(1)
        assert connection.goaway == http2.NO_ERROR
        assert response.grpc_status == StatusCode.UNAVAILABLE.value[0]
        refusal = Refusal.of(response)
        assert refusal.info.reason == "SHUTTING_DOWN" and refusal.retry.retry_delay.ToNanoseconds() > 0
    assert server.stop() == 0


def test_more_half_sent_messages_than_there_is_room_for(start):
    """256 MiB a loop hold what clients have sent in part; past that OVERLOADED with RetryInfo."""
    server = start("--loops", "1")
    half_sent = grpc_message(bytes(80 * 1024))[:-1]
    frames = [half_sent[at:at + 16384] for at in range(0, len(half_sent), 16384)]
    fields = header_block(grpc_fields("/holdfast.v1.ReservationService/Reserve"))
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(Connection(server))
            connection.read_frame()  # its SETTINGS: from here on its windows are the large ones
            for stream in range(1, 2000, 2):
                connection.send(frame(http2.HEADERS, http2.END_HEADERS, stream, fields) + b"".join(
                    frame(http2.DATA, 0, stream, part) for part in frames))
        refused_streams = [response for response in read_until_quiet(connection) if response.headers]
        assert refused_streams and all(
            response.grpc_status == StatusCode.UNAVAILABLE.value[0] for response in refused_streams)
        refusal = Refusal.of(refused_streams[0])
        assert refusal.info.reason == "OVERLOADED" and refusal.retry.retry_delay.ToNanoseconds() > 0
        with Client(server.target) as client:  # small calls need no such room
            client.reserve(line(client.item(1)))


def read_until_quiet(connection):
    connection.socket.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while True:
            connection.read_frame()
    return connection.responses.values()


def reserve_request(sku):
    from holdfast.v1 import reservation_pb2

    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)])


def test_sigint_ends_with_0_too(binary):
    import signal

    server = Server(binary)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0


# Flags.


def test_max_hold(start):
    server = start("--max-hold", "30s")
    with Client(server.target) as client:
        sku = client.item(10)
        held = client.reserve(line(sku), ttl=20)
        first = client.get(held.reservation_id)
        answer = client.extend(held.reservation_id, ttl=30)
        cap = first.created_at.ToNanoseconds() + 30 * 10**9
        assert answer.reservation.expires_at.ToNanoseconds() == cap and not answer.replayed
        again = client.extend(held.reservation_id, ttl=30)
        assert again.replayed and again.reservation == answer.reservation


@pytest.mark.parametrize("max_hold, longest", [("30s", 30), ("24h", 86_400), ("72h", 259_200)])
def test_a_ttl_goes_up_to_max_hold(start, max_hold, longest):
    server = start("--max-hold", max_hold)
    with Client(server.target) as client:
        sku = client.item(10)
        held = client.reserve(line(sku), ttl=longest)
        assert longest - 5 < held.remaining.ToSeconds() <= longest
        for call in [lambda ttl: client.reserve(line(sku), ttl=ttl),
                     lambda ttl: client.extend(held.reservation_id, ttl=ttl)]:
            with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
                call(longest + 1)
            assert seen[0].fields == ["ttl"]
        # The default is shorter, or gives way.
        assert client.reserve(line(sku)).remaining.ToSeconds() in range(min(longest, 600) - 5, min(longest, 600) + 1)


def test_the_default_ttl_is_no_longer_than_max_hold(binary):
    done = subprocess.run([binary, "serve", "--max-hold", "1h", "--default-ttl", "2h"], capture_output=True, text=True)
    assert done.returncode == 64 and "--default-ttl" in done.stderr


def test_a_retry_under_a_lower_max_hold(start, tmp_path):
    """The recorded answer comes again; what is new is held to the limit, and no hold ends in the past."""
    data = tmp_path / "data"
    server = start("--max-hold", "24h", data=data)
    with Client(server.target) as client:
        sku = client.item(10)
        held = client.reserve(line(sku), key="long", ttl=36_000)
    server.stop()
    server = start("--max-hold", "1s", data=data)
    with Client(server.target) as client:
        again = client.reserve(line(sku), key="long", ttl=36_000)
        assert again.replayed and again.reservation_id == held.reservation_id and again.state == HELD
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
            client.reserve(line(sku), ttl=36_000)
        assert seen[0].fields == ["ttl"]
        time.sleep(1.1)  # past the cap that the hold would have now
        same = client.extend(held.reservation_id, ttl=1, may_shorten=True)
        assert same.replayed and same.reservation.state == HELD


def test_the_same_payload_under_another_default(start, tmp_path):
    """What is unset is unset, whatever the default; lines have no order, and are summed."""
    data = tmp_path / "data"
    server = start("--default-ttl", "300s", data=data)
    with Client(server.target) as client:
        shirt, shoe = client.item(10), client.item(10)
        held = client.reserve(line(shirt, 2), line(shoe, 1), key="order-7/1")
    server.stop()
    server = start("--default-ttl", "60s", data=data)
    with Client(server.target) as client:
        for lines in [(line(shirt, 2), line(shoe, 1)), (line(shoe, 1), line(shirt, 1), line(shirt, 1))]:
            again = client.reserve(*lines, key="order-7/1")
            assert again.replayed and again.reservation_id == held.reservation_id
            assert again.expires_at == held.expires_at and again.state == HELD
        with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            client.reserve(line(shirt, 2), line(shoe, 1), key="order-7/1", ttl=300)
        client.release(held.reservation_id)
        again = client.reserve(line(shirt, 2), line(shoe, 1), key="order-7/1")
        assert again.replayed and again.state == RELEASED and not again.HasField("remaining")


def test_max_items(start):
    server = start("--max-items", "64")
    with Client(server.target) as client:
        made = 0
        with refused(StatusCode.RESOURCE_EXHAUSTED, "TABLE_FULL", table="items"):
            for made in range(10_000):
                last = client.item(1)
        assert 64 <= made <= 128
        client.adjust(last, delta=1)  # known items still change
        client.reserve(line(last))


def test_max_reservations(start):
    server = start("--max-reservations", "256")
    with Client(server.target) as client:
        sku = client.item(100_000)
        held = []
        with refused(StatusCode.RESOURCE_EXHAUSTED, "TABLE_FULL", table="reservations"):
            while len(held) < 10_000:
                held.append(client.reserve(line(sku), ttl=600).reservation_id)
        assert len(held) >= 64
        assert client.level(sku).held == len(held)
        # One that ended leaves early for a new one.
        for reservation_id in held:
            client.release(reservation_id)
        client.reserve(line(sku))


@pytest.mark.parametrize("flags", [
    ["--port", "65536"], ["--port", "x"], ["--loops", "0"], ["--loops", "-1"], ["--no-such-flag"],
    ["--durability", "wishful"], ["--data-dir", ""], ["--journal-segment-bytes", "300000"],
    ["--journal-segment-bytes", "262144", "--loops", "9"], ["--max-hold", "soon"]], ids=" ".join)
def test_bad_flags_are_refused_in_few_words(binary, flags):
    done = subprocess.run([binary, "serve", *flags], capture_output=True, text=True, timeout=20)
    assert done.returncode not in (0, -4, -5, -6, -11) and done.returncode > 0
    assert flags[0] in done.stderr and len(done.stderr.splitlines()) <= 4


def test_a_port_in_use(binary, server):
    done = subprocess.run([binary, "serve", "--port", str(server.port), "--admin-port", "0",
                           "--durability", "memory"], capture_output=True, text=True, timeout=10)
    assert done.returncode > 0 and str(server.port) in done.stderr + done.stdout


def test_logs_are_json_when_no_terminal_listens(start):
    server = start()
    server.stop()
    for entry in server.log_text().splitlines():
        assert isinstance(json.loads(entry), dict)


# The admin port.


def fetch(server, path):
    return urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}{path}", timeout=10)


def metric(server, name):
    """The sum over the label values of one metric."""
    values = [line.rsplit(" ", 1)[1] for line in fetch(server, "/metrics").read().decode().splitlines()
              if line.startswith((name + " ", name + "{"))]
    assert values, f"no metric {name}"
    return sum(map(float, values))


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes(server, path):
    assert fetch(server, path).status == 200


def test_unknown_admin_path(server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(server, "/no-such-page")
    assert caught.value.code == 404


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing; run `make bootstrap-dev`")
def test_metrics_are_lint_clean(client, server):
    client.reserve(line(client.item(1)))
    page = fetch(server, "/metrics")
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    done = subprocess.run(["promtool", "check", "metrics"], input=page.read(), capture_output=True)
    assert done.returncode == 0 and not done.stderr, (done.stdout + done.stderr).decode()


def test_metrics_count_what_happened(start):
    server = start()
    with Client(server.target) as client:
        sku = client.item(3)
        for _ in range(3):
            held = client.reserve(line(sku))
        with refused(StatusCode.FAILED_PRECONDITION):
            client.reserve(line(sku))
        client.confirm(held.reservation_id)
        page = fetch(server, "/metrics").read().decode()
        assert any(row.startswith("grpc_server_handled_total{") and 'grpc_method="Reserve"' in row
                   and 'grpc_code="OK"' in row and row.endswith(" 3") for row in page.splitlines())
        assert metric(server, "grpc_server_started_total") >= 6
        assert metric(server, "holdfast_reservations_total") >= 4
        assert metric(server, "holdfast_invariant_violations_total") == 0
        assert sku not in page


def test_the_start_time_is_not_that_of_the_first_scrape(start):
    server = start()
    ready = time.time()
    assert metric(server, "process_start_time_seconds") <= ready


def test_holds_that_fall_due_are_swept_while_nobody_calls(start):
    server = start()
    with Client(server.target) as client:
        sku = client.item(5)
        client.reserve(line(sku, 2), ttl=1)
        assert metric(server, "holdfast_live_holds") == 1
    eventually(lambda: metric(server, "holdfast_live_holds") == 0)
    assert metric(server, "holdfast_expired_holds_total") == 1
