// At most so many units for one subject: what counts, what gives back, and that two at a time never pass.
import Log
import Posix
import Simulation
import Synchronization
import Testing

@testable import StockStore

private func line(_ sku: String, _ quantity: Int64) -> TestLine {
  TestLine(sku: sku, quantity: quantity)
}

/// A step of a story about the customer "c", and what is refused: requested, used, at most.
private enum Step: Sendable {
  case reserve(_ key: String, [TestLine], [TestLimit], refused: (Int64, Int64, Int64)? = nil)
  case confirm(
    _ key: String, [TestLine] = [], keep: Bool = false, reacquire: Bool = false,
    refused: (Int64, Int64, Int64)? = nil)
  case release(_ key: String)
  case replace(_ key: String, [TestLine], refused: (Int64, Int64, Int64)? = nil)
  /// All that is held falls due.
  case expire
  /// What the customer has of "a".
  case has(Int64)
}

private struct Story: Sendable, CustomTestStringConvertible {
  let testDescription: String
  let steps: [Step]

  init(_ title: String, _ steps: [Step]) {
    testDescription = title
    self.steps = steps
  }
}

private let two = [TestLimit("c", 2)]

private let stories = [
  Story(
    "held units count",
    [
      .reserve("1", [line("a", 1)], two), .reserve("2", [line("a", 1)], two),
      .reserve("3", [line("a", 1)], two, refused: (1, 2, 2)), .has(2),
    ]),
  Story(
    "one reserve alone may pass it",
    [.reserve("1", [line("a", 3)], two, refused: (3, 0, 2)), .has(0)]),
  Story(
    "lines of one item are summed",
    [.reserve("1", [line("a", 1), line("a", 2)], two, refused: (3, 0, 2))]),
  Story(
    "each item for itself",
    [
      .reserve("1", [line("a", 2), line("b", 2)], two),
      .reserve("2", [line("b", 1)], two, refused: (1, 2, 2)), .has(2),
    ]),
  Story(
    "others are others",
    [
      .reserve("1", [line("a", 2)], two), .reserve("2", [line("a", 2)], [TestLimit("d", 2)]),
      .reserve("3", [line("a", 9)], []), .has(2),
    ]),
  Story(
    "every subject counts, and the first that passes is named",
    [
      .reserve("1", [line("a", 2)], [TestLimit("card", 4), TestLimit("c", 2)]),
      .reserve("2", [line("a", 2)], [TestLimit("card", 4)]),
      .reserve("3", [line("a", 1)], [TestLimit("card", 4), TestLimit("c", 2)], refused: (1, 4, 4)),
      .reserve("4", [line("a", 1)], [TestLimit("c", 2), TestLimit("card", 4)], refused: (1, 2, 2)),
    ]),
  Story(
    "each Reserve says how many",
    [
      .reserve("1", [line("a", 2)], two), .reserve("2", [line("a", 3)], [TestLimit("c", 5)]),
      .reserve("3", [line("a", 1)], two, refused: (1, 5, 2)), .has(5),
    ]),
  Story(
    "release gives back",
    [
      .reserve("1", [line("a", 2)], two), .release("1"), .has(0),
      .reserve("2", [line("a", 2)], two),
    ]
  ),
  Story(
    "expiry gives back",
    [.reserve("1", [line("a", 2)], two), .expire, .reserve("2", [line("a", 2)], two), .has(2)]),
  Story(
    "sales count",
    [
      .reserve("1", [line("a", 2)], two), .confirm("1"),
      .reserve("2", [line("a", 1)], two, refused: (1, 2, 2)), .has(2),
    ]),
  Story(
    "so do those that are kept as committed",
    [
      .reserve("1", [line("a", 2)], two), .confirm("1", keep: true),
      .reserve("2", [line("a", 1)], two, refused: (1, 2, 2)), .has(2),
    ]),
  Story(
    "the rest of a confirm gives back",
    [
      .reserve("1", [line("a", 2), line("b", 1)], two), .confirm("1", [line("a", 1)]), .has(1),
      .reserve("2", [line("a", 1), line("b", 2)], two),
      .reserve("3", [line("a", 1)], two, refused: (1, 2, 2)),
    ]),
  Story(
    "an expired hold is taken again within the limit",
    [
      .reserve("1", [line("a", 2)], two), .expire, .confirm("1", reacquire: true), .has(2),
      .reserve("2", [line("a", 1)], two, refused: (1, 2, 2)),
    ]),
  Story(
    "and not beyond it: it stays expired",
    [
      .reserve("1", [line("a", 2)], two), .expire, .reserve("2", [line("a", 1)], two),
      .confirm("1", reacquire: true, refused: (2, 1, 2)),
      .confirm("1", [line("a", 1)], reacquire: true), .has(2),
    ]),
  Story(
    "what a Replace adds counts",
    [
      .reserve("1", [line("a", 1)], two), .replace("1", [line("a", 3)], refused: (2, 1, 2)),
      .has(1), .replace("1", [line("a", 2)]), .has(2), .replace("1", [line("a", 1)]), .has(1),
      .replace("1", [line("b", 2)]), .has(0), .replace("1", [line("a", 2), line("b", 2)]), .has(2),
      .release("1"), .has(0),
    ]),
  Story(
    "a Replace keeps what it has, whatever the others have",
    [
      .reserve("1", [line("a", 2)], two), .reserve("2", [line("a", 3)], [TestLimit("c", 5)]),
      .replace("1", [line("a", 2), line("b", 1)]), .replace("1", [line("a", 1)]), .has(4),
      .replace("1", [line("a", 2)], refused: (1, 4, 2)),
    ]),
  Story(
    "a key keeps its refusal",
    [
      .reserve("1", [line("a", 2)], two), .reserve("2", [line("a", 1)], two, refused: (1, 2, 2)),
      .release("1"), .reserve("2", [line("a", 1)], two, refused: (1, 2, 2)),
      .reserve("3", [line("a", 1)], two),
    ]),
]

