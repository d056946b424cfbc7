import Bytes
import Testing

struct TimeTextTests {
  /// As `date --utc` has them; the ends are what 64 bits of nanoseconds reach.
  @Test(
    arguments: [
      (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59.999999999Z"),
      (1, "1970-01-01T00:00:00.000000001Z"), (1_000_000, "1970-01-01T00:00:00.001Z"),
      (-1_000_000_000, "1969-12-31T23:59:59Z"), (1_500, "1970-01-01T00:00:00.000001500Z"),
      (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
      (4_107_542_400_000_000_000, "2100-03-01T00:00:00Z"),
      (1_796_007_600_500_000_000, "2026-11-30T03:00:00.500Z"),
      (.max, "2262-04-11T23:47:16.854775807Z"), (.min, "1677-09-21T00:12:43.145224192Z"),
    ] as [(Int64, String)])
  func nanoseconds(_ nanoseconds: Int64, _ text: String) {
    #expect(TimeText.text(nanoseconds: nanoseconds) == text)
  }

  @Test(
    arguments: [
      (-62_135_596_800, 0, "0001-01-01T00:00:00Z"), (-62_167_219_200, 0, "0000-01-01T00:00:00Z"),
      (253_402_300_799, 999_999_999, "9999-12-31T23:59:59.999999999Z"),
      (-2_203_891_200, 250_000, "1900-03-01T00:00:00.000250Z"),
    ] as [(Int64, Int32, String)])
  func seconds(_ seconds: Int64, _ nanos: Int32, _ text: String) {
    var bytes: [UInt8] = []
    TimeText.append(seconds: seconds, nanos: nanos, to: &bytes)
    #expect(String(decoding: bytes, as: UTF8.self) == text)
  }
}
