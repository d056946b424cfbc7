// Several changes of stock in one command: all or none, under one key.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

private typealias Adjustment = Model.Adjustment

private struct BatchCase: Sendable, CustomTestStringConvertible {
  var name: String
  var changes: [Model.Adjustment]
  /// nil: all are made.
  var refusal: Refusal?
  var change: Int?
  var isRecorded = true

  var testDescription: String { name }
}

/// "a" has 10 on hand, 3 of them held and 2 committed; "b" has 5.
private let (a, b) = (ItemHandle(ordinal: 0), ItemHandle(ordinal: 1))

private func change(
  _ sku: String, _ change: AdjustCommand.Change, check: AdjustCommand.Check = .none,
  safetyStock: Int64? = nil, short: Bool = false
) -> Model.Adjustment {
  Adjustment(
    sku: sku, change: change, safetyStock: safetyStock, check: check, allowsShortage: short,
    reason: "")
}

private let cases: [BatchCase] = [
  .init(name: "transfer", changes: [change("a", .delta(-5)), change("b", .delta(5))]),
  .init(
    name: "more than is there", changes: [change("b", .delta(6)), change("a", .delta(-6))],
    refusal: .insufficientStock(item: a, requested: 6, available: 5), change: 1),
  .init(
    name: "delivery of known and new",
    changes: [change("a", .delta(1)), change("c", .delta(7)), change("d", .setOnHand(4))]),
  .init(
    name: "shipped", changes: [change("a", .ship(2)), change("b", .none, safetyStock: -2)]),
  .init(
    name: "more shipped than committed", changes: [change("b", .delta(1)), change("a", .ship(3))],
    refusal: .insufficientCommitted(item: a, requested: 3, committed: 2), change: 1),
  .init(
    name: "cancelled", changes: [change("a", .uncommit(2)), change("b", .delta(0))]),
  .init(
    name: "unknown", changes: [change("a", .delta(1)), change("c", .delta(-1))],
    refusal: .itemNotFound(line: 1), change: 1),
  .init(
    name: "unknown before what lacks units",
    changes: [change("a", .delta(-9)), change("c", .uncommit(1))],
    refusal: .itemNotFound(line: 1), change: 1),
  .init(
    name: "too many", changes: [change("a", .delta(1)), change("b", .delta(1 << 40))],
    refusal: .onHandLimit, change: 1),
  .init(
    name: "another version",
    changes: [change("a", .delta(1)), change("b", .delta(1), check: .version(9))],
    refusal: .versionMismatch(current: 1), change: 1, isRecorded: false),
  .init(
    name: "made by now", changes: [change("a", .delta(1), check: .version(0))],
    refusal: .versionMismatch(current: 4), change: 0, isRecorded: false),
  .init(
    name: "not there yet",
    changes: [change("b", .delta(1)), change("c", .delta(1), check: .version(1))],
    refusal: .versionMismatch(current: 0), change: 1, isRecorded: false),
  .init(
    name: "counted otherwise",
    changes: [
      change("b", .setOnHand(4), check: .onHand(5)), change("a", .setOnHand(9), check: .onHand(8)),
    ],
    refusal: .onHandMismatch(current: 10), change: 1, isRecorded: false),
  .init(
    name: "counted short",
    changes: [
      change("b", .setOnHand(4), check: .onHand(5)), change("a", .setOnHand(1), short: true),
    ]),
]

@Suite("BatchAdjustStock")
struct AdjustTogetherTests {
  private func shelf(_ concurrency: ConcurrencyControl) -> Fixture {
    let it = Fixture(testLimits(items: 8), concurrency)
    _ = it.session.adjust("a", "a", .setOnHand(10))
    _ = it.session.adjust("b", "b", .setOnHand(5))
    _ = it.session.reserve("held", "a", 3)
    if let sold = it.session.reserve("sold", "a", 2).value {
      _ = it.session.confirm(sold.id, keepCommitted: true)
    }
    return it
  }

  private func levels(_ it: Fixture) -> [StockLevel?] {
    ["a", "b", "c", "d"].map { it.session.level($0) }
  }

