"""`holdfast stock`, `reservation` and `events`: as people and scripts call them, over TLS, with tokens, and through failures."""

import json
import os
import pathlib
import re
import subprocess
import time

import grpc
import pytest
from google.protobuf import json_format
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, fresh, line
from command_line import CLEAN, Command, Fake, Impostor, Proxy, interrupt, refuse
from server import eventually, holdfast


# What people do


def test_set_look_release_at_a_terminal(cli, client):
    """Three in the morning: set a ticket to 100, see what an order holds, release it."""
    sku, order = fresh("ticket"), fresh("order")
    seen = cli.at_terminal("stock", "set", sku, 100, answers="y\n")
    assert f"{sku} is not there. Make it, with 100 on hand? [y/N]" in seen
    held = client.reserve(line(sku, 3), reference=order)
    seen = cli.at_terminal("reservation", "list", "--reference", order)
    assert held.reservation_id in seen and f"{sku}=3" in seen and "HELD" in seen
    seen = cli.at_terminal("reservation", "release", "--reference", order)
    assert "[y/N]" not in seen and "RELEASED" in seen
    assert client.level(sku).available == 100


def test_a_terminal_asks_and_takes_no_for_an_answer(cli, client):
    sku = client.item(10)
    seen = cli.at_terminal("stock", "set", sku, 5, answers="n\n", status=1)
    assert f"{sku} has 10 on hand (0 held, 0 committed). Set it to 5?" in seen and "nothing was changed" in seen
    assert client.level(sku).on_hand == 10
    cli.at_terminal("stock", "set", sku, 5, answers="\x04", status=1)
    cli.at_terminal("stock", "set", sku, 6, "--if-on-hand", 10)
    cli.at_terminal("stock", "set", sku, 7, "--yes")
    assert client.level(sku).on_hand == 7


@pytest.mark.parametrize("arguments", [("stock", "set", "{sku}", "5"), ("stock", "remove", "{sku}"),
                                       ("reservation", "release", "--reference", "{order}")])
def test_a_script_has_to_mean_it(cli, client, arguments):
    sku, order = client.item(10), fresh("order")
    for _ in range(2):
        client.reserve(line(sku), reference=order)
    words = [word.format(sku=sku, order=order) for word in arguments]
    assert "give --yes" in cli(*words, status=64).err
    assert client.level(sku).on_hand == 10 and client.level(sku).held == 2


def test_stock_by_hand(cli, client):
    sku = fresh("mug")
    cli("stock", "set", sku, 10, "--if-version", 0, "--safety-stock", 2)
    assert cli("stock", "adjust", sku, "-3", "--reason", "three are broken", "--reference", "return-7").rows == [
        [sku, "", "7", "0", "0", "2", "5", "2", ""]]
    cli("stock", "adjust", sku, "+5")
    cli("stock", "adjust", sku, "--safety-stock", 0)
    held = client.reserve(line(sku, 4))
    cli("reservation", "confirm", held.reservation_id, "--keep-committed")
    cli("stock", "ship", sku, 1)
    cli("stock", "uncommit", sku, 1)
    (row,) = cli("stock", "get", sku).rows
    assert row == [sku, "", "11", "0", "2", "0", "9", "8", ""]
    cli("stock", "transfer", sku, 5, "--to", "oslo")
    assert client.level(sku, "oslo").on_hand == 5 and client.level(sku).on_hand == 6
    assert cli("stock", "get", f"{sku}@oslo", sku).rows[0][:3] == [sku, "oslo", "5"]
    cli("stock", "adjust", f"{sku}@oslo", "-5")
    cli("stock", "remove", sku, "--location", "oslo", "--yes")
    assert cli("stock", "get", f"{sku}@oslo", "--json", status=1).error["reason"] == "ITEM_NOT_FOUND"
    listed = [row[0] for row in cli("stock", "list", "--prefix", sku).rows]
    assert listed == [sku]


