// From the ring to the log, one group at a time: one batch, made durable, then everybody may know.
internal import Posix
internal import Synchronization

/// Used by one thread at a time, the journal's; `admit` by any.
package final class GroupWriter: Sendable {
  private struct State {
    /// The run has written its first batch, which by the format has one record.
    var hasBegun = false
    /// The last append found no room on the disk, though there was room in the log: on a file system that
    /// writes elsewhere than where the bytes were.
    var isOutOfRoom = false
    /// The ring is free before this log sequence number.
    var cleared: UInt64
  }

  private let ring: LogRing
  private let log: any BatchLog
  private let groupBytesMax: Int
  private let batchCountMax: Int
  private let state: Mutex<State>
  private let isDiskFull = Atomic<Bool>(false)

  package init(ring: LogRing, log: any BatchLog, options: JournalOptions) {
    self.ring = ring
    self.log = log
    groupBytesMax = options.groupBytesMax
    // As many groups as the ring can hold, and the one that is being written.
    batchCountMax = options.ringBytes / options.groupBytesMax + 2
    state = Mutex(State(cleared: log.end.lsn))
  }

  /// Makes everything that is in the ring now durable, up to one group: how many records, 0 where there
  /// was nothing, or where it has to wait for room. After any other failure nothing is acknowledged any
  /// more: of what the system has lost of a write, a second sync would say nothing (fsync(2) reports an
  /// error once).
  package func step() throws(JournalError) -> Int {
    do throws(JournalError) {
      return try appendGroup()
    } catch .failed("write", _, let error) where error.isLackOfRoom {
      // Nothing of it is acknowledged, and the next try writes all of it again before the sync.
      state.withLock {
        $0.isOutOfRoom = true
        admit($0)
      }
      return 0
    } catch {
      throw error
    }
  }

  private func appendGroup() throws(JournalError) -> Int {
    let end = log.end
    var pending = pendingThatFits(end)
    if pending.bytes == 0 {
      guard ring.pending(from: end.lsn, bytesMax: groupBytesMax).bytes > 0, try log.makeRoom()
      else { return 0 }
      pending = pendingThatFits(end)
      if pending.bytes == 0 { return 0 }
    }
    let newEnd = try unsafe ring.withPending(from: end.lsn, count: pending.bytes) {
      (first, second) throws(JournalError) in
      let group = unsafe RecordGroup(
        first: first, second: second, recordCount: pending.records, countedCount: pending.counted)
      return try log.append(group, at: end, epoch: log.epoch)
    }
    precondition(
      newEnd.lsn == end.lsn &+ UInt64(pending.bytes)
        && newEnd.counted == end.counted &+ UInt64(pending.counted),
      "another batch than was appended")
    ring.clear(from: end.lsn, count: pending.bytes)
    state.withLock {
      $0.cleared = newEnd.lsn
      $0.hasBegun = true
      $0.isOutOfRoom = false
      admit($0)
    }
    ring.publish(durable: newEnd.lsn)
    return pending.records
  }

  /// The next group, as far as the log has room for it where it stands.
  private func pendingThatFits(_ end: LogEnd) -> (bytes: Int, records: Int, counted: Int) {
    ring.pending(from: end.lsn, bytesMax: min(groupBytesMax, log.batchBytesMax))
  }

  /// Admits changes by the room that is left: in the ring, and in the log.
  /// - Parameter isDiskFull: the last segment could not be made for lack of space.
  package func admit(isDiskFull: Bool) {
    self.isDiskFull.store(isDiskFull, ordering: .relaxed)
    state.withLock { admit($0) }
  }

  private func admit(_ state: State) {
    let canGoOn = state.hasBegun && !state.isOutOfRoom
    let space = canGoOn ? log.admissibleBytes(batchCount: batchCountMax) : nil
    ring.admit(
      cleared: state.cleared, spaceEnd: log.end.lsn &+ UInt64(max(0, space ?? 0)),
      isDiskFull: space == nil || isDiskFull.load(ordering: .relaxed))
  }
}
