"""The first text: the cart is validated, then the order is placed. Between the two, others do the same.

Everybody who is told "1 left" may go on. The stock falls below zero, and nothing notices.
"""

NAME = "check, then act"
SCHEMA = """
create table stock (sku text primary key, units int not null);
create table orders (id text primary key, state text not null);
"""


def checkout(shop, customer, order):
    # The cart page: is there one?
    if shop.value("select units from stock where sku = 'ticket'") < 1:
        return "SOLD_OUT"
    # The customer looks at the cart, and clicks. Twice, perhaps: then there are two orders.
    yield customer.thinks
    shop.do("insert into orders values (%s, 'PLACED')", order)
    shop.do("update stock set units = units - 1 where sku = 'ticket'")

    if customer.pays_after is None:
        # A job gives back what was not paid.
        yield shop.hold
        return give_back(shop, order)
    yield customer.pays_after
    try:
        yield from shop.bank.charge(order, customer.card)
    except (shop.bank.Declined, shop.bank.TimedOut):
        # A time-out is taken for a no. The bank may have the money.
        return give_back(shop, order)
    shop.do("update orders set state = 'PAID' where id = %s", order)
    return "PAID"


def give_back(shop, order):
    shop.do("update stock set units = units + 1 where sku = 'ticket'")
    shop.do("update orders set state = 'CANCELLED' where id = %s", order)
    return "CANCELLED"
