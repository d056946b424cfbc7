import Bytes
import LogFixtures
import Posix
import Simulation
import Synchronization
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

@Suite struct RecoveryTests {
  /// What a directory holds is what its server had: looked at, and opened.
  private func expectSameState(_ running: JournaledStore, _ place: String) throws {
    try running.settle()
    let digest = running.digest
    let found = try StockStore.verify(storage: running.copyOfFiles())
    #expect(found.digest == digest, "\(place)")
    let (opened, summary) = try JournaledStore.open(
      running.copyOfFiles(), running.limits, running.options, running.clock)
    #expect(summary.digest == digest, "\(place)")
    #expect(opened.audit() == [], "\(place)")
    let before = running.store.statistics()
    #expect(summary.items == before.items, "\(place)")
    #expect(summary.liveReservations == before.liveHolds, "\(place)")
  }

  @Test(arguments: UInt64(1)...12)
  func aJournalAlone(seed: UInt64) throws {
    let running = try JournaledStore(seed % 2 == 0 ? testLimits() : crampedLimits(), seed: seed)
    for round in 0..<8 {
      for _ in 0..<60 { try running.command() }
      try expectSameState(running, "seed \(seed), round \(round)")
    }
  }

  @Test(arguments: UInt64(1)...12)
  func checkpointsBesideCommands(seed: UInt64) throws {
    let running = try JournaledStore(seed % 2 == 0 ? testLimits() : crampedLimits(), seed: seed)
    for round in 0..<5 {
      for _ in 0..<100 { try running.command() }
      try running.makeCheckpoint { for _ in 0..<4 { try running.command() } }
      for _ in 0..<20 { try running.command() }
      try expectSameState(running, "seed \(seed), round \(round)")
    }
  }

  @Test(arguments: UInt64(1)...8, [false, true])
  func restarts(seed: UInt64, losingPower: Bool) throws {
    let running = try JournaledStore(seed % 2 == 0 ? testLimits() : crampedLimits(), seed: seed)
    for round in 0..<10 {
      for _ in 0..<40 { try running.command() }
      if round % 3 == 1 { try running.makeCheckpoint { try running.command() } }
      try running.settle()
      let digest = running.digest
      try running.restart(losingPower: losingPower)
      #expect(running.summary.digest == digest, "seed \(seed), round \(round)")
      #expect(running.store.audit() == [], "seed \(seed), round \(round)")
    }
  }

  /// Checkpoints beside threads that change what is being copied.
  @Test(arguments: zip(UInt64(1)...4, ConcurrencyControl.sound))
  func checkpointsBesideThreads(seed: UInt64, concurrency: ConcurrencyControl) throws {
    var options = testOptions()
    options.ringBytes = 1 << 20
    options.segmentBytes = 128 << 10
    let running = try JournaledStore(
      testLimits(items: 40), seed: seed, concurrency, options: options)
    for _ in 0..<100 { try running.command() }
    for round in 0..<3 {
      let working = Atomic<Int>(2)
      let threads = try (0..<2).map { number in
        let store = running.store
        let clock = running.clock
        let random = SeededRandom(seed: seed * 100 + UInt64(round * 2 + number))
        return try Thread(name: "commands") {
          let commander = Commander(store.makeSession(), clock, random)
          for _ in 0..<3000 { commander.command() }
          working.subtract(1, ordering: .acquiringAndReleasing)
        }
      }
      // As long as they work, one after the other.
      while working.load(ordering: .acquiring) > 0 {
        try running.makeCheckpoint { while try running.store.stepJournal() {} }
      }
      for thread in threads { thread.join() }
      try expectSameState(running, "seed \(seed), round \(round)")
    }
  }
}

@Suite struct OpenTests {
  private func stocked(_ limits: StoreLimits = testLimits()) throws -> JournaledStore {
    let running = try JournaledStore(limits, seed: 1)
    _ = running.session.beginTurn()
    _ = running.session.adjust("a", "apple", .setOnHand(100))
    _ = running.session.adjust("b", "pear", .setOnHand(100), location: "hall-2")
    running.session.endTurn()
    return running
  }

  @Test func anEmptyDirectoryBecomesAStore() throws {
    let running = try JournaledStore(testLimits(), seed: 1)
    #expect(running.summary.isNew)
    #expect(running.summary.decisions == 0)
    let found = try StockStore.verify(storage: running.copyOfFiles())
    #expect(found.digest == running.summary.digest)
  }

