// What a connection begins with: so that a plaintext client on a TLS port, and the reverse, can be told
// what is wrong.

/// What the first bytes of a connection look like.
package enum FirstBytes: Equatable, Sendable, BitwiseCopyable, CustomStringConvertible {
  /// A TLS record of the handshake or an alert (RFC 8446, section 5.1).
  case tls
  /// HTTP/2's preface (RFC 9113, section 3.4).
  case http2
  /// A word in capitals, as a request of HTTP/1 begins; or its version, as an answer does.
  case http1
  case unknown

  /// - Parameter bytes: the first that came, however few.
  package init(_ bytes: UnsafeRawBufferPointer) {
    // The ranges are checked before each look.
    guard bytes.count > 0 else {
      self = .unknown
      return
    }
    let first = unsafe bytes[0]
    if (0x14...0x17).contains(first) {
      self = unsafe bytes.count == 1 || bytes[1] == 3 ? .tls : .unknown
      return
    }
    let preface: StaticString = "PRI * HTTP/2.0"
    let count = min(bytes.count, preface.utf8CodeUnitCount)
    var isPreface = true
    var isWord = true
    for index in 0..<count {
      let byte = unsafe bytes[index]
      if unsafe byte != preface.utf8Start[index] { isPreface = false }
      if index < 3, !(UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) { isWord = false }
    }
    // What a server without TLS says first is a SETTINGS frame: a length below 64 KiB, then its type.
    let isSettings = unsafe count >= 4 && first == 0 && bytes[3] == 4
    self = isPreface || isSettings ? .http2 : isWord ? .http1 : .unknown
  }

  package var description: String {
    switch self {
    case .tls: "TLS"
    case .http2: "HTTP/2 without TLS"
    case .http1: "HTTP/1 without TLS"
    case .unknown: "something unknown"
    }
  }

  /// What a TLS port says to these bytes before it ends the connection: in the peer's own words. HTTP/2:
  /// GOAWAY with INADEQUATE_SECURITY (RFC 9113, section 7) and a text for its log. No SETTINGS come before
  /// it: gRPC's core library would take the connection for one that works, and connect again and again
  /// until the deadline of the call. So the call fails at once. Empty where the peer's words are not known.
  package var answerOfTLSPort: StaticString {
    switch self {
    case .http2:
      // A frame's length, type, flags and stream; last stream 0, error 0x0c.
      "\0\0\u{1c}\u{07}\0\0\0\0\0\0\0\0\0\0\0\0\u{0c}this port speaks TLS"
    case .http1:
      """
      HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n\
      Connection: close\r\n\r\nthis port speaks TLS\n
      """
    case .tls, .unknown: ""
    }
  }

  /// What a port without TLS says to a TLS client before it ends the connection: the fatal alert
  /// handshake_failure (RFC 8446, section 6.2; the record's version is TLS 1.2's, as always).
  package static let answerOfPlainPort: StaticString = "\u{15}\u{03}\u{03}\0\u{02}\u{02}\u{28}"
}
