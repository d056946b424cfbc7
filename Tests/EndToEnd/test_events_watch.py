"""`holdfast events watch`: what it prints, and how it goes on where servers, connections and readers are lost."""

import json
import signal
import subprocess
import time

import grpc
from holdfast.v1 import event_pb2

from client import Client, fresh, line
from command_line import Command, Fake, Lines, Proxy, interrupt, refuse
from server import Server, eventually


def test_events_are_printed_as_they_come(binary, server, cli, client):
    sku, order = client.item(9), fresh("order")
    process = cli.start("events", "watch", "--sku", sku, "--from", "oldest", "--json")
    lines = Lines(process.stdout)
    lines.wait(lambda seen: len(seen) == 1)
    held = client.reserve(line(sku, 2), reference=order)
    client.release(held.reservation_id)
    seen = [json.loads(text) for text in lines.wait(lambda seen: len(seen) == 3)]
    assert [event["kind"] for event in seen] == ["ADJUSTED", "HELD", "RELEASED"]
    assert seen[1]["lines"] == [{"sku": sku, "location": "", "quantity": 2}] and seen[1]["reference"] == order
    assert seen[2]["stock"][0]["available"] == 9 and seen[2]["resume_token"]
    interrupt(process)
    assert process.wait(30) == 0 and process.stderr.read() == ""
    # From a token, and only some.
    (event,) = cli("events", "watch", "--from", seen[1]["resume_token"] or seen[0]["resume_token"], "--sku", sku,
                   "--kind", "released", "--limit", 1, "--json").objects
    assert event["lsn"] == seen[2]["lsn"]
    (row,) = cli("events", "watch", "--from", "oldest", "--reference", order[:-1], "--limit", 1).rows
    assert row[2:6] == ["HELD", held.reservation_id, order, f"{sku}=2"]


def test_a_watch_resumes_behind_what_was_printed(cli, client, tmp_path):
    sku, file = client.item(9), tmp_path / "token"
    arguments = ("events", "watch", "--sku", sku, "--resume-file", file, "--from", "oldest", "--json")
    client.adjust(sku, delta=1)
    seen = []
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        client.adjust(sku, delta=1)
        process = cli.start(*arguments)
        lines = Lines(process.stdout)
        lines.wait(lambda found: len(found) >= 1)
        if end == signal.SIGKILL:
            eventually(file.exists)
        process.send_signal(end)
        assert process.wait(30) == (-9 if end == signal.SIGKILL else 0)
        seen += [json.loads(text)["stock"][0]["version"] for text in lines.all()]
    # What was printed and not saved may come twice; nothing is left out.
    seen = list(dict.fromkeys(seen))
    if len(seen) < 5:
        rest = cli(*arguments, "--limit", 5 - len(seen)).objects
        seen = list(dict.fromkeys(seen + [event["stock"][0]["version"] for event in rest]))
    assert seen == ["1", "2", "3", "4", "5"]
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_limit_within_a_message_loses_nothing(cli, client, tmp_path):
    """Many events come in one message, and each command prints two of them."""
    sku, seen = client.item(1), []
    for _ in range(6):
        client.adjust(sku, delta=1)
    for _ in range(3):
        seen += cli("events", "watch", "--sku", sku, "--from", "oldest", "--resume-file", tmp_path / "token", "--limit", 2,
                    "--json").objects
    assert [event["stock"][0]["version"] for event in seen] == [str(each) for each in range(1, 7)]


def test_a_limit_holds_however_messages_are_cut(binary, tmp_path):
    """Messages may be empty, and cut elsewhere when they come again."""
    event = lambda lsn: event_pb2.Event(lsn=lsn, kind=1)  # noqa: E731
    cuts = {"": [("t1", []), ("t6", [1, 2, 3, 4, 5, 6])], "t1": [("t1a", []), ("t3", [1, 2, 3]), ("t6", [4, 5, 6])],
            "t3": [("t3", []), ("t4", [4]), ("t6", [5, 6])], "t4": [("t6", [5, 6])]}

    def answer(method, request, context):
        for token, events in cuts[event_pb2.WatchRequest.FromString(request).resume_token]:
            yield event_pb2.WatchResponse(resume_token=token, events=map(event, events)).SerializeToString()
        time.sleep(5)

    seen = []
    with Fake(answer) as server:
        for _ in range(3):
            seen += Command(binary, server.target)("events", "watch", "--from", "oldest", "--limit", 2, "--json",
                                                   "--resume-file", tmp_path / "token").objects
    assert [event["lsn"] for event in seen] == ["1", "2", "3", "4", "5", "6"]