@Suite struct LimitTests {
  private func fixture(
    _ limits: StoreLimits = testLimits(), _ concurrency: ConcurrencyControl = .optimistic
  ) -> Fixture {
    let it = Fixture(limits, concurrency)
    for sku in ["a", "b"] { _ = it.session.adjust("put \(sku)", sku, .setOnHand(1000)) }
    return it
  }

  private func used(_ it: Fixture, _ subject: String, _ ordinal: UInt32 = 0) -> Int64 {
    let hash = withBytes(subject) { it.store.core.keys.subjectHash($0) }
    return it.store.core.subjects.used(hash, ordinal, heldAlone: false) ?? 0
  }

  @Test("Stories of one customer", arguments: stories, ConcurrencyControl.sound)
  private func story(_ story: Story, _ concurrency: ConcurrencyControl) throws {
    let it = fixture(concurrency: concurrency)
    let session = it.session
    var ids: [String: ReservationID] = [:]
    func check(_ refusal: Refusal?, _ wanted: (Int64, Int64, Int64)?, _ step: Int) {
      var seen: (Int64, Int64, Int64)?
      if case .limitExceeded(_, let requested, let used, let maxUnits) = refusal {
        seen = (requested, used, maxUnits)
      } else {
        #expect(refusal == nil, "step \(step)")
      }
      #expect(seen.map { "\($0)" } == wanted.map { "\($0)" }, "step \(step)")
      #expect(it.store.audit() == [], "step \(step)")
    }
    for (number, step) in story.steps.enumerated() {
      switch step {
      case .reserve(let key, let lines, let limits, let wanted):
        let decision = session.reserve(key, lines, limits: limits)
        check(decision.refusal, wanted, number)
        if let id = decision.value?.id { ids[key] = id }
      case .confirm(let key, let lines, let keep, let reacquire, let wanted):
        let id = try #require(ids[key])
        let decision = session.confirm(id, lines, reacquire: reacquire, keepCommitted: keep)
        check(decision.refusal, wanted, number)
        if wanted != nil { #expect(session.reservation(id).value?.state == .expired) }
      case .release(let key):
        check(session.release(try #require(ids[key])).refusal, nil, number)
      case .replace(let key, let lines, let wanted):
        let decision = session.replace(
          "replace \(number)", Model.Replacement(try #require(ids[key]), lines))
        check(decision.refusal, wanted, number)
      case .expire: it.advance(seconds(601))
      case .has(let units): #expect(used(it, "c") == units, "step \(number)")
      }
    }
  }

  private func fixture(concurrency: ConcurrencyControl) -> Fixture {
    fixture(testLimits(), concurrency)
  }

  @Test("What is due and not ended gives back before anybody is refused")
  func dueHolds() throws {
    var limits = testLimits()
    limits.expiriesPerTurn = 1
    let it = fixture(limits)
    for number in 0..<50 { _ = it.session.reserve("\(number)", "b", 1, ttl: seconds(1)) }
    let first = it.session.reserve("x", [line("a", 2)], ttl: seconds(2), limits: two)
    let other = try #require(it.session.reserve("y", [line("b", 2)], limits: two).value?.id)
    // A turn sweeps more, the more the one before recorded.
    it.advance(0)
    it.advance(seconds(3))
    #expect(it.session.hasBacklog)
    #expect(it.session.reserve("z", [line("a", 2)], limits: two).value != nil)
    #expect(it.session.release(other).value != nil)
    #expect(try it.session.reservation(#require(first.value?.id)).value?.state == .expired)
    #expect(it.store.audit() == [])
  }

  @Test("A limit that refuses once units are back says nothing of what lacked them")
  func behindShortage() {
    var limits = testLimits()
    limits.expiriesPerTurn = 1
    let it = fixture(limits)
    for number in 0..<50 { _ = it.session.reserve("\(number)", "b", 1, ttl: seconds(1)) }
    _ = it.session.reserve("all", [line("a", 1000), line("b", 950)], ttl: seconds(2))
    it.advance(0)
    it.advance(seconds(3))
    #expect(it.session.hasBacklog)
    for _ in 0..<2 {
      let refusal = it.session.reserve("k", [line("a", 3), line("b", 3)], limits: two).refusal
      #expect(
        refusal
          == .limitExceeded(item: ItemHandle(ordinal: 0), requested: 3, used: 0, maxUnits: 2))
      #expect(it.session.refusedSubjectText == "c" && it.session.furtherRefusalCount == 0)
    }
    #expect(it.store.audit() == [])
  }

  @Test("The subject that is refused is told, again too")
  func subject() {
    let it = fixture()
    let limits = [TestLimit("card:1", 9), TestLimit("customer:4711", 1)]
    for key in ["k", "k", "other"] {
      _ = it.session.reserve("plain", "a", 1)
      let refusal = it.session.reserve(key, [line("a", 2)], limits: limits).refusal
      #expect(
        refusal
          == .limitExceeded(item: ItemHandle(ordinal: 0), requested: 2, used: 0, maxUnits: 1))
      #expect(it.session.refusedSubjectText == "customer:4711")
    }
    #expect(it.session.reservation(key: "k").refusal != nil)
    #expect(it.session.refusedSubjectText == "customer:4711")
  }

  @Test("Limits are part of the payload, in whatever order")
  func payload() {
    let it = fixture()
    let limits = [TestLimit("a", 5), TestLimit("b", 6), TestLimit("c", 7), TestLimit("d", 8)]
    func again(_ limits: [TestLimit]) -> Decision<Hold> {
      it.session.reserve("k", [line("a", 1)], limits: limits)
    }
    #expect(again(limits).value != nil)
    for other in [limits.reversed(), Array(limits[2...] + limits[..<2])] {
      #expect(again(other).replayed)
    }
    for other in [
      [], Array(limits.dropLast()), limits.dropLast() + [TestLimit("d", 9)],
      limits.dropLast() + [TestLimit("e", 8)],
      [TestLimit("a", 6), TestLimit("b", 5)] + limits[2...],
    ] {
      #expect(again(other).refusal == .idempotencyKeyReused, "\(other)")
    }
    _ = it.session.reserve("plain", "a", 1)
    #expect(
      it.session.reserve("plain", [line("a", 1)], limits: two).refusal == .idempotencyKeyReused)
  }

  @Test("A hold has a reference and limits, and each goes its way")
  func reference() throws {
    let it = fixture()
    let held = it.session.reserve("1", [line("a", 1)], reference: "cart", limits: two)
    let id = try #require(held.value?.id)
    func change(_ lines: [TestLine], _ reference: String = "") -> Refusal? {
      it.session.replace("\(reference)\(lines)", Model.Replacement(id, lines, reference: reference))
        .refusal
    }
    #expect(change([line("a", 2)], "order:1") == nil && it.session.referenceText == "order:1")
    #expect(change([line("a", 3)]) != nil)
    #expect(it.session.extend(id, ttlNanoseconds: seconds(700)).value != nil)
    #expect(change((0..<1).map { _ in line("b", 2) }) == nil && used(it, "c") == 0)
    #expect(it.store.audit() == [])
    #expect(it.session.reserve("2", [line("a", 2)], limits: two).value != nil)
    let plain = try #require(
      it.session.reserve("3", [line("a", 1)], limits: [TestLimit("d", 2)]).value)
    // One that had limits alone is found by a reference from here on.
    let named = Model.Replacement(plain.id, [line("a", 1)], reference: "order:2")
    #expect(
      it.session.replace("named", named).value != nil && it.session.referenceText == "order:2")
    #expect(it.session.replace("more", Model.Replacement(plain.id, [line("a", 3)])).refusal != nil)
    #expect(it.store.audit() == [])
    it.advance(testLimits().retentionNanoseconds + seconds(800))
    for _ in 0..<8 { it.advance(0) }
    #expect(it.store.audit() == [] && it.store.statistics().subjectEntries == 0)
  }

