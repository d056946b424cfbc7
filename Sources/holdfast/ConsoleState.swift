// What the console shows of the newest sample: as JSON for its script, and as a few lines for pages without scripts.
// docs/CONSOLE.md says what each part means.
internal import Admin
internal import Bytes
internal import ChangeFeed
internal import Log
internal import Metrics
internal import Posix
internal import StockStore
internal import Version

struct ConsoleState {
  private static let hotItemsShown = 10

  private let samples: ConsoleSamples
  private let newest: ConsoleSamples.Sample
  private let sources: ConsoleSources
  private let sweep: SweepReport
  private let settings: Settings
  private let readiness: ServingState
  private let hot: [HotRow]
  private let now = SystemClock.monotonicNanoseconds()

  /// - Parameter samples: one at least.
  init(
    _ samples: ConsoleSamples, _ sources: ConsoleSources, _ reader: StoreReader?,
    _ settings: Settings, _ readiness: ServingState
  ) {
    self.samples = samples
    newest = samples.newest ?? ConsoleSamples.Sample(nanoseconds: 0)
    self.sources = sources
    self.settings = settings
    self.readiness = readiness
    sweep = reader?.report ?? SweepReport()
    hot = sources.store.map { store in HotRow.rows(store, reader, shown: Self.hotItemsShown) } ?? []
  }

  var json: JSON {
    @inline(never) get { object }
  }

  private var object: JSON {
    .object([
      ("now", .int(SystemClock.wall().nanoseconds / 1_000_000)),
      ("server", server), ("rates", rates), ("totals", totals), ("methods", methods),
      ("codes", codes), ("conflicts", conflicts), ("hot", .list(hot.map(\.json))),
      ("holds", holds), ("journal", journal), ("disk", disk), ("tables", tables),
      ("network", network), ("watches", watches), ("replication", replication),
      ("checks", checks), ("point", samples.point), ("sample", .count(samples.taken)),
    ])
  }

  // MARK: Parts

  private var server: JSON {
    .object([
      ("state", .text(readiness.name)), ("version", .text(Build.version)),
      ("build", .text(Build.configuration)),
      ("uptime", .number(ProcessMetrics.uptimeSeconds)),
      ("durability", .text(settings.durability?.rawValue ?? Settings.memory)),
      ("strategy", .text(settings.concurrency.rawValue)), ("loops", .count(settings.loops)),
      ("hasStore", .bool(sources.store != nil)),
    ])
  }

  private static let counted: [(name: String, value: @Sendable (ConsoleSamples.Sample) -> UInt64)] =
    [
      ("calls", { $0.handled }), ("held", { $0.store.reservationsHeld }),
      ("confirmed", { $0.store.reservationsConfirmed }),
      ("released", { $0.store.reservationsReleased }),
      ("expired", { $0.store.reservationsExpired }),
      ("replaced", { $0.store.reservationsReplaced }),
      ("adjusted", { $0.store.adjustments }), ("replayed", { $0.store.replays }),
      ("refusedStock", { $0.store.reservesRefusedInsufficientStock }),
      ("refusedLimit", { $0.store.reservesRefusedLimitExceeded }),
      ("refusedOther", { $0.store.reservesRefusedOther }), ("keysReused", { $0.store.keysReused }),
      ("tooBusy", { $0.store.tooBusy }),
    ]

  private var rates: JSON {
    .object(Self.counted.map { ($0.name, .number(samples.rate($0.value))) })
  }

  private var totals: JSON {
    .object(Self.counted.map { ($0.name, .count($0.value(newest))) })
  }

  /// Those that were called, the busiest first.
  private var methods: JSON {
    let called = newest.rpc.methods.enumerated().filter { $0.element.started > 0 }
    let rows = called.map { index, method in
      let latencies = samples.latencies(index)
      func milliseconds(_ quantile: Double) -> JSON {
        .number(latencies.quantile(quantile).map { $0 / 1e6 })
      }
      let failed = samples.rate { sample in
        let method = sample.rpc.methods[index]
        return method.handled
          - min(method.handled, method.codes.first { $0.name == "OK" }?.count ?? 0)
      }
      let rate = samples.rate { $0.rpc.methods[index].handled }
      return (
        rate ?? 0,
        JSON.object([
          ("name", .text(method.method.method)), ("service", .text(method.method.service)),
          ("rate", .number(rate)), ("failed", .number(failed)),
          ("total", .count(method.handled)), ("p50", milliseconds(0.5)),
          ("p90", milliseconds(0.9)), ("p99", milliseconds(0.99)), ("p999", milliseconds(0.999)),
        ])
      )
    }
    return .list(rows.sorted { $0.0 > $1.0 }.map(\.1))
  }

  /// Of all methods together.
  private var codes: JSON {
    var totals: [String: UInt64] = [:]
    for code in newest.rpc.methods.flatMap(\.codes) { totals[code.name, default: 0] += code.count }
    let rows = totals.map { name, total in
      let rate = samples.rate { sample in
        sample.rpc.methods.flatMap(\.codes).reduce(0) { $1.name == name ? $0 + $1.count : $0 }
      }
      return (name, total, rate)
    }
    return .list(
      rows.sorted { $0.1 == $1.1 ? $0.0 < $1.0 : $0.1 > $1.1 }.map { name, total, rate in
        .object([("name", .text(name)), ("total", .count(total)), ("rate", .number(rate))])
      })
  }

