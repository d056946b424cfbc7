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
