package import Posix

/// Why a journal cannot be used, or not any further.
package enum JournalError: Error, Equatable, CustomStringConvertible {
  /// A call to the storage failed. `operation` is a verb: "write", "sync the directory".
  case failed(operation: String, file: String, Errno)
  /// Another process has the directory.
  case inUse(path: String)
  /// What is written goes where no start will find it; the text says why.
  case displaced(String)
  /// What was once durable is not there as it was written.
  case damaged(Damage)
  /// A newer version of this program has written the file: this one can read formats up to `upTo`.
  case newer(file: String, format: UInt32, upTo: UInt32)
  /// Another epoch of the log has begun: nothing can be appended under this one any more.
  case fenced(by: UInt32)
  /// Nobody can say now whether what was appended was taken.
  case unreachable(String)
  /// A replicated log has not what it had acknowledged, or not as it was; the text says what.
  case lost(String)
  /// A replicated log has another batch before this place than the one that was read there, or none.
  case takenBack(before: UInt64)
  /// The log does not reach back as far as was asked for: it begins at `oldest`.
  case trimmed(oldest: UInt64)
  /// The directory does not fit what it is opened with; the text says what to do.
  case unsuitable(String)
  /// The system has no room in memory for tables of this size; the text says what to do.
  case tooLittleMemory(String)

  package var description: String {
    switch self {
    case .failed(let operation, let file, let error): "cannot \(operation) \(file): \(error)"
    case .inUse(let path): "\(path) is in use by another process"
    case .displaced(let text): text
    case .damaged(let damage): damage.description
    case .newer(let file, let format, let upTo):
      "\(file) was written by a newer holdfast (format \(format)), this one reads up to \(upTo)"
    case .fenced(let epoch): "the log has another owner since (epoch \(epoch))"
    case .unreachable(let text), .lost(let text): text
    case .takenBack(let lsn): "the log is another one before \(lsn) than it was"
    case .trimmed(let oldest): "the log begins at \(oldest): what is before is gone"
    case .unsuitable(let text), .tooLittleMemory(let text): text
    }
  }
}

/// Where a data directory is damaged.
package struct Damage: Equatable, Sendable, CustomStringConvertible {
  package let file: String
  /// Byte offset in the file.
  package let offset: Int
  /// Everything before this log sequence number is whole; nil where there is no such number.
  package let lsn: UInt64?
  /// What is wrong there, in a few words.
  package let finding: String

  package init(file: String, offset: Int, lsn: UInt64?, finding: String) {
    self.file = file
    self.offset = offset
    self.lsn = lsn
    self.finding = finding
  }

  /// Where, and what is wrong.
  package var place: String { "\(file) is damaged at offset \(offset): \(finding)" }

  package var description: String {
    guard let lsn else { return "\(place); restore the directory from a copy" }
    return """
      \(place); restore the directory from a copy, or give up every decision after \(lsn) for good: \
      holdfast repair DIR --truncate-at \(lsn)
      """
  }
}

extension JournalError {
  /// Calls the storage; a failure says what was tried with which file.
  package static func attempt<Result>(
    _ operation: String, _ file: String, _ body: () throws(Errno) -> Result
  ) throws(JournalError) -> Result {
    do {
      return try body()
    } catch {
      throw .failed(operation: operation, file: file, error)
    }
  }
}
