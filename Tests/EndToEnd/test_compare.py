"""holdfast-load compare: reports beside reports, and servers that it starts and stops itself."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from server import eventually

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def serve(binary):
    """serve("--flag") is the command of a server for --server."""
    def command(*flags):
        return (f"'{binary}' serve --port {{port}} --admin-port {{admin}} --data-dir {{data}} --durability memory "
                + " ".join(flags))
    return command


def compare(generator, *arguments):
    return subprocess.run([generator, "compare", *map(str, arguments)], capture_output=True, text=True, timeout=300)


def side_by_side(generator, folder, *arguments):
    return compare(generator, "--folder", folder, "--duration", "0.3", "--warm-up", "0.05", "--seed", "1", *arguments)


def children_of(folder):
    """Servers whose command line holds `folder`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[1:2] == ["serve"] and any(str(folder) in word for word in words):
            found.append(entry.name)
    return found


def is_one_line(text):
    return len(text.strip().splitlines()) == 1


def test_two_equal_servers(generator, serve, tmp_path):
    """What it finds is a matter of the machine; what it says, and what it leaves behind, is not."""
    work, kept = tmp_path / "work", tmp_path / "kept"
    work.mkdir()
    done = side_by_side(
        generator, work, "--server", f"one={serve()}", "--server", f"two={serve()}", "--repeat", "2",
        "--peak-share", "0.5", "--keep", kept, "--json", tmp_path / "c.json", "--html", tmp_path / "c.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requests per second (more is better)" in done.stdout
    comparison = json.loads((tmp_path / "c.json").read_text())
    assert comparison["schema_version"] == 2 and comparison["variants"] == ["one", "two"]
    assert [case["name"] for case in comparison["cases"]] == ["closed loop", "open loop"]
    for case in comparison["cases"]:
        assert [run["variant"] for run in case["runs"]] == ["one", "two", "two", "one"]
        assert all(run["verdict"]["result"] == "good" for run in case["runs"])
        measures = {measure["name"]: measure["figures"] for measure in case["measures"]}
        assert {"rate", "p50", "p99", "p99.9", "server_cpu", "generator_cpu"} <= set(measures)
        for one, two in measures.values():
            assert "ratio" not in one and (one["runs"], two["runs"]) == (2, 2)
    assert 1 <= len(comparison["findings"]) <= 6
    page = (tmp_path / "c.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "http://" not in page.replace("http://www.w3.org", "")

    # The reports that were kept say the same.
    reports = sorted(kept.glob("*.json"))
    assert len(reports) == 8
    again = compare(generator, *reports, "--json", "-")
    assert again.returncode == 0, again.stderr
    assert len(json.loads(again.stdout)["cases"]) == 2
    assert list(work.iterdir()) == [] and children_of(work) == []


def test_several_workloads_and_values(generator, serve, tmp_path):
    workload = tmp_path / "mine.json"
    workload.write_text(json.dumps({"skus": 10, "units": 100}))
    done = side_by_side(
        generator, tmp_path, "--server", f"one={serve('--loops {loops}')}", "--server", f"two={serve()}",
        "--with", "loops=1,2", "--scenario", "carts", "--workload", workload, "--repeat", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    comparison = json.loads(done.stdout)
    assert [case["name"] for case in comparison["cases"]] == [
        "carts (1), closed loop", "mine (1), closed loop", "carts (2), closed loop", "mine (2), closed loop"]
    ratio = comparison["cases"][0]["measures"][0]["figures"][1]["ratio"]
    assert ratio["method"] == "single" and not ratio["is_shown"]


def test_who_oversells_loses(generator, serve, tmp_path):
    bad = serve("--loops 2 --concurrency unchecked-for-demonstration")
    for _ in range(5):  # a race: nearly every run shows it
        done = compare(
            generator, "--folder", tmp_path, "--server", f"good={serve('--loops 2')}", "--server", f"bad={bad}",
            "--repeat", "1", "--units", "200", "--operations", "4000")
        if done.returncode == 1:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("LOST       bad loses: 1 of 1 run violated an invariant")


@pytest.mark.parametrize("command, words", [
    ("false {port}", "bad: it ended with status 1"),
    ("sh -c 'echo no licence >&2; exit 3' {port}", "it said: no licence"),
    ("/nowhere/server {port}", "cannot start /nowhere/server: No such file or directory"),
    ("sh -c 'unclosed {port}", "lacks a closing '"),
    ("true", "{port}"),
])
def test_a_server_that_does_not_start(generator, serve, tmp_path, command, words):
    done = side_by_side(generator, tmp_path, "--server", f"bad={command}", "--server", f"one={serve()}")
    assert done.returncode == 2, done.stdout + done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("holdfast-load: ") and words in error, error
    assert list(tmp_path.iterdir()) == [] and children_of(tmp_path) == []


def test_a_server_that_dies_under_the_load(generator, serve, tmp_path):
    mortal = f"sh -c '\"$0\" \"$@\" & sleep 1.5; kill -9 $!; echo gone >&2; exit 9' {serve()}"
    done = compare(generator, "--folder", tmp_path, "--server", f"one={mortal}", "--server", f"two={serve()}",
                   "--duration", "20")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "one: it ended with status 9 under the load; it said: " in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [] and children_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(generator, serve, tmp_path, number):
    # Under nohup whoever is started ignores SIGHUP.
    running = subprocess.Popen(
        [generator, "compare", "--folder", tmp_path, "--server", f"one={serve()}", "--server", f"two={serve()}",
         "--duration", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    try:
        eventually(lambda: children_of(tmp_path), 20)
        running.send_signal(number)
        assert running.wait(30) == 128 + number, running.stderr.read()
    finally:
        running.kill()
    assert list(tmp_path.iterdir()) == [] and children_of(tmp_path) == []


def test_interrupted_twice(generator, serve, tmp_path):
    """It ends at once, and what a wrapper has started goes with the wrapper."""
    wrapped = f"sh -c '\"$0\" \"$@\" & wait' {serve()}"
    running = subprocess.Popen(
        [generator, "compare", "--folder", tmp_path, "--server", f"one={wrapped}", "--server", f"two={wrapped}",
         "--duration", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = int(eventually(lambda: children_of(tmp_path), 20)[0])
    try:
        os.kill(server, signal.SIGSTOP)  # it answers no more, so that the first signal alone takes its time
        for number in [signal.SIGINT, signal.SIGTERM]:  # two that cannot merge
            running.send_signal(number)
        assert running.wait(5) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        eventually(lambda: not children_of(tmp_path))
    finally:
        for left in children_of(tmp_path):
            os.kill(int(left), signal.SIGKILL)


def test_reports_that_cannot_be_compared(generator, tmp_path):
    old, new, junk = tmp_path / "old-1.json", tmp_path / "new-1.json", tmp_path / "junk.json"
    old.write_text('{"schema_version": 1}')
    new.write_text('{"schema_version": 3}')
    junk.write_bytes(os.urandom(1000))
    for arguments, words in [
            ([old, new], "it has schema version 1"), ([new, junk], "no report of holdfast-load"),
            ([new, tmp_path / "missing.json"], "there is no such file"), ([new], "all reports are of one variant, new"),
            ([], "name reports or servers"), ([new, "--server", "x {port}"], "not both"),
            ([new, new, "--json", "/nowhere/c.json"], "cannot write /nowhere/c.json"),
            (["--server", "x {port}"], "give two or more"),
            (["--server", "x {port}", "--server", "y {port}", "--repeat", "0"], "--repeat must be 1 to 1000")]:
        done = compare(generator, *arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert words in done.stderr and is_one_line(done.stderr), done.stderr


def test_reports_of_two_variants(generator, tmp_path):
    def report(second, rate):
        return json.dumps({"schema_version": 3, "started_at": f"2026-01-01T00:00:{second:02}Z", "verdict": {"result": "good"},
                           "requests_per_second": rate, "configuration": {"loop": "closed", "seed": 1}})
    for number in range(5):
        (tmp_path / f"old-{number}.json").write_text(report(number * 2, 1000 + number * 100))
        (tmp_path / f"new-{number}.json").write_text(report(number * 2 + 1, (1000 + number * 100) * (1.2 + number / 500)))
    done = compare(generator, *sorted(tmp_path.glob("old-*.json")), *sorted(tmp_path.glob("new-*.json")))
    assert done.returncode == 0, done.stderr
    assert "5 runs each, in turn" in done.stdout
    assert "1.204× (1.199–1.209) better" in done.stdout or "1.204× (1.20" in done.stdout, done.stdout


def test_a_full_disk_loses_no_comparison(generator, tmp_path):
    test_reports_of_two_variants(generator, tmp_path)
    done = compare(generator, *tmp_path.glob("*.json"), "--html", "/dev/full", "--json", tmp_path / "all.json")
    assert done.returncode == 2 and "cannot write /dev/full: No space left on device" in done.stderr
    assert "requests per second" in done.stdout and json.loads((tmp_path / "all.json").read_text())


def test_a_full_disk_hides_no_violation(generator, tmp_path):
    for name, result in [("old", "good"), ("new", "violated")]:
        (tmp_path / f"{name}-1.json").write_text(json.dumps({
            "schema_version": 3, "started_at": "2026-01-01T00:00:00Z", "verdict": {"result": result}, "requests_per_second": 1000,
            "configuration": {"loop": "closed", "seed": 1}}))
    done = compare(generator, tmp_path / "old-1.json", tmp_path / "new-1.json", "--html", "/dev/full")
    assert "cannot write /dev/full" in done.stderr and "new loses" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
