// One connection at a time to the engine: made where it is wanted, given up where it is in doubt.
internal import Posix
internal import Synchronization

/// Statements of all threads, one after the other.
@safe final class PostgresLine: @unchecked Sendable {
  private let address: String
  private let timeout: Int64
  private let report: @Sendable (String) -> Void
  private let lock = Mutex<Void>(())
  private var connection: PostgresConnection?
  /// What was reported last; nil while all is well.
  private var trouble: String?

  /// - Parameter timeout: for each host to be reached, in nanoseconds.
  init(_ address: String, timeout: Int64, _ report: @escaping @Sendable (String) -> Void) {
    self.address = address
    self.timeout = timeout
    self.report = report
  }

  func run(
    _ statement: String, _ values: [PostgresValue] = [], isKept: Bool = false, nanoseconds: Int64
  ) throws(PostgresError) -> (rows: PostgresRows, notice: String?) {
    try lock.withLock { (_) throws(PostgresError) in
      do throws(PostgresError) {
        return try opened().run(statement, values, isKept: isKept, nanoseconds: nanoseconds)
      } catch {
        // Its session may go on with what was sent; the next one asks what became of it. And a server that has
        // become a standby since refuses everything: the next connection looks for the one to write to.
        connection = nil
        noteLocked(error.description)
        throw error
      }
    }
  }

  private func opened() throws(PostgresError) -> PostgresConnection {
    if let connection { return connection }
    let opened = try PostgresConnection(address, nanosecondsEach: timeout)
    connection = opened
    return opened
  }

  /// Reports what is wrong, once.
  func note(_ text: String) { lock.withLock { _ in noteLocked(text) } }

  private func noteLocked(_ text: String) {
    if trouble == nil { report("the engine does not answer as it should: \(text)") }
    trouble = text
  }

  func noteAllIsWell() {
    lock.withLock { _ in
      if trouble != nil { report("the engine answers again") }
      trouble = nil
    }
  }
}
