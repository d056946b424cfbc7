// The directory of --archive, and what is said of it.
internal import Log
internal import Logging
internal import Posix
internal import StockStore
internal import Synchronization

final class ArchiveDirectory: Sendable {
  let storage: DirectoryStorage
  private let path: String
  private let logger: Logger
  /// Monotonic nanoseconds.
  private let quietUntil = Mutex<Int64>(.min)

  /// Takes the directory, which is made if need be: nobody else may archive into it.
  init(_ settings: Settings, _ logger: Logger) throws(CommandFailure) {
    path = settings.archive
    self.logger = logger
    if ResolvedPath.of(path) == ResolvedPath.of(settings.dataDirectory) {
      throw CommandFailure(
        description: "--archive: \(path) is the data directory: choose another one",
        status: CommandFailure.usage)
    }
    do {
      storage = try DirectoryStorage(path: path, access: .owner)
    } catch {
      throw CommandFailure(error, directory: path, remedy: "choose another --archive")
    }
  }

  /// What an error of the opening says, where it is about the archive.
  func failure(_ error: JournalError) -> CommandFailure? {
    guard case .unsuitable(let text) = error, text.contains("the archive") else { return nil }
    return CommandFailure(description: "--archive \(path): \(text)")
  }

  func watch(_ store: StockStore) {
    store.journal?.archiver?.onNotice { [self] in tell($0) }
  }

  private func tell(_ notice: ArchiveNotice) {
    switch notice {
    case .failed(let error):
      let now = SystemClock.monotonicNanoseconds()
      let isNews = quietUntil.withLock { until in
        if now < until { return false }
        until = now + Limits.archiveToldNanoseconds
        return true
      }
      if !isNews { return }
      logger.error(
        "cannot archive a segment; it is kept and tried again, as long as there is room",
        metadata: ["archive": "\(path)", "error": "\(error)"])
    case .works:
      quietUntil.withLock { $0 = .min }
      logger.notice("the archive takes segments again", metadata: ["archive": "\(path)"])
    case .lost(let segments):
      logger.error(
        "the archive lacks segments for good; make a new backup: older ones cannot be brought past them",
        metadata: ["archive": "\(path)", "segments": .stringConvertible(segments)])
    }
  }

  /// The journal was closed: brings its end into the archive.
  func finish(_ store: StockStore) {
    guard let archiver = store.journal?.archiver else { return }
    if !archiver.finish(patienceNanoseconds: Limits.archiveFinishNanoseconds) {
      logger.error(
        "the archive lacks the end of the journal; the next start brings it there",
        metadata: ["archive": "\(path)"])
    }
  }
}
