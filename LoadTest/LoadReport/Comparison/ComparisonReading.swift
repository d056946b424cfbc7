// Reading what earlier runs have written. The files come from outside: anything may stand in them.
internal import FoundationEssentials

extension Report {
  /// - Parameter json: a report as `run --json` writes it. Fields that it lacks have their defaults,
  ///   since fields may be added at any time; those that are not known are passed over.
  /// - Throws: in one line what is wrong with it.
  package init(reading json: [UInt8]) throws(ReportError) {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .custom { path in ReportKey(path.last?.stringValue ?? "") }
    let schema: Schema
    do {
      schema = try decoder.decode(Schema.self, from: Data(json))
    } catch {
      throw ReportError("it is no report of holdfast-load")
    }
    if schema.schemaVersion == 0 { throw ReportError("it is no report of holdfast-load") }
    guard schema.schemaVersion == Report.schemaVersionNow else {
      throw ReportError(
        "it has schema version \(schema.schemaVersion), and only \(Report.schemaVersionNow) can be "
          + "compared; run it again with this version of holdfast-load")
    }
    do {
      self = try decoder.decode(Report.self, from: Data(json))
    } catch DecodingError.typeMismatch(_, let context) {
      throw ReportError("\(context.path) is not of its type")
    } catch DecodingError.dataCorrupted(let context) {
      throw ReportError("\(context.path) makes no sense")
    } catch {
      throw ReportError("it is no report of holdfast-load")
    }
  }

  private struct Schema: Decodable { let schemaVersion: Int }
}

extension ComparedReport {
  /// Of a file: the variant is the report's label, else the file's name without its extension and
  /// without a number at its end, "fast-3.json" and "fast.3.json" being runs of "fast".
  package init(file: String, json: [UInt8]) throws(ReportError) {
    let report = try Report(reading: json)
    var name = file.split(separator: "/").last.map(String.init) ?? file
    if name.hasSuffix(".json") { name.removeLast(5) }
    let digits = name.reversed().prefix { $0.isASCII && $0.isNumber }.count
    let stem = name.dropLast(digits)
    if digits > 0, stem.count > 1, let mark = stem.last, mark == "-" || mark == "." {
      name = String(stem.dropLast())
    }
    if let label = report.label, !label.isEmpty { name = label }
    self.init(variant: String(Text.printable(name).prefix(64)), file: file, report: report)
  }
}

/// What is wrong with a file that was to be compared.
package struct ReportError: Error, CustomStringConvertible {
  package let description: String

  package init(_ description: String) { self.description = description }
}

extension DecodingError.Context {
  fileprivate var path: String {
    codingPath.isEmpty ? "it" : codingPath.map(\.stringValue).joined(separator: ".")
  }
}

/// A Swift name made of a snake-case one. Words that Swift spells in capitals are known here, which
/// `convertFromSnakeCase` cannot do.
private struct ReportKey: CodingKey {
  let stringValue: String
  var intValue: Int? { nil }

  init(_ snake: String) {
    let words = snake.split(separator: "_").map(String.init)
    stringValue = words.enumerated().map { index, word in
      if index == 0 { return word }
      if word == "cpu" { return "CPU" }
      return word.prefix(1).uppercased() + word.dropFirst()
    }.joined()
  }

  init?(stringValue: String) { self.init(stringValue) }
  init?(intValue: Int) { nil }
}

// MARK: Defaults

// What the compiler writes for `Decodable` calls these in place of the library's: within this module a
// field that is absent has the default of its type.
extension KeyedDecodingContainer {
  func decode(_ type: Bool.Type, forKey key: Key) throws -> Bool {
    try decodeIfPresent(type, forKey: key) ?? false
  }
  func decode(_ type: Int.Type, forKey key: Key) throws -> Int {
    try decodeIfPresent(type, forKey: key) ?? 0
  }
  func decode(_ type: UInt64.Type, forKey key: Key) throws -> UInt64 {
    try decodeIfPresent(type, forKey: key) ?? 0
  }
  func decode(_ type: Int64.Type, forKey key: Key) throws -> Int64 {
    try decodeIfPresent(type, forKey: key) ?? 0
  }
  func decode(_ type: Double.Type, forKey key: Key) throws -> Double {
    try decodeIfPresent(type, forKey: key) ?? 0
  }
  func decode(_ type: String.Type, forKey key: Key) throws -> String {
    try decodeIfPresent(type, forKey: key) ?? ""
  }
  func decode<Value: Decodable & HasDefault>(
    _ type: Value.Type, forKey key: Key
  ) throws -> Value {
    try decodeIfPresent(type, forKey: key) ?? Value()
  }
}

/// What an absent field of the type is.
protocol HasDefault { init() }

extension Array: HasDefault {}
extension Dictionary: HasDefault {}
extension Report.Environment: HasDefault {}
extension Report.Configuration: HasDefault {}
extension Report.Result: HasDefault {
  init() { self = .unknown }
}
extension Report.LimitedBy: HasDefault {
  init() { self = .unknown }
}
extension Report.Linearizable: HasDefault {
  init() { self = .undecided }
}
extension Verdict: HasDefault {}
extension LatencySummary: HasDefault {
  init() { self.init(count: 0) }
}
