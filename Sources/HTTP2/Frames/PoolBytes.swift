/// Bytes whose memory comes from a loop's pool, and which have none until they are needed.
@safe struct PoolBytes {
  private(set) var start: UnsafeMutablePointer<UInt8>?
  private var capacity = 0
  var count = 0

  /// Where the next byte goes.
  var end: UnsafeMutablePointer<UInt8>? { unsafe start.map { unsafe $0 + count } }

  /// Makes room for `more` bytes; false where there is no memory.
  mutating func reserve(_ more: Int, _ pool: inout MemoryPool) -> Bool {
    if count + more <= capacity { return true }
    let larger = max(count + more, capacity * 2, 64)
    guard let block = unsafe pool.reallocate(start.map { UnsafeMutableRawPointer($0) }, larger)
    else { return false }
    unsafe start = block.bindMemory(to: UInt8.self, capacity: larger)
    capacity = larger
    return true
  }

  /// Appends bytes; false where there is no memory.
  mutating func append(_ bytes: UnsafePointer<UInt8>, _ length: Int, _ pool: inout MemoryPool)
    -> Bool
  {
    guard reserve(length, &pool), let end = unsafe end else { return false }
    unsafe end.update(from: bytes, count: length)
    count += length
    return true
  }

  /// Drops the first `length` bytes.
  mutating func removeFirst(_ length: Int) {
    guard let start = unsafe start else { return }
    count -= length
    if count > 0 { unsafe start.update(from: start + length, count: count) }
  }

  /// Gives the memory back.
  mutating func destroy(_ pool: inout MemoryPool) {
    if let start = unsafe start { unsafe pool.free(UnsafeMutableRawPointer(start)) }
    unsafe start = nil
    capacity = 0
    count = 0
  }
}
