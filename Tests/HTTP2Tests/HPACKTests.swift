// HPACK's decoder against RFC 7541's examples, against libnghttp2, and against bytes that nobody should send.
import HTTP2
import Testing

@Suite struct HPACKTests {
  private func fields(_ pairs: [(String, String)]) -> [ServerField] {
    pairs.map { ServerField($0.0, $0.1) }
  }

  // MARK: RFC 7541, appendix C

  @Test func integers() throws {
    // C.1: 10, 1337 and 42; here as indices and a size update, with prefixes of 7, 5 and 6 bits.
    #expect(try DecoderUnderTest(tableBytesMax: 4096).decode(hex("3f 9a 0a")) == [])
    #expect(try DecoderUnderTest().decode(hex("8a")) == fields([(":status", "206")]))
    let decoder = DecoderUnderTest()
    #expect(try decoder.decode(hex("3f e1 1f 88")).count == 1)
    #expect(throws: HPACKError.badSizeUpdate) { try decoder.decode(hex("3f e2 1f 88")) }
  }

  @Test func literalsAndIndexedFields() throws {
    let decoder = DecoderUnderTest()
    // C.2.1 to C.2.4.
    let entered = hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572")
    #expect(try decoder.decode(entered) == fields([("custom-key", "custom-header")]))
    #expect(decoder.decoder.tableCount == 1 && decoder.decoder.tableBytes == 55)
    let path = hex("040c 2f73 616d 706c 652f 7061 7468")
    #expect(try decoder.decode(path) == fields([(":path", "/sample/path")]))
    let never = hex("1008 7061 7373 776f 7264 0673 6563 7265 74")
    #expect(try decoder.decode(never) == fields([("password", "secret")]))
    #expect(try decoder.decode(hex("82")) == fields([(":method", "GET")]))
    #expect(decoder.decoder.tableCount == 1)
  }

  static let requests: [(plain: String, huffman: String, fields: [(String, String)], bytes: Int)] =
    [
      (
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        [
          (":method", "GET"), (":scheme", "http"), (":path", "/"),
          (":authority", "www.example.com"),
        ], 57
      ),
      (
        "8286 84be 5808 6e6f 2d63 6163 6865", "8286 84be 5886 a8eb 1064 9cbf",
        [
          (":method", "GET"), (":scheme", "http"), (":path", "/"),
          (":authority", "www.example.com"),
          ("cache-control", "no-cache"),
        ], 110
      ),
      (
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        [
          (":method", "GET"), (":scheme", "https"), (":path", "/index.html"),
          (":authority", "www.example.com"), ("custom-key", "custom-value"),
        ], 164
      ),
    ]

  @Test(arguments: [false, true]) func requestExamples(isHuffman: Bool) throws {
    // C.3 and C.4.
    let decoder = DecoderUnderTest()
    for request in Self.requests {
      let block = hex(isHuffman ? request.huffman : request.plain)
      #expect(try decoder.decode(block) == fields(request.fields))
      #expect(decoder.decoder.tableBytes == request.bytes)
    }
  }

