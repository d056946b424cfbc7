// Reads JSON (RFC 8259) front to back, for whoever knows what to expect: nothing is built, and nothing is passed over, so
// that depth and size are its caller's.

/// The text is not JSON, or has something else than was asked for.
package struct JSONError: Error, Equatable, CustomStringConvertible {
  package enum Kind: Sendable {
    /// No JSON, or another value than was asked for.
    case malformed
    /// A member that the reader's owner does not know.
    case unknownMember
  }

  package let kind: Kind
  /// What is wrong, such as `a string without an end`.
  package let text: String
  /// The byte at which it shows.
  package let offset: Int

  package init(_ kind: Kind, _ text: String, at offset: Int) {
    self.kind = kind
    self.text = text
    self.offset = offset
  }

  package var description: String { "\(text) at byte \(offset)" }
}

/// A position in a text, and the value that comes there.
///
///     try reader.beginObject()
///     while let name = try reader.nextName() { … one value … }
package struct JSONReader {
  private let bytes: [UInt8]
  private var at = 0
  /// An object or a list has begun, and nothing of it was read.
  private var isFirst = false

  package init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Where the next byte lies.
  package var offset: Int { at }

  // MARK: Structure

  package mutating func beginObject() throws(JSONError) {
    try expect("{", "an object")
    isFirst = true
  }

  /// The name of the next member, whose value comes; nil: the object has ended.
  package mutating func nextName() throws(JSONError) -> String? {
    skipSpace()
    if take("}") {
      isFirst = false
      return nil
    }
    if !isFirst { try expect(",", "a comma or the object's end") }
    isFirst = false
    let name = try text("a member's name")
    try expect(":", "a colon")
    return name
  }

  package mutating func beginList() throws(JSONError) {
    try expect("[", "a list")
    isFirst = true
  }

  /// Whether another element comes; false: the list has ended.
  package mutating func nextElement() throws(JSONError) -> Bool {
    skipSpace()
    if take("]") {
      isFirst = false
      return false
    }
    if !isFirst { try expect(",", "a comma or the list's end") }
    isFirst = false
    return true
  }

  /// Nothing but space is left.
  package mutating func end() throws(JSONError) {
    skipSpace()
    if at < bytes.count { throw error("more behind the value") }
  }

  // MARK: Values

  /// Takes null, if that is what comes.
  package mutating func null() -> Bool {
    skipSpace()
    guard bytes.count - at >= 4, bytes[at..<at + 4].elementsEqual("null".utf8) else { return false }
    at += 4
    return true
  }

  /// A string without its escapes.
  package mutating func text() throws(JSONError) -> String { try text("a string") }

  /// A whole number of 64 bits, as a number or in a string, as protobuf's JSON has it: 1.0 and 1e3 are whole.
  package mutating func int64() throws(JSONError) -> Int64 {
    skipSpace()
    let start = at
    let isText = take("\"")
    guard let number = number() else { throw error("not a number", start) }
    if isText, !take("\"") { throw error("not a number", start) }
    // 12x is no number and something: whatever reads on would say less.
    if !isText, at < bytes.count, !Self.isDelimiter(bytes[at]) {
      throw error("not a number", start)
    }
    guard let value = number.whole else { throw error("no whole number of 64 bits", start) }
    return value
  }

  private mutating func text(_ what: String) throws(JSONError) -> String {
    try expect("\"", what)
    let start = at
    while at < bytes.count {
      switch bytes[at] {
      case UInt8(ascii: "\""):
        defer { at += 1 }
        return try string(bytes[start..<at], start)
      case UInt8(ascii: "\\"): return try escapedText(start)
      case 0..<0x20: throw error("a control character in a string")
      default: at += 1
      }
    }
    throw error("a string without an end", start - 1)
  }

  /// Of a string with escapes, whose first stands here.
  private mutating func escapedText(_ start: Int) throws(JSONError) -> String {
    var plain = Array(bytes[start..<at])
    while at < bytes.count {
      let byte = bytes[at]
      at += 1
      switch byte {
      case UInt8(ascii: "\""): return try string(plain[...], start)
      case UInt8(ascii: "\\"): plain += try escape()
      case 0..<0x20: throw error("a control character in a string", at - 1)
      default: plain.append(byte)
      }
    }
    throw error("a string without an end", start - 1)
  }

  private func string(_ bytes: ArraySlice<UInt8>, _ start: Int) throws(JSONError) -> String {
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw error("not UTF-8", start)
    }
    return text
  }

  /// What stands for the escape behind a backslash.
  private mutating func escape() throws(JSONError) -> [UInt8] {
    let start = at - 1
    guard at < bytes.count else { throw error("a string without an end", start) }
    let byte = bytes[at]
    at += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
    case UInt8(ascii: "b"): return [8]
    case UInt8(ascii: "f"): return [12]
    case UInt8(ascii: "n"): return [10]
    case UInt8(ascii: "r"): return [13]
    case UInt8(ascii: "t"): return [9]
    case UInt8(ascii: "u"): break
    default: throw error("an unknown escape", start)
    }
    guard var code = hexadecimal() else { throw error("an unknown escape", start) }
    if 0xd800..<0xdc00 ~= code {
      guard take("\\"), take("u"), let low = hexadecimal(), 0xdc00..<0xe000 ~= low else {
        throw error("half a surrogate pair", start)
      }
      code = 0x10000 + (code - 0xd800) << 10 + (low - 0xdc00)
    }
    guard let scalar = Unicode.Scalar(code) else { throw error("half a surrogate pair", start) }
    return Array(String(scalar).utf8)
  }

  private mutating func hexadecimal() -> UInt32? {
    guard bytes.count - at >= 4 else { return nil }
    var code: UInt32 = 0
    for byte in bytes[at..<at + 4] {
      guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue else { return nil }
      code = code << 4 | UInt32(digit)
    }
    at += 4
    return code
  }

  // MARK: Numbers

  /// Digits, of which the first is not 0, times a power of ten.
  private struct Decimal {
    var isNegative = false
    var digits: [UInt8] = []
    var exponent = 0

    /// nil where it is not whole, or too large.
    var whole: Int64? {
      if digits.isEmpty { return 0 }
      guard exponent >= 0, digits.count + exponent <= 19 else { return nil }
      var magnitude: UInt64 = 0
      // 19 digits fit.
      for digit in digits { magnitude = magnitude * 10 + UInt64(digit) }
      for _ in 0..<exponent { magnitude *= 10 }
      if isNegative {
        return magnitude <= 1 << 63 ? Int64(truncatingIfNeeded: 0 &- magnitude) : nil
      }
      return Int64(exactly: magnitude)
    }

    mutating func trim() {
      digits.removeFirst(digits.prefix { $0 == 0 }.count)
      while digits.last == 0 {
        digits.removeLast()
        exponent += 1
      }
    }
  }

  /// nil where no number stands.
  private mutating func number() -> Decimal? {
    var number = Decimal(isNegative: take("-"))
    let first = at
    while let digit = digit() { number.digits.append(digit) }
    // At least one, and no 0 before another.
    if at == first || (bytes[first] == UInt8(ascii: "0") && at - first > 1) { return nil }
    if take(".") {
      let before = at
      while let digit = digit() { number.digits.append(digit) }
      if at == before { return nil }
      number.exponent = before - at
    }
    if take("e") || take("E") {
      let isNegative = take("-")
      if !isNegative { _ = take("+") }
      let before = at
      var exponent = 0
      // Beyond a million nothing is whole but 0, whatever the digits.
      while let digit = digit() { exponent = min(exponent * 10 + Int(digit), 1_000_000) }
      if at == before { return nil }
      number.exponent += isNegative ? -exponent : exponent
    }
    number.trim()
    return number
  }

  private mutating func digit() -> UInt8? {
    guard at < bytes.count, UInt8(ascii: "0")...UInt8(ascii: "9") ~= bytes[at] else { return nil }
    defer { at += 1 }
    return bytes[at] - UInt8(ascii: "0")
  }

  // MARK: Bytes

  private static func isDelimiter(_ byte: UInt8) -> Bool {
    switch byte {
    case 9, 10, 13, 32, UInt8(ascii: ","), UInt8(ascii: "]"), UInt8(ascii: "}"): true
    default: false
    }
  }

  private mutating func skipSpace() {
    while at < bytes.count {
      switch bytes[at] {
      case 9, 10, 13, 32: at += 1
      default: return
      }
    }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard at < bytes.count, bytes[at] == UInt8(ascii: character) else { return false }
    at += 1
    return true
  }

  private mutating func expect(
    _ character: Unicode.Scalar, _ what: String
  ) throws(JSONError) {
    skipSpace()
    if !take(character) { throw error("\(what) is missing") }
  }

  private func error(_ text: String, _ offset: Int? = nil) -> JSONError {
    JSONError(.malformed, text, at: offset ?? at)
  }
}
