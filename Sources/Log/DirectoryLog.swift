// The log in a directory: batches in segment files (JournalFormat.swift), each one write and one sync.
//
// Whole blocks of 4096 bytes are written, from staging memory that begins with what the first of them holds
// already and ends with zeros: so the write can go past the system's cache where everything is synced
// anyway (O_DIRECT), and where it cannot, the system need not read a page before it changes a part of it.
// Bytes that were synced before are written again as they are.
//
// With a replicated log behind it, the directory is a copy of that log, the same to the byte: each batch goes there
// first, and is written here when it is acknowledged.
internal import CPlatform
package import Posix
internal import Synchronization

/// `append` and `makeRoom` are for one thread at a time, the journal's; the rest for any.
@safe package final class DirectoryLog: BatchLog, @unchecked Sendable {
  private struct State {
    var position: JournalPosition
    var file: any StorageFile
    /// Of the newest batch of records (LogPoint); 0 before this process has written one.
    var mark: UInt64 = 0
  }

  private static let blockBytes = 4096

  let storage: any Storage
  let identity: LogIdentity
  let options: JournalOptions
  private let shape: RecordShape
  private let clock: any Clock
  private let pool: SegmentPool
  private let state: Mutex<State>
  private let statistics: JournalCounters
  /// Who must have each batch of records first; nil: nobody.
  private let replica: (any ReplicatedLog)?
  /// When the newest batch was made, in nanoseconds since the Unix epoch.
  private let newestTime: Atomic<Int64>
  private let staging: UnsafeMutableRawBufferPointer

  package let epoch: UInt32

  /// - Parameters:
  ///   - position: where the journal ends and goes on, with the run that begins now.
  ///   - file: the segment that `position` names.
  ///   - replica: the log that this is the owner's copy of; nil: it is one of its own, or somebody else's.
  package init(
    storage: any Storage, identity: LogIdentity, shape: RecordShape, options: JournalOptions,
    clock: any Clock, pool: SegmentPool, position: JournalPosition, file: any StorageFile,
    statistics: JournalCounters, replica: (any ReplicatedLog)? = nil
  ) throws(JournalError) {
    self.storage = storage
    self.identity = identity
    self.shape = shape
    self.options = options
    self.clock = clock
    self.pool = pool
    self.statistics = statistics
    self.replica = replica
    epoch = position.run
    newestTime = Atomic(clock.now().nanoseconds)
    state = Mutex(State(position: position, file: file))
    unsafe staging = .allocate(
      byteCount: options.groupBytesMax + 3 * Self.blockBytes, alignment: Self.blockBytes)
    // A buffer must be initialised before a part of it is read.
    unsafe staging.initializeMemory(as: UInt8.self, repeating: 0)
    let staged = stagedBytes(position)
    do {
      let block = unsafe UnsafeMutableRawBufferPointer(rebasing: staging[..<staged])
      _ = try unsafe file.read(into: block, at: position.offset - staged)
    } catch {
      throw .failed(operation: "read", file: FileNames.segment(position.sequence), error)
    }
    if options.durability == .fsync { file.writeDirectly() }
  }

  deinit { unsafe staging.deallocate() }

  /// The end of what is durable.
  package var position: JournalPosition { state.withLock { $0.position } }

  /// What is written to now.
  var segment: (sequence: UInt64, file: any StorageFile) {
    state.withLock { ($0.position.sequence, $0.file) }
  }

  /// And the newest batch's mark.
  var positionAndMark: (JournalPosition, UInt64) { state.withLock { ($0.position, $0.mark) } }

  package var end: LogEnd {
    let position = position
    return LogEnd(lsn: position.lsn, counted: position.counted)
  }

  package var checkpoints: any Storage { storage }

  /// Writes down that the journal ends here, for good, or goes on.
  func writeClosing() throws(JournalError) {
    let position = position
    try ClosingRecord(
      lsn: position.lsn, counted: position.counted, storeID: identity.storeID,
      time: clock.now().nanoseconds
    ).write(to: storage)
  }

  /// Whether the newest batch is as old as that.
  package func isQuiet(forNanoseconds duration: Int64) -> Bool {
    clock.now().nanoseconds - newestTime.load(ordering: .relaxed) >= duration
  }

  // MARK: Room

  package var batchBytesMax: Int {
    // Besides its own header, the batch that ends the segment must fit.
    options.writableBytes - position.offset - 2 * BatchHeader.byteCount
  }

  package func makeRoom() throws(JournalError) -> Bool {
    var (position, file) = state.withLock { ($0.position, $0.file) }
    guard canEnd(position), pool.readyCount > 0 else { return false }
    try writeEnd(file, &position)
    guard let next = pool.takeNext() else { preconditionFailure("nobody else takes segments") }
    precondition(next.sequence == position.sequence + 1, "a segment that is not the next one")
    position.sequence = next.sequence
    position.offset = SegmentHeader.blockBytes
    if options.durability == .fsync { next.file.writeDirectly() }
    let newPosition = position
    state.withLock { ($0.position, $0.file) = (newPosition, next.file) }
    return true
  }

  package func admissibleBytes(batchCount: Int) -> Int? {
    let position = position
    guard canEnd(position) else { return nil }
    // Of each segment, the last record may not fit; and each group costs a header.
    let reserve = 2 * shape.bytesMax
    let current = max(0, options.writableBytes - position.offset - reserve)
    let spare = max(0, options.writableBytes - SegmentHeader.blockBytes - reserve)
    return current + pool.readyCount * spare - batchCount * BatchHeader.byteCount
  }

  /// Whether the segment has room for the batch that ends it. Only a file that has come to its limit
  /// (`fileBytesMax`) has not: then the journal goes no further, whatever segments are ready.
  private func canEnd(_ position: JournalPosition) -> Bool {
    position.offset + BatchHeader.byteCount <= options.writableBytes
  }

  // MARK: Writing

  package func append(
    _ group: RecordGroup, at end: LogEnd, epoch: UInt32
  ) throws(JournalError) -> LogEnd {
    if epoch != self.epoch { throw .fenced(by: self.epoch) }
    var (position, file) = state.withLock { ($0.position, $0.file) }
    precondition(end.lsn == position.lsn, "a batch that does not go on where the log ends")
    precondition(group.byteCount <= batchBytesMax, "a batch for which the segment has no room")
    precondition(
      group.byteCount % 8 == 0 && group.countedCount <= group.recordCount
        && group.recordCount <= group.byteCount / 8, "a batch that nobody would read")
    let began = SystemClock.monotonicNanoseconds()
    if options.fault == .acknowledgeBeforeSync { try sync(file, position) }
    let start = stagedBytes(position) + BatchHeader.byteCount
    // A group is at most `groupBytesMax` long: it lies within the staging memory.
    precondition(group.byteCount <= options.groupBytesMax, "a group longer than any")
    unsafe UnsafeMutableRawBufferPointer(rebasing: staging[start...]).copyMemory(from: group.first)
    unsafe UnsafeMutableRawBufferPointer(rebasing: staging[(start + group.first.count)...])
      .copyMemory(from: group.second)
    let header = try write(
      .records, group.byteCount, group.recordCount, to: file, at: &position)
    let written = SystemClock.monotonicNanoseconds()
    if options.fault == .watchBeforeSync || options.fault == .archiveBeforeSync {
      let early = position
      state.withLock { ($0.position, $0.mark) = (early, LogPoint.mark(header)) }
    }
    if options.durability == .fsync && options.fault != .acknowledgeBeforeSync {
      try sync(file, position)
    }
    position.counted &+= UInt64(group.countedCount)
    let newPosition = position
    state.withLock { ($0.position, $0.mark) = (newPosition, LogPoint.mark(header)) }
    statistics.wrote(
      records: group.recordCount, bytes: BatchHeader.byteCount + group.byteCount,
      nanoseconds: SystemClock.monotonicNanoseconds()
        - (options.durability == .fsync ? written : began))
    return LogEnd(lsn: position.lsn, counted: position.counted)
  }

  /// Writes the batch that ends a segment: from now on the next one must be there.
  private func writeEnd(
    _ file: any StorageFile, _ position: inout JournalPosition
  ) throws(JournalError) {
    _ = try write(.end, 0, 0, to: file, at: &position)
    if options.durability == .fsync { try sync(file, position) }
  }

  /// Writes one batch, whose records stand in the staging memory already, behind room for its header.
  private func write(
    _ kind: BatchHeader.Kind, _ payloadBytes: Int, _ recordCount: Int,
    to file: any StorageFile, at position: inout JournalPosition
  ) throws(JournalError) -> BatchHeader {
    let salt = identity.key.salt(sequence: position.sequence, run: position.run)
    let staged = stagedBytes(position)
    let end = staged + BatchHeader.byteCount + payloadBytes
    // All within the staging memory, by its size.
    let payload = unsafe UnsafeRawBufferPointer(
      rebasing: staging[(staged + BatchHeader.byteCount)..<end])
    let time = clock.now().nanoseconds
    let header = unsafe BatchHeader(
      lsn: position.lsn, payloadLength: payloadBytes, recordCount: recordCount,
      payloadCRC: kind == .end ? 0 : BatchHeader.checksum(payload, salt: salt), kind: kind,
      run: position.run, time: time)
    if let base = unsafe staging.baseAddress { unsafe header.write(to: base + staged, salt: salt) }
    if kind == .records, let replica {
      let sent = SystemClock.monotonicNanoseconds()
      try replica.append(
        unsafe PlacedBatch(
          lsn: position.lsn, byteCount: payloadBytes, epoch: position.run,
          sequence: position.sequence, offset: position.offset, mark: LogPoint.mark(header),
          bytes: UnsafeRawBufferPointer(rebasing: staging[staged..<end])))
      statistics.replicated(
        bytes: end - staged, nanoseconds: SystemClock.monotonicNanoseconds() - sent)
    }
    try put(header, to: file, at: &position)
    return header
  }

  /// Writes the batch that stands in the staging memory, header and all, and goes on behind it.
  private func put(
    _ header: BatchHeader, to file: any StorageFile, at position: inout JournalPosition
  ) throws(JournalError) {
    let staged = stagedBytes(position)
    let end = staged + BatchHeader.byteCount + header.payloadLength
    let padded = (end + Self.blockBytes - 1) & -Self.blockBytes
    unsafe UnsafeMutableRawBufferPointer(rebasing: staging[end..<padded])
      .initializeMemory(as: UInt8.self, repeating: 0)
    do {
      try unsafe file.write(
        UnsafeRawBufferPointer(rebasing: staging[..<padded]), at: position.offset - staged)
    } catch {
      // What the replicated log has acknowledged cannot be appended anew: not "write", after which it would be.
      throw .failed(
        operation: replica == nil ? "write" : "copy", file: FileNames.segment(position.sequence),
        error)
    }
    newestTime.store(header.time, ordering: .relaxed)
    position.offset += BatchHeader.byteCount + header.payloadLength
    position.lsn &+= UInt64(header.payloadLength)
    // The block that the next batch begins in comes to the front.
    let rest = stagedBytes(position)
    unsafe staging.copyMemory(
      from: UnsafeRawBufferPointer(rebasing: staging[(end - rest)..<end]))
  }

  /// Writes a batch that another process has made, where it has it, then calls `body` with its header and its
  /// records. Not for a log that is appended to.
  /// - Throws: `takenBack` where it does not go on what is here: it is another log's; `failed`.
  package func copy(
    _ batch: PlacedBatch,
    _ body: (BatchHeader, UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) {
    let start = state.withLock { $0.position }
    guard let header = header(of: batch), header.lsn == start.lsn, header.run >= start.run
    else { throw .takenBack(before: start.lsn) }
    // Who made it has the same segments, and went on when this one was full.
    if batch.sequence == start.sequence + 1 {
      if pool.readyCount == 0 { _ = try pool.prepareNext() }
      guard try makeRoom() else { throw .takenBack(before: start.lsn) }
    }
    var (position, file) = state.withLock { ($0.position, $0.file) }
    guard batch.sequence == position.sequence, batch.offset == position.offset,
      header.payloadLength <= batchBytesMax
    else { throw .takenBack(before: start.lsn) }
    let staged = stagedBytes(position)
    unsafe UnsafeMutableRawBufferPointer(rebasing: staging[staged...])
      .copyMemory(from: batch.bytes)
    try put(header, to: file, at: &position)
    position.run = header.run
    let newPosition = position
    state.withLock { ($0.position, $0.mark) = (newPosition, batch.mark) }
    try unsafe body(
      header, UnsafeRawBufferPointer(rebasing: batch.bytes[BatchHeader.byteCount...]))
  }

  /// nil where the bytes are not a batch of this store, or one that does not fit the staging memory.
  private func header(of batch: PlacedBatch) -> BatchHeader? {
    let count = unsafe batch.bytes.count
    guard count >= BatchHeader.byteCount, let base = unsafe batch.bytes.baseAddress,
      count <= options.groupBytesMax + BatchHeader.byteCount,
      let header = unsafe BatchHeader.read(base, sequence: batch.sequence, key: identity.key),
      header.kind == .records, header.run == batch.epoch, header.lsn == batch.lsn,
      header.payloadLength == batch.byteCount, BatchHeader.byteCount + batch.byteCount == count,
      LogPoint.mark(header) == batch.mark
    else { return nil }
    let salt = identity.key.salt(sequence: batch.sequence, run: header.run)
    let payload = unsafe UnsafeRawBufferPointer(rebasing: batch.bytes[BatchHeader.byteCount...])
    return unsafe header.payloadCRC == BatchHeader.checksum(payload, salt: salt) ? header : nil
  }

  /// Bytes before `position` in its block: they stand at the front of the staging memory.
  private func stagedBytes(_ position: JournalPosition) -> Int {
    position.offset & (Self.blockBytes - 1)
  }

  private func sync(
    _ file: any StorageFile, _ position: JournalPosition
  ) throws(JournalError) {
    do {
      try file.sync()
    } catch {
      throw .failed(operation: "sync", file: FileNames.segment(position.sequence), error)
    }
  }

  // MARK: Reading

  package func read(
    from lsn: UInt64, bytesMax: Int,
    _ body: (UInt64, UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64 {
    let end = position
    if lsn >= end.lsn { return lsn }
    let reader = JournalReader(
      storage: storage, identity: identity, start: try startOfSegment(holding: lsn, before: end),
      mustReach: end.lsn)
    let chain = JournalChain(reader)
    let window = Window()
    var (next, bytesRead) = (reader.start.lsn, 0)
    while next < end.lsn, bytesRead < bytesMax {
      let stopped = try chain.fill(window)
      try unsafe window.forEachBatch { (header, records) throws(JournalError) in
        // Behind the end is what is just being written.
        guard header.kind == .records, header.endLSN <= end.lsn, bytesRead < bytesMax else {
          return
        }
        next = header.endLSN
        if header.endLSN <= lsn { return }
        bytesRead += records.count
        try unsafe body(header.lsn, records)
      }
      if stopped != nil { break }
    }
    return next
  }

  /// The beginning of the newest segment whose first batch is not behind `lsn`.
  private func startOfSegment(
    holding lsn: UInt64, before end: JournalPosition
  ) throws(JournalError) -> JournalPosition {
    var oldest = end.lsn
    let sequences = try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try storage.names()
    }.compactMap(FileNames.segmentSequence)
    for sequence in sequences.sorted().reversed() where sequence <= end.sequence {
      let name = FileNames.segment(sequence)
      let first = try JournalError.attempt("read", name) { () throws(Errno) in
        try firstBatch(of: sequence, storage.open(name))
      }
      // Nothing is written there yet, or it was recycled since: what is before it was written earlier.
      guard let first, first.lsn <= oldest else { continue }
      oldest = first.lsn
      if first.lsn <= lsn {
        return JournalPosition(
          sequence: sequence, offset: SegmentHeader.blockBytes, lsn: first.lsn, run: first.run,
          counted: 0)
      }
    }
    throw .trimmed(oldest: oldest)
  }

  func firstBatch(
    of sequence: UInt64, _ file: any StorageFile
  ) throws(Errno) -> BatchHeader? {
    try BatchHeader.first(ofSegment: sequence, file, key: identity.key)
  }
}
