// What the store is asked. Commands borrow every byte they name: nothing is copied until it is kept,
// and nothing here outlives the call it is passed to. They are valid when they come: the caller has
// checked every field against StoreLimits.

/// Bytes that somebody else owns, good for the length of the call they are passed to.
@safe package struct BorrowedBytes: BitwiseCopyable {
  private let base: UnsafePointer<UInt8>?
  /// How many bytes.
  package let count: Int

  /// - Safety: `base` must point to `count` bytes that stay as they are for the length of the call.
  @unsafe package init(_ base: UnsafePointer<UInt8>?, count: Int) {
    unsafe self.base = base
    self.count = unsafe base == nil ? 0 : count
  }

  /// No bytes.
  package static var empty: BorrowedBytes { unsafe BorrowedBytes(nil, count: 0) }

  package func isEqual(_ other: BorrowedBytes) -> Bool {
    unsafe pointer.elementsEqual(other.pointer)
  }

  /// The bytes, for tables and hash functions.
  @unsafe package var pointer: UnsafeRawBufferPointer {
    unsafe UnsafeRawBufferPointer(start: base, count: count)
  }
}

/// Names an item: (SKU, location).
package struct ItemName: BitwiseCopyable {
  package let sku: BorrowedBytes
  /// Empty: the default location.
  package let location: BorrowedBytes

  package init(sku: BorrowedBytes, location: BorrowedBytes) {
    self.sku = sku
    self.location = location
  }
}

/// One line of a command: units of an item.
package struct LineRequest {
  package let item: ItemName
  /// 1 to StoreLimits.quantityMax.
  package let quantity: Int64

  package init(item: ItemName, quantity: Int64) {
    self.item = item
    self.quantity = quantity
  }
}

/// Who asks under which key: the scope of a recorded decision, together with the method.
package struct IdempotencyScope: BitwiseCopyable {
  package let caller: BorrowedBytes
  package let key: BorrowedBytes

  package init(caller: BorrowedBytes, key: BorrowedBytes) {
    self.caller = caller
    self.key = key
  }
}

/// Who asks for the end or the extension of a hold.
package struct Requester {
  /// Stands in the journal's record of what was decided; empty: it has no name.
  package let caller: BorrowedBytes
  /// May change only holds that were reserved under the same name.
  package let ownHoldsOnly: Bool

  package init(caller: BorrowedBytes, ownHoldsOnly: Bool = false) {
    self.caller = caller
    self.ownHoldsOnly = ownHoldsOnly
  }

  /// Somebody without a name, who has the reservation's id.
  package static var nameless: Requester { Requester(caller: .empty) }
}

/// Takes an item away that is empty.
package struct RemoveCommand {
  package let scope: IdempotencyScope
  package let item: ItemName
  /// 0: at any.
  package let expectedVersion: UInt64
  package let reason: BorrowedBytes

  package init(
    scope: IdempotencyScope, item: ItemName, expectedVersion: UInt64 = 0, reason: BorrowedBytes
  ) {
    self.scope = scope
    self.item = item
    self.expectedVersion = expectedVersion
    self.reason = reason
  }
}

/// A change of an item's stock.
package struct AdjustCommand: BitwiseCopyable {
  package enum Change: Equatable, Sendable, BitwiseCopyable {
    case none
    case delta(Int64)
    case setOnHand(Int64)
    /// Sold units leave the house: on hand and committed fall.
    case ship(Int64)
    /// Sold units are not shipped after all: committed falls.
    case uncommit(Int64)
  }

  /// What the caller knows of the item.
  package enum Check: Equatable, Sendable, BitwiseCopyable {
    case none
    /// 0: only if the item is unknown.
    case version(UInt64)
    /// Of an unknown item: 0.
    case onHand(Int64)
  }

  package let scope: IdempotencyScope
  package let item: ItemName
  package let change: Change
  /// nil: as it is.
  package let safetyStock: Int64?
  /// nil: as it is.
  package let sale: SaleWindow?
  package let check: Check
  /// On hand may fall below what is held and committed, though not below zero.
  package let allowsShortage: Bool
  /// Empty: none.
  package let reference: BorrowedBytes
  package let reason: BorrowedBytes

  package init(
    scope: IdempotencyScope, item: ItemName, change: Change, safetyStock: Int64?,
    sale: SaleWindow? = nil, check: Check, allowsShortage: Bool = false,
    reference: BorrowedBytes = .empty, reason: BorrowedBytes
  ) {
    self.scope = scope
    self.item = item
    self.change = change
    self.safetyStock = safetyStock
    self.sale = sale
    self.check = check
    self.allowsShortage = allowsShortage
    self.reference = reference
    self.reason = reason
  }
}

/// Rows of an import, each decided by itself: what they have in common. The rows are those that were appended.
package struct ImportCommand {
  /// Under whose name, and which import.
  package let scope: IdempotencyScope
  /// The number of the first row.
  package let firstRow: UInt64

  package init(scope: IdempotencyScope, firstRow: UInt64) {
    self.scope = scope
    self.firstRow = firstRow
  }
}

/// Several changes, all or none: what they have in common. The changes are those that were appended.
package struct BatchAdjustCommand {
  package let scope: IdempotencyScope
  /// Empty: none.
  package let reference: BorrowedBytes
  package let reason: BorrowedBytes

  package init(scope: IdempotencyScope, reference: BorrowedBytes = .empty, reason: BorrowedBytes) {
    self.scope = scope
    self.reference = reference
    self.reason = reason
  }
}
