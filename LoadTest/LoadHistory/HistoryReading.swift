// Reads a history from a file that anybody may have written: whatever its bytes, the answer is a
// history or one line that says what is wrong with it, never a trap.

extension History {
  /// Reads the file at `path`.
  package init(reading path: String) throws(HistoryError) {
    let bytes = try HistoryFile.read(path)
    var decoder = HistoryDecoder()
    do throws(HistoryError) {
      try decoder.take(bytes)
    } catch {
      throw HistoryError("cannot read \(path): \(error)")
    }
    self.init(decoder)
  }

  /// Throws where `bytes` are not what `encode` makes.
  package init(_ bytes: [UInt8]) throws(HistoryError) {
    var decoder = HistoryDecoder()
    try decoder.take(bytes)
    self.init(decoder)
  }

  private init(_ decoder: consuming HistoryDecoder) {
    run = decoder.run ?? RunID(0)
    stock = decoder.stock
    seed = decoder.seed
    safetyStock = decoder.safetyStock
    configuration = decoder.configuration
    startNanoseconds = decoder.startNanoseconds
    startedUnixNanoseconds = decoder.startedUnixNanoseconds
    levels = decoder.levels.isEmpty ? nil : decoder.levels
    violations = decoder.violations
    books = decoder.takeBooks()
  }
}

/// Reads the operations of one agent, whose clock is another than ours.
///
/// Its clock is ours less something between two bounds. What was sent counts as sent as early as it can
/// have been, and what was answered as answered as late: what the server did lies between the two by
/// our clock too, and the check takes no order for granted that the clocks do not prove.
package struct BooksReader: ~Copyable {
  private var decoder: HistoryDecoder

  /// - Parameters:
  ///   - run, skuCount, keepsCommitted: what the run is.
  ///   - workers: whose operations they may be.
  ///   - sentFrom: the instant that the pieces' times count from, by our clock, at the earliest.
  ///   - answeredFrom: the same at the latest.
  package init(
    run: RunID, skuCount: Int, keepsCommitted: Bool, workers: Range<Int>, sentFrom: Int64,
    answeredFrom: Int64
  ) {
    decoder = HistoryDecoder(
      run: run, skuCount: skuCount, keepsCommitted: keepsCommitted, workers: workers,
      sentFrom: sentFrom, answeredFrom: answeredFrom)
  }

  /// Takes a piece that `Books.encode` has made, in the order in which they were made.
  package mutating func take(_ piece: [UInt8]) throws(HistoryError) {
    try decoder.takeOperations(piece)
  }

  /// What has come.
  /// - Parameter operations: how many there were to be.
  package mutating func takeBooks(operations: Int) throws(HistoryError) -> Books {
    guard decoder.operationCount == operations else { throw .cutOff }
    return decoder.takeBooks()
  }
}

extension HistoryError {
  fileprivate static let malformed = HistoryError(
    "it is not a history that holdfast-load has written")
  fileprivate static let cutOff = HistoryError("the history is cut off, or damaged")
}

/// Bounds within which no sum or difference of the check can overflow.
private enum Plausible {
  /// Of a clock, or a time to live: 36 years.
  static let clock: ClosedRange<Int64> = -(1 << 60)...1 << 60
  /// Since the run's start: 104 days.
  static let time: ClosedRange<Int64> = -(1 << 53)...1 << 53
  /// Since the Unix epoch: until 2116.
  static let date: ClosedRange<Int64> = 0...1 << 62
  static let units: ClosedRange<Int64> = 0...1 << 40
  static let balance: ClosedRange<Int64> = -(1 << 48)...1 << 48
}

