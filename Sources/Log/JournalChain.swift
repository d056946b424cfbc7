// Walks the journal from batch to batch, and says where and why it stops.
package import Posix

/// Used by one thread.
package final class JournalChain {
  /// So much is read at a time: what is checked then is still in the processor's cache, and of a batch that
  /// does not fit the window, no more is read in vain.
  private static let pieceBytes = 128 << 10

  private let source: JournalReader
  private var position: JournalPosition
  /// Of the newest batch; 0 before the first.
  private var time: Int64 = 0
  /// The segment of `position`, once it was opened.
  private var segment: OpenSegment?

  private struct OpenSegment {
    let file: any StorageFile
    let name: String
    let byteCount: Int
  }

  package init(_ source: JournalReader) {
    self.source = source
    position = source.start
  }

  /// What the bytes at `position` are.
  private enum Found {
    case batch(BatchHeader)
    /// A batch of so many bytes, or whatever begins within so many: they were not all looked at.
    case more(Int)
    case nothing
  }

  /// Fills the window with the next batches, as many as it holds, one at least, or none where the
  /// journal ends. What is no batch is judged only when it is the first thing in the window.
  /// - Returns: nil unless the journal ends behind these batches.
  /// - Throws: `damaged` where it should go on; `failed`.
  package func fill(_ window: Window) throws(JournalError) -> JournalEnd? {
    window.batchBytes = 0
    guard let segment = try openedSegment() else {
      return JournalEnd(position: position, time: time, tornBytes: 0)
    }
    var available = try read(segment, into: window, behind: 0)
    while true {
      let rest = unsafe UnsafeRawBufferPointer(
        rebasing: window.bytes[window.batchBytes..<available])
      switch unsafe find(rest) {
      case .batch(let header):
        window.batchBytes += BatchHeader.byteCount + header.payloadLength
        position.pass(header)
        time = header.time
        if header.kind == .end {
          self.segment = nil
          return nil
        }
      case .more(let byteCount) where unsafe window.batchBytes + byteCount <= window.bytes.count:
        let before = available
        available = try read(segment, into: window, behind: available)
        if available > before { continue }
        // The file ends before.
        if window.batchBytes > 0 { return nil }
        return try endUnlessWritten(segment, window)
      case _ where window.batchBytes > 0:
        return nil
      case .more(let byteCount) where segment.byteCount - position.offset >= byteCount:
        // A long batch. The file has it all, so the window does not grow beyond the file.
        window.grow(toHold: byteCount)
        available = try read(segment, into: window, behind: 0)
      case .more, .nothing:
        return try endUnlessWritten(segment, window)
      }
    }
  }

  /// Where the next batch begins.
  package var place: JournalPosition { position }

  /// Where it stands, if that is the end that is asked for, or behind it.
  package func end(ifAt endLSN: UInt64?) -> JournalEnd? {
    guard let endLSN, position.lsn >= endLSN else { return nil }
    return JournalEnd(position: position, time: time, tornBytes: 0)
  }

  private func find(_ bytes: UnsafeRawBufferPointer) -> Found {
    let room = source.segmentBytes - position.offset
    guard room >= BatchHeader.byteCount else { return .nothing }
    guard bytes.count >= BatchHeader.byteCount, let base = bytes.baseAddress else {
      return .more(BatchHeader.byteCount)
    }
    guard
      let header = unsafe BatchHeader.read(base, sequence: position.sequence, key: source.key),
      header.lsn == position.lsn, header.run >= position.run,
      header.payloadLength <= room - BatchHeader.byteCount
    else { return .nothing }
    let byteCount = BatchHeader.byteCount + header.payloadLength
    guard bytes.count >= byteCount else { return .more(byteCount) }
    let payload = unsafe UnsafeRawBufferPointer(
      rebasing: bytes[BatchHeader.byteCount..<byteCount])
    if header.kind == .records, source.fault != .acceptBadChecksum {
      let salt = source.key.salt(sequence: position.sequence, run: header.run)
      guard unsafe header.payloadCRC == BatchHeader.checksum(payload, salt: salt) else {
        return .nothing
      }
    }
    return .batch(header)
  }

  // MARK: Segments

  /// nil where whoever owns the journal has left this reader behind.
  private func openedSegment() throws(JournalError) -> OpenSegment? {
    if let segment { return segment }
    let name = FileNames.segment(position.sequence)
    let file: any StorageFile
    do {
      file = try source.storage.open(name)
    } catch {
      if error == .noSuchFile {
        if try isLeftBehind() { return nil }
        throw damage(name, 0, "it is missing")
      }
      throw .failed(operation: "open", file: name, error)
    }
    let byteCount = try JournalError.attempt("measure", name) { () throws(Errno) in
      try file.byteCount()
    }
    guard let header = try JournalReader.header(of: file, name) else {
      throw damage(name, 0, "it has no valid segment header")
    }
    guard header == source.expectedHeader(position.sequence) else {
      throw damage(name, 0, "it is not this segment of this store")
    }
    let opened = OpenSegment(file: file, name: name, byteCount: byteCount)
    segment = opened
    return opened
  }

  /// Reads the next piece behind `available` bytes of the window, in which the batches before `position` are.
  /// How many bytes there are then.
  private func read(
    _ segment: OpenSegment, into window: Window, behind available: Int
  ) throws(JournalError) -> Int {
    let offset = position.offset - window.batchBytes + available
    let room = unsafe min(
      Self.pieceBytes, window.bytes.count - available, source.segmentBytes - offset)
    let read = try JournalError.attempt("read", segment.name) { () throws(Errno) in
      let piece = unsafe UnsafeMutableRawBufferPointer(
        rebasing: window.bytes[available..<(available + room)])
      return try unsafe segment.file.read(into: piece, at: offset)
    }
    return available + read
  }

  private func isLeftBehind() throws(JournalError) -> Bool {
    guard position.lsn >= source.mustReach else { return false }
    return try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try source.storage.hasGoneOn(past: position.sequence)
    }
  }

  /// Reads from `position` on as much as fits. How many bytes.
  private func read(
    _ segment: OpenSegment, into window: Window
  ) throws(JournalError) -> Int {
    let room = unsafe min(window.bytes.count, source.segmentBytes - position.offset)
    return try JournalError.attempt("read", segment.name) { () throws(Errno) in
      try unsafe segment.file.read(
        into: UnsafeMutableRawBufferPointer(rebasing: window.bytes[..<room]), at: position.offset)
    }
  }

  // MARK: The end

  /// The end; nil where it was only the end of what a server had written when it was read, and there is more.
  private func endUnlessWritten(
    _ segment: OpenSegment, _ window: Window
  ) throws(JournalError) -> JournalEnd? {
    do throws(JournalError) {
      return try end(segment, window)
    } catch .damaged(let damage) {
      // A batch behind this place is not written before the one that begins here is whole: if there is one
      // now, it came since.
      let available = try read(segment, into: window)
      let bytes = unsafe UnsafeRawBufferPointer(rebasing: window.bytes[..<available])
      switch unsafe find(bytes) {
      case .batch: return nil
      case .more(let byteCount) where segment.byteCount - position.offset >= byteCount:
        window.grow(toHold: byteCount)
        let available = try read(segment, into: window)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: window.bytes[..<available])
        if case .batch = unsafe find(bytes) { return nil }
      case .more, .nothing: break
      }
      throw .damaged(damage)
    } catch {
      throw error
    }
  }

  /// What follows is no batch. Either nothing was ever written there, or the newest batch was torn by a
  /// crash: then it was never acknowledged, and it is cut. Or it was harmed later.
  private func end(
    _ segment: OpenSegment, _ window: Window
  ) throws(JournalError) -> JournalEnd {
    guard position.lsn >= source.mustReach else {
      throw damage(
        segment.name, position.offset,
        "the journal ends at \(position.lsn), but the checkpoint needs it up to \(source.mustReach)"
      )
    }
    guard segment.byteCount >= source.segmentBytes else {
      throw damage(
        segment.name, position.offset,
        "the file ends after \(segment.byteCount) of \(source.segmentBytes) bytes")
    }
    let tornBytes = try tornBytes(segment, window)
    // A header is enough: it was not written before everything in front of it was synced.
    let here = BatchSearch(
      file: segment.file, sequence: position.sequence, source: source, runMin: position.run,
      lsnMin: position.lsn &+ 1)
    if let later = try here.next(from: position.offset, window) {
      throw damage(
        segment.name, position.offset, "no batch, but there is one at \(later.offset) behind it")
    }
    if let later = try findInLaterSegments(window) {
      throw damage(
        segment.name, position.offset,
        "no batch, but there is one in \(later.name) at \(later.offset)")
    }
    return JournalEnd(position: position, time: time, tornBytes: tornBytes)
  }

  /// Bytes of the batch that begins here and is not whole, as far as its header says. Where one bit of
  /// the header was harmed, that header must still be seen: else the loss of what was acknowledged would
  /// pass for the end of the journal.
  private func tornBytes(
    _ segment: OpenSegment, _ window: Window
  ) throws(JournalError) -> Int {
    let available = try read(segment, into: window)
    guard available >= BatchHeader.byteCount, let base = unsafe window.bytes.baseAddress,
      unsafe BatchHeader.differingBits(base, lsn: position.lsn) <= 1
    else { return 0 }
    // A whole header of an earlier run was left behind a cut.
    let header = unsafe BatchHeader.read(base, sequence: position.sequence, key: source.key)
    if let header, header.run < position.run { return 0 }
    let payloadLength = unsafe BatchHeader.payloadLength(of: base)
    return min(
      BatchHeader.byteCount + payloadLength, source.segmentBytes - position.offset)
  }

  /// Looks for a batch in the segments behind this one; most have never been written to.
  private func findInLaterSegments(
    _ window: Window
  ) throws(JournalError) -> (name: String, offset: Int)? {
    for sequence in try source.segments(from: position.sequence + 1) {
      let name = FileNames.segment(sequence)
      let file = try JournalError.attempt("open", name) { () throws(Errno) in
        try source.storage.open(name)
      }
      guard try JournalReader.header(of: file, name) == source.expectedHeader(sequence) else {
        continue
      }
      let search = BatchSearch(
        file: file, sequence: sequence, source: source, runMin: position.run, lsnMin: position.lsn)
      if let later = try search.next(from: SegmentHeader.blockBytes, window) {
        return (name, later.offset)
      }
    }
    return nil
  }

  /// - Returns: damage with a hint to repair, unless that would leave the checkpoint without the
  ///   journal that it needs.
  private func damage(_ name: String, _ offset: Int, _ finding: String) -> JournalError {
    let isReached = position.lsn >= source.mustReach
    return .damaged(
      Damage(file: name, offset: offset, lsn: isReached ? position.lsn : nil, finding: finding))
  }
}

