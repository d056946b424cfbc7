"""A gRPC client of every Holdfast service, and how refusals are read."""

import base64
import contextlib
import itertools
import uuid

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from holdfast.v1 import reservation_pb2, reservation_pb2_grpc, stock_pb2, stock_pb2_grpc

CALL_SECONDS = 20
_numbers = itertools.count()


def fresh(prefix="sku"):
    """A name that no other test uses: of a SKU or an idempotency key."""
    return f"{prefix}-{next(_numbers)}-{uuid.uuid4().hex[:12]}"


def duration(seconds):
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1_000_000_000))
    return message


def line(sku, quantity=1, location="", min_quantity=0):
    return reservation_pb2.ReservationLine(
        sku=sku, location=location, quantity=quantity, min_quantity=min_quantity)


def change(sku, **fields):
    """One of several changes, or a row of an import."""
    if not {"expected_version", "expected_on_hand"} & fields.keys():
        fields.setdefault("any_version", True)
    return stock_pb2.AdjustStockRequest(sku=sku, **fields)


class Client:
    """Every service of one server over one connection of its own."""

    def __init__(self, target, caller=None, token=None, credentials=None, options=()):
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        self.channel = (grpc.secure_channel(target, credentials, options) if credentials
                        else grpc.insecure_channel(target, options))
        self.reservations = reservation_pb2_grpc.ReservationServiceStub(self.channel)
        self.stock = stock_pb2_grpc.StockServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.call = {"timeout": CALL_SECONDS}
        metadata = [] if caller is None else [("holdfast-caller", caller)]
        if token is not None:
            metadata.append(("authorization", f"Bearer {token}"))
        if metadata:
            self.call["metadata"] = metadata

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def adjust(self, sku, key=None, reason="test", **fields):
        if not {"expected_version", "expected_on_hand"} & fields.keys():
            fields.setdefault("any_version", True)
        request = stock_pb2.AdjustStockRequest(
            idempotency_key=fresh("key") if key is None else key, sku=sku, reason=reason, **fields)
        return self.stock.AdjustStock(request, **self.call)

    def remove(self, sku, key=None, reason="test", **fields):
        return self.stock.RemoveItem(stock_pb2.RemoveItemRequest(
            idempotency_key=fresh("key") if key is None else key, sku=sku, reason=reason, **fields), **self.call)

    def adjust_all(self, changes, key=None, reason="test", **fields):
        """Several changes, all or none: (sku, fields of the change)."""
        return self.stock.BatchAdjustStock(stock_pb2.BatchAdjustStockRequest(
            idempotency_key=fresh("key") if key is None else key, reason=reason,
            changes=[change(sku, **rest) for sku, rest in changes], **fields), **self.call)

    def import_rows(self, import_id, rows, first_row=0, rows_per_message=100):
        """ImportStock: the rows are AdjustStockRequests."""
        def messages():
            for first in range(0, len(rows), rows_per_message):
                yield stock_pb2.ImportStockRequest(import_id=import_id, first_row=first_row + first,
                                                   rows=rows[first:first + rows_per_message])
        return self.stock.ImportStock(messages(), **self.call)

    def item(self, units, **fields):
        """Makes an item of that many units and returns its SKU."""
        sku = fresh()
        self.adjust(sku, set_on_hand=units, **fields)
        return sku

    def level(self, sku, location=""):
        return self.stock.GetStock(
            stock_pb2.GetStockRequest(sku=sku, location=location), **self.call).stock

    def reserve(self, *lines, key=None, ttl=None, reference="", alternatives=(), limits=()):
        """alternatives: lists of lines."""
        request = reservation_pb2.ReserveRequest(
            idempotency_key=fresh("key") if key is None else key, lines=lines,
            ttl=None if ttl is None else duration(ttl), reference=reference, limits=limits,
            alternatives=[reservation_pb2.Alternative(lines=each) for each in alternatives])
        return self.reservations.Reserve(request, **self.call)

    def confirm(self, reservation_id, *lines, reacquire=False, keep_committed=False):
        return self.reservations.Confirm(reservation_pb2.ConfirmRequest(
            reservation_id=reservation_id, lines=lines, reacquire_if_expired=reacquire,
            keep_committed=keep_committed), **self.call)

    def release(self, reservation_id):
        return self.reservations.Release(
            reservation_pb2.ReleaseRequest(reservation_id=reservation_id), **self.call)

    def extend(self, reservation_id, ttl=None, may_shorten=False):
        return self.reservations.Extend(reservation_pb2.ExtendRequest(
            reservation_id=reservation_id, ttl=None if ttl is None else duration(ttl),
            may_shorten=may_shorten), **self.call)

    def replace(self, reservation_id, *lines, key=None, ttl=None, **fields):
        return self.reservations.Replace(reservation_pb2.ReplaceRequest(
            idempotency_key=fresh("key") if key is None else key, reservation_id=reservation_id, lines=lines,
            ttl=None if ttl is None else duration(ttl), **fields), **self.call)

    def get(self, reservation_id="", key=""):
        return self.reservations.GetReservation(
            reservation_pb2.GetReservationRequest(reservation_id=reservation_id, idempotency_key=key),
            **self.call).reservation

    def page(self, **fields):
        return self.reservations.ListReservations(
            reservation_pb2.ListReservationsRequest(**fields), **self.call)

    def list(self, **fields):
        """All pages of ListReservations."""
        found, token = [], ""
        while True:
            page = self.page(page_token=token, **fields)
            found += page.reservations
            token = page.next_page_token
            if not token: return found