private struct HistoryDecoder: ~Copyable {
  private(set) var run: RunID?
  private(set) var seed: UInt64 = 0
  private(set) var safetyStock: Int64 = 0
  private var keepsCommitted = false
  private var isOfOrders = false
  private(set) var configuration = ""
  private(set) var startNanoseconds: Int64 = 0
  private(set) var startedUnixNanoseconds: Int64 = 0
  private(set) var stock: [Int64] = []
  private var books = Books()
  /// Where the ledger of each worker stands.
  private var ledgers: [Int: Int] = [:]
  private(set) var levels: [ReadLevel] = []
  private(set) var violations: [Violation] = []
  private(set) var operationCount = 0
  private var isWhole = false
  /// Of the pieces of an agent: how many SKUs there are, and what its answers' times count from.
  private var agentSKUs: Int?
  private var answeredFrom: Int64?
  private var workers = 0..<256

  init() {}

  init(
    run: RunID, skuCount: Int, keepsCommitted: Bool, workers: Range<Int>, sentFrom: Int64,
    answeredFrom: Int64
  ) {
    self.run = run
    agentSKUs = skuCount
    self.keepsCommitted = keepsCommitted
    self.workers = workers
    startNanoseconds = sentFrom
    self.answeredFrom = answeredFrom
  }

  /// Reads whole operations, and nothing else.
  mutating func takeOperations(_ bytes: [UInt8]) throws(HistoryError) {
    var reader = MessageReader(0..<bytes.count)
    while let field = reader.next(in: bytes.span) {
      guard field.number == 4 else { throw .malformed }
      try takeOperation(bytes.span, field.content)
    }
    if reader.isMalformed { throw .cutOff }
  }

  /// Reads a whole file. Throws where it is not what `History.encode` makes.
  mutating func take(_ bytes: [UInt8]) throws(HistoryError) {
    var reader = MessageReader(0..<bytes.count)
    while let field = reader.next(in: bytes.span) { try take(field, bytes.span) }
    if reader.isMalformed { throw run == nil ? .malformed : .cutOff }
    try requireWhole()
  }

  private mutating func take(
    _ field: MessageReader.Field, _ bytes: Span<UInt8>
  ) throws(HistoryError) {
    switch field.number {
    case 1:
      guard (1...History.format).contains(field.varint) else {
        throw HistoryError(
          "it has format \(field.varint), and this program reads formats 1 to \(History.format)")
      }
    case 2: try takeRun(bytes, field.content)
    case 3: try takeStock(field, bytes)
    case 4: try takeOperation(bytes, field.content)
    case 5: levels.append(try level(bytes, field.content))
    case 6: violations.append(try HistoryDecoder.violation(bytes, field.content))
    case 7:
      if field.varint != UInt64(operationCount) {
        throw HistoryError("its operations are \(operationCount), and it says \(field.varint)")
      }
      isWhole = true
    default: break
    }
  }

  private func requireWhole() throws(HistoryError) {
    guard run != nil, !stock.isEmpty else { throw .malformed }
    guard isWhole else { throw .cutOff }
    guard levels.isEmpty || levels.count == stock.count else {
      throw HistoryError("its SKUs are \(stock.count), and it has balances of \(levels.count)")
    }
  }

  mutating func takeBooks() -> Books { exchange(&books, with: Books()) }

  // MARK: Messages

