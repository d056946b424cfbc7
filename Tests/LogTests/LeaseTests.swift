// When a log may be taken, and how its owner says that it is there.
import Posix
import Synchronization
import Testing

@testable import Log

@Suite("Watching an owner")
struct OwnerWatchTests {
  private static let lease: Int64 = 100

  private func state(
    _ epoch: UInt32, _ beats: UInt64, owner: String = "a", lease: Int64? = nil
  ) -> LogState {
    LogState(
      epoch: epoch, beats: beats, endLSN: 0, trimmedLSN: 0, owner: owner, address: "", lease: lease,
      hasBegun: true, isWanted: false)
  }

  /// What is seen, and when.
  private enum Look {
    case state(Int64, UInt32, UInt64)
    case free(Int64, UInt32, UInt64)
    case telling(Int64, UInt32, lease: Int64)
    case blind
  }

  private static let tables: [(name: String, looks: [Look], over: [(Int64, Bool)], moved: Bool)] = [
    ("nothing was seen", [], [(0, false), (1000, false)], false),
    ("it was not reached at all", [.blind], [(1000, false)], false),
    ("seen once", [.state(10, 1, 5)], [(10, false), (109, false), (110, true)], false),
    ("the same again", [.state(10, 1, 5), .state(90, 1, 5)], [(109, false), (110, true)], false),
    (
      "it beats", [.state(10, 1, 5), .state(90, 1, 6)], [(110, false), (189, false), (190, true)],
      true
    ),
    (
      "a number that was before is another beat", [.state(10, 1, 5), .state(90, 1, 4)],
      [(110, false)], true
    ),
    ("another owner", [.state(10, 1, 5), .state(90, 2, 5)], [(110, false), (190, true)], true),
    (
      "its lease is longer", [.telling(10, 1, lease: 1000)],
      [(110, false), (1009, false), (1010, true)], false
    ),
    ("its lease is shorter", [.telling(10, 1, lease: 30)], [(39, false), (40, true)], false),
    (
      "taken by one with another lease",
      [.telling(10, 1, lease: 1000), .telling(20, 2, lease: 50)], [(69, false), (70, true)], true
    ),
    ("given up", [.free(10, 1, 5)], [(10, true)], false),
    ("given up since", [.state(10, 1, 5), .free(20, 1, 6)], [(20, true)], false),
    ("taken by another", [.free(10, 1, 5), .state(20, 2, 6)], [(119, false), (120, true)], true),
    ("given up, and not reached", [.free(10, 1, 5), .blind], [(20, true)], false),
    ("not reached any more", [.state(10, 1, 5), .blind], [(110, false), (9999, false)], false),
    (
      "reached again, and nothing has happened", [.state(10, 1, 5), .blind, .state(500, 1, 5)],
      [(500, false), (599, false), (600, true)], false
    ),
    (
      "reached again, and it was there", [.state(10, 1, 5), .blind, .state(500, 1, 9)],
      [(599, false), (600, true)], true
    ),
  ]

  @Test("A lease is over by this machine's clock alone", arguments: tables.indices)
  func looks(index: Int) {
    let (name, looks, over, moved) = Self.tables[index]
    var watch = OwnerWatch(lease: Self.lease)
    for look in looks {
      switch look {
      case .state(let now, let epoch, let beats): watch.note(state(epoch, beats), at: now)
      case .telling(let now, let epoch, let lease):
        watch.note(state(epoch, 5, lease: lease), at: now)
      case .free(let now, let epoch, let beats): watch.note(state(epoch, beats, owner: ""), at: now)
      case .blind: watch.lostSight()
      }
    }
    for (now, isOver) in over { #expect(watch.isOver(now) == isOver, "\(name) at \(now)") }
    #expect(watch.hasOwnerMoved == moved, "\(name)")
  }
}

@Suite("Keeping a lease")
struct LeaseKeeperTests {
  /// A log that takes beats. What is not asked for here throws.
  private final class Beats: ReplicatedLog {
    struct Heard: Sendable {
      var epochs: [UInt32] = []
      var failure: JournalError?
      var leaseEnd: Int64 = 0
      /// Whenever it is looked at, something was appended since.
      var isBusy = false
      var looks = 0
    }

    let heard = Mutex(Heard())
    let wakeup: Wakeup

    init() throws { wakeup = try Wakeup() }

    func beat(epoch: UInt32) throws(JournalError) {
      defer { wakeup.signal() }
      try heard.withLock { (heard) throws(JournalError) in
        heard.epochs.append(epoch)
        if let failure = heard.failure { throw failure }
        heard.leaseEnd += 1
      }
    }

    var leaseEnd: Int64 {
      defer { wakeup.signal() }
      return heard.withLock { heard in
        if heard.isBusy { heard.leaseEnd += 1 }
        heard.looks += 1
        return heard.leaseEnd
      }
    }
    var epochs: [UInt32] { heard.withLock { $0.epochs } }

