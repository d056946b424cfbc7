"""`holdfast relay` between a real server and a real RabbitMQ; pika and protobuf's own reader of JSON are the consumer."""

import datetime
import pathlib
import re
import shlex
import subprocess
import sys
import time

import pytest
from google.protobuf import json_format
from grpc import StatusCode
from holdfast.v1 import event_pb2

from certificates import Certificates
from client import Client, line, refused
from rabbitmq import RabbitMQ, needs_rabbitmq
from relaying import TYPES, Inbox, Place, Relay, check, expected, saved_token, watched, without_doubles
from server import Server, eventually, holdfast
from test_supervision import Manager
from watching import kind_name

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
pytestmark = needs_rabbitmq


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def rabbitmq(certificates):
    pair = certificates.issue("broker")
    with RabbitMQ("--tls-cert", pair.certificate, "--tls-key", pair.key) as running:
        yield running


@pytest.fixture(scope="module")
def host(rabbitmq):
    with rabbitmq.virtual_host() as made:
        yield made


@pytest.fixture
def place(host):
    return Place(host)


def decide(client):
    """Decisions of every kind. SKUs of its own."""
    first, second = client.item(10, reason='a "reason"\n<of> ten \\ with ümlauts'), client.item(10)
    held = client.reserve(line(first, 2), line(second), reference="order-1").reservation_id
    client.extend(held, ttl=3600)
    client.replace(held, line(first, 3), reference="order-2")
    client.confirm(held, keep_committed=True)
    other = client.reserve(line(second), key="k", reference="order-3").reservation_id
    client.release(other)
    client.reserve(line(second, 4), ttl=1)
    with refused(StatusCode.FAILED_PRECONDITION):
        client.reserve(line(first, 1000), line(second), reference="order-4")
    with refused(StatusCode.NOT_FOUND):
        client.reserve(line("nobody-has-this"), reference="order-5")
    client.adjust_all([(first, {"delta": 1}), (second, {"delta": 2}), (second, {"delta": 3, "location": "oslo"})])
    gone = client.item(0)
    client.remove(gone)
    return first, second


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_every_decision_is_a_cloud_event(binary, place, tmp_path, form):
    with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox:
        with Relay(binary, server.target, place, tmp_path / "token", "--format", form, "--source", "shop/oslo") as relay:
            decide(client)
            # The last hold expires by itself.
            events, token = eventually(lambda: (found := watched(client)) and any(
                kind_name(event) == "EXPIRED" for event in found[0]) and found)
            assert {kind_name(event) for event in events} == set(TYPES)
            wanted = expected(events)
            inbox.wait(len(wanted))
            eventually(lambda: relay.is_caught_up(events[-1].lsn))
            assert relay.readiness() == 200 and relay.metric("lag_seconds") == 0
            assert relay.metric("messages_total") == len(wanted) == relay.metric("confirmed_total")
            assert relay.stop() == 0, relay.text()
        store = token[1:17]
        check(inbox.messages, events, store)
        assert len(inbox.messages) == len(wanted), "nothing went wrong, and something came twice"
        for message, (lsn, sku, event) in zip(sorted(inbox.messages, key=lambda each: (each.event.lsn, each.key)),
                                              sorted(wanted, key=lambda each: (each[0], each[1]))):
            properties, attributes = message.properties, message.attributes
            kind = TYPES[kind_name(event)]
            assert properties.message_id == attributes["id"] == f"{store}-{lsn}"
            assert properties.type == attributes["type"] == kind
            assert message.method.routing_key == f"{kind}.{sku}"
            assert properties.content_type == f"application/{form}"
            assert properties.delivery_mode == 2 and properties.app_id.startswith("holdfast-relay/")
            assert attributes["specversion"] == "1.0" and attributes["source"] == "shop/oslo"
            assert attributes.get("subject", "") == sku
            assert attributes["sequence"] == f"{lsn:020}"
            assert attributes.get("reservationid", "") == event.reservation_id
            assert attributes.get("reference", "") == event.reference
            assert attributes["partitionkey"] == (sku or event.reference)
            when = datetime.datetime.fromisoformat(attributes["time"].replace("Z", "+00:00"))
            assert abs(when.timestamp() - event.decided_at.ToNanoseconds() / 1e9) < 1e-5
            assert properties.timestamp == event.decided_at.seconds


