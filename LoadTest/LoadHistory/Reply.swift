// What one answer means for the ledger.

/// What the ledger takes down of one answer.
package enum Reply: Equatable, Sendable {
  /// OK. `id` is of a Reserve alone; `expiresNanoseconds` (by the server's clock) of a Reserve or
  /// Extend; otherwise they are 0.
  case accepted(id: ReservationID, expiresNanoseconds: Int64, isReplayed: Bool)
  /// The balances of the SKU that was asked for.
  case read(StockLevel)
  /// A decision against the call.
  case refused(Refusal)
  /// The server says that it did nothing, and that trying again may work.
  case noEffect
  /// Nobody knows what the server decided.
  case unknown

  /// Whether the server says that it had decided before.
  package var isReplayed: Bool {
    switch self {
    case .accepted(_, _, let isReplayed): isReplayed
    case .refused(let refusal): refusal.isReplayed
    case .read, .noEffect, .unknown: false
    }
  }

  /// - Parameter message: what an OK came with.
  package init(message: Span<UInt8>, of method: Method) {
    self = .unknown
    let noID = ReservationID(number: 0)
    switch method {
    case .reserve:
      guard let answer = ReserveAnswer(message) else { return }
      self = .accepted(
        id: answer.id, expiresNanoseconds: answer.expiresNanoseconds,
        isReplayed: answer.isReplayed)
    case .extend:
      guard let answer = ExtendAnswer(message) else { return }
      self = .accepted(
        id: noID, expiresNanoseconds: answer.expiresNanoseconds, isReplayed: answer.isReplayed)
    case .getStock:
      guard let level = readStockLevel(message) else { return }
      self = .read(level)
    case .confirm, .release, .adjustStock, .batchGetStock:
      guard let isReplayed = readIsReplayed(message) else { return }
      self = .accepted(id: noID, expiresNanoseconds: 0, isReplayed: isReplayed)
    }
  }

  /// - Parameter refusal: what a status other than OK came with.
  package init(refusal: Refusal) {
    switch (refusal.code, refusal.reason) {
    case (3, _), (5, _), (9, _): self = .refused(refusal)
    // These are not decisions and are not recorded. RESOURCE_EXHAUSTED comes
    // before anything was changed; with no reason it may be another machine's.
    // CONFLICT_TOO_BUSY was ABORTED before it was UNAVAILABLE.
    case (10, .conflictTooBusy), (14, .conflictTooBusy), (14, .overloaded), (14, .shuttingDown),
      (14, .storageFull):
      self = .noEffect
    case (8, let reason) where reason != .unnamed: self = .noEffect
    case (7, _), (12, _), (16, _): self = .noEffect
    default: self = .unknown
    }
  }
}
