"""EventService.Watch: what it tells, from where, to whom, and how it ends."""

import pytest
from grpc import StatusCode

from client import Client, fresh, line, refused
from watching import Books, Watch, kind_name


def test_every_kind(client):
    with Watch(client).begun() as watch:
        sku = client.item(10, set_safety_stock=2)
        held = client.reserve(line(sku, 3))
        client.extend(held.reservation_id, 900)
        client.confirm(held.reservation_id)
        other = client.reserve(line(sku, 1))
        client.release(other.reservation_id)
        events = [e for e in watch.wait_for_events(6) if any(s.sku == sku for s in e.stock) or not e.stock]
    print(events)
