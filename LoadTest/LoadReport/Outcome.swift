// What calls are called, and how they can end.

/// How calls ended, by what that means to the shop.
package enum Outcome: Int, CaseIterable, Sendable {
  case reserved, replaced, confirmed, released, extended, restocked, read, replayed
  case insufficientStock, limitExceeded, expired, otherRefusal, cut, tooBusy
  case malformed, reset, unprocessed, lost, unanswered, unsent, otherFailure

  /// As reports and JSON spell it.
  package var name: String {
    switch self {
    case .reserved: "reserved"
    case .replaced: "replaced"
    case .confirmed: "confirmed"
    case .released: "released"
    case .extended: "extended"
    case .restocked: "restocked"
    case .read: "read"
    case .replayed: "replayed"
    case .insufficientStock: "refused, no stock"
    case .limitExceeded: "refused, over the limit"
    case .expired: "refused, expired"
    case .otherRefusal: "refused otherwise"
    case .cut: "cut off on purpose"
    case .tooBusy: "server busy"
    case .malformed: "malformed"
    case .reset: "stream reset"
    case .unprocessed: "not processed"
    case .lost: "connection lost"
    case .unanswered: "unanswered"
    case .unsent: "never sent"
    case .otherFailure: "failed"
    }
  }

  /// What the outcome says about the call, for the few colours of a timeline.
  package enum Group: String, CaseIterable, Sendable {
    /// Done, as asked.
    case accepted
    /// A decision against the call, or a call that the workload itself cut off: nobody's error.
    case refused
    /// Nothing was decided, or nobody knows.
    case failed
  }

  package var group: Group {
    switch self {
    case .reserved, .replaced, .confirmed, .released, .extended, .restocked, .read, .replayed:
      .accepted
    case .insufficientStock, .limitExceeded, .expired, .otherRefusal, .cut: .refused
    case .tooBusy, .malformed, .reset, .unprocessed, .lost, .unanswered, .unsent, .otherFailure:
      .failed
    }
  }
}

/// The methods that a run measures, as reports name and order them.
package let measuredMethodNames = [
  "Reserve", "Replace", "Confirm", "Release", "Extend", "GetStock", "AdjustStock",
]

/// The codes of gRPC, by number (grpc/doc/statuscodes.md).
package let grpcCodeNames = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
  "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
  "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
]
