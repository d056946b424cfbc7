import Log
import Simulation
import StockStore
import Testing

@testable import ChangeFeed

/// Each kind of record as the event that it becomes.
@Suite struct EventEncodingTests {
  private let it: WatchedStore

  init() throws { it = try WatchedStore() }

  @Test func adjusted() throws {
    it.adjust("a", .setOnHand(10), safetyStock: 3, key: "k1")
    it.adjust("a", .delta(-2), key: "k2")
    #expect(
      try it.events() == [
        #"2=7 8{1"a" 3=10 5=3 6=7 7=1} 11"because" 9"till" 10"k1""#,
        #"2=7 8{1"a" 3=8 5=3 6=5 7=2} 11"because" 9"till" 10"k2""#,
      ])
  }

  @Test func heldExtendedAndReleased() throws {
    it.adjust("a", .setOnHand(10), safetyStock: 1, key: "k1")
    it.adjust("b", .setOnHand(20), key: "k2")
    let start = it.log.drained()
    let id = it.reserve([("a", 2), ("b", 5)], key: "k3")
    it.turn { _ = it.session.extend(WatchedStore.id(id), ttlNanoseconds: 900 * second) }
    it.turn { _ = it.session.release(WatchedStore.id(id)) }
    let events = try it.events(behind: start)
    // The lines stand in the order of their items' hashes, the same each time.
    let isFirst = events[0].contains(#"6{1"a" 3=2} 6{1"b""#)
    func both(_ a: String, _ b: String) -> String { isFirst ? "\(a) \(b)" : "\(b) \(a)" }
    let lines = both(#"6{1"a" 3=2}"#, #"6{1"b" 3=5}"#)
    #expect(
      events == [
        #"2=1 4"\#(id)" \#(lines) 7{1=1600} "#
          + both(#"8{1"a" 3=10 4=2 5=1 6=7 7=2}"#, #"8{1"b" 3=20 4=5 6=15 7=2}"#)
          + #" 9"till" 10"k3""#,
        #"2=3 4"\#(id)" 7{1=1900}"#,
        #"2=5 4"\#(id)" \#(lines) "#
          + both(#"8{1"a" 3=10 5=1 6=9 7=3}"#, #"8{1"b" 3=20 6=20 7=3}"#),
      ])
  }

  @Test func confirmedInParts() throws {
    it.adjust("a", .setOnHand(10), key: "k1")
    let start = it.log.drained()
    let id = it.reserve([("a", 3)], key: "k2")
    it.turn {
      withTexts(["a"]) { texts in
        it.session.clearLines()
        let item = ItemName(sku: texts[0], location: .empty)
        _ = it.session.appendLine(LineRequest(item: item, quantity: 1))
        _ = it.session.confirm(WatchedStore.id(id), reacquireIfExpired: false)
      }
    }
    #expect(
      try it.events(behind: start).last
        == #"2=4 4"\#(id)" 6{1"a" 3=1} 8{1"a" 3=9 6=9 7=3}"#)
  }

  @Test func expired() throws {
    it.adjust("a", .setOnHand(10), key: "k1")
    let id = it.reserve([("a", 3)], ttl: 5, key: "k2")
    it.clock.advance(byNanoseconds: 20 * second)
    it.turn {}
    #expect(
      try it.events().last
        == #"2=6 4"\#(id)" 6{1"a" 3=3} 7{1=1005} 8{1"a" 3=10 6=10 7=3}"#)
  }

  @Test func refused() throws {
    it.adjust("a", .setOnHand(1), key: "k1")
    let start = it.log.drained()
    it.reserve([("a", 2)], key: "k2")
    it.reserve([("nothing", 2)], key: "k3")
    it.adjust("a", .setOnHand(1 << 40), key: "k4")
    it.adjust("a", .delta(1), key: "k5")
    it.adjust("b", .delta(-1), key: "k6")
    #expect(
      try it.events(behind: start) == [
        #"2=8 6{1"a" 3=2} 11"INSUFFICIENT_STOCK" 9"till" 10"k2""#,
        #"2=8 11"ITEM_NOT_FOUND" 9"till" 10"k3""#,
        #"2=7 8{1"a" 3=1099511627776 6=1099511627776 7=2} 11"because" 9"till" 10"k4""#,
        #"2=8 11"ON_HAND_LIMIT" 9"till" 10"k5""#,
        #"2=8 11"ITEM_NOT_FOUND" 9"till" 10"k6""#,
      ])
  }

  @Test func whoCalledIsLeftOut() throws {
    it.adjust("a", .setOnHand(10), key: "k1")
    #expect(try it.events(isOpen: true) == [#"2=7 8{1"a" 3=10 6=10 7=1} 11"because""#])
  }

  @Test("Each event has the safety stock of its moment, however late it is read")
  func safetyStock() throws {
    it.adjust("a", .setOnHand(100), safetyStock: 1, key: "k1")
    it.reserve([("a", 1)], key: "k2")
    it.adjust("a", .none, safetyStock: 20, key: "k3")
    it.reserve([("a", 1)], key: "k4")
    it.adjust("a", .none, safetyStock: 0, key: "k5")
    it.reserve([("a", 1)], key: "k6")
    let kinds = EventFilter(kinds: [.held])
    let levels = try it.events(kinds).compactMap { $0.split(separator: "8{").last }
    #expect(
      levels.map { $0.prefix { $0 != "}" } } == [
        #"1"a" 3=100 4=1 5=1 6=98 7=2"#, #"1"a" 3=100 4=2 5=20 6=78 7=4"#,
        #"1"a" 3=100 4=3 6=97 7=6"#,
      ])
  }

  @Test(arguments: [
    ([], [], ["k1", "k2", "k3", "k4"]),
    ([EventKind.held], [], ["k3", "k4"]),
    ([.refused, .adjusted], [], ["k1", "k2", "k5"]),
    ([], ["a"], ["k1", "k3"]), ([], ["b"], ["k2", "k3", "k4"]), ([], ["unknown"], []),
    ([.refused], ["b"], ["k5"]), ([.refused], ["a"], []), ([.expired], ["a", "b"], []),
  ])
  func filters(_ kinds: [EventKind], _ items: [String], _ keys: [String]) throws {
    it.adjust("a", .setOnHand(10), key: "k1")
    it.adjust("b", .setOnHand(10), key: "k2")
    it.reserve([("a", 1), ("b", 1)], key: "k3")
    it.reserve([("b", 1)], key: "k4")
    it.reserve([("b", 99)], key: "k5")
    var hashes: Set<UInt64> = []
    withTexts(items) { texts in
      for sku in texts {
        hashes.insert(it.session.itemHash(ItemName(sku: sku, location: .empty)))
      }
    }
    let events = try it.events(EventFilter(kinds: kinds, items: hashes))
    #expect(events.compactMap { $0.split(separator: "\"").last.map(String.init) } == keys)
  }

  @Test("A block may be entered behind any event")
  func places() throws {
    for number in 0..<50 { it.adjust("a", .delta(1), key: "k\(number)") }
    let block = try #require(try it.block())
    #expect(block.firstIndex(behind: 0) == 0 && block.firstIndex(behind: block.end.lsn) == 50)
    for index in 0..<50 {
      let point = block.point(behind: index)
      #expect(block.firstIndex(behind: point.lsn) == index + 1)
      #expect(try it.events(behind: point.lsn).count == 49 - index)
    }
  }
}

