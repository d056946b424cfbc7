// Where records go: a ring in memory, from which the journal's thread takes what is there as one group.
//
// `append` is called while everything that the record is about is locked, so that the order of the log
// is the order of the commits. It takes no lock of its own: one atomic addition gives the record its
// place and its number, then the bytes are copied, and last the record's first word is stored, which is
// zero until then. The reader goes from record to record up to the first word that is zero, and clears
// what it has taken.
//
// Nobody waits for room while holding a lock. Whoever is about to change something asks `isAdmitting`
// first; each session has at most one append between that question and the next, and `headroom` keeps
// room for one record of every session.
internal import CPlatform
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

/// A handle: copies name the same ring, and who made it frees it. Without memory for records it only counts
/// them.
@safe package struct LogRing: @unchecked Sendable {
  /// What many threads change.
  private struct Tail: ~Copyable {
    /// Bytes appended, and records that were only counted.
    let lsn = Atomic<UInt64>(0)
  }

  /// What the journal's thread changes and the others read.
  private struct Progress: ~Copyable {
    /// Changes are admitted while the tail is below.
    let admitted = Atomic<UInt64>(.max)
    let durable = Atomic<UInt64>(.max)
    let reason = Atomic<UInt8>(Unavailable.journalFull.rawValue)
    let isKeeping = Atomic<Bool>(false)
  }

  package static let ringBytesMin = 1 << 14
  /// Room for one record of each of 170 sessions in a ring of usual size.
  private static let headroomMax = 1 << 20
  /// So far ahead of a record, some records are fetched. A multiple of a cache line.
  private static let bytesAhead = 1024
  /// Of two cache lines: processors fetch them in pairs.
  private static let cellBytes = 128

  /// Both in one block of memory, each on cache lines of its own.
  private let tail: UnsafeMutablePointer<Tail>
  private let progress: UnsafeMutablePointer<Progress>
  /// nil: nothing is kept.
  private let ring: UnsafeMutableRawPointer?
  private let capacity: Int
  private let headroom: Int
  private let shape: RecordShape

  /// A log that only counts.
  package init(shape: RecordShape) {
    unsafe self.init(ring: nil, capacity: 0, headroom: 0, shape)
  }

  /// A log that a journal reads. It admits nothing before the journal runs.
  /// - Parameter ringBytes: a power of two from 16 KiB.
  package init(ringBytes: Int, shape: RecordShape) {
    precondition(
      ringBytes.nonzeroBitCount == 1 && ringBytes >= Self.ringBytesMin, "a power of two")
    let mapping = unsafe mmap(
      nil, ringBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let mapping = unsafe mapping, Int(bitPattern: mapping) != -1 else {
      preconditionFailure("no \(ringBytes) bytes of address space for the journal's ring")
    }
    unsafe self.init(
      ring: mapping, capacity: ringBytes, headroom: min(ringBytes / 8 * 5, Self.headroomMax), shape)
    unsafe progress.pointee.admitted.store(0, ordering: .relaxed)
    unsafe progress.pointee.durable.store(0, ordering: .relaxed)
    unsafe progress.pointee.isKeeping.store(true, ordering: .relaxed)
  }

  private init(
    ring: UnsafeMutableRawPointer?, capacity: Int, headroom: Int, _ shape: RecordShape
  ) {
    unsafe self.ring = ring
    self.capacity = capacity
    self.headroom = headroom
    self.shape = shape
    // Each cell lies within its half, which is aligned to it.
    let cells = UnsafeMutableRawPointer.allocate(
      byteCount: 2 * Self.cellBytes, alignment: Self.cellBytes)
    unsafe tail = cells.bindMemory(to: Tail.self, capacity: 1)
    unsafe progress = (cells + Self.cellBytes).bindMemory(to: Progress.self, capacity: 1)
    unsafe tail.initialize(to: Tail())
    unsafe progress.initialize(to: Progress())
  }

  /// Goes on after `lsn`, the number of the newest record that was recovered. Before the first append.
  package func resume(after lsn: UInt64) {
    unsafe tail.pointee.lsn.store(lsn, ordering: .relaxed)
    unsafe progress.pointee.durable.store(lsn, ordering: .releasing)
  }

  package func free() {
    if let ring = unsafe ring { _ = unsafe munmap(ring, capacity) }
    unsafe tail.deinitialize(count: 1)
    unsafe progress.deinitialize(count: 1)
    unsafe tail.deallocate()
  }

  /// Whether records are kept; otherwise they are counted. Stays as it is while anybody may append.
  @inline(__always)
  package var isKeeping: Bool {
    unsafe progress.pointee.isKeeping.load(ordering: .relaxed)
  }

  /// Sessions that there is headroom for.
  package var sessionsMax: Int { unsafe ring == nil ? .max : headroom / shape.bytesMax }

  /// The number of the newest record; 0 before the first.
  package var last: UInt64 { unsafe tail.pointee.lsn.load(ordering: .acquiring) }

  /// Every record up to this number is as durable as it was asked to be; in memory, all are.
  @inline(__always)
  package var durable: UInt64 {
    unsafe progress.pointee.durable.load(ordering: .sequentiallyConsistent)
  }

  // MARK: Sessions

  /// Whether there is room for one more record of the session that asks. Acquires what the reader
  /// cleared.
  @inline(__always)
  package var isAdmitting: Bool {
    unsafe tail.pointee.lsn.load(ordering: .relaxed)
      < progress.pointee.admitted.load(ordering: .acquiring)
  }

  /// Bytes that may wait to be durable; with more, nothing is admitted.
  package var lagBytesMax: Int { capacity - headroom }

  /// Why `isAdmitting` is false.
  package var reason: Unavailable {
    Unavailable(rawValue: unsafe progress.pointee.reason.load(ordering: .relaxed)) ?? .journalFull
  }

  /// Appends the record, which `isAdmitting` has admitted, and gives its log sequence number.
  /// - Parameter record: of a multiple of 8 bytes, 16 at least, aligned to 8; the first word is not zero.
  @inline(__always)
  package func append(_ record: UnsafeRawBufferPointer) -> UInt64 {
    guard isKeeping, let ring = unsafe ring else {
      return unsafe tail.pointee.lsn.wrappingAdd(1, ordering: .relaxed).newValue
    }
    let count = record.count
    assert(count >= 16 && count % 8 == 0 && count <= shape.bytesMax, "what is no record")
    let start = unsafe tail.pointee.lsn.wrappingAdd(
      UInt64(count), ordering: .acquiringAndReleasing
    ).oldValue
    let offset = Int(truncatingIfNeeded: start) & (capacity - 1)
    // The bytes lie in [offset, offset + count), around the ring's end; offset and count are multiples
    // of 8, so that the first word never is.
    guard let base = record.baseAddress else { return start }
    assert(
      Int(unsafe UInt32(littleEndian: base.load(as: UInt32.self))) == count,
      "a record that says another length")
    let first = min(count, capacity - offset)
    unsafe (ring + offset + 8).copyMemory(from: base + 8, byteCount: first - 8)
    if first < count { unsafe ring.copyMemory(from: base + first, byteCount: count - first) }
    unsafe word(ring, offset).pointee.store(base.load(as: UInt64.self), ordering: .releasing)
    return start &+ UInt64(count)
  }

  /// Fetches where a record of usual size comes to lie some records later, for who will append so many. A hint.
  package func prefetchAhead() {
    guard let ring = unsafe ring else { return }
    let end = unsafe tail.pointee.lsn.load(ordering: .relaxed)
    let offset = Int(truncatingIfNeeded: end) + Self.bytesAhead
    unsafe hf_prefetch(ring + (offset & (capacity - 1)))
    unsafe hf_prefetch(ring + ((offset + Self.cellBytes / 2) & (capacity - 1)))
  }

  // MARK: The journal

  /// Whole records from `start`, at most `bytesMax` bytes of them: how many bytes, and records, and
  /// how many of these are counted. The journal's thread only.
  package func pending(
    from start: UInt64, bytesMax: Int
  ) -> (bytes: Int, records: Int, counted: Int) {
    guard let ring = unsafe ring else { return (0, 0, 0) }
    var bytes = 0
    var records = 0
    var counted = 0
    while bytes < capacity {
      let offset = Int(truncatingIfNeeded: start &+ UInt64(bytes)) & (capacity - 1)
      // A record begins with its length and its kind, little endian.
      let word = unsafe UInt64(
        littleEndian: word(ring, offset).pointee.load(ordering: .acquiring))
      let length = Int(truncatingIfNeeded: word & 0xffff_ffff)
      if length == 0 { break }
      // Where a record ends is known once its first word is there: what comes later is asked for now.
      unsafe hf_prefetch_read(ring + ((offset + Self.bytesAhead) & (capacity - 1)))
      precondition(length % 8 == 0 && length <= shape.bytesMax, "the ring holds what is no record")
      if bytes + length > bytesMax { break }
      bytes += length
      records += 1
      if UInt8(truncatingIfNeeded: word >> 32) != shape.uncountedKind { counted += 1 }
    }
    return (bytes, records, counted)
  }

  /// Calls `body` with `count` pending bytes from `start`, in two pieces where they lie around the
  /// ring's end. The journal's thread only.
  package func withPending<Result, Failure: Error>(
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
  package func clear(from start: UInt64, count: Int) {
    guard let ring = unsafe ring else { return }
    precondition(count >= 0 && count <= capacity, "more is cleared than the ring has")
    let offset = Int(truncatingIfNeeded: start) & (capacity - 1)
    let first = min(count, capacity - offset)
    unsafe memset(ring + offset, 0, first)
    if first < count { unsafe memset(ring, 0, count - first) }
  }

  package func publish(durable lsn: UInt64) {
    precondition(lsn <= last, "more is durable than was appended")
    precondition(lsn >= durable, "what was durable is not any more")
    unsafe progress.pointee.durable.store(lsn, ordering: .sequentiallyConsistent)
  }

  /// Without a disk nothing has to be waited for. Before the first append.
  package func countAllAsDurable() {
    unsafe progress.pointee.durable.store(.max, ordering: .releasing)
  }

  /// Keeps records from now on: behind which number. Nobody appends meanwhile, and the ring is clear.
  package func keep() -> UInt64 {
    precondition(unsafe ring != nil && !isKeeping, "nothing to keep records in, or they are kept")
    // Records lie at multiples of 8.
    let start = (last &+ 7) & ~7
    unsafe tail.pointee.lsn.store(start, ordering: .relaxed)
    admit(cleared: start, spaceEnd: .max, isDiskFull: false)
    unsafe progress.pointee.isKeeping.store(true, ordering: .releasing)
    return start
  }

  /// Counts records from now on, and admits all. Nobody appends meanwhile, and the ring is clear.
  package func countOnly() {
    unsafe progress.pointee.isKeeping.store(false, ordering: .relaxed)
    unsafe progress.pointee.admitted.store(.max, ordering: .releasing)
  }

  /// Admits changes up to the room in the ring, whose bytes before `cleared` are free, and to
  /// `spaceEnd`, the number up to which there is space on the disk for certain.
  /// - Parameter isDiskFull: that there will be no more; otherwise more is just being made.
  package func admit(cleared: UInt64, spaceEnd: UInt64, isDiskFull: Bool) {
    let ringEnd = cleared &+ UInt64(capacity)
    let end = min(ringEnd, spaceEnd)
    unsafe progress.pointee.reason.store(
      (isDiskFull && spaceEnd < ringEnd ? Unavailable.noSpace : .journalFull).rawValue,
      ordering: .relaxed)
    unsafe progress.pointee.admitted.store(
      end > UInt64(headroom) ? end - UInt64(headroom) : 0, ordering: .releasing)
  }

  /// Admits nothing from here on.
  package func fail() {
    unsafe progress.pointee.reason.store(Unavailable.failed.rawValue, ordering: .relaxed)
    unsafe progress.pointee.admitted.store(0, ordering: .releasing)
  }

  @inline(__always)
  private func word(
    _ ring: UnsafeMutableRawPointer, _ offset: Int
  ) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe (ring + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
  }
}
