// Bytes of events as they are written: as Bytes.ProtoWriter, but for many messages behind each other and
// without a call for each byte, since whoever watches everything costs a part of every decision.

/// Protobuf's wire format, into memory that whoever holds it frees. Every tag is one byte: fields 1 to 15.
@safe struct EventBytes {
  private var memory: UnsafeMutablePointer<UInt8>
  private(set) var count = 0
  private(set) var capacity: Int

  /// Bytes of a number with its tag.
  private static let numberBytesMax = 11

  init(capacity: Int) {
    self.capacity = capacity
    unsafe memory = .allocate(capacity: capacity)
  }

  mutating func removeAll() { count = 0 }

  func free() { unsafe memory.deallocate() }

  /// Calls `body` with the bytes of a range, which were written.
  func withSpan(_ range: Range<Int>, _ body: (Span<UInt8>) -> Void) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "bytes that there are not")
    // They stay for the length of the call: nobody frees what a block holds before the block goes.
    let bytes = unsafe UnsafeBufferPointer(
      start: UnsafePointer(memory + range.lowerBound), count: range.count)
    body(unsafe bytes.span)
  }

  /// Makes room for `bytes` of text and so many numbers, submessages included.
  @inline(__always)
  mutating func reserve(bytes: Int, numbers: Int) {
    let needed = count + bytes + numbers * Self.numberBytesMax
    if needed > capacity { grow(needed) }
  }

  @inline(never)
  private mutating func grow(_ needed: Int) {
    capacity = max(needed, capacity * 2)
    let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
    unsafe larger.update(from: memory, count: count)
    unsafe memory.deallocate()
    unsafe memory = larger
  }

  // MARK: Where room was made; proto3 leaves out what is zero or empty

  @inline(__always)
  mutating func field(_ number: UInt8, _ value: UInt64) {
    if value == 0 { return }
    put(number << 3)
    put(varint: value)
  }

  @inline(__always)
  mutating func field(_ number: UInt8, _ value: Int64) { field(number, UInt64(bitPattern: value)) }

  @inline(__always)
  mutating func field(_ number: UInt8, _ bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress, bytes.count > 0 else { return }
    let length = bytes.count
    put(number << 3 | 2)
    put(varint: UInt64(length))
    let target = unsafe UnsafeMutableRawPointer(memory + count)
    if length >= 8, length <= 16 {
      // Names and keys, mostly: both ends, which overlap, are less than a call.
      let first = unsafe base.loadUnaligned(as: UInt64.self)
      let last = unsafe base.loadUnaligned(fromByteOffset: length - 8, as: UInt64.self)
      unsafe target.storeBytes(of: first, as: UInt64.self)
      unsafe target.storeBytes(of: last, toByteOffset: length - 8, as: UInt64.self)
    } else {
      unsafe target.copyMemory(from: base, byteCount: length)
    }
    count += length
  }

  mutating func field(_ number: UInt8, _ text: StaticString) {
    put(number << 3 | 2)
    put(varint: UInt64(text.utf8CodeUnitCount))
    unsafe (memory + count).update(from: text.utf8Start, count: text.utf8CodeUnitCount)
    count += text.utf8CodeUnitCount
  }

  /// A field of `length` bytes, less than 128, that `body` fills.
  @inline(__always)
  mutating func field(_ number: UInt8, length: Int, _ body: (inout MutableSpan<UInt8>) -> Void) {
    put(number << 3 | 2)
    put(UInt8(truncatingIfNeeded: length))
    // Bytes have no invalid value, so the room counts as initialized.
    let text = unsafe UnsafeMutableBufferPointer(start: memory + count, count: length)
    var span = unsafe text.mutableSpan
    body(&span)
    count += length
  }

  /// A google.protobuf.Timestamp: seconds = 1, nanos = 2.
  @inline(__always)
  mutating func field(_ number: UInt8, seconds nanoseconds: Int64) {
    let start = begin(number)
    field(1, nanoseconds / 1_000_000_000)
    field(2, nanoseconds % 1_000_000_000)
    end(start)
  }

  /// Begins a submessage: where its content starts, behind some bytes for its length.
  @inline(__always)
  mutating func begin(_ number: UInt8, lengthBytes: Int = 1) -> Int {
    put(number << 3 | 2)
    count += lengthBytes
    return count
  }

  /// Ends the submessage whose content starts at `start`: where it starts now. It is moved where its length takes
  /// other bytes than were left for it.
  @inline(__always)
  @discardableResult
  mutating func end(_ start: Int, lengthBytes: Int = 1) -> Int {
    let length = count - start
    if lengthBytes == 1, length < 0x80 {
      unsafe memory[start - 1] = UInt8(truncatingIfNeeded: length)
      return start
    }
    if lengthBytes == 2, length >= 0x80, length < 0x4000 {
      unsafe memory[start - 2] = UInt8(truncatingIfNeeded: length) | 0x80
      unsafe memory[start - 1] = UInt8(truncatingIfNeeded: length >> 7)
      return start
    }
    return move(start, length, lengthBytes)
  }

  @inline(never)
  private mutating func move(_ start: Int, _ length: Int, _ lengthBytes: Int) -> Int {
    reserve(bytes: 0, numbers: 1)
    let needed = max(1, (UInt64.bitWidth - UInt64(length).leadingZeroBitCount + 6) / 7)
    let moved = start - lengthBytes + needed
    unsafe (memory + moved).update(from: memory + start, count: length)
    count = start - lengthBytes
    // Byte by byte: a word would reach into what was moved.
    putBytes(ofVarint: UInt64(length))
    count += length
    return moved
  }

  /// Most numbers are of several bytes: these are written as one word, whatever their length, which fits
  /// into what `reserve` counts for a number.
  @inline(__always)
  private mutating func put(varint value: UInt64) {
    if value < 0x80 { return put(UInt8(truncatingIfNeeded: value)) }
    if value >> 56 != 0 { return putBytes(ofVarint: value) }
    // Seven bits to a byte: halves, quarters, eighths of the word.
    var word = value & 0x0fff_ffff | (value & 0x00ff_ffff_f000_0000) << 4
    word = word & 0x0000_3fff_0000_3fff | (word & 0x0fff_c000_0fff_c000) << 2
    word = word & 0x007f_007f_007f_007f | (word & 0x3f80_3f80_3f80_3f80) << 1
    let last = (UInt64.bitWidth - 1 - value.leadingZeroBitCount) / 7
    // All bytes but the last say that another follows.
    word |= 0x8080_8080_8080_8080 & ~(UInt64.max << UInt64(8 * last))
    unsafe UnsafeMutableRawPointer(memory + count).storeBytes(
      of: word.littleEndian, as: UInt64.self)
    count += last + 1
  }

  @inline(never)
  private mutating func putBytes(ofVarint value: UInt64) {
    var value = value
    while value > 0x7f {
      put(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    put(UInt8(truncatingIfNeeded: value))
  }

  @inline(__always)
  private mutating func put(_ byte: UInt8) {
    unsafe memory[count] = byte
    count += 1
  }
}
