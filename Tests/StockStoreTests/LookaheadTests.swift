// What is expected changes no answer, whatever comes then.
import Posix
import Simulation
import Testing

@testable import StockStore

@Suite struct LookaheadTests {
  private struct Key {
    let caller: String
    let key: String

    init(_ caller: String, _ key: String) {
      self.caller = caller
      self.key = key
    }
  }

  private func identity(
    _ session: StoreSession, _ method: StoreKeys.Method, _ key: Key
  ) -> Identity {
    withScope(key.key, caller: key.caller) { session.core.keys.identity(method, $0) }
  }

  private static let long = String(repeating: "k", count: 64)

  @Test(arguments: [
    // What is expected, in this order; then what comes.
    [], [Key("", "a")], [Key("", "b")], [Key("", "b"), Key("", "a")], [Key("", "a"), Key("", "b")],
    // The same bytes in a row, of another caller or method.
    [Key("a", "")], [Key("x", "a")],
    // More than are kept.
    [Key("", "a"), Key("", "b"), Key("", "c"), Key("", "d"), Key("", "e")],
    // As long as keys get, and with a caller longer than what is kept.
    [Key("", long)], [Key(long, "a")],
  ])
  private func aCommandIsNamedByItsOwnKey(_ expected: [Key]) {
    let it = Fixture()
    // Any id will do, also of a slot that is nobody's.
    let id = ReservationID(slot: .max, generation: 7, tag: 1)
    for method in [StoreKeys.Method.reserve, .adjust, .replace] {
      for key in expected {
        withScope(key.key, caller: key.caller) {
          switch method {
          case .reserve: it.session.expectReserve($0)
          case .replace: it.session.expectReplace($0, id)
          default: it.session.expectAdjust($0)
          }
        }
      }
      for key in [Key("", "a")] + expected + [Key("x", "a"), Key("xa", ""), Key(Self.long, "a")] {
        for asked in [StoreKeys.Method.reserve, .adjust, .replace] {
          withScope(key.key, caller: key.caller) {
            #expect(it.session.identity(asked, $0) == identity(it.session, asked, key))
          }
        }
      }
    }
  }