def test_a_sale_is_stopped_and_goes_on(cli, client):
    sku = client.item(5)
    cli("stock", "sale", sku, "--from", "2026-01-01", "--until", "2990-01-01T00:00:00+01:00")
    cli("stock", "sale", sku, "--freeze")
    (level,) = cli("stock", "get", sku, "--json").objects
    assert level["sale"] == {"sellable_from": "2026-01-01T00:00:00Z", "sellable_until": "2989-12-31T23:00:00Z",
                             "frozen": True}
    assert "(NOT_ON_SALE)" in cli("reservation", "reserve", sku, status=1).err
    cli("stock", "sale", sku, "--unfreeze")
    cli("reservation", "reserve", sku)
    cli("stock", "sale", sku, "--always")
    assert cli("stock", "get", sku, "--json").objects[0]["sale"] is None
    cli("stock", "sale", sku, "--from", "2030-01-01", "--until", "2029-01-01", status=64)


def test_reservations_by_hand(cli, client):
    sku, other, order = client.item(20), client.item(20), fresh("order")
    (held,) = cli("reservation", "reserve", f"{sku}=2", other, "--ttl", "10m", "--reference", order, "--json").objects
    assert held["lines"] == [{"sku": sku, "location": "", "quantity": 2}, {"sku": other, "location": "", "quantity": 1}]
    assert held["state"] == "HELD" and held["replayed"] is False
    again = cli("reservation", "reserve", f"{sku}=2", other, "--ttl", "10m", "--reference", order,
                "--key", held["idempotency_key"], "--json").objects[0]
    assert again["replayed"] is True and again["reservation_id"] == held["reservation_id"]
    name = held["reservation_id"]
    (found,) = cli("reservation", "get", "--key", held["idempotency_key"], "--json").objects
    (same,) = cli("reservation", "get", name, "--json").objects
    assert found == same and same["revision"] == "1" and same["created_at"] < same["expires_at"]
    (replaced,) = cli("reservation", "replace", name, f"{sku}=5", "--if-revision", 1, "--json").objects
    assert replaced["reservation"]["revision"] == "2" and client.level(sku).held == 5 and client.level(other).held == 0
    (extended,) = cli("reservation", "extend", name, "--ttl", "2h", "--json").objects
    assert extended["reservation"]["expires_at"] > same["expires_at"]
    (sold,) = cli("reservation", "confirm", name, "--line", f"{sku}=4", "--json").objects
    assert sold["reservation"]["state"] == "CONFIRMED" and client.level(sku).on_hand == 16
    assert "(RESERVATION_CONFIRMED)" in cli("reservation", "release", name, status=1).err
    assert [row[1] for row in cli("reservation", "list", "--reference", order).rows] == ["CONFIRMED"]
    assert cli("reservation", "list", "--reference", order, "--state", "held").rows == []
    assert "no live hold" in cli("reservation", "release", "--reference", order, status=1).err


def test_units_at_least_and_limits(cli, client):
    sku, subject = client.item(3), fresh("customer")
    (held,) = cli("reservation", "reserve", f"{sku}=2..9", "--json").objects
    assert held["lines"][0]["quantity"] == 3
    rare = client.item(9)
    cli("reservation", "reserve", f"{rare}=2", "--limit", f"{subject}=2")
    assert "(LIMIT_EXCEEDED)" in cli("reservation", "reserve", rare, "--limit", f"{subject}=2", status=1).err


def test_many_are_released_and_one_failure_keeps_none(cli, client):
    sku, order = client.item(9), fresh("order")
    ids = [client.reserve(line(sku), reference=order).reservation_id for _ in range(3)]
    client.confirm(ids[1])
    done = cli("reservation", "release", *ids, status=1)
    assert [row[1] for row in done.rows] == ["RELEASED", "RELEASED"]
    assert f"{ids[1]}:" in done.err and "(RESERVATION_CONFIRMED)" in done.err
    ids = [client.reserve(line(sku), reference=order).reservation_id for _ in range(3)]
    shown = cli("reservation", "release", "--reference", order, "--dry-run")
    assert sorted(row[0] for row in shown.rows) == sorted(ids) and client.level(sku).held == 3
    cli("reservation", "release", "--reference", order, "--yes")
    assert client.level(sku).held == 0


