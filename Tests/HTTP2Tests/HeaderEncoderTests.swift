// The header blocks of responses, read by libnghttp2.
import Testing

@testable import HTTP2

@Suite("Response header encoder") struct HeaderEncoderTests {
  private static let header = ConstantField("content-type", "application/grpc")
  private static let trailer = ConstantField("grpc-status", "0")

  /// A kept block, and what it means.
  @safe private final class Block {
    let kept: UnsafeMutablePointer<KeptBlock>
    let fields: [ServerField]
    var count: Int { unsafe Int(kept.pointee.count) }

    init(
      _ number: UInt64, status: Int = 200, _ contentType: StaticString? = header.value,
      values: [String]
    ) {
      let writer = HeaderFields()
      var meant = [ServerField(":status", "\(status)")]
      writer.begin(status: status)
      if let contentType {
        writer.add(header.name, contentType)
        meant.append(ServerField("content-type", "\(contentType)"))
      }
      let names: [StaticString] = [
        "grpc-status", "grpc-message", "grpc-status-details-bin", "a", "b", "c", "d", "e", "f",
      ]
      for (name, value) in zip(names, values) {
        writer.add(name, Array(value.utf8).span)
        meant.append(ServerField("\(name)", value))
      }
      fields = meant
      let memory = UnsafeMutableRawPointer.allocate(byteCount: 1 << 14, alignment: 16)
      unsafe kept = memory.bindMemory(to: KeptBlock.self, capacity: 1)
      unsafe kept.initialize(to: KeptBlock(number: number, count: writer.byteCount))
      writer.withBlock { span in
        for index in span.indices { unsafe KeptBlock.bytes(kept)[index] = span[index] }
      }
    }

    deinit { unsafe kept.deallocate() }
  }

  /// An encoder, and the peer that reads what it writes.
  private struct Pair {
    var encoder = HeaderEncoder()
    let decoder = ServerTestDecoder()

    /// The length of the block, which must be what was meant.
    mutating func send(_ block: Block, _ location: SourceLocation = #_sourceLocation) -> Int {
      unsafe write(block.fields, location) { encoder, out in
        unsafe encoder.writeKept(block.kept, HeaderEncoderTests.header, out)
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

  @Test("A block that comes again is a byte a field") func again() {
    var pair = Pair()
    let block = Block(1, values: ["9", "not enough stock", String(repeating: "d", count: 400)])
    let lengths = (0..<4).map { _ in pair.send(block) }
    // The second time it is entered; the constant field is a literal once more, for the table.
    #expect(lengths == [block.count, block.count, 5, 5])
    #expect(pair.sendHeaders() == 2)
    #expect(pair.sendTrailers() == 15)
    #expect(pair.sendTrailers() == 1)
    #expect(pair.send(block) == 5)
  }

  @Test("Two blocks that share a place are not taken for one") func others() {
    var pair = Pair()
    let blocks = [Block(1, values: ["9", "a"]), Block(5, values: ["9", "b"])]
    for _ in 0..<4 { for block in blocks { #expect(pair.send(block) == block.count) } }
    for _ in 0..<3 { _ = pair.send(blocks[0]) }
    #expect(pair.send(blocks[0]) == 4)
    #expect(pair.send(blocks[1]) == blocks[1].count)
  }

  @Test("Blocks that are not worth it, or begin otherwise, stay as they are") func asTheyAre() {
    var pair = Pair()
    for block in [
      Block(1, values: ["9", String(repeating: "m", count: 4_000)]), Block(2, values: []),
      Block(3, values: ["1", "2", "3", "4", "5", "6", "7", "8", "9"]),
      Block(4, nil, values: ["9"]), Block(5, "application/grpc+proto", values: ["9"]),
      Block(6, "application/grpd", values: ["9"]), Block(7, status: 415, values: ["9"]),
    ] {
      for _ in 0..<4 { #expect(pair.send(block) == block.count) }
    }
    #expect(pair.sendHeaders() == 32)
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
        UInt64(number + 1), values: lengths.map { String(repeating: "\(number % 10)", count: $0) })
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
        if pair.send(block) <= 12 && block.count > 100 { shortCount += 1 }
      }
    }
    #expect(takesAway >= 0 ? shortCount == 0 : shortCount > 300)
  }
}