extension EventEncodingTests {
  @Test("Of what nobody wants no event is made, and of the rest all that anybody does")
  func interests() throws {
    for key in ["k1", "k2", "k3"] { it.adjust(key, .setOnHand(10), key: key) }
    it.reserve([("k1", 1), ("k2", 1)], key: "k4")
    it.reserve([("k3", 1)], key: "k5")
    it.reserve([("k2", 99)], key: "k6")
    it.log.drain()
    func hash(_ sku: String) -> UInt64 {
      withTexts([sku]) { it.session.itemHash(ItemName(sku: $0[0], location: .empty)) }
    }
    let (first, held) = (
      EventFilter(items: [hash("k1")]), EventFilter(kinds: [.held], items: [hash("k3")])
    )
    let refused = EventFilter(kinds: [.refused], items: [hash("k2")])
    let encoder = EventEncoder(store: it.store)
    encoder.interest = Interest()
    func made() throws -> [EventKind] {
      let point = LogPoint(lsn: 0, mark: 0)
      let block = try encoder.block(behind: point, it.log.cursor(from: point), bytesMax: .max)
      return try #require(block).entries.map(\.kind)
    }
    func add(_ filter: EventFilter) -> Bool { encoder.interest.add(filter) }
    #expect(try made() == [])
    #expect(add(first))
    #expect(try made() == [.adjusted, .held])
    #expect(add(held))
    // One filter's kinds with the other's items: a watcher of neither takes it, and no harm is done.
    #expect(try made() == [.adjusted, .adjusted, .held, .held])
    #expect(add(refused) && !add(refused))
    #expect(try made() == [.adjusted, .adjusted, .adjusted, .held, .held, .refused])
    #expect(add(EventFilter()))
    encoder.interest.remove(refused)
    encoder.interest.remove(refused)
    encoder.interest.remove(held)
    #expect(try made() == [.adjusted, .adjusted, .adjusted, .held, .held])
    encoder.interest.remove(EventFilter())
    encoder.interest.remove(first)
    #expect(try made() == [])
  }
}

extension MemoryLog {
  /// The end, once everything is there that was appended.
  func drained() -> UInt64 {
    drain()
    return endLSN
  }
}
