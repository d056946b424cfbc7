// The server's side of TLS: a certificate that can be renewed while connections go on.
internal import COpenSSL
internal import CPlatform
internal import Glibc
internal import Synchronization

/// What a server's port speaks over TLS, as ALPN names it (RFC 7301, section 6).
package enum ApplicationProtocol: Sendable {
  /// `h2`.
  case http2
  /// `http/1.1`.
  case http1
}

/// Makes the TLS connections of a server. TLS 1.2 and 1.3, its protocol by ALPN, resumption by tickets.
///
/// A client that offers protocols without the server's is turned down (no_application_protocol; RFC 7301, section
/// 3.2). One that offers none is taken: RFC 9113, section 3.3 lets clients with prior knowledge do so, and
/// some gRPC clients do.
package final class TLSServerContext: Sendable {
  package let files: TLSFiles
  private let applicationProtocol: ApplicationProtocol
  private let current: Mutex<Current>

  private struct Current {
    var context: TLSContext
    var ticketKeys: TicketKeys
    /// The bytes of the client CAs' file.
    var authority: [UInt8]?
  }

  /// How long a client may go on from an earlier session, in seconds: for so long its certificate is not
  /// looked at again.
  private static let sessionSeconds = 3600
  /// How long a key makes tickets. For as long again it reads them: then the last of them has ended.
  package static let ticketKeyNanoseconds = Int64(sessionSeconds) * 1_000_000_000
  /// Tickets after a handshake of TLS 1.3. Each costs an encryption, and few clients take more.
  private static let ticketsMax = 1
  /// Sessions are resumed where they were made: by servers of this name.
  private static let sessionContext: [UInt8] = Array("holdfast".utf8)

  /// Reads the files.
  /// - Parameter nowNanoseconds: monotonic; the first ticket key's age begins here.
  package init(
    _ files: TLSFiles, speaking applicationProtocol: ApplicationProtocol = .http2,
    nowNanoseconds: Int64 = SystemClock.monotonicNanoseconds()
  ) throws(TLSFileError) {
    self.files = files
    self.applicationProtocol = applicationProtocol
    let authority = try Self.readAuthority(files)
    let keys = try TicketKeys(nowNanoseconds: nowNanoseconds)
    let context = try Self.load(files, applicationProtocol, authority, ticketKeys: keys)
    current = Mutex(Current(context: context, ticketKeys: keys, authority: authority))
  }

  /// Reads the files again. Connections that are there keep what they began with; new ones begin with what
  /// the files say now, and clients may resume their sessions, unless other client CAs are trusted now: then
  /// every client has to show its certificate again. Where the files can't be used, what was in force
  /// stays. Any thread.
  package func reload(
    nowNanoseconds: Int64 = SystemClock.monotonicNanoseconds()
  ) throws(TLSFileError) {
    let authority = try Self.readAuthority(files)
    let before = current.withLock { (authority: $0.authority, keys: $0.ticketKeys) }
    let keys =
      authority == before.authority
      ? before.keys : try TicketKeys(nowNanoseconds: nowNanoseconds)
    let context = try Self.load(files, applicationProtocol, authority, ticketKeys: keys)
    current.withLock { $0 = Current(context: context, ticketKeys: keys, authority: authority) }
  }

  /// Makes a new ticket key where it is time. Clients may go on from the sessions that they have. To be called
  /// now and then; any thread.
  package func rotateTicketKeys(nowNanoseconds: Int64 = SystemClock.monotonicNanoseconds()) {
    let keys = current.withLock { $0.ticketKeys }
    keys.rotate(after: Self.ticketKeyNanoseconds, nowNanoseconds: nowNanoseconds)
  }

  /// A connection on `descriptor`, owned from here on, with its handshake still to come. nil without memory;
  /// then the descriptor is still the caller's. Any thread.
  package func accept(_ descriptor: Int32) -> Transport? {
    let context = current.withLock { $0.context }
    // The connection keeps the SSL_CTX alive by itself.
    guard
      let connection = unsafe TLSConnection.make(
        context: context.handle, descriptor: descriptor, isServer: true)
    else { return nil }
    return unsafe Transport(tls: connection, descriptor: descriptor)
  }

  /// When the certificate in force ends, in seconds since the Unix epoch.
  package var expiryUnixSeconds: Int64? { current.withLock { $0.context.expiryUnixSeconds } }

  private static func readAuthority(_ files: TLSFiles) throws(TLSFileError) -> [UInt8]? {
    guard let path = files.clientAuthority else { return nil }
    return try readTLSFile("CA file", path)
  }

  private static func load(
    _ files: TLSFiles, _ applicationProtocol: ApplicationProtocol, _ authority: [UInt8]?,
    ticketKeys: TicketKeys
  ) throws(TLSFileError) -> TLSContext {
    let context = try TLSContext(isServer: true)
    let handle = unsafe context.handle
    try context.useCertificate(files)
    if let authority, let path = files.clientAuthority {
      try context.trust(authority, path: path, isServer: true)
      unsafe SSL_CTX_set_verify(
        handle, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
    }
    unsafe hf_ssl_ctx_prefer_server_ciphers(handle)
    // Tickets alone: a table of sessions would be memory that clients fill.
    unsafe hf_ssl_ctx_set_session_cache(handle, Int(SSL_SESS_CACHE_OFF))
    unsafe SSL_CTX_set_timeout(handle, sessionSeconds)
    // Both answer 1, or 0 for what is too large.
    guard unsafe ticketKeys.serve(handle),
      unsafe SSL_CTX_set_session_id_context(
        handle, sessionContext, UInt32(sessionContext.count)) == 1,
      unsafe SSL_CTX_set_num_tickets(handle, ticketsMax) == 1
    else { throw TLSFileError("TLS cannot be set up: \(TLSError.take())") }
    // The callbacks capture nothing, as C has it.
    switch applicationProtocol {
    case .http2:
      unsafe SSL_CTX_set_alpn_select_cb(
        handle,
        { _, out, outCount, offered, count, _ in
          unsafe TLSServerContext.choose("h2", out, outCount, offered, count)
        }, nil)
    case .http1:
      unsafe SSL_CTX_set_alpn_select_cb(
        handle,
        { _, out, outCount, offered, count, _ in
          unsafe TLSServerContext.choose("http/1.1", out, outCount, offered, count)
        }, nil)
    }
    return context
  }

  /// The answer to ALPN. `offered`: names, each behind a byte with its length (RFC 7301, section 3.1);
  /// OpenSSL has checked that they are so.
  @unsafe private static func choose(
    _ name: StaticString, _ out: UnsafeMutablePointer<UnsafePointer<UInt8>?>?,
    _ outCount: UnsafeMutablePointer<UInt8>?,
    _ offered: UnsafePointer<UInt8>?, _ count: UInt32
  ) -> Int32 {
    guard let offered = unsafe offered else { return SSL_TLSEXT_ERR_ALERT_FATAL }
    var start = 0
    while start < Int(count) {
      let length = Int(unsafe offered[start])
      let end = start + 1 + length
      if end > Int(count) { break }
      let matches =
        unsafe length == name.utf8CodeUnitCount
        && memcmp(offered + start + 1, name.utf8Start, length) == 0
      if matches {
        // The choice may point into the offer.
        unsafe out?.pointee = unsafe offered + start + 1
        unsafe outCount?.pointee = UInt8(length)
        return SSL_TLSEXT_ERR_OK
      }
      start = end
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL
  }
}

/// Says when files have changed: by inode, size and time of the last change. Asked by whoever has a tick;
/// about once a second is enough.
package struct TLSFilesWatch: Sendable {
  private struct Stamp: Equatable, Sendable {
    let device: UInt64
    let inode: UInt64
    let byteCount: Int64
    let changedSeconds: Int64
    let changedNanoseconds: Int64

    /// nil where there is no such file, or it can't be looked at.
    init?(_ path: String) {
      var status = stat()
      guard unsafe stat(path, &status) == 0 else { return nil }
      device = UInt64(status.st_dev)
      inode = UInt64(status.st_ino)
      byteCount = Int64(status.st_size)
      changedSeconds = Int64(status.st_mtim.tv_sec)
      changedNanoseconds = Int64(status.st_mtim.tv_nsec)
    }
  }

  private let paths: [String]
  private var stamps: [Stamp?]

  /// - Parameter paths: to be watched from now on. Begin before the files are read for the first time:
  ///   what changes in between is noticed then.
  package init(_ paths: [String]) {
    self.paths = paths
    stamps = paths.map { Stamp($0) }
  }

  /// The files of `files`.
  package init(_ files: TLSFiles) {
    self.init([files.certificate, files.key] + (files.clientAuthority.map { [$0] } ?? []))
  }

  /// Whether a file has changed since the last call. A change of several files may be seen in parts: a
  /// reload that fails in between is made good by the next.
  package mutating func hasChanged() -> Bool {
    let now = paths.map { Stamp($0) }
    defer { stamps = now }
    return now != stamps
  }
}
