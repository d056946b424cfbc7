"""`holdfast relay` while a RabbitMQ of its own is killed, blocked, emptied and refuses (`make test-broker`)."""

import contextlib
import random
import socket
import threading
import time

import pytest

from client import Client, fresh, line
from rabbitmq import RabbitMQ, needs_rabbitmq, take
from relaying import Inbox, Place, Relay, check, saved_token, watched, without_doubles
from server import Server, eventually
from test_lifecycle import metric

pytestmark = [needs_rabbitmq, pytest.mark.broker]


@pytest.fixture(scope="module")
def rabbitmq():
    with RabbitMQ() as running:
        yield running


@pytest.fixture(scope="module")
def host(rabbitmq):
    with rabbitmq.virtual_host() as made:
        yield made


@pytest.fixture
def place(host):
    return Place(host)


@pytest.fixture
def cleanup():
    with contextlib.ExitStack() as stack:
        yield stack


class Load:
    """Decisions of some items, one after the other, until it is stopped; goes on over a server's end."""

    def __init__(self, target, seconds_between=0.001):
        self.target, self.pause = target, seconds_between
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        skus = [fresh() for _ in range(5)]
        made = set()
        with Client(self.target) as client:
            while not self.ended.is_set():
                sku = random.choice(skus)
                with contextlib.suppress(Exception):
                    if sku not in made:
                        client.adjust(sku, set_on_hand=1_000_000)
                        made.add(sku)
                    held = client.reserve(line(sku, 1)).reservation_id
                    random.choice([client.confirm, client.release])(held)
                time.sleep(self.pause)

    def stop(self):
        self.ended.set()
        self.thread.join(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def settle(relay, inbox, client):
    """Waits until everything is relayed, and checks it. The messages, without doubles."""
    events, token = watched(client)
    eventually(lambda: relay.is_caught_up(events[-1].lsn), 90)
    messages = inbox.read()
    check(messages, events, token[1:17])
    return without_doubles(messages)


def test_a_broker_that_is_killed_and_started_again(binary, rabbitmq, place, tmp_path):
    with Server(binary) as server, Client(server.target) as client, \
            Relay(binary, server.target, place, tmp_path / "token") as relay:
        inbox = Inbox(place)
        with Load(server.target):
            inbox.wait(50)
            rabbitmq.kill()
            relay.says("trying again")
            eventually(lambda: relay.metric("unconfirmed") > 20)
            assert relay.readiness() == 503 and relay.metric("lag_seconds") > 0
            rabbitmq.start()
            relay.says("going on", 60)
        inbox.connect()
        settle(relay, inbox, client)
        assert relay.metric("reconnects_total", side="broker") == 1
        assert relay.readiness() == 200 and relay.stop() == 0


def test_a_connection_that_is_cut_again_and_again(binary, rabbitmq, place, tmp_path):
    # Before the relay: what nobody has bound a queue for is gone.
    inbox = Inbox(place)
    with Server(binary) as server, Client(server.target) as client, \
            Relay(binary, server.target, place, tmp_path / "token") as relay, Load(server.target, 0.005) as load:
        inbox.wait(20)
        for count in range(1, 5):
            rabbitmq.close_connections()
            eventually(lambda: relay.metric("reconnects_total", side="broker") >= count)
            inbox.connect()
            known = len(without_doubles(inbox.messages))
            inbox.wait(known + 20)
        load.stop()
        settle(relay, inbox, client)
        assert relay.stop() == 0


def test_a_broker_short_of_disk(binary, rabbitmq, place, tmp_path):
    with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox, \
            Relay(binary, server.target, place, tmp_path / "token") as relay:
        client.item(1)
        inbox.wait(1)
        rabbitmq.alarm("disk")
        try:
            before = saved_token(tmp_path / "token")
            for _ in range(20):
                client.item(1)
            eventually(lambda: relay.metric("blocked") == 1)
            assert relay.readiness() == 503
            relay.says("takes nothing for now")
            eventually(lambda: relay.metric("lag_seconds") > 1)
            assert len(inbox.read()) <= 2 and saved_token(tmp_path / "token") == before
        finally:
            rabbitmq.quiet()
        inbox.wait(21)
        settle(relay, inbox, client)
        assert relay.readiness() == 200 and relay.stop() == 0


def test_a_broker_that_does_not_answer(binary, rabbitmq, place, tmp_path):
    """Frozen: nothing comes, and nothing ends either. The relay ends when it is asked to, and nothing is lost."""
    file = tmp_path / "token"
    with Server(binary) as server, Client(server.target) as client:
        inbox = Inbox(place)
        with Relay(binary, server.target, place, file, "--shutdown-timeout", "1s") as relay:
            client.item(1)
            inbox.wait(1)
            rabbitmq.freeze()
            try:
                for _ in range(20):
                    client.item(1)
                eventually(lambda: relay.metric("unconfirmed") == 20)
                assert relay.stop() == 0
                assert "20 messages were not confirmed" in relay.text()
            finally:
                rabbitmq.thaw()
        inbox.connect()
        with Relay(binary, server.target, place, file) as relay:
            inbox.wait(21)
            settle(relay, inbox, client)


def test_a_broker_that_takes_connections_and_says_nothing(binary, tmp_path):
    """An attempt takes ten seconds. The server is no less there for that."""
    with Server(binary) as server, Client(server.target) as client, socket.create_server(("127.0.0.1", 0)) as mute:
        client.item(1)
        address = f"amqp://127.0.0.1:{mute.getsockname()[1]}"
        with Relay(binary, server.target, None, tmp_path / "token", "--broker", address, "--shutdown-timeout", "1s") as relay:
            relay.says("it does not answer")
            eventually(lambda: relay.metric("connected", side="server") == 1)
            assert "nobody answers" not in relay.text()
            assert relay.readiness() == 503 and relay.stop() == 0


def test_a_message_that_is_too_large(binary, rabbitmq, place, tmp_path):
    """It goes to the dead letters without its body, and those around it where they belong, in order."""
    try:
        with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox:
            sku = client.item(1000)
            for _ in range(100):
                client.adjust(sku, delta=1)
            held = client.reserve(*(line(each) for each in [sku] + [client.item(5) for _ in range(63)]))
            for _ in range(100):
                client.adjust(sku, delta=1)
            rabbitmq.set_message_limit(2000)
            with Relay(binary, server.target, place, tmp_path / "token") as relay:
                events, token = watched(client)
                eventually(lambda: relay.is_caught_up(events[-1].lsn))
                # The event is whole for each of its 64 SKUs.
                assert relay.metric("dead_letters_total", reason="MESSAGE_TOO_LARGE") == 64
                dead = take(inbox.channel, place.dead, 64)
                for _, properties, body in dead:
                    headers = properties.headers
                    assert body == b"" and headers["cloudEvents_deadbody"] == "omitted"
                    assert headers["cloudEvents_deadreason"] == "MESSAGE_TOO_LARGE"
                    assert headers["cloudEvents_deaddestination"] == place.name
                    assert headers["cloudEvents_reservationid"] == held.reservation_id
                    assert "2000" in headers["cloudEvents_deadtext"] and headers["cloudEvents_deadtime"]
                assert len({properties.message_id for _, properties, _ in dead}) == 1
                check(inbox.read(), [event for event in events if event.reservation_id != held.reservation_id], token[1:17])
                assert relay.readiness() == 200 and relay.stop() == 0
    finally:
        rabbitmq.set_message_limit(1 << 24)


def test_dead_letters_that_have_no_place(binary, rabbitmq, host, place, tmp_path):
    """The queue for them is deleted under the relay: it waits, says so, and loses nothing."""
    try:
        with Server(binary) as server, Client(server.target) as client, Inbox(place) as inbox, \
                Relay(binary, server.target, place, tmp_path / "token") as relay:
            client.item(1)
            inbox.wait(1)
            eventually(lambda: place.dead in host.queues())
            host.delete_queue(place.dead)
            rabbitmq.set_message_limit(1000)
            # Channels that are open keep their limit.
            rabbitmq.close_connections()
            eventually(lambda: relay.metric("reconnects_total", side="broker") == 1)
            inbox.connect()
            host.delete_queue(place.dead)
            client.reserve(*(line(client.item(5)) for _ in range(20)))
            # Each attempt over a new connection makes the queue again: that is its remedy.
            eventually(lambda: relay.metric("dead_letters_total", reason="MESSAGE_TOO_LARGE") == 20, 60)
            inbox.connect()
            assert len(take(inbox.channel, place.dead, 20)) == 20
    finally:
        rabbitmq.set_message_limit(1 << 24)


def test_a_queue_that_is_full_and_rejects(binary, host, place, tmp_path):
    """basic.nack: the relay waits until there is room, and loses nothing."""
    arguments = {"x-max-length": 10, "x-overflow": "reject-publish"}
    with Server(binary) as server, Client(server.target) as client, Inbox(place, arguments=arguments) as inbox, \
            Relay(binary, server.target, place, tmp_path / "token") as relay:
        skus = [client.item(1) for _ in range(100)]
        relay.says("does not take a message for now")
        eventually(lambda: relay.metric("stuck") == 1 and relay.metric("postponed_total") > 0)
        assert relay.readiness() == 503
        inbox.wait(100, 120)
        eventually(lambda: relay.metric("unconfirmed") == 0)
        assert {message.sku for message in inbox.read()} == set(skus)
        assert relay.metric("dead_letters_total", reason="REJECTED") == 0


def test_a_queue_and_an_exchange_that_are_deleted(binary, host, place, tmp_path):
    with Server(binary) as server, Client(server.target) as client, \
            Relay(binary, server.target, place, tmp_path / "token") as relay:
        with Inbox(place) as inbox:
            client.item(1)
            inbox.wait(1)
            # Nobody listens: that is nobody's business but the consumer's.
            inbox.channel.queue_delete(inbox.queue)
            client.item(1)
            eventually(lambda: relay.metric("confirmed_total") == 2)
            inbox.channel.exchange_delete(place.name)
        client.item(1)
        # It makes the exchange again, and publishes what was not confirmed.
        eventually(lambda: relay.metric("confirmed_total") == 3)
        with Inbox(place) as inbox:
            client.item(1)
            inbox.wait(1)
        assert relay.stop() == 0


def test_many_events_behind(binary, generator, place, tmp_path):
    """Memory stays where it is, and the rest comes behind kill -9."""
    file = tmp_path / "token"
    with Server(binary) as server, Client(server.target) as client:
        backlog = 60_000
        sku, rows = fresh(), []
        for number in range(backlog):
            rows.append({"sku": f"{sku}-{number % 1000}", "delta": 1, "any_version": True})
        for first in range(0, backlog, 20_000):
            client.import_rows(fresh("import"), rows[first:first + 20_000])
        inbox = Inbox(place)
        with Relay(binary, server.target, place, file, "--window", "2000", "--format", "protobuf") as relay:
            eventually(lambda: relay.metric("confirmed_total") > 5000, 60)
            relay.kill()
        with Relay(binary, server.target, place, file, "--window", "2000", "--format", "protobuf") as relay:
            events, token = watched(client)
            eventually(lambda: relay.is_caught_up(events[-1].lsn), 120)
            assert resident_bytes(relay.pid) < 150 << 20
            assert relay.metric("lag_seconds") == 0 and relay.metric("lag_lsns") == 0
            assert relay.stop() == 0
        messages = inbox.read()
        check(messages, events, token[1:17])
        # What came again is what one run had not kept: no more than a second of it.
        assert len(messages) < backlog + 40_000
        inbox.close()


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(row.split()[1]) * 1024 for row in status if row.startswith("VmRSS"))


