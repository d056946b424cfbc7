// Numbers that no store can have written, under checksums that are right: whatever they are, they are damage
// with its place, and never a trap.
import Bytes
import Log
import LogFixtures
import Posix
import Simulation
import Testing

@testable import StockStore
@testable import StorePersistence

/// One field of a file, and what it becomes.
struct Forgery: CustomTestStringConvertible, Sendable {
  var offset: Int
  var byteCount: Int
  var value: UInt64

  var testDescription: String { "\(value) at \(offset)" }
}

/// Reads a directory, by its name.
typealias Opening = (String, @Sendable (SimulatedStorage) throws(JournalError) -> Void)

@Suite("Forged numbers")
struct ForgedNumberTests {
  private static let largest = UInt64(Int64.max)
  private static let smallest = UInt64(bitPattern: Int64.min)

  private static func each(_ offset: Int, _ byteCount: Int, _ values: UInt64...) -> [Forgery] {
    values.map { Forgery(offset: offset, byteCount: byteCount, value: $0) }
  }

  static let headerForgeries: [Forgery] =
    [
      each(4, 4, 0, 3, 128, UInt64(UInt32.max)),
      each(40, 8, 0, 4096, 8200, 1 << 33, 1 << 62, largest, .max),
      each(48, 8, 0, 1 << 63, .max),
      each(56, 8, 0, 8, 4097, 1 << 40, largest, .max),
      each(64, 8, 8, .max),
      each(72, 8, 1 << 63, .max),
      each(80, 4, UInt64(UInt32.max)),
      each(84, 4, 1 << 30 + 1, UInt64(UInt32.max)),
      each(88, 8, largest, smallest, .max),
      each(96, 8, 1 << 40, .max),
      each(104, 8, 1 << 40, .max),
      each(112, 8, smallest, .max),
      each(120, 8, .max),
      each(128, 8, 0, 1 << 63, .max),
    ].flatMap { $0 }

  static let endForgeries: [Forgery] =
    [
      each(0, 8, .max),
      each(8, 8, .max),
      each(16, 8, .max),
      each(24, 8, 0, 1 << 63, .max),
      each(32, 8, 0, largest, .max),
      each(40, 8, 1, .max),
      each(48, 8, largest, smallest, .max),
    ].flatMap { $0 }

  static let salesForgeries: [Forgery] =
    [
      each(16, 4, 2, UInt64(UInt32.max)),
      each(20, 4, 1),
      each(24, 8, 0, 1 << 49, largest, smallest),
      each(32, 8, 0, 1 << 63, .max),
    ].flatMap { $0 }

  static let itemForgeries: [Forgery] =
    [
      each(0, 4, UInt64(UInt32.max) - 1),
      each(4, 1, 0, 255),
      // A sale window that is not there, and flags that nobody knows.
      each(6, 2, 2, 8, 0xffff),
      each(8, 8, 0, .max),
      each(16, 8, 1 << 47, largest, smallest, .max),
      each(24, 8, 1 << 47, largest, smallest, .max),
      // A safety stock may be below zero, within bounds.
      each(32, 8, 1 << 47, largest, smallest, UInt64(bitPattern: -1 << 47)),
      each(40, 8, 1 << 63, .max),
    ].flatMap { $0 }

  static let slotForgeries: [Forgery] =
    [
      each(32, 8, largest, smallest, .max),
      each(40, 8, largest, smallest),
      each(48, 8, largest, smallest),
      each(56, 8, largest),
      each(64, 8, 1 << 63, .max),
    ].flatMap { $0 }

