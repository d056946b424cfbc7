// Token files: what is read of them, and that mistakes are named by line and without the text.
import Testing

@testable import Access

let testLimits = AccessLimits(entriesMax: 4, fileBytesMax: 4096, tokenBytesMax: 8192)
private let hashA = String(repeating: "a", count: 64)
private let hashB = String(repeating: "b", count: 64)

func parse(_ text: String) throws(AccessError) -> [TokenFileEntry] {
  try TokenFile.parse(Array(text.utf8), limits: testLimits)
}

@Suite struct TokenFileTests {
  @Test func everyWord() throws {
    let entries = try parse(
      """
      # The checkout.

      token sha256:\(hashA) caller=checkout role=reserve own-holds-only expires=2027-01-31 note=Till 7
      \ttoken  sha256:\(hashB.uppercased())\t note=role=admin is not meant  \r
      """.replacing("note=role", with: "role=stock note=role"))
    #expect(entries.count == 2)
    #expect(entries[0].caller == "checkout" && entries[0].role == .reserve)
    #expect(entries[0].ownHoldsOnly && entries[0].note == "Till 7" && entries[0].line == 3)
    #expect(entries[0].expires?.description == "2027-01-31T00:00:00Z")
    #expect(entries[0].id == "aaaaaaaaaaaa")
    #expect(entries[1].caller.isEmpty && entries[1].role == .stock && !entries[1].ownHoldsOnly)
    #expect(entries[1].note == "role=admin is not meant  " && entries[1].line == 4)
    #expect(entries[1].subject == .token(try #require(Digest(hexadecimal: hashB))))
  }

  @Test(arguments: [
    ("uri:spiffe://shop/reports", "uri:spiffe://shop/reports"), ("dns:till.shop", "dns:till.shop"),
    ("cn:Jane%20D%c3%b6", "cn:Jane Dö"), ("cn:50%25", "cn:50%"),
  ])
  func certificate(_ text: String, _ name: String) throws {
    let entry = try #require(try parse("cert \(text) role=read").first)
    #expect(entry.subject == .certificate(name))
    #expect(entry.id == text)
  }

  @Test func whatIsWrittenIsReadAgain() throws {
    let text = """
      token sha256:\(hashA) caller=checkout role=reserve own-holds-only \
      expires=2027-01-31T00:00:00Z note=Till 7
      cert cn:a%20b caller= role=admin

      """
    let entries = try parse(text)
    #expect(entries.map { $0.text + "\n" }.joined() == text)
  }

  @Test func emptyFilesAndComments() throws {
    for text in ["", "\n", "\r\n\r\n", "# token", "  \t# x", "#"] {
      #expect(try parse(text).isEmpty, "\(text)")
    }
  }

  /// Each with a word of its error.
  @Test(arguments: [
    ("tokens sha256:\(hashA) role=read", "token or cert"),
    ("token", "nothing behind"),
    ("token sha256:\(hashA)", "no role="),
    ("token sha256:\(hashA.dropLast()) role=read", "64 hexadecimal"),
    ("token sha256:\(hashA)0 role=read", "64 hexadecimal"),
    ("token hft_SECRETsecretSECRETsecretSECRETsecret12 role=read", "holdfast token create"),
    ("token sha256:\(hashA) role=boss", "read, reserve, stock or admin"),
    ("token sha256:\(hashA) role=", "read, reserve, stock or admin"),
    ("token sha256:\(hashA) role", "none of"),
    ("token sha256:\(hashA) role=read role=read", "role= twice"),
    ("token sha256:\(hashA) caller=a caller=b role=read", "caller= twice"),
    ("token sha256:\(hashA) caller=\(String(repeating: "c", count: 65)) role=read", "64 bytes"),
    ("token sha256:\(hashA) caller=é role=read", "printable ASCII"),
    ("token sha256:\(hashA) caller=a role=read expires=tomorrow", "expires= is"),
    ("token sha256:\(hashA) role=read expires=2027-01-31 expires=2027-01-31", "expires= twice"),
    ("token sha256:\(hashA) caller=a role=read own-holds-only own-holds-only", "twice"),
    ("token sha256:\(hashA) caller=a role=read own-holds-only=yes", "none of"),
    ("token sha256:\(hashA) role=read own-holds-only", "without a caller's name"),
    ("token sha256:\(hashA) role=read SECRET", "none of"),
    ("token sha256:\(hashA) role=read note", "none of"),
    ("cert spiffe://shop role=read", "uri:, dns: or cn:"),
    ("cert uri: role=read", "uri:, dns: or cn:"),
    ("cert cn:a%00 role=read", "uri:, dns: or cn:"),
    ("cert cn:a%2 role=read", "uri:, dns: or cn:"),
    ("cert cn:a%+1 role=read", "uri:, dns: or cn:"),
    ("cert cn:%ff role=read", "uri:, dns: or cn:"),
    ("token sha256:\(hashA) role=read note=a\u{0}b", "control"),
    ("token sha256:\(hashA) role=read\rnote=x", "control"),
    ("token sha256:\(hashA) role=read note=\u{1b}[2J", "control"),
    ("# \(String(repeating: "x", count: 2100))", "longer than"),
    ("\u{feff}token sha256:\(hashA) role=read", "token or cert"),
  ])
  func mistake(_ line: String, _ why: String) {
    let error = #expect(throws: AccessError.self) { try parse("# fine\n\(line)\n# fine\n") }
    let text = error?.description ?? ""
    #expect(text.hasPrefix("line 2: ") && text.contains(why), "\(text)")
    #expect(!text.contains("SECRET"))
  }

  @Test func notUTF8() {
    let error = #expect(throws: AccessError.self) {
      try TokenFile.parse([0x23, 0xff, 0x0a], limits: testLimits)
    }
    #expect(error?.description == "line 1: not UTF-8")
  }

  @Test func duplicatesNameBothLines() {
    let error = #expect(throws: AccessError.self) {
      try parse("token sha256:\(hashA) role=read\n\ntoken sha256:\(hashA.uppercased()) role=admin")
    }
    #expect(error?.description == "line 3: the same token or certificate as in line 1")
    #expect(throws: AccessError.self) { try parse("cert cn:ab role=read\ncert cn:a%62 role=read") }
  }

  @Test func limits() throws {
    let lines = (0..<5).map { "cert cn:\($0) role=read\n" }
    #expect(try parse(lines.dropLast().joined()).count == 4)
    let error = #expect(throws: AccessError.self) { try parse(lines.joined()) }
    #expect(error?.description == "line 5: one more than 4 entries")
    #expect(try TokenFile.parse([UInt8](repeating: 0x0a, count: 4096), limits: testLimits).isEmpty)
    #expect(throws: AccessError.self) {
      try TokenFile.parse([UInt8](repeating: 0x0a, count: 4097), limits: testLimits)
    }
  }

  /// Any bytes are a file or a mistake.
  @Test func noBytesTrap() {
    var generator = SystemRandomNumberGenerator()
    let words = [
      "token ", "cert ", "sha256:", hashA, "role=", "read", "caller=", "\n", "%", "cn:", "=",
    ]
    for _ in 0..<2000 {
      var bytes: [UInt8] = []
      for _ in 0..<Int.random(in: 0...12, using: &generator) {
        bytes += Array((words.randomElement(using: &generator) ?? "").utf8)
        if Bool.random(using: &generator) { bytes.append(.random(in: 0...255, using: &generator)) }
      }
      _ = try? TokenFile.parse(bytes, limits: testLimits)
    }
  }
}
