// Reading the log behind its writer: from a point on, batch by batch, as far as it is durable.
internal import Posix

/// A place between two records, and what tells it from the same place of another history of the log: two
/// that went on from one copy, or one of which an end was given up, have different batches there.
package struct LogPoint: Equatable, Sendable {
  /// Every record up to this log sequence number is before it.
  package var lsn: UInt64
  /// Of the batch that holds the last of them; 0 before the first.
  package var mark: UInt64
  /// Where that batch begins, or the one behind it; nil where nobody has looked.
  package var place: JournalPosition?

  package init(lsn: UInt64, mark: UInt64, place: JournalPosition? = nil) {
    self.lsn = lsn
    self.mark = mark
    self.place = place
  }

  /// What tells a batch from any other at its place. Its checksum covers all of its records under the
  /// store's secret, and no two histories write the same ones in the same nanosecond.
  package static func mark(_ header: BatchHeader) -> UInt64 {
    let time = UInt64(bitPattern: header.time) &* 0x9e37_79b9_7f4a_7c15
    return max(1, time ^ (UInt64(header.payloadCRC) << 32 | UInt64(header.run)))
  }
}

/// A batch that was read.
package struct LogBatch: Sendable {
  /// Log sequence number of its first byte.
  package let lsn: UInt64
  /// Where it begins; nil where that is of no use.
  package let place: JournalPosition?
  package let end: LogPoint

  package init(lsn: UInt64, place: JournalPosition?, end: LogPoint) {
    self.lsn = lsn
    self.place = place
    self.end = end
  }

  /// The point behind a record of the batch.
  package func point(behind lsn: UInt64) -> LogPoint {
    lsn >= end.lsn ? end : LogPoint(lsn: lsn, mark: end.mark, place: place)
  }
}

/// Why the log cannot be read from a point on.
package enum LogCursorError: Error, Equatable {
  /// The log begins at `oldest`, behind the point.
  case trimmed(oldest: UInt64)
  /// The log has no such point: it is another log's, or of an end that was given up.
  case otherHistory
  /// What must be there is not, or the disk does not give it.
  case failed(JournalError)
}

/// Reads on from a point. Used by one thread.
package protocol LogCursor: AnyObject {
  /// Calls `body` with each durable batch, in order, until about `bytesMax` bytes of records were read or
  /// no more are durable, and its records, which are good for the length of the call. The first batch may begin before the point that the cursor was made for.
  func read(
    bytesMax: Int, _ body: (LogBatch, UnsafeRawBufferPointer) -> Void
  ) throws(LogCursorError)
}

/// A log that is read while it is written. Any thread.
package protocol ReadableLog: AnyObject, Sendable {
  /// Every record up to here may be read.
  var endLSN: UInt64 { get }

  /// The end of what is durable now.
  func endPoint() throws(LogCursorError) -> LogPoint

  /// The same point, looked up: that it is one of this log, and where it lies.
  func locate(_ point: LogPoint) throws(LogCursorError) -> LogPoint

  /// A cursor that begins with the batch that holds the first record behind `point`.
  func cursor(from point: LogPoint) throws(LogCursorError) -> any LogCursor

  /// The number from which on records are kept: the first byte of the oldest of them.
  func oldestLSN() throws(LogCursorError) -> UInt64

  /// A cursor that begins with the oldest batch.
  func cursorFromOldest() throws(LogCursorError) -> any LogCursor

  /// A cursor that begins with the newest segment that holds a record before `lsn`, for who reads backwards; a log
  /// without segments is one. Else with the oldest that is kept.
  func cursorFromSegment(before lsn: UInt64) throws(LogCursorError) -> any LogCursor
}

extension DirectoryLog: ReadableLog {
  package var endLSN: UInt64 { position.lsn }

  package func endPoint() throws(LogCursorError) -> LogPoint {
    let (end, mark) = positionAndMark
    if mark != 0 || end.lsn == 0 { return LogPoint(lsn: end.lsn, mark: mark, place: end) }
    // This process has not appended yet.
    let cursor = try scan(to: end.lsn, end)
    return LogPoint(lsn: end.lsn, mark: cursor.mark, place: end)
  }

  package func locate(_ point: LogPoint) throws(LogCursorError) -> LogPoint {
    let end = position
    guard point.lsn <= end.lsn else { throw .otherHistory }
    let cursor = try scan(to: point.lsn, end)
    guard cursor.mark == point.mark || options.fault == .watchAnyHistory else {
      throw .otherHistory
    }
    return LogPoint(lsn: point.lsn, mark: point.mark, place: cursor.position)
  }

  package func cursor(from point: LogPoint) throws(LogCursorError) -> any LogCursor {
    let located = point.place == nil ? try locate(point) : point
    guard let place = located.place else { throw .otherHistory }
    return DirectoryCursor(self, at: place, behind: point.lsn)
  }