  private mutating func takeRun(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(HistoryError) {
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1:
        let text = HistoryDecoder.text(bytes, field.content)
        guard text.utf8.count == 10, let bits = UInt64(text, radix: 16) else { throw .malformed }
        run = RunID(bits)
      case 3: seed = field.varint
      case 4: configuration = HistoryDecoder.text(bytes, field.content)
      case 5: startedUnixNanoseconds = try field.number(in: Plausible.date)
      case 6: startNanoseconds = try field.number(in: Plausible.clock)
      case 7: safetyStock = try field.number(in: -Plausible.units.upperBound...0)
      case 8: keepsCommitted = field.varint != 0
      case 9: isOfOrders = field.varint != 0
      default: break
      }
    }
    if reader.isMalformed { throw .malformed }
  }

  /// One, or many packed.
  private mutating func takeStock(
    _ field: MessageReader.Field, _ bytes: Span<UInt8>
  ) throws(HistoryError) {
    guard field.isBytes else {
      stock.append(try field.number(in: Plausible.units))
      return
    }
    var reader = MessageReader(field.content)
    while let value = reader.nextVarint(in: bytes) {
      guard stock.count < SKUNames.countMaximum, let units = Int64(exactly: value),
        Plausible.units.contains(units)
      else { throw .malformed }
      stock.append(units)
    }
    if reader.isMalformed { throw .malformed }
  }

  private mutating func takeOperation(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(HistoryError) {
    guard let run else { throw .malformed }
    let head = try OperationHead(bytes, range, skuCount: agentSKUs ?? stock.count)
    guard workers.contains(head.worker) else { throw .malformed }
    if ledgers[head.worker] == nil {
      ledgers[head.worker] = books.count
      books.add(
        Ledger(
          worker: head.worker, names: SKUNames(run: run), keys: KeyNames(run: run),
          keepsCommitted: keepsCommitted, isOfOrders: isOfOrders))
    }
    let start = startNanoseconds
    let answeredFrom = answeredFrom ?? start
    try books.withLedger(ledgers[head.worker] ?? 0) { (ledger) throws(HistoryError) in
      guard head.number == ledger.count else {
        throw HistoryError(
          "operation \(ledger.count) of worker \(head.worker) is missing before \(head.number)")
      }
      let operation = head.open(in: &ledger)
      var reader = MessageReader(range)
      while let field = reader.next(in: bytes) {
        if field.number != 6 { continue }
        let attempt = try DecodedAttempt(bytes, field.content, start, answeredFrom)
        guard attempt.fits(ledger[operation].kind),
          attempt.method != .replace || ledger[operation].newLineCount > 0
        else { throw .malformed }
        ledger.sent(operation, attempt.method, at: attempt.sent)
        guard let answered = attempt.answered else { continue }
        ledger.answered(
          operation, attempt.method, attempt.reply, sentAt: attempt.sent, at: answered)
      }
    }
    operationCount += 1
  }

  private func level(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(HistoryError) -> ReadLevel {
    var isKnown = false
    var level = StockLevel(onHand: 0, held: 0)
    var sent: Int64 = 0
    var answered: Int64 = 0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: isKnown = field.varint != 0
      case 2: level.onHand = try field.number(in: Plausible.balance)
      case 3: level.held = try field.number(in: Plausible.balance)
      case 4: sent = try field.number(in: Plausible.time)
      case 5: answered = try field.number(in: Plausible.time)
      case 6: level.committed = try field.number(in: Plausible.balance)
      default: break
      }
    }
    guard !reader.isMalformed, sent <= answered else { throw .malformed }
    return ReadLevel(
      level: isKnown ? level : nil, sentNanoseconds: startNanoseconds + sent,
      answeredNanoseconds: startNanoseconds + answered)
  }

  private static func violation(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(HistoryError) -> Violation {
    var kind = ""
    var text = ""
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { kind = HistoryDecoder.text(bytes, field.content) }
      if field.number == 2 { text = HistoryDecoder.text(bytes, field.content) }
    }
    guard !reader.isMalformed, let kind = Violation.Kind(rawValue: kind) else { throw .malformed }
    return Violation(kind, text)
  }

  /// As it stands, but for what would move a terminal's cursor.
  private static func text(_ bytes: Span<UInt8>, _ range: Range<Int>) -> String {
    let decoded = String(decoding: range.map { bytes[$0] }, as: UTF8.self)
    let isControl = { (scalar: Unicode.Scalar) in scalar.properties.generalCategory == .control }
    return String(String.UnicodeScalarView(decoded.unicodeScalars.map { isControl($0) ? "?" : $0 }))
  }
}

extension MessageReader.Field {
  /// The value of an int64.
  fileprivate func number(in range: ClosedRange<Int64>) throws(HistoryError) -> Int64 {
    let number = Int64(bitPattern: varint)
    guard range.contains(number) else { throw .malformed }
    return number
  }

  fileprivate func exact<Number: FixedWidthInteger>() throws(HistoryError) -> Number {
    guard let number = Number(exactly: varint) else { throw .malformed }
    return number
  }
}

