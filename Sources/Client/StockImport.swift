// An import on its way: calls of up to 1,000 rows, one after the other, each durable when it is answered, so that what was
// cut off goes on behind the last one, whoever was killed.
internal import Posix

/// Where an import stands, in a file beside its own, so that the same command goes on with it.
package struct ImportState: Equatable, Sendable {
  /// What the server knows the import by: a name, and the digest of the file.
  package let importID: String
  /// Rows of which the server has said that they are done.
  package var done: UInt64

  package init(importID: String, done: UInt64 = 0) {
    self.importID = importID
    self.done = done
  }

  /// The digest of the file, at the end of the id.
  package var digest: String { String(importID.suffix(16)) }

  /// `holdfast-import 1 ID DONE`
  package init?(_ text: String) {
    let words = text.split(whereSeparator: \.isWhitespace)
    guard words.count == 4, words[0] == "holdfast-import", words[1] == "1",
      words[2].utf8.count > 16,
      words[2].utf8.count <= 64, let done = UInt64(words[3])
    else { return nil }
    self.init(importID: String(words[2]), done: done)
  }

  package var text: String { "holdfast-import 1 \(importID) \(done)" }

  /// A name that no other import has, for a file with this digest.
  package static func newID(digest: String) -> String { RandomName.make(12) + "-" + digest }
}

/// Names that are made at random.
package enum RandomName {
  private static let letters = Array("abcdefghijklmnopqrstuvwxyz0123456789")

  /// So many letters and digits; five bits of chance in each.
  package static func make(_ count: Int) -> String {
    String((0..<count).map { _ in letters[Int.random(in: 0..<letters.count)] })
  }
}

/// A row that the server, or the file, would not have.
package struct RejectedRow: Equatable, Sendable {
  package let line: Int
  package let reason: String
  /// As it stands in the file.
  package let bytes: [UInt8]
}

/// How far an import is.
package struct ImportProgress: Equatable, Sendable {
  /// Rows that are done, earlier tries included.
  package var done: UInt64 = 0
  package let total: UInt64
  /// Of this run.
  package var changed: UInt64 = 0
  package var refused: UInt64 = 0
  /// Rows that are done, of which this import was not told, or has not kept, whether they were refused: the answer was lost,
  /// or an earlier run was killed.
  package var unheard: UInt64 = 0

  package init(total: UInt64) { self.total = total }
}

/// Why an import does not go on.
package enum ImportError: Error, Equatable {
  case call(CallFailure)
  case file(ImportFileError)
  /// The server knows nothing of it any more, and has said before that rows were done.
  case forgotten(done: UInt64)
  case interrupted
  /// What is to be written beside the file cannot be; in words.
  case output(String)
}

