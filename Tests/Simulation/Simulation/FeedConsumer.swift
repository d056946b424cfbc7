internal import ChangeFeed
internal import Log
// One who watches the change feed: keeps what the events have done and the token that covers them together,
// follows each item from event to event as the API promises that it can, and so finds what is missing.
internal import StockStore

/// Which history of a directory a token is of. A repair begins another one; a copy that was put back goes on
/// from where it was made.
struct Lineage: Equatable {
  private struct Fork: Equatable {
    let number: UInt64
    /// Up to here it is the same history as before.
    let from: UInt64
  }

  private var forks = [Fork(number: 0, from: 0)]

  /// Of a directory that was repaired, for which no token is good that was given before.
  static func repaired(_ number: UInt64) -> Lineage {
    var lineage = Lineage()
    lineage.forks = [Fork(number: number, from: 0)]
    return lineage
  }

  /// Of a copy that was made at `lsn`, and is used.
  func restored(at lsn: UInt64, _ number: UInt64) -> Lineage {
    var lineage = self
    lineage.forks.append(Fork(number: number, from: lsn))
    return lineage
  }

  /// Whether what `other` had decided up to `lsn` is a part of this history.
  func has(_ other: Lineage, upTo lsn: UInt64) -> Bool {
    guard forks[0] == other.forks[0] else { return false }
    let common = zip(forks, other.forks).prefix { $0 == $1 }.count
    return [forks, other.forks].allSatisfy { common == $0.count || lsn <= $0[common].from }
  }
}

struct FeedConsumer {
  struct Item: Equatable {
    var onHand: Int64
    var held: Int64
    var committed: Int64
    var safetyStock: Int64
    var version: UInt64
    var sale: TestSale

    /// - Parameter before: the sale window, which stays unless the event has set another.
    init(_ level: SeenEvent.Level, sale before: TestSale?) {
      (onHand, held, committed) = (level.onHand, level.held, level.committed)
      (safetyStock, version) = (level.safetyStock, level.version)
      sale = level.sale ?? before ?? TestSale()
    }

    init(_ item: Model.Item) {
      (onHand, held, committed) = (item.onHand, item.held, item.committed)
      (safetyStock, version) = (item.safetyStock, item.version)
      sale = item.sale
    }
  }

  struct Hold: Equatable {
    var lines: [String: Int64]
    var expiresAt: Int64
  }

  /// What is written down, at once.
  struct Books {
    var token: [UInt8] = []
    var items: [String: Item] = [:]
    var holds: [ReservationID: Hold] = [:]
    /// Decisions since the store was made.
    var decisions: UInt64

    // What the run alone knows: what the token covers, and how many repairs have lifted the versions.
    var lsn: UInt64
    var lineage: Lineage
    var lifts = 0

    /// As the API says to begin: by what the stock is where a watch begins.
    init(_ state: SimulationRun.Snapshot, at lsn: UInt64, sku: String?, _ lineage: Lineage) {
      self.lsn = lsn
      self.lineage = lineage
      decisions = state.model.decisionCount
      for (name, item) in state.model.items where sku ?? name == name { items[name] = Item(item) }
      if sku == nil { holds = Self.holds(state.model) }
    }

    static func holds(_ model: Model) -> [ReservationID: Hold] {
      var holds: [ReservationID: Hold] = [:]
      for (id, reservation) in model.reservations where reservation.state == .held {
        holds[id] = Hold(lines: lines(reservation), expiresAt: reservation.expiresAt)
      }
      return holds
    }

    private static func lines(_ reservation: Model.Reservation) -> [String: Int64] {
      var lines: [String: Int64] = [:]
      for line in reservation.lines where line.quantity > 0 { lines[line.sku] = line.quantity }
      return lines
    }

    mutating func lift(by lift: UInt64) {
      for sku in items.keys { items[sku]?.version += lift }
    }
  }

  /// nil: it watches everything; otherwise this item alone.
  let sku: String?
  /// What a crash of its own leaves.
  var stored: Books?
  var books: Books?
  /// Of the open watch; nil where it has none.
  var watch: UInt64?
  /// Where the open watch has come to; nil until it has begun.
  var point: LogPoint?
  var start = WatchStart.now

  mutating func writeDown() { stored = books }

  /// Only what is written down is left.
  mutating func crash() { books = stored }

  mutating func close() {
    watch = nil
    point = nil
  }

  // MARK: Events

