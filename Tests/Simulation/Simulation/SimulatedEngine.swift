// A node's connections to the simulated servers: one for what the owner writes, one for the rest. While a statement
// waits, time goes on, and other nodes act.
internal import Log
internal import Posix

/// Used by one thread.
final class SimulatedEngine: LogEngine, @unchecked Sendable {
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

  /// Runs a statement at a moment.
  /// - Parameter needsRow: it waits while the row is locked.
  private func once<Result>(
    asOwner: Bool = false, needsRow: Bool = false,
    _ body: (EngineServer) throws(JournalError) -> Result
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

  func state(asOwner: Bool) throws(JournalError) -> LogState {
    try once(asOwner: asOwner) { (server) throws(JournalError) in server.tables.row }
  }

  func want() throws(JournalError) {
    try once(needsRow: true) { (server) throws(JournalError) in
      var row = server.tables.row
      row.isWanted = true
      server.commit([.row(row)])
    }
  }

  func read(
    from lsn: UInt64, whole: UInt64, asOwner: Bool,
    _ body: (PlacedBatch) throws(JournalError) -> Bool
  ) throws(JournalError) -> LogState {
    // The answer is whole before anything of it is used.
    let (row, batches) = try once(asOwner: asOwner) { (server) throws(JournalError) in
      (server.tables.row, server.tables.batches.filter { $0.lsn >= lsn }.prefix(3))
    }
    for batch in batches {
      if try !batch.withPlaced(isWhole: batch.lsn >= whole, body) { break }
    }
    return row
  }

  func trim(before lsn: UInt64) throws(JournalError) {
    try once(needsRow: true) { (server) throws(JournalError) in
      var row = server.tables.row
      let isReplaced = server.tables.complete.contains { $0.lsn >= lsn }
      guard row.trimmedLSN < lsn,
        isReplaced || self.options.fault == .trimBeforeCheckpoint
      else { return }
      row.trimmedLSN = lsn
      server.commit([.row(row)])
      self.cluster.counts[.trims] += 1
    }
    try once { (server) throws(JournalError) in
      let lsn = server.tables.row.trimmedLSN
      server.commit([.remove(before: lsn)])
    }
  }

  func checkpoints() throws(JournalError) -> [KeptCheckpoint] {
    try once { (server) throws(JournalError) in server.tables.complete }
  }

  func addCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) {
    try once { (server) throws(JournalError) in
      server.commit([.checkpoint(checkpoint.name, StoredCheckpoint(checkpoint: checkpoint))])
    }
  }

  func addPart(
    _ part: Int, of checkpoint: KeptCheckpoint, _ bytes: [UInt8]
  ) throws(JournalError) {
    try once { (server) throws(JournalError) in
      // Its foreign key.
      guard var stored = server.tables.checkpoints[checkpoint.name] else {
        throw .unreachable("the engine: there is no such checkpoint")
      }
      stored.parts[part] = bytes
      server.commit([.checkpoint(checkpoint.name, stored)])
    }
  }

  func completeCheckpoint(
    _ checkpoint: KeptCheckpoint, parts: Int
  ) throws(JournalError) -> Bool {
    try once { (server) throws(JournalError) in
      guard var stored = server.tables.checkpoints[checkpoint.name],
        stored.parts.count == parts || self.options.fault == .completeAnyParts
      else { return false }
      stored.count = parts
      server.commit([.checkpoint(checkpoint.name, stored)])
      return true
    }
  }

  func part(
    _ part: Int, of checkpoint: KeptCheckpoint,
    _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> Int? {
    let stored = try once { (server) throws(JournalError) in
      server.tables.checkpoints[checkpoint.name]
    }
    guard let stored, let count = stored.count else { return nil }
    if let bytes = stored.parts[part] {
      try unsafe bytes.span.withUnsafeBytes { (bytes) throws(JournalError) in
        try unsafe body(bytes)
      }
    }
    return count
  }

  func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) {
    try once { (server) throws(JournalError) in
      guard let newest = server.tables.complete.last,
        newest != checkpoint || self.options.fault == .removeNewest,
        server.tables.checkpoints[checkpoint.name] != nil
      else { return }
      server.commit([.checkpoint(checkpoint.name, nil)])
    }
  }
}
