"""The third text: an order service that validates the stock when an order comes in, and removes the units once it is paid.

The stock cannot fall below zero here: the database has a constraint. But the money is taken before the units are, so the
constraint fails when it is too late, and leaves an order that is charged, not sold, and never ends.
"""

NAME = "validate the order, remove at payment"
SCHEMA = """
create table stock (sku text primary key, units int not null check (units >= 0));
create table orders (id text primary key, state text not null);
"""


def checkout(shop, customer, order):
    if shop.value("select units from stock where sku = 'ticket'") < 1:
        return "SOLD_OUT"
    shop.do("insert into orders values (%s, 'VALIDATED')", order)

    if customer.pays_after is None:
        yield shop.hold
        shop.do("update orders set state = 'CANCELLED' where id = %s", order)
        return "CANCELLED"
    # The units are nobody's while the customer pays.
    yield customer.pays_after
    shop.do("update orders set state = 'IN_PAYMENT' where id = %s", order)
    try:
        yield from shop.bank.charge(order, customer.card)
    except (shop.bank.Declined, shop.bank.TimedOut):
        shop.do("update orders set state = 'CANCELLED' where id = %s", order)
        return "CANCELLED"
    # Sold out meanwhile: this raises, and the customer sees "Internal server error".
    shop.do("update stock set units = units - 1 where sku = 'ticket'")
    shop.do("update orders set state = 'PAID' where id = %s", order)
    return "PAID"