  @Test func whatIsExpectedIsHashedOnce() {
    var list = ExpectedIdentities()
    defer { list.free() }
    let marks = (0..<5).map { Identity(low: UInt64($0), high: 0) }
    for (index, mark) in marks.enumerated() {
      withScope("\(index)", caller: "") { list.append(.reserve, $0, mark) }
    }
    // The first was pushed out, the third drops the second, and each is there for one command.
    withScope("0", caller: "") { #expect(list.take(.reserve, $0) == nil) }
    withScope("2", caller: "") { #expect(list.take(.adjust, $0) == nil) }
    withScope("2", caller: "") { #expect(list.take(.reserve, $0) == marks[2]) }
    withScope("1", caller: "") { #expect(list.take(.reserve, $0) == nil) }
    withScope("2", caller: "") { #expect(list.take(.reserve, $0) == nil) }
    withScope("4", caller: "") { #expect(list.take(.reserve, $0) == marks[4]) }
  }

  /// What is prepared counts for the bytes in that place of memory alone, and once it is said to come.
  @Test func whatIsPreparedIsNamedByWhereItLies() {
    let it = Fixture()
    withScope("a", caller: "") { first in
      withScope("b", caller: "x") { second in
        it.session.prepareReserve(0, first, ItemName(sku: first.key, location: .empty))
        it.session.prepareReserve(15, second, ItemName(sku: second.key, location: second.caller))
        for place in [nil, 0, 15] as [Int?] {
          it.session.usePrepared(place)
          it.session.fetchPrepared(place ?? 3)
          for scope in [first, second, IdempotencyScope(caller: second.caller, key: first.key)] {
            for method in [StoreKeys.Method.reserve, .adjust] {
              #expect(
                it.session.identity(method, scope) == it.session.core.keys.identity(method, scope))
            }
            let item = ItemName(sku: scope.key, location: scope.caller)
            let hash = it.session.preparedHash(item)
            #expect(hash == nil || hash == it.session.core.keys.itemHash(item))
          }
          #expect(
            (it.session.preparedHash(ItemName(sku: second.key, location: second.caller)) != nil)
              == (place == 15))
        }
      }
    }
    it.session.usePrepared(nil)
  }

  private typealias Prepared = (
    key: String, line: TestLine, ttl: Int64?, reason: String, isAtOnce: Bool
  )

  /// One after the other: what it is about, and whether nothing stands in its way.
  private static let prepared: [Prepared] = [
    ("new", TestLine(sku: "plain", quantity: 2), seconds(60), "", true),
    ("no ttl", TestLine(sku: "plain", quantity: 1), nil, "", true),
    ("short", TestLine(sku: "plain", quantity: 1), 1, "", true),
    ("long", TestLine(sku: "plain", quantity: 1), .max, "too long", false),
    ("new", TestLine(sku: "plain", quantity: 2), seconds(60), "a retry", false),
    ("new", TestLine(sku: "plain", quantity: 3), seconds(60), "another payload", false),
    ("new", TestLine(sku: "plain", quantity: 2), nil, "another payload", false),
    ("last", TestLine(sku: "few", quantity: 5), nil, "", true),
    ("sold out", TestLine(sku: "few", quantity: 1), nil, "no units", false),
    ("unknown", TestLine(sku: "nothing", quantity: 1), nil, "no item", false),
    ("Oslo", TestLine(sku: "few", location: "Oslo", quantity: 1), nil, "no item", false),
    ("sold", TestLine(sku: "sold", quantity: 1), nil, "some are committed", false),
    ("frozen", TestLine(sku: "frozen", quantity: 1), nil, "not on sale", false),
    ("promised", TestLine(sku: "promised", quantity: 7), nil, "", true),
  ]

  /// A store with what those are about.
  private static func fixture(_ concurrency: ConcurrencyControl) throws -> Fixture {
    let it = Fixture(testLimits(), concurrency)
    for (sku, units) in [("plain", 100), ("few", 5), ("sold", 9), ("frozen", 9)] as [(_, Int64)] {
      _ = it.session.adjust("make \(sku)", sku, .setOnHand(units))
    }
    let sold = try #require(it.session.reserve("sale", "sold", 1).value)
    _ = it.session.confirm(sold.id, keepCommitted: true)
    _ = it.session.adjust("freeze", "frozen", .none, sale: TestSale(isFrozen: true))
    _ = it.session.adjust(
      "promise", "promised", .setOnHand(2), safetyStock: -5, allowsShortage: true)
    return it
  }

  @Test(
    "What is held at once is held as it is alone, and nothing else is held at once",
    arguments: ConcurrencyControl.sound)
  func heldAtOnce(_ concurrency: ConcurrencyControl) throws {
    let (alone, together) = (try Self.fixture(concurrency), try Self.fixture(concurrency))
    for (key, line, ttl, reason, isAtOnce) in Self.prepared {
      let note = Comment(rawValue: "\(key): \(reason)")
      let before = alone.session.reserve(key, [line], ttl: ttl)
      let (decision, wasAtOnce) = together.session.reserveInBatch(key, line, ttl: ttl)
      #expect(wasAtOnce == (isAtOnce && concurrency == .optimistic), note)
      let after = try #require(decision, note)
      #expect(after.value == before.value && after.refusal == before.refusal, note)
      #expect(after.replayed == before.replayed && after.lsn == before.lsn, note)
      #expect(together.session.furtherRefusalCount == alone.session.furtherRefusalCount, note)
    }
    #expect(together.store.statistics() == alone.store.statistics())
    let time = together.clock.now()
    #expect(together.store.stateDigest(at: time) == alone.store.stateDigest(at: time))
    // The timers of both run out at the same time.
    alone.advance(seconds(61))
    together.advance(seconds(61))
    #expect(together.store.statistics() == alone.store.statistics())
    #expect(together.store.statistics().reservationsExpired == 2)
  }

  /// Borrowed bytes may change between: then it is another command.
  @Test func bytesThatChangedAreAnotherKey() {
    var list = ExpectedIdentities()
    defer { list.free() }
    var bytes: [UInt8] = Array("one".utf8)
    unsafe bytes.withUnsafeMutableBufferPointer { buffer in
      let key = unsafe BorrowedBytes(UnsafePointer(buffer.baseAddress), count: buffer.count)
      let scope = IdempotencyScope(caller: .empty, key: key)
      list.append(.reserve, scope, Identity(low: 1, high: 1))
      unsafe buffer[0] = 1
      #expect(list.take(.reserve, scope) == nil)
    }
  }

  @Test func anyReservationMayBeExpected() {
    let it = Fixture()
    for slot in [0, 1, 64, UInt32.max] {
      it.session.expect(ReservationID(slot: slot, generation: 0, tag: 0))
    }
  }
}
