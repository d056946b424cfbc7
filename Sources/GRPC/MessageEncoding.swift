/// How a message is compressed (gRPC over HTTP/2, Message-Encoding).
package enum MessageEncoding: UInt8, Sendable, BitwiseCopyable {
  case identity
  case gzip
  /// The zlib format (RFC 1950), as gRPC means it.
  case deflate

  /// Those that are taken, as grpc-accept-encoding lists them.
  package static let accepted: StaticString = "identity,deflate,gzip"

  /// The name on the wire.
  package var name: StaticString {
    switch self {
    case .identity: "identity"
    case .gzip: "gzip"
    case .deflate: "deflate"
    }
  }

  /// From grpc-encoding; identity where it is absent, nil where it is none of these.
  package init?(_ value: Span<UInt8>) {
    if value.isEmpty || value.equals("identity") {
      self = .identity
    } else if value.equals("gzip") {
      self = .gzip
    } else if value.equals("deflate") {
      self = .deflate
    } else {
      return nil
    }
  }

  /// From grpc-accept-encoding, a list: the one that responses are compressed with.
  package init(bestOf list: Span<UInt8>) {
    var best = MessageEncoding.identity
    var start = 0
    for end in 0...list.count
    where end == list.count || list[end] == UInt8(ascii: ",") {
      var first = start
      var last = end
      while first < last, list[first] == 0x20 { first += 1 }
      while last > first, list[last - 1] == 0x20 { last -= 1 }
      start = end + 1
      guard first < last else { continue }
      switch MessageEncoding(list.extracting(first..<last)) {
      case .gzip: best = .gzip
      case .deflate where best == .identity: best = .deflate
      default: break
      }
    }
    self = best
  }
}
