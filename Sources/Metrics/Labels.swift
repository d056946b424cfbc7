/// One RPC method as the `grpc_server_*` metrics label it.
package struct RPCMethod: Sendable, Hashable {
  /// How a method's messages flow; the raw value is the label `grpc_type`.
  package enum Kind: String, Sendable {
    case unary
    case clientStream = "client_stream"
    case serverStream = "server_stream"
    case bidirectionalStream = "bidi_stream"
  }

  /// The full service name, such as `holdfast.v1.StockService`.
  package var service: String
  /// The method name, such as `GetStock`.
  package var method: String
  /// How its messages flow.
  package var type: Kind

  /// A method with these labels.
  package init(service: String, method: String, type: Kind) {
    self.service = service
    self.method = method
    self.type = type
  }

  /// Stands for every method that the server does not have: a path is the client's text, and labels
  /// must not grow by it.
  static let unknown = RPCMethod(service: "unknown", method: "unknown", type: .unary)
}

/// The gRPC status codes by their numbers 0 to 16, spelled as the label `grpc_code` has them in
/// go-grpc-prometheus, so that existing dashboards work.
enum StatusCodeLabel {
  static let names = [
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange",
    "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated",
  ]

  static let count = names.count

  /// `Unknown`, where a number that is no status code is counted.
  static let unknownCode = 2
}

/// Why a connection was closed at once; the raw value is the label `reason` of
/// `holdfast_connections_refused_total`.
package enum ConnectionRefusal: String, Sendable, CaseIterable {
  /// The server has as many as it may have, and none of them is idle.
  case limit
  /// Its peer has as many as it may have.
  case perPeerLimit = "per_peer_limit"
  case shutdown

  var cell: Int {
    switch self {
    case .limit: 0
    case .perPeerLimit: 1
    case .shutdown: 2
    }
  }
}

/// What a peer did to have its connection closed; the raw value is the label `kind` of
/// `holdfast_connection_abuse_total`.
package enum ConnectionAbuse: String, Sendable, CaseIterable {
  case emptyFrames = "empty_frames"
  case frameTimeout = "frame_timeout"
  case handshakeTimeout = "handshake_timeout"
  case headerList = "header_list"
  case idleTimeout = "idle_timeout"
  case keepaliveTimeout = "keepalive_timeout"
  case lateFrames = "late_frames"
  case pingFlood = "ping_flood"
  case protocolError = "protocol_error"
  case resetFlood = "reset_flood"
  case settingsFlood = "settings_flood"
  case slowReader = "slow_reader"
  /// Bytes without TLS on a port with TLS, and the reverse.
  case plaintextOnTLS = "plaintext_on_tls"
  case tlsOnPlaintext = "tls_on_plaintext"
  /// A handshake that failed in another way, such as for a certificate that nobody trusts.
  case tlsHandshake = "tls_handshake"
  /// A connection that did not begin as the PROXY protocol does.
  case proxyHeader = "proxy_header"
  case other

  /// The cell that counts it: a switch, since a search through `allCases` would cost more than the
  /// counting.
  var cell: Int {
    switch self {
    case .emptyFrames: 0
    case .frameTimeout: 1
    case .handshakeTimeout: 2
    case .headerList: 3
    case .idleTimeout: 4
    case .keepaliveTimeout: 5
    case .lateFrames: 6
    case .pingFlood: 7
    case .protocolError: 8
    case .resetFlood: 9
    case .settingsFlood: 10
    case .slowReader: 11
    case .other: 16
    case .plaintextOnTLS: 12
    case .tlsOnPlaintext: 13
    case .tlsHandshake: 14
    case .proxyHeader: 15
    }
  }
}
