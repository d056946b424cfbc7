// The keys of TLS session tickets (RFC 5077, RFC 8446 section 4.6.1). Whoever gets hold of one can read the
// sessions that were resumed with its tickets, so no key lives for much longer than a session.
internal import COpenSSL
internal import Glibc
internal import Synchronization

/// The key that tickets are made with, and the one before it, with which they can still be read.
final class TicketKeys: Sendable {
  private struct Key: Sendable {
    static let nameBytes = 16
    static let secretBytes = 32

    /// Stands at the front of each ticket.
    var name = [UInt8](repeating: 0, count: nameBytes)
    /// For HMAC with SHA-256, and for AES-256 in CBC mode: RFC 5077 section 4, as OpenSSL has it.
    var mac = [UInt8](repeating: 0, count: secretBytes)
    var cipher = [UInt8](repeating: 0, count: secretBytes)

    /// nil where the system has no randomness.
    init?() {
      // RAND_bytes: 1, or less without randomness.
      guard unsafe RAND_bytes(&name, Int32(name.count)) == 1,
        unsafe RAND_bytes(&mac, Int32(mac.count)) == 1,
        unsafe RAND_bytes(&cipher, Int32(cipher.count)) == 1
      else {
        TLSError.forgetAll()
        return nil
      }
    }

    @unsafe func isNamed(_ other: UnsafePointer<UInt8>) -> Bool {
      unsafe memcmp(other, name, Self.nameBytes) == 0
    }
  }

  private struct State {
    var current: Key
    var previous: Key?
    /// When the current one was made, in monotonic nanoseconds.
    var sinceNanoseconds: Int64
  }

  private let state: Mutex<State>

  init(nowNanoseconds: Int64) throws(TLSFileError) {
    guard let key = Key() else { throw TLSFileError("no random bytes for the keys of tickets") }
    state = Mutex(State(current: key, sinceNanoseconds: nowNanoseconds))
  }

  /// Makes a new key where the current one is older than `nanoseconds`; the one before is forgotten. Without
  /// randomness all stays as it is.
  func rotate(after nanoseconds: Int64, nowNanoseconds: Int64) {
    state.withLock { state in
      guard nowNanoseconds - state.sinceNanoseconds >= nanoseconds, let key = Key() else { return }
      state.previous = state.current
      state.current = key
      state.sinceNanoseconds = nowNanoseconds
    }
  }

  // MARK: As OpenSSL asks for them

  /// Where a context keeps its keys: it holds them for as long as a connection holds it.
  private static let index = unsafe CRYPTO_get_ex_new_index(
    CRYPTO_EX_INDEX_SSL_CTX, 0, nil, nil, nil,
    { _, keys, _, _, _, _ in
      guard let keys = unsafe keys else { return }
      unsafe Unmanaged<TicketKeys>.fromOpaque(keys).release()
    })

  /// Tickets of `context` are made with these keys. False without memory.
  @unsafe func serve(_ context: OpaquePointer) -> Bool {
    let held = unsafe Unmanaged.passRetained(self)
    // Both answer 1, or 0 without memory.
    guard Self.index >= 0, unsafe SSL_CTX_set_ex_data(context, Self.index, held.toOpaque()) == 1
    else {
      unsafe held.release()
      return false
    }
    return unsafe SSL_CTX_set_tlsext_ticket_key_evp_cb(context) {
      unsafe TicketKeys.setUp($0, $1, $2, $3, $4, isEncrypting: $5 == 1)
    } == 1
  }

  private enum Answer {
    static let error: Int32 = -1
    static let noKey: Int32 = 0
    static let good: Int32 = 1
    /// The ticket is good, and the client gets another.
    static let renew: Int32 = 2
  }

  /// Sets up what a ticket is encrypted or decrypted with; see SSL_CTX_set_tlsext_ticket_key_evp_cb(3).
  /// - Parameters:
  ///   - name: of the key, 16 bytes: to be written, or as the ticket says it.
  ///   - vector: the cipher's initial vector, likewise.
  @unsafe private static func setUp(
    _ connection: OpaquePointer?, _ name: UnsafeMutablePointer<UInt8>?,
    _ vector: UnsafeMutablePointer<UInt8>?, _ cipher: OpaquePointer?, _ mac: OpaquePointer?,
    isEncrypting: Bool
  ) -> Int32 {
    guard let connection = unsafe connection, let name = unsafe name, let vector = unsafe vector,
      let context = unsafe SSL_get_SSL_CTX(connection),
      let held = unsafe SSL_CTX_get_ex_data(context, index)
    else { return Answer.error }
    let keys = unsafe Unmanaged<TicketKeys>.fromOpaque(held).takeUnretainedValue()
    let (current, previous) = keys.state.withLock { ($0.current, $0.previous) }
    // All of OpenSSL's answer 1, or less without memory or randomness.
    if isEncrypting {
      guard unsafe RAND_bytes(vector, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) == 1,
        unsafe EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), nil, current.cipher, vector) == 1,
        unsafe hf_mac_set_sha256_key(mac, current.mac, current.mac.count) == 1
      else { return Answer.error }
      unsafe memcpy(name, current.name, Key.nameBytes)
      return Answer.good
    }
    let key: Key
    if unsafe current.isNamed(name) {
      key = current
    } else if let previous, unsafe previous.isNamed(name) {
      key = previous
    } else {
      return Answer.noKey
    }
    guard unsafe hf_mac_set_sha256_key(mac, key.mac, key.mac.count) == 1,
      unsafe EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), nil, key.cipher, vector) == 1
    else { return Answer.error }
    // RFC 8446 appendix C.4: a client of TLS 1.3 uses a ticket once, and wants another.
    let isOld = key.name != current.name
    return unsafe isOld || SSL_version(connection) == TLS1_3_VERSION ? Answer.renew : Answer.good
  }
}
