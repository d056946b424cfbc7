// The loop: events of about a second, one transaction, and so on; and from the beginning where there is no going on.
internal import Client
internal import Posix

package struct ProjectionOptions: Sendable {
  /// Of the database, as libpq takes it.
  package var database: String
  package var schema = "holdfast_view"
  /// From one transaction to the next.
  package var intervalNanoseconds: Int64 = 1_000_000_000
  /// What is older is deleted; nil: nothing is.
  package var keptEventsNanoseconds: Int64?
  /// Reservations that have ended for so long; nil: none.
  package var keptReservationsNanoseconds: Int64?
  /// For a statement.
  package var timeoutNanoseconds: Int64 = 60_000_000_000
  /// Between two tries, at first and at most.
  package var pauseNanoseconds: ClosedRange<Int64> = 250_000_000...10_000_000_000
  /// Rows of a transaction, nearly.
  package var rowsMax = 50_000

  package init(database: String) { self.database = database }

  /// Whether tables can be in a schema of this name.
  package static func isSchema(_ name: String) -> Bool { ProjectionSchema.isName(name) }
}

/// Keeps the tables. Used by one thread.
package final class Projector {
  private static let second: Int64 = 1_000_000_000
  private static let receiveMilliseconds: Int32 = 50
  /// Of a listing, more than any server has: 2^31 items, and 2^30 reservations that it looks at some thousands at a time.
  private static let listedMax = 1 << 32
  private static let emptyPagesMax = 1 << 20

  private let options: ProjectionOptions
  private let metrics: ProjectionMetrics
  private let connect: () throws(ProjectionError) -> any StockSource
  private let report: (String) -> Void
  private let isStopped: () -> Bool

  /// Why the tables are to be filled anew, though there is a token.
  private var again: (reason: String, isForeign: Bool)?
  /// Tries to fill the tables from the oldest event on that came to nothing, because it was not kept for long enough.
  private var lateFills = 0
  private var pause: Int64
  private var told: [String: Int64] = [:]
  private var toldKinds: Set<EventKind> = []
  private var lagToldAt: Int64 = .min / 2
  private var lagToldEvents: UInt64 = 0
  private var sweptAt: Int64 = .min / 2

  /// - Parameters:
  ///   - connect: begins a connection to the server, wherever it is now.
  ///   - report: takes lines for the operator.
  ///   - isStopped: asked some times a second.
  package init(
    _ options: ProjectionOptions, metrics: ProjectionMetrics,
    connect: @escaping () throws(ProjectionError) -> any StockSource,
    report: @escaping (String) -> Void, isStopped: @escaping () -> Bool
  ) {
    self.options = options
    self.metrics = metrics
    self.connect = connect
    self.report = report
    self.isStopped = isStopped
    pause = options.pauseNanoseconds.lowerBound
  }

  /// Makes the tables, and nothing else. False where they were there.
  package static func makeTables(_ options: ProjectionOptions) throws(ProjectionError) -> Bool {
    try ProjectionDatabase(
      options.database, schema: ProjectionSchema(options.schema),
      nanoseconds: options.timeoutNanoseconds
    ).prepare()
  }

  /// Until it is stopped.
  /// - Throws: `unsuitable`, for what only a person can put right.
  package func run() throws(ProjectionError) {
    while !isStopped() {
      do throws(ProjectionError) {
        try follow()
      } catch {
        metrics.change { $0.isFollowing = false }
        switch error {
        case .unsuitable: throw error
        case .stopped: return
        case .beginAgain(let reason, let isForeign):
          lateFills += isForeign ? 0 : 1
          again = (reason, isForeign)
        case .database, .server, .raced:
          metrics.change { $0.troubles += 1 }
          tell("\(error); trying again")
        }
        rest()
      }
    }
  }

  /// Nobody is asked in a loop without an end: the pause doubles until something went well.
  private func rest() {
    let end = SystemClock.monotonicNanoseconds() + pause
    pause = min(pause * 2, options.pauseNanoseconds.upperBound)
    guard let sleep = try? Wakeup() else { return }
    while !isStopped() {
      let left = end - SystemClock.monotonicNanoseconds()
      if left <= 0 { return }
      sleep.wait(nanoseconds: min(left, 100_000_000))
    }
  }

  /// The same line once a minute at most.
  private func tell(_ text: String) {
    let now = SystemClock.monotonicNanoseconds()
    if let before = told[text], now - before < 60 * Self.second { return }
    if told.count > 100 { told.removeAll() }
    told[text] = now
    report(text)
  }

  // MARK: One connection to each side

  private func follow() throws(ProjectionError) {
    let database = try ProjectionDatabase(
      options.database, schema: ProjectionSchema(options.schema),
      nanoseconds: options.timeoutNanoseconds)
    if try database.prepare() { report("made the tables in schema \(options.schema)") }
    var position = try database.position()
    let source = try connect()
    if again != nil || position.token == nil {
      try fill(&position, database, source)
    }
    source.watch(WatchMessage.request(from: position.token.map { .after($0) } ?? .now))
    var line = Line(position)
    while !isStopped() {
      try take(from: source, &line)
      let now = SystemClock.monotonicNanoseconds()
      let isDue = now - line.writtenAt >= options.intervalNanoseconds && line.isNew
      if isDue || line.batch.rowCount >= options.rowsMax {
        try write(&line, database)
        try sweep(database)
      }
      tellLag()
    }
  }

  /// Between two transactions.
  private struct Line {
    var position: Position
    var batch = Batch()
    var isNew = false
    var writtenAt = SystemClock.monotonicNanoseconds()
    var headAskedAt: Int64 = .min / 2
    /// Until when all was decided that is before `position.head`.
    var head: Moment?

    init(_ position: Position) { self.position = position }
  }

  private func take(
    from source: any StockSource, _ line: inout Line
  ) throws(ProjectionError) {
    let now = SystemClock.monotonicNanoseconds()
    if now - line.headAskedAt >= Self.second {
      line.headAskedAt = now
      source.askHead(WatchMessage.request(from: .now))
    }
    var isMalformed = false
    try source.receive(milliseconds: Self.receiveMilliseconds) { message in
      switch message {
      case .events(let bytes):
        guard !isMalformed, let message = unsafe WatchMessage(bytes) else {
          isMalformed = true
          return
        }
        for event in message.events { line.batch.add(event) }
        line.position.token = message.token
        line.position.lsn =
          message.lsn ?? message.events.last?.lsn ?? line.position.lsn
        if let last = message.events.last { line.position.asOf = last.decidedMoment }
        line.isNew = true
      case .head(let bytes, let asked):
        guard let message = unsafe WatchMessage(bytes) else { return }
        line.position.head = message.lsn ?? line.position.head
        line.head = Moment(unixNanoseconds: asked)
        line.isNew = true
      }
    }
    if isMalformed { throw .server("it has sent what is no WatchResponse") }
  }

  private func write(
    _ line: inout Line, _ database: ProjectionDatabase
  ) throws(ProjectionError) {
    // Two clocks: that of the server, which dates events, and ours, which dates where its log ended.
    if let head = line.head, line.position.lsn >= line.position.head {
      line.position.asOf = max(line.position.asOf ?? head, head)
    }
    line.position.head = max(line.position.head, line.position.lsn)
    let batch = line.batch
    tell(batch.unknownKinds)
    try database.apply(batch, &line.position, keepingFrom: oldest(options.keptEventsNanoseconds))
    line.batch = Batch()
    line.isNew = false
    line.writtenAt = SystemClock.monotonicNanoseconds()
    pause = options.pauseNanoseconds.lowerBound
    lateFills = 0
    let position = line.position
    metrics.change {
      $0.events += UInt64(batch.events.count)
      $0.unknownEvents += UInt64(batch.events.count { !$0.kind.isKnown })
      $0.transactions += 1
      $0.asOf = position.asOf?.unixNanoseconds ?? $0.asOf
      $0.lsn = position.lsn
      $0.head = position.head
      $0.isFollowing = true
    }
  }

  private func tell(_ kinds: Set<EventKind>) {
    for kind in kinds where toldKinds.insert(kind).inserted {
      report(
        "event kind \(kind.rawValue) is not known to this version: its balances are applied, and it is in "
          + "table event as \(kind.name); what it does to a reservation is not seen until this is newer"
      )
    }
  }

  private func oldest(_ kept: Int64?) -> Moment? {
    kept.map { Moment(unixNanoseconds: SystemClock.wall().nanoseconds - $0) }
  }

  private func tellLag() {
    let now = SystemClock.monotonicNanoseconds()
    guard now - lagToldAt >= 60 * Self.second else { return }
    let all = metrics.snapshot()
    guard all.isFollowing, let asOf = all.asOf else { return }
    lagToldAt = now
    let tenths = max(0, SystemClock.wall().nanoseconds - asOf) / 100_000_000
    report(
      "at LSN \(all.lsn), \(tenths / 10).\(tenths % 10) s and \(all.head - min(all.head, all.lsn)) LSNs "
        + "behind; \(all.events - lagToldEvents) events since the last such line")
    lagToldEvents = all.events
  }

  // MARK: What is old

  /// In pieces, for a fifth of a second at a time: the tables come first.
  private func sweep(_ database: ProjectionDatabase) throws(ProjectionError) {
    let began = SystemClock.monotonicNanoseconds()
    guard began - sweptAt >= Self.second else { return }
    sweptAt = began
    var hasMore = true
    while hasMore, SystemClock.monotonicNanoseconds() - began < Self.second / 5 {
      hasMore = false
      if let oldest = oldest(options.keptEventsNanoseconds) {
        hasMore = try database.deleteEvents(before: oldest, rowsMax: 5_000)
      }
      if let oldest = oldest(options.keptReservationsNanoseconds) {
        let more = try database.deleteReservations(endedBefore: oldest, rowsMax: 5_000)
        hasMore = hasMore || more
      }
    }
  }

  // MARK: The beginning

  /// Fills the tables: the oldest events that are kept say where to go on, and a listing that is taken then says
  /// what they do not. What happens to something while it is listed, or was before, comes again as events from there
  /// on, and the last one counts. So all hangs together once the tables are where the log ended behind the listing.
  private func fill(
    _ position: inout Position, _ database: ProjectionDatabase, _ source: any StockSource
  ) throws(ProjectionError) {
    let isForeign = again?.isForeign ?? false
    // Where what was oldest is not kept for as long as a listing takes, newer events must do.
    let fromOldest = lateFills < 2
    if let again {
      report("\(again.reason): filling the tables from the beginning")
      metrics.change { $0.restarts += 1 }
    }
    source.watch(WatchMessage.request(from: fromOldest ? .oldest : .now))
    let first = try firstMessage(source)
    source.endWatch()
    var counts = (items: 0, reservations: 0)
    let oldest = oldest(options.keptEventsNanoseconds)
    try database.refill(&position, withEvents: isForeign) { () throws(ProjectionError) in
      counts.items = try list(.listStock, source) { (message) throws(ProjectionError) in
        guard let page = Response(message, { StockLevel($0) }) else {
          throw .server("a page is malformed")
        }
        var batch = Batch()
        for level in page.entries { batch.add(level, 0) }
        try database.write(batch, keepingFrom: nil)
        return (page.nextPage, page.entries.count)
      }
      counts.reservations = try list(.listReservations, source) {
        (message) throws(ProjectionError) in
        guard let page = Response(message, { Reservation($0) }) else {
          throw .server("a page is malformed")
        }
        var batch = Batch()
        for reservation in page.entries { batch.add(reservation) }
        try database.write(batch, keepingFrom: nil)
        return (page.nextPage, page.entries.count)
      }
      var batch = Batch()
      for event in first.events { batch.add(event) }
      try database.write(batch, keepingFrom: oldest)
      let head = try head(source)
      let lsn = first.lsn ?? first.events.last?.lsn ?? 0
      return Position(
        token: first.token, lsn: lsn, head: max(head, lsn), complete: head,
        asOf: first.events.last?.decidedMoment)
    }
    again = nil
    metrics.change { $0.events += UInt64(first.events.count) }
    report(
      "filled the tables: \(counts.items) items and \(counts.reservations) reservations that there are, "
        + "and events from LSN \(first.events.first?.lsn ?? position.lsn) on")
  }

  private func list(
    _ method: StockMethod, _ source: any StockSource,
    _ write: ([UInt8]) throws(ProjectionError) -> (next: String, count: Int)
  ) throws(ProjectionError) -> Int {
    var (token, count) = ("", 0)
    var empty = 0
    var toldAt = SystemClock.monotonicNanoseconds()
    repeat {
      if isStopped() { throw .stopped }
      let page = try write(try source.ask(method, method.request(page: token)))
      // A page may be empty, where it has looked at much that is gone; but each goes on where the last has ended.
      empty = page.count == 0 ? empty + 1 : 0
      guard page.next != token || token.isEmpty, empty < Self.emptyPagesMax else {
        throw .server("\(method) has no end")
      }
      token = page.next
      count += page.count
      guard count <= Self.listedMax else { throw .server("\(method) lists more than there can be") }
      let now = SystemClock.monotonicNanoseconds()
      if now - toldAt >= 60 * Self.second {
        toldAt = now
        report("filling the tables: \(count) of \(method) so far")
      }
    } while !token.isEmpty
    return count
  }

  private func firstMessage(_ source: any StockSource) throws(ProjectionError) -> WatchMessage {
    let end = SystemClock.monotonicNanoseconds() + 60 * Self.second
    var found: WatchMessage?
    var isMalformed = false
    while found == nil {
      if isStopped() { throw .stopped }
      if isMalformed { throw .server("it has sent what is no WatchResponse") }
      if SystemClock.monotonicNanoseconds() > end { throw .server("it is silent") }
      try source.receive(milliseconds: Self.receiveMilliseconds) { message in
        guard found == nil, case .events(let bytes) = message else { return }
        found = unsafe WatchMessage(bytes)
        isMalformed = found == nil
      }
    }
    return found ?? { preconditionFailure("the loop has found one") }()
  }

  /// Where the server's log ends; 0: unknown.
  private func head(_ source: any StockSource) throws(ProjectionError) -> UInt64 {
    source.watch(WatchMessage.request(from: .now))
    defer { source.endWatch() }
    return try firstMessage(source).lsn ?? 0
  }
}