def test_a_watch_goes_on_over_a_restart_without_a_gap(binary, tmp_path):
    data = tmp_path / "data"
    with Server(binary, data=data) as first, Proxy(first.target) as proxy:
        process = Command(binary, proxy.target).start("events", "watch", "--from", "oldest", "--json")
        lines, errors = Lines(process.stdout), Lines(process.stderr)
        with Client(first.target) as client:
            sku = client.item(1)
            for _ in range(20):
                client.adjust(sku, delta=1)
        lines.wait(lambda seen: len(seen) == 21)
        first.kill()
        with Server(binary, data=data) as second, Client(second.target) as client:
            for _ in range(20):
                client.adjust(sku, delta=1)
            errors.wait(lambda seen: any("trying again" in text for text in seen))
            proxy.upstream = second.target
            seen = lines.wait(lambda seen: len(seen) == 41)
            assert [json.loads(text)["stock"][0]["version"] for text in seen] == [str(each) for each in range(1, 42)]
            errors.wait(lambda seen: any("going on" in text for text in seen))
            interrupt(process)
            assert process.wait(30) == 0


def test_a_watch_ends_where_nobody_reads(cli, client):
    """While it prints, and while nothing happens."""
    sku = client.item(9)
    for _ in range(20):
        client.adjust(sku, delta=1)
    script = '"$0" events watch --sku "$1" --from "$2" | head -n "$3"; echo "${PIPESTATUS[0]}"'
    # The names of the columns are the one line of a watch from now.
    for place, count in (("oldest", 3), ("now", 1)):
        done = subprocess.run(["bash", "-c", script, cli.binary, sku, place, str(count)],
                              capture_output=True, text=True, timeout=60, env=cli.environment)
        assert done.stdout.splitlines()[-1] == "0" and len(done.stdout.splitlines()) == count + 1, done
        assert done.stderr == ""


def test_a_watch_says_why_it_cannot_go_on(binary, cli, client, tmp_path):
    sku = client.item(1)
    (event,) = cli("events", "watch", "--from", "oldest", "--sku", sku, "--limit", 1, "--json").objects
    with Server(binary) as other:
        file = tmp_path / "token"
        file.write_text(event["resume_token"] + "\n")
        there = Command(binary, other.target)
        done = there("events", "watch", "--resume-file", file, status=1)
        assert "(RESUME_TOKEN_FOREIGN)" in done.err and "holdfast stock list" in done.err
        assert there("events", "watch", "--from", "nonsense", "--json", status=1).error["reason"] == "INVALID_FIELD"
        file.write_text("two words\n")
        there("events", "watch", "--resume-file", file, status=65)
        there("events", "watch", "--resume-file", tmp_path, status=66)
        assert "No such file" in there("events", "watch", "--from", "oldest", "--limit", 1, "--resume-file",
                                       tmp_path / "no" / "token", status=74).err


def test_a_watch_has_a_new_token_at_every_connection(binary, secured, ours, tmp_path):
    file = tmp_path / "token"
    file.write_text(secured.tokens["read"])
    with Proxy(secured.target) as proxy:
        cli = Command(binary, f"https://{proxy.target}", HOLDFAST_CA=str(ours.authority), HOLDFAST_TOKEN_FILE=str(file))
        process = cli.start("events", "watch", "--kind", "adjusted", "--json")
        eventually(lambda: len(proxy.connections) == 1)
        file.write_text(secured.tokens["stock"])
        proxy.cut()
        eventually(lambda: len(proxy.connections) == 2, 20)
        lines = Lines(process.stdout)
        sku = fresh("mug")
        changer = Command(binary, f"https://{secured.target}", HOLDFAST_CA=str(ours.authority),
                          HOLDFAST_TOKEN=secured.tokens["stock"])
        for number in range(100):
            changer("stock", "set", sku, number, "-y")
            if lines.lines:
                break
        (text, *_) = lines.wait(lambda seen: seen)
        assert json.loads(text)["caller"] == "stock"
        file.write_text("x" * 40)
        proxy.cut()
        assert process.wait(60) == 77 and "TOKEN_INVALID" in process.stderr.read()


def test_a_watch_that_was_ended_goes_on_behind_its_token_and_nonsense_ends_it(binary):
    asked = []

    def answer(method, request, context):
        asked.append(event_pb2.WatchRequest.FromString(request))
        if len(asked) == 1:
            yield event_pb2.WatchResponse(resume_token="t1", events=[event_pb2.Event(lsn=7, kind=99)]).SerializeToString()
        elif len(asked) == 2:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        elif len(asked) == 3:
            refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "", "a proxy's patience is over")
        else:
            yield b"\xff\xff"

    with Fake(answer) as hostile:
        done = Command(binary, hostile.target)("events", "watch", "--from", "oldest", "--json", status=70)
    assert [event["kind"] for event in done.objects] == ["KIND_99"] and "no events" in done.err
    assert asked[0].oldest and [each.resume_token for each in asked[1:]] == ["t1"] * 3
