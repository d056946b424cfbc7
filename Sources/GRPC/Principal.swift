/// Who calls. The handler makes it once for each header block (`CallHandler.start`); the connection keeps
/// it with the block, so that the calls that follow cost no look-up, and gives it back with every message.
///
/// Plain bytes of a fixed size: it is copied with the header block and holds no reference.
package struct Principal: BitwiseCopyable, Sendable {
  /// Longest name in bytes.
  package static let nameBytesMax = 64

  private var name = InlineArray<64, UInt8>(repeating: 0)
  private var nameCount: UInt8 = 0
  /// What the principal may do, as bits that only the handler knows.
  package var permissions: UInt32
  /// By what the handler knew it, so that it can be asked for again.
  package var credential = Credential()

  /// A principal without a name.
  /// - Parameter permissions: the handler's own bits.
  package init(permissions: UInt32 = 0) { self.permissions = permissions }

  /// - Parameters:
  ///   - name: 0 to `nameBytesMax` bytes; a longer one traps.
  ///   - permissions: the handler's own bits.
  package init(name: Span<UInt8>, permissions: UInt32) {
    precondition(name.count <= Self.nameBytesMax, "a principal's name is at most 64 bytes")
    for index in name.indices { self.name[index] = name[index] }
    nameCount = UInt8(name.count)
    self.permissions = permissions
  }

  /// Calls `body` with the name; empty without one.
  package func withName<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
    body(name.span.extracting(0..<Int(nameCount)))
  }

  /// Where the name lies.
  /// - Safety: `self` must stay where it is as long as the result is used.
  @unsafe package mutating func unsafeName() -> UnsafeBufferPointer<UInt8> {
    let count = Int(nameCount)
    return unsafe withUnsafePointer(to: &name) {
      unsafe UnsafeBufferPointer(
        start: UnsafeRawPointer($0).assumingMemoryBound(to: UInt8.self), count: count)
    }
  }
}

/// What a principal was found by: 32 bytes and a kind, which only the handler understands. No secret: a
/// digest of one at most.
package struct Credential: BitwiseCopyable, Sendable {
  package var words = InlineArray<4, UInt64>(repeating: 0)
  package var kind: UInt8 = 0

  /// None.
  package init() {}

  package init(kind: UInt8, words: InlineArray<4, UInt64>) {
    self.kind = kind
    self.words = words
  }
}

/// The verified name in the certificate that a connection's peer showed, as text that says which kind of
/// name it is.
package struct CertificateName: BitwiseCopyable, Sendable {
  /// Longest name in bytes: 64 and what stands before it.
  package static let bytesMax = 72

  private var name = InlineArray<72, UInt8>(repeating: 0)
  private var count: UInt8 = 0

  /// No name.
  package init() {}

  /// - Parameter name: nil where it is longer than `bytesMax`.
  package init?(_ name: Span<UInt8>) {
    guard name.count <= Self.bytesMax else { return nil }
    for index in name.indices { self.name[index] = name[index] }
    count = UInt8(name.count)
  }

  /// Calls `body` with the name; empty without one.
  package func withName<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
    body(name.span.extracting(0..<Int(count)))
  }
}
