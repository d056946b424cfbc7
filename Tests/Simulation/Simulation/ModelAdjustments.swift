internal import StockStore

// Changes of stock, as the store must decide them.

/// What a change makes of an item.
private enum Adjusted {
  case becomes(Model.Item)
  /// Not recorded.
  case mismatch(Refusal)
  case refused(Refusal)

  var refusal: Refusal? {
    switch self {
    case .becomes: nil
    case .mismatch(let refusal), .refused(let refusal): refusal
    }
  }
}

extension Model {
  package mutating func adjust(
    _ key: String, _ adjustment: Adjustment, caller: String = ""
  ) -> (Answer, replayed: Bool) {
    let key = DecisionKey(method: .adjust, caller: caller, key: key)
    seek(key)
    let payload = Payload.adjust(adjustment)
    if let answer = replay(key, payload) { return answer }
    var outcome = reasonNotToMake(adjustment)
    if outcome == nil {
      guard let ordinal = takeOrdinal(adjustment.sku) else {
        return (.refused([.tableFull(.items)]), false)
      }
      outcome = becoming(adjustment, ordinal)
    }
    switch outcome {
    case .mismatch(let refusal)?: return (.refused([refusal]), false)
    case .refused(let refusal)?:
      record(key, payload, .refused([refusal]), live: false)
      return (.refused([refusal]), false)
    case .becomes(let item)?:
      put(item, adjustment.sku)
      record(key, payload, .level(item.level), live: false)
      return (.level(item.level), false)
    case nil: preconditionFailure("a change without an outcome")
    }
  }

  package mutating func remove(
    _ key: String, _ removal: Removal, caller: String = ""
  ) -> (Answer, replayed: Bool) {
    let key = DecisionKey(method: .remove, caller: caller, key: key)
    seek(key)
    let payload = Payload.remove(removal)
    if let answer = replay(key, payload) { return answer }
    guard let item = items[removal.sku] else {
      record(key, payload, .refused([.itemNotFound(line: 0)]), live: false)
      return (.refused([.itemNotFound(line: 0)]), false)
    }
    if removal.expectedVersion != 0, removal.expectedVersion != item.version {
      return (.refused([.versionMismatch(current: item.version)]), false)
    }
    if item.onHand != 0 || item.held != 0 || item.committed != 0 {
      let refusal = Refusal.itemNotEmpty(
        item: item.level.item, onHand: item.onHand, held: item.held, committed: item.committed)
      record(key, payload, .refused([refusal]), live: false)
      return (.refused([refusal]), false)
    }
    takeAway(removal.sku)
    record(key, payload, .removed, live: false)
    return (.removed, false)
  }

  package mutating func adjustTogether(
    _ key: String, _ batch: Batch, caller: String = ""
  ) -> (Answer, replayed: Bool) {
    let key = DecisionKey(method: .adjustTogether, caller: caller, key: key)
    seek(key)
    let payload = Payload.adjustTogether(batch)
    func refused(_ refusal: Refusal, _ change: Int? = nil) -> (Answer, replayed: Bool) {
      (.refusedTogether(refusal, change: change), false)
    }
    switch replay(key, payload) {
    case (.refused(let refusals, _), let replayed)?:
      return (.refusedTogether(refusals[0], change: nil), replayed)
    case let answer?: return answer
    case nil: break
    }
    // First what is unknown, then what there is.
    for (index, adjustment) in batch.adjustments.enumerated() {
      guard let outcome = reasonNotToMake(adjustment) else { continue }
      return refuseTogether(outcome, index, key, payload)
    }
    var items: [Item] = []
    var ordinals: [UInt32] = []
    for (index, adjustment) in batch.adjustments.enumerated() {
      guard let ordinal = takeOrdinal(adjustment.sku) else {
        return refused(.tableFull(.items), index)
      }
      ordinals.append(ordinal)
    }
    for (index, adjustment) in batch.adjustments.enumerated() {
      let outcome = becoming(adjustment, ordinals[index])
      guard case .becomes(let item) = outcome else {
        return refuseTogether(outcome, index, key, payload)
      }
      items.append(item)
    }
    for (item, adjustment) in zip(items, batch.adjustments) { put(item, adjustment.sku) }
    // Of what is adjusted alone the sale is told.
    let answer = Answer.levels(
      items.map {
        StockLevel(
          item: $0.level.item, onHand: $0.level.onHand, held: $0.level.held,
          committed: $0.level.committed, safetyStock: $0.level.safetyStock,
          version: $0.level.version)
      })
    record(key, payload, answer, live: false)
    return (answer, false)
  }

