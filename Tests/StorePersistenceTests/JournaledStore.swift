import Bytes
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

/// Limits under which slots are used again soon: a few records, remembered for a short time.
func crampedLimits() -> StoreLimits {
  var limits = testLimits(items: 40, reservations: 150)
  limits.retentionNanoseconds = seconds(40)
  return limits
}

/// Small files, so that there are many.
func testOptions() -> JournalOptions {
  JournalOptions(
    durability: .fsync, segmentBytes: 64 << 10, ringBytes: 32 << 10, groupBytesMax: 4 << 10,
    spareSegments: 1, checkpointSegments: 2)
}

/// A store with a journal on a simulated disk, stepped by hand, and somebody who sends it commands.
final class JournaledStore {
  let limits: StoreLimits
  let options: JournalOptions
  let clock = ManualClock()
  let concurrency: ConcurrencyControl
  private(set) var storage: SimulatedStorage
  private(set) var store: StockStore
  private(set) var summary: RecoverySummary
  private var random: SeededRandom
  private var commander: Commander

  init(
    _ limits: StoreLimits, seed: UInt64, _ concurrency: ConcurrencyControl = .optimistic,
    options: JournalOptions = testOptions()
  ) throws {
    self.limits = limits
    self.concurrency = concurrency
    self.options = options
    random = SeededRandom(seed: seed)
    storage = SimulatedStorage(random: random.split())
    (store, summary) = try Self.open(storage, limits, options, clock, concurrency)
    commander = Commander(store.makeSession(), clock, random.split())
  }

  var session: StoreSession { commander.session }

  static func open(
    _ storage: SimulatedStorage, _ limits: StoreLimits, _ options: JournalOptions,
    _ clock: ManualClock, _ concurrency: ConcurrencyControl = .optimistic
  ) throws -> (StockStore, RecoverySummary) {
    try StockStore.open(
      storage: storage, limits: limits, concurrency: concurrency, options: options, secret: (1, 2),
      makeClock: { _ in clock })
  }

  /// Everything decided so far is durable, and the directory knows what time it is.
  func settle() throws {
    var record = RecordWriter()
    record.begin(.clock, time: clock.now().nanoseconds)
    _ = store.core.log.append(record)
    try stepAll()
  }

  func stepAll() throws {
    // Others may append more meanwhile.
    let last = store.core.log.last
    repeat {
      while try store.stepJournal() {}
      if store.core.log.durable >= last { break }
    } while try store.stepMaintenance()
    #expect(store.core.log.durable >= last)
  }

  var digest: StateDigest { store.stateDigest(at: clock.now()) }

  /// The files as a process that comes now would find them.
  func copyOfFiles() -> SimulatedStorage { SimulatedStorage(files: storage.files) }

  /// Ends the process and begins another, with what the first has written.
  func restart(losingPower: Bool = false) throws {
    storage = storage.restart(losingPower: losingPower)
    (store, summary) = try Self.open(storage, limits, options, clock, concurrency)
    commander = commander.moved(to: store.makeSession())
  }

  /// A checkpoint in small pieces, with `between` before each.
  func makeCheckpoint(_ between: () throws -> Void) throws {
    let header = try StockStore.newestCheckpoint(storage).header
    let journal = try #require(store.journal)
    let clock = clock
    let writer = try CheckpointWriter(
      core: store.core, storage: storage, identity: header.identity,
      start: journal.log.position, time: clock.now(),
      piece: CheckpointWriter.Piece(items: 3, chunks: 1))
    repeat { try between() } while try writer.step()
    try between()
    try stepAll()
    #expect(store.core.log.durable >= writer.endLSN)
    try writer.finish()
  }

  /// One command; now and then some of what is left to do for the journal.
  func command() throws {
    commander.command()
    if random.chance(30) { _ = try store.stepJournal() }
    if random.chance(20) { _ = try store.stepMaintenance() }
    if !store.core.log.isAdmitting { try stepAll() }
  }
}

/// Sends commands as a seed says.
final class Commander {
  let session: StoreSession
  private let clock: ManualClock
  private var random: SeededRandom
  private var ids: [ReservationID] = []

  init(_ session: StoreSession, _ clock: ManualClock, _ random: SeededRandom) {
    self.session = session
    self.clock = clock
    self.random = random
  }

  /// One that knows the same reservations.
  func moved(to session: StoreSession) -> Commander {
    let other = Commander(session, clock, random)
    other.ids = ids
    return other
  }

  /// One command in a turn of its own, and sometimes some time passes.
  func command() {
    if random.chance(20) { clock.advance(byNanoseconds: random.number(0...seconds(3))) }
    _ = session.beginTurn()
    switch random.number(0...99) {
    case 0..<11: adjust()
    case 11..<14: remove()
    case 14..<17: adjustTogether()
    case 17..<20: importRows()
    case 20..<55: reserve()
    case 55..<75: withID { id in confirm(id) }
    case 75..<85: withID { id in _ = session.release(id) }
    case 85..<89: withID { id in replace(id) }
    case 89..<93:
      withID { id in
        _ = session.extend(id, ttlNanoseconds: seconds(random.number(1...60)))
      }
    default: withID { id in _ = session.confirm(id, reacquire: true) }
    }
    session.endTurn()
  }

