"""Every JSON that the load generator writes is as its schema in LoadTest/ says, and has no field that is not in it."""

import copy
import json
import pathlib
import subprocess

import jsonschema
import pytest
import referencing

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "LoadTest"


def closed(schema):
    """The schema with every object that lists its fields closed to others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema["additionalProperties"] = False
    return schema


@pytest.fixture(scope="module")
def validate():
    schemas = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.schema.json")}
    assert len(schemas) == 5
    for name, schema in schemas.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$id"] == name
    registry = referencing.Registry().with_resources(
        (name, referencing.Resource.from_contents(closed(schema))) for name, schema in schemas.items())

    def check(kind, document):
        name = f"{kind}.schema.json"
        jsonschema.Draft202012Validator(closed(copy.deepcopy(schemas[name])), registry=registry).validate(document)
        return document

    return check


def run(generator, *arguments):
    return subprocess.run([generator, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def strings_that_are_numbers(value, path=""):
    """Paths of texts that should have been numbers."""
    if isinstance(value, dict):
        return [found for name, part in value.items() for found in strings_that_are_numbers(part, f"{path}.{name}")]
    if isinstance(value, list):
        return [found for part in value for found in strings_that_are_numbers(part, path + "[]")]
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return []
        # Names that may happen to be all digits, and the rate as --rate takes it.
        return [] if path.rsplit(".", 1)[-1] in ("run", "key", "rate") else [path]
    return []


def test_run_check_and_audit(generator, start, validate, tmp_path):
    server = start("--durability", "memory")
    history, report = tmp_path / "run.history", tmp_path / "report.json"
    done = run(generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}",
               "--server-pid", server.pid, "--rate", 400, "--duration", 1, "--warm-up", 0.2, "--skus", 3,
               "--lines", "1-2", "--require", "p99<5s", "--json", report, "--history", history)
    assert done.returncode == 0, done.stdout + done.stderr
    told = validate("report", json.loads(report.read_text()))
    assert told["thresholds"][0]["is_passed"] and strings_that_are_numbers(told) == []

    done = run(generator, "check", history, history, "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stdout + done.stderr
    checked = validate("check", json.loads((tmp_path / "check.json").read_text()))
    assert len(checked["histories"]) == 2 and strings_that_are_numbers(checked) == []
    assert checked["histories"][0]["seed"] == told["configuration"]["seed"]

    done = run(generator, "audit", history, "--target", server.target, "--json", tmp_path / "audit.json")
    assert done.returncode == 0, done.stdout + done.stderr
    audited = validate("audit", json.loads((tmp_path / "audit.json").read_text()))
    [found] = audited["histories"]
    assert found["holds"] and found["audit"]["acknowledged"] > 0 and strings_that_are_numbers(audited) == []
    # Audited on a server that has never heard of it: what is wrong is as the schema says, too.
    other = start("--durability", "memory")
    done = run(generator, "audit", history, "--target", other.target, "--json", tmp_path / "audit.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert not validate("audit", json.loads((tmp_path / "audit.json").read_text()))["histories"][0]["holds"]


def test_a_check_that_finds_something(generator, start, validate, tmp_path):
    """Two loops that check, then write: an oversold SKU with all its calls."""
    history, report = tmp_path / "run.history", tmp_path / "report.json"
    for _ in range(5):  # a race: nearly every run shows it
        server = start("--loops", "2", "--concurrency", "unchecked-for-demonstration", "--durability", "memory")
        done = run(generator, "run", "--target", server.target, "--units", 500, "--operations", 20000,
                   "--history", history, "--json", report)
        if done.returncode == 1:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = validate("report", json.loads(report.read_text()))["verdict"]
    assert verdict["result"] == "violated" and verdict["oversold"]["units"] > 0
    assert verdict["oversold"]["sku"] in verdict["sentence"]
    done = run(generator, "check", history, "--json", tmp_path / "check.json")
    [found] = validate("check", json.loads((tmp_path / "check.json").read_text()))["histories"]
    worst = found["violations"][0]
    assert done.returncode == 1 and worst["kind"] == "oversold" and worst["calls"]
    assert worst["sku"] == found["verdict"]["oversold"]["sku"] == verdict["oversold"]["sku"]


def test_knee_and_comparison(generator, binary, start, validate, tmp_path):
    server = start("--durability", "memory")
    path = tmp_path / "knee.json"
    run(generator, "find-knee", "--target", server.target, "--require", "rate<300/s", "--from", 100,
        "--step-seconds", 0.3, "--warm-up", 0.1, "--resolution", 100, "--json", path)
    knee = validate("knee", json.loads(path.read_text()))
    assert knee["steps"] and strings_that_are_numbers(knee) == []

    path = tmp_path / "comparison.json"
    serve = f"'{binary}' serve --port {{port}} --admin-port {{admin}} --data-dir {{data}} --durability memory"
    done = run(generator, "compare", "--server", f"one={serve}", "--server", f"two={serve}", "--repeat", 2,
               "--duration", 0.3, "--warm-up", 0, "--folder", tmp_path, "--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    comparison = validate("comparison", json.loads(path.read_text()))
    assert strings_that_are_numbers(comparison) == []
    ratios = [figure["ratio"] for case in comparison["cases"] for measure in case["measures"]
              for figure in measure["figures"] if "ratio" in figure]
    assert ratios and all(ratio["method"] == "paired" for ratio in ratios)
