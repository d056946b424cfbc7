"""`holdfast intake` under test, and a shop that places orders and hears what becomes of them: by pika, with protobuf's own
reader and writer of JSON."""

import collections
import re

import pika
from google.protobuf import duration_pb2, json_format
from holdfast.v1 import order_pb2, reservation_pb2

from broker_service import BrokerService
from client import fresh
from rabbitmq import take
from server import eventually

READY = re.compile(r"holdfast taking orders: broker (\S+) orders (\S+)(?: admin (http://\S+))? pid (\d+)\n")
ANSWERS = {"StockReserved": order_pb2.OrderReserved, "StockRejected": order_pb2.OrderRejected}
JSON, PROTOBUF = "application/json", "application/protobuf"


class Intake(BrokerService):
    """Started when the constructor returns; with `waits`, it takes orders by then."""

    name, ready = "intake", READY

    def __init__(self, binary, target, shop, *flags, waits=True, password_file=None, environment=()):
        host = shop.host
        super().__init__([binary, "intake", "--target", target, "--broker", host.address, "--broker-password-file",
                          password_file or host.broker.password_file, *shop.flags, "--admin-port", "0", *flags], environment)
        if waits:
            self.wait_until_ready()

    def is_ready(self):
        return self.readiness() == 200

    def wait_until_ready(self, seconds=60):
        eventually(self.is_ready, seconds)


class Shop:
    """Places orders, and hears of them: with an exchange, queues and names of its own in a virtual host."""

    def __init__(self, host, partitions=4):
        self.host = host
        self.orders, self.answers = fresh("orders"), fresh("answers")
        self.dead, self.inbox = f"{self.orders}.dead", fresh("inbox")
        self.flags = ("--orders", self.orders, "--answers", self.answers, "--dead-letters", self.dead,
                      "--partitions", str(partitions))
        self.queues = [f"{self.orders}.{number}" for number in range(partitions)]
        self.heard = []
        self.connect()
        self.channel.exchange_declare(self.answers, "topic", durable=True)
        self.channel.queue_declare(self.inbox, durable=True)
        self.channel.queue_bind(self.inbox, self.answers, "#")

    def connect(self):
        self.connection = self.host.connect()
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def publish(self, body, sku="sku", content_type=JSON, type="OrderPlaced", message_id=None, reply_to=None):
        self.channel.basic_publish(
            self.orders, sku, body, mandatory=True,
            properties=pika.BasicProperties(content_type=content_type, type=type, message_id=message_id, correlation_id=message_id,
                                            reply_to=reply_to, delivery_mode=2))

    def place(self, order, form=JSON, reply_to=None):
        body = json_format.MessageToJson(order).encode() if form == JSON else order.SerializeToString()
        self.publish(body, order.lines[0].sku if order.lines else "", form, message_id=order.order_id, reply_to=reply_to)
        return order.order_id

    def hear(self):
        """All answers so far, doubles too."""
        self.heard += [Answer(*each) for each in take(self.channel, self.inbox)]
        return self.heard

    def wait(self, ids, seconds=60):
        """Until each of these orders is answered. {id: answer}; doubles say the same."""
        wanted = set(ids)
        eventually(lambda: wanted <= {each.order_id for each in self.hear()}, seconds)
        return self.settled()

    def settled(self):
        """{id: answer} of what was heard; doubles say the same."""
        found = collections.defaultdict(list)
        for each in self.heard:
            found[each.order_id].append(each)
        for doubles in found.values():
            assert len({(each.type, getattr(each.message, "reservation_id", "")) for each in doubles}) == 1, doubles
        return {order_id: doubles[0] for order_id, doubles in found.items()}

    def buried(self, count=None):
        """The dead letters, taken out."""
        return take(self.channel, self.dead, count)

    def dead_count(self):
        return self.channel.queue_declare(self.dead, passive=True).method.message_count

    def left(self):
        """Orders in the queues that are in nobody's hand."""
        return sum(self.channel.queue_declare(queue, passive=True).method.message_count for queue in self.queues)

    def wait_until_empty(self, intake, seconds=60):
        eventually(lambda: self.left() == 0 and intake.metric("in_hand") == 0, seconds)

    def close(self):
        if self.connection.is_open:
            self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Answer:
    def __init__(self, method, properties, body, question=None):
        """`question`: the correlation id of who has asked, if that is not the order's id."""
        self.method, self.properties, self.body = method, properties, body
        self.order_id, self.type = properties.message_id, properties.type
        assert properties.correlation_id == (question or self.order_id) and properties.delivery_mode == 2
        self.attributes = {name.removeprefix("cloudEvents_"): value for name, value in properties.headers.items()}
        kind = ANSWERS[self.type]
        if properties.content_type == JSON:
            self.message = json_format.Parse(body.decode(), kind())
        else:
            assert properties.content_type == PROTOBUF
            self.message = kind.FromString(body)
        assert self.message.order_id == self.order_id

    @property
    def is_reserved(self):
        return self.type == "StockReserved"

    def __repr__(self):
        return f"{self.type} {self.message}"


def order(sku, quantity=1, order_id=None, ttl=None, **fields):
    return order_pb2.OrderPlaced(
        order_id=order_id or fresh("order"), lines=[reservation_pb2.ReservationLine(sku=sku, quantity=quantity)],
        ttl=None if ttl is None else duration_pb2.Duration(seconds=ttl), **fields)


def reason(letter):
    return letter[1].headers["cloudEvents_deadreason"]
