#!/usr/bin/env python3
"""Relay, intake, broker and server are killed in turn under load, again and again; no decision may be missing, doubled or
out of order, and every order has to end right.

A shop places orders in the queues of `holdfast intake`, takes its answers, and confirms, releases or leaves each hold to
its end, calling the server itself. One in ten orders is placed twice. Beside it a consumer reads what `holdfast relay`
publishes. A round: one of the four, or two of them at once, is killed with SIGKILL (drawn from the seed), comes back, and
the shop waits for the next answer. After every ten rounds the shop stops placing orders, waits until all have ended, and
everything is compared with the server's own log, read through Watch from its oldest event on:

- after dropping doubles by id and SKU, the consumer has seen exactly what the log has: nothing less, nothing else;
- of each SKU in the order of the log, each version of the item once, without a gap;
- every order has an answer, all answers to one order are the same, and the log has one decision for it;
- what the shop was told to be sold was sold, what it did not sell was not, and no unit is missing or too many;
- both dead-letter queues are empty.

Exit status: 0 all of that held, 1 something did not: the folder with the data and logs is kept and named.
"""

import argparse
import collections
import json
import pathlib
import queue
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import crash  # it puts the end-to-end tests' folder on the path
import conftest  # noqa: F401  it generates the clients' modules
import grpc
import pika
from client import Client
from crash import Failure
from google.protobuf import json_format
from holdfast.v1 import event_pb2, event_pb2_grpc, order_pb2, reservation_pb2, stock_pb2
from lifetime import tied
from ports import free_ports
from rabbitmq import RabbitMQ
from server import Server, eventually

ROUNDS_PER_COMPARISON = 10
SKUS = 20
UNITS = 100_000
# Holds that the shop forgets end by themselves.
TTL_SECONDS = 4
PARTITIONS = 4
PROGRESS_SECONDS = 120
END_SECONDS = 180
ALL_KINDS = list(range(1, 10))
EVENTS, ANSWERS, ORDERS = "holdfast.events", "orders.answers", "orders"


