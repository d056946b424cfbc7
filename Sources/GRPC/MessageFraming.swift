/// The five bytes before every gRPC message: a compression flag and the length (gRPC over HTTP/2,
/// Length-Prefixed-Message).
package enum MessageFraming {
  /// Bytes of the prefix.
  package static let prefixLength = 5

  /// What stands at the front of a stream's body.
  package enum Result: Equatable {
    /// The message is in bytes 5 ..< 5 + length.
    case message(length: Int)
    /// More bytes are needed.
    case incomplete
    /// The flag says compressed.
    case compressed
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
    switch body[0] {
    case 0: break
    case 1: return .compressed
    default: return .malformed
    }
    if length > messageBytesMax { return .tooLarge(length: length) }
    return body.count - prefixLength >= length ? .message(length: length) : .incomplete
  }
}
