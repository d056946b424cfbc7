"""`holdfast intake` where something is killed, cut off, full, deleted or not allowed (`make test-broker`)."""

import concurrent.futures
import signal
import subprocess
import threading
import time

import grpc
import pytest

from client import Client
from ordering import JSON, PROTOBUF, Intake, Shop, order, reason
from rabbitmq import RabbitMQ, needs_rabbitmq
from server import Server, eventually

pytestmark = [needs_rabbitmq, pytest.mark.broker]
STOCK = 120


@pytest.fixture(scope="module")
def rabbitmq():
    with RabbitMQ() as running:
        yield running


@pytest.fixture
def host(rabbitmq):
    with rabbitmq.virtual_host() as made:
        yield made


@pytest.fixture
def shop(host):
    with Shop(host) as made:
        yield made


class Rush:
    """Orders of many shoppers on a thread of its own, each placed until the broker has it: some are placed twice."""

    def __init__(self, host, shop, skus, count):
        self.shop, self.ids, self.failure = Shop.__new__(Shop), [], None
        self.shop.host, self.shop.orders = host, shop.orders
        self.orders = [order(skus[number % len(skus)]) for number in range(count)]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.shop.connect()
            for number, each in enumerate(self.orders):
                while True:
                    try:
                        self.shop.place(each, (JSON, PROTOBUF)[number % 2])
                        break
                    except Exception:  # the broker is down: whether it has it nobody knows
                        eventually(self.reconnect, 60)
                self.ids.append(each.order_id)
            self.shop.close()
        except Exception as error:
            self.failure = error

    def reconnect(self):
        try:
            self.shop.connect()
            return True
        except Exception:
            time.sleep(0.1)
            return False

    def join(self):
        self.thread.join()
        assert self.failure is None, self.failure
        return self.ids


def check(client, shop, intake, skus, ids):
    """Every order is answered, as it was decided; as many are held as there were units; nothing is dead or left."""
    answers = shop.wait(ids, 120)
    shop.wait_until_empty(intake)
    reserved = [each for each in ids if answers[each].is_reserved]
    for sku in skus:
        level = client.level(sku)
        assert (level.held, level.available) == (STOCK, 0)
    assert len(reserved) == STOCK * len(skus)
    assert len({answers[each].message.reservation_id for each in reserved}) == len(reserved)
    for each in reserved[::37]:
        assert client.get(key=each).reservation_id == answers[each].message.reservation_id
    assert shop.dead_count() == 0


@pytest.fixture
def skus(client):
    return [client.item(STOCK) for _ in range(4)]


def test_an_intake_that_is_killed(binary, server, client, host, shop, skus):
    with Intake(binary, server.target, shop, "--prefetch", "200"):
        pass  # the queues are there
    rush = Rush(host, shop, skus, 3000)
    redelivered = 0
    for _ in range(4):
        with Intake(binary, server.target, shop, "--prefetch", "200", "--batch", "20") as intake:
            eventually(lambda: intake.metric("orders_total", outcome="rejected") + intake.metric(
                "orders_total", outcome="reserved") > 100 or not rush.thread.is_alive() and shop.left() == 0)
            redelivered += intake.metric("redelivered_total")
            intake.kill()
    with Intake(binary, server.target, shop) as intake:
        check(client, shop, intake, skus, rush.join())
    assert redelivered > 0


class Deadly:
    """A way to the server on which an order ends whoever has sent it."""

    PATH = "/holdfast.v1.ReservationService/BatchReserve"

    def __init__(self, target, order_id):
        self.order_id, self.victim, self.ends = order_id.encode(), None, 0
        self.channel = grpc.insecure_channel(target)
        self.forward = self.channel.unary_unary(self.PATH)
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        service, _, method = self.PATH[1:].rpartition("/")
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
            service, {method: grpc.unary_unary_rpc_method_handler(self.call)})])
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def call(self, request, context):
        if self.order_id in request:
            self.ends += 1
            self.victim.kill()
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        try:
            return self.forward(request, timeout=10)
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata() or ())
            context.abort(error.code(), error.details())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()
        self.channel.close()


