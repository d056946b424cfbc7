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
    for byte in 0..<8 {
      memory[count + byte] = UInt8(truncatingIfNeeded: limit.maxUnits >> Int64(8 * byte))
    }
    memory[count + 8] = UInt8(truncatingIfNeeded: length)
    let subject = unsafe limit.subject.pointer
    for index in 0..<length {
      memory[count + LimitReader.headBytes + index] = unsafe subject[index]
    }
    count += LimitReader.headBytes + length
  }
}
