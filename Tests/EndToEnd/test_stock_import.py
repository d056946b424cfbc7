"""`holdfast stock import`: files of all kinds, and imports that are cut off."""

import json
import os
import re
import signal
import subprocess
import threading
import time

import grpc
import pytest
from holdfast.v1 import stock_pb2

from client import Client, fresh
from command_line import Command, Fake, Proxy, interrupt, refuse
from server import Server, eventually


def write_rows(path, rows, header="sku,delta"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def levels(client, skus):
    found = {}
    for first in range(0, len(skus), 500):
        items = [stock_pb2.StockItem(sku=sku) for sku in skus[first:first + 500]]
        response = client.stock.BatchGetStock(stock_pb2.BatchGetStockRequest(items=items), **client.call)
        found.update((level.sku, level.on_hand) for level in response.stock)
    return [found.get(sku) for sku in skus]


def test_a_file_is_imported(cli, client, tmp_path):
    base = fresh("csv")
    path = tmp_path / "stock.csv"
    path.write_bytes(f'\ufeff"On_Hand",sku,location,safety_stock\r\n5,{base}-a,,\r\n"7",{base}-b,oslo,2\r\n'.encode())
    done = cli("stock", "import", path, "--yes")
    assert "2 rows done: 2 changed, 0 refused" in done.err and done.out == ""
    assert client.level(f"{base}-b", "oslo").safety_stock == 2 and client.level(f"{base}-a").on_hand == 5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stock.csv"]
    # A file is imported again: what it says is done once more, not passed over.
    client.adjust(f"{base}-a", set_on_hand=1)
    (result,) = cli("stock", "import", path, "--yes", "--json").objects
    assert (result["rows"], result["changed"], result["refused"], result["rejected_file"]) == ("2", "2", "0", None)
    assert client.level(f"{base}-a").on_hand == 5
    assert "give --yes" in cli("stock", "import", path, status=64).err
    assert "[y/N]" in cli.at_terminal("stock", "import", path, answers="n\n", status=1)


def test_a_file_with_mistakes_is_not_sent(cli, client, tmp_path):
    base = fresh("csv")
    path = write_rows(tmp_path / "f.csv", [f"{base}-a,1", f"{base} b,1", f"{base}-c,x", f'"{base}-d"e,1', f"{base}-f,1,2"])
    done = cli("stock", "import", path, status=65)
    assert [re.sub(r".*f\.csv:", "", text) for text in done.err.splitlines()] == [
        "3:1: sku: not up to 64 bytes of printable ASCII without spaces",
        "4:%d: delta: 'x' is no whole number from -1099511627776 to 1099511627776" % (len(base) + 4),
        "5:%d: something behind the quote that ends a field" % (len(base) + 5),
        "6:1: 3 fields where the first line has 2", "nothing was sent"]
    assert levels(client, [f"{base}-a"]) == [None]
    assert cli("stock", "import", path, "--dry-run", status=65).out == ""
    done = cli("stock", "import", path, "--skip-mistakes", status=1)
    assert "1 rows done: 1 changed, 0 refused, 4 with mistakes" in done.err
    rejected = (tmp_path / "f.csv.rejected.csv").read_text().splitlines()
    assert rejected[0] == "rejected_line,rejected_reason,sku,delta" and len(rejected) == 5
    assert rejected[1].startswith(f"3,") and rejected[1].endswith(f",{base} b,1")


@pytest.mark.parametrize("content, status, words", [
    (b"", 65, "is empty"), (b"\xff\xfes\x00", 65, "UTF-16"), (b"sku,delta\na,1\x00\n", 65, "NUL"),
    (b"sku,delta\n" + b"a" * 100_000 + b",1\n", 65, "more than 65536 bytes"),
    (b'sku,delta\n"a,1\n' + b"b,2\n" * 50_000, 65, "quote"), (b"sku,delta\n\xff,1\n", 65, "printable ASCII"),
    (b"\x7fELF\x02\x01\x01\x00" + b"\x00" * 512, 65, "NUL"), (b"sku,delta\n", 0, "0 rows done")])
def test_hostile_files(cli, tmp_path, content, status, words):
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    done = cli("stock", "import", path, status=status)
    assert words in done.err and len(done.err) < 4000


def test_what_is_no_file(cli, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "pipe"):
        assert str(path) in cli("stock", "import", path, status=66).err


def test_refused_rows_are_in_a_file_that_can_be_imported(cli, client, tmp_path):
    base = fresh("csv")
    client.adjust(f"{base}-a", set_on_hand=2)
    path = write_rows(tmp_path / "f.csv", [f"{base}-a,-5", f"{base}-b,4", f'"{base}-c",-1'])
    done = cli("stock", "import", path, status=1)
    assert "3 rows done: 1 changed, 2 refused" in done.err
    rejects = tmp_path / "f.csv.rejected.csv"
    assert rejects.read_text() == (
        "rejected_line,rejected_reason,sku,delta\n"
        f"2,INSUFFICIENT_STOCK,{base}-a,-5\n" f'4,ITEM_NOT_FOUND,"{base}-c",-1\n')
    rejects.write_text(rejects.read_text().replace(",-5", ",-2").replace(",-1", ",1"))
    cli("stock", "import", rejects)
    assert levels(client, [f"{base}-a", f"{base}-b", f"{base}-c"]) == [0, 4, 1]


@pytest.mark.parametrize("name, separator", [("tab", "\t"), (";", ";")])
def test_refused_rows_have_the_separator_of_their_file(cli, client, tmp_path, name, separator):
    sku = client.item(2)
    path = tmp_path / "f.tsv"
    path.write_text(f"sku,delta\n{sku},-5\n".replace(",", separator))
    cli("stock", "import", path, "--separator", name, status=1)
    rejects = tmp_path / "f.tsv.rejected.csv"
    lines = f"rejected_line,rejected_reason,sku,delta\n2,INSUFFICIENT_STOCK,{sku},-5\n"
    assert rejects.read_text() == lines.replace(",", separator)
    # Once more: what is there is the earlier import's, and gives way.
    cli("stock", "import", path, "--separator", name, status=1)
    assert rejects.read_text() == lines.replace(",", separator)
    rejects.write_text(rejects.read_text().replace(f"{separator}-5", f"{separator}-2"))
    cli("stock", "import", rejects, "--separator", name)
    assert levels(client, [sku]) == [0]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_result_that_cannot_be_written(binary, server, tmp_path, more):
    path = write_rows(tmp_path / "f.csv", [f"{fresh('csv')},1"])
    command = [binary, "stock", "import", path, "--json", "--target", server.target, *more]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 74 and "standard output: No space left" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert done.returncode == 0 and "Error" not in done.stderr


def test_a_server_that_refuses_what_it_asked_for_is_given_up(binary, tmp_path):
    path = write_rows(tmp_path / "f.csv", ["a,1", "b,1"])

    def answer(method, requests, context):
        refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_GAP", next_row="1")

    with Fake(answer) as hostile:
        done = Command(binary, hostile.target)("stock", "import", path, status=70)
    assert "the server refuses rows that follow those that it has" in done.err


def test_what_an_earlier_run_was_told_or_not_is_not_lost(binary, tmp_path):
    """The first row is refused, and the command is ended before the last ones: the next run still says so."""
    path = write_rows(tmp_path / "f.csv", [f"a{number},1" for number in range(1500)])
    state = tmp_path / "f.csv.holdfast-import"

    def answer(method, requests, context):
        first, count = requests[0].first_row, sum(len(each.rows) for each in requests)
        if first not in allowed:
            refuse(context, *((grpc.StatusCode.UNAVAILABLE, "OVERLOADED") if first == 1000 else GAP), next_row="1000")
        refused = [stock_pb2.ImportFailure(row=0, reason="INSUFFICIENT_STOCK")] if first == 0 else []
        return stock_pb2.ImportStockResponse(next_row=first + count, changed=count - len(refused), failed=len(refused),
                                             failures=refused)

    def decoded(method, requests, context):
        return answer(method, [stock_pb2.ImportStockRequest.FromString(each) for each in requests], context).SerializeToString()

    GAP = grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_GAP"
    with Fake(decoded) as server:
        cli = Command(binary, server.target)
        allowed = {0}
        assert "1,000 of 1,500 rows are done" in cli("stock", "import", path, "--patience", "1s", status=69).err
        noted = state.read_text()
        assert noted.endswith(" 1000\n")
        allowed = {1000}
        (told,) = cli("stock", "import", path, "--json", status=1).objects
        assert (told["refused"], told["unheard"], told["rejected_file"]) == ("0", "0", f"{path}.rejected.csv")
        # As it is where the command is killed before it has noted the answer.
        state.write_text(noted.replace(" 1000", " 0"))
        (tmp_path / "f.csv.rejected.csv").unlink()
        done = cli("stock", "import", path, "--json")
        assert (done.objects[0]["unheard"], done.objects[0]["changed"]) == ("1000", "500")
        assert "of 1,000 rows it is not known here" in done.err


ROWS = 6_000
# Bytes of requests that come through before the network holds: some of the rows, not all.
HELD_AFTER = 60_000


@pytest.fixture
def big(tmp_path):
    base = fresh("big")
    skus = [f"{base}-{number}" for number in range(ROWS)]
    return skus, write_rows(tmp_path / "big.csv", [f"{sku},3" for sku in skus])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_was_cut_off_goes_on(binary, server, cli, client, big, end):
    skus, path = big
    with Proxy(server.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path, "--json")
        assert proxy.is_held.wait(60)
        process.send_signal(end)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-9 if end == signal.SIGKILL else 75), err
        assert end == signal.SIGKILL or "the same command goes on" in err
    # What came through may still be on its way into the stock.
    done = eventually(lambda: levels(client, skus).count(3))
    assert done < ROWS
    name = path.with_name("big.csv.holdfast-import")
    assert re.match(r"holdfast-import 1 \S+-[0-9a-f]{16} \d+\n", name.read_text())
    result = cli("stock", "import", path, "--json")
    assert "going on with import" in result.err and not name.exists()
    assert levels(client, skus) == [3] * ROWS, "each row once"
    (told,) = result.objects
    assert 0 < int(told["changed"]) <= ROWS - done and told["done"] == str(ROWS)


