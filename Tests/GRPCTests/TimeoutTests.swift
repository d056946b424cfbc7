import GRPC
import Testing

@Suite("grpc-timeout")
struct TimeoutTests {
  private static func parse(_ text: String) -> Int64? {
    let bytes = Array(text.utf8)
    return Timeout.nanoseconds(bytes.span)
  }

  private static let units: [(letter: String, nanoseconds: Int64)] = [
    ("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000),
    ("H", 3_600_000_000_000),
  ]

  /// 1 to 8 digits: the smallest, the largest and one with leading zeros of each length.
  private static let digits: [String] = (1...8).flatMap { length in
    [
      "1" + String(repeating: "0", count: length - 1), String(repeating: "9", count: length),
      String(repeating: "0", count: length - 1) + "7",
    ]
  }

  @Test("Every unit with 1 to 8 digits", arguments: units.map(\.letter), digits)
  func value(letter: String, digits: String) throws {
    let unit = try #require(Self.units.first { $0.letter == letter }).nanoseconds
    let count = try #require(Int64(digits))
    let (product, overflow) = count.multipliedReportingOverflow(by: unit)
    #expect(Self.parse(digits + letter) == (overflow ? .max : product))
  }

  @Test("Nothing lies above what 63 bits hold")
  func saturation() {
    #expect(Self.parse("99999999H") == .max)
    #expect(Self.parse("2562047H") == 9_223_369_200_000_000_000 as Int64)
    #expect(Self.parse("2562048H") == .max)
    #expect(Self.parse("99999999M") == 5_999_999_940_000_000_000 as Int64)
    #expect(Self.parse("0H") == 0)
  }

  @Test(
    "What is no timeout is refused",
    arguments: [
      "", "1", "m", "12345678", "123456789m", "1234567890m", "-1m", "+1m", " 1m", "1m ", "1 m",
      "1.5S", "1s", "1h", "1N", "1U", "1ms", "0x1m", "1m1m", "\u{0}m", "1\u{0}", "١m", "S1", ":m",
      "/m",
    ])
  func garbage(_ text: String) { #expect(Self.parse(text) == nil) }

  @Test("Every byte in every place is a digit, a unit or a refusal")
  func everyByte() {
    let letters = Set(Self.units.flatMap { $0.letter.utf8 })
    for byte in UInt8.min...UInt8.max {
      let last: [UInt8] = [49, byte]
      #expect((Timeout.nanoseconds(last.span) != nil) == letters.contains(byte))
      let first: [UInt8] = [byte, 49, 110]
      #expect((Timeout.nanoseconds(first.span) != nil) == (48...57).contains(byte))
    }
  }

  @Test(
    "The text of a timeout: the finest unit in which eight digits say it, rounded up",
    arguments: [
      (Int64(0), "0n"), (-1, "0n"), (1, "1n"), (99_999_999, "99999999n"), (100_000_000, "100000u"),
      (100_000_001, "100001u"), (1_500_000_000, "1500000u"), (99_999_999_000, "99999999u"),
      (99_999_999_001, "100000m"), (100_000_000_000_000, "100000S"),
      (99_999_999_000_000_000, "99999999S"), (99_999_999_000_000_001, "1666667M"),
      (.max, "2562048H"),
    ])
  func text(nanoseconds: Int64, text: String) {
    #expect(Timeout.text(nanoseconds: nanoseconds) == text)
  }
}
