"""Runs of the load generator that are cut short, and servers that pause, die and come back."""

import json
import pathlib
import signal
import subprocess
import time

import pytest

from server import eventually

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class Run:
    """`holdfast-load run` beside the test; `report` is its JSON once it has ended."""

    def __init__(self, generator, server, report, *flags):
        self.path, self.log = report, report.with_suffix(".hdr")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [generator, "run", "--target", server.target, "--seed", "1", "--json", str(report), "--hdr", str(self.log),
             *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_load(self, intervals=3):
        """Until calls have been answered for so many intervals of the report: of a quarter of a second and more."""
        # The log has a line for each, and three commas in it.
        eventually(lambda: self.log.exists() and self.log.read_text().count(",") >= 3 * intervals, 30)
        self.began = time.monotonic()

    def end(self, seconds=300):
        """Waits for its end. Its exit status."""
        try:
            self.output, self.errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.seconds = time.monotonic() - self.began
        return self.process.returncode

    @property
    def report(self):
        return json.loads(self.path.read_text())


def test_an_interrupt_ends_the_run_with_what_there_is(generator, server, tmp_path):
    run = Run(generator, server, tmp_path / "report.json", "--duration", "60", "--warm-up", "0")
    run.wait_for_load()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, run.output + run.errors
    assert run.seconds < 30
    report = run.report
    assert report["is_partial"] and report["verdict"]["result"] == "good"
    assert report["check"]["keys"] > 0 and report["check"]["unknown_outcomes"] == 0
    assert 0 < report["measured_seconds"] < 30
    assert any("interrupted" in warning for warning in report["warnings"])


def test_a_second_signal_ends_it_at_once(generator, start, tmp_path):
    server = start()
    run = Run(generator, server, tmp_path / "report.json", "--duration", "60")
    run.wait_for_load()
    # Calls that nobody answers: the first signal waits for them.
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    assert run.end(5) == 143
    server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("flags", [(), ("--rate", "2000")], ids=["closed", "open"])
def test_a_server_that_dies_leaves_a_partial_report(generator, start, tmp_path, flags):
    server = start("--durability", "memory")
    run = Run(generator, server, tmp_path / "report.json", "--duration", "60", "--warm-up", "0",
              "--admin", f"127.0.0.1:{server.admin_port}", "--server-pid", str(server.pid), *flags)
    run.wait_for_load()
    server.kill()
    assert run.end() == 2, run.output + run.errors
    assert run.seconds < 30
    assert run.output.startswith("NO VERDICT: the balances could not be read")
    report = run.report
    assert report["is_partial"] and report["verdict"]["result"] == "unknown" and "check" not in report
    assert report["requests_measured"] > 0 and report["connections_lost"] == 8
    assert any("the server went away" in warning for warning in report["warnings"])


def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(generator, start, tmp_path):
    """The generator dials again, and asks again for what was cut off."""
    first = start()
    run = Run(generator, first, tmp_path / "report.json", "--duration", "6", "--warm-up", "0",
              "--retries-unknown", "true", "--connections", "4")
    run.wait_for_load()
    first.kill()
    start("--port", str(first.port), data=first.data)
    assert run.end() == 0, run.output + run.errors
    report = run.report
    assert report["connections_lost"] == report["connections_redialled"] == 4
    assert report["outcomes"]["connection lost"] > 0
    assert report["check"]["unknown_outcomes"] == 0


@pytest.mark.alone
def test_only_an_open_loop_sees_that_the_server_paused(generator, start, tmp_path):
    def paused_run(name, *flags):
        server = start("--durability", "memory")
        run = Run(generator, server, tmp_path / name, "--duration", "5", "--warm-up", "0.5",
                  "--connections", "4", "--streams", "4", *flags)
        run.wait_for_load(8)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGCONT)
        assert run.end() == 0, run.output + run.errors
        return run.report

    opened = paused_run("open.json", "--rate", "500")
    closed = paused_run("closed.json")
    # 6 % of the schedule fell into the pause; a closed loop had 16 calls under way.
    assert opened["latency_microseconds"]["all"]["p999"] > 200_000
    assert opened["latency_microseconds"]["all"]["p99"] > 150_000
    assert closed["latency_microseconds"]["all"]["p99"] < 150_000
    assert closed["latency_microseconds"]["all"]["max"] > 250_000
    assert opened["service_time_microseconds"]["p95"] < opened["latency_microseconds"]["all"]["p95"]
    worst = max(opened["intervals"], key=lambda interval: interval["latency_microseconds"]["max"])
    assert 1 < worst["start_seconds"] < 5


def test_a_retry_storm_is_decided_call_by_call(generator, start, tmp_path):
    server = start("--loops", "2")
    run = Run(generator, server, tmp_path / "report.json", "--scenario", "retry-storm", "--duration", "3",
              "--threads", "2", "--close-share", "0.002")
    assert run.end() == 0, run.output + run.errors
    report = run.report
    assert report["outcomes"]["cut off on purpose"] > 100
    assert report["connections_redialled"] > 0 and report["connections_lost"] == 0
    assert report["check"]["unknown_outcomes"] == 0
    assert report["check"]["duplicates_compared"] > 1000


def test_an_expiry_storm_leaves_nothing_held(generator, start, tmp_path):
    server = start("--durability", "memory")
    run = Run(generator, server, tmp_path / "report.json", "--scenario", "expiry-storm",
              "--operations", "20000", "--due-together", "8")
    assert run.end() == 0, run.output + run.errors
    check = run.report["check"]
    assert check["held"] == 0 and check["expired"] >= 19_000
    assert check["released"] == check["accepted"] - check["expired"]
    # Probes went on until 3 s after the storm.
    assert run.report["intervals"][-1]["start_seconds"] > 10


@pytest.mark.alone
def test_the_timeline_has_what_the_server_said_of_itself(generator, start, tmp_path):
    server = start()
    run = Run(generator, server, tmp_path / "report.json", "--duration", "4",
              "--admin", f"127.0.0.1:{server.admin_port}", "--server-pid", str(server.pid))
    assert run.end() == 0, run.output + run.errors
    report = run.report
    samples = [interval["server"] for interval in report["intervals"] if "server" in interval]
    assert len(samples) >= 3
    assert any(sample.get("syncs_per_second", 0) > 0 for sample in samples)
    assert all(sample["resident_bytes"] > 1 << 20 for sample in samples)
    assert any(sample["processor_share"] > 0 for sample in samples)
    assert any(sample.get("live_holds", 0) > 0 for sample in samples)
    assert report["environment"]["server"].startswith("holdfast ")
    assert report["check"]["samples_compared"] > 0
    # Intervals follow each other without a gap, from the first call to the last answer.
    ends = [interval["start_seconds"] + interval["seconds"] for interval in report["intervals"]]
    starts = [interval["start_seconds"] for interval in report["intervals"]]
    assert starts[0] == 0
    assert all(abs(end - start) < 1e-6 for end, start in zip(ends, starts[1:]))
