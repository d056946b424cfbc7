/// The page for a person who opens the admin port in a browser.
enum FrontPage {
  static func html(
    readiness: ServingState, information: [(name: String, value: String)], hasConsole: Bool
  ) -> String {
    let console =
      hasConsole
      ? """
      <dt><a href="/console">/console</a></dt><dd>What the server does now, for a person; live.</dd>

      """ : ""
    let rows = ([("State", readiness.name)] + information)
      .map { "<tr><th scope=\"row\">\(escaped($0.0))</th><td>\(escaped($0.1))</td></tr>" }
      .joined(separator: "\n")
    return """
      <!doctype html>
      <html lang="en">
      <head>
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <title>Holdfast</title>
      <style>
      :root { color-scheme: light dark; }
      body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }
      th { text-align: left; font-weight: normal; opacity: .7; padding-right: 2rem; vertical-align: top; }
      td { overflow-wrap: anywhere; }
      dt { margin-top: .8rem; }
      dd { margin: 0; opacity: .8; }
      </style>
      </head>
      <body>
      <h1>Holdfast</h1>
      <p>A stock-reservation server. Its calls are gRPC, on another port; here is what operators need.</p>
      <table>
      \(rows)
      </table>
      <dl>
      \(console)<dt><a href="/metrics">/metrics</a></dt><dd>What the server counts, as Prometheus reads it.</dd>
      <dt><a href="/livez">/livez</a></dt><dd>200 while the process serves these pages.</dd>
      <dt><a href="/readyz">/readyz</a></dt><dd>200 when calls are welcome, 503 while starting, recovering or draining.</dd>
      </dl>
      </body>
      </html>

      """
  }

  /// The text as HTML shows it, in an element or a quoted attribute, and that no template takes for a place to fill.
  static func escaped(_ text: String) -> String {
    var result = ""
    // Scalars: with an accent behind it, a quotation mark is another character, and ends an attribute all the same.
    for scalar in text.unicodeScalars {
      switch scalar {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      case "'", "{": result += "&#\(scalar.value);"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
