"""The load generator when things go wrong: bad flags, nobody there, a server that stalls or dies, a full disk."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator():
    path = pathlib.Path(os.environ.get("HOLDFAST_LOAD_BINARY", REPOSITORY / ".build/debug/holdfast-load"))
    assert path.exists(), f"{path} is missing: run `make test-swift` first"
    return path


@pytest.fixture
def server(start):
    return start("--durability", "memory")


def run(generator, *arguments):
    return subprocess.run([generator, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def one_line(text):
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize("flags, named", [
    (["--connections", "0"], "--connections"),
    (["--connections", "two"], "--connections"),
    (["--streams", "99999999999999999999"], "--streams"),
    (["--threads", "9", "--connections", "8"], "--threads"),
    (["--duration", "-1"], "--duration"),
    (["--duration", "nan"], "--duration"),
    (["--rate", "0"], "--rate"),
    (["--rate", "10-"], "--rate"),
    (["--rate", "1000/0s"], "--rate"),
    (["--rate", "5", "--operations", "5"], "--rate"),
    (["--ttl", "0.5"], "--ttl"),
    (["--lines", "0-3"], "--lines"),
    (["--lines", "1-65"], "--lines"),
    (["--quantity", "3-1"], "--quantity"),
    (["--distribution", "gauss"], "--distribution"),
    (["--confirm-share", "0.8", "--release-share", "0.3"], "--confirm-share"),
    (["--scenario", "nonsense"], "nonsense"),
    (["--workload", "/nonexistent.json"], "/nonexistent.json"),
    (["--fail-if", "p99>5"], "--fail-if"),
    (["--fail-if", "p42x>5ms"], "--fail-if"),
    (["--json", "/nonexistent/folder/report.json"], "/nonexistent/folder/report.json"),
    (["--html", "/nonexistent/folder/report.html"], "/nonexistent/folder/report.html"),
    (["--history", "/nonexistent/folder/history"], "/nonexistent/folder/history"),
    (["--server-pid", "999999999"], "--server-pid"),
    (["--admin", "127.0.0.1:1"], "--admin"),
])
def test_a_flag_that_cannot_be_is_named_before_anything_is_sent(generator, server, flags, named):
    began = time.monotonic()
    done = run(generator, "run", "--target", server.target, *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert named in done.stderr, done.stderr
    assert done.stderr.startswith("holdfast-load: ") and time.monotonic() - began < 10


@pytest.mark.parametrize("target", ["127.0.0.1:1", "[::1]:1"])
def test_nobody_there(generator, target):
    done = run(generator, "run", "--target", target, "--duration", "1")
    assert done.returncode == 2
    assert target in one_line(done.stderr)


def test_a_server_that_dies_gives_a_partial_report_without_a_verdict(generator, server, tmp_path):
    report = tmp_path / "report.json"
    process = subprocess.Popen(
        [generator, "run", "--target", server.target, "--duration", "60", "--json", report, "--history",
         tmp_path / "history"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)  # some load; when it dies matters to nothing that is asserted
    server.process.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out + err
    assert out.startswith("NO VERDICT"), out
    written = json.loads(report.read_text())
    assert written["result"] == "unknown" and written["is_partial"]
    assert written["requests_measured"] > 0 and written["latency_microseconds"]["all"]["p99"] > 0
    assert (tmp_path / "history").stat().st_size > 0


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted_it_still_compares_and_reports(generator, server, tmp_path, name, status):
    report = tmp_path / "report.json"
    process = subprocess.Popen(
        [generator, "run", "--target", server.target, "--duration", "60", "--warm-up", "0", "--json", report],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, out + err
    written = json.loads(report.read_text())
    assert written["result"] == "good" and written["is_partial"], out


@pytest.mark.parametrize("flag", ["--json", "--html", "--history", "--hdr"])
def test_a_full_disk_costs_the_file_and_nothing_else(generator, server, tmp_path, flag):
    other = tmp_path / "other.json"
    more = [] if flag == "--json" else ["--json", other]
    done = run(generator, "run", "--target", server.target, "--operations", "2000", flag, "/dev/full", *more)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "/dev/full" in one_line(done.stderr)
    assert "VERDICT: nothing oversold" in done.stdout
    if more:
        assert json.loads(other.read_text())["result"] == "good"


@pytest.mark.parametrize("expression, status", [
    ("p99>60s", 0), ("p50>0us", 3), ("rate<1/s", 0), ("errors>0.1%", 0), ("Reserve.p99>=0ms", 3),
])
def test_thresholds_decide_the_exit_status(generator, server, expression, status):
    done = run(generator, "run", "--target", server.target, "--operations", "2000", "--fail-if", expression)
    assert done.returncode == status, done.stdout + done.stderr
    assert expression in done.stdout


def paused(generator, server, seconds, *flags):
    """A run during which the server stands still for 200 ms; its report."""
    process = subprocess.Popen(
        [generator, "run", "--target", server.target, "--json", "-", "--connections", "4", "--streams", "2",
         "--warm-up", "0.5", "--duration", str(seconds), *map(str, flags)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def pause():
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGCONT)

    timer = threading.Timer(0.5 + seconds / 2, pause)
    timer.start()
    out, err = process.communicate(timeout=60)
    timer.join()
    assert process.returncode == 0, out + err
    return json.loads(out)


def test_a_pause_shows_where_users_would_have_felt_it(generator, start):
    """Coordinated omission: 200 ms without an answer is 800 users at 4,000 calls a second; a closed loop with eight
    streams asks only eight of them, and so does the time from the actual send."""
    server = start("--durability", "memory")
    opened = paused(generator, server, 4, "--rate", 4000)
    assert opened["latency_microseconds"]["all"]["p999"] > 150_000
    assert opened["service_time_microseconds"]["p99"] < opened["latency_microseconds"]["all"]["p99"]
    closed = paused(generator, server, 4)
    assert closed["latency_microseconds"]["all"]["max"] > 150_000
    assert closed["latency_microseconds"]["all"]["p99"] < 100_000
