"""The load generator beside the change feed: it holds every event against its ledger, and finds its way back to it."""

import json
import signal
import subprocess

import pytest

from server import eventually
from test_lifecycle import metric
from test_load_schemas import run, validate  # noqa: F401


def report_of(done, path, status=0):
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(path.read_text())


def wait_for_load(server):
    """Until a run has made some thousand holds."""
    reserves = 'grpc_server_started_total{grpc_type="unary",grpc_service="holdfast.v1.ReservationService",grpc_method="Reserve"}'
    eventually(lambda: metric(server, reserves) > 1_000, 60)


def test_every_decision_once(generator, start, validate, tmp_path):  # noqa: F811
    """One of everything: carts, restocks, extends, repetitions, cuts, holds that fall due, refusals."""
    server, path = start("--loops", "2"), tmp_path / "report.json"
    done = run(generator, "run", "--target", server.target, "--watch", "--skus", 20, "--units", 9, "--lines", "1-4",
               "--duration", 4, "--warm-up", 0, "--ttl", 1, "--confirm-share", 0.2, "--release-share", 0.3,
               "--extend-share", 0.2, "--restock-share", 0.02, "--read-share", 0.1, "--duplicate-share", 0.1,
               "--cut-share", 0.02, "--retries-unknown", "true", "--think-time", "2ms", "--threads", 2, "--json", path)
    report = validate("report", report_of(done, path))
    feed = report["check"]["feed"]
    assert set(feed["kinds"]) == {"HELD", "EXTENDED", "CONFIRMED", "RELEASED", "EXPIRED", "ADJUSTED", "REFUSED"}, feed
    assert feed["is_whole"] and feed["others"] == 0 and feed["decisions_compared"] > 1_000, feed
    assert report["verdict"]["feed_events"] == feed["events"]
    assert "once in the feed" in done.stdout, done.stdout


def test_others_are_passed_over(generator, start, tmp_path):
    """Two runs at once on one server, and each finds its own."""
    server = start()
    paths = [tmp_path / f"{number}.json" for number in range(2)]
    runs = [subprocess.Popen([generator, "run", "--target", server.target, "--watch", "--duration", "2", "--warm-up", "0",
                              "--think-time", "2ms", "--json", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True) for path in paths]
    for process, path in zip(runs, paths):
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0, output
        feed = json.loads(path.read_text())["check"]["feed"]
        assert feed["others"] > 100 and feed["events"] > 100, feed


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_started_again_meanwhile(generator, start, tmp_path, end):
    """The feed goes on from its token, and has what was decided before and after once."""
    socket, data, path = tmp_path / "socket", tmp_path / "data", tmp_path / "report.json"
    server = start("--host", f"unix:{socket}", data=data)
    process = subprocess.Popen(
        [generator, "run", "--target", f"unix:{socket}", "--watch", "--duration", "5", "--warm-up", "0", "--skus", "10",
         "--units", "100000", "--ttl", "1", "--confirm-share", "0.3", "--release-share", "0.3", "--think-time", "2ms",
         "--retries-unknown", "true", "--json", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_load(server)
    server.process.send_signal(end)
    server.process.wait(20)
    start("--host", f"unix:{socket}", data=data)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    report = json.loads(path.read_text())
    feed = report["check"]["feed"]
    assert feed["is_whole"] and feed["reconnects"] >= 1 and report["connections_redialled"] > 0, output
    assert report["verdict"]["feed_events"] > 1_000, output


def test_the_feed_of_all_that_is_kept(generator, start, validate, tmp_path):  # noqa: F811
    """After a kill under load the audit decides what was cut off, and finds each decision in the feed once."""
    data, history, path = tmp_path / "data", tmp_path / "history", tmp_path / "audit.json"
    server = start(data=data)
    process = subprocess.Popen(
        [generator, "run", "--target", server.target, "--duration", "30", "--warm-up", "0", "--no-check",
         "--skus", "10", "--units", "1000", "--ttl", "1", "--think-time", "2ms", "--history", history],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_load(server)
    server.kill()
    process.communicate(timeout=60)
    server = start(data=data)
    for _ in range(2):
        done = run(generator, "audit", history, "--target", server.target, "--watch", "--json", path)
        [found] = validate("audit", report_of(done, path))["histories"]
        feed = found["audit"]["check"]["feed"]
        assert feed["is_whole"] and feed["decisions_compared"] >= found["audit"]["acknowledged"] * 0.9, found


def test_no_feed_no_run(generator, start):
    """Told before any load: the server keeps no decisions for those who watch."""
    done = run(generator, "run", "--target", start("--durability", "memory", "--history", "0").target, "--watch", "--duration", 1)
    assert done.returncode == 2 and "Watch: FAILED_PRECONDITION" in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("flag", ["--no-check", "--no-verify"])
def test_nothing_to_hold_it_against(generator, server, flag):
    done = run(generator, "run", "--target", server.target, "--watch", flag)
    assert done.returncode == 2 and "--watch" in done.stderr, done.stdout + done.stderr
