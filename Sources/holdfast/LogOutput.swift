// Structured logs on standard error: text for people on a terminal, one JSON object a line elsewhere.
internal import FoundationEssentials
internal import Glibc
internal import Logging
internal import Posix
internal import Synchronization

enum LogOutput {
  static func logger(_ settings: Settings) -> Logger {
    let isText =
      settings.logFormat == "text" || settings.logFormat == "auto" && isatty(STDERR_FILENO) == 1
    var logger = Logger(label: "holdfast") { _ in LineLogHandler(isText: isText) }
    logger.logLevel = Logger.Level(rawValue: settings.logLevel) ?? .info
    return logger
  }
}

/// Writes each entry as one line, and never two at the same time, so that lines of several threads do not
/// mix.
private struct LineLogHandler: LogHandler {
  let isText: Bool
  var metadata: Logger.Metadata = [:]
  var logLevel = Logger.Level.info

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let all = metadata.merging(event.metadata ?? [:]) { $1 }
    let line = line("\(event.level)", "\(event.message)", all)
    LogReader.standardError.withLock { reader in
      if reader.lostLines > 0 {
        let count = reader.lostLines
        let notice = self.line(
          "warning", "the log's reader did not take lines", ["lines": .stringConvertible(count)])
        // Those count no more, and it does, if it is lost too.
        if reader.write(notice) { reader.lostLines -= count }
      }
      _ = reader.write(line)
    }
  }

  private func line(_ level: String, _ message: String, _ all: Logger.Metadata) -> String {
    let time = Date.now.formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true))
    return isText ? text(time, level, message, all) : json(time, level, message, all)
  }

  private func text(
    _ time: String, _ level: String, _ message: String, _ all: Logger.Metadata
  ) -> String {
    let pairs = all.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
    return "\(time) \(level) \(message)\(pairs)"
  }

  private func json(
    _ time: String, _ level: String, _ message: String, _ all: Logger.Metadata
  ) -> String {
    var object = all.mapValues(JSONValue.init)
    object["time"] = JSONValue(.string(time))
    object["level"] = JSONValue(.string(level))
    object["message"] = JSONValue(.string(message))
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(object) else { return "{}" }
    return String(decoding: data, as: UTF8.self)
  }
}

/// Whoever reads standard error: it may be gone, or asleep behind a full pipe. No thread waits for it for
/// long, since all of them have more to do.
private struct LogReader {
  static let standardError = Mutex(LogReader())
  private static let patienceMilliseconds: Int32 = 100

  /// Lines that were not written, or only in part.
  var lostLines = 0
  private var isLate = false
  private var isWithinLine = false

  /// False where the line was lost.
  mutating func write(_ line: String) -> Bool {
    // What is left of a line that was cut is one by itself.
    let bytes = Array(((isWithinLine ? "\n" : "") + line + "\n").utf8)
    let count = FileDescriptor.write(
      STDERR_FILENO, bytes, patienceMilliseconds: isLate ? 0 : Self.patienceMilliseconds)
    isLate = count < bytes.count
    if count > 0 { isWithinLine = isLate }
    if isLate { lostLines += 1 }
    return !isLate
  }
}

/// A value of an entry as JSON: numbers stay numbers.
private struct JSONValue: Encodable {
  let value: Logger.MetadataValue

  init(_ value: Logger.MetadataValue) { self.value = value }

  func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch value {
    case .string(let text): try container.encode(text)
    case .array(let values): try container.encode(values.map(JSONValue.init))
    case .dictionary(let values): try container.encode(values.mapValues(JSONValue.init))
    case .stringConvertible(let value):
      if let number = value as? any FixedWidthInteger & Encodable {
        try container.encode(number)
      } else if let number = value as? Double, number.isFinite {
        try container.encode(number)
      } else {
        try container.encode("\(value)")
      }
    }
  }
}
