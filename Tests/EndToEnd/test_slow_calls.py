"""`--slow-call`: lines of the log about single calls; and what the log says of a disk that does not answer."""

import gzip
import json
import re
import struct
import time

import grpc
import pytest
from holdfast.v1 import reservation_pb2

import http2
from client import Client, fresh, line
from http2 import Connection, frame, grpc_fields, grpc_message, header_block
from server import Server, eventually, holdfast
from test_disk_faults import faults  # noqa: F401  a fixture
from test_lifecycle import metric

TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
PARTS = ["queue-ms", "decide-ms", "durability-ms", "send-ms"]


def entries(server, message="slow call"):
    rows = [json.loads(row) for row in server.log_text().splitlines() if row.startswith("{")]
    return [row for row in rows if row["message"] == message]


@pytest.fixture
def slow(start, faults, tmp_path):  # noqa: F811
    """A server that calls 200 ms slow, and the marker while which its disk stalls."""
    marker = tmp_path / "stall"
    server = start("--slow-call", "200ms", "--loops", "1", data=tmp_path / "data",
                   environment={"LD_PRELOAD": str(faults), "FAULT_STALL": str(marker)})
    yield server, marker
    marker.unlink(missing_ok=True)


def stalled_call(server, marker, begin):
    """Makes a call that waits for the disk for 300 ms."""
    before = metric(server, "holdfast_journal_lsn")
    marker.touch()
    try:
        call = begin()
        eventually(lambda: metric(server, "holdfast_journal_lsn") > before)
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.3)
    finally:
        marker.unlink()
    return call.result()


def test_a_call_that_waits_for_the_disk(slow):
    """What it was, who made it in which trace, and that its time went into durability."""
    server, marker = slow
    with Client(server.target) as client:
        sku = client.item(10)
        held = stalled_call(server, marker, lambda: client.reservations.Reserve.future(
            reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku), line(sku)]),
            metadata=[("holdfast-caller", "checkout"), ("traceparent", TRACE_PARENT)], timeout=20))
        (entry,) = eventually(lambda: entries(server))
        assert entry["method"] == "/holdfast.v1.ReservationService/Reserve" and entry["code"] == "ok"
        assert (entry["sku"], entry["caller"], entry["traceparent"]) == (sku, "checkout", TRACE_PARENT)
        assert 250 < entry["durability-ms"] <= entry["milliseconds"]
        assert abs(sum(entry[part] for part in PARTS) - entry["milliseconds"]) < 1
        # Of a call without a SKU, the reservation; of one without caller and trace, nothing.
        stalled_call(server, marker, lambda: client.reservations.Release.future(
            reservation_pb2.ReleaseRequest(reservation_id=held.reservation_id), timeout=20))
        entry = eventually(lambda: entries(server)[1:])[0]
        assert entry["reservation"] == held.reservation_id
        assert not {"sku", "caller", "traceparent"} & entry.keys()
        assert metric(server, "holdfast_slow_calls_total") == 2


@pytest.fixture(scope="module", params=["json", "text"])
def logging(binary, request):
    """(format of the log, a server that calls 20 ms slow)."""
    with Server(binary, "--slow-call", "20ms", "--log-format", request.param, "--durability", "memory") as running:
        yield request.param, running


def slow_lines(server):
    """As they stand in the log: a line ends where a line feed is, and nowhere else."""
    return [row for row in server.log_text().split("\n") if "slow call" in row]


def call_slowly(server, path, message, **fields):
    """Sends the message long after the header block: so much later its response is there."""
    with Connection(server) as connection:
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, header_block(grpc_fields(path, **fields))))
        connection.send(frame(http2.PING, payload=bytes(8)))
        while connection.read_frame()[:2] != (http2.PING, http2.ACK):
            pass
        time.sleep(0.05)
        connection.send(frame(http2.DATA, http2.END_STREAM, 1, message))
        return connection.response(1)


@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("sku, shown", [
    ("größe-42/ü".encode(), "größe-42/ü"),
    (b'a b\n"level":"critical"\\', r"a\u{20}b\u{a}\u{22}level\u{22}:\u{22}critical\u{22}\u{5c}"),
    ("\u202egnp\x1b[31m\u0085".encode(), r"\u{202e}gnp\u{1b}[31m\u{85}"), (b"\xff\0ok\\", r"\xff\x00ok\x5c"),
    (b"x" * 300, "x" * 64), (b"", None)])
