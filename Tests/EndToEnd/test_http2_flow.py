"""What HTTP/2 keeps for as long as a connection lives: windows, header tables, and streams.

RFC 9113 sections 5.1.2, 5.2 and 6.9, and RFC 7541 section 4. The client judges each frame (http2_peer.py).
"""

import random

import hpack
import pytest

from holdfast.v1 import stock_pb2
from http2 import (
    DATA, END_HEADERS, END_STREAM, HEADERS, Response, frame, grpc_fields, grpc_message, header_block, reset)
from http2_peer import (
    CHECK, CHECK_ANSWER, HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, OK, WINDOW, EagerPeer, Peer)

BATCH = "/holdfast.v1.StockService/BatchGetStock"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
UNIMPLEMENTED, REFUSED_STREAM = 12, 7
# An answer of some 60 KB: unknown items come back as they were asked for.
UNKNOWN_ITEMS = [stock_pb2.StockItem(sku="s" * 60, location="l" * 50)] * 500
QUESTION = grpc_message(stock_pb2.BatchGetStockRequest(items=UNKNOWN_ITEMS).SerializeToString())
ANSWER = grpc_message(stock_pb2.BatchGetStockResponse(not_found=UNKNOWN_ITEMS).SerializeToString())
LIST_SERVICES = grpc_message(b"\x3a\x01*")
HOST = b"h" * 8058
LONG_QUESTION = grpc_message(b"\x0a\xfa\x3e" + HOST + b"\x3a\x01*")


@pytest.fixture(autouse=True)
def survives(server):
    yield
    assert server.is_alive(), server.log_text()[-2000:]
    with Peer(server) as peer:
        peer.goes_on()


def ask(peer, stream):
    """Asks for the long answer."""
    pieces = [QUESTION[at:at + 16384] for at in range(0, len(QUESTION), 16384)]
    peer.send(frame(HEADERS, END_HEADERS, stream, header_block(grpc_fields(BATCH)))
              + b"".join(frame(DATA, 0, stream, piece) for piece in pieces[:-1])
              + frame(DATA, END_STREAM, stream, pieces[-1]))


def received(peer, stream):
    return len(peer.responses.setdefault(stream, Response()).body)


# Windows.


@pytest.mark.parametrize("window", [0, 1, 5, 6, 7])
def test_an_answer_dribbles_as_credit_is_given(server, window):
    with Peer(server, [(INITIAL_WINDOW_SIZE, window)], gives_credit=False) as peer:
        peer.request(1, grpc_fields(CHECK), grpc_message(b""))
        for given in range(window, len(CHECK_ANSWER)):
            peer.barrier()
            assert received(peer, 1) == given and not peer.responses[1].ended
            peer.give(1, 1)
        response = peer.response(1)
        assert response.body == CHECK_ANSWER and response.grpc_status == OK


@pytest.mark.parametrize("steps", [[1, 1, 1], [16384], [16383, 16385], [40000, 5, 100_000]], ids=str)
def test_a_long_answer_stops_at_each_credit(server, steps):
    with Peer(server, [(INITIAL_WINDOW_SIZE, 0)], gives_credit=False) as peer:
        ask(peer, 1)
        given = 0
        for step in steps:
            peer.give(1, step)
            given += step
            peer.barrier()
            assert received(peer, 1) == min(given, len(ANSWER))
        peer.give(1, len(ANSWER))
        assert peer.response(1).body == ANSWER and peer.response(1).grpc_status == OK


def test_settings_move_the_windows_of_open_streams_below_zero_and_back(server):
    with Peer(server, [(INITIAL_WINDOW_SIZE, 100)], gives_credit=False) as peer:
        ask(peer, 1)
        for size, given, total in [(100, 0, 100), (130, 0, 130), (0, 0, 130), (0, 129, 130), (0, 2, 131),
                                   (60, 0, 191), (10, 0, 191), (10, 49, 191), (10, 2, 192), (10, 1, 193)]:
            peer.set((INITIAL_WINDOW_SIZE, size))
            if given:
                peer.give(1, given)
            peer.barrier()
            assert received(peer, 1) == total, (size, given)
        peer.give(1, len(ANSWER))
        assert peer.response(1).body == ANSWER


