/// Which of the two formats that Prometheus reads a page is in.
package enum ExpositionFormat: Sendable, Equatable, CaseIterable {
  /// The Prometheus text format 0.0.4, for whoever says nothing.
  case text
  /// OpenMetrics 1.0, which has exemplars.
  case openMetrics

  /// The content type of a page.
  package var contentType: String {
    switch self {
    case .text: "text/plain; version=0.0.4; charset=utf-8"
    case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
    }
  }
}

/// One call that stands for those of a histogram's bucket: the trace that it belongs to.
package struct Exemplar: Sendable, Equatable {
  /// 32 hexadecimal digits.
  package var traceID: String
  /// In the metric's unit; within the bucket.
  package var value: Double
  /// Since the Unix epoch; nil: not known.
  package var unixSeconds: Double?

  package init(traceID: String, value: Double, unixSeconds: Double? = nil) {
    self.traceID = traceID
    self.value = value
    self.unixSeconds = unixSeconds
  }
}

/// Builds a page in the Prometheus text format 0.0.4, or in OpenMetrics 1.0.
///
/// The two differ in what follows: OpenMetrics calls a family of counters by its name without `_total`, says
/// units, quotes in help texts differently, writes whole bounds as `1.0`, has exemplars, and ends with `# EOF`.
/// There is no `_created`: every counter begins with the process (`process_start_time_seconds`).
///
/// A family (one metric name) may be added to in several calls, also by several sources: its lines
/// come out together under one HELP and TYPE, in the order of the calls, and families in the order
/// of their first call. Help and type of a family are those of its first call.
package struct Exposition {
  /// Labels in the order in which they are printed. Names match `[a-zA-Z_][a-zA-Z0-9_]*`; values
  /// may be any text.
  package typealias Labels = [(name: String, value: String)]

  /// One value of a counter or gauge. Prometheus keeps every value as a double.
  package typealias Sample = (labels: Labels, value: Double)

  private struct Family {
    var header: String
    var lines = ""
  }

  /// What the page is written in.
  package let format: ExpositionFormat

  private var families: [Family] = []
  private var positions: [String: Int] = [:]

  /// An empty page.
  package init(format: ExpositionFormat = .text) { self.format = format }

  /// The page, every line ended by a line feed.
  package var text: String {
    let lines = families.reduce(into: "") { $0 += $1.header + $1.lines }
    return format == .openMetrics ? lines + "# EOF\n" : lines
  }

  /// Adds a value that only grows. By convention `name` ends in `_total`.
  package mutating func counter(_ name: String, help: String, samples: [Sample]) {
    add(name, help: help, type: "counter", samples: samples)
  }

  /// Adds a counter without labels.
  package mutating func counter(_ name: String, help: String, value: UInt64) {
    counter(name, help: help, samples: [([], Double(value))])
  }

  /// Adds a value that goes up and down.
  package mutating func gauge(_ name: String, help: String, samples: [Sample]) {
    add(name, help: help, type: "gauge", samples: samples)
  }

  /// Adds a gauge without labels.
  package mutating func gauge(_ name: String, help: String, value: Double) {
    gauge(name, help: help, samples: [([], value)])
  }

  /// Adds one histogram. `upperBounds` ascend, in the metric's unit; `counts` are values per bucket,
  /// not cumulative, with one more for what lies above all bounds (a missing one is 0, any beyond
  /// that joins the last bucket); `sum` is the sum of the values; `exemplars` are by bucket, and only
  /// OpenMetrics shows them.
  package mutating func histogram(
    _ name: String, help: String, labels: Labels = [], upperBounds: [Double], counts: [UInt64],
    sum: Double, exemplars: [Exemplar?] = []
  ) {
    let family = open(name, help: help, type: "histogram")
    var cumulative: UInt64 = 0
    for (index, bound) in upperBounds.enumerated() {
      if index < counts.count { cumulative &+= counts[index] }
      append(
        family, name + "_bucket", labels + [("le", Self.bound(bound, format))], Double(cumulative),
        index < exemplars.count ? exemplars[index] : nil)
    }
    // The total is taken from the buckets, so that both agree even while another thread counts.
    let total = counts.reduce(0, &+)
    append(
      family, name + "_bucket", labels + [("le", "+Inf")], Double(total),
      exemplars.count > upperBounds.count ? exemplars[upperBounds.count] : nil)
    append(family, name + "_sum", labels, sum)
    append(family, name + "_count", labels, Double(total))
  }

  /// Adds one histogram from its cells' snapshot, whose values are whole numbers of `unit` of the
  /// metric's unit: 1e-9 for nanoseconds in a metric of seconds.
  package mutating func histogram(
    _ name: String, help: String, labels: Labels = [], upperBounds: [Int64],
    snapshot: HistogramSnapshot, unit: Double = 1, exemplars: [Exemplar?] = []
  ) {
    histogram(
      name, help: help, labels: labels, upperBounds: upperBounds.map { Self.scaled($0, by: unit) },
      counts: snapshot.counts, sum: Double(snapshot.sum) * unit, exemplars: exemplars)
  }

  /// Adds one summary: `quantiles` (0 to 1) with their values, NaN where nothing was seen lately;
  /// `count` and `sum` are of all values since the start.
  package mutating func summary(
    _ name: String, help: String, labels: Labels = [],
    quantiles: [(quantile: Double, value: Double)], count: UInt64, sum: Double
  ) {
    let family = open(name, help: help, type: "summary")
    for (quantile, value) in quantiles {
      append(family, name, labels + [("quantile", Self.bound(quantile, format))], value)
    }
    append(family, name + "_sum", labels, sum)
    append(family, name + "_count", labels, Double(count))
  }

  private mutating func add(_ name: String, help: String, type: String, samples: [Sample]) {
    let family = open(name, help: help, type: type)
    for sample in samples {
      append(family, name, sample.labels, sample.value)
    }
  }

  /// The position of a family, which is new at its first call.
  private mutating func open(_ name: String, help: String, type: String) -> Int {
    if let position = positions[name] { return position }
    families.append(Family(header: header(name, help: help, type: type)))
    positions[name] = families.count - 1
    return families.count - 1
  }

  private func header(_ name: String, help: String, type: String) -> String {
    guard format == .openMetrics else {
      return "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(type)\n"
    }
    // A sample of a counter must end in _total, and its family must not.
    let isCounter = type == "counter" && name.hasSuffix("_total")
    let family = isCounter ? String(name.dropLast("_total".count)) : name
    let unit = ["seconds", "bytes"].first { family.hasSuffix("_\($0)") }
    return "# HELP \(family) \(Self.escaped(help, quotes: true))\n# TYPE \(family) \(type)\n"
      + (unit.map { "# UNIT \(family) \($0)\n" } ?? "")
  }

  private mutating func append(
    _ family: Int, _ name: String, _ labels: Labels, _ value: Double, _ exemplar: Exemplar? = nil
  ) {
    let pairs = labels.map { "\($0.name)=\"\(Self.escaped($0.value, quotes: true))\"" }
    let list = pairs.isEmpty ? "" : "{\(pairs.joined(separator: ","))}"
    families[family].lines += "\(name)\(list) \(Self.number(value))"
    if format == .openMetrics, let exemplar {
      let traceID = Self.escaped(exemplar.traceID, quotes: true)
      families[family].lines += " # {trace_id=\"\(traceID)\"} \(Self.number(exemplar.value))"
      if let seconds = exemplar.unixSeconds {
        families[family].lines += " \(Self.number(seconds))"
      }
    }
    families[family].lines += "\n"
  }

  /// Backslash and line feed are escaped everywhere, a quotation mark only in label values.
  private static func escaped(_ text: String, quotes: Bool) -> String {
    // Nearly every text is plain, and a page has thousands.
    let isPlain = !text.utf8.contains { byte in
      byte == UInt8(ascii: "\\") || byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\"")
    }
    if isPlain { return text }
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\"" where quotes: result += "\\\""
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }

  /// A number that is a label's value: series have the same name only if it is written the same. OpenMetrics
  /// says how, so that a whole one has a fraction.
  private static func bound(_ value: Double, _ format: ExpositionFormat) -> String {
    format == .openMetrics && value.isFinite ? value.description : number(value)
  }

  private static func number(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
    let text = value.description
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
  }

  /// `value * unit` without the noise of a binary fraction: 50,000 ns is 5e-05 s, not
  /// 5.0000000000000002e-05.
  private static func scaled(_ value: Int64, by unit: Double) -> Double {
    unit < 1 ? Double(value) / (1 / unit).rounded() : Double(value) * unit
  }
}
