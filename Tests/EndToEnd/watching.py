"""A consumer of the change feed: Watch on a thread of its own, its events as they come."""

import collections
import threading

import grpc
from holdfast.v1 import event_pb2, event_pb2_grpc, stock_pb2

from client import duration

KINDS = event_pb2.EventKind.keys()


def kind_name(event):
    return event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_")


def watch_request(kinds=(), items=(), heartbeat=None, **fields):
    return event_pb2.WatchRequest(
        kinds=[event_pb2.EventKind.Value(f"EVENT_KIND_{kind}") for kind in kinds],
        items=[stock_pb2.StockItem(sku=sku) for sku in items],
        heartbeat=None if heartbeat is None else duration(heartbeat), **fields)


class Watch:
    """An open Watch. `responses` are all that came; `error` is what ended it."""

    def __init__(self, client, metadata=None, **request):
        metadata = client.call.get("metadata") if metadata is None else metadata
        self.responses = []
        self.error = None
        self.changed = threading.Condition()
        stub = event_pb2_grpc.EventServiceStub(client.channel)
        self.call = stub.Watch(watch_request(**request), metadata=metadata)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for response in self.call:
                with self.changed:
                    self.responses.append(response)
                    self.changed.notify_all()
        except grpc.RpcError as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def wait(self, condition, seconds=20):
        """Until condition() holds; returns what it returned."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition() or self.error, seconds), self.events()[-3:]
            result = condition()
            assert result, self.error
            return result

    def wait_for_end(self, seconds=20):
        with self.changed:
            assert self.changed.wait_for(lambda: self.error, seconds)
            return self.error

    def begun(self):
        self.wait(lambda: self.responses)
        return self

    def events(self):
        return [event for response in self.responses for event in response.events]

    def wait_for_events(self, count, seconds=20):
        self.wait(lambda: len(self.events()) >= count, seconds)
        return self.events()

    def token(self):
        return self.responses[-1].resume_token

    def cancel(self):
        self.call.cancel()
        self.thread.join(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cancel()


class Books:
    """The stock as events tell it. Fails where an item's versions have a gap."""

    def __init__(self):
        self.levels = {}
        self.last_lsn = 0
        self.kinds = collections.Counter()

    def apply(self, event):
        assert event.lsn > self.last_lsn, (event.lsn, self.last_lsn)
        self.last_lsn = event.lsn
        self.kinds[kind_name(event)] += 1
        for level in event.stock:
            name = (level.sku, level.location)
            before = self.levels.get(name)
            assert before is None or level.version == before.version + 1, (before, event)
            assert level.available == (
                level.on_hand - level.held - level.committed - level.safety_stock)
            self.levels[name] = level