  /// A directory whose checkpoint has slots of many kinds, and whose journal goes on behind it.
  private func files() throws -> (files: [String: [UInt8]], checkpoint: String) {
    let running = try JournaledStore(testLimits(items: 300), seed: 5)
    let session = running.session
    _ = session.beginTurn()
    for sku in ["a", "b"] { _ = session.adjust("stock-\(sku)", sku, .setOnHand(100)) }
    let ids = ["held", "confirmed", "released"].compactMap {
      session.reserve($0, [TestLine(sku: "a", quantity: 2)]).value?.id
    }
    _ = session.confirm(ids[1])
    _ = session.release(ids[2])
    _ = session.reserve("much", ["a", "b"].map { TestLine(sku: $0, quantity: 1000) })
    _ = session.importRows(
      "import", firstRow: 0, [Model.Adjustment(sku: "a", change: .delta(1), reason: "")])
    session.endTurn()
    try running.settle()
    try running.makeCheckpoint {}
    let files = running.copyOfFiles().files
    return (files, try #require(files.keys.filter { FileNames.checkpointLSN($0) != nil }.max()))
  }

  private func expectDamaged(_ files: [String: [UInt8]], _ place: String) {
    for (name, open) in Self.openings {
      do throws(JournalError) {
        try open(SimulatedStorage(files: files))
        Issue.record("\(place): \(name) accepts it")
      } catch {
        if case .damaged = error { continue }
        Issue.record("\(place): \(name) says \(error)")
      }
    }
  }

  /// Whoever reads a directory.
  static let openings: [Opening] = [
    (
      "verify",
      { @Sendable (storage) throws(JournalError) in _ = try StockStore.verify(storage: storage) }
    ),
    (
      "serve",
      { @Sendable (storage) throws(JournalError) in
        _ = try StockStore.open(
          storage: storage, limits: testLimits(items: 300), options: testOptions(), secret: (1, 2),
          makeClock: { _ in ManualClock() })
      }
    ),
  ]

  @Test(
    "Of a checkpoint's header",
    arguments: headerForgeries)
  func header(forgery: Forgery) throws {
    var (files, name) = try files()
    CheckpointBytes.put(
      forgery.value, forgery.byteCount, at: BlockHeader.byteCount + forgery.offset,
      &files[name, default: []])
    CheckpointBytes.repairChecksums(&files[name, default: []])
    expectDamaged(files, "header")
  }

  @Test(
    "Of a checkpoint's place in the log", arguments: [1 << 62 | 8, 1 << 63, .max, 12] as [UInt64])
  func place(lsn: UInt64) throws {
    var (files, name) = try files()
    var bytes = try #require(files[name])
    CheckpointBytes.setLSN(lsn, &bytes)
    let end = try #require(CheckpointBytes.block(.end, bytes))
    CheckpointBytes.put(lsn, 8, at: end + BlockHeader.byteCount + 24, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = nil
    files[FileNames.checkpoint(lsn)] = bytes
    expectDamaged(files, "place")
  }

  @Test(
    "Of a checkpoint's end",
    arguments: endForgeries)
  func end(forgery: Forgery) throws {
    var (files, name) = try files()
    var bytes = try #require(files[name])
    let place = try #require(CheckpointBytes.block(.end, bytes)) + BlockHeader.byteCount
    CheckpointBytes.put(forgery.value, forgery.byteCount, at: place + forgery.offset, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = bytes
    expectDamaged(files, "end")
  }

  @Test(
    "Of an item",
    arguments: itemForgeries)
  func item(forgery: Forgery) throws {
    var (files, name) = try files()
    var bytes = try #require(files[name])
    let place = try #require(CheckpointBytes.block(.items, bytes)) + BlockHeader.byteCount
    CheckpointBytes.put(forgery.value, forgery.byteCount, at: place + forgery.offset, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = bytes
    // An item beyond the cap is a matter of --max-items.
    if forgery.offset == 0 {
      #expect(throws: JournalError.self) {
        try StockStore.verify(storage: SimulatedStorage(files: files))
      }
    } else {
      expectDamaged(files, "item")
    }
  }

  @Test(
    "Of what was sold under a limit",
    arguments: salesForgeries)
  func sales(forgery: Forgery) throws {
    let running = try JournaledStore(testLimits(items: 300), seed: 5)
    let session = running.session
    _ = session.beginTurn()
    for sku in ["a", "b"] { _ = session.adjust("stock-\(sku)", sku, .setOnHand(100)) }
    let cart = [TestLine(sku: "a", quantity: 2)]
    let hold = session.reserve("k", cart, limits: [TestLimit("c", 3)]).value
    _ = session.confirm(try #require(hold?.id))
    _ = session.reserve("over", cart, limits: [TestLimit("c", 3)])
    session.endTurn()
    try running.settle()
    try running.makeCheckpoint {}
    let whole = try StockStore.verify(storage: running.copyOfFiles())
    #expect(whole.digest == running.digest)
    var files = running.copyOfFiles().files
    let name = try #require(files.keys.filter { FileNames.checkpointLSN($0) != nil }.max())
    var bytes = try #require(files[name])
    let place = try #require(CheckpointBytes.block(.sales, bytes)) + BlockHeader.byteCount
    CheckpointBytes.put(forgery.value, forgery.byteCount, at: place + forgery.offset, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = bytes
    expectDamaged(files, "sales")
  }

  /// The kinds that have these numbers, and where in the slot they stand.
  @Test(
    "Of a slot",
    arguments: [
      RecordKind.held, .confirmed, .released, .refusedInsufficientStock, .adjusted, .imported,
    ], slotForgeries)
  func slot(kind: RecordKind, forgery: Forgery) throws {
    // What is no owner of a live hold means that it is unknown.
    if kind == .held, forgery.offset == 56 { return }
    var (files, name) = try files()
    var bytes = try #require(files[name])
    let place = try #require(CheckpointBytes.slots(bytes)[kind])
    CheckpointBytes.put(forgery.value, forgery.byteCount, at: place + forgery.offset, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = bytes
    expectDamaged(files, "slot of \(kind)")
  }

  /// The items of a refusal and of an adjustment are not looked up before somebody asks again.
  @Test(
    "Of the item that a decision tells of",
    arguments: [RecordKind.held, .refusedInsufficientStock, .adjusted])
  func itemOfADecision(kind: RecordKind) throws {
    var (files, name) = try files()
    var bytes = try #require(files[name])
    let place = try #require(CheckpointBytes.slots(bytes)[kind])
    CheckpointBytes.put(UInt64(UInt32.max), 4, at: place + 72, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = bytes
    expectDamaged(files, "item of \(kind)")
  }

  // MARK: The journal

  /// What one record says; each field as it can be, until a test changes it.
  struct Numbers: Sendable {
    var time: Int64 = 1000
    var expiresAt: Int64 = 2000
    var requested: Int64 = 60
    var available: Int64 = 40
    var onHand: Int64 = 50
    var safetyStock: Int64 = 0
    var item: UInt32 = 0
    var batchTime: Int64 = 1000
    var run: UInt32 = 1
    var choice: UInt8?
    var alternativesTried: UInt8?
  }

  /// A journal that makes item 0, holds a unit of it, refuses for lack of it and adjusts it, and says what
  /// time it is.
  private func journal(_ numbers: Numbers) throws -> MemoryStorage {
    var journal = TestJournal()
    func level(_ version: UInt64, onHand: Int64, held: Int64) -> StockLevel {
      StockLevel(
        item: ItemHandle(ordinal: 0), onHand: onHand, held: held, committed: 0,
        safetyStock: version == 3 ? numbers.safetyStock : 0, version: version)
    }
    func adjust(_ key: String, _ slot: UInt32, _ level: StockLevel, isNew: Bool) -> [UInt8] {
      var record = RecordWriter()
      withScope(key, caller: "") { scope in
        withName("sku", "") { name in
          record.beginAdjusted(
            AdjustCommand(
              scope: scope, item: name, change: .delta(1), safetyStock: nil, check: .none,
              reason: .empty),
            time: numbers.time, slot: slot, generation: 1, fingerprint: 1, level: level,
            name: isNew ? name : nil)
        }
      }
      return unsafe Array(record.bytes)
    }
    journal.append(
      adjust("make", 0, level(1, onHand: 50, held: 0), isNew: true), run: numbers.run,
      recordCount: 1, time: numbers.batchTime)
    var held = RecordWriter()
    withScope("hold", caller: "") {
      held.beginHeld(
        time: numbers.time, slot: 1, generation: 1, fingerprint: 1, expiresAt: numbers.expiresAt,
        lineCount: 1, scope: $0)
    }
    held.setLine(0, ordinal: 0, quantity: 1, version: 2, onHand: 50, held: 1)
    if let choice = numbers.choice { held.append(.choice, byte: choice) }
    journal.append(
      unsafe Array(held.bytes), run: numbers.run, recordCount: 1, time: numbers.batchTime)
    let changes = WriteSet(capacity: 1)
    defer { changes.free() }
    let further = RefusalList(capacity: 1)
    defer { further.free() }
    var refused = RecordWriter()
    withScope("refuse", caller: "") {
      refused.beginRefused(
        .reserve,
        .insufficientStock(
          item: ItemHandle(ordinal: numbers.item), requested: numbers.requested,
          available: numbers.available),
        time: numbers.time, slot: 2, generation: 1, fingerprint: 1, scope: $0, lines: changes,
        further: further, name: nil)
    }
    if let tried = numbers.alternativesTried { refused.append(.choice, byte: tried) }
    journal.append(
      unsafe Array(refused.bytes), run: numbers.run, recordCount: 1, time: numbers.batchTime)
    journal.append(
      adjust("change", 3, level(3, onHand: numbers.onHand, held: 1), isNew: false),
      run: numbers.run, recordCount: 1, time: numbers.batchTime)
    try journal.writeCheckpoint(end: 0)
    return journal.storage
  }

  /// What is possible is read: so what is refused is refused for its number.
  @Test("What can be is read")
  func possible() throws {
    #expect(try StockStore.verify(storage: journal(Numbers())).decisions == 4)
    for (choice, tried) in [(1, 2), (8, 9), (16, 3), (24, 9)] as [(UInt8, UInt8)] {
      let numbers = Numbers(choice: choice, alternativesTried: tried)
      #expect(try StockStore.verify(storage: journal(numbers)).decisions == 4)
    }
  }

  @Test(
    "Of a record or a batch",
    arguments: [
      { $0.time = .max }, { $0.time = .min }, { $0.time = -1 }, { $0.expiresAt = .max },
      { $0.expiresAt = .min }, { $0.requested = .max }, { $0.requested = .min },
      { $0.available = .max }, { $0.available = .min }, { $0.onHand = .max },
      { $0.onHand = .min }, { $0.onHand = -1 }, { $0.onHand = 1 << 47 },
      { $0.safetyStock = .max }, { $0.safetyStock = -1 << 47 },
      { $0.safetyStock = .min }, { $0.item = 1 }, { $0.item = .max }, { $0.batchTime = .max },
      { $0.batchTime = -1 }, { $0.run = .max }, { $0.choice = 0 }, { $0.choice = 9 },
      { $0.choice = 32 }, { $0.choice = 16 + 9 }, { $0.choice = .max },
      { $0.alternativesTried = 0 }, { $0.alternativesTried = 1 }, { $0.alternativesTried = 10 },
    ] as [@Sendable (inout Numbers) -> Void])
  func record(forge: @Sendable (inout Numbers) -> Void) throws {
    var numbers = Numbers()
    forge(&numbers)
    let storage = try journal(numbers)
    do throws(JournalError) {
      _ = try StockStore.verify(storage: storage)
      Issue.record("\(numbers) is accepted")
    } catch {
      if case .damaged = error { return }
      Issue.record("\(numbers): \(error)")
    }
  }
}