class Refusal:
    """What a refused call said: its code and the details from grpc-status-details-bin."""

    def __init__(self, error):
        self.code = error.code()
        self.message = error.details()
        self.info = self.retry = self.bad_request = self.precondition = None
        encoded = dict(error.trailing_metadata()).get("grpc-status-details-bin")
        if encoded is not None:
            status = self.read(encoded)
            assert status.code == self.code.value[0] and status.message == self.message

    @classmethod
    def of(cls, response):
        """From a raw http2.Response."""
        refusal = cls.__new__(cls)
        refusal.info = refusal.retry = refusal.bad_request = refusal.precondition = None
        text = response.header("grpc-status-details-bin")
        refusal.read(base64.b64decode(text + "=" * (-len(text) % 4)))
        return refusal

    def read(self, encoded):
        status = status_pb2.Status.FromString(encoded)
        for detail in status.details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                self.info = error_details_pb2.ErrorInfo.FromString(detail.value)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                self.retry = error_details_pb2.RetryInfo.FromString(detail.value)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                self.bad_request = error_details_pb2.BadRequest.FromString(detail.value)
            elif detail.Is(error_details_pb2.PreconditionFailure.DESCRIPTOR):
                self.precondition = error_details_pb2.PreconditionFailure.FromString(detail.value)
        return status

    @property
    def violations(self):
        """What PreconditionFailure names: type, subject and description of each."""
        violations = self.precondition.violations if self.precondition else []
        return [(violation.type, violation.subject, violation.description) for violation in violations]

    @property
    def fields(self):
        """The fields that BadRequest names."""
        violations = self.bad_request.field_violations if self.bad_request else []
        return [violation.field for violation in violations]


@contextlib.contextmanager
def refused(code, reason=None, **metadata):
    """Expects the call in its block to be refused with this code, ErrorInfo reason and metadata.

    Gives a list that holds the Refusal once the block has ended.
    """
    seen = []
    try:
        yield seen
    except grpc.RpcError as error:
        refusal = Refusal(error)
        assert refusal.code == code, f"{refusal.code}: {refusal.message}"
        if reason is not None:
            assert refusal.info is not None, f"no ErrorInfo with: {refusal.message}"
            assert refusal.info.domain == "holdfast"
            assert refusal.info.reason == reason
        for name, value in metadata.items():
            assert refusal.info.metadata[name] == str(value), f"{name} in {refusal.info.metadata}"
        seen.append(refusal)
        return
    raise AssertionError(f"the call was not refused with {code} {reason}")
