import Testing

@testable import LoadHistory

/// A feed of changed carts, of what is kept as committed, shipped, counted, chosen among alternatives and limited.
@Suite struct ShelfFeedTests {
  private static let stock: [Int64] = [20, 10]
  private static func lines(_ first: Int64, _ second: Int64 = 0) -> [FeedLine] {
    [FeedLine(sku: 0, units: first), FeedLine(sku: 1, units: second)].filter { $0.units > 0 }
  }
  private static func cart(_ first: UInt32, _ second: UInt32 = 0) -> [CartLine] {
    [CartLine(sku: 0, quantity: first), CartLine(sku: 1, quantity: second)].filter {
      $0.quantity > 0
    }
  }

  /// 0 is changed from 3 + 0 to 1 + 2, and confirmed; 1 ships one of it, 2 has one unsold; 3 and 4 are counts, of which
  /// one is refused; 5 holds its alternative; 6 holds some of what it asked for; 7 could not be changed; 8 is too much
  /// for one; 9 was cut off and holds its alternative.
  private func story() -> Story {
    var story = Story(stock: Self.stock, keepsCommitted: true)
    let cart = story.sale(3, at: 10)
    story.replace(cart, Self.cart(1, 2), sent: 12, at: 13)
    story.call(cart, .confirm, sent: 14, at: 15)
    story.ship(1, sent: 16, at: 17)
    let kept = story.ledger.openShip(sku: 1, units: 1, isUnsold: true)
    story.call(kept, .adjustStock, sent: 18, at: 19)
    story.count(read: 19, missing: 2, sent: 20, at: 21)
    story.count(read: 17, missing: 17, sent: 22, at: 23, Story.short(0))
    story.choice([Self.cart(30), Self.cart(0, 3)], held: 1, at: 24)
    story.choice(
      [[CartLine(sku: 0, quantity: 40, minimum: 10)]],
      granted: [CartLine(sku: 0, quantity: 17)], at: 26)
    let full = story.sale(1, sku: 1, at: 28)
    story.replace(full, Self.cart(0, 9), sent: 30, at: 31, Story.short(1))
    story.overLimit(5, sku: 1, used: 0, at: 32, subject: 3)
    _ = story.choose([Self.cart(30), Self.cart(0, 1)], at: 34)
    return story
  }

  private func teller() -> Teller {
    var teller = Teller(stock: Self.stock)
    let due = Story.offset + 60_000
    teller.held(0, id: 1, Self.lines(3), expires: due + 10)
    teller.replaced(
      0, id: 1, Self.lines(1, 2), [FeedLine(sku: 0, units: -2), FeedLine(sku: 1, units: 2)],
      expires: due + 10)
    teller.ended(.confirmed, id: 1, Self.lines(1, 2), keeps: true)
    teller.adjusted(1) {
      $0.onHand -= 1
      $0.committed -= 1
    }
    teller.tell(.adjusted, key: .operation(worker: 0, operation: 2)) { $0[1].committed -= 1 }
    teller.adjusted(3) { $0.onHand -= 2 }
    teller.refused(4, [], .insufficientStock)
    teller.held(5, id: 2, Self.lines(0, 3), expires: due + 24)
    teller.held(6, id: 3, Self.lines(17), expires: due + 26)
    teller.held(7, id: 4, Self.lines(0, 1), expires: due + 28)
    teller.refused(7, Self.lines(0, 9), .insufficientStock)
    teller.refused(8, Self.lines(0, 5), .limitExceeded)
    teller.held(9, id: 9, Self.lines(0, 1), expires: due + 34)
    teller.mark()
    return teller
  }

  private func violations(_ events: [FeedEvent]) -> [Violation] {
    let check = FeedCheck(
      run: RunID(1), stock: Self.stock, keepsCommitted: true, workers: 1, beganNanoseconds: 0)
    for event in events { check.take(event, at: 1_100_000_000) }
    check.compare(story().history([]), endNanoseconds: 1_000_000_000)
    return check.violations
  }

  @Test func aRightFeedIsFoundRight() {
    #expect(violations(teller().events).map(\.description) == [])
  }

  private struct Fault: Sendable {
    let name: String
    let kind: Violation.Kind
    /// Of the events behind those that put the stock there.
    let change: @Sendable (inout [FeedEvent]) -> Void

    init(
      _ name: String, _ kind: Violation.Kind,
      _ change: @escaping @Sendable (inout [FeedEvent]) -> Void
    ) {
      self.name = name
      self.kind = kind
      self.change = change
    }
  }

  /// The events by what they are.
  private static let (held, replaced, confirmed, shipped, unsold, counted, notCounted) =
    (2, 3, 4, 5, 6, 7, 8)
  private static let (chosen, granted, kept, notReplaced, limited, cutOff) = (9, 10, 11, 12, 13, 14)

