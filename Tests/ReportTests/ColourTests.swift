import Foundation
import Testing

@testable import LoadReport

/// Colours that stand beside each other in a chart can be told apart, light or dark.
struct ColourTests {
  /// The custom properties of the first or second rule of the page's style.
  private static func palette(_ rule: Int) -> [String: String] {
    let text = PageStyle.sheet.source.components(separatedBy: ":root {")[rule]
    var colours: [String: String] = [:]
    for part in text.prefix(while: { $0 != "}" }).split(separator: ";") {
      let pair = part.split(separator: ":").map {
        $0.trimmingCharacters(in: .whitespacesAndNewlines)
      }
      if pair.count == 2, pair[1].hasPrefix("#") { colours[String(pair[0].dropFirst(2))] = pair[1] }
    }
    return colours
  }

  /// CIELAB of #rrggbb, D65.
  private static func lab(_ hex: String) throws -> [Double] {
    let value = try #require(Int(hex.dropFirst(), radix: 16))
    let rgb = [16, 8, 0].map { shift in
      let part = Double(value >> shift & 255) / 255
      return part <= 0.04045 ? part / 12.92 : pow((part + 0.055) / 1.055, 2.4)
    }
    let white = [0.95047, 1, 1.08883]
    let rows = [
      [0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505],
    ]
    let f = zip(rows, white).map { row, white in
      let t = zip(row, rgb).reduce(0) { $0 + $1.0 * $1.1 } / white
      return t > 0.008856 ? cbrt(t) : 7.787 * t + 16 / 116
    }
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]
  }

  @Test(
    arguments: [1, 2],
    [
      [
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "neutral",
        "bad",
      ],
      ["low", "middle", "high", "highest", "neutral"],
    ])
  func areFarApart(rule: Int, names: [String]) throws {
    let palette = Self.palette(rule)
    for (index, one) in names.enumerated() {
      for other in names[..<index] {
        let pair = try [one, other].map { try Self.lab(try #require(palette[$0], "\($0)")) }
        let distance = zip(pair[0], pair[1]).reduce(0) { $0 + pow($1.0 - $1.1, 2) }.squareRoot()
        // 2.3 is just noticeable side by side; a line in a chart is not side by side with its legend.
        #expect(distance >= 20, "\(one) and \(other)")
      }
    }
  }
}
