"""`holdfast stock`, `reservation` and `events`: as people and scripts call them, over TLS, with tokens, and through failures."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import time

import grpc
import pytest
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from holdfast.v1 import reservation_pb2, stock_pb2

from client import Client, fresh, line
from command_line import Command, Impostor, Lines, Proxy, interrupt
from server import Server, eventually, holdfast


@pytest.fixture
def cli(binary, server):
    return Command(binary, server.target)


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


def test_dry_runs_change_nothing(cli, client):
    sku = client.item(10)
    client.reserve(line(sku, 4))
    assert cli("stock", "set", sku, 6, "-n").rows[0][2:7] == ["6", "4", "0", "0", "2"]
    assert "(INSUFFICIENT_STOCK)" in cli("stock", "set", sku, 3, "-n", status=1).err
    assert "would be refused" in cli("stock", "remove", sku, "-n", status=1).err
    cli("stock", "transfer", sku, 2, "--to", "x", "-n")
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


@pytest.fixture(scope="module")
def secured(binary, ours, pair, tmp_path_factory):
    """A server with TLS and tokens, and a token of each role."""
    folder = tmp_path_factory.mktemp("secured")
    tokens = {}
    for role in ("read", "reserve", "stock", "admin"):
        done = holdfast(binary, "token", "create", "--caller", role, "--role", role, "--file", folder / "tokens")
        tokens[role] = done.stdout.split()[0]
    with Server(binary, "--tls-cert", pair.certificate, "--tls-key", pair.key, "--tokens", folder / "tokens") as server:
        server.tokens, server.folder = tokens, folder
        yield server


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
    ({"HOLDFAST_TARGET": "plain"}, 70, "UNAVAILABLE"), ({"HOLDFAST_CA": "/nowhere"}, 1, None)])
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
    ("events", "watch", "--limit", "0"), ("stock", "get", "a", "--metadata", "x"), ("stock", "import", "f", "--separator", "ab")])
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


def rich_status(code, reason, message="words", **metadata):
    """The trailers of a refusal."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="holdfast", metadata=metadata)
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=message, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()),)


class Fake:
    """A gRPC server that answers every call as `answer(method, request, context)` says, in bytes."""

    def __init__(self, answer):
        def handler(details):
            method = details.method.split("/")[-1]
            if method == "Watch":
                return grpc.unary_stream_rpc_method_handler(lambda request, context: answer(method, request, context))
            if method == "ImportStock":
                return grpc.stream_unary_rpc_method_handler(lambda requests, context: answer(method, list(requests), context))
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(method, request, context))

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                return handler(details)

        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((Handler(),))
        self.target = "127.0.0.1:%d" % self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()


def refuse(context, code, reason, message="words", **metadata):
    context.set_trailing_metadata(rich_status(code, reason, message, **metadata))
    context.abort(code, message)


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


# Import


