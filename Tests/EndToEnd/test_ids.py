"""Reservation ids: given once, whatever becomes of the data directory, and kept from release to release."""

import json
import pathlib
import shutil
import tarfile

import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from server import holdfast

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
HOLDS = 300


def hold(client, sku, count=HOLDS):
    return [client.reserve(line(sku), ttl=3600).reservation_id for _ in range(count)]


def assert_nothing_is_named(client, ids):
    for reservation_id in ids:
        with refused(StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"):
            client.get(reservation_id)
    for call in client.confirm, client.release, client.extend:
        with refused(StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"):
            call(ids[0])


@pytest.mark.parametrize("is_running", [True, False])
def test_a_copy_gives_none_of_the_ids_that_the_original_gave_since(start, tmp_path, is_running):
    server = start(data=tmp_path / "data")
    key = fresh("key")
    with Client(server.target) as client:
        sku = client.item(10 * HOLDS)
        first = client.reserve(line(sku), key=key, ttl=3600)
        before = hold(client, sku)
    if not is_running:
        server.stop()
    # Nothing is in flight: what lies there is what a crash would leave.
    shutil.copytree(server.data, tmp_path / "copy")
    shutil.copytree(server.data, tmp_path / "another copy")
    if not is_running:
        server = start(data=server.data)
    with Client(server.target) as client:
        histories = [hold(client, sku)]
    for name in "copy", "another copy":
        copy = start(data=tmp_path / name)
        with Client(copy.target) as client:
            since = [one for history in histories for one in history]
            assert_nothing_is_named(client, since)
            histories.append(hold(client, sku))
            assert_nothing_is_named(client, since)
            again = client.reserve(line(sku), key=key, ttl=3600)
            assert again.replayed and again.reservation_id == first.reservation_id
            client.confirm(first.reservation_id)
            assert client.get(before[0]).reservation_id == before[0]
    given = before + [one for history in histories for one in history]
    assert len(set(given)) == len(given) == 4 * HOLDS
    assert all(len(one) == 20 and set(one) <= set("0123456789abcdefghijklmnopqrstuv") for one in given)


def test_a_repair_gives_no_id_again_and_no_version_either(binary, start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku, other = client.item(10 * HOLDS), fresh()
        kept = hold(client, sku)
        known = client.level(sku).version
        lost = hold(client, sku)
        # Of an item too that the repair takes back.
        client.adjust(other, set_on_hand=5)
        told, told_of_other = client.level(sku).version, client.level(other).version
    server.stop()
    lsn = [row["lsn"] for row in map(json.loads, holdfast(binary, "dump", server.data).stdout.splitlines())
           if row.get("reservation") == kept[-1]][0]
    done = holdfast(binary, "repair", server.data, "--truncate-at", lsn)
    assert done.returncode == 0, done.stderr
    server = start(data=server.data)
    with Client(server.target) as client:
        assert_nothing_is_named(client, lost)
        for version in known, told:
            with refused(StatusCode.ABORTED, "VERSION_MISMATCH"):
                client.adjust(sku, delta=1, expected_version=version)
        # As many changes as were lost, and more: the stale versions do not come back.
        again = hold(client, sku, HOLDS + 10)
        assert not set(again) & set(kept + lost)
        for version in known, told:
            with refused(StatusCode.ABORTED, "VERSION_MISMATCH"):
                client.adjust(sku, delta=1, expected_version=version)
        client.adjust(other, set_on_hand=5, expected_version=0)
        for _ in range(told_of_other + 1):
            with refused(StatusCode.ABORTED, "VERSION_MISMATCH"):
                client.adjust(other, delta=1, expected_version=told_of_other)
            client.adjust(other, delta=1)
        current = client.level(sku).version
        assert client.adjust(sku, delta=1, expected_version=current).stock.version == current + 1
        for reservation_id in kept:
            client.confirm(reservation_id)
    assert server.stop() == 0
    assert holdfast(binary, "verify", server.data).returncode == 0


def test_an_interrupted_repair_is_done_again_before_anything_else(binary, start, tmp_path):
    server = start(data=tmp_path / "data")
    with Client(server.target) as client:
        sku = client.item(5)
    server.stop()
    (server.data / "repair.unfinished").touch()
    for command in ["verify", server.data], ["serve", "--port", "0", "--admin-port", "0", "--data-dir", server.data]:
        done = holdfast(binary, *command)
        assert done.returncode == 1 and "run the same holdfast repair again" in done.stderr
    lsn = [json.loads(row)["lsn"] for row in holdfast(binary, "dump", server.data).stdout.splitlines()][-1]
    assert holdfast(binary, "repair", server.data, "--truncate-at", lsn).returncode == 0
    server = start(data=server.data)
    with Client(server.target) as client:
        assert client.level(sku).on_hand == 5


# MARK: Older releases


@pytest.fixture(params=["first-release", "format-2"])
def older_release(request, tmp_path):
    """A directory that an older release made, and what it answered."""
    with tarfile.open(FIXTURES / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data", json.loads((FIXTURES / f"{request.param}.json").read_text())


def assert_as_recorded(client, facts):
    """Every reservation and item stands as it did, and every key has the answer that it got."""
    for reservation_id, known in facts["reservations"].items():
        reservation = client.get(reservation_id)
        assert reservation.reservation_id == reservation_id
        assert {"state": reservation.state, "expires_at": reservation.expires_at.ToNanoseconds(),
                "lines": sorted([part.sku, part.location, part.quantity] for part in reservation.lines),
                } == known
    for sku, known in facts["items"].items():
        level = client.level(sku)
        assert [level.on_hand, level.held, level.safety_stock, level.version] == known
    for call in facts["calls"]:
        if call["method"] == "adjust":
            answer = client.adjust(call["sku"], key=call["key"], reason=call["reason"], **call["fields"])
            assert answer.replayed
            assert [answer.stock.version, answer.stock.on_hand] == [call["version"], call["on_hand"]]
            continue
        lines = [line(*parts) for parts in call["lines"]]
        if "refused" in call:
            with refused(StatusCode[call["refused"]]):
                client.reserve(*lines, key=call["key"], ttl=call["ttl"])
            continue
        answer = client.reserve(*lines, key=call["key"], ttl=call["ttl"])
        assert answer.replayed and answer.reservation_id == call["id"]
        assert answer.expires_at.ToNanoseconds() == call["expires_at"]


def test_a_directory_of_an_older_release_keeps_its_ids_and_answers(binary, start, older_release, wall_clock):
    data, facts = older_release
    verified = holdfast(binary, "verify", data)
    assert verified.stdout.strip() == facts["state"]
    wall_clock.set(facts["seconds"] + 5)
    settings = ["--max-reservations", "1000", "--retention", "8760h"]
    held, sku = [], "journaled-sku-7"
    for opening in range(3):
        server = start(*settings, data=data, environment=wall_clock.environment)
        with Client(server.target) as client:
            if opening == 0:
                assert_as_recorded(client, facts)
            else:
                for call in facts["calls"]:
                    if "id" in call:
                        answer = client.reserve(
                            *(line(*parts) for parts in call["lines"]), key=call["key"], ttl=call["ttl"])
                        assert answer.replayed and answer.reservation_id == call["id"]
            held += hold(client, sku, 10)
            assert not set(held) & set(facts["reservations"])
            for reservation_id in held:
                assert client.get(reservation_id).reservation_id == reservation_id
            if opening == 1:
                for call in facts["calls"]:
                    if call["key"].endswith("-held"):
                        client.confirm(call["id"])
        server.kill() if opening == 1 else server.stop()
    dumped = [json.loads(row) for row in holdfast(binary, "dump", data).stdout.splitlines()]
    named = {row["reservation"] for row in dumped if "reservation" in row}
    # Some ended by themselves.
    assert named <= set(facts["reservations"]) | set(held) and set(held) <= named
    assert {call["id"] for call in facts["calls"] if call["key"].endswith("-held")} <= named


def test_a_repair_of_a_directory_of_an_older_release_keeps_its_ids(binary, start, older_release, wall_clock):
    data, facts = older_release
    lsn = json.loads(holdfast(binary, "dump", data).stdout.splitlines()[-1])["lsn"]
    assert holdfast(binary, "repair", data, "--truncate-at", lsn).returncode == 0
    wall_clock.set(facts["seconds"] + 5)
    server = start("--retention", "8760h", data=data, environment=wall_clock.environment)
    with Client(server.target) as client:
        for reservation_id in facts["reservations"]:
            assert client.get(reservation_id).reservation_id == reservation_id


# The version stands first in a checkpoint's header block, behind 32 bytes, and second in a segment's header;
# the checksum stands in the second word of the one, and behind the version of the other.
def newer_checkpoint(contents):
    contents[32:36] = (99).to_bytes(4, "little")
    length = int.from_bytes(contents[24:28], "little")
    contents[4:8] = crc32c(contents[8:32 + length]).to_bytes(4, "little")
    return 3


def newer_segment(contents):
    contents[8:12] = (99).to_bytes(4, "little")
    contents[12:16] = crc32c(contents[:12] + contents[16:64]).to_bytes(4, "little")
    return 2


@pytest.mark.parametrize("files, make_newer", [("checkpoint-*", newer_checkpoint), ("journal-*", newer_segment)])
def test_what_a_newer_release_has_written_is_refused_as_that(binary, start, tmp_path, files, make_newer):
    server = start(data=tmp_path / "data")
    server.stop()
    path = min(server.data.glob(files))
    contents = bytearray(path.read_bytes())
    known = make_newer(contents)
    path.write_bytes(contents)
    before = {file.name: file.read_bytes() for file in server.data.iterdir()}
    text = f"{path.name} was written by a newer holdfast (format 99), this one reads up to {known}"
    for command in [("verify", server.data), ("dump", server.data), ("repair", server.data, "--truncate-at", "0"),
                    ("serve", "--port", "0", "--data-dir", server.data)]:
        done = holdfast(binary, *command)
        assert done.returncode == 1, (command, done.stderr)
        assert text in done.stderr and "damaged" not in done.stderr and "truncate" not in done.stderr, command
    assert {file.name: file.read_bytes() for file in server.data.iterdir()} == before


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