  package func oldestLSN() throws(LogCursorError) -> UInt64 {
    let end = position
    return try startOfSegment(before: nil, end).lsn
  }

  package func cursorFromOldest() throws(LogCursorError) -> any LogCursor {
    let start = try startOfOldest()
    return DirectoryCursor(self, at: start, behind: start.lsn)
  }

  package func cursorFromSegment(before lsn: UInt64) throws(LogCursorError) -> any LogCursor {
    let start: JournalPosition
    do throws(LogCursorError) {
      start = try startOfSegment(before: lsn, position)
    } catch .trimmed {
      start = try startOfOldest()
    } catch {
      throw error
    }
    return DirectoryCursor(self, at: start, behind: start.lsn)
  }

  fileprivate func startOfOldest() throws(LogCursorError) -> JournalPosition {
    try startOfSegment(before: nil, position)
  }

  /// A cursor that has passed every batch before `lsn`, and stands before the one that holds the record
  /// behind it. Its mark is that of the batch that holds the record before.
  private func scan(
    to lsn: UInt64, _ end: JournalPosition
  ) throws(LogCursorError) -> DirectoryCursor {
    let start = try startOfSegment(before: lsn, end)
    let cursor = DirectoryCursor(self, at: start, behind: start.lsn)
    try cursor.pass(lsn)
    return cursor
  }

  /// The beginning of the newest segment that holds a record before `lsn`, or that the log begins with;
  /// nil: of the oldest that is there. Segments that a checkpoint has replaced are history until they are
  /// used again; where one was, what is before it is not followed.
  private func startOfSegment(
    before lsn: UInt64?, _ end: JournalPosition
  ) throws(LogCursorError) -> JournalPosition {
    var oldest: JournalPosition?
    var sequence = end.sequence
    while sequence > 0 {
      let isEmpty = sequence == end.sequence && end.offset == SegmentHeader.blockBytes
      if let first = isEmpty ? nil : try firstBatch(ofSegment: sequence),
        first.endLSN <= oldest?.lsn ?? end.lsn
      {
        let start = JournalPosition(
          sequence: sequence, offset: SegmentHeader.blockBytes, lsn: first.lsn, run: first.run,
          counted: 0)
        if let lsn, first.lsn < lsn || first.lsn == 0 { return start }
        oldest = start
      } else if !isEmpty {
        break
      }
      sequence -= 1
    }
    guard let oldest else { return end }
    if lsn == nil || options.fault == .watchPastHistory { return oldest }
    throw .trimmed(oldest: oldest.lsn)
  }

  /// nil where the segment is not there, or not that one any more.
  private func firstBatch(ofSegment sequence: UInt64) throws(LogCursorError) -> BatchHeader? {
    let name = FileNames.segment(sequence)
    do {
      return try firstBatch(of: sequence, storage.open(name))
    } catch .noSuchFile {
      return nil
    } catch {
      throw .failed(.failed(operation: "read", file: name, error))
    }
  }

  /// What stands at `position` is not what was written there: it was used again, or harmed.
  fileprivate func lost(_ position: JournalPosition) -> LogCursorError {
    do throws(LogCursorError) {
      let oldest = try oldestLSN()
      if position.lsn < oldest { return .trimmed(oldest: oldest) }
    } catch {
      return error
    }
    return .failed(
      .damaged(
        Damage(
          file: FileNames.segment(position.sequence), offset: position.offset, lsn: position.lsn,
          finding: "a batch that was written is not there")))
  }
}

/// A cursor in a directory's segments. What it reads was written past the system's cache, so that it comes
/// from the disk; whatever reads ahead of the writer's end is left.
@safe private final class DirectoryCursor: LogCursor {
  /// A few groups under load.
  private static let windowBytes = 256 << 10

  private let log: DirectoryLog
  /// Records up to here are of no interest.
  private let wanted: UInt64
  /// Of the next batch.
  private(set) var position: JournalPosition
  /// Of the last batch that was passed; 0 before the first.
  private(set) var mark: UInt64 = 0
  private var file: (any StorageFile)?
  private var window: UnsafeMutableRawBufferPointer
  /// Of `LogFault.watchPastBorder`.
  private var passesNext = false
  /// The bytes of the window, in the segment of `position`.
  private var filled = 0..<0

  init(_ log: DirectoryLog, at position: JournalPosition, behind wanted: UInt64) {
    self.log = log
    self.wanted = wanted
    self.position = position
    unsafe window = .allocate(byteCount: Self.windowBytes, alignment: 64)
  }

  deinit { unsafe window.deallocate() }

