// The fields of a workload, each once: its flag, its key in a file, what it means, how it reads and
// what it may be. Flags, files, --print-workload and reports all go by this table.

internal import LoadHistory
internal import LoadReport

/// One field of a workload.
package struct WorkloadField: Sendable {
  /// In a file and in a report: snake case, the unit last.
  package let key: String
  /// One or two sentences.
  package let summary: String
  /// The allowed values, to follow "must be".
  package let range: String
  /// What a value is called in the help: "n", "share", "seconds".
  package let valueName: String
  /// The value as a flag takes it; nil where there is none.
  package let text: @Sendable (Workload) -> String?
  /// False for a text that means no value.
  let assign: @Sendable (inout Workload, String) -> Bool
  let isInRange: @Sendable (Workload) -> Bool

  /// The key without its unit, with dashes.
  package var flag: String {
    "--" + key.split(separator: "_").filter { $0 != "seconds" }.joined(separator: "-")
  }

  /// Takes a value from outside.
  ///
  /// - Parameter name: what the value is called where it stands: the flag or the key.
  /// - Throws: what the value must be, where it is not.
  package func set(
    _ text: String, in workload: inout Workload, name: String
  ) throws(LoadError) {
    var changed = workload
    guard assign(&changed, text), isInRange(changed) else {
      throw LoadError("\(name) must be \(range), not '\(Text.printable(text))'")
    }
    workload = changed
  }
}

extension Workload {
  /// In the order in which they are told.
  package static let fields: [WorkloadField] =
    apiFields + stockFields + choiceFields + holdFields + shelfFields + faultFields + mixFields

  /// Requests of a BatchReserve or ReserveStream message, by the API.
  package static let batchMaximum = 8_192

  private static let apiFields: [WorkloadField] = [
    WorkloadField(
      key: "api",
      summary: "How Reserves go out: each as a call, or many in a message of BatchReserve or "
        + "ReserveStream; --streams are then the messages in flight on each connection.",
      range: "unary, batch or stream", valueName: "how",
      text: { $0.api.rawValue }, assign: { Self.assign(&$0.api, ReserveAPI(rawValue: $1)) },
      isInRange: { _ in true }),
    .count(
      "batch", \.batch, 1...batchMaximum,
      "Reserves of a message, at most; an open loop sends as many as are due."),
  ]

  private static let stockFields: [WorkloadField] = [
    .count(
      "skus", \.skuCount, 1...SKUNames.countMaximum, "SKUs, under a prefix of this run's own."),
    WorkloadField(
      key: "units", summary: "Units put behind each SKU.", range: "0 to 2^40", valueName: "n",
      text: { "\($0.units)" }, assign: { Self.assign(&$0.units, Int64($1)) },
      isInRange: { (0...1 << 40).contains($0.units) }),
    WorkloadField(
      key: "hot_units", summary: "Units behind SKU 0, where that differs.", range: "0 to 2^40",
      valueName: "n",
      text: { $0.hotUnits.map { "\($0)" } }, assign: { Self.assign(&$0.hotUnits, Int64($1)) },
      isInRange: { (0...1 << 40).contains($0.hotUnits ?? 0) }),
    WorkloadField(
      key: "distribution",
      summary: "How SKUs are drawn; hot gives the first COUNT of them that SHARE of the lines.",
      range: "single, uniform, zipf:S with S from 0 to 10, or hot:COUNT:SHARE", valueName: "how",
      text: { $0.distribution.description },
      assign: { Self.assign(&$0.distribution, Distribution($1)) },
      isInRange: {
        guard case .hot(let count, _) = $0.distribution else { return true }
        return count <= SKUNames.countMaximum
      }),
    .share("hot_share", \.hotShare, "Share of lines for SKU 0, whatever the distribution."),
    .range("lines", \.lines, 1...64, "Lines of a cart."),
    .range("quantity", \.quantity, 1...1_000_000, "Units of a line."),
  ]

  private static let choiceFields: [WorkloadField] = [
    .count(
      "warehouses", \.warehouses, 1...9,
      "Warehouses that each product lies in: SKUs of it, tried one after the other (alternatives)."),
    .share(
      "partial_share", \.partialShare,
      "Share of carts of which half of each line will do, rounded up (min_quantity)."),
    .count(
      "max_units", \.maxUnits, 0...1_000_000,
      "Most units of a SKU that one customer may hold and buy; 0: as many as there are."),
    .count(
      "subjects", \.subjectCount, 1...SKUNames.countMaximum,
      "Customers that --max-units is for, drawn evenly."),
  ]

