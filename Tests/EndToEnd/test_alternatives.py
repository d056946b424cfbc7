"""The first that fits: seats of a block, one warehouse or else the other, and what is left of the last units."""

import collections
import concurrent.futures
import itertools
import threading

import grpc
import pytest
from grpc import StatusCode
from holdfast.v1 import reservation_pb2

from client import Client, Refusal, fresh, line, refused
from server import holdfast


def told(answer):
    return [(part.sku, part.location, part.quantity) for part in answer.lines]


def held_lines(reservation):
    return sorted((part.sku, part.location, part.quantity) for part in reservation.lines)


def test_any_four_seats_of_a_block_and_none_twice(server, client):
    """48 seats that are items of one unit; buyers want four that stand together, the best first."""
    row = fresh("row")
    seats = [f"{row}:{number}" for number in range(48)]
    for seat in seats: client.adjust(seat, set_on_hand=1)
    groups = [[line(seat) for seat in seats[start:start + 4]] for start in range(0, 48, 4)]

    def buy(buyer):
        """(alternative, reservation) of every purchase, until nothing is left of what was asked for."""
        with Client(server.target) as mine:
            bought = []
            # At most nine at a time: the first nine, then those behind.
            for wanted in (groups[:9], groups[3:]):
                for attempt in itertools.count():
                    try:
                        answer = mine.reserve(*wanted[0], alternatives=wanted[1:])
                    except grpc.RpcError as error:
                        refusal = Refusal(error)
                        assert refusal.info.reason == "INSUFFICIENT_STOCK"
                        assert refusal.info.metadata["alternatives"] == "9"
                        break
                    bought.append((wanted[answer.alternative], mine.get(answer.reservation_id)))
            return bought

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        bought = list(itertools.chain.from_iterable(pool.map(buy, range(8))))
    assert len(bought) == 12
    sold = collections.Counter()
    for wanted, reservation in bought:
        assert held_lines(reservation) == sorted((seat.sku, "", 1) for seat in wanted)
        sold.update(part.sku for part in reservation.lines)
    assert sold == collections.Counter(seats)
    for seat in seats:
        level = client.level(seat)
        assert (level.held, level.available) == (1, 0)


def test_the_own_pool_and_then_the_common_one(client):
    sku = fresh()
    client.adjust(sku, location="marketplace", set_on_hand=2)
    client.adjust(sku, location="common", set_on_hand=3)

    def buy(quantity, key=None):
        return client.reserve(line(sku, quantity, "marketplace"), key=key,
                              alternatives=[[line(sku, quantity, "common")]])

    key = fresh("key")
    assert [buy(1).alternative, buy(2, key).alternative, buy(1).alternative] == [0, 1, 0]
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", sku=sku, location="marketplace",
                 requested=2, available=0, alternatives=2):
        buy(2)
    client.adjust(sku, location="marketplace", delta=50)
    # The key has its answer, wherever there is more by now.
    again = buy(2, key)
    assert again.replayed and again.alternative == 1 and told(again) == []
    assert (client.level(sku, "marketplace").held, client.level(sku, "common").held) == (2, 2)
    with refused(StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        client.reserve(line(sku, 2, "marketplace"), key=key)


def test_what_is_left_of_the_last_units(server, client):
    """Carts that take what there is, three at least, beside thieves of single units."""
    sku = client.item(60)
    stop = threading.Event()

    def cart(_):
        with Client(server.target) as mine:
            taken = []
            while True:
                try:
                    answer = mine.reserve(line(sku, 7, min_quantity=3))
                except grpc.RpcError as error:
                    refusal = Refusal(error)
                    assert refusal.info.reason == "INSUFFICIENT_STOCK"
                    assert refusal.info.metadata["requested"] == "3"
                    assert int(refusal.info.metadata["available"]) < 3
                    return taken
                [(_, _, quantity)] = told(answer)
                assert 3 <= quantity <= 7
                assert held_lines(mine.get(answer.reservation_id)) == [(sku, "", quantity)]
                taken.append(quantity)

    def steal(_):
        with Client(server.target) as mine:
            count = 0
            while not stop.is_set():
                try:
                    mine.reserve(line(sku))
                    count += 1
                except grpc.RpcError:
                    return count
            return count

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        thieves = [pool.submit(steal, number) for number in range(2)]
        carts = list(pool.map(cart, range(6)))
        stop.set()
        stolen = sum(thief.result() for thief in thieves)
    taken = list(itertools.chain.from_iterable(carts))
    assert sum(taken) + stolen == client.level(sku).held <= 60
    assert client.level(sku).available < 3
    # Only the last of them got less than it asked for.
    assert len([quantity for quantity in taken if quantity < 7]) <= 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_same_answer_over_a_restart(binary, start, tmp_path, end):
    data = tmp_path / "data"
    server = start(data=data)
    keys = [fresh("key") for _ in range(4)]
    with Client(server.target) as client:
        first, second = client.item(5), client.item(10)

        def commands(client):
            yield lambda: client.reserve(line(first, 6), key=keys[0], alternatives=[[line(second, 2)]])
            yield lambda: client.reserve(line(first, 9, min_quantity=2), line(second), key=keys[1])
            yield lambda: client.reserve(
                line("no-such-item"), key=keys[2],
                alternatives=[[line(first, 2)], [line(second, 30, min_quantity=4), line(second, 1)]])

        answers = [call() for call in commands(client)]
        assert [answer.alternative for answer in answers] == [1, 0, 2]
        assert [told(answer) for answer in answers] == [
            [], [(first, "", 5), (second, "", 1)], [(second, "", 7)]]
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=2, alternatives=3):
            client.reserve(line(first, 2), key=keys[3], alternatives=[[line("no")], [line(first)]])
        # What becomes of the holds changes no answer.
        client.replace(answers[1].reservation_id, line(first, 1))
        client.confirm(answers[2].reservation_id, line(second, 1))
        levels = [client.level(sku) for sku in (first, second)]
    for opening in range(3):
        server.stop() if end == "stop" else server.kill()
        verified = holdfast(binary, "verify", data)
        assert verified.returncode == 0, verified.stderr
        # The second with another retention, so that what is read is a checkpoint.
        server = start(*(["--retention", f"{40 + opening}h"] if opening else []), data=data)
        with Client(server.target) as client:
            for before, call in zip(answers, commands(client)):
                again = call()
                assert again.replayed and again.reservation_id == before.reservation_id
                assert again.alternative == before.alternative and told(again) == told(before)
                assert again.expires_at == before.expires_at
            with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", requested=2, alternatives=3,
                         replayed="true"):
                client.reserve(line(first, 2), key=keys[3], alternatives=[[line("no")], [line(first)]])
            assert [client.level(sku) for sku in (first, second)] == levels
            assert held_lines(client.get(answers[1].reservation_id)) == [(first, "", 1)]
            assert client.get(answers[2].reservation_id).state == reservation_pb2.RESERVATION_STATE_CONFIRMED
