"""What a run writes: JSON that its schema describes, a page, a log for HdrHistogram's tools, and statuses."""

import html.parser
import json
import os
import pathlib
import pty
import signal
import subprocess

import jsonschema
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HIGHEST_NANOSECONDS = 3_600_000_000_000


@pytest.fixture(scope="module")
def schema():
    return json.loads((REPOSITORY / "LoadTest/report.schema.json").read_text())


def command(generator, server, *flags):
    return [generator, "run", "--target", server.target, "--admin", f"127.0.0.1:{server.admin_port}",
            "--server-pid", str(server.pid), "--seed", "1", *map(str, flags)]


def run(generator, server, *flags):
    return subprocess.run(command(generator, server, *flags), capture_output=True, text=True, timeout=120)


def said(done):
    """What it wrote to standard error, without how far it was: a busy machine makes a short run long enough to be told."""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if "requests/s" not in line)


class Balance(html.parser.HTMLParser):
    """Every element that is opened is closed, in its order, and none asks the network for something."""

    VOID = {"meta", "link", "input"}

    def __init__(self):
        super().__init__()
        self.open = []
        self.counts = {}

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attributes:
            assert name not in ("src", "xlink:href"), f"<{tag} {name}>"
            assert name != "href" or value == "data:,", f"<{tag} href={value}>"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> after {self.open[-3:]}"


def test_open_loop_in_all_forms(generator, server, schema, tmp_path):
    report, page, log = (tmp_path / name for name in ("report.json", "report.html", "report.hdr"))
    done = run(generator, server, "--rate", "1000", "--arrivals", "poisson", "--duration", "3", "--warm-up", "0.5",
               "--label", "<b>label</b>", "--json", report, "--html", page, "--hdr", log,
               "--require", "rate>=10", "--require", "errors<50%", "--fail-if", "conflicts>1000%")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept       rate>=10 (" in done.stdout
    assert said(done) == (
        "holdfast-load: --fail-if 'conflicts>1000%' will go: write --require 'conflicts<=1000%'\n")
    told = json.loads(report.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(told)
    assert told["verdict"]["result"] == "good" and len(told["thresholds"]) == 3
    assert told["thresholds"][2]["expression"] == "conflicts<=1000%"
    assert told["configuration"]["seed"] == 1 and told["configuration"]["workload"]["skus"] == 1
    assert told["label"] == "<b>label</b>"
    assert sum(interval["answered"] for interval in told["intervals"]) == sum(told["outcomes"].values())
    balance = Balance()
    balance.feed(page.read_text())
    assert balance.open == [] and balance.counts["figure"] >= 5 and "b" not in balance.counts
    tags = {histogram.get_tag() for histogram in histograms(log)}
    assert tags == {None, "warm-up"}


def histograms(path):
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NANOSECONDS, 3))
    found = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        found.append(histogram)
    return found


def test_the_log_has_the_latencies_of_the_report(generator, server, tmp_path):
    """Line by line: the log's histograms are those that the intervals of the report were told from."""
    report, log = tmp_path / "report.json", tmp_path / "report.hdr"
    done = run(generator, server, "--rate", "1000", "--duration", "2", "--warm-up", "0.5", "--json", report, "--hdr", log)
    assert done.returncode == 0, done.stdout + done.stderr
    intervals = json.loads(report.read_text())["intervals"]
    logged = histograms(log)
    assert len(logged) == len(intervals) > 4
    for histogram, interval in zip(logged, intervals):
        told = interval["latency_microseconds"]
        assert histogram.get_total_count() == told["count"] == interval["answered"]
        assert (histogram.get_tag() is None) == interval["is_measured"]
        for name, percentile in [("p50", 50), ("p90", 90), ("p99", 99), ("p999", 99.9), ("max", 100)]:
            # The two libraries round a rank differently: one call more or less is the same percentile.
            one_call = 100 / max(1, told["count"])
            low, high = (histogram.get_value_at_percentile(min(100, max(0, percentile + step)))
                         for step in (-one_call, one_call))
            assert low * 0.999 <= told[name] * 1000 <= high * 1.001, name


@pytest.mark.parametrize("flags, status, line", [
    (["--require", "p99<1ns"], 3, None),
    (["--fail-if", "p99>1ns"], 3, None),
    (["--require", "service.p99>=0s", "--require", "max<=1ns"], 3, None),
    (["--require", "p99<5"], 2, "--require: 'p99<5' is no threshold: a unit is missing"),
    (["--fail-if", "p99>5"], 2, "--fail-if: 'p99>5' is no threshold: a unit is missing"),
    (["--html", "/nowhere/report.html"], 2, "cannot write /nowhere/report.html: No such file or directory"),
    (["--hdr", "/nowhere/report.hdr"], 2, "cannot write /nowhere/report.hdr: No such file or directory"),
    (["--html", "-"], 2, "--html needs a file"),
    (["--json", "/tmp/a", "--html", "/tmp/a"], 2, "need a file each"),
])
def test_statuses(generator, server, flags, status, line):
    done = run(generator, server, "--operations", "200", *flags)
    assert done.returncode == status, done.stdout + done.stderr
    if line:
        assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1
        assert line in done.stderr
    else:
        assert "\nBROKEN " in done.stdout


