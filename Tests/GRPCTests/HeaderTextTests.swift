import GRPC
import Testing

@Suite("Header values")
struct HeaderTextTests {
  private static func text(
    capacity: Int = 4096, _ write: (HeaderText) -> Void
  ) -> String {
    let out = HeaderText(capacity: capacity)
    write(out)
    return out.withSpan { span in String(decoding: span.indices.map { span[$0] }, as: UTF8.self) }
  }

  private static func percent(_ bytes: [UInt8], capacity: Int = 4096) -> String {
    text(capacity: capacity) { PercentEncoding.append(bytes.span, to: $0) }
  }

  private static func base64(_ bytes: [UInt8], capacity: Int = 4096) -> String {
    text(capacity: capacity) { Base64.append(bytes.span, to: $0) }
  }

  @Test(
    "Percent-encoding",
    arguments: [
      ("", ""), ("plain text", "plain text"), ("100%", "100%25"), ("~", "~"), (" ", " "),
      ("a\nb", "a%0Ab"), ("\u{7f}", "%7F"), ("\u{0}", "%00"), ("größe", "gr%C3%B6%C3%9Fe"),
      ("☺", "%E2%98%BA"), ("%41", "%2541"), ("!\"#$&'()*+,-./", "!\"#$&'()*+,-./"),
    ])
  func percentVectors(text: String, encoded: String) {
    #expect(Self.percent(Array(text.utf8)) == encoded)
  }

  @Test("Every byte by itself: printable ASCII but % stands as it is")
  func percentEveryByte() {
    for byte in UInt8.min...UInt8.max {
      let digits = String(byte, radix: 16, uppercase: true)
      let escaped = "%" + (byte < 16 ? "0" : "") + digits
      let stands = (0x20...0x7e).contains(byte) && byte != 0x25
      let expected = stands ? String(UnicodeScalar(byte)) : escaped
      #expect(Self.percent([byte]) == expected)
    }
  }

  @Test(
    "Base64, RFC 4648 section 10 without its padding",
    arguments: [
      ("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"),
      ("fooba", "Zm9vYmE"), ("foobar", "Zm9vYmFy"),
    ])
  func base64Vectors(text: String, encoded: String) {
    #expect(Self.base64(Array(text.utf8)) == encoded)
  }

  @Test(
    "What percent-encoded text stands for",
    arguments: [
      ("", ""), ("no%20stock", "no stock"), ("100%25", "100%"), ("gr%C3%B6%c3%9fe", "größe"),
      ("%", "%"), ("%2", "%2"), ("%2x", "%2x"), ("%x2%41", "%x2A"), ("%%41", "%A"), ("%41%", "A%"),
      ("%FF", "\u{fffd}"),
    ])
  func percentDecoding(encoded: String, text: String) {
    let bytes = Array(encoded.utf8)
    #expect(PercentEncoding.decoded(bytes.span) == text)
  }

  @Test("Percent-encoding there and back, for every byte")
  func percentBackAndForth() {
    for byte in UInt8.min..<0x80 {
      let encoded = Array(Self.percent([byte]).utf8)
      #expect(PercentEncoding.decoded(encoded.span) == String(UnicodeScalar(byte)))
    }
  }

  private static func decodedBase64(_ text: String) -> [UInt8] {
    let text = Array(text.utf8)
    return [UInt8](capacity: Base64.decodedBytesMax(text.count)) { out in
      Base64.decode(text.span, to: &out)
    }
  }

  @Test(
    "What base64 stands for, with and without padding, up to what is none",
    arguments: [
      ("", ""), ("Zg", "f"), ("Zg==", "f"), ("Zm8", "fo"), ("Zm8=", "fo"), ("Zm9v", "foo"),
      ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar"), ("Z", ""), ("Zm9v!Zm9v", "foo"),
      ("Zm9vZ", "foo"), ("=Zm9v", ""), ("Zm9v Zm9v", "foo"), ("Zm-_", "f"),
    ])
  func base64Decoding(encoded: String, text: String) {
    #expect(Self.decodedBase64(encoded) == Array(text.utf8))
  }

