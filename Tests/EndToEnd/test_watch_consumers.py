"""Consumers of the change feed: that they miss nothing, see nothing twice, and harm nobody."""

import random
import signal
import threading
import time

import grpc
import pytest
from grpc import StatusCode
from holdfast.v1 import event_pb2, event_pb2_grpc, reservation_pb2

import http2
from client import CALL_SECONDS, Client, Refusal, fresh, line
from http2 import Connection, frame, grpc_fields, grpc_message
from server import eventually
from test_identity import Tokens
from test_lifecycle import metric
from test_tls import trust
from watching import Books, Watch, kind_name, watch_request


class Load:
    """Threads that do something of everything to some items, until `stop`."""

    def __init__(self, target, skus, threads=3, seed=0):
        self.target, self.skus, self.stopping = target, skus, threading.Event()
        self.done = 0
        self.threads = [threading.Thread(target=self._run, args=(seed + n,)) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, seed):
        chance, held = random.Random(seed), []
        with Client(self.target) as client:
            while not self.stopping.is_set():
                try:
                    self._step(client, chance, held)
                except grpc.RpcError as error:
                    if error.code() == StatusCode.UNAVAILABLE and error.details() != "the server is shutting down":
                        time.sleep(0.05)
                self.done += 1

    def _step(self, client, chance, held):
        what = chance.random()
        if what < 0.45 or not held:
            some = chance.sample(self.skus, chance.choice([1, 1, 2, 3]))
            ttl = 1 if chance.random() < 0.2 else None
            held.append(client.reserve(*(line(sku, chance.randint(1, 3)) for sku in some), ttl=ttl).reservation_id)
        elif what < 0.6:
            client.confirm(held.pop(chance.randrange(len(held))), reacquire=True)
        elif what < 0.8:
            client.release(held.pop(chance.randrange(len(held))))
        elif what < 0.9:
            client.extend(chance.choice(held), 60)
        elif what < 0.97:
            client.adjust(chance.choice(self.skus), delta=chance.randint(1, 9))
        else:
            client.adjust(chance.choice(self.skus), set_safety_stock=chance.randint(0, 5))

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(CALL_SECONDS)


def levels(client, skus):
    return {(sku, ""): client.level(sku) for sku in skus}


def items_at_version_one(client, count):
    return [client.item(1000, set_safety_stock=n % 3) for n in range(count)]


@pytest.mark.parametrize("durability", ["fsync", "os", "memory"])
def test_the_books_of_a_watcher_are_the_store_s(start, durability):
    server = start("--durability", durability, "--history", str(64 << 20), "--loops", "2")
    with Client(server.target) as client, Watch(client, oldest=True).begun() as watch:
        skus = items_at_version_one(client, 8)
        load = Load(server.target, skus)
        time.sleep(4)
        load.stop()
        # Holds of a second fall due.
        time.sleep(2.5)
        expected = levels(client, skus)
        total = sum(level.version for level in expected.values())
        watch.wait(lambda: sum(len(e.stock) for e in watch.events()) >= total)
        books = Books()
        for event in watch.events():
            books.apply(event)
        assert books.levels == expected
        assert set(books.kinds) == {"HELD", "EXTENDED", "CONFIRMED", "RELEASED", "EXPIRED", "ADJUSTED"}
        # Whoever reads it all later reads the same.
        with Watch(client, oldest=True) as again:
            events = again.wait_for_events(len(watch.events()))
            assert events == watch.events()


class Consumer:
    """Keeps the token with what the events have done, and goes on from it whatever happens."""

    def __init__(self):
        self.books, self.token, self.connections = Books(), None, 0

    def run(self, target, seconds):
        """Consumes for that long, or until the server is gone."""
        with Client(target) as client:
            stub = event_pb2_grpc.EventServiceStub(client.channel)
            request = watch_request(resume_token=self.token) if self.token else watch_request(oldest=True)
            call = stub.Watch(request, timeout=seconds)
            self.connections += 1
            try:
                for response in call:
                    for event in response.events:
                        self.books.apply(event)
                    self.token = response.resume_token
            except grpc.RpcError as error:
                assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED), error


