"""The metrics page: both formats can be read, every metric is documented and each document tells of what there is."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import engines
import prometheus
from client import Client, fresh, line
from holdfast.v1 import reservation_pb2
from metric_pages import ACCEPT, collect, fetch
from server import eventually
from test_lifecycle import metric

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/METRICS.md").read_text()
# | `name` | type | unit | labels | meaning |
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| ([^|]*)\| (.*) \|$", PAGE, re.MULTILINE)}
RULES = [prometheus.RULES, prometheus.HA_RULES, prometheus.EVENTS_RULES]
DASHBOARD = json.loads((REPOSITORY / "deploy/grafana/holdfast.json").read_text())
PROMTOOL = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing; run `make bootstrap-dev`")
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACE_PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def some_calls(server):
    with Client(server.target) as client:
        client.reserve(line(client.item(10)))


@pytest.fixture(scope="module")
def pages(binary, pair):
    return collect(binary, pair, some_calls)


def families(pages, format):
    """{mode: what the parser makes of its page}."""
    parse = parse_openmetrics if format == "openmetrics" else parse_text
    return {mode: list(parse(page[format == "openmetrics"])) for mode, page in pages.items()}


def samples(families):
    return {(sample.name, *sorted(labels(sample).items())) for family in families for sample in family.samples}


def labels(sample):
    """Whole bounds are written 1 here and 1.0 there."""
    return {name: str(float(value)) if name in ("le", "quantile") else value for name, value in sample.labels.items()}


def test_both_formats_have_the_same_series(pages):
    text, openmetrics = families(pages, "text"), families(pages, "openmetrics")
    for mode in pages:
        # Codes and methods are all there from the beginning, so neither can be ahead of the other.
        assert samples(text[mode]) == samples(openmetrics[mode]), mode
        assert len(samples(text[mode])) > 15, mode
        assert pages[mode][1].endswith("\n# EOF\n") and "# EOF" not in pages[mode][0]


def test_openmetrics_says_types_and_units(pages):
    for mode, found in families(pages, "openmetrics").items():
        for family in found:
            assert family.type in ("counter", "gauge", "histogram", "summary"), (mode, family.name)
            assert family.documentation, (mode, family.name)
            if family.name.endswith(("_seconds", "_bytes")):
                assert family.name.endswith(f"_{family.unit}"), (mode, family.name)
            for sample in family.samples:
                assert family.type != "counter" or sample.name == f"{family.name}_total", sample


@PROMTOOL
def test_promtool_has_nothing_to_say(pages):
    for mode, (text, _) in pages.items():
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        # A maximum is a maximum, and no count that lacks its _total; promtool is content otherwise.
        assert done.returncode == 0, f"{mode}: {done.stdout}{done.stderr}"


def test_every_metric_is_documented_as_it_is(pages):
    """Name, type, labels and meaning of each row are those of the page."""
    exposed = {}
    for text, _ in pages.values():
        for name, meaning in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
            kind = re.search(rf"^# TYPE {name} (\w+)$", text, re.MULTILINE)[1]
            lists = re.findall(rf"^{name}(?:_bucket|_sum|_count)?{{(.*)}} ", text, re.MULTILINE)
            found = {label for each in lists for label in re.findall(r'(\w+)="', each)} - {"le", "quantile"}
            _, _, known = exposed.setdefault(name, (kind, meaning.replace("\\\\", "\\"), set()))
            known |= found
    documented = {name: (kind, meaning, set(re.findall(r"`(\w+)`", labels)))
                  for name, (kind, _, labels, meaning) in ROWS.items()}
    if not engines.is_installed():
        documented = {name: row for name, row in documented.items()
                      if not re.match("holdfast_(engine|standby|forwarded|projection)_", name)}
    assert documented == exposed


@pytest.mark.parametrize("name", ROWS)
def test_its_unit_is_that_of_its_name(name):
    unit, base = ROWS[name][1], re.sub("_(total|max)$", "", name)
    assert (unit == "seconds") == base.endswith("_seconds") and (unit == "bytes") == base.endswith("_bytes")


@pytest.mark.parametrize("accept, is_openmetrics", [
    (None, False), ("*/*", False), (ACCEPT, True), ("text/plain", False),
    ("application/openmetrics-text; version=1.0.0", True),
    ("application/openmetrics-text;q=0.1, text/plain;q=0.9", False)])
def test_a_scraper_gets_what_it_asks_for(server, accept, is_openmetrics):
    kind, text = fetch(server.admin, accept)
    assert kind == ("application/openmetrics-text; version=1.0.0; charset=utf-8" if is_openmetrics
                    else "text/plain; version=0.0.4; charset=utf-8")
    assert text.endswith("# EOF\n") == is_openmetrics


def test_the_process_is_as_the_kernel_says(server):
    pid = server.pid
    status = dict(re.findall(r"^(\w+):\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    assert metric(server, "process_threads") == int(status["Threads"])
    assert 0.5 < metric(server, "process_resident_memory_bytes") / (int(status["VmRSS"]) * 1024) < 2
    assert 0.9 < metric(server, "process_virtual_memory_bytes") / (int(status["VmSize"]) * 1024) < 1.1
    descriptors = len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    assert abs(metric(server, "process_open_fds") - descriptors) <= 3
    assert metric(server, "process_max_fds") >= 1024
    disk = shutil.disk_usage(server.data)
    assert metric(server, "holdfast_disk_total_bytes") == disk.total
    assert 0 < metric(server, "holdfast_disk_free_bytes") <= disk.total


def test_limits_are_those_of_the_flags(start):
    server = start("--max-items", "77", "--max-reservations", "640", "--max-limits", "55", "--max-connections", "33",
                   "--retention", "1h", "--durability", "memory", "--history", str(1 << 20))
    names = {"holdfast_items_max": 77, "holdfast_recorded_decisions_max": 640, "holdfast_limits_max": 55,
             "holdfast_connections_max": 33, "holdfast_retention_seconds": 3600, "holdfast_history_bytes": 1 << 20}
    assert {name: metric(server, name) for name in names} == names


def reserve(client, sku, trace_parent=None, **options):
    metadata = [("holdfast-caller", "checkout")] + ([("traceparent", trace_parent)] if trace_parent else [])
    return client.reservations.Reserve(
        reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]), metadata=metadata, timeout=20,
        **options)


def exemplars(server):
    return {sample.exemplar.labels["trace_id"]: sample for family in parse_openmetrics(fetch(server.admin, ACCEPT)[1])
            for sample in family.samples if sample.exemplar}


def test_exemplars_are_the_traces_of_sampled_calls(start):
    server = start("--loops", "1")
    with Client(server.target) as client:
        sku = client.item(100)
        # None; not sampled; none that is one.
        for trace_parent in (None, TRACE_PARENT[:-1] + "0", "00-" + "0" * 32 + TRACE_PARENT[35:], "nonsense"):
            reserve(client, sku, trace_parent)
        assert exemplars(server) == {}
        reserve(client, sku, TRACE_PARENT)
        # A call is counted once it is answered.
        found = eventually(lambda: exemplars(server))
        assert set(found) == {TRACE}
        sample = found[TRACE]
        assert sample.name == "grpc_server_handling_seconds_bucket" and sample.labels["grpc_method"] == "Reserve"
        assert 0 < sample.exemplar.value <= float(sample.labels["le"])
        started = metric(server, "process_start_time_seconds")
        assert started - 1 < float(sample.exemplar.timestamp) < started + 3600


@pytest.mark.skipif(not prometheus.is_installed(), reason="Prometheus is missing (Debian: prometheus)")
def test_prometheus_reads_page_and_exemplars(start):
    server = start()
    with prometheus.Prometheus() as running, Client(server.target) as client:
        sku = client.item(100)
        reserve(client, sku, TRACE_PARENT)
        running.add("shop", server.admin_port)
        eventually(lambda: running.value('up{job="shop"}') == 1, 20)
        assert running.value('holdfast_reservations_total{job="shop", outcome="held"}') == 1
        # The first scrape may have been before the call was counted.
        found = eventually(lambda: running.get(
            "query_exemplars", query='grpc_server_handling_seconds_bucket{job="shop"}', start="0", end="99999999999"), 20)
        assert {each["labels"]["trace_id"] for series in found for each in series["exemplars"]} == {TRACE}


# What is told of metrics elsewhere.


def exposed(pages):
    """The names of all series, and of the families with buckets their parts."""
    return {sample.name for found in families(pages, "text").values() for family in found for sample in family.samples}


def recorded():
    return {name for rules in RULES for name in re.findall(r"- record: (\S+)", rules.read_text())}


def expressions():
    """Every query that the rules, the dashboard and the page have, with where it is."""
    for file in RULES:
        yield from ((file.name, " ".join(text.split())) for text in
                    re.findall(r"^ +expr: (?:>-\n)?((?:.*\n)(?: {10}.*\n)*)", file.read_text(), re.MULTILINE))
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))
    for note in DASHBOARD["annotations"]["list"]:
        yield note["name"], note["expr"]
    usage = PAGE.split("## Usage and limit")[1].split("\n## ")[0]
    yield from (("docs/METRICS.md", text) for text in re.findall(r"\| `(.*)` \|$", usage, re.MULTILINE))


def test_every_query_asks_for_what_servers_show(pages):
    if not engines.is_installed():
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    known = exposed(pages) | recorded() | {"up"}
    missing = {(place, name) for place, text in expressions() for name in prometheus.names_in(text) - known}
    assert missing == set()
    assert len(list(expressions())) > 120


@PROMTOOL
def test_every_query_can_be_read(tmp_path):
    """As a rule of its own, with Grafana's variables filled in."""
    def filled(text):
        return text.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")

    rules = [{"record": f"query:{number}", "expr": filled(text)} for number, (_, text) in enumerate(expressions())]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one():
    """What Grafana asks of a dashboard that is imported; panels lie side by side and none on another."""
    assert DASHBOARD["uid"] and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36 and "id" not in DASHBOARD
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat") and panel["title"] and panel["targets"], panel
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            # Nobody's data source is called as mine is, and nobody's jobs.
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            assert "$job" in target["expr"] and "$instance" in target["expr"], target["expr"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert [row.split()[0] for row in rows] == ["Overview", "Calls", "Latency", "Refusals", "Journal", "Watchers", "Replication", "Brokers",
                                                "Orders", "Process", "Limits"]
    assert any(target.get("exemplar") for panel in panels for target in panel.get("targets", []))


@PROMTOOL
def test_the_configuration_of_the_page_can_be_read(tmp_path):
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(block.replace("deploy/prometheus", str(REPOSITORY / "deploy/prometheus")))
    done = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0 and "rules found" in done.stdout, done.stdout + done.stderr


@PROMTOOL
def test_the_commands_of_the_page(server, start):
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    script = blocks[0].replace("127.0.0.1:7421", server.admin)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "# EOF" in done.stdout and "SUCCESS" in done.stdout, done.stderr
    words = blocks[1].split()
    assert words[:2] == ["holdfast", "serve"]
    start(*words[2:])


def test_every_alert_has_its_section():
    """Each says what to do in the page that it names, and each section is of an alert."""
    runbook = (REPOSITORY / "docs/RUNBOOK.md").read_text()
    sections = re.findall(r"^## (\w+)\n\n\*\*Means\.\*\* .+\n\n\*\*Look\.\*\* .+\n\n\*\*Do\.\*\* .+\n", runbook, re.MULTILINE)
    alerts = re.findall(r"- alert: (\w+)", prometheus.RULES.read_text() + prometheus.EVENTS_RULES.read_text())
    assert sorted(sections) == sorted(alerts) and len(set(alerts)) == len(alerts)
    for file in RULES:
        for block in file.read_text().split("- alert: ")[1:]:
            name = block.split()[0]
            page, _, section = re.search(r"runbook_url: (\S+)", block)[1].partition("#")
            heading = "Alerts" if file == prometheus.HA_RULES else name
            assert section == heading.lower() and f"## {heading}\n" in (REPOSITORY / page).read_text(), name
            assert re.search(r"summary: .+", block) and re.search(r"description: .+", block), name
            # That page names it too, so that a search finds it.
            assert name in (REPOSITORY / page).read_text()


def test_what_the_runbook_names_is_there(pages):
    if not engines.is_installed():
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    text = (REPOSITORY / "docs/RUNBOOK.md").read_text() + PAGE.split("## Every metric")[0]
    told = {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\b(?:holdfast|process|grpc_server)_\w+", code)}
    assert told - exposed(pages) - set(ROWS) == set() and len(told) > 15