def write_rows(path, rows, header="sku,delta"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def levels(client, skus):
    found = {}
    for first in range(0, len(skus), 500):
        items = [stock_pb2.StockItem(sku=sku) for sku in skus[first:first + 500]]
        response = client.stock.BatchGetStock(stock_pb2.BatchGetStockRequest(items=items), **client.call)
        found.update((level.sku, level.on_hand) for level in response.stock)
    return [found.get(sku) for sku in skus]


def test_a_file_is_imported(cli, client, tmp_path):
    base = fresh("csv")
    path = tmp_path / "stock.csv"
    path.write_bytes(f'\ufeff"On_Hand",sku,location,safety_stock\r\n5,{base}-a,,\r\n"7",{base}-b,oslo,2\r\n'.encode())
    done = cli("stock", "import", path, "--yes")
    assert "2 rows done: 2 changed, 0 refused" in done.err and done.out == ""
    assert client.level(f"{base}-b", "oslo").safety_stock == 2 and client.level(f"{base}-a").on_hand == 5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stock.csv"]
    # A file is imported again: what it says is done once more, not passed over.
    client.adjust(f"{base}-a", set_on_hand=1)
    (result,) = cli("stock", "import", path, "--yes", "--json").objects
    assert (result["rows"], result["changed"], result["refused"], result["rejected_file"]) == ("2", "2", "0", None)
    assert client.level(f"{base}-a").on_hand == 5
    assert "give --yes" in cli("stock", "import", path, status=64).err
    assert "[y/N]" in cli.at_terminal("stock", "import", path, answers="n\n", status=1)


def test_a_file_with_mistakes_is_not_sent(cli, client, tmp_path):
    base = fresh("csv")
    path = write_rows(tmp_path / "f.csv", [f"{base}-a,1", f"{base} b,1", f"{base}-c,x", f'"{base}-d"e,1', f"{base}-f,1,2"])
    done = cli("stock", "import", path, status=65)
    assert [re.sub(r".*f\.csv:", "", text) for text in done.err.splitlines()] == [
        "3:1: sku: not up to 64 bytes of printable ASCII without spaces",
        "4:%d: delta: 'x' is no whole number from -1099511627776 to 1099511627776" % (len(base) + 4),
        "5:%d: something behind the quote that ends a field" % (len(base) + 5),
        "6:1: 3 fields where the first line has 2", "nothing was sent"]
    assert levels(client, [f"{base}-a"]) == [None]
    assert cli("stock", "import", path, "--dry-run", status=65).out == ""
    done = cli("stock", "import", path, "--skip-mistakes", status=1)
    assert "1 rows done: 1 changed, 0 refused, 4 with mistakes" in done.err
    rejected = (tmp_path / "f.csv.rejected.csv").read_text().splitlines()
    assert rejected[0] == "rejected_line,rejected_reason,sku,delta" and len(rejected) == 5
    assert rejected[1].startswith(f"3,") and rejected[1].endswith(f",{base} b,1")


@pytest.mark.parametrize("content, status, words", [
    (b"", 65, "is empty"), (b"\xff\xfes\x00", 65, "UTF-16"), (b"sku,delta\na,1\x00\n", 65, "NUL"),
    (b"sku,delta\n" + b"a" * 100_000 + b",1\n", 65, "more than 65536 bytes"),
    (b'sku,delta\n"a,1\n' + b"b,2\n" * 50_000, 65, "quote"), (b"sku,delta\n\xff,1\n", 65, "printable ASCII"),
    (b"\x7fELF\x02\x01\x01\x00" + b"\x00" * 512, 65, "NUL"), (b"sku,delta\n", 0, "0 rows done")])
def test_hostile_files(cli, tmp_path, content, status, words):
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    done = cli("stock", "import", path, status=status)
    assert words in done.err and len(done.err) < 4000


def test_what_is_no_file(cli, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "pipe"):
        assert str(path) in cli("stock", "import", path, status=66).err


def test_refused_rows_are_in_a_file_that_can_be_imported(cli, client, tmp_path):
    base = fresh("csv")
    client.adjust(f"{base}-a", set_on_hand=2)
    path = write_rows(tmp_path / "f.csv", [f"{base}-a,-5", f"{base}-b,4", f'"{base}-c",-1'])
    done = cli("stock", "import", path, status=1)
    assert "3 rows done: 1 changed, 2 refused" in done.err
    rejects = tmp_path / "f.csv.rejected.csv"
    assert rejects.read_text() == (
        "rejected_line,rejected_reason,sku,delta\n"
        f"2,INSUFFICIENT_STOCK,{base}-a,-5\n" f'4,ITEM_NOT_FOUND,"{base}-c",-1\n')
    rejects.write_text(rejects.read_text().replace(",-5", ",-2").replace(",-1", ",1"))
    cli("stock", "import", rejects)
    assert levels(client, [f"{base}-a", f"{base}-b", f"{base}-c"]) == [0, 4, 1]


ROWS = 6_000
# Bytes of requests that come through before the network holds: some of the rows, not all.
HELD_AFTER = 60_000


@pytest.fixture
def big(tmp_path):
    base = fresh("big")
    skus = [f"{base}-{number}" for number in range(ROWS)]
    return skus, write_rows(tmp_path / "big.csv", [f"{sku},3" for sku in skus])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_was_cut_off_goes_on(binary, server, cli, client, big, end):
    skus, path = big
    with Proxy(server.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path, "--json")
        assert proxy.is_held.wait(60)
        process.send_signal(end)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-9 if end == signal.SIGKILL else 75), err
        assert end == signal.SIGKILL or "the same command goes on" in err
    done = levels(client, skus).count(3)
    assert 0 < done < ROWS
    name = path.with_name("big.csv.holdfast-import")
    assert re.match(r"holdfast-import 1 \S+-[0-9a-f]{16} \d+\n", name.read_text())
    result = cli("stock", "import", path, "--json")
    assert "going on with import" in result.err and not name.exists()
    assert levels(client, skus) == [3] * ROWS, "each row once"
    (told,) = result.objects
    assert int(told["changed"]) == ROWS - done and told["done"] == str(ROWS)