def test_what_was_done_before_is_not_taken_for_another(cli, client):
    """Under the same key: a hold that has ended meanwhile is none, whatever the status."""
    sku, key = client.item(5), fresh("key")
    reserve = ("reservation", "reserve", f"{sku}=2", "--key", key, "--plain", "--no-header")
    first = cli(*reserve)
    assert first.err == ""
    again = cli(*reserve)
    assert "done before" in again.err and "no unit is held" not in again.err and again.out == first.out
    cli("reservation", "release", first.out.split("\t")[0])
    ended = cli(*reserve)
    assert "done before" in ended.err and "no unit is held by it any more: it is RELEASED" in ended.err
    move = ("stock", "transfer", sku, "1", "--to", "oslo", "--key", fresh("key"))
    assert cli(*move).err == "" and "done before" in cli(*move).err
    assert client.level(sku, "oslo").on_hand == 1
    refused = cli("stock", "transfer", sku, "99", "--to", "oslo", "--dry-run", status=1).err
    assert f"refused at {sku}: fewer are on hand (INSUFFICIENT_STOCK)" in refused


def test_dry_runs_change_nothing(cli, client):
    sku = client.item(10)
    client.reserve(line(sku, 4))
    assert cli("stock", "set", sku, 6, "-n").rows[0][2:7] == ["6", "4", "0", "0", "2"]
    assert "(INSUFFICIENT_STOCK)" in cli("stock", "set", sku, 3, "-n", status=1).err
    assert "would be refused" in cli("stock", "remove", sku, "-n", status=1).err
    cli("stock", "transfer", sku, 2, "--to", "x", "-n")
    assert cli("stock", "adjust", sku, "-3", "-n").rows[0][2] == "7" and cli("stock", "adjust", "-n", sku, "-3").rows[0][2] == "7"
    assert client.level(sku).on_hand == 10 and client.level(sku).version == 2


# How results look


def test_a_table_fits_its_terminal_and_has_its_colours(cli, client):
    sku = client.item(0)
    wide = cli.at_terminal("stock", "get", sku)
    head, row = wide.replace("\r", "").splitlines()
    assert "\x1b[1mSKU\x1b[0m" in head and "\x1b[33m0\x1b[0m" in row
    plain = cli.at_terminal("stock", "get", sku, NO_COLOR="1").replace("\r", "")
    assert "\x1b" not in plain and re.match(r"SKU +LOCATION +ON_HAND +HELD", plain)
    narrow = cli.at_terminal("stock", "get", sku, columns=80, NO_COLOR="1").replace("\r", "")
    assert all(len(text) <= 80 for text in narrow.splitlines()) and "AVAILABLE" in narrow
    assert "no reservations" in cli.at_terminal("reservation", "list", "--reference", fresh())
    assert "\t" in cli.at_terminal("stock", "get", sku, "--plain")


def test_a_pipe_gets_lines_between_tabs(cli, client):
    sku = client.item(7)
    assert cli("stock", "get", sku).out == (
        "sku\tlocation\ton_hand\theld\tcommitted\tsafety_stock\tavailable\tversion\tsale\n"
        f"{sku}\t\t7\t0\t0\t0\t7\t1\t\n")
    assert cli("stock", "get", sku, "--no-header").out == f"{sku}\t\t7\t0\t0\t0\t7\t1\t\n"
    assert cli("stock", "get", sku, "--table").out.startswith("SKU")
    cli("stock", "get", sku, "--table", "--json", status=64)


def test_json_is_what_protobuf_reads(cli, client):
    """But for the short names of states and kinds, and the newest keys."""
    sku, order = client.item(2 ** 40), fresh("order")
    (level,) = cli("stock", "get", sku, "--json").objects
    assert json_format.ParseDict(level, stock_pb2.StockLevel()) == client.level(sku)
    assert level["on_hand"] == 2 ** 40 and level["version"] == "1"
    held = client.reserve(line(sku, 5), reference=order)
    (found,) = cli("reservation", "list", "--reference", order, "--json").objects
    found["state"] = "RESERVATION_STATE_" + found["state"]
    assert json_format.ParseDict(found, reservation_pb2.Reservation()) == client.get(held.reservation_id)


# TLS and tokens


