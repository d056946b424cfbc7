// What a store does with its journal besides appending to it: its threads, or their work step by step, and
// records of the time.
package import Log
package import Posix
internal import Synchronization

extension StockStore {
  /// Starts the journal's threads. Until then, and in a simulation, `stepJournal` and
  /// `stepMaintenance` do their work.
  /// - Parameter onFailure: called once, from one of the threads, when the disk has failed: from then
  ///   on nothing is acknowledged, and the process had best end.
  package func startJournal(
    onFailure: @escaping @Sendable (JournalError) -> Void
  ) throws(Errno) {
    try journal?.start(onFailure: onFailure)
  }

  /// Writes what time it is, where nothing was written for `duration` nanoseconds: so the next start can
  /// tell an outage from a clock that is wrong. By one thread, not while the journal is closed.
  package func noteTime(afterNanoseconds duration: Int64) {
    // There is room for it: the session that opened the store appends no more.
    guard let journal, journal.log.isQuiet(forNanoseconds: duration), core.log.isAdmitting else {
      return
    }
    var record = RecordWriter()
    record.begin(.clock, time: clock.now().nanoseconds)
    _ = core.log.append(record)
    journal.request()
  }

  /// Makes everything durable, notes the time and where the journal ends, and ends the journal's threads. The sessions have ended
  /// their last turn. Without threads, in a simulation, it steps until nothing is left.
  /// - Parameter isWritten: called when nothing more is written to the log.
  package func closeJournal(isWritten: () -> Void = {}) throws(JournalError) {
    guard let journal else { return }
    journal.stop()
    if let failure = journal.failure { throw failure }
    if try !journal.stepUntilDurable(), journal.waitingCount > 0 {
      throw .failed(
        operation: "write", file: FileNames.segment(journal.log.position.sequence), .noSpace)
    }
    if core.log.isAdmitting {
      var record = RecordWriter()
      record.begin(.clock, time: clock.now().nanoseconds)
      _ = core.log.append(record)
      try journal.stepUntilDurable()
    }
    isWritten()
    try journal.close()
  }

  /// Makes one group durable. False: there was nothing to write.
  package func stepJournal() throws(JournalError) -> Bool {
    try journal.map { (journal) throws(JournalError) in try journal.step() > 0 } ?? false
  }

  /// Does one piece of what the checkpoint thread does. False: there was nothing to do.
  package func stepMaintenance() throws(JournalError) -> Bool {
    try journal?.stepMaintenance() ?? false
  }

  /// Decisions that are not yet as durable as they were asked to be: nobody was told of them. Once the
  /// sessions have ended their last turn; exact while the journal's thread stands still.
  package var waitingDecisions: Int { journal?.waitingCount ?? 0 }

  /// Where the journal ends, as far as it is durable; nil where there is none.
  package var journalPosition: JournalPosition? { journal?.log.position }

  /// The journal's numbers; nil where there is none.
  package var journalStatistics: JournalStatistics? { journal?.statistics }
}

/// A session as the journal's thread sees it.
struct SessionWaiter: JournalClient {
  let shared: PaddedArray<SessionShared>
  let wakeThread: @Sendable () -> Void

  var awaitedLSN: UInt64 { shared[0].awaitedLSN.load(ordering: .sequentiallyConsistent) }
  var isAppending: Bool { shared[0].mark.isInTurn }
  func wake() { wakeThread() }
}
