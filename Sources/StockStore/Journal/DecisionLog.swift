// Where decisions go: a ring in memory, from which the journal's thread takes what is there as one group.
//
// `append` is called while everything that the decision changes is locked, so that the order of the log
// is the order of the commits. It takes no lock of its own: one atomic addition gives the record its
// place and its number, then the bytes are copied, and last the record's first word is stored, which is
// zero until then. The reader goes from record to record up to the first word that is zero, and clears
// what it has taken.
//
// Nobody waits for room while holding a lock. Whoever is about to change something asks `isAdmitting`
// first; each session has at most one append between that question and the next, and `headroom` keeps
// room for one record of every session.
internal import Synchronization

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// Why nothing can be changed now.
package enum Unavailable: UInt8, Equatable, Sendable, BitwiseCopyable {
  /// The disk is behind by as much as memory may hold.
  case journalFull = 1
  /// There is no room on the disk.
  case noSpace
  /// The disk has failed: the process is about to end.
  case failed
}

/// A handle, as Region. Without a ring, in memory, it only counts.
@safe struct DecisionLog: @unchecked Sendable {
  private struct Tail: ~Copyable {
    /// Bytes appended; in memory, decisions.
    let lsn = Atomic<UInt64>(0)
  }

  private struct Progress: ~Copyable {
    /// Changes are admitted while the tail is below.
    let admitted = Atomic<UInt64>(.max)
    let durable = Atomic<UInt64>(.max)
    let reason = Atomic<UInt8>(Unavailable.journalFull.rawValue)
  }

  static let ringBytesMin = 1 << 14
  /// Room for one record of each of 256 sessions in a ring of usual size.
  private static let headroomMax = 1 << 20

  private let tail = PaddedArray<Tail>(count: 1) { _ in Tail() }
  private let progress = PaddedArray<Progress>(count: 1) { _ in Progress() }
  /// nil: nothing is kept.
  private let ring: UnsafeMutableRawPointer?
  private let capacity: Int
  private let headroom: Int

  /// A log that only counts.
  init() {
    unsafe ring = nil
    capacity = 0
    headroom = 0
  }

