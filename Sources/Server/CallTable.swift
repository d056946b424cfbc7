/// What is kept of every open call, at the place of its stream. Chunks that never move, as the streams'.
@safe struct CallTable<Entry: BitwiseCopyable>: ~Copyable {
  private static var chunkLength: Int { 256 }
  private static var chunksMax: Int { 4096 }

  private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<Entry>?>
  private let empty: Entry

  /// - Parameter empty: what stands where there is no call yet.
  init(empty: Entry) {
    self.empty = empty
    unsafe chunks = .allocate(capacity: Self.chunksMax)
    unsafe chunks.initialize(repeating: nil, count: Self.chunksMax)
  }

  deinit {
    for chunk in 0..<Self.chunksMax { unsafe chunks[chunk]?.deallocate() }
    unsafe chunks.deallocate()
  }

  /// The call of the stream at `index`; it stays where it is.
  func call(_ index: Int) -> UnsafeMutablePointer<Entry> {
    let number = index / Self.chunkLength
    precondition(number < Self.chunksMax, "no such stream")
    let chunk = unsafe chunks[number] ?? makeChunk(number)
    return unsafe chunk + index % Self.chunkLength
  }

  private func makeChunk(_ number: Int) -> UnsafeMutablePointer<Entry> {
    let chunk = UnsafeMutablePointer<Entry>.allocate(capacity: Self.chunkLength)
    unsafe chunk.initialize(repeating: empty, count: Self.chunkLength)
    unsafe chunks[number] = chunk
    return unsafe chunk
  }
}
