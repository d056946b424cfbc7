// What a backup says of itself: the file `backup` in its directory, lines of text, each a name, a space and a
// value. The last is the CRC32C of all before it, in hexadecimal.
//
//   holdfast-backup 1                     version of this file
//   store                                 id of the store, 32 hexadecimal digits
//   history                               of the store since its last repair or restore, 16 hexadecimal digits
//   lsn                                   log sequence number up to which the backup has everything
//   time                                  of the newest record, nanoseconds since the Unix epoch
//   decisions                             before that, since the data directory was made
//   digest                                of the state, as holdfast verify prints it
//   bytes                                 of checkpoint and journal
//   checksum                              of the lines before
//
// Beside it stand a checkpoint, the segments of the journal from where it starts, zeros behind the last batch,
// and journal.closed, which says where the journal ends. A backup is valid if and only if that data directory
// is, and its state is the one that the lines say.
internal import CPlatform
package import Log
package import Posix
internal import StockStore

/// What was backed up.
package struct BackupManifest: Equatable, Sendable {
  package let storeID: StoreID
  package let history: UInt64
  package internal(set) var lsn: UInt64
  package let time: Timestamp
  package let decisions: UInt64
  package let digest: String
  /// Of checkpoint and journal.
  package internal(set) var byteCount = 0

  private static let version = "1"
  private static let byteCountMax = 4096

  init(_ recovery: Recovery) {
    let core = recovery.core
    storeID = recovery.checkpoint.header.identity.storeID
    history = core.keys.history(firstVersion: core.firstVersion)
    lsn = recovery.summary.lsn
    time = recovery.summary.time
    decisions = recovery.summary.decisions
    digest = "\(recovery.summary.digest)"
  }

  /// - Throws: `damaged` where the state is another.
  func check(_ state: BackupManifest) throws(JournalError) {
    if self != state {
      throw Self.damage("the state is not the one that was backed up")
    }
  }

  private static func damage(_ finding: String) -> JournalError {
    .damaged(Damage(file: FileNames.backup, offset: 0, lsn: nil, finding: finding))
  }

  // MARK: Writing

  func write(to storage: any Storage) throws(JournalError) {
    try JournalError.attempt("write", FileNames.backup) { () throws(Errno) in
      let file = try storage.create(FileNames.backup)
      let bytes = Array(text.utf8)
      try unsafe bytes.span.withUnsafeBytes { (bytes) throws(Errno) in
        try unsafe file.write(bytes, at: 0)
      }
      try file.sync()
      try storage.syncDirectory()
    }
  }

  private var text: String {
    let lines = """
      holdfast-backup \(Self.version)
      store \(Self.hexadecimal(storeID.high))\(Self.hexadecimal(storeID.low))
      history \(Self.hexadecimal(history))
      lsn \(lsn)
      time \(time.nanoseconds)
      decisions \(decisions)
      digest \(digest)
      bytes \(byteCount)

      """
    return lines + "checksum \(String(Self.checksum(lines), radix: 16))\n"
  }

  private static func hexadecimal(_ word: UInt64) -> String {
    let digits = String(word, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
  }

  private static func checksum(_ text: String) -> UInt32 {
    let bytes = Array(text.utf8)
    return unsafe bytes.withUnsafeBytes { unsafe hf_crc32c(0, $0.baseAddress, $0.count) }
  }

  // MARK: Reading

  /// nil where the directory is no backup.
  package static func read(_ storage: any Storage) throws(JournalError) -> BackupManifest? {
    var bytes = [UInt8](repeating: 0, count: byteCountMax)
    do throws(Errno) {
      let file = try storage.open(FileNames.backup)
      var span = bytes.mutableSpan
      let count = try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
        try unsafe file.read(into: bytes, at: 0)
      }
      bytes.removeLast(bytes.count - count)
    } catch {
      if error == .noSuchFile { return nil }
      throw .failed(operation: "read", file: FileNames.backup, error)
    }
    let text = String(decoding: bytes, as: UTF8.self)
    if let version = newerVersion(text) {
      throw .newer(file: FileNames.backup, format: version, upTo: 1)
    }
    // What is not spelt as it is written is not what was written.
    guard let manifest = BackupManifest(text), manifest.text == text else {
      throw damage("not what a backup says of itself")
    }
    return manifest
  }

  /// Under a checksum that holds.
  private static func newerVersion(_ text: String) -> UInt32? {
    guard let last = text.firstRange(of: "\nchecksum "),
      UInt32(text[last.upperBound...].dropLast(), radix: 16)
        == checksum(String(text[..<last.lowerBound]) + "\n"),
      text.hasPrefix("holdfast-backup "),
      let version = UInt32(text.dropFirst(16).prefix { $0 != "\n" }), version > 1
    else { return nil }
    return version
  }

  private init?(_ text: String) {
    var values: [Substring: Substring] = [:]
    for line in text.split(separator: "\n") {
      let parts = line.split(separator: " ", maxSplits: 1)
      guard parts.count == 2 else { return nil }
      values[parts[0]] = parts[1]
    }
    guard let store = values["store"], store.utf8.count == 32,
      let high = UInt64(store.prefix(16), radix: 16),
      let low = UInt64(store.dropFirst(16), radix: 16),
      let history = values["history"].flatMap({ UInt64($0, radix: 16) }),
      let lsn = values["lsn"].flatMap({ UInt64($0) }),
      let time = values["time"].flatMap({ Int64($0) }),
      let decisions = values["decisions"].flatMap({ UInt64($0) }), let digest = values["digest"],
      let byteCount = values["bytes"].flatMap({ Int($0) })
    else { return nil }
    storeID = StoreID(low: low, high: high)
    self.history = history
    self.lsn = lsn
    self.time = Timestamp(nanoseconds: time)
    self.decisions = decisions
    self.digest = String(digest)
    self.byteCount = byteCount
  }
}
