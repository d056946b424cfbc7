"""EventService.Watch: what it tells, from where, to whom, and how it ends."""

import pathlib
import tarfile
import shutil
import time

import grpc
import pytest
from grpc import StatusCode
from holdfast.v1 import event_pb2_grpc, reservation_pb2

from client import Client, Refusal, fresh, line, refused
from journal import batches
from server import holdfast
from test_lifecycle import metric
from watching import Books, Watch, kind_name, watch_request


@pytest.fixture(params=["fsync", "memory"])
def either(request, start):
    """A server of the test's own, with a journal and without."""
    return start("--durability", request.param)


@pytest.fixture(params=["fsync", "memory"])
def keeping(request, start):
    """One that keeps decisions from its start."""
    return start("--durability", request.param, "--history", str(64 << 20))


def refusal(watch):
    return Refusal(watch.wait_for_end())


def test_every_kind(either):
    with Client(either.target, caller="till") as client, Watch(
            client, kinds=["HELD", "EXTENDED", "CONFIRMED", "RELEASED", "ADJUSTED", "REFUSED"]).begun() as watch:
        sku, key = fresh(), fresh("key")
        client.adjust(sku, set_on_hand=10, set_safety_stock=2, key=key, reason="delivery")
        held = client.reserve(line(sku, 3), key="k1")
        extended = client.extend(held.reservation_id, 900)
        client.confirm(held.reservation_id, line(sku, 2))
        other = client.reserve(line(sku, 1), key="k2")
        client.release(other.reservation_id)
        with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK"):
            client.reserve(line(sku, 100), key="k3")
        with refused(StatusCode.NOT_FOUND, "ITEM_NOT_FOUND"):
            client.reserve(line("nothing"), key="k4")
        events = watch.wait_for_events(8)
    level = lambda event: [(s.on_hand, s.held, s.safety_stock, s.available, s.version) for s in event.stock]
    lines = lambda event: [(each.sku, each.quantity) for each in event.lines]
    seen = [(kind_name(e), e.reservation_id, lines(e), level(e), e.caller, e.idempotency_key, e.reason)
            for e in events]
    first, second = held.reservation_id, other.reservation_id
    assert seen == [
        ("ADJUSTED", "", [], [(10, 0, 2, 8, 1)], "till", key, "delivery"),
        ("HELD", first, [(sku, 3)], [(10, 3, 2, 5, 2)], "till", "k1", ""),
        ("EXTENDED", first, [], [], "till", "", ""),
        ("CONFIRMED", first, [(sku, 2)], [(8, 0, 2, 6, 3)], "till", "", ""),
        ("HELD", second, [(sku, 1)], [(8, 1, 2, 5, 4)], "till", "k2", ""),
        ("RELEASED", second, [(sku, 1)], [(8, 0, 2, 6, 5)], "till", "", ""),
        ("REFUSED", "", [(sku, 100)], [], "till", "k3", "INSUFFICIENT_STOCK"),
        ("REFUSED", "", [], [], "till", "k4", "ITEM_NOT_FOUND"),
    ]
    assert events[1].expires_at == held.expires_at and events[2].expires_at == extended.reservation.expires_at
    assert [e.lsn for e in events] == sorted({e.lsn for e in events})
    assert all(e.decided_at.seconds > 0 for e in events)


KINDS = {"HELD": 3, "EXTENDED": 1, "CONFIRMED": 1, "RELEASED": 1, "EXPIRED": 1, "ADJUSTED": 1, "REFUSED": 1}


