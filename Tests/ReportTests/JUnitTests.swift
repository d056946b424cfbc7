import Foundation
import Testing

@testable import LoadReport

#if canImport(FoundationXML)
  import FoundationXML
#endif

struct JUnitTests {
  /// The elements of a document, in their order, with their attributes.
  private final class Reader: NSObject, XMLParserDelegate {
    var elements: [(name: String, attributes: [String: String])] = []
    func parser(
      _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
      qualifiedName: String?, attributes: [String: String]
    ) {
      elements.append((name, attributes))
    }
  }

  private func read(_ junit: JUnit) throws -> [(name: String, attributes: [String: String])] {
    let parser = XMLParser(data: Data(junit.xml.utf8))
    let reader = Reader()
    parser.delegate = reader
    try #require(parser.parse(), "\(junit.xml)")
    return reader.elements
  }

  private func outcomes(_ junit: JUnit) -> [String: JUnit.Outcome] {
    Dictionary(
      junit.suites.flatMap(\.cases).map { ($0.name, $0.outcome) }, uniquingKeysWith: { a, _ in a })
  }

  @Test func aRunHasACaseForEachRequirementAndEachPartOfTheVerdict() throws {
    let junit = JUnit(Sample.report)
    let outcomes = outcomes(junit)
    #expect(outcomes["p99<25ms"] == .passed)
    #expect(outcomes["p99.9<25ms"] == .failed("measured: 151 ms"))
    #expect(outcomes["nothing is oversold"] == .passed)
    #expect(outcomes["the run went to its end"] == .passed)
    #expect(
      outcomes["the change feed says what was decided"]
        == .skipped("the feed was not followed (--watch)"))
    let elements = try read(junit)
    #expect(elements[0].attributes["tests"] == "11" && elements[0].attributes["failures"] == "1")
    #expect(elements.count { $0.name == "testcase" } == 11)
    #expect(elements.count { $0.name == "failure" } == 1)
    #expect(elements.contains { $0.name == "property" && $0.attributes["value"] == "checkout" })
    let suite = try #require(elements.first { $0.name == "testsuite" })
    #expect(suite.attributes["timestamp"] == "2026-11-21T18:05:31")
  }

  @Test func violationsFailTheirPart() {
    var report = Sample.report
    report.check?.holds = false
    report.check?.violations = ["oversold": 2, "ended twice": 1, "something new": 4]
    report.check?.examples = ["oversold: SKU 7 by 3 units\n  a call"]
    report.verdict = report.check?.verdict ?? Verdict()
    let junit = JUnit(report)
    let outcomes = outcomes(junit)
    #expect(outcomes["nothing is oversold"] == .failed("oversold (2)"))
    #expect(outcomes["every decision is made once and kept"] == .failed("ended twice (1)"))
    #expect(outcomes["other invariants"] == .failed("something new (4)"))
    #expect(junit.xml.contains("SKU 7 by 3 units\n  a call</failure>"))
  }

  @Test func whatCouldNotBeSaidIsAnError() {
    var report = Sample.report
    report.check = nil
    report.verdict = Verdict(.unknown, reason: "the server is gone")
    report.isPartial = true
    report.warnings = ["the run ended early: it is gone"]
    let unknown = outcomes(JUnit(report))
    #expect(unknown["the server was compared with the calls"] == .error("the server is gone"))
    #expect(unknown["the run went to its end"] == .error("the run ended early: it is gone"))
    report.abort = Report.Abort()
    report.abort?.expression = "errors>5% for 3s"
    report.abort?.actualText = "12.0 %"
    let aborted = outcomes(JUnit(report))
    #expect(
      aborted["the run went to its end"] == .failed("--abort-if errors>5% for 3s: 12.0 %"))
  }

  @Test func hostileTextsStayText() throws {
    let hostile = "</failure><![CDATA[ ]]>&\"'\u{0}\u{1b}[31m\u{FFFE}\nx"
    var report = Sample.report
    report.thresholds[1].expression = hostile
    report.configuration.scenario = hostile
    report.startedAt = ""
    report.check?.violations = [hostile: 1]
    report.check?.examples = [hostile]
    let elements = try read(JUnit(report))
    #expect(elements.count { $0.name == "failure" } == 2)
  }
}
