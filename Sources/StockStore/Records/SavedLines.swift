// What is kept of a recorded decision besides its head, whatever its kind: two numbers and lines. Checkpoints
// have them so (CheckpointFormat.swift says what they mean by kind), and the state's digest covers them.

package enum SavedLines {
  /// A refusal for lack of units of every item has the most: two for each but the first.
  package static var countMax: Int { 2 * StoreLimits.linesMax }

  /// Lines of the record, and the two numbers between its times.
  package static func numbers(
    _ record: borrowing ReservationRecord
  ) -> (lineCount: Int, first: Int64, second: Int64) {
    let saved = record.savedNumbers
    return switch record.kind {
    // Their balances are kept beside the lines.
    case .free, .adjustedTogether, .removed: (0, 0, 0)
    // Of the first change, what it was before there were several.
    case .refusedOnHandLimit: (record.refusal == .onHandLimit(change: 0) ? 0 : 1, 0, 0)
    case .refusedItemsNotFound, .refusedLineNotFound: (1, 0, 0)
    case .refusedInsufficientStock, .refusedNotOnSale:
      (1 + 2 * record.shortageCount, saved.first, saved.second)
    case .refusedInsufficientCommitted, .refusedLimitExceeded, .refusedItemNotEmpty:
      (1, saved.first, saved.second)
    case .imported: (0, saved.first, saved.second)
    // Where nothing is committed, what it was before there was anything to commit.
    case .adjusted: (adjustedLineCount(record.adjusted), saved.first, saved.second)
    case .replaced: (2 + record.lineCount, saved.first, saved.second)
    case .held, .confirmed, .confirmedInPart, .confirmedCommitted, .confirmedInPartCommitted,
      .released, .expired:
      (record.lineCount + record.firstLineCount, saved.first, saved.second)
    }
  }

  /// Where it has no sale window either, what it was before there were any.
  private static func adjustedLineCount(_ level: StockLevel) -> Int {
    level.sale.isAlways ? level.committed == 0 ? 2 : 3 : 5
  }

  /// Line `index` of as many as `numbers` says.
  package static func line(
    _ record: borrowing ReservationRecord, _ index: Int
  ) -> (item: UInt32, quantity: Int64) {
    switch record.refusal {
    case .insufficientStock(let item, _, _):
      if index == 0 { return (item.ordinal, Int64(record.alternativesTried)) }
      let shortage = record.shortage((index - 1) / 2)
      return (shortage.item.ordinal, index % 2 == 1 ? shortage.requested : shortage.available)
    case .notOnSale(let item, let window):
      if index == 0 { return (item.ordinal, Int64(window.lowBits)) }
      let other = record.closedSale((index - 1) / 2)
      return index % 2 == 1
        ? (other.item.ordinal, Int64(bitPattern: other.window.fromWord))
        : (other.window.lowBits, Int64(bitPattern: other.window.untilWord))
    case .itemNotEmpty(let item, _, _, let committed): return (item.ordinal, committed)
    case .itemsNotFound(let first, let places):
      return (UInt32(clamping: first), Int64(bitPattern: places))
    case .lineNotFound(let line): return (UInt32(clamping: line), 0)
    case .onHandLimit(let change): return (UInt32(clamping: change), 0)
    case .insufficientCommitted(let item, _, _), .limitExceeded(let item, _, _):
      return (item.ordinal, 0)
    default: break
    }
    if record.kind == .adjusted {
      let level = record.adjusted
      switch index {
      case 0: return (level.item.ordinal, level.safetyStock)
      case 1: return (0, Int64(bitPattern: level.version))
      case 2: return (0, level.committed)
      case 3: return (level.sale.lowBits, Int64(bitPattern: level.sale.fromWord))
      default: return (0, Int64(bitPattern: level.sale.untilWord))
      }
    }
    var index = index
    if record.kind == .replaced {
      let id = record.replacedID
      if index == 0 { return (id.slot, Int64(id.tag)) }
      if index == 1 { return (id.generation, 0) }
      index -= 2
    }
    // Behind the lines as they are, those of the first answer.
    let line =
      index < record.lineCount ? record.line(index) : record.toldLine(index - record.lineCount)
    return (line.item.ordinal, line.quantity)
  }
}
