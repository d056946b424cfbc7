"""scripts/crash-events.py: what it compares finds every fault that it is there for, and a few of its rounds.

The rounds (the marker `orders`, `make test-orders`) run RabbitMQ, server, relay and intake, and kill them.
"""

import importlib.util
import re
import subprocess
import sys
import types

import pytest

import rabbitmq
from conftest import REPOSITORY
from holdfast.v1 import event_pb2

SCRIPT = REPOSITORY / "scripts/crash-events.py"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    specification = importlib.util.spec_from_file_location("crash_events", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def event(lsn, kind, sku, version, reservation="", order=""):
    """One decision on one item."""
    made = event_pb2.Event(lsn=lsn, kind=f"EVENT_KIND_{kind}", reservation_id=reservation, reference=order)
    if kind == "REFUSED":
        made.lines.add(sku=sku, quantity=1)
    else:
        made.stock.add(sku=sku, version=version)
    return made


TRUTH = [
    event(10, "ADJUSTED", "a", 1), event(20, "ADJUSTED", "b", 1),
    event(30, "HELD", "a", 2, "r1", "o1"), event(40, "HELD", "b", 2, "r2", "o2"),
    event(50, "REFUSED", "a", 0, order="o3"), event(60, "CONFIRMED", "a", 3, "r1", "o1"),
    event(70, "EXPIRED", "b", 3, "r2", "o2"),
]


class Seen:
    """A stack as it is once all went well: what the shop has seen and was told."""

    def __init__(self, script):
        self.script = script
        self.stack = object.__new__(script.Stack)
        self.stack.shop = self.shop = types.SimpleNamespace(
            messages=[(each.lsn, self.sku(each), script.TYPES[each.kind], {"": level.version for level in each.stock})
                      for each in TRUTH],
            answers={"o1": ("StockReserved", "r1"), "o2": ("StockReserved", "r2"), "o3": ("StockRejected", "")},
            meant={"r1": "sell", "r2": "forget"}, ends={"r1": "CONFIRMED"})

    @staticmethod
    def sku(each):
        return (each.stock or each.lines)[0].sku

    def faults(self):
        expected = {(each.lsn, self.sku(each)) for each in TRUTH}
        return [*self.stack.compare_events(TRUTH, expected), *self.stack.compare_orders(TRUTH)]


def remove(seen, lsn):
    seen.shop.messages = [each for each in seen.shop.messages if each[0] != lsn]


def test_what_is_right_has_no_fault(script):
    seen = Seen(script)
    # Doubles are allowed, wherever they come.
    seen.shop.messages += seen.shop.messages[1:4]
    assert seen.faults() == []


@pytest.mark.parametrize("harm, word", {
    "lost": (lambda seen: remove(seen, 30), "LSN 30 of a was not published"),
    "last lost": (lambda seen: remove(seen, 70), "LSN 70 of b was not published"),
    "refusal lost": (lambda seen: remove(seen, 50), "LSN 50 of a was not published"),
    "invented": (lambda seen: seen.shop.messages.append((80, "a", "StockReserved", {"": 4})), "LSN 80 of a was published"),
    "of another SKU": (lambda seen: seen.shop.messages.append((20, "a", "StockAdjusted", {})), "LSN 20 of a was published"),
    "out of order": (lambda seen: seen.shop.messages.insert(0, seen.shop.messages.pop(2)), "a: LSN 10 came behind 30"),
    "another type": (lambda seen: seen.shop.messages.__setitem__(5, (60, "a", "ReservationReleased", {"": 3})), "as ReservationReleased"),
    "another version": (lambda seen: seen.shop.messages.__setitem__(5, (60, "a", "ReservationConfirmed", {"": 4})), "its versions"),
    "no decision": (lambda seen: seen.shop.answers.update(o4=("StockReserved", "r4")), "o4 was answered"),
    "another reservation": (lambda seen: seen.shop.answers.update(o1=("StockReserved", "r9")), "o1 was answered"),
    "refused, told reserved": (lambda seen: seen.shop.answers.update(o3=("StockReserved", "r3")), "o3 was answered"),
    "sold, not told": (lambda seen: seen.shop.ends.update(r1="EXPIRED"), "r1 was to sell"),
    "told sold, and not": (lambda seen: seen.shop.meant.update(r2="sell") or seen.shop.ends.update(r2="CONFIRMED"), "r2 was to sell"),
    "never ended": (lambda seen: seen.shop.meant.update(r5="forget"), "r5 was to forget"),
}.values())
def test_each_fault_is_found(script, harm, word):
    seen = Seen(script)
    harm(seen)
    found = seen.faults()
    assert any(word in each for each in found), found


@pytest.mark.orders
@rabbitmq.needs_rabbitmq
@pytest.mark.parametrize("kind", ["relay-and-broker", "intake-and-server"])
def test_every_decision_is_published_and_every_order_ends_right(kind, binary, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--server", binary, "--directory", tmp_path, "--rounds", "2", "--seed", "5", "--kind", kind],
        capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 lost, 0 out of order, every order ended right\n"), done.stdout
    assert int(re.search(r"([\d,]+) orders ended right", done.stdout)[1].replace(",", "")) > 100, done.stdout
    assert not list(tmp_path.iterdir())
