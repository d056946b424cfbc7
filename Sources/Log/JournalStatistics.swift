// What the journal counts: once for each group, so that a lock costs nothing.
internal import Posix
internal import Synchronization

/// A histogram with fixed bounds.
package struct JournalHistogram: Sendable, Equatable {
  /// Inclusive upper bounds, ascending; one more bucket takes what lies above.
  package let upperBounds: [Int64]
  /// Of each bucket, not cumulative: one more than bounds.
  package private(set) var counts: [UInt64]
  package private(set) var sum: Int64 = 0

  package init(upperBounds: [Int64]) {
    self.upperBounds = upperBounds
    counts = [UInt64](repeating: 0, count: upperBounds.count + 1)
  }

  package mutating func record(_ value: Int64) {
    counts[upperBounds.firstIndex { value <= $0 } ?? upperBounds.count] += 1
    sum += value
  }
}

/// The journal's numbers at one moment.
package struct JournalStatistics: Sendable, Equatable {
  /// Nanoseconds of each sync; of each write where nothing is synced.
  package var syncNanoseconds = JournalHistogram(
    upperBounds: [
      50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000,
      50_000_000, 100_000_000, 500_000_000, 1_000_000_000,
    ])
  /// Records of each group.
  package var groupRecords = JournalHistogram(
    upperBounds: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000])
  /// Bytes written to segments since the start, headers included.
  package var bytesWritten: UInt64 = 0
  /// The newest record, and the newest that is durable.
  package var lsn: UInt64 = 0
  package var durableLSN: UInt64 = 0
  /// What may lie between the two at most, in bytes: with more, no change is taken.
  package var lagBytesMax = 0
  /// Counted records since the directory was made.
  package var counted: UInt64 = 0
  /// Bytes of all segments, also of those that are ready for use.
  package var segmentBytesOnDisk = 0
  /// Whether changes are taken now; else why not.
  package var unavailable: Unavailable?
  /// Checkpoints made since the start.
  package var checkpoints: UInt64 = 0
  /// Of the newest checkpoint made since the start; 0 where there is none.
  package var checkpointSecondsLast = 0.0
  package var checkpointBytesLast = 0
  /// Since the newest checkpoint was begun, or since the start.
  package var checkpointAgeSeconds = 0.0
  /// Checkpoints and segments given up for lack of space.
  package var outOfSpace: UInt64 = 0
  /// How long the start's recovery took, and the records that it read from the journal.
  package var recoverySeconds = 0.0
  package var recoveredRecords: UInt64 = 0
  /// nil: there is no archive.
  package var archive: ArchiveStatistics?
  /// nil: the log is in the directory alone.
  package var replica: ReplicaStatistics?
}

/// What went into a replicated log.
package struct ReplicaStatistics: Sendable, Equatable {
  /// Nanoseconds until it had acknowledged a batch: doubts that were cleared up meanwhile included.
  package var appendNanoseconds = JournalHistogram(
    upperBounds: [
      500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000, 100_000_000,
      200_000_000, 500_000_000, 1_000_000_000, 5_000_000_000, 20_000_000_000,
    ])
  /// Bytes of batches, headers included.
  package var bytes: UInt64 = 0
}

/// The numbers that the journal's threads write.
package final class JournalCounters: Sendable {
  private let numbers = Mutex(JournalStatistics())
  private let checkpointBegan = Atomic<Int64>(SystemClock.monotonicNanoseconds())

  package init() {}

  /// Everything but what is read from the journal itself.
  package var snapshot: JournalStatistics {
    var numbers = numbers.withLock { $0 }
    let age =
      SystemClock.monotonicNanoseconds() - checkpointBegan.load(ordering: .relaxed)
    numbers.checkpointAgeSeconds = Double(age) / 1e9
    return numbers
  }

  package func recovered(records: UInt64, seconds: Double) {
    numbers.withLock {
      $0.recoveredRecords = records
      $0.recoverySeconds = seconds
    }
  }

  package func wrote(records: Int, bytes: Int, nanoseconds: Int64) {
    numbers.withLock {
      $0.syncNanoseconds.record(nanoseconds)
      $0.groupRecords.record(Int64(records))
      $0.bytesWritten += UInt64(bytes)
    }
  }

  /// A replicated log has acknowledged a batch.
  package func replicated(bytes: Int, nanoseconds: Int64) {
    numbers.withLock {
      var replica = $0.replica ?? ReplicaStatistics()
      replica.appendNanoseconds.record(nanoseconds)
      replica.bytes += UInt64(bytes)
      $0.replica = replica
    }
  }

  /// - Parameter began: monotonic nanoseconds.
  package func madeCheckpoint(began: Int64, bytes: Int) {
    checkpointBegan.store(began, ordering: .relaxed)
    numbers.withLock {
      $0.checkpoints += 1
      $0.checkpointSecondsLast = Double(SystemClock.monotonicNanoseconds() - began) / 1e9
      $0.checkpointBytesLast = bytes
    }
  }

  package func ranOutOfSpace() { numbers.withLock { $0.outOfSpace += 1 } }
}
