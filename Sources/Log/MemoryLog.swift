// The log of a store without a directory: what was appended to the ring is moved to a larger one, where the
// newest records stay for readers. Nothing waits for it, but for room in the first ring. Writing down what
// nobody reads costs a tenth of a call and more, so that it can begin and end while the store is used: the
// records of the time in between are counted, and gone for readers.
package import Posix
internal import Synchronization

/// Any thread, but that one at a time moves records: `start`'s, or who calls `drain` without it.
@safe package final class MemoryLog: @unchecked Sendable {
  /// Its memory is reached under the lock alone.
  @safe private struct State: @unchecked Sendable {
    /// Records by their numbers modulo `capacity`; nil where none are kept.
    var memory: UnsafeMutableRawPointer?
    /// Of the first record that is kept, and behind the last.
    var oldest: UInt64 = 0
    var end: UInt64 = 0
  }

  /// Records of one pass: no reader waits for longer than copying that takes.
  private static let passBytes = 256 << 10
  /// Between two passes: appending wakes the thread once for as long, and a wake-up costs as much as a hundred
  /// records. What comes meanwhile must fit the ring.
  private static let restNanoseconds: Int64 = 4_000_000

  private let ring: LogRing
  private let capacity: Int
  private let state = Mutex(State())
  /// Held by who moves records, and while that begins or ends; `state` is taken behind it.
  private let moving = Mutex<Void>(())
  private let wakeup: Wakeup
  /// The thread sleeps until somebody appends.
  private let isAsleep = Atomic<Bool>(false)
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Thread?>(nil)
  private let clients = Mutex<[any JournalClient]>([])

  /// It keeps nothing before `keep`.
  /// - Parameters:
  ///   - ring: of the store; nothing was appended yet.
  ///   - capacity: a power of two, more than the longest record. Memory is taken as it fills.
  package init(ring: LogRing, capacity: Int) throws(Errno) {
    precondition(capacity.nonzeroBitCount == 1, "a power of two")
    self.ring = ring
    self.capacity = capacity
    wakeup = try Wakeup()
    // Nobody waits for a disk.
    ring.countAllAsDurable()
    ring.countOnly()
  }

  deinit { unsafe state.withLock { unsafe $0.memory }?.deallocate() }

  // MARK: Beginning and ending

  package var isKeeping: Bool { ring.isKeeping }

  /// Keeps records from now on: behind which number. Nobody appends meanwhile.
  package func keep() -> UInt64 {
    moving.withLock { _ in
      let start = ring.keep()
      state.withLock { state in
        unsafe state.memory = .allocate(byteCount: capacity, alignment: 4096)
        (state.oldest, state.end) = (start, start)
      }
      return start
    }
  }

  /// Gives all records up, and the memory back. Nobody appends meanwhile.
  package func forget() {
    moving.withLock { _ in
      moveAll()
      ring.countOnly()
      state.withLock { state in
        unsafe state.memory?.deallocate()
        unsafe state.memory = nil
        state.oldest = state.end
      }
    }
  }

  // MARK: The thread

  package func start() throws(Errno) {
    let started = try Thread(name: "records") { [self] in
      while !isStopping.load(ordering: .acquiring) {
        if drain() {
          wakeup.wait(nanoseconds: Self.restNanoseconds)
          continue
        }
        isAsleep.store(true, ordering: .sequentiallyConsistent)
        // Somebody may have appended before it was told that it must wake.
        if !hasPending { wakeup.wait(nanoseconds: .max) }
        isAsleep.store(false, ordering: .sequentiallyConsistent)
      }
    }
    thread.withLock { $0 = started }
  }

  private var hasPending: Bool { ring.isKeeping && ring.last != endLSN }

  package func stop() {
    isStopping.store(true, ordering: .releasing)
    wakeup.signal()
    let started = thread.withLock { thread in
      let started = thread
      thread = nil
      return started
    }
    started?.join()
  }

  /// Something was appended.
  @inline(__always)
  package func request() {
    if isAsleep.load(ordering: .sequentiallyConsistent) { wakeUp() }
  }

  @inline(never)
  private func wakeUp() {
    if isAsleep.exchange(false, ordering: .sequentiallyConsistent) { wakeup.signal() }
  }

  package func add(_ client: any JournalClient) { clients.withLock { $0.append(client) } }

  /// Moves everything that was appended. False: there was nothing.
  @discardableResult
  package func drain() -> Bool {
    moving.withLock { _ in ring.isKeeping && moveAll() }
  }

  @discardableResult
  private func moveAll() -> Bool {
    let before = endLSN
    while true {
      let start = endLSN
      let bytes = ring.pending(from: start, bytesMax: min(Self.passBytes, capacity)).bytes
      if bytes == 0 { break }
      unsafe ring.withPending(from: start, count: bytes) { first, second in
        state.withLock { state in
          guard let memory = unsafe state.memory else { return }
          unsafe trim(&state, memory, toHold: bytes)
          unsafe put(first, at: state.end, memory)
          unsafe put(second, at: state.end &+ UInt64(first.count), memory)
          state.end &+= UInt64(bytes)
        }
      }
      ring.clear(from: start, count: bytes)
      ring.admit(cleared: start &+ UInt64(bytes), spaceEnd: .max, isDiskFull: false)
    }
    if endLSN == before { return false }
    clients.withLock { list in
      for client in list where client.awaitedLSN > before { client.wake() }
    }
    return true
  }

  /// Forgets the oldest records, whole ones, until there is room for `bytes` more.
  private func trim(
    _ state: inout State, _ memory: UnsafeMutableRawPointer, toHold bytes: Int
  ) {
    while state.end - state.oldest + UInt64(bytes) > UInt64(capacity) {
      // A record begins with its length; its first word does not go around the end.
      let offset = Int(truncatingIfNeeded: state.oldest) & (capacity - 1)
      let length = unsafe UnsafeRawPointer(memory + offset).load32(0)
      precondition(length > 0, "a record without length")
      state.oldest += UInt64(length)
    }
  }

  private func put(
    _ bytes: UnsafeRawBufferPointer, at lsn: UInt64, _ memory: UnsafeMutableRawPointer
  ) {
    guard let base = bytes.baseAddress else { return }
    let offset = Int(truncatingIfNeeded: lsn) & (capacity - 1)
    // `trim` has made room: what is written over is no record that is kept.
    let first = min(bytes.count, capacity - offset)
    unsafe (memory + offset).copyMemory(from: base, byteCount: first)
    unsafe memory.copyMemory(from: base + first, byteCount: bytes.count - first)
  }
}

