// Walks the journal from batch to batch, and says where and why it stops.
internal import Posix

/// Used by one thread.
final class JournalChain {
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

  init(_ source: JournalReader) {
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
  func fill(_ window: Window) throws(JournalError) -> JournalEnd? {
    window.batchBytes = 0
    let segment = try openedSegment()
    var available = try read(segment, into: window)
    while true {
      let rest = unsafe UnsafeRawBufferPointer(
        rebasing: window.bytes[window.batchBytes..<available])
      switch unsafe find(rest) {
      case .batch(let header):
        window.batchBytes += BatchHeader.byteCount + header.payloadLength
        try advance(behind: header)
        if header.kind == .end { return nil }
      case _ where window.batchBytes > 0:
        return nil
      case .more(let byteCount) where segment.byteCount - position.offset >= byteCount:
        // A long batch. The file has it all, so the window does not grow beyond the file.
        window.grow(toHold: byteCount)
        let before = available
        available = try read(segment, into: window)
        // The file has become shorter meanwhile.
        if available <= before { return try end(segment, window) }
      case .more, .nothing:
        return try end(segment, window)
      }
    }
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

  private func advance(behind header: BatchHeader) throws(JournalError) {
    position.offset += BatchHeader.byteCount + header.payloadLength
    position.lsn = header.endLSN
    position.run = header.run
    time = header.time
    if header.kind == .end {
      position.sequence += 1
      position.offset = SegmentHeader.blockBytes
      segment = nil
    }
  }

  // MARK: Segments

  private func openedSegment() throws(JournalError) -> OpenSegment {
    if let segment { return segment }
    try checkPlace()
    let name = FileNames.segment(position.sequence)
    let file: any StorageFile
    do {
      file = try source.storage.open(name)
    } catch {
      if error == .noSuchFile { throw damage(name, 0, "it is missing") }
      throw .failed(operation: "open", file: name, error)
    }
    let byteCount = try JournalError.attempt("measure", name) { () throws(Errno) in
      try file.byteCount()
    }
    let expected = SegmentHeader(
      sequence: position.sequence, segmentBytes: source.segmentBytes, storeID: source.storeID)
    guard let header = try Self.header(of: file, name) else {
      throw damage(name, 0, "it has no valid segment header")
    }
    guard header == expected else {
      throw damage(name, 0, "it is not this segment of this store")
    }
    let opened = OpenSegment(file: file, name: name, byteCount: byteCount)
    segment = opened
    return opened
  }

  /// Where the journal begins was read from a file too.
  private func checkPlace() throws(JournalError) {
    guard SegmentHeader.isPossible(segmentBytes: source.segmentBytes),
      position.offset >= SegmentHeader.blockBytes, position.offset <= source.segmentBytes,
      position.offset % 8 == 0, position.sequence > 0, position.sequence < .max
    else {
      throw .damaged(
        Damage(
          file: FileNames.segment(position.sequence), offset: position.offset, lsn: nil,
          finding: "no journal can begin there, though the checkpoint says so"))
    }
  }

  private static func header(
    of file: any StorageFile, _ name: String
  ) throws(JournalError) -> SegmentHeader? {
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    let count = try JournalError.attempt("read", name) { () throws(Errno) in
      var bytes = block.mutableSpan
      return try unsafe bytes.withUnsafeMutableBytes { (bytes) throws(Errno) in
        try unsafe file.read(into: bytes, at: 0)
      }
    }
    guard count == block.count else { return nil }
    return unsafe block.withUnsafeBytes { unsafe SegmentHeader($0) }
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

  /// What follows is no batch. Either nothing was ever written there, or the newest batch was torn by a
  /// crash: then nobody was told of it, and it is cut. Or it was harmed later.
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
    if let place = try findLater(in: segment.file, segment.name, window, from: position.offset) {
      throw damage(
        segment.name, position.offset, "no batch, but there is one at \(place) behind it")
    }
    if let (name, place) = try findInLaterSegments(window) {
      throw damage(
        segment.name, position.offset, "no batch, but there is one in \(name) at \(place)")
    }
    return JournalEnd(position: position, time: time, tornBytes: tornBytes)
  }

  /// Bytes of the batch that begins here and was not written whole, as far as its header says.
  private func tornBytes(
    _ segment: OpenSegment, _ window: Window
  ) throws(JournalError) -> Int {
    let available = try read(segment, into: window)
    guard available >= BatchHeader.byteCount, let base = unsafe window.bytes.baseAddress,
      let header = unsafe BatchHeader(fields: base), header.lsn == position.lsn
    else { return 0 }
    let byteCount = BatchHeader.byteCount + header.payloadLength
    return min(byteCount, source.segmentBytes - position.offset)
  }

  /// Looks for a batch in the segments behind this one; most have never been written to.
  private func findInLaterSegments(
    _ window: Window
  ) throws(JournalError) -> (name: String, place: Int)? {
    let names = try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try source.storage.names()
    }
    for sequence in names.compactMap(FileNames.segmentSequence).sorted()
    where sequence > position.sequence {
      let name = FileNames.segment(sequence)
      let file = try JournalError.attempt("open", name) { () throws(Errno) in
        try source.storage.open(name)
      }
      let expected = SegmentHeader(
        sequence: sequence, segmentBytes: source.segmentBytes, storeID: source.storeID)
      guard try Self.header(of: file, name) == expected else { continue }
      let place = try findLater(
        in: file, name, window, from: SegmentHeader.blockBytes, sequence: sequence)
      if let place { return (name, place) }
    }
    return nil
  }

  /// The offset of a batch header that was written after what should be at `position`: of this run or a
  /// later one, since earlier runs' are behind a cut. The header is enough: it was not written before
  /// everything in front of it was synced. Its records are left alone, so that headers made to overlap
  /// cost no more than others.
  private func findLater(
    in file: any StorageFile, _ name: String, _ window: Window, from start: Int,
    sequence: UInt64? = nil
  ) throws(JournalError) -> Int? {
    var offset = start
    while source.segmentBytes - offset >= BatchHeader.byteCount {
      let count = unsafe min(window.bytes.count, source.segmentBytes - offset)
      let available = try JournalError.attempt("read", name) { () throws(Errno) in
        try unsafe file.read(
          into: UnsafeMutableRawBufferPointer(rebasing: window.bytes[..<count]), at: offset)
      }
      guard available >= BatchHeader.byteCount, let base = unsafe window.bytes.baseAddress else {
        return nil
      }
      // Headers begin at multiples of 8, and this part does too.
      var place = 0
      while available - place >= BatchHeader.byteCount {
        place += unsafe BatchHeader.bytesBeforeMagic(base + place, count: available - place)
        guard available - place >= BatchHeader.byteCount else { break }
        if let header = unsafe BatchHeader.read(
          base + place, sequence: sequence ?? position.sequence, key: source.key),
          header.run >= position.run,
          sequence == nil ? header.lsn > position.lsn : header.lsn >= position.lsn
        {
          return offset + place
        }
        place += 8
      }
      // Where the part was cut off, a header may have begun.
      offset += max(8, (available - BatchHeader.byteCount) / 8 * 8)
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
