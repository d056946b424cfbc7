"""Two servers with one log in PostgreSQL, and what they may lose: a few rounds of `make crash-engine`."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import engines

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not engines.is_installed(), reason="needs PostgreSQL's server (Debian: postgresql)")
@pytest.mark.parametrize("kind", ["owner", "frozen", "owner-and-primary"])
def test_nothing_acknowledged_is_lost(kind, binary, generator, tmp_path):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/crash-engine.py", "--server", binary, "--generator", generator,
         "--directory", tmp_path, "--rounds", "1", "--seed", "121", "--kind", kind, "--scenario", "plain"],
        capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 acknowledged decisions lost or changed, 0 applied twice, 0 stale answers\n"), done.stdout
    acknowledged = re.search(r"([\d,]+) acknowledged decisions;", done.stdout)[1]
    assert int(acknowledged.replace(",", "")) > 100, done.stdout
    assert not list(tmp_path.iterdir())
