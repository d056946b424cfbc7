// Times as backups are told and asked for: RFC 3339, to the nanosecond.
internal import Access
internal import Posix

enum RestoreTime {
  private static let second: Int64 = 1_000_000_000

  /// `2027-01-31T12:00:00.5Z`; the fraction only where there is one.
  static func text(_ time: Timestamp) -> String {
    let whole = AccessTime(nanoseconds: time.nanoseconds).description.dropLast()
    var fraction = String(second + time.nanoseconds % second).dropFirst()
    while fraction.last == "0" { fraction.removeLast() }
    return whole + (fraction.isEmpty ? "" : "." + fraction) + "Z"
  }

  /// Nanoseconds since the Unix epoch; nil where it is no date and time with its distance from UTC (Z or ±hh:mm).
  static func nanoseconds(_ text: String) -> Int64? {
    let pattern =
      /([0-9-]{10}T[0-9:]{8})(?:\.([0-9]{1,9}))?(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))/
    guard let parts = text.wholeMatch(of: pattern)?.output,
      let whole = AccessTime("\(parts.1)Z")
    else { return nil }
    let digits = parts.2.map(String.init) ?? ""
    let fraction = Int64(digits + String(repeating: "0", count: 9 - digits.utf8.count)) ?? 0
    let hours = parts.4.flatMap { Int64($0) } ?? 0
    let minutes = parts.5.flatMap { Int64($0) } ?? 0
    let distance = (hours * 3600 + minutes * 60) * second
    return whole.nanoseconds + fraction + (parts.3 == "-" ? distance : -distance)
  }
}
