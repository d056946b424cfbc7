// A comparison as text: for every measure a line per variant, with its ratio to the baseline and, on a
// terminal, the ratio drawn around 1.
internal import Glibc

extension Comparison {
  private static let nameWidth = 18
  private static let figureWidth = 11
  private static let ratioWidth = 38
  /// Odd, so that 1 has a column of its own.
  private static let plotWidth = 31

  /// - Parameters:
  ///   - drawsRatios: with bars, for a terminal of 100 columns.
  ///   - isWhole: every load with every measure; else an overview, where there are many loads.
  package func text(drawsRatios: Bool, isWhole: Bool = true) -> String {
    var lines: [String] = []
    for lost in disqualified { lines.append("LOST       \(lost)") }
    if needsOverview {
      if !lines.isEmpty { lines.append("") }
      lines += overviewLines
    }
    for one in cases where isWhole || !needsOverview {
      if !lines.isEmpty { lines.append("") }
      lines += caseLines(one, drawsRatios: drawsRatios)
    }
    if !findings.isEmpty { lines.append("") }
    for finding in findings { lines += wrapped(finding) }
    if !notes.isEmpty { lines.append("") }
    for note in notes { lines += wrapped(note) }
    return lines.joined(separator: "\n") + "\n"
  }

  private func caseLines(_ one: Case, drawsRatios: Bool) -> [String] {
    let counts = variants.map { name in one.runs.count { $0.variant == name } }
    let runs =
      Set(counts).count == 1 ? "\(counts[0])" : counts.map(String.init).joined(separator: "/")
    let turns = variants.dropFirst().allSatisfy { one.tookTurns(variants[0], $0) }
    var lines = [
      "\(one.heading) · \(one.configuration.shape) · \(runs) run\(runs == "1" ? "" : "s") each"
        + (turns && runs != "1" ? ", in turn" : "")
    ]
    let scale = RatioScale(one, width: Comparison.plotWidth)
    if drawsRatios {
      let indent = Comparison.nameWidth + Comparison.figureWidth + Comparison.ratioWidth + 4
      lines.append(String(repeating: " ", count: indent) + scale.header)
    }
    for measured in one.measures {
      guard let measure = Measure.named(measured.name) else { continue }
      lines.append("\(measure.title)\(measure.direction)")
      for figure in measured.figures {
        lines.append(line(figure, measure, scale: drawsRatios ? scale : nil))
      }
    }
    for warning in one.warnings { lines += wrapped("WARNING    \(warning)") }
    return lines
  }

  private func line(_ figure: Figure, _ measure: Measure, scale: RatioScale?) -> String {
    let isBaseline = figure.variant == variants[0]
    let ratio: String
    if isBaseline {
      ratio = "baseline"
    } else if let found = figure.ratio {
      ratio = found.text + (found.isShown ? measure.word(for: found.value) : "")
    } else {
      ratio = figure.mean == nil ? "not measured" : "no ratio to nothing"
    }
    var line =
      "  " + Text.left(figure.variant, Comparison.nameWidth)
      + Text.right(figure.mean.map { measure.text($0) } ?? "—", Comparison.figureWidth) + "  "
    // A lone run says more than its column holds, and needs no drawing.
    guard let scale, ratio.count <= Comparison.ratioWidth else { return line + ratio }
    line += Text.left(ratio, Comparison.ratioWidth)
    line += isBaseline ? scale.baseline : figure.ratio.map { scale.drawn($0) } ?? ""
    while line.last == " " { line.removeLast() }
    return line
  }

  /// `text` on lines of at most 100 characters, the further ones indented.
  private func wrapped(_ text: String) -> [String] {
    var lines: [String] = []
    var line = ""
    for word in text.split(separator: " ", omittingEmptySubsequences: false) {
      if line.count + word.count > 99, !line.isEmpty {
        lines.append(line)
        line = " "
      }
      line += (line.isEmpty ? "" : " ") + word
    }
    return lines + [line]
  }
}

extension Comparison.Measure {
  /// Behind the title, for who does not know.
  package var direction: String {
    switch better {
    case .higher: " (more is better)"
    case .lower: " (less is better)"
    case .neither: ""
    }
  }

  /// What a ratio that differs from 1 means.
  package func word(for ratio: Double) -> String {
    switch better {
    case .higher: ratio > 1 ? " better" : " worse"
    case .lower: ratio < 1 ? " better" : " worse"
    case .neither: ""
    }
  }
}

extension Comparison.Case {
  /// Its name, or else its kind.
  var heading: String {
    name.isEmpty ? (configuration.loop == "open" ? "open loop" : "closed loop") : name
  }
}

extension Report.Configuration {
  /// "5000/s, 8 × 100 streams, 2.0 s".
  package var shape: String {
    let length =
      operations.map { Text.counted($0, "operation") }
      ?? "\(Text.decimal(durationSeconds ?? 0, 1)) s"
    // A rate that changes over time says its unit itself.
    let rate = rate.map { text in Double(text).map { Text.decimal($0, 0) + "/s" } ?? text }
    let parts = [rate, "\(connections) × \(Text.counted(streams, "stream"))", length]
    return parts.compactMap(\.self).joined(separator: ", ")
  }
}

/// Ratios on a logarithmic scale, 1 in the middle.
struct RatioScale {
  private let width: Int
  /// What the ends stand for: 1/end and end.
  private let end: Double

  /// A scale that holds every interval of `one`, up to a factor of ten.
  init(_ one: Comparison.Case, width: Int) {
    self.width = width
    let ratios = one.measures.flatMap(\.figures).compactMap(\.ratio)
    let values = ratios.flatMap { [$0.value, $0.low ?? $0.value, $0.high ?? $0.value] }
    let farthest = values.map { max($0, 1 / $0) }.max() ?? 1
    end = [1.05, 1.1, 1.2, 1.5, 2, 3, 5].first { $0 >= farthest } ?? 10
  }

  private func column(_ ratio: Double) -> Int {
    let part = log(ratio) / log(end)
    return Int(((min(max(part, -1), 1) + 1) / 2 * Double(width - 1)).rounded())
  }

  /// What the columns stand for.
  var header: String {
    let low = Ratio.times(1 / end, 2)
    let high = Ratio.times(end, 2)
    let middle = width / 2
    return Text.left(Text.left(low, middle) + "1", width - high.count) + high
  }

  var baseline: String { String(repeating: " ", count: width / 2) + "│" }

  /// The ratio as a dot, its interval as whiskers: "  ├─●──┤ │"; an arrowhead where it goes on.
  func drawn(_ ratio: Ratio) -> String {
    var cells = [Character](repeating: " ", count: width)
    cells[width / 2] = "│"
    if let low = ratio.low, let high = ratio.high {
      let first = column(low)
      let last = column(high)
      for index in first...max(first, last) { cells[index] = index == width / 2 ? "┼" : "─" }
      cells[first] = low < 1 / end ? "◂" : "├"
      cells[last] = high > end ? "▸" : "┤"
    }
    cells[column(ratio.value)] = "●"
    return String(cells)
  }
}
