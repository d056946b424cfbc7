import Foundation
import Posix
import Synchronization
import Testing

@testable import Log
@testable import PostgresLog

@Suite(.serialized, .enabled(if: TestEngine.isInstalled)) struct PostgresLogTests {
  private static let second: Int64 = 1_000_000_000

  /// A log of its own, with its tables.
  private func makeLog() throws -> (log: PostgresLog, address: String) {
    let address = try TestEngine.shared.get().makeDatabase()
    #expect(try PostgresSchema.make(at: address, role: nil))
    return (try open(address), address)
  }

  private func open(
    _ address: String, _ change: (inout EngineOptions) -> Void = { _ in }
  ) throws -> PostgresLog {
    var options = EngineOptions()
    options.pauseNanoseconds = 20_000_000
    change(&options)
    return try PostgresLog(address: address, options: options)
  }

  /// A batch of `count` bytes of records that say `byte`, at the end of the log.
  private func append(
    _ byte: UInt8, count: Int = 64, at lsn: UInt64, epoch: UInt32, to log: PostgresLog
  ) throws {
    let bytes = [UInt8](repeating: byte, count: BatchHeader.byteCount + count)
    unsafe try bytes.withUnsafeBytes { bytes in
      unsafe try log.append(
        PlacedBatch(
          lsn: lsn, byteCount: count, epoch: epoch, sequence: 1, offset: 4096 + Int(lsn),
          mark: UInt64(byte) + 1, bytes: bytes))
    }
  }

  /// What the log holds from `lsn` on: where each batch begins, its epoch, and what it says.
  private func contents(_ log: PostgresLog, from lsn: UInt64 = 0) throws -> [String] {
    var found: [String] = []
    var next = lsn
    while true {
      let end = try log.read(from: next, behind: nil, bytesMax: 200) { batch in
        let first = unsafe batch.bytes[0]
        found.append("\(batch.lsn) \(batch.epoch) \(first) \(batch.sequence) \(batch.offset)")
      }
      if end == next { return found }
      next = end
    }
  }

  private func taken(_ log: PostgresLog, by owner: String) throws -> LogState {
    try #require(try log.take(after: log.state(), owner: owner, address: "\(owner):7000"))
  }

  @Test func whatWasAppendedIsThere() throws {
    let (log, address) = try makeLog()
    try log.check()
    #expect(log.leaseEnd == .min)
    let before = SystemClock.steadyNanoseconds()
    let state = try taken(log, by: "a")
    #expect(
      state.epoch == 1 && state.endLSN == 0 && state.owner == "a" && state.address == "a:7000")
    #expect(log.leaseEnd >= before + 2 * Self.second)
    for index in 0..<50 {
      try append(UInt8(index), at: UInt64(index) * 64, epoch: 1, to: log)
    }
    let other = try open(address)
    let found = try contents(other)
    #expect(found.count == 50)
    #expect(found[49] == "\(49 * 64) 1 49 1 \(4096 + 49 * 64)")
    #expect(try contents(other, from: 48 * 64).count == 2)
    let now = try other.state()
    #expect(now.endLSN == 3200 && now.beats != state.beats)
    try log.beat(epoch: 1)
    #expect(try other.state().beats != now.beats)
    #expect(log.doubts == 0)
  }

  @Test func oneOwnerAtATime() throws {
    let (first, address) = try makeLog()
    let second = try open(address)
    let seen = try second.state()
    let own = try taken(first, by: "a")
    #expect(own.epoch == 1 && own.owner == "a" && own.lease == EngineOptions().leaseNanoseconds)
    #expect(try second.state().lease == own.lease)
    // Something has happened since.
    #expect(try second.take(after: seen, owner: "b", address: "") == nil)
    let later = try second.state()
    try append(1, at: 0, epoch: 1, to: first)
    #expect(try second.take(after: later, owner: "b", address: "") == nil)
    #expect(try taken(second, by: "b").epoch == 2)
    #expect(throws: JournalError.fenced(by: 2)) { try append(2, at: 64, epoch: 1, to: first) }
    #expect(throws: JournalError.fenced(by: 2)) { try first.beat(epoch: 1) }
    try append(3, at: 64, epoch: 2, to: second)
    #expect(try contents(first) == ["0 1 1 1 4096", "64 2 3 1 4160"])
  }

  @Test(
    arguments: [
      ("", "", nil), ("shop-1:12:abc", "shop-1:12:abc", nil), ("a/2500ms", "a", 2_500_000_000),
      ("a/b/1ms", "a/b", 1_000_000), ("a/3600000ms", "a", 3_600_000_000_000),
      ("a/3600001ms", "a/3600001ms", nil), ("a/0ms", "a/0ms", nil), ("a/-5ms", "a/-5ms", nil),
      ("a/ms", "a/ms", nil), ("a/5s", "a/5s", nil), ("/7ms", "", 7_000_000),
      ("a/99999999999999999999ms", "a/99999999999999999999ms", nil),
    ] as [(String, String, Int64?)])
  func whoHasTheLogAndForHowLong(text: String, name: String, lease: Int64?) {
    let owner = OwnerColumn(text: text)
    #expect((owner.name, owner.lease) == (name, lease))
    #expect(owner.text == text)
  }

  @Test func aLeaseIsToldInWholeMilliseconds() {
    #expect(OwnerColumn(name: "a", lease: 1).text == "a/1ms")
    #expect(OwnerColumn(name: "a", lease: 2_000_000).text == "a/2ms")
    #expect(OwnerColumn(name: "a", lease: 2_000_001).text == "a/3ms")
  }

  @Test func aLogBeginsOnceAndIsGivenUp() throws {
    let (log, address) = try makeLog()
    #expect(try !log.state().hasBegun)
    _ = try taken(log, by: "a")
    var parts: [[UInt8]] = [[2], [1]]
    try log.begin(at: 640, epoch: 1) { parts.popLast() }
    let begun = try log.state()
    #expect(begun.hasBegun && begun.endLSN == 640 && begun.trimmedLSN == 640)
    #expect(try log.checkpoints().map(\.lsn) == [640])
    try append(1, at: 640, epoch: 1, to: log)
    let other = try open(address)
    try other.want()
    #expect(try log.state().isWanted)
    try log.release(epoch: 1)
    #expect(try other.state().owner == "")
    let taken = try taken(other, by: "b")
    #expect(taken.epoch == 2 && taken.hasBegun && !taken.isWanted)
    #expect(throws: JournalError.fenced(by: 2)) { try log.begin(at: 0, epoch: 1) { nil } }
    #expect(throws: JournalError.fenced(by: 2)) { try log.release(epoch: 1) }
    #expect(try log.checkpoints().map(\.lsn) == [640])
  }

  @Test func whoReadsOnHearsThatTheLogIsAnother() throws {
    let (log, _) = try makeLog()
    _ = try taken(log, by: "a")
    for index in 0..<3 { try append(UInt8(index), at: UInt64(index) * 64, epoch: 1, to: log) }
    func read(_ lsn: UInt64, behind last: BatchName) throws -> UInt64 {
      try log.read(from: lsn, behind: last, bytesMax: 1000) { #expect($0.lsn >= lsn) }
    }
    #expect(try read(128, behind: BatchName(lsn: 64, mark: 2)) == 192)
    #expect(try read(192, behind: BatchName(lsn: 128, mark: 3)) == 192)
    for name in [BatchName(lsn: 64, mark: 9), BatchName(lsn: 72, mark: 2)] {
      #expect(throws: JournalError.takenBack(before: 128)) { try read(128, behind: name) }
    }
    // It has more than the log.
    #expect(throws: JournalError.takenBack(before: 256)) {
      try read(256, behind: BatchName(lsn: 192, mark: 4))
    }
  }

  @Test func anAppendIsAtTheEndOrNotAtAll() throws {
    let (log, _) = try makeLog()
    _ = try taken(log, by: "a")
    try append(1, at: 0, epoch: 1, to: log)
    // Whoever holds another end for the newest has lost something, or the engine has.
    for lsn: UInt64 in [128, 1 << 40] {
      #expect {
        try append(2, at: lsn, epoch: 1, to: log)
      } throws: { if case JournalError.lost = $0 { true } else { false } }
    }
    #expect(try contents(log) == ["0 1 1 1 4096"])
  }

  @Test func checkpointsAndWhatTheyReplace() throws {
    let (log, _) = try makeLog()
    _ = try taken(log, by: "a")
    for index in 0..<5 { try append(UInt8(index), at: UInt64(index) * 64, epoch: 1, to: log) }
    // Without a checkpoint nothing is given up.
    try log.trim(before: 128)
    #expect(try contents(log).count == 5)
    let parts: [[UInt8]] = [[1, 2], [UInt8](repeating: 3, count: 1 << 20), []]
    for _ in 0..<2 {
      var next = 0
      try log.putCheckpoint(128) {
        defer { next += 1 }
        return next < parts.count ? parts[next] : nil
      }
    }
    var found: [UInt8] = []
    let kept = try log.checkpoints()
    #expect(kept.map(\.lsn) == [128, 128])
    unsafe try log.getCheckpoint(kept[1]) { unsafe found += $0 }
    #expect(found == parts.flatMap { $0 })
    try log.removeCheckpoint(kept[0])
    #expect(throws: JournalError.trimmed(oldest: 0)) {
      unsafe try log.getCheckpoint(kept[0]) { _ in }
    }
    try log.trim(before: 192)
    #expect(try contents(log).count == 5)
    try log.trim(before: 128)
    #expect(try log.state().trimmedLSN == 128)
    #expect(throws: JournalError.trimmed(oldest: 128)) { try contents(log, from: 64) }
    #expect(try contents(log, from: 128).count == 3)
    // The newest stays: what was trimmed is nowhere else.
    try log.removeCheckpoint(kept[1])
    #expect(try log.checkpoints() == [kept[1]])
  }

  /// Calls while which the standbys do not answer.
  private func withoutStandbys(_ body: () throws -> Void) throws {
    let engine = try TestEngine.shared.get()
    try engine.run("freeze", "the-standbys")
    defer { try? engine.run("thaw", "the-standbys") }
    try body()
  }

  /// What is done to an append that waits for its standbys.
  enum Harm: String, CaseIterable { case cancelled, cutOff, outOfTime }

  @Test(arguments: Harm.allCases) func aDoubtIsClearedUp(harm: Harm) throws {
    let (_, address) = try makeLog()
    let log = try open(address) {
      if harm == .outOfTime { $0.writeNanoseconds = 300_000_000 }
    }
    _ = try taken(log, by: "a")
    try append(1, at: 0, epoch: 1, to: log)
    let done = DispatchGroup()
    done.enter()
    let admin = try PostgresConnection(address, nanosecondsEach: 10 * Self.second)
    try withoutStandbys {
      Thread.detachNewThread {
        do { try append(2, at: 64, epoch: 1, to: log) } catch { Issue.record("\(error)") }
        done.leave()
      }
      let waiting =
        "from pg_stat_activity where wait_event = 'SyncRep' and application_name = 'holdfast'"
      func run(_ statement: String) throws -> UInt64 {
        try admin.run(statement, nanoseconds: 5 * Self.second).rows.number(0, 0)
      }
      while try run("select count(*) \(waiting)") == 0 { usleep(5_000) }
      switch harm {
      case .cancelled: _ = try run("select count(pg_cancel_backend(pid)) \(waiting)")
      case .cutOff: _ = try run("select count(pg_terminate_backend(pid)) \(waiting)")
      case .outOfTime: while log.doubts == 0 { usleep(5_000) }
      }
      // It is there, and one machine alone has it.
      #expect(done.wait(timeout: .now() + 0.4) == .timedOut)
      #expect(log.doubts == 1)
    }
    done.wait()
    #expect(try contents(log) == ["0 1 1 1 4096", "64 1 2 1 4160"])
    try append(3, at: 128, epoch: 1, to: log)
    #expect(try log.state().endLSN == 192)
  }

  @Test func withoutStandbysToWaitForNothingIsAcknowledged() throws {
    let (log, address) = try makeLog()
    _ = try taken(log, by: "a")
    try append(1, at: 0, epoch: 1, to: log)
    let admin = try PostgresConnection(address, nanosecondsEach: 10 * Self.second)
    func set(_ names: String) throws {
      _ = try admin.run(
        "alter system set synchronous_standby_names = '\(names)'", nanoseconds: 5 * Self.second)
      _ = try admin.run("select pg_reload_conf()", nanoseconds: 5 * Self.second)
      let isSet =
        "select (current_setting('synchronous_standby_names') = '\(names)')::int::int8"
      while try admin.run(isSet, nanoseconds: 5 * Self.second).rows.number(0, 0) == 0 {
        usleep(5_000)
      }
    }
    let done = DispatchGroup()
    done.enter()
    try set("")
    Thread.detachNewThread {
      do { try append(2, at: 64, epoch: 1, to: log) } catch { Issue.record("\(error)") }
      done.leave()
    }
    while log.doubts == 0 { usleep(5_000) }
    #expect(throws: JournalError.self) { try open(address).check() }
    #expect(done.wait(timeout: .now() + 0.3) == .timedOut)
    try set("ANY 1 (*)")
    done.wait()
    #expect(try contents(log) == ["0 1 1 1 4096", "64 1 2 1 4160"])
  }

  @Test func whatAnEngineLacksIsSaid() throws {
    let engine = try TestEngine.shared.get()
    let address = try engine.makeDatabase()
    func check(_ address: String) -> String {
      do {
        let log = try open(address)
        try log.check()
        return ""
      } catch { return "\(error)" }
    }
    #expect(check(address).contains("no tables for holdfast yet"))
    #expect(try PostgresSchema.make(at: address, role: nil))
    #expect(try !PostgresSchema.make(at: address, role: nil))
    #expect(check(address) == "")
    let admin = try PostgresConnection(address, nanosecondsEach: 10 * Self.second)
    for (version, words) in [(2, "newer holdfast (version 2), this one knows 1"), (0, "needs 1")] {
      try admin.run(
        script: "update holdfast.version set version = \(version)", nanoseconds: 5 * Self.second)
      #expect(check(address).contains(words))
    }
    let wrong = address.replacingOccurrences(of: "//holdfast@", with: "//holdfast:wrong@")
    #expect(check(wrong).contains("password authentication failed"))
    #expect(check("postgresql://127.0.0.1:1/x").contains("Connection refused"))
    #expect(check("no address").contains("it is no address of an engine"))
  }

  /// What somebody with rights may have made of the tables. Nothing of it comes to more than an error.
  private static let hostileTables = [
    "update holdfast.shard set epoch = -1", "update holdfast.shard set epoch = 9223372036854775807",
    "update holdfast.shard set epoch = 4294967296", "update holdfast.shard set end_lsn = -8",
    "update holdfast.shard set end_lsn = 9223372036854775807",
    "update holdfast.shard set trimmed_lsn = -1, beats = -1", "delete from holdfast.shard",
    "update holdfast.log set lsn = -64 where lsn = 64",
    "update holdfast.log set lsn = 9223372036854775807 where lsn = 64",
    "update holdfast.log set byte_count = -1",
    "update holdfast.log set byte_count = 9223372036854775807",
    "update holdfast.log set epoch = -1, sequence = -1",
    "update holdfast.log set place = -1, mark = -1",
    "update holdfast.log set place = 9223372036854775807, sequence = 9223372036854775807",
    "update holdfast.log set bytes = ''",
    "update holdfast.log set bytes = decode(repeat('ff', 1000000), 'hex')",
    "delete from holdfast.log where lsn = 0",
    "update holdfast.checkpoint set parts = -1, lsn = -1",
    "update holdfast.checkpoint set parts = 9223372036854775807",
    "update holdfast.checkpoint set parts = 0",
    "update holdfast.checkpoint_part set part = 2 where part = 1",
    "update holdfast.checkpoint_part set part = -1 where part = 0",
    "delete from holdfast.checkpoint_part",
  ]

  @Test func whateverTheTablesHold() throws {
    let (log, address) = try makeLog()
    let admin = try PostgresConnection(address, nanosecondsEach: 10 * Self.second)
    let fresh = """
      truncate holdfast.log, holdfast.checkpoint, holdfast.checkpoint_part;
      delete from holdfast.shard;
      insert into holdfast.shard values (0, 1, 7, 128, 0, 'a', '', true, false);
      insert into holdfast.log values
        (0, 0, 64, 1, 1, 4096, 1, repeat('x', 112)::bytea),
        (0, 64, 64, 1, 1, 4208, 2, repeat('y', 112)::bytea);
      insert into holdfast.checkpoint values (5, 0, 0, 2, true);
      insert into holdfast.checkpoint_part values (5, 0, 'ab'), (5, 1, 'cd')
      """
    /// What is asked of it, and how many of the answers are errors.
    func ask() -> Int {
      var errors = 0
      func attempt(_ body: () throws(JournalError) -> Void) {
        do throws(JournalError) { try body() } catch { errors += 1 }
      }
      var bytes = 0
      attempt { () throws(JournalError) in _ = try log.state() }
      for (lsn, last) in [(0, nil), (64, BatchName(lsn: 0, mark: 1))] as [(UInt64, BatchName?)] {
        attempt { () throws(JournalError) in
          _ = try log.read(from: lsn, behind: last, bytesMax: 1 << 20) { batch in
            bytes += unsafe batch.bytes.count
          }
        }
      }
      attempt { () throws(JournalError) in
        for kept in try log.checkpoints() {
          unsafe try log.getCheckpoint(kept) { part in bytes += part.count }
        }
      }
      return errors
    }
    for harm in Self.hostileTables {
      try admin.run(script: fresh, nanoseconds: 5 * Self.second)
      #expect(ask() == 0)
      try admin.run(script: harm, nanoseconds: 5 * Self.second)
      _ = ask()
    }
    try admin.run(script: "\(fresh); delete from holdfast.shard", nanoseconds: 5 * Self.second)
    #expect(ask() == 3)
    try admin.run(
      script: "\(fresh); delete from holdfast.checkpoint_part where part = 1",
      nanoseconds: 5 * Self.second)
    #expect(ask() == 1)
  }

  @Test func aRoleWithNoMoreRightsThanItNeeds() throws {
    let engine = try TestEngine.shared.get()
    let address = try engine.makeDatabase()
    let admin = try PostgresConnection(address, nanosecondsEach: 10 * Self.second)
    let role = "server \"\(UInt32.random(in: 0 ... .max))"
    let quoted = role.replacingOccurrences(of: "\"", with: "\"\"")
    try admin.run(
      script: "create role \"\(quoted)\" login password 'word'", nanoseconds: 5 * Self.second)
    #expect(try PostgresSchema.make(at: address, role: role))
    let escaped = role.replacingOccurrences(of: " ", with: "%20")
      .replacingOccurrences(of: "\"", with: "%22")
    let log = try open(
      address.replacingOccurrences(of: "//holdfast@", with: "//\(escaped):word@"))
    try log.check()
    _ = try taken(log, by: "a")
    try append(1, at: 0, epoch: 1, to: log)
    try append(2, at: 64, epoch: 1, to: log)
    var parts: [[UInt8]] = [[1]]
    try log.putCheckpoint(64) { parts.popLast() }
    try log.trim(before: 64)
    #expect(try contents(log, from: 64).count == 1)
    try log.removeCheckpoint(try #require(log.checkpoints().first))
  }

  @Test func aFailoverIsAPause() throws {
    let engine = try TestEngine.shared.get()
    let (log, address) = try makeLog()
    _ = try taken(log, by: "a")
    // Until the failover is over, so that one is on its way when the primary dies, however long that takes.
    let isOver = Mutex(false)
    let appended = DispatchSemaphore(value: 0)
    let count = Mutex(0)
    Thread.detachNewThread {
      do {
        var index = 0
        while index < 100_000, index < 400 || !isOver.withLock({ $0 }) {
          try append(UInt8(index % 251), at: UInt64(index) * 64, epoch: 1, to: log)
          index += 1
        }
        count.withLock { $0 = index }
      } catch { Issue.record("\(error)") }
      appended.signal()
    }
    while try log.state().endLSN < 40 * 64 { usleep(2_000) }
    try engine.run("kill", "the-primary")
    try engine.run("promote")
    isOver.withLock { $0 = true }
    appended.wait()
    let found = try contents(open(address))
    #expect(
      found == (0..<count.withLock { $0 }).map { "\($0 * 64) 1 \($0 % 251) 1 \(4096 + $0 * 64)" })
    #expect(log.doubts >= 1)
  }
}
