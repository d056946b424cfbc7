// What a backup consists of, read piece by piece from a data directory, also beside the server that goes on
// with it: its newest checkpoint that is whole, and the journal from the beginning of the segment in which that
// starts, batch by batch, each checked.
package import Log
internal import Posix
internal import StockStore

/// A part of a file of a backup. They are written in the order in which they come; what none of them covers is
/// zeros.
@safe package struct BackupPiece {
  package let file: String
  package let offset: Int
  /// Good for the length of the call.
  package let bytes: UnsafeRawBufferPointer

  @unsafe package init(file: String, offset: Int, bytes: UnsafeRawBufferPointer) {
    self.file = file
    self.offset = offset
    unsafe self.bytes = bytes
  }
}

/// Used by one thread at a time.
package final class BackupReader: @unchecked Sendable {
  private enum Stage {
    case checkpoint(Int)
    /// The header of a segment, its last bytes, then its batches.
    case segment
    case length
    case batches
    case closing
    case done
  }

  /// Bytes of the longest piece: a message of a stream holds one.
  private static let pieceBytesMax = 64 << 10

  private let checkpoint: CheckpointReader
  private let storage: ReaderSnapshot
  private let source: JournalReader
  private let closing: ClosingRecord.Found
  private let durableLSN: UInt64?
  private let fault: LogFault?
  private let chain: JournalChain
  private let window = Window()
  /// Of what is in the window: where it lies, and how much of it was given.
  private var windowPlace: JournalPosition
  private var windowBytes = 0
  private var given = 0
  private var stage = Stage.checkpoint(0)
  private var counted: UInt64
  private var time: Int64
  /// What is in the window is the last of the journal.
  private var isAtEnd = false
  /// Behind the last batch that is in the backup.
  private var end: JournalPosition

  /// - Parameter durableLSN: nothing behind is read; nil: as far as it was written.
  /// - Throws: `damaged`, `unsuitable`, `failed`, `newer`.
  package init(
    of storage: any Storage, until durableLSN: UInt64? = nil, fault: LogFault? = nil
  ) throws(JournalError) {
    self.fault = fault
    let snapshot = try StockStore.snapshot(of: storage, fault: fault)
    let listing = try DirectoryListing(snapshot)
    try listing.requireRepaired()
    checkpoint = try StockStore.newestCheckpoint(snapshot)
    let header = checkpoint.header
    closing = try ClosingRecord.read(snapshot, storeID: header.identity.storeID)
    self.storage = snapshot
    self.durableLSN = fault == .backupPastDurable ? nil : durableLSN
    source = JournalReader(
      storage: snapshot, identity: header.identity.log,
      start: try Self.beginning(of: header, snapshot), mustReach: checkpoint.mustReach)
    try source.checkStart()
    chain = JournalChain(source)
    windowPlace = source.start
    end = source.start
    counted = header.start.counted
    time = max(header.time, checkpoint.end.time)
  }

  /// Of the segment in which the checkpoint starts: who reads the log looks for its first batch there.
  private static func beginning(
    of header: CheckpointHeader, _ storage: any Storage
  ) throws(JournalError) -> JournalPosition {
    let start = header.start
    let name = FileNames.segment(start.sequence)
    let first = try JournalError.attempt("read", name) { () throws(Errno) in
      try BatchHeader.first(
        ofSegment: start.sequence, try storage.open(name), key: header.identity.log.key)
    }
    guard let first, first.lsn <= start.lsn else { return start }
    return JournalPosition(
      sequence: start.sequence, offset: SegmentHeader.blockBytes, lsn: first.lsn, run: first.run,
      counted: 0)
  }

  /// Calls `body` with the next piece, or not at all where it goes on to another file; false where there are no
  /// more.
  package func next(
    _ body: (BackupPiece) throws(JournalError) -> Void
  ) throws(JournalError) -> Bool {
    switch stage {
    case .checkpoint(let offset): try copyCheckpoint(from: offset, body)
    case .segment: try beginSegment(body)
    case .length: try lengthen(body)
    case .batches: try copyBatches(body)
    case .closing: try close(body)
    case .done: return false
    }
    return true
  }

  private func copyCheckpoint(
    from offset: Int, _ body: (BackupPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    let count = min(Self.pieceBytesMax, checkpoint.byteCount - offset)
    let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: window.bytes[..<count])
    let read = try JournalError.attempt("read", checkpoint.name) { () throws(Errno) in
      try unsafe storage.open(checkpoint.name).read(into: bytes, at: offset)
    }
    if read < count {
      throw .damaged(
        Damage(file: checkpoint.name, offset: offset + read, lsn: nil, finding: "the file ends"))
    }
    try unsafe body(
      BackupPiece(file: checkpoint.name, offset: offset, bytes: UnsafeRawBufferPointer(bytes)))
    stage = offset + count < checkpoint.byteCount ? .checkpoint(offset + count) : .segment
  }

  private func beginSegment(
    _ body: (BackupPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    let name = FileNames.segment(windowPlace.sequence)
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    let header = source.expectedHeader(windowPlace.sequence)
    // The array stays for the length of the calls.
    unsafe block.withUnsafeMutableBytes { unsafe header.write(to: $0) }
    unsafe try block.span.withUnsafeBytes { (bytes) throws(JournalError) in
      try unsafe body(BackupPiece(file: name, offset: 0, bytes: bytes))
    }
    stage = .length
  }

  /// A segment is as long as any, and here mostly a hole.
  private func lengthen(
    _ body: (BackupPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    let zeros = [UInt8](repeating: 0, count: 8)
    unsafe try zeros.span.withUnsafeBytes { (bytes) throws(JournalError) in
      try unsafe body(
        BackupPiece(
          file: FileNames.segment(windowPlace.sequence), offset: source.segmentBytes - bytes.count,
          bytes: bytes))
    }
    stage = .batches
  }

  private func copyBatches(
    _ body: (BackupPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    if given == windowBytes, try !fillWindow() { return }
    let count = min(Self.pieceBytesMax, windowBytes - given)
    let bytes = unsafe UnsafeRawBufferPointer(
      rebasing: window.bytes[given..<(given + count)])
    try unsafe body(
      BackupPiece(
        file: FileNames.segment(windowPlace.sequence), offset: windowPlace.offset + given,
        bytes: bytes))
    given += count
  }

  /// False where the segment, or the journal, has come to its end.
  private func fillWindow() throws(JournalError) -> Bool {
    if isAtEnd || fault == .backupWithoutLog && end.lsn >= checkpoint.mustReach { return finish() }
    let place = chain.place
    if place.sequence != windowPlace.sequence {
      (windowPlace, windowBytes, given) = (place, 0, 0)
      stage = .segment
      return false
    }
    if chain.end(ifAt: durableLSN) != nil { return finish() }
    isAtEnd = try chain.fill(window) != nil
    (windowPlace, windowBytes, given) = (place, 0, 0)
    try unsafe window.forEachBatch { (header, records) throws(JournalError) in
      isAtEnd = isAtEnd || header.endLSN > durableLSN ?? .max
      if header.endLSN > durableLSN ?? .max { return }
      end.pass(header)
      windowBytes += BatchHeader.byteCount + records.count
      time = max(time, header.time)
      if header.kind == .records, header.lsn >= checkpoint.header.start.lsn {
        counted += unsafe Self.decisions(in: records)
      }
    }
    return windowBytes > 0 ? true : try fillWindow()
  }

  private func finish() -> Bool {
    stage = .closing
    return false
  }

  /// Of checked records.
  private static func decisions(in records: UnsafeRawBufferPointer) -> UInt64 {
    var count: UInt64 = 0
    var offset = 0
    while offset < records.count,
      let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: records[offset...]))
    {
      if record.kind != .clock { count += 1 }
      offset += record.byteCount
    }
    return count
  }

  /// Where the journal ends: a backup that loses its end is damaged.
  private func close(
    _ body: (BackupPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    // Of the source: beside a server that runs it says where the one before has stopped.
    if let damage = ClosingRecord.damage(closing, of: end, counted: counted) {
      throw .damaged(damage)
    }
    let record = ClosingRecord(
      lsn: end.lsn, counted: counted, storeID: checkpoint.header.identity.storeID, time: time)
    unsafe try record.bytes.span.withUnsafeBytes { (bytes) throws(JournalError) in
      try unsafe body(BackupPiece(file: FileNames.closing, offset: 0, bytes: bytes))
    }
    stage = .done
  }
}
