// A page that is one file: its style and its script are in it, and it asks the network for nothing.

package struct Page: Sendable {
  package var title: String
  package var body: Markup

  package init(title: String, body: Markup) {
    self.title = title
    self.body = body
  }

  /// The whole file. The policy keeps a browser from fetching anything, whatever the page came to hold.
  package var html: String {
    let page: Markup = """
      <!DOCTYPE html>
      <html lang="en">
      <head>
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <meta name="color-scheme" content="light dark">
      <meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
      style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
      <link rel="icon" href="data:,">
      <title>\(title)</title>
      <style>
      \(PageStyle.sheet)
      </style>
      </head>
      <body>
      <main>
      \(body)
      </main>
      <script>
      \(PageScript.source)
      </script>
      </body>
      </html>

      """
    return page.source
  }
}

// MARK: Pieces

extension Markup {
  /// A part of the page under a heading of its own; nothing where there is nothing in it.
  package static func section(_ title: String, note: String = "", _ content: Markup) -> Markup {
    guard !content.isEmpty else { return "" }
    let note: Markup = note.isEmpty ? "" : "<p class=\"note\">\(note)</p>"
    return """
      <section aria-labelledby="\(Chart.identifier("section " + title))">
      <h2 id="\(Chart.identifier("section " + title))">\(title)</h2>
      \(note)
      \(content)
      </section>

      """
  }

  /// The line that the page is about, with a sign and a colour of its own.
  package static func verdict(_ tone: Tone, _ headline: String, _ detail: String) -> Markup {
    let sign: Markup =
      switch tone {
      case .good: "<path d=\"M6 12.5l4 4 8-9\"/>"
      case .bad: "<path d=\"M7 7l10 10M17 7L7 17\"/>"
      default: "<path d=\"M12 6v7.5M12 17.5v.01\"/>"
      }
    return """
      <div class="verdict \(tone.rawValue)" role="status">
      <svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="12"/>\(sign)</svg>
      <div><strong>\(headline)</strong><p>\(detail)</p></div>
      </div>

      """
  }

  /// A figure worth a place of its own: its name, the number, what qualifies it.
  package static func keyFigure(_ name: String, _ value: String, _ detail: String = "") -> Markup {
    // The unit is set smaller than the number.
    let parts = value.split(separator: " ", maxSplits: 1)
    let number = parts.first.map(String.init) ?? ""
    let unit: Markup = parts.count > 1 ? " <small>\(String(parts[1]))</small>" : ""
    return """
      <div><dt>\(name)</dt><dd>\(number)\(unit)</dd><dd class="detail">\(detail)</dd></div>

      """
  }

  /// Key figures beside each other.
  package static func keyFigures(_ figures: [Markup]) -> Markup {
    "<dl class=\"figures\">\n\(figures)</dl>\n"
  }

  /// Names and what they are, in two columns; rows without a value are left out.
  package static func facts(_ facts: [(name: String, value: String?)]) -> Markup {
    let rows: [Markup] = facts.compactMap { fact in
      fact.value.map { "<div><dt>\(fact.name)</dt><dd>\($0)</dd></div>\n" }
    }
    return rows.isEmpty ? "" : "<dl class=\"facts\">\n\(rows)</dl>\n"
  }

  /// A table whose first column is text and whose others are numbers. It scrolls by itself where the
  /// page is narrow, under its first column, which stays.
  ///
  /// - Parameter narrowLeavesOut: columns that a telephone does without.
  package static func table(
    _ caption: String, columns: [String], rows: [[Markup]], narrowLeavesOut: Set<String> = []
  ) -> Markup {
    let kinds: [Markup] = columns.map { narrowLeavesOut.contains($0) ? " class=\"wide\"" : "" }
    let heads: [Markup] = zip(columns, kinds).map { "<th scope=\"col\"\($1)>\($0)</th>" }
    let lines: [Markup] = rows.map { row in
      let cells: [Markup] = row.enumerated().map { index, cell in
        index == 0
          ? "<th scope=\"row\">\(cell)</th>"
          : "<td\(index < kinds.count ? kinds[index] : "")>\(cell)</td>"
      }
      return "<tr>\(cells)</tr>\n"
    }
    return """
      <div class="scroll" tabindex="0" role="region" aria-label="\(caption)"><table>
      <caption><span>\(caption)</span></caption>
      <thead><tr>\(heads)</tr></thead>
      <tbody>
      \(lines)</tbody>
      </table></div>

      """
  }

  /// What is only looked at by who wants to.
  package static func details(_ title: String, _ content: Markup) -> Markup {
    "<details><summary>\(title)</summary>\n\(content)</details>\n"
  }

  /// Text as it stands, in letters of one width.
  package static func verbatim(_ text: String) -> Markup { "<pre tabindex=\"0\">\(text)</pre>\n" }

  package static func list(_ kind: String, _ entries: [String]) -> Markup {
    let items: [Markup] = entries.map { "<li>\($0)</li>\n" }
    return items.isEmpty ? "" : "<ul class=\"\(kind)\">\n\(items)</ul>\n"
  }
}
