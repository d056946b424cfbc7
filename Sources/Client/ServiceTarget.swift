// Where a server listens, how it is spoken to, and who calls.
package import GRPC
package import Posix

/// A server that a command calls.
package struct ServiceTarget: CustomStringConvertible, Sendable {
  /// Where commands look for a server where nobody says it.
  package static let standard = "127.0.0.1:7420"

  package let host: String
  package let port: UInt16
  /// What the server's certificate has to be of.
  package var name: String
  /// nil: without TLS.
  package var tls: TLSClientContext?
  /// The address was given as https://.
  package let asksForTLS: Bool
  package var metadata: [ClientMetadata] = []
  /// Read anew at every connection; nil: nobody says who calls.
  package var token: TokenSource?

  /// `127.0.0.1:7420`, `[::1]:7420`, `host:7420`, `https://host:7420`, or `unix:/path`.
  package init?(_ text: String) {
    var address = Substring(text)
    let isSecure = address.hasPrefix("https://")
    for scheme in ["https://", "http://"] where address.hasPrefix(scheme) {
      address = address.dropFirst(scheme.count)
      if address.hasSuffix("/") { address = address.dropLast() }
    }
    asksForTLS = isSecure
    if let path = UnixSocket.path(ofHost: String(address)) {
      if path.isEmpty { return nil }
      (host, port, name) = (String(address), 0, "localhost")
      return
    }
    guard let place = HostPort(address) else { return nil }
    (host, port, name) = (place.host, place.port, place.host)
  }

  package var description: String {
    if port == 0 { return host }
    return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }

  /// The :authority of calls.
  var authority: String {
    if port == 0 { return name }
    return name.contains(":") ? "[\(name)]:\(port)" : "\(name):\(port)"
  }

  /// The metadata says who calls.
  package var hasTokenInMetadata: Bool { metadata.contains { $0.name == "authorization" } }

  /// Whether others could read what goes there.
  package var isInTheClear: Bool { tls == nil && !HostName.isLoopback(host) }
}

/// Where a bearer token comes from.
package enum TokenSource: Sendable, Equatable {
  case text(String)
  /// Read at every connection, so that a token can be renewed while a command runs.
  case file(String)

  /// Longer ones no server takes.
  private static let byteCountMax = 8192

  /// - Throws: why there is no token; never a word of it.
  package func read() throws(ServiceClientError) -> String {
    switch self {
    case .text(let text): return try Self.check(text, "the token")
    case .file(let path):
      let contents: FileContents
      do throws(Errno) {
        contents = try FileContents(path: path, byteCountMax: Self.byteCountMax + 2)
        guard contents.status.isRegular else { throw .notRegular }
      } catch {
        throw ServiceClientError(.credentials, "the token file \(path): \(error)")
      }
      let line = contents.bytes.prefix { $0 != 0x0a && $0 != 0x0d }
      return try Self.check(String(decoding: line, as: UTF8.self), "the token in \(path)")
    }
  }

  private static func check(_ text: String, _ what: String) throws(ServiceClientError) -> String {
    guard !text.isEmpty else { throw ServiceClientError(.credentials, "\(what) is empty") }
    guard text.utf8.count <= byteCountMax else {
      throw ServiceClientError(.credentials, "\(what) is longer than \(byteCountMax) bytes")
    }
    if text.hasPrefix("token sha256:") {
      throw ServiceClientError(
        .credentials, "\(what) is a line of a server's token file: it has the hash, not the token")
    }
    guard text.utf8.allSatisfy({ 0x21...0x7e ~= $0 }) else {
      throw ServiceClientError(
        .credentials, "\(what) has a space or what is no printable ASCII: no server takes it")
    }
    return text
  }
}
