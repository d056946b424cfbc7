// JSON as the console and the command line write it (RFC 8259).

/// A value, written and never read.
package enum JSON: Sendable {
  case null
  case bool(Bool)
  case int(Int64)
  /// What is no number, or endless, is written as null.
  case number(Double)
  case text(String)
  case list([JSON])
  case object([(String, JSON)])

  /// A count; beyond 2^63 it stays there.
  package static func count(_ value: some BinaryInteger) -> JSON { .int(Int64(clamping: value)) }

  /// nil as null.
  package static func number(_ value: Double?) -> JSON { value.map { .number($0) } ?? .null }

  /// In one line, without spaces: a line of server-sent events can hold it.
  package var bytes: [UInt8] {
    var bytes: [UInt8] = []
    write(to: &bytes)
    return bytes
  }

  private func write(to bytes: inout [UInt8]) {
    switch self {
    case .null: bytes += Array("null".utf8)
    case .bool(let value): bytes += Array((value ? "true" : "false").utf8)
    case .int(let value): bytes += Array("\(value)".utf8)
    case .number(let value): Self.write(value, to: &bytes)
    case .text(let value): Self.write(value, to: &bytes)
    case .list(let values):
      bytes.append(UInt8(ascii: "["))
      for (index, value) in values.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        value.write(to: &bytes)
      }
      bytes.append(UInt8(ascii: "]"))
    case .object(let fields):
      bytes.append(UInt8(ascii: "{"))
      for (index, field) in fields.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        Self.write(field.0, to: &bytes)
        bytes.append(UInt8(ascii: ":"))
        field.1.write(to: &bytes)
      }
      bytes.append(UInt8(ascii: "}"))
    }
  }

  /// With four digits behind the point at most: nobody looks at more.
  private static func write(_ value: Double, to bytes: inout [UInt8]) {
    guard value.isFinite else {
      bytes += Array("null".utf8)
      return
    }
    // Of the largest, ten thousand times as much is endless; they have no fraction.
    let rounded = abs(value) < 1e15 ? (value * 10_000).rounded() / 10_000 : value
    let whole = rounded == rounded.rounded() && abs(rounded) < 1e15
    bytes += Array((whole ? "\(Int64(rounded))" : "\(rounded)").utf8)
  }

  private static func write(_ text: String, to bytes: inout [UInt8]) {
    bytes.append(UInt8(ascii: "\""))
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": bytes += Array("\\\"".utf8)
      case "\\": bytes += Array("\\\\".utf8)
      // What a terminal would obey, what turns the direction of text, or what a reader may take for the end of a line;
      // and what would end a script, or a line of one, if anybody put this into a page.
      case "\0"..."\u{1f}", "\u{7f}"..."\u{9f}", "<", ">", "&", "\u{61c}", "\u{200e}", "\u{200f}",
        "\u{2028}"..."\u{202e}", "\u{2066}"..."\u{2069}":
        let digits = String(scalar.value, radix: 16)
        bytes += Array("\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".utf8)
      default: bytes += Array(String(scalar).utf8)
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }
}
