// From the ring to the disk, one group at a time: one write, one sync, then everybody may know.
internal import CPlatform
internal import Posix
internal import Synchronization

/// Used by one thread at a time, the journal's; `position` and `admit` by any.
final class JournalWriter: Sendable {
  private struct State {
    var position: JournalPosition
    var file: any StorageFile
  }

  private let log: DecisionLog
  private let key: JournalKey
  private let options: JournalOptions
  private let segmentBytes: Int
  private let clock: any Clock
  private let pool: SegmentPool
  private let state: Mutex<State>
  private let statistics: JournalCounters
  private let isDiskFull = Atomic<Bool>(false)

  /// - Parameters:
  ///   - position: where the journal ends and goes on, with the run that begins now.
  ///   - file: the segment that `position` names.
  init(
    log: DecisionLog, key: JournalKey, options: JournalOptions, segmentBytes: Int,
    clock: any Clock, pool: SegmentPool, position: JournalPosition, file: any StorageFile,
    statistics: JournalCounters
  ) {
    self.log = log
    self.key = key
    self.options = options
    self.segmentBytes = segmentBytes
    self.clock = clock
    self.pool = pool
    self.statistics = statistics
    state = Mutex(State(position: position, file: file))
  }

  /// The end of what is durable.
  var position: JournalPosition { state.withLock { $0.position } }

  /// Makes everything that is in the ring now durable, up to one group. False where there was nothing,
  /// or where it has to wait for a segment. After a failure nothing is acknowledged any more: of what
  /// the system has lost of a write, a second sync would say nothing (fsync(2) reports an error once).
  func step() throws(JournalError) -> Bool {
    var (position, file) = state.withLock { ($0.position, $0.file) }
    var pending = log.pending(from: position.lsn, bytesMax: options.groupBytesMax)
    if pending.bytes == 0 { return false }
    // Room for the group's header, and for the batch that ends the segment.
    let room = segmentBytes - position.offset - 2 * BatchHeader.byteCount
    if pending.bytes > room { pending = log.pending(from: position.lsn, bytesMax: room) }
    if pending.bytes == 0 {
      guard let next = pool.takeNext() else { return false }
      try end(file, &position)
      position.sequence = next.sequence
      position.offset = SegmentHeader.blockBytes
      file = next.file
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
    return true
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
    let salt = key.salt(sequence: position.sequence, run: position.run)
    let began = SystemClock.monotonicNanoseconds()
    var header = BatchHeader(
      lsn: position.lsn, payloadLength: pending.bytes, recordCount: pending.records,
      payloadCRC: 0, kind: .records, run: position.run, time: clock.now().nanoseconds)
    do throws(Errno) {
      if options.fault == .acknowledgeBeforeSync { try file.sync() }
      unsafe try log.withPending(from: position.lsn, count: pending.bytes) {
        (first, second) throws(Errno) in
        var checksum = unsafe BatchHeader.checksum(first, salt: salt)
        if second.count > 0 {
          checksum = unsafe BatchHeader.checksum(second, salt: checksum)
        }
        header.payloadCRC = checksum
        unsafe try withUnsafeTemporaryAllocation(
          byteCount: BatchHeader.byteCount, alignment: 8
        ) { (bytes) throws(Errno) in
          // The buffer has room for a header.
          guard let base = bytes.baseAddress else { return }
          unsafe header.write(to: base, salt: salt)
          try unsafe file.write(UnsafeRawBufferPointer(bytes), first, second, at: position.offset)
        }
      }
    } catch {
      throw .failed(operation: "write", file: FileNames.segment(position.sequence), error)
    }
    let written = SystemClock.monotonicNanoseconds()
    if options.durability == .fsync && options.fault != .acknowledgeBeforeSync {
      try sync(file, position)
    }
    log.clear(from: position.lsn, count: pending.bytes)
    position.offset += BatchHeader.byteCount + pending.bytes
    position.lsn &+= UInt64(pending.bytes)
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
    let header = BatchHeader(
      lsn: position.lsn, payloadLength: 0, recordCount: 0, payloadCRC: 0, kind: .end,
      run: position.run, time: clock.now().nanoseconds)
    let salt = key.salt(sequence: position.sequence, run: position.run)
    do throws(Errno) {
      unsafe try withUnsafeTemporaryAllocation(
        byteCount: BatchHeader.byteCount, alignment: 8
      ) { (bytes) throws(Errno) in
        guard let base = bytes.baseAddress else { return }
        unsafe header.write(to: base, salt: salt)
        try unsafe file.write(UnsafeRawBufferPointer(bytes), at: position.offset)
      }
    } catch {
      throw .failed(operation: "write", file: FileNames.segment(position.sequence), error)
    }
    if options.durability == .fsync { try sync(file, position) }
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