extension JournalPosition {
  /// Goes on behind the batch that begins here.
  package mutating func pass(_ header: BatchHeader) {
    offset += BatchHeader.byteCount + header.payloadLength
    lsn = header.endLSN
    run = header.run
    if header.kind == .end {
      sequence += 1
      offset = SegmentHeader.blockBytes
    }
  }
}

extension BatchHeader {
  /// Of the batch that a segment begins with; nil where there is none.
  package static func first(
    ofSegment sequence: UInt64, _ file: any StorageFile, key: JournalKey
  ) throws(Errno) -> BatchHeader? {
    try unsafe withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 8) {
      (bytes) throws(Errno) -> BatchHeader? in
      let count = try unsafe file.read(into: bytes, at: SegmentHeader.blockBytes)
      guard count == byteCount, let base = bytes.baseAddress else { return nil }
      return unsafe read(base, sequence: sequence, key: key)
    }
  }
}

/// Looks through a segment for headers of batches, wherever they begin. What it does is proportional to
/// the bytes: records are left alone.
package struct BatchSearch {
  package let file: any StorageFile
  package let sequence: UInt64
  package let source: JournalReader
  /// Batches of runs below were written before a cut, and are behind it.
  package let runMin: UInt32
  /// Batches below are in the journal already.
  package let lsnMin: UInt64

  package init(
    file: any StorageFile, sequence: UInt64, source: JournalReader, runMin: UInt32, lsnMin: UInt64
  ) {
    self.file = file
    self.sequence = sequence
    self.source = source
    self.runMin = runMin
    self.lsnMin = lsnMin
  }

  /// The first that begins at `start`, a multiple of 8, or behind it.
  package func next(
    from start: Int, _ window: Window
  ) throws(JournalError) -> (offset: Int, header: BatchHeader)? {
    var offset = start
    while source.segmentBytes - offset >= BatchHeader.byteCount {
      let available = try read(offset, window)
      guard available >= BatchHeader.byteCount, let base = unsafe window.bytes.baseAddress else {
        return nil
      }
      var place = 0
      while available - place >= BatchHeader.byteCount {
        // What is read lies within the bytes that are available.
        place += unsafe BatchHeader.bytesBeforeMagic(base + place, count: available - place)
        guard available - place >= BatchHeader.byteCount else { break }
        let header = unsafe BatchHeader.read(base + place, sequence: sequence, key: source.key)
        if let header, header.run >= runMin, header.lsn >= lsnMin {
          return (offset + place, header)
        }
        place += 8
      }
      // A header may begin in the last bytes, and go on behind them.
      offset += max(8, (available - BatchHeader.byteCount) / 8 * 8)
    }
    return nil
  }

  /// Calls `body` with the records of a batch; nil where they are not those that were written.
  package func read<Result>(
    _ header: BatchHeader, at offset: Int, _ window: Window,
    _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(JournalError) -> Result? {
    let byteCount = BatchHeader.byteCount + header.payloadLength
    guard byteCount <= source.segmentBytes - offset else { return nil }
    window.grow(toHold: byteCount)
    guard try read(offset, window) >= byteCount else { return nil }
    let payload = unsafe UnsafeRawBufferPointer(
      rebasing: window.bytes[BatchHeader.byteCount..<byteCount])
    let salt = source.key.salt(sequence: sequence, run: header.run)
    guard unsafe header.payloadCRC == BatchHeader.checksum(payload, salt: salt) else { return nil }
    return unsafe body(payload)
  }

  private func read(_ offset: Int, _ window: Window) throws(JournalError) -> Int {
    let count = unsafe min(window.bytes.count, source.segmentBytes - offset)
    return try JournalError.attempt("read", FileNames.segment(sequence)) { () throws(Errno) in
      try unsafe file.read(
        into: UnsafeMutableRawBufferPointer(rebasing: window.bytes[..<count]), at: offset)
    }
  }
}
