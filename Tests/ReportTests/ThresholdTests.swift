import LoadReport
import Testing

struct ThresholdTests {
  private static let report: Report = {
    var report = Report()
    report.measuredSeconds = 10
    report.requestsPerSecond = 5_000
    report.latencyMicroseconds["all"] = LatencySummary(
      count: 10, mean: 900, p50: 800, p90: 2_000, p95: 3_000, p99: 4_200, p999: 9_000,
      p9999: 12_000, max: 1_500_000)
    report.latencyMicroseconds["Reserve"] = LatencySummary(count: 5, p99: 6_000)
    report.latencyMicroseconds["Extend"] = LatencySummary()
    report.scheduleLagMicroseconds = LatencySummary(count: 9, p99: 40)
    report.outcomes = ["reserved": 990, "refused, no stock": 8, "connection lost": 2]
    return report
  }()

  @Test(arguments: [
    ("p99>5ms", false), ("p99>4200us", false), ("p99>=4200us", true), ("p99 > 4.1 ms", true),
    ("p99<5ms", true), ("p99<=4.2ms", true), ("p50<800µs", false), ("p50<=800µs", true),
    ("p99.9>8999us", true), ("p99.99>0.011s", true), ("p90>1999000ns", true), ("p95<3.1ms", true),
    ("max>1s", true), ("mean>1ms", false), ("Reserve.p99>5ms", true), ("lag.p99>1ms", false),
    ("rate<5000/s", false), ("rate<=5000", true), ("errors>0.1%", true), ("errors>0.2%", false),
    ("errors>0.0019", true), ("errors>=0", true),
  ])
  func comparesTheFigure(expression: String, isTrue: Bool) throws {
    let threshold = try Threshold(expression)
    #expect(threshold.evaluate(Self.report).isPassed == isTrue)
    #expect(threshold.negated.evaluate(Self.report).isPassed == !isTrue)
    // As its own expression reads.
    #expect(
      try Threshold(threshold.negated.expression).evaluate(Self.report).isPassed == !isTrue)
  }

  @Test(arguments: ["conflicts>1%", "service.p99>1ms", "Confirm.max>1s", "Extend.p99<1s"])
  func whatWasNotMeasuredFails(expression: String) throws {
    let threshold = try Threshold(expression)
    for threshold in [threshold, threshold.negated] {
      let result = threshold.evaluate(Self.report)
      #expect(!result.isPassed)
      #expect(result.actual == nil)
      #expect(result.actualText == "not measured")
    }
    #expect(try Threshold("rate>1").evaluate(Report()).actual == nil)
    #expect(try Threshold("errors>1%").evaluate(Report()).actual == nil)
  }

  @Test func theResultIsInTheUnitOfTheExpression() throws {
    let result = try Threshold("p99>5ms").evaluate(Self.report)
    #expect(result.expression == "p99>5ms")
    #expect(result.actual == 4.2)
    #expect(result.actualText == "4.20 ms")
    let errors = try Threshold("errors>1%").evaluate(Self.report)
    #expect(errors.actual == 0.2)
    #expect(errors.actualText == "0.2 %")
  }

  @Test(arguments: [
    ("p99>5ms", "p99<=5ms"), ("rate<5000/s", "rate>=5000/s"), ("errors >= 0.1 %", "errors<0.1%"),
    ("Reserve.p99.9<=20ms", "Reserve.p99.9>20ms"),
  ])
  func theOppositeReadsAsItIsWritten(expression: String, opposite: String) throws {
    #expect(try Threshold(expression).negated.expression == opposite)
  }

  @Test func conflictsAreThoseOfACommit() throws {
    var report = Self.report
    report.server = Report.ServerSide()
    report.server?.conflictsPerCommit = 0.11
    #expect(try Threshold("conflicts>10%").evaluate(report).isPassed)
    #expect(try !Threshold("conflicts>0.2").evaluate(report).isPassed)
  }

  @Test(arguments: [
    ("p99", "it has none of < <= > >="), ("", "it has none of"), ("p99=5ms", "= is none of"),
    ("p99==5ms", "== is none of"), ("p99<>5ms", "<> is none of"), ("p99!5ms", "! is none of"),
    ("p98>5ms", "'p98' is no metric"), (">5ms", "'' is no metric"),
    ("reserve.p99>5ms", "'reserve.p99' is no metric"), ("Reserve>5ms", "is no metric"),
    ("service.rate>5/s", "is no metric"), ("p99>ms", "it has no number"),
    ("p99>-5ms", "it has no number"), ("p99>..ms", "it has no number"),
    ("p99>5", "a unit is missing; p99 takes ns or us or ms or s"),
    ("Reserve.p99>5%", "'%' is no unit of it; Reserve.p99 takes"),
    ("rate>5ms", "rate takes /s"), ("errors>5/s", "errors takes % or no unit"),
    ("p99>5e3ms", "'e3ms' is no unit"), ("p99>5,5ms", "',5ms' is no unit"),
    ("p99>5ms\u{1b}[31m\n", "is no unit"),
  ])
  func whatIsNoneIsRefusedInOneLine(expression: String, reason: String) {
    var message = ""
    do {
      _ = try Threshold(expression)
    } catch {
      message = error.description
    }
    #expect(message.contains(reason))
    #expect(!message.contains("\n") && !message.contains("\u{1b}"))
  }
}
