"""`holdfast intake` over Kafka's protocol: librdkafka's mock cluster, with confluent-kafka as the shop."""

import collections
import types

import pytest
from google.protobuf import json_format
from holdfast.v1 import order_pb2, reservation_pb2

from client import fresh
from kafka import ONE_AT_A_TIME, Kafka, needs_kafka
from ordering import Intake
from server import eventually

pytestmark = needs_kafka


@pytest.fixture(scope="module")
def kafka():
    with Kafka(brokers=2) as running:
        yield running


class Shop:
    """Places orders in a topic and reads what is answered."""

    def __init__(self, kafka, folder):
        self.kafka, self.orders, self.answers = kafka, kafka.topic(fresh("orders")), kafka.topic(fresh("answers"))
        self.dead = kafka.topic(f"{self.orders}.dead", 1)
        # Nobody is asked for a password without a user.
        file = folder / "password"
        file.write_text("unused\n")
        self.host = types.SimpleNamespace(address=kafka.address, broker=types.SimpleNamespace(password_file=file))
        self.flags = ("--orders", self.orders, "--answers", self.answers, "--dead-letters", self.dead,
                      # A killed one is soon missed.
                      "--broker-option", "session.timeout.ms=6000", "--broker-option", "heartbeat.interval.ms=500",
                      *ONE_AT_A_TIME)
        self.producer = kafka.producer()

    def place(self, sku, quantity=1, body=None, **headers):
        placed = order_pb2.OrderPlaced(
            order_id=fresh("order"), lines=[reservation_pb2.ReservationLine(sku=sku, quantity=quantity)])
        self.producer.produce(
            self.orders, body or json_format.MessageToJson(placed), sku,
            headers={"content-type": "application/json", "ce_type": "OrderPlaced", "ce_id": placed.order_id, **headers})
        return placed.order_id

    def wait(self, ids, topic=None):
        """{id: answer} once each order is answered; doubles say the same."""
        self.producer.flush(60)
        wanted = set(ids)
        records = self.kafka.records(topic or self.answers, lambda found: wanted <= {each.id for each in found})
        answers = collections.defaultdict(set)
        for each in records:
            kind = order_pb2.OrderReserved if each.type == "StockReserved" else order_pb2.OrderRejected
            answers[each.id].add((each.type, getattr(each.read(kind), "reservation_id", ""), each.headers["ce_correlationid"]))
        assert all(len(doubles) == 1 for doubles in answers.values())
        return {order: doubles.pop() for order, doubles in answers.items()}


def test_orders_are_answered_once_over_kills_and_a_broker_that_is_away(binary, server, client, kafka, tmp_path):
    shop = Shop(kafka, tmp_path)
    scarce, plenty = client.item(30), client.item(10_000)
    orders = {}

    def place(count):
        for number in range(count):
            orders[shop.place(scarce)] = scarce
            orders[shop.place(plenty, number % 3 + 1)] = plenty

    with Intake(binary, server.target, shop) as intake:
        place(40)
        shop.producer.flush(60)
        eventually(lambda: client.level(plenty).held > 0, 60)
        place(100)
        intake.kill()
    with Intake(binary, server.target, shop) as intake:
        place(40)
        with kafka.away():
            pass
        place(40)
        poison = shop.place(plenty, body=b"not an order")
        elsewhere = kafka.topic(fresh("elsewhere"))
        asked = shop.place(plenty, ce_replyto=elsewhere)
        answers = shop.wait(orders)
        letter, = kafka.records(shop.dead, lambda found: len(found) == 1, partitions=1)
        assert list(shop.wait([asked], elsewhere)) == [asked]
        assert intake.stop() == 0
    assert answers.keys() == orders.keys()
    assert letter.id == poison and letter.body == b"not an order" and letter.headers["ce_deadreason"] == "MALFORMED_BODY"
    assert letter.headers["ce_deaddestination"].startswith(f"{shop.orders}[")
    kinds = collections.Counter((orders[order], kind) for order, (kind, _, _) in answers.items())
    assert kinds[scarce, "StockReserved"] == 30 and kinds[scarce, "StockRejected"] == 220 - 30
    assert kinds[plenty, "StockReserved"] == 220
    assert all(correlation == order for order, (_, _, correlation) in answers.items())
    held = sum(number % 3 + 1 for count in (40, 100, 40, 40) for number in range(count)) + 1
    assert client.level(scarce).held == 30 and client.level(plenty).held == held


def test_an_order_that_was_answered_does_not_come_again(binary, server, client, kafka, tmp_path):
    shop = Shop(kafka, tmp_path)
    sku = client.item(100)
    shop.producer.produce(shop.dead, b"somebody's order")
    shop.producer.flush(60)
    with Intake(binary, server.target, shop) as intake:
        eventually(lambda: intake.metric("dead_letter_queue_messages") == 1)
        first = [shop.place(sku) for _ in range(20)]
        shop.wait(first)
        assert intake.stop() == 0
    with Intake(binary, server.target, shop) as intake:
        second = [shop.place(sku) for _ in range(20)]
        shop.wait(second)
        assert intake.metric("answers_total", type="StockReserved") == 20
        assert intake.stop() == 0
