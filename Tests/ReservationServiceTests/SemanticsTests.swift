import GRPC
import Posix
import Testing

@Suite("Reservations and stock through their messages")
struct SemanticsTests {
  private let service = Service()

  private func level(_ sku: String, at location: String = "") throws -> [Int64] {
    balances(try service.ok("GetStock", stock(sku, at: location)).message(1))
  }

  private func put(_ sku: String, _ units: Int64, at location: String = "") throws {
    _ = try service.ok(
      "AdjustStock", adjust("put \(sku) \(location)", sku, by: units, at: location))
  }

  private func hold(_ key: String, _ lines: Message..., ttl: Message? = nil) throws -> String {
    try service.ok("Reserve", reserve(key, lines, ttl: ttl)).text(1)
  }

  @Test("A hold is taken, read and confirmed, and answered alike when repeated")
  func confirm() throws {
    try put("shirt", 10)
    let now = service.clock.now().nanoseconds
    let held = try service.ok("Reserve", reserve("k", [line("shirt", 2), line("shirt", 1)]))
    let id = held.text(1)
    #expect(id.utf8.count == 20)
    #expect(id.utf8.allSatisfy { (48...57).contains($0) || (97...118).contains($0) })
    #expect(held.time(2) == now + 600 * second)
    #expect(!held.flag(3))
    #expect(try level("shirt") == [10, 3, 0, 7, 2])

    let reservation = try service.ok("GetReservation", of(id)).message(1)
    #expect(reservation?.text(1) == id)
    #expect(reservation?.number(2) == 1)
    #expect(reservation?.messages(3).map { $0.text(1) } == ["shirt"])
    #expect(reservation?.messages(3).map { $0.number(3) } == [3])
    #expect(reservation?.time(4) == now)
    #expect(reservation?.time(5) == now + 600 * second)
    #expect(reservation?.message(6) == nil)

    service.clock.advance(byNanoseconds: 5 * second + 7)
    let confirmed = try service.ok("Confirm", of(id))
    #expect(confirmed.message(1)?.number(2) == 2)
    #expect(confirmed.message(1)?.time(6) == now + 5 * second + 7)
    #expect(!confirmed.flag(2))
    #expect(try level("shirt") == [7, 0, 0, 7, 3])

    let again = try service.ok("Confirm", of(id))
    #expect(again.message(1) == confirmed.message(1))
    #expect(again.flag(2))
    #expect(try level("shirt") == [7, 0, 0, 7, 3])
  }

  @Test("A hold is released once")
  func release() throws {
    try put("a", 5)
    let id = try hold("k", line("a", 5))
    let released = try service.ok("Release", of(id))
    #expect(released.message(1)?.number(2) == 3)
    #expect(!released.flag(2))
    #expect(try level("a") == [5, 0, 0, 5, 3])
    #expect(try service.ok("Release", of(id)).flag(2))
    #expect(try level("a") == [5, 0, 0, 5, 3])
  }

  @Test("A hold's time can be set anew, never past its cap")
  func extend() throws {
    try put("a", 5)
    let start = service.clock.now().nanoseconds
    let id = try hold("k", line("a", 1), ttl: duration(60))
    service.clock.advance(byNanoseconds: 30 * second)
    let longer = try service.ok("Extend", of(id).with(2, duration(100, nanos: 9)))
    #expect(longer.message(1)?.time(5) == start + 130 * second + 9)
    #expect(!longer.flag(2))
    let usual = try service.ok("Extend", of(id))
    #expect(usual.message(1)?.time(5) == start + 630 * second)
    let capped = try service.ok("Extend", of(id).with(2, duration(24 * 3600)))
    #expect(capped.message(1)?.time(5) == start + 24 * 3600 * second)
    let unchanged = try service.ok("Extend", of(id).with(2, duration(24 * 3600)))
    #expect(unchanged.flag(2))
    #expect(unchanged.message(1) == capped.message(1))
  }

