"""One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it."""

import argparse
import os
import pathlib
import queue
import sys
import threading
import time

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status
from holdfast.v1 import event_pb2, event_pb2_grpc, reservation_pb2, reservation_pb2_grpc, stock_pb2, stock_pb2_grpc

POLICY = pathlib.Path(__file__).resolve().parents[2] / "proto" / "retry-policy.json"
# Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy.
TRIES = 3
EVENT_SECONDS = 30
# A hold that has less left than a payment takes is not worth one.
PAYMENT_SECONDS = 0.5
SOLD, NOT_SOLD, FAILED = 0, 1, 3


def say(text):
    print(text, flush=True)


class Refused(Exception):
    """A call ended with an error: its status, and what the server says about it."""

    def __init__(self, name, error):
        self.name, self.code = name, error.code()
        status = rpc_status.from_call(error)
        self.message = status.message if status else None
        self.details = list(status.details) if status else []
        info = self.detail(error_details_pb2.ErrorInfo)
        self.reason = info.reason if info else self.code.name
        self.is_replay = bool(info) and info.metadata.get("replayed") == "true"
        # Of the calls of a checkout these two codes are decisions; all others say that none was made.
        self.is_decision = bool(info) and self.code in (StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND)

    def detail(self, kind):
        for each in self.details:
            if each.Is(kind.DESCRIPTOR):
                made = kind()
                each.Unpack(made)
                return made
        return None

    def explain(self):
        say(f"refused {self.name}: {self.code.name}")
        if self.message:
            say(f"  message {self.message}")
        if info := self.detail(error_details_pb2.ErrorInfo):
            values = ", ".join(f"{key}={value}" for key, value in sorted(info.metadata.items()))
            say(f"  reason {info.reason}" + (f": {values}" if values else ""))
        if retry := self.detail(error_details_pb2.RetryInfo):
            say(f"  retry after {retry.retry_delay.ToMilliseconds()} ms")
        if failure := self.detail(error_details_pb2.PreconditionFailure):
            for each in failure.violations:
                say(f"  failed {each.subject}: {each.description}")
        if request := self.detail(error_details_pb2.BadRequest):
            for each in request.field_violations:
                say(f"  field {each.field}: {each.description}")


def connect(options):
    settings = [("grpc.service_config", POLICY.read_text()), ("grpc.keepalive_time_ms", 30_000)]
    if not options.tls_ca:
        return grpc.insecure_channel(options.target, settings)
    if options.tls_name:
        settings.append(("grpc.ssl_target_name_override", options.tls_name))
    credentials = grpc.ssl_channel_credentials(pathlib.Path(options.tls_ca).read_bytes())
    return grpc.secure_channel(options.target, credentials, settings)


class OrderEvents:
    """The events of one order, from now on, in a thread that goes on with its resume token where the stream breaks."""

    KINDS = ["HELD", "CONFIRMED", "RELEASED", "EXPIRED", "REFUSED"]

    def __init__(self, channel, metadata, order):
        self.stub, self.metadata, self.order = event_pb2_grpc.EventServiceStub(channel), metadata, order
        self.seen = queue.SimpleQueue()
        threading.Thread(target=self.follow, daemon=True).start()
        self.next()

    def follow(self):
        request = event_pb2.WatchRequest(reference_prefix=self.order, kinds=[
            event_pb2.EventKind.Value(f"EVENT_KIND_{kind}") for kind in self.KINDS])
        while True:
            try:
                for response in self.stub.Watch(request, metadata=self.metadata, wait_for_ready=True):
                    if not request.resume_token:
                        self.seen.put(None)
                    request.resume_token = response.resume_token
                    for event in response.events:
                        # The prefix order-1 is that of order-10 as well.
                        if event.reference == self.order:
                            self.seen.put(event)
            except grpc.RpcError as error:
                if error.code() != StatusCode.UNAVAILABLE:
                    self.seen.put(Refused("Watch", error))
                    return
                time.sleep(0.2)

    def next(self):
        """None first, once the stream stands; then an event."""
        found = self.seen.get(timeout=EVENT_SECONDS)
        if isinstance(found, Refused):
            raise found
        return found

    def print_until(self, last):
        while True:
            event = self.next()
            kind = event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_")
            say(" ".join(["event", kind, *(f"{line.quantity} {line.sku}" for line in event.lines)]))
            if kind == last:
                return


