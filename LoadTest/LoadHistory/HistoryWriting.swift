// A history as bytes: LoadTest/history.proto says what they mean. They are handed over in pieces, so
// that a long run's file is never in memory as a whole.
internal import Glibc

extension History {
  /// Pieces are at least this long, but for the last.
  fileprivate static let pieceBytes = 1 << 20
  /// 1 knew no limits and no alternatives: a program that reads it alone would call their answers wrong.
  static let format: UInt64 = 2

  /// Hands all bytes to `write`, piece by piece.
  package borrowing func encode<Failure: Error>(
    _ write: (Span<UInt8>) throws(Failure) -> Void
  ) throws(Failure) {
    var file = MessageBuffer()
    writeHead(to: &file)
    let count = try books.encode(startNanoseconds: startNanoseconds, into: &file, write)
    var part = MessageBuffer()
    for level in levels ?? [] {
      part.writeBalance(level, startNanoseconds)
      file.appendField(5, message: part)
      if file.count >= History.pieceBytes { try file.flush(write) }
    }
    for violation in violations {
      part.removeAll()
      part.appendField(1, bytes: Array(violation.kind.rawValue.utf8))
      part.appendField(2, bytes: Array(violation.text.utf8))
      file.appendField(6, message: part)
    }
    file.appendField(7, varint: UInt64(count))
    try file.flush(write)
  }

  private borrowing func writeHead(to file: inout MessageBuffer) {
    file.appendField(1, varint: History.format)
    var part = MessageBuffer()
    part.appendField(1, bytes: Array(run.text.utf8))
    part.appendField(2, bytes: names.prefix)
    part.appendField(3, varint: seed)
    part.appendField(4, bytes: Array(configuration.utf8))
    part.appendField(5, signed: startedUnixNanoseconds)
    part.appendField(6, signed: startNanoseconds)
    if safetyStock != 0 { part.appendField(7, signed: safetyStock) }
    if books.keepsCommitted { part.appendField(8, varint: 1) }
    if books.isOfOrders { part.appendField(9, varint: 1) }
    file.appendField(2, message: part)
    part.removeAll()
    for units in stock { part.appendVarint(UInt64(bitPattern: units)) }
    file.appendField(3, message: part)
  }

  /// All bytes at once.
  package borrowing func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    encode { piece in for index in piece.indices { bytes.append(piece[index]) } }
    return bytes
  }

  /// Writes the file at `path`. A file that is there is replaced as a whole, at the end.
  package borrowing func write(to path: String) throws(HistoryError) {
    let file = try HistoryFile(replacing: path)
    try encode { (piece) throws(HistoryError) in try file.write(piece) }
    try file.finish()
  }
}

extension Books {
  /// Hands all operations to `write`, piece by piece: each is whole `operations` of a History. How many
  /// there are.
  ///
  /// - Parameter startNanoseconds: the instant that times count from.
  package borrowing func encode<Failure: Error>(
    startNanoseconds: Int64, _ write: (Span<UInt8>) throws(Failure) -> Void
  ) throws(Failure) -> Int {
    var piece = MessageBuffer()
    let count = try encode(startNanoseconds: startNanoseconds, into: &piece, write)
    try piece.flush(write)
    return count
  }

  /// The last piece stays in `file`.
  fileprivate borrowing func encode<Failure: Error>(
    startNanoseconds: Int64, into file: inout MessageBuffer,
    _ write: (Span<UInt8>) throws(Failure) -> Void
  ) throws(Failure) -> Int {
    var part = MessageBuffer()
    var count = 0
    for number in 0..<self.count {
      var operation = 0
      while true {
        let isMore = withLedger(number) { ledger in
          while operation < ledger.count, file.count < History.pieceBytes {
            part.writeOperation(operation, of: ledger, startNanoseconds)
            file.appendField(4, message: part)
            operation += 1
          }
          return operation < ledger.count
        }
        if !isMore { break }
        try file.flush(write)
      }
      count += operation
    }
    return count
  }
}

extension MessageBuffer {
  fileprivate mutating func flush<Failure: Error>(
    _ write: (Span<UInt8>) throws(Failure) -> Void
  ) throws(Failure) {
    try withSpan { (bytes) throws(Failure) in try write(bytes) }
    removeAll()
  }

