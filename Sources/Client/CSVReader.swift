// CSV by RFC 4180: fields between commas, records between line ends, quotes around what has either. Reads a file of any
// length in constant memory; whatever is in it, what is wrong is said with its line and column, and the next record is
// found.

/// A field of a record.
package struct CSVField: Equatable, Sendable {
  package var bytes: [UInt8] = []
  /// Where it begins: its byte in the line, from 1, and the line, which is another than the record's behind a line end in
  /// quotes.
  package var column = 1
  package var line = 1

  /// nil where it is not UTF-8.
  package var text: String? { String(validating: bytes, as: UTF8.self) }
}

/// What is wrong with a file, and where.
package struct CSVMistake: Error, Equatable, Sendable, CustomStringConvertible {
  /// Both from 1.
  package let line: Int
  package let column: Int
  package let text: String

  package init(line: Int, column: Int, _ text: String) {
    self.line = line
    self.column = column
    self.text = text
  }

  /// `17:5: …`, as compilers say it.
  package var description: String { "\(line):\(column): \(text)" }
}

/// A line of the file, or more where line ends stand in quotes.
package struct CSVRecord: Equatable, Sendable {
  package var fields: [CSVField] = []
  /// Its first line, from 1.
  package var line = 1
  /// As it stands in the file, without its end; of one that is too long, the beginning.
  package var bytes: [UInt8] = []
  /// The first thing that is wrong with it.
  package var mistake: CSVMistake?
}

/// Reads records one after the other.
package struct CSVReader: ~Copyable {
  /// Longest record, in bytes.
  package static let recordBytesMax = 64 << 10
  /// Most fields of a record.
  package static let fieldsMax = 256

  private enum State {
    /// At the beginning of a field.
    case start
    case plain
    case quoted
    /// Behind a quote in a quoted field: its end, or the first of two.
    case quote
    /// The quoted field has ended, and something stands behind it.
    case behind
  }

  private let separator: UInt8
  private let read: () throws(CSVMistake) -> [UInt8]
  private var chunk: [UInt8] = []
  private var at = 0
  private var isAtEnd = false
  private var line = 1
  private var column = 1
  private var isFirst = true

  /// - Parameters:
  ///   - separator: what stands between fields; no quote and no line end.
  ///   - read: the next bytes of the file; empty at its end.
  package init(
    separator: UInt8 = UInt8(ascii: ","), read: @escaping () throws(CSVMistake) -> [UInt8]
  ) {
    self.separator = separator
    self.read = read
  }

  /// The next record; empty lines are passed over. nil at the end.
  /// - Throws: where the file cannot be read on, or is none of text.
  package mutating func next() throws(CSVMistake) -> CSVRecord? {
    if isFirst { try passMark() }
    while true {
      var record = CSVRecord()
      record.line = line
      guard try fill(&record) else { return nil }
      let isEmpty = record.mistake == nil && record.fields.count == 1 && record.bytes.isEmpty
      if !isEmpty { return record }
    }
  }

  /// UTF-8's byte order mark, which spreadsheets write; those of UTF-16 say that the file is not to be read here.
  private mutating func passMark() throws(CSVMistake) {
    isFirst = false
    // The mark may come in pieces.
    var head: [UInt8] = []
    while head.count < 3, let byte = try byte() { head.append(byte) }
    if head.starts(with: [0xff, 0xfe]) || head.starts(with: [0xfe, 0xff]) {
      throw CSVMistake(line: 1, column: 1, "the file is UTF-16: save it as UTF-8")
    }
    if head == [0xef, 0xbb, 0xbf] { head = [] }
    chunk.replaceSubrange(0..<at, with: head)
    at = 0
  }

  private mutating func byte() throws(CSVMistake) -> UInt8? {
    while at == chunk.count {
      if isAtEnd { return nil }
      chunk = try read()
      at = 0
      isAtEnd = chunk.isEmpty
    }
    defer { at += 1 }
    return chunk[at]
  }

  /// False where the file has ended before it.
  private mutating func fill(_ record: inout CSVRecord) throws(CSVMistake) -> Bool {
    var state = State.start
    var field = CSVField(column: column, line: line)
    var hasReturn = false
    var isEmpty = true
    var quote = (line: line, column: column)
    while let byte = try byte() {
      isEmpty = false
      let isTooLong = record.bytes.count >= Self.recordBytesMax
      if isTooLong {
        note(&record, "a record of more than \(Self.recordBytesMax) bytes (is a quote not closed?)")
      }
      // A return is part of a line end, or nothing that has a place here.
      if hasReturn, byte != 0x0a, state != .quoted {
        note(&record, "a carriage return without a line feed")
      }
      if byte == 0x0a, state != .quoted {
        newLine()
        return end(&record, &field)
      }
      hasReturn = byte == 0x0d && state != .quoted
      if !hasReturn {
        take(byte, &state, &field, &record, &quote, isTooLong: isTooLong)
      }
      if !isTooLong, !hasReturn { record.bytes.append(byte) }
      if byte == 0x0a { newLine() } else { column += 1 }
    }
    if isEmpty { return false }
    if state == .quoted, record.mistake == nil {
      record.mistake = CSVMistake(
        line: quote.line, column: quote.column, "the quote that begins here is not closed")
    }
    return end(&record, &field)
  }

  private mutating func take(
    _ byte: UInt8, _ state: inout State, _ field: inout CSVField, _ record: inout CSVRecord,
    _ quote: inout (line: Int, column: Int), isTooLong: Bool
  ) {
    if byte == 0 { note(&record, "a NUL byte: is that a text file?") }
    let isQuote = byte == UInt8(ascii: "\"")
    switch state {
    case .start where isQuote:
      state = .quoted
      quote = (line, column)
    case .quoted where isQuote: state = .quote
    case .quote where isQuote:
      state = .quoted
      if !isTooLong { field.bytes.append(byte) }
    case .start, .plain, .quote, .behind:
      if byte == separator {
        if !isTooLong, record.fields.count < Self.fieldsMax { record.fields.append(field) }
        if record.fields.count == Self.fieldsMax {
          note(&record, "more than \(Self.fieldsMax) fields")
        }
        field = CSVField(column: column + 1, line: line)
        state = .start
        return
      }
      if state == .quote || state == .behind {
        note(&record, "something behind the quote that ends a field")
        state = .behind
        return
      }
      if isQuote { note(&record, "a quote within a field that does not begin with one") }
      state = .plain
      if !isTooLong { field.bytes.append(byte) }
    case .quoted: if !isTooLong { field.bytes.append(byte) }
    }
  }

  private mutating func newLine() {
    line += 1
    column = 1
  }

  private mutating func end(_ record: inout CSVRecord, _ field: inout CSVField) -> Bool {
    if record.fields.count < Self.fieldsMax { record.fields.append(field) }
    return true
  }

  /// Where the reader stands.
  private func note(_ record: inout CSVRecord, _ text: String) {
    if record.mistake == nil { record.mistake = CSVMistake(line: line, column: column, text) }
  }

  /// `text` as a field: in quotes where it needs them.
  package static func quoted(_ text: String, separator: UInt8 = UInt8(ascii: ",")) -> String {
    let needsQuotes = text.utf8.contains { [0x22, separator, 0x0a, 0x0d].contains($0) }
    return needsQuotes ? "\"" + text.replacing("\"", with: "\"\"") + "\"" : text
  }
}
