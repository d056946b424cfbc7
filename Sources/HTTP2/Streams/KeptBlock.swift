/// A header block that its owner keeps, since it is the response to many calls: :status 200, the constant
/// response field, and literals without indexing, as `HeaderFields` makes them. Streams refer to it, so it
/// must stay as it is until `isInUse` is false. Its bytes stand behind it.
@unsafe package struct KeptBlock: BitwiseCopyable {
  /// Longest block, of `HeaderFields` too: one frame's worth, less size updates.
  static let bytesMax = Defaults.frameBytesMax - HeaderEncoder.sizeUpdateBytesMax

  /// Told from every other of its context, later ones in the same place too; not 0.
  let number: UInt64
  let count: Int32
  /// Streams that refer to it.
  var references: Int32 = 0

  /// - Parameter count: bytes of the block.
  package init(number: UInt64, count: Int) {
    unsafe precondition(number != 0 && count <= Self.bytesMax, "no block that can be kept")
    unsafe self.number = number
    unsafe self.count = Int32(count)
  }

  package var isInUse: Bool { unsafe references > 0 }

  /// The block behind `kept`.
  package static func bytes(
    _ kept: UnsafeMutablePointer<KeptBlock>
  ) -> UnsafeMutableBufferPointer<UInt8> {
    let start = unsafe UnsafeMutableRawPointer(kept + 1).assumingMemoryBound(to: UInt8.self)
    return unsafe UnsafeMutableBufferPointer(start: start, count: Int(kept.pointee.count))
  }
}
