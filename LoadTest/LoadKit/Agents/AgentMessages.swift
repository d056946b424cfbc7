// What stands in the frames of a coordinator and an agent, as JSON. All of it comes from outside: each
// type says what it takes.
internal import FoundationEssentials
internal import LoadHistory
internal import LoadReport
internal import Posix

enum AgentMessage {
  static func encode(_ value: some Encodable) throws(LoadError) -> [UInt8] {
    do {
      return [UInt8](try JSONEncoder().encode(value))
    } catch {
      throw LoadError("cannot be written as JSON: \(error)")
    }
  }

  static func decode<Value: Decodable>(
    _ type: Value.Type, _ bytes: [UInt8]
  ) throws(LoadError) -> Value {
    do {
      return try JSONDecoder().decode(type, from: Data(bytes))
    } catch {
      throw LoadError("it sent what is no \(type)")
    }
  }
}

/// `text` of a peer's, fit to be shown in a line.
func agentText(_ text: String) -> String { String(Text.printable(text).prefix(200)) }

/// What an agent is to do.
struct AgentJob: Codable {
  var targets: [String] = []
  var usesTLS = false
  var serverName: String?
  var connections = 0
  var streams = 0
  var threads = 0
  var durationSeconds = 0.0
  var warmUpSeconds = 0.0
  var warmsUpUntilSteady = false
  var operations: Int?
  var rate: String?
  var arrivals = ""
  /// As --print-workload prints it.
  var workload = ""
  var seed: UInt64 = 0
  var run = ""
  var verifies = true
  var intervalSeconds: Double?
  var index = 0
  var agents = 1
  var ownsSKUs = false

  init(_ options: RunOptions, index: Int) {
    targets = options.target.all.map(\.description)
    usesTLS = options.target.tls != nil
    serverName = options.target.name
    connections = options.connections
    streams = options.streams
    threads = options.threads
    durationSeconds = options.durationSeconds
    warmUpSeconds = options.warmUpSeconds
    warmsUpUntilSteady = options.warmsUpUntilSteady
    operations = options.operations
    rate = options.profile?.description
    arrivals = options.arrivals.rawValue
    workload = options.workload.json
    seed = options.seed
    run = options.run.text
    verifies = options.verifies
    intervalSeconds = options.intervalSeconds
    self.index = index
    agents = options.agents.count
    ownsSKUs = options.agentsOwnSKUs
  }

  /// - Parameter target: as this agent speaks to it.
  /// - Throws: what is out of range.
  func options(target: Endpoint) throws(LoadError) -> RunOptions {
    var options = RunOptions(target: target)
    options.connections = connections
    options.streams = streams
    options.threads = threads
    options.durationSeconds = durationSeconds
    options.warmUpSeconds = warmUpSeconds
    options.warmsUpUntilSteady = warmsUpUntilSteady
    options.operations = operations
    if let rate {
      guard let profile = LoadProfile(rate) else { throw LoadError("its rate is none") }
      options.profile = profile
    }
    guard let arrivals = Arrivals(rawValue: arrivals) else {
      throw LoadError("its arrivals are none")
    }
    options.arrivals = arrivals
    let file = try WorkloadFile(workload.utf8, name: "the job")
    try file.apply(to: &options.workload)
    options.seed = seed
    guard run.utf8.count == 10, let bits = UInt64(run, radix: 16) else {
      throw LoadError("its run has no name")
    }
    options.run = RunID(bits)
    options.verifies = verifies
    options.intervalSeconds = intervalSeconds
    guard (1...64).contains(agents), (0..<agents).contains(index), (1...64).contains(threads) else {
      throw LoadError("its agents are out of range")
    }
    options.agentShare = AgentShare(
      index: index, count: agents, firstWorker: index * threads, workers: agents * threads,
      ownsSKUs: ownsSKUs)
    try options.validate()
    return options
  }
}

/// What an agent says of itself.
struct AgentReady: Codable {
  var system = ""
  var processors = 0
  var processorModel = ""
  var isDebugBuild = false

