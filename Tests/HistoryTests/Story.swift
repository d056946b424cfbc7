// A history of calls, told one event at a time.
@testable import LoadHistory

/// What a client saw, and the balances that the server states after it.
///
/// Times are milliseconds of the generator's clock; the server's clock is 1,000,000 ms ahead.
struct Story: ~Copyable {
  static let names = SKUNames(run: RunID(1))
  static let offset: Int64 = 1_000_000
  static let timeToLive: Int64 = 60_000

  var ledger: Ledger
  var stock: [Int64]
  private var nextID: UInt64 = 1

  init(stock: Int64...) { self.init(stock: stock) }

  init(stock: [Int64], keepsCommitted: Bool = false) {
    self.stock = stock
    ledger = Ledger(
      worker: 0, names: Self.names, keys: KeyNames(run: RunID(1)), keepsCommitted: keepsCommitted)
  }

  // MARK: Any call

  mutating func send(_ operation: Int, _ method: Method, at time: Int64) {
    ledger.sent(operation, method, at: time * 1_000_000)
  }

  mutating func answer(
    _ operation: Int, _ method: Method, _ reply: Reply, sent: Int64, at time: Int64
  ) {
    ledger.answered(operation, method, reply, sentAt: sent * 1_000_000, at: time * 1_000_000)
  }

  /// A call from `sent` to `time`; nil as reply means that none came.
  mutating func call(
    _ operation: Int, _ method: Method, sent: Int64, at time: Int64, _ reply: Reply? = done
  ) {
    send(operation, method, at: sent)
    if let reply { answer(operation, method, reply, sent: sent, at: time) }
  }

  // MARK: Reserves

  /// - Parameter subject: who may have two of each item; nil: there is no limit.
  mutating func open(
    _ lines: [CartLine], timeToLive: Int64 = timeToLive, subject: UInt32? = nil
  ) -> Int {
    for line in lines { ledger.addLine(line) }
    return ledger.openReserve(
      lineCount: lines.count, timeToLiveNanoseconds: timeToLive * 1_000_000,
      limit: subject.map { SubjectLimit(subject: $0, maxUnits: 2) })
  }

  mutating func reserve(_ lines: [CartLine], at time: Int64) -> Int {
    let operation = open(lines)
    send(operation, .reserve, at: time)
    return operation
  }

  /// A reserve that was sent. Its number.
  mutating func reserve(
    _ units: UInt32 = 1, sku: UInt32 = 0, at time: Int64, subject: UInt32? = nil
  ) -> Int {
    let operation = open([CartLine(sku: sku, quantity: units)], subject: subject)
    send(operation, .reserve, at: time)
    return operation
  }

  /// Its acceptance, decided at `decided`.
  mutating func accepted(
    _ operation: Int, sent: Int64, at time: Int64, decided: Int64, id: UInt64? = nil,
    replayed: Bool = false
  ) {
    answer(
      operation, .reserve, acceptance(operation, decided, id: id ?? nextID, replayed: replayed),
      sent: sent, at: time)
    if id == nil { nextID += 1 }
  }

  func acceptance(_ operation: Int, _ decided: Int64, id: UInt64, replayed: Bool = false) -> Reply {
    let expires = (decided + Self.offset) * 1_000_000 + ledger[operation].timeToLiveNanoseconds
    return .accepted(
      id: ReservationID(number: id), expiresNanoseconds: expires, isReplayed: replayed)
  }

  /// Reserves and is accepted, in one millisecond.
  @discardableResult
  mutating func sale(
    _ units: UInt32 = 1, sku: UInt32 = 0, at time: Int64, subject: UInt32? = nil
  ) -> Int {
    let operation = reserve(units, sku: sku, at: time, subject: subject)
    accepted(operation, sent: time, at: time + 1, decided: time)
    return operation
  }

  /// Reserves and is refused for what the subject has, in one millisecond.
  @discardableResult
  mutating func overLimit(
    _ units: UInt32, sku: UInt32 = 0, used: Int64?, at time: Int64, subject: UInt32
  ) -> Int {
    let operation = reserve(units, sku: sku, at: time, subject: subject)
    answer(operation, .reserve, Self.overLimit(sku: sku, used: used), sent: time, at: time + 1)
    return operation
  }

  /// A reserve of lines and alternatives that was sent. Its number.
  mutating func choose(_ carts: [[CartLine]], at time: Int64) -> Int {
    for line in carts.joined() { ledger.addLine(line) }
    let operation = ledger.openReserve(
      lineCount: carts[0].count, alternatives: carts.count - 1,
      timeToLiveNanoseconds: Self.timeToLive * 1_000_000)
    send(operation, .reserve, at: time)
    return operation
  }

  /// Is accepted, holds alternative `held`, and says what was granted, in one millisecond unless it takes longer.
  @discardableResult
  mutating func choice(
    _ carts: [[CartLine]], held: Int = 0, granted: [CartLine] = [], at time: Int64,
    until: Int64? = nil
  ) -> Int {
    let operation = choose(carts, at: time)
    self.granted(operation, held, granted, sent: time, at: until ?? time + 1)
    return operation
  }

