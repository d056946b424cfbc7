// Rows for a person (aligned, as wide as the terminal) or for a script (a line of fields between tabs).

/// A column of a table.
package struct TableColumn: Sendable {
  package enum Width: Sendable, Equatable {
    /// As wide as its widest cell.
    case whole
    /// May be cut where the terminal is narrow.
    case flexible
    /// Is left out where the terminal is narrow.
    case optional
  }

  package let title: String
  /// Numbers stand to the right.
  package let isNumber: Bool
  package let width: Width
  /// Of rows that come one by one, how wide cells mostly are.
  package let usual: Int

  package init(_ title: String, isNumber: Bool = false, _ width: Width = .whole, usual: Int = 0) {
    self.title = title
    self.isNumber = isNumber
    self.width = width
    self.usual = usual
  }
}

/// A cell; what its text says of itself on a terminal.
package struct TableCell: Sendable, ExpressibleByStringLiteral {
  package enum Tone: Sendable { case plain, good, warning, bad, dim }

  package var text: String
  package var tone: Tone

  package init(_ text: String, _ tone: Tone = .plain) {
    self.text = text
    self.tone = tone
  }

  package init(stringLiteral text: String) { self.init(text) }
  package init(_ number: Int64, _ tone: Tone = .plain) { self.init(String(number), tone) }
}

/// The layout of a table for a terminal.
package struct TextTable {
  private static let gap = 2
  private static let flexibleMin = 8
  /// Of a column, however long a cell is: one that is longer would push all others away.
  private static let flexibleMax = 120

  private let columns: [TableColumn]
  private let shown: [Int]
  private let widths: [Int]
  private let hasColours: Bool

  /// Measures `rows`, each with a cell for every column; others may follow that look like them.
  package init(
    _ columns: [TableColumn], for rows: [[TableCell]], terminalColumns: Int, hasColours: Bool
  ) {
    var widths = columns.indices.map { index in
      let least = max(PlainText.width(columns[index].title), columns[index].usual)
      let most = rows.reduce(least) {
        max($0, PlainText.width(PlainText.printable($1[index].text)))
      }
      return columns[index].width == .flexible ? min(most, Self.flexibleMax) : most
    }
    var shown = Array(columns.indices)
    func excess() -> Int {
      shown.reduce(-Self.gap) { $0 + widths[$1] + Self.gap } - terminalColumns
    }
    // What can be done without goes first, from the right; then the widest is cut.
    while excess() > 0, let last = shown.lastIndex(where: { columns[$0].width == .optional }) {
      shown.remove(at: last)
    }
    while excess() > 0,
      let widest = shown.filter({ columns[$0].width == .flexible && widths[$0] > Self.flexibleMin })
        .max(by: { widths[$0] < widths[$1] })
    {
      widths[widest] -= 1
    }
    self.columns = columns
    self.shown = shown
    self.widths = widths
    self.hasColours = hasColours
  }

  package var header: String {
    line {
      TableCell(columns[$0].title, .plain)
    } style: { _ in
      "1"
    }
  }

  package func row(_ cells: [TableCell]) -> String {
    line {
      cells[$0]
    } style: { index in
      switch cells[index].tone {
      case .plain: nil
      case .good: "32"
      case .warning: "33"
      case .bad: "31"
      case .dim: "2"
      }
    }
  }

  private func line(_ cell: (Int) -> TableCell, style: (Int) -> String?) -> String {
    var line = ""
    for (place, index) in shown.enumerated() {
      // A row that was not measured may be wider; an id that is cut is none.
      let whole = PlainText.printable(cell(index).text)
      let text = columns[index].width == .whole ? whole : PlainText.cut(whole, to: widths[index])
      let padding = String(repeating: " ", count: max(0, widths[index] - PlainText.width(text)))
      let isLast = place == shown.count - 1
      if place > 0 { line += String(repeating: " ", count: Self.gap) }
      if columns[index].isNumber { line += padding }
      if hasColours, !text.isEmpty, let style = style(index) {
        line += "\u{1b}[\(style)m\(text)\u{1b}[0m"
      } else {
        line += text
      }
      if !columns[index].isNumber, !isLast { line += padding }
    }
    while line.hasSuffix(" ") { line.removeLast() }
    return line
  }

  /// For scripts: the cells between tabs. What would break a line or a field is replaced.
  package static func plain(_ cells: [TableCell]) -> String {
    cells.map { PlainText.printable($0.text) }.joined(separator: "\t")
  }

  /// The titles, in lower case.
  package static func plainHeader(_ columns: [TableColumn]) -> String {
    columns.map { $0.title.lowercased() }.joined(separator: "\t")
  }
}