  init() {
    let machine = Report.Environment.ofThisMachine()
    system = machine.system
    processors = machine.processors
    processorModel = machine.processorModel
    #if DEBUG
      isDebugBuild = true
    #endif
  }
}

/// Counts of all calls so far.
struct AgentProgress: Codable {
  var answered = 0
  var accepted = 0
  var refused = 0
  var failed = 0
}

/// Latencies: values and counts in turn.
struct AgentLatencies: Codable {
  var values: [UInt64] = []
  /// The longest, as it was: values are rounded to three digits.
  var most: UInt64 = 0

  init(_ latencies: borrowing Latencies) {
    latencies.forEachValue { value, count in values += [value, UInt64(clamping: count)] }
    most = latencies.maximumRecorded
  }

  func latencies() throws(LoadError) -> Latencies {
    guard values.count.isMultiple(of: 2), values.count <= 1 << 17 else {
      throw LoadError("it sent latencies that are none")
    }
    var latencies = Latencies()
    var total = 0
    for index in stride(from: 0, to: values.count, by: 2) {
      let value = Int64(clamping: min(values[index], most))
      let count = try AgentLatencies.count(values[index + 1])
      total = try AgentLatencies.count(total + count)
      latencies.record(value, count: count)
    }
    return latencies
  }

  /// What no sum of can overflow.
  static func count(_ value: some BinaryInteger) throws(LoadError) -> Int {
    guard let count = Int(exactly: value), (0...1 << 40).contains(count) else {
      throw LoadError("it sent a count that is none")
    }
    return count
  }

  static func counts(_ values: [Int], _ length: Int) throws(LoadError) -> [Int] {
    guard values.count == length else { throw LoadError("it sent counts that are none") }
    for value in values { _ = try count(value) }
    return values
  }
}

/// Latencies by method.
struct AgentMethodLatencies: Codable {
  /// By `Method.rawValue`.
  var methods: [Int] = []
  var latencies: [AgentLatencies] = []

  init(_ all: MethodLatencies) {
    for method in Method.allCases {
      guard let counted = all[method], counted.count > 0 else { continue }
      methods.append(method.rawValue)
      latencies.append(AgentLatencies(counted))
    }
  }

  func decoded() throws(LoadError) -> MethodLatencies {
    guard methods.count == latencies.count, methods.count <= Method.allCases.count else {
      throw LoadError("it sent latencies that are none")
    }
    var all = MethodLatencies()
    for (number, latencies) in zip(methods, latencies) {
      guard let method = Method(rawValue: number) else {
        throw LoadError("it sent latencies that are none")
      }
      all.add(try latencies.latencies(), method)
    }
    return all
  }
}

/// A slice of an interval.
struct AgentCounts: Codable {
  var number = 0
  var isMeasured = false
  /// Since the start of the run.
  var endNanoseconds: Int64?
  var answered = 0
  var latencies: AgentMethodLatencies
  var serviceTimes: AgentLatencies
  var scheduleLag: AgentLatencies
  var outcomes: [Int]
  var codes: [Int]
  var cpuNanoseconds: Int64 = 0

  /// - Parameter start: of the run, by this program's clock.
  init(_ counts: IntervalCounts, number: Int, start: Int64) {
    self.number = number
    isMeasured = counts.isMeasured
    endNanoseconds = counts.endNanoseconds.map { $0 - start }
    answered = counts.answered
    latencies = AgentMethodLatencies(counts.latencies)
    serviceTimes = AgentLatencies(counts.serviceTimes)
    scheduleLag = AgentLatencies(counts.scheduleLag)
    outcomes = counts.outcomes
    codes = counts.codes
    cpuNanoseconds = counts.cpuNanoseconds
  }

