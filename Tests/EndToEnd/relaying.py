"""`holdfast relay` under test, and what a consumer gets from it: by pika, with protobuf's own reader of JSON."""

import collections
import json
import pathlib
import re

from google.protobuf import json_format
from holdfast.v1 import event_pb2

from broker_service import BrokerService
from client import fresh
from server import eventually
from watching import KINDS, Watch

READY = re.compile(r"holdfast relaying: broker (\S+) destination (\S+)(?: admin (http://\S+))? pid (\d+)\n")
TYPES = {"HELD": "StockReserved", "REPLACED": "ReservationReplaced", "EXTENDED": "ReservationExtended",
         "CONFIRMED": "ReservationConfirmed", "RELEASED": "ReservationReleased", "EXPIRED": "ReservationExpired",
         "ADJUSTED": "StockAdjusted", "REFUSED": "StockRejected", "REMOVED": "ItemRemoved"}
ALL_KINDS = [name.removeprefix("EVENT_KIND_") for name in KINDS[1:]]


class Place:
    """An exchange of its own in a virtual host: that is made much faster than a host."""

    def __init__(self, host, name=None):
        self.host, self.name = host, name or fresh("events")
        self.dead = f"{self.name}.dead"
        self.flags = ("--destination", self.name, "--dead-letters", self.dead)


class Relay(BrokerService):
    """Up when the constructor returns. `place` is where it publishes, or None where the flags say so."""

    name, ready = "relay", READY

    def __init__(self, binary, target, place, resume_file, *flags, environment=()):
        where = ["--broker", place.host.address, "--broker-password-file", place.host.broker.password_file,
                 *place.flags] if place else []
        super().__init__([binary, "relay", "--target", target, *where, "--resume-file", resume_file, "--admin-port", "0", *flags],
                         environment)

    def is_caught_up(self, lsn):
        """Whether the broker has everything up to there."""
        return self.metric("lsn") >= lsn


class Inbox:
    """A queue that gets everything of a place: what a consumer sees, doubles too."""

    def __init__(self, place, queue=None, pattern="#", arguments=None):
        self.host, self.exchange = place.host, place.name
        self.queue, self.pattern, self.arguments = queue or fresh("audit"), pattern, arguments
        self.messages = []
        self.connect()

    def connect(self):
        self.connection = self.host.connect()
        self.channel = self.connection.channel()
        self.channel.exchange_declare(self.exchange, "topic", durable=True)
        self.channel.queue_declare(self.queue, durable=True, arguments=self.arguments)
        self.channel.queue_bind(self.queue, self.exchange, self.pattern)

    def read(self):
        """All messages so far."""
        while True:
            method, properties, body = self.channel.basic_get(self.queue, auto_ack=True)
            if not method:
                return self.messages
            self.messages.append(Message(method, properties, body))

    def wait(self, count, seconds=60):
        """Until so many different messages have come."""
        eventually(lambda: len({each.key for each in self.read()}) >= count, seconds)
        return self.messages

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.connection.is_open:
            self.close()


class Message:
    def __init__(self, method, properties, body):
        self.method, self.properties, self.body = method, properties, body
        self.attributes = {name.removeprefix("cloudEvents_"): value for name, value in (properties.headers or {}).items()
                           if name.startswith("cloudEvents_")}

    @property
    def sku(self):
        return self.attributes.get("subject", "")

    @property
    def key(self):
        """What a consumer drops doubles by."""
        return self.properties.message_id, self.sku

    @property
    def event(self):
        if self.properties.content_type == "application/json":
            return json_format.Parse(self.body.decode(), event_pb2.Event())
        assert self.properties.content_type == "application/protobuf"
        return event_pb2.Event.FromString(self.body)


def watched(client, count=None):
    """The server's events of all kinds, from the oldest: so many, or all up to now."""
    with Watch(client, kinds=ALL_KINDS, oldest=True, heartbeat=1) as watch:
        if count is None:
            with Watch(client, kinds=ALL_KINDS) as head:
                last = int(head.begun().token()[17:33], 16)
            watch.wait(lambda: watch.responses and int(watch.token()[17:33], 16) >= last, 60)
        else:
            watch.wait_for_events(count, 60)
        return watch.events(), watch.token()


def expected(events):
    """[(LSN, SKU, event as its message has it)] of a server's events."""
    messages = []
    for event in events:
        touched = list(dict.fromkeys(each.sku for each in (event.stock or event.lines)))
        for sku in touched or [""]:
            narrowed = event_pb2.Event()
            narrowed.CopyFrom(event)
            del narrowed.stock[:]
            narrowed.stock.extend(level for level in event.stock if level.sku == sku)
            messages.append((event.lsn, sku, narrowed))
    return messages


def without_doubles(messages):
    seen = {}
    for message in messages:
        seen.setdefault(message.key, message)
    return list(seen.values())


def check(messages, events, store):
    """Every event has come, each with what it says, and those of a SKU in order, after dropping doubles."""
    wanted = {(f"{store}-{lsn}", sku): event for lsn, sku, event in expected(events)}
    order = collections.defaultdict(int)
    found = without_doubles(messages)
    for message in found:
        event = message.event
        assert event == wanted[message.key], message.key
        assert order[message.sku] < event.lsn, f"{message.key} comes behind {order[message.sku]}"
        order[message.sku] = event.lsn
    missing = wanted.keys() - {message.key for message in found}
    assert not missing, f"{len(missing)} of {len(wanted)} are missing, such as {sorted(missing)[:3]}"


def saved_token(path):
    path = pathlib.Path(path)
    return path.read_text().strip() if path.exists() else None


def dump(messages):
    """For a failure's sake."""
    return json.dumps([[*each.key, each.properties.type] for each in messages], indent=1)
