"""examples/orders as a whole: the naive shops, docs/WHY.md, the verdict of scripts/demo-orders.py, and the demo itself.

The demo (the marker `orders`, `make test-orders`) runs RabbitMQ, the server, relay, intake, provider and shop, kills each, and
ends in its verdict.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import types

import pytest

import engines
import rabbitmq
from conftest import REPOSITORY
from server import eventually
from test_orders import CARD, EXAMPLE, ask, post

sys.path.insert(0, str(EXAMPLE / "naive"))

import run as naive  # noqa: E402  the example's folder must be on the path first
from postgres import Postgres  # noqa: E402
from shoppers import shoppers  # noqa: E402


# The naive shops


@pytest.fixture(scope="module")
def database():
    if not engines.is_installed():
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    with Postgres() as running:
        yield running


# What each must show: its own faults, and none that it cannot have.
FAULTS = {
    "check_then_act": {"oversold", "unpaid_for"},
    "lock_without_fencing": {"oversold", "unpaid_for"},
    "validate_then_remove": {"unpaid_for", "stuck"},
    "queue_without_idempotence": {"oversold", "unpaid_for"},
}


def faults(result):
    return {name for name in ("oversold", "unpaid_for", "lost", "stuck") if getattr(result, name) > 0}


@pytest.mark.parametrize("version", naive.VERSIONS, ids=lambda it: it.__name__)
def test_a_naive_shop_shows_its_fault(database, version):
    people = shoppers(300)
    results = [naive.measure(version, database, people, units=30) for _ in range(2)]
    assert faults(results[0]) == FAULTS[version.__name__]
    assert results[0] == results[1], "the same shoppers, another end"


def test_a_redelivery_alone_blocks_units_for_nobody(database, monkeypatch):
    """Customers who all pay at once, with good cards: nothing else can go wrong."""
    version = next(each for each in naive.VERSIONS if each.__name__ == "queue_without_idempotence")
    people = [each for each in shoppers(300) if each.kind == "buys"]
    assert faults(naive.measure(version, database, people, units=30)) == {"lost"}
    monkeypatch.setattr(naive.Queue, "AGAIN", 0.0)
    right = [each for each in people if each.clicks == 1]
    assert faults(naive.measure(version, database, right, units=30)) == set()


def test_it_is_not_the_shoppers_fault(database, monkeypatch):
    """One click, banks that answer, no redelivery: customers who pay late are enough."""
    monkeypatch.setattr(naive.Queue, "AGAIN", 0.0)
    people = naive.gentle(shoppers(300))
    for version in naive.VERSIONS:
        assert faults(naive.measure(version, database, people, units=30)) == FAULTS[version.__name__], version.__name__
    assert faults(naive.measure(Right, database, people, units=30)) == set()


class Right:
    """What the last text says, on PostgreSQL: nothing goes wrong here, so what goes wrong above is not the harness's."""

    NAME, SCHEMA = "conditional update, idempotent by order", naive.VERSIONS[0].SCHEMA
    TAKE = """with taken as (update stock set units = units - 1 where sku = 'ticket' and units > 0
                             and not exists (select from orders where id = %s) returning sku)
              insert into orders select %s, 'RESERVED' from taken on conflict do nothing"""
    GIVE_BACK = """with ended as (update orders set state = 'CANCELLED' where id = %s and state = 'RESERVED' returning id)
                   update stock set units = units + (select count(*) from ended)"""

    @classmethod
    def checkout(cls, shop, customer, order):
        order = re.sub(r"^(\d+-\d+).*", r"\1", order)  # a second click is the same order
        if not shop.do(cls.TAKE, order, order) and shop.value("select state from orders where id = %s", order) is None:
            return "SOLD_OUT"
        yield min(customer.pays_after or shop.hold, shop.hold)
        if customer.pays_after is None or customer.pays_after > shop.hold:
            shop.do(cls.GIVE_BACK, order)
            return "CANCELLED"
        if not shop.do("update orders set state = 'IN_PAYMENT' where id = %s and state = 'RESERVED'", order):
            return shop.value("select state from orders where id = %s", order)
        try:
            yield from shop.bank.charge(order, customer.card)
        except (shop.bank.Declined, shop.bank.TimedOut):
            if order not in shop.bank.charged:  # it asks
                shop.do("update orders set state = 'RESERVED' where id = %s", order)
                shop.do(cls.GIVE_BACK, order)
                return "CANCELLED"
        shop.do("update orders set state = 'PAID' where id = %s", order)
        return "PAID"


