"""Clocks that are wrong: at a start, while a server runs, and while its machine sleeps."""

import json
import os
import re
import subprocess

import pytest

from client import Client, line
from holdfast.v1 import reservation_pb2
from server import eventually, holdfast, serve_command
from test_durability import state_of
from test_lifecycle import metric

HOUR = 3600
AFTER_2262 = 10_000_000_000
BEFORE_1970 = -10_000_000


def run(wall_clock, *command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60,
                          env={**os.environ, **wall_clock.environment})


def offset(server):
    return metric(server, "holdfast_clock_offset_seconds")


@pytest.fixture
def data(start, tmp_path):
    """The directory of a server that made a hold of an hour, under the key "hold", and was stopped."""
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        client.adjust("sku", key="stock", delta=5)
        client.reserve(line("sku"), key="hold", ttl=HOUR)
    assert server.stop() == 0
    return server.data


def test_a_clock_far_ahead_is_refused_and_nothing_is_lost(binary, start, wall_clock, data):
    before = state_of(binary, data)
    wall_clock.shift(25 * HOUR)
    done = run(wall_clock, *serve_command(binary, data))
    assert done.returncode == 1 and done.stdout == ""
    complaint = done.stderr.splitlines()[-1]
    times = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", complaint)
    assert len(times) == 2 and times[1] < times[0], complaint
    assert "--accept-clock" in complaint and "--clock-jump-max" in complaint and str(data) in complaint
    assert state_of(binary, data) == before

    server = start(data=data)
    with Client(server.target) as client:
        assert client.reserve(line("sku"), key="hold", ttl=HOUR).replayed
        assert client.adjust("sku", key="stock", delta=5).replayed
        assert client.level("sku").on_hand == 5 and client.level("sku").held == 1
    assert abs(offset(server)) < 1
    server.stop()
    # Whoever means it says so, once.
    server = start("--accept-clock", data=data, environment=wall_clock.environment)
    assert "s ahead of the newest record" in server.log_text()
    with Client(server.target) as client:
        assert client.level("sku").held == 0
        assert not client.adjust("sku", key="stock", delta=5).replayed


@pytest.mark.parametrize("hours, flags, told", [
    (0, [], None),
    (1, [], "ahead of the newest record"),
    (23, [], "ahead of the newest record"),
    (47, ["--clock-jump-max", "48h"], "ahead of the newest record"),
    (-1, [], "behind the newest record"),
    (-1000, [], "behind the newest record"),
])
def test_any_other_jump_is_told(start, wall_clock, data, hours, flags, told):
    wall_clock.shift(hours * HOUR)
    server = start(*flags, data=data, environment=wall_clock.environment)
    warnings = [row for row in map(json.loads, server.log_text().splitlines())
                if row["level"] == "warning" and "clock" in row["message"]]
    assert [told in row["message"] for row in warnings] == ([] if told is None else [True])
    # Where it is behind, the server's time goes on from the newest record.
    assert offset(server) == pytest.approx(max(0, -hours * HOUR), abs=30)


def test_a_jump_while_it_runs_is_told_and_changes_no_hold(start, wall_clock):
    server = start(environment=wall_clock.environment)
    with Client(server.target) as client:
        sku = client.item(5)
        held = client.reserve(line(sku), ttl=HOUR)
        wall_clock.shift(2 * HOUR)
        eventually(lambda: "clock was set" in server.log_text())
        assert offset(server) == pytest.approx(-2 * HOUR, abs=30)
        assert client.get(held.reservation_id).state == reservation_pb2.RESERVATION_STATE_HELD
        # One that is set again and again is told of once a minute.
        wall_clock.shift(-2 * HOUR)
        eventually(lambda: offset(server) > HOUR)
        assert client.get(held.reservation_id).state == reservation_pb2.RESERVATION_STATE_HELD
        assert server.log_text().count("clock was set") == 1


def test_time_counts_while_the_machine_sleeps(start, wall_clock):
    server = start(environment=wall_clock.environment)
    with Client(server.target) as client:
        sku = client.item(1)
        held = client.reserve(line(sku), ttl=60)
        wall_clock.shift(3540, asleep=3540)
        assert client.get(held.reservation_id).state == reservation_pb2.RESERVATION_STATE_EXPIRED
        client.reserve(line(sku))
    assert abs(offset(server)) < 1
    assert "clock was set" not in server.log_text()


def test_a_server_without_calls_notes_the_time(start, tmp_path, wall_clock):
    server = start(data=tmp_path / "data", environment=wall_clock.environment)
    lsn = metric(server, "holdfast_journal_lsn")
    wall_clock.shift(30 * HOUR, asleep=30 * HOUR)
    eventually(lambda: metric(server, "holdfast_journal_durable_lsn") > lsn)
    server.kill()
    # An hour later it is no surprise.
    wall_clock.shift(31 * HOUR)
    again = start(data=server.data, environment=wall_clock.environment)
    assert "3600 s ahead" in again.log_text() or "3601 s ahead" in again.log_text()


@pytest.mark.parametrize("durability", ["fsync", "memory"])
@pytest.mark.parametrize("seconds", [AFTER_2262, BEFORE_1970, 9_223_372_037, 9_223_372_036])
def test_a_time_that_cannot_be_counted_on_is_refused(binary, wall_clock, data, seconds, durability):
    before = state_of(binary, data)
    wall_clock.set(seconds)
    done = run(wall_clock, *serve_command(binary, data), "--durability", durability, "--accept-clock")
    assert done.returncode == 1 and done.stdout == ""
    assert re.search(r"the machine's clock says .*: set it right; times go from 1970 to 2261-",
                     done.stderr.splitlines()[-1]), done.stderr
    for command in ["verify", data], ["dump", data]:
        told = run(wall_clock, binary, *command)
        assert told.returncode == 0
        assert told.stdout == holdfast(binary, *command).stdout
    assert state_of(binary, data) == before


def test_repair_looks_at_no_clock(binary, start, wall_clock, data):
    lsn = json.loads(holdfast(binary, "dump", data).stdout.splitlines()[-1])["lsn"]
    wall_clock.set(AFTER_2262)
    assert run(wall_clock, binary, "repair", data, "--truncate-at", lsn).returncode == 0
    server = start(data=data)
    with Client(server.target) as client:
        assert client.reserve(line("sku"), key="hold", ttl=HOUR).replayed


def test_the_longest_jump_is_a_setting(binary, tmp_path):
    for value in "59s", "1", "876000h":
        done = holdfast(binary, *serve_command(binary, tmp_path / "data")[1:], "--clock-jump-max", value)
        assert done.returncode == 64 and "--clock-jump-max" in done.stderr
    printed = holdfast(binary, "serve", "--print-config").stdout
    assert "clock-jump-max = 24h  (default)" in printed
