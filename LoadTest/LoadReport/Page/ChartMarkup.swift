// How a chart becomes SVG. The outer SVG measures in pixels and percent, so that letters keep their size;
// the marks are in an inner one of 10,000 by 10,000 units, stretched over it.

extension Chart {
  private static let units = 10_000.0

  /// The chart as a figure.
  package var markup: Markup {
    let name = Chart.identifier(title)
    let noteMarkup: Markup = note.isEmpty ? "" : "<p>\(note)</p>"
    let groupMarkup: Markup = group.map { " data-group=\"\($0)\"" } ?? ""
    let style = "--left:\(leftPixels)px;--height:\(heightPixels)px"
    return """
      <figure class="chart" data-chart="\(readingsText)"\(groupMarkup)>
      <figcaption><h3 id="\(name)">\(title)</h3>\(noteMarkup)</figcaption>
      \(legendMarkup)
      <div class="plot\(hasRows ? " rows" : "")" style="\(style)">
      <svg role="img" aria-labelledby="\(name)" aria-describedby="\(name)-summary" \
      width="100%" height="100%">
      <desc id="\(name)-summary">\(summary)</desc>
      \(gridMarkup)
      <svg class="marks" viewBox="0 0 10000 10000" preserveAspectRatio="none" \
      width="100%" height="100%">
      \(layers.map { marks($0) })
      </svg>
      </svg>
      </div>
      </figure>

      """
  }

  /// The vertical axis has names, not numbers: a telephone shows them above their rows.
  private var hasRows: Bool { leftPixels > 100 }

  private var legendMarkup: Markup {
    guard legend.count > (namesLoneSeries ? 0 : 1) else { return "" }
    let entries: [Markup] = legend.map { entry in
      let dashed = entry.isDashed ? " dashed" : ""
      return "<li><i class=\"\(entry.tone.rawValue)\(dashed)\"></i>\(entry.name)</li>"
    }
    return "<ul class=\"legend\">\(entries)</ul>"
  }

  private var gridMarkup: Markup {
    var grid: Markup = ""
    for band in bands {
      let from = horizontal.scale.place(band.from)
      let width = max(0, horizontal.scale.place(band.to) - from)
      grid += """
        <rect class="band" x="\(percent(from))" y="0" width="\(percent(width))" height="100%"/>
        """
    }
    for tick in vertical.ticks {
      let place = percent(1 - vertical.scale.place(tick.value))
      grid += """
        <line class="grid" x1="0" x2="100%" y1="\(place)" y2="\(place)"/>\
        <text class="vertical" x="-10" y="\(place)" dy=".32em">\(tick.label)</text>
        """
    }
    for (index, tick) in horizontal.ticks.enumerated() {
      let place = horizontal.scale.place(tick.value)
      // Labels at the ends stay within the chart; every other one is left out where there is no room.
      let anchor = place > 0.97 ? "end" : place < 0.03 ? "start" : "middle"
      let odd = tick.isMinor ?? (index % 2 == 1) ? " odd" : ""
      grid += """
        <line class="tick" x1="\(percent(place))" x2="\(percent(place))" y1="0" y2="100%"/>\
        <text class="horizontal \(anchor)\(odd)" x="\(percent(place))" y="100%" dy="1.5em">\
        \(tick.label)</text>
        """
    }
    return grid
  }

  // MARK: Marks

  private func marks(_ layer: Layer) -> Markup {
    switch layer.marks {
    case .line(let points): path("line", layer.tone, line(points))
    case .dashed(let points): path("line dashed", layer.tone, line(points))
    case .area(let points): path("area", layer.tone, area(points))
    case .dots(let points):
      // A line without a length: its round ends are a dot, however the chart is stretched.
      path("dots", layer.tone, points.compactMap { place($0) }.map { "M\($0)h0" }.joined())
    case .ranges(let ranges, let width):
      """
      <path class="ranges \(layer.tone.rawValue)" style="stroke-width:\(width)px" \
      d="\(ranges.map { "M\(place($0.from, $0.y))L\(place($0.to, $0.y))" }.joined())"/>
      """
    case .level(let value):
      path("rule", layer.tone, "M0 \(down(value))H10000")
    case .upright(let value):
      path("rule", layer.tone, "M\(across(value)) 0V10000")
    }
  }

  private func path(_ kind: String, _ tone: Tone, _ data: String) -> Markup {
    "<path class=\"\(kind) \(tone.rawValue)\" d=\"\(data)\"/>\n"
  }

  private func line(_ points: [ChartPoint]) -> String {
    var data = ""
    var isDrawing = false
    for (index, point) in points.enumerated() {
      guard let place = place(point) else {
        isDrawing = false
        continue
      }
      let isAlone = !isDrawing && (index + 1 == points.count || points[index + 1].y == nil)
      data += (isDrawing ? "L" : "M") + place + (isAlone ? "h0" : "")
      isDrawing = true
    }
    return data
  }

  private func area(_ points: [ChartPoint]) -> String {
    guard !points.isEmpty else { return "" }
    let top = points.map { place($0.x, $0.y ?? $0.base) }
    let bottom = points.reversed().map { place($0.x, $0.base) }
    return "M" + (top + bottom).joined(separator: "L") + "Z"
  }

  private func place(_ point: ChartPoint) -> String? { point.y.map { place(point.x, $0) } }

  private func place(_ x: Double, _ y: Double) -> String { "\(across(x)) \(down(y))" }

  private func across(_ x: Double) -> Int { Int(horizontal.scale.place(x) * Chart.units) }

  private func down(_ y: Double) -> Int { Int((1 - vertical.scale.place(y)) * Chart.units) }

  private func percent(_ share: Double) -> String { Text.decimal(share * 100, 2) + "%" }

  // MARK: Readings

  /// For the script of the page: lines of fields with bars between. The first has the legend's entries,
  /// a colour and a name, each further one a reading: its place, from 0 to 1,000, its title, its values.
  private var readingsText: String {
    guard !readings.isEmpty else { return "" }
    var lines = [legend.map { "\($0.tone.rawValue) \($0.name)" }]
    for reading in readings {
      let place = Int(horizontal.scale.place(reading.x) * 1_000)
      lines.append([String(place), reading.title] + reading.values)
    }
    return lines.map { fields in
      fields.map { Text.printable($0).replacing("|", with: "¦") }.joined(separator: "|")
    }.joined(separator: "\n")
  }

  /// A name for links and references, of letters, digits and dashes.
  static func identifier(_ title: String) -> String {
    String(title.lowercased().map { $0.isASCII && ($0.isLetter || $0.isNumber) ? $0 : "-" })
  }
}
