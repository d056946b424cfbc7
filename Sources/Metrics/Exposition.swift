/// Builds a page in the Prometheus text format 0.0.4.
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

  private var families: [Family] = []
  private var positions: [String: Int] = [:]

  /// An empty page.
  package init() {}

  /// The page so far, every line ended by a line feed.
  package var text: String {
    families.reduce(into: "") { $0 += $1.header + $1.lines }
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
  /// that joins the last bucket); `sum` is the sum of the values.
  package mutating func histogram(
    _ name: String, help: String, labels: Labels = [], upperBounds: [Double], counts: [UInt64],
    sum: Double
  ) {
    let family = open(name, help: help, type: "histogram")
    var cumulative: UInt64 = 0
    for (bound, count) in zip(upperBounds, counts) {
      cumulative &+= count
      let bucketLabels = labels + [("le", Self.number(bound))]
      append(family, name + "_bucket", bucketLabels, Double(cumulative))
    }
    for bound in upperBounds.dropFirst(counts.count) {
      append(family, name + "_bucket", labels + [("le", Self.number(bound))], Double(cumulative))
    }
    // The total is taken from the buckets, so that both agree even while another thread counts.
    let total = counts.reduce(0, &+)
    append(family, name + "_bucket", labels + [("le", "+Inf")], Double(total))
    append(family, name + "_sum", labels, sum)
    append(family, name + "_count", labels, Double(total))
  }

  /// Adds one histogram from its cells' snapshot, whose values are whole numbers of `unit` of the
  /// metric's unit: 1e-9 for nanoseconds in a metric of seconds.
  package mutating func histogram(
    _ name: String, help: String, labels: Labels = [], upperBounds: [Int64],
    snapshot: HistogramSnapshot, unit: Double = 1
  ) {
    histogram(
      name, help: help, labels: labels, upperBounds: upperBounds.map { Self.scaled($0, by: unit) },
      counts: snapshot.counts, sum: Double(snapshot.sum) * unit)
  }

  /// Adds one summary: `quantiles` (0 to 1) with their values, NaN where nothing was seen lately;
  /// `count` and `sum` are of all values since the start.
  package mutating func summary(
    _ name: String, help: String, labels: Labels = [],
    quantiles: [(quantile: Double, value: Double)], count: UInt64, sum: Double
  ) {
    let family = open(name, help: help, type: "summary")
    for (quantile, value) in quantiles {
      append(family, name, labels + [("quantile", Self.number(quantile))], value)
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
    let header = "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(type)\n"
    families.append(Family(header: header))
    positions[name] = families.count - 1
    return families.count - 1
  }

  private mutating func append(
    _ family: Int, _ name: String, _ labels: Labels, _ value: Double
  ) {
    let pairs = labels.map { "\($0.name)=\"\(Self.escaped($0.value, quotes: true))\"" }
    let list = pairs.isEmpty ? "" : "{\(pairs.joined(separator: ","))}"
    families[family].lines += "\(name)\(list) \(Self.number(value))\n"
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
