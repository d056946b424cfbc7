internal import FlyingFox
internal import Foundation

/// Turns bytes into a request and a response into bytes.
enum HTTPExchange {
  /// What the bytes so far amount to.
  enum Received {
    /// The head has not ended yet.
    case incomplete
    /// A request, without header fields and body: no page asks for either.
    case request(HTTPRequest)
    /// Not a request that can be served, and why.
    case refused(HTTPStatusCode)
  }

  /// Reads a request head, of at most `bytesMax` bytes, from the start of `bytes`.
  static func parse(_ bytes: [UInt8], bytesMax: Int) -> Received {
    guard let end = headEnd(bytes.prefix(bytesMax)) else {
      return bytes.count < bytesMax ? .incomplete : .refused(.requestHeaderFieldsTooLarge)
    }
    let line = bytes[..<end].prefix { $0 != newline && $0 != carriageReturn }
    let parts = line.split(separator: space, omittingEmptySubsequences: false)
    guard parts.count == 3, isToken(parts[0]), let target = path(parts[1]) else {
      return .refused(.badRequest)
    }

    let method = HTTPMethod(rawValue: String(decoding: parts[0], as: UTF8.self))
    let version = String(decoding: parts[2], as: UTF8.self)
    guard version == "HTTP/1.1" || version == "HTTP/1.0" else {
      return .refused(version.hasPrefix("HTTP/") ? .httpVersionNotSupported : .badRequest)
    }
    // The query is dropped: no page has one.
    let path = String(decoding: target.prefix { $0 != questionMark }, as: UTF8.self)
    return .request(
      HTTPRequest(
        method: method, version: .http11, target: .init(path: path, query: ""), headers: [:],
        body: HTTPBodySequence()))
  }

  /// The bytes of a response that is the connection's last one.
  static func encode(_ response: HTTPResponse, withBody: Bool) async throws -> Data {
    let body = try await response.bodyData
    var fields = response.headers.map { ($0.key.rawValue, $0.value) }
    fields.append(("Content-Length", "\(body.count)"))
    fields.append(("Connection", "close"))
    fields.sort { $0.0 < $1.0 }

    var head = "HTTP/1.1 \(response.statusCode.code) \(response.statusCode.phrase)\r\n"
    for (name, value) in fields {
      head += "\(name): \(value)\r\n"
    }
    head += "\r\n"
    return Data(head.utf8) + (withBody ? body : Data())
  }

  /// The index after the empty line that ends a head; lines end in CR LF or, from sloppy clients, LF.
  private static func headEnd(_ bytes: ArraySlice<UInt8>) -> Int? {
    var lineIsEmpty = false
    for (index, byte) in bytes.enumerated() {
      if byte == newline {
        if lineIsEmpty { return index + 1 }
        lineIsEmpty = true
      } else if byte != carriageReturn {
        lineIsEmpty = false
      }
    }
    return nil
  }

  private static func isToken(_ bytes: ArraySlice<UInt8>) -> Bool {
    !bytes.isEmpty && bytes.allSatisfy { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) }
  }

  /// The path and query of a request target (RFC 9112 section 3.2), which may be a whole URL: to us every
  /// host is this one. nil where it is neither.
  private static func path(_ target: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
    guard target.first != UInt8(ascii: "/") else { return isPath(target) ? target : nil }
    for scheme in ["http://", "https://"] {
      let start = target.prefix(scheme.utf8.count)
      // Letters of either case mean the same in a scheme.
      guard String(decoding: start, as: UTF8.self).lowercased() == scheme else { continue }
      let rest = target[start.endIndex...]
      let host = rest.prefix { $0 != UInt8(ascii: "/") && $0 != questionMark }
      guard !host.isEmpty, isVisible(host) else { return nil }
      let path = rest[host.endIndex...]
      if path.first == UInt8(ascii: "/") { return isPath(path) ? path : nil }
      return isVisible(path) ? [UInt8(ascii: "/")] + path : nil
    }
    return nil
  }

  private static func isVisible(_ bytes: ArraySlice<UInt8>) -> Bool {
    bytes.allSatisfy { (0x21...0x7e).contains($0) }
  }

  private static func isPath(_ bytes: ArraySlice<UInt8>) -> Bool {
    bytes.first == UInt8(ascii: "/") && isVisible(bytes)
  }

  private static let newline = UInt8(ascii: "\n")
  private static let carriageReturn = UInt8(ascii: "\r")
  private static let space = UInt8(ascii: " ")
  private static let questionMark = UInt8(ascii: "?")
}
