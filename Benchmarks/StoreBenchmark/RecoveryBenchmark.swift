internal import Log
// How long a start takes: `store-benchmark recovery DIR` fills DIR, which must be empty, and opens it
// again and again. What was written lies in the system's memory, so that no disk is measured.
// `store-benchmark recover DIR` opens a directory that is filled already, once: so that two builds take turns.
internal import Posix
internal import StockStore
internal import StorePersistence

struct RecoveryBenchmark {
  private static let rounds = 5
  private static let mixedCommands = 3_000_000
  /// Commands between two steps of the journal: they must fit the ring.
  private static let slice = 20_000

  let path: String

  func run() throws {
    try fill()
    print("from the journal alone:")
    for _ in 0..<Self.rounds { try measure() }
    try makeCheckpoint()
    print("from a checkpoint:")
    for _ in 0..<Self.rounds { try measure() }
  }

  /// Opens what another run has filled.
  func runOnce() throws { try measure() }

  private func open(checkpointSegments: Int) throws -> (StockStore, RecoverySummary) {
    var limits = Bench.limits(items: StoreBenchmark.items)
    limits.retentionNanoseconds = 3_600_000_000_000
    return try StockStore.open(
      storage: DirectoryStorage(path: path, access: .owner), limits: limits,
      options: JournalOptions(
        durability: .os, segmentBytes: 64 << 20, ringBytes: 16 << 20, groupBytesMax: 1 << 20,
        spareSegments: 1, checkpointSegments: checkpointSegments),
      makeClock: { SystemClock(notBefore: $0) })
  }

  /// Items and live holds, then holds that are made and ended.
  private func fill() throws {
    let (store, _) = try open(checkpointSegments: 1 << 30)
    let worker = Worker(store.makeSession(), seed: 1)
    for first in stride(from: 0, to: StoreBenchmark.items, by: Self.slice) {
      for item in first..<min(first + Self.slice, StoreBenchmark.items) {
        if item % Bench.commandsPerTurn == 0 { worker.nextTurn() }
        worker.makeStock(Picks.name(item), 1 << 40)
      }
      try stepAll(store)
    }
    let picks = Picks(.uniform, items: StoreBenchmark.items, count: Self.slice)
    for _ in 0..<(StoreBenchmark.liveHolds / Self.slice) {
      worker.reserve(picks, ttlNanoseconds: Bench.fillTTL)
      worker.forgetHolds()
      try stepAll(store)
    }
    for round in 0..<(Self.mixedCommands / Self.slice / 2) {
      worker.reserve(picks, ttlNanoseconds: Bench.fillTTL)
      worker.endHolds { session, id in
        round % 2 == 0
          ? session.confirm(id, reacquireIfExpired: false).isAccepted
          : session.release(id).isAccepted
      }
      try stepAll(store)
    }
    try store.closeJournal()
  }

  private func stepAll(_ store: StockStore) throws {
    repeat { while try store.stepJournal() {} } while try store.stepMaintenance()
  }

  private func makeCheckpoint() throws {
    let (store, _) = try open(checkpointSegments: 2)
    let start = SystemClock.monotonicNanoseconds()
    try stepAll(store)
    let seconds = Double(SystemClock.monotonicNanoseconds() - start) / 1e9
    let statistics = store.journalStatistics
    print(
      "checkpoint of \(statistics?.checkpointBytesLast ?? 0) bytes in \(seconds) s, "
        + "with nobody else at work")
    try store.closeJournal()
  }

  private func measure() throws {
    let start = SystemClock.monotonicNanoseconds()
    let startCPU = Machine.processCPUNanoseconds()
    let (store, summary) = try open(checkpointSegments: 1 << 30)
    let seconds = Double(SystemClock.monotonicNanoseconds() - start) / 1e9
    let secondsCPU = Double(Machine.processCPUNanoseconds() - startCPU) / 1e9
    print(
      "  \(summary.recordsReplayed) records of \(summary.journalBytesRead) bytes, "
        + "\(summary.items) items, \(summary.liveReservations) live: ready in \(seconds) s, "
        + "CPU \(secondsCPU) s, "
        + "\(Int(Double(summary.recordsReplayed) / secondsCPU)) records a CPU second")
    try store.closeJournal()
  }
}
