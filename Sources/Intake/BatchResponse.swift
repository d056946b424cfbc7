// The results of a BatchReserve, and what each means for its order.
internal import Bytes
internal import Client
internal import GRPC

/// Why an order was not held: a Failure of a response, or the status of the whole call.
struct OrderFailure: Equatable {
  var code: StatusCode
  /// Of google.rpc.ErrorInfo; empty where it was not the server that said so.
  var reason: String
  var text: String
  var details: [(name: String, value: String)] = []
  /// The server asks for a wait, in nanoseconds; 0: it does not.
  var retryNanoseconds: Int64 = 0

  static func == (a: OrderFailure, b: OrderFailure) -> Bool {
    a.code == b.code && a.reason == b.reason && a.text == b.text
      && a.retryNanoseconds == b.retryNanoseconds
      && a.details.elementsEqual(b.details) { $0 == $1 }
  }
}

/// What becomes of an order that was not held.
enum FailureFate: Equatable {
  /// It is answered: nothing will be held.
  case rejected
  /// It can never be: to the dead letters.
  case dead
  /// It may succeed later: tried again as long as it takes.
  case later
  /// It may succeed later, or be what the server stumbles over: tried again so many times.
  case counted
  /// The server does not let this program: all orders wait until somebody has put it right.
  case forbidden

  init(_ failure: OrderFailure) {
    switch failure.code {
    case .failedPrecondition, .notFound:
      self = Self.refusals.contains(failure.reason) ? .rejected : .dead
    case .invalidArgument, .alreadyExists, .outOfRange: self = .dead
    case .internal, .unknown, .dataLoss: self = .counted
    case .unauthenticated, .permissionDenied, .unimplemented: self = .forbidden
    case .ok, .unavailable, .aborted, .resourceExhausted, .deadlineExceeded, .cancelled:
      self = .later
    }
  }

  private static let refusals: Set = [
    "INSUFFICIENT_STOCK", "NOT_ON_SALE", "LIMIT_EXCEEDED", "ITEM_NOT_FOUND",
  ]
}

/// What a result says.
enum OrderOutcome {
  case held(WireFields.Field)
  case failed(OrderFailure)
}

enum BatchResponse {
  /// Reads a BatchReserveResponse.
  /// - Parameters:
  ///   - count: results that it must have.
  ///   - take: gets each with its place; fields are good within the call. False: it is none.
  /// - Returns: whether it was one. Otherwise `take` may have had some results, which are true all the same: one result is
  ///   whole or not there.
  static func read(_ message: [UInt8], count: Int, take: (Int, OrderOutcome) -> Bool) -> Bool {
    unsafe message.withUnsafeBytes { bytes in
      var fields = unsafe WireFields(bytes)
      var index = 0
      while let field = fields.next() {
        guard field.number == 1 else { continue }
        guard index < count, let outcome = unsafe outcome(field), take(index, outcome) else {
          return false
        }
        index += 1
      }
      return !fields.isMalformed && index == count
    }
  }

  @unsafe private static func outcome(_ result: WireFields.Field) -> OrderOutcome? {
    var fields = unsafe WireFields(result.bytes)
    var outcome: OrderOutcome?
    while let field = fields.next() {
      switch field.number {
      case 1: outcome = field.isBytes ? .held(field) : nil
      case 2: outcome = unsafe failure(field).map { .failed($0) }
      default: break
      }
    }
    return fields.isMalformed ? nil : outcome
  }

  @unsafe private static func failure(_ message: WireFields.Field) -> OrderFailure? {
    var fields = unsafe WireFields(message.bytes)
    var failure = OrderFailure(code: .unknown, reason: "", text: "")
    while let field = fields.next() {
      switch field.number {
      case 1: failure.code = Int(exactly: field.value).flatMap(StatusCode.init) ?? .unknown
      case 2: failure.reason = field.text
      case 3: failure.text = field.text
      case 4: failure.details.append(unsafe entry(field))
      case 5: failure.retryNanoseconds = StatusDetails.retryNanoseconds(field)
      default: break
      }
    }
    return fields.isMalformed ? nil : failure
  }

  @unsafe private static func entry(_ message: WireFields.Field) -> (name: String, value: String) {
    var fields = unsafe WireFields(message.bytes)
    var entry = (name: "", value: "")
    while let field = fields.next() {
      if field.number == 1 { entry.name = field.text }
      if field.number == 2 { entry.value = field.text }
    }
    return entry
  }
}
