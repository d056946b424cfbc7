"""`holdfast intake` between a real RabbitMQ and a real server; pika and protobuf's own JSON are the shop."""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import types

import pika
import pytest
from google.protobuf import json_format
from holdfast.v1 import order_pb2, reservation_pb2

from client import Client, fresh, line
from ordering import JSON, PROTOBUF, Answer, Intake, Shop, order, reason
from rabbitmq import RabbitMQ, needs_rabbitmq, take
from relaying import Relay
from server import Server, eventually, holdfast

pytestmark = needs_rabbitmq

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/EVENTS.md").read_text()
HELD, CONFIRMED = reservation_pb2.RESERVATION_STATE_HELD, reservation_pb2.RESERVATION_STATE_CONFIRMED


@pytest.fixture(scope="module")
def rabbitmq():
    with RabbitMQ() as running:
        yield running


@pytest.fixture(scope="module")
def host(rabbitmq):
    with rabbitmq.virtual_host() as made:
        yield made


@pytest.fixture(scope="module")
def shop(host):
    with Shop(host) as made:
        yield made


@pytest.fixture(scope="module")
def intake(binary, server, shop):
    """One for all tests that need no flags of their own; every test has its own SKUs and orders."""
    with Intake(binary, server.target, shop) as running:
        yield running


@pytest.mark.parametrize("form", [JSON, PROTOBUF])
def test_an_order_is_held_and_answered(client, shop, intake, form):
    sku, other = client.item(10), client.item(5)
    held = shop.place(order(sku, 3, ttl=90), form)
    refused = shop.place(order(sku, 8), form)
    unknown = shop.place(order(fresh("nothing")), form)
    instead = shop.place(order(sku, 8, alternatives=[reservation_pb2.Alternative(
        lines=[reservation_pb2.ReservationLine(sku=other, quantity=4)])]), form)
    partly = order(sku, 20)
    partly.lines[0].min_quantity = 1
    shop.place(partly, form)
    answers = shop.wait([held, refused, unknown, instead, partly.order_id])

    answer = answers[held]
    kept = client.get(key=held)
    assert answer.is_reserved and answer.message.state == HELD and answer.message.reservation_id == kept.reservation_id
    assert kept.reference == held and [(each.sku, each.quantity) for each in kept.lines] == [(sku, 3)]
    assert answer.message.expires_at == kept.expires_at and kept.expires_at.seconds - kept.created_at.seconds == 90
    assert answer.properties.content_type == form and answer.properties.app_id.startswith("holdfast-intake/")
    assert answer.method.routing_key == f"StockReserved.{held}" and answer.method.exchange == shop.answers
    assert answer.attributes.items() >= {"specversion": "1.0", "id": held, "source": "holdfast-intake", "type": "StockReserved",
                                         "partitionkey": sku}.items()

    answer = answers[refused]
    assert answer.type == "StockRejected" and answer.message.reason == "INSUFFICIENT_STOCK" and answer.message.message
    assert dict(answer.message.details).items() >= {"sku": sku, "requested": "8", "available": "7"}.items()
    assert answers[unknown].message.reason == "ITEM_NOT_FOUND"
    assert answers[instead].message.alternative == 1
    assert [(each.sku, each.quantity) for each in answers[partly.order_id].message.lines] == [(sku, 7)]
    assert client.level(sku).held == 10 and client.level(other).held == 4
    shop.wait_until_empty(intake)


def test_an_order_that_comes_twice_is_held_once(client, shop, intake):
    sku = client.item(10)
    again = order(sku, 2)
    for form in (JSON, PROTOBUF, JSON, JSON):
        shop.place(again, form)
    shop.wait_until_empty(intake)
    shop.wait([again.order_id])
    doubles = [each for each in shop.heard if each.order_id == again.order_id]
    assert len(doubles) == 4 and len({each.message.reservation_id for each in doubles}) == 1
    assert client.level(sku).held == 2
    # A late double says where the reservation stands.
    client.confirm(doubles[0].message.reservation_id)
    shop.place(again)
    eventually(lambda: [each for each in shop.hear() if each.order_id == again.order_id][-1].message.state == CONFIRMED)
    # The same order with another payload is somebody's mistake.
    again.lines[0].quantity = 3
    shop.place(again)
    letter, = shop.buried(1)
    assert reason(letter) == "IDEMPOTENCY_KEY_REUSED" and letter[1].message_id == again.order_id
    assert client.level(sku).on_hand == 8


