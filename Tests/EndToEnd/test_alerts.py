"""Prometheus' rules in deploy/: they can be read, fire when they should and only then, and ask for what there is."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "deploy/prometheus/holdfast-ha.rules.yml"
# Each by its name, with its severity.
ALERTS = dict(re.findall(r"- alert: (\w+)\n(?:.*\n)+? +labels: {severity: (\w+)}", RULES.read_text()))
PROMTOOL = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing; run `make bootstrap-dev`")

OWNER, STANDBY = '{job="shop", instance="a"}', '{job="shop", instance="b"}'
# Of an owner and its standby, every 15 s for 30 minutes, as they are on a good day; each case changes some.
GOOD = {
    "holdfast_engine_owner" + OWNER: "1x120", "holdfast_engine_owner" + STANDBY: "0x120",
    "holdfast_engine_epoch" + OWNER: "7x120", "holdfast_engine_epoch" + STANDBY: "7x120",
    "holdfast_engine_lease_seconds" + OWNER: "1.7x120", "holdfast_engine_lease_seconds" + STANDBY: "0x120",
    'holdfast_engine_append_seconds_bucket{job="shop", instance="a", le="0.005"}': "0+100x120",
    'holdfast_engine_append_seconds_bucket{job="shop", instance="a", le="0.5"}': "0+100x120",
    'holdfast_engine_append_seconds_bucket{job="shop", instance="a", le="+Inf"}': "0+100x120",
    "holdfast_engine_doubts_total" + OWNER: "2x120",
    "holdfast_standby_lag_seconds" + OWNER: "0x120", "holdfast_standby_lag_seconds" + STANDBY: "0.05x120",
    "holdfast_engine_standbys" + OWNER: "1x120", "holdfast_engine_standbys" + STANDBY: "0x120",
    "holdfast_engine_checkpoint_failures_total" + OWNER: "1x120",
    "holdfast_engine_log_bytes" + OWNER: "900000000x120",
    "holdfast_standby_copies_made_anew_total" + STANDBY: "0x120",
    'holdfast_projection_lag_seconds{job="projection", instance="p"}': "1x120",
}
# The alert, what is otherwise from the tenth minute on, and who is named.
CASES = {
    "HoldfastNoOwner": ({"holdfast_engine_owner" + OWNER: "1x40 0x80"}, {"job": "shop"}),
    "HoldfastTwoOwners": ({"holdfast_engine_owner" + STANDBY: "0x40 1x80", "holdfast_engine_standbys" + STANDBY: "1x120",
                           "holdfast_engine_lease_seconds" + STANDBY: "1.7x120"}, {"job": "shop"}),
    "HoldfastLeaseShort": ({"holdfast_engine_lease_seconds" + OWNER: "1.7x40 0.1x80"}, {"instance": "a"}),
    "HoldfastAppendSlow": (
        {'holdfast_engine_append_seconds_bucket{job="shop", instance="a", le="0.005"}': "0+95x120"}, {"instance": "a"}),
    "HoldfastDoubts": ({"holdfast_engine_doubts_total" + OWNER: "2x40 3+1x80"}, {"instance": "a"}),
    "HoldfastStandbyBehind": ({"holdfast_standby_lag_seconds" + STANDBY: "0.05x40 0+15x80"}, {"instance": "b"}),
    "HoldfastNoStandby": ({"holdfast_engine_standbys" + OWNER: "1x40 0x80"}, {"instance": "a"}),
    "HoldfastCheckpointNotCarried": (
        {"holdfast_engine_checkpoint_failures_total" + OWNER: "1x40 2+1x80"}, {"instance": "a"}),
    "HoldfastEngineLogLong": ({"holdfast_engine_log_bytes" + OWNER: "900000000x40 6000000000x80"}, {"instance": "a"}),
    "HoldfastCopyMadeAnew": ({"holdfast_standby_copies_made_anew_total" + STANDBY: "0x40 1x80"}, {"instance": "b"}),
    "HoldfastTakenOver": (
        {"holdfast_engine_epoch" + OWNER: "7x100 8 9 10x18", "holdfast_engine_epoch" + STANDBY: "7x120"}, {"instance": "a"}),
    "HoldfastProjectionBehind": (
        {'holdfast_projection_lag_seconds{job="projection", instance="p"}': "1x40 0+15x80"}, {"instance": "p"}),
}


def named(alert, page):
    """Whose alert it is, as promtool wants it: by the labels of the series that its rule leaves."""
    labels = {"severity": ALERTS[alert], **page}
    return {**labels, "job": labels.get("job", "projection" if page.get("instance") == "p" else "shop")}


def fired(alert, series, expected, folder):
    """What promtool finds wrong with it: "" where just this one fires at 28 minutes, for `expected` or for nobody."""
    text = RULES.read_text()
    # What an alert says is for people. The test is JSON, which is YAML.
    (folder / "rules.yml").write_text(re.sub(r"^ +annotations:\n(?: {10}.*\n)+", "", text, flags=re.MULTILINE))
    (folder / "test.yml").write_text(json.dumps({
        "rule_files": ["rules.yml"], "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": [{"series": name, "values": values} for name, values in series.items()],
                   "alert_rule_test": [{"eval_time": "28m", "alertname": name,
                                        "exp_alerts": [{"exp_labels": expected}] if name == alert and expected else []}
                                       for name in ALERTS]}]}))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@PROMTOOL
def test_the_rules_can_be_read():
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
def test_nothing_fires_on_a_good_day(tmp_path):
    assert fired("", GOOD, {}, tmp_path) == ""


@PROMTOOL
@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_for_what_it_is_for_and_no_other(alert, tmp_path):
    changed, page = CASES[alert]
    assert changed.keys() <= GOOD.keys()
    assert fired(alert, {**GOOD, **changed}, named(alert, page), tmp_path) == ""
    assert fired(alert, GOOD, named(alert, page), tmp_path) != ""


def test_the_page_on_high_availability_names_every_alert():
    text = (REPOSITORY / "docs/HIGH-AVAILABILITY.md").read_text()
    assert [name for name in ALERTS if f"`{name}`" not in text] == []
