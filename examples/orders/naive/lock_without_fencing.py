"""The second text: two shoppers and the last unit. Whoever puts a unit into the cart locks it for ten minutes.

A lock with a time-out ends while its holder sleeps: the customer, the bank, or a process in a pause. The next one locks the
same unit and buys it. Then the first wakes up, believes that it still has the lock, and buys the unit too. A lock that
ends by itself needs a fence: the write must be refused if the lock is not the writer's any more.
"""

NAME = "a lock that times out, without fencing"
SCHEMA = """
create table unit (number int primary key, sold_to text);
create table lock (unit int primary key, holder text not null, until double precision not null);
create table orders (id text primary key, state text not null);
insert into unit select generate_series(1, {units});
"""
LEFT = "select count(*) from unit where sold_to is null"


def checkout(shop, customer, order):
    # One statement, so that no two get the same lock at once. This part is right.
    unit = shop.value("""
        insert into lock select number, %s, %s from unit left join lock on unit = number
        where sold_to is null and (until is null or until < %s) order by number limit 1
        on conflict (unit) do update set holder = excluded.holder, until = excluded.until returning unit""",
                      order, shop.now + shop.hold, shop.now)
    if unit is None:
        return "SOLD_OUT"
    shop.do("insert into orders values (%s, 'PLACED')", order)

    if customer.pays_after is None:
        yield shop.hold
        return cancel(shop, order)
    yield customer.pays_after
    try:
        yield from shop.bank.charge(order, customer.card)
    except (shop.bank.Declined, shop.bank.TimedOut):
        return cancel(shop, order)
    # Here "and exists (select from lock where unit = … and holder = …)" is what is missing.
    shop.do("update unit set sold_to = %s where number = %s", order, unit)
    shop.do("update orders set state = 'PAID' where id = %s", order)
    return "PAID"


def cancel(shop, order):
    shop.do("delete from lock where holder = %s", order)
    shop.do("update orders set state = 'CANCELLED' where id = %s", order)
    return "CANCELLED"
