"""At most so many units for one subject: two per person, whoever asks how often, over crashes too."""

import threading
import time

import grpc
from grpc import StatusCode
from holdfast.v1 import reservation_pb2

from client import Client, fresh, line, refused
from server import eventually

EXPIRED = reservation_pb2.RESERVATION_STATE_EXPIRED


def limit(subject, max_units=2):
    return reservation_pb2.Limit(subject=subject, max_units=max_units)


def test_what_counts_and_what_gives_back(client):
    sku, person = client.item(20), fresh("customer")
    first = client.reserve(line(sku, 1), limits=[limit(person)])
    with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", subject=person, sku=sku, location="",
                 max_units=2, used=1, requested=2) as seen:
        client.reserve(line(sku, 2), limits=[limit(person)])
    assert seen[0].violations == [("LIMIT_EXCEEDED", sku, f"2 requested, {person} has 1 of 2")]
    client.confirm(first.reservation_id)
    second = client.reserve(line(sku, 1), limits=[limit(person)])
    with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", used=2, requested=1):
        client.reserve(line(sku, 1), limits=[limit(person)])
    with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", used=2, requested=1):
        client.replace(second.reservation_id, line(sku, 2))
    client.release(second.reservation_id)
    client.reserve(line(sku, 1), limits=[limit(person)])
    client.reserve(line(sku, 2), limits=[limit(fresh("customer"))])
    client.reserve(line(sku, 5))


def test_expiry_frees_it(client):
    sku, person = client.item(20), fresh("customer")
    held = client.reserve(line(sku, 2), ttl=1, limits=[limit(person)])
    with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", used=2):
        client.reserve(line(sku, 1), limits=[limit(person)])
    time.sleep(1.05)
    client.reserve(line(sku, 1), limits=[limit(person)])
    assert client.get(held.reservation_id).state == EXPIRED
    with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", used=1, requested=2):
        client.confirm(held.reservation_id, reacquire=True)
    client.confirm(held.reservation_id, line(sku, 1), reacquire=True)


def test_a_key_keeps_its_answer_and_limits_are_of_its_payload(client):
    sku, person, key = client.item(20), fresh("customer"), fresh("key")
    limits = [limit(person), limit(fresh("card"), 9)]
    held = client.reserve(line(sku, 2), key=key, limits=limits)
    again = client.reserve(line(sku, 2), key=key, limits=limits[::-1])
    assert again.replayed and again.reservation_id == held.reservation_id
    for other in ([], limits[:1], [limit(person, 3), limits[1]]):
        with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            client.reserve(line(sku, 2), key=key, limits=other)
    over = fresh("key")
    for replayed in (None, "true"):
        with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", subject=person) as seen:
            client.reserve(line(sku, 1), key=over, limits=limits)
        assert seen[0].info.metadata.get("replayed") == replayed
        client.release(held.reservation_id)


def test_two_per_person_with_sixty_buyers(start, tmp_path):
    """Each tries six times, under six keys and with retries, while the server is killed and started again."""
    servers = [start(data=tmp_path)]
    people = [fresh("customer") for _ in range(60)]
    with Client(servers[0].target) as client:
        skus = [client.item(80), client.item(200)]
    bought = {(person, sku): [] for person in people for sku in skus}

    def buy(person):
        client = Client(servers[-1].target)

        def call(do):
            """Again until it is answered: the same key, or a change of the same hold."""
            nonlocal client
            while True:
                try:
                    return do()
                except grpc.RpcError as error:
                    if error.code() not in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED): raise
                    time.sleep(0.05)
                    client.channel.close()
                    client = Client(servers[-1].target)

        for number in range(6):
            key, sku = fresh("key"), skus[number % 2]
            try:
                held = call(lambda: client.reserve(line(sku, 1), key=key, limits=[limit(person)]))
            except grpc.RpcError as error:
                assert error.code() == StatusCode.FAILED_PRECONDITION, error
                continue
            call(lambda: client.confirm(held.reservation_id, keep_committed=number % 3 == 0))
            bought[person, sku].append(held.reservation_id)
        client.channel.close()

    threads = [threading.Thread(target=buy, args=[person]) for person in people]
    for thread in threads: thread.start()
    eventually(lambda: sum(map(len, bought.values())) >= 40)
    servers[0].kill()
    servers.append(start(data=tmp_path))
    for thread in threads: thread.join()
    assert max(map(len, bought.values())) == 2
    for sku, units in zip(skus, (80, 200)):
        sold = sum(len(ids) for (_, other), ids in bought.items() if other == sku)
        assert sold == min(units, 2 * len(people))
    servers[-1].kill()
    with Client(start(data=tmp_path).target) as client:
        for person in people:
            with refused(StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED", subject=person, used=2):
                client.reserve(line(skus[1], 1), limits=[limit(person)])
        assert client.level(skus[1]).available == 200 - 2 * len(people)
        client.reserve(line(skus[1], 2), limits=[limit(fresh("customer"))])
