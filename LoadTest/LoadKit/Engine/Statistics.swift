// What one worker counts while it runs, and how the workers' counts come together.
internal import LoadHistory
internal import LoadReport

/// One worker's counts. Latencies and `measured` are of the measured part, the rest of the whole run.
struct Statistics {
  /// By method; of Reserves that go out many in a message, by Reserve.
  var latencies = [Latencies](repeating: Latencies(), count: Method.allCases.count)
  /// Of messages of many, by message.
  var messageLatencies = Latencies()
  /// Such messages, and what they asked for, over the whole run.
  var messages = 0
  var messageRequests = 0
  /// Open loop: from the actual send.
  var serviceTimes = Latencies()
  /// Open loop: how late the generator looked at each tick.
  var scheduleLag = Latencies()
  /// Outcomes and codes are put together from the intervals.
  var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  /// By gRPC code.
  var codes = [Int](repeating: 0, count: grpcCodeNames.count)
  var attempts = 0
  /// Answers that came in the measured part.
  var measured = 0
  /// Calls that were due and never sent.
  var unsent = 0
  /// Reserves through a queue; those that were answered; of these, after the last was sent; and those that were given up.
  var ordersSent = 0
  var ordersAnswered = 0
  var ordersAnsweredLate = 0
  var ordersGivenUp = 0
  var connectionsLost = 0
  var connectionsRedialled = 0
  /// Why the worker stopped before it was to.
  var endedEarly: String?
  /// The first thing that went wrong, with the server's words.
  var firstFailure: String?
  var firstConnectionLoss: String?
  /// CPU of this worker's thread and wall time, in the measured part.
  var cpuNanoseconds: Int64 = 0
  var wallNanoseconds: Int64 = 0
  /// The share of one processor that one worker's thread used from the start of the measured part until it had
  /// ended; shares are not added up.
  var busyShare = 0.0
  /// The server's CPU in the measured part, by worker 0 alone.
  var serverCPUNanoseconds: Int64?

  mutating func add(_ other: Statistics) {
    for index in latencies.indices { latencies[index].add(other.latencies[index]) }
    messageLatencies.add(other.messageLatencies)
    messages += other.messages
    messageRequests += other.messageRequests
    serviceTimes.add(other.serviceTimes)
    scheduleLag.add(other.scheduleLag)
    attempts += other.attempts
    measured += other.measured
    unsent += other.unsent
    ordersSent += other.ordersSent
    ordersAnswered += other.ordersAnswered
    ordersAnsweredLate += other.ordersAnsweredLate
    ordersGivenUp += other.ordersGivenUp
    connectionsLost += other.connectionsLost
    connectionsRedialled += other.connectionsRedialled
    endedEarly = endedEarly ?? other.endedEarly
    firstFailure = firstFailure ?? other.firstFailure
    firstConnectionLoss = firstConnectionLoss ?? other.firstConnectionLoss
    cpuNanoseconds += other.cpuNanoseconds
    wallNanoseconds = max(wallNanoseconds, other.wallNanoseconds)
    serverCPUNanoseconds = serverCPUNanoseconds ?? other.serverCPUNanoseconds
  }
}