    /// Waits until so many were heard.
    func wait(for count: Int) -> Bool {
      for _ in 0..<20 where epochs.count < count { wakeup.wait(nanoseconds: 1_000_000_000) }
      return epochs.count >= count
    }

    private static let unasked = JournalError.unreachable("nobody asks for it here")
    func state() throws(JournalError) -> LogState { throw Self.unasked }
    func take(
      after seen: LogState, owner: String, address: String
    ) throws(JournalError) -> LogState? { nil }
    func append(_ batch: PlacedBatch) throws(JournalError) { throw Self.unasked }
    func release(epoch: UInt32) throws(JournalError) { throw Self.unasked }
    func want() throws(JournalError) { throw Self.unasked }
    func ends(
      at lsn: UInt64, behind last: BatchName?, epoch: UInt32
    ) throws(JournalError) -> Bool { false }
    func read(
      from lsn: UInt64, behind last: BatchName?, bytesMax: Int,
      _ body: (PlacedBatch) throws(JournalError) -> Void
    ) throws(JournalError) -> UInt64 { throw Self.unasked }
    func begin(
      at endLSN: UInt64, epoch: UInt32, _ nextPart: () throws(JournalError) -> [UInt8]?
    ) throws(JournalError) { throw Self.unasked }
    func trim(before lsn: UInt64) throws(JournalError) { throw Self.unasked }
    func checkpoints() throws(JournalError) -> [KeptCheckpoint] { [] }
    func putCheckpoint(
      _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
    ) throws(JournalError) { throw Self.unasked }
    func getCheckpoint(
      _ checkpoint: KeptCheckpoint, _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
    ) throws(JournalError) { throw Self.unasked }
    func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) { throw Self.unasked }
    func close() {}
  }

  private final class Told: Sendable {
    let errors = Mutex<[JournalError]>([])
    let wakeup: Wakeup
    init() throws { wakeup = try Wakeup() }
    func tell(_ error: JournalError) {
      errors.withLock { $0.append(error) }
      wakeup.signal()
    }
  }

  private static let interval: Int64 = 1_000_000

  @Test("An idle owner beats, under the epoch that it has")
  func beats() throws {
    let (log, told) = (try Beats(), try Told())
    let keeper = try LeaseKeeper(log, epoch: 4, interval: Self.interval, onFailure: told.tell)
    #expect(log.wait(for: 3))
    keeper.raise(to: 5)
    let before = log.epochs.count
    #expect(log.wait(for: before + 3))
    keeper.stop()
    let epochs = log.epochs
    #expect(epochs[..<3].allSatisfy { $0 == 4 } && epochs.last == 5)
    #expect(epochs.sorted() == epochs)
    #expect(told.errors.withLock { $0.isEmpty })
    // Its end is the end.
    keeper.stop()
    #expect(log.epochs == epochs)
  }

  @Test("A beat that its owner has fenced itself, by taking the log once more, is no failure")
  func raisedMeanwhile() throws {
    let (log, told) = (try Beats(), try Told())
    let keeper = try LeaseKeeper(log, epoch: 4, interval: Self.interval, onFailure: told.tell)
    keeper.raise(to: 9)
    log.heard.withLock { $0.failure = .fenced(by: 9) }
    #expect(log.wait(for: log.epochs.count + 3))
    #expect(told.errors.withLock { $0.isEmpty })
    log.heard.withLock { $0.failure = .fenced(by: 10) }
    #expect(told.wakeup.wait(nanoseconds: 20_000_000_000))
    keeper.stop()
    #expect(told.errors.withLock { $0 } == [.fenced(by: 10)])
  }

  @Test("An owner that appends need not beat")
  func appends() throws {
    let (log, told) = (try Beats(), try Told())
    log.heard.withLock { $0.isBusy = true }
    let keeper = try LeaseKeeper(log, epoch: 4, interval: Self.interval, onFailure: told.tell)
    for _ in 0..<20_000 where log.heard.withLock({ $0.looks }) < 20 {
      log.wakeup.wait(nanoseconds: Self.interval)
    }
    #expect(log.heard.withLock { $0.looks } >= 20 && log.epochs.isEmpty)
    log.heard.withLock { $0.isBusy = false }
    #expect(log.wait(for: 1))
    keeper.stop()
  }

  @Test(
    "Who is fenced is told once, and nothing more is said to the log",
    arguments: [JournalError.fenced(by: 9), .unreachable("closed")])
  func fenced(error: JournalError) throws {
    let (log, told) = (try Beats(), try Told())
    log.heard.withLock { $0.failure = error }
    let keeper = try LeaseKeeper(log, epoch: 4, interval: Self.interval, onFailure: told.tell)
    #expect(told.wakeup.wait(nanoseconds: 20_000_000_000))
    keeper.stop()
    #expect(told.errors.withLock { $0 } == [error] && log.epochs == [4])
  }
}
