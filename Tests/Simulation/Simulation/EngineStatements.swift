// The statements of an engine that wait for nobody, on the tables of a simulated server: the same for a server among
// several, and for one that does what a test says.
internal import Log

protocol EngineStatements: LogEngine {
  /// Of statements.
  var fault: EngineFault? { get }

  /// Runs a statement at a moment.
  /// - Parameter needsRow: it waits while the row is locked.
  func once<Result>(
    asOwner: Bool, needsRow: Bool, _ body: (EngineServer) throws(JournalError) -> Result
  ) throws(JournalError) -> Result

  /// Batches were given up.
  func hasTrimmed()
}

extension EngineStatements {
  private func once<Result>(
    needsRow: Bool = false, _ body: (EngineServer) throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    try once(asOwner: false, needsRow: needsRow, body)
  }

  func state(asOwner: Bool) throws(JournalError) -> LogState {
    try once(asOwner: asOwner, needsRow: false) { (server) throws(JournalError) in server.tables.row
    }
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
    let (row, batches) = try once(asOwner: asOwner, needsRow: false) {
      (server) throws(JournalError) in
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
        isReplaced || fault == .trimBeforeCheckpoint
      else { return }
      row.trimmedLSN = lsn
      server.commit([.row(row)])
      hasTrimmed()
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
        stored.parts.count == parts || fault == .completeAnyParts
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
        newest != checkpoint || fault == .removeNewest,
        server.tables.checkpoints[checkpoint.name] != nil
      else { return }
      server.commit([.checkpoint(checkpoint.name, nil)])
    }
  }
}