def test_a_broker_that_is_away_for_long(binary, rabbitmq, place, tmp_path):
    """The outbox is full: the relay reads nothing more, gives the watch up, and goes on when the broker is back."""
    with Server(binary) as server, Client(server.target) as client, \
            Relay(binary, server.target, place, tmp_path / "token", "--window", "100") as relay:
        inbox = Inbox(place)
        client.item(1)
        inbox.wait(1)
        rabbitmq.kill()
        try:
            skus = [client.item(1) for _ in range(300)]
            # Nothing is read any more, and then the server is let go.
            eventually(lambda: metric(server, "holdfast_watches") == 0 and relay.metric("unconfirmed") >= 100, 60)
            assert relay.metric("unconfirmed") < 300
            # That is the broker's doing.
            assert relay.metric("connected", side="server") == 1 and relay.metric("connected", side="broker") == 0
            assert relay.readiness() == 503
        finally:
            rabbitmq.start()
        eventually(lambda: relay.readiness() == 200, 60)
        inbox.connect()
        settle(relay, inbox, client)
        assert {message.sku for message in inbox.messages} >= set(skus)
        assert relay.stop() == 0


@pytest.mark.parametrize("seed", range(2))
def test_everything_goes_wrong_at_once(binary, rabbitmq, place, cleanup, tmp_path, seed):
    """Server, relay and broker are killed, cut and blocked in turn and together, under load."""
    random.seed(seed)
    file, data = tmp_path / "token", tmp_path / "data"
    server = cleanup.enter_context(Server(binary, data=data))
    target, flags = server.target, ("--port", str(server.port))
    relay = cleanup.enter_context(Relay(binary, target, place, file))
    inbox = Inbox(place)
    load = cleanup.enter_context(Load(target, 0.002))
    inbox.wait(20)
    for _ in range(8):
        faults = random.sample(["server", "relay", "broker", "cut", "alarm"], random.choice([1, 2, 2, 3]))
        if "alarm" in faults:
            rabbitmq.alarm("disk")
        if "cut" in faults:
            rabbitmq.close_connections()
        if "broker" in faults:
            rabbitmq.kill()
        if "server" in faults:
            server.kill()
        if "relay" in faults:
            relay.kill()
        time.sleep(random.random())
        if "server" in faults:
            server = cleanup.enter_context(Server(binary, *flags, data=data))
        if "relay" in faults:
            relay = cleanup.enter_context(Relay(binary, target, place, file))
        if "broker" in faults:
            rabbitmq.start()
        if "alarm" in faults:
            rabbitmq.quiet()
        time.sleep(random.random())
    load.stop()
    inbox.connect()
    with Client(target) as client:
        settle(relay, inbox, client)
        assert inbox.messages
    assert relay.stop() == 0, relay.text()
