// Rows of an import: each by itself, none twice, and how far it is.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

private func row(
  _ sku: String, _ change: AdjustCommand.Change, check: AdjustCommand.Check = .none
) -> Model.Adjustment {
  Model.Adjustment(sku: sku, change: change, check: check, reason: "")
}

@Suite("ImportStock")
struct ImportTests {
  @Test("Each row is decided by itself", arguments: ConcurrencyControl.sound)
  func eachByItself(_ concurrency: ConcurrencyControl) {
    let it = Fixture(testLimits(items: 4), concurrency)
    _ = it.session.adjust("a", "a", .setOnHand(5))
    _ = it.session.reserve("r", "a", 3)
    let (a, b) = (ItemHandle(ordinal: 0), ItemHandle(ordinal: 1))
    let decision = it.session.importRows(
      "i", firstRow: 0,
      [
        row("a", .setOnHand(2)), row("b", .delta(7)), row("c", .delta(-1)), row("d", .ship(1)),
        row("e", .delta(1), check: .version(1)), row("f", .delta((1 << 40) + 1)),
        row("g", .setOnHand(1)),
        row("h", .setOnHand(1)),
      ])
    #expect(
      it.session.answer(decision, of: 8)
        == .imported(
          next: 8,
          [
            .insufficientStock(item: a, requested: 3, available: 2), nil, .itemNotFound(line: 0),
            .itemNotFound(line: 0), .versionMismatch(current: 0), .onHandLimit, nil,
            .tableFull(.items),
          ]))
    #expect(decision.value == ImportProgress(nextRow: 8, changed: 2))
    #expect(it.session.level("b")?.item == b && it.session.level("b")?.onHand == 7)
    #expect(it.session.level("a")?.onHand == 5 && it.session.level("a")?.version == 2)
    #expect(it.session.level("f") == nil && it.store.audit() == [])
  }

  @Test(
    "Rows that are done are not done again, and none is left out",
    arguments: ConcurrencyControl.sound)
  func progress(_ concurrency: ConcurrencyControl) {
    let it = Fixture(testLimits(), concurrency)
    let rows = [row("a", .delta(1)), row("b", .delta(1))]
    #expect(it.session.importedRows("i").rows == 0)
    #expect(it.session.importRows("i", firstRow: 1, rows).refusal == .importGap(next: 0))
    #expect(it.session.importRows("i", firstRow: 0, rows).value?.nextRow == 2)
    for first: UInt64 in [0, 1] {
      let again = it.session.importRows("i", firstRow: first, rows)
      #expect(again.value == ImportProgress(nextRow: 2, changed: nil) && again.replayed)
    }
    #expect(it.session.importRows("i", firstRow: 3, rows).refusal == .importGap(next: 2))
    #expect(it.session.importRows("i", firstRow: 2, rows).value?.nextRow == 4)
    // Another's import of the same name, and another one, are others.
    #expect(it.session.importedRows("i", caller: "shop").rows == 0)
    #expect(it.session.importRows("j", firstRow: 0, rows).value?.nextRow == 2)
    #expect(it.session.importedRows("i").rows == 4 && it.session.level("a")?.onHand == 3)
    // Keys of other methods are others.
    #expect(it.session.adjust("i", "a", .delta(1)).replayed == false)
    #expect(it.store.audit() == [])
  }

  @Test("It is remembered from its last row on")
  func retention() {
    var limits = testLimits()
    limits.retentionNanoseconds = seconds(10)
    let it = Fixture(limits)
    for round in 0..<5 {
      #expect(
        it.session.importRows("i", firstRow: UInt64(round), [row("a", .delta(1))]).value?.nextRow
          == UInt64(round + 1))
      it.advance(seconds(9))
      #expect(it.store.audit() == [])
    }
    it.advance(seconds(2))
    #expect(it.session.importedRows("i").rows == 0)
    #expect(
      it.session.importRows("i", firstRow: 5, [row("a", .delta(1))]).refusal == .importGap(next: 0))
  }

  @Test("All rows refused, and a table of decisions that is full")
  func nothingChanged() {
    let it = Fixture(testLimits(reservations: 2))
    #expect(
      it.session.importRows("i", firstRow: 0, [row("x", .delta(-1))]).value
        == ImportProgress(nextRow: 1, changed: 0))
    _ = it.session.adjust("a", "a", .setOnHand(9))
    // Both places are live holds' now: what was known of the import had to go.
    for key in ["1", "2"] { #expect(it.session.reserve(key, "a", 1).value != nil) }
    #expect(
      it.session.importRows("i", firstRow: 1, [row("a", .delta(1))]).refusal == .importGap(next: 0))
    #expect(
      it.session.importRows("i", firstRow: 0, [row("a", .delta(1))]).refusal
        == .tableFull(.reservations))
    #expect(it.store.audit() == [])
  }

  /// Two streams of one import at once: whoever finds a row done goes on behind it.
  @Test(arguments: ConcurrencyControl.sound)
  func twoStreams(_ concurrency: ConcurrencyControl) throws {
    let store = StockStore(
      limits: testLimits(), clock: SystemClock(), concurrency: concurrency, secret: (1, 2))
    let threads = try (0..<3).map { number in
      try Thread(name: "importer") {
        let session = store.makeSession()
        var next: UInt64 = 0
        while next < 600 {
          _ = session.beginTurn()
          let count = min(4, 600 - Int(next))
          let rows = (0..<count).map { row("s\((Int(next) + $0) % 6)", .delta(1)) }
          let decision = session.importRows("i", firstRow: next, rows)
          next = decision.value?.nextRow ?? 600
          _ = session.reserve("\(number) \(next)", "s1", 1, ttl: seconds(100))
          session.endTurn()
        }
      }
    }
    for thread in threads { thread.join() }
    let session = store.makeSession()
    _ = session.beginTurn()
    for index in 0..<6 { #expect(session.level("s\(index)")?.onHand == 100) }
    #expect(session.importedRows("i").rows == 600 && store.audit() == [])
    session.endTurn()
  }
}
