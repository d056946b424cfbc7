// What the store answers: plain values, no references, nothing to allocate.
package import Log
package import Posix

/// An item's record, by number. A handle stays good as long as the store is open: the record of an item that is
/// removed keeps its name.
package struct ItemHandle: Hashable, Sendable, BitwiseCopyable {
  package let ordinal: UInt32

  package init(ordinal: UInt32) { self.ordinal = ordinal }
}

/// What there is of one item, and whose it is.
package struct Balances: Equatable, Sendable, BitwiseCopyable {
  /// Units that exist: 0 and above.
  package var onHand: Int64
  /// Units in live reservations.
  package var held: Int64
  /// Units sold and not yet shipped, part of on hand.
  package var committed: Int64
  /// Units that are never offered; below zero, so many may be held beyond what is on hand.
  package var safetyStock: Int64

  package init(onHand: Int64, held: Int64, committed: Int64, safetyStock: Int64) {
    self.onHand = onHand
    self.held = held
    self.committed = committed
    self.safetyStock = safetyStock
  }

  package static var none: Balances {
    Balances(onHand: 0, held: 0, committed: 0, safetyStock: 0)
  }

  /// Units that nobody was promised; below zero by what is owed to those who were.
  package var unpromised: Int64 { onHand - held - committed }

  /// Units on offer; below zero where units are owed, or safety stock was raised over what is left.
  package var available: Int64 { unpromised - safetyStock }

  /// With zero in the place of what is below it and cannot be.
  @inline(__always)
  var clamped: Balances {
    Balances(
      onHand: max(0, onHand), held: max(0, held), committed: max(0, committed),
      safetyStock: safetyStock)
  }

  /// Further from zero than any balance comes: on hand and safety stock are 2^40 at most, and no more is held
  /// and committed than was available once.
  static let unitsMax: Int64 = 1 << 46

  /// Whether an item can have these balances.
  @inline(__always)
  var areStorable: Bool {
    onHand >= 0 && onHand <= Self.unitsMax && held >= 0 && held <= Self.unitsMax
      && committed >= 0 && committed <= Self.unitsMax
      && safetyStock >= -Self.unitsMax && safetyStock <= Self.unitsMax
  }
}

/// The balances of one item, all from one version of it.
package struct StockLevel: Equatable, Sendable, BitwiseCopyable {
  package let item: ItemHandle
  package let balances: Balances
  package let version: UInt64
  /// When it may be reserved.
  package let sale: SaleWindow

  package init(
    item: ItemHandle, _ balances: Balances, version: UInt64, sale: SaleWindow = .always
  ) {
    self.item = item
    self.balances = balances
    self.version = version
    self.sale = sale
  }

  package init(
    item: ItemHandle, onHand: Int64, held: Int64, committed: Int64, safetyStock: Int64,
    version: UInt64, sale: SaleWindow = .always
  ) {
    self.init(
      item: item,
      Balances(onHand: onHand, held: held, committed: committed, safetyStock: safetyStock),
      version: version, sale: sale)
  }

  package var onHand: Int64 { balances.onHand }
  package var held: Int64 { balances.held }
  package var committed: Int64 { balances.committed }
  package var safetyStock: Int64 { balances.safetyStock }
  package var available: Int64 { balances.available }
}

/// A table with a cap.
package enum StoreTable: Sendable, BitwiseCopyable {
  case items
  case reservations
  /// What subjects have of items, for limits.
  case limits
}