def test_an_import_goes_on_over_a_restart_of_the_server(binary, big, tmp_path):
    skus, path = big
    data = tmp_path / "data"
    with Server(binary, data=data) as first, Proxy(first.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path, "--json")
        assert proxy.is_held.wait(60)
        first.kill()
        with Server(binary, data=data) as second, Client(second.target) as client:
            proxy.upstream = second.target
            proxy.release()
            proxy.cut()
            out, err = process.communicate(timeout=90)
            assert process.returncode == 0, err
            assert levels(client, skus) == [3] * ROWS and json.loads(out)["done"] == str(ROWS)


def test_another_file_does_not_go_on(binary, server, cli, big):
    skus, path = big
    with Proxy(server.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path)
        assert proxy.is_held.wait(60)
        interrupt(process)
        process.communicate(timeout=60)
    text = path.read_text()
    name = re.search(r"1 (\S+) ", path.with_name("big.csv.holdfast-import").read_text())[1]
    path.write_text(text.replace(",3", ",4", 1))
    assert "is not the file" in cli("stock", "import", path, status=65).err
    path.write_text(text)
    assert "is read otherwise" in cli("stock", "import", path, "--ignore-column", "x", status=65).err
    path.with_name("big.csv.holdfast-import").unlink()
    cli("stock", "import", path, "--id", name)
    cli("stock", "import", path, "--id", "nonsense", status=64)