def everything(client):
    """Something of every kind, as often as KINDS says; the SKU that it was about."""
    sku = fresh()
    client.adjust(sku, set_on_hand=10)
    first, second = client.reserve(line(sku)), client.reserve(line(sku))
    client.reserve(line(sku), ttl=1)
    client.extend(first.reservation_id, 900)
    client.confirm(first.reservation_id)
    client.release(second.reservation_id)
    with refused(StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_STOCK"):
        client.reserve(line(sku, 99))
    return sku


def test_each_kind_alone_from_a_token_across_a_kill(start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        watches = {kind: Watch(client, kinds=[kind]).begun() for kind in KINDS}
        everything(client)
        for kind, watch in watches.items():
            assert {kind_name(e) for e in watch.wait_for_events(KINDS[kind])} == {kind}
        tokens = {kind: watch.token() for kind, watch in watches.items()}
        everything(client)
        # Those of the second time are seen before the kill, or after it, and not in between.
        watches["EXPIRED"].wait_for_events(2)
    server.kill()
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        watches = {kind: Watch(client, kinds=[kind], resume_token=token).begun() for kind, token in tokens.items()}
        sku = everything(client)
        for kind, watch in watches.items():
            events = watch.wait_for_events(2 * KINDS[kind])
            assert [kind_name(e) for e in events] == [kind] * 2 * KINDS[kind]
            if kind != "EXTENDED":
                items = [each.sku for event in events for each in (*event.stock, *event.lines)]
                assert sku in items and len(set(items)) == 2


def test_an_expiry_is_told_within_a_second(either):
    with Client(either.target) as client:
        sku = client.item(5)
        with Watch(client, kinds=["EXPIRED"]).begun() as watch:
            held = client.reserve(line(sku, 2), ttl=1)
            # Nobody calls meanwhile.
            [event] = watch.wait_for_events(1, seconds=10)
            late = time.time() - held.expires_at.ToNanoseconds() / 1e9
            assert -0.1 < late < 1.5
            assert event.reservation_id == held.reservation_id and event.expires_at == held.expires_at
            assert [(s.on_hand, s.held, s.version) for s in event.stock] == [(5, 0, 3)]
            assert event.decided_at.ToNanoseconds() - event.expires_at.ToNanoseconds() <= 1_100_000_000


def test_from_now_from_the_oldest_and_from_a_token(keeping):
    with Client(keeping.target) as client:
        sku = client.item(100)
        client.reserve(line(sku))
        with Watch(client).begun() as now, Watch(client, oldest=True).begun() as oldest:
            assert not now.events()
            client.reserve(line(sku))
            assert len(oldest.wait_for_events(3)) == 3
            [event] = now.wait_for_events(1)
            assert event == oldest.events()[-1]
            tokens = [(len(oldest.events()), oldest.token()), (3, now.token())]
        client.reserve(line(sku))
        for known, token in tokens:
            with Watch(client, resume_token=token).begun() as again:
                assert [e.stock[0].version for e in again.wait_for_events(4 - known)] == list(range(known + 1, 5))


def test_filters(either):
    with Client(either.target) as client:
        first, second, later = client.item(10), client.item(10), fresh()
        with Watch(client, items=[first, later]).begun() as items, \
                Watch(client, kinds=["REFUSED", "RELEASED"]).begun() as kinds, \
                Watch(client, items=[second], kinds=["REFUSED"]).begun() as both:
            one = client.reserve(line(first), line(second))
            two = client.reserve(line(second))
            client.adjust(later, set_on_hand=1)
            for sku in (first, second):
                with refused(StatusCode.FAILED_PRECONDITION):
                    client.reserve(line(sku, 99))
            client.release(two.reservation_id)
            client.release(one.reservation_id)
            assert [kind_name(e) for e in items.wait_for_events(3)] == ["HELD", "ADJUSTED", "RELEASED"]
            assert [kind_name(e) for e in kinds.wait_for_events(4)] == ["REFUSED", "REFUSED", "RELEASED", "RELEASED"]
            [event] = both.wait_for_events(1)
            assert [each.sku for each in event.lines] == [second]
            # A reservation of two items is whole, whichever of them was asked for.
            assert len(items.events()[0].stock) == 2


def test_heartbeats_cover_what_was_filtered_out(either):
    with Client(either.target) as client:
        sku = client.item(10)
        with Watch(client, kinds=["EXPIRED"], heartbeat=1).begun() as watch:
            began, first = time.monotonic(), watch.token()
            client.reserve(line(sku))
            watch.wait(lambda: len(watch.responses) >= 3)
            assert 1.5 < time.monotonic() - began < 8
            assert not watch.events() and watch.token() != first
            token = watch.token()
        with Watch(client, resume_token=token).begun() as watch:
            client.release(client.reserve(line(sku)).reservation_id)
            assert [e.stock[0].version for e in watch.wait_for_events(2)] == [3, 4]


@pytest.mark.parametrize("fields, rule", [
    (dict(resume_token="no token"), "resume_token"),
    (dict(resume_token="1" + "0" * 63), "resume_token"),
    (dict(oldest=False), "oldest"),
    (dict(kinds=["UNSPECIFIED"]), "kinds"),
    (dict(heartbeat=0.5), "heartbeat"),
    (dict(heartbeat=3601), "heartbeat"),
    (dict(items=["with space"]), "items[0].sku"),
    (dict(items=["x"] * 501), "items"),
])
def test_fields_that_break_their_rules(client, fields, rule):
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as seen:
        next(event_pb2_grpc.EventServiceStub(client.channel).Watch(watch_request(**fields), **client.call))
    assert rule in seen[0].message


def test_an_unknown_filter_is_refused(client):
    """reference_prefix, as a newer client may send it."""
    raw = client.channel.unary_stream("/holdfast.v1.EventService/Watch")
    with refused(StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD"):
        next(raw(b"\x42\x03abc", timeout=20))


def test_forged_and_foreign_tokens(either, start):
    with Client(either.target) as client:
        client.item(1)
        with Watch(client, oldest=True).begun() as watch:
            token = watch.token()
        for place in (20, 40, 60):
            forged = token[:place] + ("0" if token[place] != "0" else "1") + token[place + 1:]
            with Watch(client, resume_token=forged) as watch:
                assert refusal(watch).code == StatusCode.INVALID_ARGUMENT
    with Client(start().target) as client, Watch(client, resume_token=token) as watch:
        ended = refusal(watch)
        assert (ended.code, ended.info.reason) == (StatusCode.FAILED_PRECONDITION, "RESUME_TOKEN_FOREIGN")


def test_a_token_of_what_was_given_up_is_foreign(binary, start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(100)
        for _ in range(20):
            client.reserve(line(sku))
        with Watch(client, oldest=True).begun() as watch:
            watch.wait_for_events(21)
            token = watch.token()
    server.kill()
    done = holdfast(binary, "repair", tmp_path / "data", "--truncate-at", batches(tmp_path / "data")[10].lsn)
    assert done.returncode == 0, done.stderr
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        for _ in range(20):
            client.reserve(line(sku))
        with Watch(client, resume_token=token) as watch:
            assert refusal(watch).info.reason == "RESUME_TOKEN_FOREIGN"


def test_two_histories_of_one_copy(start, tmp_path):
    """A copy goes on by itself: the tokens of what each did since are foreign to the other."""
    server = start(data=tmp_path / "one")
    with Client(server.target) as client:
        sku = client.item(100)
        with Watch(client, oldest=True).begun() as watch:
            watch.wait_for_events(1)
            shared = watch.token()
    server.stop()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    tokens = []
    for name in ("one", "two"):
        server = start(data=tmp_path / name)
        with Client(server.target) as client:
            with Watch(client, resume_token=shared).begun() as watch:
                client.reserve(line(sku), key="the same call")
                watch.wait_for_events(1)
                if tokens:
                    with Watch(client, resume_token=tokens[0]) as other:
                        assert refusal(other).info.reason == "RESUME_TOKEN_FOREIGN"
                tokens.append(watch.token())
        server.stop()


SMALL = ("--journal-segment-bytes", "262144", "--loops", "1", "--history", "0")


def fill(client, sku, count):
    """Many records, from several calls at a time. Where small segments are full for a moment, they are sent again."""
    requests = [reserve_request(sku, 1) for _ in range(count)]
    deadline = time.monotonic() + 60
    while requests:
        calls = [(client.reservations.Reserve.future(request, **client.call), request) for request in requests]
        requests = []
        for call, request in calls:
            try:
                call.result()
            except grpc.RpcError as error:
                assert Refusal(error).info.reason == "OVERLOADED" and time.monotonic() < deadline
                requests.append(request)


def reserve_request(sku, quantity):

    return reservation_pb2.ReserveRequest(idempotency_key=fresh("key"), lines=[line(sku, quantity)])


def test_a_server_in_memory_keeps_no_decisions_where_it_is_told_so(start):
    server = start("--durability", "memory", "--history", "0")
    with Client(server.target) as client, Watch(client, oldest=True) as watch:
        ended = refusal(watch)
    assert (ended.code, ended.info.reason) == (StatusCode.FAILED_PRECONDITION, "HISTORY_OFF")


@pytest.mark.parametrize("flags, known", [((), 0), (("--history", "1"), 2)])
def test_a_server_in_memory_keeps_decisions_from_the_first_watch_or_from_the_start(start, flags, known):
    server = start("--durability", "memory", *flags)
    with Client(server.target) as client:
        sku = client.item(100)
        client.reserve(line(sku))
        with Watch(client, oldest=True).begun() as watch:
            client.reserve(line(sku))
            versions = [e.stock[0].version for e in watch.wait_for_events(known + 1)]
            assert versions == [1, 2, 3][-known - 1:]
            token = watch.token()
        # Nobody watches for a moment.
        client.reserve(line(sku))
        with Watch(client, resume_token=token).begun() as watch:
            assert [e.stock[0].version for e in watch.wait_for_events(1)] == [4]


@pytest.mark.parametrize("flags", [("--durability", "os", *SMALL), ("--durability", "memory", "--history", "1")])
def test_a_token_that_is_too_old(start, flags):
    server = start(*flags)
    with Client(server.target) as client:
        sku = client.item(1 << 30)
        with Watch(client, oldest=True).begun() as watch:
            watch.wait_for_events(1)
            token, lsn = watch.token(), watch.events()[-1].lsn
        ended = None
        for _ in range(60):
            fill(client, sku, 1000)
            with Watch(client, resume_token=token) as watch:
                watch.wait(lambda: watch.responses or watch.error)
                if watch.error:
                    ended = Refusal(watch.error)
                    break
        assert (ended.code, ended.info.reason) == (StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_TOO_OLD")
        oldest = int(ended.info.metadata["oldest_lsn"])
        with Watch(client, oldest=True).begun() as watch:
            first = watch.wait_for_events(1)[0]
            assert lsn < oldest < first.lsn < oldest + 5000


def test_history_keeps_what_a_checkpoint_has_replaced(start):
    server = start("--durability", "os", "--journal-segment-bytes", "262144", "--loops", "1", "--history", "16777216")
    with Client(server.target) as client:
        sku = client.item(1 << 30)
        while metric(server, "holdfast_checkpoints_total") < 2:
            fill(client, sku, 1000)
        with Watch(client, oldest=True).begun() as watch:
            watch.wait(lambda: any(e.stock[0].version == 1000 for e in watch.events()))
            assert watch.events()[0].stock[0].version == 1
            books = Books()
            for event in watch.events():
                books.apply(event)


def test_safety_stock_of_the_moment_after_a_restart(start, tmp_path):
    """Records of holds do not say it; whoever reads them later is told what it was."""
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(100, set_safety_stock=1)
        for units in (5, 9, 2):
            client.reserve(line(sku))
            client.adjust(sku, set_safety_stock=units)
        client.reserve(line(sku))
    server.kill()
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        client.adjust(sku, set_safety_stock=7)
        client.reserve(line(sku))
        with Watch(client, oldest=True) as watch:
            events = watch.wait_for_events(10)
        seen = [(kind_name(e)[0], e.stock[0].safety_stock, e.stock[0].available) for e in events]
        assert seen == [("A", 1, 99), ("H", 1, 98), ("A", 5, 94), ("H", 5, 93), ("A", 9, 89), ("H", 9, 88), ("A", 2, 95),
                        ("H", 2, 94), ("A", 7, 89), ("H", 7, 88)]


def test_a_directory_of_the_first_release(start, tmp_path):
    """Its records say less: what cannot be told is not kept, and what is decided from now on is."""
    folder = pathlib.Path(__file__).parent / "fixtures"
    with tarfile.open(next(folder.glob("first-release.tar*"))) as archive:
        archive.extractall(tmp_path / "first", filter="data")
    data = next(path.parent for path in (tmp_path / "first").rglob("checkpoint-*"))
    server = start("--accept-clock", data=data)
    with Client(server.target) as client, Watch(client, oldest=True).begun() as watch:
        sku = client.item(3)
        watch.wait(lambda: any(e.stock and e.stock[0].sku == sku for e in watch.events()))
        books = Books()
        for event in watch.events():
            books.apply(event)
