"""The fourth text: an order management system that puts carts through a queue, with the states BLOCK and FAILED.

The queue keeps order and loses nothing, and its consumer takes one message at a time, so no two can take the same unit. But it
delivers at least once: where the consumer dies between the effect and the acknowledgement, the message comes again,
and blocks a second unit, or gives one back twice. And no message looks at the state that the order is in: a payment that
comes after the block has timed out sells a unit that was given back.
"""

NAME = "a queue, without idempotence"
SCHEMA = """
create table stock (sku text primary key, units int not null);
create table orders (id text primary key, state text not null);
"""


def checkout(shop, customer, order):
    shop.queue.send(consume, "OrderPlaced", order)
    while (state := shop.value("select state from orders where id = %s", order)) is None:
        yield 0.1
    if state == "FAILED":
        return "SOLD_OUT"
    if customer.pays_after is None or customer.pays_after > shop.hold:
        # A job fails what stays blocked for too long.
        yield shop.hold
        shop.queue.send(consume, "BlockTimedOut", order)
        if customer.pays_after is None:
            return "CANCELLED"
        yield customer.pays_after - shop.hold
    else:
        yield customer.pays_after
    try:
        yield from shop.bank.charge(order, customer.card)
        shop.queue.send(consume, "PaymentDone", order)
        return "PAID"
    except (shop.bank.Declined, shop.bank.TimedOut):
        shop.queue.send(consume, "PaymentFailed", order)
        return "CANCELLED"


def consume(shop, kind, order):
    """What is missing: "if this message was seen: return", and "where state = 'BLOCK'"."""
    if kind == "OrderPlaced":
        blocked = shop.do("update stock set units = units - 1 where sku = 'ticket' and units > 0")
        shop.do("insert into orders values (%s, %s) on conflict do nothing", order, "BLOCK" if blocked else "FAILED")
    elif kind == "PaymentDone":
        shop.do("update orders set state = 'PAID' where id = %s", order)
    else:
        shop.do("update stock set units = units + 1 where sku = 'ticket'")
        shop.do("update orders set state = 'FAILED' where id = %s", order)
