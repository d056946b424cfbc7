"""The load generator before it sends anything: flags that cannot be, and nobody there."""

import subprocess

import pytest

from server import Server
from test_load_admin import calls


@pytest.fixture(scope="module")
def server(binary):
    """Of this file alone: nobody else's calls are counted."""
    with Server(binary, "--durability", "memory") as running:
        yield running


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
    (["--require", "p99<5"], "--require"),
    (["--fail-if", "p99>5"], "--fail-if"),
    (["--fail-if", "p42x>5ms"], "--fail-if"),
    (["--json", "/nonexistent/folder/report.json"], "/nonexistent/folder/report.json"),
    (["--html", "/nonexistent/folder/report.html"], "/nonexistent/folder/report.html"),
    (["--history", "/nonexistent/folder/history"], "/nonexistent/folder/history"),
    (["--server-pid", "999999999"], "--server-pid"),
    (["--admin", "127.0.0.1:1"], "--admin"),
    (["--orders", "mine"], "--via"),
    (["--answers", "mine"], "--via"),
    (["--broker-ca", "/etc/hostname"], "--via"),
    (["--via", "nowhere"], "--via"),
    (["--via", "kafka://127.0.0.1"], "--via"),
    (["--via", "amqp://127.0.0.1", "--broker-ca", "/etc/hostname"], "amqps://"),
])
def test_a_flag_that_cannot_be_is_named_before_anything_is_sent(generator, server, flags, named):
    before = calls(server)
    done = run(generator, "run", "--target", server.target, *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert named in done.stderr, done.stderr
    assert done.stderr.startswith("holdfast-load: ") and calls(server) == before


@pytest.mark.parametrize("target", ["127.0.0.1:1", "[::1]:1"])
def test_nobody_there(generator, target):
    done = run(generator, "run", "--target", target, "--duration", "1")
    assert done.returncode == 2
    assert target in one_line(done.stderr)


def test_a_full_disk_costs_the_history_and_nothing_else(generator, server):
    done = run(generator, "run", "--target", server.target, "--operations", "2000", "--history", "/dev/full")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "/dev/full" in one_line(done.stderr)
    assert "VERDICT: nothing oversold" in done.stdout