  @Test("A partial confirm sells some and gives back the rest")
  func partialConfirm() throws {
    try put("a", 10)
    try put("b", 10, at: "Oslo")
    let id = try hold("k", line("a", 4), line("b", 3, at: "Oslo"))
    let request = of(id).with(2, line("b", 2, at: "Oslo"))
    let sold = try service.ok("Confirm", request).message(1)
    #expect(sold?.number(2) == 2)
    #expect(sold?.messages(3).map { $0.text(1) } == ["b"])
    #expect(sold?.messages(3).map { $0.text(2) } == ["Oslo"])
    #expect(sold?.messages(3).map { $0.number(3) } == [2])
    #expect(try level("a").prefix(2) == [10, 0])
    #expect(try level("b", at: "Oslo").prefix(2) == [8, 0])
    #expect(try service.ok("Confirm", request).flag(2))
  }

  @Test("Confirming everything after a partial confirm is no repetition of it")
  func everythingAfterPart() throws {
    try put("a", 10)
    let id = try hold("k", line("a", 4))
    _ = try service.ok("Confirm", of(id).with(2, line("a", 1)))
    #expect(try service.refused("Confirm", of(id)).reason == "RESERVATION_CONFIRMED")
  }

  @Test("Stock of a hold that is due is there for the next reserve")
  func expiry() throws {
    try put("a", 1)
    let id = try hold("k1", line("a", 1), ttl: duration(1))
    service.clock.advance(byNanoseconds: second - 1)
    #expect(
      try service.refused("Reserve", reserve("k2", [line("a", 1)])).reason == "INSUFFICIENT_STOCK")
    service.clock.advance(byNanoseconds: 1)
    let other = try hold("k3", line("a", 1))
    #expect(try service.ok("GetReservation", of(id)).message(1)?.number(2) == 4)