/// An operation without its attempts.
private struct OperationHead {
  private(set) var worker = 0
  private(set) var number = 0
  private var kind: Operation.Kind?
  private var lines: [CartLine] = []
  private var newLines: [CartLine] = []
  /// Of all alternatives, one behind the other.
  private var alternativeLines: [CartLine] = []
  private var expectedRevision: UInt8 = 0
  private var expectedOnHand: Int64 = -1
  private var subject: UInt32 = 0
  /// 0: there is no limit.
  private var maxUnits: UInt32 = 0
  private var timeToLiveNanoseconds: Int64 = 0

  init(_ bytes: Span<UInt8>, _ range: Range<Int>, skuCount: Int) throws(HistoryError) {
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1:
        let worker: UInt8 = try field.exact()
        self.worker = Int(worker)
      case 2: number = try field.exact()
      case 3:
        let value: UInt8 = try field.exact()
        kind = Operation.Kind(rawValue: value &- 1)
      case 4: lines.append(try OperationHead.line(bytes, field.content, skuCount))
      case 5: timeToLiveNanoseconds = try field.number(in: 0...Plausible.clock.upperBound)
      case 7: newLines.append(try OperationHead.line(bytes, field.content, skuCount))
      case 8: expectedRevision = try field.exact()
      case 9: expectedOnHand = try field.number(in: Plausible.units)
      case 10: subject = try field.exact()
      case 11: maxUnits = try field.exact()
      case 12: alternativeLines.append(try OperationHead.line(bytes, field.content, skuCount))
      default: break
      }
    }
    guard !reader.isMalformed, let kind, (1...64).contains(lines.count),
      kind == .reserve || lines.count == 1 && newLines.isEmpty && alternativeLines.isEmpty,
      newLines.count <= 64, alternativeLines.count.isMultiple(of: lines.count),
      alternativeLines.count <= 8 * lines.count
    else { throw .malformed }
    // No run asks for both.
    let hasChoice = !alternativeLines.isEmpty || lines.contains { $0.minimum > 0 }
    if hasChoice, !newLines.isEmpty || maxUnits > 0 { throw .malformed }
  }

  fileprivate static func line(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ skuCount: Int
  ) throws(HistoryError) -> CartLine {
    var sku: UInt32 = 0
    var quantity: UInt32 = 0
    var minimum: UInt32 = 0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { sku = try field.exact() }
      if field.number == 2 { quantity = try field.exact() }
      if field.number == 3 { minimum = try field.exact() }
    }
    guard !reader.isMalformed, sku < skuCount, minimum <= quantity else { throw .malformed }
    return CartLine(sku: sku, quantity: quantity, minimum: minimum)
  }

  /// Its number in `ledger`.
  func open(in ledger: inout Ledger) -> Int {
    switch kind {
    case .read: return ledger.openRead(sku: lines[0].sku)
    case .restock: return ledger.openRestock(sku: lines[0].sku, units: lines[0].quantity)
    case .ship, .uncommit:
      return ledger.openShip(
        sku: lines[0].sku, units: lines[0].quantity, isUnsold: kind == .uncommit)
    case .count:
      let operation = ledger.openCount(sku: lines[0].sku, missing: lines[0].quantity)
      ledger.setExpected(expectedOnHand, of: operation)
      return operation
    case .reserve, nil:
      for line in lines + alternativeLines { ledger.addLine(line) }
      let operation = ledger.openReserve(
        lineCount: lines.count, alternatives: alternativeLines.count / lines.count,
        timeToLiveNanoseconds: timeToLiveNanoseconds,
        limit: maxUnits > 0 ? SubjectLimit(subject: subject, maxUnits: maxUnits) : nil)
      if !newLines.isEmpty {
        for line in newLines { ledger.addLine(line) }
        ledger.openReplace(
          of: operation, lineCount: newLines.count, expectedRevision: Int(expectedRevision))
      }
      return operation
    }
  }
}

/// An attempt as it stands in a file; times are of the generator's clock.
private struct DecodedAttempt {
  private(set) var method = Method.batchGetStock
  private(set) var sent: Int64
  private(set) var answered: Int64?
  private(set) var reply = Reply.unknown