  /// A varint field of a number that may be below zero (int64).
  fileprivate mutating func appendField(_ number: UInt8, signed value: Int64) {
    appendField(number, varint: UInt64(bitPattern: value))
  }

  fileprivate mutating func writeOperation(
    _ operation: Int, of ledger: borrowing Ledger, _ start: Int64
  ) {
    removeAll()
    let record = ledger[operation]
    appendField(1, varint: UInt64(ledger.worker))
    appendField(2, varint: UInt64(operation))
    appendField(3, varint: UInt64(record.kind.rawValue) + 1)
    appendLines(ledger.cart(of: operation), 4, ledger)
    appendField(5, signed: record.timeToLiveNanoseconds)
    appendLines(ledger.newCart(of: operation), 7, ledger)
    for number in 0..<Int(record.alternativeCount) {
      appendLines(ledger.cart(of: operation, alternative: number + 1), 12, ledger)
    }
    if let limit = record.limit {
      appendField(10, varint: UInt64(limit.subject))
      appendField(11, varint: UInt64(limit.maxUnits))
    }
    if record.expectedOnHand >= 0 { appendField(9, varint: UInt64(record.expectedOnHand)) }
    if record.expectedRevision > 0 { appendField(8, varint: UInt64(record.expectedRevision)) }
    for index in ledger.attempts(of: operation) {
      let attempt = beginField(6)
      appendAttempt(ledger.attempt(index), ledger, start)
      endField(attempt)
    }
  }

  private mutating func appendLines(
    _ range: Range<Int>, _ field: UInt8, _ ledger: borrowing Ledger
  ) {
    for index in range {
      let line = ledger.line(at: index)
      let start = beginField(field)
      appendField(1, varint: UInt64(line.sku))
      appendField(2, varint: UInt64(line.quantity))
      if line.minimum > 0 { appendField(3, varint: UInt64(line.minimum)) }
      endField(start)
    }
  }

  private mutating func appendAttempt(
    _ attempt: Attempt, _ ledger: borrowing Ledger, _ start: Int64
  ) {
    appendField(1, varint: UInt64(attempt.method.rawValue) + 1)
    appendField(2, signed: attempt.sentNanoseconds &- start)
    if attempt.answeredNanoseconds != .max {
      appendField(3, signed: attempt.answeredNanoseconds &- start)
    }
    switch ledger.answer(to: attempt) {
    case .none: break
    case .accepted(let id, let expires, let isReplayed, let grant):
      appendField(4, varint: 1)
      if isReplayed { appendField(5, varint: 1) }
      if let id {
        let text = beginField(6)
        id.append(to: &self)
        endField(text)
      }
      if expires != 0 { appendField(7, signed: expires) }
      if grant.alternative > 0 { appendField(17, varint: UInt64(grant.alternative)) }
      for line in grant.lines {
        let start = beginField(18)
        appendField(1, varint: UInt64(line.sku))
        appendField(2, varint: UInt64(line.quantity))
        endField(start)
      }
    case .refused(let refusal):
      appendField(4, varint: 2)
      if refusal.isReplayed { appendField(5, varint: 1) }
      appendField(8, varint: UInt64(refusal.code))
      appendField(9, varint: UInt64(refusal.reason.rawValue) + 1)
      if let sku = refusal.sku { appendField(10, varint: UInt64(sku)) }
      if let available = refusal.available { appendField(11, signed: available) }
      appendField(12, varint: refusal.fingerprint)
      if let used = refusal.used { appendField(16, signed: used) }
    case .withoutEffect: appendField(4, varint: 3)
    case .read(let level):
      appendField(4, varint: 4)
      appendField(13, signed: level.onHand)
      appendField(14, signed: level.held)
      if level.committed != 0 { appendField(15, signed: level.committed) }
    }
  }

  fileprivate mutating func writeBalance(_ read: ReadLevel, _ start: Int64) {
    removeAll()
    if let level = read.level {
      appendField(1, varint: 1)
      appendField(2, signed: level.onHand)
      appendField(3, signed: level.held)
    }
    appendField(4, signed: read.sentNanoseconds &- start)
    appendField(5, signed: read.answeredNanoseconds &- start)
    if let committed = read.level?.committed, committed != 0 { appendField(6, signed: committed) }
  }
}
