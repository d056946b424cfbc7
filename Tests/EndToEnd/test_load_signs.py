"""What a run tells other programs: JUnit XML for CI, OpenMetrics while it lasts, and that it ended by a condition."""

import json
import pathlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from xml.etree import ElementTree

import pytest
import xmlschema
from prometheus_client.openmetrics import parser

from server import Server

SCHEMA = pathlib.Path(__file__).with_name("fixtures") / "junit.xsd"


@pytest.fixture(scope="module")
def server(binary):
    with Server(binary, "--durability", "memory") as running:
        yield running


@pytest.fixture(scope="module")
def schema():
    return xmlschema.XMLSchema(str(SCHEMA))


def load(generator, command, *flags):
    return subprocess.run([generator, command, *map(str, flags)], capture_output=True, text=True, timeout=300)


def cases(schema, path):
    """The test cases of a file that the schema allows, by name: what became of each."""
    schema.validate(str(path))
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        found[case.get("name")] = case[0].tag if len(case) else "passed"
    return found


def test_a_run_its_history_and_an_audit(generator, server, schema, tmp_path):
    history, report = tmp_path / "<history> & more", tmp_path / "run.xml"
    done = load(generator, "run", "--target", server.target, "--operations", 300, "--junit", report, "--history", history,
                "--require", "p99<1000s", "--require", "rate>1000000000/s", "--label", "a \"label\" <b> & c")
    assert done.returncode == 3, done.stdout + done.stderr
    found = cases(schema, report)
    assert found["p99<1000s"] == "passed" and found["rate>1000000000/s"] == "failure"
    assert found["nothing is oversold"] == "passed"
    assert found["the change feed says what was decided"] == "skipped"
    assert found["the run went to its end"] == "passed"
    checked = tmp_path / "check.xml"
    assert load(generator, "check", history, "--junit", checked).returncode == 0
    assert cases(schema, checked)["nothing is oversold"] == "passed"
    audited = tmp_path / "audit.xml"
    assert load(generator, "audit", history, "--target", server.target, "--junit", audited).returncode == 0
    assert cases(schema, audited)["every acknowledged decision still stands"] == "passed"


def test_a_search_and_a_comparison(generator, server, schema, tmp_path):
    found = tmp_path / "knee.xml"
    done = load(generator, "find-knee", "--target", server.target, "--require", "p99<1ns", "--from", 100,
                "--step-seconds", 0.3, "--warm-up", 0, "--junit", found)
    assert done.returncode == 2, done.stdout + done.stderr
    steps = cases(schema, found)
    assert steps.pop("there is a highest rate that keeps p99<1ns") == "error"
    assert steps and set(steps.values()) == {"passed"}
    reports = []
    for name in ("a", "b"):
        reports.append(tmp_path / f"{name}.json")
        assert load(generator, "run", "--target", server.target, "--operations", 100, "--json", reports[-1]).returncode == 0
    compared = tmp_path / "compare.xml"
    assert load(generator, "compare", *reports, "--junit", compared).returncode == 0
    assert set(cases(schema, compared).values()) == {"passed"}


def test_a_condition_ends_a_run(generator, server, schema, tmp_path):
    report, junit = tmp_path / "report.json", tmp_path / "report.xml"
    done = load(generator, "run", "--target", server.target, "--rate", 50, "--duration", 60, "--warm-up", 0,
                "--abort-if", "errors > 50% for 2s", "--abort-if", "rate<1000/s for 2s", "--json", report, "--junit", junit)
    assert done.returncode == 4, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["is_partial"] and told["abort"]["expression"] == "rate<1000/s for 2s"
    assert told["verdict"]["result"] == "good" and told["measured_seconds"] < 40
    assert "--abort-if 'rate<1000/s for 2s' was so" in done.stdout
    assert cases(schema, junit)["the run went to its end"] == "failure"


@pytest.mark.parametrize("condition, words", [
    ("conflicts>1%", "what is looked at during a run"), ("p99>1ms for ever", "behind 'for'"), ("", "has none of")])
def test_conditions_that_are_none(generator, server, condition, words):
    done = load(generator, "run", "--target", server.target, "--operations", 1, "--abort-if", condition)
    assert done.returncode == 2 and words in done.stderr and "--abort-if" in done.stderr, done.stderr


def fetch(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.headers["content-type"], response.read().decode()


def test_metrics_while_it_lasts(generator, server):
    process = subprocess.Popen(
        [generator, "run", "--target", server.target, "--rate", "200", "--duration", "30", "--warm-up", "0",
         "--metrics-port", "0", "--label", 'a "label"\\'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", process.stderr.readline())[1])
        while True:
            kind, page = fetch(port)
            if 'le="+Inf"' in page and process.poll() is None:
                break
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        families = {family.name: family for family in parser.text_string_to_metric_families(page)}
        assert families["holdfast_load_calls"].type == "counter"
        latency = families["holdfast_load_latency_seconds"]
        assert latency.type == "histogram" and latency.unit == "seconds"
        counts = [sample.value for sample in latency.samples
                  if sample.name.endswith("_bucket") and sample.labels["method"] == "Reserve"]
        assert counts == sorted(counts) and counts[-1] > 0
        (run,) = families["holdfast_load_run_info"].samples
        assert run.labels["label"] == 'a "label"\\' and run.labels["loop"] == "open"
        (phase,) = [sample.labels["phase"] for sample in families["holdfast_load_phase"].samples
                    if sample.value == 1]
        assert phase == "measuring"
        if shutil.which("promtool"):
            # It reads the older format, in which the last line is a comment, and so are the units.
            checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True,
                                     timeout=60)
            assert "error while linting" not in checked.stderr, checked.stderr
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(port, "/other")
    finally:
        process.terminate()
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, out + errors


def test_a_port_that_is_taken(generator, server):
    done = load(generator, "run", "--target", server.target, "--operations", 1, "--metrics-port", server.admin_port)
    assert done.returncode == 2 and "--metrics-port" in done.stderr, done.stderr
