import Bytes
import Testing

@Suite("Proto writer")
struct ProtoWriterTests {
  private static func array(_ span: Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }

  /// Writes into its own memory.
  private static func own(capacity: Int = 4096, _ write: (ProtoWriter) -> Void) -> [UInt8] {
    let writer = ProtoWriter(capacity: capacity)
    writer.reset()
    write(writer)
    #expect(writer.isInOwnMemory)
    return writer.withBytes(array)
  }

  @Test(
    "A submessage without a closure is the same as with one, whatever its length",
    arguments: [0, 1, 127, 128, 300])
  func begun(length: Int) {
    let content = [UInt8](repeating: 7, count: length)
    let nested = Self.own(capacity: 16) { writer in
      writer.nested(1) { writer.nested(2) { writer.text(content.span) } }
      writer.field(3, true)
    }
    let begun = Self.own(capacity: 16) { writer in
      let outer = writer.begin(1)
      let inner = writer.begin(1)
      writer.text(content.span)
      // Which of a oneof it is shows once its content is there.
      writer.renumber(inner, 2)
      writer.end(inner)
      writer.end(outer)
      writer.field(3, true)
    }
    #expect(begun == nested)
  }

  @Test("What is written may be overwritten and taken back")
  func corrected() {
    let bytes = Self.own { writer in
      writer.text([1, 2, 3, 4, 5].span)
      writer.overwrite(at: 1, with: [9, 8].span)
      writer.truncate(to: 4)
      writer.overwrite(at: 3, with: [7].span)
    }
    #expect(bytes == [1, 9, 8, 7])
  }

  /// Bytes by hand (protobuf.dev, "Encoding").
  private static let vectors: [(String, [UInt8])] = [
    ("zero", []), ("one", [8, 1]), ("150", [8, 0x96, 1]), ("true", [16, 1]), ("false", []),
    ("minus one", [8] + [UInt8](repeating: 255, count: 9) + [1]), ("text", [26, 2, 104, 105]),
    ("no text", []), ("decimal", [34, 3, 45, 52, 50]), ("nested", [42, 2, 8, 7]),
    ("nested and empty", [42, 0]), ("time", [50, 4, 8, 1, 16, 5]), ("no time", [50, 0]),
    ("filled", [58, 3, 1, 2, 3]), ("field 16", [0x82, 1, 1, 120]),
  ]

  private static func write(_ name: String, _ writer: ProtoWriter) {
    switch name {
    case "zero": writer.field(1, 0 as UInt64)
    case "one": writer.field(1, 1 as UInt64)
    case "150": writer.field(1, 150 as UInt64)
    case "true": writer.field(2, true)
    case "false": writer.field(2, false)
    case "minus one": writer.field(1, -1 as Int64)
    case "text": writer.field(3, "hi")
    case "no text": writer.field(3, "")
    case "decimal": writer.field(4, decimal: -42)
    case "nested": writer.nested(5) { writer.field(1, 7 as UInt64) }
    case "nested and empty": writer.nested(5) {}
    case "time": writer.field(6, seconds: 1_000_000_005)
    case "no time": writer.field(6, seconds: 0)
    case "filled":
      writer.field(7, length: 3) { span in
        for index in 0..<3 { span[index] = UInt8(index + 1) }
      }
    case "field 16": writer.field(16, "x")
    default: Issue.record("no such case: \(name)")
    }
  }

  @Test("Fields as they stand on the wire", arguments: vectors)
  func fields(name: String, bytes: [UInt8]) {
    #expect(Self.own { Self.write(name, $0) } == bytes)
    #expect(Self.own(capacity: 1) { Self.write(name, $0) } == bytes)
  }

  @Test(
    "Decimals",
    arguments: [
      0, 1, -1, 9, 10, -10, 99, 100, 1_099_511_627_776, .max, .max - 1, .min, .min + 1,
    ] as [Int64])
  func decimals(value: Int64) {
    let bytes = Self.own { $0.text(decimal: value) }
    #expect(String(decoding: bytes, as: UTF8.self) == "\(value)")
  }

