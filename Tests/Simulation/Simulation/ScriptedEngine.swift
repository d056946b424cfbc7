// A simulated server that nothing happens to but what a test says: for each rule, the answer that it is about.
internal import Log

/// A machine's way to a server. Used by one thread at a time.
final class ScriptedEngine: EngineStatements, @unchecked Sendable {
  /// What becomes of a call.
  enum Failure: CaseIterable {
    /// It never came.
    case lost
    /// It was carried out, and nobody heard.
    case answerLost
    /// A write waited for no standby; anything else is well.
    case notice
  }

  let server: EngineServer
  /// By their numbers, from 1.
  var failures: [Int: Failure] = [:]
  private(set) var calls = 0
  private(set) var notes: [String?] = []
  /// Changes what is read of a batch.
  var harm: (inout StoredBatch) -> Void = { _ in }
  private var time: Int64 = 1 << 40
  private var lastNumber: UInt64

  let fault: EngineFault? = nil

  /// - Parameter machine: machines of one server have different ones.
  init(_ server: EngineServer, machine: UInt64 = 1) {
    self.server = server
    lastNumber = machine << 32
  }

  /// A server that is alone.
  static func makeServer() -> EngineServer {
    var lastID: UInt64 = 0
    return EngineServer(number: 0, fault: nil) {
      lastID += 1
      return lastID
    }
  }

  private func next() -> Failure? {
    calls += 1
    return failures[calls]
  }

  func write(_ change: EngineWrite, beats: UInt64) -> EngineAnswer {
    let failure = next()
    if failure == .lost { return .none }
    let write = SentWrite(change, beats: beats, arrival: 0)
    server.send(write)
    server.run(now: 0) { _, _ in }
    server.end(failure == .notice ? "canceling wait" : nil)
    return failure == .answerLost ? .none : write.answer ?? .none
  }

  func once<Result>(
    asOwner: Bool, needsRow: Bool, _ body: (EngineServer) throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    let failure = next()
    if failure == .lost { throw .unreachable("the call is lost") }
    let result = try body(server)
    if failure == .answerLost { throw .unreachable("the answer is lost") }
    return result
  }

  func read(
    from lsn: UInt64, whole: UInt64, asOwner: Bool,
    _ body: (PlacedBatch) throws(JournalError) -> Bool
  ) throws(JournalError) -> LogState {
    let (row, batches) = try once(asOwner: asOwner, needsRow: false) {
      (server) throws(JournalError) in
      (server.tables.row, server.tables.batches.filter { $0.lsn >= lsn })
    }
    for var batch in batches {
      let isWhole = batch.lsn >= whole
      harm(&batch)
      if try !batch.withPlaced(isWhole: isWhole, body) { break }
    }
    return row
  }

  func hasTrimmed() {}

  func note(_ trouble: String?) { notes.append(trouble) }

  func now() -> Int64 {
    time += 1_000_000
    return time
  }

  func uniqueNumber() -> UInt64 {
    lastNumber += 1
    return lastNumber
  }

  func pause() {}

  func close() {}
}