/// Why a command changed nothing. Of several bad lines it names one; `StoreSession.furtherRefusal` has the
/// others.
package enum Refusal: Equatable, Sendable, BitwiseCopyable {
  case insufficientStock(item: ItemHandle, requested: Int64, available: Int64)
  /// The item may not be reserved at the time of the decision.
  case notOnSale(item: ItemHandle, SaleWindow)
  /// Line `line` of the command (0 for commands of one item) names an item that is unknown.
  case itemNotFound(line: Int)
  case reservationNotFound
  case reservationExpired
  case reservationConfirmed
  case reservationReleased
  /// The hold was reserved under another name than the requester's, who may change its own alone.
  case notOwnHold
  case versionMismatch(current: UInt64)
  /// The reservation is at another revision than the one that was expected.
  case revisionMismatch(current: UInt64)
  case onHandMismatch(current: Int64)
  /// More is to be shipped or uncommitted than is committed.
  case insufficientCommitted(item: ItemHandle, requested: Int64, committed: Int64)
  /// An item that is to be removed has units.
  case itemNotEmpty(item: ItemHandle, onHand: Int64, held: Int64, committed: Int64)
  /// The subject (`StoreSession.refusedSubject`) would have more than `maxUnits` of the item with the `requested`
  /// units: it has `used`.
  case limitExceeded(item: ItemHandle, requested: Int64, used: Int64, maxUnits: Int64)
  case conflictTooBusy(attempts: Int)
  case idempotencyKeyReused
  /// Line `line` of a partial confirm asks for more than the `held` units of the item (0: not held).
  case moreThanHeld(line: Int, held: Int64)
  /// The import has rows before the first that came; it goes on at row `next`.
  case importGap(next: UInt64)
  /// On hand would pass StoreLimits.quantityMax.
  case onHandLimit
  /// The time to live is longer than StoreLimits.holdNanosecondsMax.
  case longerThanMaxHold
  case tableFull(StoreTable)
  /// Nothing can be recorded now, so nothing was changed.
  case unavailable(Unavailable)
}

/// The answer to a command.
package struct Decision<Value: Sendable>: Sendable {
  package enum Result: Sendable {
    case accepted(Value)
    case refused(Refusal)
  }

  package let result: Result
  /// A recorded decision was answered again.
  package let replayed: Bool
  /// The answer may be shown once the journal is durable up to this log sequence number.
  package let lsn: UInt64

  package init(_ result: Result, replayed: Bool, lsn: UInt64) {
    self.result = result
    self.replayed = replayed
    self.lsn = lsn
  }
}

/// How far an import has come.
package struct ImportProgress: Equatable, Sendable {
  /// Rows below it are done.
  package let nextRow: UInt64
  /// Rows of the command that changed their items; nil: none was looked at, since others are done by now than the
  /// caller knew.
  package let changed: Int?

  package init(nextRow: UInt64, changed: Int?) {
    self.nextRow = nextRow
    self.changed = changed
  }
}

/// What a reserve took, and what has become of it by the time of the answer.
package struct Hold: Equatable, Sendable {
  package let id: ReservationID
  /// When the hold was to end as it was made, whatever Extend did since.
  package let expiresAt: Timestamp
  /// Where the reservation stands at the time of the answer.
  package let state: ReservationState
  /// What was held. Where it tells its lines, the session's `viewLine` has them, as they were at first.
  package let choice: HoldChoice
  /// For how long the hold still lives, in nanoseconds; 0 where it has ended.
  package let remainingNanoseconds: Int64

  package init(
    id: ReservationID, expiresAt: Timestamp, state: ReservationState,
    choice: HoldChoice = .asAsked, remainingNanoseconds: Int64
  ) {
    self.id = id
    self.expiresAt = expiresAt
    self.state = state
    self.choice = choice
    self.remainingNanoseconds = remainingNanoseconds
  }
}

/// Where a reservation stands.
package enum ReservationState: UInt8, Sendable {
  case held = 1
  case confirmed
  case released
  case expired
}

/// A reservation as it stood at one moment, without its lines and its reference: those are the session's
/// `viewLine` and `viewReference`.
package struct ReservationView: Equatable, Sendable {
  package let id: ReservationID
  package let state: ReservationState
  package let createdAt: Timestamp
  package let expiresAt: Timestamp
  /// nil while held.
  package let endedAt: Timestamp?
  /// 1 when it was made, one more with each Replace and Extend.
  package let revision: UInt64

  package init(
    id: ReservationID, state: ReservationState, createdAt: Timestamp, expiresAt: Timestamp,
    endedAt: Timestamp?, revision: UInt64 = 1
  ) {
    self.revision = revision
    self.id = id
    self.state = state
    self.createdAt = createdAt
    self.expiresAt = expiresAt
    self.endedAt = endedAt
  }
}

/// Units of one item in a reservation.
package struct ViewLine: Equatable, Sendable, BitwiseCopyable {
  package let item: ItemHandle
  package let quantity: Int64

  package init(item: ItemHandle, quantity: Int64) {
    self.item = item
    self.quantity = quantity
  }
}