  /// A message of many parts, nested in each other, from random numbers.
  private static func writeRandom(_ writer: ProtoWriter, _ random: inout Numbers, depth: Int = 0) {
    for _ in 0..<random.next() % 6 {
      let number = Int(random.next() % 40) + 1
      switch random.next() % 7 {
      case 0: writer.field(number, random.next() >> (random.next() % 64))
      case 1:
        let bytes = (0..<random.next() % 200).map { UInt8(truncatingIfNeeded: $0) }
        writer.field(number, bytes.span)
      case 2: writer.field(number, seconds: Int64(random.next() >> 1))
      case 3: writer.field(number, decimal: Int64(bitPattern: random.next()))
      case 4:
        writer.field(number, length: 40) { span in
          for index in 0..<40 { span[index] = UInt8(index) }
        }
      default:
        guard depth < 4 else { continue }
        // A closure cannot capture what is inout.
        var inner = random
        writer.nested(number) { writeRandom(writer, &inner, depth: depth + 1) }
        random = inner
      }
    }
  }

  @Test("Lent memory and own memory give the same bytes, wherever the room ends", arguments: 0..<20)
  func lent(seed: UInt64) {
    var random = Numbers(state: seed)
    var whole: [UInt8] = []
    while whole.count < 40 {
      let start = random
      whole = Self.own {
        var again = start
        Self.writeRandom($0, &again)
        random = again
      }
      if whole.count >= 40 {
        Self.lent(whole, start)
      }
    }
  }

  private static func lent(_ whole: [UInt8], _ start: Numbers) {
    let writer = ProtoWriter(capacity: 16)
    let sizes = Array(0...min(300, whole.count + 30)) + [whole.count, whole.count + 1, 8192]
    for size in sizes {
      let room = UnsafeMutableRawBufferPointer.allocate(byteCount: size + 8, alignment: 1)
      defer { unsafe room.deallocate() }
      for index in 0..<size + 8 { unsafe room[index] = 0xee }
      unsafe writer.reset(in: UnsafeMutableRawBufferPointer(rebasing: room[..<size]))
      var again = start
      writeRandom(writer, &again)
      #expect(writer.withBytes(array) == whole, "room for \(size)")
      #expect(writer.count == whole.count)
      if size == 8192 { #expect(!writer.isInOwnMemory) }
      if size < whole.count { #expect(writer.isInOwnMemory) }
      if !writer.isInOwnMemory { #expect(unsafe Array(room.prefix(whole.count)) == whole) }
      // Nothing is written behind what was lent.
      #expect(unsafe room[size...].allSatisfy { $0 == 0xee })
    }
  }

  @Test("Its own memory grows, keeps every byte, and stays for the next message")
  func growth() {
    let writer = ProtoWriter(capacity: 1)
    for _ in 0..<3 {
      writer.reset()
      var expected: [UInt8] = []
      for index in 0..<2000 {
        writer.text(byte: UInt8(truncatingIfNeeded: index))
        expected.append(UInt8(truncatingIfNeeded: index))
      }
      #expect(writer.withBytes(Self.array) == expected)
    }
    // From room that is too small into memory that is large enough already, and into memory that is not.
    let long = [UInt8](repeating: 3, count: 1000)
    for rest in [long, long + long + long + long] {
      let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 10, alignment: 1)
      defer { unsafe room.deallocate() }
      unsafe writer.reset(in: room)
      writer.text("0123456789")
      #expect(!writer.isInOwnMemory)
      writer.text(rest.span)
      #expect(writer.isInOwnMemory)
      #expect(writer.withBytes(Self.array) == Array("0123456789".utf8) + rest)
    }
  }

  @Test("Submessages of every length of length", arguments: [0, 1, 127, 128, 129, 16_383, 16_384])
  func lengths(length: Int) {
    let bytes = [UInt8](repeating: 5, count: length)
    let expected = Self.own { $0.field(1, bytes.span) }
    for capacity in [1, 100, 100_000] {
      let nested = Self.own(capacity: capacity) { writer in
        writer.nested(1) { writer.text(bytes.span) }
      }
      // An empty field is left out; an empty submessage is not.
      #expect(nested == (length == 0 ? [10, 0] : expected))
    }
  }
}

/// The same numbers for the same seed (SplitMix64).
private struct Numbers {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
    return mixed ^ mixed >> 31
  }
}
