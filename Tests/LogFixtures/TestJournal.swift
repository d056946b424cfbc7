// A journal in memory, written without the code that a server writes it with.
package import Bytes
package import Log
package import Posix
internal import Synchronization

/// Files in memory, all of them durable at once. Calls can be made to fail.
package final class MemoryStorage: Storage {
  package enum Call: Hashable {
    case names, open, create, rename, remove, syncDirectory, read, write, sync
  }

  package struct State {
    package var files: [String: MemoryFile] = [:]
    package var calls: [String] = []
    /// What the next call of each kind throws.
    package var failures: [Call: Errno] = [:]
    /// Bytes that can still be written; what is beyond does not fit.
    package var room = Int.max
    package var bytesRead = 0
  }

  private let state = Mutex(State())

  package init() {}

  package func change<R: Sendable>(_ body: (inout sending State) -> sending R) -> R {
    state.withLock { body(&$0) }
  }

  /// What was called since the last time, in order.
  package func takeCalls() -> [String] {
    change { state in
      let calls = state.calls
      state.calls = []
      return calls
    }
  }

  package func file(_ name: String) -> MemoryFile? { change { $0.files[name] } }

  fileprivate func record(_ call: Call, _ text: String) throws(Errno) {
    let failure = change { state in
      state.calls.append(text)
      return state.failures.removeValue(forKey: call)
    }
    if let failure { throw failure }
  }

  fileprivate func recordRead(_ count: Int) throws(Errno) {
    let failure = change { state in
      state.bytesRead += count
      return state.failures.removeValue(forKey: .read)
    }
    if let failure { throw failure }
  }

  fileprivate func take(room: Int) -> Bool {
    change { state in
      if state.room < room { return false }
      state.room -= room
      return true
    }
  }

  package func names() throws(Errno) -> [String] {
    try record(.names, "names")
    return change { Array($0.files.keys) }
  }

  package func open(_ name: String) throws(Errno) -> any StorageFile {
    try record(.open, "open \(name)")
    guard let file = file(name) else { throw .noSuchFile }
    return file
  }

  package func create(_ name: String) throws(Errno) -> any StorageFile {
    try record(.create, "create \(name)")
    let file = MemoryFile(name, self)
    change { $0.files[name] = file }
    return file
  }

  package func rename(_ name: String, to newName: String) throws(Errno) {
    try record(.rename, "rename \(name) \(newName)")
    let isThere = change { state in
      guard let file = state.files.removeValue(forKey: name) else { return false }
      state.files[newName] = file
      return true
    }
    if !isThere { throw .noSuchFile }
  }

  package func remove(_ name: String) throws(Errno) {
    try record(.remove, "remove \(name)")
    if change({ $0.files.removeValue(forKey: name) == nil }) { throw .noSuchFile }
  }

  package func syncDirectory() throws(Errno) { try record(.syncDirectory, "sync directory") }

  /// A copy whose files can be changed without these changing.
  package func copy() -> MemoryStorage {
    let copy = MemoryStorage()
    for (name, file) in change({ $0.files }) {
      let newFile = MemoryFile(name, copy)
      newFile.bytes = file.bytes
      copy.change { $0.files[name] = newFile }
    }
    return copy
  }
}

package final class MemoryFile: StorageFile {
  private let name: String
  private unowned let storage: MemoryStorage
  private let contents = Mutex<[UInt8]>([])

  package init(_ name: String, _ storage: MemoryStorage) {
    self.name = name
    self.storage = storage
  }

  package var bytes: [UInt8] {
    get { contents.withLock { $0 } }
    set { contents.withLock { $0 = newValue } }
  }

  /// Replaces the bytes from `offset` on.
  package func put(_ bytes: [UInt8], at offset: Int) {
    contents.withLock { contents in
      let missing = offset + bytes.count - contents.count
      if missing > 0 { contents += [UInt8](repeating: 0, count: missing) }
      contents.replaceSubrange(offset..<(offset + bytes.count), with: bytes)
    }
  }

  package func flip(bit: Int, at offset: Int) {
    contents.withLock { $0[offset] ^= 1 << UInt8(bit) }
  }

  package func byteCount() throws(Errno) -> Int { contents.withLock { $0.count } }

  package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int
  {
    let bytes = contents.withLock { Array($0.dropFirst(offset).prefix(buffer.count)) }
    try storage.recordRead(bytes.count)
    unsafe buffer.copyBytes(from: bytes)
    return bytes.count
  }

  package func write(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, at offset: Int
  ) throws(Errno) {
    let bytes = unsafe Array(first) + Array(second) + Array(third)
    try storage.record(.write, "write \(bytes.count) at \(offset)")
    let grown = offset + bytes.count - (try byteCount())
    guard grown <= 0 || storage.take(room: grown) else { throw .noSpace }
    put(bytes, at: offset)
  }

  package func sync() throws(Errno) { try storage.record(.sync, "sync") }
}

