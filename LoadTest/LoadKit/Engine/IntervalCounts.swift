// How workers hand their counts to main, once per interval and never per call.
internal import LoadReport
internal import Synchronization

/// What was counted in one interval.
struct IntervalCounts {
  /// Of the grid.
  var number = 0
  /// Some of it lay in the measured part.
  var isMeasured = false
  /// When it ended, where it did so before the grid has it end.
  var endNanoseconds: Int64?
  var answered = 0
  /// Of the answers that came in it, and of the calls that were given up; open loop from the scheduled
  /// send.
  var latencies = Latencies()
  /// Open loop: from the actual send. A closed loop leaves it empty.
  var serviceTimes = Latencies()
  var scheduleLag = Latencies()
  /// By Outcome and by gRPC code.
  var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  var codes = [Int](repeating: 0, count: grpcCodeNames.count)
  /// CPU time of the busiest thread.
  var cpuNanoseconds: Int64 = 0

  /// Forgets everything, and keeps the memory.
  mutating func removeAll() {
    isMeasured = false
    endNanoseconds = nil
    answered = 0
    latencies.removeAll()
    serviceTimes.removeAll()
    scheduleLag.removeAll()
    for index in outcomes.indices { outcomes[index] = 0 }
    for index in codes.indices { codes[index] = 0 }
    cpuNanoseconds = 0
  }

  mutating func add(_ other: IntervalCounts) {
    isMeasured = isMeasured || other.isMeasured
    if let end = other.endNanoseconds { endNanoseconds = max(endNanoseconds ?? end, end) }
    answered += other.answered
    latencies.add(other.latencies)
    serviceTimes.add(other.serviceTimes)
    scheduleLag.add(other.scheduleLag)
    for index in outcomes.indices { outcomes[index] += other.outcomes[index] }
    for index in codes.indices { codes[index] += other.codes[index] }
    cpuNanoseconds = max(cpuNanoseconds, other.cpuNanoseconds)
  }
}

/// Between one worker and main.
final class IntervalHandover: Sendable {
  private struct State {
    var full: [IntervalCounts] = []
    var spare: [IntervalCounts] = []
    /// The worker has handed over everything below this number.
    var doneBelow = Int.min
  }

  private let state = Mutex(State())

  /// The worker's side: hands `counts` over and takes empty ones for interval `next`.
  func exchange(_ counts: inout IntervalCounts, next: Int) {
    let empty = state.withLock { $0.spare.popLast() } ?? IntervalCounts()
    let full = counts
    counts = empty
    counts.number = next
    state.withLock { state in
      state.full.append(full)
      state.doneBelow = next
    }
  }

  /// The worker's side: nothing will follow.
  func finish() { state.withLock { $0.doneBelow = .max } }

  /// Main's side: takes what is there. Everything below the number that it answers has come.
  func take(_ body: (borrowing IntervalCounts) -> Void) -> Int {
    var (full, doneBelow) = state.withLock { state in
      let full = state.full
      state.full = []
      return (full, state.doneBelow)
    }
    // Taken out one by one: what nobody else holds is emptied in place.
    while var counts = full.popLast() {
      body(counts)
      counts.removeAll()
      state.withLock { $0.spare.append(counts) }
    }
    return doneBelow
  }
}