def test_tls_and_tokens_from_the_environment(binary, secured, ours, tmp_path):
    sku = fresh("mug")
    cli = Command(binary, f"https://localhost:{secured.port}", HOLDFAST_CA=str(ours.authority),
                  HOLDFAST_TOKEN=secured.tokens["stock"])
    assert cli("stock", "set", sku, 5, "--yes").err == ""
    cli("reservation", "reserve", sku)
    file = tmp_path / "token"
    file.write_text(secured.tokens["read"] + "\n")
    flags = ("--target", f"127.0.0.1:{secured.port}", "--tls", "--tls-ca", ours.authority, "--token-file", file)
    plain = Command(binary)
    assert plain("stock", "get", sku, *flags).rows[0][2] == "5"
    done = plain("stock", "adjust", sku, "+1", *flags, status=77)
    assert "(ROLE_REQUIRED)" in done.err and "needs the role stock" in done.err
    # A token on the command line works, and is warned of; the environment is no match for it.
    done = cli("stock", "get", sku, "--metadata", f"authorization=Bearer {secured.tokens['read']}")
    assert "ps" in done.err and secured.tokens["read"] not in done.err
    (event,) = cli("events", "watch", "--from", "oldest", "--sku", sku, "--kind", "adjusted", "--limit", 1, "--json").objects
    assert event["caller"] == "stock" and event["reason"].startswith("by hand")


@pytest.mark.parametrize("environment, status, reason", [
    ({}, 77, "CREDENTIALS_MISSING"), ({"HOLDFAST_TOKEN": "x" * 40}, 77, "TOKEN_INVALID"),
    ({"HOLDFAST_TOKEN": "two words"}, 77, "UNAUTHENTICATED"),
    ({"HOLDFAST_TOKEN_FILE": "/nowhere"}, 77, "UNAUTHENTICATED"), ({"HOLDFAST_CA": "theirs"}, 76, "UNAVAILABLE"),
    ({"HOLDFAST_TARGET": "plain"}, 70, "UNAVAILABLE"), ({"HOLDFAST_CA": "/nowhere"}, 66, None)])
def test_who_is_not_known_hears_why(binary, secured, ours, theirs, environment, status, reason):
    environment = {"HOLDFAST_CA": str(ours.authority), "HOLDFAST_TARGET": f"https://127.0.0.1:{secured.port}",
                   **environment}
    environment = {name: {"theirs": str(theirs.authority), "plain": secured.target}.get(value, value)
                   for name, value in environment.items()}
    done = Command(binary, **environment)("stock", "get", "a", "--timeout", "1s", status=status)
    assert reason is None or f"({reason})" in done.err, done.err
    assert "two words" not in done.err and "x" * 40 not in done.err


def test_the_name_in_the_certificate_counts(binary, secured, ours):
    cli = Command(binary, f"https://127.0.0.1:{secured.port}", HOLDFAST_CA=str(ours.authority),
                  HOLDFAST_TOKEN=secured.tokens["read"])
    cli("stock", "list", "--server-name", "localhost")
    assert "--server-name" in cli("stock", "list", "--server-name", "shop.example", status=76).err


def test_a_certificate_says_who_calls(binary, start, ours, pair, tmp_path):
    (tmp_path / "tokens").write_text("cert cn:ops caller=ops role=stock\n")
    here = start("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", ours.authority, "--tokens",
                 tmp_path / "tokens")
    ops = ours.issue("ops", hosts=("email:ops@shop.example",))
    cli = Command(binary, f"https://localhost:{here.port}", HOLDFAST_CA=str(ours.authority))
    cli("stock", "set", "a", 1, "-y", HOLDFAST_CLIENT_CERT=str(ops.certificate), HOLDFAST_CLIENT_KEY=str(ops.key))
    cli("stock", "get", "a", "--tls-cert", ops.certificate, "--tls-key", ops.key)
    assert "go together" in cli("stock", "get", "a", "--tls-cert", ops.certificate, status=64).err
    assert "--tls-cert" in cli("stock", "get", "a", status=76).err


# Failures