POISON = [
    (b"", JSON, "OrderPlaced", "MALFORMED_BODY"),
    (b"not json", JSON, "OrderPlaced", "MALFORMED_BODY"),
    (b"\xff\xff\xff", PROTOBUF, "OrderPlaced", "MALFORMED_BODY"),
    (b'{"orderId": "o"', JSON, "OrderPlaced", "MALFORMED_BODY"),
    (b'{"orderId": "' + b"x" * 65 + b'"}', JSON, "OrderPlaced", "ORDER_ID_INVALID"),
    (b'{"orderId": "poison-1", "price": 7}', JSON, "OrderPlaced", "UNKNOWN_FIELD"),
    (b'{"orderId": "poison-2"}', JSON, "OrderPlaced", "INVALID_FIELD"),
    (b'{"orderId": "poison-3", "lines": [{"sku": "a", "quantity": "0"}]}', JSON, "OrderPlaced", "INVALID_FIELD"),
    (b'{"orderId": "poison-4", "lines": [{"sku": "a b", "quantity": 1}]}', JSON, "OrderPlaced", "INVALID_FIELD"),
    (b"\x0a\x08poison-5\x12\x02\x0a\x05", PROTOBUF, "OrderPlaced", "MALFORMED_MESSAGE"),
    (b"\x0a\x08poison-6\x12\x05\x0a\x01a\x50\x01", PROTOBUF, "OrderPlaced", "UNKNOWN_FIELD"),
    (b"<order/>", "text/xml", "OrderPlaced", "CONTENT_TYPE_UNKNOWN"),
    (b'{"orderId": "poison-7"}', JSON, "OrderCancelled", "TYPE_UNKNOWN"),
    (b" " * 300_000, JSON, "OrderPlaced", "BODY_TOO_LARGE"),
]


def test_poison_goes_to_the_dead_letters(client, shop, intake):
    sku = client.item(100)
    good = []
    for number, (body, content_type, kind, _) in enumerate(POISON):
        shop.publish(body, sku, content_type, kind, f"poison-{number}")
        good.append(shop.place(order(sku)))
    answers = shop.wait(good)
    assert all(answers[each].is_reserved for each in good)
    letters = {letter[1].message_id: letter for letter in shop.buried(len(POISON))}
    for number, (body, content_type, kind, why) in enumerate(POISON):
        _, properties, kept = letters[f"poison-{number}"]
        assert (properties.headers["cloudEvents_deadreason"], kept) == (why, body), f"{body[:60]} {properties.headers}"
        assert (properties.content_type, properties.type) == (content_type, kind)
        assert properties.headers["cloudEvents_deadtext"] and properties.headers["cloudEvents_deadtime"]
        assert properties.headers["cloudEvents_deaddestination"] in shop.queues
    assert shop.buried() == []
    assert intake.metric("dead_letters_total", reason="BODY_TOO_LARGE") == 1
    intake.says("goes to the dead letters (")
    shop.wait_until_empty(intake)


# What a producer may set and no name of AMQP's has room for; what is no UTF-8 grows when it is read.
UNRULY = [
    {"headers": {"cloudEvents_id": "x" * 300}}, {"headers": {"cloudEvents_type": "x" * 300}},
    {"headers": {"cloudEvents_partitionkey": "x" * 130_700}},
    {"correlation_id": b"\xe4" * 120}, {"message_id": b"\xff" * 255}, {"type": "x" * 255, "reply_to": b"\xe4" * 255},
    {"content_type": "\x1b[31m" * 50}, {"headers": {"x-delivery-count": 2**62}},
]


def test_names_of_any_kind_hold_nobody_up(client, shop, intake):
    sku = client.item(100)
    for properties in UNRULY:
        shop.channel.basic_publish(shop.orders, sku, b"no order", mandatory=True,
                                   properties=pika.BasicProperties(delivery_mode=2, **properties))
    good = shop.place(order(sku))
    assert shop.wait([good])[good].is_reserved
    letters = shop.buried(len(UNRULY))
    assert all(body == b"no order" and len(properties.headers["cloudEvents_deadtext"]) <= 1024
               for _, properties, body in letters)
    shop.wait_until_empty(intake)
    assert intake.metric("stuck") == 0


