// The client's side of TLS: whom it trusts, and who it says that it is.
internal import COpenSSL
internal import Synchronization

/// Makes the TLS connections of a client. TLS 1.2 and 1.3, HTTP/2 by ALPN; later connections go on from the
/// session of an earlier one where the server allows that.
package final class TLSClientContext: Sendable {
  private let context: TLSContext
  private let checksServer: Bool
  /// The newest session, of all connections to one server.
  private let session = Mutex(Session())

  @safe private struct Session: @unchecked Sendable {
    /// An SSL_SESSION of ours, or nil.
    var handle: OpaquePointer?
  }

  /// - Parameters:
  ///   - authority: a PEM file of CAs; nil: those that the system trusts.
  ///   - files: the client's certificate and key, where the server wants them.
  ///   - offersHTTP2: offers h2 by ALPN, and nothing else.
  ///   - checksServer: false: whoever answers is spoken to, whatever the certificate. For a process that asks another one
  ///     of its own machine, and tells it no secret.
  package init(
    authority: String?, files: TLSFiles? = nil, offersHTTP2: Bool = true, checksServer: Bool = true
  ) throws(TLSFileError) {
    context = try TLSContext(isServer: false)
    self.checksServer = checksServer
    let handle = unsafe context.handle
    if let authority {
      try context.trust(
        try readTLSFile("CA file", authority), path: authority, isServer: false)
    } else if unsafe SSL_CTX_set_default_verify_paths(handle) != 1 {
      // 1, or 0 where the directories can't be had.
      throw TLSFileError("the system's CAs cannot be read: \(TLSError.take())")
    }
    if let files { try context.useCertificate(files) }
    unsafe SSL_CTX_set_verify(handle, checksServer ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nil)
    let offer: [UInt8] = [2] + Array("h2".utf8)
    // SSL_CTX_set_alpn_protos: 0, unlike all others, where it went well.
    if offersHTTP2, unsafe SSL_CTX_set_alpn_protos(handle, offer, UInt32(offer.count)) != 0 {
      throw TLSFileError("TLS cannot be set up: \(TLSError.take())")
    }
    let mode = SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL
    unsafe hf_ssl_ctx_set_session_cache(handle, Int(mode))
    unsafe SSL_CTX_sess_set_new_cb(handle) { ssl, session in
      // SSL_get_ex_data: what `connect` has put there. 1: the session is ours now; 0: it is not.
      guard let ssl = unsafe ssl, let session = unsafe session,
        let owner = unsafe SSL_get_ex_data(ssl, 0)
      else { return 0 }
      // The owner outlives its connections: see `connect`.
      unsafe Unmanaged<TLSClientContext>.fromOpaque(owner).takeUnretainedValue().keep(session)
      return 1
    }
  }

  deinit {
    session.withLock { if let handle = unsafe $0.handle { unsafe SSL_SESSION_free(handle) } }
  }

  @unsafe private func keep(_ handle: OpaquePointer) {
    // Passed through the lock as a number of its own type.
    let newest = unsafe Session(handle: handle)
    let before = session.withLock { current in
      let before = current
      current = newest
      return before
    }
    if let handle = unsafe before.handle { unsafe SSL_SESSION_free(handle) }
  }

  /// A connection on `descriptor`, owned from here on, with its handshake still to come. nil without memory,
  /// or where `serverName` can't be a name; then the descriptor is still the caller's. This context has to
  /// outlive it. Any thread.
  /// - Parameter serverName: the DNS name or IP address that the server's certificate must have. A name is
  ///   sent along (SNI; RFC 6066, section 3).
  package func connect(_ descriptor: Int32, serverName: String) -> Transport? {
    guard
      let connection = unsafe TLSConnection.make(
        context: context.handle, descriptor: descriptor, isServer: false)
    else { return nil }
    let ssl = unsafe connection.pointee.handle
    guard unsafe !checksServer || expect(serverName, of: ssl) else {
      unsafe TLSConnection.free(connection)
      return nil
    }
    unsafe SSL_set_ex_data(ssl, 0, Unmanaged.passUnretained(self).toOpaque())
    session.withLock { session in
      // SSL_set_session: 1, or 0 where it does not fit this context; then the handshake is a full one.
      if let handle = unsafe session.handle { _ = unsafe SSL_set_session(ssl, handle) }
    }
    TLSError.forgetAll()
    return unsafe Transport(tls: connection, descriptor: descriptor)
  }

  /// - Safety: `ssl` must be an SSL.
  @unsafe private func expect(_ name: String, of ssl: OpaquePointer) -> Bool {
    if name.isEmpty || name.utf8.contains(0) { return false }
    // X509_VERIFY_PARAM_set1_ip_asc: 1 where the text is an IP address.
    if unsafe X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1 { return true }
    TLSError.forgetAll()
    // Both answer 1, or 0 without memory or for a name of more than 255 bytes.
    return unsafe SSL_set1_host(ssl, name) == 1 && hf_ssl_set_server_name(ssl, name) == 1
  }
}
