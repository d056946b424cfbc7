import Foundation
import LoadReport
import Testing

/// LoadTest/report.schema.json and the types that it describes name the same fields.
struct SchemaTests {
  private let schema: [String: Any]
  private let definitions: [String: Any]

  init() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let data = try Data(contentsOf: root.appending(path: "LoadTest/report.schema.json"))
    schema = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
    definitions = try #require(schema["$defs"] as? [String: Any])
  }

  private func encoded(_ value: some Encodable) throws -> Any {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    return try JSONSerialization.jsonObject(with: encoder.encode(value))
  }

  private func keys(_ value: some Encodable) throws -> [String] {
    try #require(try encoded(value) as? [String: Any]).keys.sorted()
  }

  @Test func aReportWithAllFieldsHasThoseOfTheSchema() throws {
    var report = Sample.report
    report.verdict.reason = "no run has all of them"
    report.verdict.oversold = Verdict.Oversold()
    report.check?.oversold = Verdict.Oversold()
    report.verdict.feedEvents = 1
    report.check?.feed = Report.Feed()
    report.check?.feed?.kinds = ["HELD": 1]
    report.messages = Report.Messages()
    report.abort = Report.Abort()
    report.abort?.actual = 0.05
    report.warmUp = Report.WarmUp()
    report.agents = [Report.AgentSide()]
    report.agents[0].lost = "it said nothing for 10 s"
    try compare(try encoded(report), with: schema, at: "report")
  }

  /// What a report always has is what the schema requires.
  @Test func whatIsNeverLeftOutIsRequired() throws {
    let empty: [(String, [String])] = [
      ("environment", try keys(Report.Environment())),
      ("configuration", try keys(Report.Configuration())), ("check", try keys(Report.Check())),
      ("verdict", try keys(Verdict())), ("oversold", try keys(Verdict.Oversold())),
      ("feed", try keys(Report.Feed())), ("messages", try keys(Report.Messages())),
      ("balance", try keys(Verdict.Balance())), ("server_side", try keys(Report.ServerSide())),
      ("interval", try keys(Report.Interval())), ("abort", try keys(Report.Abort())),
      ("warm_up", try keys(Report.WarmUp())), ("agent", try keys(Report.AgentSide())),
      ("server_sample", try keys(Report.ServerSample())),
      ("threshold", try keys(Report.ThresholdResult())),
      ("latency_summary", try keys(LatencySummary())),
      ("spectrum_point", try keys(SpectrumPoint(50, 1))),
    ]
    for (name, keys) in empty {
      let definition = try #require(definitions[name] as? [String: Any], "\(name)")
      #expect(definition["required"] as? [String] ?? [] ~== keys, "\(name)")
    }
    #expect(Set(empty.map(\.0)) == Set(definitions.keys))
    #expect(schema["required"] as? [String] ?? [] ~== (try keys(Report())))
  }

  @Test func theVersionIsThatOfTheReports() throws {
    let properties = try #require(schema["properties"] as? [String: Any])
    let version = try #require(properties["schema_version"] as? [String: Any])
    #expect(version["const"] as? Int == Report.schemaVersionNow)
  }

  /// Goes down both trees at once. Of an array, all entries together have to have all fields.
  private func compare(_ value: Any, with schema: [String: Any], at path: String) throws {
    var schema = schema
    if let reference = schema["$ref"] as? String {
      let name = try #require(reference.split(separator: "/").last.map(String.init))
      #expect(schema["description"] != nil || path.hasSuffix("]"), "\(path) has no description")
      schema = try #require(definitions[name] as? [String: Any], "\(path)")
    }
    if let properties = schema["properties"] as? [String: [String: Any]] {
      let fields = try #require(value as? [String: Any], "\(path)")
      #expect(Array(properties.keys) ~== Array(fields.keys), "\(path)")
      for (name, field) in fields {
        guard let property = properties[name] else { continue }
        #expect(property["description"] is String, "\(path).\(name) has no description")
        try compare(field, with: property, at: "\(path).\(name)")
      }
    } else if let entries = value as? [[String: Any]] {
      let items = try #require(schema["items"] as? [String: Any], "\(path)")
      let all = entries.reduce(into: [:]) { $0.merge($1) { first, _ in first } }
      try compare(all, with: items, at: path + "[]")
    } else if let values = schema["additionalProperties"] as? [String: Any],
      let fields = value as? [String: Any]
    {
      for (name, field) in fields { try compare(field, with: values, at: "\(path)[\(name)]") }
    }
  }
}

infix operator ~== : ComparisonPrecedence

/// The same names, in whatever order.
private func ~== (left: [String], right: [String]) -> Bool { left.sorted() == right.sorted() }