def test_goes_on_behind_what_was_confirmed(binary, place, tmp_path):
    """Over its own end, kill -9 of it and of the server, and an end of both sides that it was not there for."""
    file = tmp_path / "token"
    with Inbox(place) as inbox, Server(binary, data=tmp_path / "data") as server, Client(server.target) as client:
        sku = client.item(100)
        with Relay(binary, server.target, place, file) as relay:
            inbox.wait(1)
            assert relay.stop() == 0
        first = saved_token(file)
        client.adjust(sku, delta=1)
        with Relay(binary, server.target, place, file) as relay:
            inbox.wait(2)
            assert len(inbox.messages) == 2, "what was confirmed came again"
            for _ in range(50):
                client.adjust(sku, delta=1)
            relay.kill()
        for _ in range(50):
            client.adjust(sku, delta=1)
        server.kill()
        assert saved_token(file) >= first
        with Server(binary, data=tmp_path / "data") as again, Client(again.target) as client:
            with Relay(binary, f"{server.target},{again.target}", place, file) as relay:
                client.adjust(sku, delta=1)
                inbox.wait(103)
                assert relay.stop() == 0
            check(inbox.messages, *((found := watched(client))[0], found[1][1:17]))
        assert len(without_doubles(inbox.messages)) == 103


def test_waits_for_a_server_that_is_away(binary, place, tmp_path):
    data = tmp_path / "data"
    with Inbox(place) as inbox, Server(binary, data=data) as server:
        with Client(server.target) as client:
            sku = client.item(100)
        with Relay(binary, server.target, place, tmp_path / "token") as relay:
            inbox.wait(1)
            server.kill()
            relay.says("trying again")
            eventually(lambda: relay.readiness() == 503 and relay.metric("connected", side="server") == 0)
            assert relay.metric("connected", side="broker") == 1
            assert eventually(lambda: relay.metric("lag_seconds") > 0)
            with Server(binary, "--port", str(server.port), data=data) as again, Client(again.target) as client:
                client.adjust(sku, delta=1)
                inbox.wait(2)
                relay.says("going on")
                eventually(lambda: relay.readiness() == 200)
                assert relay.metric("reconnects_total", side="server") == 1


def test_waits_for_credentials_of_the_broker(binary, place, rabbitmq, tmp_path):
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox:
        client.item(1)
        with Relay(binary, server.target, None, tmp_path / "token", "--broker", place.host.address, "--broker-password-file",
                   password, *place.flags) as relay:
            relay.says("cannot be used as it is")
            assert relay.readiness() == 503 and relay.metric("connected", side="broker") == 0
            assert saved_token(tmp_path / "token") is None
            password.write_text(rabbitmq.password + "\n")
            inbox.wait(1)
            eventually(lambda: relay.readiness() == 200)
            assert rabbitmq.password not in relay.text()
            assert relay.stop() == 0


def test_speaks_tls_to_a_broker_that_it_knows(binary, place, rabbitmq, certificates, tmp_path):
    """With the authority of the broker's certificate it publishes; with another it says so, and waits for the right one."""
    authority = Certificates(tmp_path, "Somebody else").authority
    flags = ("--broker", place.host.tls_address, "--broker-password-file", rabbitmq.password_file, "--broker-ca", authority)
    with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox:
        client.item(1)
        with Relay(binary, server.target, None, tmp_path / "token", *flags, *place.flags) as relay:
            relay.says("cannot be used as it is")
            assert relay.readiness() == 503
            authority.write_bytes(certificates.authority.read_bytes())
            inbox.wait(1)
            assert "amqps://" in relay.first_line and relay.stop() == 0


def test_waits_for_what_it_may_not_make(binary, place, tmp_path):
    with Server(binary) as server, Client(server.target) as client:
        client.item(1)
        with Relay(binary, server.target, place, tmp_path / "token", "--no-declare") as relay:
            relay.says("NOT_FOUND")
            assert relay.readiness() == 503
            with Inbox(place) as inbox:
                inbox.wait(1)
                eventually(lambda: relay.readiness() == 200)