  private static let holdFields: [WorkloadField] = [
    .times("ttl_seconds", \.timeToLiveNanoseconds, 1...86_400, "How long a hold lasts."),
    WorkloadField(
      key: "due_together_seconds",
      summary: "All holds are due at once, so long after the start of the run, in place of --ttl.",
      range: "1 to 86400 seconds, or with a unit: 500ms, 10m", valueName: "time",
      text: { $0.dueTogetherNanoseconds.map { Seconds.decimal(Double($0) / 1e9) } },
      assign: { Self.assign(&$0.dueTogetherNanoseconds, Self.nanoseconds($1)) },
      isInRange: {
        (1_000_000_000...86_400_000_000_000).contains($0.dueTogetherNanoseconds ?? 1_000_000_000)
      }),
    .share("confirm_share", \.confirmShare, "Share of reservations that are confirmed."),
    .share(
      "release_share", \.releaseShare, "Share that is released. The rest is abandoned, and expires."
    ),
    .share("extend_share", \.extendShare, "Share that is extended first."),
    .share(
      "replace_share", \.replaceShare,
      "Share whose lines are replaced once: up, down, to another SKU or away."),
    .times(
      "change_time_seconds", \.changeTimeNanoseconds, 0...3_600,
      "How long after a reservation was made or extended its lines are replaced."),
    .times(
      "pay_time_seconds", \.payTimeNanoseconds, 0...3_600,
      "From the answer to Reserve until the reservation is ended."),
    .times(
      "think_time_seconds", \.thinkTimeNanoseconds, 0...3_600,
      "Closed loop: pause of a stream before its next operation."),
  ]

  private static let shelfFields: [WorkloadField] = [
    WorkloadField(
      key: "overcommit", summary: "Units that may be held beyond what is on hand, for pre-orders.",
      range: "0 to 2^40", valueName: "n",
      text: { "\($0.overcommit)" }, assign: { Self.assign(&$0.overcommit, Int64($1)) },
      isInRange: { (0...1 << 40).contains($0.overcommit) }),
    WorkloadField(
      key: "keep_committed", summary: "What is confirmed stays on hand, as committed.",
      range: "true or false", valueName: "bool",
      text: { "\($0.keepsCommitted)" },
      assign: { Self.assign(&$0.keepsCommitted, Bool($1)) }, isInRange: { _ in true }),
    .share("ship_share", \.shipShare, "Share of what is confirmed and kept that is shipped."),
    .share("uncommit_share", \.uncommitShare, "Share that is unsold in place of shipped."),
    .times(
      "ship_time_seconds", \.shipTimeNanoseconds, 0...3_600,
      "From the answer to Confirm until the units are shipped or unsold."),
    .share(
      "count_share", \.countShare,
      "Share of operations that count one SKU: on hand is read, and set if it is still that."),
    .range("count_missing", \.countMissing, 0...1_000_000, "Units that a count finds missing."),
  ]

  private static let faultFields: [WorkloadField] = [
    .share(
      "duplicate_share", \.duplicateShare,
      "Share of calls that are sent more than once, byte for byte: half at once by any connection, "
        + "half later."),
    .range("copies", \.copies, 2...16, "How often such a call is sent in all."),
    .share("cut_share", \.cutShare, "Share of sends whose stream is reset right after them."),
    .share(
      "close_share", \.closeShare,
      "Share of sends after which the connection is closed, with calls in flight, and dialled again."
    ),
    WorkloadField(
      key: "retries_unknown",
      summary:
        "A call of unknown outcome is sent again, on another connection, until it is decided.",
      range: "true or false", valueName: "bool",
      text: { "\($0.retriesUnknown)" },
      assign: { Self.assign(&$0.retriesUnknown, Bool($1)) }, isInRange: { _ in true }),
  ]

  private static let mixFields: [WorkloadField] = [
    .share("read_share", \.readShare, "Share of operations that read the stock of one SKU."),
    .share("restock_share", \.restockShare, "Share of operations that add units to one SKU."),
    .range("restock_units", \.restockUnits, 1...1_000_000, "Units that such an operation adds."),
  ]

  /// Throws what is out of range, with what would be in it. Errors name the flags.
  package func validate() throws(LoadError) {
    for field in Workload.fields where !field.isInRange(self) {
      throw LoadError("\(field.flag) must be \(field.range)")
    }
    if confirmShare + releaseShare > 1.000001 {
      throw LoadError("--confirm-share and --release-share (confirm_share, release_share) exceed 1")
    }
    if readShare + restockShare + countShare > 1.000001 {
      throw LoadError("--read-share, --restock-share and --count-share exceed 1")
    }
    if shipShare + uncommitShare > 1.000001 {
      throw LoadError("--ship-share and --uncommit-share (ship_share, uncommit_share) exceed 1")
    }
    if overcommit > 0, !keepsCommitted, confirmShare > 0 {
      throw LoadError(
        "--overcommit goes with --keep-committed true: what is not there cannot leave")
    }
    if overcommit > 0, countShare > 0 || keepsCommitted && shipShare > 0 {
      throw LoadError("--overcommit goes with --ship-share 0 and without --count-share")
    }
    try validateChoice()
    if case .hot(let count, _) = distribution, count > skuCount {
      throw LoadError("--distribution names \(count) hot SKUs of \(skuCount) (--skus)")
    }
  }

