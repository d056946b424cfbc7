// The server's numbers at several moments, and what follows from them: rates, quantiles of the last minute, how long
// the disk's room lasts.
internal import Admin
internal import Bytes
internal import ChangeFeed
internal import Log
internal import Metrics
internal import Posix
internal import StockStore

/// Free bytes over time: how fast they go, and when there are none.
struct DiskHorizon {
  private struct Point {
    var nanoseconds: Int64
    var freeBytes: Int
  }

  /// Rates are those of so long: segments are made 64 MiB at a time, and a checkpoint comes and goes.
  static let windowNanoseconds = 600 * Limits.second
  private static let stepNanoseconds = 5 * Limits.second
  /// Before it, what comes and goes cannot be told from what stays.
  private static let leastNanoseconds = 60 * Limits.second

  private var points: [Point] = []
  private(set) var room: FileSystemRoom?

  mutating func note(_ room: FileSystemRoom, nowNanoseconds now: Int64) {
    self.room = room
    if let last = points.last, now - last.nanoseconds < Self.stepNanoseconds { return }
    points.append(Point(nanoseconds: now, freeBytes: room.freeBytes))
    points.removeAll { $0.nanoseconds < now - Self.windowNanoseconds }
  }

  /// Bytes a second by which free room becomes less, by anybody; nil until there is enough to tell.
  var fillingPerSecond: Double? {
    guard let first = points.first, let last = points.last,
      last.nanoseconds - first.nanoseconds >= Self.leastNanoseconds
    else { return nil }
    return Double(first.freeBytes - last.freeBytes)
      / (Double(last.nanoseconds - first.nanoseconds) / 1e9)
  }

  /// Seconds until the disk is full at that rate; nil where it does not become fuller, or nobody knows.
  var secondsLeft: Double? {
    guard let room, let rate = fillingPerSecond, rate > 1 else { return nil }
    return Double(room.freeBytes) / rate
  }
}

/// Confined to the console's thread.
final class ConsoleSamples {
  /// What is counted since the start, at one moment. A class: some hundred words, in several lists.
  final class Sample {
    let nanoseconds: Int64
    let rpc: RPCSnapshot
    let store: StoreStatistics
    let journal: JournalStatistics?
    let eventsSent: UInt64

    init(
      nanoseconds: Int64, rpc: RPCSnapshot = RPCSnapshot(),
      store: StoreStatistics = StoreStatistics(), journal: JournalStatistics? = nil,
      eventsSent: UInt64 = 0
    ) {
      self.nanoseconds = nanoseconds
      self.rpc = rpc
      self.store = store
      self.journal = journal
      self.eventsSent = eventsSent
    }

    var reserves: UInt64 { store.reservationsHeld }
    var refused: UInt64 {
      store.reservesRefusedInsufficientStock + store.reservesRefusedLimitExceeded
        + store.reservesRefusedOther
    }
    var conflicts: UInt64 { store.conflictsLocked + store.conflictsVersionChanged }
  }

  /// One value for each second.
  private struct Series {
    let name: String
    var values: [Double?] = []
  }

  static let secondsKept = 300
  private static let rateSamples = 6
  private static let latencySteps = 6
  private static let latencyStepNanoseconds = 10 * Limits.second

  private(set) var newest: Sample?
  /// Samples so far: a state that is published twice with one of them is no new point of the curves.
  private(set) var taken: UInt64 = 0
  /// Of the last seconds, the newest last.
  private var recent: [Sample] = []
  /// Every ten seconds, for a minute.
  private var older: [Sample] = []
  private var series = ["held", "refused", "calls", "conflicts", "p99", "sync", "lag"].map {
    Series(name: $0)
  }
  private(set) var disk = DiskHorizon()
  private(set) var due = (count: 0, isAtLeast: false)
  private(set) var sweptAt: Int64?
  private var sweeps: UInt64 = 0
  private let dataDirectory: String?

  init(_ settings: Settings) {
    dataDirectory = settings.durability == nil ? nil : settings.dataDirectory
  }

