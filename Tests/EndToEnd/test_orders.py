"""examples/orders: the shop's rules, its till, its messages, its pages, and its payment provider, each by itself.

test_demo_orders.py has the whole.
"""

import contextlib
import http.client
import itertools
import json
import re
import socket
import sys
import threading
import types
import urllib.parse

import grpc
import pika
import pytest
from google.protobuf import json_format

import rabbitmq
from client import Client, line
from conftest import REPOSITORY
from holdfast.v1 import event_pb2, order_pb2, reservation_pb2
from server import Server, eventually, holdfast

EXAMPLE = REPOSITORY / "examples" / "orders"
sys.path.insert(0, str(EXAMPLE))

import messages  # noqa: E402  the example's folder must be on the path first
import orders as orders_module  # noqa: E402
import provider  # noqa: E402
import shop as shop_module  # noqa: E402
import till as till_module  # noqa: E402
from messages import Consumer, Publisher  # noqa: E402
from orders import Orders  # noqa: E402
from till import Holdfast, Provider, Refused, Till, Unknown  # noqa: E402

CARD = {behaviour: number for number, behaviour in provider.CARDS.items()}
FAR = 4_000_000_000.0


@pytest.fixture
def orders(tmp_path):
    return Orders(tmp_path / "shop.sqlite")


def place(orders, order="order-1"):
    orders.place(order, [("ticket", 1)], 4900)
    return order


def at(orders, order="order-1"):
    row = orders.get(order)
    return row["state"], row["reason"], row["next"]


# The states of an order, each by the way that leads there.
WAYS = {
    "submitted": [],
    "held": [("reserved", "r1", FAR, "HELD")],
    "asked": [("reserved", "r1", FAR, "HELD"), ("pay", "card")],
    "authorized": [("reserved", "r1", FAR, "HELD"), ("pay", "card"), ("authorized",)],
    "confirmed": [("reserved", "r1", FAR, "HELD"), ("pay", "card"), ("authorized",), ("confirmed",)],
    "paid": [("reserved", "r1", FAR, "HELD"), ("pay", "card"), ("authorized",), ("confirmed",), ("captured",)],
    "sold out": [("rejected", "INSUFFICIENT_STOCK")],
    "expired": [("reserved", "r1", FAR, "HELD"), ("ended", "r1", "EXPIRED")],
    "declined": [("reserved", "r1", FAR, "HELD"), ("pay", "card"), ("declined",)],
    "cancelled early": [("give_up",)],
}
STANDS = {
    "submitted": ("SUBMITTED", "", "PUBLISH"), "held": ("STOCK_RESERVED", "", "ASK"),
    "asked": ("STOCK_RESERVED", "", "AUTHORIZE"), "authorized": ("STOCK_RESERVED", "", "CONFIRM"),
    "confirmed": ("STOCK_RESERVED", "", "CAPTURE"), "paid": ("PAID", "", ""), "sold out": ("CANCELLED", "SOLD_OUT", ""),
    "expired": ("CANCELLED", "EXPIRED", ""), "declined": ("CANCELLED", "CARD_DECLINED", "RELEASE"),
    "cancelled early": ("CANCELLED", "BY_CUSTOMER", ""),
}
# What each of these does where; everywhere else it changes nothing.
CHANGES = {
    ("reserved", "r1", FAR, "HELD"): {"submitted": ("STOCK_RESERVED", "", "ASK"), "sold out": ("CANCELLED", "SOLD_OUT", "RELEASE"),
                                      "cancelled early": ("CANCELLED", "BY_CUSTOMER", "RELEASE")},
    ("reserved", "r1", FAR, "EXPIRED"): {"submitted": ("CANCELLED", "EXPIRED", "")},
    ("reserved", "r1", FAR, "RELEASED"): {"submitted": ("CANCELLED", "RELEASED", "")},
    # The shop's database is an older copy: it has sold this before.
    ("reserved", "r1", FAR, "CONFIRMED"): {"submitted": ("STOCK_RESERVED", "", "CAPTURE")},
    ("confirmed_before",): {"held": ("STOCK_RESERVED", "", "CAPTURE")},
    ("rejected", "INSUFFICIENT_STOCK"): {"submitted": ("CANCELLED", "SOLD_OUT", "")},
    ("rejected", "NOT_ON_SALE"): {"submitted": ("CANCELLED", "NOT_ON_SALE", "")},
    # The event may come before the answer. With a payment under way Confirm decides; nothing overrides PAID.
    ("ended", "r1", "EXPIRED"): {"submitted": ("CANCELLED", "EXPIRED", ""), "held": ("CANCELLED", "EXPIRED", "")},
    ("ended", "another", "EXPIRED"): {"submitted": ("CANCELLED", "EXPIRED", "")},
    ("pay", "card"): {"held": ("STOCK_RESERVED", "", "AUTHORIZE")},
    ("give_up",): {"submitted": ("CANCELLED", "BY_CUSTOMER", ""), "held": ("CANCELLED", "BY_CUSTOMER", "RELEASE")},
    ("authorized",): {"asked": ("STOCK_RESERVED", "", "CONFIRM")},
    ("declined",): {"asked": ("CANCELLED", "CARD_DECLINED", "RELEASE")},
    ("unanswered",): {"asked": ("CANCELLED", "PAYMENT_TIMED_OUT", "VOID")},
    ("confirmed",): {"authorized": ("STOCK_RESERVED", "", "CAPTURE")},
    ("lost", "EXPIRED"): {"authorized": ("CANCELLED", "EXPIRED", "VOID")},
    ("captured",): {"confirmed": ("PAID", "", "")},
    ("voided",): {},
    ("released",): {"declined": ("CANCELLED", "CARD_DECLINED", "")},
}


