import Log
import Posix
import Simulation
import StockStore
import Testing

/// The disk that everything else is tried on: each fault happens, and nothing else does.
@Suite struct SimulatedStorageTests {
  private static let bytes = Array(repeating: UInt8(7), count: 2000)

  private func write(_ bytes: [UInt8], to file: any StorageFile, at offset: Int) throws {
    try unsafe bytes.withUnsafeBytes { try unsafe file.write($0, at: offset) }
  }

  private func read(_ storage: SimulatedStorage, _ name: String) throws -> [UInt8] {
    let file = try storage.open(name)
    var bytes = [UInt8](repeating: 0, count: try file.byteCount())
    let count = try unsafe bytes.withUnsafeMutableBytes { try unsafe file.read(into: $0, at: 0) }
    #expect(count == bytes.count)
    return bytes
  }

  /// A file "a" of 3,000 ones, safe on the disk.
  private func makeStorage(seed: UInt64) throws -> (SimulatedStorage, any StorageFile) {
    let storage = SimulatedStorage(random: SeededRandom(seed: seed))
    let file = try storage.create("a")
    try write(Array(repeating: 1, count: 3000), to: file, at: 0)
    try file.sync()
    try storage.syncDirectory()
    return (storage, file)
  }

  @Test(arguments: 0..<20) func whatWasSyncedStays(seed: UInt64) throws {
    let (storage, file) = try makeStorage(seed: seed)
    try write(Self.bytes, to: file, at: 2500)
    try file.sync()
    let after = storage.restart(losingPower: true)
    #expect(try read(after, "a") == Array(repeating: 1, count: 2500) + Self.bytes)
    #expect(throws: Errno.self) { try file.byteCount() }
    #expect(throws: Errno.self) { try storage.names() }
  }

  @Test func whatWasNotSyncedIsKeptDroppedOrTorn() throws {
    var kept = 0
    var dropped = 0
    var torn = 0
    for seed in 0..<300 as Range<UInt64> {
      let (storage, file) = try makeStorage(seed: seed)
      try write(Self.bytes, to: file, at: 600)
      let after = try read(storage.restart(losingPower: true), "a")
      #expect(after.count == 3000)
      #expect(after[..<600].allSatisfy { $0 == 1 } && after[2600...].allSatisfy { $0 == 1 })
      let written = after[600..<2600].count { $0 == 7 }
      #expect(after.allSatisfy { $0 == 7 || $0 == 1 })
      switch written {
      case 0: dropped += 1
      case Self.bytes.count: kept += 1
      default: torn += 1
      }
    }
    #expect(kept > 50 && dropped > 30 && torn > 30, "\(kept) \(dropped) \(torn)")
  }

  @Test func aLengthMayOutliveItsBytesAndNotTheOtherWayAround() throws {
    var longerWithZeros = 0
    for seed in 0..<300 as Range<UInt64> {
      let (storage, file) = try makeStorage(seed: seed)
      try write(Self.bytes, to: file, at: 3500)
      let after = try read(storage.restart(losingPower: true), "a")
      #expect(after.count >= 3000 && after.count <= 5500)
      #expect(after[..<3000].allSatisfy { $0 == 1 })
      #expect(after[3000...].allSatisfy { $0 == 0 || $0 == 7 })
      if after.count > 3000 && after[3000...].allSatisfy({ $0 == 0 }) { longerWithZeros += 1 }
    }
    #expect(longerWithZeros > 5)
  }

  @Test func namesAreKeptOrLostOneByOne() throws {
    var seen: Set<[String]> = []
    for seed in 0..<300 as Range<UInt64> {
      let (storage, _) = try makeStorage(seed: seed)
      try storage.create("b").sync()
      try storage.rename("a", to: "c")
      let after = storage.restart(losingPower: true)
      let names = try after.names().sorted()
      if names.contains("c") {
        #expect(try read(after, "c") == Array(repeating: 1, count: 3000))
      }
      seen.insert(names)
    }
    #expect(seen == [["a"], ["a", "b"], ["b", "c"], ["c"]])
  }

  @Test(arguments: 0..<20) func namesStayOnceTheDirectoryIsSynced(seed: UInt64) throws {
    let (storage, _) = try makeStorage(seed: seed)
    _ = try storage.create("b")
    try storage.rename("a", to: "c")
    try storage.remove("b")
    try storage.syncDirectory()
    #expect(try storage.restart(losingPower: true).names() == ["c"])
  }

  @Test(arguments: 0..<20) func aRenameThatReplacesIsOneOrTheOther(seed: UInt64) throws {
    let (storage, _) = try makeStorage(seed: seed)
    let new = try storage.create("new")
    try write(Self.bytes, to: new, at: 0)
    try new.sync()
    try storage.rename("new", to: "a")
    let after = try read(storage.restart(losingPower: true), "a")
    #expect(after == Self.bytes || after == Array(repeating: 1, count: 3000))
  }

  @Test func aKilledProcessLosesNothingUntilThePowerFails() throws {
    var lost = 0
    for seed in 0..<50 as Range<UInt64> {
      let (storage, file) = try makeStorage(seed: seed)
      try write(Self.bytes, to: file, at: 0)
      _ = try storage.create("b")
      let killed = storage.restart(losingPower: false)
      #expect(try killed.names().sorted() == ["a", "b"])
      #expect(try read(killed, "a").prefix(2000) == Self.bytes[...])
      let after = killed.restart(losingPower: true)
      if try read(after, "a").prefix(2000) != Self.bytes[...] { lost += 1 }
    }
    #expect(lost > 10)
  }

  @Test(arguments: [FaultPlan.Fault.crashBefore, .crashDuring, .crashAfter])
  func aCrashComesAtTheCallThatItIsPlannedFor(fault: FaultPlan.Fault) throws {
    let (storage, file) = try makeStorage(seed: 1)
    storage.plan = FaultPlan(calls: 2, fault: fault)
    try write(Self.bytes, to: file, at: 0)
    #expect(throws: Errno.self) { try file.sync() }
    #expect(storage.isDown)
    #expect(throws: Errno.self) { try storage.syncDirectory() }
    if fault == .crashAfter {
      let after = try read(storage.restart(losingPower: true), "a")
      #expect(after.prefix(2000) == Self.bytes[...])
    }
  }

  @Test func aSecondSyncDoesNotBringBackWhatTheFirstHasLost() throws {
    var lost = 0
    for seed in 0..<50 as Range<UInt64> {
      let (storage, file) = try makeStorage(seed: seed)
      try write(Self.bytes, to: file, at: 0)
      storage.plan = FaultPlan(calls: 1, fault: .error)
      #expect(throws: Errno.self) { try file.sync() }
      try file.sync()
      #expect(try read(storage, "a").prefix(2000) == Self.bytes[...])
      let after = try read(storage.restart(losingPower: true), "a")
      if after.prefix(2000) != Self.bytes[...] { lost += 1 }
    }
    #expect(lost > 10 && lost < 40)
  }

  @Test func spaceRunsOutForWhatNeedsMoreOfIt() throws {
    let (storage, file) = try makeStorage(seed: 1)
    storage.bytesMax = 3500
    try write(Self.bytes, to: file, at: 1000)
    #expect(throws: Errno.self) { try write(Self.bytes, to: file, at: 2500) }
    storage.bytesMax = 3000
    #expect(throws: Errno.self) { try storage.create("b") }
    #expect(storage.refusedForSpaceCount == 2)
    storage.bytesMax = .max
    try write(Self.bytes, to: file, at: 2500)
    #expect(try read(storage, "a").count == 4500)
  }
}
