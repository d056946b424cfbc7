"""The load generator's verdict on the real server: it holds, and on a store that oversells it fails."""

import json
import pathlib
import re
import signal
import subprocess

import pytest

from server import eventually


def load(generator, server, *flags):
    return subprocess.run(
        [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}",
         "--server-pid", str(server.pid), "--seed", "1", *flags],
        capture_output=True, text=True, timeout=300)


def test_many_skus_two_loops_and_nothing_lost(generator, start, tmp_path):
    server = start("--loops", "2")
    report = tmp_path / "report.json"
    done = load(generator, server, "--skus", "1000", "--units", "100", "--operations", "12000",
                "--connections", "16", "--threads", "2", "--lines", "1-5", "--distribution", "zipf:0.9",
                "--duplicate-share", "0.1", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: nothing oversold, nothing lost" in done.stdout
    assert json.loads(report.read_text())["schema_version"] == 3


def test_holds_that_expire_meanwhile(generator, start):
    server = start("--loops", "2")
    done = load(generator, server, "--skus", "10", "--units", "60", "--duration", "3", "--warm-up", "0",
                "--rate", "1000", "--ttl", "1", "--confirm-share", "0.1", "--release-share", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_store_that_oversells_is_found_out(generator, start):
    """Check, then write, unlocked: two loops sell the same unit. The count is in the verdict, and the status
    says so also where the history cannot be written."""
    for _ in range(5):  # a race: nearly every run shows it
        server = start("--loops", "2", "--concurrency", "unchecked-for-demonstration",
                       "--durability", "memory")
        done = load(generator, server, "--skus", "1", "--units", "500", "--operations", "20000",
                    "--connections", "8", "--history", "/dev/full")
        if done.returncode == 1:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.search(r"VERDICT: OVERSOLD by ([\d,]+) units on SKU (\S+)", done.stdout)
    assert found and int(found[1].replace(",", "")) > 0, done.stdout
    assert "cannot write /dev/full" in done.stderr


@pytest.mark.parametrize("flags", [[], ["--require", "p50<=0us"]])
def test_a_history_that_cannot_be_written(generator, start, flags):
    """All holds, but a file is missing: that is worse than a threshold."""
    done = load(generator, start(), "--operations", "100", "--history", "/dev/full", *flags)
    assert "cannot write /dev/full" in done.stderr and "VERDICT" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 2


def catches(pid, number):
    """Whether the process has a handler for the signal."""
    mask = re.search(r"SigCgt:\s+(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]
    return int(mask, 16) >> (number - 1) & 1


def test_a_hangup_ends_a_run_early(generator, start):
    """Unless it is ignored from the start, as nohup has it."""
    server = start()
    for ignored, status in [(False, 128 + signal.SIGHUP), (True, 0)]:
        handler = signal.SIG_IGN if ignored else signal.SIG_DFL
        running = subprocess.Popen(
            [generator, "run", "--target", server.target, "--duration", "2" if ignored else "30"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, handler))
        eventually(lambda: catches(running.pid, signal.SIGINT))
        running.send_signal(signal.SIGHUP)
        output, errors = running.communicate(timeout=40)
        assert running.returncode == status, output + errors
        assert "VERDICT" in output


def test_nobody_there(generator):
    done = subprocess.run([generator, "run", "--target", "127.0.0.1:1", "--duration", "1"],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "127.0.0.1:1" in done.stderr
