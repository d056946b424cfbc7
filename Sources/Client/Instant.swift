// Points in time and durations, as protobuf has them and as people write them (RFC 3339).
package import Bytes

/// A google.protobuf.Timestamp: of the years 1 to 9999, to the nanosecond.
package struct Instant: Equatable, Comparable, Sendable, CustomStringConvertible {
  /// Since the Unix epoch.
  package let seconds: Int64
  /// 0 to 999,999,999.
  package let nanos: Int32

  private static let secondsRange: ClosedRange<Int64> = -62_135_596_800...253_402_300_799
  /// From the year 0, March the first, to the Unix epoch.
  private static let epochDay: Int64 = 719_468

  /// nil outside of the years 1 to 9999.
  package init?(seconds: Int64, nanos: Int32 = 0) {
    guard Self.secondsRange.contains(seconds), 0..<1_000_000_000 ~= nanos else { return nil }
    self.seconds = seconds
    self.nanos = nanos
  }

  /// nil where it is no Timestamp.
  package init?(_ message: WireFields.Field) {
    guard let parts = SecondsAndNanos(message) else { return nil }
    self.init(seconds: parts.seconds, nanos: Int32(clamping: parts.nanos))
  }

  package static func < (a: Instant, b: Instant) -> Bool {
    (a.seconds, a.nanos) < (b.seconds, b.nanos)
  }

  /// `2026-11-29T03:00:00Z`, with 3, 6 or 9 digits behind the second where there are any.
  package var description: String {
    var bytes: [UInt8] = []
    TimeText.append(seconds: seconds, nanos: nanos, to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  /// `2026-11-29T03:00:00Z`, `…+01:00`, with up to nine digits behind the second, or `2026-11-29` for the beginning of
  /// that day in UTC; nil for anything else.
  package init?(_ text: some StringProtocol) {
    var scanner = Digits(Array(text.utf8))
    guard let year = scanner.number(4), scanner.take("-"), let month = scanner.number(2),
      scanner.take("-"), let day = scanner.number(2), year >= 1, 1...12 ~= month,
      1...Self.days(month, year) ~= day
    else { return nil }
    var seconds = Self.day(year, month, day) * 86_400
    var nanos: Int64 = 0
    if !scanner.isAtEnd {
      guard scanner.take("T") || scanner.take("t") || scanner.take(" "),
        let hour = scanner.number(2), scanner.take(":"), let minute = scanner.number(2),
        scanner.take(":"), let second = scanner.number(2), hour < 24, minute < 60, second < 60
      else { return nil }
      if scanner.take(".") {
        guard let fraction = scanner.fraction() else { return nil }
        nanos = fraction
      }
      guard let offset = scanner.offset(), scanner.isAtEnd else { return nil }
      seconds += hour * 3600 + minute * 60 + second - offset
    }
    self.init(seconds: seconds, nanos: Int32(nanos))
  }

  // MARK: The calendar (Howard Hinnant, "chrono-compatible low-level date algorithms")

  private static func day(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
    let year = month <= 2 ? year - 1 : year
    let era = year / 400
    let ofEra = year - era * 400
    let ofYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
    return era * 146_097 + ofEra * 365 + ofEra / 4 - ofEra / 100 + ofYear - epochDay
  }

  private static func days(_ month: Int64, _ year: Int64) -> Int64 {
    switch month {
    case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
    case 4, 6, 9, 11: 30
    default: 31
    }
  }
}

/// A google.protobuf.Duration.
struct Duration64 {
  let seconds: Int64
  let nanos: Int64

  /// nil where it is none.
  init?(_ message: WireFields.Field) {
    guard let parts = SecondsAndNanos(message) else { return nil }
    (seconds, nanos) = (parts.seconds, parts.nanos)
  }

  func nanoseconds(atMost most: Int64) -> Int64 {
    let (product, isTooLong) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    if isTooLong { return seconds < 0 ? 0 : most }
    let (sum, overflows) = product.addingReportingOverflow(nanos)
    return overflows ? most : min(sum, most)
  }
}

/// What Timestamp and Duration are made of: seconds = 1, nanos = 2.
private struct SecondsAndNanos {
  private(set) var seconds: Int64 = 0
  private(set) var nanos: Int64 = 0

  init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      if field.number == 1 { seconds = field.signed }
      if field.number == 2 { nanos = field.signed }
    }
    if fields.isMalformed || nanos.magnitude >= 1_000_000_000 { return nil }
  }
}

/// Reads a time from front to end.
private struct Digits {
  private let bytes: [UInt8]
  private var at = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var isAtEnd: Bool { at == bytes.count }

  mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard at < bytes.count, bytes[at] == UInt8(ascii: character) else { return false }
    at += 1
    return true
  }

  /// Exactly so many digits.
  mutating func number(_ count: Int) -> Int64? {
    guard bytes.count - at >= count else { return nil }
    var value: Int64 = 0
    for _ in 0..<count {
      guard let digit = digit() else { return nil }
      value = value * 10 + digit
    }
    return value
  }

  /// Nanoseconds: one to nine digits.
  mutating func fraction() -> Int64? {
    var (value, count) = (Int64(0), 0)
    while count < 9, let digit = digit() {
      value = value * 10 + digit
      count += 1
    }
    if count == 0 { return nil }
    for _ in count..<9 { value *= 10 }
    return value
  }

  /// Seconds east of UTC.
  mutating func offset() -> Int64? {
    if take("Z") || take("z") { return 0 }
    let isWest = take("-")
    guard isWest || take("+"), let hours = number(2), take(":"), let minutes = number(2),
      hours < 24, minutes < 60
    else { return nil }
    return (hours * 3600 + minutes * 60) * (isWest ? -1 : 1)
  }

  private mutating func digit() -> Int64? {
    guard at < bytes.count, UInt8(ascii: "0")...UInt8(ascii: "9") ~= bytes[at] else { return nil }
    defer { at += 1 }
    return Int64(bytes[at] - UInt8(ascii: "0"))
  }
}
