// The publishing half of a connection to a broker in memory.
package import Messaging

/// Messages that were published and are not confirmed: looked at in their order, confirmed at once, or later and in any.
package struct Published {
  private var newest: UInt64 = 0
  private var unseen: [(number: UInt64, message: BrokerMessage)] = []
  private var unconfirmed: [(number: UInt64, message: BrokerMessage)] = []

  package init() {}

  /// How many were not looked at.
  package var unseenCount: Int { unseen.count }

  /// - Returns: its number, the first 1.
  package mutating func append(_ message: BrokerMessage) -> UInt64 {
    newest += 1
    unseen.append((newest, message))
    return newest
  }

  /// Shows the oldest ones to `take`, which says whether it is taken: those that are, are confirmed some time.
  package mutating func look(
    atMost count: Int, _ take: (UInt64, BrokerMessage) throws(BrokerError) -> Bool
  ) throws(BrokerError) {
    for entry in unseen.prefix(count) where try take(entry.number, entry.message) {
      unconfirmed.append(entry)
    }
    unseen.removeFirst(min(count, unseen.count))
  }

  /// - Parameter late: how many of a hundred are left for another time.
  /// - Returns: whether there were any.
  @discardableResult
  package mutating func confirm(
    late: Int, _ random: inout Seeded, _ tell: (UInt64, BrokerMessage) -> Void
  ) -> Bool {
    if unconfirmed.isEmpty { return false }
    if late > 0 { unconfirmed.shuffle(using: &random) }
    unconfirmed.removeAll { entry in
      if random.chance(late) { return false }
      tell(entry.number, entry.message)
      return true
    }
    return true
  }
}