@pytest.mark.parametrize("arguments", [
    ("stock", "get"), ("stock", "set", "a"), ("stock", "set", "a", "x"), ("stock", "set", "a", "-1"),
    ("stock", "set", "a", str(2 ** 41), "-y"), ("stock", "set", "a b", "1", "-y"), ("stock", "get", ""),
    ("stock", "set", "a", "1", "--if-version", "1", "--if-on-hand", "1"), ("stock", "adjust", "a"),
    ("stock", "adjust", "a", "1.5"), ("stock", "adjust", "a", "-3", "--nonsense"), ("stock", "adjust", "a", "1", "2"),
    ("stock", "ship", "a", "0"), ("stock", "transfer", "a", "1"), ("stock", "sale", "a"),
    ("stock", "sale", "a", "--from", "tomorrow"), ("stock", "get", "a", "--target", "nonsense"),
    ("stock", "get", "a", "--timeout", "soon"), ("stock", "get", "a", "--tls-ca", "x"), ("reservation", "reserve"),
    ("reservation", "reserve", "a=0"), ("reservation", "reserve", "a=x"), ("reservation", "reserve", "a=3..2"),
    ("reservation", "reserve", "a", "--ttl", "0s"), ("reservation", "reserve", "a", "--key", "k" * 65),
    ("reservation", "release"), ("reservation", "release", "x", "--reference", "y"),
    ("reservation", "release", "--reference", ""), ("reservation", "confirm", "x", "y", "--line", "a=1"),
    ("reservation", "list", "--state", "lost"), ("reservation", "get"), ("events", "watch", "--kind", "born"),
    ("events", "watch", "--limit", "0"), ("events", "watch", "--timeout", "1s"), ("stock", "get", "a", "--metadata", "x"), ("stock", "import", "f", "--separator", "ab")])
def test_mistakes_of_the_command_line_are_usage(cli, arguments):
    assert cli(*arguments, status=64).out == ""


def test_nobody_there(binary):
    with Impostor() as silent:
        pass
    cli = Command(binary, silent.target)
    begun = time.monotonic()
    error = cli("stock", "get", "a", "--timeout", "1s", "--json", status=69).error
    assert error["code"] == "UNAVAILABLE" and error["exit_status"] == 69 and "refused" in error["message"]
    assert time.monotonic() - begun < 20
    assert "(UNAVAILABLE)" in cli("stock", "get", "a", "--target", "nobody.invalid:1", status=69).err


@pytest.mark.parametrize("data, ends, statuses", [
    (b"", False, {69}), (b"", True, {69}), (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, {70}),
    (b"\x00" * 4096, False, {70}), (b"SSH-2.0-OpenSSH_9.2\r\n", False, {69, 70}), (os.urandom(1) + b"\xff" * 9000, False, {69, 70})])
def test_what_is_no_holdfast_server_is_said_to_be_none(binary, data, ends, statuses):
    with Impostor(data, ends) as impostor:
        done = subprocess.run([binary, "stock", "set", "a", "1", "-y", "--target", impostor.target, "--timeout", "1s"],
                              capture_output=True, text=True, timeout=60)
    assert done.returncode in statuses and done.stdout == "" and "known whether" not in done.stderr, done


def test_the_owner_is_found(binary, server, client):
    sku = client.item(3)
    asked = []

    def answer(method, request, context):
        asked.append(method)
        refuse(context, grpc.StatusCode.UNAVAILABLE, "NOT_OWNER", owner=server.target)

    with Fake(answer) as standby, Impostor(ends=True) as dead:
        cli = Command(binary)
        done = cli("stock", "get", sku, "--target", f"{standby.target},{dead.target},{server.target}")
        assert done.rows[0][2] == "3" and len(asked) == 1
        # It is not followed to where nobody has sent the command, and a token with it.
        done = cli("stock", "get", sku, "--target", standby.target, status=69)
        assert f"--target {server.target}" in done.err and len(asked) == 2
        assert cli("stock", "get", sku, "--target", f"{dead.target},{server.target}").rows[0][2] == "3"


def test_a_busy_server_is_asked_again(binary):
    asked = []

    def answer(method, request, context):
        asked.append(request)
        if len(asked) < 3:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        return stock_pb2.AdjustStockResponse(stock=stock_pb2.StockLevel(sku="a", on_hand=7)).SerializeToString()

    with Fake(answer) as busy:
        assert Command(binary, busy.target)("stock", "adjust", "a", "+7").rows[0][2] == "7"
        assert len(asked) == 3 and len(set(asked)) == 1, "the same key each time"
        request = stock_pb2.AdjustStockRequest.FromString(asked[0])
        assert request.idempotency_key and request.delta == 7 and request.any_version


