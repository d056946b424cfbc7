// Workloads as JSON:
//
//   { "scenario": "carts", "comment": "…", "skus": 500, "lines": "2-4", "ttl_seconds": "60-90" }
//
// One object; "scenario" names what the rest overrides (custom where it is missing), "comment" is for
// people, every other key is one of `Workload.fields`. A value is a number, true or false, or the text
// that the field's flag takes.

internal import FoundationEssentials
internal import Glibc
internal import LoadReport
package import Posix

/// What a workload file says.
package struct WorkloadFile: Sendable {
  /// As messages name it.
  private let name: String
  private let scenario: String?
  private let values: [(field: WorkloadField, text: String)]

  package static let bytesMaximum = 1 << 20

  /// - Parameter path: of the file; "-" is standard input.
  /// - Throws: one line where the file cannot be read or is not a workload.
  package init(path: String) throws(LoadError) {
    let bytes: [UInt8]
    do {
      bytes = try WorkloadFile.read(path, upTo: WorkloadFile.bytesMaximum)
    } catch {
      throw LoadError("cannot read the workload \(path): \(error)")
    }
    try self.init(bytes, name: path == "-" ? "standard input" : path)
  }

  /// - Parameter name: of the file, for messages.
  package init(_ bytes: some Sequence<UInt8>, name: String) throws(LoadError) {
    let bytes = Data(bytes)
    guard bytes.count <= WorkloadFile.bytesMaximum else {
      throw LoadError("\(name) is too long for a workload")
    }
    let entries: [String: JSONValue]
    do {
      entries = try JSONDecoder().decode([String: JSONValue].self, from: bytes)
    } catch DecodingError.dataCorrupted {
      throw LoadError("\(name) is not valid JSON")
    } catch {
      throw LoadError("\(name) must be a JSON object: {\"scenario\": \"carts\", \"skus\": 500}")
    }
    self.name = name
    scenario = try entries["scenario"].map { (value) throws(LoadError) in
      guard case .text(let scenario) = value else {
        throw LoadError("\(name): scenario must be the name of one, not \(value.description)")
      }
      return scenario
    }
    let keys = Set(Workload.fields.map(\.key))
    let unknown = entries.keys.filter { !keys.contains($0) && $0 != "scenario" && $0 != "comment" }
    if let key = unknown.min() {
      throw LoadError(
        "\(name): '\(Text.printable(key))' is no key of a workload; --print-workload shows all")
    }
    var values: [(field: WorkloadField, text: String)] = []
    for field in Workload.fields {
      guard let value = entries[field.key] else { continue }
      guard let text = value.text else {
        throw LoadError(
          "\(name): \(field.key) must be \(field.range), not \(value.description)")
      }
      values.append((field, text))
    }
    self.values = values
  }

  /// What the file at `path` holds ("-" is standard input), as far as it could be what it is taken for: more than
  /// may be shows that it is not.
  static func read(_ path: String, upTo bytesMaximum: Int) throws(Errno) -> [UInt8] {
    let number = path == "-" ? dup(0) : unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard number >= 0 else { throw Errno(code: errno) }
    let file = FileDescriptor(owning: number)
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 65_536)
    while bytes.count <= bytesMaximum {
      // The array is ours for the length of the call.
      let result = unsafe part.withUnsafeMutableBytes { buffer in
        unsafe FileDescriptor.read(file.number, into: buffer)
      }
      switch result {
      case .moved(0): return bytes
      case .moved(let count): bytes += part[..<count]
      case .failed(let error): throw error
      case .wouldBlock: throw Errno(code: EAGAIN)
      }
    }
    return bytes
  }

  /// The scenario that the file names; nil if it names none. Throws where there is no such.
  package func namedScenario() throws(LoadError) -> Scenario? {
    guard let scenario, scenario != Workload().scenario else { return nil }
    do {
      return try Scenario.named(scenario)
    } catch {
      throw LoadError("\(name): \(error)")
    }
  }

  /// Overrides what the file has a value for. Throws what a value must be, where it is not.
  package func apply(to workload: inout Workload) throws(LoadError) {
    for (field, text) in values {
      try field.set(text, in: &workload, name: "\(name): \(field.key)")
    }
  }
}

extension Workload {
  /// As `WorkloadFile` reads it: every field that has a value, a line each.
  package var json: String {
    var lines = ["  \"scenario\": \"\(scenario)\""]
    for field in Workload.fields {
      guard let text = field.text(self) else { continue }
      let isBare = Double(text) != nil || Bool(text) != nil
      lines.append("  \"\(field.key)\": " + (isBare ? text : "\"\(text)\""))
    }
    return "{\n" + lines.joined(separator: ",\n") + "\n}\n"
  }
}

/// A value of a JSON object, as far as a workload has use for it.
private enum JSONValue: Decodable, CustomStringConvertible {
  case text(String)
  case number(Double)
  case bool(Bool)
  case other

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let bool = try? container.decode(Bool.self) {
      self = .bool(bool)
    } else if let number = try? container.decode(Double.self) {
      self = .number(number)
    } else if let text = try? container.decode(String.self) {
      self = .text(text)
    } else {
      self = .other
    }
  }

  /// As a flag would take it.
  var text: String? {
    switch self {
    case .text(let text): text
    case .number(let number): Seconds.decimal(number)
    case .bool(let bool): "\(bool)"
    case .other: nil
    }
  }

  var description: String {
    switch self {
    case .text(let text): "\"\(Text.printable(text))\""
    case .number, .bool: text ?? ""
    case .other: "null, a list or an object"
    }
  }
}

/// Files that have to be short.
package enum SmallFile {
  /// What the file at `path` holds, and more than `bytesMaximum` bytes of it where it has more.
  package static func read(_ path: String, upTo bytesMaximum: Int) throws(Errno) -> [UInt8] {
    try WorkloadFile.read(path, upTo: bytesMaximum)
  }
}
