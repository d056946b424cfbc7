// What OpenSSL says when something is wrong, as a value without references.
internal import COpenSSL
internal import Glibc

/// An error of the TLS library: what it says of a handshake, a record or a file.
package struct TLSError: Error, Equatable, Sendable, BitwiseCopyable, CustomStringConvertible {
  /// ERR_get_error(3); 0 where the library gave no reason.
  let code: UInt
  /// SSL_get_verify_result(3): X509_V_OK, or what is wrong with the peer's certificate.
  let verification: Int

  /// Takes the first error that the library holds for this thread, and forgets the rest: later ones only
  /// say who passed it on. The library may hold none.
  static func take(verification: Int = 0) -> TLSError {
    // ERR_get_error: 0 where there is none.
    let code = ERR_get_error()
    ERR_clear_error()
    return TLSError(code: code, verification: verification)
  }

  /// Forgets errors that are of no interest.
  @inline(__always)
  static func forgetAll() {
    // The look costs less than the clearing, and there is hardly ever one.
    if ERR_peek_error() != 0 { ERR_clear_error() }
  }

  private func isReason(_ reason: Int32) -> Bool {
    hf_err_library(code) == ERR_LIB_SSL && hf_err_reason(code) == reason
  }

  /// A PEM file has nothing more.
  var isEndOfFile: Bool {
    hf_err_library(code) == ERR_LIB_PEM && hf_err_reason(code) == PEM_R_NO_START_LINE
  }

  /// A key does not belong to the certificate.
  var isKeyOfAnother: Bool {
    hf_err_library(code) == ERR_LIB_X509 && hf_err_reason(code) == X509_R_KEY_VALUES_MISMATCH
  }

  /// The peer's certificate does not hold, or there is none.
  package var isCertificateProblem: Bool {
    isReason(SSL_R_CERTIFICATE_VERIFY_FAILED)
      || isReason(SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
  }

  /// The two sides have no protocol in common that ALPN names.
  package var isWithoutCommonProtocol: Bool {
    isReason(SSL_R_NO_APPLICATION_PROTOCOL) || isReason(SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL)
  }

  /// The peer turned our certificate down, or wants one.
  package var isOurCertificateRejected: Bool {
    // A reason of 1000 and more is the peer's alert (RFC 8446, section 6).
    let alert = hf_err_library(code) == ERR_LIB_SSL ? hf_err_reason(code) - 1000 : 0
    // From bad_certificate to unknown_ca, and certificate_required.
    return (42...46).contains(alert) || alert == 48 || alert == 116
  }

  package var description: String {
    if isReason(SSL_R_CERTIFICATE_VERIFY_FAILED) {
      // X509_verify_cert_error_string: a constant text for every number.
      let text = unsafe String(cString: X509_verify_cert_error_string(verification))
      return "certificate: \(text)"
    }
    if isReason(SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
      return "certificate: the peer sent none"
    }
    if code == 0 { return "TLS failed without a reason" }
    if hf_err_is_system(code) != 0 { return Errno(code: hf_err_reason(code)).description }
    // ERR_reason_error_string: a constant text, or null.
    guard let text = unsafe ERR_reason_error_string(code) else { return "TLS error \(code)" }
    let reason = unsafe String(cString: text)
    return isOurCertificateRejected ? "the peer rejects our certificate: \(reason)" : reason
  }
}
