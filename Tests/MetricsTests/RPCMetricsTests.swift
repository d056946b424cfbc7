import Foundation
import Synchronization
import Testing

@testable import Metrics

@Suite("RPC metrics")
struct RPCMetricsTests {
  private static let methods = [
    RPCMethod(service: "holdfast.v1.ReservationService", method: "Reserve", type: .unary),
    RPCMethod(service: "grpc.health.v1.Health", method: "Watch", type: .serverStream),
  ]
  private static let reserve =
    #"grpc_type="unary",grpc_service="holdfast.v1.ReservationService",grpc_method="Reserve""#
  private static let watch =
    #"grpc_type="server_stream",grpc_service="grpc.health.v1.Health",grpc_method="Watch""#
  private static let unknown =
    #"grpc_type="unary",grpc_service="unknown",grpc_method="unknown""#

  private static func makeMetrics() -> RPCMetrics {
    RPCMetrics(methods: methods, nowNanoseconds: { 0 })
  }

  private static func page(of metrics: RPCMetrics) -> String {
    let page = MetricsPage()
    page.add { metrics.expose(into: &$0) }
    return page.render()
  }

  private static func lines(of metrics: RPCMetrics) -> Set<Substring> {
    Set(page(of: metrics).split(separator: "\n"))
  }