/// One run of an import. Used by one thread.
package struct StockImport: ~Copyable {
  /// Rows of one message, and of one call: the server names 1,000 refused rows of a call, so that none is left out.
  private static let messageRows = 500
  private static let callRows = 1_000

  private let caller: ServiceCaller
  private let importID: String
  /// Rows whose end this import was told of, in earlier runs.
  private let doneBefore: UInt64
  private var progress: ImportProgress
  /// The rows of the next call, where they come from, and the rows with mistakes among them.
  private var chunk: [Adjustment] = []
  private var sources: [CSVRecord] = []
  private var mistakes: [RejectedRow] = []

  package init(_ caller: ServiceCaller, _ state: ImportState, total: UInt64) {
    self.caller = caller
    importID = state.importID
    doneBefore = state.done
    progress = ImportProgress(total: total)
  }

  /// Sends all rows that are not done.
  /// - Parameters:
  ///   - isNew: the server has not heard of it yet.
  ///   - reject: gets each row that is rejected.
  ///   - advance: is told of the progress after every call, whose rows are durable.
  package mutating func run(
    _ file: ImportFile, isNew: Bool, reject: (RejectedRow) throws(ImportError) -> Void,
    advance: (ImportProgress) throws(ImportError) -> Void
  ) throws(ImportError) {
    if !isNew {
      progress.done = try rowsDone()
      // Whoever sent them was killed before it had written down what the server said.
      if progress.done > doneBefore { progress.unheard = progress.done - doneBefore }
    }
    if progress.done == 0, doneBefore > 0 { throw .forgotten(done: doneBefore) }
    try advance(progress)
    while try !sendRows(of: file, reject, advance) {
      // The server was restored to an earlier state, and knows what it has.
      let done = progress.done
      progress.done = try rowsDone()
      if progress.done == 0, done > 0 { throw .forgotten(done: done) }
      if progress.done >= done {
        throw .call(
          CallFailure(
            .malformed, "the server refuses rows that follow those that it has",
            server: caller.server))
      }
    }
  }

  /// What the server has of the import. A row behind the end of the file cannot be its turn, so that the answer is always
  /// where the import is, and nothing is changed.
  private func rowsDone() throws(ImportError) -> UInt64 {
    let row = Adjustment(ItemName(sku: "none"), .ship(1))
    do throws(CallFailure) {
      _ = try caller.call(
        .importStock, Requests.importRows(importID, firstRow: progress.total + 1, [row]))
      throw CallFailure(.malformed, "the server has taken a row that is behind the end")
    } catch {
      if let next = Self.nextRow(error) { return min(next, progress.total) }
      throw failed(error)
    }
  }

  /// Of IMPORT_GAP.
  private static func nextRow(_ failure: CallFailure) -> UInt64? {
    guard failure.details.reason == "IMPORT_GAP" else { return nil }
    return failure.details.value("next_row").flatMap { UInt64($0) }
  }

  private func failed(_ failure: CallFailure) -> ImportError {
    failure.kind == .interrupted ? .interrupted : .call(failure)
  }

  /// False where the server knows of fewer rows than were done.
  private mutating func sendRows(
    of file: ImportFile, _ reject: (RejectedRow) throws(ImportError) -> Void,
    _ advance: (ImportProgress) throws(ImportError) -> Void
  ) throws(ImportError) -> Bool {
    let first = progress.done
    var index: UInt64 = 0
    (chunk, sources, mistakes) = ([], [], [])
    var rows = try Self.attempt { () throws(ImportFileError) in try ImportRows(file) }
    while let row = try Self.next(&rows) {
      switch row.content {
      case .failure(let mistake):
        // Those before were told of in an earlier run.
        if index >= min(first, doneBefore) {
          mistakes.append(
            RejectedRow(line: mistake.line, reason: mistake.text, bytes: row.record.bytes))
        }
      case .success(let adjustment):
        if index >= first {
          chunk.append(adjustment)
          sources.append(row.record)
        }
        index += 1
      }
      if chunk.count == Self.callRows, try !sendChunk(reject, advance) { return false }
    }
    return try sendChunk(reject, advance)
  }

  private static func next(_ rows: inout ImportRows) throws(ImportError) -> ImportRow? {
    do throws(ImportFileError) { return try rows.next() } catch { throw .file(error) }
  }

  private static func attempt<Value: ~Copyable>(
    _ body: () throws(ImportFileError) -> Value
  ) throws(ImportError) -> Value {
    do throws(ImportFileError) { return try body() } catch { throw .file(error) }
  }

  /// False where the server knows of fewer rows than were done.
  private mutating func sendChunk(
    _ reject: (RejectedRow) throws(ImportError) -> Void,
    _ advance: (ImportProgress) throws(ImportError) -> Void
  ) throws(ImportError) -> Bool {
    if Signals.isInterrupted { throw .interrupted }
    let first = progress.done
    if !chunk.isEmpty {
      let answer: ImportAnswer
      do throws(CallFailure) {
        answer = try callChunk(from: first)
      } catch {
        if Self.nextRow(error) != nil { return false }
        throw failed(error)
      }
      progress.done = first + UInt64(chunk.count)
      progress.changed += answer.changed
      progress.refused += answer.failed
      progress.unheard += UInt64(chunk.count) - answer.changed - answer.failed
      for failure in answer.failures {
        let source = sources[Int(failure.row - first)]
        try reject(RejectedRow(line: source.line, reason: failure.reason, bytes: source.bytes))
      }
    }
    for mistake in mistakes { try reject(mistake) }
    (chunk, sources, mistakes) = ([], [], [])
    try advance(progress)
    return true
  }

  private func callChunk(from first: UInt64) throws(CallFailure) -> ImportAnswer {
    var messages: [[UInt8]] = []
    for start in stride(from: 0, to: chunk.count, by: Self.messageRows) {
      let rows = chunk[start..<min(start + Self.messageRows, chunk.count)]
      messages.append(Requests.importRows(importID, firstRow: first + UInt64(start), rows))
    }
    let response = try caller.call(.importStock, messages: messages)
    let range = first..<first + UInt64(chunk.count)
    guard let answer = ImportAnswer(response), answer.nextRow >= range.upperBound,
      answer.changed <= UInt64(chunk.count), answer.failed <= UInt64(chunk.count),
      answer.changed + answer.failed <= UInt64(chunk.count),
      answer.failures.allSatisfy({ range.contains($0.row) })
    else {
      throw CallFailure(
        .malformed, "the server has answered what cannot be of this import", server: caller.server)
    }
    return answer
  }
}
