/// How commands that run at the same time are kept apart.
package enum ConcurrencyControl: String, Sendable, CaseIterable {
  /// Read, decide, lock if nothing changed, write; else once more (Optimistic.swift).
  case optimistic
  /// A lock for each item, with a lease and fencing tokens, taken before anything is read (Locking.swift).
  case locking
  /// One writer at a time for each shard of items, which also does what others have posted to the shard
  /// (SingleWriter.swift).
  case singleWriter = "single-writer"
  /// A queue for each item: first come, first served (Queued.swift).
  case queued
  /// Check, then write, with nothing in between to keep others out: oversells under two threads. For
  /// showing that a test or a load generator notices.
  case uncheckedForDemonstration = "unchecked-for-demonstration"
  /// Takes the log sequence number after others can see the change: `DeliberateFault.numberAfterUnlock`.
  case lateNumberForDemonstration = "late-number-for-demonstration"
  /// Locking without the fence: a holder whose lock was taken over writes all the same.
  case unfencedForDemonstration = "unfenced-for-demonstration"

  /// Those that never oversell.
  package static let sound: [ConcurrencyControl] = [.optimistic, .locking, .singleWriter, .queued]
}
