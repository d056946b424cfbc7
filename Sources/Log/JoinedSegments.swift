// Segments from several places as one journal, for reading: of a backup and of an archive.
package import Posix

/// Files in an archive end behind their last batch; here they have zeros from there on, and behind the last
/// segment comes an empty one, so that the journal ends as one that a server has left.
package final class JoinedSegments: Storage {
  private let segments: [UInt64: PaddedSegment]
  private let other: (any Storage)?

  /// - Parameters:
  ///   - segments: by their numbers, without a gap.
  ///   - other: where all other files are.
  package init(
    _ segments: [UInt64: any StorageFile], identity: LogIdentity, other: (any Storage)? = nil
  ) {
    var padded = segments.mapValues { PaddedSegment($0, byteCount: identity.segmentBytes) }
    if let last = segments.keys.max() {
      let header = SegmentHeader(
        sequence: last + 1, segmentBytes: identity.segmentBytes, storeID: identity.storeID)
      padded[last + 1] = PaddedSegment(empty: header)
    }
    self.segments = padded
    self.other = other
  }

  package func names() throws(Errno) -> [String] {
    let others = try other?.names() ?? []
    return others.filter { FileNames.segmentSequence($0) == nil }
      + segments.keys.map(FileNames.segment)
  }

  package func open(_ name: String) throws(Errno) -> any StorageFile {
    if let sequence = FileNames.segmentSequence(name) {
      guard let segment = segments[sequence] else { throw .noSuchFile }
      return segment
    }
    guard let other else { throw .noSuchFile }
    return try other.open(name)
  }

  package func create(_ name: String) throws(Errno) -> any StorageFile { throw .readOnly }
  package func rename(_ name: String, to newName: String) throws(Errno) { throw .readOnly }
  package func remove(_ name: String) throws(Errno) { throw .readOnly }
  package func syncDirectory() throws(Errno) { throw .readOnly }
}

private final class PaddedSegment: StorageFile {
  /// nil: there is but the header.
  private let file: (any StorageFile)?
  private let header: [UInt8]
  private let segmentBytes: Int

  init(_ file: any StorageFile, byteCount: Int) {
    self.file = file
    header = []
    segmentBytes = byteCount
  }

  init(empty header: SegmentHeader) {
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    // The array stays for the length of the call.
    unsafe block.withUnsafeMutableBytes { unsafe header.write(to: $0) }
    file = nil
    self.header = block
    segmentBytes = header.segmentBytes
  }

  func byteCount() throws(Errno) -> Int { segmentBytes }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
    let count = max(0, min(buffer.count, segmentBytes - offset))
    let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
    var done = 0
    if let file {
      done = try unsafe file.read(into: part, at: offset)
    } else if offset < header.count {
      done = min(count, header.count - offset)
      unsafe part.copyBytes(from: header[offset..<(offset + done)])
    }
    unsafe UnsafeMutableRawBufferPointer(rebasing: part[done...])
      .initializeMemory(as: UInt8.self, repeating: 0)
    return count
  }

  func write(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, at offset: Int
  ) throws(Errno) { throw .readOnly }

  func sync() throws(Errno) { throw .readOnly }
}
