"""The server under each of its strategies: what it answers is the same, and the verdict holds."""

import pathlib
import re
import subprocess
import urllib.request

import pytest

from client import Client, line
from server import holdfast, serve_command

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
STRATEGIES = ["optimistic", "locking", "single-writer", "queued"]


def metrics(server):
    """{name with labels: value} of the metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/metrics", timeout=10) as page:
        lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_hot_sku_on_two_loops(generator, start, strategy):
    """Two loops want the same item all the time; what they decide is journaled."""
    server = start("--loops", "2", "--concurrency", strategy)
    done = subprocess.run(
        [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}",
         "--server-pid", str(server.pid), "--seed", "1", "--skus", "1", "--units", "8000",
         "--operations", "8000", "--connections", "8", "--confirm-share", "0.3", "--release-share", "0.3"],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: nothing oversold, nothing lost" in done.stdout
    numbers = metrics(server)
    assert numbers[f'holdfast_concurrency_info{{strategy="{strategy}"}}'] == 1
    assert numbers["holdfast_invariant_violations_total"] == 0
    if strategy != "optimistic":  # nobody decides by what another one is about to change
        assert numbers["holdfast_too_busy_total"] == 0
    assert f'"concurrency":"{strategy}"' in server.log_text().replace(" ", "")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_one_strategy_wrote_another_reads(start, tmp_path, strategy):
    """The journal does not know which strategy ran."""
    other = STRATEGIES[(STRATEGIES.index(strategy) + 1) % len(STRATEGIES)]
    first = start("--concurrency", strategy, data=tmp_path)
    with Client(first.target) as client:
        sku = client.item(10)
        client.reserve(line(sku, 4))
    first.stop()
    second = start("--concurrency", other, data=tmp_path)
    with Client(second.target) as client:
        level = client.level(sku)
        assert (level.on_hand, level.held) == (10, 4)


def test_a_strategy_that_there_is_not(binary, tmp_path):
    done = subprocess.run(serve_command(binary, tmp_path / "data", "--concurrency", "nonsense"),
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 64
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(strategy in done.stderr for strategy in STRATEGIES)
    assert "demonstration" not in done.stderr


def test_it_is_a_setting_as_any_other(binary):
    done = holdfast(binary, "serve", "--print-config", "--concurrency", "queued")
    assert re.search(r"^concurrency = queued +\(--concurrency\)$", done.stdout, re.MULTILINE)