def test_a_change_is_made_once_where_its_answer_is_lost(binary, server, client):
    sku = client.item(10)
    with Proxy(server.target, answers=False) as proxy:
        process = Command(binary, proxy.target).start("stock", "adjust", sku, "-3", "--json", "--timeout", "50s")
        eventually(lambda: client.level(sku).on_hand == 7, 20)
        proxy.answers = True
        proxy.cut()
        out, err = process.communicate(timeout=60)
    result = json.loads(out)
    assert process.returncode == 0 and result["replayed"] is True and "done before" in err
    assert client.level(sku).on_hand == 7


def test_an_unknown_outcome_says_how_to_find_out(binary, server, cli, client):
    sku = client.item(10)
    # SETTINGS come through, then nothing.
    with Proxy(server.target) as proxy:
        proxy.hold_after = 0
        process = Command(binary, proxy.target).start("stock", "adjust", sku, "-3", "--timeout", "4s")
        assert proxy.is_held.wait(30)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 69, err
    reads = []

    def answer(method, request, context):
        reads.append(request)
        time.sleep(3)
        return b""

    with Fake(answer) as slow:
        process = Command(binary, slow.target).start("stock", "adjust", sku, "-3", "--timeout", "1s")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    key = re.search(r"--key (\S+)", err)[1]
    assert stock_pb2.AdjustStockRequest.FromString(reads[0]).idempotency_key == key
    cli("stock", "adjust", sku, "-3", "--key", key)
    assert cli("stock", "adjust", sku, "-3", "--key", key, "--json").objects[0]["replayed"] is True
    assert client.level(sku).on_hand == 7
    assert "(IDEMPOTENCY_KEY_REUSED)" in cli("stock", "adjust", sku, "-4", "--key", key, status=1).err


@pytest.mark.parametrize("answer, status", [
    (lambda *_: b"\xff\xff\xff", 70), (lambda *_: b"", 70), (lambda *_: b"\x0a\x05ab", 70),
    (lambda method, request, context: refuse(context, grpc.StatusCode.INTERNAL, "X\x1b[31m\r\n", "\x1b]0;pwned\x07 ü"), 70),
    (lambda method, request, context: refuse(context, grpc.StatusCode.UNKNOWN, "", "?"), 75)])
def test_a_server_that_lies_is_found_out(binary, answer, status):
    with Fake(answer) as hostile:
        done = Command(binary, hostile.target)("stock", "adjust", "a", "+1", "--timeout", "2s", status=status)
    assert done.out == "" and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.err), done.err


def test_pages_without_an_end_end(binary):
    def answer(method, request, context):
        return stock_pb2.ListStockResponse(next_page_token="again").SerializeToString()

    with Fake(answer) as hostile:
        assert "leads to itself" in Command(binary, hostile.target)("stock", "list", status=70).err


def test_a_name_of_the_servers_does_not_steer_the_terminal(binary):
    def answer(method, request, context):
        level = stock_pb2.StockLevel(sku="a\x1b]0;pwned\x07\nb", on_hand=1)
        return stock_pb2.ListStockResponse(stock=[level]).SerializeToString()

    with Fake(answer) as hostile:
        cli = Command(binary, hostile.target)
        assert "\x07" not in cli.at_terminal("stock", "list") and len(cli("stock", "list").rows) == 1
        assert cli("stock", "list", "--json").objects[0]["sku"] == "a\x1b]0;pwned\x07\nb"


def test_what_a_busy_server_says_does_not_steer_the_terminal(binary):
    """What is told while a command waits goes the same way as what is told at its end."""
    def answer(method, request, context):
        refuse(context, grpc.StatusCode.UNAVAILABLE, "OVERLOADED\x1b[2J", "\x1b]0;pwned\x07")

    with Fake(answer) as hostile:
        for command in (["stock", "get", "a", "--timeout", "60s"], ["events", "watch"]):
            process = Command(binary, hostile.target).start(*command)
            first = process.stderr.readline()
            interrupt(process)
            process.communicate(timeout=60)
            assert "trying again" in first and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", first), first