  /// - Parameter isNew: a second has passed; else what there is is brought up to date.
  @inline(never)
  func take(
    _ rpc: RPCSnapshot, _ sources: ConsoleSources, _ reader: StoreReader?, isNew: Bool,
    nowNanoseconds now: Int64
  ) {
    guard isNew || newest == nil else { return }
    let sample = Sample(
      nanoseconds: now, rpc: rpc, store: sources.store?.statistics() ?? StoreStatistics(),
      journal: sources.store?.journalStatistics, eventsSent: sources.feed?.eventsSent ?? 0)
    newest = sample
    taken += 1
    recent.append(sample)
    if recent.count > Self.rateSamples { recent.removeFirst() }
    if older.isEmpty || now - (older.last?.nanoseconds ?? 0) >= Self.latencyStepNanoseconds {
      older.append(sample)
      if older.count > Self.latencySteps { older.removeFirst() }
    }
    if let dataDirectory, let room = try? FileSystemRoom(path: dataDirectory) {
      disk.note(room, nowNanoseconds: now)
    }
    if let reader {
      due = reader.dueHolds()
      if reader.report.sweeps > sweeps {
        sweeps = reader.report.sweeps
        sweptAt = now
      }
    }
    note(sample)
  }

  private func note(_ sample: Sample) {
    let before = recent.count > 1 ? recent[recent.count - 2] : sample
    let seconds = max(1e-3, Double(sample.nanoseconds - before.nanoseconds) / 1e9)
    func rate(_ value: (Sample) -> UInt64) -> Double {
      let (new, old) = (value(sample), value(before))
      return Double(new - min(new, old)) / seconds
    }
    let values: [Double?] = [
      rate(\.reserves), rate(\.refused), rate(\.handled), rate(\.conflicts),
      sample.rpc.reserveQuantiles.count > 1
        ? sample.rpc.reserveQuantiles[1].map { $0 / 1e6 } : nil,
      syncQuantile(0.99, since: before).map { $0 / 1e6 },
      sample.journal.map { Double($0.lsn - min($0.lsn, $0.durableLSN)) },
    ]
    for index in series.indices {
      series[index].values.append(values[index])
      if series[index].values.count > Self.secondsKept { series[index].values.removeFirst() }
    }
  }

  /// The last minutes, for the page's curves.
  var past: JSON {
    .object(
      series.map { ($0.name, .list($0.values.map { .number($0) })) } + [("sample", .count(taken))])
  }

  /// What the curves gain with this state.
  var point: JSON {
    .object(series.map { ($0.name, .number($0.values.last ?? nil)) })
  }

  // MARK: What follows

  /// A second, over the last few; nil until there are two samples.
  func rate(_ value: (Sample) -> UInt64) -> Double? {
    guard let last = recent.last, let first = recent.first, last.nanoseconds > first.nanoseconds
    else { return nil }
    let (new, old) = (value(last), value(first))
    return Double(new - min(new, old)) / (Double(last.nanoseconds - first.nanoseconds) / 1e9)
  }

  /// The sample from which on the last minute counts: of the start where that is later, nil.
  private var minuteAgo: Sample? {
    older.count == Self.latencySteps ? older.first : nil
  }

  /// What the methods' latencies were in the last minute, by their numbers.
  func latencies(_ method: Int) -> LatencySnapshot {
    guard let newest else { return LatencySnapshot() }
    let all = newest.rpc.methods[method].latencies
    return minuteAgo.map { all.since($0.rpc.methods[method].latencies) } ?? all
  }

  /// In nanoseconds, of the last minute; nil where nothing was synced.
  func syncQuantile(_ quantile: Double) -> Double? { syncQuantile(quantile, since: minuteAgo) }

  /// Within its bucket, values are taken to lie evenly.
  private func syncQuantile(_ quantile: Double, since earlier: Sample?) -> Double? {
    guard let histogram = newest?.journal?.syncNanoseconds else { return nil }
    let before = earlier?.journal?.syncNanoseconds.counts
    let counts = histogram.counts.enumerated().map { index, count in
      count - min(count, before?[index] ?? 0)
    }
    let total = counts.reduce(0, +)
    guard total > 0 else { return nil }
    let rank = max(1, (quantile * Double(total)).rounded(.up))
    var seen = 0.0
    for (index, count) in counts.enumerated() where count > 0 {
      if seen + Double(count) >= rank {
        guard index < histogram.upperBounds.count else {
          return histogram.upperBounds.last.map(Double.init)
        }
        let low = index == 0 ? 0 : Double(histogram.upperBounds[index - 1])
        return low
          + (Double(histogram.upperBounds[index]) - low) * (rank - seen) / Double(count)
      }
      seen += Double(count)
    }
    return nil
  }
}

extension ConsoleSamples.Sample {
  /// Calls that have ended.
  var handled: UInt64 { rpc.methods.reduce(0) { $0 &+ $1.handled } }
}
