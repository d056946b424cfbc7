"""`holdfast relay` over Kafka's protocol: librdkafka's mock cluster, with confluent-kafka as the consumer."""

import concurrent.futures
import contextlib
import threading

import pytest

from client import Client, fresh, line
from kafka import MESSAGE_TOO_LARGE, NOT_LEADER, ONE_AT_A_TIME, OUT_OF_ORDER, PRODUCE, Kafka, needs_kafka
from relaying import Relay, check, expected, watched, without_doubles
from server import Server, eventually, holdfast

pytestmark = needs_kafka


@pytest.fixture(scope="module")
def kafka():
    with Kafka(brokers=2) as running:
        yield running


class Events:
    """Topics of their own, and a relay's flags for them."""

    def __init__(self, kafka):
        self.kafka, self.name = kafka, kafka.topic(fresh("events"))
        self.dead = kafka.topic(f"{self.name}.dead", 1)
        self.flags = ("--broker", kafka.address, "--destination", self.name, "--dead-letters", self.dead)

    def relay(self, binary, server, resume_file, *flags):
        return Relay(binary, server.target, None, resume_file, *self.flags, *flags)

    def wait(self, count):
        """Until so many different messages are there."""
        return self.kafka.records(self.name, lambda records: len({each.key for each in records}) >= count)


@pytest.fixture
def events(kafka):
    return Events(kafka)


@contextlib.contextmanager
def decisions(target, skus):
    """Somebody who reserves and releases until the block ends: some 150 decisions a second, however long that is, for the
    mock keeps 5 MB of a partition, and the check reads it from its beginning."""
    done = threading.Event()

    def decide():
        with Client(target) as client:
            while not done.wait(0.1):
                for sku in skus:
                    client.release(client.reserve(line(sku)).reservation_id)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        deciding = pool.submit(decide)
        try:
            yield
        finally:
            done.set()
        # What ended it early is why something was waited for in vain.
        deciding.result()


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_every_decision_comes_in_order_in_the_partition_of_its_sku(binary, kafka, events, tmp_path, form):
    with Server(binary) as server, Client(server.target) as client:
        skus = [client.item(10) for _ in range(12)]
        for number, sku in enumerate(skus):
            held = client.reserve(line(sku), line(skus[number - 1]), reference=f"order-{number}").reservation_id
            (client.confirm if number % 2 else client.release)(held)
        with events.relay(binary, server, tmp_path / "position", "--format", form) as relay:
            decided, token = watched(client)
            records = events.wait(len(expected(decided)))
            eventually(lambda: relay.is_caught_up(decided[-1].lsn))
            assert relay.stop() == 0
    check(records, decided, token[1:17])
    assert len(records) == len(without_doubles(records))
    # An independent producer puts the same keys into the same partitions.
    other, producer = kafka.topic(fresh("other")), kafka.producer()
    for sku in skus:
        producer.produce(other, b"", sku)
    assert producer.flush(30) == 0
    elsewhere = {each.sku: each.partition for each in kafka.records(other, lambda found: len(found) == len(skus))}
    assert {each.sku: each.partition for each in records} == elsewhere
    record = next(each for each in records if each.type == "StockReserved")
    assert record.headers.items() >= {
        "ce_specversion": "1.0", "ce_source": "holdfast", "ce_subject": record.sku, "ce_partitionkey": record.sku,
        "ce_sequence": f"{record.event.lsn:020}", "ce_reservationid": record.event.reservation_id,
        "ce_reference": record.event.reference, "content-type": f"application/{form}"}.items()
    assert record.milliseconds == record.event.decided_at.ToMilliseconds()


