import Testing

@testable import GRPC

@Suite("traceparent")
struct TraceParentTests {
  private static let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  private static func parsed(_ text: String) -> TraceParent {
    TraceParent(field: Array(text.utf8).span)
  }

  @Test("What follows the specification is taken, and written as version 00")
  func taken() {
    let parsed = Self.parsed(Self.good)
    #expect(parsed.traceHigh == 0x0af7_6519_16cd_43dd)
    #expect(parsed.traceLow == 0x8448_eb21_1c80_319c)
    #expect(parsed.span == 0xb7ad_6b71_6920_3331)
    #expect(parsed.isPresent && parsed.isSampled)
    #expect(parsed.text == Self.good)
    let unsampled = Self.parsed(Self.good.dropLast() + "0")
    #expect(unsampled.isPresent && !unsampled.isSampled)
    // Of a version to come the part that is known is read.
    for newer in ["cc" + Self.good.dropFirst(2), "01" + Self.good.dropFirst(2) + "-more"] {
      #expect(Self.parsed(newer).text == Self.good)
    }
  }

  @Test(
    "Anything else is none",
    arguments: [
      "", "00", String(good.dropLast()), good + "-", good + "0", "ff" + good.dropFirst(2),
      "01" + good.dropFirst(2) + "x", good.uppercased(), good.replacing("-", with: "_"),
      good.replacing("0af7", with: "0ag7"), good.replacing("0af7", with: " af7"),
      "00-00000000000000000000000000000000-b7ad6b7169203331-01",
      "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\u{0}",
      String(repeating: "\u{ff}", count: 55), String(repeating: "-", count: 55),
    ])
  func none(text: String) {
    let parsed = Self.parsed(text)
    #expect(!parsed.isPresent && !parsed.isSampled && parsed.text == "")
  }
}