def test_each_event_once_across_crashes(start, tmp_path):
    """The consumer breaks off and comes back, and the server is killed: no event is missed or seen twice."""
    consumer, skus, chance = Consumer(), None, random.Random(7)
    for round_ in range(5):
        server = start("--loops", "2", data=tmp_path / "data")
        with Client(server.target) as client:
            skus = skus or items_at_version_one(client, 6)
        load = Load(server.target, skus, seed=100 * round_)
        killer = threading.Timer(chance.uniform(0.8, 1.6), server.kill)
        killer.start()
        while server.is_alive():
            consumer.run(server.target, chance.uniform(0.05, 0.4))
        killer.join()
        load.stop()
    server = start("--loops", "2", data=tmp_path / "data")
    time.sleep(1.5)
    with Client(server.target) as client:
        expected = levels(client, skus)
    deadline = time.monotonic() + 20
    while consumer.books.levels != expected and time.monotonic() < deadline:
        consumer.run(server.target, 0.5)
    assert consumer.books.levels == expected
    assert consumer.connections > 10


def test_a_consumer_starts_again_in_the_middle_of_a_message(start):
    """Every token on the way leads to the rest, whoever asks for it."""
    server = start()
    with Client(server.target) as client:
        sku = client.item(1 << 30)
        calls = [client.reservations.Reserve.future(
            reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]), **client.call)
            for _ in range(3000)]
        for call in calls:
            call.result()
        with Watch(client, oldest=True) as watch:
            watch.wait_for_events(3001)
            responses = list(watch.responses)
        assert len(responses) > 3
        seen = 0
        for response in responses:
            assert len(response.SerializeToString()) <= 1 << 20
            seen += len(response.events)
            with Watch(client, resume_token=response.resume_token).begun() as rest:
                if seen < 3001:
                    assert rest.wait_for_events(1)[0].stock[0].version == seen + 1
                else:
                    assert not rest.events()


def test_a_watcher_without_a_window_harms_nobody(start):
    """It gives no credit at all: others are served, and when it gives some it has missed nothing."""
    server = start("--loops", "1", "--stall-timeout", "60s")
    with Client(server.target) as client, Connection(
            server, settings=b"\0\4\0\0\0\0") as stalled, Watch(client).begun() as watch:
        request = grpc_message(watch_request(oldest=True).SerializeToString())
        fields = grpc_fields("/holdfast.v1.EventService/Watch")
        stalled.send(frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(fields))
                     + frame(http2.DATA, http2.END_STREAM, 1, request))
        sku = client.item(1 << 30)
        before = server.resident_bytes()
        slowest = 0
        for _ in range(10):
            calls = [client.reservations.Reserve.future(
                reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku)]), **client.call)
                for _ in range(1000)]
            for call in calls:
                call.result()
            began = time.monotonic()
            client.level(sku)
            slowest = max(slowest, time.monotonic() - began)
        assert len(watch.wait_for_events(10_001)) == 10_001
        assert slowest < 1
        # 10,000 events are some 2 MiB: what is queued for the watcher is a quarter at most.
        assert server.resident_bytes() - before < 60 << 20
        assert metric(server, "holdfast_watches") == 2
        assert metric(server, "holdfast_watch_lag_bytes") > 500_000
        seen = 0
        body = b""
        stalled.send(http2.window_update(1, 1 << 24))
        while seen < 10_001:
            stalled.read_frame()
            if 1 not in stalled.responses:
                continue
            body += stalled.responses[1].body
            stalled.responses[1].body = b""
            while len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big"):
                length = int.from_bytes(body[1:5], "big")
                for event in event_pb2.WatchResponse.FromString(body[5:5 + length]).events:
                    seen += 1
                    assert event.stock[0].version == seen
                body = body[5 + length:]
        eventually(lambda: metric(server, "holdfast_watch_lag_bytes") == 0)


