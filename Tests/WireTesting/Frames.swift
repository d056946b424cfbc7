// What a peer sends, byte for byte, made by other code than the code under test.

/// Frames as a server writes them.
package enum Frames {
  package static func frame(
    _ type: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: [UInt8]
  ) -> [UInt8] {
    let count = payload.count
    let header: [UInt8] = [
      UInt8(count >> 16), UInt8(count >> 8 & 255), UInt8(count & 255), type, flags,
    ]
    return header + number(stream) + payload
  }

  package static func number(_ value: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
  }

  package static func settings(_ values: [(UInt8, UInt32)] = []) -> [UInt8] {
    frame(4, 0, 0, values.flatMap { [0, $0.0] + number($0.1) })
  }

  /// A literal without indexing (RFC 7541, section 6.2.2), not Huffman coded. Name and value have less
  /// than 254 bytes.
  package static func literal(_ name: String, _ value: String) -> [UInt8] {
    literal(name, Array(value.utf8))
  }

  package static func literal(_ name: String, _ value: [UInt8]) -> [UInt8] {
    [0] + text(Array(name.utf8)) + text(value)
  }

  private static func text(_ bytes: [UInt8]) -> [UInt8] {
    precondition(bytes.count < 254, "a length of two bytes at most")
    return (bytes.count < 127 ? [UInt8(bytes.count)] : [127, UInt8(bytes.count - 127)]) + bytes
  }

  package static let status200: [UInt8] = [0x88]

  /// One gRPC message.
  package static func body(_ message: [UInt8]) -> [UInt8] {
    [0] + number(UInt32(message.count)) + message
  }

  /// A whole response with one message.
  package static func answer(_ stream: UInt32, _ message: [UInt8]) -> [UInt8] {
    frame(1, 4, stream, status200) + frame(0, 0, stream, body(message)) + trailers(stream)
  }

  /// The trailers of a response with status OK.
  package static func trailers(_ stream: UInt32) -> [UInt8] {
    frame(1, 5, stream, literal("grpc-status", "0"))
  }
}

/// A frame that was parsed.
package struct ParsedFrame: Equatable {
  package let type: UInt8
  package let flags: UInt8
  package let stream: UInt32
  package let payload: [UInt8]

  package init(type: UInt8, flags: UInt8, stream: UInt32, payload: [UInt8]) {
    self.type = type
    self.flags = flags
    self.stream = stream
    self.payload = payload
  }

  /// Takes bytes apart; nil where they are not whole frames.
  package static func parse(_ bytes: [UInt8]) -> [ParsedFrame]? {
    var frames: [ParsedFrame] = []
    var at = 0
    while at < bytes.count {
      guard at + 9 <= bytes.count else { return nil }
      let length = Int(bytes[at]) << 16 | Int(bytes[at + 1]) << 8 | Int(bytes[at + 2])
      guard at + 9 + length <= bytes.count else { return nil }
      let stream = bytes[at + 5..<at + 9].reduce(0) { $0 << 8 | UInt32($1) }
      frames.append(
        ParsedFrame(
          type: bytes[at + 3], flags: bytes[at + 4], stream: stream,
          payload: Array(bytes[at + 9..<at + 9 + length])))
      at += 9 + length
    }
    return frames
  }
}

/// Small, seeded, and the same everywhere.
package struct Lehmer {
  private var state: UInt64

  package init(state: UInt64) { self.state = state }

  package mutating func below(_ bound: Int) -> Int {
    state = state &* 48_271 % 0x7fff_ffff
    return Int(state % UInt64(bound))
  }
}

/// The bytes of a span.
package func array(_ span: borrowing Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }
