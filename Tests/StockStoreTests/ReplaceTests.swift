import Log
import Posix
import Simulation
import Testing

@testable import StockStore

/// Replace, references, revisions, and reservations by their keys, under every strategy.
@Suite struct ReplaceTests {
  private typealias Replacement = Model.Replacement

  private func line(_ sku: String, _ quantity: Int64) -> TestLine {
    TestLine(sku: sku, quantity: quantity)
  }

  @Test(
    "Three of the last units become one, and one becomes three", arguments: ConcurrencyControl.sound
  )
  func lastUnits(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    let a = session.makeStock("a", 3)
    let hold = try #require(session.reserve("k", "a", 3).value)
    let fewer = session.replace("r1", Replacement(hold.id, [line("a", 1)]))
    #expect(fewer.value?.state == .held && fewer.value?.revision == 2 && !fewer.replayed)
    #expect(session.viewLines == [a.ordinal: 1])
    #expect(session.level("a")?.available == 2)
    // What is kept needs no stock: two are left, and three are wanted of which one is there.
    #expect(session.replace("r2", Replacement(hold.id, [line("a", 3)])).value?.revision == 3)
    #expect(
      session.replace("r3", Replacement(hold.id, [line("a", 5)])).refusal
        == .insufficientStock(item: a, requested: 2, available: 0))
    // The same units again change no item.
    let version = session.level("a")?.version
    #expect(session.replace("r4", Replacement(hold.id, [line("a", 3)])).value?.revision == 4)
    #expect(session.level("a")?.version == version)
    #expect(session.confirm(hold.id).value?.state == .confirmed)
    #expect(session.level("a")?.onHand == 0)
    #expect(it.store.audit() == [])
  }

  @Test("To other items, all or nothing", arguments: ConcurrencyControl.sound)
  func otherItems(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    for sku in ["a", "b", "c"] { _ = session.makeStock(sku, 5) }
    let hold = try #require(session.reserve("k", [line("a", 2), line("b", 2)]).value)
    let refused = session.replace(
      "r1", Replacement(hold.id, [line("a", 1), line("b", 9), line("c", 6)]))
    #expect(session.refusals(of: refused).count == 2)
    #expect(session.reservation(hold.id).value?.revision == 1)
    #expect(session.level("a")?.held == 2 && session.level("c")?.held == 0)
    // Lines of one item are summed.
    let moved = session.replace(
      "r2", Replacement(hold.id, [line("c", 1), line("b", 3), line("c", 1)]))
    #expect(moved.value != nil)
    #expect(session.viewLineCount == 2 && session.viewLine(0).quantity == 2)
    #expect(["a", "b", "c"].map { session.level($0)?.held } == [0, 3, 2])
    // What was refused stays refused, whatever is there now.
    _ = session.adjust("more", "b", .setOnHand(50))
    _ = session.adjust("more c", "c", .setOnHand(50))
    let again = session.replace(
      "r1", Replacement(hold.id, [line("c", 6), line("b", 9), line("a", 1)]))
    #expect(again.refusal == refused.refusal && again.replayed)
    #expect(
      session.replace("r3", Replacement(hold.id, [line("b", 1), line("zzz", 1)])).refusal
        == .itemNotFound(line: 1))
    #expect(it.store.audit() == [])
  }

  @Test("64 lines become 64 others, and go back", arguments: ConcurrencyControl.sound)
  func manyLines(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    for number in 0..<128 { _ = session.makeStock("sku\(number)", 1) }
    let (first, second) = (0..<128).map { line("sku\($0)", 1) }.halves
    let hold = try #require(session.reserve("k", first).value)
    #expect(session.replace("r1", Replacement(hold.id, second)).value != nil)
    #expect(session.viewLineCount == 64)
    #expect(session.reserve("k2", first).value != nil)
    #expect(session.replace("r2", Replacement(hold.id, first)).refusal != nil)
    #expect(session.furtherRefusalCount == 63)
    #expect(session.release(hold.id).value?.state == .released)
    #expect(it.store.audit() == [])
  }

  @Test("The first answer comes again, whatever became of the hold") func replay() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 9)
    let hold = try #require(session.reserve("k", [line("a", 1)], reference: "cart").value)
    let command = Replacement(hold.id, [line("a", 2)], ttl: seconds(900), reference: "order")
    let first = session.answer(session.replace("k", command))
    _ = session.replace("other", Replacement(hold.id, [line("a", 5)], reference: "else"))
    _ = session.release(hold.id)
    let again = session.replace("k", command)
    #expect(session.answer(again) == first && again.replayed)
    #expect(session.referenceText == "order" && again.value?.revision == 2)
    // Reserve has the same key for itself.
    #expect(session.reserve("k", [line("a", 1)], reference: "cart").replayed)
    // Each field is a part of the payload.
    let others = [
      Replacement(
        ReservationID(slot: 0, generation: 0, tag: 1), command.lines, ttl: command.ttl,
        reference: "order"),
      Replacement(hold.id, [line("a", 3)], ttl: command.ttl, reference: "order"),
      Replacement(
        hold.id, command.lines, expectedRevision: 1, ttl: command.ttl, reference: "order"),
      Replacement(hold.id, command.lines, ttl: seconds(901), reference: "order"),
      Replacement(hold.id, command.lines, reference: "order"),
      Replacement(hold.id, command.lines, ttl: command.ttl),
      Replacement(hold.id, command.lines, ttl: command.ttl, reference: "orders"),
    ]
    for other in others { #expect(session.replace("k", other).refusal == .idempotencyKeyReused) }
    #expect(it.store.audit() == [])
  }

  @Test("The key is remembered from when the hold was to end") func retention() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 9)
    let hold = try #require(session.reserve("k", "a", 1).value)
    let command = Replacement(hold.id, [line("a", 2)])
    #expect(session.replace("r", command).value != nil)
    it.advance(seconds(600) + testLimits().retentionNanoseconds - 1)
    #expect(session.replace("r", command).replayed)
    #expect(session.reserve("k", "a", 1).replayed)
    it.advance(1)
    #expect(session.replace("r", command).refusal == .reservationNotFound)
    #expect(!session.reserve("k", "a", 1).replayed)
    #expect(it.store.audit() == [])
  }

  @Test("Another revision is refused, and not recorded") func revisions() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 9)
    let hold = try #require(session.reserve("k", "a", 1).value)
    let early = Replacement(hold.id, [line("a", 2)], expectedRevision: 2)
    #expect(session.replace("r", early).refusal == .revisionMismatch(current: 1))
    #expect(session.extend(hold.id, ttlNanoseconds: seconds(700)).value?.revision == 2)
    // Nothing changed: nor did the revision.
    #expect(session.extend(hold.id, ttlNanoseconds: seconds(700)).value?.revision == 2)
    #expect(session.replace("r", early).value?.revision == 3)
    #expect(session.replace("r", early).replayed)
    #expect(session.level("a")?.held == 2)
  }

  @Test("What has ended has no other lines") func ended() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 9)
    let released = try #require(session.reserve("k1", "a", 1).value)
    let confirmed = try #require(session.reserve("k2", "a", 1).value)
    let expired = try #require(session.reserve("k3", "a", 1, ttl: seconds(5)).value)
    _ = session.release(released.id)
    _ = session.confirm(confirmed.id)
    it.advance(seconds(5))
    let table: [(ReservationID, Refusal)] = [
      (released.id, .reservationReleased), (confirmed.id, .reservationConfirmed),
      (expired.id, .reservationExpired),
      (ReservationID(slot: 7, generation: 7, tag: 7), .reservationNotFound),
      (ReservationID(slot: .max, generation: 7, tag: 7), .reservationNotFound),
    ]
    for (id, refusal) in table {
      #expect(session.replace("r", Replacement(id, [line("a", 1)])).refusal == refusal)
    }
    #expect(
      session.replace("r", Replacement(released.id, [line("a", 1)], ttl: seconds(86_401))).refusal
        == .longerThanMaxHold)
  }

  @Test("Who may change its own holds alone does not get to another's") func ownHoldsOnly() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 9)
    let hold = try #require(session.reserve("k", [line("a", 1)], caller: "shop").value)
    let command = Replacement(hold.id, [line("a", 2)])
    let other = TestRequester("till", ownHoldsOnly: true)
    #expect(session.replace("r", command, by: other).refusal == .notOwnHold)
    #expect(
      session.replace("r", command, by: TestRequester("shop", ownHoldsOnly: true)).value != nil)
  }

  @Test("A due hold of the item that lacks units ends first", arguments: ConcurrencyControl.sound)
  func dueHolds(_ concurrency: ConcurrencyControl) throws {
    var limits = testLimits()
    limits.expiriesPerTurn = 1
    let it = Fixture(limits, concurrency)
    let session = it.session
    _ = session.makeStock("a", 5)
    for number in 0..<3 { _ = session.reserve("k\(number)", "a", 1, ttl: seconds(5)) }
    let hold = try #require(session.reserve("k", "a", 2).value)
    it.advance(seconds(5))
    #expect(session.replace("r", Replacement(hold.id, [line("a", 5)])).value != nil)
    #expect(it.store.audit() == [])
  }

  @Test("Timers and what is staged follow the new lines and the new end") func timers() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 5)
    _ = session.makeStock("b", 5)
    // Staged right away.
    let hold = try #require(session.reserve("k", "a", 5, ttl: seconds(1)).value)
    #expect(session.replace("r1", Replacement(hold.id, [line("b", 5)])).value != nil)
    #expect(it.store.audit() == [])
    // A ttl never shortens, and never goes beyond the longest life.
    let end = session.replace("r2", Replacement(hold.id, [line("b", 4)], ttl: seconds(100)))
    #expect(end.value?.expiresAt == it.clock.now().advanced(byNanoseconds: seconds(100)))
    let same = session.replace("r3", Replacement(hold.id, [line("b", 4)], ttl: seconds(1)))
    #expect(same.value?.expiresAt == end.value?.expiresAt)
    it.advance(seconds(99))
    #expect(session.level("b")?.held == 4)
    it.advance(seconds(1))
    #expect(session.level("b")?.held == 0 && session.level("a")?.held == 0)
    // Long before it is staged, and it ends when it would have; beside others of its list.
    let ids = try ["l1", "l2", "l3"].map {
      try #require(session.reserve($0, "a", 1, ttl: seconds(3000)).value).id
    }
    #expect(session.replace("r4", Replacement(ids[1], [line("b", 5)])).value != nil)
    #expect(session.release(ids[0]).value != nil)
    #expect(it.store.audit() == [])
    it.advance(seconds(2999))
    #expect(session.level("b")?.held == 5 && session.level("a")?.held == 1)
    it.advance(seconds(1))
    #expect(session.level("b")?.held == 0 && session.level("a")?.held == 0)
    #expect(it.store.audit() == [])
  }

  // MARK: References

  @Test("A reference is a part of the payload, and none is none") func payload() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 9)
    _ = session.reserve("k", [line("a", 1)], reference: "order")
    #expect(session.reserve("k", [line("a", 1)]).refusal == .idempotencyKeyReused)
    #expect(
      session.reserve("k", [line("a", 1)], reference: "orde").refusal == .idempotencyKeyReused)
    #expect(session.reserve("k", [line("a", 1)], reference: "order").replayed)
    _ = session.reserve("plain", [line("a", 1)])
    #expect(
      session.reserve("plain", [line("a", 1)], reference: "order").refusal == .idempotencyKeyReused)
  }

  @Test("Who has a reference is listed by it, page by page") func list() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 1000)
    var wanted: Set<ReservationID> = []
    for number in 0..<200 {
      let reference = number % 3 == 0 ? "order:1" : number % 3 == 1 ? "order:2" : ""
      let hold = session.reserve("k\(number)", [line("a", 1)], reference: reference).value
      if reference == "order:1", let id = hold?.id { wanted.insert(id) }
    }
    func list(_ reference: String, _ state: ReservationState? = nil) -> [[ReservationID]] {
      var pages: [[ReservationID]] = []
      var cursor: UInt64? = 0
      while let from = cursor {
        pages.append([])
        cursor = withBytes(reference) {
          session.listReservations(cursor: from, scanMax: 1000, state: state, reference: $0) {
            view in
            pages[pages.count - 1].append(view.id)
            return pages[pages.count - 1].count < 10
          }
        }
      }
      return pages
    }
    let pages = list("order:1")
    #expect(Set(pages.joined()) == wanted && pages.joined().count == wanted.count)
    #expect(pages.dropLast().allSatisfy { $0.count == 10 } && pages.last?.isEmpty == false)
    #expect(list("order:3") == [[]] && list("order") == [[]])
    // A guest's becomes a customer's.
    let moved = try #require(wanted.first)
    _ = session.replace("r", Replacement(moved, [line("a", 1)], reference: "customer"))
    #expect(list("customer") == [[moved]])
    #expect(list("order:1").joined().count == wanted.count - 1)
    _ = session.release(moved)
    #expect(list("customer", .held) == [[]] && list("customer", .released) == [[moved]])
    #expect(it.store.audit() == [])
    it.advance(testLimits().retentionNanoseconds + seconds(600))
    for _ in 0..<64 { it.advance(0) }
    #expect(list("customer") == [[]] && list("order:2") == [[]])
    #expect(it.store.audit() == [])
  }

  @Test("A reservation is found by the key of its Reserve, and none is made") func byKey() throws {
    let it = Fixture()
    let session = it.session
    _ = session.makeStock("a", 3)
    let hold = try #require(session.reserve("k", [line("a", 2)], reference: "r").value)
    #expect(session.reservation(key: "k").value?.id == hold.id)
    #expect(session.viewLines.values.first == 2 && session.referenceText == "r")
    #expect(session.reservation(key: "k", caller: "other").refusal == .reservationNotFound)
    #expect(session.reservation(key: "unknown").refusal == .reservationNotFound)
    #expect(session.reserve("unknown", [line("a", 1)]).replayed == false)
    let refused = session.reserve("refused", [line("a", 2)])
    let read = session.reservation(key: "refused")
    #expect(read.refusal == refused.refusal && read.replayed)
    _ = session.reserve("none", [line("zzz", 1), line("yyy", 1)])
    #expect(session.reservation(key: "none").refusal == .itemNotFound(line: 0))
    _ = session.release(hold.id)
    #expect(session.reservation(key: "k").value?.state == .released)
  }

  // MARK: Records

  @Test(
    "A record keeps its lines and details, however many", arguments: [1, 2, 3, 4, 5, 6, 64],
    [false, true])
  func record(lines count: Int, hasReference: Bool) {
    func line(_ index: Int, _ factor: Int64) -> ViewLine {
      ViewLine(item: ItemHandle(ordinal: UInt32(index)), quantity: factor << 38 + Int64(index))
    }
    var record = ReservationRecord.free
    record.kind = .held
    record.setLineCount(count)
    for index in 0..<count { record.setLine(index, line(index, 3)) }
    let node = withBytes("order:4711") { ReferenceNode($0, hash: 5, slot: 6) }
    if hasReference { record.referenceNode = node } else { node.free() }
    #expect(record.revision == 1)
    record.revision += 1
    record.revision = 1 << 40
    func check(_ factor: Int64, _ count: Int) {
      #expect(record.lineCount == count && record.revision == 1 << 40)
      #expect((0..<count).allSatisfy { record.line($0) == line($0, factor) })
      #expect(
        unsafe String(decoding: record.reference.pointer, as: UTF8.self)
          == (hasReference ? "order:4711" : ""))
    }
    check(3, count)
    for other in [1, 3, 4, 5, 6, 64, 2] {
      record.replaceLines(other) { line($0, 2) }
      check(2, other)
    }
    record.removeLines()
    #expect(record.lineCount == 0 && !record.liesElsewhere)
  }

  @Test(
    "The answer to a Replace has its reservation's id beside its lines, whatever the record was before",
    arguments: [0, 1, 2, 3, 64], [false, true])
  func answer(lines count: Int, hasReference: Bool) {
    func line(_ index: Int) -> ViewLine {
      ViewLine(item: ItemHandle(ordinal: UInt32.max - UInt32(index)), quantity: 0xabcd_1234_5678)
    }
    var record = ReservationRecord.free
    for before in [0, 1, 5, 6] {
      record.kind = .held
      record.setLineCount(before)
      for index in 0..<before { record.setLine(index, line(index)) }
      if before == 6 { record.setChoice(HoldChoice(alternative: 2, tellsLines: true)) }
      record.removeLines()
      let id = ReservationID(slot: 0xfedc_ba98, generation: 0x7654_3210, tag: 0xa_9876_5432)
      record.setReplaced(id, expiresAt: 5, createdAt: 3, revision: 1 << 41, lineCount: count, line)
      let node = withBytes("order:4711") { ReferenceNode($0, hash: 5, slot: 6) }
      if hasReference { record.referenceNode = node } else { node.free() }
      #expect(record.replacedID == id && record.revision == 1 << 41 && record.lineCount == count)
      #expect((0..<count).allSatisfy { record.line($0) == line($0) })
      #expect(record.reference.count == (hasReference ? 10 : 0))
      #expect(record.liesElsewhere == (hasReference || count > 1))
      record.removeLines()
      #expect(!record.liesElsewhere)
    }
  }

  @Test("The index finds what it has, in the order of slots") func index() {
    let index = ReferenceIndex()
    var random = SeededRandom(seed: 3)
    var nodes: [UInt64: [UInt32: ReferenceNode]] = [:]
    for _ in 0..<20_000 {
      let hash = UInt64(random.number(0...5)) << 6
      let slot = UInt32(random.number(0...300))
      if let node = nodes[hash]?[slot] {
        index.remove(node)
        node.free()
        nodes[hash]?[slot] = nil
      } else {
        let node = withBytes("r") { ReferenceNode($0, hash: hash, slot: slot) }
        index.add(node)
        nodes[hash, default: [:]][slot] = node
      }
      let from = UInt32(random.number(0...300))
      #expect(index.next(hash, from: from) == nodes[hash]?.keys.filter { $0 >= from }.min())
    }
    #expect(index.count == nodes.values.reduce(0) { $0 + $1.count })
    for node in nodes.values.flatMap(\.values) { node.free() }
    index.free()
  }
}

extension Array {
  fileprivate var halves: (Array, Array) {
    (Array(self[..<(count / 2)]), Array(self[(count / 2)...]))
  }
}