def test_a_new_stream_has_the_new_window(server):
    with Peer(server, gives_credit=False) as peer:
        for stream, size in [(1, 3), (3, 0), (5, 4)]:
            peer.set((INITIAL_WINDOW_SIZE, size))
            peer.request(stream, grpc_fields(CHECK), grpc_message(b""))
        peer.barrier()
        # Windows move together: all three end at the last size, and none took back what it had sent.
        assert [received(peer, stream) for stream in (1, 3, 5)] == [4, 4, 4]
        for stream in (5, 1, 3):
            peer.give(stream, 3)
            assert peer.response(stream).body == CHECK_ANSWER


def test_credit_that_comes_before_the_answer_counts(server):
    with Peer(server, [(INITIAL_WINDOW_SIZE, 0)], gives_credit=False) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, header_block(grpc_fields(CHECK))))
        peer.give(1, 7)
        peer.send(frame(DATA, END_STREAM, 1, grpc_message(b"")))
        assert peer.response(1).body == CHECK_ANSWER


def test_headers_need_no_credit(server):
    with Peer(server, [(INITIAL_WINDOW_SIZE, 0)]) as peer:
        assert peer.call(1, "/no.Such/Method", b"").grpc_status == UNIMPLEMENTED


def test_a_stream_without_credit_does_not_hold_up_others(server):
    with Peer(server, [(INITIAL_WINDOW_SIZE, 0)], gives_credit=False) as peer:
        for stream in range(1, 41, 2):
            peer.request(stream, grpc_fields(CHECK), grpc_message(b""))
        peer.barrier()
        for stream in random.Random(1).sample(range(1, 41, 2), 20):
            peer.give(stream, 7)
            assert peer.response(stream).body == CHECK_ANSWER
        assert len(peer.order) == 20


def test_a_frame_is_no_longer_than_the_least_setting_whatever_the_peer_takes(server):
    with Peer(server, [(MAX_FRAME_SIZE, 2**24 - 1)]) as peer:
        ask(peer, 1)
        assert peer.response(1).body == ANSWER


def share_connection(server, streams, step):
    """`streams` long answers over a connection whose credit comes in steps. What each had got when the
    first was whole."""
    with Peer(server, [(INITIAL_WINDOW_SIZE, 0)], gives_credit=False) as peer:
        numbers = range(1, 2 * streams, 2)
        for stream in numbers:
            ask(peer, stream)
        peer.barrier()
        peer.set((INITIAL_WINDOW_SIZE, 1 << 20))  # all begin at once
        peer.barrier()
        assert sum(received(peer, stream) for stream in numbers) == WINDOW
        shares = None
        while not all(peer.responses[stream].ended for stream in numbers):
            peer.give(0, step)
            peer.barrier()
            if shares is None and any(peer.responses[stream].ended for stream in numbers):
                shares = [received(peer, stream) for stream in numbers]
        assert all(peer.responses[stream].body == ANSWER for stream in numbers)
        assert all(peer.responses[stream].grpc_status == OK for stream in numbers)
        return shares


@pytest.mark.parametrize("streams, step", [(4, 20_000), (8, 16_384), (8, 5_000)])
def test_streams_share_the_window_of_the_connection(server, streams, step):
    shares = share_connection(server, streams, step)
    assert min(shares) * 4 >= max(shares), f"what each stream had when the first was whole: {shares}"


def test_a_reset_gives_up_the_place_in_the_queue(server):
    with Peer(server, gives_credit=False) as peer:
        for stream in (1, 3, 5):
            ask(peer, stream)
        peer.barrier()
        peer.send(reset(1) + reset(3))
        peer.barrier()
        before = {stream: received(peer, stream) for stream in (1, 3)}
        peer.give(5, 1 << 20)
        peer.give(0, 1 << 20)
        assert peer.response(5).body == ANSWER
        assert {stream: received(peer, stream) for stream in (1, 3)} == before