  private func sku() -> String {
    let number = random.number(0...29)
    // Some names lie in their records, some beside.
    return number % 3 == 0
      ? "long-" + String(repeating: "x", count: 50) + "\(number)" : "s\(number)"
  }

  private func key() -> String { "key-\(random.number(0...400))" }

  private func adjust() {
    let delta = random.number(Int64(-20)...120)
    let change: AdjustCommand.Change =
      switch random.number(0...99) {
      case 0..<15: .setOnHand(abs(delta))
      case 15..<25: .ship(random.number(1...4))
      case 25..<30: .uncommit(random.number(1...4))
      default: .delta(delta)
      }
    _ = session.adjust(
      key(), sku(), change, location: random.chance(50) ? "" : "hall-2",
      safetyStock: random.chance(10) ? random.number(-5...5) : nil,
      sale: random.chance(15) ? sale() : nil, allowsShortage: random.chance(20))
  }

  /// Mostly open, or most carts would be refused.
  private func sale() -> TestSale {
    if random.chance(50) { return TestSale() }
    let now = clock.now().nanoseconds
    return TestSale(
      from: random.chance(50) ? now - random.number(0...seconds(9)) : nil,
      until: random.chance(50) ? now + random.number(1...seconds(9)) : nil,
      isFrozen: random.chance(20))
  }

  /// Mostly what has units; now and then one that is emptied for it.
  private func remove() {
    let (sku, location) = (sku(), random.chance(50) ? "" : "hall-2")
    if random.chance(50) { _ = session.adjust(key(), sku, .setOnHand(0), location: location) }
    _ = session.remove(key(), sku, location: location)
  }

  private func importRows() {
    let id = "import \(random.number(0...3))"
    var rows: [String: Model.Adjustment] = [:]
    for _ in 0..<random.number(1...random.pick([3, 20])) {
      let sku = sku()
      rows[sku] = Model.Adjustment(
        sku: sku, change: .delta(random.number(Int64(-9)...60)),
        safetyStock: random.chance(10) ? random.number(-5...5) : nil)
    }
    _ = session.importRows(
      id, firstRow: session.importedRows(id).rows, rows.values.sorted { $0.sku < $1.sku })
  }

  private func adjustTogether() {
    let count = random.number(1...random.pick([3, 20]))
    var adjustments: [String: Model.Adjustment] = [:]
    for _ in 0..<count {
      let sku = sku()
      adjustments[sku] = Model.Adjustment(
        sku: sku, change: .delta(random.number(Int64(-2)...60)),
        safetyStock: random.chance(10) ? random.number(-5...5) : nil,
        allowsShortage: random.chance(60))
    }
    _ = session.adjustTogether(
      key(),
      Model.Batch(
        adjustments.values.sorted { $0.sku < $1.sku }, reference: reference(), reason: "delivery"))
  }

  private func reserve() {
    let takesLess = random.chance(30)
    let alternatives = takesLess ? random.number(0...2) : 0
    let decision = session.reserve(
      key(), lines(takesLess), alternatives: (0..<alternatives).map { _ in lines(takesLess) },
      ttl: seconds(random.number(1...30)), reference: reference(), limits: limits())
    if let id = decision.value?.id { ids.append(id) }
  }

  private func limits() -> [TestLimit] {
    if random.chance(60) { return [] }
    let first = random.number(0...5)
    let count = random.number(1...4)
    return (0..<count).map { TestLimit("customer:\((first + $0) % 6)", random.number(2...60)) }
  }

  private func lines(_ takesLess: Bool) -> [TestLine] {
    let count = random.chance(15) ? random.number(6...40) : random.number(1...5)
    return (0..<count).map { _ in
      TestLine(
        sku: sku(), location: random.chance(50) ? "" : "hall-2", quantity: random.number(1...4),
        minimum: takesLess && random.chance(80) ? 1 : 0)
    }
  }

  private func reference() -> String {
    random.pick(["", "", "", "order:\(random.number(0...9))", String(repeating: "r", count: 64)])
  }

  private func replace(_ id: ReservationID) {
    let lines = (0..<random.number(1...random.pick([3, 7, 40]))).map { _ in
      TestLine(
        sku: sku(), location: random.chance(50) ? "" : "hall-2", quantity: random.number(1...4))
    }
    _ = session.replace(
      key(),
      Model.Replacement(
        id, lines, ttl: random.chance(50) ? nil : seconds(random.number(1...60)),
        reference: reference()))
  }

  private func confirm(_ id: ReservationID) {
    guard random.chance(40), session.reservation(id).value != nil, session.viewLineCount > 0 else {
      _ = session.confirm(id, keepCommitted: random.chance(50))
      return
    }
    let line = session.viewLine(random.number(0...session.viewLineCount - 1))
    let name = session.name(of: line.item)
    session.clearLines()
    _ = session.appendLine(
      LineRequest(item: name, quantity: random.number(1...line.quantity)))
    _ = session.confirm(
      id, reacquireIfExpired: random.chance(30), keepCommitted: random.chance(50))
  }

  private func withID(_ body: (ReservationID) -> Void) {
    guard let last = ids.indices.last else { return }
    // Mostly one of the newest.
    let index = random.chance(70) ? max(0, last - random.number(0...10)) : random.number(0...last)
    body(ids[index])
  }
}