def test_an_answer_goes_where_the_order_says(client, shop, intake):
    sku = client.item(10)
    mine = shop.channel.queue_declare("", exclusive=True).method.queue
    asked = shop.place(order(sku), reply_to=mine)
    shop.place(order(sku), PROTOBUF, reply_to="nobody-has-this-queue")
    public = shop.place(order(sku))
    shop.wait([public])
    answer = Answer(*take(shop.channel, mine, 1)[0])
    assert answer.order_id == asked and answer.is_reserved and answer.method.exchange == ""
    assert asked not in shop.settled()
    # Nobody misses the other.
    shop.wait_until_empty(intake)
    eventually(lambda: intake.metric("answers_dropped_total") == 1)
    assert shop.buried() == [] and client.level(sku).held == 3


def test_a_full_reply_queue_holds_nobody_up(client, shop, intake):
    sku = client.item(100)
    shop.channel.queue_declare("tight", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    theirs = [shop.place(order(sku), reply_to="tight") for _ in range(6)]
    mine = shop.place(order(sku))
    assert shop.wait([mine])[mine].is_reserved
    shop.wait_until_empty(intake)
    letters = shop.buried()
    answered = [Answer(*each).order_id for each in take(shop.channel, "tight")]
    assert sorted(answered + [letter[1].message_id for letter in letters]) == sorted(theirs) and answered
    assert {(reason(each), each[1].headers["cloudEvents_deaddestination"], each[1].type) for each in letters} == {
        ("QUEUE_FULL", "tight", "StockReserved")}
    shop.channel.queue_delete("tight")


def test_direct_replies(client, shop, intake):
    """RabbitMQ's direct reply-to, which is no queue."""
    sku = client.item(1)
    dropped = intake.metric("answers_dropped_total")
    channel = shop.connection.channel()
    heard = []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *each: heard.append(Answer(*each[1:], "my-question")), auto_ack=True)
    asked = order(sku)
    channel.basic_publish(shop.orders, sku, json.dumps({"orderId": asked.order_id, "lines": [{"sku": sku, "quantity": 1}]}).encode(),
                          pika_properties(reply_to="amq.rabbitmq.reply-to", correlation_id="my-question"))
    eventually(lambda: shop.connection.process_data_events(0.05) or heard)
    assert heard[0].order_id == asked.order_id and heard[0].is_reserved
    shop.wait_until_empty(intake)
    assert intake.metric("answers_dropped_total") == dropped
    channel.close()
    # And of one that does not wait any more.
    channel = shop.connection.channel()
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    other = client.item(1)
    channel.basic_publish(shop.orders, other, json.dumps({"orderId": fresh("o"), "lines": [{"sku": other, "quantity": 1}]}).encode(),
                          pika_properties(reply_to="amq.rabbitmq.reply-to"))
    channel.close()
    shop.wait_until_empty(intake)
    assert shop.buried() == []


def pika_properties(**fields):
    return pika.BasicProperties(content_type=JSON, type="OrderPlaced", delivery_mode=2, **fields)


def test_orders_of_a_sku_are_decided_in_their_order(client, shop, intake):
    stock = {client.item(units): units for units in (5, 40, 17, 23, 60)}
    placed = {sku: [] for sku in stock}
    for number in range(60):
        for sku in stock:
            placed[sku].append(shop.place(order(sku), (JSON, PROTOBUF)[number % 2]))
    answers = shop.wait(sum(placed.values(), []))
    for sku, units in stock.items():
        assert [answers[each].is_reserved for each in placed[sku]] == [True] * units + [False] * (60 - units)
        assert client.level(sku).available == 0


def test_it_tells_what_it_does(client, shop, intake):
    sku = client.item(1)
    shop.wait([shop.place(order(sku)), shop.place(order(sku))])
    shop.wait_until_empty(intake)
    assert intake.metric("orders_total", outcome="reserved") >= 1
    assert intake.metric("orders_total", outcome="rejected") >= 1
    eventually(lambda: intake.metric("answers_total", type="StockReserved") == intake.metric("orders_total", outcome="reserved")
               - intake.metric("answers_dropped_total") - intake.metric("dead_letters_total", reason="QUEUE_FULL"))
    assert intake.metric("in_hand") == 0 and intake.metric("batches_total") >= 1
    assert intake.metric("connected", side="broker") == 1 == intake.metric("connected", side="server")
    assert intake.metric("order_seconds_count") >= 2
    # As they were some seconds ago.
    for queue in shop.queues:
        eventually(lambda: intake.metric("queue_messages", queue=queue) >= 0)
    assert intake.metric("dead_letter_queue_messages") >= 0


