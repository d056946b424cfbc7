// The rules, and how the files are found that they hold for.
import Foundation

/// A file of the repository; `path` is relative to its root.
struct SourceFile {
  let path: String
  let lines: [Substring]

  init(path: String, text: String) {
    self.path = path
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    if lines.last == "" { lines.removeLast() }
    self.lines = lines
  }

  /// The lines without what follows `//`.
  var code: [Substring] {
    lines.map { line in line.firstRange(of: "//").map { line[..<$0.lowerBound] } ?? line }
  }

  /// The module that the file belongs to: the folder below Sources, LoadTest or Benchmarks, and those
  /// below Tests/Simulation that are no tests.
  var module: String? {
    let parts = path.split(separator: "/")
    if path.hasPrefix("Tests/Simulation/"), parts.count > 3, !parts[2].hasSuffix("Tests") {
      return String(parts[2])
    }
    guard parts.count > 2, ["Sources", "LoadTest", "Benchmarks"].contains(parts[0]) else {
      return nil
    }
    return String(parts[1])
  }

  var isSwift: Bool { path.hasSuffix(".swift") }
  var isProduct: Bool { module != nil }
}

/// One rule; `check` calls `report` with a line number from 1, what is banned and what to use instead.
struct Rule: Sendable {
  let name: String
  let check:
    @Sendable (SourceFile, (_ line: Int, _ banned: String, _ instead: String) -> Void) -> Void

  /// Each as `file:line: X is banned, use Y`.
  func findings(in file: SourceFile) -> [String] {
    var found: [String] = []
    check(file) { line, banned, instead in
      found.append("\(file.path):\(line): \(banned) is banned, \(instead)")
    }
    return found
  }
}

let rules: [Rule] = [
  Rule(name: "length") { file, report in
    let most = file.path == "README.md" ? 300 : 800
    let count = file.lines.count
    if count > most { report(count, "a file of \(count) lines", "split it: \(most) at most") }
  },
  Rule(name: "public") { file, report in
    guard file.isSwift, file.isProduct else { return }
    for line in file.linesOfCode(with: "public") {
      report(line, "`public`", "use `package`")
    }
  },
  Rule(name: "inlinable") { file, report in
    guard file.isSwift, file.isProduct else { return }
    for word in ["inlinable", "usableFromInline"] {
      for line in file.linesOfCode(with: word) {
        report(
          line, "`@\(word)`", "use a call that does more: nothing of `package` is inlined elsewhere"
        )
      }
    }
  },
  Rule(name: "print") { file, report in
    guard file.isSwift, let module = file.module, !executables.contains(module) else { return }
    for line in file.linesOfCode(with: "print", before: "(") {
      report(line, "`print(`", "use the logger")
    }
  },
  Rule(name: "traps") { file, report in
    guard file.isSwift, file.isProduct else { return }
    for (word, mark, instead) in [
      ("try", "!", "`try`"), ("as", "!", "`as?`"), ("fatalError", "(", "a typed error"),
    ] {
      for line in file.linesOfCode(with: word, before: mark) {
        report(line, "`\(word)\(mark)`", "use \(instead)")
      }
    }
  },
  Rule(name: "Foundation") { file, report in
    guard let module = file.module else { return }
    let isHot = modulesWithoutFoundation.contains(module)
    for (line, imported) in file.imports where imported.hasPrefix("Foundation") {
      if isHot {
        report(line, "`Foundation`", "use the standard library or Posix")
      } else if imported != "FoundationEssentials" {
        // The whole of it links ICU into the programs: 40 MB.
        report(line, "`\(imported)`", "use FoundationEssentials")
      }
    }
  },
  Rule(name: "opening") { file, report in
    guard file.isProduct, let first = file.lines.first else { return }
    let opensWell = ["//", "/*", "#include", "#if"].contains { first.hasPrefix($0) }
    if !opensWell && file.imports.first?.line != 1 {
      report(
        1, "an opening without a comment or an import",
        "use a comment that says what the file is for")
    }
  },
  Rule(name: "unfinished") { file, report in
    for (index, line) in file.lines.enumerated() {
      for word in ["TODO", "FIXME"] where line.contains(word) {
        report(index + 1, "`\(word)`", "use an issue")
      }
    }
  },
  Rule(name: "layers") { file, report in
    guard file.module == "HTTP2" else { return }
    for (index, line) in file.code.enumerated() where line.lowercased().contains("grpc") {
      report(index + 1, "gRPC's word in HTTP2", "use GRPC for it")
    }
  },
  Rule(name: "imports") { file, report in
    guard let module = file.module, let known = arrows[module] else { return }
    for (line, imported) in file.imports where arrows[imported] != nil && !known.contains(imported)
    {
      let allowed = known.isEmpty ? "nothing" : known.sorted().joined(separator: ", ")
      report(
        line, "importing \(imported) into \(module)", "use what \(module) may know: \(allowed)")
    }
  },
]

