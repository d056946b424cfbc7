import Posix
import Testing

@testable import LoadReport

struct HistogramLogTests {
  @Test(arguments: [
    ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="),
    ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy"),
  ]) func base64IsThatOfRFC4648(text: String, encoded: String) {
    #expect(HistogramLog.base64(Array(text.utf8)) == encoded)
  }

  /// Counts of zero before a value are one negative number: 0 to 2 is -3, zigzag 5.
  @Test func countsAreZigzagNumbers() {
    var latencies = Latencies()
    latencies.record(3)
    latencies.record(3)
    let bytes = HistogramLog.counts(latencies)
    #expect(Array(bytes.prefix(4)) == [0x1c, 0x84, 0x93, 0x13])
    #expect(Array(bytes[4..<8]) == [0, 0, 0, 2])
    #expect(Array(bytes.suffix(2)) == [5, 4])
  }

  /// The array of counts has its places in the order of values, none for two that differ by more than
  /// a thousandth.
  @Test(
    arguments: [
      (0, 0), (1, 1), (2_047, 2_047), (2_048, 2_048), (2_049, 2_048), (4_095, 3_071),
      (4_096, 3_072),
      (3_600_000_000_000, 31 * 1_024 + 1_676),
    ] as [(Int64, Int)]) func valuesHaveTheirPlace(nanoseconds: Int64, place: Int)
  {
    var latencies = Latencies()
    latencies.record(nanoseconds)
    var places: [Int] = []
    latencies.forEachCount { index, count in
      places.append(index)
      #expect(count == 1)
    }
    #expect(places == [place])
  }

  @Test func linesHaveTimesWithoutSeparatorsAndATagBesideTheMeasurement() {
    var interval = Report.Interval()
    interval.startSeconds = 1_234.5
    interval.seconds = 1
    var latencies = Latencies()
    latencies.record(2_500_000)
    let warmUp = HistogramLog.line(interval, latencies)
    #expect(warmUp.hasPrefix("Tag=warm-up,1234.500,1.000,2.50"))
    interval.isMeasured = true
    let measured = HistogramLog.line(interval, latencies)
    #expect(measured.hasPrefix("1234.500,1.000,2.50"))
    #expect(measured.split(separator: ",").last?.hasPrefix("HISTFAAAA") == true)
    #expect(
      HistogramLog.head(startEpochNanoseconds: 1_763_748_331_250_000_000)
        .contains("#[StartTime: 1763748331.250 (seconds since epoch)]\n"))
  }

  @Test func aDiskThatIsFullIsSaid() throws {
    var log = HistogramLog(into: try OutputFile(path: "/dev/full"))
    var thrown: Errno?
    do {
      try log.write(Report.Interval(), Latencies(), startEpochNanoseconds: 0)
    } catch {
      thrown = error
    }
    #expect(thrown == .noSpace)
  }
}
