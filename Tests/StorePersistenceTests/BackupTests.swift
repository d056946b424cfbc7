import Foundation
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

/// A folder that goes with the test.
private final class Folder {
  let path: String

  init() {
    path = FileManager.default.temporaryDirectory.appending(path: "holdfast-\(UUID())").path
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func callAsFunction(_ name: String) -> String { "\(path)/\(name)" }

  func reading(_ name: String) throws -> DirectoryStorage {
    try DirectoryStorage(path: self(name), access: .reader)
  }

  func flip(_ file: String, at offset: Int) throws {
    let handle = try FileHandle(forUpdating: URL(filePath: self(file)))
    try handle.seek(toOffset: UInt64(offset))
    let byte = try #require(try handle.read(upToCount: 1)?.first)
    try handle.seek(toOffset: UInt64(offset))
    try handle.write(contentsOf: [byte ^ 0x10])
    try handle.close()
  }
}

/// A store with an archive, and the state after each of its commands.
private final class ArchivedStore {
  let clock = ManualClock()
  let limits = testLimits(items: 40, reservations: 5000)
  let archive: MemoryStorage
  private(set) var options = testOptions()
  private(set) var storage: SimulatedStorage
  private(set) var store: StockStore
  private var commander: Commander
  private var session: StoreSession { commander.session }
  /// By log sequence number.
  private(set) var digests: [UInt64: (digest: StateDigest, time: Int64)] = [:]

  init(seed: UInt64, archive: MemoryStorage = MemoryStorage()) throws {
    self.archive = archive
    options.archiveTailNanoseconds = 0
    options.segmentBytes = 40 << 10
    var random = SeededRandom(seed: seed)
    storage = SimulatedStorage(random: random.split())
    store = try Self.open(storage, limits, options, archive, clock)
    commander = Commander(store.makeSession(), clock, random.split())
  }

  private static func open(
    _ storage: SimulatedStorage, _ limits: StoreLimits, _ options: JournalOptions,
    _ archive: MemoryStorage, _ clock: ManualClock
  ) throws -> StockStore {
    try StockStore.open(
      storage: storage, limits: limits, options: options, secret: (1, 2), archive: archive,
      makeClock: { _ in clock }
    ).store
  }

  var lsn: UInt64 { store.core.log.durable }

  func run(_ commands: Int, archiving: Bool = true) throws {
    for _ in 0..<commands {
      commander.command()
      // Retries decide nothing, and soon there would be nothing else.
      _ = session.beginTurn()
      _ = session.adjust("own-\(lsn)", "s1", .delta(1), location: "")
      session.endTurn()
      try settle()
      digests[lsn] = (store.stateDigest(at: clock.now()), clock.now().nanoseconds)
      clock.advance(byNanoseconds: 1_000_000)
      if archiving { try archiveAll() }
    }
  }

  func settle() throws {
    repeat {
      while try store.stepJournal() {}
    } while try store.stepMaintenance()
  }

  func archiveAll() throws {
    let journal = try #require(store.journal)
    while try journal.archiver?.step(journal.log.position) ?? false {}
  }

  func restart(losingPower: Bool) throws {
    storage = storage.restart(losingPower: losingPower)
    store = try Self.open(storage, limits, options, archive, clock)
    commander = commander.moved(to: store.makeSession())
    try settle()
  }

  func backUp(_ folder: Folder, _ name: String) throws -> BackupManifest {
    let partial = try PartialDirectory(folder(name))
    return try #require(try Backup.copy(of: SimulatedStorage(files: storage.files), to: partial))
  }
}

@Suite("Backups")
struct BackupTests {
  private static func restore(
    _ folder: Folder, _ backup: String, _ archive: (any Storage)?, until: RecoveryTarget? = nil,
    to name: String = "restored-\(UUID())"
  ) throws -> (RestoreReport, path: String) {
    let partial = try PartialDirectory(folder(name))
    do {
      let source = try Restore(backup: try folder.reading(backup), archive: archive)
      return (try source.restore(until: until, to: partial), folder(name))
    } catch {
      partial.discard()
      throw error
    }
  }

