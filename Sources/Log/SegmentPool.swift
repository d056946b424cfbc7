// The segments that are not written to now: those that hold the journal back to the newest checkpoint,
// those that are ready to go on with, and those that nobody needs any more, of which new ones are made.
package import Posix
internal import Synchronization

/// `takeNext`, `readyCount`, `bytesOnDisk` and what the archive asks are for any thread; the rest is for one at
/// a time, and touches the disk.
package final class SegmentPool: Sendable {
  /// A file with a synced header under a synced name.
  package struct Segment {
    package let sequence: UInt64
    package let file: any StorageFile
  }

  private struct State {
    /// Sequences, ascending: the journal is in them.
    var used: [UInt64] = []
    /// In order, and they continue `used`.
    var ready: [Segment] = []
    /// Sequences that the unneeded files have in their names. Below `used`, or, if they were ready when
    /// the process before ended, above.
    var unneeded: [UInt64] = []
    var nextSequence: UInt64
    /// Segments before are history.
    var neededFrom: UInt64 = 0
    /// Segments from here on are kept until the archive has them; UInt64.max: there is no archive.
    var keptFrom = UInt64.max
    /// Segments that were given up before the archive had them.
    var lost = 0

    mutating func retire(before sequence: UInt64) {
      unneeded += used.filter { $0 < sequence }
      used.removeAll { $0 < sequence }
    }

    /// The archive goes without the segments before `sequence`.
    mutating func giveUp(before sequence: UInt64) {
      guard keptFrom < sequence else { return }
      lost += used.count { $0 >= keptFrom && $0 < sequence }
      keptFrom = sequence
    }
  }

  private let storage: any Storage
  private let storeID: StoreID
  private let segmentBytes: Int
  private let options: JournalOptions
  private let state: Mutex<State>

  /// Takes stock of the directory and removes a segment that was left half made.
  /// - Parameters:
  ///   - segmentBytes: what the directory was made with; the one in `options` is for new directories.
  ///   - lastSequence: the segment that the journal ends in; 0 where there is none yet. Until `retire`
  ///     is told otherwise, all up to there are in use.
  package init(
    storage: any Storage, storeID: StoreID, segmentBytes: Int, lastSequence: UInt64,
    options: JournalOptions
  ) throws(JournalError) {
    self.storage = storage
    self.storeID = storeID
    self.segmentBytes = segmentBytes
    self.options = options
    let names = try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try storage.names()
    }
    if names.contains(FileNames.newSegment) {
      try JournalError.attempt("remove", FileNames.newSegment) { () throws(Errno) in
        try storage.remove(FileNames.newSegment)
      }
    }
    let sequences = names.compactMap(FileNames.segmentSequence).sorted()
    var state = State(nextSequence: lastSequence + 1)
    state.used = sequences.filter { $0 <= lastSequence }
    state.unneeded = sequences.filter { $0 > lastSequence }
    self.state = Mutex(state)
    try retireBeforeGap()
  }

  /// Segments that are used are without a gap: whoever reads them, a watch or the archive, comes to each. A process
  /// that ended as it made another segment of an unneeded file leaves one with a header that is not its name's.
  private func retireBeforeGap() throws(JournalError) {
    let used = state.withLock { $0.used }
    guard var first = used.last else { return }
    for sequence in used.dropLast().reversed() {
      let name = FileNames.segment(sequence)
      let file = try JournalError.attempt("open", name) { () throws(Errno) in
        try storage.open(name)
      }
      let header = try JournalReader.header(of: file, name)
      let isWhole = header.map { $0.sequence == sequence && $0.storeID == storeID } ?? false
      guard isWhole, sequence + 1 == first else { break }
      first = sequence
    }
    state.withLock { $0.retire(before: first) }
  }

  /// Segments that `takeNext` would give.
  package var readyCount: Int { state.withLock { $0.ready.count } }

  /// The segments that the journal is in, and those that it goes on with.
  package var needed: [UInt64: (any StorageFile)?] {
    state.withLock { state in
      var needed = [UInt64: (any StorageFile)?](
        uniqueKeysWithValues: state.ready.map { ($0.sequence, $0.file) })
      for sequence in state.used { needed.updateValue(nil, forKey: sequence) }
      return needed
    }
  }

  /// Bytes of all segment files.
  package var bytesOnDisk: Int {
    state.withLock { ($0.used.count + $0.ready.count + $0.unneeded.count) * segmentBytes }
  }

  /// The segment that the journal goes on with; nil where it is not ready.
  package func takeNext() -> Segment? {
    state.withLock { state in
      if state.ready.isEmpty { return nil }
      let segment = state.ready.removeFirst()
      precondition(segment.sequence > state.used.last ?? 0, "a segment before those in use")
      state.used.append(segment.sequence)
      return segment
    }
  }

  /// Makes one segment ready: of an unneeded file, or of a new one, filled with zeros so that its room
  /// is certain and writing to it changes nothing but its bytes. After a failure, a full disk for
  /// instance, nothing is left of it and the next call tries again.
  /// - Returns: false where enough are ready.
  package func prepareNext() throws(JournalError) -> Bool {
    let (readyCount, sequence, unneeded) = state.withLock {
      ($0.ready.count, $0.nextSequence, $0.unneeded)
    }
    if readyCount >= options.spareSegments { return false }
    precondition(sequence <= JournalPosition.countMax, "more segments than any log comes to")
    // A file that has the name already must be the one, since another would replace it.
    let source = unneeded.contains(sequence) ? sequence : unneeded.last
    let segment = Segment(sequence: sequence, file: try obtain(sequence, from: source))
    state.withLock { state in
      state.ready.append(segment)
      state.nextSequence += 1
    }
    return true
  }

  /// The segments before `sequence` are needed no more: a checkpoint has taken their place, for certain.
  /// The newest of them are kept as history (JournalOptions.historyBytes), and those that the archive does not
  /// have yet, up to a limit. Of the others as many files as the next checkpoint will retire are kept to be used
  /// again, the rest is removed.
  package func retire(before sequence: UInt64) throws(JournalError) {
    let history = UInt64((options.historyBytes + segmentBytes - 1) / segmentBytes)
    let unarchived = UInt64(options.unarchivedBytesMax / segmentBytes)
    state.withLock { state in
      state.neededFrom = sequence
      state.giveUp(before: sequence > unarchived ? sequence - unarchived : 0)
      state.retire(before: min(sequence > history ? sequence - history : 0, state.keptFrom))
    }
    try removeExcess()
  }

  /// Gives up the history, where the disk has no room for what is needed: its files are used again. Where that
  /// makes no room either, what the archive does not have yet.
  package func retireHistory() throws(JournalError) {
    state.withLock { state in
      state.retire(before: min(state.neededFrom, state.keptFrom))
      guard state.unneeded.isEmpty else { return }
      state.giveUp(before: state.neededFrom)
      state.retire(before: state.neededFrom)
    }
    try removeExcess()
  }

  private func removeExcess() throws(JournalError) {
    let keep = options.checkpointSegments + options.spareSegments
    while let excess = state.withLock({ $0.unneeded.count > keep ? $0.unneeded.last : nil }) {
      try remove(excess)
    }
  }

  // MARK: The archive

  /// From now on segments from `sequence` on are kept until the archive has them. Before the first `retire`.
  package func keepForArchive(from sequence: UInt64) {
    if options.fault == .archiveKeepsNone { return }
    state.withLock { $0.keptFrom = sequence }
  }

  /// The oldest segment that is kept for the archive, and how many there are; nil where none is.
  package func unarchived(before sequence: UInt64) -> (next: UInt64, count: Int)? {
    state.withLock { state in
      let waiting = state.used.filter { $0 >= state.keptFrom && $0 < sequence }
      return waiting.first.map { ($0, waiting.count) }
    }
  }

  /// The archive has the segments up to `sequence`.
  package func archived(through sequence: UInt64) {
    state.withLock { $0.keptFrom = max($0.keptFrom, sequence + 1) }
  }

  /// Segments that were given up before the archive had them.
  package var lostToArchive: Int { state.withLock { $0.lost } }

  // MARK: Files

  private func obtain(
    _ sequence: UInt64, from source: UInt64?
  ) throws(JournalError) -> any StorageFile {
    if let source, let file = try recycle(source, as: sequence) { return file }
    return try make(sequence)
  }

  /// Gives an unneeded file a new header, then the new name. Its old bytes stay behind the header: their
  /// checksums do not hold under another sequence. nil where the file is of no use, or is being read; it is
  /// removed then.
  private func recycle(
    _ source: UInt64, as sequence: UInt64
  ) throws(JournalError) -> (any StorageFile)? {
    let name = FileNames.segment(source)
    let file = try JournalError.attempt("recycle", name) {
      () throws(Errno) -> (any StorageFile)? in
      let file = try storage.open(name)
      // Readers of the directory have what they began with.
      guard try file.byteCount() == segmentBytes,
        file.takeForReuse() || options.fault == .backupUndercut
      else { return nil }
      try writeHeader(sequence, to: file)
      try file.sync()
      return file
    }
    guard let file else {
      try remove(source)
      return nil
    }
    defer { file.release() }
    if source != sequence { try rename(name, to: sequence) }
    state.withLock { state in
      state.unneeded.removeAll { $0 == source }
      state.unneeded.append(sequence)
    }
    try syncDirectory()
    state.withLock { state in state.unneeded.removeAll { $0 == sequence } }
    return file
  }

  /// Makes a file of zeros with a header.
  private func make(_ sequence: UInt64) throws(JournalError) -> any StorageFile {
    let file: any StorageFile
    do throws(JournalError) {
      file = try JournalError.attempt("make", FileNames.newSegment) { () throws(Errno) in
        let file = try storage.create(FileNames.newSegment)
        try file.fill(from: 0, to: segmentBytes)
        try writeHeader(sequence, to: file)
        try file.sync()
        return file
      }
      try rename(FileNames.newSegment, to: sequence)
    } catch {
      // What was written of it takes room from others. If it cannot be removed, the next start does.
      try? storage.remove(FileNames.newSegment)
      throw error
    }
    state.withLock { $0.unneeded.append(sequence) }
    try syncDirectory()
    state.withLock { state in state.unneeded.removeAll { $0 == sequence } }
    return file
  }

  private func writeHeader(_ sequence: UInt64, to file: any StorageFile) throws(Errno) {
    try SegmentHeader(sequence: sequence, segmentBytes: segmentBytes, storeID: storeID)
      .write(to: file)
  }

  private func rename(_ name: String, to sequence: UInt64) throws(JournalError) {
    try JournalError.attempt("rename", name) { () throws(Errno) in
      try storage.rename(name, to: FileNames.segment(sequence))
    }
  }

  private func syncDirectory() throws(JournalError) {
    if options.fault == .skipDirectorySync { return }
    try JournalError.attempt("sync", "the directory") { () throws(Errno) in
      try storage.syncDirectory()
    }
  }

  private func remove(_ sequence: UInt64) throws(JournalError) {
    let name = FileNames.segment(sequence)
    try JournalError.attempt("remove", name) { () throws(Errno) in try storage.remove(name) }
    state.withLock { state in state.unneeded.removeAll { $0 == sequence } }
  }
}

extension SegmentHeader {
  /// Writes the block at the beginning of a file.
  package func write(to file: any StorageFile) throws(Errno) {
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    // The array stays for the length of the calls.
    unsafe block.withUnsafeMutableBytes { unsafe write(to: $0) }
    unsafe try block.span.withUnsafeBytes { (bytes) throws(Errno) in
      try unsafe file.write(bytes, at: 0)
    }
  }
}