@pytest.mark.parametrize("calls", [20, 200])
def test_credit_is_heard_of_however_much_waits_for_it(server, calls):
    """11 MB of answers that wait for the client's credit: the server must go on to read, or none ever comes."""
    with EagerPeer(server) as peer:
        for stream in range(1, 2 * calls, 2):
            ask(peer, stream)
        for stream in range(1, 2 * calls, 2):
            response = peer.response(stream)
            assert response.body == ANSWER and response.grpc_status == OK


@pytest.mark.parametrize("streams", [1, 3])
def test_the_server_gives_its_window_back(server, streams):
    """20 MB of requests over one connection, never sending more than the server allowed."""
    with Peer(server) as peer:
        peer.barrier()
        spent = 0
        for number in range(340):
            while peer.allowed[0] - spent < len(QUESTION):
                peer.read_frame()
            spent += len(QUESTION)
            ask(peer, 2 * number + 1)
            if number % streams == 0:
                peer.response(2 * number + 1)


@pytest.mark.parametrize("waits", [True, False])
def test_the_window_of_a_long_stream_is_given_back(server, waits):
    """More messages than the first window of the stream takes, on one bidirectional call; the client waits
    for each answer, or sends as much as it may."""
    with Peer(server) as peer:
        peer.barrier()
        stream_window = peer.server_settings[INITIAL_WINDOW_SIZE]
        peer.send(frame(HEADERS, END_HEADERS, 1, header_block(grpc_fields(REFLECTION))))
        spent = 0
        while spent < 2 * stream_window:
            while stream_window + peer.allowed.get(1, 0) - spent < len(LONG_QUESTION):
                peer.read_frame()
            assert stream_window + peer.allowed.get(1, 0) < 2**31
            spent += len(LONG_QUESTION)
            peer.send(frame(DATA, 0, 1, LONG_QUESTION))
            peer.give(1, 2 * len(LONG_QUESTION) + 2000)  # for the answer, which says the host twice
            if waits:
                peer.barrier()
        peer.send(frame(DATA, END_STREAM, 1))
        assert peer.response(1).grpc_status == OK
        assert peer.responses[1].body.count(HOST) == 2 * (spent // len(LONG_QUESTION))


def test_many_messages_may_come_with_the_headers(server):
    """A bidirectional call that sends more at once than one message may have."""
    with Peer(server, [(INITIAL_WINDOW_SIZE, 1 << 20)]) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, header_block(grpc_fields(REFLECTION)))
                  + frame(DATA, 0, 1, LONG_QUESTION) * 24 + frame(DATA, END_STREAM, 1))
        assert peer.response(1).grpc_status == OK
        assert peer.responses[1].body.count(HOST) == 48


# Streams.


def test_concurrent_streams(server):
    """5.1.2: as many as SETTINGS said; one more is refused, and may be tried again."""
    with Peer(server) as peer:
        peer.barrier()
        limit = peer.server_settings[3]
        assert limit == 1024
        block = header_block(grpc_fields(CHECK))
        last = 2 * limit + 1
        for stream in range(1, last + 2, 2):
            peer.send(frame(HEADERS, END_HEADERS, stream, block))
        assert peer.response(last).reset == REFUSED_STREAM
        peer.send(frame(DATA, END_STREAM, 5, grpc_message(b"")))
        assert peer.response(5).grpc_status == OK
        assert peer.call(last + 2, CHECK, b"").grpc_status == OK
        for stream in range(7, last - 1, 2):
            peer.send(reset(stream))
        peer.goes_on(last + 4)


def test_refused_streams_keep_the_tables_in_step(server):
    """4.3: the block of a stream that is refused still changes the table."""
    with Peer(server) as peer:
        block = header_block(grpc_fields(CHECK))
        for stream in range(1, 2049, 2):
            peer.send(frame(HEADERS, END_HEADERS, stream, block))
        encoder = hpack.Encoder()
        peer.send(frame(HEADERS, END_HEADERS, 2049, encoder.encode(grpc_fields(CHECK))))
        assert peer.response(2049).reset == REFUSED_STREAM
        for stream in range(1, 2049, 2):
            peer.send(reset(stream))
        peer.send(frame(HEADERS, END_HEADERS, 2051, encoder.encode(grpc_fields(CHECK)))
                  + frame(DATA, END_STREAM, 2051, grpc_message(b"")))
        assert peer.response(2051).body == CHECK_ANSWER


