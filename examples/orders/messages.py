"""The shop on the queue: OrderPlaced goes out until it is answered; answers and events come in, each once.

Publisher and Consumer are threads with a connection each. Where the broker is away they wait and begin again; nothing is
lost by that, since the orders table is the outbox, and what is not acknowledged is delivered again.
"""

import functools
import json
import logging
import threading
import time

import pika
from google.protobuf import duration_pb2, json_format
from holdfast.v1 import event_pb2, order_pb2, reservation_pb2

log = logging.getLogger("messages")

ORDERS = "orders"                   # holdfast intake's: a consistent-hash exchange, by SKU
ANSWERS = "orders.answers"          # holdfast intake's
EVENTS = "holdfast.events"          # holdfast relay's
DEAD = "shop.dead"                  # what nobody here can read
SOURCE = "shop"
TROUBLE = (pika.exceptions.AMQPError, OSError)
RECONNECT_SECONDS = 0.5
WORKED_SECONDS = 10                 # no attempt to connect takes as long


def for_ever(work):
    """work() returns when its connection is lost. Trouble is told when it begins and when it changes."""
    told = None
    while True:
        began = time.monotonic()
        try:
            work()
        except TROUBLE as error:
            has_worked = time.monotonic() - began > WORKED_SECONDS
            if has_worked or repr(error) != told:
                log.info("%s: %r; again, until it works", work.__qualname__, error)
            told = repr(error)
        time.sleep(RECONNECT_SECONDS)


class Publisher:
    """Publishes each order that has no answer; again after 5 s, 10 s, up to a minute: the intake answers doubles as it did."""

    def __init__(self, orders, parameters, hold_seconds, consumer_is_ready, again=5.0, give_up=600.0):
        """`hold_seconds`: how long units are to be held. `give_up`: an order without an answer is cancelled then."""
        self.orders, self.parameters, self.ready = orders, parameters, consumer_is_ready
        self.hold, self.again, self.give_up = duration_pb2.Duration(), again, give_up
        self.hold.FromMilliseconds(round(hold_seconds * 1000))

    def run(self):
        # Who publishes before its queues are bound may never hear what came of it.
        self.ready.wait()
        for_ever(self.publish_all)

    def publish_all(self):
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()  # basic_publish() returns once the broker has the message, or raises
            while True:
                self.orders.to_publish.clear()
                for row in self.orders.due(["PUBLISH"]):
                    self.publish(channel, row)
                self.orders.to_publish.wait(0.1)
                connection.process_data_events(0)

    def publish(self, channel, row):
        order, lines = row["id"], json.loads(row["lines"])
        if time.time() > row["placed_at"] + self.give_up:
            self.orders.cancel(order, ["PUBLISH"], "NO_ANSWER")
            return
        body = order_pb2.OrderPlaced(order_id=order, ttl=self.hold, lines=[
            reservation_pb2.ReservationLine(sku=sku, quantity=quantity) for sku, quantity in lines])
        sku = lines[0][0]
        attributes = {"specversion": "1.0", "id": order, "source": SOURCE, "type": "OrderPlaced", "subject": order,
                      "partitionkey": sku}
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent.value, message_id=order,
            type="OrderPlaced", app_id=SOURCE, headers={f"cloudEvents_{name}": value for name, value in attributes.items()})
        try:
            # Mandatory: an exchange without a queue would take it, confirm it, and drop it.
            channel.basic_publish(ORDERS, sku, json_format.MessageToJson(body, indent=None).encode(), properties, mandatory=True)
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError) as error:
            log.info("order %s: %r; again", order, error)
            self.orders.published(order, time.time() + 1, row["tries"])
            return
        # The next try begins at the same place, whether the shop dies before this line or behind it.
        wait = min(self.again * 2 ** row["tries"], 60)
        self.orders.published(order, time.time() + wait, row["tries"] + 1)


class Consumer:
    """Acknowledges a message once its effect is committed, together with its id: a double finds its id and has none."""

    def __init__(self, orders, parameters):
        self.orders, self.parameters, self.ready = orders, parameters, threading.Event()
        self.queues = [("shop.answers", ANSWERS, ["#"], self.answer),
                       ("shop.events", EVENTS, ["ReservationExpired.#", "ReservationReleased.#"], self.event)]

    def run(self):
        for_ever(self.consume)

    def consume(self):
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=100)
            channel.queue_declare(DEAD, durable=True)
            for queue, exchange, keys, read in self.queues:
                # As intake and relay declare them: whoever comes first makes them.
                channel.exchange_declare(exchange, "topic", durable=True)
                channel.queue_declare(queue, durable=True, arguments={
                    "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD})
                for key in keys:
                    channel.queue_bind(queue, exchange, key)
                channel.basic_consume(queue, functools.partial(self.take, read))
            # One queue was deleted: the others would go on without it. From the beginning: it is made again.
            channel.add_on_cancel_callback(lambda _: channel.stop_consuming())
            self.ready.set()
            channel.start_consuming()

    def take(self, read, channel, delivery, properties, body):
        try:
            attributes = {name.removeprefix("cloudEvents_"): value for name, value in properties.headers.items()}
            key = [str(attributes[name]) for name in ("source", "id")] + [str(attributes.get("subject", ""))]
            apply = read(properties, body)
        except Exception as error:  # whatever it is: a message must not come back for ever and stop those behind it
            log.error("a message that nobody can read goes to %s: %r", DEAD, error)
            channel.basic_reject(delivery.delivery_tag, requeue=False)
            return
        with self.orders.transaction():
            if self.orders.is_new(*key):
                apply()
        channel.basic_ack(delivery.delivery_tag)

    def answer(self, properties, body):
        """What an answer of the intake asks for, as a function."""
        if properties.type == "StockReserved":
            found = parse(order_pb2.OrderReserved(), properties, body)
            state = reservation_pb2.ReservationState.Name(found.state).removeprefix("RESERVATION_STATE_")
            return lambda: self.orders.reserved(found.order_id, found.reservation_id, found.expires_at.ToNanoseconds() / 1e9, state)
        if properties.type == "StockRejected":
            found = parse(order_pb2.OrderRejected(), properties, body)
            return lambda: self.orders.rejected(found.order_id, found.reason)
        raise ValueError(f"an answer of the type {properties.type}")

    def event(self, properties, body):
        """What an event of the relay asks for. Its reference is the order's id: the intake reserves with that."""
        if properties.type not in ("ReservationExpired", "ReservationReleased"):
            raise ValueError(f"an event of the type {properties.type}")
        found = parse(event_pb2.Event(), properties, body)
        reason = properties.type.removeprefix("Reservation").upper()
        return lambda: self.orders.ended(found.reference, found.reservation_id, reason)


def parse(message, properties, body):
    """As JSON or protobuf, by the content type. A field that is not known is of a newer program, and does no harm."""
    if properties.content_type == "application/json":
        return json_format.Parse(body, message, ignore_unknown_fields=True)
    message.ParseFromString(body)
    return message
