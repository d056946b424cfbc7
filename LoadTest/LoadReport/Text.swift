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

  /// "1 conflict", "2 conflicts", "1,234 retries".
  ///
  /// - Parameters:
  ///   - noun: of one.
  ///   - plural: of more, where that is not the noun with an s.
  package static func counted(_ number: Int64, _ noun: String, _ plural: String? = nil) -> String {
    "\(count(number)) \(number == 1 ? noun : plural ?? noun + "s")"
  }

  package static func counted(_ number: Int, _ noun: String, _ plural: String? = nil) -> String {
    counted(Int64(number), noun, plural)
  }

  /// The same of a count that a server's metrics state as a floating-point number.
  package static func counted(_ number: Double, _ noun: String, _ plural: String? = nil) -> String {
    let text = decimal(number, 0)
    return "\(text) \(text == "1" ? noun : plural ?? noun + "s")"
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
    if percent > 0, percent < 0.0005 { return "< 0.001 %" }
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

  /// A number for an axis: 950, 12k, 1.5M.
  package static func compact(_ value: Double) -> String {
    let units: [(Double, String)] = [(1e9, "G"), (1e6, "M"), (1e3, "k")]
    for (size, unit) in units where abs(value) >= size {
      return shortest(value / size) + unit
    }
    return shortest(value)
  }

  /// With as many digits behind the point as it needs, three at most: 2.5, 10, 0.125.
  package static func shortest(_ value: Double) -> String {
    var text = decimal(value, 3)
    while text.hasSuffix("0") { text.removeLast() }
    if text.hasSuffix(".") { text.removeLast() }
    return text.isEmpty ? "0" : text
  }

  /// 1234567 as 1.23 MB.
  package static func bytes(_ count: Double) -> String {
    let units: [(Double, String)] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
    for (size, unit) in units where abs(count) >= size {
      return decimal(count / size, count / size < 10 ? 2 : count / size < 100 ? 1 : 0) + " " + unit
    }
    return decimal(count, 0) + " B"
  }

  /// `text` fit to be shown: what steers a terminal or turns the direction of text is replaced.
  package static func printable(_ text: String) -> String {
    var scalars = String.UnicodeScalarView()
    for scalar in text.unicodeScalars { scalars.append(isPrintable(scalar) ? scalar : "\u{FFFD}") }
    return String(scalars)
  }

  private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7F..<0xA0: false
    // Marks, embeddings, overrides and isolates of direction; separators of lines.
    case 0x061C, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069, 0xFFFE...0xFFFF: false
    default: true
    }
  }

  /// `text` as a heading begins: its first letter large.
  package static func capitalized(_ text: String) -> String {
    text.prefix(1).uppercased() + text.dropFirst()
  }

  package static func left(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }

  package static func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }
}
