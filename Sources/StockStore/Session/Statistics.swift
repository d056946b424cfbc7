// What the store counts. Each session counts for itself; readers add up.
internal import Synchronization

/// Sums over all sessions since the store was made, and gauges as they stand.
package struct StoreStatistics: Sendable, Equatable {
  /// Reserves that held units.
  package var reservationsHeld: UInt64 = 0
  /// Holds that got other lines.
  package var reservationsReplaced: UInt64 = 0
  /// Holds and expired reservations that were confirmed.
  package var reservationsConfirmed: UInt64 = 0
  /// Holds that were released.
  package var reservationsReleased: UInt64 = 0
  /// Holds that fell due.
  package var reservationsExpired: UInt64 = 0
  /// Reserves refused for lack of stock, replays not counted.
  package var reservesRefusedInsufficientStock: UInt64 = 0
  /// Reserves and Replaces refused for a limit, replays not counted.
  package var reservesRefusedLimitExceeded: UInt64 = 0
  /// Reserves refused for any other reason, replays not counted.
  package var reservesRefusedOther: UInt64 = 0
  /// Adjustments made.
  package var adjustments: UInt64 = 0
  /// Recorded decisions that were answered again, and transitions that had happened already.
  package var replays: UInt64 = 0
  /// Keys that came with another payload.
  package var keysReused: UInt64 = 0
  /// Commits that met an item which another thread kept to itself for long, or whose queue was full.
  package var conflictsLocked: UInt64 = 0
  /// Commits that met an item which another thread changed since it was read.
  package var conflictsVersionChanged: UInt64 = 0
  /// Times that a command waited for another one: for an item that was locked, for its turn in a queue,
  /// or for a writer.
  package var waits: UInt64 = 0
  /// Commits that were turned away because their lock had been taken over (Locking).
  package var fenced: UInt64 = 0
  /// Transactions that were done by another session's thread (SingleWriter).
  package var combined: UInt64 = 0
  /// Commands refused after the last attempt.
  package var tooBusy: UInt64 = 0
  /// Commits, and refusals for lack of stock, by the number of attempts that they took: at index n,
  /// n + 1 attempts, and in the last also those that took more.
  package var commitsByAttempts = [UInt64](repeating: 0, count: SessionCounters.attemptsMax)
  /// Items changed by commits.
  package var rowsAffected: UInt64 = 0
  /// Longest time in nanoseconds by which a hold outlived its end, before a turn began and ended it.
  package var expiryLagNanosecondsMax: Int64 = 0
  /// The sum of these times over all expired holds.
  package var expiryLagNanosecondsSum: Int64 = 0
  /// Decisions forgotten before their retention was over, for lack of room.
  package var evictedEarly: UInt64 = 0
  /// Balances that a commit found or would have made impossible. Must stay 0.
  package var invariantViolations: UInt64 = 0
  /// Live holds now.
  package var liveHolds: Int = 0
  /// Items now.
  package var items: Int = 0
  /// Items that were removed, and whose places nobody else can have yet.
  package var removedItems: Int = 0
  /// Subjects and items of which it is kept what the one has of the other, now.
  package var subjectEntries: Int = 0
  /// Recorded decisions now, live holds included.
  package var recordedDecisions: Int = 0
  /// Bytes in use now for the items' records and names.
  package var itemBytes: Int = 0
  /// Bytes in use now for finding items.
  package var itemIndexBytes: Int = 0
  /// Bytes in use now for the records of decisions.
  package var reservationBytes: Int = 0
  /// Bytes in use now for finding them by their keys.
  package var keyTableBytes: Int = 0
  /// Bytes in use now for what subjects have of items.
  package var subjectBytes: Int = 0
  /// Bytes in use now for the timers of the holds.
  package var timerBytes: Int = 0

  /// Nothing counted yet.
  package init() {}
}

/// One session's counters. One thread writes, any may read.
struct SessionCounters: ~Copyable {
  static let attemptsMax = 16

  /// A number that only its session's thread changes, or who acts for it while it waits.
  struct Counter: ~Copyable {
    private let number = Atomic<Int64>(0)

    var value: Int64 { number.load(ordering: .relaxed) }

    /// No read-modify-write instruction is needed: there is one writer.
    @inline(__always)
    borrowing func add(_ amount: Int = 1) {
      number.store(number.load(ordering: .relaxed) &+ Int64(amount), ordering: .relaxed)
    }

    borrowing func raise(to value: Int64) {
      if value > number.load(ordering: .relaxed) { number.store(value, ordering: .relaxed) }
    }
  }

  let held = Counter()
  let replaced = Counter()
  let confirmed = Counter()
  let released = Counter()
  let expired = Counter()
  let refusedInsufficientStock = Counter()
  let refusedLimitExceeded = Counter()
  let refusedOther = Counter()
  let adjustments = Counter()
  let replays = Counter()
  let keysReused = Counter()
  let conflictsLocked = Counter()
  let conflictsVersionChanged = Counter()
  let waits = Counter()
  let fenced = Counter()
  let combined = Counter()
  let tooBusy = Counter()
  let rowsAffected = Counter()
  let expiryLagNanosecondsMax = Counter()
  let expiryLagNanosecondsSum = Counter()
  let evictedEarly = Counter()
  let invariantViolations = Counter()
  let liveHolds = Counter()
  let items = Counter()
  let removedItems = Counter()
  let recordedDecisions = Counter()
  let commitsByAttempts = InlineArray<16, Counter> { _ in Counter() }

  /// Adds these counters to `sums`.
  borrowing func add(to sums: inout StoreStatistics) {
    func count(_ counter: borrowing Counter) -> UInt64 { UInt64(clamping: counter.value) }
    sums.reservationsHeld += count(held)
    sums.reservationsReplaced += count(replaced)
    sums.reservationsConfirmed += count(confirmed)
    sums.reservationsReleased += count(released)
    sums.reservationsExpired += count(expired)
    sums.reservesRefusedInsufficientStock += count(refusedInsufficientStock)
    sums.reservesRefusedLimitExceeded += count(refusedLimitExceeded)
    sums.reservesRefusedOther += count(refusedOther)
    sums.adjustments += count(adjustments)
    sums.replays += count(replays)
    sums.keysReused += count(keysReused)
    sums.conflictsLocked += count(conflictsLocked)
    sums.conflictsVersionChanged += count(conflictsVersionChanged)
    sums.waits += count(waits)
    sums.fenced += count(fenced)
    sums.combined += count(combined)
    sums.tooBusy += count(tooBusy)
    sums.rowsAffected += count(rowsAffected)
    sums.expiryLagNanosecondsMax = max(sums.expiryLagNanosecondsMax, expiryLagNanosecondsMax.value)
    sums.expiryLagNanosecondsSum += expiryLagNanosecondsSum.value
    sums.evictedEarly += count(evictedEarly)
    sums.invariantViolations += count(invariantViolations)
    // A hold may be made by one session and ended by another: one counter alone may be negative.
    sums.liveHolds += Int(liveHolds.value)
    sums.items += Int(items.value)
    sums.removedItems += Int(removedItems.value)
    sums.recordedDecisions += Int(recordedDecisions.value)
    for index in 0..<Self.attemptsMax {
      sums.commitsByAttempts[index] += count(commitsByAttempts[index])
    }
  }
}
