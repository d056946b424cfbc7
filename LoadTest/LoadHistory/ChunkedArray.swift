/// An array that grows by whole chunks and never moves what it holds: appending to a ledger of a
/// gigabyte costs no more than appending to an empty one.
@safe package struct ChunkedArray<Element: BitwiseCopyable>: ~Copyable {
  private static var chunkCount: Int { 1 << 14 }
  /// Chunks of `chunkCount` elements each, owned by this value; all but the last are full.
  private var chunks: [UnsafeMutablePointer<Element>] = unsafe []
  package private(set) var count = 0

  init() {}

  deinit {
    for index in unsafe chunks.indices { unsafe chunks[index].deallocate() }
  }

  /// Answers the index of the new element.
  @discardableResult
  mutating func append(_ element: Element) -> Int {
    let index = count
    let chunk = index / ChunkedArray.chunkCount
    if unsafe chunk == chunks.count {
      unsafe chunks.append(.allocate(capacity: ChunkedArray.chunkCount))
    }
    unsafe (chunks[chunk] + index % ChunkedArray.chunkCount).initialize(to: element)
    count += 1
    return index
  }

  package subscript(index: Int) -> Element {
    _read {
      precondition(index >= 0 && index < count, "index out of range")
      yield unsafe chunks[index / ChunkedArray.chunkCount][index % ChunkedArray.chunkCount]
    }
    _modify {
      precondition(index >= 0 && index < count, "index out of range")
      yield unsafe &chunks[index / ChunkedArray.chunkCount][index % ChunkedArray.chunkCount]
    }
  }
}