/// Only programs speak on standard output.
private let executables: Set = [
  "holdfast", "holdfast-load", "StoreBenchmark", "WatchBenchmark", "BrokerBenchmark",
  "simulate",
]

/// The hot modules: what they use is known to the last allocation.
private let modulesWithoutFoundation: Set = [
  "Metrics", "Log", "StockStore", "StorePersistence", "HTTP2", "GRPC", "Posix", "Server", "Admin",
  "Access", "Bytes", "PostgresLog", "Projection", "Supervision", "Version", "Client",
  "Messaging", "RabbitMQ", "Kafka", "Relay", "Intake",
]

/// Who may import whom among the modules of this package.
private let arrows: [String: Set<String>] = [
  "CNGHTTP2": [], "CProtobufC": [], "COpenSSL": [], "CPlatform": [], "CZlib": [],
  "CPostgres": [], "CRabbitMQ": [], "CKafka": [], "CVersion": [],
  "CHoldfastProto": ["CProtobufC"],
  "Version": ["CVersion"],
  "Posix": ["COpenSSL", "CPlatform"],
  "Bytes": [],
  "HTTP2": ["Bytes"],
  "GRPC": ["Bytes", "HTTP2", "CZlib"],
  "Metrics": [],
  "Log": ["Posix", "Bytes", "CPlatform"],
  "PostgresLog": ["Log", "Posix", "CPlatform", "CPostgres"],
  "StockStore": ["Log", "Posix", "Bytes", "CPlatform"],
  "StorePersistence": ["StockStore", "Log", "Posix", "Bytes", "CPlatform"],
  "Access": ["Posix", "CPlatform"],
  "ChangeFeed": ["StockStore", "Log", "Posix", "Bytes"],
  "ReservationService": [
    "ChangeFeed", "StorePersistence", "StockStore", "Log", "Access", "Posix", "GRPC", "Bytes",
    "CHoldfastProto",
  ],
  "Server": ["Posix", "HTTP2", "GRPC", "Bytes", "Metrics"],
  "Admin": ["Posix", "Metrics", "Bytes"],
  "Supervision": ["Posix"],
  "Client": ["Access", "Posix", "HTTP2", "GRPC", "Bytes"],
  "Projection": ["PostgresLog", "Log", "Client", "Posix", "Metrics"],
  "Messaging": ["Posix", "Bytes"],
  "RabbitMQ": ["Messaging", "Posix", "Bytes", "CRabbitMQ"],
  "Kafka": ["Messaging", "Posix", "Bytes", "CKafka"],
  "Relay": ["Messaging", "Client", "Posix", "Bytes", "Metrics"],
  "Intake": ["Messaging", "Client", "GRPC", "Posix", "Bytes", "Metrics"],
  "holdfast": [
    "Posix", "HTTP2", "GRPC", "Metrics", "Log", "PostgresLog", "StockStore", "StorePersistence",
    "ChangeFeed", "Access", "ReservationService", "Server", "Admin", "Bytes", "Projection",
    "Supervision", "Version", "Client", "Messaging", "RabbitMQ", "Kafka", "Relay", "Intake",
  ],
  "LoadReport": ["Posix", "CZlib"], "LoadHistory": [],
  "LoadKit": [
    "LoadReport", "LoadHistory", "Posix", "GRPC", "HTTP2", "Version", "Messaging", "RabbitMQ",
  ],
  "holdfast-load": ["LoadKit", "LoadReport", "LoadHistory", "Posix", "Version", "Messaging"],
  "WatchBenchmark": ["GRPC", "HTTP2", "Posix"],
  "BrokerBenchmark": ["Messaging", "RabbitMQ", "Posix"],
  "StoreBenchmark": ["Log", "StockStore", "StorePersistence", "Posix"],
  "Simulation": ["ChangeFeed", "StorePersistence", "StockStore", "Log", "Posix"],
  "simulate": ["Simulation", "StockStore", "Log", "Posix"],
]

