internal import Log
internal import Posix
internal import StockStore

/// Serves those who are behind: reads old segments, a block for one request after the other. Confined to its
/// thread.
final class CatchUpReader {
  private let feed: ChangeFeed
  private let encoder: EventEncoder
  private var requests: [ChangeFeed.Request] = []
  /// What the log tells of safety stock before the process began is known.
  private var hasReadAll = false

  init(_ feed: ChangeFeed) {
    self.feed = feed
    encoder = EventEncoder(feed.store, feed.retained)
  }

  func run() {
    while !feed.isStopping {
      if !step() { feed.catchUp.wakeup.wait(nanoseconds: .max) }
    }
  }

  /// Serves the first of the requests; false where there is none.
  func step() -> Bool {
    requests += feed.catchUp.take()
    // Who went away meanwhile is not read for.
    for request in requests {
      guard case .cancel = request.what else { continue }
      requests.removeAll { $0.port === request.port && $0.watch == request.watch }
    }
    if requests.isEmpty { return false }
    serve(requests.removeFirst())
    return true
  }

  private func serve(_ request: ChangeFeed.Request) {
    do throws(LogCursorError) {
      switch request.what {
      case .cancel, .start(.now, _): break
      case .start(.foreign, _): throw .otherHistory
      case .start(.oldest, let filter):
        encoder.interest = Interest(filter)
        try serveOldest(request)
      case .start(.after(let point), _):
        let found = try feed.log.locate(point)
        try requireSafetyStock(behind: point.lsn)
        request.port.deliver(.begun(found), to: request.watch)
      case .next(let point, let filter):
        let cursor = try feed.log.cursor(from: point)
        try requireSafetyStock(behind: point.lsn)
        encoder.interest = Interest(filter)
        try serve(request, behind: point, cursor)
      }
    } catch {
      request.port.deliver(.failed(feed.failure(error)), to: request.watch)
    }
  }

  /// Where the log begins there is no batch before that could tell it from another history's: so a token is
  /// given only with what is behind it.
  private func serveOldest(_ request: ChangeFeed.Request) throws(LogCursorError) {
    let start = LogPoint(lsn: try safetyStockKnown(behind: 0), mark: 0)
    let cursor = try feed.log.cursorFromOldest()
    while let block = try encoder.block(behind: start, cursor, bytesMax: feed.limits.blockBytes) {
      if block.end.lsn <= start.lsn { continue }
      return request.port.deliver(.block(block), to: request.watch)
    }
    // Nothing was decided yet, or everything that is kept is of an older version.
    request.port.deliver(.begun(try feed.log.endPoint()), to: request.watch)
  }

  private func serve(
    _ request: ChangeFeed.Request, behind point: LogPoint, _ cursor: any LogCursor
  ) throws(LogCursorError) {
    if let block = try encoder.block(behind: point, cursor, bytesMax: feed.limits.blockBytes) {
      request.port.deliver(.block(block), to: request.watch)
    } else {
      // It has caught up, or the log is empty.
      feed.tail.post(request)
    }
  }

  // MARK: Safety stock

  /// Sees to it that the safety stock of every item is known at every decision behind `lsn`.
  private func requireSafetyStock(behind lsn: UInt64) throws(LogCursorError) {
    if feed.store.core.fault == .watchSafetyStockUnread { return }
    let known = try safetyStockKnown(behind: lsn)
    if lsn < known { throw .trimmed(oldest: known) }
  }

  /// Behind which log sequence number the safety stock of every item is known: at `lsn` or before, where the
  /// log tells it.
  private func safetyStockKnown(behind lsn: UInt64) throws(LogCursorError) -> UInt64 {
    let changes = feed.store.safetyStockChanges
    // What was told once and dropped is not read again: that it was too much would not change.
    if lsn >= changes.completeFrom || changes.hasDropped { return changes.completeFrom }
    let oldest = try feed.log.oldestLSN()
    if hasReadAll || oldest >= changes.completeFrom { return max(oldest, changes.completeFrom) }
    let until = changes.liveFrom
    var found: [(ordinal: UInt32, before: Int64, lsn: UInt64)] = []
    var completeFrom = oldest
    var removed: Set<UInt32> = []
    let cursor = try feed.log.cursorFromOldest()
    var end = oldest
    while end < until {
      let before = end
      try unsafe cursor.read(bytesMax: feed.limits.blockBytes) { batch, records in
        end = batch.end.lsn
        unsafe Self.forEachSafetyStock(records, &removed) { ordinal, before, offset in
          let lsn = batch.lsn &+ UInt64(offset)
          guard lsn <= until else { return }
          if let before {
            found.append((ordinal, before, lsn))
          } else {
            // An older version did not say what it was: nothing before that can be told.
            found.removeAll()
            completeFrom = lsn
          }
        }
      }
      if found.count > changes.countMax {
        let dropped = found.count / 2
        completeFrom = found[dropped - 1].lsn
        found.removeFirst(dropped)
      }
      if end == before { break }
    }
    hasReadAll = true
    changes.setOlder(found, completeFrom: completeFrom)
    return completeFrom
  }

  /// Calls `body` with each safety stock that was asked for, the one before, and where the record ends. Of an item
  /// that was made there is nothing to know, but where it was made anew.
  /// - Parameter removed: the items that were removed, and not made anew yet.
  private static func forEachSafetyStock(
    _ records: UnsafeRawBufferPointer, _ removed: inout Set<UInt32>,
    _ body: (UInt32, Int64?, Int) -> Void
  ) {
    var offset = 0
    func tell(_ item: ItemHandle, isMade: Bool, before: Int64?) {
      if !isMade {
        body(item.ordinal, before, offset)
      } else if removed.remove(item.ordinal) != nil {
        body(item.ordinal, 0, offset)
      }
    }
    while offset < records.count,
      let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: records[offset...]))
    {
      offset += record.byteCount
      if record.kind == .adjusted, record.safetyStockAsked != nil {
        let isMade = record.name.sku.count > 0
        tell(record.level.item, isMade: isMade, before: record.safetyStockBefore)
      }
      if record.kind == .removed {
        let level = record.level
        removed.insert(level.item.ordinal)
        if level.safetyStock != 0 { body(level.item.ordinal, level.safetyStock, offset) }
      }
      record.forEachChange { change in
        if change.safetyStockAsked != nil {
          tell(change.level.item, isMade: change.name != nil, before: change.safetyStockBefore)
        }
      }
    }
  }
}