  @Test("All loops' numbers add up on the page")
  func page() {
    let metrics = Self.makeMetrics()
    let loops = [metrics.makeRecorder(), metrics.makeRecorder()]
    for loop in loops {
      loop.turnBegan(nowNanoseconds: 0)
      loop.started(method: 0, count: 3)
      loop.handled(method: 0, code: 0, latencyNanoseconds: 60_000, count: 2)
      loop.handled(method: 0, code: 9, latencyNanoseconds: 40_000)
      loop.reservationLatency(nanoseconds: 64, count: 2)
      loop.turn(calls: 3, nanoseconds: 150_000)
      loop.turn(calls: 0, nanoseconds: 150_000)
      loop.connectionOpened()
      loop.connectionRefused(.limit)
      loop.received(bytes: 100)
      loop.sent(bytes: 50)
      loop.abuse(.pingFlood)
    }
    loops[0].connectionClosed()

    let lines = Self.lines(of: metrics)
    let expected = [
      "grpc_server_started_total{\(Self.reserve)} 6",
      "grpc_server_started_total{\(Self.watch)} 0",
      "grpc_server_handled_total{\(Self.reserve),grpc_code=\"OK\"} 4",
      "grpc_server_handled_total{\(Self.reserve),grpc_code=\"FailedPrecondition\"} 2",
      "grpc_server_handled_total{\(Self.reserve),grpc_code=\"Internal\"} 0",
      "grpc_server_handling_seconds_bucket{\(Self.reserve),le=\"5e-05\"} 2",
      "grpc_server_handling_seconds_bucket{\(Self.reserve),le=\"0.0001\"} 6",
      "grpc_server_handling_seconds_bucket{\(Self.reserve),le=\"+Inf\"} 6",
      "grpc_server_handling_seconds_count{\(Self.reserve)} 6",
      "holdfast_reservation_latency_seconds_count 4",
      "holdfast_turn_calls_bucket{le=\"2\"} 0",
      "holdfast_turn_calls_bucket{le=\"4\"} 2",
      "holdfast_connections 1",
      "holdfast_connections_accepted_total 2",
      "holdfast_connections_refused_total{reason=\"limit\"} 2",
      "holdfast_received_bytes_total 200",
      "holdfast_sent_bytes_total 100",
      "holdfast_connection_abuse_total{kind=\"ping_flood\"} 2",
      "holdfast_connection_abuse_total{kind=\"reset_flood\"} 0",
    ]
    for line in expected { #expect(lines.contains(Substring(line)), "\(line)") }
  }

  @Test(
    "A method or code out of range counts as unknown",
    arguments: [
      (2, 0, "unknown", "OK"), (-1, 0, "unknown", "OK"),
      (Int.max, 16, "unknown", "Unauthenticated"),
      (Int.min, Int.min, "unknown", "Unknown"), (0, 17, "reserve", "Unknown"),
      (0, -1, "reserve", "Unknown"), (0, Int.max, "reserve", "Unknown"),
    ])
  func outOfRange(method: Int, code: Int, methodLabel: String, codeLabel: String) {
    let metrics = Self.makeMetrics()
    let loop = metrics.makeRecorder()
    loop.started(method: method)
    loop.handled(method: method, code: code, latencyNanoseconds: 1)
    let lines = Self.lines(of: metrics)
    let labels = methodLabel == "unknown" ? Self.unknown : Self.reserve
    #expect(lines.contains("grpc_server_started_total{\(labels)} 1"))
    #expect(lines.contains("grpc_server_handled_total{\(labels),grpc_code=\"\(codeLabel)\"} 1"))
    #expect(lines.contains("grpc_server_handling_seconds_count{\(labels)} 1"))
  }

  @Test("Absurd numbers never trap", arguments: [Int.min, -1, 0, Int.max])
  func absurdNumbers(number: Int) {
    let metrics = Self.makeMetrics()
    let loop = metrics.makeRecorder()
    for _ in 0..<2 {
      loop.turnBegan(nowNanoseconds: Int64(number))
      loop.handled(
        method: number, code: number, latencyNanoseconds: Int64(number), count: .max)
      loop.reservationLatency(nanoseconds: Int64(number), count: .max)
      loop.turn(calls: number, nanoseconds: 150_000)
      loop.received(bytes: number)
      loop.sent(bytes: number)
    }
    loop.connectionClosed()
    #expect(Self.page(of: metrics).contains("\nholdfast_connections -1\n"))
  }

  @Test("Every kind of abuse has a cell of its own")
  func abuseCells() {
    #expect(ConnectionAbuse.allCases.map(\.cell) == Array(0..<ConnectionAbuse.allCases.count))
  }

  @Test("Scraping while loops count loses nothing")
  func concurrentScrape() {
    let now = Atomic<Int64>(0)
    let metrics = RPCMetrics(
      methods: Self.methods, nowNanoseconds: { now.load(ordering: .relaxed) })
    let running = Atomic<Int>(2)
    let threads = (0..<2).map { _ in
      let loop = metrics.makeRecorder()
      return Thread {
        for call in 0..<Int64(20_000) {
          if call % 64 == 0 {
            now.add(QuantileWindow.intervalNanoseconds / 8, ordering: .relaxed)
            loop.turnBegan(nowNanoseconds: now.load(ordering: .relaxed))
          }
          loop.started(method: 0)
          loop.handled(method: 0, code: 0, latencyNanoseconds: call)
          loop.reservationLatency(nanoseconds: call)
        }
        running.subtract(1, ordering: .releasing)
      }
    }
    for thread in threads { thread.start() }

    var scrapes = 0
    while running.load(ordering: .acquiring) > 0 || scrapes == 0 {
      #expect(Self.page(of: metrics).hasSuffix("\n"))
      scrapes += 1
    }
    let lines = Self.lines(of: metrics)
    #expect(lines.contains("grpc_server_started_total{\(Self.reserve)} 40000"))
    #expect(lines.contains("grpc_server_handling_seconds_count{\(Self.reserve)} 40000"))
    #expect(lines.contains("holdfast_reservation_latency_seconds_count 40000"))
  }

  @Test(
    "promtool finds nothing to complain about",
    .enabled(
      if: FileManager.default.isExecutableFile(atPath: Promtool.path),
      "promtool is missing: install Debian's package prometheus"))
  func promtool() throws {
    let metrics = Self.makeMetrics()
    let loop = metrics.makeRecorder()
    loop.handled(method: 0, code: 0, latencyNanoseconds: 60_000)
    loop.reservationLatency(nanoseconds: 60_000)
    var exposition = Exposition()
    metrics.expose(into: &exposition)
    exposition.gauge(
      "holdfast_build_info", help: "A \\ and a\nline feed.", samples: [([("v", "\"\\\n")], 1)])
    try #expect(Promtool.complaints(about: exposition.text) == "")
  }
}

/// Prometheus' own checker.
enum Promtool {
  static let path = "/usr/bin/promtool"

  /// What `promtool check metrics` says about a page; empty if all is well.
  static func complaints(about page: String) throws -> String {
    let process = Process()
    process.executableURL = URL(filePath: path)
    process.arguments = ["check", "metrics"]
    let (input, output) = (Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = output
    try process.run()
    // promtool reads all of the page before it writes, so neither side waits for the other.
    try input.fileHandleForWriting.write(contentsOf: Data(page.utf8))
    try input.fileHandleForWriting.close()
    let text = try output.fileHandleForReading.readToEnd() ?? Data()
    process.waitUntilExit()
    return process.terminationStatus == 0 && text.isEmpty
      ? "" : "exit \(process.terminationStatus): \(String(decoding: text, as: UTF8.self))"
  }
}