extension MemoryLog: ReadableLog {
  package var endLSN: UInt64 { state.withLock { $0.end } }

  /// Behind everything that was appended: in memory a decision is answered before it is moved here.
  package func endPoint() -> LogPoint {
    drain()
    return LogPoint(lsn: endLSN, mark: 0)
  }

  package func locate(_ point: LogPoint) throws(LogCursorError) -> LogPoint {
    let (oldest, end) = state.withLock { ($0.oldest, $0.end) }
    guard point.lsn <= end else { throw .otherHistory }
    guard point.lsn >= oldest else { throw .trimmed(oldest: oldest) }
    return point
  }

  package func cursor(from point: LogPoint) throws(LogCursorError) -> any LogCursor {
    MemoryCursor(self, at: try locate(point).lsn)
  }

  package func oldestLSN() -> UInt64 { state.withLock { $0.oldest } }

  package func cursorFromOldest() -> any LogCursor { MemoryCursor(self, at: oldestLSN()) }

  package func cursorFromSegment(before lsn: UInt64) -> any LogCursor { cursorFromOldest() }

  /// Copies whole records from `lsn` on into `buffer`: how many bytes.
  fileprivate func copy(
    from lsn: UInt64, into buffer: UnsafeMutableRawBufferPointer
  ) throws(LogCursorError) -> Int {
    let copied = state.withLock { state -> Int? in
      guard lsn >= state.oldest else { return nil }
      guard let memory = unsafe state.memory else { return 0 }
      var count = 0
      while lsn &+ UInt64(count) < state.end {
        let offset = Int(truncatingIfNeeded: lsn &+ UInt64(count)) & (capacity - 1)
        let length = unsafe Int(UnsafeRawPointer(memory + offset).load32(0))
        if count + length > buffer.count { break }
        count += length
      }
      let offset = Int(truncatingIfNeeded: lsn) & (capacity - 1)
      let first = min(count, capacity - offset)
      guard count > 0, let base = buffer.baseAddress else { return 0 }
      unsafe base.copyMemory(from: memory + offset, byteCount: first)
      unsafe (base + first).copyMemory(from: memory, byteCount: count - first)
      return count
    }
    guard let copied else { throw .trimmed(oldest: oldestLSN()) }
    return copied
  }
}

/// Reads copies of what is in memory.
@safe private final class MemoryCursor: LogCursor {
  /// Several of the longest records.
  private static let bufferBytes = 64 << 10

  private let log: MemoryLog
  private var lsn: UInt64
  private let buffer: UnsafeMutableRawBufferPointer

  init(_ log: MemoryLog, at lsn: UInt64) {
    self.log = log
    self.lsn = lsn
    unsafe buffer = .allocate(byteCount: Self.bufferBytes, alignment: 8)
  }

  deinit { unsafe buffer.deallocate() }

  func read(
    bytesMax: Int, _ body: (LogBatch, UnsafeRawBufferPointer) -> Void
  ) throws(LogCursorError) {
    var bytesRead = 0
    while bytesRead < bytesMax {
      let count = try unsafe log.copy(from: lsn, into: buffer)
      if count == 0 { return }
      bytesRead += count
      let start = lsn
      lsn &+= UInt64(count)
      unsafe body(
        LogBatch(lsn: start, place: nil, end: LogPoint(lsn: lsn, mark: 0)),
        UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }
  }
}
