// The token file of a server that runs.
internal import Access
internal import Logging
internal import Posix

/// Reads the callers of `serve --tokens`, and says in the log what became of each change.
final class TokenKeeper: Sendable {
  let file: AccessListFile
  private let logger: Logger

  /// nil where access is off.
  static func start(_ settings: Settings, _ logger: Logger) throws(CommandFailure) -> TokenKeeper? {
    guard !settings.tokens.isEmpty else { return nil }
    let file: AccessListFile
    do throws(AccessError) {
      file = try AccessListFile(
        path: settings.tokens, limits: Limits.access, now: SystemClock.wall().nanoseconds)
    } catch {
      throw CommandFailure(description: "--tokens: \(error)")
    }
    return TokenKeeper(file, logger)
  }

  private init(_ file: AccessListFile, _ logger: Logger) {
    self.file = file
    self.logger = logger
    for warning in file.warnings { warn(warning) }
    logger.info(
      "read the tokens",
      metadata: ["file": "\(file.path)", "entries": .stringConvertible(file.list.count)])
  }

  /// For SIGHUP: reads the file even where it looks the same.
  func reload() { tell(file.reload(now: SystemClock.wall().nanoseconds)) }

  /// To be called about once a second.
  func look() { tell(file.poll(now: SystemClock.wall().nanoseconds)) }

  private func tell(_ report: AccessListFile.Report) {
    switch report {
    case .unchanged: break
    case .replaced(let entries, let warnings):
      logger.notice(
        "read the tokens again: the new entries are in force",
        metadata: ["file": "\(file.path)", "entries": .stringConvertible(entries)])
      for warning in warnings { warn(warning) }
    case .kept(let why):
      logger.error(
        "cannot read the tokens again: the entries from before stay in force",
        metadata: ["error": "\(why)"])
    }
  }

  private func warn(_ warning: String) {
    logger.warning("\(warning)", metadata: ["file": "\(file.path)"])
  }
}
