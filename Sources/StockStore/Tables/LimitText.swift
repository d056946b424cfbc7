// Limits as bytes while they are written: in memory of their own, which is made once.

/// Limits as bytes (LimitReader says what they are).
struct LimitText {
  private let memory = FixedArray<UInt8>(capacity: LimitReader.bytesMax, repeating: 0)
  private var count = 0

  func free() { memory.free() }

  /// Good until it changes.
  var bytes: BorrowedBytes {
    unsafe BorrowedBytes(UnsafePointer(memory.address(0)), count: count)
  }

  mutating func removeAll() { count = 0 }

  mutating func append(_ limit: SubjectLimit) {
    let length = limit.subject.count
    precondition(
      length <= SubjectLimit.bytesMax
        && count + LimitReader.headBytes + length <= LimitReader.bytesMax)
    // There is room for all of it.
    let target = unsafe UnsafeMutableRawPointer(memory.address(count))
    unsafe target.storeBytes(of: limit.maxUnits.littleEndian, as: Int64.self)
    unsafe target.storeBytes(of: UInt8(truncatingIfNeeded: length), toByteOffset: 8, as: UInt8.self)
    if let subject = unsafe limit.subject.pointer.baseAddress {
      unsafe (target + LimitReader.headBytes).copyMemory(from: subject, byteCount: length)
    }
    count += LimitReader.headBytes + length
  }
}
