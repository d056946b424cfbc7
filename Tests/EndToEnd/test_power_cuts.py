"""The power is cut at recorded moments of the real server: a few runs of `make power-cuts`."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def power_cuts(binary, tmp_path):
    """power_cuts("--flag", "value") runs scripts/power-cuts.py on the server under test."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")

    def run(*flags):
        return subprocess.run(
            [sys.executable, REPOSITORY / "scripts/power-cuts.py", "--server", binary, "--directory", tmp_path, *flags],
            capture_output=True, text=True, timeout=300)

    return run


def test_no_cut_loses_what_was_promised(power_cuts, tmp_path):
    # The first begins with no directory, the last with one of the first release; the second is stopped.
    done = power_cuts("--runs", "3", "--images", "5", "--decisions", "600", "--seed", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("15 images of 3 runs: nothing that was promised is lost, no damage, nothing oversold\n")
    assert {"killed", "stopped"} == set(re.findall("killed|stopped", done.stdout)), done.stdout
    assert not list(tmp_path.iterdir())


def test_a_server_that_forgets_to_sync_is_found_out(power_cuts):
    """The other syncs that a server may forget are those of scripts/power-cuts.py --mutant."""
    done = power_cuts("--runs", "2", "--images", "25", "--decisions", "600", "--seed", "5", "--mutant", "journal")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED, seed 5" in done.stderr, done.stderr
