// Structured logs on standard error: text for people on a terminal, one JSON object a line elsewhere.
internal import Foundation
internal import Logging

enum LogOutput {
  static func logger(_ settings: Settings) -> Logger {
    let isText =
      settings.logFormat == "text" || settings.logFormat == "auto" && isatty(STDERR_FILENO) == 1
    var logger = Logger(label: "holdfast") { _ in LineLogHandler(isText: isText) }
    logger.logLevel = Logger.Level(rawValue: settings.logLevel) ?? .info
    return logger
  }
}

/// Writes each entry as one line with one write, so that lines of several threads never mix.
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
    let time = Date.now.formatted(
      Date.ISO8601FormatStyle(includingFractionalSeconds: true))
    let line =
      isText
      ? text(time, event, all) : json(time, event, all)
    try? FileHandle.standardError.write(contentsOf: Data((line + "\n").utf8))
  }

  private func text(_ time: String, _ event: LogEvent, _ all: Logger.Metadata) -> String {
    let pairs = all.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
    return "\(time) \(event.level) \(event.message)\(pairs)"
  }

  private func json(_ time: String, _ event: LogEvent, _ all: Logger.Metadata) -> String {
    var object = all.mapValues { "\($0)" }
    object["time"] = time
    object["level"] = "\(event.level)"
    object["message"] = "\(event.message)"
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(object) else { return "{}" }
    return String(decoding: data, as: UTF8.self)
  }
}
