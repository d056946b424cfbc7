// A growable run of bytes that keeps its memory between uses, so that a connection in its steady
// state allocates nothing.

@safe package struct ByteBuffer: ~Copyable {
  /// Owned by this value; nil until the first byte.
  private var memory: UnsafeMutablePointer<UInt8>?
  private var capacity = 0
  /// Where the bytes that were not yet dropped begin.
  private var start = 0
  private var end = 0

  package init() { unsafe memory = nil }

  deinit { unsafe memory?.deallocate() }

  package var count: Int { end - start }
  package var isEmpty: Bool { end == start }

  package mutating func removeAll() {
    start = 0
    end = 0
  }

  /// Forgets the first `count` bytes; more than there are means all.
  mutating func dropFirst(_ count: Int) {
    start = min(end, start + count)
    if start == end { removeAll() }
  }

  mutating func append(_ bytes: Span<UInt8>) {
    let count = bytes.count
    guard count > 0 else { return }
    // `extend` answers room for `count` bytes of our own; the source cannot overlap memory that
    // only this value knows.
    let room = unsafe extend(by: count)
    unsafe bytes.withUnsafeBufferPointer { source in
      unsafe room.baseAddress?.update(from: source.baseAddress!, count: count)
    }
  }

  mutating func append(_ byte: UInt8) {
    let room = unsafe extend(by: 1)
    unsafe room[0] = byte
  }

  /// Appends what `write` makes: at most `count` bytes.
  package mutating func append(atMost count: Int, _ write: (inout OutputSpan<UInt8>) -> Void) {
    guard count > 0 else { return }
    let room = unsafe extend(by: count)
    // The room is ours until the next change, and nothing else knows it.
    var output = unsafe OutputSpan(buffer: room, initializedCount: 0)
    write(&output)
    end -= count - (unsafe output.finalize(for: room))
  }

  /// Adds `count` bytes of undefined content and answers them for writing, until the next change.
  mutating func extend(by count: Int) -> UnsafeMutableBufferPointer<UInt8> {
    if count > capacity - end { makeRoom(for: count) }
    // makeRoom has set memory, and [end, end + count) lies within its capacity.
    let room = unsafe UnsafeMutableBufferPointer(
      start: memory.unsafelyUnwrapped + end, count: count)
    end += count
    return unsafe room
  }

  private mutating func makeRoom(for count: Int) {
    let held = end - start
    if held + count <= capacity, let memory = unsafe memory {
      // Room enough once the dropped bytes at the front are given up.
      unsafe memory.update(from: memory + start, count: held)
    } else {
      let grown = max(64, 2 * (held + count))
      let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: grown)
      if let memory = unsafe memory {
        unsafe larger.update(from: memory + start, count: held)
        unsafe memory.deallocate()
      }
      unsafe memory = larger
      capacity = grown
    }
    start = 0
    end = held
  }

  /// The bytes, until the next change.
  package func withSpan<R: ~Copyable, E: Error>(_ body: (Span<UInt8>) throws(E) -> R)
    throws(E) -> R
  {
    guard let memory = unsafe memory, end > start else { return try body(Span()) }
    let bytes = unsafe UnsafeBufferPointer(start: memory + start, count: end - start)
    return try body(unsafe bytes.span)
  }

  /// The bytes.
  /// - Safety: valid until the next change.
  @unsafe package var unsafeBytes: UnsafeBufferPointer<UInt8> {
    unsafe UnsafeBufferPointer(start: memory.map { unsafe $0 + start }, count: end - start)
  }

  /// `length` bytes from `offset`, cut to what is there.
  package func withSpan<R: ~Copyable>(
    from offset: Int, count length: Int, _ body: (Span<UInt8>) -> R
  ) -> R {
    withSpan { all in
      let from = min(max(0, offset), all.count)
      let to = min(all.count, from + max(0, length))
      return body(all.extracting(from..<to))
    }
  }

  mutating func appendBigEndian32(_ value: UInt32) {
    let room = unsafe extend(by: 4)
    unsafe Wire.put(value, room.baseAddress!)
  }

  mutating func appendFrameHeader(length: Int, type: UInt8, flags: UInt8, stream: UInt32) {
    let room = unsafe extend(by: FrameHeader.length)
    unsafe Wire.putHeader(
      room.baseAddress!, length: length, type: type, flags: flags,
      stream: Int32(bitPattern: stream))
  }
}