  @Test("Base64 there and back", arguments: 0..<70)
  func base64BackAndForth(length: Int) {
    var generator = SplitMix(seed: UInt64(length))
    let bytes = (0..<length).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    #expect(Self.decodedBase64(Self.base64(bytes)) == bytes)
  }

  @Test("Base64 of random bytes as a naive encoder has it", arguments: 0..<70)
  func base64Model(length: Int) {
    var generator = SplitMix(seed: UInt64(length))
    let bytes = (0..<length).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    #expect(Self.base64(bytes) == Self.naiveBase64(bytes))
  }

  @Test("Base64 uses all of its alphabet")
  func base64Alphabet() {
    let bytes = [UInt8](0...255) + [0xfb, 0xff, 0xbf, 0xfb, 0xef, 0xbe]
    let encoded = Self.base64(bytes)
    #expect(encoded == Self.naiveBase64(bytes))
    #expect(Set(encoded).count == 64)
  }

  /// Bits as text, six at a time.
  private static func naiveBase64(_ bytes: [UInt8]) -> String {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    var bits = bytes.flatMap { byte in (0..<8).reversed().map { Int(byte >> $0 & 1) } }
    while bits.count % 6 != 0 { bits.append(0) }
    return String(
      stride(from: 0, to: bits.count, by: 6).map { start in
        alphabet[bits[start..<start + 6].reduce(0) { $0 * 2 + $1 }]
      })
  }

  @Test("Base64 that does not fit is left out whole", arguments: 0...80)
  func base64Bound(capacity: Int) {
    let text = Self.base64(Array("abcdefghij".utf8), capacity: capacity)
    #expect(text == (capacity >= 16 ? "YWJjZGVmZ2hpag" : ""))
  }

  @Test("A text that does not fit is cut off between two characters", arguments: 0...80)
  func percentBound(capacity: Int) {
    let characters = ["a", "b", "%25", "c", "d", "%C3%A9", "f", "%E2%98%BA", "%F0%9F%98%80", "g"]
    var expected = ""
    for character in characters {
      if expected.utf8.count + character.utf8.count > capacity { break }
      expected += character
    }
    #expect(Self.percent(Array("ab%cdéf☺😀g".utf8), capacity: capacity) == expected)
  }

  @Test(
    "Long texts are cut off, and not left out",
    arguments: [
      ("a", 4096, 4096), ("a", 4097, 4096), ("a", 10_000, 4096), ("é", 682, 4092),
      ("é", 683, 4092), ("☺", 455, 4095), ("☺", 456, 4095), ("\n", 1365, 4095), ("\n", 1366, 4095),
    ])
  func longTexts(character: String, count: Int, encoded: Int) {
    let text = String(repeating: character, count: count)
    #expect(Self.percent(Array(text.utf8)).utf8.count == encoded)
  }

  @Test("What is no UTF-8 is cut off all the same", arguments: 0...12)
  func noUTF8(capacity: Int) {
    let bytes: [UInt8] = [0x80, 0x80, 0xc3, 0x61]
    let text = Self.percent(bytes, capacity: capacity)
    #expect(capacity >= 10 ? text == "%80%80%C3a" : "%80%80%C3a".hasPrefix(text))
    #expect(text.utf8.count <= capacity)
  }

  @Test("Reset empties and leaves the bound as it was")
  func reset() {
    let text = HeaderText(capacity: 3)
    let bytes = Array("AB".utf8)
    for _ in 0..<3 {
      text.reset()
      #expect(text.count == 0)
      PercentEncoding.append(bytes.span, to: text)
      PercentEncoding.append(bytes.span, to: text)
      #expect(text.withSpan { span in span.indices.map { span[$0] } } == Array("ABA".utf8))
    }
  }
}

/// A random generator whose runs repeat.
struct SplitMix: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = (state ^ state >> 30) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
    return mixed ^ mixed >> 31
  }
}
