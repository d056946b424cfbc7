import Testing

@testable import Metrics

@Suite struct LatencyCellsTests {
  @Test(
    "A bucket's middle is within 3 % of every value in it",
    arguments: [
      0, 1, 15, 16, 17, 31, 32, 33, 100, 1000, 12_345, 999_999, 1_000_000, 123_456_789,
      60_000_000_000, (1 << 40) - 1,
    ] as [Int64])
  func width(value: Int64) {
    let middle = LatencyCells.middle(of: LatencyCells.bucket(of: value))
    #expect(abs(middle - Double(value)) <= 0.032 * Double(value) + 0.5)
  }

  @Test("Buckets are in order and within the row, whatever the value")
  func order() {
    var last = -1
    for shift in Int64(0)..<62 {
      let value: Int64 = 1 << shift
      for offset in [0, value / 4, value / 2] {
        let bucket = LatencyCells.bucket(of: value + offset)
        #expect(bucket >= last && bucket < LatencyCells.bucketCount)
        last = max(last, bucket)
      }
    }
    #expect(LatencyCells.bucket(of: -1) == 0 && LatencyCells.bucket(of: .min) == 0)
    #expect(LatencyCells.bucket(of: .max) == LatencyCells.bucketCount - 1)
  }

  @Test("A snapshot has each method's calls, codes and quantiles, of all loops together")
  func snapshot() throws {
    let metrics = RPCMetrics(
      methods: [
        RPCMethod(service: "s", method: "A", type: .unary),
        RPCMethod(service: "s", method: "B", type: .unary),
      ], nowNanoseconds: { 0 })
    let recorders = [metrics.makeRecorder(), metrics.makeRecorder()]
    recorders[0].started(method: 0, count: 99)
    recorders[0].handled(method: 0, code: 0, latencyNanoseconds: 1_000_000, count: 98)
    recorders[1].handled(method: 0, code: 9, latencyNanoseconds: 50_000_000)
    recorders[1].handled(method: 77, code: 12, latencyNanoseconds: 5)
    recorders[0].connectionOpened()
    recorders[1].connectionOpened()
    recorders[1].connectionClosed()
    recorders[1].received(bytes: 10)
    let snapshot = metrics.snapshot(nowNanoseconds: 0)
    #expect(snapshot.methods.map(\.method.method) == ["A", "B", "unknown"])
    let a = snapshot.methods[0]
    #expect(a.started == 99 && a.handled == 99)
    #expect(
      a.codes.map(\.name) == ["OK", "FailedPrecondition"] && a.codes.map(\.count) == [98, 1])
    #expect(abs(try #require(a.latencies.quantile(0.5)) - 1_000_000) < 32_000)
    #expect(abs(try #require(a.latencies.quantile(0.999)) - 50_000_000) < 1_600_000)
    #expect(snapshot.methods[1].latencies.quantile(0.5) == nil)
    #expect(snapshot.methods[2].codes.map(\.name) == ["Unimplemented"])
    #expect(snapshot.connectionsOpen == 1 && snapshot.connectionsOpened == 2)
    #expect(snapshot.receivedBytes == 10)

    recorders[0].handled(method: 0, code: 0, latencyNanoseconds: 3_000_000, count: 5)
    let since = metrics.snapshot(nowNanoseconds: 0).methods[0].latencies.since(a.latencies)
    #expect(since.count == 5)
    #expect(abs(try #require(since.quantile(0.5)) - 3_000_000) < 96_000)
    #expect(since.since(LatencySnapshot()) == since)
  }
}
