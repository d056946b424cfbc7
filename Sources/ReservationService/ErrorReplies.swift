// Refusals on the wire: a gRPC code, a text for people, and a google.rpc.Status with the details for
// programs (docs/ARCHITECTURE.md, "Errors").
internal import Access
internal import Bytes
internal import ChangeFeed
internal import GRPC
internal import Log
internal import StockStore
internal import StorePersistence

/// Writes refusals into replies. One per loop.
final class ErrorReplies {
  private let writer = ProtoWriter()
  private let text = ProtoWriter()
  deinit {
    writer.destroy()
    text.destroy()
  }

  /// The refusal in hand was recorded before: its ErrorInfo says so.
  private var isReplayed = false
  /// Refusals are written into the message, as what became of one request of many.
  private var isInBand = false
  /// The ErrorInfo in hand has an item already.
  private var hasItem = false
  /// The refusal in hand is about this change of several: its ErrorInfo says which, and of what item.
  private var change: (index: Int, item: ItemName)?
  /// Since `beginInBand` there was one; where it begins in the message.
  private var hasFailedInBand = false
  private var inBandStart = 0
  private let inBandFailures = InBandFailures()
  /// The wait that RetryInfo asks for after a conflict, after an overload, and while the disk is full,
  /// in nanoseconds: the first is over in microseconds, the second wants the queue to drain, and the
  /// third somebody to make room.
  private static let conflictRetryNanoseconds: Int64 = 5_000_000
  private static let overloadRetryNanoseconds: Int64 = 250_000_000
  private static let storageRetryNanoseconds: Int64 = 2_000_000_000
  /// The wait while it is not known, or not known here, who owns the store: a tenth of what a takeover takes.
  private static let ownershipRetryNanoseconds: Int64 = 250_000_000

  /// How many bytes details may have: in base64, and beside the other trailers, they stay below the 8 KiB
  /// that many clients take as header fields. What does not fit is counted in the ErrorInfo.
  private static let detailsBytesMax = 5_632
  /// More than a violation has around its texts, which are 129, 64 and 64 bytes at most.
  private static let violationBytesMax = 300

