internal import CPlatform
// Blocks of a checkpoint in memory: filled field by field, and read the same way.
internal import StockStore

/// One block: its payload is appended field by field, then it is closed.
@safe struct BlockBuilder: ~Copyable {
  /// A little more than the longest chunk of reservations: 64 slots with 64 balances and all details each.
  static let payloadBytesMax = 208 << 10

  private let memory: UnsafeMutableRawPointer
  /// Where the next field goes.
  private(set) var end = BlockHeader.byteCount

  init() {
    unsafe memory = .allocate(
      byteCount: BlockHeader.byteCount + Self.payloadBytesMax, alignment: 64)
  }

  deinit { unsafe memory.deallocate() }

  var isEmpty: Bool { end == BlockHeader.byteCount }

  /// Bytes that still fit.
  var room: Int { BlockHeader.byteCount + Self.payloadBytesMax - end }

  /// Appends a field; the caller has seen that there is room.
  @inline(__always)
  mutating func append<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value) {
    precondition(room >= MemoryLayout<Value>.size, "the block is full")
    unsafe memory.storeBytes(of: value.littleEndian, toByteOffset: end, as: Value.self)
    end += MemoryLayout<Value>.size
  }

  /// Appends text; the caller has seen that there is room.
  mutating func append(_ text: BorrowedBytes) {
    precondition(room >= text.count, "the block is full")
    guard let base = unsafe text.pointer.baseAddress else { return }
    unsafe (memory + end).copyMemory(from: base, byteCount: text.count)
    end += text.count
  }

  /// Appends a number of seven bits a byte; the caller has seen that there is room.
  mutating func append(_ bytes: VarintBytes) {
    for byte in bytes { append(byte) }
  }

  /// Appends zeros up to a multiple of 8.
  mutating func pad() {
    while end % 8 != 0 { append(UInt8(0)) }
  }

  /// Changes a field that was appended at `offset`, which is what `end` was then.
  mutating func replace<Value: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, with value: Value
  ) {
    precondition(offset >= 0 && offset + MemoryLayout<Value>.size <= end, "no such field")
    unsafe memory.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
  }

  /// Puts the header before what was appended and empties the block. The whole block's bytes, good until
  /// the next field is appended.
  mutating func close(_ kind: BlockKind, place: Int, checkpointLSN: UInt64)
    -> UnsafeRawBufferPointer
  {
    let count = end
    end = 0
    append(BlockHeader.magic)
    append(UInt32(0))
    append(UInt64(clamping: place))
    append(checkpointLSN)
    append(UInt32(truncatingIfNeeded: count - BlockHeader.byteCount))
    append(kind.rawValue)
    // What is checked ends where the fields ended, within the memory.
    let checked = BlockHeader.checkedOffset
    let checksum = unsafe hf_crc32c(0, memory + checked, count - checked)
    replace(at: 4, with: checksum)
    return unsafe UnsafeRawBufferPointer(start: memory, count: count)
  }
}

/// Reads fields one behind the other. A field that is not there is 0, and `hasFailed` says so: it is
/// asked once for many fields.
@safe struct FieldReader {
  private let bytes: UnsafeRawBufferPointer
  private(set) var offset = 0
  private(set) var hasFailed = false

  /// - Parameter bytes: must stay as long as the reader is used.
  init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

  var isAtEnd: Bool { unsafe offset == bytes.count }

  @inline(__always)
  mutating func next<Value: FixedWidthInteger & BitwiseCopyable>(
    _ type: Value.Type = Value.self
  ) -> Value {
    let size = MemoryLayout<Value>.size
    guard unsafe bytes.count - offset >= size else {
      hasFailed = true
      return 0
    }
    defer { offset += size }
    // [offset, offset + size) lies within the bytes.
    return unsafe Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
  }

  /// The next `count` bytes, which stay where they are; none where there are not so many.
  mutating func text(_ count: Int) -> BorrowedBytes {
    guard count > 0, unsafe bytes.count - offset >= count, let base = unsafe bytes.baseAddress
    else {
      if count != 0 { hasFailed = true }
      return .empty
    }
    defer { offset += count }
    return unsafe BorrowedBytes(
      (base + offset).assumingMemoryBound(to: UInt8.self), count: count)
  }

  /// A number of seven bits a byte.
  mutating func nextVarint() -> UInt64 {
    let value = VarintBytes.value { hasFailed ? nil : next(UInt8.self) }
    if value == nil { hasFailed = true }
    return value ?? 0
  }

  mutating func nextSignedVarint() -> Int64 {
    let value = VarintBytes.signedValue { hasFailed ? nil : next(UInt8.self) }
    if value == nil { hasFailed = true }
    return value ?? 0
  }

  /// Goes on to the next multiple of 8; fails where what is passed is not zero.
  mutating func skipPadding() {
    while offset % 8 != 0, !hasFailed {
      let padding: UInt8 = next()
      if padding != 0 { hasFailed = true }
    }
  }
}
