internal import Posix

/// What a client's first bytes say about it.
enum Preface {
  case http2
  case http1
  /// A TLS handshake.
  case tls
  case unknown

  /// RFC 9113 section 3.4.
  private static let clientPreface: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

  /// For somebody who points a browser or curl at the port.
  static let http1Answer: StaticString =
    "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain\r\nContent-Length: 61\r\nConnection: close\r\n\r\nThis port speaks gRPC over HTTP/2; the metrics have their own"

  /// A prefix of the preface counts as HTTP/2: HTTP2 checks the rest of it.
  static func examine(_ bytes: UnsafeRawBufferPointer) -> Preface {
    let count = min(bytes.count, clientPreface.utf8CodeUnitCount)
    var matches = true
    for index in 0..<count where unsafe bytes[index] != clientPreface.utf8Start[index] {
      matches = false
    }
    if matches { return .http2 }
    // A method name: capital letters up to a space.
    for index in 0..<min(bytes.count, 16) {
      let byte = unsafe bytes[index]
      if byte == 0x20 && index > 2 { return .http1 }
      if byte < 0x41 || byte > 0x5a { break }
    }
    return unsafe FirstBytes(bytes) == .tls ? .tls : .unknown
  }
}
