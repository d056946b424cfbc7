internal import GRPC

/// The state of every open call, at the place of its stream. Chunks that never move, as the streams'.
@safe struct CallTable: ~Copyable {
  private static let chunkLength = 256
  private static let chunksMax = 4096

  private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<ServerCall>?>

  init() {
    unsafe chunks = .allocate(capacity: Self.chunksMax)
    unsafe chunks.initialize(repeating: nil, count: Self.chunksMax)
  }

  deinit {
    for chunk in 0..<Self.chunksMax { unsafe chunks[chunk]?.deallocate() }
    unsafe chunks.deallocate()
  }

  /// The call of the stream at `index`; it stays where it is.
  func call(_ index: Int) -> UnsafeMutablePointer<ServerCall> {
    let number = index / Self.chunkLength
    precondition(number < Self.chunksMax, "no such stream")
    let chunk = unsafe chunks[number] ?? makeChunk(number)
    return unsafe chunk + index % Self.chunkLength
  }

  private func makeChunk(_ number: Int) -> UnsafeMutablePointer<ServerCall> {
    let chunk = UnsafeMutablePointer<ServerCall>.allocate(capacity: Self.chunkLength)
    unsafe chunk.initialize(repeating: ServerCall(), count: Self.chunkLength)
    unsafe chunks[number] = chunk
    return unsafe chunk
  }
}
