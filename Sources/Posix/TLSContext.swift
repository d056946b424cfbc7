// What all TLS connections of a server, or of a client, have in common: keys, certificates, rules.
internal import COpenSSL
internal import Glibc
internal import Synchronization

/// The library itself, which others of this process use as well (libpq, librdkafka).
package enum TLSLibrary {
  /// exit(3) leaves the library as it is. By itself it would free then what threads use that still run, or that end at the
  /// same moment: now and then a program that was asked to end would die of a double free instead. To be called before
  /// anybody uses the library.
  package static func keepUntilTheEnd() {
    // OPENSSL_init_crypto: 1, or 0 without memory; then whoever uses the library hears of it.
    _ = OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_ATEXIT), nil)
  }
}

/// A file that TLS needs cannot be used, or the library not be set up. One line.
package struct TLSFileError: Error, Equatable, CustomStringConvertible {
  package let description: String
  init(_ description: String) { self.description = description }
}

/// The PEM files of one side.
package struct TLSFiles: Equatable, Sendable {
  /// The certificate, and behind it those that lead to its CA.
  package var certificate: String
  /// The certificate's private key, without a passphrase.
  package var key: String
  /// Of a server: the CAs whose clients are let in; nil: clients need no certificate.
  package var clientAuthority: String?

  package init(certificate: String, key: String, clientAuthority: String? = nil) {
    self.certificate = certificate
    self.key = key
    self.clientAuthority = clientAuthority
  }
}

/// An SSL_CTX, owned. The library counts who uses it: connections outlive this.
@safe final class TLSContext: @unchecked Sendable {
  /// Set up before anybody else sees it, and unchanged afterwards.
  let handle: OpaquePointer

  /// A certificate chain of more bytes is turned down: see `TLSConnection.handshakeBytesMax`.
  private static let certificateBytesMax = 48 * 1024
  /// CAs between a peer's certificate and a trusted one.
  private static let depthMax: Int32 = 8
  /// Of TLS 1.2 only what HTTP/2 allows (RFC 9113, section 9.2.2); TLS 1.3 has no others.
  private static let ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"

  init(isServer: Bool) throws(TLSFileError) {
    // SSL_CTX_new: null without memory, or where the library's own configuration is broken.
    let method = unsafe isServer ? TLS_server_method() : TLS_client_method()
    guard let handle = unsafe SSL_CTX_new(method) else {
      throw TLSFileError("TLS cannot be set up: \(TLSError.take())")
    }
    unsafe self.handle = unsafe handle
    // Both answer 1, or 0 where the library was built without these.
    guard unsafe hf_ssl_ctx_set_versions(handle, TLS1_2_VERSION, TLS1_3_VERSION) == 1,
      unsafe SSL_CTX_set_cipher_list(handle, Self.ciphers) == 1
    else {
      throw TLSFileError("this OpenSSL has no TLS 1.2 and 1.3: \(TLSError.take())")
    }
    unsafe hf_ssl_ctx_set_common(handle)
    unsafe hf_ssl_ctx_limit_certificates(handle, Self.certificateBytesMax)
    unsafe SSL_CTX_set_verify_depth(handle, Self.depthMax)
    // Otherwise the library asks for a passphrase on the terminal. -1: there is none.
    unsafe SSL_CTX_set_default_passwd_cb(handle) { _, _, _, _ in -1 }
  }

  deinit { unsafe SSL_CTX_free(handle) }

  func useCertificate(_ files: TLSFiles) throws(TLSFileError) {
    // All three answer 1, or 0 with a reason.
    if unsafe SSL_CTX_use_certificate_chain_file(handle, files.certificate) != 1 {
      throw Self.problem(with: "certificate file", files.certificate)
    }
    if unsafe SSL_CTX_use_PrivateKey_file(handle, files.key, SSL_FILETYPE_PEM) != 1 {
      throw Self.problem(with: "key file", files.key)
    }
    if unsafe SSL_CTX_check_private_key(handle) != 1 {
      TLSError.forgetAll()
      throw Self.mismatch(files)
    }
  }

  private static func mismatch(_ files: TLSFiles) -> TLSFileError {
    TLSFileError("key file \(files.key): not the key of the certificate in \(files.certificate)")
  }

  /// Trusts the CAs in the PEM `bytes`. As a server, names them to clients.
  func trust(_ bytes: [UInt8], path: String, isServer: Bool) throws(TLSFileError) {
    // The array stays for as long as the BIO does.
    let count = unsafe bytes.withUnsafeBytes { bytes -> Int in
      // BIO_new_mem_buf: null without memory. It reads `bytes` in place.
      let bio = unsafe BIO_new_mem_buf(bytes.baseAddress, Int32(bytes.count))
      defer { unsafe BIO_free(bio) }
      let store = unsafe SSL_CTX_get_cert_store(handle)
      var count = 0
      // PEM_read_bio_X509: a certificate of ours, or null at the end and where it can't be read.
      while let certificate = unsafe PEM_read_bio_X509(bio, nil, nil, nil) {
        // Both answer 1, or 0 without memory.
        _ = unsafe X509_STORE_add_cert(store, certificate)
        if isServer { _ = unsafe SSL_CTX_add_client_CA(handle, certificate) }
        unsafe X509_free(certificate)
        count += 1
      }
      return count
    }
    let error = TLSError.take()
    if count == 0 { throw TLSFileError("CA file \(path): no certificate in it") }
    // At the end there is "no start line"; anything else is a broken certificate.
    if !error.isEndOfFile { throw TLSFileError("CA file \(path): \(error)") }
  }

  static func problem(with what: String, _ path: String) -> TLSFileError {
    let error = TLSError.take()
    if error.isEndOfFile { return TLSFileError("\(what) \(path): nothing of that kind in it") }
    if error.isKeyOfAnother {
      return TLSFileError("\(what) \(path): not the key of the certificate")
    }
    return TLSFileError("\(what) \(path): \(error)")
  }

  /// When our certificate ends, in seconds since the Unix epoch.
  var expiryUnixSeconds: Int64? {
    var time = unsafe tm()
    // SSL_CTX_get0_certificate: null without one. ASN1_TIME_to_tm: 1, or 0 where it is no time.
    guard let certificate = unsafe SSL_CTX_get0_certificate(handle),
      unsafe ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) == 1
    else {
      TLSError.forgetAll()
      return nil
    }
    return unsafe Int64(timegm(&time))
  }
}

/// Bytes of a small file.
func readTLSFile(_ what: String, _ path: String) throws(TLSFileError) -> [UInt8] {
  do throws(Errno) {
    let file = FileDescriptor(
      owning: try retrying { unsafe open(path, O_RDONLY | O_CLOEXEC) })
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 64 * 1024)
    while true {
      // The array is ours for the length of the call.
      let result = unsafe part.withUnsafeMutableBytes {
        unsafe FileDescriptor.read(file.number, into: $0)
      }
      switch result {
      case .moved(0): return bytes
      case .moved(let count): bytes.append(contentsOf: part[..<count])
      case .wouldBlock: throw Errno(code: EAGAIN)
      case .failed(let error): throw error
      }
      if bytes.count > tlsFileBytesMax { throw Errno(code: EFBIG) }
    }
  } catch {
    throw TLSFileError("\(what) \(path): \(error)")
  }
}

/// All public CAs come to a quarter of this.
private let tlsFileBytesMax = 1 << 20
