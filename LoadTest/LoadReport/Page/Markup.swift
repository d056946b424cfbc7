// HTML that cannot be broken by what stands in it: a String that is put into a Markup is escaped,
// a Markup is not.
//
//   let cell: Markup = "<td title=\"\(hostile)\">\(hostile)</td>"

/// A piece of HTML.
package struct Markup: ExpressibleByStringInterpolation, Sendable {
  /// The HTML.
  package private(set) var source: String

  package init(stringLiteral source: String) { self.source = source }

  package init(stringInterpolation: StringInterpolation) { source = stringInterpolation.source }

  /// `pieces`, one behind the other.
  package init(_ pieces: [Markup]) { source = pieces.map(\.source).joined() }

  package static func += (left: inout Markup, right: Markup) { left.source += right.source }

  package var isEmpty: Bool { source.isEmpty }

  /// What the interpolation of a literal collects.
  package struct StringInterpolation: StringInterpolationProtocol {
    fileprivate var source = ""

    package init(literalCapacity: Int, interpolationCount: Int) {}

    package mutating func appendLiteral(_ literal: String) { source += literal }

    /// Text, escaped for elements and for attributes in quotes.
    package mutating func appendInterpolation(_ text: String) { source += Markup.escaped(text) }

    package mutating func appendInterpolation(_ number: Int) { source += String(number) }

    package mutating func appendInterpolation(_ markup: Markup) { source += markup.source }

    package mutating func appendInterpolation(_ pieces: [Markup]) {
      for piece in pieces { source += piece.source }
    }
  }

  /// Ends of lines stay; other characters that steer, also the direction of text, are replaced.
  private static func escaped(_ text: String) -> String {
    var escaped = ""
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    for (number, line) in lines.enumerated() {
      if number > 0 { escaped += "\n" }
      for character in Text.printable(String(line)) {
        switch character {
        case "&": escaped += "&amp;"
        case "<": escaped += "&lt;"
        case ">": escaped += "&gt;"
        case "\"": escaped += "&quot;"
        case "'": escaped += "&#39;"
        default: escaped.append(character)
        }
      }
    }
    return escaped
  }
}