  /// In the order in which they fell due, whatever their shards; at the times when they did.
  @Test func whatFellDueMeanwhileEndsInOrder() throws {
    let running = try stocked()
    _ = running.session.beginTurn()
    var ids: [ReservationID] = []
    for (index, ttl) in [50, 20, 70, 10, 30, 3000, 60, 40].enumerated() {
      let hold = running.session.reserve("hold-\(index)", "apple", 1, ttl: seconds(Int64(ttl)))
      ids.append(try #require(hold.value).id)
    }
    running.session.endTurn()
    try running.settle()
    let began = running.clock.now().nanoseconds
    running.clock.advance(byNanoseconds: seconds(600))
    try running.restart()
    #expect(running.summary.liveReservations == 8)
    #expect(running.store.statistics().liveHolds == 1)
    #expect(running.store.statistics().reservationsExpired == 7)
    #expect(running.store.core.log.durable == running.store.core.log.last)
    var expired: [String] = []
    try StockStore.dump(storage: running.copyOfFiles()) { line in
      if let range = line.firstRange(of: "\"expired\":") {
        expired.append(String(line[range.upperBound...].prefix(32)))
      }
    }
    #expect(expired.count == 7)
    #expect(expired == expired.sorted())
    _ = running.session.beginTurn()
    let view = try #require(running.session.reservation(ids[3]).value)
    #expect(view.state == .expired)
    #expect(view.endedAt?.nanoseconds == began + seconds(10))
  }

  /// Ids stay good, and those that the directory has forgotten name nothing.
  @Test func idsOutliveTheProcess() throws {
    var limits = testLimits()
    limits.retentionNanoseconds = seconds(10)
    let running = try stocked(limits)
    _ = running.session.beginTurn()
    let kept = try #require(running.session.reserve("kept", "apple", 1).value).id
    var gone: [ReservationID] = []
    for number in 0..<90 {
      let hold = try #require(running.session.reserve("gone-\(number)", "apple", 1).value)
      gone.append(hold.id)
      #expect(running.session.release(hold.id).value != nil)
      try running.stepAll()
    }
    running.session.endTurn()
    try running.stepAll()
    running.clock.advance(byNanoseconds: seconds(20))
    for _ in 0..<200 {
      _ = running.session.beginTurn()
      running.session.endTurn()
    }
    #expect(running.store.statistics().recordedDecisions == 1)
    try running.makeCheckpoint {}
    try running.restart()
    _ = running.session.beginTurn()
    for number in 0..<90 { _ = running.session.reserve("new-\(number)", "apple", 1) }
    #expect(running.session.reservation(kept).value?.state == .held)
    for id in gone { #expect(running.session.reservation(id).refusal == .reservationNotFound) }
  }

  @Test func decisionsAreRememberedOverARestart() throws {
    let running = try stocked()
    _ = running.session.beginTurn()
    let hold = running.session.reserve("k", [TestLine(sku: "apple", quantity: 3)], caller: "me")
    let refused = running.session.reserve("much", "apple", 1000)
    running.session.endTurn()
    try running.settle()
    try running.restart()
    _ = running.session.beginTurn()
    let again = running.session.reserve("k", [TestLine(sku: "apple", quantity: 3)], caller: "me")
    #expect(again.replayed && again.value == hold.value)
    let stillRefused = running.session.reserve("much", "apple", 1000)
    #expect(stillRefused.replayed && stillRefused.refusal == refused.refusal)
    let other = running.session.reserve("k", [TestLine(sku: "apple", quantity: 4)], caller: "me")
    #expect(other.refusal == .idempotencyKeyReused)
    #expect(running.session.level("apple")?.held == 3)
  }

  @Test func lowerCapsAreRefusedOrLivedWith() throws {
    let running = try JournaledStore(testLimits(), seed: 5)
    for _ in 0..<400 { try running.command() }
    try running.settle()
    let digest = running.digest
    let fewItems = testLimits(items: 3)
    do throws(JournalError) {
      _ = try StockStore.open(
        storage: running.copyOfFiles(), limits: fewItems, options: running.options,
        makeClock: { _ in running.clock })
      Issue.record("3 items are too few")
    } catch {
      guard case .unsuitable(let text) = error else { throw error }
      #expect(text.contains("--max-items"))
    }
    // The records that are there stay where they are; there is no room for more until they are fewer.
    let (store, summary) = try StockStore.open(
      storage: running.copyOfFiles(), limits: testLimits(reservations: 64),
      options: running.options,
      makeClock: { _ in running.clock })
    #expect(summary.digest == digest)
    #expect(store.audit() == [])
  }

  /// The digest leaves out what is past its retention, so whoever verifies must know it.
  @Test func anotherRetentionIsNoted() throws {
    let running = try JournaledStore(testLimits(), seed: 6)
    for _ in 0..<300 { try running.command() }
    try running.settle()
    var limits = testLimits()
    limits.retentionNanoseconds = seconds(30)
    let storage = running.copyOfFiles()
    let (store, summary) = try JournaledStore.open(
      storage, limits, running.options, running.clock)
    #expect(summary.digest != running.digest)
    let files = SimulatedStorage(files: storage.files)
    #expect(
      try StockStore.verify(storage: files).digest == store.stateDigest(at: running.clock.now()))
  }

  @Test func aDirectoryWithoutItsCheckpointIsDamaged() throws {
    let running = try stocked()
    try running.settle()
    var files = running.copyOfFiles().files
    for name in files.keys where FileNames.checkpointLSN(name) != nil { files[name] = nil }
    #expect(throws: JournalError.self) {
      try JournaledStore.open(
        SimulatedStorage(files: files), running.limits, running.options, running.clock)
    }
    #expect(throws: JournalError.self) {
      try StockStore.verify(storage: SimulatedStorage(files: files))
    }
  }

  /// The making of a directory may be cut short anywhere.
  @Test func aDirectoryThatWasNeverFinishedIsMadeAgain() throws {
    var options = testOptions()
    options.segmentBytes = 16 << 10
    for call in 1...24 {
      for fault in [FaultPlan.Fault.crashBefore, .crashDuring, .crashAfter] {
        for losingPower in [false, true] {
          let storage = SimulatedStorage(random: SeededRandom(seed: UInt64(call)))
          storage.plan = FaultPlan(calls: call, fault: fault)
          let clock = ManualClock()
          _ = try? JournaledStore.open(storage, testLimits(), options, clock)
          let left = storage.restart(losingPower: losingPower)
          let (_, summary) = try JournaledStore.open(left, testLimits(), options, clock)
          #expect(summary.decisions == 0, "call \(call), \(fault)")
        }
      }
    }
  }
}