/// Builds segments batch by batch.
package struct TestJournal {
  package static let secret = SipKey(low: 11, high: 22)
  package static let storeID = StoreID(low: 33, high: 44)

  /// What a reader should give.
  package struct Batch: Equatable {
    package var header: BatchHeader
    package var payload: [UInt8]
    package var sequence: UInt64
    /// Of the header in its file.
    package var offset: Int
  }

  package let storage = MemoryStorage()
  package let segmentBytes: Int
  package let key = JournalKey(secret: secret)
  package var identity: LogIdentity {
    LogIdentity(storeID: Self.storeID, key: key, segmentBytes: segmentBytes)
  }
  package private(set) var batches: [Batch] = []
  /// Where the next batch goes.
  package private(set) var position = JournalPosition(
    sequence: 1, offset: SegmentHeader.blockBytes, lsn: 0, run: 0, counted: 0)
  private var seed: UInt8 = 1

  package init(segmentBytes: Int = 16384) {
    self.segmentBytes = segmentBytes
    makeSegment(1)
  }

  /// A prepared segment; `old` are the bytes that a recycled one has behind its header.
  package func makeSegment(_ sequence: UInt64, old: [UInt8] = []) {
    let file = MemoryFile(FileNames.segment(sequence), storage)
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    let header = SegmentHeader(
      sequence: sequence, segmentBytes: segmentBytes, storeID: Self.storeID)
    // The array stays for the length of the call.
    unsafe block.withUnsafeMutableBytes { unsafe header.write(to: $0) }
    file.bytes = [UInt8](repeating: 0, count: segmentBytes)
    file.put(Array(old.prefix(segmentBytes)), at: 0)
    file.put(block, at: 0)
    storage.change { $0.files[FileNames.segment(sequence)] = file }
  }

  /// Appends a batch of `byteCount` bytes of records.
  package mutating func append(_ byteCount: Int, run: UInt32, kind: BatchHeader.Kind = .records) {
    seed &+= 1
    append([UInt8](repeating: seed, count: byteCount), run: run, kind: kind)
  }

  /// Appends a batch with these records.
  /// - Parameter recordCount: nil: whatever they are, as if each had 8 bytes.
  package mutating func append(
    _ payload: [UInt8], run: UInt32, kind: BatchHeader.Kind = .records, recordCount: Int? = nil,
    time: Int64? = nil
  ) {
    let salt = key.salt(sequence: position.sequence, run: run)
    let checksum = unsafe payload.withUnsafeBytes { unsafe BatchHeader.checksum($0, salt: salt) }
    let header = BatchHeader(
      lsn: position.lsn, payloadLength: payload.count,
      recordCount: recordCount ?? payload.count / 8,
      payloadCRC: kind == .end ? 0 : checksum, kind: kind, run: run,
      time: time ?? Int64(1000 + batches.count))
    if kind == .records {
      batches.append(
        Batch(
          header: header, payload: payload, sequence: position.sequence, offset: position.offset))
    }
    lastFile?.put(Self.bytes(of: header, salt: salt) + payload, at: position.offset)
    position.offset += BatchHeader.byteCount + payload.count
    position.lsn += UInt64(payload.count)
    position.run = run
  }

  /// Ends the segment and goes on in the next, which is made unless it is there.
  package mutating func endSegment(run: UInt32) {
    append(0, run: run, kind: .end)
    position.sequence += 1
    position.offset = SegmentHeader.blockBytes
    if lastFile == nil { makeSegment(position.sequence) }
  }

  /// Forgets the batches from the one with this index on; their bytes stay.
  package mutating func cut(at index: Int) {
    let batch = batches[index]
    position = JournalPosition(
      sequence: batch.sequence, offset: batch.offset, lsn: batch.header.lsn, run: 0, counted: 0)
    batches.removeSubrange(index...)
  }

  package var lastFile: MemoryFile? { storage.file(FileNames.segment(position.sequence)) }

  package static func bytes(of header: BatchHeader, salt: UInt32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: BatchHeader.byteCount)
    unsafe bytes.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe header.write(to: base, salt: salt)
    }
    return bytes
  }

  /// What a reader gives of this journal, or of a copy of its files.
  package func read(
    _ other: MemoryStorage? = nil, readsAhead: Bool = false, mustReach: UInt64 = 0,
    start: JournalPosition? = nil, fault: LogFault? = nil,
    body: () throws(JournalError) -> Void = {}
  ) -> TestReading {
    let beginning = JournalPosition(
      sequence: 1, offset: SegmentHeader.blockBytes, lsn: 0, run: 0, counted: 0)
    let reader = JournalReader(
      storage: other ?? storage, identity: identity, start: start ?? beginning,
      mustReach: mustReach, fault: fault)
    var reading = TestReading()
    do throws(JournalError) {
      reading.end = try unsafe reader.forEachBatch(readsAhead: readsAhead) {
        (header, payload) throws(JournalError) in
        reading.headers.append(header)
        reading.payloads.append(unsafe Array(payload))
        try body()
      }
    } catch {
      reading.error = error
    }
    return reading
  }
}

/// What came of reading a journal.
package struct TestReading: Equatable {
  package var headers: [BatchHeader] = []
  package var payloads: [[UInt8]] = []
  package var end: JournalEnd?
  package var error: JournalError?

  package var damage: Damage? {
    if case .damaged(let damage) = error { damage } else { nil }
  }

  /// Whether these are the first `count` batches of the journal.
  package func isPrefix(of journal: TestJournal, _ count: Int) -> Bool {
    headers == journal.batches.prefix(count).map(\.header)
      && payloads == journal.batches.prefix(count).map(\.payload)
  }
}