@pytest.mark.parametrize("units", ["9223372036854775807", "1099511627777", "-1099511627777"])
def test_a_safety_stock_beyond_all_units_is_usage(cli, client, units):
    sku = client.item(3)
    for command in (["set", sku, "3", "--yes"], ["adjust", sku]):
        for dry in ([], ["--dry-run"]):
            assert "--safety-stock" in cli("stock", *command, f"--safety-stock={units}", *dry, status=64).err


def test_balances_that_cannot_be_are_found_out(binary):
    def answer(method, request, context):
        level = stock_pb2.StockLevel(sku="a", on_hand=2**63 - 1, held=2**63 - 1, version=2**64 - 1)
        return stock_pb2.BatchGetStockResponse(stock=[level]).SerializeToString()

    with Fake(answer) as hostile:
        for command in (["stock", "get", "a"], ["stock", "adjust", "a", "+1", "--dry-run"]):
            Command(binary, hostile.target)(*command, status=70)


def test_output_that_cannot_be_written(cli, client, binary, server):
    client.item(1)
    with open("/dev/full", "w") as full:
        done = subprocess.run([binary, "stock", "list", "--target", server.target], stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=60)
    assert done.returncode == 74 and "No space left" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([binary, "stock", "list", "--target", server.target], stdout=write, stderr=subprocess.PIPE,
                          text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_unix_socket_and_spaces_between_servers(binary, start, tmp_path):
    here = start("--host", f"unix:{tmp_path}/socket")
    cli = Command(binary, f"127.0.0.1:1, unix:{tmp_path}/socket")
    cli("stock", "set", "a", 3, "-y")
    assert cli("stock", "get", "a").rows[0][2] == "3" and here.is_alive()


def test_more_items_than_a_call_takes(cli, client):
    sku = client.item(4)
    done = cli("stock", "get", *[f"none-{number}" for number in range(600)], sku, status=1)
    assert done.rows[0][:3] == [sku, "", "4"] and "none-0, none-1" in done.err and len(done.err) < 1000


def test_a_command_that_is_interrupted_says_what_is_known(binary):
    asked = []

    def answer(method, request, context):
        asked.append(stock_pb2.AdjustStockRequest.FromString(request).idempotency_key)
        time.sleep(20)

    with Fake(answer) as slow:
        process = Command(binary, slow.target).start("stock", "adjust", "a", "+1", "--timeout", "50s", "--json")
        eventually(lambda: asked)
        interrupt(process)
        _, err = process.communicate(timeout=30)
    error = json.loads(err)["error"]
    assert process.returncode == 75 and error["outcome_unknown"] and error["idempotency_key"] == asked[0]


# The page


PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/COMMAND-LINE.md").read_text()


def test_every_command_of_the_page_works(binary, secured, ours, tmp_path):
    """All blocks in their order, as one script: each command of it has to succeed."""
    (tmp_path / "ca.pem").write_bytes(ours.authority.read_bytes())
    (tmp_path / "token").write_text(secured.tokens["stock"] + "\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "holdfast").symlink_to(binary)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    script = "".join(blocks).replace("stock.example:7420", f"localhost:{secured.port}")
    done = subprocess.run(["bash", "-euxo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120, env={**CLEAN, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert script.count("\nholdfast ") > 27 and "order-123" in done.stdout


def test_the_page_has_every_command_flag_and_key(binary, cli, client):
    helps = {}
    for group in ("stock", "reservation", "events"):
        listed = holdfast(binary, group, "--help").stdout.split("SUBCOMMANDS:")[1]
        for name in re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE):
            helps[f"{group} {name}"] = holdfast(binary, group, name, "--help").stdout
    assert len(helps) == 18
    for command in helps:
        assert command in PAGE or command.split()[1] in PAGE, command
    every = "".join(helps.values())
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"```sh.*?```", "", PAGE, flags=re.DOTALL))):
        assert flag in every or flag in ("--help", "--retention"), flag
    sku = client.item(3)
    client.reserve(line(sku))
    for words, name in ((("stock", "get", sku), "`stock get`"), (("reservation", "list", "--limit", 1), "`reservation get`"),
                        (("events", "watch", "--from", "oldest", "--limit", 1), "`events watch`")):
        (row,) = [text for text in PAGE.splitlines() if text.startswith("|") and name in text.split("|")[1]]
        for key in cli(*words, "--json").objects[0]:
            assert f"`{key}`" in row, f"{name}: {key}"
