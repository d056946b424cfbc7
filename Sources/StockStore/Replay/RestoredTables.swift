// What recovery puts into the tables of a store that nobody uses yet, and the checks on the way: numbers
// that come from a disk may be anything.
package import Log
internal import Synchronization

package enum RecoveryLimits {
  /// Units of anything: 64 lines of the most that a line may have. More is damage.
  package static let unitsMax: Int64 = 1 << 48
  /// Chunks are taken one after the other, and each shard has few that nothing is known of: a number
  /// further beyond the number of chunks is damage, and must not cost the memory that it asks for.
  package static let chunksAhead = 4 * StoreCore.shardsMax
  /// Rows of an import: whoever numbers them cannot come further.
  package static let rowsMax: UInt64 = 1 << 62
  /// Later than any clock says (it is the year 2225): so that what is added to a time never overflows.
  static let timeMax = Int64.max - 1 << 60

  /// Whether a time can be one that a store has written.
  @inline(__always)
  package static func isPossible(time: Int64) -> Bool { time >= 0 && time <= timeMax }

  /// Whether an item can have so many units requested of it, or on offer: these are below zero where
  /// units are owed, or safety stock was raised over what is left.
  @inline(__always)
  static func isPossible(units: Int64) -> Bool { units >= -unitsMax && units <= unitsMax }
}

extension ReservationRecord {
  /// Whether times, units and balances are such that nothing that is computed of them overflows, and items
  /// are there.
  package var hasPossibleNumbers: Bool {
    // Below zero it is an owner.
    guard RecoveryLimits.isPossible(time: createdAt), savedEnd <= RecoveryLimits.timeMax else {
      return false
    }
    if state != nil {
      return RecoveryLimits.isPossible(time: expiresAt)
        && RecoveryLimits.isPossible(time: firstExpiresAt)
    }
    if kind == .adjusted { return adjusted.isPossible }
    if kind == .imported {
      return importedRows <= RecoveryLimits.rowsMax && savedNumbers.second == 0
    }
    if kind == .adjustedTogether { return (0..<levelCount).allSatisfy { level($0).isPossible } }
    if kind == .replaced {
      return RecoveryLimits.isPossible(time: replacedTimes.expiresAt)
        && RecoveryLimits.isPossible(time: replacedTimes.createdAt)
    }
    if case .notOnSale(_, let window) = refusal {
      return window.isPossible
        && (0..<shortageCount).allSatisfy { closedSale($0).window.isPossible }
    }
    if case .itemNotEmpty(_, let onHand, let held, let committed) = refusal {
      return [onHand, held, committed].allSatisfy { RecoveryLimits.isPossible(units: $0) }
    }
    if case .insufficientCommitted(_, let requested, let committed) = refusal {
      return RecoveryLimits.isPossible(units: requested)
        && RecoveryLimits.isPossible(units: committed)
    }
    if case .limitExceeded(_, let requested, let used) = refusal {
      return RecoveryLimits.isPossible(units: requested) && RecoveryLimits.isPossible(units: used)
    }
    guard case .insufficientStock(_, let requested, let available) = refusal else { return true }
    return RecoveryLimits.isPossible(units: requested)
      && RecoveryLimits.isPossible(units: available)
      && (0..<shortageCount).allSatisfy {
        RecoveryLimits.isPossible(units: shortage($0).requested)
          && RecoveryLimits.isPossible(units: shortage($0).available)
      }
  }

  /// Whether all items that it names are below `itemCount`.
  @inline(__always)
  func namesItems(below itemCount: UInt32) -> Bool {
    var isRight = true
    forEachItem { if $0 >= itemCount { isRight = false } }
    return isRight
  }

  /// Calls `body` with the number of each item that it names.
  @inline(__always)
  func forEachItem(_ body: (UInt32) -> Void) {
    switch kind {
    case .adjusted: return body(adjusted.item.ordinal)
    case .adjustedTogether:
      for index in 0..<levelCount { body(level(index).item.ordinal) }
      return
    default: break
    }
    switch refusal {
    case .insufficientStock(let item, _, _):
      body(item.ordinal)
      for index in 0..<shortageCount { body(shortage(index).item.ordinal) }
    case .insufficientCommitted(let item, _, _), .limitExceeded(let item, _, _),
      .itemNotEmpty(let item, _, _, _):
      body(item.ordinal)
    case .notOnSale(let item, _):
      body(item.ordinal)
      for index in 0..<shortageCount { body(closedSale(index).item.ordinal) }
    case .itemsNotFound, .lineNotFound, .onHandLimit: break
    case nil:
      for index in 0..<lineCount { body(line(index).item.ordinal) }
      if state != nil {
        for index in 0..<toldLineCount { body(toldLine(index).item.ordinal) }
      }
    }
  }
}

extension StockLevel {
  /// Whether an item can have these balances.
  @inline(__always)
  var isPossible: Bool {
    balances.areStorable && version < UInt64.max >> 2 && (sale.isAlways || sale.isPossible)
  }
}

extension StoreCore {
  /// Puts an item that is not there yet in its place: its name and balances, not yet its place in the
  /// index. False where that cannot be.
  package func restore(
    _ level: StockLevel, _ name: ItemName, lsn: UInt64
  ) throws(JournalError) -> Bool {
    let ordinal = level.item.ordinal
    guard name.sku.count > 0, level.version > 0, level.isPossible else { return false }
    guard ordinal < items.capacity else { throw .tooManyItems(limits) }
    guard items[ordinal].word.load(ordering: .relaxed) == 0, items.restore(ordinal, name) else {
      return false
    }
    setLevel(level, lsn: lsn)
    items.setSale(ordinal, level.sale)
    return true
  }

  /// Marks an item that has been given its last balances, none, and its last version as removed.
  package func setRemoved(_ ordinal: UInt32, at lsn: UInt64) {
    items.setRemovedAt(ordinal, lsn)
    items.setSale(ordinal, .always)
    let word = items[ordinal].word.load(ordering: .relaxed)
    items[ordinal].word.store(word | ItemWord.removed, ordering: .releasing)
  }

  /// Gives an item that is there these balances and this version; its sale window stays.
  @inline(__always)
  func setLevel(_ level: StockLevel, lsn: UInt64) {
    let ordinal = level.item.ordinal
    items[ordinal].store(level.balances)
    noteShortage(level.balances)
    items[ordinal].lsn.store(lsn, ordering: .relaxed)
    items[ordinal].word.store(level.version << 1, ordering: .releasing)
  }
}

extension JournalError {
  static func tooManyItems(_ limits: StoreLimits) -> JournalError {
    .unsuitable(
      "the directory has more items than the \(limits.itemsMax) allowed: raise --max-items")
  }

  package static func tooManyLimits(_ limits: StoreLimits) -> JournalError {
    .unsuitable(
      "the directory has limits for more subjects than the \(limits.subjectEntriesMax) allowed: "
        + "raise --max-limits")
  }

  package static func tooManyReservations(_ limits: StoreLimits) -> JournalError {
    .unsuitable(
      "the directory has more reservations than the \(limits.reservationsMax) allowed: "
        + "raise --max-reservations")
  }
}