def test_what_a_client_sends_breaks_no_line(logging, sku, shown, is_compressed):
    """Also of a call that was rejected. The item behind another field, as no encoder writes it, is found too."""
    log_format, server = logging
    seen = len(slow_lines(server))
    item = field(1, sku)
    message = field(1, item) + field(1, field(1, b"another"))
    message = b"\1" + struct.pack(">I", len(packed := gzip.compress(message))) + packed if is_compressed else grpc_message(message)
    call_slowly(server, "/holdfast.v1.StockService/BatchGetStock", message, grpc_encoding="gzip" if is_compressed else None)
    (row,) = eventually(lambda: slow_lines(server)[seen:])
    if log_format == "json":
        entry = json.loads(row)
        assert entry["message"] == "slow call" and entry.get("sku") == shown
        assert entry["queue-ms"] > 40 and entry["durability-ms"] < 20
    else:
        assert (re.search(r" sku=(\S+)", row) or [None, None])[1] == shown
        assert re.fullmatch(r"\S+ warning slow call( [a-z-]+=\S+)+", row)


def field(number, content):
    """A field of a message that is bytes."""
    count = len(content)
    length = bytes([count]) if count < 128 else bytes([count & 127 | 128, count >> 7])
    return bytes([number << 3 | 2]) + length + content


@pytest.mark.parametrize("message", [b"", b"\0\0\0\0\0", grpc_message(b"\x0a\x7f"), grpc_message(b"\xff" * 64), b"\0\0\0\0\x09\x0a"],
                         ids=["none", "empty", "cut off", "garbage", "short of its length"])
def test_a_slow_call_that_makes_no_sense(logging, message):
    """It is told of all the same, and the server goes on."""
    _, server = logging
    seen = len(slow_lines(server))
    response = call_slowly(server, "/holdfast.v1.ReservationService/Reserve", message)
    assert response.grpc_status != 0
    (row,) = eventually(lambda: slow_lines(server)[seen:])
    assert "sku" not in row


def test_a_storm_is_ten_lines_a_second(slow):
    server, marker = slow
    with Client(server.target) as client:
        sku = client.item(1000)
        marker.touch()
        calls = [client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key"), lines=[line(sku)]), timeout=20) for _ in range(100)]
        with pytest.raises(grpc.FutureTimeoutError):
            calls[-1].result(timeout=0.5)
        marker.unlink()
        for call in calls:
            call.result()
        more = "more slow calls, which are not told one by one"
        eventually(lambda: len(entries(server)) + sum(row["calls"] for row in entries(server, more)) == 100)
        # They ended within an iteration or two, and the log looked once a second.
        assert 10 <= len(entries(server)) <= 50
        assert metric(server, "holdfast_slow_calls_total") == 100


def test_without_the_flag_nothing_is_told(start, faults, tmp_path):  # noqa: F811
    marker = tmp_path / "stall"
    server = start(data=tmp_path / "data", environment={"LD_PRELOAD": str(faults), "FAULT_STALL": str(marker)})
    with Client(server.target) as client:
        sku = client.item(10)
        try:
            stalled_call(server, marker, lambda: client.reservations.Reserve.future(
                reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]), timeout=20))
        finally:
            marker.unlink(missing_ok=True)
        assert entries(server) == [] and metric(server, "holdfast_slow_calls_total") == 0


@pytest.mark.parametrize("text", ["50", "fast", "-1s", "9000h"])
def test_a_time_that_is_none(binary, tmp_path, text):
    done = holdfast(binary, "serve", "--data-dir", tmp_path, f"--slow-call={text}")
    assert done.returncode == 64 and "--slow-call" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_disk_that_does_not_answer_is_told_of_twice(slow):
    """When it begins, and when it has ended."""
    server, marker = slow
    began, ended = "the journal waits for the disk: nothing is answered that it does not have yet", "the journal goes on"
    with Client(server.target) as client:
        sku = client.item(10)
        marker.touch()
        call = client.reservations.Reserve.future(reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key"), lines=[line(sku)]), timeout=60)
        (entry,) = eventually(lambda: entries(server, began), 20)
        assert entry["level"] == "warning" and entry["lag-bytes"] > 0
        assert metric(server, "holdfast_journal_stalled_seconds") > 0.9
        assert entries(server, ended) == []
        marker.unlink()
        call.result()
        (entry,) = eventually(lambda: entries(server, ended), 20)
        assert entry["seconds"] > 0 and len(entries(server, began)) == 1
        eventually(lambda: metric(server, "holdfast_journal_stalled_seconds") == 0)