  @Test("A backup is the state, whatever there was of checkpoints", arguments: 1...2)
  func everyState(seed: Int) throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: UInt64(seed))
    for number in 0..<6 {
      try run.run(number == 0 ? 1 : 300, archiving: false)
      let manifest = try run.backUp(folder, "backup-\(number)")
      #expect(manifest.lsn == run.lsn)
      let found = try StockStore.verify(storage: folder.reading("backup-\(number)"))
      #expect(found.lsn == run.lsn && found.wasClosed == true)
      #expect("\(found.digest)" == manifest.digest)
      let (report, path) = try Self.restore(folder, "backup-\(number)", nil)
      #expect(report.digest == run.store.stateDigest(at: report.time))
      #expect(report.lsn == run.lsn)
      // It can be gone on with, as a history of its own.
      let storage = try DirectoryStorage(path: path, access: .owner)
      let (store, summary) = try StockStore.open(
        storage: storage, limits: run.limits, options: run.options, makeClock: { _ in run.clock })
      #expect(summary.decisions == report.decisions)
      #expect(store.audit().isEmpty)
      #expect(store.core.firstVersion == 1 + report.versionLift)
    }
  }

  @Test("A reader that its server leaves behind has all that was there when it began")
  func leftBehind() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 13)
    try run.run(300)
    let from = run.lsn
    let truth = try #require(run.digests[from])
    let newest = try #require(run.storage.names().compactMap(FileNames.segmentSequence).max())
    let reader = try BackupReader(of: run.storage.reader)
    // Until what came right behind has been used again.
    var there = [newest]
    for _ in 0..<30 where there.contains(newest + 1) || !there.contains(where: { $0 > newest }) {
      try run.run(100)
      there = try run.storage.names().compactMap(FileNames.segmentSequence)
    }
    try #require(!there.contains(newest + 1) && there.contains { $0 > newest })
    let writer = BackupWriter(try PartialDirectory(folder("backup")))
    while try reader.next({ (piece) throws(JournalError) in try writer.write(piece) }) {}
    let manifest = try writer.finish()
    #expect(manifest.lsn >= from && manifest.lsn < run.lsn)
    let (report, _) = try Self.restore(folder, "backup", nil, until: .lsn(from))
    #expect(report.digest == truth.digest)
    // One that is gone from a directory where nobody goes on is damage.
    let files = run.storage.files
    let last = try #require(run.store.journal).log.position.sequence
    let stopped = SimulatedStorage(
      files: files.filter { name, _ in FileNames.segmentSequence(name).map { $0 < last } ?? true })
    #expect(throws: JournalError.self) { try StockStore.verify(storage: stopped.reader) }
  }

  @Test("With the archive every moment since can be had", arguments: 1...2)
  func everyMoment(seed: Int) throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: UInt64(seed))
    try run.run(700)
    let backup = try run.backUp(folder, "backup")
    let from = run.lsn
    for round in 0..<4 {
      try run.run(400)
      try run.restart(losingPower: round % 2 == 0)
    }
    try run.archiveAll()
    var random = SeededRandom(seed: UInt64(seed))
    let moments = run.digests.keys.filter { $0 >= from }.sorted()
    for _ in 0..<4 {
      let lsn = moments[random.number(0...moments.count - 1)]
      let truth = try #require(run.digests[lsn])
      for target in [RecoveryTarget.lsn(lsn), .lsn(lsn + 4), .time(truth.time)] {
        let (report, path) = try Self.restore(folder, "backup", run.archive.copy(), until: target)
        #expect(report.lsn >= lsn && report.lsn - lsn < 200, "a record of the clock may follow")
        #expect(report.digest == truth.digest, "\(target)")
        #expect(report.backup == backup)
        try FileManager.default.removeItem(atPath: path)
      }
    }
    let (report, _) = try Self.restore(folder, "backup", run.archive.copy())
    #expect(report.lsn == run.lsn)
    #expect(report.digest == run.store.stateDigest(at: report.time))
  }

  @Test("A moment outside is refused with what there is")
  func outside() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 7)
    try run.run(1500)
    let backup = try run.backUp(folder, "backup")
    try run.run(200)
    let start = try StockStore.newestCheckpoint(folder.reading("backup")).end.endLSN
    try #require(start > 0)
    for target in [
      RecoveryTarget.lsn(start - 8), .lsn(run.lsn + 1), .time(0),
      .time(run.clock.now().nanoseconds + seconds(1)),
    ] {
      #expect("\(target)") {
        _ = try Self.restore(folder, "backup", run.archive, until: target, to: "outside")
      } throws: { error in
        guard case .outside(let range)? = error as? RestoreError else { return false }
        return range.firstLSN == start && range.lastLSN == run.lsn
      }
    }
    // Without the archive its own end is the last.
    #expect(throws: RestoreError.self) {
      _ = try Self.restore(folder, "backup", nil, until: .lsn(backup.lsn + 8), to: "outside")
    }
    #expect(!FileManager.default.fileExists(atPath: folder("outside")))
    #expect(!FileManager.default.fileExists(atPath: folder("outside.partial")))
    _ = try Self.restore(folder, "backup", run.archive, until: .lsn(start))
    _ = try Self.restore(folder, "backup", nil, until: .lsn(backup.lsn))
  }

  @Test("A segment that is missing is named, and what is before it can be had")
  func gap() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 8)
    try run.run(100)
    let backup = try run.backUp(folder, "backup")
    try run.run(1500)
    #expect(try run.archive.names().count > 4)
    let whole = try run.archive.names().compactMap(FileNames.archivedSegment).filter { !$0.isTail }
      .sorted { $0.sequence < $1.sequence }
    let last = try #require(
      try folder.reading("backup").names().compactMap(FileNames.segmentSequence).max())
    for name in whole where name.sequence >= last && name != whole.last {
      let archive = run.archive.copy()
      try archive.remove(FileNames.archived(name))
      #expect("\(name.sequence)") {
        _ = try Self.restore(folder, "backup", archive, to: "gap")
      } throws: { error in
        guard case .gap(let range, let goesOnAt, let segments)? = error as? RestoreError else {
          return false
        }
        return segments == name.sequence...name.sequence && range.lastLSN >= backup.lsn
          && goesOnAt > range.lastLSN
      }
      _ = try Self.restore(folder, "backup", archive, until: .lsn(backup.lsn))
    }
  }

  @Test("Whatever bit is harmed: damage, or nothing is lost")
  func bits() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 9)
    try run.run(200)
    let backup = try run.backUp(folder, "backup")
    let digest = try StockStore.verify(storage: folder.reading("backup")).digest
    var random = SeededRandom(seed: 9)
    var damaged = 0
    let files = try FileManager.default.contentsOfDirectory(atPath: folder("backup"))
      .filter { $0 != "lock" }
    for round in 0..<60 {
      let file = files[round % files.count]
      let size = try #require(
        try FileManager.default.attributesOfItem(atPath: folder("backup/\(file)"))[.size] as? Int)
      let offset = random.number(0...size - 1)
      try folder.flip("backup/\(file)", at: offset)
      do {
        let summary = try StockStore.verify(storage: folder.reading("backup"))
        #expect(summary.digest == digest && summary.lsn == backup.lsn, "\(file) at \(offset)")
        _ = try Self.restore(folder, "backup", nil)
      } catch JournalError.damaged {
        damaged += 1
        #expect(throws: RestoreError.self) { _ = try Self.restore(folder, "backup", nil) }
      }
      try folder.flip("backup/\(file)", at: offset)
    }
    #expect(damaged > 15)
    #expect(try StockStore.verify(storage: folder.reading("backup")).digest == digest)
  }

  @Test("An archive that is harmed is damage, whatever file it is")
  func archiveBits() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 10)
    try run.run(100)
    _ = try run.backUp(folder, "backup")
    let last = try #require(
      try folder.reading("backup").names().compactMap(FileNames.segmentSequence).max())
    try run.run(1500)
    var random = SeededRandom(seed: 10)
    let names = try run.archive.names().filter {
      (FileNames.archivedSegment($0)?.sequence ?? 0) >= last
    }
    try #require(names.count > 3)
    for _ in 0..<40 {
      let archive = run.archive.copy()
      let name = names[random.number(0...names.count - 1)]
      let file = try #require(archive.file(name))
      let offset = random.number(SegmentHeader.blockBytes...file.bytes.count - 1)
      if random.chance(20) {
        file.bytes.removeLast(file.bytes.count - offset)
      } else {
        file.flip(bit: random.number(0...7), at: offset)
      }
      #expect("\(name) at \(offset)") {
        _ = try Self.restore(folder, "backup", archive)
      } throws: { error in
        if case .failed(.damaged)? = error as? RestoreError { true } else { false }
      }
    }
  }

  @Test("No server goes on with a backup, and nothing stands in the way of one")
  func inTheWay() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 11)
    try run.run(50)
    _ = try run.backUp(folder, "backup")
    #expect(throws: JournalError.self) {
      _ = try StockStore.open(
        storage: DirectoryStorage(path: folder("backup"), access: .owner), limits: run.limits,
        options: run.options, makeClock: { _ in run.clock })
    }
    #expect(throws: JournalError.self) { _ = try PartialDirectory(folder("backup")) }
    #expect(throws: RestoreError.self) {
      _ = try Restore(backup: SimulatedStorage(files: run.storage.files), archive: nil)
    }
    // What a process has left that was killed is used again; what is somebody else's is not.
    try FileManager.default.createDirectory(
      atPath: folder("next.partial"), withIntermediateDirectories: true)
    try Data([1]).write(to: URL(filePath: folder("next.partial/\(FileNames.segment(3))")))
    _ = try run.backUp(folder, "next")
    try FileManager.default.createDirectory(
      atPath: folder("other.partial"), withIntermediateDirectories: true)
    try Data([1]).write(to: URL(filePath: folder("other.partial/notes.txt")))
    #expect(throws: JournalError.self) { _ = try run.backUp(folder, "other") }
    #expect(FileManager.default.fileExists(atPath: folder("other.partial/notes.txt")))
  }

  @Test("A restored store archives beside the one before, and both can be restored")
  func histories() throws {
    let folder = Folder()
    let run = try ArchivedStore(seed: 12)
    try run.run(200)
    _ = try run.backUp(folder, "backup")
    let cut = run.lsn
    try run.run(300)
    let end = (run.lsn, run.store.stateDigest(at: run.clock.now()))
    let (_, path) = try Self.restore(folder, "backup", run.archive, until: .lsn(cut))
    let storage = try DirectoryStorage(path: path, access: .owner)
    let store = try StockStore.open(
      storage: storage, limits: run.limits, options: run.options, archive: run.archive,
      makeClock: { _ in run.clock }
    ).store
    let session = store.makeSession()
    for number in 0..<400 {
      _ = session.beginTurn()
      _ = session.adjust("other-\(number)", "s1", .delta(1), location: "")
      session.endTurn()
      repeat { while try store.stepJournal() {} } while try store.stepMaintenance()
    }
    let journal = try #require(store.journal)
    while try journal.archiver?.step(journal.log.position) ?? false {}
    let histories = Set(
      try run.archive.names().compactMap { FileNames.archivedSegment($0)?.history })
    #expect(histories.count == 2)
    let (report, _) = try Self.restore(folder, "backup", run.archive)
    #expect(report.lsn == end.0 && report.digest == end.1)
  }
}
