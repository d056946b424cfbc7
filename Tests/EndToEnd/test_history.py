"""Histories as files: read by protobuf in another language, doctored, and found out by `check`."""

import importlib
import importlib.resources
import json
import os
import pathlib
import subprocess
import sys

import pytest
from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def history_pb2(tmp_path_factory):
    """The module that anybody's protoc makes of LoadTest/history.proto."""
    folder = tmp_path_factory.mktemp("history-stubs")
    status = protoc.main(["protoc", f"-I{REPOSITORY / 'LoadTest'}", f"--python_out={folder}", "history.proto"])
    assert status == 0
    sys.path.insert(0, str(folder))
    return importlib.import_module("history_pb2")


def run(generator, *arguments):
    return subprocess.run([generator, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def recorded(generator, server, tmp_path_factory):
    """A run's history as bytes: three SKUs that sell out."""
    path = tmp_path_factory.mktemp("history") / "run.history"
    done = run(generator, "run", "--target", server.target, "--seed", 7, "--skus", 3, "--units", 300,
               "--operations", 3000, "--lines", "1-2", "--confirm-share", "0.3", "--release-share", "0.3",
               "--duplicate-share", "0.1", "--history", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path.read_bytes()


@pytest.fixture
def history(history_pb2, recorded):
    return history_pb2.History.FromString(recorded)


@pytest.fixture
def check(generator, tmp_path):
    """check(history) is what `holdfast-load check` says of it: status, text, and its JSON."""
    def check_history(history, *flags):
        path = tmp_path / "doctored.history"
        path.write_bytes(history if isinstance(history, bytes) else history.SerializeToString())
        report = tmp_path / "check.json"
        done = run(generator, "check", path, "--json", report, *flags)
        return done, json.loads(report.read_text())["histories"][0] if report.exists() else None
    return check_history


def key(history, operation):
    return f"{history.run.id}{operation.worker:02x}{operation.number:010x}"


def sku(history, index):
    return f"{history.run.sku_prefix}{index:07d}"


def attempts(history, method, answer):
    """Every (operation, attempt) of a method with an answer, by their names in history.proto."""
    return [(operation, attempt) for operation in history.operations for attempt in operation.attempts
            if attempt.method == getattr(attempt, f"METHOD_{method}")
            and attempt.answer == getattr(attempt, f"ANSWER_{answer}")]


def test_every_call_and_every_balance_is_there(history):
    assert history.format == 2 and len(history.run.id) == 10
    assert list(history.stock) == [300] * 3 and len(history.balances) == 3
    assert history.operation_count == len(history.operations)
    assert sum(len(operation.attempts) for operation in history.operations) >= 3000
    accepted = attempts(history, "RESERVE", "ACCEPTED")
    refused = attempts(history, "RESERVE", "REFUSED")
    assert accepted and refused
    assert all(len(attempt.reservation_id) == 20 and attempt.expires_unix_nanoseconds > 0
               for _, attempt in accepted)
    assert all(attempt.reason == attempt.REASON_INSUFFICIENT_STOCK and attempt.HasField("available")
               for _, attempt in refused)
    assert all(attempt.sent_nanoseconds <= attempt.answered_nanoseconds for _, attempt in accepted + refused)
    for index, balance in enumerate(history.balances):
        sold = {operation.number for operation, _ in attempts(history, "CONFIRM", "ACCEPTED")}
        units = sum(line.quantity for operation in history.operations if operation.number in sold
                    for line in operation.lines if line.sku == index)
        assert balance.is_known and balance.on_hand == 300 - units


def test_a_true_history_holds(check, recorded, history):
    done, report = check(recorded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: nothing oversold, nothing lost" in done.stdout
    assert report["check"]["holds"] and report["check"]["linearizable"] in ("yes", "undecided")
    again, _ = check(history)  # as Python writes it
    assert again.returncode == 0, again.stdout + again.stderr
    one, report = check(recorded, "--sku", sku(history, 1))
    assert one.returncode == 0 and report["check"]["stock"] == 300


def expect(found, kind, *names):
    """The status is 1, and a violation of the kind names all of `names` in its text and calls."""
    done, report = found
    assert done.returncode == 1, done.stdout + done.stderr
    violations = [violation for violation in report["violations"] if violation["kind"] == kind]
    assert violations, report["violations"]
    assert any(all(name in json.dumps(violation) for name in names) for violation in violations), violations
    assert kind in done.stdout


def test_one_accepted_reserve_too_many(check, history):
    last = max(attempt.answered_nanoseconds for operation in history.operations
               for attempt in operation.attempts)
    template = attempts(history, "RESERVE", "ACCEPTED")[0][1]
    operation = history.operations.add(
        worker=0, kind=1, number=1 + max(each.number for each in history.operations),
        time_to_live_nanoseconds=history.operations[0].time_to_live_nanoseconds)
    operation.lines.add(sku=2, quantity=300)
    attempt = operation.attempts.add()
    attempt.CopyFrom(template)
    # The server's clock goes with the generator's: what is later by one is later by the other.
    attempt.expires_unix_nanoseconds += last + 1000 - template.sent_nanoseconds
    attempt.sent_nanoseconds, attempt.answered_nanoseconds = last + 1000, last + 2000
    attempt.reservation_id = "doctoreddoctoreddoct"
    attempt.is_replayed = False
    history.operation_count += 1
    expect(check(history), "oversold", sku(history, 2), key(history, operation), "doctoreddoctoreddoct")


def test_a_repetition_that_answers_another_id(check, history):
    operation, attempt = next(
        (operation, attempt) for operation, attempt in attempts(history, "RESERVE", "ACCEPTED")
        if attempt.is_replayed)
    attempt.reservation_id = "00000000000000000000"
    expect(check(history), "duplicate answered differently", key(history, operation),
           sku(history, operation.lines[0].sku), "00000000000000000000")


def test_a_refusal_with_stock_left(check, history):
    operation, attempt = attempts(history, "RESERVE", "REFUSED")[0]
    history.stock[attempt.refused_sku] += 1_000
    history.balances[attempt.refused_sku].on_hand += 1_000
    expect(check(history), "refused without reason", key(history, operation),
           sku(history, attempt.refused_sku), "INSUFFICIENT_STOCK")


def test_a_unit_lost(check, history):
    history.balances[1].on_hand -= 1
    expect(check(history), "units lost or invented", sku(history, 1), "Confirm")


def test_a_unit_held_too_many(check, history):
    history.balances[1].held += 1
    expect(check(history), "held units differ", sku(history, 1))


def test_a_confirm_long_after_expiry(check, history):
    # Of one that was sent again, the other call may have been in time.
    operation, attempt = next(
        (operation, attempt) for operation, attempt in attempts(history, "CONFIRM", "ACCEPTED")
        if [other.method for other in operation.attempts].count(attempt.method) == 1)
    later = operation.time_to_live_nanoseconds + 60 * 10**9
    operation.attempts.remove(attempt)
    late = operation.attempts.add()
    late.CopyFrom(attempt)
    late.sent_nanoseconds += later
    late.answered_nanoseconds += later
    expect(check(history), "accepted after expiry", key(history, operation), "Confirm")


def test_one_id_for_two(check, history):
    accepted = [pair for pair in attempts(history, "RESERVE", "ACCEPTED") if len(pair[0].attempts) == 1]
    (_, first), (operation, second) = accepted[0], accepted[1]
    second.reservation_id = first.reservation_id
    expect(check(history), "reservation id used twice", key(history, operation), first.reservation_id)


def test_files_that_are_none(check, recorded, history, generator, tmp_path):
    for file in (recorded[:-1], recorded[:len(recorded) // 2], b"", b"not a history\n", os.urandom(1000)):
        done, _ = check(file)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    del history.operations[5]
    done, _ = check(history)
    assert done.returncode == 2 and "operation 5 of worker 0 is missing" in done.stderr
    done = run(generator, "check", tmp_path / "nowhere")
    assert done.returncode == 2 and "No such file" in done.stderr
