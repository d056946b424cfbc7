// What is recorded of a decision besides the units of a reservation.

/// What a record holds. Zero bits are a free one. The numbers stand in journals and checkpoints.
package enum RecordKind: UInt8, BitwiseCopyable {
  case free = 0
  case held = 1
  case confirmed = 2
  /// Confirmed with fewer units than were held: a repeat has to name the same lines.
  case confirmedInPart = 3
  case released = 4
  case expired = 5
  case refusedInsufficientStock = 6
  /// As the first release wrote it, with the number of one line.
  case refusedLineNotFound = 7
  case refusedOnHandLimit = 8
  case adjusted = 9
  case refusedItemsNotFound = 10
  /// The answer to a Replace: what the reservation was right after it.
  case replaced = 11
  /// Confirmed, and the units stay on hand as committed: a repeat has to say so.
  case confirmedCommitted = 16
  /// The same with fewer units than were held.
  case confirmedInPartCommitted = 17
  case refusedInsufficientCommitted = 18
  case refusedLimitExceeded = 20
  case refusedNotOnSale = 32
  /// Several adjustments that were made together.
  case adjustedTogether = 40
  /// How far an import has come.
  case imported = 41
  /// An item was removed.
  case removed = 42
  case refusedItemNotEmpty = 43

  /// What a sale leaves.
  static func confirmed(inPart: Bool, committed: Bool) -> RecordKind {
    committed
      ? inPart ? .confirmedInPartCommitted : .confirmedCommitted
      : inPart ? .confirmedInPart : .confirmed
  }

  /// Of a confirm: whether the units stayed on hand.
  var keepsCommitted: Bool { self == .confirmedCommitted || self == .confirmedInPartCommitted }

  /// Of a confirm: whether some units were not sold.
  var isInPart: Bool { self == .confirmedInPart || self == .confirmedInPartCommitted }
}

/// A refusal as it is recorded. It must be the same again for a command whose lines come in another order.
package enum RecordedRefusal: Equatable {
  /// The first item that lacks units; the others are lines of the record.
  case insufficientStock(item: ItemHandle, requested: Int64, available: Int64)
  /// The items that are unknown, as bits: which of the command's items they are in the order of their
  /// hashes. `first` is the one that is answered first.
  case itemsNotFound(first: Int, places: UInt64)
  /// The command's line that is unknown, of the first release.
  case lineNotFound(Int)
  /// At this change, from 0, where there are several.
  case onHandLimit(change: Int)
  case insufficientCommitted(item: ItemHandle, requested: Int64, committed: Int64)
  /// The limit itself stands beside it.
  case limitExceeded(item: ItemHandle, requested: Int64, used: Int64)
  case itemNotEmpty(item: ItemHandle, onHand: Int64, held: Int64, committed: Int64)
  /// The first item that is not on sale, and what was said of it; the others are lines of the record.
  case notOnSale(item: ItemHandle, SaleWindow)

  /// Whether `first` is one of these places: numbers from a disk may be anything.
  package static func arePlaces(first: Int, _ places: UInt64) -> Bool {
    first >= 0 && first < StoreLimits.linesMax && places >> UInt64(first) & 1 == 1
  }
}

/// Units that an item lacks, besides those of the first that the refusal names.
package struct Shortage: Equatable {
  package var item: ItemHandle
  package var requested: Int64
  package var available: Int64

  package init(item: ItemHandle, requested: Int64, available: Int64) {
    self.item = item
    self.requested = requested
    self.available = available
  }
}

/// An item that is not on sale, besides the first that the refusal names.
package struct ClosedSale: Equatable {
  package var item: ItemHandle
  package var window: SaleWindow

  package init(item: ItemHandle, window: SaleWindow) {
    self.item = item
    self.window = window
  }
}
