// How workers hand their counts to main, once per slice of an interval and never per call.
internal import LoadHistory
internal import LoadReport
internal import Synchronization

/// Latencies by method. Of a method that is never called there is nothing.
struct MethodLatencies {
  private var byMethod = [Latencies?](repeating: nil, count: Method.allCases.count)

  /// The methods that were called, in the order in which reports name them.
  var methods: [Method] { Method.measured.filter { (self[$0]?.count ?? 0) > 0 } }

  subscript(method: Method) -> Latencies? { byMethod[method.rawValue] }

  /// All methods together.
  var all: Latencies {
    var all = Latencies()
    for case .some(let latencies) in byMethod where latencies.count > 0 { all.add(latencies) }
    return all
  }

  mutating func record(_ nanoseconds: Int64, _ method: Method) {
    if byMethod[method.rawValue] == nil { byMethod[method.rawValue] = Latencies() }
    byMethod[method.rawValue]?.record(nanoseconds)
  }

  mutating func add(_ other: Latencies, _ method: Method) {
    guard other.count > 0 else { return }
    if byMethod[method.rawValue] == nil {
      byMethod[method.rawValue] = other
    } else {
      byMethod[method.rawValue]?.add(other)
    }
  }

  mutating func add(_ other: MethodLatencies) {
    for method in Method.allCases {
      if let latencies = other[method] { add(latencies, method) }
    }
  }

  /// Forgets everything, and keeps the memory.
  mutating func removeAll() {
    for index in byMethod.indices where (byMethod[index]?.count ?? 0) > 0 {
      byMethod[index]?.removeAll()
    }
  }
}

/// What was counted in one slice of an interval, or in the whole of it.
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
  var latencies = MethodLatencies()
  /// Open loop: from the actual send. A closed loop leaves it empty.
  var serviceTimes = Latencies()
  var scheduleLag = Latencies()
  /// By Outcome and by gRPC code.
  var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  var codes = [Int](repeating: 0, count: grpcCodeNames.count)
  /// CPU time of the busiest thread.
  var cpuNanoseconds: Int64 = 0

  /// From the actual send; in a closed loop that is the latency.
  var serviceTimesOrLatencies: Latencies { serviceTimes.count > 0 ? serviceTimes : latencies.all }

  /// Forgets everything, and keeps the memory.
  mutating func removeAll() {
    isMeasured = false
    endNanoseconds = nil
    answered = 0
    latencies.removeAll()
    if serviceTimes.count > 0 { serviceTimes.removeAll() }
    if scheduleLag.count > 0 { scheduleLag.removeAll() }
    for index in outcomes.indices { outcomes[index] = 0 }
    for index in codes.indices { codes[index] = 0 }
    cpuNanoseconds = 0
  }

  mutating func add(_ other: IntervalCounts) {
    isMeasured = isMeasured || other.isMeasured
    if let end = other.endNanoseconds { endNanoseconds = max(endNanoseconds ?? end, end) }
    answered += other.answered
    latencies.add(other.latencies)
    if other.serviceTimes.count > 0 { serviceTimes.add(other.serviceTimes) }
    if other.scheduleLag.count > 0 { scheduleLag.add(other.scheduleLag) }
    for index in outcomes.indices { outcomes[index] += other.outcomes[index] }
    for index in codes.indices { codes[index] += other.codes[index] }
    cpuNanoseconds = max(cpuNanoseconds, other.cpuNanoseconds)
  }

  /// Adds a slice that follows. The busiest thread's time is that of each slice's busiest, together.
  mutating func append(_ slice: IntervalCounts) {
    let cpu = cpuNanoseconds + slice.cpuNanoseconds
    add(slice)
    cpuNanoseconds = cpu
    endNanoseconds = slice.endNanoseconds
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