  @Test(arguments: [false, true]) func responseExamples(isHuffman: Bool) throws {
    // C.5 and C.6: a table of 256 bytes, which evicts.
    let first =
      isHuffman
      ? """
      4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
      63c7 8f0b 97c8 e9ae 82ae 43d3
      """
      : """
      4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
      474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d
      """
    let third =
      isHuffman
      ? """
      88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7
      b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07
      """
      : """
      88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
      666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
      3630 303b 2076 6572 7369 6f6e 3d31
      """
    let decoder = DecoderUnderTest()
    let common = [
      ("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
      ("location", "https://www.example.com"),
    ]
    #expect(
      try decoder.decode(hex("3fe1 01") + hex(first)) == fields([(":status", "302")] + common))
    #expect(decoder.decoder.tableBytes == 222)
    let second = hex(isHuffman ? "4883 640e ffc1 c0bf" : "4803 3330 37c1 c0bf")
    #expect(try decoder.decode(second) == fields([(":status", "307")] + common))
    #expect(decoder.decoder.tableBytes == 222)
    #expect(
      try decoder.decode(hex(third))
        == fields([
          (":status", "200"), ("cache-control", "private"),
          ("date", "Mon, 21 Oct 2013 20:13:22 GMT"), ("location", "https://www.example.com"),
          ("content-encoding", "gzip"),
          ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ]))
    #expect(decoder.decoder.tableBytes == 215 && decoder.decoder.tableCount == 3)
  }

  // MARK: Huffman

  private func huffman(_ text: [UInt8], room: Int = 1000) -> (count: Int?, text: [UInt8]) {
    var count: Int?
    let decoded = [UInt8](capacity: room) { output in
      count = HuffmanCode.decode(text.span, into: &output)
    }
    return (count, decoded)
  }

  /// Every symbol in front of every other one, as libnghttp2 encodes them.
  @Test func theWholeAlphabet() throws {
    let encoder = ReferenceEncoder(tableBytesMax: 0)
    _ = encoder.encode([])
    for first in 0..<128 {
      // What the encoder does not shorten, it does not Huffman-code: pad with cheap symbols.
      let fields = (0..<128).map { second in
        let pair = [first, second].map { String(UnicodeScalar(UInt8($0))) }.joined()
        return ServerField("x", String(repeating: "a", count: 60) + pair)
      }
      #expect(try DecoderUnderTest().decode(encoder.encode(fields)) == fields)
    }
    // Above 127 a String is UTF-8: every byte occurs in that of some character, but for C0, C1 and F5 up.
    for scalar in stride(from: 0x80, to: 0x10_ffff, by: 241) {
      guard let scalar = UnicodeScalar(scalar) else { continue }
      let fields = [ServerField("x", String(repeating: "a", count: 60) + String(Character(scalar)))]
      #expect(try DecoderUnderTest().decode(encoder.encode(fields)) == fields)
    }
    // Those, by their codes (appendix B).
    let rest: [(byte: UInt8, code: UInt64, bits: Int)] = [
      (0xc0, 0x3ffffe0, 26), (0xc1, 0x3ffffe1, 26), (0xf5, 0x7ffffe8, 27), (0xf6, 0x7ffffe9, 27),
      (0xf7, 0x7ffffea, 27), (0xf8, 0x7ffffeb, 27), (0xf9, 0xffffffe, 28), (0xfa, 0x7ffffec, 27),
      (0xfb, 0x7ffffed, 27), (0xfc, 0x7ffffee, 27), (0xfd, 0x7ffffef, 27), (0xfe, 0x7fffff0, 27),
      (0xff, 0x3ffffee, 26),
    ]
    for (byte, code, bits) in rest {
      let padding = 1 << UInt64(32 - bits) - 1 as UInt64
      let text = bigEndian(UInt32(code << UInt64(32 - bits) | padding))
      #expect(huffman(text).text == [byte])
    }
  }

  @Test(
    arguments: [
      // Padding of a whole byte; of zeros; the end-of-string symbol, alone and behind a text.
      ("ff", nil), ("1f ff", nil), ("18", nil), ("00", nil), ("3fff ffff", nil), ("ffff ffff", nil),
      ("1fff ffff ff", nil), ("ffff fffc", nil), ("ffff fff0", nil), ("ffff fff3", 10),
      ("", 0), ("1f", 1), ("07", 1), ("f8", 0x26),
    ] as [(String, Int?)]) func padding(text: String, wanted: Int?)
  {
    let decoded = huffman(hex(text))
    guard let wanted else { return #expect(decoded.count == nil, "\(text)") }
    #expect(decoded.count != nil, "\(text)")
    if wanted > 1 { #expect(decoded.text == [UInt8(wanted)]) }
  }

  @Test func aTextThatIsLongerThanItsRoomIsCounted() throws {
    let text = hex("f1e3 c2e5 f23a 6ba0 ab90 f4ff")
    #expect(huffman(text, room: 4).count == 15)
    #expect(huffman(text, room: 4).text == Array("www.".utf8))
    #expect(huffman(text, room: 15).text == Array("www.example.com".utf8))
  }

  // MARK: Errors

  @Test(
    arguments: [
      ("80", .noSuchField), ("be", .noSuchField), ("ff80 8080 8001", .noSuchField),
      ("7f 00 00", .noSuchField), ("0f 30 00", .noSuchField),
      ("ff ffff ffff 7f", .integerTooLarge), ("ff 8080 8080 8000", .integerTooLarge),
      ("00 7f ffff ffff 7f", .integerTooLarge), ("3f ffff ffff 7f", .integerTooLarge),
      ("ff", .truncated), ("00", .truncated), ("00 01", .truncated), ("00 01 61", .truncated),
      ("00 01 61 02 62", .truncated), ("40 7f", .truncated), ("3f", .truncated),
      ("00 7f ffff ff07 61", .truncated), ("00 01 61 7f ffff ff07 61", .truncated),
      ("82 20", .badSizeUpdate), ("3f e2 1f", .badSizeUpdate), ("20 82 20", .badSizeUpdate),
      ("00 81 ff 00", .badHuffman), ("00 01 61 81 00", .badHuffman),
    ] as [(String, HPACKError)]) func errors(block: String, error: HPACKError)
  {
    #expect(throws: error) { try DecoderUnderTest().decode(hex(block)) }
    // In parts as well.
    #expect(throws: error) { try DecoderUnderTest().list(hex(block), parts: { 1 }) }
  }

  // MARK: The dynamic table

  @Test func aSizeUpdateEvictsAndMayBeFollowedByAnother() throws {
    let decoder = DecoderUnderTest()
    _ = try decoder.decode(hex("400161 0162 400163 0164"))
    #expect(decoder.decoder.tableCount == 2 && decoder.decoder.tableBytes == 68)
    #expect(try decoder.decode(hex("3f0f be")) == fields([("c", "d")]))  // 46 bytes
    #expect(decoder.decoder.tableCount == 1)
    #expect(try decoder.decode(hex("20 3fe11f")) == [])
    #expect(decoder.decoder.tableCount == 0)
    #expect(throws: HPACKError.noSuchField) { try decoder.decode(hex("be")) }
  }

  @Test func aFieldLargerThanTheTableEmptiesIt() throws {
    let decoder = DecoderUnderTest(fieldBytesMax: 4096)
    for length in [4063, 4064, 5000, 20_000] {
      _ = try decoder.decode(hex("400161 0162"))
      let field = ServerField("x", String(repeating: "v", count: length))
      let list = try decoder.list([0x40] + ServerField.literals([field])[1...])
      #expect(decoder.decoder.tableCount == (length == 4063 ? 1 : 0))
      #expect(list.fields.count == (length < 4096 ? 1 : 0))
      #expect(list.skippedBytes == (length < 4096 ? [] : [length + 33]))
    }
  }

  /// Section 4.4: the name may be that of an entry which the new one evicts.
  @Test func aNameMayBeThatOfAnEvictedEntry() throws {
    let decoder = DecoderUnderTest()
    let name = String(repeating: "n", count: 2000)
    let value = String(repeating: "v", count: 2000)
    _ = try decoder.decode([0x40] + ServerField.literals([ServerField(name, value)])[1...])
    #expect(decoder.decoder.tableCount == 1)
    let encoded = [0x7e] + ServerField.literals([ServerField("", value)])[2...]
    for _ in 0..<100 {
      #expect(try decoder.decode(encoded) == [ServerField(name, value)])
      #expect(decoder.decoder.tableCount == 1)
    }
  }

  @Test func memoryFollowsTheTable() throws {
    let decoder = DecoderUnderTest(tableBytesMax: 16_384)
    #expect(decoder.decoder.tableMemoryBytes == 0)
    _ = try decoder.decode(ServerField.literals(ServerField.call("/a/A")))
    #expect(decoder.decoder.tableMemoryBytes == 0)
    var encoder = ServerTestEncoder()
    _ = try decoder.decode(encoder.encode(ServerField.call("/a/A")))
    #expect(decoder.decoder.tableMemoryBytes <= 1024)
    _ = try decoder.decode(hex("3fe17f"))
    for number in 0..<10_000 {
      let value = String(repeating: "v", count: number % 700)
      let field = ServerField("x\(number)", value)
      _ = try decoder.decode([0x40] + ServerField.literals([field])[1...])
      #expect(decoder.decoder.tableBytes <= 16_384)
    }
    for _ in 0..<2000 { _ = try decoder.decode(hex("40 00 00")) }
    #expect(decoder.decoder.tableCount == 512)
    #expect(decoder.decoder.tableMemoryBytes <= 16_384 * 5 / 4 + 512 * 24)
  }

  // MARK: Against libnghttp2

  @Test(arguments: 0..<20) func whatLibnghttp2EncodesIsDecoded(seed: Int) throws {
    var source = FieldSource(numbers: Seeded(seed))
    let most = [4096, 16_384, 65_535][seed % 3]
    let encoder = ReferenceEncoder(tableBytesMax: most)
    let whole = DecoderUnderTest(tableBytesMax: most)
    let cut = DecoderUnderTest(tableBytesMax: most)
    if most > 4096 { encoder.setTable(bytes: most) }
    for _ in 0..<300 {
      if Int.random(in: 0..<20, using: &source.numbers) == 0 {
        encoder.setTable(bytes: Int.random(in: 0...most, using: &source.numbers))
      }
      let fields = source.fields(12)
      let block = encoder.encode(fields) { $0.name == "authorization" }
      #expect(try whole.decode(block) == fields)
      let part = Int.random(in: 1...40, using: &source.numbers)
      #expect(try cut.list(block, parts: { part }).0.fields == fields)
      #expect(whole.decoder.tableBytes == cut.decoder.tableBytes)
    }
  }

  /// Damaged blocks: what libnghttp2 makes of them is made of them here, and nothing traps.
  @Test(arguments: 0..<20) func whatLibnghttp2RejectsIsRejected(seed: Int) throws {
    var source = FieldSource(numbers: Seeded(1000 + seed))
    var good = 0
    var bad = 0
    for _ in 0..<500 {
      let encoder = ReferenceEncoder(tableBytesMax: 4096)
      let reference = ServerTestDecoder()
      let decoder = DecoderUnderTest()
      for _ in 0..<10 {
        var block = encoder.encode(source.fields(6))
        if block.isEmpty { block = [source.numbers.byte()] }
        for _ in 0..<Int.random(in: 0...2, using: &source.numbers) {
          let at = Int.random(in: 0..<block.count, using: &source.numbers)
          switch Int.random(in: 0..<4, using: &source.numbers) {
          case 0: block[at] = source.numbers.byte()
          case 1: block[at] ^= 1 << (source.numbers.byte() & 7)
          case 2: block.insert(source.numbers.byte(), at: at)
          default: if block.count > 1 { block.remove(at: at) }
          }
        }
        let fields = try? decoder.decode(block)
        #expect(reference.decode(block) == fields, "\(block)")
        if fields == nil { bad += 1 } else { good += 1 }
        if fields == nil { break }
      }
    }
    #expect(good > 300 && bad > 200, "\(good) good, \(bad) bad")
  }

  @Test(arguments: 0..<10) func randomBytesNeverTrap(seed: Int) throws {
    var numbers = Seeded(2000 + seed)
    for _ in 0..<10_000 {
      let reference = ServerTestDecoder()
      let decoder = DecoderUnderTest(fieldBytesMax: 4096)
      let block = (0..<Int.random(in: 1...60, using: &numbers)).map { _ in numbers.byte() }
      let list = try? decoder.list(block)
      #expect(reference.decode(block) == list?.fields, "\(block)")
    }
  }

  // MARK: Large blocks

  @Test func fieldsLongerThanTheScratchAreSkipped() throws {
    let decoder = DecoderUnderTest(fieldBytesMax: 4096)
    let encoder = ReferenceEncoder(tableBytesMax: 4096)
    let long = String(repeating: "v", count: 30_000)
    let before = [ServerField("a", "1")]
    let after = [ServerField("b", "2")]
    for field in [ServerField("x", long), ServerField(long, "y"), ServerField(long, long)] {
      for part in [1, 100, 5_000, 1_000_000] {
        for block in [
          encoder.encode(before + [field] + after), ServerField.literals(before + [field] + after),
        ] {
          let (list, held) = try decoder.list(block, parts: { part })
          #expect(list.fields == before + after)
          #expect(list.skippedBytes.count == 1)
          #expect(held <= 8 * 4096 + 32)
        }
      }
    }
    // The tables still agree.
    #expect(try decoder.decode(encoder.encode(before + after)) == before + after)
  }

  // MARK: Blocks that change no table

  @Test(arguments: [
    ("", false), ("82", false), ("8286 84be", false), ("ff00", false), ("ff", true),
    ("0001 6101 62", false), ("1001 6101 62", false), ("0f10 0162", false), ("0f10 02 62", true),
    ("4001 6101 62", true), ("41 0162", true), ("20", true), ("82 3fe11f", true),
    ("00 8c f1e3 c2e5 f23a 6ba0 ab90 f4ff 00", false), ("0001 6101", true), ("00", true),
    ("ff ffff ffff 7f", true), ("00 7f00", true),
  ]) func changes(block: String, isChange: Bool) {
    #expect(HPACKBlock.changesTable(hex(block).span) == isChange)
  }

  @Test func blocksThatChangeNoTableAreSeen() throws {
    var source = FieldSource(numbers: Seeded(3000))
    let encoder = ReferenceEncoder(tableBytesMax: 4096)
    let decoder = DecoderUnderTest()
    var steady = 0
    for _ in 0..<2000 {
      let block = encoder.encode(source.fields(4)) { $0.name != "x" }
      let before = (decoder.decoder.tableCount, decoder.decoder.tableBytes)
      _ = try decoder.decode(block)
      if HPACKBlock.changesTable(block.span) { continue }
      steady += 1
      #expect(before == (decoder.decoder.tableCount, decoder.decoder.tableBytes))
    }
    #expect(steady > 200)
  }
}