  @Test("Sales count when the reservation is long forgotten")
  func retention() throws {
    let it = fixture()
    let id = try #require(it.session.reserve("1", [line("a", 2)], limits: two).value?.id)
    _ = it.session.confirm(id)
    it.advance(2 * testLimits().retentionNanoseconds)
    for _ in 0..<8 { it.advance(0) }
    #expect(it.session.reservation(id).refusal == .reservationNotFound)
    #expect(it.session.reserve("2", [line("a", 1)], limits: two).refusal != nil)
    #expect(it.store.audit() == [] && it.store.statistics().subjectEntries == 1)
  }

  @Test("A full table takes no further subject, and goes on for those it has")
  func full() throws {
    var limits = testLimits()
    limits.subjectEntriesMax = 2
    let it = fixture(limits)
    func reserve(_ key: String, _ subject: String) -> Decision<Hold> {
      it.session.reserve(key, [line("a", 1)], limits: [TestLimit(subject, 3)])
    }
    let first = try #require(reserve("1", "s1").value?.id)
    #expect(reserve("2", "s2").value != nil)
    #expect(reserve("3", "s3").refusal == .tableFull(.limits))
    #expect(reserve("4", "s2").value != nil)
    #expect(it.session.release(first).value != nil)
    // Nothing was recorded: the same key is decided anew.
    #expect(reserve("3", "s3").value != nil)
    #expect(it.store.audit() == [] && it.store.statistics().subjectEntries == 2)
  }