@pytest.mark.broker
def test_the_order_holds_over_a_broker_that_is_away_and_a_relay_that_is_killed(binary, kafka, events, tmp_path):
    flags = (tmp_path / "position", *ONE_AT_A_TIME)
    with Server(binary) as server, Client(server.target) as client, contextlib.ExitStack() as relays:
        skus = [client.item(10) for _ in range(8)]
        relay = relays.enter_context(events.relay(binary, server, *flags))
        decided, _ = watched(client)
        eventually(lambda: relay.is_caught_up(decided[-1].lsn))
        with contextlib.ExitStack() as load:
            # Nothing is on its way just now: the mock would take what follows a request without an answer first.
            with kafka.away():
                load.enter_context(decisions(server.target, skus))
                relay.says("the broker is away", 60)
                eventually(lambda: relay.metric("connected", side="broker") == 0)
            eventually(lambda: relay.metric("confirmed_total") > 200, 60)
            for _ in range(2):
                relay.kill()
                relay = relays.enter_context(events.relay(binary, server, *flags))
                eventually(lambda: relay.metric("confirmed_total") > 200, 60)
        decided, token = watched(client)
        eventually(lambda: relay.is_caught_up(decided[-1].lsn), 60)
        records = events.wait(len(expected(decided)))
        assert relay.stop() == 0
    check(records, decided, token[1:17])


def test_nothing_is_lost_over_requests_that_fail(binary, kafka, events, tmp_path):
    with Server(binary) as server, Client(server.target) as client:
        skus = [client.item(10) for _ in range(8)]
        with events.relay(binary, server, tmp_path / "position", *ONE_AT_A_TIME) as relay:
            with decisions(server.target, skus):
                for errors in ([NOT_LEADER] * 3, [OUT_OF_ORDER]):
                    kafka.tell("errors", PRODUCE, *errors)
                    confirmed = relay.metric("confirmed_total")
                    eventually(lambda: relay.metric("confirmed_total") > confirmed + 100, 60)
            decided, token = watched(client)
            eventually(lambda: relay.is_caught_up(decided[-1].lsn), 60)
            records = events.wait(len(expected(decided)))
            assert relay.stop() == 0
    # Their order is the broker's to keep, by sequence numbers, which the mock does not look at.
    found = {each.key: each.event for each in records}
    assert found == {(f"{token[1:17]}-{lsn}", sku): event for lsn, sku, event in expected(decided)}


def test_a_message_that_is_refused_goes_to_the_dead_letters(binary, kafka, events, tmp_path):
    with Server(binary) as server, Client(server.target) as client:
        with events.relay(binary, server, tmp_path / "position") as relay:
            kafka.tell("errors", PRODUCE, MESSAGE_TOO_LARGE)
            refused = client.item(3)
            letter, = kafka.records(events.dead, lambda found: len(found) == 1, partitions=1)
            taken = client.item(4)
            records = kafka.records(events.name, lambda found: taken in {each.sku for each in found})
            assert {each.sku for each in records} == {taken}
            assert relay.metric("dead_letters_total", reason="MESSAGE_TOO_LARGE") == 1
    assert letter.sku == refused and letter.body in (b"", None) and letter.headers["ce_type"] == "StockAdjusted"
    assert letter.headers.items() >= {"ce_deadreason": "MESSAGE_TOO_LARGE", "ce_deaddestination": events.name,
                                      "ce_deadbody": "omitted"}.items()
    assert "too large" in letter.headers["ce_deadtext"] and letter.headers["ce_deadtime"]


@pytest.mark.parametrize("property, words", [
    ("acks=1", "the property acks cannot be set so: a message could be lost with one broker"),
    ("no.such=1", 'No such configuration property: "no.such"'),
])
def test_a_property_that_is_not_to_be_had_ends_it(binary, server, kafka, tmp_path, property, words):
    done = holdfast(binary, "relay", "--broker", kafka.address, "--target", server.target, "--resume-file", tmp_path / "position",
                    "--broker-option", property)
    assert (done.returncode, done.stdout) == (64, "") and words in done.stderr, done


@pytest.mark.parametrize("flags, words", [
    (("--broker-option", "ssl.key.password=x", "--broker", "kafka://127.0.0.1:1"), "127.0.0.1:1"),
    (("--broker", "kafkas://{servers}"), "kafka"),
])
def test_it_says_what_is_wrong_and_waits(binary, server, kafka, events, tmp_path, flags, words):
    flags = [each.format(servers=kafka.servers) for each in flags]
    with events.relay(binary, server, tmp_path / "position", *flags) as relay:
        relay.says(words)
        eventually(lambda: relay.readiness() == 503)
        assert relay.stop() == 0