  mutating func granted(
    _ operation: Int, _ held: Int, _ lines: [CartLine] = [], sent: Int64, at time: Int64,
    id: UInt64? = nil, isReplayed: Bool = false
  ) {
    let expires = (sent + Self.offset) * 1_000_000 + ledger[operation].timeToLiveNanoseconds
    answer(
      operation, .reserve,
      .accepted(
        id: ReservationID(number: id ?? nextID), expiresNanoseconds: expires,
        isReplayed: isReplayed, grant: Grant(alternative: held, lines: lines)),
      sent: sent, at: time)
    if id == nil { nextID += 1 }
  }

  static func overLimit(sku: UInt32 = 0, used: Int64?, isReplayed: Bool = false) -> Reply {
    .refused(
      Refusal(
        code: 9, reason: .limitExceeded, sku: sku, used: used, fingerprint: 1,
        isReplayed: isReplayed))
  }

  mutating func refused(
    _ operation: Int, _ reason: RefusalReason = .insufficientStock, sku: UInt32? = 0,
    available: Int64? = nil, fingerprint: UInt64 = 1, replayed: Bool = false, sent: Int64,
    at time: Int64
  ) {
    answer(
      operation, .reserve,
      .refused(
        Refusal(
          code: 9, reason: reason, sku: sku, available: available, fingerprint: fingerprint,
          isReplayed: replayed)),
      sent: sent, at: time)
  }

  /// Sends a Replace, and takes down its answer.
  mutating func replace(
    _ operation: Int, _ lines: [CartLine], revision: Int = 0, sent: Int64, at time: Int64,
    _ reply: Reply? = done
  ) {
    for line in lines { ledger.addLine(line) }
    ledger.openReplace(of: operation, lineCount: lines.count, expectedRevision: revision)
    call(operation, .replace, sent: sent, at: time, reply)
  }

  static func short(_ sku: UInt32, available: Int64? = nil) -> Reply {
    .refused(
      Refusal(code: 9, reason: .insufficientStock, sku: sku, available: available, fingerprint: 1))
  }

  // MARK: Stock

  mutating func read(
    _ onHand: Int64, _ held: Int64, committed: Int64 = 0, sku: UInt32 = 0, sent: Int64,
    at time: Int64
  ) {
    let operation = ledger.openRead(sku: sku)
    call(
      operation, .getStock, sent: sent, at: time,
      .read(StockLevel(onHand: onHand, held: held, committed: committed)))
  }

  @discardableResult
  mutating func ship(
    _ units: UInt32, isUnsold: Bool = false, sent: Int64, at time: Int64, _ reply: Reply? = done
  ) -> Int {
    let operation = ledger.openShip(sku: 0, units: units, isUnsold: isUnsold)
    call(operation, .adjustStock, sent: sent, at: time, reply)
    return operation
  }

  /// A count that was told `read` before.
  mutating func count(
    read: Int64, missing: UInt32, sent: Int64, at time: Int64, _ reply: Reply? = done
  ) {
    let operation = ledger.openCount(sku: 0, missing: missing)
    ledger.setExpected(read, of: operation)
    call(operation, .adjustStock, sent: sent, at: time, reply)
  }

  @discardableResult
  mutating func restock(
    _ units: UInt32, sku: UInt32 = 0, sent: Int64, at time: Int64, _ reply: Reply? = done
  ) -> Int {
    let operation = ledger.openRestock(sku: sku, units: units)
    call(operation, .adjustStock, sent: sent, at: time, reply)
    return operation
  }

  // MARK: Replies

  static let done = Reply.accepted(
    id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false)
  static let doneAgain = Reply.accepted(
    id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: true)

  static func refusal(_ reason: RefusalReason) -> Reply {
    .refused(Refusal(code: 9, reason: reason, sku: nil))
  }

  // MARK: The end

  /// The history with balances (on hand, held) by SKU that were read at `time`; an empty list stands for
  /// a server that was gone.
  consuming func history(_ levels: [(Int64, Int64)?], at time: Int64 = 1_000) -> History {
    var books = Books()
    let stock = stock
    books.add(ledger)
    var history = History(run: RunID(1), stock: stock, books: books)
    if levels.isEmpty { return history }
    history.levels = levels.map {
      ReadLevel(
        level: $0.map { StockLevel(onHand: $0.0, held: $0.1) },
        sentNanoseconds: time * 1_000_000, answeredNanoseconds: (time + 1) * 1_000_000)
    }
    return history
  }

  /// - Parameter isAnchorKnown: whether the history has the generator's wall clock, which is the
  ///   server's.
  consuming func check(
    _ levels: (Int64, Int64)?..., at time: Int64 = 1_000, isAnchorKnown: Bool = false
  ) -> Findings {
    var history = history(levels, at: time)
    if isAnchorKnown { history.startedUnixNanoseconds = Self.offset * 1_000_000 }
    return history.check()
  }
}
