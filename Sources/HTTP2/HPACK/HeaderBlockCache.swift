// What header blocks meant, remembered for each connection. A client's calls mostly repeat their fields,
// and then the block has the same bytes: references to the tables, and literals that are never indexed.
// As long as the dynamic table has not changed, the same bytes are the same fields, and need be neither
// decoded nor checked again. The owner's notes (which method, who calls) come with the block.

/// What the owner made of a header block: bytes that only it understands. Shared by the cache entry and
/// the streams that came with the block; freed with the last of them.
@unsafe struct HeaderNotes {
  /// Longest notes in bytes.
  static let bytesMax = 256

  var references: Int
  /// What streams with this block do with their bodies; see `ServerContext.accept`.
  let policy: BodyPolicy
  /// The content-length field; -1 without one.
  let contentLength: Int64

  /// The notes stand behind the header, at its alignment.
  static func bytes(_ notes: UnsafeMutablePointer<HeaderNotes>) -> UnsafeMutableRawPointer {
    unsafe UnsafeMutableRawPointer(notes + 1)
  }

  static func release(
    _ notes: UnsafeMutablePointer<HeaderNotes>, _ pool: inout MemoryPool
  ) {
    unsafe notes.pointee.references -= 1
    if unsafe notes.pointee.references == 0 { unsafe pool.free(UnsafeMutableRawPointer(notes)) }
  }
}

/// How much of a request's body is kept, and when its owner hears of it.
package struct BodyPolicy: BitwiseCopyable, Sendable {
  /// Most bytes that may wait to be consumed.
  package var bytesMax: Int
  /// A `data` event comes once so many bytes are there. 0: never, only the end is told.
  package var tellsAt: Int
  /// A `data` event comes with every frame from then on, and consumed bytes open the stream's window.
  package var isStreaming: Bool

  package init(bytesMax: Int, tellsAt: Int, isStreaming: Bool) {
    self.bytesMax = bytesMax
    self.tellsAt = tellsAt
    self.isStreaming = isStreaming
  }
}

/// One remembered block.
@safe struct HeaderBlockEntry {
  /// Longest block that is remembered: a token of 8 KiB without indexing, in Huffman code or not, and
  /// the other fields.
  static let blockBytesMax = 12 * 1024

  private var block = PoolBytes()
  /// nil until the owner has said what the block means.
  private(set) var notes: UnsafeMutablePointer<HeaderNotes>?
  /// The stream whose owner decides for this entry.
  private var stream: Int32 = 0

  func matches(_ other: UnsafeBufferPointer<UInt8>) -> UnsafeMutablePointer<HeaderNotes>? {
    guard block.count == other.count, let start = unsafe block.start,
      let base = other.baseAddress, let notes = unsafe notes
    else { return nil }
    return unsafe Bytes.equal(start, base, other.count) ? notes : nil
  }

  /// Begins an entry; it holds once the owner has said what the block means.
  mutating func begin(
    _ other: UnsafeBufferPointer<UInt8>, stream: Int32, _ pool: inout MemoryPool
  ) {
    forget(&pool)
    guard let base = other.baseAddress, unsafe block.append(base, other.count, &pool) else {
      return
    }
    self.stream = stream
  }

  /// The owner said what the block of `stream` means.
  mutating func decide(_ fresh: UnsafeMutablePointer<HeaderNotes>, stream: Int32) {
    guard block.count > 0, self.stream == stream, unsafe notes == nil else { return }
    unsafe fresh.pointee.references += 1
    unsafe notes = fresh
  }

  mutating func forget(_ pool: inout MemoryPool) {
    if block.count > 0 { block.destroy(&pool) }
    if let notes = unsafe notes { unsafe HeaderNotes.release(notes, &pool) }
    unsafe notes = nil
    stream = 0
  }
}

/// A connection's entries.
@safe struct HeaderBlockCache {
  /// Clients switch between a few methods.
  private static let entryCount = 4

  private var entries = InlineArray<4, HeaderBlockEntry>(repeating: HeaderBlockEntry())
  private var isEmpty = true
  /// The entry that the next new block takes: they take turns.
  private var next = 0

  /// The notes of a block that came before; nil where it must be read.
  func find(_ block: UnsafeBufferPointer<UInt8>) -> UnsafeMutablePointer<HeaderNotes>? {
    if isEmpty || block.isEmpty { return nil }
    for index in 0..<Self.entryCount {
      if let notes = unsafe entries[index].matches(block) { return unsafe notes }
    }
    return nil
  }

  /// Remembers a block that changes no table, for the stream whose owner will say what it means.
  mutating func begin(
    _ block: UnsafeBufferPointer<UInt8>, stream: Int32, _ pool: inout MemoryPool
  ) {
    guard block.count > 0, block.count <= HeaderBlockEntry.blockBytesMax else { return }
    isEmpty = false
    unsafe entries[next].begin(block, stream: stream, &pool)
    next = (next + 1) % Self.entryCount
  }

  mutating func decide(_ notes: UnsafeMutablePointer<HeaderNotes>, stream: Int32) {
    if isEmpty { return }
    for index in 0..<Self.entryCount { unsafe entries[index].decide(notes, stream: stream) }
  }

  /// The dynamic table may have changed, or what the owner decided holds no longer.
  mutating func forget(_ pool: inout MemoryPool) {
    if isEmpty { return }
    isEmpty = true
    for index in 0..<Self.entryCount { entries[index].forget(&pool) }
  }
}

/// Comparing bytes.
enum Bytes {
  /// Whether `count` bytes at both places are the same.
  static func equal(
    _ one: UnsafePointer<UInt8>, _ other: UnsafePointer<UInt8>, _ count: Int
  ) -> Bool {
    let (one, other) = unsafe (UnsafeRawPointer(one), UnsafeRawPointer(other))
    var at = 0
    while at + 8 <= count {
      if unsafe one.loadUnaligned(fromByteOffset: at, as: UInt64.self)
        != other.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      {
        return false
      }
      at += 8
    }
    while at < count {
      if unsafe one.load(fromByteOffset: at, as: UInt8.self)
        != other.load(fromByteOffset: at, as: UInt8.self)
      {
        return false
      }
      at += 1
    }
    return true
  }
}