def test_a_caller_needs_the_role_read(binary, place, tmp_path):
    """Wrong at the start, it ends; wrong later, it waits."""
    tokens, mine = tmp_path / "tokens", tmp_path / "mine"
    made = holdfast(binary, "token", "create", "--caller", "relay", "--role", "stock", "--file", tokens)
    mine.write_text("hft_nobody_has_this_token_0000000000000000000\n")
    flags = ("--token-file", mine)
    with Server(binary, "--tokens", tokens) as server, Inbox(place) as inbox:
        with Relay(binary, server.target, place, tmp_path / "token", *flags) as relay:
            assert relay.end() == 77 and "TOKEN_INVALID" in relay.text()
        mine.write_text(made.stdout)
        with Client(server.target, token=made.stdout.strip()) as client:
            sku = client.item(5, key="k-1")
            with Relay(binary, server.target, place, tmp_path / "token", *flags) as relay:
                inbox.wait(1)
                assert inbox.messages[0].event.idempotency_key == "k-1"
                text = tokens.read_text()
                tokens.write_text("")
                server.process.send_signal(1)
                relay.says("trying again")
                tokens.write_text(text)
                server.process.send_signal(1)
                relay.says("going on")
                eventually(lambda: client.adjust(sku, delta=1))
                inbox.wait(2)
                assert relay.stop() == 0


def test_says_that_events_are_lost_to_it(binary, place, tmp_path):
    """A token of another store, and one that is too old: it ends, and goes on only where it is told to."""
    file = tmp_path / "token"
    with Server(binary) as server, Server(binary, "--durability", "memory", "--history", "1") as other, Inbox(place) as inbox:
        with Client(server.target) as client, Relay(binary, server.target, place, file) as relay:
            client.item(1)
            inbox.wait(1)
            assert relay.stop() == 0
        with Client(other.target) as client:
            client.item(7)
            foreign = saved_token(file)
            with Relay(binary, other.target, place, file) as relay:
                assert relay.end() == 65
                assert "RESUME_TOKEN_FOREIGN" in relay.text() and "--begin-again" in relay.text()
            assert saved_token(file) == foreign and len(inbox.read()) == 1
            with Relay(binary, other.target, place, file, "--begin-again", "oldest") as relay:
                inbox.wait(2)
                assert "begins again at oldest" in relay.text()
                assert relay.stop() == 0
            old = saved_token(file)
            sku = client.item(1 << 30)
            for _ in range(40):
                client.import_rows(f"i-{time.monotonic_ns()}", [
                    {"sku": sku, "delta": 1, "any_version": True} for _ in range(1000)])
            with Relay(binary, other.target, place, file) as relay:
                assert relay.end() == 65 and "RESUME_TOKEN_TOO_OLD" in relay.text()
            assert saved_token(file) == old
            with Relay(binary, other.target, place, file, "--begin-again", "now") as relay:
                eventually(lambda: saved_token(file) != old)
                count = len(inbox.read())
                client.item(1)
                eventually(lambda: len(inbox.read()) == count + 1)
                assert relay.stop() == 0


def test_one_relay_has_a_resume_file(binary, place, tmp_path):
    with Server(binary) as server:
        with Relay(binary, server.target, place, tmp_path / "token"):
            done = holdfast(binary, "relay", "--target", server.target, "--broker", place.host.address, "--resume-file",
                            tmp_path / "token")
            assert done.returncode == 75 and "another relay has it" in done.stderr
    (tmp_path / "other").write_text("what is no token\n")
    done = holdfast(binary, "relay", "--broker", place.host.address, "--resume-file", tmp_path / "other")
    assert done.returncode == 65 and "no resume token" in done.stderr
    # It looks like one.
    (tmp_path / "other").write_text("1" * 60 + "\n")
    with Server(binary) as server:
        done = holdfast(binary, "relay", "--target", server.target, "--broker", place.host.address, "--resume-file", tmp_path / "other")
    assert done.returncode == 65 and f"--resume-file {tmp_path}/other: " in done.stderr


