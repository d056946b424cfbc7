"""Prometheus' rules in deploy/: they can be read, fire when they should and only then, and ask for what there is."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HA_RULES = REPOSITORY / "deploy/prometheus/holdfast-ha.rules.yml"
RULES = REPOSITORY / "deploy/prometheus/holdfast.rules.yml"
EVENTS_RULES = REPOSITORY / "deploy/prometheus/holdfast-events.rules.yml"
# Of each file: the alerts by their names, with their severities.
ALERTS = {file: dict(re.findall(r"- alert: (\w+)\n(?:.*\n)+? +labels: {severity: (\w+)}", file.read_text()))
          for file in (HA_RULES, RULES, EVENTS_RULES)}
PROMTOOL = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing; run `make bootstrap-dev`")

OWNER, STANDBY = '{job="shop", instance="a"}', '{job="shop", instance="b"}'
# Of an owner and its standby, every 15 s for 30 minutes, as they are on a good day; each case changes some.
HA_GOOD = {
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
HA_CASES = {
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


ONE = 'job="shop", instance="a"'
CALLS = ONE + ', grpc_service="holdfast.v1.ReservationService", grpc_method="Reserve", grpc_type="unary"'


def of(name, more=""):
    return f"{name}{{{ONE}{more}}}"


# Of a server with 100 calls a second, likewise.
GOOD = {
    of("up"): "1x120", of("holdfast_build_info"): "1x120", of("process_start_time_seconds"): "1000x120",
    of("holdfast_invariant_violations_total"): "0x120",
    f'grpc_server_handled_total{{{CALLS}, grpc_code="OK"}}': "0+1500x120",
    f'grpc_server_handled_total{{{CALLS}, grpc_code="FailedPrecondition"}}': "0+500x120",
    f'grpc_server_handled_total{{{CALLS}, grpc_code="Unavailable"}}': "0x120",
    f'grpc_server_handled_total{{{CALLS}, grpc_code="Unauthenticated"}}': "0x120",
    f'grpc_server_handling_seconds_bucket{{{CALLS}, le="0.1"}}': "0+1500x120",
    f"grpc_server_handling_seconds_count{{{CALLS}}}": "0+1500x120",
    of("holdfast_conflicts_total", ', reason="locked"'): "0+1x120", of("holdfast_commit_attempts_count"): "0+1500x120",
    of("holdfast_too_busy_total"): "0x120", of("holdfast_idempotency_keys_reused_total"): "3x120",
    of("holdfast_journal_sync_seconds_bucket", ', le="0.005"'): "0+100x120",
    of("holdfast_journal_sync_seconds_bucket", ', le="0.5"'): "0+100x120",
    of("holdfast_journal_sync_seconds_bucket", ', le="+Inf"'): "0+100x120",
    of("holdfast_journal_stalled_seconds"): "0x120", of("holdfast_journal_accepting"): "1x120",
    of("holdfast_journal_lag_bytes"): "1000x120", of("holdfast_journal_lag_bytes_max"): "33554432x120",
    of("holdfast_disk_free_bytes", ', directory="data"'): "40000000000x120",
    of("holdfast_disk_total_bytes", ', directory="data"'): "100000000000x120", of("holdfast_disk_needed_bytes"): "200000000x120",
    of("holdfast_archive_failures_total"): "2x120", of("holdfast_archive_lost_segments_total"): "0x120",
    of("holdfast_retention_horizon_seconds"): "86400x120", of("holdfast_retention_seconds"): "86400x120",
    # Full, as it is when a server has run for long.
    of("holdfast_recorded_decisions"): "16777000x120", of("holdfast_recorded_decisions_max"): "16777216x120",
    of("holdfast_decisions_evicted_early_total"): "0x120", of("holdfast_clock_offset_seconds"): "0.01x120",
    of("holdfast_expiry_lag_seconds_total"): "0+0.1x120", of("holdfast_expired_holds_total"): "0+10x120",
    # Promtool's time begins at 0: 30 days.
    of("holdfast_tls_certificate_expiry_seconds"): "2592000x120",
    of("holdfast_items"): "1000x120", of("holdfast_removed_items"): "10x120", of("holdfast_items_max"): "16777216x120",
    of("holdfast_live_holds"): "1000x120", of("holdfast_limits"): "10x120", of("holdfast_limits_max"): "16777216x120",
    of("holdfast_connections"): "100x120", of("holdfast_connections_max"): "19680x120",
    of("holdfast_watches"): "10x120", of("holdfast_watches_max"): "1000x120",
    of("process_open_fds"): "140x120", of("process_max_fds"): "20000x120",
    of("holdfast_connections_refused_total", ', reason="limit"'): "7x120",
    of("holdfast_connections_refused_total", ', reason="shutdown"'): "0+1x120",
    of("holdfast_connection_abuse_total", ', kind="ping_flood"'): "0x120",
    of("holdfast_connection_abuse_total", ', kind="idle_timeout"'): "0+10x120",
    of("holdfast_watch_lag_bytes"): "1000x120", of("holdfast_history_bytes"): "67108864x120",
    of("holdfast_watches_ended_total", ', reason="too_old"'): "1x120",
    of("holdfast_watches_ended_total", ', reason="foreign"'): "0+1x120",
}
FAILED = f'grpc_server_handled_total{{{CALLS}, grpc_code="Unavailable"}}'
# What is of the job alone, or has a label more, says so.
CASES = {
    "HoldfastDown": ({of("up"): "1x40 0x80"}, {}),
    "HoldfastRestarts": ({of("process_start_time_seconds"): "1000x100 2000 3000 4000x18"}, {}),
    "HoldfastInvariantViolated": ({of("holdfast_invariant_violations_total"): "0x40 1x80"}, {}),
    "HoldfastErrorBudgetBurnsFast": ({FAILED: "0x40 0+150x80"}, {"instance": None}),
    "HoldfastErrorBudgetBurns": ({FAILED: "0+20x120"}, {"instance": None}),
    "HoldfastLatencyBudgetBurns": (
        {f'grpc_server_handling_seconds_bucket{{{CALLS}, le="0.1"}}': "0+1500x40 61000+1000x80"}, {"instance": None}),
    "HoldfastRetrySpike": ({of("holdfast_conflicts_total", ', reason="locked"'): "0+1x90 90+300x30"}, {}),
    "HoldfastKeysReused": ({of("holdfast_idempotency_keys_reused_total"): "3x40 4+1x80"}, {}),
    "HoldfastCallersRefused": ({f'grpc_server_handled_total{{{CALLS}, grpc_code="Unauthenticated"}}': "0x40 0+5x80"}, {}),
    "HoldfastSyncSlow": ({of("holdfast_journal_sync_seconds_bucket", ', le="0.005"'): "0+95x120"}, {}),
    "HoldfastSyncStalled": ({of("holdfast_journal_stalled_seconds"): "0x40 30x80"}, {}),
    "HoldfastJournalLag": ({of("holdfast_journal_lag_bytes"): "1000x40 30000000x80"}, {}),
    "HoldfastChangesRefused": ({of("holdfast_journal_accepting"): "1x40 0x80"}, {}),
    "HoldfastDiskFilling": ({of("holdfast_disk_free_bytes", ', directory="data"'): "100000000x120"}, {"directory": "data"}),
    "HoldfastDiskHorizon": (
        {of("holdfast_disk_free_bytes", ', directory="data"'): "40000000000-100000000x120"}, {"directory": "data"}),
    "HoldfastArchiveFails": ({of("holdfast_archive_failures_total"): "2x40 3+1x80"}, {}),
    "HoldfastArchiveLost": ({of("holdfast_archive_lost_segments_total"): "0x40 5x80"}, {}),
    "HoldfastRetentionShort": ({of("holdfast_retention_horizon_seconds"): "86400x40 3600x80"}, {}),
    "HoldfastForgottenEarly": ({of("holdfast_decisions_evicted_early_total"): "0x40 0+10x80"}, {}),
    "HoldfastClockOffset": ({of("holdfast_clock_offset_seconds"): "0.01x40 -3x80"}, {}),
    "HoldfastExpiryLag": ({of("holdfast_expiry_lag_seconds_total"): "0+0.1x40 4+200x80"}, {}),
    "HoldfastCertificateExpires": ({of("holdfast_tls_certificate_expiry_seconds"): "864000x120"}, {}),
    "HoldfastCertificateExpired": ({of("holdfast_tls_certificate_expiry_seconds"): "600x120"}, {}),
    "HoldfastLimitNear": ({of("holdfast_watches"): "10x40 950x80"}, {"limit": "watches"}),
    "HoldfastConnectionsRefused": (
        {of("holdfast_connections_refused_total", ', reason="limit"'): "7x40 8+1x80"}, {"reason": "limit"}),
    "HoldfastConnectionAbuse": (
        {of("holdfast_connection_abuse_total", ', kind="ping_flood"'): "0x40 0+5x80"}, {"kind": "ping_flood"}),
    "HoldfastWatchBehind": ({of("holdfast_watch_lag_bytes"): "1000x40 50000000x80"}, {}),
    "HoldfastWatchesDropped": ({of("holdfast_watches_ended_total", ', reason="too_old"'): "1x40 2+1x80"}, {"reason": "too_old"}),
}
def relay(name, more=""):
    return f'holdfast_relay_{name}{{job="relay", instance="r"{more}}}'


def intake(name, more=""):
    # The same instance, so that both cases are told alike.
    return f'holdfast_intake_{name}{{job="relay", instance="r"{more}}}'


# Of a relay and an intake.
EVENTS_GOOD = {
    relay("lag_seconds"): "0.01x120", relay("blocked"): "0x120", relay("stuck"): "0x120",
    relay("connected", ', side="server"'): "1x120", relay("connected", ', side="broker"'): "1x120",
    relay("dead_letters_total", ', reason="REJECTED"'): "3x120", relay("resume_saves_failed_total"): "2x120",
    intake("blocked"): "0x120", intake("stuck"): "0x120", intake("dead_letter_queue_messages"): "NaN NaN NaN 0x117",
    intake("connected", ', side="server"'): "1x120", intake("connected", ', side="broker"'): "1x120",
    intake("dead_letters_total", ', reason="INVALID_FIELD"'): "3x120", intake("retries_total", ', reason="server"'): "0+1x120",
    intake("retries_total", ', reason="later"'): "0x120",
    intake("queue_messages", ', queue="orders.0"'): "100x120", intake("queue_messages", ', queue="orders.1"'): "NaN NaN NaN 800x117",
}
EVENTS_CASES = {
    "HoldfastRelayBehind": ({relay("lag_seconds"): "0.01x40 0+15x80"}, {}),
    "HoldfastRelayNotConnected": ({relay("connected", ', side="broker"'): "1x40 0x80"}, {"side": "broker"}),
    "HoldfastRelayStuck": ({relay("blocked"): "0x40 1x80"}, {}),
    "HoldfastRelayDeadLetters": (
        {relay("dead_letters_total", ', reason="REJECTED"'): "3x40 4+1x80"}, {"reason": "REJECTED"}),
    "HoldfastRelayPositionNotKept": ({relay("resume_saves_failed_total"): "2x40 3+1x80"}, {}),
    "HoldfastIntakeNotConnected": ({intake("connected", ', side="server"'): "1x40 0x80"}, {"side": "server"}),
    "HoldfastIntakeStuck": ({intake("stuck"): "0x40 1x80"}, {}),
    "HoldfastIntakeRetries": ({intake("retries_total", ', reason="server"'): "0x40 0+200x80"}, {"reason": "server"}),
    "HoldfastIntakeDeadLetters": (
        {intake("dead_letters_total", ', reason="INVALID_FIELD"'): "3x40 4+1x80"}, {"reason": "INVALID_FIELD"}),
    "HoldfastIntakeDeadLettersWait": ({intake("dead_letter_queue_messages"): "0x40 2x80"}, {}),
    "HoldfastIntakeBehind": ({intake("queue_messages", ', queue="orders.1"'): "800x40 2000x80"}, {}),
}
# What spends the month in two days spends it in five.
ALSO = {"HoldfastErrorBudgetBurnsFast": {"HoldfastErrorBudgetBurns"}}
FILES = {HA_RULES: (HA_GOOD, HA_CASES), RULES: (GOOD, CASES), EVENTS_RULES: (EVENTS_GOOD, EVENTS_CASES)}
EVERY = [pytest.param(file, alert, id=alert) for file in FILES for alert in ALERTS[file]]


def named(file, alert, page):
    """Whose alert it is, as promtool wants it: by the labels of the series that its rule leaves."""
    labels = {"severity": ALERTS[file][alert], **page}
    if file == HA_RULES:
        return {**labels, "job": labels.get("job", "projection" if page.get("instance") == "p" else "shop")}
    if file == EVENTS_RULES:
        return {"job": "relay", "instance": "r", **labels}
    return {name: value for name, value in {"job": "shop", "instance": "a", **labels}.items() if value}


def fired(file, expected, series, folder):
    """What promtool finds wrong with it: "" where just those of `expected` fire at 28 minutes, each with its labels."""
    # What an alert says is for people. The test is JSON, which is YAML.
    (folder / "rules.yml").write_text(re.sub(r"^ +annotations:\n(?: {10}.*\n)+", "", file.read_text(), flags=re.MULTILINE))
    (folder / "test.yml").write_text(json.dumps({
        "rule_files": ["rules.yml"], "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": [{"series": name, "values": values} for name, values in series.items()],
                   "alert_rule_test": [{"eval_time": "28m", "alertname": name,
                                        "exp_alerts": [{"exp_labels": expected[name]}] if name in expected else []}
                                       for name in ALERTS[file]]}]}))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@PROMTOOL
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_rules_can_be_read(file):
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_fires_on_a_good_day(file, tmp_path):
    assert fired(file, {}, FILES[file][0], tmp_path) == ""


@PROMTOOL
@pytest.mark.parametrize("file, alert", EVERY)
def test_it_fires_for_what_it_is_for_and_no_other(file, alert, tmp_path):
    good, cases = FILES[file]
    changed, page = cases[alert]
    assert changed.keys() <= good.keys()
    expected = {name: named(file, name, page) for name in {alert, *ALSO.get(alert, ())}}
    assert fired(file, expected, {**good, **changed}, tmp_path) == ""
    assert fired(file, expected, good, tmp_path) != ""


@PROMTOOL
@pytest.mark.parametrize("limit, changed", [
    ("max-items", {"holdfast_items": "15500000x120"}), ("max-items", {"holdfast_removed_items": "15500000x120"}),
    ("max-reservations", {"holdfast_live_holds": "15500000x120"}), ("max-limits", {"holdfast_limits": "15500000x120"}),
    ("max-connections", {"holdfast_connections": "19000x120"}), ("descriptors", {"process_open_fds": "19000x120"})])
def test_every_limit_has_its_alert(limit, changed, tmp_path):
    expected = {"HoldfastLimitNear": named(RULES, "HoldfastLimitNear", {"limit": limit})}
    assert fired(RULES, expected, {**GOOD, **{of(name): values for name, values in changed.items()}}, tmp_path) == ""


@PROMTOOL
def test_a_standby_that_refuses_calls_spends_no_budget(tmp_path):
    """Of an owner and a standby, which refuses every call."""
    standby = {series.replace('instance="a"', 'instance="b"'): values for series, values in
               {FAILED: "0+1500x120", of("holdfast_engine_owner"): "0x120", of("up"): "1x120"}.items()}
    owner = {of("holdfast_engine_owner"): "1x120"}
    assert fired(RULES, {}, {**GOOD, **owner, **standby}, tmp_path) == ""


def test_the_page_on_high_availability_names_every_alert():
    text = (REPOSITORY / "docs/HIGH-AVAILABILITY.md").read_text()
    assert [name for name in ALERTS[HA_RULES] if f"`{name}`" not in text] == []
