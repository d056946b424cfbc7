"""`holdfast token`, and a server that is given callers."""

import datetime
import hashlib
import json
import re
import signal
import stat
import subprocess

import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from client import Client, line, refused
from server import eventually, holdfast

TOKEN = re.compile(r"hft_[A-Za-z0-9_-]{38}")
OWN_TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def tokens(tmp_path):
    return tmp_path / "tokens"


def create(binary, *arguments):
    """The token that was printed, once, and what else was."""
    done = holdfast(binary, "token", "create", *arguments)
    assert done.returncode == 0, done.stderr
    token, *rest = done.stdout.splitlines()
    assert TOKEN.fullmatch(token) and not TOKEN.search("\n".join(rest) + done.stderr)
    return token, rest


def entry(token, words):
    return f"token sha256:{hashlib.sha256(token.encode()).hexdigest()} {words}"


def entries(server):
    return [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]


def messages(server):
    return [row["message"] for row in entries(server)]


def test_a_token_is_printed_once_and_its_hash_kept(binary, tokens):
    token, rest = create(binary, "--caller", "checkout", "--role", "reserve", "--own-holds-only", "--expires",
                         "2099-01-31", "--note", "Till 7, Oslo", "--file", tokens)
    assert rest == []
    text = tokens.read_text()
    assert text == entry(token, "caller=checkout role=reserve own-holds-only expires=2099-01-31T00:00:00Z "
                                "note=Till 7, Oslo") + "\n"
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    assert [path.name for path in tokens.parent.iterdir()] == ["tokens"]


def test_without_a_file_the_entry_is_printed_too(binary):
    token, rest = create(binary, "--caller", "reports", "--role", "read")
    assert rest == [entry(token, "caller=reports role=read")]


def test_what_is_in_the_file_stays(binary, tokens):
    tokens.write_text("# Callers.\n\n# no end of line")
    tokens.chmod(0o640)
    token, _ = create(binary, "--caller", "a", "--role", "stock", "--file", tokens)
    other, _ = create(binary, "--caller", "b", "--role", "admin", "--file", tokens)
    assert tokens.read_text().splitlines() == [
        "# Callers.", "", "# no end of line", entry(token, "caller=a role=stock"),
        entry(other, "caller=b role=admin")]
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o640


def test_many_at_the_same_time_lose_none(binary, tokens):
    running = [subprocess.Popen([binary, "token", "create", "--caller", f"c{number}", "--role", "read", "--file",
                                 tokens], stdout=subprocess.DEVNULL) for number in range(12)]
    assert [process.wait(60) for process in running] == [0] * 12
    assert sorted(re.findall(r"caller=(\S+)", tokens.read_text())) == sorted(f"c{number}" for number in range(12))


@pytest.mark.parametrize("expires, seconds", [("90d", 90 * 86_400), ("12h", 12 * 3600), ("30m", 1800)])
def test_a_token_may_end(binary, expires, seconds):
    before = datetime.datetime.now(datetime.timezone.utc)
    _, (line,) = create(binary, "--caller", "a", "--role", "read", "--expires", expires)
    moment = datetime.datetime.fromisoformat(re.search(r"expires=(\S+)Z", line)[1] + "+00:00")
    assert -1 <= (moment - before).total_seconds() - seconds < 60


def test_a_token_of_ones_own(binary, tokens):
    command = [binary, "token", "create", "--caller", "own", "--role", "stock", "--stdin"]
    done = subprocess.run([*command, "--file", tokens], input=OWN_TOKEN + "\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tokens.read_text() == entry(OWN_TOKEN, "caller=own role=stock") + "\n"
    for token in "", "short", "x" * 31, "x" * 8193, "x" * 40 + " y", "hft_" + "A" * 38:
        done = subprocess.run(command, input=token + "\n", capture_output=True, text=True)
        assert done.returncode == 64 and done.stdout == ""
        assert not token or token not in done.stderr


def test_list_and_revoke(binary, tokens):
    create(binary, "--caller", "a", "--role", "read", "--file", tokens)
    token, _ = create(binary, "--caller", "a", "--role", "stock", "--file", tokens)
    other, _ = create(binary, "--caller", "b", "--role", "stock", "--file", tokens)
    with tokens.open("a") as file:
        file.write("cert cn:old%20till caller=till role=read expires=2001-02-03\n")
    done = holdfast(binary, "token", "list", "--file", tokens)
    ids = [row.split(" ")[0] for row in done.stdout.splitlines()]
    assert ids[1] == hashlib.sha256(token.encode()).hexdigest()[:12]
    assert done.stdout.splitlines()[2:] == [
        f"{ids[2]} caller=b role=stock",
        "cn:old%20till caller=till role=read expires=2001-02-03T00:00:00Z (expired)"]

    done = holdfast(binary, "token", "revoke", "--file", tokens, "--id", ids[1])
    assert (done.returncode, done.stdout) == (0, f"revoked {ids[1]} caller=a role=stock\n")
    done = holdfast(binary, "token", "revoke", "--file", tokens, "--id", "cn:old%20till")
    assert done.returncode == 0
    done = holdfast(binary, "token", "revoke", "--file", tokens, "--caller", "a")
    assert done.returncode == 0 and ids[0] in done.stdout
    assert tokens.read_text() == entry(other, "caller=b role=stock") + "\n"
    for arguments in ("--caller", "a"), ("--id", ids[0]):
        done = holdfast(binary, "token", "revoke", "--file", tokens, *arguments)
        assert done.returncode == 1 and "holdfast token list" in done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["create", "--caller", "a", "--role", "boss"], "--role"),
    (["create", "--caller", "a b", "--role", "read"], "--caller"),
    (["create", "--caller", "é", "--role", "read"], "--caller"),
    (["create", "--caller", "c" * 65, "--role", "read"], "--caller"),
    (["create", "--caller", "", "--role", "read", "--own-holds-only"], "--own-holds-only"),
    (["create", "--caller", "a", "--role", "read", "--expires", "soon"], "--expires"),
    (["create", "--caller", "a", "--role", "read", "--expires", "0d"], "--expires"),
    (["create", "--caller", "a", "--role", "read", "--expires", "2027-02-30"], "--expires"),
    (["create", "--caller", "a", "--role", "read", "--note", "two\nlines"], "--note"),
    (["create", "--role", "read"], "--caller"),
    (["revoke", "--file", "x"], "--caller or --id"),
    (["revoke", "--file", "x", "--caller", "a", "--id", "b"], "--caller or --id"),
    (["list"], "--file"),
])
def test_a_command_line_that_makes_no_sense(binary, arguments, words):
    done = holdfast(binary, "token", *arguments)
    assert done.returncode == 64 and words in done.stderr and done.stdout == ""


