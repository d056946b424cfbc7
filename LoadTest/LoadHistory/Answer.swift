// What one request was answered, as the ledger knows it.

/// What one attempt was answered.
package enum Answer: Equatable, Sendable {
  /// Nothing, or nothing that says what the server decided.
  case none
  /// OK. Of a Reserve with its id; of a Reserve or Extend with expires_at, by the server's clock in
  /// nanoseconds since the Unix epoch, otherwise 0.
  case accepted(
    id: ReservationID?, expiresNanoseconds: Int64, isReplayed: Bool, grant: Grant = Grant())
  case refused(Refusal)
  /// The server says that it did nothing, and that trying again may work.
  case withoutEffect
  case read(StockLevel)
}

extension Answer {
  package init(_ reply: Reply) {
    switch reply {
    case .accepted(let id, let expires, let isReplayed, let grant):
      self = .accepted(
        id: id, expiresNanoseconds: expires, isReplayed: isReplayed, grant: grant)
    case .refused(let refusal): self = .refused(refusal)
    case .read(let level): self = .read(level)
    case .noEffect: self = .withoutEffect
    case .unknown: self = .none
    }
  }

  /// Whether both say the same about one decision, whichever of them was the first. Refusals of Confirm
  /// and Release say what the reservation is; their values are no decision.
  package func repeats(_ other: Answer, _ method: Method) -> Bool {
    switch (self, other) {
    case (
      .accepted(let id, let expires, _, let grant),
      .accepted(let otherID, let otherExpires, _, let otherGrant)
    ):
      return expires == otherExpires
        && (method != .reserve || id == otherID && grant == otherGrant)
    case (.refused(let refusal), .refused(let other)):
      if refusal.code != other.code || refusal.reason != other.reason { return false }
      return !method.keeps(refusal.reason)
        || refusal.sku == other.sku && refusal.available == other.available
          && refusal.used == other.used && refusal.fingerprint == other.fingerprint
    default: return self == other
    }
  }
}
