// ReservationService: from messages to commands and from decisions to messages.
internal import Bytes
internal import GRPC
internal import StockStore

extension HoldfastHandler {
  func reserve(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var key = BorrowedBytes.empty
    var lineCount = 0
    var timeToLive = ProtoDuration()
    var reference = BorrowedBytes.empty
    var alternatives = AlternativeCounts()
    var limitCount = 0
    session.clearLines()
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): key = reader.bytes()
      case .bytes(2): readLine(&lineCount, &reader, takesMinimum: true)
      case .bytes(3): timeToLive.read(&reader, "ttl")
      case .bytes(4): reference = reader.bytes()
      case .bytes(5): readAlternative(&alternatives, &reader)
      case .bytes(6): readLimit(&limitCount, &reader)
      default: reader.other(tag, known: 1...6)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    key = try rules.key(key)
    guard lineCount > 0 else { throw Self.tooFewLines }
    if limitCount > 0 { try checkLimits(limitCount) }
    if alternatives.count > 0, hasBadEntries { putOwnEntriesFirst() }
    try checkLines(lineCount)
    if alternatives.count > 0 { try check(alternatives, lineCount) }
    let decision = session.reserve(
      IdempotencyScope(caller: caller, key: key), ttlNanoseconds: try nanoseconds(timeToLive),
      reference: try rules.reference(reference))
    switch decision.result {
    case .accepted(let hold):
      response.message.field(1, hold.id)
      heldTail.write(hold, isReplay: decision.replayed, to: response.message)
      if hold.choice != .asAsked { write(hold.choice, to: response.message) }
    case .refused(let refusal):
      errors.refuse(refusal, isReplay: decision.replayed, session: session, response: response) {
        session.namedItem(line: $0)
      }
    }
    return decision.lsn
  }

  func confirm(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var id = BorrowedBytes.empty
    var lineCount = 0
    var reacquires = false
    var keepsCommitted = false
    session.clearLines()
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): id = reader.bytes()
      case .bytes(2): readLine(&lineCount, &reader)
      case .varint(3): reacquires = reader.bool()
      case .varint(4): keepsCommitted = reader.bool()
      default: reader.other(tag, known: 1...4)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    let reservation = try rules.reservationID(id)
    try checkLines(lineCount)
    return answer(
      session.confirm(
        reservation, reacquireIfExpired: reacquires, keepCommitted: keepsCommitted, by: requester),
      response)
  }

  func release(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    let id = readID(&reader)
    guard reader.isWhole else { return refuse(reader, response) }
    return answer(session.release(try rules.reservationID(id), by: requester), response)
  }

  func extend(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var id = BorrowedBytes.empty
    var timeToLive = ProtoDuration()
    var mayShorten = false
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): id = reader.bytes()
      case .bytes(2): timeToLive.read(&reader, "ttl")
      case .varint(3): mayShorten = reader.bool()
      default: reader.other(tag, known: 1...3)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    let reservation = try rules.reservationID(id)
    let ttlNanoseconds = try nanoseconds(timeToLive)
    // Extend has no key whose answer could have been recorded under another limit.
    if let ttlNanoseconds, ttlNanoseconds > rules.store.holdNanosecondsMax {
      throw FieldRules.timeToLiveViolation
    }
    return answer(
      session.extend(
        reservation, ttlNanoseconds: ttlNanoseconds, mayShorten: mayShorten, by: requester),
      response)
  }

  func replace(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var key = BorrowedBytes.empty
    var id = BorrowedBytes.empty
    var lineCount = 0
    var expectedRevision: UInt64 = 0
    var timeToLive = ProtoDuration()
    var reference = BorrowedBytes.empty
    session.clearLines()
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): key = reader.bytes()
      case .bytes(2): id = reader.bytes()
      case .bytes(3): readLine(&lineCount, &reader)
      case .varint(4): expectedRevision = reader.varint()
      case .bytes(5): timeToLive.read(&reader, "ttl")
      case .bytes(6): reference = reader.bytes()
      default: reader.other(tag, known: 1...6)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    key = try rules.key(key)
    let reservation = try rules.reservationID(id)
    guard lineCount > 0 else { throw Self.tooFewLines }
    try checkLines(lineCount)
    let command = ReplaceCommand(
      scope: IdempotencyScope(caller: requester.caller, key: key), reservation: reservation,
      expectedRevision: expectedRevision, ttlNanoseconds: try nanoseconds(timeToLive),
      reference: try rules.reference(reference))
    return answer(session.replace(command, by: requester), hasLines: true, response)
  }

  func getReservation(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var id = BorrowedBytes.empty
    var key = BorrowedBytes.empty
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): id = reader.bytes()
      case .bytes(2): key = reader.bytes()
      default: reader.other(tag, known: 1...2)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    if key.count == 0 { return answer(session.reservation(try rules.reservationID(id)), response) }
    guard id.count == 0 else {
      throw FieldViolation("reservation_id", "empty where idempotency_key is set")
    }
    let scope = IdempotencyScope(caller: caller, key: try rules.key(key))
    return answer(session.reservation(of: scope), response)
  }

  func listReservations(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation)
    -> UInt64
  {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var pageSize: Int32 = 0
    var pageToken = BorrowedBytes.empty
    var filter: UInt32 = 0
    var reference = BorrowedBytes.empty
    while let tag = reader.next() {
      switch tag {
      case .varint(1): pageSize = reader.int32()
      case .bytes(2): pageToken = reader.bytes()
      case .varint(3): filter = UInt32(truncatingIfNeeded: reader.varint())
      case .bytes(4): reference = reader.bytes()
      default: reader.other(tag, known: 1...4)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    let size = try rules.pageSize(pageSize)
    guard filter <= ReservationState.expired.rawValue else {
      throw FieldViolation("state", "a state that this server knows, or unspecified for all")
    }
    let state = ReservationState(rawValue: UInt8(truncatingIfNeeded: filter))
    reference = try rules.reference(reference)
    let list = PageList.reservations(state, reference: reference)
    let cursor = try PageToken.position(pageToken, of: list, session)
    var left = size
    let writer = response.message
    func add(_ view: ReservationView) -> Bool {
      write(1, view, to: writer)
      left -= 1
      return left > 0 && writer.count < Self.pageBytesMax
    }
    // The work of one call is bounded, so that a sparse table does not stop the loop.
    let next =
      reference.count == 0
      ? session.listReservations(
        cursor: cursor, scanMax: Self.scanMax, state: state, each: add)
      : session.listReservations(
        cursor: cursor, scanMax: Self.referenceScanMax, state: state, reference: reference,
        each: add)
    if let next { PageToken.write(2, next, of: list, session, to: writer) }
    return session.lastLSN
  }

  /// Records that one ListReservations looks at: about 0.1 ms of work.
  private static let scanMax = 4096
  /// The same of those of one reference, which are found one by one: some milliseconds. A page that ends
  /// here before it is full is one of more reservations than an order or a customer has.
  private static let referenceScanMax = 16384
  /// Clients take messages of 4 MiB; a reservation of 64 lines with long names has 9 KiB.
  static let pageBytesMax = 1024 * 1024
  private static var tooFewLines: FieldViolation { FieldViolation("lines", "1 to 64 lines") }

  // MARK: Requests

  /// Reads the lines' next entry, and hands it to the session.
  /// - Parameter takesMinimum: less may do than all of it.
  @inline(__always)
  private func readLine(
    _ count: inout Int, _ reader: inout ProtoReader, takesMinimum: Bool = false
  ) {
    let submessage = reader.enter()
    let line = ProtoLine(&reader)
    reader.leave(submessage, "lines", index: count)
    if reader.isWhole {
      append(line.item, line.quantity, count)
      if line.minimum != 0 { setMinimum(line, count, isTaken: takesMinimum) }
    }
    count += 1
  }

  /// Of line `index`, which was handed to the session if it is good.
  @inline(never)
  private func setMinimum(_ line: ProtoLine, _ index: Int, isTaken: Bool) {
    if index >= rules.store.linesPerReservation { return }
    do throws(FieldViolation) {
      guard isTaken else { throw FieldViolation("min_quantity", "0 where it is not a Reserve") }
      let minimum = try rules.minimum(line.minimum, of: line.quantity)
      // A line that was bad is in the session not at all, and nothing will be asked of it.
      if !hasBadEntries { session.setMinimum(minimum) }
    } catch {
      badEntries.append(error.inside("lines", at: index))
    }
  }

  /// Alternatives that were read, and the lines of them all.
  private struct AlternativeCounts {
    var count = 0
    var lineCount = 0
  }

  /// Reads the next alternative, and hands its lines to the session.
  @inline(never)
  private func readAlternative(_ counts: inout AlternativeCounts, _ reader: inout ProtoReader) {
    let number = counts.count
    // What is one too many is read on, and refused for that.
    let isRead = session.beginAlternative()
    var lineCount = 0
    let submessage = reader.enter()
    while let tag = reader.next() {
      guard tag == .bytes(1) else {
        reader.other(tag, known: 1...1)
        continue
      }
      let lineSubmessage = reader.enter()
      let line = ProtoLine(&reader)
      reader.leave(lineSubmessage, "lines", index: lineCount)
      if reader.isWhole, isRead { append(line, lineCount, ofAlternative: number) }
      lineCount += 1
    }
    reader.leave(submessage, "alternatives", index: number)
    if reader.isWhole, isRead, !(1...rules.store.linesPerReservation ~= lineCount) {
      var violation = Self.tooFewLines.inside("alternatives", at: number)
      violation.member = "lines"
      violation.isOfAlternative = true
      badEntries.append(violation)
    }
    counts.count += 1
    counts.lineCount += lineCount
  }

  private func append(_ line: ProtoLine, _ index: Int, ofAlternative number: Int) {
    do throws(FieldViolation) {
      let name = try rules.item(sku: line.item.sku, location: line.item.location)
      let quantity = try rules.quantity(line.quantity)
      let minimum = line.minimum == 0 ? 0 : try rules.minimum(line.minimum, of: quantity)
      // Where there are too many, all is refused for that.
      _ = session.appendToAlternative(
        LineRequest(item: name, quantity: quantity), minimum: minimum)
    } catch {
      var violation = error.inside("lines", at: index)
      violation.isOfAlternative = true
      violation.outerIndex = number
      if badEntries.count < StoreLimits.linesOfAllMax { badEntries.append(violation) }
    }
  }

  /// Whatever the order of the fields, the request's own lines are named before those of alternatives.
  @inline(never)
  private func putOwnEntriesFirst() {
    badEntries =
      badEntries.filter { !$0.isOfAlternative } + badEntries.filter { $0.isOfAlternative }
  }

  /// Whether the alternatives are as few, and of as few lines together with those of the request, as may be.
  @inline(never)
  private func check(
    _ alternatives: AlternativeCounts, _ lineCount: Int
  ) throws(FieldViolation) {
    guard alternatives.count <= StoreLimits.alternativesMax,
      lineCount + alternatives.lineCount <= StoreLimits.linesOfAllMax
    else {
      throw FieldViolation("alternatives", "0 to 8, and with the request's 128 lines at most")
    }
  }

  /// Hands line `index` to the session; a bad one to `badEntries`. `checkLines` has the rest to say.
  @inline(__always)
  private func append(_ item: ProtoItem, _ quantity: Int64, _ index: Int) {
    guard index < rules.store.linesPerReservation else { return }
    do throws(FieldViolation) {
      let name = try rules.item(sku: item.sku, location: item.location)
      let quantity = try rules.quantity(quantity)
      // Where lines are bad, fewer than `index` may be there.
      _ = session.appendLine(LineRequest(item: name, quantity: quantity))
    } catch {
      badEntries.append(error.inside("lines", at: index))
    }
  }

  /// Whether the lines, `count` in all, are good.
  /// - Throws: the first bad line's violation; `badEntries` has those of all.
  @inline(__always)
  private func checkLines(_ count: Int) throws(FieldViolation) {
    guard count <= rules.store.linesPerReservation else { throw Self.tooFewLines }
    if hasBadEntries { throw badEntries[0] }
  }

  private static var noItem: ItemName { ItemName(sku: .empty, location: .empty) }

  /// Reads a message of which reservation_id = 1 is all.
  @inline(__always)
  private func readID(_ reader: inout ProtoReader) -> BorrowedBytes {
    var id = BorrowedBytes.empty
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): id = reader.bytes()
      default: reader.other(tag, known: 1...1)
      }
    }
    return id
  }

  /// nil where none was sent.
  @inline(__always)
  private func nanoseconds(_ duration: ProtoDuration) throws(FieldViolation) -> Int64? {
    guard duration.isSet else { return nil }
    return try rules.timeToLive(seconds: duration.seconds, nanos: duration.nanos)
  }

  // MARK: Answers

  /// Confirm, Release, Extend, Replace and GetReservation answer alike: reservation = 1, replayed = 2.
  /// - Parameter hasLines: the request names the items that may be unknown.
  private func answer(
    _ decision: Decision<ReservationView>, hasLines: Bool = false, _ response: Response
  ) -> UInt64 {
    switch decision.result {
    case .accepted(let view):
      let writer = response.message
      write(1, view, to: writer)
      writer.field(2, decision.replayed)
    case .refused(let refusal):
      errors.refuse(refusal, isReplay: decision.replayed, session: session, response: response) {
        hasLines ? session.namedItem(line: $0) : Self.noItem
      }
    }
    return decision.lsn
  }

  /// Of a ReserveResponse: alternative = 4, lines = 5.
  @inline(never)
  private func write(_ choice: HoldChoice, to writer: ProtoWriter) {
    if choice.alternative > 0 { writer.field(4, UInt64(choice.alternative)) }
    if choice.tellsLines { writeViewLines(5, to: writer) }
  }

  private func writeViewLines(_ number: Int, to writer: ProtoWriter) {
    for index in 0..<session.viewLineCount {
      let line = session.viewLine(index)
      let name = session.name(of: line.item)
      writer.nested(number) {
        writer.field(1, name.sku)
        writer.field(2, name.location)
        writer.field(3, line.quantity)
      }
    }
  }

  private func write(_ number: Int, _ view: ReservationView, to writer: ProtoWriter) {
    writer.nested(number) {
      writer.field(1, view.id)
      writer.field(2, UInt64(view.state.rawValue))
      writeViewLines(3, to: writer)
      writer.field(4, view.createdAt)
      writer.field(5, view.expiresAt)
      if let endedAt = view.endedAt { writer.field(6, endedAt) }
      writer.field(7, session.viewReference)
      writer.field(8, view.revision)
    }
  }
}
