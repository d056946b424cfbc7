// Makes a damaged journal usable again by giving up its end, when somebody has decided to.
package import Log
internal import Posix
package import StockStore
internal import Synchronization

/// What was given up.
package struct RepairReport: Equatable, Sendable {
  /// Whole batches that could still be read.
  package var batches = 0
  /// Decisions in them. What was damaged cannot be counted.
  package var decisions = 0
  /// Bytes of log from the cut to the end of the last of them.
  package var bytes: UInt64 = 0
  /// Of the state that is kept, as it was before its versions were lifted.
  package var digest: StateDigest?
  /// What was added to the version of each item, and to that which new items begin with.
  package var versionLift: UInt64 = 0
}

package enum Repair {
  /// Versions of any item that may have been given up: more than there is journal for.
  static let versionsMax: UInt64 = 1 << 32

  /// More than an item can have had in what is given up, and than another copy is lifted by.
  static func lift(_ nonce: UInt64) -> UInt64 { versionsMax + nonce % versionsMax }

  /// Makes the journal end at `lsn`: everything behind is gone for good. Somebody may know versions of
  /// items from there, and one day send them as the expected version: so that they match nothing, the
  /// versions of all items go up by more than an item can have had behind `lsn`, and by a random number
  /// besides, since another copy of the directory may be repaired as well. Where it was interrupted it
  /// can be done again, and the directory is not opened before.
  /// - Parameters:
  ///   - storage: owned.
  ///   - nonce: 64 unpredictable bits, unless a test wants the same again.
  /// - Throws: `newer` where any file is; `unsuitable` where no batch begins or ends at `lsn`, the
  ///   checkpoint needs what is behind it, or the directory is a copy of a log that is kept elsewhere; `damaged` where it is the checkpoint that is; `failed`; `tooLittleMemory`.
  package static func truncate(
    storage: any Storage, at lsn: UInt64, nonce: UInt64 = Machine.random64(),
    to line: (String) -> Void = { _ in }, whenListed: () throws(JournalError) -> Void = {}
  ) throws(JournalError) -> RepairReport {
    try CopyMark.requireNoneToCut(storage)
    let checkpoint = try StockStore.newestCheckpoint(storage)
    // While nothing is changed yet.
    let limits = try StockStore.limits(toRead: checkpoint.header)
    guard lsn >= checkpoint.end.endLSN else {
      throw .unsuitable(
        "\(checkpoint.name) needs the journal up to \(checkpoint.end.endLSN): "
          + "nothing before that can be given up")
    }
    let reader = JournalReader(
      storage: storage, identity: checkpoint.header.identity.log, start: checkpoint.header.start,
      mustReach: 0)
    try reader.checkStart()
    // Nothing is given up that this version cannot read.
    for sequence in try reader.segments(from: 1) {
      try JournalReader.requireKnownFormat(ofSegment: sequence, storage)
    }
    let cut = try findCut(reader, at: lsn)
    let text = try JournalText(checkpoint)
    defer { text.free() }
    learnNames(reader, until: lsn, text)
    var report = try listGivenUp(reader, from: cut, text, to: line)
    try whenListed()
    try JournalError.attempt("create", FileNames.unfinishedRepair) { () throws(Errno) in
      _ = try storage.create(FileNames.unfinishedRepair)
      try storage.syncDirectory()
    }
    // The versions of the others are not lifted, and those that are damaged want more journal.
    try CheckpointWriter.removeCheckpoints(except: [checkpoint.header.start.lsn], storage)
    try removeRecords(storage)
    try removeSegments(reader, after: cut.sequence)
    try clear(reader, from: cut)
    report.versionLift = lift(nonce)
    report.digest = try liftVersions(storage, by: report.versionLift, limits)
    try JournalError.attempt("remove", FileNames.unfinishedRepair) { () throws(Errno) in
      try storage.remove(FileNames.unfinishedRepair)
      try storage.syncDirectory()
    }
    return report
  }

  /// Reads the state that is left and writes it as a checkpoint with higher versions.
  /// - Returns: the digest of what was read.
  private static func liftVersions(
    _ storage: any Storage, by lift: UInt64, _ limits: StoreLimits
  ) throws(JournalError) -> StateDigest {
    let checkpoint = try StockStore.newestCheckpoint(storage)
    let header = checkpoint.header
    let recovery = try Recovery(
      storage: storage, checkpoint: checkpoint,
      segmentCount: try DirectoryListing(storage).segmentCount(from: header.start.sequence),
      limits: limits)
    var core = recovery.core
    defer { core.free() }
    core.log.resume(after: recovery.position.lsn)
    try core.liftVersions(by: lift)
    if header.version == 1 { core.firstReleaseUntil = recovery.summary.time.nanoseconds }
    let writer = try CheckpointWriter(
      core: core, storage: storage, identity: header.identity, start: recovery.position,
      time: recovery.summary.time, capsOf: header)
    while try writer.step() {}
    try writer.finish()
    return recovery.summary.digest
  }

  /// The first place at which the journal has come to `lsn`: before a batch that ends a segment, so that
  /// it does not lead to a segment that is not there any more.
  private static func findCut(
    _ reader: JournalReader, at lsn: UInt64
  ) throws(JournalError) -> JournalPosition {
    var position = reader.start
    var cut: JournalPosition? = position.lsn == lsn ? position : nil
    var nearestBelow = position.lsn
    let chain = JournalChain(reader)
    let window = Window()
    do throws(JournalError) {
      var end: JournalEnd?
      while end == nil, cut == nil {
        end = try chain.fill(window)
        try unsafe window.forEachBatch { (header, _) throws(JournalError) in
          position.pass(header)
          if cut == nil, position.lsn == lsn { cut = position }
          if position.lsn < lsn { nearestBelow = position.lsn }
        }
      }
    } catch .damaged {
      // This is why somebody repairs; up to there the journal is whole.
    } catch {
      throw error
    }
    if let cut { return cut }
    throw .unsuitable(
      position.lsn < lsn
        ? "the journal is whole up to \(position.lsn), and cannot be kept up to \(lsn)"
        : "no batch of the journal begins at \(lsn); the nearest place below is \(nearestBelow)")
  }

  /// Reads what is kept for the names of its items. What is harmed there is no reason to stop.
  private static func learnNames(_ reader: JournalReader, until lsn: UInt64, _ text: JournalText) {
    _ = unsafe try? reader.forEachBatch(readsAhead: false, until: lsn) { (batch, payload) in
      _ = unsafe text.forEachRecord(payload, lsn: batch.lsn) { _, _ in }
    }
  }

  /// Looks for what is behind the cut, also behind what is damaged.
  private static func listGivenUp(
    _ reader: JournalReader, from cut: JournalPosition, _ text: JournalText,
    to line: (String) -> Void
  ) throws(JournalError) -> RepairReport {
    var report = RepairReport()
    let window = Window()
    for sequence in try reader.segments(from: cut.sequence) {
      let name = FileNames.segment(sequence)
      let file = try JournalError.attempt("open", name) { () throws(Errno) in
        try reader.storage.open(name)
      }
      let search = BatchSearch(
        file: file, sequence: sequence, source: reader, runMin: cut.run, lsnMin: cut.lsn)
      var offset = sequence == cut.sequence ? cut.offset : SegmentHeader.blockBytes
      while let (found, header) = try search.next(from: offset, window) {
        offset = found + BatchHeader.byteCount + header.payloadLength
        guard header.kind == .records else { continue }
        report.bytes = max(report.bytes, header.endLSN - cut.lsn)
        let decisions = unsafe try search.read(header, at: found, window) { payload in
          var count = 0
          _ = unsafe text.forEachRecord(payload, lsn: header.lsn) { record, lsn in
            if record.kind != .clock { count += 1 }
            line(text.line(record, lsn: lsn))
          }
          return count
        }
        guard let decisions else {
          line(JSONObject.unreadable(header, file: name, offset: found))
          continue
        }
        report.batches += 1
        report.decisions += decisions
      }
    }
    return report
  }

  /// What says where the journal ended: that may be given up. A backup is none any more.
  private static func removeRecords(_ storage: any Storage) throws(JournalError) {
    for name in [FileNames.closing, FileNames.backup] {
      try JournalError.attempt("remove", name) { () throws(Errno) in
        guard try storage.names().contains(name) else { return }
        try storage.remove(name)
        try storage.syncDirectory()
      }
    }
  }

  private static func removeSegments(
    _ reader: JournalReader, after last: UInt64
  ) throws(JournalError) {
    for sequence in try reader.segments(from: last + 1) {
      let name = FileNames.segment(sequence)
      try JournalError.attempt("remove", name) { () throws(Errno) in
        try reader.storage.remove(name)
      }
    }
  }

  /// Writes the segment's header anew, since it may be what is damaged, and zeros from the cut on.
  private static func clear(
    _ reader: JournalReader, from cut: JournalPosition
  ) throws(JournalError) {
    let name = FileNames.segment(cut.sequence)
    let isThere = try reader.segments(from: cut.sequence).contains(cut.sequence)
    try JournalError.attempt("clear", name) { () throws(Errno) in
      let file = isThere ? try reader.storage.open(name) : try reader.storage.create(name)
      try file.fill(from: cut.offset, to: reader.segmentBytes)
      try reader.expectedHeader(cut.sequence).write(to: file)
      try file.sync()
      try reader.storage.syncDirectory()
    }
  }
}

extension StoreCore {
  /// Begins another history: no version that was told of an item before comes back.
  mutating func liftVersions(by lift: UInt64) throws(JournalError) {
    let newest = (0..<items.count).reduce(firstVersion) {
      max($0, ItemWord.version(items[$1].word.load(ordering: .relaxed)))
    }
    guard newest < UInt64.max >> 3 else {
      throw .unsuitable("its items have reached the last versions that there are")
    }
    firstVersion += lift
    for ordinal in 0..<items.count {
      let word = items[ordinal].word.load(ordering: .relaxed)
      // Only a name: whoever makes the item begins with the first version.
      if word != 0 { items[ordinal].word.store(word + lift << 1, ordering: .relaxed) }
    }
  }
}