def test_an_import_goes_on_over_a_restart_of_the_server(binary, big, tmp_path):
    skus, path = big
    data = tmp_path / "data"
    with Server(binary, data=data) as first, Proxy(first.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path, "--json")
        assert proxy.is_held.wait(60)
        first.kill()
        with Server(binary, data=data) as second, Client(second.target) as client:
            proxy.upstream = second.target
            proxy.release()
            proxy.cut()
            out, err = process.communicate(timeout=90)
            assert process.returncode == 0, err
            assert levels(client, skus) == [3] * ROWS and json.loads(out)["done"] == str(ROWS)


def test_another_file_does_not_go_on(binary, server, cli, big):
    skus, path = big
    with Proxy(server.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path)
        assert proxy.is_held.wait(60)
        interrupt(process)
        process.communicate(timeout=60)
    text = path.read_text()
    name = re.search(r"1 (\S+) ", path.with_name("big.csv.holdfast-import").read_text())[1]
    path.write_text(text.replace(",3", ",4", 1))
    assert "is not the file" in cli("stock", "import", path, status=65).err
    path.write_text(text)
    assert "is read otherwise" in cli("stock", "import", path, "--ignore-column", "x", status=65).err
    path.with_name("big.csv.holdfast-import").unlink()
    cli("stock", "import", path, "--id", name)
    cli("stock", "import", path, "--id", "nonsense", status=64)


def test_a_server_that_has_forgotten_is_not_told_twice(binary, big):
    """A server without a journal that starts anew: nobody adds to its stock what another one had."""
    skus, path = big
    flags = ("--durability", "memory")
    with Server(binary, *flags) as first, Proxy(first.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path)
        assert proxy.is_held.wait(60)
        interrupt(process)
        process.communicate(timeout=60)
    with Server(binary, *flags) as second:
        cli = Command(binary, second.target)
        assert "knows nothing of import" in cli("stock", "import", path, status=65).err
        cli("stock", "import", path, "--restart")
        assert cli("stock", "get", skus[0], skus[-1]).rows[1][2] == "3"


def test_progress_is_drawn_at_a_terminal(binary, server, big):
    _, path = big
    seen = Command(binary, server.target).at_terminal("stock", "import", path)
    assert f"{ROWS:,} rows done" in seen and seen.count("\x1b[K") % 2 == 0


# Events


def test_events_are_printed_as_they_come(binary, server, cli, client):
    sku, order = client.item(9), fresh("order")
    process = cli.start("events", "watch", "--sku", sku, "--from", "oldest", "--json")
    lines = Lines(process.stdout)
    lines.wait(lambda seen: len(seen) == 1)
    held = client.reserve(line(sku, 2), reference=order)
    client.release(held.reservation_id)
    seen = [json.loads(text) for text in lines.wait(lambda seen: len(seen) == 3)]
    assert [event["kind"] for event in seen] == ["ADJUSTED", "HELD", "RELEASED"]
    assert seen[1]["lines"] == [{"sku": sku, "location": "", "quantity": 2}] and seen[1]["reference"] == order
    assert seen[2]["stock"][0]["available"] == 9 and seen[2]["resume_token"]
    interrupt(process)
    assert process.wait(30) == 0 and process.stderr.read() == ""
    # From a token, and only some.
    (event,) = cli("events", "watch", "--from", seen[1]["resume_token"] or seen[0]["resume_token"], "--sku", sku,
                   "--kind", "released", "--limit", 1, "--json").objects
    assert event["lsn"] == seen[2]["lsn"]
    (row,) = cli("events", "watch", "--from", "oldest", "--reference", order[:-1], "--limit", 1).rows
    assert row[2:6] == ["HELD", held.reservation_id, order, f"{sku}=2"]


