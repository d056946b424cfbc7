// Segments of the journal, kept elsewhere for good, so that a backup can be restored to any moment since.
//
//   journal-N.H        the segment N as it was written, from its header to the end of the batch that ends it
//   journal-N.H.tail   what the segment N had when it was the newest, up to the end of a batch
//   archive.tmp        a copy in the making; the next one begins it anew
//
// N has 20 digits. H, 16 hexadecimal digits, names the history: a repair and a restore begin another, in which
// the same numbers stand for other bytes. Histories of one store may share an archive; two stores may not.
//
// A segment is copied batch by batch, each checked, synced and renamed. What is copied is durable where it comes
// from, so that a journal never goes on before the end of what its archive has. A tail is replaced by a longer
// one, and goes once the whole segment is there. A file that has its name is never written to.
internal import Posix

extension FileNames {
  static let newArchived = "archive.tmp"
  private static let tailSuffix = ".tail"

  package static func archived(_ name: ArchivedSegment) -> String {
    let digits = String(name.history, radix: 16)
    return segment(name.sequence) + "." + String(repeating: "0", count: 16 - digits.utf8.count)
      + digits + (name.isTail ? tailSuffix : "")
  }

  /// nil where it is not the name of an archived segment.
  package static func archivedSegment(_ name: String) -> ArchivedSegment? {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 2 || (parts.count == 3 && parts[2] == "tail"),
      let sequence = segmentSequence(String(parts[0])), parts[1].utf8.count == 16,
      let history = UInt64(parts[1], radix: 16)
    else { return nil }
    let found = ArchivedSegment(
      sequence: sequence, history: history, isTail: parts.count == 3)
    // Numbers may be spelt in several ways, names in one.
    return archived(found) == name ? found : nil
  }
}

/// What the name of a file in an archive says.
package struct ArchivedSegment: Hashable, Sendable {
  package let sequence: UInt64
  package let history: UInt64
  package let isTail: Bool

  package init(sequence: UInt64, history: UInt64, isTail: Bool) {
    self.sequence = sequence
    self.history = history
    self.isTail = isTail
  }
}

