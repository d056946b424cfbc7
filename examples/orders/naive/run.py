#!/usr/bin/env python3
"""Runs the naive shops with the thousand shoppers, on a PostgreSQL of its own, and says what went wrong in each.

    python naive/run.py [--shoppers N] [--units N] [--seed N] [--gentle]

Time is virtual: each customer is a generator that yields how long it pauses, and whoever is due next takes the next step. So
ten minutes cost nothing, every run with a seed is the same run, and what goes wrong does not go wrong by luck. Each statement
is a transaction of its own, as it is for a program that opens none.
"""

import argparse
import dataclasses
import heapq
import importlib
import itertools
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import provider  # noqa: E402
from postgres import Postgres  # noqa: E402
from shoppers import NUMBERS, shoppers  # noqa: E402

VERSIONS = [importlib.import_module(name) for name in
            ("check_then_act", "lock_without_fencing", "validate_then_remove", "queue_without_idempotence")]
# A customer who insists looks again for so long after the last one has come.
SALE_SECONDS = 90
FINAL = ("PAID", "CANCELLED", "FAILED")


@dataclasses.dataclass(frozen=True)
class Result:
    name: str
    units: int
    sold: int           # orders that the shop says are sold
    unpaid_for: int     # customers who have paid, beyond the units that there are for sold orders
    lost: int           # units that are neither sold nor for sale
    stuck: int          # orders that never end

    @property
    def oversold(self):
        return max(0, self.sold - self.units)

    def row(self):
        return self.name, self.units, self.sold, self.oversold, self.unpaid_for, self.lost, self.stuck


HEADINGS = ("version", "units", "sold", "oversold", "paid without a unit", "units lost", "stuck orders")


class Bank:
    """Cards behave as they do at the payment provider, but nobody asks again."""

    class Declined(Exception): pass
    class TimedOut(Exception): pass

    def __init__(self):
        self.charged = set()

    def charge(self, order, card):
        behaviour = provider.CARDS[card]
        if behaviour == "declined":
            raise self.Declined
        if behaviour != "lost":
            self.charged.add(order)
        if behaviour != "good":
            yield 1.0
            raise self.TimedOut
        yield 0.05


class Queue:
    """Keeps order, loses nothing, and delivers one message in twenty again: its consumer died before it had acknowledged."""

    AGAIN = 0.05

    def __init__(self, shop, dice):
        self.shop, self.dice = shop, dice

    def send(self, consume, kind, order):
        self.shop.spawn(self.deliver(consume, kind, order))

    def deliver(self, consume, kind, order):
        yield 0.02
        consume(self.shop, kind, order)
        if self.dice.random() < self.AGAIN:
            yield 0.5
            consume(self.shop, kind, order)


class Shop:
    """What a naive version has: a database, a bank, a queue, a clock, and how long units are kept for a customer."""

    def __init__(self, version, database, units, hold, seed):
        self.version, self.database, self.units, self.hold, self.now = version, database, units, hold, 0.0
        self.bank, self.queue = Bank(), Queue(self, random.Random(seed))
        self.agenda, self.numbers, self.crashes = [], itertools.count(), 0
        database.reset(version.SCHEMA.format(units=units))
        if not hasattr(version, "LEFT"):
            self.do("insert into stock values ('ticket', %s)", units)

    def do(self, statement, *values):
        """Rows that were changed."""
        return self.database.execute(statement, values).rowcount

    def value(self, statement, *values):
        """The first column of the first row; None where there is no row."""
        row = self.database.execute(statement, values).fetchone()
        return row and row[0]

    def left(self):
        return self.value(getattr(self.version, "LEFT", "select units from stock where sku = 'ticket'"))

    # Who does what when

    def spawn(self, generator, after=0.0):
        heapq.heappush(self.agenda, (self.now + after, next(self.numbers), generator))

    def run(self):
        while self.agenda:
            self.now, _, generator = heapq.heappop(self.agenda)
            try:
                self.spawn(generator, next(generator))
            except StopIteration:
                pass
            except self.database.Error:
                self.crashes += 1  # the customer sees an error page, and the order stays as it is

    def visit(self, customer):
        for attempt in itertools.count():
            order = f"{customer.number}-{attempt}"
            for click in range(1, customer.clicks):
                self.spawn(self.version.checkout(self, customer, f"{order}-{click}"), after=0.1 * click)
            outcome = yield from self.version.checkout(self, customer, order)
            if outcome == "PAID" or not customer.insists:
                return
            # Looks again until something is left.
            while True:
                if self.now > SALE_SECONDS:
                    return
                yield customer.thinks
                if self.left() > 0:
                    break

    def result(self):
        sold = self.value("select count(*) from orders where state = 'PAID'")
        stuck = self.value("select count(*) from orders where state != all (%s)", list(FINAL))
        served = min(sold, self.units)
        return Result(self.version.NAME, self.units, sold, len(self.bank.charged) - served,
                      max(0, self.units - served - max(0, self.left())), stuck)


def measure(version, database, customers, units=100, hold=4.0, seed=7):
    shop = Shop(version, database, units, hold, seed)
    for customer in customers:
        shop.spawn(shop.visit(customer), after=customer.arrives)
    shop.run()
    return shop.result()


def gentle(customers):
    """The same ones in a kinder world: everybody clicks once, and every bank answers at once."""
    return [dataclasses.replace(each, clicks=1, card=NUMBERS["declined" if each.kind == "declined" else "good"])
            for each in customers]


def table(results):
    """As text, and as Markdown."""
    rows = [HEADINGS, *(tuple(map(str, result.row())) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["| " + " | ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                               for place, (cell, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if place == 0 else ":") for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoppers", type=int, default=1000)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--gentle", action="store_true", help="nobody clicks twice, no bank is late, nothing is delivered twice")
    options = parser.parse_args()
    customers = shoppers(options.shoppers, seed=options.seed)
    if options.gentle:
        customers, Queue.AGAIN = gentle(customers), 0.0
    with Postgres() as database:
        print(table([measure(version, database, customers, options.units, seed=options.seed) for version in VERSIONS]))


if __name__ == "__main__":
    main()
