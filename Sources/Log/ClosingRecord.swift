// Where the journal ended when its server was stopped in an orderly way. Without it, a journal that lost its
// end would look like one that a crash has left. All numbers are little endian.
//
//   The file journal.closed
//     0  u64  magic "HFCLOSED"
//     8  u32  format version, 1
//    12  u32  CRC32C of bytes 0..<12 and 16..<64
//    16  u64  LSN of the journal's end
//    24  u64  counted records before it
//    32  u64  store id, low half
//    40  u64  store id, high half
//    48  i64  time of the stop, nanoseconds since the Unix epoch
//    56       zeros
//
// It is written under another name, synced, and renamed, after all of the journal was synced. It holds for
// ever: from then on the journal has at least what it had. So a start leaves it there, the next orderly stop
// replaces it, and a repair removes it.
internal import CPlatform
internal import Posix

package struct ClosingRecord: Equatable, Sendable {
  private static let magic: UInt64 = 0x4445_534f_4c43_4648  // "HFCLOSED"
  private static let version: UInt32 = 1
  private static let byteCount = 64

  package let lsn: UInt64
  package let counted: UInt64
  package let storeID: StoreID
  package let time: Int64

  package init(lsn: UInt64, counted: UInt64, storeID: StoreID, time: Int64) {
    self.lsn = lsn
    self.counted = counted
    self.storeID = storeID
    self.time = time
  }

  // MARK: Writing

  /// Puts the record in the place of the one before. The journal is durable up to there.
  package func write(to storage: any Storage) throws(JournalError) {
    try JournalError.attempt("write", FileNames.newClosing) { () throws(Errno) in
      let file = try storage.create(FileNames.newClosing)
      try unsafe bytes.span.withUnsafeBytes { (bytes) throws(Errno) in
        try unsafe file.write(bytes, at: 0)
      }
      try file.sync()
      try storage.rename(FileNames.newClosing, to: FileNames.closing)
      try storage.syncDirectory()
    }
  }

  package var bytes: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.byteCount)
    // The array stays for the length of the call, and all stores lie within it.
    unsafe bytes.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe base.store64(Self.magic, 0)
      unsafe base.store32(Self.version, 8)
      unsafe base.store64(lsn, 16)
      unsafe base.store64(counted, 24)
      unsafe base.store64(storeID.low, 32)
      unsafe base.store64(storeID.high, 40)
      unsafe base.store64(UInt64(bitPattern: time), 48)
      unsafe base.store32(Self.checksum(UnsafeRawPointer(base)), 12)
    }
    return bytes
  }

  private static func checksum(_ base: UnsafeRawPointer) -> UInt32 {
    unsafe hf_crc32c(hf_crc32c(0, base, 12), base + 16, byteCount - 16)
  }

  // MARK: Reading

  /// What a directory says of its last orderly stop.
  package enum Found: Equatable, Sendable {
    /// It was never stopped in an orderly way, or by a version that did not write it down.
    case none
    case record(ClosingRecord)
    /// The file is not as it was written.
    case damaged

    /// The journal's end; nil where nothing says it.
    package var lsn: UInt64? {
      if case .record(let record) = self { record.lsn } else { nil }
    }
  }

  /// - Throws: `newer` where it is of a version that is not known yet; `failed`.
  package static func read(
    _ storage: any Storage, storeID: StoreID
  ) throws(JournalError) -> Found {
    var bytes = [UInt8](repeating: 0, count: byteCount + 1)
    let count: Int
    do throws(Errno) {
      let file = try storage.open(FileNames.closing)
      var span = bytes.mutableSpan
      count = try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
        try unsafe file.read(into: bytes, at: 0)
      }
    } catch {
      if error == .noSuchFile { return .none }
      throw .failed(operation: "read", file: FileNames.closing, error)
    }
    // The array stays for the length of the call, and all loads lie within it.
    let (version, record) = unsafe bytes.withUnsafeBytes { bytes -> (UInt32, ClosingRecord?) in
      guard count >= byteCount, let base = bytes.baseAddress, unsafe base.load64(0) == magic,
        unsafe base.load32(12) == checksum(base)
      else { return (0, nil) }
      let record = unsafe ClosingRecord(
        lsn: base.load64(16), counted: base.load64(24),
        storeID: StoreID(low: base.load64(32), high: base.load64(40)),
        time: Int64(bitPattern: base.load64(48)))
      return unsafe (base.load32(8), record)
    }
    if version > Self.version {
      throw .newer(file: FileNames.closing, format: version, upTo: Self.version)
    }
    guard let record, version == Self.version, count == byteCount, record.storeID == storeID,
      record.lsn <= JournalPosition.countMax
    else { return .damaged }
    return .record(record)
  }
}