def test_a_watch_resumes_behind_what_was_printed(cli, client, tmp_path):
    sku, file = client.item(9), tmp_path / "token"
    arguments = ("events", "watch", "--sku", sku, "--resume-file", file, "--from", "oldest", "--json")
    client.adjust(sku, delta=1)
    seen = []
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        client.adjust(sku, delta=1)
        process = cli.start(*arguments)
        lines = Lines(process.stdout)
        new = lines.wait(lambda found: len(found) >= 1)
        if end == signal.SIGKILL:
            eventually(file.exists)
        process.send_signal(end)
        assert process.wait(30) == (-9 if end == signal.SIGKILL else 0)
        seen += [json.loads(text)["stock"][0]["version"] for text in new]
    # Nothing is left out; what was printed and not saved may come twice.
    assert list(dict.fromkeys(seen)) == [str(version) for version in range(1, 6)][:len(dict.fromkeys(seen))]
    rest = cli("events", "watch", "--sku", sku, "--resume-file", file, "--limit", 1, "--json") if "5" not in seen else None
    assert rest is None or rest.objects[0]["stock"][0]["version"] == "5"
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_watch_goes_on_over_a_restart_without_a_gap(binary, tmp_path):
    data = tmp_path / "data"
    with Server(binary, data=data) as first, Proxy(first.target) as proxy:
        process = Command(binary, proxy.target).start("events", "watch", "--from", "oldest", "--json")
        lines, errors = Lines(process.stdout), Lines(process.stderr)
        with Client(first.target) as client:
            sku = client.item(1)
            for _ in range(20):
                client.adjust(sku, delta=1)
        lines.wait(lambda seen: len(seen) == 21)
        first.kill()
        with Server(binary, data=data) as second, Client(second.target) as client:
            for _ in range(20):
                client.adjust(sku, delta=1)
            errors.wait(lambda seen: any("trying again" in text for text in seen))
            proxy.upstream = second.target
            seen = lines.wait(lambda seen: len(seen) == 41)
            assert [json.loads(text)["stock"][0]["version"] for text in seen] == [str(each) for each in range(1, 42)]
            errors.wait(lambda seen: any("going on" in text for text in seen))
            interrupt(process)
            assert process.wait(30) == 0


def test_a_watch_ends_where_nobody_reads(cli, client):
    """While it prints, and while nothing happens."""
    sku = client.item(9)
    for _ in range(20):
        client.adjust(sku, delta=1)
    script = '"$0" events watch --sku "$1" --from "$2" | head -n "$3"; echo "${PIPESTATUS[0]}"'
    # The names of the columns are the one line of a watch from now.
    for place, count in (("oldest", 3), ("now", 1)):
        done = subprocess.run(["bash", "-c", script, cli.binary, sku, place, str(count)],
                              capture_output=True, text=True, timeout=60, env=cli.environment)
        assert done.stdout.splitlines()[-1] == "0" and len(done.stdout.splitlines()) == count + 1, done
        assert done.stderr == ""


def test_a_watch_says_why_it_cannot_go_on(binary, cli, client, tmp_path):
    sku = client.item(1)
    (event,) = cli("events", "watch", "--from", "oldest", "--sku", sku, "--limit", 1, "--json").objects
    with Server(binary) as other:
        file = tmp_path / "token"
        file.write_text(event["resume_token"] + "\n")
        there = Command(binary, other.target)
        done = there("events", "watch", "--resume-file", file, status=1)
        assert "(RESUME_TOKEN_FOREIGN)" in done.err and "holdfast stock list" in done.err
        assert there("events", "watch", "--from", "nonsense", "--json", status=1).error["reason"] == "INVALID_FIELD"
        file.write_text("two words\n")
        there("events", "watch", "--resume-file", file, status=65)
        there("events", "watch", "--resume-file", tmp_path, status=66)
        assert "No such file" in there("events", "watch", "--from", "oldest", "--limit", 1, "--resume-file",
                                       tmp_path / "no" / "token", status=74).err


def test_a_watch_has_a_new_token_at_every_connection(binary, secured, ours, tmp_path):
    file = tmp_path / "token"
    file.write_text(secured.tokens["read"])
    with Proxy(secured.target) as proxy:
        cli = Command(binary, f"https://{proxy.target}", HOLDFAST_CA=str(ours.authority), HOLDFAST_TOKEN_FILE=str(file))
        process = cli.start("events", "watch", "--kind", "adjusted", "--json")
        eventually(lambda: len(proxy.connections) == 1)
        file.write_text(secured.tokens["stock"])
        proxy.cut()
        eventually(lambda: len(proxy.connections) == 2, 20)
        lines = Lines(process.stdout)
        sku = fresh("mug")
        changer = Command(binary, f"https://{secured.target}", HOLDFAST_CA=str(ours.authority),
                          HOLDFAST_TOKEN=secured.tokens["stock"])
        for number in range(100):
            changer("stock", "set", sku, number, "-y")
            if lines.lines:
                break
        (text, *_) = lines.wait(lambda seen: seen)
        assert json.loads(text)["caller"] == "stock"
        file.write_text("x" * 40)
        proxy.cut()
        assert process.wait(60) == 77 and "TOKEN_INVALID" in process.stderr.read()
