// The header blocks of responses, read by libnghttp2.
import Testing

@testable import HTTP2

@Suite("Response header encoder") struct HeaderEncoderTests {
  private static let header = ConstantField("content-type", "application/grpc")
  private static let trailer = ConstantField("grpc-status", "0")

  /// A block that may come again, and what it means.
  private struct Block {
    let identity: BlockIdentity
    let bytes: [UInt8]
    let fields: [ServerField]

    init(_ number: UInt64, isWhole: Bool = true, values: [String]) {
      let writer = HeaderFields()
      var meant: [ServerField] = []
      writer.begin()
      if isWhole {
        writer.begin(status: 200)
        writer.add(header.name, header.value)
        meant = [ServerField(":status", "200"), ServerField("content-type", "application/grpc")]
      }
      let names: [StaticString] = [
        "grpc-status", "grpc-message", "grpc-status-details-bin", "x", "y",
      ]
      for (name, value) in zip(names, values) {
        writer.add(name, Array(value.utf8).span)
        meant.append(ServerField("\(name)", value))
      }
      identity = BlockIdentity(number)
      bytes = writer.withBlock { span in span.indices.map { span[$0] } }
      fields = meant
    }
  }

  /// An encoder, and the peer that reads what it writes.
  private struct Pair {
    var encoder = HeaderEncoder()
    let decoder = ServerTestDecoder()

    /// The length of the block, which must be what was meant.
    mutating func send(_ block: Block, _ location: SourceLocation = #_sourceLocation) -> Int {
      unsafe write(block.fields, location) { encoder, out in
        unsafe block.bytes.withUnsafeBufferPointer {
          unsafe encoder.writeBlock($0, block.identity, HeaderEncoderTests.header, out)
        }
      }
    }

    mutating func sendHeaders() -> Int {
      unsafe write([ServerField(":status", "200"), ServerField("content-type", "application/grpc")])
      {
        unsafe $0.writeHeaders(HeaderEncoderTests.header, $1)
      }
    }

    mutating func sendTrailers() -> Int {
      unsafe write([ServerField("grpc-status", "0")]) {
        unsafe $0.writeTrailers(HeaderEncoderTests.trailer, $1)
      }
    }

    private mutating func write(
      _ fields: [ServerField], _ location: SourceLocation = #_sourceLocation,
      _ body: (inout HeaderEncoder, UnsafeMutablePointer<UInt8>) -> Int
    ) -> Int {
      var out = [UInt8](repeating: 0xaa, count: 20_000)
      let count = unsafe out.withUnsafeMutableBufferPointer { buffer in
        unsafe buffer.baseAddress.map { unsafe body(&encoder, $0) } ?? 0
      }
      #expect(decoder.decode(Array(out[..<count])) == fields, sourceLocation: location)
      return count
    }
  }

  @Test("A block that comes again is a byte a field", arguments: [true, false])
  func again(isWhole: Bool) {
    var pair = Pair()
    let details = String(repeating: "d", count: 400)
    let block = Block(2, isWhole: isWhole, values: ["9", "not enough stock", details])
    let lengths = (0..<4).map { _ in pair.send(block) }
    // The second time it is entered; the constant field is a literal once more, for the table.
    #expect(lengths == [block.bytes.count, block.bytes.count, isWhole ? 5 : 3, isWhole ? 5 : 3])
    #expect(pair.sendHeaders() == (isWhole ? 2 : 32))
    #expect(pair.sendTrailers() == 15)
    #expect(pair.sendTrailers() == 1)
    #expect(pair.send(block) == (isWhole ? 5 : 3))
  }

  @Test("Blocks without an identity enter nothing")
  func withoutIdentity() {
    var pair = Pair()
    let block = Block(0, values: ["14", "later"])
    for _ in 0..<4 { #expect(pair.send(block) == block.bytes.count) }
    #expect(pair.sendHeaders() == 32)
  }

  @Test("With another identity between them, two blocks are not taken for one")
  func others() {
    var pair = Pair()
    // One place of the four for both.
    let blocks = [Block(2, values: ["9", "a"]), Block(10, values: ["9", "b"])]
    for _ in 0..<4 { for block in blocks { #expect(pair.send(block) == block.bytes.count) } }
    // Whole, and as trailers.
    let trailers = Block(3, isWhole: false, values: ["9", "a"])
    for _ in 0..<3 { _ = pair.send(trailers) }
    #expect(pair.send(trailers) == 2)
    for _ in 0..<3 { _ = pair.send(blocks[0]) }
    #expect(pair.send(blocks[0]) == 4)
  }

  @Test(
    "Blocks that are not worth it, or not made so, stay as they are",
    arguments: [
      Block(2, values: ["9", String(repeating: "m", count: 4_000)]),
      Block(2, isWhole: false, values: []),
    ])
  private func asTheyAre(block: Block) {
    var pair = Pair()
    for _ in 0..<4 { #expect(pair.send(block) == block.bytes.count) }
  }

  @Test("Another status than 200")
  func otherStatus() {
    var pair = Pair()
    let writer = HeaderFields()
    writer.begin(status: 415)
    writer.add("x", "y")
    let bytes = writer.withBlock { span in span.indices.map { span[$0] } }
    for _ in 0..<3 {
      var out = [UInt8](repeating: 0, count: 100)
      let count = unsafe out.withUnsafeMutableBufferPointer { out in
        unsafe bytes.withUnsafeBufferPointer { block in
          unsafe out.baseAddress.map {
            unsafe pair.encoder.writeBlock(block, BlockIdentity(2), Self.header, $0)
          } ?? 0
        }
      }
      #expect(Array(out[..<count]) == bytes)
    }
  }

  /// The peer's table overflows again and again, indexes have one byte and two, and the peer may take its
  /// table away at any time.
  @Test(
    "In any order, whatever there is room for, the peer reads what was meant",
    arguments: [0, 1, 2, 3, 4, 5, 6, 7] as [UInt64], [UInt32(4_096), 16_384, 4_095, 0])
  func anyOrder(seed: UInt64, tableBytes: UInt32) {
    var random = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    func next(_ bound: Int) -> Int {
      random ^= random << 13
      random ^= random >> 7
      random ^= random << 17
      return Int(random % UInt64(bound))
    }
    let blocks = (0..<24).map { number in
      let lengths = (0...next(5)).map { _ in [0, 1, 8, 126, 127, 128, 255, 700, 1_500][next(9)] }
      return Block(
        UInt64(number / 2 + 1) << 1 | UInt64(number & 1), isWhole: number & 1 == 0,
        values: lengths.map { String(repeating: "\(number % 10)", count: $0) })
    }
    var pair = Pair()
    let takesAway = tableBytes < 4_096 ? next(1_000) : -1
    // Some come often, as in a sale, and which ones changes.
    var favourites = [0, 1]
    var shortCount = 0
    for step in 0..<2_000 {
      if step == takesAway {
        pair.encoder.peerTableSizeChanged(to: tableBytes)
        pair.decoder.setTable(bytes: Int(tableBytes))
        shortCount = 0
      }
      if next(50) == 0 { favourites = [next(24), next(24)] }
      switch next(8) {
      case 0: _ = pair.sendHeaders()
      case 1: _ = pair.sendTrailers()
      case 2: _ = pair.send(blocks[next(24)])
      default:
        let block = blocks[favourites[next(2)]]
        if pair.send(block) <= 12 && block.bytes.count > 100 { shortCount += 1 }
      }
    }
    #expect(takesAway >= 0 ? shortCount == 0 : shortCount > 300)
  }
}
