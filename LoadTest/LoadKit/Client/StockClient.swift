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
  let endpoint: Endpoint

  /// Calls in flight at once.
  private static let streams = 256
  /// Without any call done for so long the server is given up.
  private let patienceNanoseconds: Int64
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
    if let reason = connection.lostReason {
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
    var deadline = SystemClock.monotonicNanoseconds() + patienceNanoseconds
    while done < count {
      while next < count || !again.isEmpty, connection.calls.hasRoom(for: 16_000) {
        let index = again.popLast() ?? next
        if index == next { next += 1 }
        write(index, &message)
        _ = connection.start(method, callID: UInt64(index), message)
      }
      connection.flush(poller)
      let before = done
      try turn(deadline: deadline)
      for position in connection.calls.responses.indices {
        let answer = connection.calls.responses[position]
        if try take(Int(answer.callID), connection.calls, answer) {
          done += 1
        } else {
          again.append(Int(answer.callID))
        }
      }
      connection.calls.forgetResponses()
      if done > before {
        deadline = SystemClock.monotonicNanoseconds() + patienceNanoseconds
      } else if !again.isEmpty {
        if SystemClock.monotonicNanoseconds() > deadline {
          throw LoadError("\(endpoint) is too busy; try again with less load on it")
        }
        sleep(milliseconds: StockClient.pauseMilliseconds)
      }
    }
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
