// What is known of a terminal: whether there is one, how large it is, and whether it takes colours.
internal import Glibc

package struct Terminal: Equatable, Sendable {
  /// Lines can be redrawn in place.
  package var canRedraw = false
  package var hasColours = false
  package var columns = 100
  package var rows = 24

  package init() {}

  /// The terminal behind a descriptor, as it is now. Without one: no colours, and nothing is redrawn.
  /// TERM=dumb is as if there were none; NO_COLOR, set to anything, takes the colours.
  package init(descriptor: Int32) {
    guard isatty(descriptor) == 1, Terminal.environment("TERM") != "dumb" else { return }
    canRedraw = true
    hasColours = (Terminal.environment("NO_COLOR") ?? "").isEmpty
    var size = winsize()
    if unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 {
      columns = Int(size.ws_col)
    } else if let stated = Terminal.environment("COLUMNS").flatMap({ Int($0) }), stated > 0 {
      columns = min(stated, 1_000)
    }
    if size.ws_row > 0 {
      rows = Int(size.ws_row)
    } else if let stated = Terminal.environment("LINES").flatMap({ Int($0) }), stated > 0 {
      rows = min(stated, 1_000)
    }
  }

  private static func environment(_ name: String) -> String? {
    // Nobody sets a variable while this reads it, and the text is copied.
    guard let value = unsafe getenv(name) else { return nil }
    return unsafe String(cString: value)
  }
}

/// How a piece of text looks on a terminal that has colours.
package enum TextStyle: String, Sendable {
  case bold = "1"
  case dim = "2"
  case good = "1;32"
  case warning = "1;33"
  case bad = "1;31"
  case accent = "36"
}

extension Terminal {
  /// `text` with the codes for a style, where there are colours.
  package func styled(_ text: String, _ style: TextStyle) -> String {
    hasColours && text.contains { $0 != " " } ? "\u{1b}[\(style.rawValue)m\(text)\u{1b}[0m" : text
  }
}
