import GRPC
import Testing

@Suite("Message framing")
struct MessageFramingTests {
  private static func next(_ body: [UInt8], most: Int = 65_536) -> MessageFraming.Result {
    MessageFraming.next(in: body.span, messageBytesMax: most)
  }

  private static func framed(_ length: Int, flag: UInt8 = 0) -> [UInt8] {
    [flag] + withBytes(of: UInt32(length)) + [UInt8](repeating: 7, count: length)
  }

  private static func withBytes(of value: UInt32) -> [UInt8] {
    stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> UInt32($0)) }
  }

  @Test("A whole message, with or without more behind it", arguments: [0, 1, 5, 255, 256, 65_536])
  func whole(length: Int) {
    #expect(Self.next(Self.framed(length)) == .message(length: length))
    #expect(Self.next(Self.framed(length) + [0]) == .message(length: length))
    #expect(Self.next(Self.framed(length) + Self.framed(3)) == .message(length: length))
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
      let expected: MessageFraming.Result =
        switch flag {
        case 0: .message(length: 2)
        case 1: .compressed
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
    #expect(Self.next(Self.framed(10), most: 10) == .message(length: 10))
    #expect(Self.next(Self.framed(0), most: 0) == .message(length: 0))
  }

  @Test("Every bit of the length counts")
  func lengthBits() {
    for bit in 0..<32 {
      let length = UInt32(1) << UInt32(bit)
      let prefix = [0] + Self.withBytes(of: length)
      #expect(Self.next(prefix, most: 0) == .tooLarge(length: Int(length)))
    }
  }
}