  @Test("All or none, and the same answer again", arguments: cases, ConcurrencyControl.sound)
  fileprivate func table(_ test: BatchCase, _ concurrency: ConcurrencyControl) {
    let it = shelf(concurrency)
    let changes = test.changes
    let before = levels(it)
    // Alone, each of these does what it does together: none is of an item of another.
    let alone = shelf(concurrency)
    let expected = changes.indices.map { alone.session.adjust("alone\($0)", changes[$0]).value }
    let batch = Model.Batch(changes, reference: "order:1", reason: "because")
    let decision = it.session.adjustTogether("key", batch)
    let answer = it.session.answerTogether(decision)
    if let refusal = test.refusal {
      #expect(answer == .refusedTogether(refusal, change: test.change))
      #expect(levels(it) == before, "nothing has changed")
    } else {
      #expect(answer == .levels(expected.compactMap { $0 }) && !decision.replayed)
      for (change, level) in zip(changes, expected) {
        #expect(it.session.level(change.sku)?.balances == level?.balances)
      }
    }
    _ = it.session.adjust("other", "b", .delta(1))
    let again = it.session.adjustTogether("key", batch)
    #expect(again.replayed == test.isRecorded)
    if test.isRecorded {
      #expect(it.session.answerTogether(again) == answer && again.lsn == decision.lsn)
      for other in [
        Model.Batch(changes.reversed(), reference: "order:1", reason: "because"),
        Model.Batch(changes, reference: "order:2", reason: "because"),
        Model.Batch(changes, reference: "order:1", reason: "other"),
        Model.Batch(changes + [change("e", .delta(1))], reference: "order:1", reason: "because"),
      ] where other != batch {
        let reused = it.session.adjustTogether("key", other)
        #expect(reused.refusal == .idempotencyKeyReused && !reused.replayed)
        #expect(it.session.refusedChange == nil)
      }
    }
    #expect(it.store.audit() == [])
  }

  @Test("64 items, and what is one too many")
  func bounds() {
    let it = Fixture()
    let many = (0..<64).map { change("s\($0)", .setOnHand(Int64($0))) }
    guard
      case .levels(let levels) = it.session.answerTogether(
        it.session.adjustTogether("many", Model.Batch(many)))
    else {
      Issue.record("64 changes are refused")
      return
    }
    #expect(levels.map(\.onHand) == (0..<64).map { Int64($0) })
    // The keys of other methods are others.
    #expect(it.session.adjust("many", "s0", .delta(1)).replayed == false)
    it.session.clearChanges()
    func append(_ sku: String, _ location: String = "") -> StoreSession.AppendedChange {
      withName(sku, location) {
        it.session.appendChange(
          AdjustCommand(
            scope: IdempotencyScope(caller: .empty, key: .empty), item: $0, change: .delta(1),
            safetyStock: nil, check: .none, reason: .empty))
      }
    }
    #expect(
      append("s0") == .appended && append("s0") == .sameItem && append("s0", "x") == .appended)
    for index in 2..<64 { #expect(append("t\(index)") == .appended) }
    #expect(append("one more") == .full)
    it.session.clearChanges()
    let long = String(repeating: "l", count: 62)
    for index in 10..<34 {
      #expect(append("\(index)" + long, String(repeating: "l", count: 64)) == .appended)
    }
    #expect(append("a") == .namesTooLong)
    it.session.clearChanges()
  }

  @Test("An item table that has no room for all takes none", arguments: ConcurrencyControl.sound)
  func fullTable(_ concurrency: ConcurrencyControl) {
    let it = Fixture(testLimits(items: 3), concurrency)
    let changes = (0..<4).map { change("s\($0)", .delta(1)) }
    let decision = it.session.adjustTogether("key", Model.Batch(changes))
    #expect(decision.refusal == .tableFull(.items) && it.session.refusedChange == 3)
    #expect(it.session.level("s0") == nil && it.store.audit() == [])
    #expect(it.session.adjustTogether("key", Model.Batch(Array(changes.prefix(3)))).value == 3)
  }

  @Test("An answer goes after its retention, with its block, and the slot is used again")
  func forgotten() {
    var limits = testLimits(items: 70, reservations: 3)
    limits.retentionNanoseconds = seconds(10)
    let it = Fixture(limits)
    for round in 0..<40 {
      let changes = (0..<(round % 64 + 1)).map { change("s\($0)", .delta(1)) }
      #expect(it.session.adjustTogether("k\(round)", Model.Batch(changes)).value == changes.count)
      _ = it.session.reserve("r\(round)", "s0", 1, ttl: seconds(1))
      it.advance(round % 3 == 0 ? seconds(11) : 1)
      #expect(it.store.audit() == [])
    }
  }

