// A second reader of JSON (RFC 8259), written without a look at the first one: it builds the whole value, and recurses.

/// A value, with the members of objects in their order.
indirect enum StrictJSON: Equatable {
  case null
  case bool(Bool)
  /// As it is written.
  case number(String)
  case text(String)
  case list([StrictJSON])
  case object([Member])

  struct Member: Equatable {
    let name: String
    let value: StrictJSON
  }

  /// Deeper values are none.
  static let depthMax = 200

  /// nil: the bytes are no JSON, or something else stands behind it.
  init?(_ bytes: [UInt8]) {
    // What is not UTF-8 is no JSON, wherever it stands.
    guard String(validating: bytes, as: UTF8.self) != nil else { return nil }
    var parser = Parser(rest: bytes[...])
    guard let value = parser.value(depth: 0) else { return nil }
    parser.space()
    guard parser.rest.isEmpty else { return nil }
    self = value
  }

  private struct Parser {
    var rest: ArraySlice<UInt8>

    mutating func space() {
      rest = rest.drop { [0x20, 0x09, 0x0a, 0x0d].contains($0) }
    }

    mutating func take(_ word: StaticString) -> Bool {
      let word = Array("\(word)".utf8)
      guard rest.starts(with: word) else { return false }
      rest = rest.dropFirst(word.count)
      return true
    }

    mutating func value(depth: Int) -> StrictJSON? {
      space()
      guard let first = rest.first, depth < StrictJSON.depthMax else { return nil }
      switch first {
      case UInt8(ascii: "{"): return members(depth).map { .object($0) }
      case UInt8(ascii: "["): return elements(depth).map { .list($0) }
      case UInt8(ascii: "\""): return text().map { .text($0) }
      case UInt8(ascii: "n"): return take("null") ? .null : nil
      case UInt8(ascii: "t"): return take("true") ? .bool(true) : nil
      case UInt8(ascii: "f"): return take("false") ? .bool(false) : nil
      default: return number().map { .number($0) }
      }
    }

    private mutating func members(_ depth: Int) -> [Member]? {
      guard take("{") else { return nil }
      var members: [Member] = []
      space()
      if take("}") { return members }
      repeat {
        space()
        guard let name = text() else { return nil }
        space()
        guard take(":"), let value = value(depth: depth + 1) else { return nil }
        members.append(Member(name: name, value: value))
        space()
      } while take(",")
      return take("}") ? members : nil
    }

    private mutating func elements(_ depth: Int) -> [StrictJSON]? {
      guard take("[") else { return nil }
      var elements: [StrictJSON] = []
      space()
      if take("]") { return elements }
      repeat {
        guard let value = value(depth: depth + 1) else { return nil }
        elements.append(value)
        space()
      } while take(",")
      return take("]") ? elements : nil
    }

    private mutating func digits() -> String {
      let digits = rest.prefix { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }
      rest = rest.dropFirst(digits.count)
      return String(decoding: digits, as: UTF8.self)
    }

    private mutating func number() -> String? {
      let start = rest
      _ = take("-")
      let whole = digits()
      if whole.isEmpty || whole.utf8.count > 1 && whole.hasPrefix("0") { return nil }
      if take("."), digits().isEmpty { return nil }
      if take("e") || take("E") {
        if !take("+") { _ = take("-") }
        if digits().isEmpty { return nil }
      }
      return String(decoding: start.prefix(start.count - rest.count), as: UTF8.self)
    }

    /// By UTF-16, as the escapes are.
    private mutating func text() -> String? {
      guard take("\"") else { return nil }
      var text = ""
      var units: [UInt16] = []
      func flush() -> Bool {
        guard let part = String(validating: units, as: UTF16.self) else { return false }
        text += part
        units = []
        return true
      }
      while let byte = rest.first {
        if take("\"") { return flush() ? text : nil }
        if take("\\") {
          guard let unit = escape() else { return nil }
          units.append(unit)
          continue
        }
        let plain = rest.prefix { $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
        guard byte >= 0x20, plain.allSatisfy({ $0 >= 0x20 }), flush(),
          let part = String(validating: plain, as: UTF8.self)
        else { return nil }
        text += part
        rest = rest.dropFirst(plain.count)
      }
      return nil
    }

    private mutating func escape() -> UInt16? {
      guard let letter = rest.popFirst() else { return nil }
      let plain: [UInt8: UInt16] = [
        0x22: 0x22, 0x5c: 0x5c, 0x2f: 0x2f, 0x62: 8, 0x66: 12, 0x6e: 10, 0x72: 13, 0x74: 9,
      ]
      if letter != UInt8(ascii: "u") { return plain[letter] }
      let digits = rest.prefix(4)
      let isHexadecimal = digits.allSatisfy {
        (0x30...0x39).contains($0) || (0x41...0x46).contains($0 & ~0x20)
      }
      guard digits.count == 4, isHexadecimal else { return nil }
      rest = rest.dropFirst(4)
      return UInt16(String(decoding: digits, as: UTF8.self), radix: 16)
    }
  }

  /// A whole number of 64 bits that a number's text stands for, by arithmetic on its digits; nil: it is none.
  static func whole(_ text: String) -> Int64? {
    let isNegative = text.hasPrefix("-")
    let parts = text.drop { $0 == "-" }.split(whereSeparator: { $0 == "e" || $0 == "E" })
    let mantissa = parts[0].split(separator: ".")
    let digits = mantissa.joined()
    if digits.allSatisfy({ $0 == "0" }) { return 0 }
    // More than any number of digits here makes up for.
    let exponent =
      parts.count == 2 ? Int(parts[1]) ?? (parts[1].hasPrefix("-") ? -10_000_000 : 10_000_000) : 0
    let point = mantissa[0].utf8.count + max(min(exponent, 10_000_000), -10_000_000)
    guard point > 0 else { return nil }
    let significant = digits.drop { $0 == "0" }
    guard point - (digits.utf8.count - significant.utf8.count) <= 19 else { return nil }
    let padded = digits + String(repeating: "0", count: max(0, point - digits.utf8.count))
    guard padded.dropFirst(point).allSatisfy({ $0 == "0" }) else { return nil }
    return Int64((isNegative ? "-" : "") + padded.prefix(point))
  }
}