  private static let faults: [Fault] = [
    Fault("REPLACED is missing", .feedMissing) { $0.remove(at: replaced) },
    Fault("REPLACED comes twice", .feedRepeated) { events in
      var again = events[replaced]
      again.lsn += 8
      again.stock = []
      events.insert(again, at: replaced + 1)
    },
    Fault("REPLACED has other lines", .feedWrongEvent) {
      $0[replaced].lines[1].units = 3
      $0[replaced].stock[1].held += 1
      $0[replaced].stock[1].available -= 1
    },
    Fault("REPLACED frees more than it drops", .feedBalance) {
      $0[replaced].stock[0].held -= 1
      $0[replaced].stock[0].available += 1
    },
    Fault("REPLACED takes nothing of what it adds", .feedBalance) {
      $0[replaced].stock.removeLast()
    },
    Fault("REPLACED ends the hold at another time", .feedWrongEvent) {
      $0[replaced].expiresNanoseconds += 1
    },
    Fault("REPLACED has another's key", .feedWrongEvent) {
      $0[replaced].key = .operation(worker: 0, operation: 5)
    },
    Fault("REPLACED of no hold", .feedUnknown) { $0[replaced].id = ReservationID(number: 99) },
    Fault("CONFIRMED has the lines before it", .feedWrongEvent) {
      $0[confirmed].lines = lines(3)
    },
    Fault("a refused Replace is missing", .feedMissing) { $0.remove(at: notReplaced) },
    Fault("a refused Replace is done", .feedUnknown) { $0[notReplaced].kind = .replaced },
    Fault("what is kept leaves", .feedBalance) {
      for index in [0, 1] {
        $0[confirmed].stock[index].onHand -= $0[confirmed].stock[index].committed
        $0[confirmed].stock[index].committed = 0
      }
    },
    Fault("what is kept is on offer", .feedBalance) { $0[confirmed].stock[0].available += 1 },
    Fault("what is shipped stays on hand", .feedWrongEvent) {
      $0[shipped].stock[0].onHand += 1
      $0[shipped].stock[0].available += 1
    },
    Fault("what is shipped stays committed", .feedWrongEvent) {
      $0[shipped].stock[0].committed += 1
      $0[shipped].stock[0].available -= 1
    },
    Fault("what is unsold leaves", .feedWrongEvent) {
      $0[unsold].stock[0].onHand -= 1
      $0[unsold].stock[0].available -= 1
    },
    Fault("a shipment is missing", .feedMissing) { $0.remove(at: shipped) },
    Fault("a count finds others", .feedWrongEvent) {
      $0[counted].stock[0].onHand -= 1
      $0[counted].stock[0].available -= 1
    },
    Fault("a count is missing", .feedMissing) { $0.remove(at: counted) },
    Fault("a refused count is missing", .feedMissing) { $0.remove(at: notCounted) },
    Fault("a refused count is told twice", .feedRepeated) { events in
      var again = events[notCounted]
      again.lsn += 8
      events.insert(again, at: notCounted + 1)
    },
    Fault("another alternative", .feedWrongEvent) {
      $0[chosen].lines = lines(30)
      $0[chosen].stock[0].sku = 0
    },
    Fault("fewer were granted than was answered", .feedWrongEvent) {
      $0[granted].lines[0].units = 16
      $0[granted].stock[0].held -= 1
      $0[granted].stock[0].available += 1
    },
    Fault("more is held than there is", .feedBalance) {
      $0[granted].lines[0].units = 18
      $0[granted].stock[0].held += 1
      $0[granted].stock[0].available -= 1
    },
    Fault("a refusal by a limit is missing", .feedMissing) { $0.remove(at: limited) },
    Fault("what was cut off holds what it did not ask for", .feedWrongEvent) {
      $0[cutOff].lines[0].units = 2
      $0[cutOff].stock[0].held += 1
      $0[cutOff].stock[0].available -= 1
    },
  ]

  @Test(arguments: faults.indices) func everyFaultIsFound(index: Int) {
    let fault = Self.faults[index]
    var events = teller().events
    fault.change(&events)
    let found = violations(events)
    #expect(
      found.contains { $0.kind == fault.kind }, "\(fault.name): \(found.map(\.description))")
  }

  /// So many may be held beyond what is on hand, and no more.
  @Test func preordersAreFollowed() {
    for (units, isRight) in [(25, true), (26, false)] as [(Int64, Bool)] {
      var teller = Teller(stock: [20], safetyStock: -5)
      teller.held(0, id: 1, [FeedLine(sku: 0, units: units)], expires: Story.offset + 60_001)
      let check = FeedCheck(
        run: RunID(1), stock: [20], safetyStock: -5, workers: 1, beganNanoseconds: 0)
      for event in teller.events { check.take(event, at: 0) }
      #expect(check.violations.isEmpty == isRight, "\(check.violations)")
    }
  }
}
