// A file of a newer format is told as that: never as damage, never with the offer to give it up.
import Bytes
import Log
import LogFixtures
import Posix
import Simulation
import Testing

@testable import StockStore
@testable import StorePersistence

@Suite("Newer formats")
struct NewerFormatTests {
  enum Place: CaseIterable, Sendable {
    case checkpoint, firstSegment, segmentBehindTheEnd, segmentAlone
  }

  /// A directory in which one file is of format `version`, with its name; its checksum is right.
  private func directory(_ place: Place, _ version: UInt32) throws -> ([String: [UInt8]], String) {
    let running = try JournaledStore(crampedLimits(), seed: 6)
    for _ in 0..<20 { try running.command() }
    try running.settle()
    while try running.store.stepMaintenance() {}
    var files = running.copyOfFiles().files
    let checkpoint = try #require(files.keys.first { FileNames.checkpointLSN($0) != nil })
    switch place {
    case .checkpoint:
      var bytes = try #require(files[checkpoint])
      CheckpointBytes.put(UInt64(version), 4, at: BlockHeader.byteCount, &bytes)
      CheckpointBytes.repairChecksums(&bytes)
      files[checkpoint] = bytes
      return (files, checkpoint)
    case .firstSegment, .segmentBehindTheEnd, .segmentAlone:
      let segments = files.keys.filter { FileNames.segmentSequence($0) != nil }.sorted()
      let name = try #require(place == .segmentBehindTheEnd ? segments.last : segments.first)
      if place == .segmentBehindTheEnd { #expect(segments.count > 1) }
      if place == .segmentAlone {
        files = files.filter { $0.key == name }
      }
      SegmentBytes.setVersion(version, &files[name, default: []])
      return (files, name)
    }
  }

  private static let dump: Opening = (
    "dump",
    { @Sendable (storage) throws(JournalError) in try StockStore.dump(storage: storage) { _ in } }
  )
  private static let repair: Opening = (
    "repair",
    { @Sendable (storage) throws(JournalError) in
      _ = try Repair.truncate(storage: storage, at: 40)
    }
  )
  private static let readers = ForgedNumberTests.openings + [dump, repair]

  @Test(
    "It says which, and up to which this one reads", arguments: Place.allCases,
    [UInt32(4), 5, .max])
  func newer(place: Place, version: UInt32) throws {
    let (files, name) = try directory(place, version)
    let known = place == .checkpoint ? CheckpointHeader.version : SegmentHeader.version
    let text =
      "\(name) was written by a newer holdfast (format \(version)), this one reads up to \(known)"
    for (reader, read) in Self.readers {
      let storage = SimulatedStorage(files: files)
      do throws(JournalError) {
        try read(storage)
        Issue.record("\(reader) reads it")
      } catch {
        #expect(error == .newer(file: name, format: version, upTo: known), "\(reader): \(error)")
        #expect(error.description == text)
      }
      // Nothing was changed.
      #expect(storage.files == files, "\(reader)")
    }
  }

  /// Records without parts are the same in both.
  @Test("A directory of the version before opens, and is of the newest from then on")
  func older() throws {
    var (files, checkpoint) = try directory(.checkpoint, 2)
    for name in files.keys where FileNames.segmentSequence(name) != nil {
      SegmentBytes.setVersion(1, &files[name, default: []])
    }
    let before = try StockStore.verify(storage: SimulatedStorage(files: files))
    let storage = SimulatedStorage(files: files)
    _ = try StockStore.open(
      storage: storage, limits: crampedLimits(), options: testOptions(), secret: (1, 2),
      makeClock: { FixedClock($0) })
    #expect(storage.files[checkpoint] == nil, "the checkpoint of the version before is still there")
    let newest = try #require(storage.files.first { FileNames.checkpointLSN($0.key) != nil })
    #expect(newest.value[BlockHeader.byteCount] == 3)
    let after = try StockStore.verify(storage: SimulatedStorage(files: storage.files))
    #expect(after.digest == before.digest)
  }

  @Test(
    "Another version with the old checksum is damage", arguments: [Place.checkpoint, .firstSegment])
  func harmed(place: Place) throws {
    var (files, name) = try directory(place, place == .checkpoint ? 3 : 2)
    files[name]?[place == .checkpoint ? BlockHeader.byteCount : 8] ^= 1 << 3
    do throws(JournalError) {
      _ = try StockStore.verify(storage: SimulatedStorage(files: files))
      Issue.record("it is accepted")
    } catch {
      if case .damaged = error { return }
      Issue.record("\(error)")
    }
  }
}
