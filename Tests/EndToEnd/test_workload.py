"""What the load generator is asked to do: scenarios, files and flags say the same; find-knee finds a knee."""

import json
import pathlib
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WORKLOADS = sorted((REPOSITORY / "LoadTest/workloads").glob("*.json"))

# A value of each field that no scenario has.
OTHER_VALUES = {
    "api": "stream", "batch": "76", "skus": "77", "units": "78", "hot_units": "79", "distribution": "hot:3:0.25", "hot_share": "0.01",
    "lines": "7-8", "quantity": "9", "warehouses": "1", "partial_share": "0", "max_units": "7", "subjects": "70", "ttl_seconds": "77-78", "due_together_seconds": "79",
    "confirm_share": "0.11", "release_share": "0.12", "extend_share": "0.13",
    "overcommit": "0", "keep_committed": "true", "ship_share": "0.4", "uncommit_share": "0.3",
    "ship_time_seconds": "0.004", "count_share": "0.05", "count_missing": "1-2", "replace_share": "0.135", "change_time_seconds": "0.003", "pay_time_seconds": "0.001-0.002", "think_time_seconds": "3", "duplicate_share": "0.14",
    "copies": "6", "cut_share": "0.15", "close_share": "0.16", "retries_unknown": "true",
    "read_share": "0.17", "restock_share": "0.18", "restock_units": "19",
}


def run(generator, *arguments, **options):
    return subprocess.run(
        [generator, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def workload(generator, *flags, **options):
    result = run(generator, "run", "--print-workload", *flags, **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def flag(key):
    return "--" + key.removesuffix("_seconds").replace("_", "-")


def text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_field_has_a_flag_and_a_key(generator):
    flags = [part for key, value in OTHER_VALUES.items() for part in (flag(key), value)]
    by_flag = workload(generator, *flags)
    assert {key: text(value) for key, value in by_flag.items()} == {"scenario": "custom"} | OTHER_VALUES
    by_file = workload(generator, "--workload", "-", input=json.dumps(OTHER_VALUES))
    assert by_file == by_flag
    assert workload(generator, "--workload", "-", input=json.dumps(by_flag)) == by_flag
    help_text = run(generator, "run", "--help").stdout
    assert all(f"{flag(key)} <" in help_text for key in OTHER_VALUES)


def test_flags_come_before_the_file_and_the_file_before_the_scenario(generator):
    file = '{"scenario": "carts", "skus": 5, "lines": "2-3"}'
    got = workload(generator, "--workload", "-", "--skus", 6, input=file)
    assert (got["scenario"], got["skus"], got["lines"], got["distribution"]) == ("carts", 6, "2-3", "zipf:0.99")
    clash = run(generator, "run", "--scenario", "mixed", "--workload", "-", input=file)
    assert clash.returncode == 2
    assert clash.stderr == "holdfast-load: --scenario mixed, but the file's is carts\n"


def test_scenarios_are_listed(generator):
    listed = [line for line in run(generator, "scenarios").stdout.splitlines() if not line.startswith(" ")]
    assert len(listed) == 14
    for name in listed:
        assert workload(generator, "--scenario", name)["scenario"] == name
    assert workload(generator, "--scenario", "flash-sale", "--operations", 50_000)["units"] == 500


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda path: path.stem)
def test_files_of_the_repository(generator, path):
    written = json.loads(path.read_text())
    got = workload(generator, "--workload", path)
    for key in ("skus", "units", "distribution"):
        assert got[key] == written[key]


@pytest.mark.parametrize("flags, line", [
    (["--scenario", "nope"], "there is no scenario 'nope'; there are flash-sale, tickets, carts"),
    (["--quantity", "x"], "--quantity must be N or A-B, within 1 to 1000000, not 'x'"),
    (["--confirm-share", "0.9"], "--confirm-share and --release-share"),
    (["--rate", "5x"], "The value '5x' is invalid for '--rate <rate>': it is 5000, or steps and ramps"),
    (["--rate", "5/5s", "--duration", "3"], "--duration goes without the lengths of --rate"),
    (["--rate", "5", "--operations", "3"], "--rate goes with --duration, not --operations"),
    (["--duration", "5", "--operations", "3"], "--duration or --operations, not both"),
    (["--arrivals", "poisson"], "--arrivals goes with --rate"),
    (["--threads", "9"], "--threads must be 1 to 64, and no more than --connections"),
    (["--workload", "/nowhere"], "cannot read the workload /nowhere: No such file or directory"),
    (["--no-verify", "--history", "h"], "--history goes without --no-verify"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_flags_are_one_clear_line(generator, flags, line):
    # The flags are wrong whoever is there: nobody listens on the port that is discarded.
    result = run(generator, "run", "--target", "127.0.0.1:9", *flags)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"holdfast-load: {line}")
    assert result.stderr.count("\n") == 1


def test_a_knee_is_found(generator, start, tmp_path):
    server = start("--durability", "memory")
    path = tmp_path / "knee.json"
    # The rate itself is the limit: where it breaks is known, unless this machine is too busy to get there.
    result = run(
        generator, "find-knee", "--target", server.target, "--require", "rate<1000/s", "--from", 300,
        "--step-seconds", 0.5, "--warm-up", 0.1, "--resolution", 25, "--arrivals", "constant",
        "--seed", 1, "--json", path)
    knee = json.loads(path.read_text())
    assert knee["requirements"] == ["rate<1000/s"]
    assert knee["conclusion"] in result.stdout
    assert all(step["verdict"]["sentence"].startswith("VERDICT: nothing oversold") for step in knee["steps"])
    if "generator was the limit" in knee["conclusion"]:
        assert result.returncode == 2 and not knee["is_found"]
        return
    assert result.returncode == 0, result.stdout
    assert knee["is_found"] and knee["rate_per_second"] < knee["broke_at_rate_per_second"]
    assert knee["rate_per_second"] < 1_100
    if "the schedule was not carried" not in knee["broke_because"]:
        assert knee["rate_per_second"] > 500 and "rate<1000/s broke" in knee["broke_because"]
    assert [step["is_kept"] for step in knee["steps"] if step["is_confirmation"]][-1]


def test_a_knee_that_cannot_be_searched(generator, start):
    nobody = run(generator, "find-knee", "--target", "127.0.0.1:9", "--limit", "p99<5ms")
    assert nobody.returncode == 2
    assert nobody.stderr == "holdfast-load: --limit 'p99<5ms' will go: write --require 'p99<5ms'\n"
    assert "the search ended early: " in nobody.stdout
    wrong = run(generator, "find-knee", "--require", "p99=5ms")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    unmeasured = run(
        generator, "find-knee", "--target", start().target, "--require", "conflicts<5%", "--from", 100,
        "--step-seconds", 0.2, "--warm-up", 0)
    assert unmeasured.returncode == 2
    assert "conflicts<5%: not measured" in unmeasured.stdout
