// The load generator's own book of every request and every answer, one per worker. It only takes
// down; what it all means is HistoryCheck's to say.
//
// An operation is one thing that was asked for: a reserve and whatever ended it, a read, a restock.
// An attempt is one request of it, and its answer. Records are flat and stand in the order in which
// they were made; an operation names its latest attempt, each attempt the one before.
//
// Times are nanoseconds of the generator's monotonic clock: `sent` is taken before the bytes leave,
// `answered` after they came, so that what the server did lies between the two.

/// One thing that was asked for.
package struct Operation: BitwiseCopyable, Sendable {
  package enum Kind: UInt8, BitwiseCopyable, CaseIterable, Sendable {
    case reserve, read, restock
    /// A read, and the AdjustStock that sets on hand to what was counted, if it is still what was read.
    case count
    /// Units that were sold leave the house, or are not sold after all.
    case ship, uncommit
  }

  package let kind: Kind
  package let lineCount: UInt8
  /// Alternatives to a reserve's lines: each has as many, and they stand behind them.
  package fileprivate(set) var alternativeCount: UInt8 = 0
  /// Of the lines that a Replace puts in their place; 0 where there is none.
  package fileprivate(set) var newLineCount: UInt8 = 0
  /// What that Replace expects, at most 255; 0: any.
  package fileprivate(set) var expectedRevision: UInt8 = 0
  fileprivate let firstLine: UInt32
  fileprivate var firstNewLine: UInt32 = 0
  /// Of a reserve: the limit that it is made with.
  package fileprivate(set) var limit: SubjectLimit?
  /// Of a count: what it was told is on hand; -1 before.
  package fileprivate(set) var expectedOnHand: Int64 = -1
  /// `Ledger.none` before the first send.
  fileprivate var latestAttempt = Ledger.none
  /// The first acceptance of a Reserve; `Ledger.none` until then.
  fileprivate var acceptance = Ledger.none
  /// What Reserve and Extend ask for; 0 for the others.
  package let timeToLiveNanoseconds: Int64
}

/// At most so many units of each item for one subject.
package struct SubjectLimit: Equatable, BitwiseCopyable, Sendable {
  package let subject: UInt32
  package let maxUnits: UInt32

  package init(subject: UInt32, maxUnits: UInt32) {
    self.subject = subject
    self.maxUnits = maxUnits
  }
}

/// One request, and what came back.
package struct Attempt: BitwiseCopyable, Sendable {
  fileprivate enum Outcome: UInt8, BitwiseCopyable {
    case none, accepted, refused, withoutEffect, read
  }

  package let sentNanoseconds: Int64
  /// When it was answered, or found cut off; `Int64.max` if it never was.
  package fileprivate(set) var answeredNanoseconds = Int64.max
  /// expires_at; units that a refusal says are available, or -1; on hand.
  fileprivate var first: Int64 = 0
  /// The fingerprint of a refusal, as bits; held.
  fileprivate var second: Int64 = 0
  /// Of a read: committed. Units that a refusal says a limit's subject has, or -1.
  fileprivate var committed: Int64 = 0
  package let operation: UInt32
  fileprivate let previous: UInt32
  /// Where the id of an acceptance stands; the SKU that a refusal names.
  fileprivate var third = Ledger.none
  package let method: Method
  fileprivate var outcome = Outcome.none
  fileprivate var code: UInt8 = 0
  fileprivate(set) var reason = RefusalReason.unnamed
  package fileprivate(set) var isReplayed = false
  /// Of an accepted Reserve: which alternative it holds, and where what it was granted stands.
  fileprivate var alternative: UInt8 = 0
  fileprivate var grantedCount: UInt8 = 0
  fileprivate var firstGranted: UInt32 = 0

  /// Of an accepted Reserve or Extend.
  var expiresNanoseconds: Int64 { first }
  package var isAccepted: Bool { outcome == .accepted }
  package var isRefused: Bool { outcome == .refused }
  /// Whether it was answered with what the server has decided, or has read.
  package var isDecided: Bool {
    switch outcome {
    case .none, .withoutEffect: false
    // Compared, and not recorded: the same call may succeed later.
    case .refused: reason != .onHandMismatch && reason != .revisionMismatch
    case .accepted, .read: true
    }
  }
  /// Whether the answer is a decision that the server keeps and repeats to the same key. What refuses
  /// a Confirm, Release or Extend is what the reservation is, found anew each time.
  var isDecision: Bool { isAccepted || isRefused && method.keeps(reason) }
  /// Whether the server may have acted, or may still act, without our knowing.
  package var isUnknown: Bool { outcome == .none }
}

