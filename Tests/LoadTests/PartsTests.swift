import Posix
import Testing

@testable import LoadKit
@testable import LoadReport

@Suite struct PacerTests {
  @Test(
    arguments: [
      (1.0, 0, 1), (1_000, 0, 1), (999.999, 0, 3), (333_333.333, 2, 3), (0.5, 1, 2),
      (7_777_777, 0, 2),
    ] as [(Double, Int, Int)])
  func dueAgreesWithScheduled(rate: Double, worker: Int, workers: Int) {
    let pacer = Pacer(
      startNanoseconds: 5_000_000_000, ratePerSecond: rate, worker: worker, workers: workers)
    for number in [0, 1, 2, 3, 10, 1_000, 123_456] {
      let time = pacer.scheduled(number)
      #expect(pacer.due(at: time) >= number + 1)
      #expect(pacer.due(at: time - 1) <= number)
    }
    #expect(pacer.due(at: 4_999_999_999) == 0)
  }

  @Test func workersShareTheRateEvenly() {
    let pacers = (0..<3).map {
      Pacer(startNanoseconds: 0, ratePerSecond: 1_000, worker: $0, workers: 3)
    }
    let ticks = (0..<9).map { pacers[$0 % 3].scheduled($0 / 3) }
    #expect(ticks == (0..<9).map { Int64($0) * 1_000_000 })
    #expect(pacers.map { $0.due(at: 999_999_999) }.reduce(0, +) == 1_000)
  }
}

@Suite struct WorkloadTests {
  @Test func zipfDrawsByWeight() {
    let table = AliasTable(zipf: 1, count: 4)
    var random = Random(seed: 1)
    var counts = [0, 0, 0, 0]
    for _ in 0..<100_000 { counts[table.draw(&random)] += 1 }
    // Weights 12 : 6 : 4 : 3, of 25.
    for (count, share) in zip(counts, [0.48, 0.24, 0.16, 0.12]) {
      #expect(abs(Double(count) / 100_000 - share) < 0.01)
    }
  }

  @Test func sameSeedSameDraws() {
    var workload = Workload()
    workload.skuCount = 1_000
    workload.hotShare = 0.5
    workload.quantity = 1...9
    func draws() -> [CartLine] {
      var draws = Draws(workload, zipf: nil, seed: 99)
      return (0..<100).map { _ in draws.line() }
    }
    #expect(draws() == draws())
    let lines = draws()
    #expect((30...70).contains(lines.count { $0.sku == 0 }))
    #expect(lines.allSatisfy { $0.sku < 1_000 && (1...9).contains($0.quantity) })
  }

  @Test func endingsFollowTheirShares() {
    var workload = Workload()
    workload.confirmShare = 0.5
    workload.releaseShare = 0.3
    var draws = Draws(workload, zipf: nil, seed: 1)
    var counts: [Ending: Int] = [:]
    for _ in 0..<10_000 { counts[draws.ending(), default: 0] += 1 }
    #expect(abs(counts[.confirm, default: 0] - 5_000) < 200)
    #expect(abs(counts[.release, default: 0] - 3_000) < 200)
    #expect(abs(counts[.none, default: 0] - 2_000) < 200)
  }

  @Test(arguments: ["single", "uniform", "zipf:0.99"])
  func distributionsReadWhatTheySay(text: String) {
    #expect(Distribution(text)?.description == text)
  }