  private struct Parts {
    var answer: UInt64 = 0
    var isReplayed = false
    var id: ReservationID?
    var expires: Int64 = 0
    var code: UInt8 = 0
    var reason = RefusalReason.unnamed
    var sku: UInt32?
    var available: Int64?
    var used: Int64?
    var fingerprint: UInt64 = 0
    var level = StockLevel(onHand: 0, held: 0)
    var grant = Grant()
  }

  init(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ start: Int64, _ answeredFrom: Int64
  ) throws(HistoryError) {
    // Many writers leave out a field that is 0.
    sent = start
    var parts = Parts()
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1:
        guard let method = Method(rawValue: Int(truncatingIfNeeded: field.varint) &- 1) else {
          throw .malformed
        }
        self.method = method
      case 2: sent = start + (try field.number(in: Plausible.time))
      case 3: answered = answeredFrom + (try field.number(in: Plausible.time))
      default: try DecodedAttempt.take(field, bytes, into: &parts)
      }
    }
    if reader.isMalformed { throw .malformed }
    reply = try DecodedAttempt.reply(parts, to: method)
    guard sent <= answered ?? sent, answered != nil || reply == .unknown else { throw .malformed }
  }

  private static func take(
    _ field: MessageReader.Field, _ bytes: Span<UInt8>, into parts: inout Parts
  ) throws(HistoryError) {
    switch field.number {
    case 4: parts.answer = field.varint
    case 5: parts.isReplayed = field.varint != 0
    case 6:
      if field.content.isEmpty { break }
      guard let id = ReservationID(bytes.extracting(field.content)) else { throw .malformed }
      parts.id = id
    case 7: parts.expires = try field.number(in: Plausible.date)
    case 8: parts.code = try field.exact()
    case 9:
      let value: UInt8 = try field.exact()
      guard let reason = RefusalReason(rawValue: value &- 1) else { throw .malformed }
      parts.reason = reason
    case 10: parts.sku = try field.exact()
    case 11: parts.available = try field.number(in: Plausible.balance)
    case 12: parts.fingerprint = field.varint
    case 13: parts.level.onHand = try field.number(in: Plausible.balance)
    case 14: parts.level.held = try field.number(in: Plausible.balance)
    case 15: parts.level.committed = try field.number(in: Plausible.balance)
    case 16: parts.used = try field.number(in: Plausible.balance)
    case 17:
      let alternative: UInt8 = try field.exact()
      parts.grant.alternative = Int(alternative)
    case 18:
      guard parts.grant.lines.count < 64 else { throw .malformed }
      parts.grant.lines.append(
        try OperationHead.line(bytes, field.content, Int(Ledger.none) + 1))
    default: break
    }
  }

  private static func reply(_ parts: Parts, to method: Method) throws(HistoryError) -> Reply {
    switch parts.answer {
    case 0: return .unknown
    case 1:
      guard parts.id != nil || method != .reserve, method != .getStock else { throw .malformed }
      return .accepted(
        id: parts.id ?? ReservationID(number: 0), expiresNanoseconds: parts.expires,
        isReplayed: parts.isReplayed, grant: method == .reserve ? parts.grant : Grant())
    case 2:
      return .refused(
        Refusal(
          code: parts.code, reason: parts.reason, sku: parts.sku, available: parts.available,
          used: parts.used, fingerprint: parts.fingerprint, isReplayed: parts.isReplayed))
    case 3: return .noEffect
    case 4 where method == .getStock: return .read(parts.level)
    default: throw .malformed
    }
  }

  /// Whether an operation of `kind` makes such calls.
  func fits(_ kind: Operation.Kind) -> Bool {
    switch method {
    case .reserve, .replace, .confirm, .release, .extend: kind == .reserve
    case .getStock: kind == .read || kind == .count
    case .adjustStock: kind != .reserve && kind != .read
    case .batchGetStock, .batchReserve, .reserveStream: false
    }
  }
}
