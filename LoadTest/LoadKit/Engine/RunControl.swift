// What main and the workers tell each other while they run.
internal import Synchronization

final class RunControl: Sendable {
  /// Workers whose connections all stand, or that have given up.
  let ready = Atomic<Int>(0)
  /// When the run starts, by the monotonic clock; 0 until main has said so, -1 to call it off.
  let startNanoseconds = Atomic<Int64>(0)
  /// Main wants the run to end now: nothing new is begun.
  let isEnding = Atomic<Bool>(false)
  /// When the measured part begins, where the warm-up has no fixed length; `Int64.max` until that is
  /// known.
  let measureFromNanoseconds = Atomic<Int64>(.max)
  let finished = Atomic<Int>(0)

  /// For the live view, over all workers.
  let answered = Atomic<Int>(0)
  let accepted = Atomic<Int>(0)
  let refused = Atomic<Int>(0)
  let failed = Atomic<Int>(0)

  /// By worker.
  let intervals: [IntervalHandover]
  let watched: [WatchCounters]

  init(workers: Int) {
    intervals = (0..<workers).map { _ in IntervalHandover() }
    watched = (0..<workers).map { _ in WatchCounters() }
  }
}
