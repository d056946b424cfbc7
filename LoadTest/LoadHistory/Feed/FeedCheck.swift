// Follows the change feed while it comes: its order, and item by item that each event follows from the one
// before. What it has said of each operation is noted, and held against the ledgers at the end
// (FeedComparison.swift). The rules are the API's words, written down here once more: the server's own code
// for them is not to vouch for itself.
//
// Kept are an item's balances, a live hold's operation, and the notes: no event.

/// What was told, and of what.
package struct FeedCounts: Equatable, Sendable {
  /// By `FeedKind`, of the run.
  package internal(set) var byKind: [FeedKind: Int] = [:]
  /// Of other runs and other clients.
  package internal(set) var others = 0
  /// Acknowledged decisions that were looked up in the feed.
  package internal(set) var compared = 0
  package internal(set) var lastLSN: UInt64 = 0

  package var events: Int { byKind.values.reduce(0, +) }
}

package final class FeedCheck {
  /// Violations of one kind that are kept: naming those of a feed that is wrong throughout takes all day.
  private static let violationsMost = 100

  private struct Item {
    var level: FeedLevel
    var isKnown = false
  }

  /// Names an operation of the run.
  struct Operation: BitwiseCopyable {
    let worker: Int32
    let number: UInt32
  }

  let names: SKUNames
  let keys: KeyNames
  /// Units put behind each SKU before the run.
  let stock: [Int64]
  /// Of every SKU.
  let safetyStock: Int64
  /// What is confirmed stays on hand, as committed.
  let keepsCommitted: Bool
  /// When the watch began, by the generator's monotonic clock.
  let beganNanoseconds: Int64
  private var items: [Item]
  let notes: [FeedNotes]
  private var live: [ReservationID: Operation] = [:]
  package internal(set) var counts = FeedCounts()
  package private(set) var violations: [Violation] = []
  private var kept: [Violation.Kind: Int] = [:]
  /// The mark that is waited for, once it was told.
  private var marks: Set<UInt64> = []
  private var event = FeedEvent()

  /// - Parameters:
  ///   - stock: by SKU.
  ///   - workers: how many ledgers there are.
  package init(
    run: RunID, stock: [Int64], safetyStock: Int64 = 0, keepsCommitted: Bool = false, workers: Int,
    beganNanoseconds: Int64
  ) {
    self.safetyStock = safetyStock
    self.keepsCommitted = keepsCommitted
    names = SKUNames(run: run)
    keys = KeyNames(run: run)
    self.stock = stock
    self.beganNanoseconds = beganNanoseconds
    items = (0..<UInt32(stock.count)).map { sku in
      var level = FeedLevel(sku: sku)
      level.safetyStock = safetyStock
      return Item(level: level)
    }
    notes = (0..<workers).map { _ in FeedNotes() }
  }

  /// Whether the mark was told: everything that was decided before it was told before.
  package func hasSeen(mark: UInt64) -> Bool { marks.contains(mark) }

  /// Takes a WatchResponse that came at `time`. Its token; nil if it is malformed.
  package func take(_ message: Span<UInt8>, at time: Int64) -> [UInt8]? {
    var isWhole = true
    let token = readWatchResponse(message) { range in
      isWhole = event.read(message, range, names, keys) && isWhole
      if isWhole { take(event, at: time) }
    }
    return isWhole ? token : nil
  }

  // MARK: One event

  /// Takes the next event, which came at `time`.
  package func take(_ event: FeedEvent, at time: Int64) {
    guard isNew(event) else { return }
    let operation = operation(of: event)
    guard event.isOfRun || operation != nil else {
      counts.others += 1
      return
    }
    guard let kind = event.kind else {
      return note(.feedWrongEvent, event, "an event of no kind that there is")
    }
    counts.byKind[kind, default: 0] += 1
    if event.othersItems > 0 {
      note(.feedWrongEvent, event, "it names items of others beside the run's")
    }
    switch kind {
    case .held: takeHeld(event, operation)
    case .replaced: takeReplaced(event, operation)
    case .extended: takeExtended(event, operation)
    case .confirmed, .released, .expired: takeEnd(event, kind, operation, at: time)
    case .adjusted: takeAdjusted(event, operation)
    case .refused: takeRefused(event, operation)
    }
  }

  /// Compares its number with the last. False for one that was told before: it is not to be followed.
  private func isNew(_ event: FeedEvent) -> Bool {
    if event.lsn > counts.lastLSN {
      counts.lastLSN = event.lsn
      return true
    }
    let operation = operation(of: event)
    let note = operation.map { notes[Int($0.worker)][Int($0.number)] }
    if event.lsn == counts.lastLSN || note?.lsn == event.lsn || note?.endLSN == event.lsn
      || note?.replaceLSN == event.lsn
    {
      self.note(.feedRepeated, event, "it was told before")
      return false
    }
    self.note(.feedOrder, event, "it comes behind number \(counts.lastLSN)")
    return true
  }

  /// The run's operation that it is of: by its key, else by its reservation, while that is held.
  private func operation(of event: FeedEvent) -> Operation? {
    switch event.kind {
    case .held, .adjusted, .refused, nil:
      guard case .operation(let worker, let number) = event.key, worker < notes.count,
        number < Int(UInt32.max), notes[worker].makeRoom(for: number)
      else { return nil }
      return Operation(worker: Int32(worker), number: UInt32(number))
    case .replaced, .extended, .confirmed, .released, .expired:
      return event.id.flatMap { live[$0] }
    }
  }

  private func change(_ operation: Operation, _ body: (inout FeedNote) -> Void) {
    body(&notes[Int(operation.worker)][Int(operation.number)])
  }

  // MARK: By kind

  private func takeHeld(_ event: FeedEvent, _ operation: Operation?) {
    follow(event, FeedKind.held)
    guard let operation, let id = event.id else {
      return note(.feedUnknown, event, operation == nil ? "no call of the run" : "no reservation")
    }
    var isAgain = false
    change(operation) { note in
      isAgain = note.held > 0
      FeedNote.count(&note.held)
      if isAgain { return }
      note.lsn = event.lsn
      note.id = id.fingerprint
      note.lines = FeedFingerprint.lines(event.lines)
      note.value = event.expiresNanoseconds
      note.expiresNanoseconds = event.expiresNanoseconds
    }
    if live.updateValue(operation, forKey: id) != nil {
      note(.feedWrongEvent, event, "its reservation \(id.text) is another's")
    }
  }

  /// What was held before follows from what is held now and from what the balances of the changed items have
  /// become: it has to be what was told before.
  private func takeReplaced(_ event: FeedEvent, _ operation: Operation?) {
    guard let operation else {
      return note(.feedUnknown, event, "no reservation that is held")
    }
    let own = FeedKey.operation(worker: Int(operation.worker), operation: Int(operation.number))
    if event.key != own { note(.feedWrongEvent, event, "its key is not the reservation's") }
    var before = event.lines
    for level in event.stock where Int(level.sku) < items.count {
      let rise = level.held.minus(items[Int(level.sku)].level.held)
      if let index = before.firstIndex(where: { $0.sku == level.sku }) {
        before[index].units = before[index].units.minus(rise)
      } else {
        before.append(FeedLine(sku: level.sku, units: Int64(0).minus(rise)))
      }
      if rise == 0 { note(.feedWrongEvent, event, "it changes an item whose units it keeps") }
      follow(event, level, onHand: 0, held: rise)
    }
    let told = notes[Int(operation.worker)][Int(operation.number)]
    if FeedFingerprint.lines(before.filter { $0.units != 0 }) != told.heldLines {
      note(
        .feedBalance, event,
        "what it says is held, less what it says has changed, is not what was held before")
    }
    if event.expiresNanoseconds != told.expiresNanoseconds {
      note(.feedWrongEvent, event, "it has another expires_at than the hold had")
    }
    change(operation) { note in
      FeedNote.count(&note.replaced)
      note.replaceLSN = event.lsn
      note.newLines = FeedFingerprint.lines(event.lines)
    }
  }

  private func takeExtended(_ event: FeedEvent, _ operation: Operation?) {
    guard let operation else {
      return note(.feedUnknown, event, "no reservation that is held")
    }
    if !event.stock.isEmpty { note(.feedWrongEvent, event, "it changes stock") }
    change(operation) { note in
      FeedNote.count(&note.extended)
      note.extensions &+= FeedFingerprint.expiry(event.expiresNanoseconds)
      note.expiresNanoseconds = event.expiresNanoseconds
    }
  }

  private func takeEnd(
    _ event: FeedEvent, _ kind: FeedKind, _ operation: Operation?, at time: Int64
  ) {
    follow(event, kind)
    guard let operation, let id = event.id else {
      return note(.feedUnknown, event, "no reservation that is held")
    }
    live[id] = nil
    let before = notes[Int(operation.worker)][Int(operation.number)]
    if FeedFingerprint.lines(event.lines) != before.heldLines {
      note(.feedWrongEvent, event, "its lines are not those that were held")
    }
    if kind == .expired {
      if event.expiresNanoseconds != before.expiresNanoseconds {
        note(.feedWrongEvent, event, "it has another expires_at than the hold had")
      }
      if event.decidedNanoseconds < event.expiresNanoseconds {
        note(.feedWrongEvent, event, "it was decided before expires_at")
      }
    }
    change(operation) { note in
      note.endLSN = event.lsn
      switch kind {
      case .confirmed: FeedNote.count(&note.confirmed)
      case .released: FeedNote.count(&note.released)
      default:
        FeedNote.count(&note.expired)
        note.expiredMilliseconds = UInt32(clamping: time.minus(beganNanoseconds) / 1_000_000)
      }
    }
  }

  private func takeRefused(_ event: FeedEvent, _ operation: Operation?) {
    guard let operation else { return note(.feedUnknown, event, "no call of the run") }
    if !event.stock.isEmpty { note(.feedWrongEvent, event, "it changes stock") }
    change(operation) { note in
      // A Replace has its Reserve's key.
      if note.held > 0 {
        FeedNote.count(&note.refusedReplaces)
        note.replaceLSN = event.lsn
        return
      }
      FeedNote.count(&note.refused)
      note.lsn = event.lsn
      note.lines = FeedFingerprint.lines(event.lines)
    }
  }

  private func takeAdjusted(_ event: FeedEvent, _ operation: Operation?) {
    guard event.stock.count == 1, event.lines.isEmpty, let level = event.stock.first else {
      return note(.feedWrongEvent, event, "it has to change one item")
    }
    guard Int(level.sku) < items.count else {
      return note(.feedUnknown, event, "a SKU that the run does not have")
    }
    let before = items[Int(level.sku)].level.onHand
    let committedBefore = items[Int(level.sku)].level.committed
    switch event.key {
    case .stock(let sku):
      follow(event, onHand: (stock[Int(level.sku)]).minus(before), begins: true)
      if sku != Int(level.sku) { note(.feedWrongEvent, event, "its key is SKU \(sku)'s") }
    case .mark(let number):
      follow(event, onHand: 0)
      marks.insert(number)
    default:
      follow(event, onHand: nil, committed: nil)
      guard let operation else { return note(.feedUnknown, event, "no call of the run") }
      change(operation) { note in
        FeedNote.count(&note.adjusted)
        note.lsn = event.lsn
        note.value = level.onHand.minus(before)
        note.expiresNanoseconds = level.committed.minus(committedBefore)
      }
    }
  }

  // MARK: Balances

  /// Holds the balances after an event of lines against those before it.
  private func follow(_ event: FeedEvent, _ kind: FeedKind) {
    let isSame =
      event.lines.count == event.stock.count
      && event.lines.allSatisfy { line in event.stock.contains { $0.sku == line.sku } }
      && event.stock.allSatisfy { level in event.lines.count { $0.sku == level.sku } == 1 }
    if !isSame { note(.feedWrongEvent, event, "it changes other items than its lines name") }
    for level in event.stock {
      let units = event.lines.reduce(Int64(0)) { $1.sku == level.sku ? $0.plus($1.units) : $0 }
      switch kind {
      case .held: follow(event, level, onHand: 0, held: units)
      case .confirmed where keepsCommitted:
        follow(event, level, onHand: 0, held: Int64(0).minus(units), committed: units)
      case .confirmed:
        follow(event, level, onHand: Int64(0).minus(units), held: Int64(0).minus(units))
      default: follow(event, level, onHand: 0, held: Int64(0).minus(units))
      }
    }
  }

  /// The same for an event without lines.
  /// - Parameters:
  ///   - onHand: what on hand has to rise by; nil: by whatever.
  ///   - committed: the same of committed.
  private func follow(
    _ event: FeedEvent, onHand: Int64?, committed: Int64? = 0, begins: Bool = false
  ) {
    for level in event.stock {
      follow(event, level, onHand: onHand, held: 0, committed: committed, begins: begins)
    }
  }

  /// - Parameter begins: it may be the first of its item.
  private func follow(
    _ event: FeedEvent, _ level: FeedLevel, onHand: Int64?, held: Int64, committed: Int64? = 0,
    begins: Bool = false
  ) {
    guard Int(level.sku) < items.count else {
      return note(.feedUnknown, event, "a SKU that the run does not have")
    }
    let before = items[Int(level.sku)]
    items[Int(level.sku)] = Item(level: level, isKnown: true)
    let name = names.name(Int(level.sku))
    // The run promises no more than there is and may be held beyond.
    let unpromised = level.onHand.minus(level.held).minus(level.committed)
    if level.available != unpromised.minus(level.safetyStock)
      || level.held < 0 || level.committed < 0 || level.available < 0
    {
      return note(
        .feedBalance, event, "SKU \(name) has \(Self.text(level)), which no item can have")
    }
    guard before.isKnown || begins else {
      return note(.feedGap, event, "SKU \(name) has version \(level.version), the first is missing")
    }
    if before.isKnown, level.version != before.level.version &+ 1 {
      return note(
        .feedGap, event,
        "SKU \(name) has version \(level.version) behind \(before.level.version)")
    }
    let expected = before.level
    let rise = level.onHand.minus(expected.onHand)
    let committedRise = level.committed.minus(expected.committed)
    guard rise == onHand ?? rise, level.held == expected.held.plus(held),
      committedRise == committed ?? committedRise, level.safetyStock == expected.safetyStock
    else {
      return note(
        .feedBalance, event,
        "SKU \(name) has \(Self.text(level)) behind \(Self.text(expected)): on hand has to change "
          + "by \(onHand.map(String.init) ?? "any"), held by \(held), committed by "
          + "\(committed.map(String.init) ?? "any")")
    }
  }

  private static func text(_ level: FeedLevel) -> String {
    "\(level.onHand) on hand, \(level.held) held, \(level.committed) committed, "
      + "\(level.safetyStock) safety stock, "
      + "\(level.available) available"
  }

  // MARK: Findings

  private func note(_ kind: Violation.Kind, _ event: FeedEvent, _ text: String) {
    var subject: [String] = []
    let skus = Set(event.lines.map(\.sku) + event.stock.map(\.sku)).sorted()
    if !skus.isEmpty {
      subject.append("SKU " + skus.map { names.name(Int($0)) }.joined(separator: ", "))
    }
    if case .operation(let worker, let operation) = event.key {
      subject.append("key \(keys.name(worker: worker, operation: operation))")
    }
    if let id = event.id { subject.append("reservation \(id.text)") }
    subject.append("\(event.kind?.name ?? "event") number \(event.lsn)")
    note(kind) { Violation(kind, "\(subject.joined(separator: ", ")): \(text)") }
  }

  /// Whether another violation of the kind is kept.
  func hasRoom(_ kind: Violation.Kind) -> Bool { kept[kind, default: 0] < Self.violationsMost }

  /// Takes down a violation, unless there are enough of its kind.
  func note(_ kind: Violation.Kind, _ make: () -> Violation) {
    guard hasRoom(kind) else { return }
    kept[kind, default: 0] += 1
    violations.append(make())
  }

  /// Takes down that the feed itself is at fault.
  package func note(_ kind: Violation.Kind, _ text: String) { note(kind) { Violation(kind, text) } }
}
