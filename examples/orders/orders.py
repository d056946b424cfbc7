"""The shop's orders: the state of each, what the shop does next for it, and the only code that changes either.

Nothing here speaks to another program. Each change is one transaction of SQLite, and only applies where the order is still
where the caller believes it to be: so a message that comes twice, a second click, or a step that is repeated after a crash
changes nothing. README.md has the table of states and steps.
"""

import contextlib
import json
import sqlite3
import threading
import time

SCHEMA = """
create table if not exists orders (
  id text primary key,                    -- made with the cart: a second click on "Check out" is the same order
  lines text not null,                    -- JSON: [["ticket", 2], ["shirt", 1]]
  amount integer not null,                -- cents
  state text not null default 'SUBMITTED',
  reason text not null default '',        -- of CANCELLED
  next text not null default 'PUBLISH',   -- what the shop does next; '' once nothing is left to do
  due real not null,                      -- when, in seconds since 1970
  tries integer not null default 0,       -- of this step
  reservation text not null default '',
  expires_at real not null default 0,
  card text not null default '',          -- until the provider has set the money aside, or will not
  paid_at real not null default 0,        -- when the customer asked to pay
  placed_at real not null
) strict;
create index if not exists orders_due on orders (due) where next != '';
create table if not exists seen (         -- messages that have had their effect
  source text not null, id text not null, subject text not null, at real not null,
  primary key (source, id, subject)
) strict, without rowid;
"""
# Steps in which a customer may still pay or cancel, and in which an event may end the order. Behind them a payment is under
# way, and Confirm alone decides who has the units.
OPEN = ("PUBLISH", "ASK")
# The broker knows of a message for as long as it is queued; a week is longer.
SEEN_SECONDS = 7 * 24 * 3600


