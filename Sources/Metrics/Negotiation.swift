// Which format a scraper asks for (RFC 9110 section 12.5.1).

extension ExpositionFormat {
  /// The format that an Accept field prefers. OpenMetrics is for who names it, at no lower a quality than
  /// plain text: a browser that takes everything gets text that it shows. Never fails: what cannot be read
  /// of the field, or takes neither format, is for text.
  /// - Parameter accept: its value; of several fields their values with commas; nil without one.
  package static func preferred(accept: String?) -> ExpositionFormat {
    guard let accept else { return .text }
    var openMetrics = 0
    // By how exactly the range says text: the most exact one counts.
    var text = (exactness: -1, quality: 0)
    for range in accept.split(separator: ",").compactMap(MediaRange.init) {
      switch range.type {
      case "application/openmetrics-text" where range.version == nil || range.version == "1.0.0":
        openMetrics = max(openMetrics, range.quality)
      case "text/plain" where range.version == nil || range.version == "0.0.4":
        let exactness = range.version == nil ? 2 : 3
        if exactness >= text.exactness { text = (exactness, range.quality) }
      case "text/*": if text.exactness < 1 { text = (1, range.quality) }
      case "*/*": if text.exactness < 0 { text = (0, range.quality) }
      default: break
      }
    }
    return openMetrics > 0 && openMetrics >= text.quality ? .openMetrics : .text
  }
}

/// One entry of an Accept field.
private struct MediaRange {
  let type: String
  var version: String?
  /// In thousandths.
  var quality = 1000

  /// nil where its quality is none.
  init?(_ text: Substring) {
    let parts = text.split(separator: ";", omittingEmptySubsequences: false).map(Self.trimmed)
    guard let first = parts.first, !first.isEmpty else { return nil }
    type = first.lowercased()
    for part in parts.dropFirst() {
      let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        .map(Self.trimmed)
      guard pair.count == 2 else { continue }
      switch pair[0].lowercased() {
      case "version": version = pair[1].replacing("\"", with: "")
      case "q":
        guard let quality = Self.quality(pair[1]) else { return nil }
        self.quality = quality
      default: break
      }
    }
  }

  /// 0 to 1 with three digits behind the point at most.
  private static func quality(_ text: String) -> Int? {
    let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    guard let whole = parts.first, whole == "0" || whole == "1" else { return nil }
    let fraction = parts.count > 1 ? parts[1] : ""
    guard fraction.utf8.count <= 3, fraction.utf8.allSatisfy({ (48...57).contains($0) }),
      let thousandths = Int("0" + fraction + String(repeating: "0", count: 3 - fraction.utf8.count))
    else { return nil }
    let quality = (whole == "1" ? 1000 : 0) + thousandths
    return quality <= 1000 ? quality : nil
  }

  private static func trimmed(_ text: Substring) -> String {
    let blanks: Set<Character> = [" ", "\t"]
    let front = text.drop { blanks.contains($0) }
    guard let last = front.lastIndex(where: { !blanks.contains($0) }) else { return "" }
    return String(front[...last])
  }
}
