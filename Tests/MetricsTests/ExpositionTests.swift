import Testing

@testable import Metrics

@Suite("Prometheus text format")
struct ExpositionTests {
  @Test(
    "Label values are escaped",
    arguments: [
      ("plain", "plain"), ("", ""), ("a\\b", "a\\\\b"), ("a\"b", "a\\\"b"), ("a\nb", "a\\nb"),
      ("\\n", "\\\\n"), ("ünï ☂", "ünï ☂"), ("tab\there", "tab\there"),
      ("\r\n", "\r\\n"),
    ])
  func labelEscaping(value: String, escaped: String) {
    var exposition = Exposition()
    exposition.gauge("g", help: "h", samples: [([("l", value)], 1)])
    #expect(exposition.text == "# HELP g h\n# TYPE g gauge\ng{l=\"\(escaped)\"} 1\n")
  }

  @Test(
    "Help is escaped, quotation marks are not",
    arguments: [
      ("plain.", "plain."), ("a\\b", "a\\\\b"), ("a\nb", "a\\nb"), ("a \"b\"", "a \"b\""),
    ])
  func helpEscaping(help: String, escaped: String) {
    var exposition = Exposition()
    exposition.gauge("g", help: help, value: 0)
    #expect(exposition.text == "# HELP g \(escaped)\n# TYPE g gauge\ng 0\n")
  }

  @Test(
    "Values are written as Prometheus reads them",
    arguments: [
      (0.0, "0"), (-0.0, "-0"), (1, "1"), (-3, "-3"), (0.25, "0.25"), (50_000e-9, "5e-05"),
      (9_007_199_254_740_992, "9007199254740992"), (1e21, "1e+21"), (.infinity, "+Inf"),
      (-.infinity, "-Inf"), (.nan, "NaN"),
    ])
  func numbers(value: Double, text: String) {
    var exposition = Exposition()
    exposition.gauge("g", help: "h", value: value)
    #expect(exposition.text.hasSuffix("\ng \(text)\n"))
  }

  @Test("A family stands together, once, whoever adds to it")
  func families() {
    var exposition = Exposition()
    exposition.counter("a_total", help: "First.", samples: [([("k", "1")], 1)])
    exposition.counter("b_total", help: "Other.", value: 7)
    exposition.counter("a_total", help: "Second.", samples: [([("k", "2"), ("m", "x")], 2)])
    #expect(
      exposition.text == """
        # HELP a_total First.
        # TYPE a_total counter
        a_total{k="1"} 1
        a_total{k="2",m="x"} 2
        # HELP b_total Other.
        # TYPE b_total counter
        b_total 7

        """)
  }

  @Test(
    "A histogram's buckets are cumulative and end in +Inf",
    arguments: [
      ([1, 2, 3, 4] as [UInt64], ["1", "3", "6", "10"]),
      ([], ["0", "0", "0", "0"]),
      ([5], ["5", "5", "5", "5"]),
      ([1, 1, 1, 1, 1], ["1", "2", "3", "5"]),
    ])
  func histogram(counts: [UInt64], cumulative: [String]) {
    var exposition = Exposition()
    exposition.histogram(
      "h", help: "h", labels: [("m", "x")], upperBounds: [0.1, 1, 2.5], counts: counts, sum: 0.5)
    #expect(
      exposition.text == """
        # HELP h h
        # TYPE h histogram
        h_bucket{m="x",le="0.1"} \(cumulative[0])
        h_bucket{m="x",le="1"} \(cumulative[1])
        h_bucket{m="x",le="2.5"} \(cumulative[2])
        h_bucket{m="x",le="+Inf"} \(cumulative[3])
        h_sum{m="x"} 0.5
        h_count{m="x"} \(cumulative[3])

        """)
  }

  @Test("Nanosecond bounds become seconds without noise")
  func scaledBounds() {
    var exposition = Exposition()
    let bounds = RPCRecorder.handlingBoundsNanoseconds
    exposition.histogram(
      "h", help: "h", upperBounds: bounds, snapshot: HistogramSnapshot(), unit: 1e-9)
    let written = exposition.text.split(separator: "\n").compactMap { line in
      line.hasPrefix("h_bucket") ? line.split(separator: "\"")[1] : nil
    }
    #expect(
      written == [
        "5e-05", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05",
        "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf",
      ])
  }

  @Test("A summary has its quantiles, sum and count")
  func summary() {
    var exposition = Exposition()
    exposition.summary(
      "s", help: "h", quantiles: [(0.5, 0.25), (0.999, .nan)], count: 3, sum: 1.5)
    #expect(
      exposition.text == """
        # HELP s h
        # TYPE s summary
        s{quantile="0.5"} 0.25
        s{quantile="0.999"} NaN
        s_sum 1.5
        s_count 3

        """)
  }

  @Test("A page asks its sources in their order, at every rendering")
  func page() {
    let page = MetricsPage()
    #expect(page.render().isEmpty)
    let cells = CounterCells(count: 1)
    page.add { $0.counter("b_total", help: "b", value: cells.value(at: 0)) }
    page.add { $0.gauge("a", help: "a", value: 1) }
    #expect(page.render().contains("\nb_total 0\n# HELP a a\n"))
    cells.add(2, at: 0)
    #expect(page.render().contains("\nb_total 2\n"))
  }
}