    let again = of(id).with(3, true)
    #expect(try service.refused("Confirm", again).reason == "INSUFFICIENT_STOCK")
    #expect(try service.ok("GetReservation", of(id)).message(1)?.number(2) == 4)
    _ = try service.ok("Release", of(other))
    #expect(try service.ok("Confirm", again).message(1)?.number(2) == 2)
    #expect(try level("a").prefix(2) == [0, 0])
  }

  @Test("A key names one decision of one caller and method, accepted or refused")
  func idempotency() throws {
    try put("a", 5)
    let request = reserve("k", [line("a", 2)])
    let first = try service.ok("Reserve", request)
    service.clock.advance(byNanoseconds: second)
    let again = try service.ok("Reserve", request)
    #expect(again.text(1) == first.text(1))
    #expect(again.time(2) == first.time(2))
    #expect(again.flag(3))

    let other = try service.ok("Reserve", request, caller: "another")
    #expect(other.text(1) != first.text(1))
    let refused = try service.refused("Reserve", reserve("k", [line("a", 2)]), caller: "third")
    try put("a", 5, at: "elsewhere")
    _ = try service.ok("AdjustStock", adjust("more", "a", by: 50))
    #expect(try service.refused("Reserve", request, caller: "third") == refused.replayed)
    // The same key for another method is another key.
    _ = try service.ok("AdjustStock", adjust("k", "a", by: 1))
    #expect(try service.ok("AdjustStock", adjust("k", "a", by: 1)).flag(2))
  }

  /// What becomes of a hold of 60 s, and what a replay says of it then: state, seconds that remain.
  @Test(
    "A replay tells the first decision, and what has become of the hold",
    arguments: [
      ("", 1, 60), ("Extend", 1, 600), ("Confirm", 2, nil), ("Release", 3, nil),
      ("expire", 4, nil), ("reacquire", 2, nil),
    ] as [(String, Int64, Int64?)])
  func replayAfter(_ method: String, state: Int64, remaining: Int64?) throws {
    try put("a", 5)
    let request = reserve("k", [line("a", 2)], ttl: duration(60))
    let first = try service.ok("Reserve", request)
    #expect(first.number(6) == 1 && first.time(7) == 60 * second)
    switch method {
    case "": break
    case "expire": service.clock.advance(byNanoseconds: 60 * second)
    case "reacquire":
      service.clock.advance(byNanoseconds: 60 * second)
      _ = try service.ok("Confirm", of(first.text(1)).with(3, true))
    default: _ = try service.ok(method, of(first.text(1)))
    }
    let again = try service.ok("Reserve", request)
    #expect(again.text(1) == first.text(1) && again.time(2) == first.time(2) && again.flag(3))
    #expect(again.number(6) == state)
    #expect(again.time(7) == remaining.map { $0 * second })
  }

  @Test("What remains of a hold is counted from the answer")
  func remaining() throws {
    try put("a", 5)
    let request = reserve("k", [line("a", 2)])
    _ = try service.ok("Reserve", request)
    service.clock.advance(byNanoseconds: 7 * second + 5)
    #expect(try service.ok("Reserve", request).time(7) == 593 * second - 5)
  }

  @Test("An older Extend that comes late shortens nothing")
  func lateExtend() throws {
    try put("a", 5)
    let start = service.clock.now().nanoseconds
    let id = try hold("k", line("a", 1))
    _ = try service.ok("Extend", of(id).with(2, duration(900)))
    let late = try service.ok("Extend", of(id).with(2, duration(1)))
    #expect(late.flag(2) && late.message(1)?.time(5) == start + 900 * second)
    let asked = try service.ok("Extend", of(id).with(2, duration(1)).with(3, true))
    #expect(!asked.flag(2) && asked.message(1)?.time(5) == start + second)
  }

  @Test("Stock is changed by a delta, set, and compared and swapped")
  func adjustStock() throws {
    let made = try service.ok(
      "AdjustStock", adjustment("1", "a") { $0.with(5, 7 as Int64).with(6, 0 as Int64) })
    #expect(balances(made.message(1)) == [7, 0, 0, 7, 1])
    #expect(made.message(1)?.text(1) == "a")
    #expect(!made.flag(2))
    let swapped = try service.ok(
      "AdjustStock",
      adjustment("2", "a") { $0.with(4, -2 as Int64).with(6, 1 as Int64).with(8, 9 as Int64) })
    #expect(balances(swapped.message(1)) == [5, 0, 9, -4, 2])
    let safety = try service.ok(
      "AdjustStock", adjustment("3", "a") { $0.with(8, 0 as Int64).with(7, true) })
    #expect(balances(safety.message(1)) == [5, 0, 0, 5, 3])
    let again = try service.ok(
      "AdjustStock", adjustment("3", "a") { $0.with(8, 0 as Int64).with(7, true) })
    #expect(again.flag(2))
    #expect(again.message(1) == safety.message(1))
    #expect(try level("a") == [5, 0, 0, 5, 3])
  }

  @Test("Several items are read at once, known and unknown, in their order")
  func batch() throws {
    try put("a", 1)
    try put("b", 2, at: "x")
    let names = [stock("b", at: "x"), stock("none"), stock("a"), stock("b"), stock("a")]
    let answer = try service.ok(
      "BatchGetStock", names.reduce(Message()) { $0.with(1, $1) })
    #expect(answer.messages(1).map { $0.text(1) } == ["b", "a", "a"])
    #expect(answer.messages(1).map { $0.number(3) } == [2, 1, 1])
    #expect(answer.messages(2).map { $0.text(1) } == ["none", "b"])
  }

  @Test("The largest numbers come back whole")
  func largest() throws {
    try put("a", quantityMax)
    let id = try hold("k", line("a", quantityMax))
    #expect(try level("a") == [quantityMax, quantityMax, 0, 0, 2])
    let view = try service.ok("GetReservation", of(id)).message(1)
    #expect(view?.messages(3).map { $0.number(3) } == [quantityMax])
  }
}