@pytest.mark.parametrize("together", [True, False])
def test_every_bidirectional_call_is_answered_while_it_goes_on(server, together):
    """The answer comes before END_STREAM, also where the fields repeat, and where HEADERS and DATA come at once."""
    encoder = hpack.Encoder()
    with Peer(server) as peer:
        for stream in (1, 3, 5, 7):
            head = frame(HEADERS, END_HEADERS, stream, encoder.encode(grpc_fields(REFLECTION)))
            peer.send(head + frame(DATA, 0, stream, LIST_SERVICES) if together else head)
            if not together:
                peer.barrier()
                peer.send(frame(DATA, 0, stream, LIST_SERVICES))
            peer.barrier()
            first = received(peer, stream)
            assert first > 0 and not peer.responses[stream].ended, f"stream {stream}"
            peer.send(frame(DATA, 0, stream, LIST_SERVICES))
            peer.barrier()
            assert received(peer, stream) == 2 * first
            peer.send(frame(DATA, END_STREAM, stream))
            assert peer.response(stream).grpc_status == OK


# Header tables.


@pytest.mark.parametrize("sizes", [
    [0], [1], [43], [44], [59], [60], [103], [104], [105], [4095], [4096], [4097], [2**32 - 1],
    [0, 4096], [60, 0], [4096, 60, 4096], [65536, 100, 0, 65536]], ids=str)
@pytest.mark.parametrize("when", ["at once", "after calls", "between frames"])
def test_answers_stay_decodable_whatever_the_table(server, sizes, when):
    """RFC 7541 4.2 and 4.3; the decoder refuses a reference that it must have evicted."""
    paths = [(CHECK, OK), ("/no.Such/Method", UNIMPLEMENTED)]
    with Peer(server) as peer:
        stream = 1
        for _ in range(0 if when == "at once" else 3):
            for path, status in paths:
                assert peer.call(stream, path, b"").grpc_status == status
                stream += 2
        if when == "between frames":
            for size in sizes:
                peer.set((HEADER_TABLE_SIZE, size))
        else:
            peer.set(*[(HEADER_TABLE_SIZE, size) for size in sizes])
        seen = len(peer.blocks)
        for _ in range(4):
            for path, status in paths:
                assert peer.call(stream, path, b"").grpc_status == status
                stream += 2
        if min(sizes) < 4096 and when != "at once":
            update = peer.blocks[seen]
            assert update[0] & 0xE0 == 0x20, "4.2: the smallest size has to be announced"
            announced, _ = hpack.hpack.decode_integer(update, 5)
            assert announced <= min(sizes)


def test_table_changes_while_answers_wait_for_credit(server):
    with Peer(server, [(INITIAL_WINDOW_SIZE, 0)], gives_credit=False) as peer:
        for turn, size in enumerate([4096, 0, 4096, 50, 100_000]):
            for stream in range(40 * turn + 1, 40 * turn + 41, 2):
                peer.request(stream, grpc_fields(CHECK), grpc_message(b""))
            peer.set((HEADER_TABLE_SIZE, size))
            for stream in range(40 * turn + 1, 40 * turn + 41, 2):
                peer.give(stream, 7)
            for stream in range(40 * turn + 1, 40 * turn + 41, 2):
                assert peer.response(stream).grpc_status == OK


