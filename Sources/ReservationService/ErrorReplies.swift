// Refusals on the wire: a gRPC code, a text for people, and a google.rpc.Status with the details for
// programs (docs/ARCHITECTURE.md, "Errors").
internal import Access
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

  /// How many bytes details may have: in base64, and beside the other trailers, they stay below the 8 KiB
  /// that many clients take as header fields. What does not fit is counted in the ErrorInfo.
  private static let detailsBytesMax = 5_632
  /// More than a violation has around its texts, which are 129, 64 and 64 bytes at most.
  private static let violationBytesMax = 300

  /// A refusal by the store.
  /// - Parameter nameOfLine: the item that a line of the command names, from 0; for those that are unknown.
  func refuse(
    _ refusal: Refusal, isReplay: Bool, session: StoreSession, reply: Reply,
    nameOfLine: (Int) -> ItemName
  ) {
    isReplayed = isReplay
    defer { isReplayed = false }
    let others = session.furtherRefusalCount
    switch refusal {
    case .insufficientStock(let handle, let requested, let available):
      let name = session.name(of: handle)
      begin("not enough stock of ", name)
      text.text(": ")
      putShortage(requested: requested, available: available, to: text)
      putOthers(others)
      finish(.failedPrecondition, "INSUFFICIENT_STOCK", reply) {
        item(name)
        entry("requested", requested)
        entry("available", available)
        countBad(others + 1)
      } details: {
        preconditionFailure("INSUFFICIENT_STOCK", refusal, session) {
          guard case .insufficientStock(let handle, let requested, let available) = $0 else {
            return
          }
          subject(session.name(of: handle))
          writer.nested(3) { putShortage(requested: requested, available: available, to: writer) }
        }
      }
    case .itemNotFound(let line):
      let name = nameOfLine(line)
      begin("unknown item ", name)
      putOthers(others)
      finish(.notFound, "ITEM_NOT_FOUND", reply) {
        item(name)
        countBad(others + 1)
      } details: {
        preconditionFailure("ITEM_NOT_FOUND", refusal, session) {
          guard case .itemNotFound(let line) = $0 else { return }
          subject(nameOfLine(line))
          writer.field(3, "unknown item")
        }
      }
    case .reservationNotFound:
      simple(.notFound, "RESERVATION_NOT_FOUND", "unknown reservation", reply)
    case .reservationExpired:
      simple(.failedPrecondition, "RESERVATION_EXPIRED", "the reservation has expired", reply)
    case .reservationConfirmed:
      simple(.failedPrecondition, "RESERVATION_CONFIRMED", "the reservation is confirmed", reply)
    case .reservationReleased:
      simple(.failedPrecondition, "RESERVATION_RELEASED", "the reservation is released", reply)
    case .notOwnHold:
      simple(
        .permissionDenied, "NOT_OWN_HOLD", "the hold was reserved by another caller", reply)
    case .versionMismatch(let current):
      begin("the item has another version")
      finish(.aborted, "VERSION_MISMATCH", reply) {
        entry("current_version", Int64(clamping: current))
      }
    case .conflictTooBusy(let attempts):
      begin("too many others change the same items")
      finish(
        .unavailable, "CONFLICT_TOO_BUSY", retryNanoseconds: Self.conflictRetryNanoseconds, reply
      ) { entry("attempts", Int64(attempts)) }
    case .idempotencyKeyReused:
      simple(
        .invalidArgument, "IDEMPOTENCY_KEY_REUSED",
        "the idempotency_key was used for another request", reply)
    case .moreThanHeld(_, let held):
      var violations = [moreThanHeld(refusal)]
      for index in 0..<others { violations.append(moreThanHeld(session.furtherRefusal(index))) }
      badRequest(violations, held: held, reply)
    case .onHandLimit:
      simple(.failedPrecondition, "ON_HAND_LIMIT", "on hand would pass 1099511627776", reply)
    case .longerThanMaxHold: badRequest([FieldRules.timeToLiveViolation], reply: reply)
    case .tableFull(let table):
      begin("the table of ", table == .items ? "items" : "reservations", " is full")
      finish(.resourceExhausted, "TABLE_FULL", reply) {
        entry("table", table == .items ? "items" : "reservations")
      }
    case .unavailable(.journalFull): reject(.overloaded, reply: reply)
    case .unavailable(.noSpace):
      begin("the server's disk has no room for changes")
      finish(
        .unavailable, "STORAGE_FULL", retryNanoseconds: Self.storageRetryNanoseconds, reply
      ) {}
    case .unavailable(.failed): reject(.shuttingDown, reply: reply)
    }
  }

  /// Fields that break their rules: one at least.
  func badRequest(_ violations: [FieldViolation], reply: Reply) {
    badRequest(violations, held: nil, reply)
  }

  /// The message is not what the .proto files say.
  func malformed(reply: Reply) {
    begin("malformed request message")
    finish(.invalidArgument, "MALFORMED_MESSAGE", reply) {}
  }

  /// A call that changes something has a field that this server does not know.
  func unknownField(_ unknown: UnknownField, reply: Reply) {
    text.reset()
    write(unknown, to: text)
    text.text(": ")
    text.text(UnknownField.rule)
    finish(.invalidArgument, "UNKNOWN_FIELD", reply) {
      writer.nested(3) {
        writer.field(1, "path")
        writer.nested(2) { writer.text(unknown.path) }
      }
      entry("number", Int64(unknown.number))
    } details: {
      detail("type.googleapis.com/google.rpc.BadRequest") {
        writer.nested(1) {
          writer.nested(1) { write(unknown, to: writer) }
          writer.field(2, UnknownField.rule)
        }
      }
    }
  }

  /// The path of an unknown field: where it lies, and its number for its name.
  private func write(_ unknown: UnknownField, to writer: MessageWriter) {
    writer.text(unknown.path)
    if !unknown.path.isEmpty { writer.text(".") }
    writer.text(decimal: Int64(unknown.number))
  }

  /// The loop takes the call not at all.
  func reject(_ rejection: Rejection, reply: Reply) {
    begin(rejection.text)
    let isTemporary = rejection.code == .unavailable
    finish(
      rejection.code, rejection.reason,
      retryNanoseconds: isTemporary ? Self.overloadRetryNanoseconds : 0, reply
    ) {}
  }

  /// The caller may not make the call, or nobody knows who it is.
  func unauthorized(_ failure: AuthorizationFailure, reply: Reply) {
    if failure == .callerMalformed {
      return badRequest([FieldViolation("holdfast-caller", FieldRules.callerRule)], reply: reply)
    }
    begin(failure.text)
    finish(failure.code, failure.reason, reply) {
      if case .roleRequired(let role) = failure { entry("role", role.name) }
    }
  }

  /// A service that grpc.health.v1 is asked for and that the server does not have.
  func unknownService(reply: Reply) {
    simple(.notFound, "UNKNOWN_SERVICE", "unknown service", reply)
  }

  func tooManyWatches(reply: Reply) {
    begin("too many watches")
    finish(.resourceExhausted, "TABLE_FULL", reply) { entry("table", "watches") }
  }

  private func badRequest(_ violations: [FieldViolation], held: Int64?, _ reply: Reply) {
    text.reset()
    write(violations[0], to: text)
    text.text(": ")
    text.text(violations[0].rule)
    finish(.invalidArgument, "INVALID_FIELD", reply) {
      if let held { entry("held", held) }
      countBad(violations.count)
    } details: {
      detail("type.googleapis.com/google.rpc.BadRequest") {
        for violation in violations where hasRoomForViolation {
          writer.nested(1) {
            writer.nested(1) { write(violation, to: writer) }
            writer.field(2, violation.rule)
          }
        }
      }
    }
  }

  private func moreThanHeld(_ refusal: Refusal) -> FieldViolation {
    var violation = FieldViolation("lines", "more than the reservation holds")
    if case .moreThanHeld(let line, _) = refusal { violation.index = line }
    violation.member = "quantity"
    return violation
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
    put(name.sku, to: text)
    if name.location.count > 0 {
      text.text(" at ")
      put(name.location, to: text)
    }
  }

  private func putShortage(requested: Int64, available: Int64, to writer: MessageWriter) {
    writer.text(decimal: requested)
    writer.text(" requested, ")
    writer.text(decimal: available)
    writer.text(" available")
  }

  private func putOthers(_ count: Int) {
    if count == 0 { return }
    text.text("; and ")
    text.text(decimal: Int64(count))
    text.text(count == 1 ? " other item" : " other items")
  }

  private func put(_ bytes: BorrowedBytes, to writer: MessageWriter) {
    let bytes = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    writer.text(unsafe bytes.span)
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

  /// How many lines are bad, where one alone does not say it: of so many the details name what has room.
  private func countBad(_ count: Int) {
    if count > 1 { entry("bad_lines", Int64(count)) }
  }

  private var hasRoomForViolation: Bool {
    writer.count + Self.violationBytesMax <= Self.detailsBytesMax
  }

  /// google.rpc.PreconditionFailure: violations = 1 (type = 1, subject = 2, description = 3), one for
  /// `first` and one for each further refusal. `body` writes subject and description.
  private func preconditionFailure(
    _ type: StaticString, _ first: Refusal, _ session: StoreSession, body: (Refusal) -> Void
  ) {
    detail("type.googleapis.com/google.rpc.PreconditionFailure") {
      for index in -1..<session.furtherRefusalCount where hasRoomForViolation {
        writer.nested(1) {
          writer.field(1, type)
          body(index < 0 ? first : session.furtherRefusal(index))
        }
      }
    }
  }

  /// The SKU, and behind a space the location, where it is not the default one.
  private func subject(_ name: ItemName) {
    writer.nested(2) {
      put(name.sku, to: writer)
      if name.location.count > 0 {
        writer.text(" ")
        put(name.location, to: writer)
      }
    }
  }

  /// A google.protobuf.Any: type_url = 1, value = 2.
  private func detail(_ type: StaticString, _ body: () -> Void) {
    writer.nested(3) {
      writer.field(1, type)
      writer.nested(2, body)
    }
  }

  /// google.rpc.Status: code = 1, message = 2, details = 3; first the ErrorInfo (reason = 1, domain = 2,
  /// metadata = 3), then RetryInfo (retry_delay = 1), then what `details` writes.
  private func finish(
    _ code: StatusCode, _ reason: StaticString, retryNanoseconds: Int64 = 0, _ reply: Reply,
    metadata: () -> Void, details: () -> Void = {}
  ) {
    writer.reset()
    writer.field(1, Int64(code.rawValue))
    text.withBytes { writer.field(2, $0) }
    detail("type.googleapis.com/google.rpc.ErrorInfo") {
      writer.field(1, reason)
      writer.field(2, "holdfast")
      metadata()
      if isReplayed { entry("replayed", "true") }
    }
    if retryNanoseconds > 0 {
      detail("type.googleapis.com/google.rpc.RetryInfo") {
        writer.duration(1, nanoseconds: retryNanoseconds)
      }
    }
    details()
    reply.fail(code)
    // Rounded up: not sooner than RetryInfo says.
    reply.retryMilliseconds = Int32(clamping: (retryNanoseconds + 999_999) / 1_000_000)
    text.withBytes { reply.append($0) }
    reply.beginDetails()
    writer.withBytes { reply.append($0) }
  }
}