  /// A refusal by the store.
  /// - Parameters:
  ///   - change: the one of several that the refusal is about.
  ///   - nameOfLine: the item that a line of the command names, from 0; for those that are unknown.
  func refuse(
    _ refusal: Refusal, isReplay: Bool, session: StoreSession, response: Response,
    change: (index: Int, item: ItemName)? = nil, nameOfLine: (Int) -> ItemName
  ) {
    isReplayed = isReplay
    self.change = change
    defer {
      isReplayed = false
      self.change = nil
    }
    let others = session.furtherRefusalCount
    switch refusal {
    case .insufficientStock(let handle, let requested, let available):
      let tried = session.alternativesTried
      let isPlain = others == 0 && tried == 0 && change == nil
      let key = isPlain ? shortageKey(handle, requested, available) : nil
      if let key, failAgain(key, response) { return }
      let name = session.name(of: handle)
      begin("not enough stock of ", name)
      text.text(": ")
      putShortage(requested: requested, available: available, to: text)
      putOthers(others)
      if tried > 0 { putTried(tried) }
      finish(.failedPrecondition, "INSUFFICIENT_STOCK", response) {
        item(name)
        entry("requested", requested)
        entry("available", available)
        countBad(others + 1)
        if tried > 0 { entry("alternatives", Int64(tried)) }
      } details: {
        preconditionFailure("INSUFFICIENT_STOCK", refusal, session) {
          guard case .insufficientStock(let handle, let requested, let available) = $0 else {
            return
          }
          subject(session.name(of: handle))
          writer.nested(3) { putShortage(requested: requested, available: available, to: writer) }
        }
      }
      if let key { keepFailure(key, response) }
    case .notOnSale(let handle, let window):
      let name = session.name(of: handle)
      begin("not on sale: ", name)
      text.text(": ")
      putWindow(window, to: text)
      putOthers(others)
      finish(.failedPrecondition, "NOT_ON_SALE", response) {
        item(name)
        if let from = window.from { entry("sellable_from", from) }
        if let until = window.until { entry("sellable_until", until) }
        if window.isFrozen { entry("frozen", "true") }
        countBad(others + 1)
      } details: {
        preconditionFailure("NOT_ON_SALE", refusal, session) {
          guard case .notOnSale(let handle, let window) = $0 else { return }
          subject(session.name(of: handle))
          writer.nested(3) { putWindow(window, to: writer) }
        }
      }
    case .itemNotFound(let line):
      let name = nameOfLine(line)
      if name.sku.count == 0 {
        // Asked for by its key: nobody has sent the lines.
        simple(.notFound, "ITEM_NOT_FOUND", "unknown item", response)
        return
      }
      begin("unknown item ", name)
      putOthers(others)
      finish(.notFound, "ITEM_NOT_FOUND", response) {
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
      simple(.notFound, "RESERVATION_NOT_FOUND", "unknown reservation", response)
    case .reservationExpired:
      simple(.failedPrecondition, "RESERVATION_EXPIRED", "the reservation has expired", response)
    case .reservationConfirmed:
      simple(.failedPrecondition, "RESERVATION_CONFIRMED", "the reservation is confirmed", response)
    case .reservationReleased:
      simple(.failedPrecondition, "RESERVATION_RELEASED", "the reservation is released", response)
    case .notOwnHold:
      simple(
        .permissionDenied, "NOT_OWN_HOLD", "the hold was reserved by another caller", response)
    case .versionMismatch(let current):
      begin("the item has another version")
      finish(.aborted, "VERSION_MISMATCH", response) {
        entry("current_version", Int64(clamping: current))
      }
    case .revisionMismatch(let current):
      begin("the reservation is at another revision")
      finish(.aborted, "REVISION_MISMATCH", response) {
        entry("current_revision", Int64(clamping: current))
      }
    case .onHandMismatch(let current):
      begin("the item has other units on hand")
      finish(.aborted, "ON_HAND_MISMATCH", response) { entry("current_on_hand", current) }
    case .insufficientCommitted(let handle, let requested, let committed):
      let name = session.name(of: handle)
      begin("not enough committed of ", name)
      text.text(": ")
      putCommitted(requested: requested, committed: committed, to: text)
      finish(.failedPrecondition, "INSUFFICIENT_COMMITTED", response) {
        item(name)
        entry("requested", requested)
        entry("committed", committed)
      } details: {
        preconditionFailure("INSUFFICIENT_COMMITTED", refusal, session) { _ in
          subject(name)
          writer.nested(3) {
            putCommitted(requested: requested, committed: committed, to: writer)
          }
        }
      }
    case .limitExceeded(let handle, let requested, let used, let maxUnits):
      let name = session.name(of: handle)
      let subject = session.refusedSubject
      begin("over the limit for ", name)
      text.text(": ")
      putLimit(subject, requested: requested, used: used, maxUnits: maxUnits, to: text)
      finish(.failedPrecondition, "LIMIT_EXCEEDED", response) {
        writer.nested(metadataField) {
          writer.field(1, "subject")
          writer.field(2, subject)
        }
        item(name)
        entry("max_units", maxUnits)
        entry("used", used)
        entry("requested", requested)
      } details: {
        preconditionFailure("LIMIT_EXCEEDED", refusal, session) { _ in
          self.subject(name)
          writer.nested(3) {
            putLimit(subject, requested: requested, used: used, maxUnits: maxUnits, to: writer)
          }
        }
      }
    case .itemNotEmpty(let handle, let onHand, let held, let committed):
      let name = session.name(of: handle)
      begin("not empty: ", name)
      finish(.failedPrecondition, "ITEM_NOT_EMPTY", response) {
        item(name)
        entry("on_hand", onHand)
        entry("held", held)
        entry("committed", committed)
      } details: {
        preconditionFailure("ITEM_NOT_EMPTY", refusal, session) { _ in
          subject(name)
          writer.field(3, "it has units on hand, held or committed")
        }
      }
    case .conflictTooBusy(let attempts):
      begin("too many others change the same items")
      finish(
        .unavailable, "CONFLICT_TOO_BUSY", retryNanoseconds: Self.conflictRetryNanoseconds, response
      ) { entry("attempts", Int64(attempts)) }
    case .idempotencyKeyReused:
      simple(
        .invalidArgument, "IDEMPOTENCY_KEY_REUSED",
        "the idempotency_key was used for another request", response)
    case .moreThanHeld(_, let held):
      var violations = [moreThanHeld(refusal)]
      for index in 0..<others { violations.append(moreThanHeld(session.furtherRefusal(index))) }
      badRequest(violations, held: held, response)
    case .onHandLimit:
      if change == nil {
        simple(.failedPrecondition, "ON_HAND_LIMIT", "on hand would pass 1099511627776", response)
        return
      }
      begin("on hand would pass 1099511627776")
      finish(.failedPrecondition, "ON_HAND_LIMIT", response) {}
    case .importGap(let next):
      begin("the import has rows before first_row that are not done")
      finish(.failedPrecondition, "IMPORT_GAP", response) {
        entry("next_row", Int64(clamping: next))
      }
    case .longerThanMaxHold: badRequest([FieldRules.timeToLiveViolation], response: response)
    case .tableFull(let table):
      begin("the table of ", Self.name(of: table), " is full")
      finish(.resourceExhausted, "TABLE_FULL", response) { entry("table", Self.name(of: table)) }
    case .unavailable(.journalFull): reject(.overloaded, response: response)
    case .unavailable(.noSpace):
      begin("the server's disk has no room for changes")
      finish(
        .unavailable, "STORAGE_FULL", retryNanoseconds: Self.storageRetryNanoseconds, response
      ) {}
    case .unavailable(.failed): reject(.shuttingDown, response: response)
    }
  }

  private static func name(of table: StoreTable) -> StaticString {
    switch table {
    case .items: "items"
    case .reservations: "reservations"
    case .limits: "limits"
    }
  }

  /// The reason in ErrorInfo of a change that is refused.
  static func reason(_ refusal: Refusal) -> StaticString {
    switch refusal {
    case .insufficientStock: "INSUFFICIENT_STOCK"
    case .insufficientCommitted: "INSUFFICIENT_COMMITTED"
    case .itemNotFound: "ITEM_NOT_FOUND"
    case .versionMismatch: "VERSION_MISMATCH"
    case .onHandMismatch: "ON_HAND_MISMATCH"
    case .onHandLimit: "ON_HAND_LIMIT"
    case .tableFull: "TABLE_FULL"
    default: "UNKNOWN"
    }
  }

  /// What the refusal for one item depends on; nil for numbers that no item has.
  private func shortageKey(
    _ handle: ItemHandle, _ requested: Int64, _ available: Int64
  ) -> FailureKey? {
    // Both are at most 2^40; a shortage below zero takes the other side.
    let bias: Int64 = 1 << 43
    guard requested >= 0, requested < 1 << 41, available > -bias, available < bias else {
      return nil
    }
    let (requested, available) = (UInt64(requested), UInt64(available + bias))
    return FailureKey(
      high: UInt64(handle.ordinal) << 32 | (isReplayed ? 1 << 31 : 0) | requested >> 20,
      low: requested << 44 | available)
  }

  /// Fields that break their rules: one at least.
  func badRequest(_ violations: [FieldViolation], response: Response) {
    badRequest(violations, held: nil, response)
  }

  /// The message is not what the .proto files say.
  func malformed(response: Response) {
    begin("malformed request message")
    finish(.invalidArgument, "MALFORMED_MESSAGE", response) {}
  }

  /// A call that changes something has a field that this server does not know.
  func unknownField(_ unknown: UnknownField, response: Response) {
    text.reset()
    write(unknown, to: text)
    text.text(": ")
    text.text(UnknownField.rule)
    finish(.invalidArgument, "UNKNOWN_FIELD", response) {
      writer.nested(metadataField) {
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
  private func write(_ unknown: UnknownField, to writer: ProtoWriter) {
    writer.text(unknown.path)
    if !unknown.path.isEmpty { writer.text(".") }
    writer.text(decimal: Int64(unknown.number))
  }

  /// The loop takes the call not at all.
  func reject(_ rejection: Rejection, response: Response) {
    // Who is overloaded should not work for those whom it turns away.
    let key = constantKey(rejection.text)
    if failAgain(key, response) { return }
    begin(rejection.text)
    let isTemporary = rejection.code == .unavailable
    finish(
      rejection.code, rejection.reason,
      retryNanoseconds: isTemporary ? Self.overloadRetryNanoseconds : 0,
      httpStatus: rejection.httpStatus, response
    ) {}
    keepFailure(key, response)
  }

  // MARK: Ownership

  /// This server is a standby: nothing is decided here.
  /// - Parameters:
  ///   - owner: where the owner is, as HOST:PORT; nil where that is not known.
  ///   - text: another reason than that; nil: none.
  func notOwner(_ owner: String?, text: StaticString? = nil, response: Response) {
    begin(text ?? "this server is a standby and decides nothing")
    finish(.unavailable, "NOT_OWNER", retryNanoseconds: Self.ownershipRetryNanoseconds, response) {
      guard let owner else { return }
      writer.nested(metadataField) {
        writer.field(1, "owner")
        writer.nested(2) { writer.text(Array(owner.utf8).span) }
      }
    }
  }

  /// The server cannot say now whether it is the owner: another may have decided since.
  func leaseOver(response: Response) {
    let words: StaticString = "this server cannot say now whether it is the owner"
    let key = constantKey(words)
    if failAgain(key, response) { return }
    begin(words)
    finish(.unavailable, "LEASE_OVER", retryNanoseconds: Self.ownershipRetryNanoseconds, response) {
    }
    keepFailure(key, response)
  }

  /// The caller may not make the call, or nobody knows who it is.
  func unauthorized(_ failure: AuthorizationFailure, response: Response) {
    if failure == .callerMalformed {
      return badRequest(
        [FieldViolation("holdfast-caller", FieldRules.callerRule)], response: response)
    }
    begin(failure.text)
    finish(failure.code, failure.reason, response) {
      if case .roleRequired(let role) = failure { entry("role", role.name) }
    }
  }

  /// A service that grpc.health.v1 is asked for and that the server does not have.
  func unknownService(response: Response) {
    simple(.notFound, "UNKNOWN_SERVICE", "unknown service", response)
  }

  func tooManyWatches(response: Response) {
    begin("too many watches")
    finish(.resourceExhausted, "TABLE_FULL", response) { entry("table", "watches") }
  }

  // MARK: The change feed

  func tooManyEventWatches(response: Response) {
    simple(.resourceExhausted, "TOO_MANY_WATCHES", "too many watches", response)
  }

  func historyOff(response: Response) {
    simple(
      .failedPrecondition, "HISTORY_OFF",
      "this server keeps no decisions for those who watch: start it without --history 0, or with a journal",
      response)
  }

  func credentialsChanged(response: Response) {
    begin("the caller has another role: watch again from the last token")
    finish(
      .unavailable, "CREDENTIALS_CHANGED", retryNanoseconds: Self.overloadRetryNanoseconds, response
    ) {}
  }

  func watchEnded(_ failure: WatchFailure, response: Response) {
    switch failure {
    case .tooOld(let oldest):
      begin("what is behind the resume_token is not kept any more")
      finish(.outOfRange, "RESUME_TOKEN_TOO_OLD", response) {
        entry("oldest_lsn", Int64(clamping: oldest))
      }
    case .foreign:
      simple(
        .failedPrecondition, "RESUME_TOKEN_FOREIGN",
        "the resume_token is of another store, or of a past that this one has not had", response)
    case .unreadable:
      begin("the server's disk does not give what was decided")
      finish(
        .unavailable, "LOG_UNREADABLE", retryNanoseconds: Self.storageRetryNanoseconds, response
      ) {}
    }
  }

  func noJournal(response: Response) {
    simple(
      .failedPrecondition, "NO_JOURNAL",
      "this server keeps nothing on a disk (--durability memory): there is nothing to copy",
      response)
  }

  func backupNeedsTokens(response: Response) {
    simple(
      .failedPrecondition, "BACKUP_NEEDS_TOKENS",
      "whoever reaches this server could take all it has: start it with --tokens, or back up its directory",
      response)
  }

  func tooManyBackups(response: Response) {
    simple(.resourceExhausted, "TOO_MANY_BACKUPS", "other backups are on their way", response)
  }

  func backupFailed(_ error: JournalError, response: Response) {
    if case .damaged = error {
      return simple(
        .dataLoss, "DATA_DAMAGED", "the data directory is damaged; the server's log says where",
        response)
    }
    begin("the server's disk does not give what is to be copied")
    finish(
      .unavailable, "LOG_UNREADABLE", retryNanoseconds: Self.storageRetryNanoseconds, response
    ) {}
  }

  private func badRequest(_ violations: [FieldViolation], held: Int64?, _ response: Response) {
    text.reset()
    write(violations[0], to: text)
    text.text(": ")
    text.text(violations[0].rule)
    finish(.invalidArgument, "INVALID_FIELD", response) {
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

  private func write(_ violation: FieldViolation, to writer: ProtoWriter) {
    if violation.outerIndex >= 0 {
      writer.text("alternatives[")
      writer.text(decimal: Int64(violation.outerIndex))
      writer.text("].")
    }
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

  private func putShortage(requested: Int64, available: Int64, to writer: ProtoWriter) {
    writer.text(decimal: requested)
    writer.text(" requested, ")
    writer.text(decimal: available)
    writer.text(" available")
  }

  private func putCommitted(requested: Int64, committed: Int64, to writer: ProtoWriter) {
    writer.text(decimal: requested)
    writer.text(" requested, ")
    writer.text(decimal: committed)
    writer.text(" committed")
  }

  private func putLimit(
    _ subject: BorrowedBytes, requested: Int64, used: Int64, maxUnits: Int64,
    to writer: ProtoWriter
  ) {
    writer.text(decimal: requested)
    writer.text(" requested, ")
    put(subject, to: writer)
    writer.text(" has ")
    writer.text(decimal: used)
    writer.text(" of ")
    writer.text(decimal: maxUnits)
  }

  private func putWindow(_ window: SaleWindow, to writer: ProtoWriter) {
    if let from = window.from {
      writer.text("sellable from ")
      writer.text(CalendarTime(from).description)
    }
    if let until = window.until {
      writer.text(window.from == nil ? "sellable until " : " until ")
      writer.text(CalendarTime(until).description)
    }
    if window.isFrozen {
      writer.text(window.from == nil && window.until == nil ? "frozen" : ", frozen")
    }
  }

  private func putOthers(_ count: Int) {
    if count == 0 { return }
    text.text("; and ")
    text.text(decimal: Int64(count))
    text.text(count == 1 ? " other item" : " other items")
  }

  private func putTried(_ count: Int) {
    text.text("; nor can another of ")
    text.text(decimal: Int64(count))
    text.text(" alternatives be held")
  }

  private func put(_ bytes: BorrowedBytes, to writer: ProtoWriter) {
    let bytes = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    writer.text(unsafe bytes.span)
  }

  // MARK: The details

  private func simple(
    _ code: StatusCode, _ reason: StaticString, _ words: StaticString, _ response: Response
  ) {
    let key = constantKey(words)
    if failAgain(key, response) { return }
    text.reset()
    text.text(words)
    finish(code, reason, response) {}
    keepFailure(key, response)
  }

  /// Of a failure that has nothing but constant words, which no other has: their address names them.
  private func constantKey(_ words: StaticString) -> FailureKey {
    FailureKey(
      high: isReplayed ? .max : .max - 1, low: unsafe UInt64(UInt(bitPattern: words.utf8Start)))
  }

  /// metadata: of ErrorInfo, or of Failure, where it is a map.
  private var metadataField: Int { isInBand ? 4 : 3 }

  private func entry(_ key: StaticString, _ value: Int64) {
    writer.nested(metadataField) {
      writer.field(1, key)
      writer.field(2, decimal: value)
    }
  }

  private func entry(_ key: StaticString, _ value: StaticString) {
    writer.nested(metadataField) {
      writer.field(1, key)
      writer.field(2, value)
    }
  }

  private func entry(_ key: StaticString, _ instant: SaleWindow.Instant) {
    writer.nested(metadataField) {
      writer.field(1, key)
      writer.nested(2) { writer.text(CalendarTime(instant).description) }
    }
  }

  private func item(_ name: ItemName) {
    if hasItem { return }
    hasItem = true
    writer.nested(metadataField) {
      writer.field(1, "sku")
      writer.field(2, name.sku)
    }
    writer.nested(metadataField) {
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
    _ code: StatusCode, _ reason: StaticString, retryNanoseconds: Int64 = 0,
    httpStatus: Int = 200, _ response: Response,
    metadata: () -> Void, details: () -> Void = {}
  ) {
    if isInBand {
      return finishInBand(
        code, reason, retryNanoseconds: retryNanoseconds, response.message, metadata: metadata)
    }
    writer.reset()
    writer.field(1, Int64(code.rawValue))
    text.withBytes { writer.field(2, $0) }
    detail("type.googleapis.com/google.rpc.ErrorInfo") {
      writer.field(1, reason)
      writer.field(2, "holdfast")
      hasItem = false
      metadata()
      if let change {
        entry("index", Int64(change.index))
        item(change.item)
      }
      if isReplayed { entry("replayed", "true") }
    }
    if retryNanoseconds > 0 {
      detail("type.googleapis.com/google.rpc.RetryInfo") {
        writer.field(1, seconds: retryNanoseconds)
      }
    }
    details()
    // Rounded up: not sooner than RetryInfo says.
    let retryMilliseconds = Int32(clamping: (retryNanoseconds + 999_999) / 1_000_000)
    text.withBytes { text in
      writer.withBytes { details in
        response.fail(
          code, text, details: details, retryMilliseconds: retryMilliseconds,
          httpStatus: httpStatus)
      }
    }
  }

  // MARK: In-band

  /// From here on, a refusal is a Failure that goes behind what the response's message holds.
  func beginInBand() {
    isInBand = true
    hasFailedInBand = false
  }

  /// No longer. Whether there was one.
  func endInBand() -> Bool {
    isInBand = false
    return hasFailedInBand
  }

  /// Failure: code = 1, reason = 2, message = 3, metadata = 4, retry_delay = 5.
  private func finishInBand(
    _ code: StatusCode, _ reason: StaticString, retryNanoseconds: Int64, _ message: ProtoWriter,
    metadata: () -> Void
  ) {
    hasFailedInBand = true
    inBandStart = message.count
    message.field(1, UInt64(code.rawValue))
    message.field(2, reason)
    text.withBytes { message.field(3, $0) }
    writer.reset()
    hasItem = false
    metadata()
    if isReplayed { entry("replayed", "true") }
    writer.withBytes { message.text($0) }
    if retryNanoseconds > 0 { message.field(5, seconds: retryNanoseconds) }
  }

  /// Makes the refusal that is kept under `key`; false where it must be made.
  private func failAgain(_ key: FailureKey, _ response: Response) -> Bool {
    if !isInBand { return response.failAgain(key) }
    guard inBandFailures.write(key, to: response.message) else { return false }
    hasFailedInBand = true
    return true
  }

  /// Keeps the refusal that was just made.
  private func keepFailure(_ key: FailureKey, _ response: Response) {
    if !isInBand { return response.keepFailure(as: key) }
    response.message.withBytes { inBandFailures.keep(key, $0.extracting(inBandStart...)) }
  }
}