  private var conflicts: JSON {
    func attempts(_ sample: ConsoleSamples.Sample) -> UInt64 {
      sample.store.commitsByAttempts.enumerated().reduce(0) {
        $0 + UInt64($1.offset + 1) * $1.element
      }
    }
    func commits(_ sample: ConsoleSamples.Sample) -> UInt64 {
      sample.store.commitsByAttempts.reduce(0, +)
    }
    let (tried, done) = (samples.rate(attempts), samples.rate(commits))
    let retried = samples.rate { commits($0) - $0.store.commitsByAttempts[0] }
    return .object([
      ("locked", .number(samples.rate(\.store.conflictsLocked))),
      ("changed", .number(samples.rate(\.store.conflictsVersionChanged))),
      ("total", .count(newest.conflicts)), ("retried", .number(retried)),
      ("commits", .number(done)),
      ("attempts", .number(tried.flatMap { tried in done.flatMap { $0 > 0 ? tried / $0 : nil } })),
      ("waits", .number(samples.rate(\.store.waits))),
      ("tooBusy", .number(samples.rate(\.store.tooBusy))),
    ])
  }

  private var holds: JSON {
    .object([
      ("live", .count(newest.store.liveHolds)), ("due", .count(samples.due.count)),
      ("dueIsAtLeast", .bool(samples.due.isAtLeast)),
      ("expiryLagMax", .number(Double(newest.store.expiryLagNanosecondsMax) / 1e9)),
    ])
  }

  private var journal: JSON {
    guard let numbers = newest.journal else { return .null }
    func milliseconds(_ quantile: Double) -> JSON {
      .number(samples.syncQuantile(quantile).map { $0 / 1e6 })
    }
    let syncs = samples.rate { $0.journal?.syncNanoseconds.counts.reduce(0, +) ?? 0 }
    let records = samples.rate { UInt64(clamping: $0.journal?.groupRecords.sum ?? 0) }
    return .object([
      ("syncs", .number(syncs)), ("syncP50", milliseconds(0.5)), ("syncP99", milliseconds(0.99)),
      ("syncP999", milliseconds(0.999)),
      (
        "recordsPerSync",
        .number(syncs.flatMap { syncs in records.flatMap { syncs > 0 ? $0 / syncs : nil } })
      ),
      ("bytes", .number(samples.rate { $0.journal?.bytesWritten ?? 0 })),
      ("lagBytes", .count(numbers.lsn - min(numbers.lsn, numbers.durableLSN))),
      ("accepting", .bool(numbers.unavailable == nil)),
      ("outOfSpace", .count(numbers.outOfSpace)), ("lsn", .count(numbers.lsn)),
      ("checkpoints", .count(numbers.checkpoints)),
      ("checkpointAge", .number(numbers.checkpointAgeSeconds)),
      ("archiveLagBytes", numbers.archive.map { .count($0.lagBytes) } ?? .null),
    ])
  }

  private var disk: JSON {
    guard let room = samples.disk.room else { return .null }
    return .object([
      ("free", .count(room.freeBytes)), ("total", .count(room.totalBytes)),
      ("filling", .number(samples.disk.fillingPerSecond)),
      ("hours", .number(samples.disk.secondsLeft.map { $0 / 3600 })),
      ("journal", .count(newest.journal?.segmentBytesOnDisk ?? 0)),
    ])
  }

  private var tables: JSON {
    .object([
      ("items", .count(newest.store.items)), ("itemsMax", .count(settings.maxItems)),
      ("decisions", .count(newest.store.recordedDecisions)),
      ("decisionsMax", .count(settings.maxReservations)),
      ("limits", .count(newest.store.subjectEntries)), ("limitsMax", .count(settings.maxLimits)),
      ("evictedEarly", .count(newest.store.evictedEarly)),
    ])
  }

  private var network: JSON {
    .object([
      ("connections", .count(newest.rpc.connectionsOpen)),
      ("connectionsMax", .count(settings.maxConnections)),
      ("opened", .number(samples.rate(\.rpc.connectionsOpened))),
      ("refused", .count(newest.rpc.connectionsRefused)),
      ("abusive", .count(newest.rpc.connectionsAbusive)),
      ("received", .number(samples.rate(\.rpc.receivedBytes))),
      ("sent", .number(samples.rate(\.rpc.sentBytes))),
    ])
  }

  private var watches: JSON {
    guard let feed = sources.feed else { return .null }
    return .object([
      ("count", .count(feed.watchCount)), ("lagBytes", .count(feed.lagBytes)),
      ("events", .number(samples.rate(\.eventsSent))),
    ])
  }