  @Test("Whoever has no limits has no details, and no part in the journal")
  func nothing() {
    let it = fixture()
    for key in ["1", "2"] {
      let hold = it.session.reserve(key, [line("a", 1)], limits: key == "1" ? [] : two).value
      let slot = hold?.id.slot ?? .max
      #expect(it.store.core.slab[slot].liesElsewhere == (key == "2"))
    }
  }

  // MARK: At the same time

  /// Customers of whom each wants more than it may have, on all threads at once: what each got at most.
  private func mostThatAnybodyGot(
    _ concurrency: ConcurrencyControl, threads count: Int, rounds: Int
  ) throws -> Int64 {
    let store = StockStore(
      limits: testLimits(), clock: SystemClock(), concurrency: concurrency)
    let maker = store.makeSession()
    _ = maker.beginTurn()
    for sku in ["a", "b"] { _ = maker.adjust("put \(sku)", sku, .setOnHand(1 << 30)) }
    maker.endTurn()
    let customers = 8
    let bought = PaddedArray<Atomic<Int64>>(count: customers) { _ in Atomic(0) }
    defer { bought.free() }
    let ready = Atomic<Int>(0)
    let threads = try (0..<count).map { number in
      try Thread(name: "buyer-\(number)") {
        let session = store.makeSession()
        var random = SeededRandom(seed: UInt64(number))
        ready.wrappingAdd(1, ordering: .acquiringAndReleasing)
        while ready.load(ordering: .acquiring) < count {}
        for round in 0..<rounds {
          _ = session.beginTurn()
          let customer = round * customers / rounds
          let limits = [TestLimit("c\(customer)", 2)]
          let lines = random.chance(30) ? [line("b", 1), line("a", 1)] : [line("a", 1)]
          if let hold = session.reserve("\(number)-\(round)", lines, limits: limits).value {
            if random.chance(40) {
              if session.confirm(hold.id, keepCommitted: random.chance(50)).value != nil {
                bought[customer].wrappingAdd(1, ordering: .relaxed)
              }
            } else {
              _ = session.release(hold.id)
            }
          }
          session.endTurn()
        }
      }
    }
    for thread in threads { thread.join() }
    if concurrency != .uncheckedForDemonstration { #expect(store.audit() == []) }
    return (0..<customers).map { bought[$0].load(ordering: .relaxed) }.max() ?? 0
  }

  @Test("Nobody gets more than it may have", arguments: ConcurrencyControl.sound, [2, 4])
  func together(concurrency: ConcurrencyControl, threads: Int) throws {
    #expect(try mostThatAnybodyGot(concurrency, threads: threads, rounds: 1600) == 2)
  }

  @Test("Where nothing keeps them apart, somebody does")
  func unchecked() throws {
    var most: Int64 = 0
    for _ in 0..<50 where most <= 2 {
      most = try mostThatAnybodyGot(.uncheckedForDemonstration, threads: 4, rounds: 1600)
    }
    #expect(most > 2)
  }

  // MARK: Parts

  @Test("The table has what was added, however it grows and shrinks")
  func table() {
    let items = ItemTable(capacity: 4)
    let table = SubjectTable(capacity: 1 << 16, items: items)
    defer {
      table.free()
      items.free()
    }
    struct Key: Hashable {
      var subject: UInt64
      var ordinal: UInt32
    }
    var expected: [Key: Int64] = [:]
    var random = SeededRandom(seed: 7)
    for step in 0..<60_000 {
      // Grows at first, then shrinks.
      let key = Key(
        subject: UInt64(random.number(0...4000)) &* 0x2545_f491_4f6c_dd1d,
        ordinal: UInt32(random.number(0...3)))
      let subject = SubjectHash(low: key.subject, high: ~key.subject)
      let has = expected[key] ?? 0
      if step < 40_000 || has == 0 {
        #expect(table.add(subject, key.ordinal, held: 1, sold: 2, lsn: UInt64(step + 1)))
        expected[key] = has + 3
      } else {
        #expect(table.add(subject, key.ordinal, held: -has / 3, sold: -has / 3 * 2, lsn: 1))
        expected[key] = nil
      }
      #expect(table.used(subject, key.ordinal, heldAlone: false) == expected[key])
    }
    var found: [Key: Int64] = [:]
    for place in 0..<table.placeEnd {
      table.forEach(at: place) {
        found[Key(subject: $0.subject.low, ordinal: $0.ordinal)] = $0.held + $0.sold
      }
    }
    #expect(found == expected && table.count == expected.count)
    let stranger = SubjectHash(low: 1, high: 2)
    #expect(!table.add(stranger, 0, held: -1, sold: 0, lsn: 0))
    #expect(table.used(stranger, 0, heldAlone: false) == nil)
  }

  @Test("Bytes that are no limits are none")
  func text() {
    func bytes(_ maxUnits: Int64, _ length: Int, _ subject: String) -> [UInt8] {
      (0..<8).map { UInt8(truncatingIfNeeded: maxUnits >> Int64(8 * $0)) } + [UInt8(length)]
        + Array(subject.utf8)
    }
    func count(_ bytes: [UInt8]) -> Int? {
      unsafe bytes.withUnsafeBufferPointer {
        LimitReader.count(unsafe BorrowedBytes($0.baseAddress, count: $0.count))
      }
    }
    let good = bytes(2, 1, "c")
    #expect(count([]) == 0 && count(good) == 1 && count(good + good) == 2)
    #expect(count(Array((0..<4).map { _ in good }.joined())) == 4)
    #expect(count(bytes(1 << 40, 64, String(repeating: "x", count: 64))) == 1)
    for bad in [
      Array((0..<5).map { _ in good }.joined()), Array(good.dropLast()), good + [0], [1],
      bytes(0, 1, "c"), bytes(-1, 1, "c"), bytes(1 << 40 + 1, 1, "c"), bytes(.min, 1, "c"),
      bytes(2, 0, ""), bytes(2, 65, String(repeating: "x", count: 65)), bytes(2, 2, "c"),
      bytes(2, 255, "c"),
    ] {
      #expect(count(bad) == nil, "\(bad)")
    }
    var text = LimitText()
    defer { text.free() }
    withBytes("customer:4711") { text.append(SubjectLimit(subject: $0, maxUnits: 1 << 39 + 5)) }
    var reader = LimitReader(text.bytes)
    let limit = reader.next()
    #expect(limit?.maxUnits == 1 << 39 + 5 && limit?.subject.count == 13)
    #expect(reader.next() == nil)
  }
}
