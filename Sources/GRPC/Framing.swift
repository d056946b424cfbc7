/// The five bytes before every gRPC message: a compression flag and the length (gRPC over HTTP/2,
/// Length-Prefixed-Message).
package enum Framing {
  /// Bytes of the prefix.
  package static let prefixLength = 5

  /// What stands at the front of a request's bytes.
  package enum Result: Equatable {
    /// The message is in bytes 5 ..< 5 + length.
    case message(length: Int, isCompressed: Bool)
    /// More bytes are needed.
    case incomplete
    /// The flag is neither 0 nor 1.
    case malformed
    /// The message is longer than `messageBytesMax`.
    case tooLarge(length: Int)
  }

  /// Looks at the front of `body`.
  package static func next(in body: Span<UInt8>, messageBytesMax: Int) -> Result {
    guard body.count >= prefixLength else { return .incomplete }
    let length =
      Int(body[1]) << 24 | Int(body[2]) << 16 | Int(body[3]) << 8 | Int(body[4])
    if body[0] > 1 { return .malformed }
    if length > messageBytesMax { return .tooLarge(length: length) }
    guard body.count - prefixLength >= length else { return .incomplete }
    return .message(length: length, isCompressed: body[0] == 1)
  }

  /// The prefix of a message of `length` bytes.
  package static func prefix(length: Int, isCompressed: Bool) -> InlineArray<5, UInt8> {
    let length = UInt32(clamping: length)
    return [
      isCompressed ? 1 : 0, UInt8(truncatingIfNeeded: length >> 24),
      UInt8(truncatingIfNeeded: length >> 16), UInt8(truncatingIfNeeded: length >> 8),
      UInt8(truncatingIfNeeded: length),
    ]
  }
}
