// Where a relay goes on: a resume token in a file that one relay has at a time.
package import Client
package import Posix
internal import Synchronization

/// Keeps the newest token. It is written by a thread of its own: a disk that is slow holds no event up.
package final class ResumeFile: Sendable {
  /// A file that is written and synced more often costs more than what it saves: events that come again.
  private static let pauseNanoseconds: Int64 = 100_000_000
  /// From one attempt to the next where it cannot be written.
  private static let retryNanoseconds: Int64 = 1_000_000_000

  private struct State {
    var newest: String?
    var written: String?
    var failure: Errno?
    var failures: UInt64 = 0
    var isEnding = false
    var thread: Thread?
  }

  package enum Failure: Error, Equatable {
    /// Another process relays with this file.
    case inUse
    case unusable(Errno)
    /// There is something else in it.
    case noToken
  }

  private let saved: SavedLine
  /// Locked for as long as this lives.
  private let lock: File
  private let report: @Sendable (String) -> Void
  private let state = Mutex(State())
  private let wakeup: Wakeup
  private let ended: Wakeup

  /// Locks the file: by another beside it, `FILE.lock`, since it is replaced at every save.
  package init(path: String, report: @escaping @Sendable (String) -> Void) throws(Failure) {
    let isLocked: Bool
    self.report = report
    do throws(Errno) {
      // A save would replace a symbolic link, and not what it leads to; and two links are no two files.
      saved = try SavedLine(path: ResolvedPath.replaceable(path))
      try saved.requireWritable()
      lock = try saved.openLock()
      wakeup = try Wakeup()
      ended = try Wakeup()
      isLocked = try lock.lock(exclusive: true)
    } catch {
      throw .unusable(error)
    }
    if !isLocked { throw .inUse }
  }

  package var path: String { saved.path }

  /// What is in it; nil where nothing was saved yet.
  package func position() throws(Failure) -> WatchPosition? {
    let text: String?
    do throws(Errno) { text = try saved.read() } catch { throw .unusable(error) }
    guard let text else { return nil }
    guard let position = WatchPosition(text) else { throw .noToken }
    return position
  }

  /// Begins to write what `keep` is given.
  package func start() throws(Errno) {
    let thread = try Thread(name: "resume-file") { [self] in
      while write() {
        // Not too often, but at the end at once.
        ended.wait(nanoseconds: Self.pauseNanoseconds)
        wakeup.wait(nanoseconds: isFailing ? Self.retryNanoseconds : .max)
      }
    }
    state.withLock { $0.thread = thread }
  }

  /// Everything up to this token is done.
  package func keep(_ token: String) {
    state.withLock { $0.newest = token }
    wakeup.signal()
  }

  /// Writes the newest token, and no other from then on. Why it cannot be; nil: it is there.
  package func finish() -> Errno? {
    let thread = state.withLock { state in
      state.isEnding = true
      return state.thread.take()
    }
    ended.signal()
    wakeup.signal()
    thread?.join()
    return state.withLock { $0.failure }
  }

  /// Saves that failed.
  package var failures: UInt64 { state.withLock { $0.failures } }
  /// Whether the newest token could not be saved.
  package var isFailing: Bool { state.withLock { $0.failure != nil } }

  /// False: it was the last time.
  private func write() -> Bool {
    let (newest, isLast) = state.withLock { state in
      (state.newest == state.written ? nil : state.newest, state.isEnding)
    }
    if let newest { save(newest) }
    return !isLast
  }

  private func save(_ token: String) {
    do throws(Errno) {
      try saved.save(token)
      let wasFailing = state.withLock { state in
        defer { (state.written, state.failure) = (token, nil) }
        return state.failure != nil
      }
      if wasFailing { report("the resume file \(saved.path) can be written again") }
    } catch {
      let isFirst = state.withLock { state in
        defer {
          state.failure = error
          state.failures += 1
        }
        return state.failure == nil
      }
      if isFirst {
        report(
          "the resume file \(saved.path): \(error); events come again if this ends before it can be written"
        )
      }
    }
  }
}
