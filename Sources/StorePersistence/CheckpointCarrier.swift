// Puts the owner's checkpoints into the replicated log, and gives up there what they replace: so a new copy of the
// log begins with the newest of them.
package import Log
package import Posix
internal import Synchronization

/// A thread of its own: an engine that is slow, or away, makes nobody wait.
package final class CheckpointCarrier: Sendable {
  /// Bytes of a part: a row of its own.
  private static let partBytes = 1 << 20
  /// The newest, and the one that a copy may be reading when it comes.
  private static let keptCount = 2

  private let log: any ReplicatedLog
  private let storage: any Storage
  private let interval: Int64
  private let stopping: Wakeup
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Thread?>(nil)
  /// Why the last try failed.
  private let trouble = Mutex<JournalError?>(nil)
  private let carriedLSN = Atomic<UInt64>(0)
  private let failureCount = Atomic<UInt64>(0)

  /// - Parameters:
  ///   - storage: the owner's directory.
  ///   - interval: how often it looks, in nanoseconds.
  package init(
    _ log: any ReplicatedLog, from storage: any Storage, interval: Int64
  ) throws(Errno) {
    self.log = log
    self.storage = storage
    self.interval = interval
    stopping = try Wakeup()
    let started = try Thread(name: "carrier") { [self] in run() }
    thread.withLock { $0 = started }
  }

  package var failure: JournalError? { trouble.withLock { $0 } }

  /// Tries that failed.
  package var failures: UInt64 { failureCount.load(ordering: .relaxed) }

  /// Of the newest that the log has, as far as is known.
  package var newestCarried: UInt64 { carriedLSN.load(ordering: .relaxed) }

  private func run() {
    while !stopping.wait(nanoseconds: interval), !isStopping.load(ordering: .acquiring) {
      do throws(JournalError) {
        try step()
        trouble.withLock { $0 = nil }
      } catch {
        // The next turn tries it again. Nothing waits for it but room at the engine.
        trouble.withLock { $0 = error }
        failureCount.add(1, ordering: .relaxed)
      }
    }
  }

  /// Puts the newest checkpoint there, if the log has none as new, and gives up what is too old.
  package func step() throws(JournalError) {
    guard let lsn = try DirectoryListing(storage).checkpoints.last, lsn > newestCarried else {
      return
    }
    if try log.checkpoints().last?.lsn ?? 0 < lsn {
      let file = try JournalError.attempt("open", FileNames.checkpoint(lsn)) { () throws(Errno) in
        try storage.open(FileNames.checkpoint(lsn))
      }
      let nextPart = Self.parts(of: file, FileNames.checkpoint(lsn))
      try log.putCheckpoint(lsn) { () throws(JournalError) in
        if isStopping.load(ordering: .acquiring) { throw .unreachable("the server ends") }
        return try nextPart()
      }
    }
    let kept = try log.checkpoints()
    for old in kept.dropLast(Self.keptCount) { try log.removeCheckpoint(old) }
    if let oldest = kept.suffix(Self.keptCount).first { try log.trim(before: oldest.lsn) }
    carriedLSN.store(lsn, ordering: .relaxed)
  }

  /// The parts of a file, one after the other; nil behind the last.
  package static func parts(
    of file: any StorageFile, _ name: String
  ) -> () throws(JournalError) -> [UInt8]? {
    var offset = 0
    return { () throws(JournalError) in
      var bytes = [UInt8](repeating: 0, count: partBytes)
      let count = try JournalError.attempt("read", name) { () throws(Errno) in
        var span = bytes.mutableSpan
        return try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
          try unsafe file.read(into: bytes, at: offset)
        }
      }
      offset += count
      if count == 0 { return nil }
      bytes.removeLast(bytes.count - count)
      return bytes
    }
  }

  package func stop() {
    isStopping.store(true, ordering: .releasing)
    stopping.signal()
    let started = thread.withLock { thread in
      let started = thread
      thread = nil
      return started
    }
    started?.join()
  }
}
