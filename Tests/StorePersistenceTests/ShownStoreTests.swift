// Tables that are shown while replay fills them: what is found is what a store finds that is opened then.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore
@testable import StorePersistence

@Suite("A store that is shown during a replay")
struct ShownStoreTests {
  private final class FixedTime: Posix.Clock {
    let time: Timestamp
    init(_ time: Timestamp) { self.time = time }
    func now() -> Timestamp { time }
  }

  private struct Seen: Equatable {
    var state: ReservationState
    var lines: [String]
    var reference: String
    var revision: UInt64
    var expiresAt: Timestamp
  }

  private func reservations(
    _ session: StoreSession, reference: String = ""
  ) -> [ReservationID: Seen] {
    var found: [ReservationID: Seen] = [:]
    var cursor: UInt64? = 0
    func add(_ view: ReservationView) -> Bool {
      let lines = (0..<session.viewLineCount).map { index in
        let line = session.viewLine(index)
        let sku = unsafe String(
          decoding: session.name(of: line.item).sku.pointer, as: UTF8.self)
        return "\(sku) \(line.quantity)"
      }
      found[view.id] = Seen(
        state: view.state, lines: lines,
        reference: unsafe String(decoding: session.viewReference.pointer, as: UTF8.self),
        revision: view.revision, expiresAt: view.expiresAt)
      return true
    }
    while let from = cursor {
      cursor = withBytes(reference) {
        reference.isEmpty
          ? session.listReservations(cursor: from, scanMax: 50, state: nil, each: add)
          : session.listReservations(
            cursor: from, scanMax: 50, state: nil, reference: $0, each: add)
      }
    }
    return found
  }

  private func levels(_ session: StoreSession) -> [String: StockLevel] {
    var levels: [String: StockLevel] = [:]
    _ = session.listStock(from: 0) { level in
      let name = session.name(of: level.item)
      let text = [name.sku, name.location].map {
        unsafe String(decoding: $0.pointer, as: UTF8.self)
      }.joined(separator: " ")
      #expect(levels.updateValue(level, forKey: text) == nil)
      // And it is found by its name.
      #expect(session.stock(name).value == level)
      return true
    }
    return levels
  }

  @Test(
    "It has what the directory has, however it came there", arguments: 1...12 as ClosedRange<UInt64>
  )
  func asOpened(seed: UInt64) throws {
    let running = try JournaledStore(crampedLimits(), seed: seed)
    for round in 0..<4 {
      for _ in 0..<300 { try running.command() }
      // Retention goes by, and places are given to others.
      running.clock.advance(byNanoseconds: seconds(round == 2 ? 60 : 2))
      try running.stepAll()
      if round != 1 { try running.restart() }
    }
    for _ in 0..<100 { try running.command() }
    try running.settle()

    let storage = running.copyOfFiles()
    let listing = try DirectoryListing(storage)
    let oldest = try CheckpointReader(
      storage: storage, lsn: try #require(listing.checkpoints.first))
    let refill = try Refill(
      storage: storage, checkpoint: oldest, limits: running.limits, concurrency: .optimistic,
      log: LogRing(shape: .decisions), nonce: nil)
    // From the beginning, so that all names come by replay.
    let shown = refill.show(FixedTime(running.clock.now()))
    _ = try refill.readJournal(
      storage, segmentCount: listing.segmentCount(from: oldest.header.start.sequence), { _ in })
    let session = shown.makeSession()
    session.beginReading()
    defer { session.endTurn() }

    let opened = try JournaledStore.open(
      running.copyOfFiles(), running.limits, running.options, running.clock
    ).0
    let other = opened.makeSession()
    _ = other.beginTurn()
    defer { other.endTurn() }

    // A hold that is due has ended in the store that was opened, and is held here.
    let (theirs, ours) = (reservations(other), reservations(session))
    #expect(!theirs.isEmpty && Set(theirs.keys) == Set(ours.keys))
    var due = 0
    for (id, theirs) in theirs {
      var ours = try #require(ours[id])
      #expect(session.reservation(id).value?.state == ours.state)
      if ours.state == .held, theirs.state == .expired, ours.expiresAt <= running.clock.now() {
        ours.state = .expired
        due += 1
      }
      #expect(ours == theirs)
    }
    for number in 0...9 {
      let reference = "order:\(number)"
      #expect(
        reservations(session, reference: reference).keys
          == reservations(other, reference: reference).keys)
    }
    let (theirLevels, ourLevels) = (levels(other), levels(session))
    #expect(theirLevels.count > 10 && Set(theirLevels.keys) == Set(ourLevels.keys))
    for (name, ours) in ourLevels {
      let theirs = try #require(theirLevels[name])
      if ours.version == theirs.version { #expect(ours == theirs) }
      #expect(ours.onHand == theirs.onHand && ours.version <= theirs.version)
      #expect(ours.version == theirs.version || due > 0)
    }
  }

  @Test("A hold that is due is held until its end is recorded, with its units")
  func due() throws {
    let it = Fixture()
    _ = it.session.adjust("stock", "a", .setOnHand(5))
    let line = [TestLine(sku: "a", quantity: 2)]
    let id = try #require(it.session.reserve("key", line, ttl: seconds(5)).value?.id)
    let released = try #require(it.session.reserve("other", line, ttl: seconds(50)).value?.id)
    _ = it.session.release(released)
    func see(after nanoseconds: Int64, _ body: (StoreSession) -> Void) {
      let time = it.clock.now().advanced(byNanoseconds: nanoseconds)
      let session = StockStore(showing: it.store.core, clock: FixedTime(time)).makeSession()
      session.beginReading()
      body(session)
      session.endTurn()
    }
    see(after: seconds(60)) { session in
      let view = session.reservation(id).value
      #expect(view?.state == .held && view?.endedAt == nil)
      #expect(session.level("a")?.held == 2)
      #expect(session.reservation(released).value?.state == .released)
    }
    // What the owner has forgotten by then is not shown.
    see(after: it.store.core.limits.retentionNanoseconds) { session in
      #expect(session.reservation(released).refusal == .reservationNotFound)
      #expect(session.reservation(id).value?.state == .held)
    }
    it.advance(seconds(6))
    see(after: 0) { session in
      #expect(session.reservation(id).value?.state == .expired)
      #expect(session.level("a")?.held == 0)
    }
  }
}
