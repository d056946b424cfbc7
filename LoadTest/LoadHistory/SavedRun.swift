// A run's ledgers as a file: `run --save-ledger` writes it, `audit` reads it and writes it again with
// what it has learned.
//
// One protobuf message, so that `protoc --decode_raw` shows it. Numbers in brackets:
//
//   file      run (1), time to live in nanoseconds (2), units behind a SKU (3) for each SKU, then per
//             worker: its number (4), a call (5) for each of its calls, a violation (6) for each that
//             it has found
//   call      reserve (1) and end (2), both attempts; reservation id (3), expires_at in nanoseconds
//             (4), fingerprint (5) and SKU (6) of a refusal, ending (7), a line (8) for each
//   attempts  sent (1) and answered (2) in nanoseconds, decision (3), reason (4), how many were sent
//             (5), first (6), replayed (7), refused (8), without effect (9)
//   line      SKU (1), quantity (2)
//   violation kind (1), text (2)
//
// A field that is left out has the value that a new ReserveRecord has.

/// A file that is no history. One line that says why.
package struct HistoryError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// All that is needed to hold a run against the server once more.
package struct SavedRun: ~Copyable {
  package let run: RunID
  /// Units put behind each SKU.
  package let stock: [Int64]
  package let timeToLiveNanoseconds: Int64
  package var books: Books

  /// What the SKUs of the run are called.
  package var names: SKUNames { SKUNames(run: run) }

  package init(
    run: RunID, stock: [Int64], timeToLiveNanoseconds: Int64, books: consuming Books
  ) {
    self.run = run
    self.stock = stock
    self.timeToLiveNanoseconds = timeToLiveNanoseconds
    self.books = books
  }
}

// MARK: Writing

extension SavedRun {
  package func encoded() -> [UInt8] {
    var file = MessageBuffer()
    file.appendField(1, varint: run.bits)
    file.appendField(2, varint: UInt64(timeToLiveNanoseconds))
    for units in stock { file.appendField(3, varint: UInt64(units)) }
    var part = MessageBuffer()
    books.forEachLedger { ledger in
      file.appendField(4, varint: UInt64(ledger.worker))
      for operation in 0..<ledger.count {
        part.writeCall(operation, of: ledger)
        file.appendField(5, message: part)
      }
      for violation in ledger.violations {
        part.removeAll()
        part.appendField(1, bytes: Array(violation.kind.rawValue.utf8))
        part.appendField(2, bytes: Array(violation.text.utf8))
        file.appendField(6, message: part)
      }
    }
    return file.withSpan { bytes in bytes.indices.map { bytes[$0] } }
  }
}

extension MessageBuffer {
  fileprivate mutating func writeCall(_ operation: Int, of ledger: borrowing Ledger) {
    removeAll()
    let record = ledger.records[operation]
    appendAttempts(1, record.reserve)
    appendAttempts(2, record.end)
    if record.reserve.decision == .accepted {
      let id = beginField(3)
      record.id.append(to: &self)
      endField(id)
      appendField(4, varint: UInt64(bitPattern: record.expiresNanoseconds))
    }
    appendField(5, varint: record.fingerprint)
    appendField(6, varint: UInt64(record.refusedSKU))
    appendField(7, varint: UInt64(record.ending.rawValue))
    for index in ledger.cart(of: operation) {
      let line = beginField(8)
      appendField(1, varint: UInt64(ledger.line(index).sku))
      appendField(2, varint: UInt64(ledger.line(index).quantity))
      endField(line)
    }
  }

  private mutating func appendAttempts(_ number: UInt8, _ attempts: Attempts) {
    if attempts.sent == 0 { return }
    let start = beginField(number)
    appendField(1, varint: UInt64(bitPattern: attempts.sentNanoseconds))
    appendField(2, varint: UInt64(bitPattern: attempts.answeredNanoseconds))
    appendField(3, varint: UInt64(attempts.decision.rawValue))
    appendField(4, varint: UInt64(attempts.reason.rawValue))
    appendField(5, varint: UInt64(attempts.sent))
    appendField(6, varint: UInt64(attempts.first))
    appendField(7, varint: UInt64(attempts.replayed))
    appendField(8, varint: UInt64(attempts.refused))
    appendField(9, varint: UInt64(attempts.withoutEffect))
    endField(start)
  }
}

// MARK: Reading