/// Who may name whom among the folders of a module: a type that is declared there, or a function that is
/// added there to a type of another folder.
let folders: [String: [String: Set<String>]] = [
  "StockStore": [
    "Model": [],
    "Tables": ["Model"],
    "Records": ["Model", "Tables"],
    "Replay": ["Model", "Tables", "Records"],
    "Session": ["Model", "Tables", "Records"],
    "Concurrency": ["Model", "Tables", "Session"],
    "Transactions": ["Model", "Tables", "Records", "Session", "Concurrency"],
  ]
]

/// What breaks the rules of `folders`: each as `file:line: X is banned, use Y`.
func folderFindings(in files: [SourceFile]) -> [String] {
  folders.sorted { $0.key < $1.key }.flatMap { module, known in
    let files = files.filter { $0.module == module && $0.isSwift }
    let names = FolderNames(of: files)
    return files.flatMap { file -> [String] in
      guard let folder = file.folder, let allowed = known[folder] else {
        return [
          "\(file.path):1: a file outside the folders of \(module) is banned, use one of them"
        ]
      }
      return file.code.enumerated().flatMap { index, line in
        names.used(in: line).compactMap { name, home in
          guard home != folder, !allowed.contains(home) else { return nil }
          let list = allowed.isEmpty ? "nothing" : allowed.sorted().joined(separator: ", ")
          return "\(file.path):\(index + 1): naming \(name) of \(home) in \(folder) is banned, "
            + "use what \(folder) may know: \(list)"
        }
      }
    }
  }
}

/// In which folder of a module each name is declared. Names that stand for several things are left out.
private struct FolderNames {
  private var types: [Substring: String] = [:]
  /// Functions in extensions.
  private var functions: [Substring: String] = [:]

  init(of files: [SourceFile]) {
    var declared: [Substring: Int] = [:]
    for file in files {
      guard let folder = file.folder else { continue }
      for line in file.code {
        guard let (keyword, name) = declaration(line) else { continue }
        if line.first != " ", keyword != "extension", keyword != "func" { types[name] = folder }
        // An extension's name is no second declaration of the type.
        if keyword != "extension" { declared[name, default: 0] += 1 }
      }
    }
    for file in files {
      guard let folder = file.folder else { continue }
      var extended: Substring?
      for line in file.code {
        guard let (keyword, name) = declaration(line) else { continue }
        if line.first != " " { extended = keyword == "extension" ? name : nil }
        guard line.first == " ", keyword == "func", let type = extended, types[type] != folder
        else { continue }
        if declared[name] == 1 { functions[name] = folder }
      }
    }
    types = types.filter { declared[$0.key] == 1 }
  }

  /// The names of the module that stand in a line, and the folders that declare them.
  func used(in line: Substring) -> [(name: Substring, folder: String)] {
    var found: [(name: Substring, folder: String)] = []
    var rest = line
    while let start = rest.firstIndex(where: { isOfName($0) }) {
      let name = rest[start...].prefix { isOfName($0) }
      rest = rest[name.endIndex...]
      if let folder = types[name] ?? (rest.first == "(" ? functions[name] : nil) {
        found.append((name, folder))
      }
    }
    return found
  }

