// When is a group large enough? A sync costs the same whatever it carries, so under load it pays to wait
// for those who are about to come; a lone caller must not wait at all.
//
// Whoever answers waits for its sync: while one is under way, the others' records gather by themselves.
// What a group carried, and what had gathered when it was done, is what callers keep in flight. The next
// group waits until fifteen sixteenths of that are there, or for `patience`, four times what a sync
// takes; then for a session that is in the middle of its turn: it appends more, and answers nothing
// before its end. With one caller, any record is enough.
internal import Posix
internal import Synchronization

/// Used by the journal's thread, but for `request` and `interrupt`.
final class Gathering: Sendable {
  /// Of records: some nine.
  private static let fewBytes: UInt64 = 1024
  /// Longer than a turn of a thousand calls, and still no time that a caller would notice.
  private static let patienceNanosecondsMax: Int64 = 1_000_000
  /// Before another look whether the disk has room again.
  private static let restNanoseconds: Int64 = 20_000_000
  /// Nothing has to be done before somebody asks; a look now and then costs nothing.
  private static let idleNanoseconds: Int64 = 1_000_000_000

  private struct Plan {
    /// Bytes that make a group worth its sync; 0: any.
    var target: UInt64 = 0
    var patienceNanoseconds: Int64 = 0
  }

  /// The log sequence number that wakes the thread; UInt64.max while it does not sleep.
  private let wakesAt = Atomic<UInt64>(.max)
  private let plan = Mutex(Plan())
  private let wakeup: Wakeup
  private let isInterrupted = Atomic<Bool>(false)
  /// More never gathers: a group's most, or what the ring admits.
  private let targetMax: UInt64

  init(_ options: JournalOptions) throws(Errno) {
    wakeup = try Wakeup()
    targetMax = UInt64(max(0, min(options.groupBytesMax, options.ringBytes / 4)))
  }

  /// Somebody has appended up to `lsn`.
  @inline(__always)
  func request(_ lsn: UInt64) {
    // What was appended is seen by a thread that goes to sleep, or its going to sleep is seen here.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    if lsn >= wakesAt.load(ordering: .relaxed) { wake() }
  }

  private func wake() {
    if wakesAt.exchange(.max, ordering: .acquiringAndReleasing) != .max { wakeup.signal() }
  }

  /// Ends the wait that there is, and all that come.
  func interrupt() {
    isInterrupted.store(true, ordering: .releasing)
    wakeup.signal()
  }

  /// A group was written.
  /// - Parameters:
  ///   - records: how many were in it.
  ///   - bytes: of them.
  ///   - arrived: bytes of records that gathered meanwhile.
  ///   - nanoseconds: how long it took.
  func wrote(records: Int, bytes: UInt64, arrived: UInt64, nanoseconds: Int64) {
    plan.withLock {
      let inFlight = bytes + arrived
      // Records differ in size: of a few, the next may be half as long. One is somebody alone.
      $0.target = inFlight < Self.fewBytes ? inFlight / 2 : inFlight / 16 * 15
      if records == 1 && arrived == 0 { $0.target = 0 }
      $0.target = min($0.target, targetMax)
      $0.patienceNanoseconds = min(4 * nanoseconds, Self.patienceNanosecondsMax)
    }
  }

  /// Waits until a group is worth its sync, or for a while.
  /// - Parameters:
  ///   - durable: the end of what was written.
  ///   - last: asks for the end of what was appended.
  ///   - isAppending: asks whether any client is in the middle of appending.
  func wait(durable: UInt64, last: () -> UInt64, isAppending: () -> Bool) {
    let plan = plan.withLock { $0 }
    if plan.target > 0 {
      if sleep(until: durable + plan.target, plan.patienceNanoseconds, last) { return }
      if last() > durable {
        sleepWhile(isAppending, durable: durable)
        return
      }
      if isInterrupted.load(ordering: .acquiring) { return }
      // Nobody came back: the load is gone.
      self.plan.withLock { $0 = Plan() }
    }
    _ = sleep(until: durable + 1, Self.idleNanoseconds, last)
  }

  /// Sleeps until the next session ends a turn in which it appended, if one is in a turn.
  private func sleepWhile(_ isAppending: () -> Bool, durable: UInt64) {
    wakesAt.store(durable, ordering: .relaxed)
    // A session ends its turn first and then looks whether to wake this thread.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    stayAwake(
      wasWoken: isAppending() && wakeup.wait(nanoseconds: Self.patienceNanosecondsMax))
  }

  /// Asks for no more signals, and takes the one that is on its way: it would end the next sleep early, and
  /// make the next group a small one.
  private func stayAwake(wasWoken: Bool) {
    let isSignalled = wakesAt.exchange(.max, ordering: .acquiringAndReleasing) == .max
    if isSignalled && !wasWoken { wakeup.wait(nanoseconds: Self.patienceNanosecondsMax) }
  }

  /// Whether a signal is left for the next sleep; takes it. For tests.
  var hasSignal: Bool { wakeup.wait(nanoseconds: 0) }

  /// Waits before something is tried again that no caller can hurry.
  func rest() { wakeup.wait(nanoseconds: Self.restNanoseconds) }

  /// Sleeps for at most `nanoseconds`; whether the log has come to `lsn`.
  private func sleep(until lsn: UInt64, _ nanoseconds: Int64, _ last: () -> UInt64) -> Bool {
    wakesAt.store(lsn, ordering: .relaxed)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    stayAwake(wasWoken: last() < lsn && wakeup.wait(nanoseconds: nanoseconds))
    return last() >= lsn
  }
}
