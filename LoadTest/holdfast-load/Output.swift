// Files that the load generator writes.
internal import FoundationEssentials
internal import LoadKit
internal import LoadReport

enum JSONReport {
  /// For programs: keys in snake case, sorted.
  static func encode(_ value: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    // No figure ought to be infinite or no number. If one is, the rest is written all the same.
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    return try encoder.encode(value) + Data("\n".utf8)
  }
}

/// Replaces the file at `path` as a whole.
func save(_ bytes: some Sequence<UInt8>, to path: String) throws(LoadError) {
  do {
    try Data(bytes).write(to: URL(filePath: path), options: .atomic)
  } catch {
    throw LoadError("cannot write \(path): \(error)")
  }
}