def test_an_order_over_which_the_intake_ends(binary, server, client, host, shop, skus):
    """It is found, alone, and those that were in the intake's hand with it are answered."""
    with Intake(binary, server.target, shop):
        pass  # the queues are there
    orders = [order(skus[number % 4]) for number in range(60)]
    killer, = [each.order_id for each in orders[29:30]]
    innocent = {shop.place(each, (JSON, PROTOBUF)[number % 2]) for number, each in enumerate(orders)} - {killer}
    with Deadly(server.target, killer) as way:
        for _ in range(30):
            with Intake(binary, way.target, shop, "--deliveries", "3", waits=False) as intake:
                way.victim = intake.process
                eventually(lambda: intake.process.poll() is not None or shop.dead_count() == 1
                           and innocent <= {each.order_id for each in shop.hear()}, 60)
                if intake.process.poll() is not None:
                    continue
                shop.wait_until_empty(intake)
                late = shop.place(order(skus[0]))
                assert shop.wait([late])[late].is_reserved
                break
    # Three times with others, and three times alone; more where the broker's count of what waits is late.
    assert 6 <= way.ends <= 12
    (letter,) = shop.buried()
    assert reason(letter) == "DELIVERED_TOO_OFTEN" and letter[1].message_id == killer
    answers = shop.settled()
    assert all(answers[each].is_reserved for each in innocent) and killer not in answers
    assert host.queues()[f"{shop.orders}.suspects"] == 0


def test_a_server_that_is_killed(binary, tmp_path, host, shop):
    with Server(binary, data=tmp_path / "data") as server, Client(server.target) as client:
        skus = [client.item(STOCK) for _ in range(4)]
        with Intake(binary, server.target, shop, "--batch", "50") as intake:
            rush = Rush(host, shop, skus, 3000)
            for round in range(3):
                eventually(lambda: intake.metric("batches_total") > 10 * (round + 1))
                server.kill()
                eventually(lambda: not intake.is_ready())
                server = Server(binary, "--port", str(server.port), data=tmp_path / "data")
                intake.wait_until_ready()
            with Client(server.target) as again:
                check(again, shop, intake, skus, rush.join())
            intake.says("orders wait, trying again")
            assert intake.metric("troubles_total", side="server") >= 3
            assert intake.stop() == 0
        server.stop()


def test_a_broker_that_is_killed(binary, server, client, rabbitmq, host, shop, skus):
    with Intake(binary, server.target, shop) as intake:
        rush = Rush(host, shop, skus, 2000)
        for _ in range(2):
            eventually(lambda: intake.metric("in_hand") > 0 or not rush.thread.is_alive())
            rabbitmq.kill()
            eventually(lambda: not intake.is_ready())
            rabbitmq.start()
            intake.wait_until_ready()
        ids = rush.join()
        shop.connect()
        check(client, shop, intake, skus, ids)
        rabbitmq.close_connections()
        intake.says("the broker is away")
        shop.connect()
        intake.wait_until_ready()
        more = client.item(1)
        assert shop.wait([shop.place(order(more))])


def test_a_broker_that_takes_nothing(binary, rabbitmq, shop):
    """The disk is full: orders are decided, their answers wait, and nothing is accepted."""
    with Server(binary) as server, Client(server.target) as client:
        sku = client.item(5)
        with Intake(binary, server.target, shop) as intake:
            shop.wait([shop.place(order(sku))])
            server.process.send_signal(signal.SIGSTOP)
            ids = [shop.place(order(sku)) for _ in range(6)]
            eventually(lambda: intake.metric("in_hand") == 6)
            rabbitmq.alarm()
            try:
                server.process.send_signal(signal.SIGCONT)
                eventually(lambda: intake.metric("blocked") == 1)
                eventually(lambda: intake.metric("orders_total", outcome="rejected") == 2)
                assert not intake.is_ready() and intake.metric("in_hand") == 6 and len(shop.hear()) == 1
                intake.says("takes nothing for now")
            finally:
                rabbitmq.quiet()
            answers = shop.wait(ids)
            assert [answers[each].is_reserved for each in ids] == [True] * 4 + [False] * 2
            shop.wait_until_empty(intake)
            assert intake.is_ready()


def test_two_intakes_of_which_one_is_killed(binary, server, client, host, shop, skus):
    with Intake(binary, server.target, shop) as first, Intake(binary, server.target, shop) as second:
        rush = Rush(host, shop, skus, 2000)
        eventually(lambda: first.metric("answers_total", type="StockReserved") > 50)
        # Each queue has one active consumer: the order of a SKU is one process's to keep.
        assert second.metric("orders_total", outcome="reserved") == 0
        first.kill()
        check(client, shop, second, skus, rush.join())
        assert second.metric("orders_total", outcome="rejected") > 0