extension Method {
  /// Whether a refusal of such a call is a decision that the server keeps.
  package func keeps(_ reason: RefusalReason) -> Bool {
    switch self {
    case .reserve: true
    case .adjustStock: reason != .onHandMismatch
    case .replace:
      reason == .insufficientStock || reason == .itemNotFound || reason == .limitExceeded
    default: false
    }
  }
}

/// One worker's book.
package struct Ledger: ~Copyable {
  /// Stands for no attempt, no id, no SKU.
  package static let none = UInt32.max

  package let worker: Int
  package let names: SKUNames
  let keys: KeyNames
  /// What is confirmed stays on hand, as committed, until it is shipped.
  package let keepsCommitted: Bool
  /// Reserves go out as orders: an order's id is its key and its reference.
  package let isOfOrders: Bool
  private var operations = ChunkedArray<Operation>()
  private var lines = ChunkedArray<CartLine>()
  private var attempts = ChunkedArray<Attempt>()
  private var ids = ChunkedArray<ReservationID>()

  package init(
    worker: Int, names: SKUNames, keys: KeyNames, keepsCommitted: Bool = false,
    isOfOrders: Bool = false
  ) {
    self.keepsCommitted = keepsCommitted
    self.isOfOrders = isOfOrders
    self.worker = worker
    self.names = names
    self.keys = keys
  }

  // MARK: Sending

  /// Takes down a line of the cart that the next `openReserve` will name.
  package mutating func addLine(_ line: CartLine) { lines.append(line) }

  /// Opens a reserve of the last `lineCount` lines, 1 to 64. Its number, which also makes its key.
  /// - Parameter alternatives: as many further times `lineCount` lines are these, 0 to 8.
  package mutating func openReserve(
    lineCount: Int, alternatives: Int = 0, timeToLiveNanoseconds: Int64,
    limit: SubjectLimit? = nil
  ) -> Int {
    let operation = open(
      .reserve, lineCount: lineCount, alternatives: alternatives,
      timeToLiveNanoseconds: timeToLiveNanoseconds)
    operations[operation].limit = limit
    return operation
  }

  /// Has the last `lineCount` lines, 1 to 64, take the place of those of a reservation.
  /// - Parameter expectedRevision: that the reservation has to be at; 0: any.
  package mutating func openReplace(of operation: Int, lineCount: Int, expectedRevision: Int) {
    precondition(operations[operation].newLineCount == 0, "a reservation is replaced once")
    operations[operation].firstNewLine = UInt32(truncatingIfNeeded: lines.count - lineCount)
    operations[operation].newLineCount = UInt8(truncatingIfNeeded: lineCount)
    operations[operation].expectedRevision = UInt8(clamping: expectedRevision)
  }

  /// The revision of a reservation before its Replace; 0 where nobody knows it.
  package func knownRevision(of operation: Int) -> Int {
    var revision = 1
    for index in attempts(of: operation) where attempts[index].method == .extend {
      if attempts[index].isUnknown { return 0 }
      // One that changes nothing is answered as a repetition.
      if attempts[index].isAccepted, !attempts[index].isReplayed { revision += 1 }
    }
    return revision
  }

  /// Opens a GetStock of one SKU. Its number.
  package mutating func openRead(sku: UInt32) -> Int {
    lines.append(CartLine(sku: sku, quantity: 0))
    return open(.read, lineCount: 1, timeToLiveNanoseconds: 0)
  }

  /// Opens an AdjustStock that adds `units` to one SKU. Its number, which also makes its key.
  package mutating func openRestock(sku: UInt32, units: UInt32) -> Int {
    lines.append(CartLine(sku: sku, quantity: units))
    return open(.restock, lineCount: 1, timeToLiveNanoseconds: 0)
  }

  /// Opens a count of one SKU that finds `missing` units fewer than are on hand by the server. Its number.
  package mutating func openCount(sku: UInt32, missing: UInt32) -> Int {
    lines.append(CartLine(sku: sku, quantity: missing))
    return open(.count, lineCount: 1, timeToLiveNanoseconds: 0)
  }

  /// What a count was told is on hand.
  package mutating func setExpected(_ onHand: Int64, of operation: Int) {
    operations[operation].expectedOnHand = onHand
  }

  /// On hand as a count has it.
  package func counted(_ operation: Int) -> Int64 {
    max(0, operations[operation].expectedOnHand - Int64(line(of: operation).quantity))
  }

  /// Opens an AdjustStock that ships units of one SKU that were sold, or has them unsold. Its number.
  package mutating func openShip(sku: UInt32, units: UInt32, isUnsold: Bool) -> Int {
    lines.append(CartLine(sku: sku, quantity: units))
    return open(isUnsold ? .uncommit : .ship, lineCount: 1, timeToLiveNanoseconds: 0)
  }

  private mutating func open(
    _ kind: Operation.Kind, lineCount: Int, alternatives: Int = 0, timeToLiveNanoseconds: Int64
  ) -> Int {
    let count = lineCount * (1 + alternatives)
    return operations.append(
      Operation(
        kind: kind, lineCount: UInt8(truncatingIfNeeded: lineCount),
        alternativeCount: UInt8(truncatingIfNeeded: alternatives),
        firstLine: UInt32(truncatingIfNeeded: lines.count - count),
        timeToLiveNanoseconds: timeToLiveNanoseconds))
  }

  /// Writes the request of a call. It depends on the ledger alone, so that a repetition is the same
  /// bytes. Confirm, Release and Extend name the reservation that `answered` has said was made.
  package func writeRequest(
    _ operation: Int, _ method: Method, to message: inout MessageBuffer
  ) {
    let record = operations[operation]
    switch method {
    case .reserve, .batchReserve, .reserveStream:
      message.writeReserveKey(keys, worker: worker, operation: operation)
      for index in cart(of: operation) { message.appendLine(lines[index], names, field: 2) }
      message.appendTimeToLive(nanoseconds: record.timeToLiveNanoseconds, field: 3)
      for number in 0..<Int(record.alternativeCount) {
        let alternative = message.beginField(5)
        for index in cart(of: operation, alternative: number + 1) {
          message.appendLine(lines[index], names, field: 1)
        }
        message.endField(alternative)
      }
      if let limit = record.limit { message.appendLimit(limit, field: 6) }
      if isOfOrders { message.appendReference(keys, worker: worker, operation: operation) }
    case .replace:
      message.writeReserveKey(keys, worker: worker, operation: operation)
      message.appendReplaced(acceptedID(of: operation))
      for index in newCart(of: operation) { message.appendLine(lines[index], names, field: 3) }
      if record.expectedRevision > 0 {
        message.appendField(4, varint: UInt64(record.expectedRevision))
      }
    case .confirm, .release:
      message.writeEndRequest(acceptedID(of: operation))
      if method == .confirm, keepsCommitted { message.appendField(4, varint: 1) }
    case .extend:
      message.writeEndRequest(acceptedID(of: operation))
      message.appendTimeToLive(nanoseconds: record.timeToLiveNanoseconds, field: 2)
    case .getStock, .batchGetStock:
      message.writeGetStock(line(of: operation).sku, names)
    case .adjustStock: writeAdjustStock(operation, to: &message)
    }
  }

  /// Writes a Reserve as OrderPlaced: a key (1), lines (2), ttl (3), alternatives (4), limits (5).
  package func writeOrder(_ operation: Int, to message: inout MessageBuffer) {
    let record = operations[operation]
    message.writeReserveKey(keys, worker: worker, operation: operation)
    for index in cart(of: operation) { message.appendLine(lines[index], names, field: 2) }
    message.appendTimeToLive(nanoseconds: record.timeToLiveNanoseconds, field: 3)
    for number in 0..<Int(record.alternativeCount) {
      let alternative = message.beginField(4)
      for index in cart(of: operation, alternative: number + 1) {
        message.appendLine(lines[index], names, field: 1)
      }
      message.endField(alternative)
    }
    if let limit = record.limit { message.appendLimit(limit, field: 5) }
  }

  private func writeAdjustStock(_ operation: Int, to message: inout MessageBuffer) {
    let line = line(of: operation)
    let units = Int64(line.quantity)
    let change: StockCall
    switch operations[operation].kind {
    case .ship: change = .ship(units: units)
    case .uncommit: change = .uncommit(units: units)
    case .count:
      change = .count(
        onHand: counted(operation), expected: max(0, operations[operation].expectedOnHand))
    case .restock, .reserve, .read:
      return message.writeRestock(
        keys, worker: worker, operation: operation, line: line, names)
    }
    message.writeChange(
      keys, worker: worker, operation: operation, sku: line.sku, names, change)
  }

  /// Takes down that a request of `operation` leaves at `time`.
  package mutating func sent(_ operation: Int, _ method: Method, at time: Int64) {
    let attempt = Attempt(
      sentNanoseconds: time, operation: UInt32(truncatingIfNeeded: operation),
      previous: operations[operation].latestAttempt, method: method)
    operations[operation].latestAttempt = UInt32(truncatingIfNeeded: attempts.append(attempt))
  }

  // MARK: Answers

  /// Takes down the answer that came at `time` to the request that was sent at `sentAt`. True for the
  /// first acceptance of a Reserve, upon which the reservation may be extended and ended.
  @discardableResult
  package mutating func answered(
    _ operation: Int, _ method: Method, _ reply: Reply, sentAt: Int64, at time: Int64
  ) -> Bool {
    guard let index = openAttempt(operation, method, sentAt) else { return false }
    attempts[index].answeredNanoseconds = time
    switch reply {
    case .accepted(let id, let expires, let isReplayed, let grant):
      attempts[index].outcome = .accepted
      attempts[index].first = expires
      attempts[index].isReplayed = isReplayed
      if grant != Grant() { take(grant, index) }
      return method == .reserve && takeID(id, operation, index)
    case .refused(let refusal):
      attempts[index].outcome = .refused
      attempts[index].first = refusal.available ?? -1
      attempts[index].second = Int64(bitPattern: refusal.fingerprint)
      attempts[index].committed = refusal.used ?? -1
      attempts[index].third = refusal.sku ?? Ledger.none
      attempts[index].code = refusal.code
      attempts[index].reason = refusal.reason
      attempts[index].isReplayed = refusal.isReplayed
    case .read(let level):
      attempts[index].outcome = .read
      attempts[index].first = level.onHand
      attempts[index].second = level.held
      attempts[index].committed = level.committed
    case .noEffect: attempts[index].outcome = .withoutEffect
    case .unknown: break
    }
    return false
  }

  /// The attempt that waits for its answer. Of several that were sent at the same instant any will do.
  private func openAttempt(_ operation: Int, _ method: Method, _ sentAt: Int64) -> Int? {
    var next = operations[operation].latestAttempt
    while next != Ledger.none {
      let index = Int(next)
      if attempts[index].method == method, attempts[index].sentNanoseconds == sentAt,
        attempts[index].answeredNanoseconds == .max
      {
        return index
      }
      next = attempts[index].previous
    }
    return nil
  }

  private mutating func take(_ grant: Grant, _ index: Int) {
    attempts[index].alternative = UInt8(clamping: grant.alternative)
    attempts[index].grantedCount = UInt8(clamping: grant.lines.count)
    attempts[index].firstGranted = UInt32(truncatingIfNeeded: lines.count)
    for line in grant.lines.prefix(Int(UInt8.max)) { lines.append(line) }
  }

  /// Keeps `id` once where all acceptances name the same. Answers whether this is the first.
  private mutating func takeID(_ id: ReservationID, _ operation: Int, _ index: Int) -> Bool {
    let acceptance = operations[operation].acceptance
    if acceptance != Ledger.none {
      let known = attempts[Int(acceptance)].third
      let isSame = ids[Int(known)] == id
      attempts[index].third = isSame ? known : UInt32(truncatingIfNeeded: ids.append(id))
      return false
    }
    attempts[index].third = UInt32(truncatingIfNeeded: ids.append(id))
    operations[operation].acceptance = UInt32(truncatingIfNeeded: index)
    return true
  }

  /// How many requests of the call were sent.
  package func sentCount(_ operation: Int, _ method: Method) -> Int {
    attempts(of: operation).count { attempts[$0].method == method }
  }

  /// The decision on a call that was answered first; nil while there is none.
  package func decidedAnswer(_ operation: Int, _ method: Method) -> Answer? {
    attempts(of: operation).map { attempts[$0] }
      .filter { $0.method == method && $0.isDecided }
      .min { $0.answeredNanoseconds < $1.answeredNanoseconds }.map { answer(to: $0) }
  }

  /// Whether the call was sent, and nobody knows yet what the server has decided.
  package func needsAnswer(_ operation: Int, _ method: Method) -> Bool {
    var isSent = false
    var next = operations[operation].latestAttempt
    while next != Ledger.none {
      let attempt = attempts[Int(next)]
      if attempt.method == method {
        if attempt.isDecided { return false }
        isSent = true
      }
      next = attempt.previous
    }
    return isSent
  }

  // MARK: Reading

  /// How many operations there are; they are numbered from 0.
  package var count: Int { operations.count }
  package var attemptCount: Int { attempts.count }

  package subscript(operation: Int) -> Operation { operations[operation] }

  /// The idempotency key of a reserve or restock.
  package func key(of operation: Int) -> String { keys.name(worker: worker, operation: operation) }

  /// Where the lines of an operation stand: `line(at:)`.
  /// - Parameter alternative: of those to its lines, from 1.
  package func cart(of operation: Int, alternative: Int = 0) -> Range<Int> {
    let record = operations[operation]
    let first = Int(record.firstLine) + alternative * Int(record.lineCount)
    return first..<first + Int(record.lineCount)
  }

  /// Where the lines stand that a reserve asks for, those of all alternatives among them.
  package func everyLine(of operation: Int) -> Range<Int> {
    let last = Int(operations[operation].alternativeCount)
    return cart(of: operation).lowerBound..<cart(of: operation, alternative: last).upperBound
  }

  /// Which alternative an accepted reserve says that it holds, from 1; 0: its lines.
  package func alternative(of operation: Int) -> Int {
    let acceptance = operations[operation].acceptance
    return acceptance == Ledger.none ? 0 : Int(attempts[Int(acceptance)].alternative)
  }

  /// Where the lines stand that an accepted reserve holds, by its answer: what it was granted, or an alternative as it
  /// was asked for. Where it names none that there is, and where it was not accepted, its lines.
  package func heldLines(of operation: Int) -> Range<Int> {
    let acceptance = operations[operation].acceptance
    if acceptance == Ledger.none { return cart(of: operation) }
    let attempt = attempts[Int(acceptance)]
    if attempt.grantedCount > 0 {
      let first = Int(attempt.firstGranted)
      return first..<first + Int(attempt.grantedCount)
    }
    let isThere = attempt.alternative <= operations[operation].alternativeCount
    return cart(of: operation, alternative: isThere ? Int(attempt.alternative) : 0)
  }

  /// Whether what a reserve asks for says more than what it will hold: there are alternatives, or less will do.
  package func hasChoice(_ operation: Int) -> Bool {
    operations[operation].alternativeCount > 0
      || cart(of: operation).contains { lines[$0].minimum > 0 }
  }

  /// How many lines there are.
  package var lineCount: Int { lines.count }

  /// Where the lines stand that a Replace puts in their place; empty where there is none.
  package func newCart(of operation: Int) -> Range<Int> {
    let record = operations[operation]
    return Int(record.firstNewLine)..<Int(record.firstNewLine) + Int(record.newLineCount)
  }

  /// Units of one SKU in the lines at `range`.
  package func units(of sku: UInt32, in range: Range<Int>) -> Int64 {
    range.reduce(0) { lines[$1].sku == sku ? $0 + Int64(lines[$1].quantity) : $0 }
  }

  package func line(at index: Int) -> CartLine { lines[index] }

  /// The first line: the only one of a read or a restock.
  package func line(of operation: Int) -> CartLine { lines[Int(operations[operation].firstLine)] }

  /// The reservation that was made, by the first acceptance.
  package func acceptedID(of operation: Int) -> ReservationID {
    let acceptance = operations[operation].acceptance
    if acceptance == Ledger.none { return ReservationID(number: 0) }
    return ids[Int(attempts[Int(acceptance)].third)]
  }

  /// The attempts of an operation, the latest send first.
  package func forEachAttempt(of operation: Int, _ body: (Attempt) -> Void) {
    var next = operations[operation].latestAttempt
    while next != Ledger.none {
      body(attempts[Int(next)])
      next = attempts[Int(next)].previous
    }
  }

  /// The numbers of the attempts of `operation`, in the order of their sends.
  func attempts(of operation: Int) -> [Int] {
    var numbers: [Int] = []
    var next = latestAttempt(of: operation)
    while let index = next {
      numbers.append(index)
      next = attempt(before: attempt(index))
    }
    return numbers.reversed()
  }

  /// The number of the latest attempt of `operation`; nil before the first.
  func latestAttempt(of operation: Int) -> Int? {
    let index = operations[operation].latestAttempt
    return index == Ledger.none ? nil : Int(index)
  }

  /// The number of the attempt of the same operation that was made before; nil for the first.
  func attempt(before attempt: Attempt) -> Int? {
    attempt.previous == Ledger.none ? nil : Int(attempt.previous)
  }

  func attempt(_ index: Int) -> Attempt { attempts[index] }

  private func grant(_ attempt: Attempt) -> Grant {
    let first = Int(attempt.firstGranted)
    return Grant(
      alternative: Int(attempt.alternative),
      lines: (first..<first + Int(attempt.grantedCount)).map { lines[$0] })
  }

  /// What the attempt was answered, with all that was kept of it.
  package func answer(to attempt: Attempt) -> Answer {
    switch attempt.outcome {
    case .none: .none
    case .withoutEffect: .withoutEffect
    case .read:
      .read(
        StockLevel(onHand: attempt.first, held: attempt.second, committed: attempt.committed))
    case .accepted:
      .accepted(
        id: attempt.third == Ledger.none ? nil : ids[Int(attempt.third)],
        expiresNanoseconds: attempt.first, isReplayed: attempt.isReplayed,
        grant: grant(attempt))
    case .refused:
      .refused(
        Refusal(
          code: attempt.code, reason: attempt.reason,
          sku: attempt.third == Ledger.none ? nil : attempt.third,
          available: attempt.first < 0 ? nil : attempt.first,
          used: attempt.committed < 0 ? nil : attempt.committed,
          fingerprint: UInt64(bitPattern: attempt.second), isReplayed: attempt.isReplayed))
    }
  }
}
