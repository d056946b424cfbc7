// Numbers as people read them.

package enum Text {
  /// 1234567 as 1,234,567.
  package static func count(_ number: Int64) -> String {
    let digits = String(number.magnitude)
    var grouped = ""
    for (index, digit) in digits.enumerated() {
      if index > 0, (digits.count - index) % 3 == 0 { grouped.append(",") }
      grouped.append(digit)
    }
    return number < 0 ? "-" + grouped : grouped
  }

  /// `value` with `decimals` digits behind the point.
  package static func decimal(_ value: Double, _ decimals: Int) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "—" }
    var scale = 1.0
    for _ in 0..<decimals { scale *= 10 }
    let scaled = Int64((abs(value) * scale).rounded())
    let sign = value < 0 && scaled > 0 ? "-" : ""
    let whole = count(scaled / Int64(scale))
    if decimals == 0 { return sign + whole }
    let rest = String(scaled % Int64(scale))
    return sign + whole + "." + String(repeating: "0", count: decimals - rest.count) + rest
  }

  /// 0.123 as 12.3 %.
  package static func percent(_ share: Double) -> String {
    let percent = share * 100
    return decimal(percent, percent > 0 && percent < 0.1 ? 3 : 1) + " %"
  }

  /// Three digits and a unit: 87 µs, 1.25 ms, 2.31 s.
  package static func duration(microseconds: Double) -> String {
    switch microseconds {
    case ..<10: decimal(microseconds, 1) + " µs"
    case ..<1_000: decimal(microseconds, 0) + " µs"
    case ..<10_000: decimal(microseconds / 1_000, 2) + " ms"
    case ..<100_000: decimal(microseconds / 1_000, 1) + " ms"
    case ..<1_000_000: decimal(microseconds / 1_000, 0) + " ms"
    default: decimal(microseconds / 1_000_000, 2) + " s"
    }
  }

  package static func left(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }

  package static func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }
}
