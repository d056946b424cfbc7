/// The grpc-timeout header (gRPC over HTTP/2: TimeoutValue is 1 to 8 ASCII digits, TimeoutUnit one letter).
package enum Timeout {
  /// Longest text of a timeout.
  package static let textLengthMax = 9

  /// Nanoseconds from the header's text; nil where it is malformed. At most 99,999,999 hours, which
  /// saturates to Int64.max.
  package static func nanoseconds(_ text: Span<UInt8>) -> Int64? {
    guard text.count >= 2, text.count <= textLengthMax else { return nil }
    var value: Int64 = 0
    for index in 0..<text.count - 1 {
      let digit = text[index]
      guard digit >= 48, digit <= 57 else { return nil }
      value = value * 10 + Int64(digit - 48)
    }
    let unit: Int64
    switch text[text.count - 1] {
    case UInt8(ascii: "n"): unit = 1
    case UInt8(ascii: "u"): unit = 1_000
    case UInt8(ascii: "m"): unit = 1_000_000
    case UInt8(ascii: "S"): unit = 1_000_000_000
    case UInt8(ascii: "M"): unit = 60 * 1_000_000_000
    case UInt8(ascii: "H"): unit = 3600 * 1_000_000_000
    default: return nil
    }
    let (product, overflow) = value.multipliedReportingOverflow(by: unit)
    return overflow ? .max : product
  }

  /// The header's text for a timeout of `nanoseconds`, 0 and up: in the finest unit in which eight digits
  /// say it, rounded up.
  package static func text(nanoseconds: Int64) -> String {
    let units: [(letter: String, nanoseconds: Int64)] = [
      ("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000),
    ]
    let nanoseconds = max(0, nanoseconds)
    for unit in units {
      let count = count(of: unit.nanoseconds, in: nanoseconds)
      if count <= 99_999_999 { return "\(count)\(unit.letter)" }
    }
    // 64 bits of nanoseconds are less than 300 years.
    return "\(count(of: 3_600_000_000_000, in: nanoseconds))H"
  }

  private static func count(of unit: Int64, in nanoseconds: Int64) -> Int64 {
    nanoseconds / unit + (nanoseconds % unit > 0 ? 1 : 0)
  }
}
