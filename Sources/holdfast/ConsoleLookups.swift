// Answers the console's look-ups: one item, or one reservation, with what the log still knows of it.
internal import Admin
internal import Bytes
internal import ChangeFeed
internal import Log
internal import Posix
internal import StockStore

/// A thread that looks things up, one after the other. It rests as long as a search has taken, so that whoever asks
/// without end takes half a processor at most.
final class ConsoleLookups: Sendable {
  let wakeup: Wakeup
  private let console: Console
  private let sources: @Sendable () -> ConsoleSources

  init(_ console: Console, _ sources: @escaping @Sendable () -> ConsoleSources) throws(Errno) {
    self.console = console
    self.sources = sources
    wakeup = try Wakeup()
  }

  func run() {
    var reader: StoreReader?
    while true {
      let lookups = console.takeLookups()
      if lookups.isEmpty {
        wakeup.wait(nanoseconds: .max)
        continue
      }
      for lookup in lookups where lookup.isWanted {
        let began = SystemClock.monotonicNanoseconds()
        let sources = sources()
        if reader == nil, let store = sources.store { reader = StoreReader(store) }
        if let store = sources.store, let reader {
          lookup.finish(Answer(store, reader).answer(lookup.question))
        } else {
          lookup.finish(
            .object([("error", .text("this server has no stock yet: it is not ready"))]))
        }
        wakeup.rest(until: 2 * SystemClock.monotonicNanoseconds() - began)
      }
    }
  }
}

private struct Answer {
  let store: StockStore
  let reader: StoreReader

  init(_ store: StockStore, _ reader: StoreReader) {
    self.store = store
    self.reader = reader
  }

  // As ConsoleKeeper.publish: not in the loop.
  @inline(never)
  func answer(_ question: ConsoleQuestion) -> JSON {
    switch question {
    case .stock(let sku, let location): stock(sku, location)
    case .reservation(let id): reservation(id)
    }
  }

  // MARK: An item

  private func stock(_ sku: String, _ location: String) -> JSON {
    let (skuBytes, locationBytes) = (Array(sku.utf8), Array(location.utf8))
    let found = unsafe skuBytes.withUnsafeBufferPointer { sku in
      unsafe locationBytes.withUnsafeBufferPointer { location in
        unsafe reader.stock(
          ItemName(
            sku: BorrowedBytes(sku.baseAddress, count: sku.count),
            location: BorrowedBytes(location.baseAddress, count: location.count)))
      }
    }
    guard let (level, lsn) = found else {
      return .object([
        ("found", .bool(false)), ("sku", .text(sku)), ("location", .text(location)),
      ])
    }
    return .object([
      ("found", .bool(true)), ("sku", .text(sku)), ("location", .text(location)),
      ("onHand", .int(level.onHand)), ("held", .int(level.held)),
      ("committed", .int(level.committed)), ("safetyStock", .int(level.safetyStock)),
      ("available", .int(level.available)), ("version", .count(level.version)),
      ("frozen", .bool(level.sale.isFrozen)),
      ("onSale", .bool(level.sale.admits(store.time.nanoseconds))),
      ("lsn", .count(lsn)),
      ("history", history(.item(level.item), lastLSN: nil)),
    ])
  }

  // MARK: A reservation

  private func reservation(_ text: String) -> JSON {
    guard let id = ReservationID(text: Array(text.utf8).span), let found = reader.reservation(id)
    else { return .object([("found", .bool(false)), ("id", .text(text))]) }
    let lines = found.lines.map { line in
      let name = reader.name(of: line.item)
      return unsafe JSON.object([
        ("sku", Self.text(Array(name.sku.pointer))),
        ("location", Self.text(Array(name.location.pointer))),
        ("quantity", .int(line.quantity)),
      ])
    }
    return .object([
      ("found", .bool(true)), ("id", .text(text)), ("state", .text("\(found.state)")),
      ("isDue", .bool(found.isDue)), ("reference", Self.text(found.reference)),
      ("revision", .count(found.revision)), ("createdAt", Self.time(found.createdAt)),
      ("expiresAt", Self.time(found.expiresAt)),
      ("endedAt", found.endedAt.map(Self.time) ?? .null), ("lines", .list(lines)),
      ("lsn", .count(found.lsn)),
      (
        "history",
        history(
          .reservation(id, createdAt: found.createdAt), lastLSN: found.lsn > 0 ? found.lsn : nil)
      ),
    ])
  }

  // MARK: History

  /// - Parameter lastLSN: nothing of the subject is behind it.
  private func history(_ subject: HistorySubject, lastLSN: UInt64?) -> JSON {
    guard let log: any ReadableLog = store.journal?.log ?? store.memoryLog,
      store.memoryLog?.isKeeping ?? true
    else {
      return Self.noHistory(
        "With durability memory the server keeps what was decided only while somebody watches, or with --history."
      )
    }
    do throws(LogCursorError) {
      // In memory, what was decided is moved to the log now and then.
      if store.memoryLog != nil { _ = try log.endPoint() }
      let search = HistorySearch(store: store, log: log, limits: Limits.history)
      let history = try search.history(of: subject, lastLSN: lastLSN)
      return .object([
        ("entries", .list(history.entries.reversed().map(Self.entry))),
        ("end", .text("\(history.end)")), ("bytesRead", .count(history.bytesRead)),
        ("searchedBackTo", history.searchedBackTo.map(Self.time) ?? .null), ("problem", .null),
      ])
    } catch {
      return Self.noHistory("The log cannot be read: \(error)")
    }
  }

  private static func noHistory(_ why: String) -> JSON {
    .object([
      ("entries", .list([])), ("end", .text("none")), ("bytesRead", .int(0)),
      ("searchedBackTo", .null), ("problem", .text(why)),
    ])
  }

  private static func entry(_ entry: HistoryEntry) -> JSON {
    .object([
      ("lsn", .count(entry.lsn)), ("time", time(entry.time)), ("kind", .text("\(entry.kind)")),
      ("reservation", entry.reservation.map { .text($0.text) } ?? .null),
      ("expiresAt", entry.expiresAt.map(time) ?? .null), ("note", .text(entry.note)),
      ("caller", text(entry.caller)), ("key", text(entry.key)),
      (
        "lines",
        .list(
          entry.lines.map { line in
            .object([
              ("sku", text(line.sku)), ("location", text(line.location)),
              ("quantity", .int(line.quantity)),
              ("onHand", line.after.map { .int($0.onHand) } ?? .null),
              ("held", line.after.map { .int($0.held) } ?? .null),
              ("committed", line.after.map { .int($0.committed) } ?? .null),
              ("version", line.after == nil ? .null : .count(line.version)),
            ])
          })
      ),
    ])
  }

  private static func text(_ bytes: [UInt8]) -> JSON {
    .text(String(decoding: bytes, as: UTF8.self))
  }

  /// In milliseconds since the Unix epoch.
  private static func time(_ time: Timestamp) -> JSON { .int(time.nanoseconds / 1_000_000) }
}

extension ReservationID {
  /// As calls have it.
  fileprivate var text: String {
    var bytes = [UInt8](repeating: 0, count: Self.textLength)
    var span = bytes.mutableSpan
    write(to: &span)
    return String(decoding: bytes, as: UTF8.self)
  }
}
