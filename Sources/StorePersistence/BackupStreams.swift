// Backups that go elsewhere: a thread for each reads one piece after the other, as they are asked for.
package import Log
internal import Posix
internal import Synchronization

/// What a stream of a backup gets for a request.
package enum BackupDelivery: Sendable {
  case piece(file: String, offset: Int, bytes: [UInt8])
  /// All was given.
  case end
  case failed(JournalError)
}

package final class BackupStreams: Sendable {
  private let streamsMax: Int
  private let open: @Sendable () throws(JournalError) -> BackupReader
  private let report: @Sendable (String) -> Void
  private let threads = Mutex<[ObjectIdentifier: (BackupStream, Thread)]>([:])
  private let isStopping = Atomic<Bool>(false)

  /// - Parameters:
  ///   - open: begins to read, on the stream's thread.
  ///   - report: takes what the operator should hear of.
  package init(
    streamsMax: Int, open: @escaping @Sendable () throws(JournalError) -> BackupReader,
    report: @escaping @Sendable (String) -> Void
  ) {
    self.streamsMax = streamsMax
    self.open = open
    self.report = report
  }

  /// Begins a backup; nil where there are too many, or no thread is to be had.
  /// - Parameter wake: called from the stream's thread when there is something to `take`.
  package func begin(wake: @escaping @Sendable () -> Void) -> BackupStream? {
    threads.withLock { threads in
      for (key, entry) in threads where entry.0.hasEnded {
        entry.1.join()
        threads[key] = nil
      }
      guard threads.count < streamsMax, !isStopping.load(ordering: .acquiring),
        let stream = try? BackupStream(wake: wake),
        let thread = try? Thread(name: "backup", { [open, report] in stream.run(open, report) })
      else { return nil }
      threads[ObjectIdentifier(stream)] = (stream, thread)
      return stream
    }
  }

  /// Ends all threads. Nobody begins any more.
  package func stop() {
    isStopping.store(true, ordering: .releasing)
    let all = threads.withLock { threads in
      let all = Array(threads.values)
      threads = [:]
      return all
    }
    for (stream, _) in all { stream.cancel() }
    for (_, thread) in all { thread.join() }
  }
}

/// One backup on its way. `request`, `take` and `cancel` are for one thread, and wait for nothing.
package final class BackupStream: Sendable {
  private let delivery = Mutex<BackupDelivery?>(nil)
  private let isCancelled = Atomic<Bool>(false)
  private let ended = Atomic<Bool>(false)
  private let wakeup: Wakeup
  private let wake: @Sendable () -> Void

  fileprivate init(wake: @escaping @Sendable () -> Void) throws(Errno) {
    wakeup = try Wakeup()
    self.wake = wake
  }

  /// Asks for the next piece: after each that was taken.
  package func request() { wakeup.signal() }

  package func take() -> BackupDelivery? {
    delivery.withLock { delivery in
      let taken = delivery
      delivery = nil
      return taken
    }
  }

  package func cancel() {
    isCancelled.store(true, ordering: .releasing)
    wakeup.signal()
  }

  fileprivate var hasEnded: Bool { ended.load(ordering: .acquiring) }

  fileprivate func run(
    _ open: () throws(JournalError) -> BackupReader, _ report: (String) -> Void
  ) {
    defer { ended.store(true, ordering: .releasing) }
    do throws(JournalError) {
      let reader = try open()
      while true {
        wakeup.wait(nanoseconds: .max)
        if isCancelled.load(ordering: .acquiring) { return }
        guard try give(from: reader) else { return deliver(.end) }
      }
    } catch {
      report("a backup ended: \(error)")
      deliver(.failed(error))
    }
  }

  /// False where all was given.
  private func give(from reader: BackupReader) throws(JournalError) -> Bool {
    var given: BackupDelivery?
    // A step may give nothing: a segment has come to its end.
    while given == nil {
      let hasMore = try reader.next { piece throws(JournalError) in
        given = .piece(
          file: piece.file, offset: piece.offset, bytes: unsafe Array(piece.bytes))
      }
      if !hasMore { return false }
    }
    if let given { deliver(given) }
    return true
  }

  private func deliver(_ delivery: BackupDelivery) {
    self.delivery.withLock { $0 = delivery }
    wake()
  }
}