def test_a_right_shop_has_no_fault_with_the_same_shoppers(database):
    result = naive.measure(Right, database, shoppers(300), units=30)
    assert faults(result) == set() and result.sold == 30


def test_the_naive_shops_are_short_enough_to_read():
    for version in naive.VERSIONS:
        text = (EXAMPLE / "naive" / f"{version.__name__}.py").read_text()
        assert 25 <= len([line for line in text.splitlines() if line.strip()]) <= 60, version.__name__


# The page


WHY = (REPOSITORY / "docs" / "WHY.md").read_text()


def test_the_table_of_the_page_has_the_shape_of_a_run():
    """Its rows, its columns, and which figures are faults; the figures themselves are of one run."""
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in WHY.splitlines()
                        if line.startswith("|")][:3 + len(naive.VERSIONS)]
    assert tuple(header) == naive.HEADINGS
    assert [row[0] for row in rows] == [*(version.NAME for version in naive.VERSIONS), "Holdfast, each part killed once"]
    for row, version in zip(rows, naive.VERSIONS):
        units, sold, oversold, unpaid_for, lost, stuck = map(int, row[1:])
        found = naive.Result(row[0], units, sold, unpaid_for, lost, stuck)
        assert units == 100 and found.oversold == oversold and faults(found) == FAULTS[version.__name__], row
    assert rows[-1][1:] == ["100", "100", "0", "0", "0", "0"]