  /// - Parameters:
  ///   - start: of the run, by the coordinator's clock.
  ///   - numbers: the slices that it may be.
  func counts(start: Int64, numbers: ClosedRange<Int>) throws(LoadError) -> IntervalCounts {
    var counts = IntervalCounts()
    guard numbers.contains(number) else { throw LoadError("it sent a slice of another time") }
    counts.number = number
    counts.isMeasured = isMeasured
    if let endNanoseconds {
      guard (0...Int64(1) << 50).contains(endNanoseconds) else {
        throw LoadError("it sent a time that is none")
      }
      counts.endNanoseconds = start + endNanoseconds
    }
    counts.answered = try AgentLatencies.count(answered)
    counts.latencies = try latencies.decoded()
    counts.serviceTimes = try serviceTimes.latencies()
    counts.scheduleLag = try scheduleLag.latencies()
    counts.outcomes = try AgentLatencies.counts(outcomes, Outcome.allCases.count)
    counts.codes = try AgentLatencies.counts(codes, grpcCodeNames.count)
    counts.cpuNanoseconds = Int64(try AgentLatencies.count(cpuNanoseconds))
    return counts
  }
}

/// What an agent's threads have counted over the whole run.
struct AgentStatistics: Codable {
  /// By `Method.rawValue`, of the measured part.
  var latencies: [AgentLatencies]
  var messageLatencies: AgentLatencies
  var serviceTimes: AgentLatencies
  var scheduleLag: AgentLatencies
  var messages: Int
  var messageRequests: Int
  var attempts: Int
  var measured: Int
  var unsent: Int
  var connectionsLost: Int
  var connectionsRedialled: Int
  var endedEarly: String?
  var firstFailure: String?
  var firstConnectionLoss: String?
  var cpuNanoseconds: Int64
  var wallNanoseconds: Int64
  var busyShares: [Double]

  /// - Parameters:
  ///   - statistics: of all threads together.
  ///   - endedEarly: why the agent stopped before it was to.
  init(_ statistics: Statistics, busyShares: [Double], endedEarly: String?) {
    latencies = statistics.latencies.map { AgentLatencies($0) }
    messageLatencies = AgentLatencies(statistics.messageLatencies)
    serviceTimes = AgentLatencies(statistics.serviceTimes)
    scheduleLag = AgentLatencies(statistics.scheduleLag)
    messages = statistics.messages
    messageRequests = statistics.messageRequests
    attempts = statistics.attempts
    measured = statistics.measured
    unsent = statistics.unsent
    connectionsLost = statistics.connectionsLost
    connectionsRedialled = statistics.connectionsRedialled
    self.endedEarly = endedEarly
    firstFailure = statistics.firstFailure
    firstConnectionLoss = statistics.firstConnectionLoss
    cpuNanoseconds = statistics.cpuNanoseconds
    wallNanoseconds = statistics.wallNanoseconds
    self.busyShares = busyShares
  }

  func statistics() throws(LoadError) -> Statistics {
    guard latencies.count == Method.allCases.count, busyShares.count <= 64,
      busyShares.allSatisfy({ (0...1_000).contains($0) })
    else { throw LoadError("it sent statistics that are none") }
    var statistics = Statistics()
    for (index, each) in latencies.enumerated() {
      statistics.latencies[index] = try each.latencies()
    }
    statistics.messageLatencies = try messageLatencies.latencies()
    statistics.serviceTimes = try serviceTimes.latencies()
    statistics.scheduleLag = try scheduleLag.latencies()
    statistics.messages = try AgentLatencies.count(messages)
    statistics.messageRequests = try AgentLatencies.count(messageRequests)
    statistics.attempts = try AgentLatencies.count(attempts)
    statistics.measured = try AgentLatencies.count(measured)
    statistics.unsent = try AgentLatencies.count(unsent)
    statistics.connectionsLost = try AgentLatencies.count(connectionsLost)
    statistics.connectionsRedialled = try AgentLatencies.count(connectionsRedialled)
    statistics.endedEarly = endedEarly.map { agentText($0) }
    statistics.firstFailure = firstFailure.map { agentText($0) }
    statistics.firstConnectionLoss = firstConnectionLoss.map { agentText($0) }
    // A day and more, on many threads.
    guard (0...Int64(1) << 56).contains(cpuNanoseconds),
      (0...Int64(1) << 50).contains(wallNanoseconds)
    else { throw LoadError("it sent times that are none") }
    statistics.cpuNanoseconds = cpuNanoseconds
    statistics.wallNanoseconds = wallNanoseconds
    return statistics
  }
}