@Suite struct DumpTests {
  @Test func everyKindHasItsLine() throws {
    let running = try JournaledStore(testLimits(), seed: 1)
    let session = running.session
    _ = session.beginTurn()
    _ = session.adjust("stock", "apple", .setOnHand(10), safetyStock: 1, reason: "say \"hi\"\n")
    let first = try #require(session.reserve("one", "apple", 2, ttl: seconds(5)).value).id
    let second = try #require(session.reserve("two", "apple", 1).value).id
    let third = try #require(session.reserve("three", "apple", 1).value).id
    _ = session.extend(second, ttlNanoseconds: seconds(900))
    _ = session.confirm(second)
    _ = session.release(third)
    _ = session.reserve("much", "apple", 100)
    session.endTurn()
    running.clock.advance(byNanoseconds: seconds(6))
    _ = session.beginTurn()
    session.endTurn()
    try running.settle()

    var lines: [String] = []
    try StockStore.dump(storage: running.copyOfFiles()) { lines.append($0) }
    let kinds = lines.compactMap { line -> String? in
      guard let range = line.firstRange(of: "\"kind\":\"") else { return nil }
      return String(line[range.upperBound...].prefix { $0 != "\"" })
    }
    #expect(
      kinds == [
        "checkpoint", "clock", "adjusted", "held", "held", "held", "extended", "confirmed",
        "released", "refused", "expired", "clock",
      ])
    #expect(lines[2].contains("\"reason\":\"say \\\"hi\\\"\\u000a\""))
    #expect(lines[3].contains("\"time\":\"2020-01-01T00:00:00.000000000Z\""))
    #expect(lines[3].contains("\"expires\":\"2020-01-01T00:00:05.000000000Z\""))
    #expect(lines[3].contains("\"sku\":\"apple\""))
    var id = [UInt8](repeating: 0, count: ReservationID.textLength)
    var span = id.mutableSpan
    first.write(to: &span)
    #expect(lines[3].contains(String(decoding: id, as: UTF8.self)))
  }

  @Test(arguments: [
    (Int64(0), "1970-01-01T00:00:00.000000000Z"), (-1, "1969-12-31T23:59:59.999999999Z"),
    (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
    (4_107_542_399_000_000_000, "2100-02-28T23:59:59.000000000Z"),
    (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
    (.max, "2262-04-11T23:47:16.854775807Z"), (.min, "1677-09-21T00:12:43.145224192Z"),
  ])
  func times(nanoseconds: Int64, text: String) {
    #expect(CalendarTime(nanoseconds).description == text)
  }

  @Test(arguments: [
    ([0x61, 0x22, 0x5c], "\"a\\\"\\\\\""), ([0xc3, 0xa9], "\"é\""), ([0x61, 0xff], "\"a\\\\xff\""),
    ([0x00, 0x1f, 0x7f], "\"\\u0000\\u001f\\u007f\""),
  ])
  func texts(bytes: [UInt8], quoted: String) {
    let text = unsafe bytes.withUnsafeBytes { bytes in unsafe JSONObject.string(bytes) }
    #expect(JSONObject.quoted(text) == quoted)
  }
}
