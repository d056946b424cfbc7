// A node's connections to the simulated servers: one for what the owner writes, one for the rest. While a statement
// waits, time goes on, and other nodes act.
internal import Log
internal import Posix

/// Used by one thread.
final class SimulatedEngine: EngineStatements, @unchecked Sendable {
  private let cluster: EngineCluster
  private let node: Int
  private let options: EngineOptions
  /// What the node's clock says when the true time is 0, and how fast it goes.
  private let clock: (offset: Int64, rate: Double)
  private var owner: EngineServer?
  private var others: EngineServer?
  /// The process is gone: it sends nothing more, and hears nothing.
  private var isClosed = false

  init(
    _ cluster: EngineCluster, node: Int, options: EngineOptions,
    clock: (offset: Int64, rate: Double)
  ) {
    self.cluster = cluster
    self.node = node
    self.options = options
    self.clock = clock
  }

  func now() -> Int64 { clock.offset &+ Int64(Double(cluster.now) * clock.rate) }
  func uniqueNumber() -> UInt64 { cluster.random.number(1...(1 << 62) - 1) }
  func pause() { cluster.step() }
  func note(_ trouble: String?) {}
  func close() { isClosed = true }

  // MARK: Writing

  func write(_ change: EngineWrite, beats: UInt64) -> EngineAnswer {
    guard !isClosed, let server = connected(&owner) else {
      cluster.step()
      return .none
    }
    let write = SentWrite(change, beats: beats, arrival: cluster.arrival())
    server.send(write)
    let deadline = cluster.now + options.writeNanoseconds
    while write.answer == nil, !write.isCut, !isClosed, cluster.now < deadline,
      cluster.isReached(server, from: node), !cluster.isDisconnected()
    {
      cluster.step()
    }
    if write.answer != nil { cluster.freeze() }
    if let answer = write.answer, !isClosed, !write.isCut {
      if !cluster.losesAnswer() { return answer }
      cluster.counts[.answersLost] += 1
    }
    owner = nil
    // Some of what was sent is lost with the connection; the rest comes.
    write.isGivenUp = true
    if write.answer == nil, write.hasBatch == nil, cluster.random.chance(30) {
      server.forget(write)
      if write.append != nil { cluster.counts[.appendsLost] += 1 }
    }
    return .none
  }

  private func connected(_ line: inout EngineServer?) -> EngineServer? {
    if let server = line, server.isPrimary, cluster.isReached(server, from: node) {
      return server
    }
    line = cluster.connect(from: node)
    return line
  }

  // MARK: What waits for nobody

  func once<Result>(
    asOwner: Bool, needsRow: Bool, _ body: (EngineServer) throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    cluster.step()
    let failure = JournalError.unreachable("the simulated engine does not answer")
    guard !isClosed, let server = asOwner ? connected(&owner) : connected(&others) else {
      throw failure
    }
    func giveUp() -> JournalError {
      if asOwner { owner = nil } else { others = nil }
      return failure
    }
    let deadline = cluster.now + options.timeoutNanoseconds
    while needsRow, server.waiting != nil {
      if cluster.now >= deadline || !cluster.isReached(server, from: node) { throw giveUp() }
      cluster.step()
    }
    if isClosed || !server.isUp || !server.isPrimary || cluster.isDisconnected() {
      throw giveUp()
    }
    let result = try body(server)
    if cluster.isDisconnected() { throw giveUp() }
    return result
  }

  var fault: EngineFault? { options.fault }

  func hasTrimmed() { cluster.counts[.trims] += 1 }
}
