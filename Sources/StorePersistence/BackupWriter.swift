// A directory that becomes a backup: pieces in, and once all are there, one that was read back and verified.
package import Log
internal import Posix
internal import StockStore

/// Used by one thread at a time.
package final class BackupWriter {
  private let directory: any DirectoryDraft
  private let fault: LogFault?
  private var files: [String: any StorageFile] = [:]
  private var byteCount = 0

  /// More than any checkpoint has.
  private static let offsetMax = 1 << 50

  package init(_ directory: any DirectoryDraft, fault: LogFault? = nil) {
    self.directory = directory
    self.fault = fault
  }

  /// Pieces may come from elsewhere: only files that a backup has are written.
  package func write(_ piece: BackupPiece) throws(JournalError) {
    let name = piece.file
    let isSegment = FileNames.segmentSequence(name) != nil
    let offset = piece.offset
    guard isSegment || FileNames.checkpointLSN(name) != nil || name == FileNames.closing,
      offset >= 0,
      offset <= (isSegment ? SegmentHeader.segmentBytesRange.upperBound : Self.offsetMax)
    else { throw .unsuitable("'\(name)' at \(offset) is no part of a backup") }
    let path = "\(directory.partialPath)/\(name)"
    try JournalError.attempt("write", path) { () throws(Errno) in
      var file = files[name]
      if file == nil { file = try directory.storage.create(name) }
      files[name] = file
      try unsafe file?.write(piece.bytes, at: offset)
    }
    byteCount += unsafe piece.bytes.count
  }

  /// Makes it outlive a power cut, reads it as a start would, and gives it its name.
  package func finish() throws(JournalError) -> BackupManifest {
    for (name, file) in files.sorted(by: { $0.key < $1.key }) where fault != .backupUnsynced {
      try JournalError.attempt("sync", "\(directory.partialPath)/\(name)") { () throws(Errno) in
        try file.sync()
      }
    }
    files = [:]
    // Of a server that runs the time, too, is one of a moment: what was forgotten by then is not counted.
    var manifest = try StockStore.examine(directory.storage).state
    manifest.byteCount = byteCount
    if fault == .backupClaimsMore { manifest.lsn += 8 }
    try manifest.write(to: directory.storage)
    try directory.publish()
    return manifest
  }
}

package enum Backup {
  /// Copies a data directory, which may be a running server's.
  /// - Parameter isInterrupted: asked between pieces; true ends it.
  /// - Returns: nil where it was interrupted.
  package static func copy(
    of source: any Storage, to directory: any DirectoryDraft, isInterrupted: () -> Bool = { false }
  ) throws(JournalError) -> BackupManifest? {
    let reader = try BackupReader(of: source)
    let writer = BackupWriter(directory)
    while !isInterrupted() {
      let hasMore = try reader.next { piece throws(JournalError) in
        try writer.write(piece)
      }
      if !hasMore { return try writer.finish() }
    }
    return nil
  }
}