def test_a_command_line_that_makes_no_sense(binary, server):
    broker = ("--broker", "amqp://127.0.0.1:1")
    for flags, words in [((), "--broker"), ((*broker, "--prefetch", "0"), "--prefetch: 1 to 65535"),
                         ((*broker, "--partitions", "257"), "--partitions"), ((*broker, "--batch", "9000"), "--batch"),
                         ((*broker, "--tries", "0"), "--tries"), ((*broker, "--orders", "a b"), "--orders"),
                         ((*broker, "--ttl", "0s"), "--ttl"), ((*broker, "--group", ""), "--group"),
                         ((*broker, "--answers", "orders"), "three names"), ((*broker, "--dead-letters", "orders"), "three names"),
                         ((*broker, "--dead-letters", "orders.3"), "orders.3 is a queue of orders"),
                         ((*broker, "--dead-letters", "orders.suspects"), "orders.suspects is a queue of orders"),
                         (("--broker", "http://x"), "--broker")]:
        done = holdfast(binary, "intake", "--target", server.target, *flags)
        assert done.returncode == 64 and words in done.stderr and done.stdout == "", (flags, done)


def test_the_page(binary, rabbitmq, tmp_path):
    """docs/EVENTS.md, "Orders": its command, its messages, its shop, its look at the dead letters, and how one is sent again."""
    page = PAGE.partition("\n## Orders\n")[2]
    (command,) = [text for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for text in block.splitlines()]
    placed, answers = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    example = json_format.Parse(placed, order_pb2.OrderPlaced())
    reserved, rejected = answers.splitlines()
    reserved, rejected = json_format.Parse(reserved, order_pb2.OrderReserved()), json_format.Parse(rejected, order_pb2.OrderRejected())
    assert (example.ttl.seconds, reserved.state) == (600, HELD)
    scripts = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(scripts) == 3
    with rabbitmq.virtual_host() as host, Server(binary) as server, Client(server.target) as client:
        user, _, rest = host.address.partition("://")[2].partition("@")
        shop, look, again = [text.replace("amqp://holdfast:secret@127.0.0.1:5672/%2F", f"amqp://{user}:{rabbitmq.password}@{rest}")
                      for text in scripts]
        client.adjust("ticket", set_on_hand=3, any_version=True)
        (tmp_path / "broker.password").write_text(rabbitmq.password)
        words = shlex.split(command.replace("amqp://holdfast@127.0.0.1:5672/", host.address).replace("7423", "0"))
        process = subprocess.Popen([binary, *words[1:], "--target", server.target], cwd=tmp_path, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline().startswith("holdfast taking orders: broker ")
            eventually(lambda: "orders.3" in host.queues())
            with host.connect() as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                # The page's second answer, and a letter.
                channel.queue_declare("aside")
                channel.queue_bind("aside", "orders.answers", "StockRejected.order-124")
                done = subprocess.run([sys.executable, "-c", shop], capture_output=True, text=True, timeout=60)
                assert done.returncode == 0 and done.stdout.startswith("StockReserved "), done
                answer = json_format.Parse(done.stdout.partition(" ")[2], order_pb2.OrderReserved())
                assert answer.order_id == reserved.order_id == example.order_id
                assert len(answer.reservation_id) == len(reserved.reservation_id)
                for body in (placed.replace("order-123", "order-124"), "{}"):
                    channel.basic_publish("orders", "ticket", body.encode(), pika.BasicProperties(), mandatory=True)
                ((_, _, body),) = take(channel, "aside", 1)
                assert json_format.Parse(body, order_pb2.OrderRejected()) == rejected
                for _ in range(2):
                    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60)
                    assert done.returncode == 0 and " ORDER_ID_INVALID " in done.stdout and "b'{}'" in done.stdout, done
                # One that can be mended is sent again, and the other one stays.
                mended = {**json.loads(placed), "orderId": "order-125", "giftWrap": True, "lines": [{"sku": "ticket", "quantity": 1}]}
                channel.basic_publish("orders", "ticket", json.dumps(mended).encode(), pika.BasicProperties(
                    reply_to="aside"), mandatory=True)
                eventually(lambda: host.queues()["orders.dead"] == 2)
                done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done
                ((_, properties, _),) = take(channel, "aside", 1)
                assert (properties.type, properties.correlation_id) == ("StockReserved", "order-125")
                eventually(lambda: host.queues()["orders.dead"] == 1)
        finally:
            process.terminate()
            errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0, errors