  /// A log that a journal reads. It admits nothing before the journal runs.
  /// - Parameter ringBytes: a power of two from 16 KiB.
  init(ringBytes: Int) {
    precondition(
      ringBytes.nonzeroBitCount == 1 && ringBytes >= Self.ringBytesMin, "a power of two")
    capacity = ringBytes
    headroom = min(ringBytes / 2, Self.headroomMax)
    let mapping = unsafe mmap(
      nil, ringBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let mapping = unsafe mapping, Int(bitPattern: mapping) != -1 else {
      preconditionFailure("no \(ringBytes) bytes of address space for the journal's ring")
    }
    unsafe ring = mapping
    progress[0].admitted.store(0, ordering: .relaxed)
    progress[0].durable.store(0, ordering: .relaxed)
  }

  /// Goes on after `lsn`, the number of the newest decision that was recovered. Before the first append.
  func resume(after lsn: UInt64) {
    tail[0].lsn.store(lsn, ordering: .relaxed)
    progress[0].durable.store(lsn, ordering: .releasing)
  }

  func free() {
    if let ring = unsafe ring { _ = unsafe munmap(ring, capacity) }
    tail.free()
    progress.free()
  }

  /// Whether decisions are kept at all.
  @inline(__always)
  var isJournaled: Bool { unsafe ring != nil }

  /// Sessions that there is headroom for.
  var sessionsMax: Int { isJournaled ? headroom / RecordWriter.byteCountMax : .max }

  /// The number of the newest decision; 0 before the first.
  var last: UInt64 { tail[0].lsn.load(ordering: .acquiring) }

  /// Every decision up to this number is as durable as it was asked to be; in memory, all are.
  @inline(__always)
  var durable: UInt64 { progress[0].durable.load(ordering: .sequentiallyConsistent) }

  // MARK: Sessions

  /// Whether there is room for one more record of the session that asks. Acquires what the reader
  /// cleared.
  @inline(__always)
  var isAdmitting: Bool {
    tail[0].lsn.load(ordering: .relaxed) < progress[0].admitted.load(ordering: .acquiring)
  }

  /// Why `isAdmitting` is false.
  var reason: Unavailable {
    Unavailable(rawValue: progress[0].reason.load(ordering: .relaxed)) ?? .journalFull
  }

  /// Appends the record, which `isAdmitting` has admitted, and gives its log sequence number.
  @inline(__always)
  func append(_ record: borrowing RecordWriter) -> UInt64 {
    guard let ring = unsafe ring else {
      return tail[0].lsn.wrappingAdd(1, ordering: .relaxed).newValue
    }
    let bytes = unsafe record.bytes
    let count = bytes.count
    let start = tail[0].lsn.wrappingAdd(UInt64(count), ordering: .acquiringAndReleasing).oldValue
    let offset = Int(truncatingIfNeeded: start) & (capacity - 1)
    // The bytes lie in [offset, offset + count), around the ring's end; offset and count are multiples
    // of 8, so that the first word never is.
    guard let base = bytes.baseAddress else { return start }
    let first = min(count, capacity - offset)
    unsafe (ring + offset + 8).copyMemory(from: base + 8, byteCount: first - 8)
    if first < count { unsafe ring.copyMemory(from: base + first, byteCount: count - first) }
    unsafe word(ring, offset).pointee.store(base.load(as: UInt64.self), ordering: .releasing)
    return start &+ UInt64(count)
  }

  // MARK: The journal

  /// Whole records from `start`, at most `bytesMax` bytes of them: how many bytes, and records, and
  /// how many of these are decisions. The journal's thread only.
  func pending(
    from start: UInt64, bytesMax: Int
  ) -> (bytes: Int, records: Int, decisions: Int) {
    guard let ring = unsafe ring else { return (0, 0, 0) }
    var bytes = 0
    var records = 0
    var decisions = 0
    while bytes < capacity {
      let offset = Int(truncatingIfNeeded: start &+ UInt64(bytes)) & (capacity - 1)
      let word = unsafe word(ring, offset).pointee.load(ordering: .acquiring)
      let length = Int(truncatingIfNeeded: word & 0xffff_ffff)
      if length == 0 || bytes + length > bytesMax { break }
      bytes += length
      records += 1
      if UInt8(truncatingIfNeeded: word >> 32) != RecordWriter.Kind.clock.rawValue {
        decisions += 1
      }
    }
    return (bytes, records, decisions)
  }

  /// Calls `body` with `count` pending bytes from `start`, in two pieces where they lie around the
  /// ring's end. The journal's thread only.
  func withPending<Result, Failure: Error>(
    from start: UInt64, count: Int,
    _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let offset = Int(truncatingIfNeeded: start) & max(0, capacity - 1)
    let first = min(count, capacity - offset)
    // `pending` has found `count` bytes there.
    return try unsafe body(
      UnsafeRawBufferPointer(start: ring.map { unsafe $0 + offset }, count: first),
      UnsafeRawBufferPointer(start: ring, count: count - first))
  }

  /// Clears what was taken, for the records that come to lie there. The journal's thread only.
  func clear(from start: UInt64, count: Int) {
    guard let ring = unsafe ring else { return }
    let offset = Int(truncatingIfNeeded: start) & (capacity - 1)
    let first = min(count, capacity - offset)
    unsafe memset(ring + offset, 0, first)
    if first < count { unsafe memset(ring, 0, count - first) }
  }

  func publish(durable lsn: UInt64) {
    progress[0].durable.store(lsn, ordering: .sequentiallyConsistent)
  }

  /// Admits changes up to the room in the ring, whose bytes before `cleared` are free, and to
  /// `spaceEnd`, the number up to which there is space on the disk for certain.
  /// - Parameter isDiskFull: that there will be no more; otherwise more is just being made.
  func admit(cleared: UInt64, spaceEnd: UInt64, isDiskFull: Bool) {
    let ringEnd = cleared &+ UInt64(capacity)
    let end = min(ringEnd, spaceEnd)
    progress[0].reason.store(
      (isDiskFull && spaceEnd < ringEnd ? Unavailable.noSpace : .journalFull).rawValue,
      ordering: .relaxed)
    progress[0].admitted.store(
      end > UInt64(headroom) ? end - UInt64(headroom) : 0, ordering: .releasing)
  }

  /// Admits nothing from here on.
  func fail() {
    progress[0].reason.store(Unavailable.failed.rawValue, ordering: .relaxed)
    progress[0].admitted.store(0, ordering: .releasing)
  }

  @inline(__always)
  private func word(
    _ ring: UnsafeMutableRawPointer, _ offset: Int
  ) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe (ring + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
  }
}