  /// Two sessions move units to and fro between three items in different orders: none is lost, and nobody sees
  /// more or fewer at a moment than there are.
  @Test(arguments: ConcurrencyControl.sound)
  func atTheSameTime(_ concurrency: ConcurrencyControl) throws {
    let store = StockStore(
      limits: testLimits(), clock: SystemClock(), concurrency: concurrency, secret: (1, 2))
    let first = store.makeSession()
    _ = first.beginTurn()
    let skus = ["a", "b", "c"]
    for sku in skus { _ = first.adjust("make " + sku, sku, .setOnHand(1000)) }
    first.endTurn()
    let threads = try (0..<3).map { number in
      try Thread(name: "mover") {
        let session = store.makeSession()
        var random = SeededRandom(seed: UInt64(number))
        for round in 0..<400 {
          _ = session.beginTurn()
          let from = random.number(0...2)
          let to = (from + random.number(1...2)) % 3
          let units = random.number(Int64(1)...5)
          var changes = [change(skus[from], .delta(-units)), change(skus[to], .delta(units))]
          if random.chance(50) { changes.reverse() }
          _ = session.adjustTogether("\(number) \(round)", Model.Batch(changes))
          _ = session.reserve("r\(number) \(round)", skus[to], 1, ttl: seconds(100))
          session.endTurn()
        }
      }
    }
    for thread in threads { thread.join() }
    _ = first.beginTurn()
    let sum = skus.compactMap { first.level($0)?.onHand }.reduce(0, +)
    #expect(sum == 3000 && store.audit() == [])
    first.endTurn()
  }

  // MARK: The record

  private func onHandBefore(_ change: AdjustCommand.Change, after: Int64) -> Int64 {
    switch change {
    case .delta(let units): after - units
    case .ship(let units): after + units
    case .setOnHand: 77
    case .none, .uncommit: after
    }
  }

  private func adjustment(_ index: Int, longest: Bool) -> (GroupedAdjustment, GroupChange) {
    let makesItem = index % 3 == 0
    let units: Int64 = longest ? 1 << 40 : Int64(index)
    let kinds: [AdjustCommand.Change] = [
      .none, .delta(makesItem ? units : -units), .setOnHand(units), .ship(units), .uncommit(units),
    ]
    let kind = makesItem ? kinds[[1, 2][index % 2]] : kinds[index % 5]
    let checks: [AdjustCommand.Check] =
      makesItem
      ? [.none, .version(0), .onHand(0)] : [.none, .version(longest ? .max >> 2 : 7), .onHand(0)]
    var check = checks[index % checks.count]
    if case .onHand = check, !makesItem { check = .onHand(onHandBefore(kind, after: units)) }
    let asked: Int64? = index % 2 == 0 ? -units : nil
    var expected = GroupChange()
    expected.change = kind
    expected.check = check
    expected.safetyStockAsked = asked
    expected.allowsShortage = index % 4 == 1
    var version: UInt64 = longest ? .max >> 2 : 8
    if case .version(let before) = check { version = before + 1 }
    expected.level = StockLevel(
      item: ItemHandle(ordinal: longest ? .max - UInt32(index) : UInt32(index)),
      onHand: units, held: makesItem ? 0 : longest ? 1 << 46 : 3,
      committed: makesItem ? 0 : longest ? 1 << 46 : 2,
      safetyStock: asked ?? (longest ? -(1 << 46) : -4), version: version)
    if makesItem && asked == nil {
      expected.level = StockLevel(
        item: expected.level.item, onHand: units, held: 0, committed: 0, safetyStock: 0,
        version: version)
    }
    expected.safetyStockBefore = makesItem || asked == nil ? nil : longest ? 1 << 46 : 5
    var grouped = GroupedAdjustment(
      AdjustCommand(
        scope: IdempotencyScope(caller: .empty, key: .empty),
        item: ItemName(sku: .empty, location: .empty), change: kind, safetyStock: asked,
        check: check, allowsShortage: expected.allowsShortage, reason: .empty), hash: 0)
    grouped.before = StockLevel(
      item: expected.level.item, onHand: 0, held: 0, committed: 0,
      safetyStock: expected.safetyStockBefore ?? expected.level.safetyStock,
      version: makesItem ? 0 : 9)
    grouped.after = expected.level
    return (grouped, expected)
  }