@pytest.mark.parametrize("seed", range(12))
def test_requests_with_a_real_encoder(server, seed):
    """Indexing, eviction and size updates at random; each call's answer shows that its path was read right."""
    source = random.Random(seed)
    encoder = hpack.Encoder()
    paths = [(CHECK, OK)] + [(f"/no.Such/Method{n}", UNIMPLEMENTED) for n in range(8)]
    with Peer(server) as peer:
        for stream in range(1, 601, 2):
            if source.random() < 0.05:
                encoder.header_table_size = source.choice([0, 40, 100, 300, 1000, 4096])
            path, status = source.choice(paths)
            fields = grpc_fields(path)
            if source.random() < 0.2:
                fields.append((f"x-{source.randrange(5)}", "v" * source.choice([0, 1, 50, 700, 2000])))
            block = encoder.encode(fields, huffman=source.random() < 0.5)
            cut = source.randrange(len(block) + 1) if source.random() < 0.1 else None
            if cut is None:
                peer.send(frame(HEADERS, END_HEADERS, stream, block))
            else:
                peer.send(frame(HEADERS, 0, stream, block[:cut]) + frame(9, END_HEADERS, stream, block[cut:]))
            peer.send(frame(DATA, END_STREAM, stream, grpc_message(b"")))
            if source.random() < 0.5:
                assert peer.response(stream).grpc_status == status, (seed, stream)


@pytest.mark.parametrize("together", [True, False])
def test_the_same_bytes_mean_what_the_table_says_now(server, together):
    """A block of references alone: other fields once the table has moved on, errors once they are evicted."""
    def entry(name, value):
        return b"\x40" + header_block([(name, value)])[1:]

    fixed = b"\x83\x86"  # POST, http
    fields = header_block(grpc_fields(CHECK)[4:])
    setup = entry("te", "trailers") + entry("content-type", "application/grpc")
    steps = [  # (stream, block, status)
        (1, fixed + entry(":path", CHECK) + setup, OK),          # 62 content-type, 63 te, 64 :path
        (3, fixed + b"\xc0\xbf\xbe", OK), (5, fixed + b"\xc0\xbf\xbe", OK),
        (7, fixed + entry(":path", "/no.Such/Method") + b"\xc0\xbf", UNIMPLEMENTED),  # all move by one
        (9, fixed + b"\xbe\xc0\xbf", UNIMPLEMENTED), (11, fixed + b"\xc1\xc0\xbf", OK),
        (13, fixed + entry(":path", CHECK) + b"\xc1\xc0", OK), (15, fixed + b"\xbe\xc1\xc0", OK),
        (17, fixed + b"\xbf\xc1\xc0", UNIMPLEMENTED), (19, fixed + b"\xbe\xc1\xc0", OK),
        (21, b"\x20" + b"\x3f\xe1\x1f" + header_block(grpc_fields(CHECK)[:4]) + fields, OK),
        (23, fixed + entry(":path", "/no.Such/Method") + setup, UNIMPLEMENTED),
        (25, fixed + b"\xc0\xbf\xbe", UNIMPLEMENTED), (27, fixed + b"\xc0\xbf\xbe", UNIMPLEMENTED),
    ]
    with Peer(server) as peer:
        sent = b""
        for stream, block, status in steps:
            sent += frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, grpc_message(b""))
            if not together:
                peer.send(sent)
                sent = b""
                assert peer.response(stream).grpc_status == status, stream
        peer.send(sent)
        for stream, _, status in steps:
            assert peer.response(stream).grpc_status == status, stream
        peer.send(frame(HEADERS, END_HEADERS, 29, b"\x20")
                  + frame(HEADERS, END_HEADERS, 31, fixed + b"\xc0\xbf\xbe"))
        assert peer.drain() and peer.goaway == 9


def test_deadlines_and_callers_are_read_from_repeated_blocks(server):
    """A timeout that stands in the table counts for every call that refers to it; one that is gone does not."""
    encoder = hpack.Encoder()
    with Peer(server) as peer:
        stream = 1
        for timeout, status in [("10S", OK), ("10S", OK), ("0n", 4), ("0n", 4), ("0n", 4), (None, OK), (None, OK),
                                ("10S", OK), ("0n", 4), ("bad", 13), ("bad", 13), (None, OK)] * 2:
            block = encoder.encode(grpc_fields(CHECK, grpc_timeout=timeout))
            peer.send(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, grpc_message(b"")))
            assert peer.response(stream).grpc_status == status, (stream, timeout)
            stream += 2