  /// How far an import is; 0 where nothing is known of it.
  package func importedRows(_ id: String, caller: String = "") -> UInt64 {
    let key = DecisionKey(method: .importRows, caller: caller, key: id)
    if case .imported(let next, _)? = decision(key)?.answer { return next }
    return 0
  }

  /// Rows of one record: all of different items.
  package mutating func importRows(
    _ id: String, firstRow: UInt64, _ rows: [Adjustment], caller: String = ""
  ) -> (Answer, replayed: Bool) {
    let key = DecisionKey(method: .importRows, caller: caller, key: id)
    seek(key)
    let done = importedRows(id, caller: caller)
    if firstRow > done { return (.refused([.importGap(next: done)]), false) }
    if firstRow < done { return (.imported(next: done, nil), true) }
    if decision(key) == nil, !hasRoom { return (.refused([.tableFull(.reservations)]), false) }
    // Names are taken before the items are looked at.
    let outcomes = rows.map { row -> (row: Adjustment, refusal: Refusal?, ordinal: UInt32) in
      if let outcome = reasonNotToMake(row) { return (row, outcome.refusal, 0) }
      guard let ordinal = takeOrdinal(row.sku) else { return (row, .tableFull(.items), 0) }
      return (row, nil, ordinal)
    }
    var refusals: [Refusal?] = []
    for (row, refusal, ordinal) in outcomes {
      guard refusal == nil else {
        refusals.append(refusal)
        continue
      }
      let outcome = becoming(row, ordinal)
      refusals.append(outcome.refusal)
      if case .becomes(let item) = outcome { put(item, row.sku) }
    }
    let next = done + UInt64(rows.count)
    keepProgress(key, next: next)
    return (.imported(next: next, refusals), false)
  }

  private mutating func refuseTogether(
    _ outcome: Adjusted, _ index: Int, _ key: DecisionKey, _ payload: Payload
  ) -> (Answer, replayed: Bool) {
    guard var refusal = outcome.refusal else { preconditionFailure("what is no refusal") }
    if case .itemNotFound = refusal { refusal = .itemNotFound(line: index) }
    let answer = Answer.refusedTogether(refusal, change: index)
    if case .refused = outcome { record(key, payload, answer, live: false) }
    return (answer, false)
  }

  /// Why an item that is unknown is not made; nil where it is made, or known.
  private func reasonNotToMake(_ adjustment: Adjustment) -> Adjusted? {
    if items[adjustment.sku] != nil { return nil }
    switch adjustment.check {
    case .version(let version) where version != 0: return .mismatch(.versionMismatch(current: 0))
    case .onHand(let onHand) where onHand != 0: return .mismatch(.onHandMismatch(current: 0))
    default: break
    }
    switch adjustment.change {
    case .delta(let delta) where delta < 0: return .refused(.itemNotFound(line: 0))
    case .ship, .uncommit: return .refused(.itemNotFound(line: 0))
    default: return nil
    }
  }

  private func becoming(_ adjustment: Adjustment, _ ordinal: UInt32) -> Adjusted {
    let known = items[adjustment.sku]
    var item = known ?? Item(ordinal: ordinal, onHand: 0)
    switch adjustment.check {
    case .version(let version) where version != item.version:
      return .mismatch(.versionMismatch(current: item.version))
    case .onHand(let onHand) where onHand != item.onHand:
      return .mismatch(.onHandMismatch(current: item.onHand))
    default: break
    }
    let before = item
    switch adjustment.change {
    case .none: break
    case .delta(let delta): item.onHand += delta
    case .setOnHand(let onHand): item.onHand = onHand
    case .ship(let units):
      item.onHand -= units
      item.committed -= units
    case .uncommit(let units): item.committed -= units
    }
    if let refusal = whyNot(before, item, adjustment) { return .refused(refusal) }
    item.safetyStock = adjustment.safetyStock ?? item.safetyStock
    item.sale = adjustment.sale ?? item.sale
    item.version = nextVersion(adjustment.sku)
    return .becomes(item)
  }

  /// Why an item cannot become another one; nil where it can.
  private func whyNot(_ item: Item, _ next: Item, _ adjustment: Adjustment) -> Refusal? {
    if next.committed < 0 {
      return .insufficientCommitted(
        item: item.level.item, requested: item.committed - next.committed,
        committed: item.committed)
    }
    var isShipped = false
    if case .ship = adjustment.change { isShipped = true }
    // Promises keep units on hand, unless the shelf is what it is; units that are not there are never taken.
    let kept = isShipped || adjustment.allowsShortage ? 0 : max(0, item.held + item.committed)
    if next.onHand < item.onHand, next.onHand < kept {
      return .insufficientStock(
        item: item.level.item, requested: item.onHand - next.onHand,
        available: item.onHand - kept)
    }
    return next.onHand > limits.quantityMax ? .onHandLimit : nil
  }
}