class Part:
    """`holdfast relay` or `holdfast intake`: started again with the same command after it was killed."""

    def __init__(self, name, command, log):
        self.name, self.command, self.log = name, command, log
        self.start()

    def start(self):
        self.process = subprocess.Popen(tied(*self.command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.log.open("ab"), text=True)
        line = self.process.stdout.readline()
        if not line.startswith("holdfast "):
            raise Failure(f"{self.name} has ended before it began: {self.log.read_text()[-2000:]}")

    def kill(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} has ended by itself, status {self.process.returncode}: {self.log.read_text()[-2000:]}")
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if status := self.process.wait(30):
            raise Failure(f"{self.name} ended with status {status}: {self.log.read_text()[-2000:]}")


class Shop:
    """Places orders, hears answers and events, and decides the end of every hold."""

    def __init__(self, url, target, seed, rate):
        self.url, self.target, self.rate = url, target, rate
        self.draw = random.Random(f"{seed}/shop")
        self.lock = threading.Lock()
        self.stopping, self.pausing = threading.Event(), threading.Event()
        self.placed = {}                                # order id: SKU
        self.answers = {}                               # order id: type, reservation
        self.answered = collections.Counter()           # order id: how often
        self.ends = {}                                  # reservation: what the shop was told became of it
        self.meant = {}                                 # reservation: what the shop wanted
        self.messages = []                              # (LSN, subject, type, versions by location), in the order of their coming
        self.contradictions = []
        self.to_end = queue.Queue()
        self.threads = [threading.Thread(target=work, daemon=True)
                        for work in (self.place, self.hear_answers, self.hear_events, self.end_holds, self.end_holds)]

    def declare(self):
        """Queues of the shop's own, which outlive everything. The exchanges are there once relay and intake are."""
        def there():
            with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
                channel = connection.channel()
                for name, exchange in (("shop.events", EVENTS), ("shop.answers", ANSWERS)):
                    channel.queue_declare(name, durable=True)
                    channel.queue_bind(name, exchange, "#")
            return True
        eventually(lambda: quietly(there), PROGRESS_SECONDS)

    def start(self):
        for thread in self.threads:
            thread.start()

    def connected(self, work):
        """Does the work with a channel, and again with a new one where the broker was lost, until the shop closes."""
        while not self.stopping.is_set():
            try:
                with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
                    work(connection.channel())
            except (pika.exceptions.AMQPError, OSError):
                self.stopping.wait(0.1)

    def place(self):
        waiting = collections.deque()

        def work(channel):
            channel.confirm_delivery()
            while not self.stopping.is_set():
                if not waiting:
                    if self.pausing.is_set():
                        self.stopping.wait(0.05)
                        continue
                    self.stopping.wait(1 / self.rate)
                    order = f"order-{len(self.placed)}"
                    sku = f"sku-{self.draw.randrange(SKUS)}"
                    with self.lock:
                        self.placed[order] = sku
                    waiting.extend([(order, sku)] * (2 if self.draw.random() < 0.1 else 1))
                order, sku = waiting[0]
                placed = order_pb2.OrderPlaced(
                    order_id=order, lines=[reservation_pb2.ReservationLine(sku=sku, quantity=1 + len(order) % 2)])
                placed.ttl.FromSeconds(TTL_SECONDS)
                is_json = hash_of(order) % 2
                channel.basic_publish(
                    ORDERS, sku, json_format.MessageToJson(placed).encode() if is_json else placed.SerializeToString(),
                    pika.BasicProperties(delivery_mode=2, type="OrderPlaced", message_id=order,
                                         content_type="application/json" if is_json else "application/protobuf"),
                    mandatory=True)
                waiting.popleft()
        self.connected(work)

    def consume(self, name, take):
        def work(channel):
            channel.basic_qos(prefetch_count=500)
            for method, properties, body in channel.consume(name, inactivity_timeout=0.2):
                if self.stopping.is_set():
                    return
                if method:
                    take(properties, body)
                    channel.basic_ack(method.delivery_tag)
        self.connected(work)

    def hear_answers(self):
        self.consume("shop.answers", self.take_answer)

    def take_answer(self, properties, body):
        message = {"StockReserved": order_pb2.OrderReserved, "StockRejected": order_pb2.OrderRejected}[properties.type]()
        if properties.content_type == "application/json":
            json_format.Parse(body, message)
        else:
            message.ParseFromString(body)
        reservation = getattr(message, "reservation_id", "")
        answer = (properties.type, reservation)
        with self.lock:
            self.answered[message.order_id] += 1
            if properties.message_id != message.order_id:
                self.contradictions.append(f"an answer to {message.order_id} has the id {properties.message_id}")
            before = self.answers.setdefault(message.order_id, answer)
            if before != answer:
                self.contradictions.append(f"{message.order_id}: {before}, and later {answer}")
            if message.order_id not in self.placed:
                self.contradictions.append(f"{message.order_id} was never placed")
            if not reservation or reservation in self.meant:
                return
            self.meant[reservation] = meant = self.draw.choices(["sell", "release", "forget"], [6, 2, 1])[0]
        if meant != "forget":
            self.to_end.put((reservation, meant))

    def end_holds(self):
        with Client(self.target, options=[("grpc.max_reconnect_backoff_ms", 200)]) as client:
            while not self.stopping.is_set():
                try:
                    reservation, meant = self.to_end.get(timeout=0.1)
                except queue.Empty:
                    continue
                end = self.end(client, reservation, meant)
                with self.lock:
                    self.ends[reservation] = end

    def end(self, client, reservation, meant):
        """CONFIRMED, RELEASED, or the reason why not. Until the server says so: it may be dead."""
        while not self.stopping.is_set():
            try:
                if meant == "sell":
                    client.reservations.Confirm(reservation_pb2.ConfirmRequest(reservation_id=reservation), timeout=5)
                    return "CONFIRMED"
                client.reservations.Release(reservation_pb2.ReleaseRequest(reservation_id=reservation), timeout=5)
                return "RELEASED"
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    return "EXPIRED"
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return error.code().name
            self.stopping.wait(0.1)

    def hear_events(self):
        self.consume("shop.events", self.take_event)

    def take_event(self, properties, body):
        headers = properties.headers
        event = event_pb2.Event()
        if properties.content_type == "application/json":
            json_format.Parse(body, event)
        else:
            event.ParseFromString(body)
        subject = headers.get("cloudEvents_subject", "")
        lsn = int(properties.message_id.rsplit("-", 1)[1])
        if lsn != event.lsn or any(level.sku != subject for level in event.stock):
            self.contradictions.append(f"message {properties.message_id} of {subject} has the body {event}")
        self.messages.append((lsn, subject, properties.type, {level.location: level.version for level in event.stock}))


def quietly(call):
    try:
        return call()
    except (pika.exceptions.AMQPError, OSError):
        return False


def hash_of(text):
    """The same in every run."""
    return sum(text.encode())


class Stack:
    """The four parts, and the shop before them."""

    def __init__(self, options):
        self.options = options
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=options.directory))
        self.broker = RabbitMQ()
        self.url = self.broker.address.replace("@", f":{self.broker.password}@")
        self.port, = free_ports(1)
        self.server = None
        self.start_server()
        holdfast, target = str(options.server), self.server.target
        common = ["--broker", self.broker.address, "--broker-password-file", str(self.broker.password_file), "--target", target]
        self.relay = Part("relay", [holdfast, "relay", *common, "--resume-file", str(self.path / "relay.token"),
                                    "--format", options.format], self.path / "relay.log")
        self.intake = Part("intake", [holdfast, "intake", *common, "--partitions", str(PARTITIONS)], self.path / "intake.log")
        self.shop = Shop(self.url, target, options.seed, options.rate)
        self.shop.declare()
        # From its first decision on, the consumer's queue is there.
        with Client(target) as client:
            for number in range(SKUS):
                client.adjust(f"sku-{number}", set_on_hand=UNITS)
        self.shop.start()

    def start_server(self):
        self.server = Server(self.options.server, "--port", str(self.port), data=self.path / "data",
                             environment={"HOLDFAST_LOG": "error"})

    def kill(self, name):
        """Returns what starts it again."""
        if name == "broker":
            self.broker.kill()
            return self.broker.start
        if name == "server":
            self.server.kill()
            return self.start_server
        part = getattr(self, name)
        part.kill()
        return part.start

    def await_answer(self):
        """Of an order that is placed from now on."""
        with self.shop.lock:
            first = len(self.shop.placed)
        def has_come():
            with self.shop.lock:
                return any(f"order-{number}" in self.shop.answers for number in range(first, len(self.shop.placed)))
        self.wait("the next answer", has_come, PROGRESS_SECONDS)

    def wait(self, what, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            for part in (self.relay, self.intake):
                if part.process.poll() is not None:
                    raise Failure(f"{part.name} has ended by itself: {part.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise Failure(f"{what} has not come in {seconds} s")
            time.sleep(0.05)

    # What must hold.

    def compare(self):
        shop = self.shop
        shop.pausing.set()
        self.wait("the answer to every order", lambda: len(shop.answers) == len(shop.placed), END_SECONDS)
        self.wait("the end of every hold that the shop ends", lambda: shop.to_end.empty() and all(
            meant == "forget" or reservation in shop.ends for reservation, meant in list(shop.meant.items())), END_SECONDS)
        with Client(self.server.target) as client:
            self.wait("the end of every hold", lambda: all(
                not level.held for level in client.stock.ListStock(
                    stock_pb2.ListStockRequest(page_size=500), timeout=20).stock), END_SECONDS)
        truth = self.read_the_log()
        expected = {(event.lsn, sku) for event in truth for sku in skus_of(event)}
        last = max(event.lsn for event in truth)
        self.wait("the last event", lambda: any(lsn == last for lsn, *_ in reversed(shop.messages)), END_SECONDS)
        # What comes again comes behind it.
        self.wait("everything that was published", lambda: {(lsn, sku) for lsn, sku, *_ in list(shop.messages)} >= expected,
                  END_SECONDS)
        faults = [*shop.contradictions, *self.compare_events(truth, expected), *self.compare_orders(truth),
                  *self.compare_balances(truth), *self.compare_dead_letters()]
        if faults:
            raise Failure(f"{len(faults)} faults, such as: " + "; ".join(faults[:5]))
        shop.pausing.clear()
        return len(truth)

    def read_the_log(self):
        with grpc.insecure_channel(self.server.target) as channel:
            stub = event_pb2_grpc.EventServiceStub(channel)
            def lsn(token):
                return int(token[17:33], 16)
            now = stub.Watch(event_pb2.WatchRequest(kinds=ALL_KINDS))
            head = lsn(next(iter(now)).resume_token)
            now.cancel()
            events = []
            watch = stub.Watch(event_pb2.WatchRequest(kinds=ALL_KINDS, oldest=True))
            for response in watch:
                events += response.events
                if lsn(response.resume_token) >= head:
                    break
            watch.cancel()
            return events

    def compare_events(self, truth, expected):
        first, order = {}, collections.defaultdict(list)
        for lsn, sku, type_name, versions in self.shop.messages:
            if (lsn, sku) not in first:
                first[lsn, sku] = type_name
                order[sku].append((lsn, versions))
        for lsn, sku in first.keys() - expected:
            yield f"LSN {lsn} of {sku} was published, and is not in the log"
        for lsn, sku in expected - first.keys():
            yield f"LSN {lsn} of {sku} was not published"
        for sku, messages in order.items():
            for (before, _), (after, _) in zip(messages, messages[1:]):
                if before >= after:
                    yield f"{sku}: LSN {after} came behind {before}"
            versions = collections.defaultdict(list)
            for _, each in messages:
                for location, version in each.items():
                    versions[location].append(version)
            for location, numbers in versions.items():
                if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
                    yield f"{sku}@{location}: its versions are not those of the log one by one"
        types = {event.lsn: TYPES[event.kind] for event in truth}
        for (lsn, sku), name in first.items():
            if types.get(lsn, name) != name:
                yield f"LSN {lsn} of {sku} was published as {name}"

    def compare_orders(self, truth):
        decided = collections.defaultdict(list)
        ends = collections.defaultdict(set)
        for event in truth:
            if event.kind in (event_pb2.EVENT_KIND_HELD, event_pb2.EVENT_KIND_REFUSED):
                decided[event.reference].append((TYPES[event.kind], event.reservation_id))
            elif event.kind in (event_pb2.EVENT_KIND_CONFIRMED, event_pb2.EVENT_KIND_RELEASED, event_pb2.EVENT_KIND_EXPIRED):
                ends[event.reservation_id].add(event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_"))
        for order, answer in self.shop.answers.items():
            if decided[order] != [answer]:
                yield f"{order} was answered {answer}, and the log has {decided[order]}"
        for reservation, meant in self.shop.meant.items():
            told = "EXPIRED" if meant == "forget" else self.shop.ends.get(reservation)
            if ends[reservation] != {told}:
                yield f"{reservation} was to {meant}: the shop was told {told}, and the log has {ends[reservation]}"

    def compare_balances(self, truth):
        sold = collections.Counter()
        for event in truth:
            if event.kind == event_pb2.EVENT_KIND_CONFIRMED:
                for line in event.lines:
                    sold[line.sku] += line.quantity
        with Client(self.server.target) as client:
            for number in range(SKUS):
                level = client.level(f"sku-{number}")
                if level.on_hand != UNITS - sold[level.sku] or level.held:
                    yield f"{level.sku}: {sold[level.sku]} of {UNITS} were sold, and there are {level}"

    def compare_dead_letters(self):
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            for name in ("holdfast.events.dead", "orders.dead"):
                count = connection.channel().queue_declare(name, durable=True, passive=True).method.message_count
                if count:
                    yield f"{count} messages in {name}"

    def finish(self):
        self.shop.stopping.set()
        for thread in self.shop.threads:
            thread.join()
        self.relay.stop()
        self.intake.stop()
        if status := self.server.stop():
            raise Failure(f"the server ended with status {status}")
        self.broker.stop()
        shutil.rmtree(self.path)

    def abandon(self):
        self.shop.stopping.set()
        for part in (self.relay, self.intake):
            part.process.kill()
            part.process.wait()
        self.server.kill()
        (self.path / "broker.log").write_bytes((self.broker.folder / "log" / "server.log").read_bytes())
        self.broker.stop()


TYPES = {
    1: "StockReserved", 2: "ReservationReplaced", 3: "ReservationExtended", 4: "ReservationConfirmed", 5: "ReservationReleased",
    6: "ReservationExpired", 7: "StockAdjusted", 8: "StockRejected", 9: "ItemRemoved",
}


def skus_of(event):
    """Of a refusal of unknown items none: it is published under an empty name."""
    return {level.sku for level in event.stock} or {line.sku for line in event.lines} or {""}


KINDS = [("relay",), ("intake",), ("broker",), ("server",), ("relay", "broker"), ("intake", "server"), ("server", "broker"),
         ("relay", "intake"), ("relay", "server"), ("intake", "broker")]


def run_round(number, stack, draw, options):
    """One round; a line that says what came of it."""
    names = tuple(options.kind.split("-and-")) if options.kind else draw.choice(KINDS)
    time.sleep(draw.uniform(0.2, 1) * options.load_seconds)
    struck = time.monotonic()
    restarts = [stack.kill(name) for name in names]
    time.sleep(draw.uniform(0, 1))
    draw.shuffle(restarts)
    for restart in restarts:
        restart()
    stack.await_answer()
    seconds = time.monotonic() - struck
    shop = stack.shop
    doubles = sum(shop.answered.values()) - len(shop.answered)
    return (f"round {number:4} · {' and '.join(names)} killed · {seconds:.2f} s to the next new answer · {len(shop.placed):,} orders, "
            f"{doubles:,} answered again, {len(shop.messages):,} messages")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=pathlib.Path, default=crash.REPOSITORY / ".build/release/holdfast")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--load-seconds", type=float, default=1, help="the longest time before each kill")
    parser.add_argument("--rate", type=int, default=400, help="orders a second, at most")
    parser.add_argument("--kind", choices=["-and-".join(kind) for kind in KINDS], help="of every round (default: drawn)")
    parser.add_argument("--format", choices=["json", "protobuf"], default="json", help="of the events")
    parser.add_argument("--directory", help="where the folder with the data is made (the system's for temporary files)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    stack, events = Stack(options), 0
    try:
        for number in range(1, options.rounds + 1):
            draw = random.Random(f"{options.seed}/{number}")
            print(run_round(number, stack, draw, options), flush=True)
            if number % ROUNDS_PER_COMPARISON == 0 or number == options.rounds:
                events = stack.compare()
                print(f"compared · {events:,} decisions in the log, each published and in order · {len(stack.shop.placed):,} "
                      "orders ended right", flush=True)
        doubles = len(stack.shop.messages) - len({(lsn, sku) for lsn, sku, *_ in stack.shop.messages})
        stack.finish()
    except BaseException as failure:
        stack.abandon()
        if not isinstance(failure, Failure):
            shutil.rmtree(stack.path, ignore_errors=isinstance(failure, KeyboardInterrupt))
            raise
        raise SystemExit(f"crash-events: {failure}\ncrash-events: seed {options.seed}; data and logs are in {stack.path}")
    print(f"{options.rounds} rounds · {events:,} decisions · {doubles:,} messages came twice · 0 lost, 0 out of order, every order "
          "ended right")


if __name__ == "__main__":
    main()
