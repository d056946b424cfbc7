// SHA-256 of tokens and of certificates' names.
//
// A plain hash is right for tokens of 128 random bits or more: nobody can try them all, so a slow hash
// (scrypt, Argon2) and a salt, which passwords need because people choose them, would only cost time in
// every connection. `holdfast token create` makes tokens of 192 random bits. A token of the operator's
// own is taken only from `tokenBytesMin` on: 32 characters are 128 bits even where they are hexadecimal
// digits. A file that holds the hash of a shorter one cannot be told from others: that is what the
// command is for.
internal import CPlatform

/// 256 bits.
package struct Digest: Equatable, Hashable, Sendable, BitwiseCopyable {
  /// The bytes as four words, in the machine's order.
  package private(set) var words = InlineArray<4, UInt64>(repeating: 0)

  static let byteCount = 32

  /// - Parameter words: those of another digest of this process.
  package init(words: InlineArray<4, UInt64>) { self.words = words }

  /// Of `bytes`.
  package init(of bytes: Span<UInt8>) {
    // The words are 32 bytes; the span is the caller's for the length of the call.
    unsafe withUnsafeMutableBytes(of: &words) { words in
      unsafe bytes.withUnsafeBytes { bytes in
        unsafe hf_sha256(
          bytes.baseAddress, bytes.count,
          words.baseAddress?.assumingMemoryBound(to: UInt8.self))
      }
    }
  }

  /// The digest that 64 hexadecimal digits say; nil where it is anything else.
  package init?(hexadecimal text: some StringProtocol) {
    let digits = Array(text.utf8)
    guard digits.count == 2 * Self.byteCount else { return nil }
    var bytes = InlineArray<32, UInt8>(repeating: 0)
    for (index, digit) in digits.enumerated() {
      guard let value = Self.value(ofDigit: digit) else { return nil }
      bytes[index / 2] = bytes[index / 2] << 4 | value
    }
    for word in words.indices {
      var value: UInt64 = 0
      for byte in 0..<8 { value |= UInt64(bytes[8 * word + byte]) << UInt64(8 * byte) }
      words[word] = UInt64(littleEndian: value)
    }
  }

  private static func value(ofDigit digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
  }

  /// 64 lower-case hexadecimal digits.
  package var hexadecimal: String {
    var text = ""
    for word in words.indices {
      for byte in 0..<8 {
        let value = UInt8(truncatingIfNeeded: words[word].littleEndian >> UInt64(8 * byte))
        text += (value < 16 ? "0" : "") + String(value, radix: 16)
      }
    }
    return text
  }

  /// What people name an entry by: the first 12 of the hexadecimal digits.
  package var id: String { String(hexadecimal.prefix(Self.idDigits)) }

  package static let idDigits = 12

  /// Compares all bits, whichever differ: the time says nothing of where.
  package static func == (a: Digest, b: Digest) -> Bool {
    var difference: UInt64 = 0
    for word in a.words.indices { difference |= a.words[word] ^ b.words[word] }
    return difference == 0
  }

  package func hash(into hasher: inout Hasher) { hasher.combine(words[0]) }

  /// Where a table begins to look. What a thief of the file, or of the time of an answer, learns from it
  /// is a part of the hash: no token follows from that.
  var bucket: Int { Int(truncatingIfNeeded: words[0] & 0x7fff_ffff) }
}