def test_who_may_watch_and_see_who_called(binary, start, tmp_path):
    tokens = Tokens(binary, tmp_path / "tokens")
    by_role = {role: tokens.create(f"caller-{role}", role) for role in ("read", "reserve", "stock", "admin")}
    server = start("--tokens", tokens.path)
    with Client(server.target, token=by_role["stock"]) as client:
        watches = {}
        for role, token in by_role.items():
            watches[role] = Watch(client, metadata=[("authorization", f"Bearer {token}")]).begun()
        client.adjust(fresh(), set_on_hand=1, key="secret key")
        for role, watch in watches.items():
            [event] = watch.wait_for_events(1)
            shown = (event.caller, event.idempotency_key)
            assert shown == (("caller-stock", "secret key") if role in ("stock", "admin") else ("", "")), role
        with Watch(client, metadata=()) as nobody:
            assert Refusal(nobody.wait_for_end()).info.reason == "CREDENTIALS_MISSING"
        # One is taken away, one may see less, one more; the others' watches go on.
        text = tokens.path.read_text()
        for caller, before, after in [("read", "role=read", "role=stock"), ("stock", "role=stock", "role=reserve")]:
            text = text.replace(f"caller=caller-{caller} {before}", f"caller=caller-{caller} {after}")
        tokens.path.write_text("".join(row for row in text.splitlines(True) if "caller-reserve " not in row))
        server.process.send_signal(signal.SIGHUP)
        ends = {role: Refusal(watches[role].wait_for_end()) for role in ("read", "reserve", "stock")}
        assert {role: (ended.code, ended.info.reason) for role, ended in ends.items()} == {
            "read": (StatusCode.UNAVAILABLE, "CREDENTIALS_CHANGED"),
            "reserve": (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
            "stock": (StatusCode.UNAVAILABLE, "CREDENTIALS_CHANGED")}
        with Client(server.target, token=by_role["admin"]) as admin, \
                Watch(client, resume_token=watches["stock"].token()).begun() as again:
            admin.adjust(fresh(), set_on_hand=1)
            assert [event.caller for event in again.wait_for_events(1)] == [""]
            assert len(watches["admin"].wait_for_events(2)) == 2


def test_over_tls(start, ours, pair):
    server = start("--tls-cert", pair.certificate, "--tls-key", pair.key)
    with Client(server.target, credentials=trust(ours)) as client, Watch(client).begun() as watch:
        client.item(1)
        assert kind_name(watch.wait_for_events(1)[0]) == "ADJUSTED"


def test_a_shutdown_ends_watches(start):
    server = start("--shutdown-timeout", "5s")
    with Client(server.target) as client, Watch(client).begun() as watch:
        sku = client.item(1)
        watch.wait_for_events(1)
        server.terminate()
        ended = Refusal(watch.wait_for_end())
        assert (ended.code, ended.info.reason) == (StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        token = watch.token()
    assert server.stop() == 0
    del sku, token


def test_too_many_watches(start):
    server = start()
    clients = [Client(server.target) for _ in range(11)]
    try:
        watches = [Watch(client) for client in clients[:10] for _ in range(100)]
        for watch in watches:
            watch.begun()
        with Watch(clients[0]) as one_connection:
            assert Refusal(one_connection.wait_for_end()).info.reason == "TOO_MANY_STREAMS"
        with Watch(clients[10]) as all_in_all:
            ended = Refusal(all_in_all.wait_for_end())
            assert (ended.code, ended.info.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
        clients[10].item(1)
        for watch in watches:
            assert len(watch.wait_for_events(1)) == 1
        watches[0].cancel()
        eventually(lambda: metric(server, "holdfast_watches") == 999)
        with Watch(clients[10]) as again:
            again.begun()
    finally:
        for client in clients:
            client.channel.close()


def test_idle_watchers_cost_nothing(start):
    server = start("--loops", "1")
    cpu = lambda: metric(server, "process_cpu_seconds_total")
    with Client(server.target) as client:
        begun, before = time.monotonic(), cpu()
        time.sleep(3)
        alone = cpu() - before
        watches = [Watch(client).begun() for _ in range(90)]
        before = cpu()
        time.sleep(3)
        assert cpu() - before < alone + 0.15
        del begun, watches


def test_metrics(start):
    server = start()
    with Client(server.target) as client, Watch(client).begun() as watch:
        client.item(1)
        watch.wait_for_events(1)
        assert metric(server, "holdfast_watches") == 1
        assert metric(server, "holdfast_watch_events_total") == 1
        eventually(lambda: metric(server, "holdfast_watch_lag_bytes") == 0)
    eventually(lambda: metric(server, "holdfast_watches") == 0)
