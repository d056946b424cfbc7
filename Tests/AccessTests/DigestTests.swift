// SHA-256 by NIST's vectors, and tokens.
import CPlatform
import Testing

@testable import Access

@Suite struct DigestTests {
  /// FIPS 180-4's examples and NIST's CAVS SHA256ShortMsg and SHA256LongMsg.
  static let vectors: [(message: [UInt8], digest: String)] = [
    ([], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (Array("abc".utf8), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      Array("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".utf8),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    (
      Array(
        ("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
          + "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu").utf8),
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"
    ),
    ([0xd3], "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"),
    ([0x11, 0xaf], "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98"),
    (
      [0x74, 0xba, 0x25, 0x21], "b16aa56be3880d18cd41e68384cf1ec8c17680c45a02b1575dc1518923ae8b0e"
    ),
  ]

  /// FIPS 180-4's third: no argument, which would be printed.
  @Test func millionLetters() {
    check(
      [UInt8](repeating: 0x61, count: 1_000_000),
      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
  }

  @Test(arguments: vectors) func vector(_ vector: (message: [UInt8], digest: String)) {
    check(vector.message, vector.digest)
  }

  private func check(_ message: [UInt8], _ digest: String) {
    #expect(Digest(of: message.span).hexadecimal == digest)
    var portable = [UInt8](repeating: 0, count: 32)
    unsafe hf_sha256_portable(message, message.count, &portable)
    let expected = Digest(hexadecimal: digest)
    #expect(expected?.hexadecimal == digest)
    #expect(
      portable.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() == digest)
  }

  @Test func everyLengthAroundABlockIsTheSameInPlainC() {
    let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 37) }
    for count in 0...300 {
      var fast = [UInt8](repeating: 0, count: 32)
      var portable = [UInt8](repeating: 1, count: 32)
      unsafe hf_sha256(bytes, count, &fast)
      unsafe hf_sha256_portable(bytes, count, &portable)
      #expect(fast == portable, "\(count) bytes")
    }
  }

  @Test func comparisonSeesEveryBit() {
    let digest = Digest(of: [1, 2, 3].span)
    let digits = Array(digest.hexadecimal)
    for place in 0..<64 {
      var other = digits
      other[place] = other[place] == "0" ? "8" : "0"
      #expect(Digest(hexadecimal: String(other)) != digest, "digit \(place)")
    }
    #expect(Digest(hexadecimal: digest.hexadecimal.uppercased()) == digest)
  }

  @Test(arguments: ["", "00", String(repeating: "g", count: 64), String(repeating: "0", count: 65)])
  func whatIsNoDigest(_ text: String) { #expect(Digest(hexadecimal: text) == nil) }
}

@Suite struct TokenTests {
  @Test func isMadeAsScannersKnowIt() throws {
    let token = try #require(Token.make())
    #expect(token.text.wholeMatch(of: /hft_[A-Za-z0-9_-]{38}/) != nil)
    #expect(Token.isIntact(token.text))
    #expect(token.text != Token.make()?.text)
  }

  @Test func knownToken() {
    // By Python's base64.urlsafe_b64encode(bytes(range(24))), and a CRC32C written out there.
    let token = Token(random: Array(0..<24))
    #expect(token.text == "hft_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXBJyaKA")
    #expect(token.digest == Digest(of: Array(token.text.utf8).span))
  }

  @Test func anyMistypedCharacterIsSeen() {
    let text = Array(Token(random: Array(1...24)).text)
    for place in 0..<text.count {
      var other = text
      other[place] = other[place] == "A" ? "B" : "A"
      #expect(!Token.isIntact(String(other)), "character \(place)")
    }
    #expect(!Token.isIntact(String(text.dropLast())))
    #expect(!Token.isIntact(""))
  }

  @Test(arguments: [
    (String(repeating: "x", count: 31), "can be guessed"),
    (String(repeating: "x", count: 101), "100 at most"),
    (String(repeating: "x", count: 40) + " ", "printable"),
    (String(repeating: "é", count: 20), "printable"),
    ("hft_" + String(repeating: "A", count: 38), "mistyped"),
  ])
  func ownTokenThatIsNotTaken(_ text: String, _ why: String) {
    let error = #expect(throws: AccessError.self) { try Token(own: text, byteCountMax: 100) }
    #expect(error?.description.contains(why) == true)
    #expect(error?.description.contains(text) == false)
  }

  @Test func ownTokenThatIsTaken() throws {
    let text = String(repeating: "0123456789abcdef", count: 2)
    #expect(try Token(own: text, byteCountMax: 100).text == text)
  }
}

@Suite struct AccessTimeTests {
  /// Seconds by `date -u -d TEXT +%s`.
  @Test(arguments: [
    ("1970-01-01", 0, "1970-01-01T00:00:00Z"),
    ("2000-02-29T23:59:59Z", 951_868_799, "2000-02-29T23:59:59Z"),
    ("2027-01-31T12:00:00Z", 1_801_396_800, "2027-01-31T12:00:00Z"),
    ("2100-03-01", 4_107_542_400, "2100-03-01T00:00:00Z"),
    ("2261-12-31T23:59:59Z", 9_214_646_399, "2261-12-31T23:59:59Z"),
  ])
  func time(_ text: String, _ seconds: Int64, _ whole: String) {
    #expect(AccessTime(text)?.nanoseconds == seconds * 1_000_000_000)
    #expect(AccessTime(nanoseconds: seconds * 1_000_000_000 + 5).description == whole)
  }

  @Test(arguments: [
    "", "2027", "2027-13-01", "2027-00-01", "2027-02-29", "2027-04-31", "2027-1-01x", "1969-12-31",
    "2262-01-01", "2027-01-31T24:00:00Z", "2027-01-31T12:60:00Z", "2027-01-31T12:00:60Z",
    "2027-01-31T12:00:00+", "2027-01-31 12:00:00Z", "+027-01-31", "２０２７-01",
  ])
  func noTime(_ text: String) { #expect(AccessTime(text) == nil) }
}
