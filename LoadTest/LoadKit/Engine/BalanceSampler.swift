// Compares the server's balances with the ledger while the load runs, once a second, on the main
// thread and a connection of its own.
internal import LoadHistory
internal import Posix

struct BalanceSampler: ~Copyable {
  private let target: Endpoint
  private let names: SKUNames
  private let stock: [Int64]
  private let keepsCommitted: Bool
  private let overcommit: Int64
  private let workers: [WatchCounters]
  /// From here on a hold may have expired that lives as long as was asked for.
  private let expiryPossibleFrom: Int64
  /// The generator's wall clock less its monotonic clock.
  private let clockOffset: Int64
  private var client: StockClient?
  private var nextNanoseconds: Int64
  /// Balances compared, and what was found wrong with them.
  private(set) var compared = 0
  private(set) var faults: [SampleFault] = []

  private static let spacingNanoseconds: Int64 = 1_000_000_000
  /// A server that does not answer in this time is asked again later.
  private static let patienceNanoseconds: Int64 = 1_000_000_000
  /// How much faster than ours the server's clock may run, in parts of the time to live, and at most
  /// how late ours was read.
  private static let clockDriftParts: Int64 = 1_000
  private static let clockSlackNanoseconds: Int64 = 50_000_000
  private static let faultsKept = 20

  /// - Parameters:
  ///   - startNanoseconds: nothing was sent before.
  ///   - startedUnixNanoseconds: the same by the wall clock.
  init(
    _ options: RunOptions, workers: [WatchCounters], startNanoseconds: Int64,
    startedUnixNanoseconds: Int64
  ) {
    target = options.target
    names = SKUNames(run: options.run)
    stock = Array(options.workload.stock.prefix(WatchCounters.skusMaximum))
    keepsCommitted = options.workload.keepsCommitted
    overcommit = options.workload.overcommit
    self.workers = workers
    // Holds that are due together may live for a second alone.
    let shortest =
      options.workload.dueTogetherNanoseconds == nil
      ? options.workload.timeToLiveNanoseconds.lowerBound : 1_000_000_000
    expiryPossibleFrom =
      startNanoseconds + shortest - shortest / BalanceSampler.clockDriftParts
      - BalanceSampler.clockSlackNanoseconds
    clockOffset = startedUnixNanoseconds - startNanoseconds
    nextNanoseconds = startNanoseconds + BalanceSampler.spacingNanoseconds / 2
  }

  /// Reads and compares, where that is due.
  mutating func sampleIfDue(_ now: Int64) {
    guard now >= nextNanoseconds else { return }
    nextNanoseconds = now + BalanceSampler.spacingNanoseconds
    do throws(LoadError) {
      if client == nil {
        client = try StockClient.connect(
          to: target, patienceNanoseconds: BalanceSampler.patienceNanoseconds)
      }
      try sample()
    } catch {
      // The connection may still have an answer under way: the next try has one of its own.
      client = nil
    }
  }

  private mutating func sample() throws(LoadError) {
    let asked = SystemClock.monotonicNanoseconds()
    var bounds = stock.map { units in
      var bounds = WatchBounds()
      bounds.stock = units
      bounds.keepsCommitted = keepsCommitted
      bounds.overcommit = overcommit
      return bounds
    }
    for sku in bounds.indices { bounds[sku].readDone(workers, sku: sku) }
    guard let levels = try client?.readLevels(bounds.count, names) else { return }
    for sku in bounds.indices { bounds[sku].readSent(workers, sku: sku) }
    let now = SystemClock.monotonicNanoseconds()
    let nothingExpired = now < expiryPossibleFrom && now < earliestExpiry
    for sku in bounds.indices {
      guard let level = levels[sku].level else { continue }
      bounds[sku].nothingExpired = nothingExpired
      compared += 1
      guard let fault = bounds[sku].fault(of: level),
        faults.count < BalanceSampler.faultsKept
      else { continue }
      faults.append(
        SampleFault(
          sku: UInt32(truncatingIfNeeded: sku), sentNanoseconds: asked, answeredNanoseconds: now,
          text: fault))
    }
  }

  /// When the first of the holds that are counted as done falls due: the server may give less time
  /// than was asked for.
  private var earliestExpiry: Int64 {
    let due = workers.map(\.earliestExpiryUnixNanoseconds).min() ?? .max
    let (local, isOverflow) = due.subtractingReportingOverflow(
      clockOffset + BalanceSampler.clockSlackNanoseconds)
    return isOverflow ? .min : local
  }
}