def test_the_same_trouble_is_told_once(caplog, monkeypatch):
    """A broker that is away for a night does not fill the log."""
    caplog.set_level("INFO", "messages")
    monkeypatch.setattr(messages, "RECONNECT_SECONDS", 0)
    errors = iter([*(OSError("away") for _ in range(50)), OSError("refused"), OSError("away"), KeyboardInterrupt()])

    def work():
        raise next(errors)

    with pytest.raises(KeyboardInterrupt):
        messages.for_ever(work)
    assert [re.search(r"'(\w+)'", record.getMessage())[1] for record in caplog.records] == ["away", "refused", "away"]


@pytest.mark.parametrize("change", CHANGES, ids=lambda it: "-".join(map(str, it)))
def test_what_changes_an_order(orders, change):
    name, *arguments = change
    assert CHANGES[change].keys() <= WAYS.keys()
    for start, way in WAYS.items():
        order = place(orders, start)
        for step, *rest in way:
            assert getattr(orders, step)(order, *rest)
        assert at(orders, order) == STANDS[start]
        changed = getattr(orders, name)(order, *arguments)
        end = CHANGES[change].get(start, STANDS[start])
        assert at(orders, order) == end, start
        assert bool(changed) == (start in CHANGES[change]), start
        # Once more is nothing more.
        getattr(orders, name)(order, *arguments)
        assert at(orders, order) == end, start


def test_a_second_click_is_the_same_order(orders):
    place(orders)
    orders.reserved("order-1", "r1", FAR, "HELD")
    row, is_new = orders.place("order-1", [("ticket", 1)], 4900)
    assert row["state"] == "STOCK_RESERVED" and not is_new
    assert orders.database.execute("select count(*) from orders").fetchone()[0] == 1


# The till, with a crash before and behind every call that it makes


class Crash(BaseException):
    """kill -9, as far as the code can tell: nothing behind it is run."""


class Fuse:
    """Ends the process at one of its calls: before it is made, or when it has been made and nobody has read the answer."""

    def __init__(self, at=None):
        self.at, self.number = at, itertools.count()

    def around(self, call):
        before, behind = next(self.number), next(self.number)
        if before == self.at:
            raise Crash
        try:
            return call()
        finally:
            if behind == self.at:
                raise Crash


class Bank:
    """The provider's own ledger, without HTTP."""

    def __init__(self, path, fuse):
        self.ledger, self.fuse = provider.Ledger(path), fuse

    def ask(self, path, **body):
        return self.fuse.around(lambda: self.answer(path, **body))

    def answer(self, path, order, amount=0, card=""):
        if path == "/authorize":
            state, in_time = self.ledger.authorize(order, amount, card)
            if not in_time:
                raise Unknown(path)
            if state not in ("AUTHORIZED", "CAPTURED"):
                raise Refused(state)
        else:
            wanted = {"/capture": "CAPTURED", "/void": "VOIDED"}[path]
            state = getattr(self.ledger, path[1:])(order)
            if state != wanted:
                raise Refused(state)


class FakeServer:
    """What Holdfast decides about one hold. `away`: so many calls get no answer; every other one of them has had its effect."""

    def __init__(self, fate, fuse):
        self.state = {"held": "HELD", "gone": "EXPIRED", "expired": "EXPIRED", "released": "RELEASED", "away": "HELD"}[fate]
        self.left, self.fuse, self.away = int(fate != "gone"), fuse, 5 if fate == "away" else 0

    def confirm(self, reservation):
        return self.fuse.around(lambda: self.answer(self.confirm_now))

    def release(self, reservation):
        return self.fuse.around(lambda: self.answer(self.release_now))

    def answer(self, decide):
        self.away -= 1
        if self.away >= 0 and self.away % 2 == 0:
            raise Unknown("UNAVAILABLE")
        decide()
        if self.away >= 0:
            raise Unknown("DEADLINE_EXCEEDED")

    def confirm_now(self):
        if self.state == "EXPIRED" and not self.left:
            raise Refused("INSUFFICIENT_STOCK")
        if self.state == "RELEASED":
            raise Refused("RESERVATION_RELEASED")
        self.state, self.left = "CONFIRMED", 0

    def release_now(self):
        if self.state not in ("HELD", "RELEASED"):
            raise Refused(f"RESERVATION_{self.state}")
        self.state, self.left = "RELEASED", 1


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def time(self):
        return self.now


