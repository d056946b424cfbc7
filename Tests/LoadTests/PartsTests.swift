import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

@Suite struct EndpointTests {
  @Test(arguments: ["", "127.0.0.1", ":80", "h:0", "h:65536", "h:x"])
  func endpointsThatAreNone(text: String) { #expect(Endpoint(text) == nil) }

  @Test func endpoints() throws {
    #expect(try Endpoint.resolving("localhost:1").port == 1)
    #expect(try ["127.0.0.1", "::1"].contains(Endpoint.resolving("localhost:1").host))
    #expect(try Endpoint.resolving("[::1]:80").description == "[::1]:80")
    for text in ["nobody.invalid:80", "127.0.0.1"] {
      #expect(throws: LoadError.self) { try Endpoint.resolving(text) }
    }
    #expect(Endpoint("[::1]:80")?.host == "::1")
    #expect(Endpoint("[::1]:80")?.description == "[::1]:80")
    for text in ["[::1", "[::1:80", "::1]:80", "[[::1]]:80", "[]:80"] {
      #expect(Endpoint(text) == nil)
    }
  }
}

@Suite struct ReportTests {
  @Test(arguments: [
    (0.0, "0.0 µs"), (9.96, "10.0 µs"), (999, "999 µs"), (1_250, "1.25 ms"), (87_500, "87.5 ms"),
    (512_000, "512 ms"), (2_310_000, "2.31 s"),
  ])
  func durations(microseconds: Double, text: String) {
    #expect(Text.duration(microseconds: microseconds) == text)
  }

  @Test func numbers() {
    #expect(Text.count(0) == "0")
    #expect(Text.count(-1_234_567) == "-1,234,567")
    #expect(Text.decimal(1_234.005, 2) == "1,234.01")
    #expect(Text.decimal(-0.001, 1) == "0.0")
    #expect(Text.decimal(.nan, 1) == "—")
    #expect(Text.percent(0.00004) == "0.004 %")
  }

  @Test func percentiles() {
    var latencies = Latencies()
    for value in 1...10_000 as ClosedRange<Int64> { latencies.record(value * 1_000) }
    latencies.record(-5)
    latencies.record(.max)
    let summary = latencies.summary
    #expect(summary.count == 10_002)
    #expect(abs(summary.p50 - 5_000) < 10)
    #expect(abs(summary.p99 - 9_900) < 20)
    #expect(summary.max >= 3_600_000_000)
    #expect(Latencies().summary == LatencySummary())
  }

  @Test func metricsPage() {
    let page = MetricsPage(
      """
      # HELP holdfast_conflicts_total x
      holdfast_conflicts_total{reason="locked"} 5
      holdfast_conflicts_total{reason="version_changed",loop="1"} 7
      holdfast_commit_attempts_bucket{le="1"} 3
      holdfast_commit_attempts_sum 110
      holdfast_commit_attempts_count 100
      nonsense
      holdfast_conflicts_total{reason="locked" NaNx

      """)
    #expect(page.conflicts == ["locked": 5, "version_changed": 7])
    let server = Report.ServerSide(page.since(MetricsPage("holdfast_commit_attempts_count 60\n")))
    #expect(server.retries == 70)
    #expect(server.commits == 40)
  }
}