def test_a_file_with_a_mistake_is_named_by_line_and_not_changed(binary, tokens):
    secret = "hft_" + "S" * 38
    tokens.write_text(f"# fine\ntoken {secret} role=read\n")
    for arguments in (["create", "--caller", "a", "--role", "read"], ["list"], ["revoke", "--caller", "a"]):
        done = holdfast(binary, "token", *arguments, "--file", tokens)
        assert done.returncode == 1 and f"{tokens}: line 2: " in done.stderr
        assert secret not in done.stderr and done.stdout == ""
    assert secret in tokens.read_text()
    done = holdfast(binary, "serve", "--tokens", tokens, "--port", "0", "--admin-port", "0", "--durability", "memory")
    assert done.returncode == 1 and "line 2: " in done.stderr and secret not in done.stderr


def test_a_file_that_is_not_there(binary, tmp_path):
    for arguments in (["token", "list", "--file"], ["token", "revoke", "--caller", "a", "--file"],
                      ["serve", "--durability", "memory", "--tokens"]):
        done = holdfast(binary, *arguments, tmp_path / "none")
        assert done.returncode == 1 and "none: No such file" in done.stderr
    done = holdfast(binary, "token", "create", "--caller", "a", "--role", "read", "--file", tmp_path / "none" / "x")
    assert done.returncode == 1 and done.stdout == ""


# MARK: The server


def test_a_server_with_tokens_lets_nobody_in_without(binary, start, tokens):
    token, _ = create(binary, "--caller", "a", "--role", "admin", "--file", tokens)
    server = start("--tokens", str(tokens))
    with Client(server.target) as client:
        for call in (lambda: client.reserve(line("a")), lambda: client.level("a"),
                     lambda: client.adjust("a", set_on_hand=1)):
            with refused(StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
                call()
        status = client.health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    assert token not in server.log_text()


def test_a_changed_file_is_read_again(binary, start, tokens):
    create(binary, "--caller", "a", "--role", "admin", "--file", tokens)
    server = start("--tokens", str(tokens))
    assert "read the tokens" in messages(server)
    # By itself, when the file is replaced.
    create(binary, "--caller", "b", "--role", "admin", "--file", tokens)
    again = eventually(lambda: [row for row in entries(server) if row["message"].startswith("read the tokens again")])
    assert again[0]["entries"] == 2
    # A bad one changes nothing, and says why, once.
    good = tokens.read_text()
    tokens.write_text(good + "token hush-hush\n")
    kept = eventually(lambda: [row for row in entries(server) if row["message"].startswith("cannot read")])
    assert "line 3: " in kept[0]["error"] and "hush-hush" not in server.log_text()
    # On SIGHUP, at once.
    tokens.write_text("# nobody\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "it has no entries: every call is refused" in messages(server))
    assert server.is_alive()


def test_a_server_that_others_reach_warns(start):
    words = "anybody who reaches this port can change stock"
    assert words not in start().log_text()
    assert words in start("--host", "0.0.0.0").log_text()


def test_a_server_with_tokens_does_not_warn_of_that(binary, start, tokens):
    create(binary, "--caller", "a", "--role", "admin", "--file", tokens)
    assert "anybody who reaches" not in start("--host", "0.0.0.0", "--tokens", str(tokens)).log_text()


def test_a_file_that_all_may_read_is_warned_of(binary, start, tokens):
    create(binary, "--caller", "a", "--role", "admin", "--file", tokens)
    tokens.chmod(0o644)
    assert "everybody on this machine may read who the callers are" in start("--tokens", str(tokens)).log_text()


# MARK: The journal


def test_the_journal_says_who_ended_a_hold(binary, start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target, caller="shop") as shop, Client(server.target) as nameless:
        sku = shop.item(10)
        first, second, third = (shop.reserve(line(sku), ttl=3600).reservation_id for _ in range(3))
        shop.confirm(first)
        shop.extend(second, ttl=7200)
        shop.release(second)
        nameless.release(third)
    server.stop()
    rows = [json.loads(row) for row in holdfast(binary, "dump", server.data).stdout.splitlines()]
    ended = [(row["kind"], row.get("caller")) for row in rows if row["kind"] in ("confirmed", "extended", "released")]
    assert ended == [("confirmed", "shop"), ("extended", "shop"), ("released", "shop"), ("released", None)]