class Orders:
    def __init__(self, path, ask_after=60.0):
        """`ask_after`: how long behind the end of a hold the shop waits for the event, before it asks the server, in seconds."""
        self.path, self.ask_after = path, ask_after
        self.local = threading.local()
        self.database.executescript(SCHEMA)
        self.database.execute("delete from seen where at < ?", (time.time() - SEEN_SECONDS,))
        # Set when there is something to publish, and when there is another step to take: threads wait for these.
        self.to_publish, self.to_do = threading.Event(), threading.Event()

    @property
    def database(self):
        """A connection for each thread. What is committed outlives kill -9, and a power cut too."""
        if not hasattr(self.local, "database"):
            self.local.database = sqlite3.connect(self.path, isolation_level=None, timeout=60)
            self.local.database.row_factory = sqlite3.Row
            self.local.database.execute("pragma journal_mode = wal")
            self.local.database.execute("pragma synchronous = full")
        return self.local.database

    @contextlib.contextmanager
    def transaction(self):
        self.database.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.database.execute("rollback")
            raise
        self.database.execute("commit")

    def get(self, order):
        """The row, or None."""
        return self.database.execute("select * from orders where id = ?", (order,)).fetchone()

    def due(self, steps, most=100):
        """Orders whose next step is one of these, and may be taken now; those that wait longest come first."""
        marks = ", ".join("?" * len(steps))
        return self.database.execute(
            f"select * from orders where next in ({marks}) and due <= ? order by due limit ?",
            (*steps, time.time(), most)).fetchall()

    def move(self, order, steps, *, due=0.0, **changes):
        """Changes the order if its next step is one of `steps`. Returns whether it was."""
        changes |= {"due": due or time.time(), "tries": changes.get("tries", 0)}
        columns = ", ".join(f"{name} = ?" for name in changes)
        marks = ", ".join("?" * len(steps))
        moved = self.database.execute(f"update orders set {columns} where id = ? and next in ({marks})",
                                      (*changes.values(), order, *steps)).rowcount == 1
        if moved and changes.get("next"):
            self.to_do.set()
        return moved

    def cancel(self, order, steps, reason, next="", **changes):
        return self.move(order, steps, state="CANCELLED", reason=reason, next=next, **changes)

    # What the customer does

    def place(self, order, lines, amount):
        """A new order, or the one that a first click has placed; and whether it is new."""
        now = time.time()
        done = self.database.execute("insert or ignore into orders (id, lines, amount, due, placed_at) values (?, ?, ?, ?, ?)",
                              (order, json.dumps(lines), amount, now, now))
        self.to_publish.set()
        return self.get(order), done.rowcount == 1

    def pay(self, order, card):
        """Whether a payment begins with this: the units must be held, and none be under way."""
        now = time.time()
        return self.move(order, ["ASK"], next="AUTHORIZE", card=card, paid_at=now)

    def give_up(self, order):
        """The customer cancels. Returns whether it was in time."""
        return (self.cancel(order, ["PUBLISH"], "BY_CUSTOMER")
                or self.cancel(order, ["ASK"], "BY_CUSTOMER", next="RELEASE"))

    # What the queue says: each in the transaction of whoever calls, behind is_new()

    def is_new(self, source, id, subject):
        """False for a message that has had its effect. Several have one id where a decision touches several SKUs."""
        return self.database.execute("insert or ignore into seen values (?, ?, ?, ?)",
                                     (source, id, subject, time.time())).rowcount == 1

    def reserved(self, order, reservation, expires_at, state):
        """The intake's answer: the units are held, or were, if the answer is late."""
        hold = {"reservation": reservation, "expires_at": expires_at}
        if state == "CONFIRMED":
            # This shop did that, and has forgotten it: its database is an older copy. What may be left is the money.
            return self.move(order, ["PUBLISH"], state="STOCK_RESERVED", next="CAPTURE", **hold)
        if state != "HELD":
            return self.move(order, ["PUBLISH"], state="CANCELLED", reason=state, next="", **hold)
        # Nobody waits for the units of an order that was cancelled before its answer came.
        return (self.move(order, ["PUBLISH"], state="STOCK_RESERVED", next="ASK", due=expires_at + self.ask_after, **hold)
                or self.database.execute(
                    "update orders set next = 'RELEASE', due = ?, reservation = ?, expires_at = ?"
                    " where id = ? and state = 'CANCELLED' and reservation = ''",
                    (time.time(), reservation, expires_at, order)).rowcount == 1)

    def rejected(self, order, reason):
        """The intake's answer: there are no units."""
        return self.cancel(order, ["PUBLISH"], "SOLD_OUT" if reason == "INSUFFICIENT_STOCK" else reason)

    def ended(self, order, reservation, reason):
        """The relay's event: the hold is gone. It may come before the intake's answer: they are two queues."""
        row = self.get(order)
        return (row is not None and row["reservation"] in ("", reservation)
                and self.cancel(order, OPEN, reason))

    # What has come of a step

    def published(self, order, again_at, tries):
        return self.move(order, ["PUBLISH"], due=again_at, tries=tries)

    def authorized(self, order):
        return self.move(order, ["AUTHORIZE"], next="CONFIRM", card="")

    def declined(self, order):
        return self.cancel(order, ["AUTHORIZE"], "CARD_DECLINED", next="RELEASE", card="")

    def unanswered(self, order):
        """The payment provider has not said what it did, for too long. It may have the money: take it back."""
        return self.cancel(order, ["AUTHORIZE"], "PAYMENT_TIMED_OUT", next="VOID", card="")

    def confirmed(self, order):
        """The units are this order's, for good. Only now may the money be taken."""
        return self.move(order, ["CONFIRM"], next="CAPTURE")

    def confirmed_before(self, order):
        """As `confirmed`, of an order that the server knows to be sold, and the shop does not."""
        return self.move(order, ["ASK"], next="CAPTURE")

    def lost(self, order, reason):
        """The hold is gone, and its units too: the money stays with the customer."""
        return self.cancel(order, ["CONFIRM"], reason, next="VOID")

    def captured(self, order):
        return self.move(order, ["CAPTURE"], state="PAID", next="")

    def voided(self, order):
        return self.move(order, ["VOID"], next="RELEASE")

    def released(self, order):
        return self.move(order, ["RELEASE"], next="")

    def later(self, row, seconds):
        """The step could not be taken, or nobody knows whether it was: once more."""
        return self.move(row["id"], [row["next"]], due=time.time() + seconds, tries=row["tries"] + 1)