def test_orders_wait_in_their_queue(binary, host, shop, tmp_path):
    """What is in hand is what the prefetch says, however long the server is away."""
    with Server(binary, data=tmp_path / "data") as server, Client(server.target) as client:
        sku, target, port = client.item(1000), server.target, server.port
        with Intake(binary, target, shop, "--prefetch", "40") as intake:
            server.kill()
            ids = [shop.place(order(sku)) for _ in range(300)]
            # Of one queue, a quarter of all.
            eventually(lambda: intake.metric("in_hand") == 10 and shop.left() == 290)
            assert not intake.is_ready()
            intake.says("orders wait, trying again")
            with Server(binary, "--port", str(port), data=tmp_path / "data"):
                shop.wait(ids)
                shop.wait_until_empty(intake)
        server.stop()


def test_who_may_not(binary, rabbitmq, host, shop, tmp_path):
    """Wrong credentials on either side are waited for, and no order comes to harm."""
    password = tmp_path / "password"
    password.write_text("wrong")
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    created = lambda role: subprocess.run(
        [binary, "token", "create", "--caller", f"shop-{role}", "--role", role, "--file", tokens], check=True,
        capture_output=True, text=True).stdout.split()[-1]
    admin, reader, reserver = created("admin"), created("read"), created("reserve")
    token.write_text("hf_" + "x" * 40 + "\n")
    with Server(binary, "--tokens", tokens) as server, Client(server.target, token=admin) as client:
        sku = client.item(3)
        with Intake(binary, server.target, shop, "--token-file", token, waits=False, password_file=password) as intake:
            intake.says("the broker cannot be used as it is")
            intake.says("TOKEN_INVALID")
            assert not intake.is_ready()
            password.write_text(rabbitmq.password)
            eventually(lambda: intake.metric("connected", side="broker") == 1)
            ids = [shop.place(order(sku)) for _ in range(3)]
            eventually(lambda: intake.metric("in_hand") == 3)
            # One that may read only is no better.
            token.write_text(f"{reader}\n")
            time.sleep(3)
            assert not intake.is_ready() and intake.metric("in_hand") == 3 and shop.buried() == []
            token.write_text(f"{reserver}\n")
            intake.wait_until_ready()
            answers = shop.wait(ids)
            assert all(each.is_reserved for each in answers.values())


def test_a_queue_that_is_deleted(binary, server, client, host, shop):
    sku = client.item(20)
    with Intake(binary, server.target, shop) as intake:
        shop.wait([shop.place(order(sku))])
        for queue in shop.queues:
            host.delete_queue(queue)
        # They are declared again by a new connection.
        eventually(lambda: set(shop.queues) <= set(host.queues()), 60)
        intake.wait_until_ready()
        eventually(lambda: placed(shop, sku), 60)
        # So are the dead letters, of which the broker says nothing before one goes there.
        host.delete_queue(shop.dead)
        shop.publish(b"poison", sku)
        letter, = eventually(lambda: shop.dead in host.queues() and shop.buried(), 60)
        assert reason(letter) == "MALFORMED_BODY"
        shop.wait([shop.place(order(sku))])
        shop.wait_until_empty(intake)
        # And the exchange, of which the intake's connection hears nothing at all.
        shop.channel.exchange_delete(shop.orders)
        eventually(lambda: placed(shop, sku), 60)
        shop.wait_until_empty(intake)


def placed(shop, sku):
    """Whether an order came into a queue."""
    try:
        return shop.wait([shop.place(order(sku))])
    except Exception:
        shop.connect()
        return False


def test_it_ends_in_order(binary, server, client, shop):
    sku = client.item(2000)
    with Intake(binary, server.target, shop, "--batch", "10") as intake:
        ids = [shop.place(order(sku), PROTOBUF) for _ in range(1000)]
        assert intake.stop() == 0
        assert "Traceback" not in intake.text()
    answered = {each.order_id for each in shop.hear()}
    # What was answered was accepted: nothing of it comes again.
    assert shop.left() == len(ids) - len(answered)
    with Intake(binary, server.target, shop) as intake:
        shop.wait(ids)
        assert len(shop.heard) == len(ids) and client.level(sku).held == 1000
