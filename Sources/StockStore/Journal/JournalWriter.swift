// From the ring to the disk, one group at a time: one write, one sync, then everybody may know.
//
// Whole blocks of 4096 bytes are written, from staging memory that begins with what the first of them holds
// already and ends with zeros: so the write can go past the system's cache where everything is synced
// anyway (O_DIRECT), and where it cannot, the system need not read a page before it changes a part of it.
// Bytes that were synced before are written again as they are.
internal import CPlatform
internal import Posix
internal import Synchronization

/// Used by one thread at a time, the journal's; `position` and `admit` by any.
@safe final class JournalWriter: @unchecked Sendable {
  private struct State {
    var position: JournalPosition
    var file: any StorageFile
    /// The run has written its first batch, which by the format has one record.
    var hasBegun = false
    /// The last write found no room on the disk, though it was to a segment that was ready: on a file
    /// system that writes elsewhere than where the bytes were.
    var isOutOfRoom = false
  }

  private static let blockBytes = 4096

  private let log: DecisionLog
  private let key: JournalKey
  private let options: JournalOptions
  private let clock: any Clock
  private let pool: SegmentPool
  private let state: Mutex<State>
  private let statistics: JournalCounters
  private let isDiskFull = Atomic<Bool>(false)
  /// When the newest batch was made, in nanoseconds since the Unix epoch.
  private let newestTime: Atomic<Int64>
  private let staging: UnsafeMutableRawBufferPointer

