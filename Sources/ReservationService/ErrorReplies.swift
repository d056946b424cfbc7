// Refusals on the wire: a gRPC code, a text for people, and a google.rpc.Status with the details for
// programs (DESIGN section 2, table of errors).
internal import CHoldfastProto
internal import GRPC
internal import StockStore

/// Writes refusals into replies. One per loop.
final class ErrorReplies {
  private let writer = MessageWriter()
  private let text = MessageWriter()
  /// The refusal in hand was recorded before: its ErrorInfo says so.
  private var isReplayed = false
  /// The wait that RetryInfo asks for after a conflict, after an overload, and while the disk is full,
  /// in nanoseconds: the first is over in microseconds, the second wants the queue to drain, and the
  /// third somebody to make room.
  private static let conflictRetryNanoseconds: Int64 = 5_000_000
  private static let overloadRetryNanoseconds: Int64 = 250_000_000
  private static let storageRetryNanoseconds: Int64 = 2_000_000_000

  /// A refusal by the store. `item` is the item that the command named, for one that is unknown.
  func refuse(
    _ refusal: Refusal, isReplay: Bool, item name: ItemName, session: StoreSession, reply: Reply
  ) {
    isReplayed = isReplay
    defer { isReplayed = false }
    switch refusal {
    case .insufficientStock(let handle, let requested, let available):
      let name = session.name(of: handle)
      begin("not enough stock of ", name)
      text.text(": ")
      text.text(decimal: requested)
      text.text(" requested, ")
      text.text(decimal: available)
      text.text(" available")
      finish(.failedPrecondition, "INSUFFICIENT_STOCK", reply) {
        item(name)
        entry("requested", requested)
        entry("available", available)
      }
    case .itemNotFound:
      begin("unknown item ", name)
      finish(.notFound, "ITEM_NOT_FOUND", reply) { item(name) }
    case .reservationNotFound:
      simple(.notFound, "RESERVATION_NOT_FOUND", "unknown reservation", reply)
    case .reservationExpired:
      simple(.failedPrecondition, "RESERVATION_EXPIRED", "the reservation has expired", reply)
    case .reservationConfirmed:
      simple(.failedPrecondition, "RESERVATION_CONFIRMED", "the reservation is confirmed", reply)
    case .reservationReleased:
      simple(.failedPrecondition, "RESERVATION_RELEASED", "the reservation is released", reply)
    case .versionMismatch(let current):
      begin("the item has another version")
      finish(.aborted, "VERSION_MISMATCH", reply) {
        entry("current_version", Int64(clamping: current))
      }
    case .conflictTooBusy(let attempts):
      begin("too many others change the same items")
      finish(
        .aborted, "CONFLICT_TOO_BUSY", retryNanoseconds: Self.conflictRetryNanoseconds, reply
      ) { entry("attempts", Int64(attempts)) }
    case .idempotencyKeyReused:
      simple(
        .invalidArgument, "IDEMPOTENCY_KEY_REUSED",
        "the idempotency_key was used for another request", reply)
    case .moreThanHeld(let index, let held):
      var violation = FieldViolation("lines", "more than the reservation holds")
      violation.index = index
      violation.member = "quantity"
      badRequest(violation, held: held, reply)
    case .onHandLimit:
      simple(.failedPrecondition, "ON_HAND_LIMIT", "on hand would pass 1099511627776", reply)
    case .tableFull(let table):
      begin("the table of ", table == .items ? "items" : "reservations", " is full")
      finish(.resourceExhausted, "TABLE_FULL", reply) {
        entry("table", table == .items ? "items" : "reservations")
      }
    case .unavailable(.journalFull): unavailable(.overloaded, reply: reply)
    case .unavailable(.noSpace):
      begin("the server's disk has no room for changes")
      finish(
        .unavailable, "STORAGE_FULL", retryNanoseconds: Self.storageRetryNanoseconds, reply
      ) {}
    case .unavailable(.failed): unavailable(.shuttingDown, reply: reply)
    }
  }

  /// A field that breaks its rule.
  func badRequest(_ violation: FieldViolation, reply: Reply) {
    badRequest(violation, held: nil, reply)
  }

