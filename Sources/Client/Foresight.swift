// What a change would come to, by balances that were read: for --dry-run. The server alone decides.

/// Why the server would refuse, in its words and by its reason.
package struct ForeseenRefusal: Error, Equatable, Sendable {
  package let reason: String
  package let text: String
}

extension Adjustment {
  /// The balances right after, or the refusal (docs/ARCHITECTURE.md, "Where more is promised than there is").
  /// - Parameter level: nil: the item is not there.
  package func foreseen(on level: StockLevel?) -> Result<StockLevel, ForeseenRefusal> {
    if let refusal = checkRefusal(level) { return .failure(refusal) }
    var after = level ?? StockLevel()
    after.item = item
    if level == nil {
      switch change {
      case .ship, .uncommit:
        return .failure(ForeseenRefusal(reason: "ITEM_NOT_FOUND", text: "unknown item"))
      case .add(let units) where units < 0:
        return .failure(ForeseenRefusal(reason: "ITEM_NOT_FOUND", text: "unknown item"))
      case .add, .set, nil: break
      }
    }
    switch change {
    case .add(let units): after.onHand += units
    case .set(let units): after.onHand = units
    case .ship(let units):
      after.onHand -= units
      after.committed -= units
    case .uncommit(let units): after.committed -= units
    case nil: break
    }
    if let safetyStock { after.safetyStock = safetyStock }
    if let sale { after.sale = sale }
    after.available = after.onHand - after.held - after.committed - after.safetyStock
    after.version &+= 1
    if let refusal = refusal(after, before: level?.onHand ?? 0) { return .failure(refusal) }
    return .success(after)
  }

  private func checkRefusal(_ level: StockLevel?) -> ForeseenRefusal? {
    switch check {
    case .any: return nil
    case .version(let version):
      let current = level?.version ?? 0
      return version == current
        ? nil : ForeseenRefusal(reason: "VERSION_MISMATCH", text: "it is at version \(current)")
    case .onHand(let units):
      let current = level?.onHand ?? 0
      return units == current
        ? nil : ForeseenRefusal(reason: "ON_HAND_MISMATCH", text: "\(current) are on hand")
    }
  }

  private func refusal(_ after: StockLevel, before: Int64) -> ForeseenRefusal? {
    if after.committed < 0 {
      return ForeseenRefusal(
        reason: "INSUFFICIENT_COMMITTED", text: "fewer are committed")
    }
    if after.onHand > Units.max {
      return ForeseenRefusal(reason: "ON_HAND_LIMIT", text: "at most \(Units.max) are on hand")
    }
    let promised = after.held + after.committed
    let isShipping = if case .ship = change { true } else { false }
    let least = allowsShortage || isShipping ? 0 : promised
    if after.onHand < before, after.onHand < least {
      return ForeseenRefusal(
        reason: "INSUFFICIENT_STOCK",
        text: after.onHand < 0
          ? "fewer are on hand" : "\(promised) are held or committed")
    }
    return nil
  }
}