def test_the_permissions_of_the_page(binary, rabbitmq, tmp_path):
    """docs/EVENTS.md, "The broker": what each row of its table lets a user do is enough, for dead letters and replies too."""
    rows = {row[0]: [text.replace("\\|", "|") for text in row[1:]]
            for row in re.findall(r"^\| `([^`]+)` \| `(\^.+?)` \| `(\^.+?)` \| `(\^.+?)` \|$", PAGE, re.MULTILINE)}
    assert len(rows) == 7
    secret = tmp_path / "password"
    secret.write_text("little")
    with rabbitmq.virtual_host() as host, Server(binary) as server, Client(server.target) as client:
        name = fresh("user")
        rabbitmq.add_user(name, "little", host.name, *rows["relay"])
        address = f"amqp://{name}@{host.address.rpartition('@')[2]}"
        sku = client.item(100)
        client.reserve(line(sku, 1))
        flags = ("--broker", address, "--broker-password-file", secret)
        rabbitmq.set_message_limit(200)
        try:
            for row in ["relay", "relay --no-declare"]:
                rabbitmq.permit(name, host.name, *rows[row])
                with Relay(binary, server.target, None, tmp_path / row.replace(" ", ""), *flags, *row.split()[1:]) as relay:
                    eventually(lambda: relay.metric("dead_letters_total", reason="MESSAGE_TOO_LARGE") > 0)
                    assert "ACCESS_REFUSED" not in relay.text()
        finally:
            rabbitmq.set_message_limit(128 << 20)
        like_a_shop = types.SimpleNamespace(flags=(), host=types.SimpleNamespace(
            address=address, broker=types.SimpleNamespace(password_file=secret)))
        with host.connect() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("mine")
            for row in ["intake", "intake --no-declare"]:
                rabbitmq.permit(name, host.name, *rows[row])
                with Intake(binary, server.target, like_a_shop, *row.split()[1:]) as intake:
                    for body, reply_to in [(b"{", None), (json_format.MessageToJson(order(sku)).encode(), "mine"),
                                           (json_format.MessageToJson(order(sku)).encode(), None)]:
                        channel.basic_publish("orders", sku, body, pika.BasicProperties(reply_to=reply_to), mandatory=True)
                    eventually(lambda: intake.metric("answers_total", type="StockReserved") == 2)
                    eventually(lambda: intake.metric("dead_letters_total", reason="MALFORMED_BODY") == 1)
                    assert len(take(channel, "mine", 1)) == 1 and "ACCESS_REFUSED" not in intake.text()
        act_as_the_shop(rabbitmq, host, name, address, rows, sku)


def act_as_the_shop(rabbitmq, host, name, address, rows, sku):
    """What the last rows are for, with no more rights than they give."""
    def connection(row):
        rabbitmq.permit(name, host.name, *rows[row])
        return pika.BlockingConnection(pika.URLParameters(address.replace("@", ":little@")))

    with connection("consumer of events") as consumer:
        channel = consumer.channel()
        channel.queue_declare("shop.dead", durable=True)
        channel.exchange_declare("shop.dead", "fanout", durable=True)
        channel.queue_bind("shop.dead", "shop.dead")
        channel.queue_declare("shop-window", durable=True, arguments={"x-dead-letter-exchange": "shop.dead"})
        channel.queue_bind("shop-window", "holdfast.events", "#")
        assert channel.basic_get("shop-window")[0] is None
    with connection("sender of orders") as sender:
        channel = sender.channel()
        channel.confirm_delivery()
        channel.queue_declare("shop-answers", durable=True)
        channel.queue_bind("shop-answers", "orders.answers", "#")
        channel.basic_publish("orders", sku, b"{}", pika.BasicProperties(reply_to="shop-answers"), mandatory=True)
        assert channel.basic_get("shop-answers")[0] is None
    with connection("reader of dead letters") as reader:
        channel = reader.channel()
        channel.confirm_delivery()
        assert channel.basic_get("holdfast.events.dead")[0] and channel.basic_get("orders.dead")[0]
        for exchange, key in (("orders", sku), ("holdfast.events", f"StockReserved.{sku}")):
            channel.basic_publish(exchange, key, b"{}", mandatory=exchange == "orders")
