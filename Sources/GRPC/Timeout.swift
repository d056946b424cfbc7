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
}