/// An archive, as one history of one store uses it. Used by one thread at a time.
package struct SegmentArchive: Sendable {
  /// Between two syncs: of a whole segment at once, the journal's own would have to wait.
  private static let bytesPerSync = 1 << 20

  let storage: any Storage
  let identity: LogIdentity
  let history: UInt64
  private let fault: LogFault?

  /// - Throws: `unsuitable` where files of another store are there; `failed`.
  package init(
    storage: any Storage, identity: LogIdentity, history: UInt64, fault: LogFault? = nil
  ) throws(JournalError) {
    self.fault = fault
    self.storage = storage
    self.identity = identity
    self.history = history
    try requireSameStore()
  }

  /// What it has of this history, in order.
  package func segments() throws(JournalError) -> [ArchivedSegment] {
    try names().compactMap(FileNames.archivedSegment).filter { $0.history == history }
      .sorted { ($0.sequence, $0.isTail ? 1 : 0) < ($1.sequence, $1.isTail ? 1 : 0) }
  }

  package func open(_ name: ArchivedSegment) throws(JournalError) -> any StorageFile {
    let text = FileNames.archived(name)
    return try JournalError.attempt("open", text) { () throws(Errno) in try storage.open(text) }
  }

  /// The log sequence number that an archived segment begins at.
  package func firstLSN(of name: ArchivedSegment) throws(JournalError) -> UInt64 {
    let file = try open(name)
    let first = try JournalError.attempt("read", FileNames.archived(name)) { () throws(Errno) in
      try BatchHeader.first(ofSegment: name.sequence, file, key: identity.key)
    }
    guard let first else { throw Self.damage(of: name, at: SegmentHeader.blockBytes) }
    return first.lsn
  }

  /// Reads an archived segment to its end.
  /// - Returns: the position behind its last batch: in the next segment, if it is whole.
  /// - Throws: `damaged` where it does not end behind a batch.
  package func end(of name: ArchivedSegment) throws(JournalError) -> JournalPosition {
    let file = try open(name)
    let text = FileNames.archived(name)
    let (first, byteCount) = try JournalError.attempt("read", text) { () throws(Errno) in
      (
        try BatchHeader.first(ofSegment: name.sequence, file, key: identity.key),
        try file.byteCount()
      )
    }
    var place = SegmentHeader.blockBytes
    if let first {
      let start = JournalPosition(
        sequence: name.sequence, offset: place, lsn: first.lsn, run: first.run, counted: 0)
      let joined = JoinedSegments([name.sequence: file], identity: identity)
      let chain = JournalChain(
        JournalReader(storage: joined, identity: identity, start: start, mustReach: 0))
      let window = Window()
      do throws(JournalError) {
        while chain.place.sequence == name.sequence, place < byteCount {
          let end = try chain.fill(window)
          place += window.batchBytes
          if end != nil { break }
        }
      } catch .damaged {
        // Said below, with the name that the file has here.
      } catch {
        throw error
      }
      if place == byteCount, name.isTail || chain.place.sequence > name.sequence {
        return chain.place
      }
    }
    throw Self.damage(of: name, at: place)
  }

  package static func damage(of name: ArchivedSegment, at offset: Int) -> JournalError {
    .damaged(
      Damage(
        file: FileNames.archived(name), offset: offset, lsn: nil,
        finding: "no whole batch of this history, but the file goes on, or should"))
  }

  private func names() throws(JournalError) -> [String] {
    try JournalError.attempt("list", "the archive") { () throws(Errno) in try storage.names() }
  }

  private func requireSameStore() throws(JournalError) {
    if try names().contains(where: { FileNames.segmentSequence($0) != nil }) {
      throw .unsuitable("the archive is a data directory: choose another directory")
    }
    for name in try names() where FileNames.archivedSegment(name) != nil {
      let file = try JournalError.attempt("open", name) { () throws(Errno) in
        try storage.open(name)
      }
      // One that is damaged says nothing of whose it is.
      guard let header = try JournalReader.header(of: file, name) else { continue }
      if header.storeID == identity.storeID { return }
      throw .unsuitable("\(name) in the archive belongs to another store: choose another directory")
    }
  }

  // MARK: Putting

  /// Copies a segment that has come to its end. The tail that was there of it goes.
  /// - Parameters:
  ///   - syncsSource: what is copied is not durable yet.
  ///   - rest: called with the nanoseconds to leave the disk to others.
  /// - Returns: the log sequence number that it ends at.
  package func put(
    _ sequence: UInt64, of source: any Storage, syncsSource: Bool, rest: (Int64) -> Void
  ) throws(JournalError) -> UInt64 {
    let name = ArchivedSegment(sequence: sequence, history: history, isTail: false)
    let end = try copy(name, source, until: nil, syncsSource, rest)
    let tail = FileNames.archived(
      ArchivedSegment(sequence: sequence, history: history, isTail: true))
    if try names().contains(tail) {
      try JournalError.attempt("remove", tail) { () throws(Errno) in
        try storage.remove(tail)
        try storage.syncDirectory()
      }
    }
    return end
  }

  /// Copies what the newest segment has before `end`, which is durable.
  package func putTail(
    until end: JournalPosition, of source: any Storage, syncsSource: Bool, rest: (Int64) -> Void
  ) throws(JournalError) {
    if end.offset <= SegmentHeader.blockBytes { return }
    let name = ArchivedSegment(sequence: end.sequence, history: history, isTail: true)
    _ = try copy(name, source, until: end.offset, syncsSource, rest)
  }

  /// - Parameter endOffset: where the copy ends; nil: behind the batch that ends the segment.
  private func copy(
    _ name: ArchivedSegment, _ source: any Storage, until endOffset: Int?, _ syncsSource: Bool,
    _ rest: (Int64) -> Void
  ) throws(JournalError) -> UInt64 {
    let sourceName = FileNames.segment(name.sequence)
    let first = try JournalError.attempt("read", sourceName) { () throws(Errno) in
      let file = try source.open(sourceName)
      if syncsSource { try file.sync() }
      return try BatchHeader.first(ofSegment: name.sequence, file, key: identity.key)
    }
    guard let first else { throw Self.incomplete(sourceName, SegmentHeader.blockBytes) }
    let start = JournalPosition(
      sequence: name.sequence, offset: SegmentHeader.blockBytes, lsn: first.lsn, run: first.run,
      counted: 0)
    let reader = JournalReader(storage: source, identity: identity, start: start, mustReach: 0)
    let chain = JournalChain(reader)
    let window = Window()
    let file = try JournalError.attempt("create", FileNames.newArchived) { () throws(Errno) in
      let file = try storage.create(FileNames.newArchived)
      try reader.expectedHeader(name.sequence).write(to: file)
      return file
    }
    while true {
      let place = chain.place
      // Also of a tail that goes on to the segment's end: a journal that failed there stays at it.
      if place.sequence > name.sequence { break }
      if let endOffset, place.offset >= endOffset { break }
      let end = try chain.fill(window)
      let count = min(window.batchBytes, (endOffset ?? .max) - place.offset)
      if count == 0 || end != nil { throw Self.incomplete(sourceName, place.offset) }
      let bytes = unsafe UnsafeRawBufferPointer(rebasing: window.bytes[..<count])
      try unsafe write(bytes, to: file, at: place.offset, rest)
    }
    try JournalError.attempt("rename", FileNames.newArchived) { () throws(Errno) in
      if fault != .archiveUnsynced { try file.sync() }
      try storage.rename(FileNames.newArchived, to: FileNames.archived(name))
      if fault != .archiveNameUnsynced { try storage.syncDirectory() }
    }
    return chain.place.lsn
  }

  private func write(
    _ bytes: UnsafeRawBufferPointer, to file: any StorageFile, at place: Int,
    _ rest: (Int64) -> Void
  ) throws(JournalError) {
    var offset = 0
    while offset < bytes.count {
      let part = unsafe UnsafeRawBufferPointer(
        rebasing: bytes[offset..<min(offset + Self.bytesPerSync, bytes.count)])
      let began = SystemClock.monotonicNanoseconds()
      try JournalError.attempt("write", FileNames.newArchived) { () throws(Errno) in
        try unsafe file.write(part, at: place + offset)
        if fault != .archiveUnsynced { try file.sync() }
      }
      // As a checkpoint does: the disk may be the journal's.
      rest(2 * (SystemClock.monotonicNanoseconds() - began))
      offset += part.count
    }
  }

  private static func incomplete(_ name: String, _ offset: Int) -> JournalError {
    .damaged(
      Damage(
        file: name, offset: offset, lsn: nil,
        finding: "the segment ends before all of it was archived"))
  }
}