  /// - Parameters:
  ///   - position: where the journal ends and goes on, with the run that begins now.
  ///   - file: the segment that `position` names.
  init(
    log: DecisionLog, key: JournalKey, options: JournalOptions,
    clock: any Clock, pool: SegmentPool, position: JournalPosition, file: any StorageFile,
    statistics: JournalCounters
  ) throws(JournalError) {
    self.log = log
    self.key = key
    self.options = options
    self.clock = clock
    self.pool = pool
    self.statistics = statistics
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
  var position: JournalPosition { state.withLock { $0.position } }

  /// Whether the newest batch is as old as that.
  func isQuiet(forNanoseconds duration: Int64) -> Bool {
    clock.now().nanoseconds - newestTime.load(ordering: .relaxed) >= duration
  }

  /// Makes everything that is in the ring now durable, up to one group: how many records, 0 where there
  /// was nothing, or where it has to wait for a segment or for room on the disk. After any other failure
  /// nothing is acknowledged any more: of what the system has lost of a write, a second sync would say
  /// nothing (fsync(2) reports an error once).
  func step() throws(JournalError) -> Int {
    do throws(JournalError) {
      return try stepOnDisk()
    } catch .failed("write", _, let error) where error.isLackOfRoom {
      // Nobody was told of it, and the next try writes all of it again before the sync.
      state.withLock {
        $0.isOutOfRoom = true
        admit($0)
      }
      return 0
    } catch {
      throw error
    }
  }

  private func stepOnDisk() throws(JournalError) -> Int {
    var (position, file) = state.withLock { ($0.position, $0.file) }
    var pending = pendingThatFits(position)
    if pending.bytes == 0 {
      guard log.pending(from: position.lsn, bytesMax: options.groupBytesMax).bytes > 0,
        canEnd(position), pool.readyCount > 0
      else { return 0 }
      try end(file, &position)
      guard let next = pool.takeNext() else { preconditionFailure("nobody else takes segments") }
      position.sequence = next.sequence
      position.offset = SegmentHeader.blockBytes
      file = next.file
      if options.durability == .fsync { file.writeDirectly() }
      let (newPosition, newFile) = (position, file)
      state.withLock { ($0.position, $0.file) = (newPosition, newFile) }
      pending = pendingThatFits(position)
      if pending.bytes == 0 { return 0 }
    }
    try write(pending, to: file, at: &position)
    let newPosition = position
    state.withLock {
      $0.position = newPosition
      $0.hasBegun = true
      $0.isOutOfRoom = false
      admit($0)
    }
    log.publish(durable: position.lsn)
    return pending.records
  }

  /// The next group, as far as the segment has room for it, its header, and the batch that ends the
  /// segment.
  private func pendingThatFits(
    _ position: JournalPosition
  ) -> (bytes: Int, records: Int, decisions: Int) {
    let room = options.writableBytes - position.offset - 2 * BatchHeader.byteCount
    return log.pending(from: position.lsn, bytesMax: min(options.groupBytesMax, room))
  }

  /// Whether the segment has room for the batch that ends it. Only a file that has come to its limit
  /// (`fileBytesMax`) has not: then the journal goes no further, whatever segments are ready.
  private func canEnd(_ position: JournalPosition) -> Bool {
    position.offset + BatchHeader.byteCount <= options.writableBytes
  }

  /// Admits changes by the room that is left: in the ring, and in the segments that are ready.
  /// - Parameter isDiskFull: the last one could not be made for lack of space.
  func admit(isDiskFull: Bool) {
    self.isDiskFull.store(isDiskFull, ordering: .relaxed)
    state.withLock { admit($0) }
  }

  private func admit(_ state: State) {
    let position = state.position
    // Of each segment, the last record may not fit; and each group costs a header.
    let reserve = 2 * RecordWriter.byteCountMax
    let current = max(0, options.writableBytes - position.offset - reserve)
    let spare = max(0, options.writableBytes - SegmentHeader.blockBytes - reserve)
    let groups = options.ringBytes / options.groupBytesMax + 2
    let space = current + pool.readyCount * spare - groups * BatchHeader.byteCount
    let isStuck = !state.hasBegun || state.isOutOfRoom || !canEnd(position)
    log.admit(
      cleared: position.lsn, spaceEnd: position.lsn &+ UInt64(isStuck ? 0 : max(0, space)),
      isDiskFull: isStuck || isDiskFull.load(ordering: .relaxed))
  }

  private func write(
    _ pending: (bytes: Int, records: Int, decisions: Int), to file: any StorageFile,
    at position: inout JournalPosition
  ) throws(JournalError) {
    let began = SystemClock.monotonicNanoseconds()
    if options.fault == .acknowledgeBeforeSync { try sync(file, position) }
    let start = stagedBytes(position) + BatchHeader.byteCount
    unsafe log.withPending(from: position.lsn, count: pending.bytes) { first, second in
      // `pending` is at most `groupBytesMax` long: it lies within the staging memory.
      unsafe UnsafeMutableRawBufferPointer(rebasing: staging[start...]).copyMemory(from: first)
      unsafe UnsafeMutableRawBufferPointer(rebasing: staging[(start + first.count)...])
        .copyMemory(from: second)
    }
    try write(.records, pending.bytes, pending.records, to: file, at: &position)
    let written = SystemClock.monotonicNanoseconds()
    if options.durability == .fsync && options.fault != .acknowledgeBeforeSync {
      try sync(file, position)
    }
    log.clear(from: position.lsn &- UInt64(pending.bytes), count: pending.bytes)
    position.decisions &+= UInt64(pending.decisions)
    statistics.wrote(
      records: pending.records, bytes: BatchHeader.byteCount + pending.bytes,
      nanoseconds: SystemClock.monotonicNanoseconds()
        - (options.durability == .fsync ? written : began))
  }

  /// Writes the batch that ends a segment: from now on the next one must be there.
  private func end(
    _ file: any StorageFile, _ position: inout JournalPosition
  ) throws(JournalError) {
    try write(.end, 0, 0, to: file, at: &position)
    if options.durability == .fsync { try sync(file, position) }
  }

  /// Writes one batch, whose records stand in the staging memory already, behind room for its header.
  private func write(
    _ kind: BatchHeader.Kind, _ payloadBytes: Int, _ recordCount: Int,
    to file: any StorageFile, at position: inout JournalPosition
  ) throws(JournalError) {
    let salt = key.salt(sequence: position.sequence, run: position.run)
    let staged = stagedBytes(position)
    let end = staged + BatchHeader.byteCount + payloadBytes
    let padded = (end + Self.blockBytes - 1) & -Self.blockBytes
    // All within the staging memory, by its size.
    let payload = unsafe UnsafeRawBufferPointer(
      rebasing: staging[(staged + BatchHeader.byteCount)..<end])
    let time = clock.now().nanoseconds
    let header = unsafe BatchHeader(
      lsn: position.lsn, payloadLength: payloadBytes, recordCount: recordCount,
      payloadCRC: kind == .end ? 0 : BatchHeader.checksum(payload, salt: salt), kind: kind,
      run: position.run, time: time)
    if let base = unsafe staging.baseAddress { unsafe header.write(to: base + staged, salt: salt) }
    unsafe UnsafeMutableRawBufferPointer(rebasing: staging[end..<padded])
      .initializeMemory(as: UInt8.self, repeating: 0)
    do {
      try unsafe file.write(
        UnsafeRawBufferPointer(rebasing: staging[..<padded]), at: position.offset - staged)
    } catch {
      throw .failed(operation: "write", file: FileNames.segment(position.sequence), error)
    }
    newestTime.store(time, ordering: .relaxed)
    position.offset += BatchHeader.byteCount + payloadBytes
    position.lsn &+= UInt64(payloadBytes)
    // The block that the next batch begins in comes to the front.
    let rest = stagedBytes(position)
    unsafe staging.copyMemory(
      from: UnsafeRawBufferPointer(rebasing: staging[(end - rest)..<end]))
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
}
