package import LoadHistory

/// What an operation begins with.
package enum Opening: BitwiseCopyable, Sendable {
  case reserve, read, restock, count

  package var method: Method {
    switch self {
    case .reserve: .reserve
    case .read, .count: .getStock
    case .restock: .adjustStock
    }
  }
}

/// How a reservation is ended by its buyer.
package enum Ending: UInt8, BitwiseCopyable, Sendable {
  case none, confirm, release
}

/// One worker's draws from a workload, all from one seeded generator. What is certain (a share of 0,
/// a range of one number) draws nothing.
package struct Draws: Sendable {
  private let workload: Workload
  private let weights: AliasTable?
  /// Of so many agents this one's SKUs alone are drawn; nil: all.
  private let owner: (index: Int, count: Int)?
  package var random: Random

  /// - Parameters:
  ///   - workload: a valid one.
  ///   - weights: `AliasTable(workload)`.
  ///   - owner: every `count`th SKU is drawn, from `index` on; nil: all.
  package init(
    _ workload: Workload, weights: AliasTable?, owner: (index: Int, count: Int)? = nil, seed: UInt64
  ) {
    self.workload = workload
    self.owner = owner
    self.weights = weights
    random = Random(seed: seed)
  }

  package mutating func opening() -> Opening {
    let others = workload.readShare + workload.restockShare + workload.countShare
    guard random.chance(others) else { return .reserve }
    if random.chance(workload.readShare / others) { return .read }
    let rest = others - workload.readShare
    return rest > 0 && random.chance(workload.countShare / rest) ? .count : .restock
  }

  package mutating func lineCount() -> Int { random.within(workload.lines) }

  package mutating func line() -> CartLine {
    CartLine(sku: sku(), quantity: UInt32(random.within(workload.quantity)))
  }

  /// Whether less of each line will do.
  package mutating func isPartial() -> Bool { random.chance(workload.partialShare) }

  /// Also the SKU of a read or of a restock.
  package mutating func sku() -> UInt32 {
    let drawn = anySKU()
    guard let owner else { return drawn }
    // Of each row of as many SKUs as there are agents one is this agent's: how often the row is asked
    // for stays as it was. Of a last row that is too short it takes the first.
    let count = UInt32(owner.count)
    let own = drawn - drawn % count + UInt32(owner.index)
    return own < workload.skuCount ? own : UInt32(owner.index)
  }

  private mutating func anySKU() -> UInt32 {
    if random.chance(workload.hotShare) { return 0 }
    if workload.catalogue?.weights != nil, let weights { return UInt32(weights.draw(&random)) }
    switch workload.distribution {
    case .single: return 0
    case .uniform: return below(workload.skuCount)
    case .zipf: return weights.map { UInt32($0.draw(&random)) } ?? 0
    case .hot(let count, let share):
      guard count < workload.skuCount, !random.chance(share) else { return below(count) }
      return UInt32(count) + below(workload.skuCount - count)
    }
  }

  /// The limit that a reserve is made with; nil where there is none.
  package mutating func limit() -> SubjectLimit? {
    if workload.maxUnits == 0 { return nil }
    return SubjectLimit(
      subject: below(workload.subjectCount),
      maxUnits: UInt32(truncatingIfNeeded: workload.maxUnits))
  }

  package mutating func timeToLiveNanoseconds() -> Int64 {
    random.within(workload.timeToLiveNanoseconds)
  }

  package mutating func ending() -> Ending {
    if random.chance(workload.confirmShare) { return .confirm }
    let rest = 1 - workload.confirmShare
    return rest > 0 && random.chance(workload.releaseShare / rest) ? .release : .none
  }

  package mutating func isExtended() -> Bool { random.chance(workload.extendShare) }

  package mutating func missingUnits() -> UInt32 { UInt32(random.within(workload.countMissing)) }

  /// What becomes of units that were confirmed and kept: true: they are unsold; nil: nothing.
  package mutating func shipping() -> Bool? {
    if random.chance(workload.shipShare) { return false }
    let rest = 1 - workload.shipShare
    return rest > 0 && random.chance(workload.uncommitShare / rest) ? true : nil
  }

  package mutating func shipTimeNanoseconds() -> Int64 {
    random.within(workload.shipTimeNanoseconds)
  }

  package mutating func isReplaced() -> Bool { random.chance(workload.replaceShare) }

  /// A line after a change of the cart: half go up or down, a quarter to another SKU, a quarter away (nil).
  package mutating func changed(_ line: CartLine) -> CartLine? {
    switch random.below(4) {
    case 0: CartLine(sku: line.sku, quantity: line.quantity + 1)
    case 1: line.quantity > 1 ? CartLine(sku: line.sku, quantity: line.quantity - 1) : line
    case 2: CartLine(sku: sku(), quantity: line.quantity)
    default: nil
    }
  }

  package mutating func changeTimeNanoseconds() -> Int64 {
    random.within(workload.changeTimeNanoseconds)
  }

  package mutating func payTimeNanoseconds() -> Int64 { random.within(workload.payTimeNanoseconds) }

  package mutating func thinkTimeNanoseconds() -> Int64 {
    random.within(workload.thinkTimeNanoseconds)
  }

  package mutating func restockUnits() -> UInt32 { UInt32(random.within(workload.restockUnits)) }

  /// How often a call is sent in all: once, or more where it is duplicated.
  package mutating func copies() -> Int {
    random.chance(workload.duplicateShare) ? random.within(workload.copies) : 1
  }

  /// Whether the stream is reset right after this send.
  package mutating func isCut() -> Bool { random.chance(workload.cutShare) }

  /// Whether the connection is closed right after this send.
  package mutating func closesConnection() -> Bool { random.chance(workload.closeShare) }

  private mutating func below(_ count: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: random.below(UInt64(count)))
  }
}
