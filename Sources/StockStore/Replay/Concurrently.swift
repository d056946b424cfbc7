// Two parts of a recovery at the same time.
package import Log
internal import Posix
internal import Synchronization

/// Calls both, where it is worth it at the same time: the second on a thread of its own, if there is one
/// to be had.
package func concurrently<First, Second: Sendable>(
  isWorthIt: Bool, _ first: () throws(JournalError) -> First,
  _ second: @escaping @Sendable () throws(JournalError) -> Second
) throws(JournalError) -> (First, Second) {
  let other = Errand(second)
  let hasProcessor = isWorthIt && Machine.usableProcessors > 1
  let thread = hasProcessor ? try? Thread(name: "recovery", other.run) : nil
  let outcome: Result<First, JournalError>
  do { outcome = .success(try first()) } catch { outcome = .failure(error) }
  if let thread { thread.join() } else { other.run() }
  return (try outcome.get(), try other.result())
}

/// A body and what came of it.
private final class Errand<Value: Sendable>: Sendable {
  private let body: @Sendable () throws(JournalError) -> Value
  private let outcome = Mutex<Result<Value, JournalError>?>(nil)

  init(_ body: @escaping @Sendable () throws(JournalError) -> Value) { self.body = body }

  @Sendable func run() {
    let result: Result<Value, JournalError>
    do { result = .success(try body()) } catch { result = .failure(error) }
    outcome.withLock { $0 = result }
  }

  /// What `run`, which has returned, came to.
  func result() throws(JournalError) -> Value {
    guard let result = outcome.withLock({ $0 }) else { preconditionFailure("it has not run") }
    return try result.get()
  }
}
