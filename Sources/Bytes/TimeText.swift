/// Times as RFC 3339 writes them, in UTC. The calendar is Howard Hinnant's ("chrono-compatible low-level date
/// algorithms").
package enum TimeText {
  /// From the year 0, March the first, to the Unix epoch.
  private static let epochDay: Int64 = 719_468

  /// `2026-11-29T03:00:00Z`, with 3, 6 or 9 digits behind the second where there are any.
  /// - Parameters:
  ///   - seconds: since the Unix epoch, of the years 0 to 9999.
  ///   - nanos: 0 to 999,999,999.
  package static func append(seconds: Int64, nanos: Int32 = 0, to bytes: inout [UInt8]) {
    let rest = seconds % 86_400
    let time = rest < 0 ? rest + 86_400 : rest
    let date = calendarDate(day: (seconds - time) / 86_400 + epochDay)
    digits(date.year, 4, &bytes)
    bytes.append(UInt8(ascii: "-"))
    digits(date.month, 2, &bytes)
    bytes.append(UInt8(ascii: "-"))
    digits(date.day, 2, &bytes)
    bytes.append(UInt8(ascii: "T"))
    digits(time / 3600, 2, &bytes)
    bytes.append(UInt8(ascii: ":"))
    digits(time / 60 % 60, 2, &bytes)
    bytes.append(UInt8(ascii: ":"))
    digits(time % 60, 2, &bytes)
    if nanos != 0 {
      bytes.append(UInt8(ascii: "."))
      if nanos % 1_000_000 == 0 {
        digits(Int64(nanos / 1_000_000), 3, &bytes)
      } else if nanos % 1000 == 0 {
        digits(Int64(nanos / 1000), 6, &bytes)
      } else {
        digits(Int64(nanos), 9, &bytes)
      }
    }
    bytes.append(UInt8(ascii: "Z"))
  }

  /// The same of nanoseconds since the Unix epoch.
  package static func text(nanoseconds: Int64) -> String {
    var bytes: [UInt8] = []
    append(nanoseconds: nanoseconds, to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  /// The same.
  package static func append(nanoseconds: Int64, to bytes: inout [UInt8]) {
    let (quotient, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    let isBefore = rest < 0
    append(
      seconds: isBefore ? quotient - 1 : quotient,
      nanos: Int32(isBefore ? rest + 1_000_000_000 : rest), to: &bytes)
  }

  /// Years begin in March there, so that a leap day is the last one.
  private static func calendarDate(day: Int64) -> (year: Int64, month: Int64, day: Int64) {
    let era = (day >= 0 ? day : day - 146_096) / 146_097
    let ofEra = day - era * 146_097
    let year = (ofEra - ofEra / 1460 + ofEra / 36_524 - ofEra / 146_096) / 365
    let ofYear = ofEra - (365 * year + year / 4 - year / 100)
    let month = (5 * ofYear + 2) / 153
    let inMonth = ofYear - (153 * month + 2) / 5 + 1
    let calendarMonth = month < 10 ? month + 3 : month - 9
    return (year + era * 400 + (calendarMonth <= 2 ? 1 : 0), calendarMonth, inMonth)
  }

  private static func digits(_ number: Int64, _ count: Int, _ bytes: inout [UInt8]) {
    var power: Int64 = 1
    for _ in 1..<count { power *= 10 }
    var rest = number
    while power > 0 {
      bytes.append(UInt8(truncatingIfNeeded: 48 + rest / power % 10))
      rest %= power
      power /= 10
    }
  }
}
