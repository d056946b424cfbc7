// A token as `holdfast token create` makes it: hft_ and 38 characters, which tools that look for leaked
// secrets can find (/hft_[A-Za-z0-9_-]{38}/) and tell from a chance match by the checksum at the end.
internal import CPlatform

/// A bearer token. Never in a log, an error or a file: only its digest is.
package struct Token: Sendable {
  package static let prefix = "hft_"
  /// 192 bits.
  private static let randomBytes = 24
  /// A token of the operator's own: see Digest.swift.
  package static let byteCountMin = 32

  /// The text, once: for whoever made it.
  package let text: String

  /// A new one. nil where the system has no random numbers.
  package static func make() -> Token? {
    var bytes = [UInt8](repeating: 0, count: randomBytes)
    let result = unsafe bytes.withUnsafeMutableBytes { bytes in
      // The buffer is as long as it says.
      unsafe hf_random_bytes(bytes.baseAddress, bytes.count)
    }
    guard result == 0 else { return nil }
    return Token(random: bytes)
  }

  /// - Parameter bytes: 24 that nobody can predict.
  init(random bytes: [UInt8]) {
    precondition(bytes.count == Self.randomBytes, "a token of \(bytes.count) bytes")
    let body = Self.prefix + Self.base64(bytes)
    text = body + Self.checksum(of: body)
  }

  /// A token of the operator's own: `byteCountMin` to `byteCountMax` bytes of printable ASCII without
  /// spaces, as a header can carry them.
  /// - Throws: what is wrong with it, without a word of it.
  package init(own text: String, byteCountMax: Int) throws(AccessError) {
    let count = text.utf8.count
    guard count >= Self.byteCountMin else {
      throw AccessError(
        "a token of \(count) characters can be guessed: \(Self.byteCountMin) at least")
    }
    guard count <= byteCountMax else {
      throw AccessError("a token of \(count) characters: \(byteCountMax) at most")
    }
    guard text.utf8.allSatisfy({ 0x21...0x7e ~= $0 }) else {
      throw AccessError("a token has printable ASCII characters alone, and no spaces")
    }
    if text.hasPrefix(Self.prefix), !Self.isIntact(text) {
      throw AccessError("a token that begins with \(Self.prefix) and was mistyped or cut off")
    }
    self.text = text
  }

  /// Whether the text is one that `make` can have made: a typing mistake does not pass, or one in 2^32.
  package static func isIntact(_ text: String) -> Bool {
    let count = prefix.utf8.count + randomBytes * 4 / 3 + checksumDigits
    guard text.hasPrefix(prefix), text.utf8.count == count else { return false }
    return text.hasSuffix(checksum(of: String(text.dropLast(checksumDigits))))
  }

  package var digest: Digest { Digest(of: Array(text.utf8).span) }

  private static let checksumDigits = 6
  private static let digits = Array(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)

  /// The CRC32C of the text, in 6 digits of 6 bits, the lowest first.
  private static func checksum(of text: String) -> String {
    let bytes = Array(text.utf8)
    let checksum = unsafe bytes.withUnsafeBytes { bytes in
      // The buffer is as long as it says.
      unsafe hf_crc32c(0, bytes.baseAddress, bytes.count)
    }
    let text = (0..<checksumDigits).map { digits[Int(checksum >> UInt32(6 * $0) & 63)] }
    return String(decoding: text, as: UTF8.self)
  }

  /// RFC 4648 section 5. The count is a multiple of 3, so nothing is padded.
  private static func base64(_ bytes: [UInt8]) -> String {
    var text: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let group =
        UInt32(bytes[start]) << 16 | UInt32(bytes[start + 1]) << 8 | UInt32(bytes[start + 2])
      for shift in [18, 12, 6, 0] { text.append(digits[Int(group >> UInt32(shift) & 63)]) }
    }
    return String(decoding: text, as: UTF8.self)
  }
}

/// What is wrong with a token or a token file, in words for the operator. Never a word of the token or
/// of the file: what stands in the wrong place may be a secret.
package struct AccessError: Error, Equatable, CustomStringConvertible {
  package let description: String

  package init(_ description: String) { self.description = description }
}