  /// The message is not what the .proto files say.
  func malformed(reply: Reply) {
    begin("malformed request message")
    finish(.invalidArgument, "MALFORMED_MESSAGE", reply) {}
  }

  func unavailable(_ reason: Unavailability, reply: Reply) {
    switch reason {
    case .overloaded: begin("the server is overloaded")
    case .shuttingDown: begin("the server is shutting down")
    }
    let name: StaticString = reason == .overloaded ? "OVERLOADED" : "SHUTTING_DOWN"
    finish(
      .unavailable, name, retryNanoseconds: Self.overloadRetryNanoseconds, reply
    ) {}
  }

  private func badRequest(_ violation: FieldViolation, held: Int64?, _ reply: Reply) {
    text.reset()
    write(violation, to: text)
    text.text(": ")
    text.text(violation.rule)
    finish(.invalidArgument, "INVALID_FIELD", violation: violation, reply) {
      if let held { entry("held", held) }
    }
  }

  private func write(_ violation: FieldViolation, to writer: MessageWriter) {
    writer.text(violation.field)
    guard let index = violation.index else { return }
    writer.text("[")
    writer.text(decimal: Int64(index))
    writer.text("].")
    writer.text(violation.member)
  }

  // MARK: The text

  private func begin(_ words: StaticString...) {
    text.reset()
    for word in words { text.text(word) }
  }

  private func begin(_ words: StaticString, _ name: ItemName) {
    text.reset()
    text.text(words)
    put(name.sku)
    if name.location.count > 0 {
      text.text(" at ")
      put(name.location)
    }
  }

  private func put(_ bytes: BorrowedBytes) {
    let bytes = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    text.text(unsafe bytes.span)
  }

  // MARK: The details

  private func simple(
    _ code: StatusCode, _ reason: StaticString, _ words: StaticString, _ reply: Reply
  ) {
    text.reset()
    text.text(words)
    finish(code, reason, reply) {}
  }

  private func entry(_ key: StaticString, _ value: Int64) {
    writer.nested(3) {
      writer.field(1, key)
      writer.field(2, decimal: value)
    }
  }

  private func entry(_ key: StaticString, _ value: StaticString) {
    writer.nested(3) {
      writer.field(1, key)
      writer.field(2, value)
    }
  }

  private func item(_ name: ItemName) {
    writer.nested(3) {
      writer.field(1, "sku")
      writer.field(2, name.sku)
    }
    writer.nested(3) {
      writer.field(1, "location")
      writer.field(2, name.location)
    }
  }

  /// google.rpc.Status: code = 1, message = 2, details = 3 (Any: type_url = 1, value = 2); first the
  /// ErrorInfo (reason = 1, domain = 2, metadata = 3), then RetryInfo or BadRequest.
  private func finish(
    _ code: StatusCode, _ reason: StaticString, retryNanoseconds: Int64 = 0,
    violation: FieldViolation? = nil, _ reply: Reply, metadata: () -> Void
  ) {
    writer.reset()
    writer.field(1, Int64(code.rawValue))
    text.withBytes { writer.field(2, $0) }
    writer.nested(3) {
      writer.field(1, "type.googleapis.com/google.rpc.ErrorInfo")
      writer.nested(2) {
        writer.field(1, reason)
        writer.field(2, "holdfast")
        metadata()
        if isReplayed { entry("replayed", "true") }
      }
    }
    if retryNanoseconds > 0 {
      writer.nested(3) {
        writer.field(1, "type.googleapis.com/google.rpc.RetryInfo")
        writer.nested(2) {
          writer.nested(1) {
            writer.field(1, retryNanoseconds / 1_000_000_000)
            writer.field(2, retryNanoseconds % 1_000_000_000)
          }
        }
      }
    }
    if let violation {
      writer.nested(3) {
        writer.field(1, "type.googleapis.com/google.rpc.BadRequest")
        writer.nested(2) {
          writer.nested(1) {
            writer.nested(1) { write(violation, to: writer) }
            writer.field(2, violation.rule)
          }
        }
      }
    }
    reply.fail(code)
    text.withBytes { reply.append($0) }
    reply.beginDetails()
    writer.withBytes { reply.append($0) }
  }
}
