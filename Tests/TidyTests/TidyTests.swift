// Style as a test: every hand-written file is held against the rules of Rules.swift, and every rule is
// itself tried on a snippet that breaks it and on one that does not.
import Foundation
import Testing

@Suite struct TidyTests {
  @Test func everyFileIsTidy() throws {
    let files = try handWrittenFiles()
    #expect(files.count > 50, "the repository was not found")
    let findings = files.flatMap { file in rules.flatMap { $0.findings(in: file) } }
    #expect(findings.isEmpty, "\n\(findings.joined(separator: "\n"))\n")
  }

  @Test func everyFolderNamesWhatItMay() throws {
    let files = try handWrittenFiles()
    let findings = folderFindings(in: files)
    #expect(findings.isEmpty, "\n\(findings.joined(separator: "\n"))\n")
  }

  /// Each folder in its turn: those that know only what came before. None must be left.
  @Test func noFolderIsBehindItself() {
    for (module, known) in folders {
      var rest = known
      while let next = rest.first(where: { folder in
        folder.value.isDisjoint(with: rest.keys)
      }) {
        rest[next.key] = nil
      }
      #expect(rest.isEmpty, "\(module): \(rest.keys.sorted())")
    }
  }

  @Test(arguments: folderSnippets) func folderRuleFindsItsBreach(_ snippet: FolderSnippet) {
    let files = snippet.files.map {
      SourceFile(path: "Sources/StockStore/\($0.key)", text: $0.value)
    }
    #expect(
      folderFindings(in: files) == snippet.findings.map { "Sources/StockStore/\($0)" })
  }

  @Test(arguments: snippets) func ruleFindsItsBreach(_ snippet: Snippet) throws {
    let rule = try #require(rules.first { $0.name == snippet.rule })
    let file = SourceFile(path: snippet.path, text: snippet.text)
    #expect(rule.findings(in: file) == snippet.findings)
  }

  @Test func everyRuleHasASnippetThatBreaksItAndOneThatDoesNot() {
    for rule in rules {
      let ofRule = snippets.filter { $0.rule == rule.name }
      #expect(ofRule.contains { !$0.findings.isEmpty }, "\(rule.name)")
      #expect(ofRule.contains { $0.findings.isEmpty }, "\(rule.name)")
    }
  }
}

/// A doctored file, and what the rule must say of it.
struct Snippet: CustomTestStringConvertible {
  let rule: String
  let path: String
  let text: String
  let findings: [String]

  var testDescription: String { "\(rule): \(path)" }
}

/// Doctored files of StockStore, and what must be said of them.
struct FolderSnippet: CustomTestStringConvertible {
  let testDescription: String
  let files: KeyValuePairs<String, String>
  var findings: [String] = []
}

private let folderSnippets: [FolderSnippet] = [
  FolderSnippet(
    testDescription: "a type of a later folder",
    files: [
      "Tables/A.swift": "// A.\nstruct A { let session: StoreSession }\n",
      "Session/StoreSession.swift": "// B.\npackage final class StoreSession {}\n",
    ],
    findings: [
      "Tables/A.swift:2: naming StoreSession of Session in Tables is banned, "
        + "use what Tables may know: Model"
    ]),
  FolderSnippet(
    testDescription: "a type of an earlier folder",
    files: [
      "Session/StoreSession.swift": "// B.\nfinal class StoreSession { let a: A }\n",
      "Tables/A.swift": "// Nothing of StoreSession.\n@safe package struct A {}\n",
    ]),
  FolderSnippet(
    testDescription: "a function that a later folder adds to a type",
    files: [
      "Session/StoreSession.swift":
        "// B.\nfinal class StoreSession {\n  func beginTurn() { expireDue() }\n}\n",
      "Transactions/Expire.swift":
        "// C.\nextension StoreSession {\n  @inline(never) func expireDue() {}\n}\n",
    ],
    findings: [
      "Session/StoreSession.swift:3: naming expireDue of Transactions in Session is banned, "
        + "use what Session may know: Model, Records, Tables"
    ]),
  FolderSnippet(
    testDescription: "a name that stands for several things",
    files: [
      "Model/A.swift": "// A.\nenum Why {\n  case refused(Int)\n}\nlet why = Why.refused(1)\n",
      "Session/StoreSession.swift": "// B.\nfinal class StoreSession {}\n",
      "Transactions/Release.swift":
        "// C.\nextension StoreSession {\n  func refused(_ number: Int) {}\n}\n",
    ]),
  FolderSnippet(
    testDescription: "a type that two folders nest",
    files: [
      "Model/A.swift": "// A.\nstruct A {\n  struct Entry {}\n  let entry: Entry\n}\n",
      "Tables/B.swift": "// B.\nstruct Entry {}\n",
    ]),
  FolderSnippet(
    testDescription: "a file outside the folders",
    files: ["A.swift": "// A.\nstruct A {}\n", "Other/B.swift": "// B.\nstruct B {}\n"],
    findings: [
      "A.swift:1: a file outside the folders of StockStore is banned, use one of them",
      "Other/B.swift:1: a file outside the folders of StockStore is banned, use one of them",
    ]),
]

private func breach(_ rule: String, _ path: String, _ text: String, _ finding: String) -> Snippet {
  Snippet(rule: rule, path: path, text: text, findings: ["\(path):\(finding)"])
}

private func clean(_ rule: String, _ path: String, _ text: String) -> Snippet {
  Snippet(rule: rule, path: path, text: text, findings: [])
}

