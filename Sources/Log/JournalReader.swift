// The journal as recovery reads it.
//
// Where the chain of valid batches stops (JournalFormat.swift), the journal ends, unless
//   - the checkpoint needs it to go on, or
//   - the file is shorter than it was made, or
//   - the header of a batch of this run or a later one stands further on in the segment, or in a
//     segment behind it.
// Then what is missing was durable once: the journal is damaged. It also is where the chain leads to a
// segment that is missing or not valid. What is cut where the journal ends is the newest batch at most,
// and its records were never acknowledged.
internal import Posix
internal import Synchronization

package struct JournalReader: Sendable {
  package let storage: any Storage
  package let identity: LogIdentity
  package let start: JournalPosition
  /// The LSN without which the checkpoint is of no use.
  package let mustReach: UInt64
  package let fault: LogFault?

  package var key: JournalKey { identity.key }
  package var segmentBytes: Int { identity.segmentBytes }

  package init(
    storage: any Storage, identity: LogIdentity, start: JournalPosition, mustReach: UInt64,
    fault: LogFault? = nil
  ) {
    self.storage = storage
    self.identity = identity
    self.start = start
    self.mustReach = mustReach
    self.fault = fault
  }

  /// Calls `body` with the header and the records of each batch, in order; the bytes are good for the
  /// length of the call.
  /// - Parameters:
  ///   - readsAhead: a second thread reads and checks what comes next meanwhile.
  ///   - endLSN: no batch from there on is read; nil: all are.
  ///   - wantsMore: asked now and then; false: what comes next is of no use. Then the end is where it stopped.
  /// - Throws: `damaged`, after the batches before the damage; `failed`; or what `body` throws.
  package func forEachBatch(
    readsAhead: Bool, until endLSN: UInt64? = nil, while wantsMore: () -> Bool = { true },
    _ body: (BatchHeader, UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> JournalEnd {
    try checkStart()
    let bodyOfRecords = {
      (header: BatchHeader, payload: UnsafeRawBufferPointer) throws(JournalError) in
      if header.kind == .records, header.lsn < endLSN ?? .max { try unsafe body(header, payload) }
    }
    if readsAhead, let ahead = try? ReadAhead(self) {
      defer { ahead.stop() }
      return unsafe try ahead.forEachBatch(while: wantsMore, bodyOfRecords)
    }
    let chain = JournalChain(self)
    let window = Window()
    while true {
      if let end = chain.end(ifAt: endLSN) { return end }
      let end = try chain.fill(window)
      try unsafe window.forEachBatch(bodyOfRecords)
      if let end { return end }
      if !wantsMore() { return JournalEnd(position: chain.place, time: 0, tornBytes: 0) }
    }
  }
}

// MARK: Segments

extension JournalReader {
  /// The sequences of the segment files from `first` on, ascending.
  package func segments(from first: UInt64) throws(JournalError) -> [UInt64] {
    let names = try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try storage.names()
    }
    return names.compactMap(FileNames.segmentSequence).filter { $0 >= first }.sorted()
  }

  /// Where the journal begins was read from a file too.
  package func checkStart() throws(JournalError) {
    guard start.isPossible(segmentBytes: segmentBytes) else {
      throw .damaged(
        Damage(
          file: FileNames.segment(start.sequence), offset: start.offset, lsn: nil,
          finding: "no journal can begin there, though the checkpoint says so"))
    }
  }

  /// What the file of that segment must begin with.
  package func expectedHeader(_ sequence: UInt64) -> SegmentHeader {
    SegmentHeader(
      sequence: sequence, segmentBytes: identity.segmentBytes, storeID: identity.storeID)
  }

  /// Looks at a segment of which nothing else is known.
  /// - Throws: `newer` where it is of a version that is not known yet; `failed`.
  package static func requireKnownFormat(
    ofSegment sequence: UInt64, _ storage: any Storage
  ) throws(JournalError) {
    let name = FileNames.segment(sequence)
    let file = try JournalError.attempt("open", name) { () throws(Errno) in
      try storage.open(name)
    }
    _ = try header(of: file, name)
  }

  /// What a file begins with; nil where that is no valid header.
  /// - Throws: `newer` where it is one of a version that is not known yet; `failed`.
  static func header(
    of file: any StorageFile, _ name: String
  ) throws(JournalError) -> SegmentHeader? {
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    let count = try JournalError.attempt("read", name) { () throws(Errno) in
      var bytes = block.mutableSpan
      return try unsafe bytes.withUnsafeMutableBytes { (bytes) throws(Errno) in
        try unsafe file.read(into: bytes, at: 0)
      }
    }
    guard count == block.count else { return nil }
    if let version = unsafe block.withUnsafeBytes({ unsafe SegmentHeader.readVersion(of: $0) }),
      version > SegmentHeader.version
    {
      throw .newer(file: name, format: version, upTo: SegmentHeader.version)
    }
    return unsafe block.withUnsafeBytes { unsafe SegmentHeader($0) }
  }
}

/// Where the journal ends.
package struct JournalEnd: Equatable {
  /// Behind the last batch. `counted` is that of the start: who reads the records counts them.
  package var position: JournalPosition
  /// Of the last batch, nanoseconds; 0 where there is none.
  package var time: Int64
  /// Bytes of the batch that a crash has torn, as far as can be told; 0 where none was.
  package var tornBytes: Int

  package init(position: JournalPosition, time: Int64, tornBytes: Int) {
    self.position = position
    self.time = time
    self.tornBytes = tornBytes
  }
}

/// A stretch of the journal in memory. One thread uses it at a time.
@safe package final class Window: @unchecked Sendable {
  /// A group of a megabyte, with its header. The two that go round fit the processor's cache.
  private static let initialBytes = 1 << 20 + 4096

  package private(set) var bytes: UnsafeMutableRawBufferPointer
  /// Bytes of whole, checked batches at the beginning.
  package var batchBytes = 0

  package init() { unsafe bytes = .allocate(byteCount: Self.initialBytes, alignment: 64) }

  deinit { unsafe bytes.deallocate() }

  /// Makes room for `byteCount` bytes; what is in the window is lost.
  package func grow(toHold byteCount: Int) {
    guard unsafe byteCount > bytes.count else { return }
    unsafe bytes.deallocate()
    unsafe bytes = .allocate(byteCount: byteCount, alignment: 64)
  }

  /// Calls `body` with each batch, those that end a segment included.
  package func forEachBatch(
    _ body: (BatchHeader, UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) {
    // The batches are checked: they lie one behind the other and come to `batchBytes`.
    var offset = 0
    while offset < batchBytes, let base = unsafe bytes.baseAddress,
      let header = unsafe BatchHeader(fields: base + offset)
    {
      let start = offset + BatchHeader.byteCount
      offset = start + header.payloadLength
      try unsafe body(header, UnsafeRawBufferPointer(rebasing: bytes[start..<offset]))
    }
  }
}

/// Two windows that go round between a thread that fills them and the caller, who uses what is in them.
private final class ReadAhead: Sendable {
  private enum Filled {
    case window(Window, place: JournalPosition, end: JournalEnd?)
    case failed(JournalError)
  }

  private struct State {
    var empty = [Window(), Window()]
    /// In order.
    var filled: [Filled] = []
    var isStopped = false
  }

  private let state = Mutex(State())
  private let hasEmpty: Wakeup
  private let hasFilled: Wakeup
  private let thread = Mutex<Thread?>(nil)

  init(_ reader: JournalReader) throws(Errno) {
    hasEmpty = try Wakeup()
    hasFilled = try Wakeup()
    let started = try Thread(name: "read ahead") { [self] in run(reader) }
    thread.withLock { $0 = started }
  }

  /// Ends the thread.
  func stop() {
    state.withLock { $0.isStopped = true }
    hasEmpty.signal()
    let started = thread.withLock { thread in
      let started = thread
      thread = nil
      return started
    }
    started?.join()
  }

  func forEachBatch(
    while wantsMore: () -> Bool,
    _ body: (BatchHeader, UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> JournalEnd {
    while true {
      switch nextFilled() {
      case .failed(let error): throw error
      case .window(let window, let place, let end):
        try unsafe window.forEachBatch(body)
        if let end { return end }
        if !wantsMore() { return JournalEnd(position: place, time: 0, tornBytes: 0) }
        state.withLock { $0.empty.append(window) }
        hasEmpty.signal()
      }
    }
  }

  private func nextFilled() -> Filled {
    while true {
      let filled = state.withLock { $0.filled.isEmpty ? nil : $0.filled.removeFirst() }
      if let filled { return filled }
      hasFilled.wait(nanoseconds: .max)
    }
  }

  // MARK: The thread

  private func run(_ reader: JournalReader) {
    let chain = JournalChain(reader)
    while let window = nextEmpty() {
      do throws(JournalError) {
        let end = try chain.fill(window)
        give(.window(window, place: chain.place, end: end))
        if end != nil { return }
      } catch {
        give(.failed(error))
        return
      }
    }
  }

  private func give(_ filled: Filled) {
    state.withLock { $0.filled.append(filled) }
    hasFilled.signal()
  }

  /// nil where the caller wants no more.
  private func nextEmpty() -> Window? {
    while true {
      let (window, isStopped) = state.withLock { ($0.empty.popLast(), $0.isStopped) }
      if isStopped { return nil }
      if let window { return window }
      hasEmpty.wait(nanoseconds: .max)
    }
  }
}