  private var replication: JSON {
    guard let ownership = sources.ownership else { return .null }
    let numbers = ownership.numbers
    return .object([
      ("isOwner", .bool(numbers.isOwner)), ("epoch", .count(numbers.epoch)),
      ("owner", ownership.owner.map { .text($0) } ?? .null),
      ("leaseLeft", numbers.isOwner ? .number(numbers.leaseLeft) : .null),
      ("leaseAge", numbers.isOwner ? .number(numbers.leaseAge) : .null),
      ("standbys", .count(numbers.standbys)), ("takeovers", .count(numbers.takeovers)),
      ("doubts", .count(numbers.doubts)),
      ("lagBytes", numbers.isOwner ? .null : .count(numbers.standbyLagBytes)),
      ("lagSeconds", numbers.isOwner ? .null : .number(numbers.standbyLagSeconds)),
      ("logBytes", .count(numbers.logBytes)),
    ])
  }

  private var checks: JSON {
    .object([
      ("commitViolations", .count(newest.store.invariantViolations)),
      ("sweepViolations", .count(sweep.violations)), ("itemsChecked", .count(sweep.itemsChecked)),
      ("sweeps", .count(sweep.sweeps)),
      ("sweptSecondsAgo", .number(samples.sweptAt.map { Double(now - $0) / 1e9 })),
      ("findings", .list(sweep.findings.map { .text($0) })),
    ])
  }

  // MARK: Without scripts

  var lines: [(name: String, value: String)] {
    func rate(_ value: (ConsoleSamples.Sample) -> UInt64) -> String {
      samples.rate(value).map { "\(($0 * 10).rounded() / 10) a second" } ?? "not known yet"
    }
    let violations = newest.store.invariantViolations + sweep.violations
    var lines: [(name: String, value: String)] = [
      ("State", readiness.name), ("Version", Build.text),
      ("Impossible balances", violations == 0 ? "none found" : "\(violations) found"),
      ("Calls", rate(\.handled)), ("Held", rate(\.reserves)), ("Refused", rate(\.refused)),
      ("Conflicts", rate(\.conflicts)),
      (
        "Live holds",
        "\(newest.store.liveHolds), \(samples.due.isAtLeast ? "at least " : "")\(samples.due.count) due"
      ),
    ]
    if let journal = newest.journal {
      lines.append(
        ("Not on the disk yet", "\(journal.lsn - min(journal.lsn, journal.durableLSN)) bytes"))
    }
    if let room = samples.disk.room {
      let hours = samples.disk.secondsLeft.map { ", full in \(Int($0 / 3600)) hours" } ?? ""
      lines.append(("Free on the disk", "\(room.freeBytes >> 20) MiB\(hours)"))
    }
    for row in hot.prefix(5) { lines.append(("Hot item", row.text)) }
    return lines
  }
}

/// One of the items that are asked for most.
private struct HotRow {
  let sku: String
  let location: String
  var reserves: HotList.Entry?
  var share: Double?
  var refusals: HotList.Entry?
  var conflicts: HotList.Entry?

  /// The first of each list, those that were reserved most first.
  static func rows(_ store: StockStore, _ reader: StoreReader?, shown: Int) -> [HotRow] {
    guard let reader else { return [] }
    // Below one event in a quarter of an hour, nothing is hot.
    let least = 0.001
    let lists = HotKind.allCases.map { kind in
      var list = store.hotItems(kind, limit: 4 * shown)
      list.entries.removeAll { $0.perSecond - $0.errorPerSecond < least }
      return list
    }
    let byItem = lists.map { list in
      Dictionary(list.entries.map { ($0.item, $0) }) { first, _ in first }
    }
    var items: [ItemHandle] = []
    for list in lists {
      for entry in list.entries.prefix(shown) where !items.contains(entry.item) {
        items.append(entry.item)
      }
    }
    let rows = items.map { item in
      let name = reader.name(of: item)
      return unsafe HotRow(
        sku: String(decoding: name.sku.pointer, as: UTF8.self),
        location: String(decoding: name.location.pointer, as: UTF8.self),
        reserves: byItem[0][item],
        share: byItem[0][item].map {
          lists[0].perSecond > 0 ? $0.perSecond / lists[0].perSecond : 0
        },
        refusals: byItem[1][item], conflicts: byItem[2][item])
    }
    return Array(rows.sorted { $0.weight > $1.weight }.prefix(shown))
  }

  private var weight: Double {
    (reserves?.perSecond ?? 0) + (refusals?.perSecond ?? 0) + (conflicts?.perSecond ?? 0)
  }

  var json: JSON {
    .object([
      ("sku", .text(sku)), ("location", .text(location)),
      ("reserves", .number(reserves?.perSecond)),
      ("reservesError", .number(reserves?.errorPerSecond)),
      ("share", .number(share)), ("refusals", .number(refusals?.perSecond)),
      ("conflicts", .number(conflicts?.perSecond)),
    ])
  }

  var text: String {
    func rounded(_ entry: HotList.Entry?) -> Double {
      ((entry?.perSecond ?? 0) * 10).rounded() / 10
    }
    return "\(sku)\(location.isEmpty ? "" : " at \(location)"): \(rounded(reserves)) held and "
      + "\(rounded(refusals)) refused a second"
  }
}
