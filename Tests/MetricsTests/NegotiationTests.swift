import Testing

@testable import Metrics

@Suite("Which format a scraper asks for")
struct NegotiationTests {
  @Test(
    "OpenMetrics is for who names it, at no lower a quality than text",
    arguments: [
      (nil, .text), ("", .text), (",;,", .text), ("*/*", .text), ("text/*", .text),
      ("text/html, */*;q=0.8", .text), ("text/plain;version=0.0.4", .text),
      ("application/openmetrics-text", .openMetrics),
      ("APPLICATION/OpenMetrics-Text ; Version=\"1.0.0\"", .openMetrics),
      (
        "application/openmetrics-text;version=1.0.0;charset=utf-8;escaping=underscores",
        .openMetrics
      ),
      // As Prometheus 2.42 and 3 say it.
      (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
          + "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", .openMetrics
      ),
      (
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
          + "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.6,*/*;q=0.5",
        .openMetrics
      ),
      ("application/openmetrics-text;version=0.0.1", .text),
      ("application/openmetrics-text;version=2.0.0", .text),
      ("application/openmetrics-text;q=0", .text),
      ("application/openmetrics-text;q=0.0, */*", .text),
      ("application/openmetrics-text;q=0.4, text/plain;q=0.5", .text),
      ("application/openmetrics-text;q=0.5, text/plain;q=0.5", .openMetrics),
      ("text/plain;q=0.5,application/openmetrics-text;q=0.001", .text),
      ("application/openmetrics-text;q=0.001", .openMetrics),
      // The most exact range counts, wherever it stands.
      ("*/*, text/plain;q=0.2, application/openmetrics-text;q=0.3", .openMetrics),
      (
        "text/plain;version=0.0.4;q=0.2, text/plain;q=0.9, application/openmetrics-text;q=0.3",
        .openMetrics
      ),
      ("text/*;q=0.9, */*;q=0.1, application/openmetrics-text;q=0.3", .text),
      // No quality, and none that can be one.
      ("application/openmetrics-text;q=", .text), ("application/openmetrics-text;q=2", .text),
      ("application/openmetrics-text;q=1.5", .text), ("application/openmetrics-text;q=-1", .text),
      ("application/openmetrics-text;q=0.1234", .text),
      ("application/openmetrics-text;q=0x1", .text),
      ("application/openmetrics-text;q=1.000", .openMetrics),
      ("application/openmetrics-text;q=1.", .openMetrics),
      ("application/openmetrics-textual", .text),
    ] as [(String?, ExpositionFormat)])
  func preferred(accept: String?, format: ExpositionFormat) {
    #expect(ExpositionFormat.preferred(accept: accept) == format)
  }
}

@Suite("OpenMetrics")
struct OpenMetricsTests {
  @Test(
    "Families of counters are called without _total, units are told, help is quoted, the end is told"
  )
  func families() {
    var page = Exposition(format: .openMetrics)
    page.counter("a_bytes_total", help: "Say \"a\\b\".", value: 7)
    page.gauge("b", help: "b", value: 1)
    #expect(
      page.text == """
        # HELP a_bytes Say \\"a\\\\b\\".
        # TYPE a_bytes counter
        # UNIT a_bytes bytes
        a_bytes_total 7
        # HELP b b
        # TYPE b gauge
        b 1
        # EOF

        """)
  }

  @Test("Bounds have a fraction, exemplars stand behind their buckets, and only there")
  func exemplars() {
    let exemplars = [
      nil, Exemplar(traceID: "0af7", value: 1.5, unixSeconds: 1_700_000_000.125),
      Exemplar(traceID: "b7ad", value: 3),
    ]
    var openMetrics = Exposition(format: .openMetrics)
    var text = Exposition()
    for format in ExpositionFormat.allCases {
      var page = Exposition(format: format)
      page.histogram(
        "h", help: "h", labels: [("m", "x")], upperBounds: [1, 2], counts: [4, 2, 1], sum: 10,
        exemplars: exemplars)
      if format == .text { text = page } else { openMetrics = page }
    }
    #expect(
      openMetrics.text == """
        # HELP h h
        # TYPE h histogram
        h_bucket{m="x",le="1.0"} 4
        h_bucket{m="x",le="2.0"} 6 # {trace_id="0af7"} 1.5 1700000000.125
        h_bucket{m="x",le="+Inf"} 7 # {trace_id="b7ad"} 3
        h_sum{m="x"} 10
        h_count{m="x"} 7
        # EOF

        """)
    #expect(!text.text.contains("trace_id"))
    #expect(text.text.contains("h_bucket{m=\"x\",le=\"1\"} 4\n"))
  }

  @Test("Of each bucket the newest traced call of all loops is shown, one a second and loop")
  func traced() {
    let second = ExemplarCells.intervalNanoseconds
    let metrics = RPCMetrics(
      methods: [RPCMethod(service: "s", method: "m", type: .unary)],
      nowNanoseconds: { 10 * second }, wallNanoseconds: { 1_000 * second })
    let loops = [metrics.makeRecorder(), metrics.makeRecorder()]
    func call(_ loop: Int, trace: UInt64, at seconds: Double, latency: Int64 = 60_000) {
      loops[loop].traced(
        method: 0, latencyNanoseconds: latency, traceHigh: 0xa, traceLow: trace,
        nowNanoseconds: Int64(seconds * 1e9))
    }
    func shown() -> [Substring] {
      var page = Exposition(format: .openMetrics)
      metrics.expose(into: &page)
      return page.text.split(separator: "\n").filter { $0.contains("trace_id") }
        .map { $0[$0.firstIndex(of: "#")!...] }
    }
    #expect(shown() == [])
    call(0, trace: 1, at: 1)
    call(0, trace: 2, at: 1.9)
    #expect(shown() == ["# {trace_id=\"000000000000000a0000000000000001\"} 6e-05 991"])
    call(0, trace: 3, at: 2)
    call(1, trace: 4, at: 2.5)
    call(1, trace: 5, at: 2.5, latency: 60_000_000_000)
    #expect(
      shown() == [
        "# {trace_id=\"000000000000000a0000000000000004\"} 6e-05 992.5",
        "# {trace_id=\"000000000000000a0000000000000005\"} 60 992.5",
      ])
    // A method that the server does not have is one as well.
    loops[0].traced(
      method: -1, latencyNanoseconds: -5, traceHigh: 0, traceLow: 6, nowNanoseconds: second)
    #expect(shown().last == "# {trace_id=\"00000000000000000000000000000006\"} 0 991")
  }

  @Test("A slot that is written is not read")
  func torn() {
    let cells = ExemplarCells(slots: 2)
    #expect(cells.value(slot: 0) == nil)
    let value = ExemplarCells.Value(traceHigh: 1, traceLow: 2, value: 3, nanoseconds: 4)
    cells.offer(value, slot: 1)
    #expect(cells.value(slot: 0) == nil)
    #expect(cells.value(slot: 1) == value)
  }
}