# Card, what has become of the hold: how the order ends, what the provider has, what Holdfast has.
ENDS = {
    ("good", "held"): ("PAID", "", "CAPTURED", "CONFIRMED"),
    ("good", "expired"): ("PAID", "", "CAPTURED", "CONFIRMED"),
    ("good", "gone"): ("CANCELLED", "EXPIRED", "VOIDED", "EXPIRED"),
    ("good", "released"): ("CANCELLED", "RESERVATION_RELEASED", "VOIDED", "RELEASED"),
    ("good", "away"): ("PAID", "", "CAPTURED", "CONFIRMED"),
    ("declined", "held"): ("CANCELLED", "CARD_DECLINED", "DECLINED", "RELEASED"),
    ("declined", "gone"): ("CANCELLED", "CARD_DECLINED", "DECLINED", "EXPIRED"),
    ("declined", "away"): ("CANCELLED", "CARD_DECLINED", "DECLINED", "RELEASED"),
    ("slow", "held"): ("PAID", "", "CAPTURED", "CONFIRMED"),
    ("lost", "held"): ("PAID", "", "CAPTURED", "CONFIRMED"),
    ("lost", "gone"): ("CANCELLED", "EXPIRED", "VOIDED", "EXPIRED"),
    ("silent", "held"): ("CANCELLED", "PAYMENT_TIMED_OUT", "VOIDED", "RELEASED"),
    ("silent", "gone"): ("CANCELLED", "PAYMENT_TIMED_OUT", "VOIDED", "EXPIRED"),
}


def pay(folder, monkeypatch, card, fate, crash_at):
    """Pays one order, with a crash somewhere. Returns how it ends, and whether there was a crash."""
    clock, fuse = Clock(), Fuse(crash_at)
    for module in (orders_module, till_module):
        monkeypatch.setattr(module, "time", clock)
    bank, server = Bank(folder / "payments.sqlite", fuse), FakeServer(fate, fuse)
    crashed = False
    orders = Orders(folder / "shop.sqlite")
    place(orders)
    orders.reserved("order-1", "r1", clock.now + 10, "HELD")
    orders.pay("order-1", CARD[card])
    till = Till(orders, server, bank, patience=2)
    while orders.get("order-1")["next"]:
        assert clock.now < 1_700_003_600, f"no end: {at(orders)}"
        for row in orders.due(Till.STEPS):
            # No money is taken before the units are sold.
            assert bank.ledger.find("order-1")[0] != "CAPTURED" or server.state == "CONFIRMED"
            try:
                till.take(row)
            except Crash:
                crashed = True
                orders = Orders(folder / "shop.sqlite")
                till = Till(orders, server, bank, patience=2)
        clock.now += 0.5
    row = orders.get("order-1")
    return (row["state"], row["reason"], bank.ledger.find("order-1")[0], server.state), crashed


@pytest.mark.parametrize("card, fate", ENDS)
def test_a_payment_ends_right_wherever_the_shop_dies(tmp_path, monkeypatch, card, fate):
    for crash_at in itertools.count():
        folder = tmp_path / str(crash_at)
        folder.mkdir()
        end, crashed = pay(folder, monkeypatch, card, fate, crash_at)
        assert end == ENDS[card, fate], f"crash at {crash_at}"
        if not crashed:
            break
    # Two places each: authorize, then capture or void behind Confirm, or Release.
    assert crash_at >= (4 if card == "declined" else 6)


