// SHA-256 and HMAC with it (RFC 2104), for programs that have to know each other by a secret.
internal import CPlatform

package enum MessageDigest {
  package static let byteCount = 32
  /// Of SHA-256 (FIPS 180-4).
  private static let blockBytes = 64

  package static func sha256(_ bytes: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: byteCount)
    // Both arrays are ours for the length of the call, and the digest has its 32 bytes.
    unsafe digest.withUnsafeMutableBufferPointer { digest in
      unsafe bytes.withUnsafeBytes { bytes in
        unsafe hf_sha256(bytes.baseAddress, bytes.count, digest.baseAddress)
      }
    }
    return digest
  }

  /// - Parameter key: of any length.
  package static func hmac(key: [UInt8], _ message: [UInt8]) -> [UInt8] {
    var key = key.count > blockBytes ? sha256(key) : key
    key += [UInt8](repeating: 0, count: blockBytes - key.count)
    let inner = sha256(key.map { $0 ^ 0x36 } + message)
    return sha256(key.map { $0 ^ 0x5c } + inner)
  }

  /// In a time that says nothing of where they differ.
  package static func areEqual(_ one: [UInt8], _ other: [UInt8]) -> Bool {
    guard one.count == other.count else { return false }
    var difference: UInt8 = 0
    for index in one.indices { difference |= one[index] ^ other[index] }
    return difference == 0
  }
}
