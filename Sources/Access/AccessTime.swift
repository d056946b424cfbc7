// Times in token files: RFC 3339 in UTC, to the second.

/// A moment, in nanoseconds since the Unix epoch, as a token file writes it.
package struct AccessTime: Equatable, Sendable, CustomStringConvertible {
  package let nanoseconds: Int64

  /// - Parameter nanoseconds: cut to whole seconds.
  package init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds - nanoseconds % Self.second
  }

  /// `2027-01-31T12:00:00Z`, or `2027-01-31` for the beginning of that day; nil for anything else. From
  /// 1970 to 2261: 64 bits of nanoseconds end in 2262.
  package init?(_ text: some StringProtocol) {
    let bytes = Array(text.utf8)
    guard bytes.count == 10 || bytes.count == 20, bytes[4] == UInt8(ascii: "-"),
      bytes[7] == UInt8(ascii: "-"), let year = Self.number(bytes[0..<4]),
      let month = Self.number(bytes[5..<7]), let day = Self.number(bytes[8..<10]),
      1970...2261 ~= year, 1...12 ~= month, 1...Self.days(month, year) ~= day
    else { return nil }
    var seconds = Self.day(year, month, day) * 86_400
    if bytes.count == 20 {
      guard bytes[10] == UInt8(ascii: "T"), bytes[13] == UInt8(ascii: ":"),
        bytes[16] == UInt8(ascii: ":"), bytes[19] == UInt8(ascii: "Z"),
        let hour = Self.number(bytes[11..<13]), let minute = Self.number(bytes[14..<16]),
        let second = Self.number(bytes[17..<19]), hour < 24, minute < 60, second < 60
      else { return nil }
      seconds += hour * 3600 + minute * 60 + second
    }
    nanoseconds = seconds * Self.second
  }

  package var description: String {
    let seconds = nanoseconds / Self.second
    var day = seconds / 86_400
    var year: Int64 = 1970
    while day >= Self.days(inYear: year) {
      day -= Self.days(inYear: year)
      year += 1
    }
    var month: Int64 = 1
    while day >= Self.days(month, year) {
      day -= Self.days(month, year)
      month += 1
    }
    let inDay = seconds % 86_400
    return Self.digits(year, 4) + "-" + Self.digits(month, 2) + "-" + Self.digits(day + 1, 2) + "T"
      + Self.digits(inDay / 3600, 2) + ":" + Self.digits(inDay / 60 % 60, 2) + ":"
      + Self.digits(inDay % 60, 2) + "Z"
  }

  private static let second: Int64 = 1_000_000_000

  private static func number(_ digits: ArraySlice<UInt8>) -> Int64? {
    var value: Int64 = 0
    for digit in digits {
      guard UInt8(ascii: "0")...UInt8(ascii: "9") ~= digit else { return nil }
      value = value * 10 + Int64(digit - UInt8(ascii: "0"))
    }
    return value
  }

  private static func isLeap(_ year: Int64) -> Bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
  }

  private static func days(inYear year: Int64) -> Int64 { isLeap(year) ? 366 : 365 }

  private static func days(_ month: Int64, _ year: Int64) -> Int64 {
    switch month {
    case 2: isLeap(year) ? 29 : 28
    case 4, 6, 9, 11: 30
    default: 31
    }
  }

  /// Days from 1970-01-01. Hardly ever asked, so counting is good enough.
  private static func day(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
    (1970..<year).reduce(0) { $0 + days(inYear: $1) }
      + (1..<month).reduce(0) { $0 + days($1, year) } + day - 1
  }

  private static func digits(_ number: Int64, _ count: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, count - digits.utf8.count)) + digits
  }
}