  func read(
    bytesMax: Int, _ body: (LogBatch, UnsafeRawBufferPointer) -> Void
  ) throws(LogCursorError) {
    var bytesRead = 0
    let end = log.position
    while bytesRead < bytesMax {
      let place = position
      guard let (header, records) = unsafe try next(before: end) else { return }
      mark = LogPoint.mark(header)
      bytesRead += records.count
      let point = LogPoint(lsn: header.endLSN, mark: mark, place: position)
      unsafe body(LogBatch(lsn: header.lsn, place: place, end: point), records)
    }
  }

  /// Goes to the batch that holds the record behind `lsn`, and takes the mark of the one that holds the
  /// record before.
  func pass(_ lsn: UInt64) throws(LogCursorError) {
    if lsn <= position.lsn { return }
    let end = log.position
    while true {
      let before = position
      guard let (header, _) = unsafe try next(before: end) else { return }
      mark = LogPoint.mark(header)
      if header.endLSN < lsn { continue }
      if header.endLSN > lsn { position = before }
      return
    }
  }

  /// The next batch of records; nil where none is durable.
  private func next(
    before end: JournalPosition
  ) throws(LogCursorError) -> (BatchHeader, UnsafeRawBufferPointer)? {
    do {
      return unsafe try readNext(before: end)
    } catch {
      // Its segment may have been used again when all that is wanted of it had been read: then what comes next
      // is the oldest that is kept.
      let start = try log.startOfOldest()
      guard start.sequence > position.sequence, start.lsn >= position.lsn,
        start.lsn <= max(position.lsn, wanted)
      else { throw error }
      position = start
      leaveSegment()
      return unsafe try readNext(before: end)
    }
  }

  private func leaveSegment() {
    file = nil
    filled = 0..<0
  }

  private func readNext(
    before end: JournalPosition
  ) throws(LogCursorError) -> (BatchHeader, UnsafeRawBufferPointer)? {
    while position.lsn < end.lsn {
      var bytes = unsafe try fill(BatchHeader.byteCount, before: end)
      guard let base = bytes.baseAddress,
        let header = unsafe BatchHeader.read(
          base, sequence: position.sequence, key: log.identity.key),
        header.lsn == position.lsn, header.run >= position.run
      else { throw log.lost(position) }
      unsafe bytes = try fill(BatchHeader.byteCount + header.payloadLength, before: end)
      let records = unsafe UnsafeRawBufferPointer(
        rebasing: bytes[BatchHeader.byteCount..<(BatchHeader.byteCount + header.payloadLength)])
      let salt = log.identity.key.salt(sequence: position.sequence, run: header.run)
      let isWhole = unsafe header.payloadCRC == BatchHeader.checksum(records, salt: salt)
      guard header.kind == .end || isWhole else { throw log.lost(position) }
      position.pass(header)
      if header.kind == .records {
        guard passesNext else { return unsafe (header, records) }
        passesNext = false
        continue
      }
      passesNext = log.options.fault == .watchPastBorder
      leaveSegment()
    }
    return nil
  }

  /// The bytes from `position` on, `count` at least.
  private func fill(
    _ count: Int, before end: JournalPosition
  ) throws(LogCursorError) -> UnsafeRawBufferPointer {
    let start = position.offset
    if start < filled.lowerBound || start + count > filled.upperBound {
      // Behind the end lies what is just being written.
      let limit = position.sequence == end.sequence ? end.offset : log.identity.segmentBytes
      guard start + count <= limit else { throw log.lost(position) }
      if unsafe count > window.count {
        unsafe window.deallocate()
        unsafe window = .allocate(byteCount: count, alignment: 64)
      }
      filled = 0..<0
      let wanted = unsafe min(window.count, limit - start)
      let file = try openedFile()
      let name = FileNames.segment(position.sequence)
      do {
        let read = try unsafe file.read(
          into: UnsafeMutableRawBufferPointer(rebasing: window[..<wanted]), at: start)
        filled = start..<(start + read)
      } catch {
        throw .failed(.failed(operation: "read", file: name, error))
      }
      guard filled.count >= count else { throw log.lost(position) }
    }
    return unsafe UnsafeRawBufferPointer(
      rebasing: window[(start - filled.lowerBound)..<filled.count])
  }

  private func openedFile() throws(LogCursorError) -> any StorageFile {
    if let file { return file }
    let name = FileNames.segment(position.sequence)
    do {
      let opened = try log.storage.open(name)
      // What the system would read ahead of the writer is of no use: it is about to be written over, and every
      // write past the cache would have to drop it there.
      opened.readExactly()
      file = opened
      return opened
    } catch .noSuchFile {
      throw log.lost(position)
    } catch {
      throw .failed(.failed(operation: "open", file: name, error))
    }
  }
}