@pytest.mark.parametrize("status, words, flags", [
    (64, "--broker: say where", ()),
    (64, "--broker: not an address", ("--broker", "http://127.0.0.1")),
    (64, "--broker: not an address", ("--broker", "amqp://me:secret@host:0/x")),
    (64, "goes with amqps://", ("--broker", "amqp://127.0.0.1", "--broker-ca", "/etc/hostname")),
    (64, "go together", ("--broker", "amqps://127.0.0.1", "--broker-cert", "/etc/hostname")),
    (66, "--broker-ca /nowhere", ("--broker", "amqps://127.0.0.1", "--broker-ca", "/nowhere")),
    (66, "password file /nowhere", ("--broker", "amqp://127.0.0.1", "--broker-password-file", "/nowhere")),
    (66, "not a regular file", ("--broker", "amqp://127.0.0.1", "--broker-password-file", "/dev/null")),
    (64, "goes with kafka://", ("--broker", "amqp://127.0.0.1", "--broker-option", "a=b")),
    (64, "--broker-option: No such configuration property", ("--broker", "kafka://127.0.0.1", "--broker-option", "a.b=1")),
    (64, "acks cannot be set so", ("--broker", "kafka://127.0.0.1", "--broker-option", "acks=1")),
    (64, "sasl.password cannot be set so", ("--broker", "kafka://127.0.0.1", "--broker-option", "sasl.password=secret")),
    (64, "--broker: the user me has no password", ("--broker", "kafka://me@127.0.0.1")),
    (64, "not NAME=VALUE", ("--broker", "kafka://127.0.0.1", "--broker-option", "secret")),
    (64, "--destination", ("--broker", "amqp://127.0.0.1", "--destination", "")),
    (64, "--dead-letters", ("--broker", "amqp://127.0.0.1", "--dead-letters", "a b")),
    (64, "--dead-letters: another name", ("--broker", "kafka://127.0.0.1", "--destination", "a", "--dead-letters", "a")),
    (64, "--broker: not an address", ("--broker", "amqp://one,two")),
    (64, "--source", ("--broker", "amqp://127.0.0.1", "--source", "")),
    (64, "--window", ("--broker", "amqp://127.0.0.1", "--window", "0")),
    (64, "--shutdown-timeout: '11m' is not from 0s to 10m", ("--broker", "amqp://127.0.0.1", "--shutdown-timeout", "11m")),
    (64, "--shutdown-timeout", ("--broker", "amqp://127.0.0.1", "--shutdown-timeout", "1d")),
    (64, "format", ("--broker", "amqp://127.0.0.1", "--format", "xml")),
    (64, "--target", ("--broker", "amqp://127.0.0.1", "--target", "nowhere")),
    (74, "--resume-file", ("--broker", "amqp://127.0.0.1", "--resume-file", "/nowhere/token")),
])
def test_what_makes_no_sense(binary, tmp_path, status, words, flags):
    done = holdfast(binary, "relay", "--resume-file", tmp_path / "token", *flags)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert words in done.stderr and "secret" not in done.stderr
    assert not any(each.name == "token" for each in tmp_path.iterdir())


def test_a_broker_that_is_not_there_is_not_waited_for_at_the_end(binary, tmp_path):
    """There is nothing to be confirmed: what was decided comes from the position again."""
    with Server(binary) as server, Client(server.target) as client:
        client.item(1)
        flags = ("--broker", "amqp://127.0.0.1:1", "--shutdown-timeout", "10m")
        with Relay(binary, server.target, None, tmp_path / "token", *flags) as relay:
            relay.says("the broker is away")
            eventually(lambda: relay.metric("unconfirmed") == 1)
            assert relay.stop() == 0 and "1 messages were not confirmed" in relay.text()


def test_a_file_that_is_no_position(binary, tmp_path):
    """It says so, and leaves the file as it is."""
    (tmp_path / "notes").write_text("garbage\n")
    with Server(binary) as server:
        done = holdfast(binary, "relay", "--broker", "amqp://127.0.0.1:1", "--target", server.target,
                        "--resume-file", tmp_path / "notes")
    assert done.returncode == 65 and "cannot read the resume token in it" in done.stderr, done.stderr
    assert (tmp_path / "notes").read_text() == "garbage\n"


def test_a_password_is_warned_of(binary, place, rabbitmq, tmp_path):
    user, _, rest = place.host.address.partition("://")[2].partition("@")
    with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox:
        client.item(1)
        flags = ("--broker", f"amqp://{user}:{rabbitmq.password}@{rest}", *place.flags)
        with Relay(binary, server.target, None, tmp_path / "token", *flags) as relay:
            inbox.wait(1)
            assert "everybody on this machine can read a password" in relay.text()
            assert rabbitmq.password not in relay.text() + relay.first_line
        environment = {"HOLDFAST_BROKER": place.host.address, "HOLDFAST_BROKER_PASSWORD": rabbitmq.password}
        with Relay(binary, server.target, None, tmp_path / "token", *place.flags, environment=environment) as relay:
            client.item(2)
            inbox.wait(2)
            assert "warning" not in relay.text()