def test_the_server_is_asked_where_no_event_comes(orders, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(orders_module, "time", clock)
    for state, then in (("HELD", "ASK"), ("EXPIRED", ""), ("RELEASED", ""), ("CONFIRMED", "CAPTURE")):
        order = place(orders, f"order-{state}")
        orders.reserved(order, order, clock.now + 10, "HELD")
        assert order not in [row["id"] for row in orders.due(["ASK"])]
        clock.now += 10 + orders.ask_after
        (row,) = [row for row in orders.due(["ASK"]) if row["id"] == order]
        till = Till(orders, types.SimpleNamespace(state=lambda _: state), None)
        till.take(row)
        assert at(orders, order)[2] == then


CONFIRM, RELEASE, STATE = Holdfast.confirm, Holdfast.release, Holdfast.state
# From a hold that is HELD, or EXPIRED with its unit left or sold to another.
ANSWERS = [
    ("held", [(CONFIRM, None), (CONFIRM, None), (RELEASE, "RESERVATION_CONFIRMED"), (STATE, "CONFIRMED")]),
    ("held", [(RELEASE, None), (RELEASE, None), (CONFIRM, "RESERVATION_RELEASED"), (STATE, "RELEASED")]),
    ("expired", [(STATE, "EXPIRED"), (RELEASE, "RESERVATION_EXPIRED"), (CONFIRM, None), (STATE, "CONFIRMED")]),
    ("gone", [(CONFIRM, "INSUFFICIENT_STOCK"), (CONFIRM, "INSUFFICIENT_STOCK"), (STATE, "EXPIRED")]),
]


def test_what_a_server_says_to_the_shop(binary, tmp_path, ours, pair):
    """The real one, over TLS, with the least role: which of its answers are decisions."""
    authority = ours.authority.read_bytes()
    trust = grpc.ssl_channel_credentials(authority)
    tokens = {role: holdfast(binary, "token", "create", "--caller", role, "--role", role, "--file",
                             tmp_path / "tokens").stdout.strip() for role in ("stock", "reserve")}
    with Server(binary, "--tokens", tmp_path / "tokens", "--tls-cert", pair.certificate, "--tls-key", pair.key) as server, \
            Client(server.target, token=tokens["stock"], credentials=trust) as client:
        shop = Holdfast(server.target, token=tokens["reserve"], authority=authority)
        cases = []
        for fate, calls in ANSWERS:
            sku = client.item(1)
            hold = client.reserve(line(sku), ttl=60 if fate == "held" else 1).reservation_id
            cases.append((fate, sku, hold, calls))
        for fate, sku, hold, calls in cases:
            if fate != "held":
                eventually(lambda: client.get(hold).state == reservation_pb2.RESERVATION_STATE_EXPIRED)
            if fate == "gone":
                client.confirm(client.reserve(line(sku)).reservation_id)
            for call, wanted in calls:
                try:
                    answer = call(shop, hold)
                except Refused as refused:
                    answer = str(refused)
                assert answer == wanted, (fate, call)
        assert shop.levels(["nothing", sku]) == {sku: (0, 0)}
        # Whoever has no token, or no TLS, has not been told no.
        for stranger in (Holdfast(server.target, authority=authority), Holdfast(server.target, seconds=0.2)):
            with pytest.raises(Unknown):
                stranger.confirm(hold)
    assert shop.levels([sku]) == {}
    shop.call["timeout"] = 0.2
    with pytest.raises(Unknown):
        shop.confirm(hold)


# The payment provider


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(address, method, path, body=None, kind="application/json"):
    """(status, headers, text)"""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


NO_ANSWER = None
AUTHORIZE, CAPTURE, VOID = "/authorize", "/capture", "/void"
PAYMENTS = [
    ("good", [(CAPTURE, 409), (AUTHORIZE, 200), (AUTHORIZE, 200), (CAPTURE, 200), (CAPTURE, 200), (VOID, 409), (AUTHORIZE, 200)],
     "CAPTURED"),
    ("good", [(AUTHORIZE, 200), (VOID, 200), (VOID, 200), (AUTHORIZE, 409), (CAPTURE, 409)], "VOIDED"),
    # An authorization that arrives behind its void is refused.
    ("good", [(VOID, 200), (AUTHORIZE, 409), (CAPTURE, 409)], "VOIDED"),
    ("declined", [(AUTHORIZE, 402), (AUTHORIZE, 402), (CAPTURE, 409), (VOID, 200)], "DECLINED"),
    ("slow", [(AUTHORIZE, NO_ANSWER), (AUTHORIZE, 200), (CAPTURE, 200)], "CAPTURED"),
    ("slow", [(AUTHORIZE, NO_ANSWER), (VOID, 200), (AUTHORIZE, 409)], "VOIDED"),
    ("lost", [(AUTHORIZE, NO_ANSWER), (CAPTURE, 409), (AUTHORIZE, 200)], "AUTHORIZED"),
    ("lost", [(AUTHORIZE, NO_ANSWER), (VOID, 200), (AUTHORIZE, 409)], "VOIDED"),
    ("silent", [(AUTHORIZE, NO_ANSWER), (AUTHORIZE, NO_ANSWER), (VOID, 200)], "VOIDED"),
]


@pytest.mark.parametrize("card, calls, end", PAYMENTS)
def test_the_provider_is_idempotent(tmp_path, card, calls, end):
    with serving(provider.Server(provider.Ledger(tmp_path / "payments.sqlite"), silence=0)) as address:
        for path, wanted in calls:
            body = json.dumps({"order": "order-1", "amount": 4900, "card": CARD[card]})
            try:
                status, _, _ = ask(address, "POST", path, body)
            except http.client.HTTPException:
                status = NO_ANSWER
            assert status == wanted, path
        (payment,) = json.loads(ask(address, "GET", "/payments")[2])
        assert payment["state"] == end
        # After kill -9 it knows the same.
        assert provider.Ledger(tmp_path / "payments.sqlite").all() == [payment]


def test_the_till_tells_yes_from_no_from_unknown(tmp_path):
    with serving(provider.Server(provider.Ledger(tmp_path / "payments.sqlite"), silence=0)) as address:
        ask_for = Provider(f"http://{address}", 5).ask
        authorize = {"amount": 4900, "card": CARD["good"]}
        assert ask_for("/authorize", order="order-1", **authorize) is None and ask_for("/capture", order="order-1") is None
        for path, order, card, wanted in [("/authorize", "order-2", "declined", Refused), ("/void", "order-1", "good", Refused),
                                          ("/capture", "order-9", "good", Refused), ("/authorize", "order-3", "slow", Unknown),
                                          ("/authorize", "order-4", "silent", Unknown), ("/refund", "order-1", "good", Unknown)]:
            with pytest.raises(wanted):
                ask_for(path, order=order, amount=4900, card=CARD[card])
    # Nobody is there any more: nobody knows.
    with pytest.raises(Unknown):
        ask_for("/capture", order="order-1")
    # Something is there that says nothing.
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(Unknown):
        Provider(f"http://127.0.0.1:{mute.getsockname()[1]}", 0.1).ask("/capture", order="order-1")


def test_the_provider_says_what_it_cannot_read(tmp_path):
    with serving(provider.Server(provider.Ledger(tmp_path / "payments.sqlite"))) as address:
        for path, body, wanted in [("/authorize", "{", 400), ("/authorize", "{}", 400), ("/authorize", "[]", 400), ("/refund", '{"order": "o"}', 404),
                                   ("/authorize", '{"order": "o", "amount": "x", "card": ""}', 400)]:
            assert ask(address, "POST", path, body)[0] == wanted, body


# Messages


class Channel:
    """What the broker is told; `publishes` may raise."""

    def __init__(self, trouble=None):
        self.acknowledged, self.rejected, self.published, self.trouble = [], [], [], trouble

    def basic_ack(self, tag):
        self.acknowledged.append(tag)

    def basic_reject(self, tag, requeue):
        assert not requeue
        self.rejected.append(tag)

    def basic_publish(self, exchange, key, body, properties, mandatory):
        if self.trouble:
            raise self.trouble
        self.published.append((exchange, key, body, properties, mandatory))


def answer(order, **fields):
    if "reason" in fields:
        return messages.ANSWERS, "StockRejected", order_pb2.OrderRejected(order_id=order, **fields), {"id": order, "source": "intake"}
    message = order_pb2.OrderReserved(order_id=order, reservation_id="r1", state=fields.get("state", "RESERVATION_STATE_HELD"))
    message.expires_at.FromSeconds(int(FAR))
    return messages.ANSWERS, "StockReserved", message, {"id": order, "source": "intake"}


def event(kind, order, id="s-1", sku="ticket"):
    return (messages.EVENTS, kind, event_pb2.Event(lsn=1, reference=order, reservation_id="r1"),
            {"id": id, "source": "holdfast", "subject": sku})


def deliver(consumer, channel, message, tag=1, kind="application/json", body=None):
    exchange, type, content, attributes = message
    if body is None:
        body = json_format.MessageToJson(content).encode() if kind == "application/json" else content.SerializeToString()
    properties = pika.BasicProperties(content_type=kind, type=type, headers={
        f"cloudEvents_{name}": value for name, value in attributes.items()})
    (read,) = [read for _, source, _, read in consumer.queues if source == exchange]
    consumer.take(read, channel, types.SimpleNamespace(delivery_tag=tag), properties, body)


@pytest.mark.parametrize("kind", ["application/json", "application/protobuf"])
def test_messages_have_their_effect_once(orders, kind):
    consumer, channel = Consumer(orders, None), Channel()
    place(orders)
    deliver(consumer, channel, answer("order-1"), 1, kind)
    assert at(orders) == STANDS["held"] and orders.get("order-1")["expires_at"] == FAR
    deliver(consumer, channel, event("ReservationExpired", "order-1"), 2, kind)
    assert at(orders) == STANDS["expired"]
    assert channel.acknowledged == [1, 2]
    # The same answer again would give the hold back, if it were looked at: it is a double.
    orders.database.execute("update orders set reservation = ''")
    deliver(consumer, channel, answer("order-1"), 3, kind)
    assert at(orders) == STANDS["expired"] and channel.acknowledged == [1, 2, 3]


def test_one_decision_about_two_skus_is_two_messages(orders):
    consumer, channel = Consumer(orders, None), Channel()
    for sku in ("ticket", "shirt", "shirt"):
        deliver(consumer, channel, event("ReservationExpired", "order-1", sku=sku))
    assert [tuple(row) for row in orders.database.execute("select id, subject from seen order by subject")] == [
        ("s-1", "shirt"), ("s-1", "ticket")]


def test_the_id_is_kept_with_the_effect_or_not_at_all(orders, monkeypatch):
    consumer, channel = Consumer(orders, None), Channel()
    place(orders)

    def die(*_):
        raise Crash
    with monkeypatch.context() as patch:
        patch.setattr(orders, "reserved", die)
        with pytest.raises(Crash):
            deliver(consumer, channel, answer("order-1"))
    assert channel.acknowledged == [] and at(orders) == STANDS["submitted"]
    deliver(consumer, channel, answer("order-1"))
    assert channel.acknowledged == [1] and at(orders) == STANDS["held"]


UNREADABLE = {
    "no JSON": (answer("order-1"), b"{", "application/json"),
    "another field's type": (answer("order-1"), b'{"orderId": 7}', "application/json"),
    "no protobuf": (answer("order-1"), b"\xff\xff", "application/protobuf"),
    "no id": ((*answer("order-1")[:3], {"source": "intake"}), None, "application/json"),
    "no type": ((messages.ANSWERS, None, order_pb2.OrderReserved(), {"id": "1", "source": "intake"}), None, "application/json"),
    "no state that there is": (answer("order-1"), b'{"orderId": "order-1", "state": 77}', "application/json"),
    "far too deep": (answer("order-1"), b'{"x": ' + b"[" * 100_000, "application/json"),
    "another type": ((messages.ANSWERS, "OrderPlaced", order_pb2.OrderReserved(), {"id": "1", "source": "intake"}), None, "application/json"),
    "an event of another kind": (event("StockAdjusted", ""), None, "application/json"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_nobody_can_read_is_put_aside(orders, name):
    message, body, kind = UNREADABLE[name]
    channel = Channel()
    place(orders)
    deliver(Consumer(orders, None), channel, message, 7, kind, body)
    assert channel.rejected == [7] and channel.acknowledged == [] and at(orders) == STANDS["submitted"]


def test_an_order_goes_out_until_it_is_answered(orders, monkeypatch):
    clock = Clock()
    for module in (orders_module, messages):
        monkeypatch.setattr(module, "time", clock)
    order = orders.place("order-1", [("shirt", 2), ("ticket", 1)], 9900)[0]["id"]
    publisher, channel = Publisher(orders, None, 2.5, None), Channel()
    waits = []
    while at(orders) == STANDS["submitted"]:
        (row,) = orders.due(["PUBLISH"])
        publisher.publish(channel, row)
        if at(orders) == STANDS["submitted"]:
            assert orders.due(["PUBLISH"]) == []
            waits.append(orders.get(order)["due"] - clock.now)
            clock.now += waits[-1]
    assert waits[:6] == [5, 10, 20, 40, 60, 60] and sum(waits) >= 600 > sum(waits[:-1])
    assert at(orders) == ("CANCELLED", "NO_ANSWER", "")
    exchange, key, body, properties, mandatory = channel.published[0]
    assert (exchange, key, mandatory) == ("orders", "shirt", True) and all(each == channel.published[0] for each in channel.published)
    placed = json_format.Parse(body, order_pb2.OrderPlaced())
    assert placed.order_id == order and placed.ttl.ToMilliseconds() == 2500
    assert [(line.sku, line.quantity) for line in placed.lines] == [("shirt", 2), ("ticket", 1)]
    assert properties.delivery_mode == 2 and properties.content_type == "application/json"
    assert properties.headers["cloudEvents_type"] == "OrderPlaced" and properties.headers["cloudEvents_partitionkey"] == "shirt"


@pytest.mark.parametrize("trouble", [pika.exceptions.UnroutableError([]), pika.exceptions.NackError([])])
def test_an_order_that_the_broker_does_not_keep_goes_out_again(orders, trouble):
    place(orders)
    channel = Channel(trouble)
    Publisher(orders, None, 2, None).publish(channel, orders.get("order-1"))
    assert at(orders) == STANDS["submitted"] and orders.get("order-1")["tries"] == 0


ADDRESSES = [
    ([], {}, ("127.0.0.1", 5672, "/", "guest", "guest", False)),
    (["--broker", "amqp://ann:s%40cret@rabbit:7000/shop%2Fone"], {}, ("rabbit", 7000, "shop/one", "ann", "s@cret", False)),
    (["--broker", "amqp://ann@rabbit/"], {"HOLDFAST_BROKER_PASSWORD": "word"}, ("rabbit", 5672, "/", "ann", "word", False)),
    (["--broker", "amqp://ann:other@rabbit", "--broker-password-file", "FILE"], {"HOLDFAST_BROKER_PASSWORD": "word"},
     ("rabbit", 5672, "/", "ann", "of the file", False)),
    (["--broker", "amqps://ann@rabbit"], {}, ("rabbit", 5671, "/", "ann", "guest", True)),
    ([], {"HOLDFAST_BROKER": "amqp://eve@[::1]:7/x"}, ("::1", 7, "x", "eve", "guest", False)),
]


@pytest.mark.parametrize("flags, environment, wanted", ADDRESSES)
def test_where_the_broker_is(tmp_path, monkeypatch, flags, environment, wanted):
    (tmp_path / "password").write_text("of the file\n")
    for name in ("HOLDFAST_BROKER", "HOLDFAST_BROKER_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = shop_module.broker(shop_module.parse([str(tmp_path / "password") if word == "FILE" else word for word in flags]))
    assert (found.host, found.port, found.virtual_host, found.credentials.username, found.credentials.password,
            found.ssl_options is not None) == wanted


@contextlib.contextmanager
def broker_and_shop(orders, ours, pair):
    """A RabbitMQ, with Consumer and Publisher at it over TLS; and how others get there."""
    with rabbitmq.RabbitMQ("--tls-cert", pair.certificate, "--tls-key", pair.key) as broker:
        parameters = shop_module.broker(shop_module.parse([
            "--broker", broker.tls_address, "--broker-password-file", str(broker.password_file), "--broker-ca", str(ours.authority)]))
        consumer = Consumer(orders, parameters)
        for work in (consumer, Publisher(orders, parameters, 5, consumer.ready, again=0.5)):
            threading.Thread(target=work.run, daemon=True).start()
        assert consumer.ready.wait(30)
        yield broker, parameters


def send(parameters, message, body=None):
    exchange, type, content, attributes = message
    with pika.BlockingConnection(parameters) as connection:
        connection.channel().basic_publish(exchange, f"{type}.x", body or json_format.MessageToJson(content).encode(), pika.BasicProperties(
            content_type="application/json", type=type, headers={f"cloudEvents_{name}": value for name, value in attributes.items()}))


def messages_in(parameters, queue):
    with pika.BlockingConnection(parameters) as connection:
        return connection.channel().queue_declare(queue, passive=True).method.message_count


@pytest.mark.orders
@rabbitmq.needs_rabbitmq
def test_at_a_real_broker(orders, ours, pair):
    """Its consumer comes back after whatever ends it, and its orders go out once somebody is there to take them."""
    with broker_and_shop(orders, ours, pair) as (broker, parameters):
        for number, trouble in enumerate([lambda: None, broker.close_connections, lambda: broker.ctl("delete_queue", "shop.answers"),
                                          lambda: (broker.kill(), broker.start())]):
            trouble()
            order = place(orders, f"order-{number}")

            # The intake answers whatever comes twice.
            def is_held():
                send(parameters, answer(order))
                return at(orders, order) == STANDS["held"]
            eventually(is_held, 60)
        send(parameters, answer("order-0"), b"{")
        eventually(lambda: messages_in(parameters, "shop.dead") == 1)
        order = place(orders, "order-out")
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.exchange_declare("orders", "x-consistent-hash", durable=True)
            channel.queue_declare("orders.0", durable=True)
            channel.queue_bind("orders.0", "orders", "10")
            (_, properties, body) = rabbitmq.take(channel, "orders.0", 1)[0]
        assert properties.message_id == json_format.Parse(body, order_pb2.OrderPlaced()).order_id == order


# Pages and the JSON API


@pytest.fixture
def address(orders):
    holdfast = types.SimpleNamespace(levels=lambda skus: {"ticket": (3, 5), "shirt": (0, 2), "poster": (0, 0)})
    with serving(shop_module.Server(shop_module.Shop(orders, holdfast))) as found:
        yield found


def post(address, path, **form):
    return ask(address, "POST", path, urllib.parse.urlencode(form), "application/x-www-form-urlencoded")


def test_a_customer_with_a_browser(orders, address):
    status, headers, cart = ask(address, "GET", "/")
    assert status == 200 and headers["Cache-Control"] == "no-store" and "default-src 'none'" in headers["Content-Security-Policy"]
    for text in ("3 left", "all in other carts", "sold out"):
        assert text in cart
    order = re.search(r'name="order" value="([0-9a-f]+)"', cart)[1]
    for _ in range(2):
        status, headers, _ = post(address, "/checkout", order=order, ticket=2, shirt="", poster=0)
        assert (status, headers["Location"]) == (303, f"/orders/{order}")
    page = ask(address, "GET", f"/orders/{order}")[2]
    assert "We have your order" in page and "2 × Concert ticket · 98.00" in page and 'http-equiv="refresh"' in page
    assert post(address, f"/orders/{order}/pay", card=CARD["good"])[0] == 409
    orders.reserved(order, "r1", FAR, "HELD")
    page = ask(address, "GET", f"/orders/{order}")[2]
    assert "It is held for you" in page and "Pay 98.00" in page and "Cancel the order" in page
    for wanted in (303, 409):
        assert post(address, f"/orders/{order}/pay", card=CARD["good"])[0] == wanted
    assert post(address, f"/orders/{order}/cancel")[0] == 409
    assert orders.get(order)["card"] == CARD["good"]
    orders.authorized(order)
    assert orders.get(order)["card"] == "", "a card is kept no longer than it is needed"
    orders.confirmed(order), orders.captured(order)
    page = ask(address, "GET", f"/orders/{order}")[2]
    assert "Paid. It is yours" in page and "refresh" not in page and "Cancel the order" not in page


def test_a_program(orders, address):
    body = {"order_id": "order-json-1", "lines": [{"sku": "ticket", "quantity": 2}]}
    for wanted in (201, 200):
        status, _, text = ask(address, "POST", "/api/orders", json.dumps(body))
        assert status == wanted and json.loads(text)["state"] == "SUBMITTED" and json.loads(text)["amount"] == 9800
    other = {**body, "lines": [{"sku": "ticket", "quantity": 1}]}
    assert ask(address, "POST", "/api/orders", json.dumps(other))[0] == 409
    assert ask(address, "POST", "/api/orders/order-json-1/payment", json.dumps({"card": CARD["good"]}))[0] == 409
    for wanted in (202, 409):
        assert ask(address, "POST", "/api/orders/order-json-1/cancel")[0] == wanted
    found = json.loads(ask(address, "GET", "/api/orders/order-json-1")[2])
    assert (found["state"], found["reason"], found["is_final"]) == ("CANCELLED", "BY_CUSTOMER", True)
    assert json.loads(ask(address, "GET", "/api/stock")[2])["ticket"] == {"available": 3, "on_hand": 5}


def lines(*pairs, order="order-bad-1"):
    return json.dumps({"order_id": order, "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in pairs]})


@pytest.mark.parametrize("path, body, wanted", [
    ("/api/orders", "{", 400), ("/api/orders", "[]", 400), ("/api/orders", "{}", 400), ("/api/orders", "", 400),
    ("/api/orders", '{"order_id": "order-bad-1", "lines": 7}', 400), ("/api/orders", '{"order_id": "order-bad-1", "lines": [7]}', 400),
    ("/api/orders", lines(), 400), ("/api/orders", lines(("nothing", 1)), 400), ("/api/orders", lines(("ticket", 0)), 400),
    ("/api/orders", lines(("ticket", 11)), 400), ("/api/orders", lines(("ticket", -1)), 400), ("/api/orders", lines(("ticket", "x")), 400),
    ("/api/orders", lines(("ticket", 1.5)), 400), ("/api/orders", lines(("ticket", 1), ("ticket", 1)), 400),
    ("/api/orders", lines(("ticket", 1), order="short"), 400), ("/api/orders", lines(("ticket", 1), order="<script>alert"), 400),
    ("/api/orders", lines(("ticket", 1), order="o" * 65), 400), ("/api/orders", "x" * 20_000, 413),
    ("/api/orders", "[" * 16_000, 400), ("/api/orders", '{"order_id": "order-bad-1", "lines": [{"sku": "\\ud800", "quantity": 1}]}', 400),
    ("/api/orders", lines(("ticket", "\u0663")), 400), ("/api/orders", lines(("ticket", 1), order="' or '1'='1"), 400),
    ("/api/orders/none-such/payment", "{}", 404), ("/api/orders/none-such/cancel", "", 404), ("/api/nothing", "{}", 404),
    ("/checkout", "order=order-bad-1", 400), ("/checkout", "order=order-bad-1&ticket=x", 400), ("/checkout", "ticket=1", 400),
    ("/checkout", "order=%3Cscript%3E&ticket=1", 400), ("/orders/none-such/pay", "card=1", 404), ("/nothing", "", 404),
])
def test_what_cannot_be_is_said(orders, address, path, body, wanted):
    status, headers, text = ask(address, "POST", path, body)
    assert status == wanted and orders.database.execute("select count(*) from orders").fetchone()[0] == 0
    if path.startswith("/api/"):
        assert json.loads(text)["error"]
    else:
        assert headers["Content-Type"].startswith("text/html") and "<script" not in text


@pytest.mark.parametrize("path", ["/orders/none-such", "/api/orders/none-such", "/x", "/orders/%3Cscript%3E"])
def test_what_is_not_there_is_said(address, path):
    assert ask(address, "GET", path)[0] == 404


@pytest.mark.parametrize("card", ["", "1", "4242 4242 4242 4242", "4" * 20, "\ud800" * 12, "'; drop table orders --", None])
def test_what_is_no_card_begins_no_payment(orders, address, card):
    order = place(orders, "order-card-1")
    orders.reserved(order, "r1", FAR, "HELD")
    assert ask(address, "POST", f"/api/orders/{order}/payment", json.dumps({"card": card}))[0] == 400
    assert at(orders, order) == STANDS["held"]


@pytest.mark.parametrize("headers, wanted", [
    ("Content-Length: \xb2", 413), (f"Content-Length: {'9' * 5000}", 413), ("Content-Length: -1", 413), ("Content-Length: +1", 413),
    ("Content-Length: 2\r\nContent-Length: 5", 411), ("Transfer-Encoding: chunked", 411),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", 411),
])
def test_nothing_in_a_body_is_taken_for_a_request(address, headers, wanted):
    """Behind a proxy the next request of this connection is somebody else's."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(f"POST /api/orders HTTP/1.1\r\nHost: shop\r\n{headers}\r\n\r\nGET / HTTP/1.1\r\n\r\n".encode("latin-1"))
        said = b""
        while part := connection.recv(65536):
            said += part
    assert said.startswith(f"HTTP/1.1 {wanted} ".encode()) and said.count(b"HTTP/1.1") == 1


def test_a_fault_of_the_shop_is_told(orders, address, monkeypatch, caplog):
    monkeypatch.setattr(orders, "get", lambda _: 1 / 0)
    status, _, text = ask(address, "GET", "/api/orders/order-1")
    assert status == 500 and "no harm" in json.loads(text)["error"]
    assert "ZeroDivisionError" in caplog.text


def test_no_card_goes_to_a_provider_in_the_clear(tmp_path):
    """Whose address says https://, and whose port does not."""
    ledger = provider.Ledger(tmp_path / "payments.sqlite")
    with serving(provider.Server(ledger)) as address:
        with pytest.raises(Unknown):
            Provider(f"https://{address}/v1", 5).ask("/authorize", order="order-1", amount=1, card=CARD["good"])
        assert ledger.all() == []
        # The address may have a path, which this provider does not know.
        with pytest.raises(Unknown, match="404"):
            Provider(f"http://{address}/v1/", 5).ask("/authorize", order="order-1", amount=1, card=CARD["good"])
