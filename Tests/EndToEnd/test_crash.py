"""SIGKILL under load, restart, compare with the load generator's ledger: a few rounds of `make crash`."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def crash(binary, tmp_path):
    """crash("--flag", "value") runs scripts/crash.py on the binaries under test."""
    generator = os.environ.get("HOLDFAST_LOAD_BINARY", REPOSITORY / ".build/debug/holdfast-load")

    def run(*flags):
        return subprocess.run(
            [sys.executable, REPOSITORY / "scripts/crash.py", "--server", binary, "--generator", generator,
             "--directory", tmp_path, *flags], capture_output=True, text=True, timeout=120)

    return run


def test_nothing_acknowledged_is_lost(crash, tmp_path):
    done = crash("--rounds", "3", "--seed", "121", "--load-seconds", "1.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 acknowledged decisions lost, 0 applied twice\n"), done.stdout
    acknowledged = re.search(r"([\d,]+) acknowledged decisions;", done.stdout)[1]
    assert int(acknowledged.replace(",", "")) > 1_000, done.stdout
    assert not list(tmp_path.iterdir())


def test_a_server_that_keeps_nothing_is_found_out(crash, tmp_path):
    """With no journal every round fails: the comparison bites. The files are kept and named."""
    done = crash("--rounds", "5", "--seed", "121", "--load-seconds", "3", "--durability", "memory")
    assert done.returncode == 1
    assert "acknowledged decision forgotten" in done.stderr, done.stdout + done.stderr
    [kept] = tmp_path.iterdir()
    assert str(kept) in done.stderr
