"""The console without a browser: its pages, its stream, its look-ups, and who gets them. test_console_browser.py has the rest."""

import http.client
import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.parse

import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from server import Server, eventually, holdfast

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# The server's own number of open consoles.
SUBSCRIBERS_MAX = 32
HOSTILE = "</td><script>alert(1)</script>"


@pytest.fixture(scope="module")
def server(binary):
    with Server(binary) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with Client(server.target, caller="till-7") as client:
        yield client


def ask(server, method, path, body=None, **fields):
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()


def get_json(server, path, **fields):
    status, headers, body = ask(server, "GET", path, **fields)
    assert status == 200 and headers["Content-Type"] == "application/json", body
    return json.loads(body)


def look_up(server, kind, **parameters):
    return get_json(server, f"/console/{kind}?{urllib.parse.urlencode(parameters)}")


class Events:
    """A stream of server-sent events, over a socket of its own."""

    def __init__(self, server, *fields):
        self.socket = socket.create_connection(("127.0.0.1", server.admin_port), 20)
        lines = ["GET /console/events HTTP/1.1", "Host: 127.0.0.1", *fields]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while line := self.file.readline().strip().decode():
            name, value = line.split(": ", 1)
            self.headers[name] = value
        self.pending = ""

    def chunk(self):
        """The next part; nothing at the end."""
        size = int(self.file.readline() or b"0", 16)
        part = self.file.read(size)
        self.file.readline()
        return part.decode()

    def next(self):
        """The next event: its name and its data; None at the end."""
        while True:
            while "\n\n" in self.pending:
                block, self.pending = self.pending.split("\n\n", 1)
                found = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
                if "data" in found:
                    return found["event"], json.loads(found["data"])
            if not (part := self.chunk()):
                return None
            self.pending += part

    def close(self):
        self.file.close()
        self.socket.close()


def test_the_page_and_what_it_needs(server):
    status, headers, page = ask(server, "GET", "/console")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "trusted-types 'none'" in policy
    # Everything that it loads is here.
    loaded = re.findall(r'(?:href|src)="(/[^"]*)"', page)
    assert {"/console/console.css", "/console/console.js"} <= set(loaded)
    for path in loaded:
        assert ask(server, "GET", path)[0] == 200, path
    assert ask(server, "GET", "/")[2].count('href="/console"') == 1
    # Without scripts it still says something; of the last second.
    eventually(lambda: '<th scope="row">State</th><td>ready</td>' in ask(server, "GET", "/console")[2])