  @Test("What a group's record says is what was written", arguments: [1, 2, 7, 62], [false, true])
  func record(count: Int, longest: Bool) {
    var record = RecordWriter()
    // With the names: as long as they may be together, or one of each length.
    let nameBytes = longest ? 64 : 3
    withScope(
      String(repeating: "k", count: 64), caller: String(repeating: "c", count: longest ? 64 : 0)
    ) { scope in
      withBytes(String(repeating: "r", count: longest ? 256 : 9)) { reason in
        withName(
          String(repeating: "s", count: nameBytes), String(repeating: "l", count: nameBytes)
        ) { name in
          withBytes(String(repeating: "o", count: longest ? 64 : 0)) { reference in
            var group = AdjustmentGroup()
            defer { group.free() }
            group.scope = scope
            group.reason = reason
            group.reference = reference
            (group.slot, group.generation, group.fingerprint) = (7, 8, 9)
            record.beginGroup(group, time: 5)
            for index in 0..<count {
              var (grouped, _) = adjustment(index, longest: longest)
              let command = grouped.command
              grouped.command = AdjustCommand(
                scope: command.scope, item: name, change: command.change,
                safetyStock: command.safetyStock, check: command.check,
                allowsShortage: command.allowsShortage, reason: .empty)
              record.append(grouped)
            }
            record.endGroup(group)
          }
        }
      }
    }
    var isRead = false
    if let record = unsafe JournalRecord(record.bytes) {
      isRead = true
      #expect(record.kind == .adjustedTogether && record.changeCount == count)
      #expect(record.lineCount == 0 && record.byteCount <= RecordWriter.byteCountMax)
      #expect(record.key.count == 64 && record.reason.count == (longest ? 256 : 9))
      #expect(record.reference.count == (longest ? 64 : 0))
      #expect((record.slot, record.generation, record.fingerprint) == (7, 8, 9))
      var index = 0
      record.forEachChange { change in
        let (grouped, expected) = adjustment(index, longest: longest)
        #expect(change.level == expected.level && change.change == expected.change)
        #expect(change.check == expected.check, "\(index)")
        #expect(change.safetyStockAsked == expected.safetyStockAsked)
        #expect(change.safetyStockBefore == expected.safetyStockBefore)
        #expect(change.allowsShortage == expected.allowsShortage)
        #expect((change.name != nil) == grouped.makesItem)
        if let name = change.name { #expect(name.byteCount == 2 * nameBytes) }
        index += 1
      }
      #expect(index == count)
    }
    #expect(isRead)
  }

  /// As long as it can be: the names of some that are made, and for all others the largest numbers.
  @Test("The longest record of all has room", arguments: 0...64)
  func longestRecord(made: Int) {
    var record = RecordWriter()
    // Each has a byte at least, and no more than two names have.
    let most = min(128 * made, StoreLimits.adjustedNameBytesMax(lines: 64) - (64 - made))
    withScope(String(repeating: "k", count: 64), caller: String(repeating: "c", count: 64)) {
      scope in
      withBytes(String(repeating: "r", count: 500)) { reason in
        withBytes(String(repeating: "o", count: 64)) { reference in
          var group = AdjustmentGroup()
          defer { group.free() }
          (group.scope, group.reason, group.reference) = (scope, reason, reference)
          record.beginGroup(group, time: 5)
          for index in 0..<64 {
            let bytes = index < made ? most / made + (index < most % made ? 1 : 0) : 1
            let sku = String(repeating: "s", count: min(64, bytes))
            withName(sku, String(repeating: "l", count: max(0, bytes - 64))) { name in
              let change: AdjustCommand.Change =
                index % 2 == 0 ? .delta(-1 << 40) : .setOnHand(1 << 40)
              var grouped = GroupedAdjustment(
                AdjustCommand(
                  scope: scope, item: name, change: change, safetyStock: -(1 << 40),
                  check: .onHand(1 << 40), reason: .empty), hash: 0)
              grouped.before = StockLevel(
                item: ItemHandle(ordinal: .max), onHand: 0, held: 0, committed: 0,
                safetyStock: -(1 << 46), version: index < made ? 0 : 1)
              grouped.after = StockLevel(
                item: ItemHandle(ordinal: .max), onHand: 1 << 40,
                held: index < made ? 0 : 1 << 46, committed: index < made ? 0 : 1 << 46,
                safetyStock: -(1 << 40), version: .max >> 1)
              record.append(grouped)
            }
          }
          record.endGroup(group)
        }
      }
    }
    let count = unsafe record.bytes.count
    #expect(count <= RecordWriter.byteCountMax)
    // It is no larger than it need be.
    #expect(made != 24 || count > RecordWriter.byteCountMax - 100, "\(count)")
    let isRecord = unsafe JournalRecord(record.bytes) != nil
    #expect(isRecord)
  }

  @Test("A group's record that was cut, or says another number, is none")
  func harmedRecord() {
    var record = RecordWriter()
    withScope("key", caller: "") { scope in
      var group = AdjustmentGroup()
      defer { group.free() }
      group.scope = scope
      record.beginGroup(group, time: 5)
      for index in 1..<3 { record.append(adjustment(index, longest: false).0) }
      record.endGroup(group)
    }
    let whole = unsafe Array(record.bytes)
    func isRecord(_ bytes: [UInt8]) -> Bool {
      unsafe bytes.withUnsafeBytes { unsafe JournalRecord($0) != nil }
    }
    #expect(isRecord(whole))
    for (name, offset, value): (String, Int, UInt8) in [
      ("none", 5, 0), ("one", 5, 1), ("three", 5, 3), ("65", 5, 65),
      ("fewer bytes", 40, whole[40] - 1),
      ("more bytes", 40, whole[40] + 1), ("a change that there is not", 51, 5),
    ] {
      var bytes = whole
      bytes[offset] = value
      #expect(!isRecord(bytes), "\(name)")
    }
  }
}