def test_a_server_that_has_forgotten_is_not_told_twice(binary, big):
    """A server without a journal that starts anew: nobody adds to its stock what another one had."""
    skus, path = big
    flags = ("--durability", "memory")
    with Server(binary, *flags) as first, Proxy(first.target, hold_after=HELD_AFTER) as proxy:
        process = Command(binary, proxy.target).start("stock", "import", path)
        assert proxy.is_held.wait(60)
        interrupt(process)
        process.communicate(timeout=60)
    with Server(binary, *flags) as second:
        cli = Command(binary, second.target)
        assert "knows nothing of import" in cli("stock", "import", path, status=65).err
        cli("stock", "import", path, "--restart")
        assert cli("stock", "get", skus[0], skus[-1]).rows[1][2] == "3"


def test_progress_is_drawn_at_a_terminal(binary, server, big):
    _, path = big
    with Proxy(server.target, hold_after=HELD_AFTER) as proxy:
        seen = []
        cli = Command(binary, proxy.target)
        watching = threading.Thread(target=lambda: seen.append(cli.at_terminal("stock", "import", path)))
        watching.start()
        assert proxy.is_held.wait(60)
        # What is drawn is drawn five times a second.
        time.sleep(0.5)
        proxy.release()
        watching.join(60)
    assert re.search(r"\r\x1b\[K\d+ %  [\d,]+ of 6,000 rows  [\d,]+/s  \d+ s left", seen[0]), seen
    assert f"{ROWS:,} rows done" in seen[0]


def test_other_files_are_left_alone(cli, client, tmp_path):
    base = fresh("csv")
    path = write_rows(tmp_path / "f.csv", [f"{base},-1"])
    other = tmp_path / "notes.txt"
    other.write_text("mine\n")
    assert "has no rejected rows" in cli("stock", "import", path, "--rejects", other, status=74).err
    cli("stock", "import", path, "--rejects", path, status=64)
    cli("stock", "import", path, "--rejects", f"{path}.holdfast-import", status=64)
    assert other.read_text() == "mine\n"
    # What an earlier import has rejected goes with the next that begins.
    cli("stock", "import", path, status=1)
    assert (tmp_path / "f.csv.rejected.csv").exists()
    client.adjust(base, set_on_hand=1)
    cli("stock", "import", path)
    assert not (tmp_path / "f.csv.rejected.csv").exists()


def test_a_folder_that_cannot_be_written_to(cli, client, tmp_path):
    """The import goes on: its id is told."""
    base = fresh("csv")
    folder = tmp_path / ("n" * 100)
    folder.mkdir()
    # No name is left for a file beside it, whoever runs the test.
    path = write_rows(folder / ("f" * 250), [f"{base},1"])
    assert cli("stock", "import", path, status=66).err


def test_a_server_that_answers_nonsense_to_an_import(binary, tmp_path):
    path = write_rows(tmp_path / "f.csv", ["a,1", "b,1"])
    answers = [stock_pb2.ImportStockResponse(next_row=1, changed=1), stock_pb2.ImportStockResponse(next_row=2, changed=3),
               stock_pb2.ImportStockResponse(next_row=2, failed=1, changed=1,
                                             failures=[stock_pb2.ImportFailure(row=7, reason="X")])]
    for each in answers:
        with Fake(lambda *_: each.SerializeToString()) as hostile:
            done = Command(binary, hostile.target)("stock", "import", path, "--restart", status=70)
        assert "the same command goes on" in done.err, done