  /// Lines of a request, in its lines and all alternatives, by the API.
  package static let requestLinesMaximum = 128

  private func validateChoice() throws(LoadError) {
    if warehouses > skuCount {
      throw LoadError("--warehouses names \(warehouses) of \(skuCount) SKUs (--skus)")
    }
    if lines.upperBound * warehouses > Workload.requestLinesMaximum {
      throw LoadError("--lines times --warehouses exceeds \(Workload.requestLinesMaximum)")
    }
    if warehouses > 1 || partialShare > 0, replaceShare > 0 || maxUnits > 0 {
      throw LoadError("--warehouses and --partial-share go without --replace-share and --max-units")
    }
  }

  // MARK: Reading values

  fileprivate static func assign<Value>(_ field: inout Value, _ value: Value?) -> Bool {
    guard let value else { return false }
    field = value
    return true
  }

  fileprivate static func nanoseconds(_ text: String) -> Int64? {
    guard let seconds = Seconds(text)?.seconds, seconds < 1e9 else { return nil }
    return Int64((seconds * 1e9).rounded())
  }

  /// N or A-B, with A not above B.
  fileprivate static func range<Bound: Comparable>(
    _ text: String, _ bound: (String) -> Bound?
  ) -> ClosedRange<Bound>? {
    let ends = text.split(separator: "-", omittingEmptySubsequences: false).map {
      bound(String($0))
    }
    guard ends.count <= 2, let first = ends.first, let low = first, let last = ends.last,
      let high = last, low <= high
    else { return nil }
    return low...high
  }

  fileprivate static func text<Bound: Comparable>(
    _ range: ClosedRange<Bound>, _ bound: (Bound) -> String
  ) -> String {
    range.lowerBound == range.upperBound
      ? bound(range.lowerBound) : "\(bound(range.lowerBound))-\(bound(range.upperBound))"
  }
}

extension WorkloadField {
  fileprivate static func count(
    _ key: String, _ path: any WritableKeyPath<Workload, Int> & Sendable,
    _ allowed: ClosedRange<Int>, _ summary: String
  ) -> WorkloadField {
    WorkloadField(
      key: key, summary: summary, range: "\(allowed.lowerBound) to \(allowed.upperBound)",
      valueName: "n",
      text: { "\($0[keyPath: path])" },
      assign: { Workload.assign(&$0[keyPath: path], Int($1)) },
      isInRange: { allowed.contains($0[keyPath: path]) })
  }

  fileprivate static func share(
    _ key: String, _ path: any WritableKeyPath<Workload, Double> & Sendable, _ summary: String
  ) -> WorkloadField {
    WorkloadField(
      key: key, summary: summary, range: "0 to 1", valueName: "share",
      text: { Seconds.decimal($0[keyPath: path]) },
      assign: { Workload.assign(&$0[keyPath: path], Double($1)) },
      isInRange: { (0...1).contains($0[keyPath: path]) })
  }

  fileprivate static func range(
    _ key: String, _ path: any WritableKeyPath<Workload, ClosedRange<Int>> & Sendable,
    _ allowed: ClosedRange<Int>, _ summary: String
  ) -> WorkloadField {
    WorkloadField(
      key: key, summary: summary,
      range: "N or A-B, within \(allowed.lowerBound) to \(allowed.upperBound)", valueName: "n",
      text: { Workload.text($0[keyPath: path]) { "\($0)" } },
      assign: { Workload.assign(&$0[keyPath: path], Workload.range($1) { Int($0) }) },
      isInRange: { allowed.contains($0[keyPath: path]) })
  }

  fileprivate static func times(
    _ key: String, _ path: any WritableKeyPath<Workload, ClosedRange<Int64>> & Sendable,
    _ allowed: ClosedRange<Int64>, _ summary: String
  ) -> WorkloadField {
    WorkloadField(
      key: key, summary: summary,
      range: "N or A-B seconds, within \(allowed.lowerBound) to \(allowed.upperBound), "
        + "or with units: 20ms-1.5s", valueName: "time",
      text: { Workload.text($0[keyPath: path]) { Seconds.decimal(Double($0) / 1e9) } },
      assign: {
        Workload.assign(&$0[keyPath: path], Workload.range($1) { Workload.nanoseconds($0) })
      },
      isInRange: {
        let value = $0[keyPath: path]
        return value.lowerBound >= allowed.lowerBound * 1_000_000_000
          && value.upperBound <= allowed.upperBound * 1_000_000_000
      })
  }
}

extension ClosedRange {
  /// Whether all of `other` lies in it.
  fileprivate func contains(_ other: ClosedRange) -> Bool {
    other.lowerBound >= lowerBound && other.upperBound <= upperBound
  }
}