  /// Does what the event says. What is wrong with it, in words; nil where it follows from what is known.
  mutating func apply(_ event: SeenEvent) -> String? {
    guard var books, let kind = event.kind else { return "no kind" }
    defer { self.books = books }
    if event.lsn <= books.lsn { return "told before: all up to \(books.lsn) was" }
    books.lsn = event.lsn
    books.decisions += 1
    if kind == .removed {
      guard let level = event.stock.first, event.stock.count == 1, event.lines.isEmpty else {
        return "not of one item"
      }
      if let sku, sku != level.sku { return "another item's" }
      return Self.remove(level, &books)
    }
    if let sku {
      guard let level = event.stock.first(where: { $0.sku == sku }) else {
        // A refusal names the item, and changes nothing; so may a hold that keeps its units.
        let isNamed = kind == .refused || kind == .replaced && event.lines[sku] != nil
        return isNamed ? nil : "another item's"
      }
      return Self.put(level, nil, isAdjusted: kind == .adjusted, &books)
    }
    if kind == .refused { return event.stock.isEmpty ? nil : "a refusal that changes stock" }
    if kind == .adjusted {
      // Of an import's rows all may have been refused.
      guard !event.stock.isEmpty || event.reason.hasPrefix("import "), event.lines.isEmpty else {
        return "not of items alone"
      }
      for level in event.stock {
        if let wrong = Self.put(level, nil, isAdjusted: event.stock.count == 1, &books) {
          return wrong
        }
      }
      return nil
    }
    guard let id = event.id else { return "no reservation" }
    let hold = books.holds[id]
    switch kind {
    case .held:
      if hold != nil { return "held already" }
      books.holds[id] = Hold(lines: event.lines, expiresAt: event.expiresAt)
      return Self.put(event, &books) { Change(held: event.lines[$0] ?? 0) }
    case .replaced:
      guard let hold else { return "not held" }
      books.holds[id] = Hold(lines: event.lines, expiresAt: event.expiresAt)
      let changed = Set(hold.lines.keys).union(event.lines.keys).filter {
        hold.lines[$0] != event.lines[$0]
      }
      if Set(event.stock.map(\.sku)) != changed { return "not of \(changed), which it changes" }
      for level in event.stock {
        let change = (event.lines[level.sku] ?? 0) - (hold.lines[level.sku] ?? 0)
        if let wrong = Self.put(level, Change(held: change), &books) { return wrong }
      }
      return nil
    case .extended:
      books.holds[id]?.expiresAt = event.expiresAt
      return hold == nil ? "not held" : event.stock.isEmpty ? nil : "it changes stock"
    case .confirmed:
      books.holds[id] = nil
      // Of a hold that has expired, the units are taken anew.
      return Self.put(event, &books) { sku in
        Change(sold: event.lines[sku] ?? 0, held: -(hold?.lines[sku] ?? 0))
      }
    default:
      books.holds[id] = nil
      guard let hold, hold.lines == event.lines else { return "not what is held: \(hold as Any)" }
      if kind == .expired, hold.expiresAt != event.expiresAt { return "due at another time" }
      return Self.put(event, &books) { Change(held: -(hold.lines[$0] ?? 0)) }
    }
  }

  private static func remove(_ level: SeenEvent.Level, _ books: inout Books) -> String? {
    guard let before = books.items.removeValue(forKey: level.sku) else {
      return "\(level.sku) was never made"
    }
    let isRight =
      level.version == before.version + 1 && level.onHand == 0 && level.held == 0
      && level.committed == 0 && level.safetyStock == before.safetyStock
      && level.available == -level.safetyStock
    return isRight ? nil : "\(level.sku): \(level) behind \(before)"
  }

  /// What a reservation does to an item.
  private struct Change {
    /// Units that left the house, or stayed on hand as committed: the balances say which.
    var sold: Int64 = 0
    var held: Int64
  }

  /// Puts the balances of an event of lines in place of those before.
  private static func put(
    _ event: SeenEvent, _ books: inout Books, _ change: (String) -> Change
  ) -> String? {
    if event.stock.isEmpty { return "no balances" }
    for sku in event.lines.keys where !event.stock.contains(where: { $0.sku == sku }) {
      return "no balances of \(sku)"
    }
    for level in event.stock {
      if let wrong = put(level, change(level.sku), &books) { return wrong }
    }
    return nil
  }

  /// - Parameters:
  ///   - change: nil: any.
  ///   - isAdjusted: the event may have set when the item may be reserved.
  private static func put(
    _ level: SeenEvent.Level, _ change: Change?, isAdjusted: Bool = false, _ books: inout Books
  ) -> String? {
    let before = books.items[level.sku]
    books.items[level.sku] = Item(level, sale: before?.sale)
    if !isAdjusted, level.sale != nil { return "\(level.sku): a sale window" }
    if level.available != level.onHand - level.held - level.committed - level.safetyStock {
      return "\(level.sku): available is not what the others leave"
    }
    guard let before else { return change == nil ? nil : "\(level.sku) was never made" }
    if level.version != before.version + 1 {
      return "\(level.sku): version \(level.version) behind \(before.version)"
    }
    guard let change else { return nil }
    let (left, committed) = (before.onHand - level.onHand, level.committed - before.committed)
    let isRight =
      left + committed == change.sold && (left == 0 || committed == 0)
      && level.held == before.held + change.held && level.safetyStock == before.safetyStock
    return isRight ? nil : "\(level.sku): \(level) behind \(before), change \(change)"
  }
}