class Checkout:
    def __init__(self, channel, options):
        self.options = options
        self.stock = stock_pb2_grpc.StockServiceStub(channel)
        self.reservations = reservation_pb2_grpc.ReservationServiceStub(channel)
        token = os.environ.get("HOLDFAST_TOKEN")
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.channel = channel

    def call(self, method, request):
        """A call with its deadline. The request has a key or an id, so that it may be sent again as it is."""
        name = type(request).__name__.removesuffix("Request")
        for number in range(1, TRIES + 1):
            try:
                return method(request, timeout=self.options.deadline, metadata=self.metadata, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() != StatusCode.DEADLINE_EXCEEDED or number == TRIES:
                    raise Refused(name, error) from error
                say(f"again {name}: DEADLINE_EXCEEDED")

    def set_stock(self, units):
        level = self.call(self.stock.AdjustStock, stock_pb2.AdjustStockRequest(
            idempotency_key=f"{self.options.order}/stock", sku=self.options.sku, set_on_hand=units,
            any_version=True, reason="delivery")).stock
        say(f"stock {level.sku}: {level.on_hand} on hand, {level.available} available")

    def reserve(self):
        options = self.options
        held = self.call(self.reservations.Reserve, reservation_pb2.ReserveRequest(
            # The same on every retry of this attempt, another for the customer's next.
            idempotency_key=f"{options.order}/{options.attempt}", reference=options.order,
            lines=[reservation_pb2.ReservationLine(sku=options.sku, quantity=options.units)],
            ttl=duration_pb2.Duration(seconds=options.ttl)))
        state = reservation_pb2.ReservationState.Name(held.state).removeprefix("RESERVATION_STATE_")
        say(f"held {options.units} {options.sku} ({state})" + (", replayed" if held.replayed else ""))
        # By the server's clock: this machine's may be wrong, so expires_at says nothing here.
        remaining = held.remaining.ToTimedelta().total_seconds()
        return held.reservation_id, state, remaining

    def pay(self):
        """True if the customer has paid. A real one has an idempotency key of its own, too."""
        answer = self.options.payment
        if answer == "ask":
            say("payment? ok or declined")
            answer = sys.stdin.readline().strip()
        say("payment ok" if answer == "ok" else "payment declined")
        return answer == "ok"

    def end(self, word, response):
        units = sum(line.quantity for line in response.reservation.lines)
        say(f"{word} {units} {self.options.sku}" + (", replayed" if response.replayed else ""))

    def run(self):
        """(status, the last line)"""
        if self.options.stock is not None:
            self.set_stock(self.options.stock)
        events = OrderEvents(self.channel, self.metadata, self.options.order)
        say(f"watching {self.options.order}")
        try:
            reservation, state, remaining = self.reserve()
        except Refused as refused:
            if not refused.is_decision:
                raise
            refused.explain()
            if not refused.is_replay:
                events.print_until("REFUSED")
            return NOT_SOLD, f"not sold: {refused.reason}"
        if state == "CONFIRMED":
            return SOLD, "sold"
        if state != "HELD":
            return NOT_SOLD, f"not sold: the hold is {state}"
        if remaining < PAYMENT_SECONDS or not self.pay():
            events.print_until(self.release(reservation))
            return NOT_SOLD, "not sold: no payment"
        try:
            # The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
            self.end("confirmed", self.call(self.reservations.Confirm, reservation_pb2.ConfirmRequest(
                reservation_id=reservation, reacquire_if_expired=True)))
        except Refused as refused:
            if not refused.is_decision:
                raise
            refused.explain()
            say("refunded")
            events.print_until("EXPIRED")
            return NOT_SOLD, f"not sold: {refused.reason}"
        events.print_until("CONFIRMED")
        return SOLD, "sold"

    def release(self, reservation):
        """How the hold has ended: a refusal says that it fell due before."""
        try:
            self.end("released", self.call(self.reservations.Release, reservation_pb2.ReleaseRequest(
                reservation_id=reservation)))
            return "RELEASED"
        except Refused as refused:
            if refused.reason != "RESERVATION_EXPIRED":
                raise
            refused.explain()
            return "EXPIRED"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    environment = os.environ.get
    parser.add_argument("--target", default=environment("HOLDFAST_TARGET", "127.0.0.1:7420"), metavar="HOST:PORT")
    parser.add_argument("--sku", required=True)
    parser.add_argument("--units", type=int, default=1)
    parser.add_argument("--order", required=True, help="the order's id: reference of the hold, and in its key")
    parser.add_argument("--attempt", type=int, default=1, help="which attempt of the customer: in the key")
    parser.add_argument("--stock", type=int, help="set the units on hand first")
    parser.add_argument("--ttl", type=int, default=60, help="seconds of the hold")
    parser.add_argument("--payment", choices=["ok", "declined", "ask"], default="ok", help="ask: on standard input")
    parser.add_argument("--deadline", type=float, default=5, help="seconds of each call")
    parser.add_argument("--tls-ca", default=environment("HOLDFAST_TLS_CA"), metavar="FILE", help="TLS; PEM")
    parser.add_argument("--tls-name", metavar="NAME", help="the name in the server's certificate")
    return parser.parse_args()


def main():
    options = parse()
    with connect(options) as channel:
        try:
            status, last = Checkout(channel, options).run()
        except Refused as refused:
            refused.explain()
            status, last = FAILED, f"failed: {refused.reason}"
        except queue.Empty:
            status, last = FAILED, "failed: no event"
    say(last)
    sys.exit(status)


if __name__ == "__main__":
    main()