  /// What a line declares, whatever stands before.
  private func declaration(_ line: Substring) -> (keyword: Substring, name: Substring)? {
    let keywords: Set<Substring> = [
      "struct", "class", "enum", "protocol", "typealias", "extension", "func", "case",
    ]
    let words = line.split(separator: " ")
    guard let at = words.firstIndex(where: { keywords.contains($0) }), at + 1 < words.count,
      words[..<at].allSatisfy({ $0.first == "@" || modifiers.contains($0) })
    else { return nil }
    let name = words[at + 1].prefix { isOfName($0) }
    return name.isEmpty ? nil : (words[at], name)
  }
}

private let modifiers: Set<Substring> = [
  "private", "fileprivate", "internal", "package", "final", "static", "mutating", "nonmutating",
  "borrowing", "consuming", "indirect",
]

extension SourceFile {
  /// The folder of the module in which the file lies; nil where it lies in none.
  fileprivate var folder: String? {
    let parts = path.split(separator: "/")
    return parts.count > 3 ? parts[2..<(parts.count - 1)].joined(separator: "/") : nil
  }

  /// The numbers, from 1, of the lines whose code holds `word` as a whole word, followed by `mark`.
  func linesOfCode(with word: String, before mark: String = "") -> [Int] {
    code.enumerated().compactMap { index, line in
      line.ranges(of: word + mark).contains { range in
        let before = line[..<range.lowerBound].last
        let after = mark.isEmpty ? line[range.upperBound...].first : nil
        return !isOfName(before) && !isOfName(after)
      } ? index + 1 : nil
    }
  }

  /// Every imported module with its line from 1, whatever stands before `import`.
  var imports: [(line: Int, module: String)] {
    guard isSwift else { return [] }
    return code.enumerated().compactMap { index, line in
      let words = line.split(separator: " ")
      guard let at = words.firstIndex(of: "import"), at + 1 < words.count,
        words[..<at].allSatisfy({ $0.first == "@" || accessLevels.contains(String($0)) })
      else { return nil }
      let kinds = ["struct", "class", "enum", "func", "protocol", "typealias", "let", "var"]
      let name =
        kinds.contains(String(words[at + 1])) && at + 2 < words.count
        ? words[at + 2] : words[at + 1]
      return (index + 1, String(name.prefix { $0 != "." }))
    }
  }
}

private func isOfName(_ character: Character?) -> Bool {
  guard let character else { return false }
  return character.isLetter || character.isNumber || character == "_"
}

private let accessLevels: Set = ["private", "fileprivate", "internal", "package", "public"]

/// Every file that people write: not what protoc-c and the package manager write, and not this test's
/// own folder, whose snippets break the rules on purpose.
func handWrittenFiles() throws -> [SourceFile] {
  let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  let kinds: Set = ["swift", "c", "h", "py", "sh", "proto", "md"]
  let skipped = ["Sources/CHoldfastProto/", "Tests/TidyTests/"]
  var paths = [
    "Package.swift", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile",
    ".ci/run",
  ]
  for folder in ["Sources", "LoadTest", "Benchmarks", "Tests", "scripts", "tools", "docs", "proto"]
  {
    let found = FileManager.default.enumerator(atPath: root.appending(path: folder).path())
    while let path = found?.nextObject() as? String {
      paths.append("\(folder)/\(path)")
    }
  }
  return
    try paths
    .filter { path in !skipped.contains { path.hasPrefix($0) } }
    .filter { path in kinds.contains(URL(filePath: path).pathExtension) || !path.contains("/") }
    .filter { FileManager.default.fileExists(atPath: root.appending(path: $0).path()) }
    .map {
      SourceFile(path: $0, text: try String(contentsOf: root.appending(path: $0), encoding: .utf8))
    }
}