def test_the_page_shows_every_flow():
    names = re.findall(r"^!\[.+\]\(pictures/([a-z-]+\.svg)\)$", WHY, re.MULTILINE)
    assert names == ["why-figures.svg"] + [f"flow-{version.__name__.replace('_', '-')}.svg" for version in naive.VERSIONS] + ["flow-holdfast.svg"]
    assert re.findall(r"\[(\w+\.py)\]", WHY) == [f"{version.__name__}.py" for version in naive.VERSIONS]
    done = subprocess.run([sys.executable, REPOSITORY / "scripts" / "why-pictures.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The whole


def demo_module():
    spec = importlib.util.spec_from_file_location("demo_orders", REPOSITORY / "scripts" / "demo-orders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


UNITS = 3


class World:
    """A sale that has ended right, as shop, server, provider and shoppers tell it: 3 units, 4 orders."""

    def __init__(self, tmp_path):
        self.demo = demo_module()
        self.rows = {id: {"id": id, "state": state, "reason": "", "next": "", "amount": 4900} for id, state in
                     [("a", "PAID"), ("b", "PAID"), ("c", "PAID"), ("d", "CANCELLED")]}
        self.payments = {id: {"order": id, "amount": 4900, "state": "CAPTURED"} for id in "abc"}
        self.payments["d"] = {"order": "d", "amount": 4900, "state": "VOIDED"}
        self.holds = {id: types.SimpleNamespace(state=2, reference=id, lines=[types.SimpleNamespace(quantity=1)]) for id in "abc"}
        self.holds["d"] = types.SimpleNamespace(state=4, reference="d", lines=[types.SimpleNamespace(quantity=1)])
        self.level_now = types.SimpleNamespace(on_hand=0, held=0, available=0)
        self.visits = [types.SimpleNamespace(told={id: row["state"]}, trouble=None) for id, row in self.rows.items()]
        self.options, self.file = types.SimpleNamespace(units=UNITS), tmp_path / "payments.json"

    # What judge() asks the sale and the server's client for.
    def orders(self):
        return self.rows

    def list(self):
        return list(self.holds.values())

    def level(self, _):
        return self.level_now

    def violated(self):
        self.file.write_text(json.dumps(list(self.payments.values())))
        self.payments_url = self.file.as_uri()
        sale = types.SimpleNamespace(orders=self.orders, options=self.options, payments=self.payments_url)
        checks, _ = self.demo.judge(sale, self, self.visits)
        return {what for what, holds in checks.items() if not holds}


def unit_lost(world):
    world.level_now.on_hand = 1


def oversold(world):
    world.holds["e"] = types.SimpleNamespace(state=2, reference="e", lines=[types.SimpleNamespace(quantity=1)])


def paid_without_a_unit(world):
    world.payments["d"]["state"] = "CAPTURED"


def overcharged(world):
    world.payments["a"]["amount"] = 9800


def given_away(world):
    world.payments["a"]["state"] = "VOIDED"


def sold_without_an_order(world):
    world.rows["a"]["state"] = "CANCELLED"


def still_held(world):
    world.holds["d"].state = 1


def never_ends(world):
    world.rows["d"]["next"] = "RELEASE"


def stays_reserved(world):
    world.rows["d"]["state"] = "STOCK_RESERVED"


def money_set_aside(world):
    world.payments["d"]["state"] = "AUTHORIZED"


def two_orders_of_one_cart(world):
    world.rows["a2"] = {**world.rows["d"], "id": "a2"}


def told_otherwise(world):
    world.visits[3].told["d"] = "PAID"


def a_shopper_in_trouble(world):
    world.visits[0].trouble = "a page of status 500"


VIOLATIONS = {
    None: set(),
    unit_lost: {"3 sold, none more, none left"},
    oversold: {"3 sold, none more, none left", "nobody has a unit without having paid", "no unit without an order"},
    paid_without_a_unit: {"nobody paid without a unit"},
    overcharged: {"nobody paid without a unit"},
    given_away: {"nobody has a unit without having paid"},
    sold_without_an_order: {"no unit without an order", "what a shopper was told is so"},
    still_held: {"no unit without an order"},
    never_ends: {"every order in a final state"},
    stays_reserved: {"every order in a final state", "what a shopper was told is so"},
    money_set_aside: {"no money set aside for nothing"},
    two_orders_of_one_cart: {"a second click is no second order"},
    told_otherwise: {"what a shopper was told is so"},
    a_shopper_in_trouble: {"no shopper has seen anything else go wrong"},
}


@pytest.mark.parametrize("violate", VIOLATIONS, ids=lambda it: it.__name__ if it else "nothing")
def test_the_verdict_sees_it(tmp_path, violate):
    world = World(tmp_path)
    if violate:
        violate(world)
    assert world.violated() == VIOLATIONS[violate]


@pytest.mark.orders
@rabbitmq.needs_rabbitmq
def test_every_part_is_killed_and_every_order_ends_right(binary, tmp_path):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "demo-orders.py", "--server", binary, "--shoppers", "60", "--units", "10",
         "--sale", "6", "--json", report], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert all(found["checks"].values()) and len(found["checks"]) == 9
    assert (found["sold"], found["charged"], found["kills"]) == (10, 10, 6)
    *naive_rows, ours = found["table"]
    assert len(naive_rows) == len(naive.VERSIONS)
    for row in naive_rows:
        assert sum(row[3:]) > 0, row
    assert ours[1:] == [10, 10, 0, 0, 0, 0]
    assert done.stdout.count("kill -9 of") == 6 and "GOOD" in done.stdout


@pytest.mark.orders
@rabbitmq.needs_rabbitmq
def test_the_shop_is_open_until_it_is_closed(binary):
    running = subprocess.Popen([sys.executable, REPOSITORY / "scripts" / "demo-orders.py", "--server", binary, "--open"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in running.stdout:
            if found := re.search(r"the shop is open: http://([0-9.:]+)", line):
                break
        cart = ask(found[1], "GET", "/")[2]
        order = re.search(r'name="order" value="([0-9a-f]+)"', cart)[1]
        assert post(found[1], "/checkout", order=order, ticket=1, poster=2)[0] == 303
        state = lambda: json.loads(ask(found[1], "GET", f"/api/orders/{order}")[2])["state"]  # noqa: E731
        eventually(lambda: state() == "STOCK_RESERVED")
        assert post(found[1], f"/orders/{order}/pay", card=CARD["good"])[0] == 303
        eventually(lambda: state() == "PAID")
        running.terminate()
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.communicate()


def descendants(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += [each for child in (task / "children").read_text().split() for each in (int(child), *descendants(int(child)))]
    return found


def is_there(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def place():
    """For temporary files, where the user rabbitmq gets at them too."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder).chmod(0o755)
        yield pathlib.Path(folder)


@pytest.mark.orders
@rabbitmq.needs_rabbitmq
def test_a_demo_that_is_killed_leaves_nothing(binary, place):
    """kill -9: no handler of its runs. Its six programs end all the same, and what they have written goes."""
    running = subprocess.Popen([sys.executable, REPOSITORY / "scripts" / "demo-orders.py", "--server", binary, "--open"],
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)})
    started = []
    try:
        assert any("the shop is open" in line for line in running.stdout)
        started = descendants(running.pid)
        assert len(started) >= 6 and list(place.glob("holdfast-orders-*"))
    finally:
        running.kill()
        running.wait()
    eventually(lambda: not any(map(is_there, started)), 60)
    eventually(lambda: {path.name for path in place.rglob("*") if path.is_file()} <= {"password"}, 60)
