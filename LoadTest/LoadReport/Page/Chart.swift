// Charts as SVG within HTML, drawn here and not by a script, so that they are there on paper and where
// scripts are off.
//
// A chart is two axes, layers of marks upon them, a legend and, for who points at it, readings: what
// stands at one place of the horizontal axis, in the order of the legend. Colours are Tones, which the
// page's style knows for light, dark and paper (PageStyle.swift).
//
//   var chart = Chart(title: "Rate", summary: "Answers per second over time.",
//     horizontal: .time(to: 60), vertical: .fromZero(to: 50_000))
//   chart.add("answered", .first, .line(points))
//   page.body += chart.markup
//
// The marks are stretched to the room that there is, from a phone to paper; lines and letters are not.

/// A place on a chart, by the values of its axes.
package struct ChartPoint: Equatable, Sendable {
  package var x: Double
  /// Without it a line has a gap here.
  package var y: Double?
  /// Where an area begins.
  package var base: Double

  package init(_ x: Double, _ y: Double?, base: Double = 0) {
    self.x = x
    self.y = y
    self.base = base
  }
}

/// The colours of marks: a row that the colour-blind can tell apart, a row from light to strong for
/// percentiles, and those with a meaning.
package enum Tone: String, Sendable {
  case first, second, third, fourth, fifth, sixth, seventh, eighth
  case low, middle, high, highest
  case good, bad, warning, neutral

  /// For the series of a number, from 0.
  package static func series(_ number: Int) -> Tone {
    let row: [Tone] = [
      .first, .second, .third, .fourth, .fifth, .sixth, .seventh, .eighth,
    ]
    return row[number % row.count]
  }
}

package struct Chart: Sendable {
  package enum Marks: Sendable {
    case line([ChartPoint])
    case dashed([ChartPoint])
    /// Between `base` and `y`.
    case area([ChartPoint])
    case dots([ChartPoint])
    /// From (x, y) to (end, y): whiskers, bars.
    case ranges([(from: Double, to: Double, y: Double)], widthPixels: Int)
    /// Across the chart, at a value of the vertical axis.
    case level(Double)
    /// Down the chart, at a value of the horizontal axis.
    case upright(Double)
  }

  /// What stands at one place of the horizontal axis.
  package struct Reading: Sendable {
    package var x: Double
    /// "12.5 s".
    package var title: String
    /// One for each entry of the legend, in its order.
    package var values: [String]

    package init(x: Double, title: String, values: [String]) {
      self.x = x
      self.title = title
      self.values = values
    }
  }

  /// A stretch of the horizontal axis that is set off: warm-up.
  package struct Band: Sendable {
    package var from: Double
    package var to: Double

    package init(from: Double, to: Double) {
      self.from = from
      self.to = to
    }
  }

  struct Layer: Sendable {
    var tone: Tone
    var marks: Marks
  }

  struct LegendEntry: Sendable {
    var name: String
    var tone: Tone
    var isDashed: Bool
  }

  package var title: String
  /// What the chart shows, in a sentence beneath its title.
  package var note: String
  /// The same for who cannot see it, with the figures that matter.
  package var summary: String
  package var horizontal: Axis
  package var vertical: Axis
  package var bands: [Band] = []
  package var readings: [Reading] = []
  /// Charts of one group share the horizontal axis: pointing at one points at all.
  package var group: String?
  package var heightPixels = 180
  /// Room for the labels of the vertical axis.
  package var leftPixels = 64
  /// Names a lone series too: where the title does not say which it is.
  package var namesLoneSeries = false
  private(set) var layers: [Layer] = []
  private(set) var legend: [LegendEntry] = []

  package init(
    title: String, note: String = "", summary: String, horizontal: Axis, vertical: Axis
  ) {
    self.title = title
    self.note = note
    self.summary = summary
    self.horizontal = horizontal
    self.vertical = vertical
  }

  /// Draws marks over those that are there. Without a name they are not in the legend.
  package mutating func add(_ name: String?, _ tone: Tone, _ marks: Marks) {
    layers.append(Layer(tone: tone, marks: marks))
    guard let name else { return }
    var isDashed = false
    if case .dashed = marks { isDashed = true }
    legend.append(LegendEntry(name: name, tone: tone, isDashed: isDashed))
  }
}
