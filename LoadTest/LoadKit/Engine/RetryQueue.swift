// What a worker sends before it begins anything new: the ends of reservations, repetitions of calls that
// are in flight, retries of those whose outcome is unknown.

internal import LoadHistory

struct RetryQueue {
  private struct Delayed: BitwiseCopyable {
    let task: SendTask
    /// Negative: by any connection.
    let connection: Int
  }

  /// By any connection.
  private var anywhere = Queue<SendTask>()
  /// By connection: repetitions that it is to send.
  private var repetitions: [Queue<SendTask>]
  private var repetitionCount = 0
  /// Connections that are up. What was to go by another goes by any.
  private var areUp: [Bool]
  /// Duplicates that go out after so many sends.
  private var late = Queue<(attempts: Int, task: SendTask)>()
  private var delayed = DelayedTasks<Delayed>()

  /// A late duplicate goes out after so many further sends.
  private static let duplicateDelay = 256

  init(connections: Int) {
    repetitions = Array(repeating: Queue(), count: connections)
    areUp = Array(repeating: true, count: connections)
  }

  /// Something can go by any connection, or by a certain one.
  var hasForAny: Bool { !anywhere.isEmpty }
  var hasRepetitions: Bool { repetitionCount > 0 }
  /// Nothing is to be sent now.
  var isIdle: Bool { anywhere.isEmpty && repetitionCount == 0 }
  /// Nothing is to be sent, now or later.
  var isEmpty: Bool { isIdle && late.isEmpty && delayed.isEmpty }

  /// When something that is to be sent later is due; `Int64.max` where nothing is.
  var nextNanoseconds: Int64 { delayed.nextNanoseconds }

  /// - Parameter connection: that is to send it, if it is up; nil: any.
  mutating func append(_ task: SendTask, by connection: Int? = nil) {
    guard let connection, areUp[connection] else { return anywhere.append(task) }
    repetitions[connection].append(task)
    repetitionCount += 1
  }

  mutating func append(_ task: SendTask, by connection: Int? = nil, at time: Int64) {
    delayed.add(Delayed(task: task, connection: connection ?? -1), at: time)
  }

  /// - Parameter attempts: sends so far.
  mutating func appendLate(_ task: SendTask, attempts: Int) {
    late.append((attempts + RetryQueue.duplicateDelay, task))
  }

  /// Moves what has become due to what is to be sent now.
  mutating func release(_ now: Int64) {
    while let next = delayed.popDue(at: now) { append(next) }
  }

  /// Moves everything that was to be sent later to what is to be sent now.
  mutating func releaseAll() {
    while let next = delayed.popFirst() { append(next.task) }
  }

  private mutating func append(_ delayed: Delayed) {
    append(delayed.task, by: delayed.connection < 0 ? nil : delayed.connection)
  }

  /// What `connection` sends next.
  ///
  /// - Parameters:
  ///   - attempts: sends so far.
  ///   - isDraining: late duplicates wait no longer.
  mutating func popFirst(for connection: Int, attempts: Int, isDraining: Bool) -> SendTask? {
    if repetitionCount > 0, let task = popRepetition(connection) { return task }
    if let task = anywhere.popFirst() { return task }
    guard let first = late.first, first.attempts <= attempts || isDraining else { return nil }
    return late.popFirst()?.task
  }

  /// What `connection` sends next, if that is a Reserve that goes out with others.
  mutating func popReserve(
    for connection: Int, attempts: Int, isDraining: Bool
  ) -> SendTask? {
    let next = repetitions[connection].first ?? anywhere.first ?? late.first?.task
    guard let next, next.method == .reserve, !next.isAlone else { return nil }
    return popFirst(for: connection, attempts: attempts, isDraining: isDraining)
  }

  /// What any connection sends next.
  mutating func popForAny() -> SendTask? { anywhere.popFirst() }

  /// The next of those that were to be sent by now, whichever connection was to.
  mutating func popOverdue() -> SendTask? {
    for connection in repetitions.indices where repetitionCount > 0 {
      if let task = popRepetition(connection) { return task }
    }
    return anywhere.popFirst()
  }

  private mutating func popRepetition(_ connection: Int) -> SendTask? {
    guard let task = repetitions[connection].popFirst() else { return nil }
    repetitionCount -= 1
    return task
  }

  // MARK: Connections

  /// What the connection was to send goes by any.
  mutating func connectionWentDown(_ connection: Int) {
    areUp[connection] = false
    while let task = popRepetition(connection) { anywhere.append(task) }
  }

  mutating func connectionCameUp(_ connection: Int) { areUp[connection] = true }
}