def test_what_is_embedded_is_what_web_has():
    done = subprocess.run([sys.executable, REPOSITORY / "scripts/embed-console.py", "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_strangers_names_are_not_answered(server):
    """DNS rebinding: another site's name that leads here."""
    for path in ("/console", "/console/state", "/console/events", "/console/stock?sku=a"):
        assert ask(server, "GET", path, Host="evil.example")[0] == 421
    assert ask(server, "GET", "/livez", Host="evil.example")[0] == 200
    assert ask(server, "GET", "/console/state", Host="localhost:1")[0] == 200


def test_events_show_what_happens(server, client):
    sku, scarce = fresh("hot"), fresh("scarce")
    client.adjust(sku, set_on_hand=1000)
    client.adjust(scarce, set_on_hand=0)
    events = Events(server)
    assert events.status == 200 and events.headers["Content-Type"] == "text/event-stream"
    name, past = events.next()
    assert name == "past" and {"held", "refused", "p99", "sync", "lag"} <= past.keys()
    for _ in range(40):
        client.reserve(line(sku))
        with refused(StatusCode.FAILED_PRECONDITION):
            client.reserve(line(scarce))
    deadline = time.monotonic() + 20
    while True:
        name, state = events.next()
        assert name == "state" and time.monotonic() < deadline
        hot = {item["sku"]: item for item in state["hot"]}
        counted = state["totals"]["refusedStock"] >= 40 and state["holds"]["live"] >= 40
        if hot.get(sku, {}).get("reserves") and hot.get(scarce, {}).get("refusals") and counted:
            break
    events.close()
    assert state["server"]["state"] == "ready" and state["journal"]["accepting"]
    reserve = next(method for method in state["methods"] if method["name"] == "Reserve")
    assert 0 < reserve["p50"] <= reserve["p90"] <= reserve["p99"] <= reserve["p999"]
    assert state["disk"]["free"] <= state["disk"]["total"] and state["replication"] is None
    assert state["checks"]["commitViolations"] == state["checks"]["sweepViolations"] == 0
    # No item has a name on the metrics page.
    assert sku not in ask(server, "GET", "/metrics")[2]


def test_the_sweep_comes_round(server, client):
    client.adjust(fresh(), set_on_hand=5)
    eventually(lambda: get_json(server, "/console/state")["checks"]["sweeps"] > 1, 20)
    page = ask(server, "GET", "/metrics")[2]
    assert "holdfast_balance_sweep_violations_total 0\n" in page
    assert float(re.search(r"^holdfast_balance_sweep_items_total (\S+)", page, re.M)[1]) > 0


def test_no_more_consoles_than_there_may_be(server):
    opened = [Events(server) for _ in range(SUBSCRIBERS_MAX)]
    assert {events.status for events in opened} == {200}
    refused = Events(server)
    assert refused.status == 503 and refused.headers["Retry-After"] == "5"
    refused.close()
    for events in opened:
        events.close()

    def has_room():
        events = Events(server)
        events.close()
        return events.status == 200

    eventually(has_room)


def test_consoles_opened_without_end_cost_little(server):
    """Each asks for the past, with the next state; states are at least a tenth of a second apart."""
    numbers = []
    began = time.monotonic()
    while time.monotonic() - began < 2:
        events = Events(server)
        # Some are refused: those closed before still count for a moment.
        while events.status == 200 and "event: state" not in events.pending:
            part = events.chunk()
            assert part
            events.pending += part
        numbers += map(int, re.findall(r"^id: (\d+)$", events.pending, re.M))
        events.close()
    assert len(numbers) > 5
    assert max(numbers) - min(numbers) <= 11 * (time.monotonic() - began) + 2


def test_look_up_an_item(server, client):
    client.adjust(HOSTILE, location="</title>", set_on_hand=10, reason="count")
    held = client.reserve(line(HOSTILE, 3, "</title>")).reservation_id
    status, _, body = ask(server, "GET", "/console/stock?" + urllib.parse.urlencode({"sku": HOSTILE, "location": "</title>"}))
    assert status == 200 and "<" not in body
    answer = json.loads(body)
    assert (answer["found"], answer["sku"], answer["onHand"], answer["held"], answer["available"]) == (
        True, HOSTILE, 10, 3, 7)
    newest, oldest = answer["history"]["entries"]
    assert (newest["kind"], newest["reservation"], newest["caller"]) == ("held", held, "till-7")
    assert newest["lines"] == [{"sku": HOSTILE, "location": "</title>", "quantity": 3, "onHand": 10, "held": 3,
                                "committed": 0, "version": 2}]
    assert (oldest["kind"], oldest["note"], oldest["lines"][0]["onHand"]) == ("adjusted", "count", 10)
    assert answer["history"]["end"] == "complete"
    assert look_up(server, "stock", sku=HOSTILE) == {"found": False, "sku": HOSTILE, "location": ""}
    assert ask(server, "GET", "/console/stock")[0] == 400


def test_look_up_a_reservation(server, client):
    sku = fresh()
    client.adjust(sku, set_on_hand=10)
    held = client.reserve(line(sku, 2)).reservation_id
    client.reserve(line(sku))
    client.confirm(held)
    answer = look_up(server, "reservation", id=held)
    assert (answer["state"], answer["isDue"], answer["endedAt"] is not None) == ("confirmed", False, True)
    assert answer["lines"] == [{"sku": sku, "location": "", "quantity": 2}]
    assert [entry["kind"] for entry in answer["history"]["entries"]] == ["confirmed", "held"]
    assert answer["history"]["end"] == "complete"
    for other in ("0" * 20, "nothing", "'; drop table", "0" * 500):
        assert look_up(server, "reservation", id=other) == {"found": False, "id": other}


def test_history_survives_a_restart_and_is_bounded(binary, tmp_path):
    sku = fresh()
    with Server(binary, data=tmp_path) as server, Client(server.target) as client:
        client.adjust(sku, set_on_hand=1000)
        held = client.reserve(line(sku)).reservation_id
        for _ in range(120):
            client.reserve(line(sku))
    with Server(binary, data=tmp_path) as server:
        history = look_up(server, "stock", sku=sku)["history"]
        assert (len(history["entries"]), history["end"]) == (100, "entries")
        assert look_up(server, "reservation", id=held)["history"]["entries"][0]["kind"] == "held"


def test_without_a_journal(binary):
    with Server(binary, "--durability", "memory") as server, Client(server.target) as client:
        sku = fresh()
        client.adjust(sku, set_on_hand=4)
        answer = look_up(server, "stock", sku=sku)
        assert answer["onHand"] == 4 and answer["history"]["entries"] == []
        assert "durability memory" in answer["history"]["problem"]
        state = get_json(server, "/console/state")
        assert state["journal"] is None and state["disk"] is None
    with Server(binary, "--durability", "memory", "--history", "1048576") as server, Client(server.target) as client:
        client.adjust(sku, set_on_hand=4)
        assert [entry["kind"] for entry in look_up(server, "stock", sku=sku)["history"]["entries"]] == ["adjusted"]


@pytest.fixture(scope="module")
def guarded(binary, tmp_path_factory):
    """A server with tokens, and the tokens of an administrator and of a clerk."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    made = [holdfast(binary, "token", "create", "--caller", role, "--role", role, "--file", tokens).stdout.strip()
            for role in ("admin", "stock")]
    with Server(binary, "--tokens", tokens) as server:
        yield server, tokens, *made


def test_with_tokens_the_console_is_for_administrators(guarded):
    server, _, admin, clerk = guarded
    assert ask(server, "GET", "/console")[1]["Location"] == "/console/login"
    assert ask(server, "GET", "/console/login")[0] == 200
    for path in ("state", "events", "stock?sku=a", "reservation?id=a"):
        status, headers, _ = ask(server, "GET", f"/console/{path}")
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        assert ask(server, "GET", f"/console/{path}", Authorization=f"Bearer {clerk}")[0] == 401
    assert "held" in get_json(server, "/console/state", Authorization=f"Bearer {admin}")["rates"]
    # Scrapers and probes have no token.
    assert [ask(server, "GET", path)[0] for path in ("/metrics", "/livez", "/readyz")] == [200] * 3


def log_in(server, token, **fields):
    form = urllib.parse.urlencode({"token": token})
    return ask(server, "POST", "/console/login", form, Content_Type="application/x-www-form-urlencoded", **fields)


def test_a_browser_signs_in_and_out(guarded):
    server, _, admin, clerk = guarded
    status, _, page = log_in(server, clerk)
    assert status == 401 and "role stock" in page and clerk not in page
    assert log_in(server, admin, Origin="https://evil.example")[0] == 403
    status, headers, _ = log_in(server, admin, Origin=f"http://127.0.0.1:{server.admin_port}")
    assert status == 303 and headers["Location"] == "/console"
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/console"} <= set(attributes) and admin not in cookie
    status, _, page = ask(server, "GET", "/console", Cookie=cookie)
    assert status == 200 and "Sign out" in page
    events = Events(server, f"Cookie: {cookie}")
    assert events.next()[0] == "past"
    events.close()
    assert ask(server, "POST", "/console/logout", Cookie=cookie)[0] == 303
    assert ask(server, "GET", "/console/state", Cookie=cookie)[0] == 401
    # Who tries tokens is seen, and the tokens are not.
    eventually(lambda: "the console has refused tokens" in server.log_text())
    assert admin not in server.log_text() and clerk not in server.log_text()


def test_a_session_ends_with_its_token(guarded, binary):
    server, tokens, *_ = guarded
    token = holdfast(binary, "token", "create", "--caller", "leaver", "--role", "admin", "--file", tokens).stdout.strip()
    eventually(lambda: log_in(server, token)[0] == 303)
    cookie = log_in(server, token)[1]["Set-Cookie"].split("; ")[0]
    events = Events(server, f"Cookie: {cookie}")
    assert events.next()[0] == "past"
    tokens.write_text("".join(line for line in tokens.read_text().splitlines(True) if "leaver" not in line))
    while events.next():
        pass
    assert ask(server, "GET", "/console/state", Cookie=cookie)[0] == 401


def test_a_form_that_is_too_long_or_broken(guarded):
    server = guarded[0]
    assert ask(server, "POST", "/console/login", "token=" + "a" * 100_000)[0] == 401
    assert ask(server, "POST", "/console/login", b"\xff\x00%%%")[0] == 401
    assert ask(server, "POST", "/console/state", "x")[0] == 405
