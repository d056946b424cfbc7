import Bytes
import Log
import StockStore
import Testing

@testable import ChangeFeed

/// Tokens by their text.
@Suite struct ResumeTokenTests {
  private static let point = LogPoint(lsn: 0x1234_5678, mark: 0x9abc_def0_1234_5678)

  private static func tokens(_ secret: UInt64 = 1, firstVersion: UInt64 = 1) -> ResumeToken {
    ResumeToken(
      keys: StoreKeys(secret: SipKey(low: secret, high: 2)), firstVersion: firstVersion)
  }

  private static func text(_ tokens: ResumeToken, _ point: LogPoint = point) -> [UInt8] {
    var text = [UInt8](repeating: 0, count: ResumeToken.textLength)
    var span = text.mutableSpan
    tokens.write(point, to: &span)
    return text
  }

  @Test func aTokenNamesItsPoint() {
    let text = Self.text(Self.tokens())
    #expect(text.count == 65)
    #expect(Self.tokens().read(text.span) == .point(Self.point))
    // The store, the number, the mark, and the hash of them.
    let words = String(decoding: text, as: UTF8.self)
    #expect(words.hasPrefix("1"))
    #expect(words.dropFirst(17).prefix(32) == "00000000123456789abcdef012345678")
  }

  @Test(arguments: 0..<65) func aChangedDigitIsNoToken(place: Int) {
    var text = Self.text(Self.tokens())
    text[place] = text[place] == UInt8(ascii: "0") ? UInt8(ascii: "1") : UInt8(ascii: "0")
    // What names another store is another store's; who has not its key cannot tell.
    let expected: ResumeToken.Reading = (1..<17).contains(place) ? .foreign : .malformed
    #expect(Self.tokens().read(text.span) == expected)
  }

  @Test(arguments: ["", "1", "x", " ", String(repeating: "0", count: 65)]) func otherText(
    _ text: String
  ) {
    let bytes = Array(text.utf8)
    #expect(Self.tokens().read(bytes.span) == .malformed)
  }

  @Test func lengthsAndCaseCount() {
    let text = Self.text(Self.tokens())
    for other in [Array(text.dropLast()), text + [UInt8(ascii: "0")]] {
      #expect(Self.tokens().read(other.span) == .malformed)
    }
    let upper = Array(String(decoding: text, as: UTF8.self).uppercased().utf8)
    #expect(Self.tokens().read(upper.span) != .point(Self.point))
  }

  @Test func theTokenOfAnotherStoreIsForeign() {
    let text = Self.text(Self.tokens(7))
    #expect(Self.tokens().read(text.span) == .foreign)
  }

  @Test func aRepairMakesTokensForeign() {
    let text = Self.text(Self.tokens())
    #expect(Self.tokens(firstVersion: 1 << 33).read(text.span) == .foreign)
  }
}
