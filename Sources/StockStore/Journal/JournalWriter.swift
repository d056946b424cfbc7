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
  }

  private static let blockBytes = 4096

  private let log: DecisionLog
  private let key: JournalKey
  private let options: JournalOptions
  private let segmentBytes: Int
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
    log: DecisionLog, key: JournalKey, options: JournalOptions, segmentBytes: Int,
    clock: any Clock, pool: SegmentPool, position: JournalPosition, file: any StorageFile,
    statistics: JournalCounters
  ) throws(JournalError) {
    self.log = log
    self.key = key
    self.options = options
    self.segmentBytes = segmentBytes
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
  /// was nothing, or where it has to wait for a segment. After a failure nothing is acknowledged any more:
  /// of what the system has lost of a write, a second sync would say nothing (fsync(2) reports an error
  /// once).
  func step() throws(JournalError) -> Int {
    var (position, file) = state.withLock { ($0.position, $0.file) }
    var pending = log.pending(from: position.lsn, bytesMax: options.groupBytesMax)
    if pending.bytes == 0 { return 0 }
    // Room for the group's header, and for the batch that ends the segment.
    let room = segmentBytes - position.offset - 2 * BatchHeader.byteCount
    if pending.bytes > room { pending = log.pending(from: position.lsn, bytesMax: room) }
    if pending.bytes == 0 {
      guard let next = pool.takeNext() else { return 0 }
      try end(file, &position)
      position.sequence = next.sequence
      position.offset = SegmentHeader.blockBytes
      file = next.file
      if options.durability == .fsync { file.writeDirectly() }
      let (newPosition, newFile) = (position, file)
      state.withLock { $0 = State(position: newPosition, file: newFile) }
      pending = log.pending(from: position.lsn, bytesMax: options.groupBytesMax)
    }
    try write(pending, to: file, at: &position)
    let newPosition = position
    state.withLock {
      $0.position = newPosition
      admit(newPosition)
    }
    log.publish(durable: position.lsn)
    return pending.records
  }

  /// Admits changes by the room that is left: in the ring, and in the segments that are ready.
  /// - Parameter isDiskFull: the last one could not be made for lack of space.
  func admit(isDiskFull: Bool) {
    self.isDiskFull.store(isDiskFull, ordering: .relaxed)
    state.withLock { admit($0.position) }
  }

  private func admit(_ position: JournalPosition) {
    // Of each segment, the last record may not fit; and each group costs a header.
    let reserve = 2 * RecordWriter.byteCountMax
    let current = segmentBytes - position.offset - reserve
    let spare = segmentBytes - SegmentHeader.blockBytes - reserve
    let groups = options.ringBytes / options.groupBytesMax + 2
    let space = max(0, current) + pool.readyCount * spare - groups * BatchHeader.byteCount
    log.admit(
      cleared: position.lsn, spaceEnd: position.lsn &+ UInt64(max(0, space)),
      isDiskFull: isDiskFull.load(ordering: .relaxed))
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
