"""Servers that stop in the middle of an open-loop run: what was due and never sent is in every figure."""

import json
import os
import signal
import subprocess

import pytest

from server import eventually

RATE = 500
SECONDS = 3


def run_until_stopped(generator, server, report, stop, *flags):
    """An open-loop run whose server is stopped after a second; its status and its report."""
    process = subprocess.Popen(
        [generator, "run", "--target", server.target, "--rate", str(RATE), "--duration", str(SECONDS), "--warm-up",
         "0", "--connections", "2", "--streams", "4", "--seed", "1", "--json", str(report), "--hdr", str(report) + ".hdr", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = report.with_name(report.name + ".hdr")
    # The log has a line for each quarter of a second.
    eventually(lambda: log.exists() and log.read_text().count(",") >= 12, seconds=30)
    stop()
    out, errors = process.communicate(timeout=120)
    return process.returncode, json.loads(report.read_text()), out + errors


@pytest.mark.parametrize("how", ["SIGSTOP", "SIGKILL"])
def test_a_server_that_stops_for_the_rest_of_the_run(generator, start, tmp_path, how):
    requirements = ["errors<50%", "p50<50ms", "Reserve.p99<1s", "service.p90<200ms", f"rate>={RATE * 0.9}/s"]
    flags = [part for each in requirements for part in ("--require", each)]
    due = RATE * SECONDS
    for number in range(5):
        server = start("--durability", "memory")
        stop = server.kill if how == "SIGKILL" else lambda: os.kill(server.pid, signal.SIGSTOP)
        try:
            status, report, text = run_until_stopped(generator, server, tmp_path / f"{number}.json", stop, *flags)
        finally:
            if how == "SIGSTOP":
                os.kill(server.pid, signal.SIGCONT)
        answered = sum(report["codes"].values())
        if answered <= due * 0.5:
            break  # else a busy machine let the stop come too late
    assert status == 2, text
    assert due - 5 <= report["attempts"] + report["unsent"] <= due + due // 2, text
    assert report["unsent"] >= due * 0.25 and report["outcomes"]["never sent"] == report["unsent"]
    assert sum(report["outcomes"].values()) == report["attempts"] + report["unsent"]
    # At most 8 calls were in flight; all others that have no answer were never sent.
    assert report["unsent"] >= due - answered - 16
    latency = report["latency_microseconds"]["all"]
    assert latency["count"] >= due - 16
    assert latency["p90"] > 1_000_000 and latency["max"] > 1_900_000
    assert report["requests_per_second"] < RATE * 0.8
    broken = {each["expression"] for each in report["thresholds"] if not each["is_passed"]}
    assert {"Reserve.p99<1s", "service.p90<200ms", f"rate>={RATE * 0.9}/s"} <= broken
    share = report["unsent"] / (report["attempts"] + report["unsent"])
    assert ("errors<50%" in broken and "p50<50ms" in broken) or share < 0.55, (share, broken)
    assert report["limited_by"] != "load"
    assert "calls due and never sent" in " ".join(text.split())
