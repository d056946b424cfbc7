// The named workloads. Each is a whole shop situation in numbers; every number can be overridden.

internal import LoadReport

/// A named workload.
package struct Scenario: Sendable {
  package let name: String
  /// What it stands for, with its numbers, in one sentence or two.
  package let sentence: String
  /// How many calls it takes where neither a number nor a time is asked for; nil: it goes by time.
  package let operations: Int?
  private let change: @Sendable (inout Workload, _ operations: Int) -> Void

  /// The workload, before anything is overridden.
  ///
  /// - Parameter operations: how many calls the run makes, where that is known; some stock goes by it.
  package func workload(operations: Int?) -> Workload {
    var workload = Workload()
    workload.scenario = name
    change(&workload, operations ?? self.operations ?? 0)
    return workload
  }

  /// Throws a line that names those there are.
  package static func named(_ name: String) throws(LoadError) -> Scenario {
    if let scenario = all.first(where: { $0.name == name }) { return scenario }
    let names = all.map(\.name).joined(separator: ", ")
    throw LoadError("there is no scenario '\(Text.printable(name))'; there are \(names)")
  }

  package static let all = [
    flashSale, tickets, carts, checkout, retryStorm, expiryStorm, mixed, cartChanges, preorder,
    warehouses, perCustomer, count, batch, stream,
  ]

  private static let flashSale = Scenario(
    name: "flash-sale",
    sentence: """
      One SKU, 100 units for every 10,000 buyers, everybody at once: 90 % of the winners pay, 10 % \
      give back.
      """,
    operations: 10_000
  ) { workload, operations in
    workload.distribution = .single
    workload.units = Int64(max(1, operations / 100))
    workload.confirmShare = 0.9
    workload.releaseShare = 0.1
    workload.duplicateShare = 0.02
  }

  private static let tickets = Scenario(
    name: "tickets",
    sentence: """
      1,000 pools of 50 seats, 1 to 4 at a time, until all are gone: half is paid for, half given \
      back.
      """,
    operations: 200_000
  ) { workload, _ in
    workload.skuCount = 1_000
    workload.units = 50
    workload.quantity = 1...4
    workload.confirmShare = 0.5
    workload.releaseShare = 0.5
  }

  private static let carts = Scenario(
    name: "carts",
    sentence: """
      Carts of 1 to 10 lines, 1 to 3 units each, from 10,000 SKUs that sell by zipf 0.99: 60 % \
      confirmed, 30 % released, the rest abandoned.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 10_000
    workload.units = 1_000_000
    workload.distribution = .zipf(exponent: 0.99)
    workload.lines = 1...10
    workload.quantity = 1...3
  }

  private static let checkout = Scenario(
    name: "checkout",
    sentence: """
      Reserve, then a payment of 20 to 200 ms: 70 % succeed and confirm, 15 % fail and release, \
      15 % time out, so that their hold of 1 to 2 s expires.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 100
    workload.timeToLiveNanoseconds = 1_000_000_000...2_000_000_000
    workload.confirmShare = 0.7
    workload.releaseShare = 0.15
    workload.payTimeNanoseconds = 20_000_000...200_000_000
  }

  private static let retryStorm = Scenario(
    name: "retry-storm",
    sentence: """
      Every call is sent 2 to 5 times over several connections; 5 % of the sends are cut off, one in \
      2,000 takes its connection with it, and what stayed unknown is sent again.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 100
    workload.units = 100_000
    workload.duplicateShare = 1
    workload.copies = 2...5
    workload.cutShare = 0.05
    workload.closeShare = 0.000_5
    workload.retriesUnknown = true
  }

  private static let expiryStorm = Scenario(
    name: "expiry-storm",
    sentence: """
      A million holds of one unit on 1,000 SKUs, all due in the same second, 30 s after the start, \
      and a steady load beside them while they expire.
      """,
    operations: 1_000_000
  ) { workload, _ in
    workload.skuCount = 1_000
    workload.dueTogetherNanoseconds = 30_000_000_000
    workload.confirmShare = 0
    workload.releaseShare = 0
    workload.duplicateShare = 0
  }

  private static let mixed = Scenario(
    name: "mixed",
    sentence: """
      A shop's day: carts of 1 to 5 lines from 10,000 SKUs, half of them from 20 hot ones that sell \
      out and are restocked; 30 % reads, 2 % restocks, 10 % of the holds extended, 2 % sent twice.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 10_000
    workload.units = 10_000
    workload.distribution = .hot(count: 20, share: 0.5)
    workload.lines = 1...5
    workload.quantity = 1...3
    workload.extendShare = 0.1
    workload.duplicateShare = 0.02
    workload.readShare = 0.3
    workload.restockShare = 0.02
    workload.restockUnits = 10...100
  }

  private static let cartChanges = Scenario(
    name: "cart-changes",
    sentence: """
      Carts of 1 to 3 lines from 200 SKUs that are short, 20 of them hot; 70 % are changed once before they end: \
      a line up or down by one, to another SKU, or away; 10 % extended first; 50 % confirmed, 30 % released, 2 % \
      sent twice.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 200
    workload.units = 2_000
    workload.distribution = .hot(count: 20, share: 0.5)
    workload.lines = 1...3
    workload.quantity = 1...3
    workload.extendShare = 0.1
    workload.replaceShare = 0.7
    workload.confirmShare = 0.5
    workload.releaseShare = 0.3
    workload.duplicateShare = 0.02
  }

  private static let preorder = Scenario(
    name: "preorder",
    sentence: """
      20 products that are not there yet: 100 on hand of each, 400 more may be held; 80 % of the buyers confirm, \
      and what is sold is kept as committed; deliveries of 10 to 50 units all the while.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 20
    workload.units = 100
    workload.overcommit = 400
    workload.keepsCommitted = true
    workload.shipShare = 0
    workload.confirmShare = 0.8
    workload.releaseShare = 0.15
    workload.quantity = 1...3
    workload.restockShare = 0.02
    workload.restockUnits = 10...50
  }

  private static let warehouses = Scenario(
    name: "warehouses",
    sentence: """
      60 products in three warehouses, 200 units in each: carts of 1 to 3 lines from the nearest, else whole from the \
      next; 30 % take half of each line if there is no more; 40 % confirmed, 40 % released, 2 % restocks, 5 % sent twice.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 180
    workload.units = 200
    workload.warehouses = 3
    workload.partialShare = 0.3
    workload.lines = 1...3
    workload.quantity = 1...4
    workload.confirmShare = 0.4
    workload.releaseShare = 0.4
    workload.restockShare = 0.02
    workload.duplicateShare = 0.05
  }

  private static let perCustomer = Scenario(
    name: "per-customer",
    sentence: """
      Two per person: 2,000 customers and 20 products of 3,000 units, carts of one or two products, one or two \
      units of each; half is paid for, 30 % given back, the rest expires within 1 to 2 s; 5 % sent twice.
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 20
    workload.units = 3_000
    workload.lines = 1...2
    workload.quantity = 1...2
    workload.maxUnits = 2
    workload.subjectCount = 2_000
    workload.timeToLiveNanoseconds = 1_000_000_000...2_000_000_000
    workload.confirmShare = 0.5
    workload.releaseShare = 0.3
    workload.duplicateShare = 0.05
  }

  private static let count = Scenario(
    name: "count",
    sentence: """
      A shop that is counted while it sells: 500 SKUs, 5 % of the operations count one, by expected_on_hand, and find \
      0 to 2 units missing; what is confirmed is kept, shipped within 200 ms (90 %) or unsold (5 %).
      """,
    operations: nil
  ) { workload, _ in
    workload.skuCount = 500
    workload.units = 2_000
    workload.keepsCommitted = true
    workload.shipShare = 0.9
    workload.uncommitShare = 0.05
    workload.shipTimeNanoseconds = 0...200_000_000
    workload.quantity = 1...3
    workload.countShare = 0.05
    workload.countMissing = 0...2
    workload.readShare = 0.1
  }

  private static let batch = Scenario(
    name: "batch",
    sentence: """
      A backend that reserves for many at once: BatchReserve, 1,000 requests a message, one unit each of 200,000 \
      SKUs; the holds of 5 to 10 s expire, but for one in 100 that is confirmed.
      """,
    operations: nil
  ) { workload, _ in
    workload.api = .batch
    manyAtOnce(&workload)
  }

  private static let stream = Scenario(
    name: "stream",
    sentence: """
      The same over one ReserveStream for each connection, messages in flight as many as --streams.
      """,
    operations: nil
  ) { workload, _ in
    workload.api = .stream
    manyAtOnce(&workload)
  }

  private static func manyAtOnce(_ workload: inout Workload) {
    workload.batch = 1_000
    workload.skuCount = 200_000
    workload.timeToLiveNanoseconds = 5_000_000_000...10_000_000_000
    workload.confirmShare = 0.01
    workload.releaseShare = 0
    workload.duplicateShare = 0.001
  }
}
