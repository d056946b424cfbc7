import Testing

@testable import LoadReport

struct TextTests {
  @Test(
    arguments: [
      (0, "0.0 %"), (0.5, "50.0 %"), (0.0005, "0.050 %"), (0.000_001, "< 0.001 %"), (1, "100.0 %"),
      (12.5, "1,250.0 %"), (.nan, "— %"),
    ] as [(Double, String)])
  func shares(share: Double, text: String) { #expect(Text.percent(share) == text) }

  @Test(
    arguments: [
      (0, "0"), (0.125, "0.125"), (2.50, "2.5"), (10, "10"), (999, "999"), (1_000, "1k"),
      (12_345, "12.345k"), (1_500_000, "1.5M"), (2e9, "2G"), (-1_500, "-1.5k"),
    ] as [(Double, String)])
  func numbersOfAxes(value: Double, text: String) { #expect(Text.compact(value) == text) }

  @Test(
    arguments: [
      (0, "0 B"), (999, "999 B"), (1_234, "1.23 kB"), (48_349_184, "48.3 MB"), (8.34e9, "8.34 GB"),
      (251e9, "251 GB"),
    ] as [(Double, String)])
  func bytes(count: Double, text: String) { #expect(Text.bytes(count) == text) }

  @Test(arguments: [
    ("sku-1", "sku-1"), ("Größe → ✓", "Größe → ✓"), ("a\u{1b}[2Jb", "a\u{FFFD}[2Jb"),
    ("a\nb\tc\0", "a\u{FFFD}b\u{FFFD}c\u{FFFD}"), ("\u{202E}abc\u{2066}", "\u{FFFD}abc\u{FFFD}"),
    ("\u{7F}\u{9B}31m", "\u{FFFD}\u{FFFD}31m"), ("", ""),
  ])
  func whatSteersIsReplaced(text: String, printable: String) {
    #expect(Text.printable(text) == printable)
  }
}
