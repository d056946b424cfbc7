import GRPC
import Testing

@Suite("Message framing")
struct FramingTests {
  private static func next(_ body: [UInt8], most: Int = 65_536) -> Framing.Result {
    Framing.next(in: body.span, messageBytesMax: most)
  }

  private static func framed(_ length: Int, flag: UInt8 = 0) -> [UInt8] {
    [flag] + withBytes(of: UInt32(length)) + [UInt8](repeating: 7, count: length)
  }

  private static func withBytes(of value: UInt32) -> [UInt8] {
    stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> UInt32($0)) }
  }

  @Test("A whole message, with or without more behind it", arguments: [0, 1, 5, 255, 256, 65_536])
  func whole(length: Int) {
    #expect(Self.next(Self.framed(length)) == .message(length: length, isCompressed: false))
    #expect(Self.next(Self.framed(length) + [0]) == .message(length: length, isCompressed: false))
    #expect(
      Self.next(Self.framed(length) + Self.framed(3))
        == .message(length: length, isCompressed: false))
  }

  @Test("Cut off anywhere, a message is incomplete")
  func truncated() {
    let body = Self.framed(300)
    for length in 0..<body.count {
      #expect(Self.next(Array(body.prefix(length))) == .incomplete, "\(length) bytes")
    }
  }

  @Test("The flag is looked at once the prefix is whole, before the length")
  func flags() {
    for flag in UInt8.min...UInt8.max {
      let expected: Framing.Result =
        switch flag {
        case 0: .message(length: 2, isCompressed: false)
        case 1: .message(length: 2, isCompressed: true)
        default: .malformed
        }
      #expect(Self.next(Self.framed(2, flag: flag)) == expected)
      #expect(Self.next(Array(Self.framed(2, flag: flag).prefix(4))) == .incomplete)
    }
  }

  @Test(
    "A length over the limit is known from the prefix alone",
    arguments: [(10, 11), (0, 1), (65_536, 65_537), (65_536, 1 << 24), (65_536, Int(UInt32.max))])
  func tooLarge(most: Int, length: Int) {
    let prefix = [0] + Self.withBytes(of: UInt32(length))
    #expect(Self.next(prefix, most: most) == .tooLarge(length: length))
    #expect(Self.next(prefix, most: length) == .incomplete)
  }

  @Test("The limit itself is allowed")
  func limit() {
    #expect(Self.next(Self.framed(10), most: 10) == .message(length: 10, isCompressed: false))
    #expect(Self.next(Self.framed(0), most: 0) == .message(length: 0, isCompressed: false))
  }

  @Test("Every bit of the length counts")
  func lengthBits() {
    for bit in 0..<32 {
      let length = UInt32(1) << UInt32(bit)
      let prefix = [0] + Self.withBytes(of: length)
      #expect(Self.next(prefix, most: 0) == .tooLarge(length: Int(length)))
    }
  }

  @Test("A prefix is read as what it was written for")
  func prefix() {
    for length in [0, 1, 255, 256, 65_535, 65_536, 1 << 24, Int(UInt32.max)] {
      for isCompressed in [false, true] {
        let prefix = Framing.prefix(length: length, isCompressed: isCompressed)
        let bytes = (0..<Framing.prefixLength).map { prefix[$0] }
        #expect(bytes == [isCompressed ? 1 : 0] + Self.withBytes(of: UInt32(length)))
      }
    }
  }

  @Test("A compressed message is as long as its prefix says, and bounded by it")
  func compressed() {
    let body = Self.framed(10, flag: 1)
    #expect(Self.next(body) == .message(length: 10, isCompressed: true))
    #expect(Self.next(body, most: 9) == .tooLarge(length: 10))
    #expect(Self.next(Array(body.dropLast())) == .incomplete)
  }
}