def test_the_page_of_metrics_is_complete(binary, place, tmp_path):
    with Server(binary) as server, Relay(binary, server.target, place, tmp_path / "token") as relay:
        names = set(re.findall(r"^# TYPE (holdfast_relay_\w+)", relay.page(), re.M))
        assert len(names) == 15 and "holdfast_relay_lag_seconds" in names, sorted(names)


def test_the_page(binary, place, rabbitmq, tmp_path):
    """docs/EVENTS.md up to the orders, which test_intake.py has: its commands, its event, and its consumer."""
    page = (REPOSITORY / "docs/EVENTS.md").read_text().partition("\n## Orders\n")[0]
    commands = [text for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
                for text in block.splitlines() if text.startswith("holdfast relay ")]
    assert len(commands) == 2
    (tmp_path / "broker.password").write_text(rabbitmq.password)
    (example,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert json_format.Parse(example, event_pb2.Event()).stock[0].available == 98
    reader, script = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {}
    exec(reader, names)  # the page's own words
    event = json_format.Parse(example, event_pb2.Event())
    assert names["read"]("application/json", example) == event
    assert names["read"]("application/protobuf", event.SerializeToString()) == event
    (generate,) = [block for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "protoc" in block]
    subprocess.run(["bash", "-euc", generate.replace(".venv/bin/python", sys.executable).replace("out/python", str(tmp_path / "stubs"))],
                   cwd=REPOSITORY, check=True)
    assert len(list((tmp_path / "stubs/holdfast/v1").iterdir())) == 4
    user, _, rest = place.host.address.partition("://")[2].partition("@")
    script = script.replace("amqp://holdfast:secret@127.0.0.1:5672/%2F", f"amqp://{user}:{rabbitmq.password}@{rest}")
    with Server(binary) as server, Client(server.target) as client:
        for text in commands:
            words = shlex.split(text.replace("amqp://holdfast@127.0.0.1:5672/", place.host.address)
                                .replace(":9092", ":1").replace("7422", "0"))
            process = subprocess.Popen([binary, *words[1:], "--target", server.target, "--shutdown-timeout", "1s"], cwd=tmp_path,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert process.stdout.readline().startswith("holdfast relaying: broker ")
            if "amqp:" in text:
                Inbox(Place(place.host, "holdfast.events")).close()
                consumer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
                eventually(lambda: "shop-window" in place.host.queues())
                sku = client.item(100)
                client.reserve(line(sku, 2))
                said = [consumer.stdout.readline().split() for _ in range(2)]
                assert said == [["StockAdjusted", sku, "100"], ["StockReserved", sku, "98"]]
                consumer.kill()
                consumer.communicate()
            process.terminate()
            errors = process.communicate(timeout=30)[1]
            assert process.returncode == 0, errors


def test_as_a_service(binary, place, rabbitmq, tmp_path):
    """As the unit starts it: secrets are files of the service manager, which hears how it is."""
    credentials, tokens = tmp_path / "credentials", tmp_path / "tokens"
    credentials.mkdir()
    made = holdfast(binary, "token", "create", "--caller", "relay", "--role", "stock", "--file", tokens)
    (credentials / "holdfast_token").write_text(made.stdout)
    (credentials / "holdfast_broker-password").write_text(rabbitmq.password + "\n")
    manager = Manager(tmp_path / "notify")
    environment = manager.environment(WATCHDOG_USEC=100_000, CREDENTIALS_DIRECTORY=credentials,
                                      HOLDFAST_BROKER=place.host.address)
    with Server(binary, "--tokens", tokens) as server, Inbox(place) as inbox:
        with Client(server.target, token=made.stdout.strip()) as client:
            with Relay(binary, server.target, None, tmp_path / "token", *place.flags, environment=environment) as relay:
                manager.wait_for("READY=1")
                client.item(1)
                inbox.wait(1)
                manager.wait_for("STATUS=relays")
                eventually(lambda: len(manager.pings()) > 3)
                assert relay.stop() == 0, relay.text()
    stopping = manager.wait_for("STOPPING=1")
    assert "EXTEND_TIMEOUT_USEC=11000000" in stopping
    assert "not come round" not in "".join(map(str, manager.messages))
    manager.close()
