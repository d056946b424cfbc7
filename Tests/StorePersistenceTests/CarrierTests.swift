// Bringing checkpoints to the engine.
import Log
import LogFixtures
import Posix
import Testing

@testable import Simulation
@testable import StorePersistence

@Suite("The carrier of checkpoints")
struct CarrierTests {
  private let server = ScriptedEngine.makeServer()
  private let storage = MemoryStorage()
  private let engine: ScriptedEngine
  private let log: EngineLog<ScriptedEngine>

  init() throws {
    engine = ScriptedEngine(server)
    log = EngineLog(engine: engine, options: EngineOptions())
    let taken = try #require(try log.take(after: log.state(), owner: "a", address: ""))
    var parts: [[UInt8]] = [[1]]
    try log.begin(at: 64, epoch: taken.epoch) { parts.popLast() }
  }

  private func carrier(_ interval: Int64 = .max / 4) throws -> CheckpointCarrier {
    try CheckpointCarrier(log, from: storage, interval: interval)
  }

  /// A file that is called a checkpoint: what is in it is for whoever reads it.
  private func make(_ lsn: UInt64, byteCount: Int) throws {
    let file = try #require(try storage.create(FileNames.checkpoint(lsn)) as? MemoryFile)
    file.bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 / 4096 + Int(lsn)) }
  }

  private func contents(_ checkpoint: KeptCheckpoint) throws -> [UInt8] {
    var bytes: [UInt8] = []
    try unsafe log.getCheckpoint(checkpoint) { part in unsafe bytes += part }
    return bytes
  }

  @Test("The newest is brought, in parts; two are kept, and what they replace is given up")
  func steps() throws {
    let carrier = try carrier()
    defer { carrier.stop() }
    try carrier.step()
    #expect(carrier.newestCarried == 0 && engine.calls > 0)
    // A part is a megabyte.
    for (lsn, byteCount) in [(128, 10), (256, 1 << 20), (512, 5 << 19), (1024, 1)]
      as [(UInt64, Int)]
    {
      try make(lsn, byteCount: byteCount)
      try carrier.step()
      let kept = try log.checkpoints()
      #expect(kept.last?.lsn == lsn && kept.count == 2 && carrier.newestCarried == lsn)
      #expect(try contents(#require(kept.last)) == storage.file(FileNames.checkpoint(lsn))?.bytes)
      #expect(try log.state().trimmedLSN == kept.first?.lsn)
    }
    // Nothing is asked of the engine while there is nothing new.
    let calls = engine.calls
    try carrier.step()
    #expect(engine.calls == calls)
    // Another owner had brought it.
    try make(2048, byteCount: 3)
    var parts: [[UInt8]] = [[9]]
    try log.putCheckpoint(2048) { parts.popLast() }
    try carrier.step()
    #expect(try log.checkpoints().filter { $0.lsn == 2048 }.count == 1)
    #expect(carrier.newestCarried == 2048)
  }

  @Test("Whichever call fails, the next step does it", arguments: ScriptedEngine.Failure.allCases)
  func failures(failure: ScriptedEngine.Failure) throws {
    try make(128, byteCount: 10)
    let first = try carrier()
    defer { first.stop() }
    let before = engine.calls
    try first.step()
    let count = engine.calls - before
    #expect(count >= 6)
    for call in 1...count {
      let lsn = UInt64(128 * (call + 1))
      try make(lsn, byteCount: 5 << 19)
      let carrier = try carrier()
      defer { carrier.stop() }
      engine.failures = [engine.calls + call: failure]
      do throws(JournalError) {
        try carrier.step()
      } catch .unreachable {
        // What was not completed is no checkpoint.
        for kept in try log.checkpoints() {
          #expect(
            try contents(kept).count == storage.file(FileNames.checkpoint(kept.lsn))?.bytes.count
              ?? 1)
        }
        try carrier.step()
      } catch {
        throw error
      }
      let newest = try #require(try log.checkpoints().last)
      #expect(newest.lsn == lsn && carrier.newestCarried == lsn)
      #expect(try contents(newest) == storage.file(FileNames.checkpoint(lsn))?.bytes)
      #expect(try log.state().trimmedLSN <= newest.lsn)
    }
  }

  @Test("Parts that the engine has lost make no checkpoint")
  func lostParts() throws {
    try make(128, byteCount: 5 << 19)
    let carrier = try carrier()
    defer { carrier.stop() }
    let before = try log.checkpoints()
    var parts: [[UInt8]] = [[3], [2], [1]]
    #expect(throws: JournalError.self) {
      try log.putCheckpoint(128) { () throws(JournalError) in
        for name in server.tables.checkpoints.keys {
          server.tables.checkpoints[name]?.parts[0] = nil
        }
        return parts.popLast()
      }
    }
    #expect(try log.checkpoints() == before)
    // One that went while it was read is not there, rather than half of it.
    try carrier.step()
    let newest = try #require(try log.checkpoints().last)
    var read = 0
    #expect(throws: JournalError.trimmed(oldest: 64)) {
      try unsafe log.getCheckpoint(newest) { _ in
        read += 1
        server.tables.checkpoints[newest.name] = nil
      }
    }
    #expect(read == 1)
  }

  @Test("The disk's failures are told and counted, and tried again")
  func diskFails() throws {
    try make(128, byteCount: 10)
    storage.change { $0.failures[.read] = .inputOutput }
    let carrier = try carrier(1_000_000)
    var tries = 0
    while carrier.newestCarried != 128, tries < 20_000 {
      _ = try Wakeup().wait(nanoseconds: 1_000_000)
      tries += 1
    }
    carrier.stop()
    #expect(carrier.newestCarried == 128 && carrier.failures == 1 && carrier.failure == nil)
  }
}
