import Bytes
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

@Suite struct CheckpointTests {
  /// A directory whose journal has nothing that its checkpoint lacks.
  private func settledStore(seed: UInt64, commands: Int) throws -> JournaledStore {
    let running = try JournaledStore(crampedLimits(), seed: seed)
    for _ in 0..<commands { try running.command() }
    try running.settle()
    try running.makeCheckpoint {}
    return running
  }

  private func checkpointName(_ files: [String: [UInt8]]) throws -> String {
    try #require(files.keys.filter { FileNames.checkpointLSN($0) != nil }.max())
  }

  @Test func everyFlippedBitIsRefused() throws {
    let running = try settledStore(seed: 1, commands: 8)
    let files = running.copyOfFiles().files
    let name = try checkpointName(files)
    let whole = try #require(files[name])
    #expect(whole.count > 600)
    for bit in 0..<whole.count * 8 {
      var flipped = files
      flipped[name]?[bit / 8] ^= 1 << UInt8(bit % 8)
      expectRefused(flipped, "bit \(bit % 8) of byte \(bit / 8)")
    }
  }

  /// Wherever the newest is harmed, also where that shows only when half of it is in the tables: the one before
  /// and the journal since have it all.
  @Test func theOneBeforeStandsInForAHarmedOne() throws {
    let running = try JournaledStore(crampedLimits(), seed: 9)
    for _ in 0..<3000 { try running.command() }
    try running.settle()
    let digest = running.digest
    let files = running.copyOfFiles().files
    #expect(files.keys.count { FileNames.checkpointLSN($0) != nil } == 2)
    let name = try checkpointName(files)
    let whole = try #require(files[name])
    for offset in stride(from: 5, to: whole.count, by: whole.count / 40) {
      var harmed = files
      harmed[name]?[offset] ^= 1
      let verified = try StockStore.verify(storage: SimulatedStorage(files: harmed))
      #expect(verified.digest == digest && verified.damagedCheckpoints.map(\.file) == [name])
      let (store, opened) = try JournaledStore.open(
        SimulatedStorage(files: harmed), running.limits, running.options, running.clock)
      #expect(opened.digest == digest && opened.damagedCheckpoints.map(\.file) == [name])
      #expect(store.audit() == [])
    }
  }

  @Test func everyOtherLengthIsRefused() throws {
    let running = try settledStore(seed: 2, commands: 25)
    let files = running.copyOfFiles().files
    let name = try checkpointName(files)
    let whole = try #require(files[name])
    for length in 0..<whole.count {
      var cut = files
      cut[name] = Array(whole[..<length])
      expectRefused(cut, "\(length) of \(whole.count) bytes")
    }
    for surplus in [1, 8, 80, 4096] {
      var longer = files
      longer[name] = whole + [UInt8](repeating: 0, count: surplus)
      expectRefused(longer, "\(surplus) bytes too many")
    }
  }

  private func expectRefused(_ files: [String: [UInt8]], _ place: String) {
    do throws(JournalError) {
      let summary = try StockStore.verify(storage: SimulatedStorage(files: files))
      Issue.record("\(place): accepted, \(summary.digest)")
    } catch {
      guard case .damaged = error else {
        Issue.record("\(place): \(error)")
        return
      }
    }
  }

  /// Blocks with right checksums and impossible numbers: refused, or a state that can be; never a trap.
  @Test(arguments: UInt64(1)...4)
  func hostileNumbersAreRefused(seed: UInt64) throws {
    let running = try settledStore(seed: seed, commands: 150)
    let files = running.copyOfFiles().files
    let name = try checkpointName(files)
    let whole = try #require(files[name])
    var random = SeededRandom(seed: seed)
    var refused = 0
    for _ in 0..<40 {
      var changed = whole
      for _ in 0..<random.number(1...3) {
        let offset = random.number(0...whole.count - 1)
        changed[offset] = random.pick([0, 1, 0x7f, 0x80, 0xff, random.number(0...255)])
      }
      CheckpointBytes.repairChecksums(&changed)
      var copy = files
      copy[name] = changed
      do {
        _ = try StockStore.verify(storage: SimulatedStorage(files: copy))
      } catch {
        refused += 1
      }
    }
    #expect(refused > 4)
  }

  @Test func whatIsWrittenComesBack() throws {
    let running = try JournaledStore(testLimits(items: 300), seed: 3)
    let session = running.session
    _ = session.beginTurn()
    let longName = String(repeating: "n", count: 64)
    let names = (0..<64).map { "\(longName.prefix($0 % 2 == 0 ? 60 : 3))\($0)" }
    for name in names {
      _ = session.adjust("stock-\(name)", name, .setOnHand(1 << 40), location: longName)
      try running.stepAll()
    }
    let all = names.map { TestLine(sku: $0, location: longName, quantity: 1 << 30) }
    let whole = try #require(session.reserve("whole", all).value)
    try running.stepAll()
    let parted = try #require(session.reserve("parted", all).value)
    let five = try #require(session.reserve("five", Array(all.prefix(5))).value)
    _ = session.confirm(parted.id, [TestLine(sku: names[9], location: longName, quantity: 7)])
    _ = session.reserve("unknown", [TestLine(sku: "nothing", quantity: 1)])
    _ = session.reserve("much", [TestLine(sku: names[0], location: longName, quantity: 1 << 40)])
    session.endTurn()
    try running.settle()
    let digest = running.digest
    try running.makeCheckpoint {}
    try running.restart()

    #expect(running.summary.recordsReplayed == 0)
    #expect(running.summary.digest == digest)
    #expect(running.store.audit() == [])
    let after = running.session
    _ = after.beginTurn()
    #expect(after.reserve("whole", all).value?.id == whole.id)
    let fiveAgain = after.reserve("five", Array(all.prefix(5)).reversed())
    #expect(fiveAgain.value?.id == five.id && fiveAgain.value?.expiresAt == five.expiresAt)
    #expect(after.reservation(parted.id).value?.state == .confirmed)
    #expect(after.viewLineCount == 1 && after.viewLine(0).quantity == 7)
    #expect(
      after.reserve("unknown", [TestLine(sku: "nothing", quantity: 1)]).refusal
        == .itemNotFound(line: 0))
    #expect(after.reservation(whole.id).value != nil)
    #expect(after.viewLineCount == 64)
  }
}