extension SavedRun {
  /// Throws where `bytes` are not what `encoded` makes.
  package init(_ bytes: [UInt8]) throws(HistoryError) {
    var run = RunID(0)
    var timeToLiveNanoseconds: Int64 = 0
    var stock: [Int64] = []
    var books = Books()
    let content = bytes.span
    var reader = MessageReader(0..<content.count)
    while let field = reader.next(in: content) {
      switch field.number {
      case 1: run = RunID(field.varint)
      case 2: timeToLiveNanoseconds = try SavedRun.read(field.varint)
      case 3: stock.append(try SavedRun.read(field.varint))
      case 4:
        books.add(
          Ledger(
            worker: try SavedRun.read(field.varint), names: SKUNames(run: run),
            keys: KeyNames(run: run)))
      case 5, 6:
        if books.count == 0 { throw SavedRun.malformed }
        try books.withLedger(books.count - 1) { (ledger) throws(HistoryError) in
          if field.number == 5 {
            try SavedRun.readCall(content, field.content, into: &ledger)
          } else {
            try SavedRun.readViolation(content, field.content, into: &ledger)
          }
        }
      default: throw SavedRun.malformed
      }
    }
    if reader.isMalformed || stock.isEmpty { throw SavedRun.malformed }
    self.init(
      run: run, stock: stock, timeToLiveNanoseconds: timeToLiveNanoseconds, books: books)
  }

  private static let malformed = HistoryError("it is not a ledger that holdfast-load has saved")

  private static func read<Number: FixedWidthInteger>(
    _ varint: UInt64
  ) throws(HistoryError) -> Number {
    guard let number = Number(exactly: varint) else { throw malformed }
    return number
  }

  private static func readCall(
    _ bytes: Span<UInt8>, _ range: Range<Int>, into ledger: inout Ledger
  ) throws(HistoryError) {
    var record = ReserveRecord()
    var lines: [CartLine] = []
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: record.reserve = try readAttempts(bytes, field.content)
      case 2: record.end = try readAttempts(bytes, field.content)
      case 3:
        guard let id = ReservationID(bytes.extracting(field.content)) else { throw malformed }
        record.id = id
      case 4: record.expiresNanoseconds = try read(field.varint)
      case 5: record.fingerprint = field.varint
      case 6: record.refusedSKU = try read(field.varint)
      case 7:
        guard let ending = Ending(rawValue: try read(field.varint)) else { throw malformed }
        record.ending = ending
      case 8: lines.append(try readLine(bytes, field.content))
      default: throw malformed
      }
    }
    guard !reader.isMalformed, lines.count <= UInt8.max else { throw malformed }
    ledger.restore(record, lines: lines)
  }

  private static func readLine(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(HistoryError) -> CartLine {
    var sku: UInt32 = 0
    var quantity: UInt32 = 0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { sku = try read(field.varint) }
      if field.number == 2 { quantity = try read(field.varint) }
    }
    if reader.isMalformed { throw malformed }
    return CartLine(sku: sku, quantity: quantity)
  }

  private static func readAttempts(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(HistoryError) -> Attempts {
    var attempts = Attempts()
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: attempts.sentNanoseconds = try read(field.varint)
      case 2: attempts.answeredNanoseconds = try read(field.varint)
      case 3:
        guard let decision = Decision(rawValue: try read(field.varint)) else { throw malformed }
        attempts.decision = decision
      case 4:
        guard let reason = RefusalReason(rawValue: try read(field.varint)) else { throw malformed }
        attempts.reason = reason
      case 5: attempts.sent = try read(field.varint)
      case 6: attempts.first = try read(field.varint)
      case 7: attempts.replayed = try read(field.varint)
      case 8: attempts.refused = try read(field.varint)
      case 9: attempts.withoutEffect = try read(field.varint)
      default: throw malformed
      }
    }
    if reader.isMalformed { throw malformed }
    return attempts
  }

  private static func readViolation(
    _ bytes: Span<UInt8>, _ range: Range<Int>, into ledger: inout Ledger
  ) throws(HistoryError) {
    var kind = ""
    var text = ""
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      let content = bytes.extracting(field.content)
      let string = String(decoding: content.indices.map { content[$0] }, as: UTF8.self)
      if field.number == 1 { kind = string }
      if field.number == 2 { text = string }
    }
    guard !reader.isMalformed, let kind = Violation.Kind(rawValue: kind) else { throw malformed }
    ledger.note(kind, text)
  }
}