@pytest.mark.parametrize("flag", ["--json", "--html", "--hdr"])
def test_a_full_disk_costs_one_report_and_no_other(generator, server, tmp_path, flag):
    files = {name: tmp_path / name[2:] for name in ("--json", "--html", "--hdr")}
    files[flag] = pathlib.Path("/dev/full")
    flags = [part for pair in files.items() for part in pair]
    done = run(generator, server, "--operations", "2000", *flags, "--require", "p99<1ns")
    assert done.returncode == 2
    assert said(done) == "holdfast-load: cannot write /dev/full: No space left on device\n"
    assert done.stdout.startswith("VERDICT: nothing oversold")
    for name, path in files.items():
        assert name == flag or path.stat().st_size > 0


def test_standard_output_may_be_full_too(generator, server, tmp_path):
    page = tmp_path / "page.html"
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(generator, server, "--operations", "200", "--html", page),
                              stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert said(done) == "holdfast-load: cannot write standard output: No space left on device\n"
    assert page.stat().st_size > 0


def test_json_on_standard_output_leaves_the_text_to_the_other(generator, server):
    done = run(generator, server, "--operations", "200", "--json", "-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema_version"] == 3
    assert said(done).startswith("VERDICT: ")


@pytest.mark.parametrize("flag", ["--json", "--html", "--hdr"])
def test_a_file_keeps_what_it_held_where_no_run_is_made(generator, tmp_path, flag):
    file = tmp_path / "file"
    file.write_text("an earlier report")
    done = subprocess.run([generator, "run", "--target", "127.0.0.1:1", flag, file],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and file.read_text() == "an earlier report"


NOWHERE = {
    "run": ["--json", "--html", "--hdr", "--history"],
    "compare": ["--json", "--html", "--text"],
}


@pytest.mark.parametrize("command_name, flag, flags", [
    *(("run", flag, ["--target", "127.0.0.1:1"]) for flag in NOWHERE["run"]),
    *(("run", flag, ["--target", "127.0.0.1:1", "--admin", "127.0.0.1:1"]) for flag in NOWHERE["run"]),
    *(("compare", flag, ["--server", "false {port}", "--server", "true {port}"]) for flag in NOWHERE["compare"]),
    ("compare", "--json", ["/nowhere/a.json", "/nowhere/b.json"]),
])
def test_no_file_is_left_where_no_run_is_made(generator, tmp_path, command_name, flag, flags):
    """Nor are those that were made before another could not be opened."""
    for others in ([], ["--html" if flag != "--html" else "--json", "/nowhere/folder/file"]):
        done = subprocess.run([generator, command_name, *flags, flag, tmp_path / "file", *others],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stdout + done.stderr
        assert list(tmp_path.iterdir()) == []


def test_the_version_is_told(generator, binary):
    done = subprocess.run([generator, "--version"], capture_output=True, text=True, timeout=60)
    servers = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == servers.stdout and done.stdout.strip().count(".") == 2


def test_an_interrupted_run_has_a_report_of_what_there_was(generator, server, tmp_path):
    files = {flag: tmp_path / flag[2:] for flag in ("--json", "--html", "--hdr")}
    process = subprocess.Popen(
        command(generator, server, "--rate", "300", "--duration", "60", *(part for pair in files.items() for part in pair)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "requests/s" in line:  # it is under way
            break
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, out + errors
    assert "PARTIAL" in out.splitlines()[0]
    told = json.loads(files["--json"].read_text())
    assert told["is_partial"] and told["intervals"]
    assert "the run ended before it was to</strong>" in files["--html"].read_text()
    assert len(histograms(files["--hdr"])) == len(told["intervals"])


@pytest.mark.parametrize("environment, has_colours", [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_has_lines_that_are_redrawn(generator, server, environment, has_colours):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(generator, server, "--rate", "300", "--duration", "2", "--warm-up", "0"), stdin=subprocess.DEVNULL,
        stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "90", **environment})
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says so where the other side is closed.
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "running" in text and "A\r\x1b[0J" in text
    # What was drawn last was taken away before the report.
    assert text.rindex("\x1b[0J") < text.index("VERDICT") and "running" not in text[text.index("VERDICT"):]
    assert ("\x1b[1;32mVERDICT" in text) == has_colours


def test_elsewhere_nothing_is_redrawn(generator, server):
    done = subprocess.run(command(generator, server, "--duration", "6", "--warm-up", "0", "--rate", "100"),
                          capture_output=True, text=True, timeout=60, env={**os.environ, "TERM": "xterm"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2 and "requests/s" in done.stderr
