"""A journal that is not as it was written: cut where that loses nothing, refused where it would."""

import json
import re

import pytest

from client import Client, line
from journal import batches, segments
from server import holdfast, serve_command
from test_durability import Story, state_of

RESERVES = 20


@pytest.fixture
def data(start, tmp_path):
    """The directory of a server that was killed after these many single decisions."""
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(100)
        for _ in range(RESERVES):
            client.reserve(line(sku), ttl=3600)
    server.kill()
    (tmp_path / "sku").write_text(sku)
    return tmp_path / "data"


def sku_of(data):
    return (data.parent / "sku").read_text()


def test_damage_is_refused_repaired_and_then_served(binary, start, data):
    whole = state_of(binary, data)
    spoilt = batches(data)[10]
    spoilt.flip(3)
    complaints = []
    for arguments in (["verify", data], serve_command(binary, data)[1:]):
        done = holdfast(binary, *arguments)
        assert done.returncode == 3 and done.stdout == ""
        complaints.append(done.stderr.splitlines()[-1])
        assert spoilt.path.name in complaints[-1] and f"offset {spoilt.offset}" in complaints[-1]
    lsn = int(re.search(r"--truncate-at (\d+)", complaints[0])[1])
    assert lsn == spoilt.lsn and f"holdfast repair '{data}' --truncate-at {lsn}" in complaints[0]
    # Looking has changed nothing.
    spoilt.flip(3)
    assert state_of(binary, data) == whole
    spoilt.flip(3)

    dump = holdfast(binary, "dump", data)
    assert dump.returncode == 3 and spoilt.path.name in dump.stderr
    kept = [json.loads(row) for row in dump.stdout.splitlines()]

    # First what is given up is listed: where that cannot be, nothing is changed.
    done = holdfast(binary, "repair", data, "--truncate-at", lsn, "--list", data.parent / "no" / "list")
    assert done.returncode == 1 and "--list" in done.stderr and holdfast(binary, "verify", data).returncode == 3
    done = holdfast(binary, "repair", data, "--truncate-at", lsn)
    assert done.returncode == 0, done.stderr
    assert str(lsn) in done.stdout and f"given-up-{lsn}.jsonl" in done.stdout
    given_up = [json.loads(row) for row in (data / f"given-up-{lsn}.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in given_up].count("unreadable") == 1
    decided = [row for row in given_up if row["kind"] == "held"]
    assert f"gave up {len(decided)} decisions" in done.stdout and len(decided) > 5
    assert all(row["lsn"] > lsn for row in given_up)
    assert {part["sku"] for row in decided for part in row["lines"]} == {sku_of(data)}
    assert len(decided) + 1 + len([row for row in kept if row["kind"] == "held"]) == RESERVES
    decisions, _ = state_of(binary, data)
    assert decisions == sum(record["kind"] not in ("checkpoint", "clock") for record in kept) < whole[0]
    server = start(data=data)
    with Client(server.target) as client:
        assert client.level(sku_of(data)).held == decisions - 1
        client.reserve(line(sku_of(data)))
    server.kill()
    assert state_of(binary, data)[0] == decisions + 1


def test_repair_cuts_between_batches_only(binary, data):
    whole = state_of(binary, data)
    chosen = batches(data)[5]
    done = holdfast(binary, "repair", data, "--truncate-at", chosen.lsn + 8)
    assert done.returncode == 1 and str(chosen.lsn) in done.stderr
    assert state_of(binary, data) == whole


def test_repair_past_the_end_changes_nothing(binary, data):
    whole = state_of(binary, data)
    done = holdfast(binary, "repair", data, "--truncate-at", 1 << 60)
    assert done.returncode == 1
    assert state_of(binary, data) == whole


@pytest.mark.parametrize("how", ["spoilt", "zeroed from its middle", "without its header"])
def test_a_torn_tail_is_cut_and_reported(binary, start, data, how):
    """The newest batch of a killed server is all that may be half written."""
    decisions, _ = state_of(binary, data)
    last = batches(data)[-1]
    if how == "spoilt":
        last.flip(last.length - 1)
    else:
        at, count = (last.offset, 48) if "header" in how else (last.offset + 48 + last.length // 2, last.length)
        with open(last.path, "r+b") as file:
            file.seek(at)
            file.write(bytes(count))
    done = holdfast(binary, "verify", data)
    assert done.returncode == 0 and done.stdout.split()[1] == str(decisions - 1)
    server = start(data=data)
    # Without a header nothing says that there was anything.
    assert ("cut off" in server.log_text()) == (how != "without its header")
    with Client(server.target) as client:
        assert client.level(sku_of(data)).held == RESERVES - 1
        story = Story(client)
    server.kill()
    with Client(start(data=data).target) as client:
        story.check(client)


def test_a_missing_segment_and_a_missing_checkpoint(binary, data):
    for path in (segments(data)[0], *data.glob("checkpoint-*")):
        aside = data.parent / path.name
        path.rename(aside)
        for arguments in (["verify", data], serve_command(binary, data)[1:]):
            done = holdfast(binary, *arguments)
            assert done.returncode in (1, 3) and done.stdout == "" and done.stderr
        aside.rename(path)
    assert state_of(binary, data)[0] == RESERVES + 1


@pytest.mark.parametrize("also", [(), ("journal.closed",)], ids=["the journal", "the journal and the record"])
def test_an_end_that_is_lost_after_an_orderly_stop_is_damage(binary, start, tmp_path, also):
    data = tmp_path / "data"
    server = start(data=data)
    with Client(server.target) as client:
        sku = client.item(100)
        for _ in range(RESERVES):
            client.reserve(line(sku), ttl=3600)
    assert server.stop() == 0
    whole = state_of(binary, data)
    last = batches(data)[-1]
    end = last.offset + 48 + last.length
    with open(last.path, "r+b") as file:
        file.seek((end - 1) // 4096 * 4096)
        file.write(bytes(4096))
    for name in also:
        contents = bytearray((data / name).read_bytes())
        contents[20] ^= 1
        (data / name).write_bytes(contents)
    for arguments in (["verify", data], ["dump", data], serve_command(binary, data)[1:]):
        done = holdfast(binary, *arguments)
        assert done.returncode == 3 and "told" not in done.stderr, done.stderr
    lsn = re.search(r"--truncate-at (\d+)", done.stderr)[1]
    assert holdfast(binary, "repair", data, "--truncate-at", lsn).returncode == 0
    assert state_of(binary, data)[0] < whole[0]
    with Client(start(data=data).target) as client:
        client.item(1)


def test_a_start_says_how_the_last_one_ended(binary, start, tmp_path):
    data = tmp_path / "data"
    for end, said in (("stop", None), ("kill", "orderly"), ("stop", "not orderly")):
        server = start(data=data)
        (entry,) = [row for row in map(json.loads, server.log_text().splitlines()) if "stopped" in row]
        assert entry["message"] == ("recovered" if said else "made a new data directory")
        assert entry["stopped"] == (said or "unknown")
        getattr(server, end)()
