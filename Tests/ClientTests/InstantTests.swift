// Times as RFC 3339 has them.
import Testing

@testable import Client

@Suite struct InstantTests {
  /// Texts, and what they stand for.
  static let moments: [(String, Int64, Int32)] = [
    ("1970-01-01T00:00:00Z", 0, 0),
    ("2026-11-29T03:00:00Z", 1_795_921_200, 0),
    ("2026-11-29T03:00:00.5Z", 1_795_921_200, 500_000_000),
    ("2026-11-29T03:00:00.000000001Z", 1_795_921_200, 1),
    ("2026-11-29t04:00:00.25+01:00", 1_795_921_200, 250_000_000),
    ("2026-11-28 22:30:00-04:30", 1_795_921_200, 0),
    ("2026-11-29", 1_795_910_400, 0),
    ("2024-02-29T23:59:59Z", 1_709_251_199, 0),
    ("1969-12-31T23:59:59.999Z", -1, 999_000_000),
    ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
    ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
  ]

  @Test(arguments: moments) func aTextIsRead(_ text: String, _ seconds: Int64, _ nanos: Int32) {
    #expect(Instant(text) == Instant(seconds: seconds, nanos: nanos))
  }

  @Test(arguments: [
    ("1970-01-01T00:00:00Z", Int64(0), Int32(0)),
    ("2026-11-29T03:00:00.500Z", 1_795_921_200, 500_000_000),
    ("2026-11-29T03:00:00.000250Z", 1_795_921_200, 250_000),
    ("2026-11-29T03:00:00.000000001Z", 1_795_921_200, 1),
    ("2024-02-29T23:59:59Z", 1_709_251_199, 0),
    ("2000-03-01T00:00:00Z", 951_868_800, 0), ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
    ("9999-12-31T23:59:59Z", 253_402_300_799, 0), ("1969-12-31T23:59:59.999Z", -1, 999_000_000),
  ]) func aMomentIsWritten(_ text: String, _ seconds: Int64, _ nanos: Int32) {
    #expect(Instant(seconds: seconds, nanos: nanos)?.description == text)
  }

  @Test(arguments: [
    "", "now", "2026", "2026-13-01", "2026-02-29", "2026-11-31", "0000-01-01", "2026-11-29T",
    "2026-11-29T03:00Z", "2026-11-29T24:00:00Z", "2026-11-29T03:60:00Z", "2026-11-29T03:00:60Z",
    "2026-11-29T03:00:00", "2026-11-29T03:00:00.Z", "2026-11-29T03:00:00.1234567890Z",
    "2026-11-29T03:00:00+1:00", "2026-11-29T03:00:00+25:00", "2026-11-29T03:00:00Zx",
    "9999-12-31T23:59:59-01:00", "٢٠٢٦-11-29",
  ]) func whatIsNoTimeIsNone(_ text: String) {
    #expect(Instant(text) == nil)
  }

  @Test func outsideOfTheYearsThereIsNone() {
    #expect(Instant(seconds: 253_402_300_800) == nil)
    #expect(Instant(seconds: -62_135_596_801) == nil)
    #expect(Instant(seconds: 0, nanos: 1_000_000_000) == nil)
    #expect(Instant(seconds: 0, nanos: -1) == nil)
  }
}