  @Test(arguments: ["", "zipf", "zipf:", "zipf:-1", "zipf:nan", "Uniform"])
  func distributionsThatAreNone(text: String) { #expect(Distribution(text) == nil) }

  @Test(arguments: ["", "127.0.0.1", ":80", "h:0", "h:65536", "h:x"])
  func endpointsThatAreNone(text: String) { #expect(Endpoint(text) == nil) }

  @Test func endpoints() {
    #expect(Endpoint("localhost:80")?.description == "127.0.0.1:80")
    #expect(Endpoint("[::1]:80")?.host == "::1")
    #expect(Endpoint("[::1]:80")?.description == "[::1]:80")
  }
}

@Suite struct MessageTests {
  private func bytes(_ write: (inout MessageBuffer) -> Void) -> [UInt8] {
    var buffer = MessageBuffer()
    write(&buffer)
    return buffer.withSpan { array($0) }
  }

  @Test func reserveRequest() {
    let names = SKUNames(prefix: "sku-")
    let message = bytes {
      $0.writeReserveKey(KeyNames(run: RunID(0xabc)), worker: 1, operation: 0x2f)
      $0.appendReserveLine(CartLine(sku: 12, quantity: 300), names)
      $0.appendTimeToLive(nanoseconds: 1_500_000_000)
    }
    let fields = Fields(message)
    #expect(fields.text(1) == "0000000abc01000000002f")
    #expect(fields.nested(2).map { $0.text(1) } == ["sku-0000012"])
    #expect(fields.nested(2).map { $0.number(3) } == [300])
    #expect(fields.nested(3).map { [$0.number(1), $0.number(2)] } == [[1, 500_000_000]])
  }

  /// What protoc's own encoder writes for the bench tools' message.
  @Test func reserveLineByteForByte() {
    let message = bytes {
      $0.appendReserveLine(CartLine(sku: 0, quantity: 1), SKUNames(prefix: "sku-"))
    }
    #expect(message == [0x12, 15, 0x0a, 11] + Array("sku-0000000".utf8) + [0x18, 1])
  }

  @Test func reserveAnswer() throws {
    let id = Array("0123456789abcdefghij".utf8)
    let timestamp = Fields.varint(1, 1_700_000_000) + Fields.varint(2, 5)
    let message = Fields.bytes(1, id) + Fields.bytes(2, timestamp) + Fields.varint(3, 1)
    let read = ReserveAnswer(message.span)
    let answer = try #require(read)
    #expect(answer.id.text == "0123456789abcdefghij")
    #expect(answer.expiresNanoseconds == 1_700_000_000_000_000_005)
    #expect(answer.isReplayed)
    #expect(bytes { $0.writeEndRequest(answer.id) } == Fields.bytes(1, id))
    for length in 0..<message.count - 2 {
      let cut = ReserveAnswer(Array(message[..<length]).span)
      #expect(cut == nil, "cut at \(length)")
    }
  }

  @Test(
    arguments: [
      [], [0x0a, 200], [0x0a], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
      [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], [0x0b], [0x0d, 1], [0x09, 1],
      Fields.bytes(1, Array("short".utf8)) + Fields.bytes(2, []),
      Fields.bytes(1, Array("0123456789abcdefghij".utf8))
        + Fields.bytes(2, Fields.varint(1, UInt64.max)),
    ] as [[UInt8]])
  func answersThatAreNone(message: [UInt8]) {
    let answer = ReserveAnswer(message.span)
    #expect(answer == nil)
  }

  @Test func refusalsCompareByWhatTheySay() {
    func details(_ reason: String, _ metadata: [(String, String)]) -> [UInt8] {
      let entries = metadata.flatMap {
        Fields.bytes(3, Fields.bytes(1, Array($0.0.utf8)) + Fields.bytes(2, Array($0.1.utf8)))
      }
      let any =
        Fields.bytes(1, Array("type.googleapis.com/google.rpc.ErrorInfo".utf8))
        + Fields.bytes(2, Fields.bytes(1, Array(reason.utf8)) + entries)
      return Fields.varint(1, 9) + Fields.bytes(3, any)
    }
    let names = SKUNames(prefix: "sku-")
    func refusal(_ bytes: [UInt8]) -> Refusal { Refusal(code: 9, details: bytes.span, names) }
    let first = refusal(
      details("INSUFFICIENT_STOCK", [("sku", "sku-0000007"), ("available", "3")]))
    #expect(first.reason == .insufficientStock)
    #expect(first.sku == 7)
    #expect(!first.isReplayed)
    let again = refusal(
      details(
        "INSUFFICIENT_STOCK", [("available", "3"), ("replayed", "true"), ("sku", "sku-0000007")]))
    #expect(again.isReplayed)
    #expect(again.fingerprint == first.fingerprint && again.sku == first.sku)
    let other = details("INSUFFICIENT_STOCK", [("sku", "sku-0000007"), ("available", "2")])
    #expect(refusal(other).fingerprint != first.fingerprint)
    #expect(refusal(details("WHATEVER", [])).reason == .other)
    #expect(refusal([1, 2, 3]).reason == .unnamed)
    #expect(refusal([]).sku == nil)
  }

  @Test(
    arguments: [
      (9, RefusalReason.insufficientStock, false), (10, .conflictTooBusy, true),
      (14, .overloaded, true), (14, .storageFull, true), (8, .other, true),
    ] as [(UInt8, RefusalReason, Bool)])
  func decisionsAndNone(code: UInt8, reason: RefusalReason, isWithoutEffect: Bool) {
    let refusal = Refusal(code: code, reason: reason, sku: nil)
    #expect(Reply(refusal: refusal) == (isWithoutEffect ? .noEffect : .refused(refusal)))
  }

  @Test(arguments: [1, 2, 4, 8, 10, 13, 14, 15] as [UInt8])
  func withoutAReasonNobodyKnows(code: UInt8) {
    #expect(Reply(refusal: Refusal(code: code, reason: .unnamed, sku: nil)) == .unknown)
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

  @Test func warnsWhereTheGeneratorWasTheLimit() throws {
    var statistics = Statistics()
    statistics.wallNanoseconds = 1_000_000_000
    statistics.cpuNanoseconds = 950_000_000
    statistics.measured = 1_000
    for _ in 0..<1_000 { statistics.scheduleLag.record(5_000_000) }
    statistics.unsentTicks = 7
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    options.ratePerSecond = 1_000
    let report = Report(
      options, statistics, busyShares: [0.1, 0.95], findings: nil, checkFailure: "gone",
      server: nil)
    #expect(report.warnings.contains { $0.contains("a thread was busy 95.0 %") })
    #expect(report.warnings.contains { $0.contains("schedule lag p99") })
    #expect(report.warnings.contains { $0.hasPrefix("7 calls of the schedule") })
    #expect(report.verdict == "NO VERDICT: gone")
    #expect(report.generatorCPUMicrosecondsPerRequest == 950)
    #expect(report.text.split(separator: "\n").count < 24)
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

  @Test func progressLine() {
    let line = ProgressLine.text(
      Progress(
        elapsedSeconds: 2.5, totalSeconds: 11, answered: 3_000, accepted: 1_000, refused: 2_000,
        failed: 0),
      since: Progress(elapsedSeconds: 1.5, answered: 1_000, accepted: 0, refused: 0, failed: 0))
    #expect(line == "   2.5 of 11.0 s · 2,000 requests/s · 1,000 accepted · 2,000 refused")
  }
}
