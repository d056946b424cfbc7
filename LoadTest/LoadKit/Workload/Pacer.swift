/// The schedule of an open loop: when each send is due, whatever the server does meanwhile. Pure
/// arithmetic on nanoseconds; the ticks of several workers interleave evenly.
package struct Pacer: Sendable {
  private let startNanoseconds: Int64
  private let ratePerSecond: Double
  private let worker: Int
  private let workers: Int

  /// - Parameters:
  ///   - ratePerSecond: of all workers together, above 0.
  ///   - worker: which of the `workers` this is, from 0.
  package init(startNanoseconds: Int64, ratePerSecond: Double, worker: Int, workers: Int) {
    self.startNanoseconds = startNanoseconds
    self.ratePerSecond = ratePerSecond
    self.worker = worker
    self.workers = workers
  }

  /// When tick `number` (from 0) of this worker is due.
  package func scheduled(_ number: Int) -> Int64 {
    startNanoseconds
      + Int64(Double(number * workers + worker) / ratePerSecond * 1_000_000_000)
  }

  /// How many ticks are due at `time`: all whose schedule is at or before it.
  package func due(at time: Int64) -> Int {
    guard time >= scheduled(0) else { return 0 }
    let global = Double(time - startNanoseconds) / 1_000_000_000 * ratePerSecond
    var count = max(1, Int((global - Double(worker)) / Double(workers)) + 1)
    // Floating point may be one off in either direction.
    while scheduled(count) <= time { count += 1 }
    while count > 1, scheduled(count - 1) > time { count -= 1 }
    return count
  }
}