private let snippets: [Snippet] = [
  breach(
    "length", "Sources/GRPC/Long.swift", String(repeating: "let a = 1\n", count: 801),
    "801: a file of 801 lines is banned, split it: 800 at most"),
  clean("length", "Sources/GRPC/Long.swift", String(repeating: "let a = 1\n", count: 800)),
  breach(
    "length", "README.md", String(repeating: "words\n", count: 301),
    "301: a file of 301 lines is banned, split it: 300 at most"),
  clean("length", "README.md", String(repeating: "words\n", count: 300)),

  breach(
    "inlinable", "Sources/GRPC/A.swift", "// A.\n@inlinable package func a() {}\n",
    "2: `@inlinable` is banned, "
      + "use a call that does more: nothing of `package` is inlined elsewhere"),
  clean("inlinable", "Sources/GRPC/A.swift", "// @inlinable\n@inline(__always) func a() {}\n"),

  breach(
    "public", "Sources/GRPC/A.swift", "// A.\npublic struct A {}\n",
    "2: `public` is banned, use `package`"),
  breach(
    "public", "LoadTest/LoadKit/A.swift", "extension A {\n  public  func b() {}\n}\n",
    "2: `public` is banned, use `package`"),
  clean(
    "public", "Sources/GRPC/A.swift", "// The public API.\npackage struct A { let isPublic = 1 }"),

  breach(
    "print", "Sources/Server/A.swift", "import Posix\n  print(\"hello\")\n",
    "2: `print(` is banned, use the logger"),
  clean("print", "Sources/holdfast/A.swift", "print(\"ready\")"),
  clean("print", "Sources/Server/A.swift", "fingerprint(key) // print(key)"),

  breach(
    "traps", "Sources/GRPC/A.swift", "let a = try! b()", "1: `try!` is banned, use `try`"),
  breach("traps", "Sources/GRPC/A.swift", "let a = b as! C", "1: `as!` is banned, use `as?`"),
  breach(
    "traps", "Sources/GRPC/A.swift", "default: fatalError(\"no\")",
    "1: `fatalError(` is banned, use a typed error"),
  clean("traps", "Sources/GRPC/A.swift", "let a = try? b() as? C // not try!"),
  clean("traps", "Tests/GRPCTests/A.swift", "let a = try! b()"),

  breach(
    "Foundation", "Sources/StockStore/Domain/A.swift", "// A.\ninternal import Foundation\n",
    "2: `Foundation` is banned, use the standard library or Posix"),
  breach(
    "Foundation", "Sources/HTTP2/A.swift", "import FoundationEssentials\n",
    "1: `Foundation` is banned, use the standard library or Posix"),
  breach(
    "Foundation", "Sources/holdfast/A.swift", "internal import struct Foundation.Date\n",
    "1: `Foundation` is banned, use FoundationEssentials"),
  clean("Foundation", "Sources/holdfast/A.swift", "internal import FoundationEssentials\n"),
  clean("Foundation", "Sources/HTTP2/A.swift", "// Foundation is not needed here.\n"),

  breach(
    "opening", "Sources/GRPC/A.swift", "struct A {}\n",
    "1: an opening without a comment or an import is banned, use a comment that says what the file is for"
  ),
  clean("opening", "Sources/GRPC/A.swift", "// What A is for.\nstruct A {}\n"),
  clean("opening", "Sources/GRPC/A.swift", "package import Posix\n"),
  clean("opening", "Sources/CPlatform/a.c", "/* What it is for. */\n"),

  breach(
    "unfinished", "LoadTest/LoadKit/A.swift", "let a = 1 // TODO: more\n",
    "1: `TODO` is banned, use an issue"),
  breach(
    "unfinished", "scripts/a.sh", "# FIXME\n", "1: `FIXME` is banned, use an issue"),
  clean("unfinished", "Sources/GRPC/A.swift", "let todo = 1\n"),

  breach(
    "layers", "Sources/HTTP2/HPACK/A.swift", "// A.\nlet name = \"grpc-status\"\n",
    "2: gRPC's word in HTTP2 is banned, use GRPC for it"),
  breach(
    "layers", "Sources/HTTP2/A.swift", "// A.\n\nvar isGRPC = true\n",
    "3: gRPC's word in HTTP2 is banned, use GRPC for it"),
  clean("layers", "Sources/HTTP2/A.swift", "// gRPC's clients want this.\nlet a = 1\n"),
  clean("layers", "Sources/GRPC/A.swift", "// A.\nlet name = \"grpc-status\"\n"),

  breach(
    "imports", "Sources/Server/A.swift", "// A.\npackage import StockStore\n",
    "2: importing StockStore into Server is banned, use what Server may know: "
      + "Bytes, GRPC, HTTP2, Metrics, Posix"),
  breach(
    "imports", "Sources/GRPC/A.swift", "@testable import Posix\n",
    "1: importing Posix into GRPC is banned, use what GRPC may know: Bytes, CZlib, HTTP2"),
  clean(
    "imports", "Sources/Server/A.swift", "internal import Posix\npackage import struct GRPC.A\n"),
  clean("imports", "Sources/holdfast/A.swift", "internal import Logging\n"),
  breach(
    "imports", "Tests/Simulation/Simulation/A.swift", "import Server\n",
    "1: importing Server into Simulation is banned, use what Simulation may know: "
      + "ChangeFeed, Log, Posix, StockStore, StorePersistence"),
  clean("imports", "Tests/ServerTests/A.swift", "import StockStore\n"),
  clean("imports", "Tests/Simulation/SimulationTests/A.swift", "import Server\n"),
]
