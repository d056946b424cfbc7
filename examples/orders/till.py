"""The till: takes each order the steps that are left, one at a time, until none is: authorize, Confirm, capture; or void, Release.

Every step can be repeated, so whoever does not know whether one was taken takes it again. Three answers are told apart: yes,
no, and *unknown*; a time-out is never a no.
"""

import concurrent.futures
import http.client
import json
import logging
import pathlib
import threading
import time
import urllib.parse

import grpc
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status
from holdfast.v1 import reservation_pb2, reservation_pb2_grpc, stock_pb2, stock_pb2_grpc

POLICY = pathlib.Path(__file__).resolve().parents[2] / "proto" / "retry-policy.json"
log = logging.getLogger("till")


class Unknown(Exception):
    """No answer that says what was done."""


class Refused(Exception):
    """A decision against it."""


class Provider:
    """The payment provider, over HTTP. Its idempotency key is the order's id."""

    def __init__(self, address, seconds):
        url = urllib.parse.urlsplit(address)
        self.connect = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
        self.host, self.path, self.seconds = url.netloc, url.path.rstrip("/"), seconds

    def ask(self, path, **body):
        connection = self.connect(self.host, timeout=self.seconds)
        try:
            connection.request("POST", self.path + path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            state = json.loads(answer.read()).get("state", "")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unknown(f"{path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status in (402, 409):
            raise Refused(state)
        if answer.status != 200:
            raise Unknown(f"{path}: status {answer.status}")


class Holdfast:
    """The calls that the shop makes of Holdfast itself. Units are reserved by the intake; here they are confirmed or given back."""

    def __init__(self, target, seconds=5.0, token="", authority=None):
        options = [("grpc.service_config", POLICY.read_text()), ("grpc.max_reconnect_backoff_ms", 1000)]
        self.channel = (grpc.secure_channel(target, grpc.ssl_channel_credentials(authority), options) if authority
                        else grpc.insecure_channel(target, options))
        self.reservations = reservation_pb2_grpc.ReservationServiceStub(self.channel)
        self.stock = stock_pb2_grpc.StockServiceStub(self.channel)
        self.call = {"timeout": seconds, "metadata": [("authorization", f"Bearer {token}")] if token else []}

    def ask(self, method, request):
        """The answer; Refused with the server's reason where that is a decision, else Unknown."""
        try:
            return method(request, wait_for_ready=True, **self.call)
        except grpc.RpcError as error:
            status = rpc_status.from_call(error)
            for detail in status.details if status else []:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and error.code() in (StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND):
                    raise Refused(info.reason) from error
            raise Unknown(f"{error.code().name}: {error.details()}") from error

    def confirm(self, reservation):
        # The money is set aside: a hold that fell due meanwhile is taken again, if there still is stock.
        self.ask(self.reservations.Confirm, reservation_pb2.ConfirmRequest(
            reservation_id=reservation, reacquire_if_expired=True))

    def release(self, reservation):
        self.ask(self.reservations.Release, reservation_pb2.ReleaseRequest(reservation_id=reservation))

    def state(self, reservation):
        found = self.ask(self.reservations.GetReservation, reservation_pb2.GetReservationRequest(reservation_id=reservation))
        return reservation_pb2.ReservationState.Name(found.reservation.state).removeprefix("RESERVATION_STATE_")

    def levels(self, skus):
        """{sku: (available, on hand)} of those that there are, or {} where nobody answers now."""
        try:
            request = stock_pb2.BatchGetStockRequest(items=[stock_pb2.StockItem(sku=sku) for sku in skus])
            answer = self.stock.BatchGetStock(request, **{**self.call, "timeout": 1})
            return {level.sku: (level.available, level.on_hand) for level in answer.stock}
        except grpc.RpcError:
            return {}


class Till:
    STEPS = ("ASK", "AUTHORIZE", "CONFIRM", "CAPTURE", "VOID", "RELEASE")

    def __init__(self, orders, holdfast, provider, patience=30.0, workers=16):
        """`patience`: seconds for which the provider is asked again whether it has authorized a payment."""
        self.orders, self.holdfast, self.provider, self.patience = orders, holdfast, provider, patience
        self.pool = concurrent.futures.ThreadPoolExecutor(workers)
        self.in_hand, self.lock = set(), threading.Lock()

    def run(self):
        """For ever: hands out what is due. One step of an order at a time."""
        while True:
            self.orders.to_do.clear()
            for row in self.orders.due(self.STEPS):
                with self.lock:
                    if row["id"] in self.in_hand:
                        continue
                    self.in_hand.add(row["id"])
                self.pool.submit(self.take, row)
            self.orders.to_do.wait(0.1)

    def take(self, row):
        try:
            self.step(row)
        except Unknown as unknown:
            log.info("order %s, %s: %s; again", row["id"], row["next"], unknown)
            self.orders.later(row, min(0.1 * 2 ** row["tries"], 10))
        except Exception:
            log.exception("order %s, %s", row["id"], row["next"])
            self.orders.later(row, 10)
        finally:
            with self.lock:
                self.in_hand.discard(row["id"])
            self.orders.to_do.set()

    def step(self, row):
        order, reservation, orders = row["id"], row["reservation"], self.orders
        match row["next"]:
            case "AUTHORIZE":
                if time.time() > row["paid_at"] + self.patience:
                    orders.unanswered(order)
                    return
                try:
                    self.provider.ask("/authorize", order=order, amount=row["amount"], card=row["card"])
                    orders.authorized(order)
                except Refused:
                    orders.declined(order)
            case "CONFIRM":
                try:
                    self.holdfast.confirm(reservation)
                    orders.confirmed(order)
                except Refused as refused:
                    orders.lost(order, "EXPIRED" if str(refused) == "INSUFFICIENT_STOCK" else str(refused))
            case "CAPTURE":
                self.expect("/capture", order)
                orders.captured(order)
            case "VOID":
                self.expect("/void", order)
                orders.voided(order)
            case "RELEASE":
                try:
                    self.holdfast.release(reservation)
                except Refused as refused:
                    log.info("order %s: its hold has ended before: %s", order, refused)
                orders.released(order)
            case "ASK":
                self.ask(row)

    def expect(self, path, order):
        """Asks the provider for what it must not refuse. Where it does, somebody has to look: the order stays as it is."""
        try:
            self.provider.ask(path, order=order)
        except Refused as refused:
            log.error("order %s: the provider refuses %s: it is %s", order, path, refused)
            raise Unknown(f"{path} refused") from refused

    def ask(self, row):
        """The hold has ended long ago, and no event has come: its queue was deleted, say. The server knows."""
        try:
            state = self.holdfast.state(row["reservation"])
        except Refused:
            state = "EXPIRED"  # and forgotten
        if state == "HELD":  # it was extended
            self.orders.later(row, self.orders.ask_after)
        elif state == "CONFIRMED":
            self.orders.confirmed_before(row["id"])
        else:
            self.orders.ended(row["id"], row["reservation"], state)
