internal import GRPC
// Calls that a run makes for itself, on a connection of its own: putting stock behind SKUs, and
// reading the balances afterwards.
package import LoadHistory
internal import LoadReport
internal import Posix

package struct StockClient: ~Copyable {
  private let poller: Poller
  private var connection: LoadConnection
  private let buffer = ReceiveBuffer()
  private var message = MessageBuffer()
  /// The server that it speaks to; of several the one that decides, once a call was answered.
  private(set) var endpoint: Endpoint
  /// Where a refusal has said that the owner is.
  private var owner: String?

  /// Calls in flight at once.
  private static let streams = 256
  /// Without any call done for so long the server is given up.
  private var patienceNanoseconds: Int64
  private static let connectSeconds: Int64 = 5
  /// How long to leave a server alone that turns everything down.
  private static let pauseMilliseconds = 5
  /// Items of one BatchGetStock: its request then fits one frame.
  private static let readBatch = 400

  private init(
    poller: consuming Poller, connection: consuming LoadConnection, endpoint: Endpoint,
    patienceNanoseconds: Int64
  ) {
    self.patienceNanoseconds = patienceNanoseconds
    self.poller = poller
    self.connection = connection
    self.endpoint = endpoint
  }

  /// Connects, and waits until the server has said hello.
  ///
  /// - Parameter patienceNanoseconds: without any call done for so long the server is given up.
  package static func connect(
    to endpoint: Endpoint, patienceNanoseconds: Int64 = 10_000_000_000
  ) throws(LoadError) -> StockClient {
    // Each is tried in its turn: which of them decides, only a call can tell.
    var endpoint = endpoint
    var problem: LoadError?
    let deadline = SystemClock.monotonicNanoseconds() + patienceNanoseconds
    repeat {
      for _ in endpoint.all {
        do throws(LoadError) {
          return try connectOnce(to: endpoint, patienceNanoseconds: patienceNanoseconds)
        } catch { problem = error }
        endpoint = endpoint.next()
      }
      if !endpoint.others.isEmpty { sleep(milliseconds: 100) }
    } while !endpoint.others.isEmpty && SystemClock.monotonicNanoseconds() < deadline
    throw problem ?? LoadError("\(endpoint) does not answer")
  }

  private static func connectOnce(
    to endpoint: Endpoint, patienceNanoseconds: Int64
  ) throws(LoadError) -> StockClient {
    let poller = try orFail("epoll") { () throws(Errno) in try Poller() }
    let connection = try LoadConnection.connect(
      to: endpoint, callsMaximum: streams, poller: poller, token: 0)
    var client = StockClient(
      poller: poller, connection: connection, endpoint: endpoint,
      patienceNanoseconds: patienceNanoseconds)
    let wait = min(patienceNanoseconds, connectSeconds * 1_000_000_000)
    let deadline = SystemClock.monotonicNanoseconds() + wait
    while !client.connection.calls.isReady { try client.turn(deadline: deadline) }
    return client
  }

  /// One pass: waits, sends, receives. Afterwards `connection.calls.responses` are new.
  private mutating func turn(deadline: Int64) throws(LoadError) {
    if SystemClock.monotonicNanoseconds() > deadline {
      throw LoadError("\(endpoint) does not answer; is it a holdfast server, and is it running?")
    }
    let count = try orFail("epoll") { () throws(Errno) in
      try poller.wait(timeoutMilliseconds: 200)
    }
    guard count > 0 else { return }
    let event = poller.event(at: 0)
    if event.isWritable || event.isHungUp { connection.becameWritable(poller) }
    if event.isReadable || event.isHungUp { _ = connection.receive(buffer) }
    connection.flush(poller)
    // Of several servers another goes on: `callAll` sends what was lost again.
    if let reason = connection.lostReason, endpoint.others.isEmpty || !connection.calls.isReady {
      throw LoadError("\(endpoint): \(reason); is a holdfast server running there?")
    }
  }

  /// Makes the calls 0 ..< `count`, many at a time, and again those whose answer `take` turns down.
  mutating func callAll(
    _ count: Int, _ method: Method, write: (Int, inout MessageBuffer) -> Void,
    take: (Int, borrowing ClientCalls, ClientResponse) throws(LoadError) -> Bool
  ) throws(LoadError) {
    var next = 0
    var done = 0
    var again: [Int] = []
    var hasMoved = false
    var deadline = SystemClock.monotonicNanoseconds() + patienceNanoseconds
    while done < count {
      while owner == nil, next < count || !again.isEmpty, connection.calls.hasRoom(for: 16_000) {
        let index = again.popLast() ?? next
        if index == next { next += 1 }
        write(index, &message)
        _ = connection.start(method, callID: UInt64(index), message)
      }
      connection.flush(poller)
      let before = done
      if hasMoved, SystemClock.monotonicNanoseconds() > deadline { throw noOwner }
      try turn(deadline: deadline)
      for position in connection.calls.responses.indices {
        let answer = connection.calls.responses[position]
        if isOfNoOwner(answer) {
          again.append(Int(answer.callID))
        } else if try take(Int(answer.callID), connection.calls, answer) {
          done += 1
        } else {
          again.append(Int(answer.callID))
        }
      }
      connection.calls.forgetResponses()
      if connection.isLost || owner != nil && connection.calls.openCalls == 0 {
        try moveOn(deadline: deadline)
        hasMoved = true
      }
      if done > before {
        hasMoved = false
        deadline = SystemClock.monotonicNanoseconds() + patienceNanoseconds
      } else if !again.isEmpty {
        if SystemClock.monotonicNanoseconds() > deadline {
          throw hasMoved
            ? noOwner : LoadError("\(endpoint) is too busy; try again with less load on it")
        }
        sleep(milliseconds: StockClient.pauseMilliseconds)
      }
    }
  }

  /// Whether the answer leaves a call to another server: this one does not decide, or is gone.
  private mutating func isOfNoOwner(_ answer: ClientResponse) -> Bool {
    if endpoint.others.isEmpty { return false }
    if answer.outcome == .lost { return true }
    guard answer.outcome == .answered, answer.status == .unavailable,
      let named = connection.calls.withStatusDetails(of: answer, { Refusal.owner(details: $0) })
    else { return false }
    owner = named
    return true
  }

  private var noOwner: LoadError {
    LoadError("\(endpoint.all.count) servers, and none is the owner")
  }

  /// Goes on with another server. The calls that were in flight were answered, or lost.
  private mutating func moveOn(deadline: Int64) throws(LoadError) {
    sleep(milliseconds: StockClient.pauseMilliseconds)
    let patience = patienceNanoseconds
    let left = deadline - SystemClock.monotonicNanoseconds()
    // Where little is left there is still one try: the caller ends it.
    self = try StockClient.connect(
      to: endpoint.next(owner: owner ?? ""), patienceNanoseconds: max(left, patience / 10))
    patienceNanoseconds = patience
  }

  /// `target` with the server first that decides now.
  static func findOwner(_ target: Endpoint, run: RunID) throws(LoadError) -> Endpoint {
    if target.others.isEmpty { return target }
    var client = try connect(to: target)
    _ = try client.readLevels(1, SKUNames(run: run))
    return client.endpoint
  }

  /// Sets on hand of every SKU to `units[sku]`. Safe to repeat: every call has its own key, made of
  /// `run`. Answers how many SKUs the server had set before, by the same key.
  @discardableResult
  package mutating func setStock(
    _ units: [Int64], safetyStock: Int64 = 0, _ names: SKUNames, run: RunID, reason: String
  ) throws(LoadError) -> Int {
    let endpoint = endpoint
    var replayed = 0
    try callAll(units.count, .adjustStock) { index, message in
      message.writeSetOnHand(
        key: KeyNames.stock(run, sku: index), sku: UInt32(index), names, units: units[index],
        safetyStock: safetyStock, reason: reason)
    } take: { (index, calls, answer) throws(LoadError) in
      let call = "AdjustStock of \(names.name(index))"
      guard try StockClient.isDone(answer, calls, call, endpoint) else { return false }
      if calls.withMessage(of: answer, { readIsReplayed($0) }) == true { replayed += 1 }
      return true
    }
    return replayed
  }

  /// Makes a decision that changes nothing but a version.
  /// - Parameter safetyStock: what the run's items have.
  mutating func mark(
    _ key: String, _ names: SKUNames, safetyStock: Int64
  ) throws(LoadError) {
    let endpoint = endpoint
    try callAll(1, .adjustStock) { _, message in
      message.writeMark(key: key, names, safetyStock: safetyStock)
    } take: { (_, calls, answer) throws(LoadError) in
      try StockClient.isDone(answer, calls, "AdjustStock", endpoint)
    }
  }

  /// The balances of SKUs 0 ..< `count`, each with the times between which it was read.
  package mutating func readLevels(_ count: Int, _ names: SKUNames) throws(LoadError) -> [ReadLevel]
  {
    let batch = StockClient.readBatch
    let batches = (count + batch - 1) / batch
    var sent = [Int64](repeating: 0, count: batches)
    let missing = ReadLevel(level: nil, sentNanoseconds: 0, answeredNanoseconds: 0)
    var levels = [ReadLevel](repeating: missing, count: count)
    let endpoint = endpoint
    try callAll(batches, .batchGetStock) { index, message in
      sent[index] = SystemClock.monotonicNanoseconds()
      message.writeBatchGetStock(index * batch..<min(count, (index + 1) * batch), names)
    } take: { (index, calls, answer) throws(LoadError) in
      guard try StockClient.isDone(answer, calls, "BatchGetStock", endpoint) else { return false }
      let now = SystemClock.monotonicNanoseconds()
      let isWhole = calls.withMessage(of: answer) { bytes in
        readStockLevels(bytes, names) { sku, level in
          guard sku < count else { return }
          levels[sku] = ReadLevel(
            level: level, sentNanoseconds: sent[index], answeredNanoseconds: now)
        }
      }
      if !isWhole { throw LoadError("\(endpoint): BatchGetStock answered what is not protobuf") }
      return true
    }
    return levels
  }

  /// True for OK, false where the call is worth another try.
  static func isDone(
    _ answer: ClientResponse, _ calls: borrowing ClientCalls, _ call: String, _ endpoint: Endpoint
  ) throws(LoadError) -> Bool {
    switch (answer.outcome, answer.status) {
    case (.answered, .ok): return true
    case (.answered, .aborted), (.answered, .unavailable), (.unprocessed, _): return false
    case (.answered, let status):
      let text = calls.statusText(of: answer)
      throw LoadError("\(endpoint): \(call) answered \(grpcCodeNames[status.rawValue]): \(text)")
    default:
      throw LoadError("\(endpoint): \(call) got no gRPC answer; is a holdfast server there?")
    }
  }
}
