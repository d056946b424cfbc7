/// The trace that a call belongs to, as the header field `traceparent` says it (W3C Trace Context, level 1).
/// Plain bytes: it is kept with the header block.
package struct TraceParent: BitwiseCopyable, Sendable, Equatable {
  /// The trace's 16 bytes; all zero: there is none.
  package private(set) var traceHigh: UInt64 = 0
  package private(set) var traceLow: UInt64 = 0
  /// The caller's span.
  package private(set) var span: UInt64 = 0
  package private(set) var flags: UInt8 = 0

  /// None.
  package init() {}

  /// None where the field does not follow the specification: then a trace begins here, as if it was absent.
  package init(field: Span<UInt8>) {
    // Versions to come may have more behind a dash.
    guard field.count >= 55, field[2] == 0x2d, field[35] == 0x2d, field[52] == 0x2d,
      let version = Self.number(field, 0, 2), version != 0xff,
      field.count == 55 || version > 0 && field[55] == 0x2d,
      let high = Self.number(field, 3, 16), let low = Self.number(field, 19, 16),
      let span = Self.number(field, 36, 16), let flags = Self.number(field, 53, 2),
      high | low != 0, span != 0
    else { return }
    traceHigh = high
    traceLow = low
    self.span = span
    self.flags = UInt8(flags)
  }

  package var isPresent: Bool { traceHigh | traceLow != 0 }

  /// Whoever began the trace keeps it.
  package var isSampled: Bool { flags & 1 != 0 }

  /// The field's value, of version 00; empty for none.
  package var text: String {
    guard isPresent else { return "" }
    return "00-\(Self.text(traceHigh, 16))\(Self.text(traceLow, 16))-\(Self.text(span, 16))"
      + "-\(Self.text(UInt64(flags), 2))"
  }

  /// Hexadecimal digits; capital letters are none.
  private static func number(_ field: Span<UInt8>, _ start: Int, _ count: Int) -> UInt64? {
    var value: UInt64 = 0
    for index in start..<(start + count) {
      switch field[index] {
      case 0x30...0x39: value = value << 4 | UInt64(field[index] - 0x30)
      case 0x61...0x66: value = value << 4 | UInt64(field[index] - 0x57)
      default: return nil
      }
    }
    return value
  }

  private static func text(_ value: UInt64, _ count: Int) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: count - digits.utf8.count) + digits
  }
}
