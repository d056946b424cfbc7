// Where a server listens, and how it is spoken to.
package import GRPC
package import Posix

/// Where a server listens, and how it is spoken to.
package struct Endpoint: Sendable, CustomStringConvertible {
  /// An IP address, a name yet to be resolved, or unix: and the path of a socket.
  package let host: String
  package let port: UInt16
  /// What `host` was called before it was resolved: the name that a certificate has to have.
  package var name: String
  /// nil: without TLS.
  package var tls: TLSClientContext?
  /// Goes with every call.
  package var metadata: [ClientMetadata] = []
  /// Other servers of the same store, one of which decides where this one does not, in the order in which they
  /// are tried.
  package var others: [Endpoint] = []

  /// - Parameter text: an IP address, or a name to be resolved, and a port: 127.0.0.1:8080, [::1]:8080. Or
  ///   a unix socket, which has no port: unix:/path.
  package init?(_ text: String) {
    if let path = UnixSocket.path(ofHost: text) {
      if path.isEmpty { return nil }
      self.init(host: text, port: 0)
      return
    }
    guard let place = HostPort(text) else { return nil }
    self.init(host: place.host, port: place.port)
  }

  package init(host: String, port: UInt16) {
    self.host = host
    self.port = port
    name = UnixSocket.path(ofHost: host) == nil ? host : "localhost"
  }

  /// From a flag: one address, or several of one store, with commas between them.
  package static func resolvingList(_ text: String) throws(LoadError) -> Endpoint {
    var endpoints: [Endpoint] = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      endpoints.append(try resolving(String(part)))
    }
    var first = endpoints.removeFirst()
    first.others = endpoints
    return first
  }

  /// It and the others; each alone.
  package var all: [Endpoint] {
    var first = self
    first.others = []
    return [first] + others
  }

  /// From a flag: with the address of a name. Of several, the first that takes a connection now.
  package static func resolving(_ text: String) throws(LoadError) -> Endpoint {
    guard let named = Endpoint(text) else {
      throw LoadError("not an address and a port, such as 127.0.0.1:7420, or unix:/path")
    }
    if UnixSocket.path(ofHost: named.host) != nil { return named }
    let addresses: [String]
    do { addresses = try HostName.addresses(named.host) } catch { throw LoadError("\(error)") }
    let endpoints = addresses.map { address in
      var endpoint = Endpoint(host: address, port: named.port)
      endpoint.name = named.host
      return endpoint
    }
    if endpoints.count == 1 { return endpoints[0] }
    return endpoints.first { $0.takesConnections() } ?? endpoints[0]
  }

  /// The same place, spoken to as `other` is.
  func spokenTo(as other: Endpoint) -> Endpoint {
    var endpoint = self
    endpoint.tls = other.tls
    endpoint.metadata = other.metadata
    if other.tls != nil { endpoint.name = other.name }
    return endpoint
  }

  /// The one that is tried after this one, with this one as the last of its others.
  /// - Parameter owner: where a refusal says that the owner is; of the others it is the first choice.
  func next(owner: String = "") -> Endpoint {
    let named = others.firstIndex { $0.isNamed(owner) }
    guard let index = named ?? others.indices.first else { return self }
    var next = others[index]
    var last = self
    last.others = []
    next.others = others
    next.others.remove(at: index)
    next.others.append(last)
    return next
  }

  private func isNamed(_ text: String) -> Bool {
    guard let place = Endpoint(text), place.port == port else { return text == description }
    return place.host == host || place.host == name
  }

  /// A connection on `socket`, whose number it owns from here on.
  func transport(on socket: consuming FileDescriptor) throws(LoadError) -> Transport {
    guard let tls else { return Transport(plain: socket.take()) }
    guard let transport = tls.connect(socket.number, serverName: name) else {
      throw LoadError("\(self): '\(name)' cannot be the name of a server (--server-name)")
    }
    _ = socket.take()
    return transport
  }

  /// Why `failure` ended a connection to it, in words of somebody who sets a server up.
  static func reason(_ failure: TransportFailure, inHandshake: Bool) -> String {
    switch failure {
    case .notTLS: "the server does not speak TLS"
    case .endedInHandshake: "the server ended the TLS handshake; does it speak TLS?"
    case .tls(let error) where error.isWithoutCommonProtocol:
      "the server speaks TLS, but not HTTP/2 over it"
    case .tls(let error) where error.isCertificateProblem || error.isOurCertificateRejected:
      "\(error)"
    case .tls(let error) where inHandshake: "TLS: \(error) (does the server speak TLS?)"
    case .tls(let error): "TLS: \(error)"
    case .truncated: "closed by the server"
    case .socket, .handshakeTooLarge: "\(failure)"
    }
  }

  package var description: String {
    if UnixSocket.path(ofHost: host) != nil { return host }
    return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }

  /// What requests call it.
  var authority: String {
    guard tls != nil else { return description }
    return name.contains(":") ? "[\(name)]:\(port)" : "\(name):\(port)"
  }
}

extension Endpoint: Equatable {
  /// The same place.
  package static func == (one: Endpoint, other: Endpoint) -> Bool {
    one.host == other.host && one.port == other.port
  }
}
