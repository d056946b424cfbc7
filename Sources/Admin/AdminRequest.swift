// Request heads of HTTP/1.1 (RFC 9112), read strictly: what two readers could take for two different
// requests is none at all.

/// A request, as the pages see it.
package struct AdminRequest: Equatable, Sendable {
  package var method: String
  /// As it was sent, without the query: percent signs are not decoded.
  package var path: String
  /// What follows the question mark; empty without one.
  package var query = ""
  /// The value of Authorization: never to be logged.
  package var authorization: String?
  /// The values of Accept, with commas; nil without one.
  package var accept: String?
  /// The value of Host: whoever asks chooses it.
  package var host: String?
  /// The value of Cookie: never to be logged.
  var cookie: String?
  /// The values of Origin and Sec-Fetch-Site, by which a browser says whose page has sent the request.
  var origin: String?
  var fetchSite: String?
  /// Of the body that was announced; 0 for none, nil where its end is not known before it comes.
  var bodyLength: Int? = 0
  /// Read for the paths of `AdminPages.formBytesMax` alone.
  var body: [UInt8] = []
  /// The connection ends after the response: the client asked for that, speaks HTTP/1.0, or sent
  /// something whose end is not looked for, such as a body.
  var closesConnection = false
  /// False for HTTP/1.0, which knows no chunks.
  var isHTTP11 = true

  var isHead: Bool { method == "HEAD" }
}

/// Reads one request head.
struct RequestParser {
  private var request = AdminRequest(method: "", path: "")
  private var hosts = 0
  private var contentLengths = 0
  private var transferCodings = 0

  /// The request in a whole head, which ends with its empty line.
  /// - Throws: The status that tells the client why there is none.
  static func parse(_ head: ArraySlice<UInt8>) throws(Status) -> AdminRequest {
    var parser = RequestParser()
    var isFirst = true
    var rest = head
    while let end = rest.firstIndex(of: newline) {
      var line = rest[rest.startIndex..<end]
      rest = rest[(end + 1)...]
      if line.last == carriageReturn {
        line.removeLast()
      } else {
        // Lines that end in LF alone may be recognized (RFC 9112 section 2.2). A proxy may not have
        // done so, and then what follows is of somebody else.
        parser.request.closesConnection = true
      }
      if isFirst {
        try parser.readRequestLine(line)
        isFirst = false
      } else if !line.isEmpty {
        try parser.readField(line)
      }
    }
    try parser.checkFields()
    return parser.request
  }

  /// The length of the head at the start of `bytes`, nil where its empty line has not come yet.
  /// - Parameter searched: How many bytes an earlier call has looked at.
  static func headLength(_ bytes: [UInt8], searched: Int) -> Int? {
    // Three bytes of the end may have been there: LF CR LF.
    var index = max(0, searched - 2)
    while index < bytes.count {
      defer { index += 1 }
      guard bytes[index] == newline else { continue }
      if index == 0 || index == 1 && bytes[0] == carriageReturn { return index + 1 }
      if bytes[index - 1] == newline { return index + 1 }
      if index > 1, bytes[index - 1] == carriageReturn, bytes[index - 2] == newline {
        return index + 1
      }
    }
    return nil
  }

  // MARK: The request line

  private mutating func readRequestLine(_ line: ArraySlice<UInt8>) throws(Status) {
    let parts = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
    guard parts.count == 3, !parts[0].isEmpty,
      parts[0].allSatisfy({ (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) }),
      let target = Self.path(parts[1]), parts[2].allSatisfy(Self.isVisible)
    else { throw .badRequest }
    switch Self.text(parts[2]) {
    case "HTTP/1.1": break
    case "HTTP/1.0":
      request.isHTTP11 = false
      request.closesConnection = true
    case let version where version.hasPrefix("HTTP/"): throw .versionNotSupported
    default: throw .badRequest
    }
    let path = target.prefix { $0 != UInt8(ascii: "?") }
    request.method = Self.text(parts[0])
    request.path = Self.text(path)
    request.query = Self.text(target[path.endIndex...].dropFirst())
  }

  /// The path and query of a request target (RFC 9112 section 3.2), which may be a whole URL: to us every
  /// host is this one. nil where it is neither.
  private static func path(_ target: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
    guard target.allSatisfy(isVisible) else { return nil }
    if target.first == UInt8(ascii: "/") { return target }
    for scheme in ["http://", "https://"] {
      let start = target.prefix(scheme.utf8.count)
      // Letters of either case mean the same in a scheme.
      guard text(start).lowercased() == scheme else { continue }
      let rest = target[start.endIndex...]
      let host = rest.prefix { $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "?") }
      guard !host.isEmpty else { return nil }
      let path = rest[host.endIndex...]
      return path.first == UInt8(ascii: "/") ? path : [UInt8(ascii: "/")] + path
    }
    return nil
  }

  private static func isVisible(_ byte: UInt8) -> Bool { (0x21...0x7e).contains(byte) }

  // MARK: Fields

  private mutating func readField(_ line: ArraySlice<UInt8>) throws(Status) {
    // A token, right before the colon: a line that begins with a blank continues the one before it
    // (obs-fold), and a blank before the colon has hidden fields from proxies (RFC 9112 section 5).
    guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { throw .badRequest }
    let name = line[..<colon]
    guard !name.isEmpty, name.allSatisfy(Self.isTokenByte) else { throw .badRequest }
    // RFC 9110 section 5.5: no control characters, so no NUL and no CR; bytes above 0x7f are allowed.
    let value = line[(colon + 1)...]
    guard value.allSatisfy({ $0 >= 0x20 && $0 != 0x7f || $0 == 9 }) else { throw .badRequest }
    try note(Self.text(name).lowercased(), Self.trimmed(value))
  }

  private mutating func note(_ name: String, _ value: ArraySlice<UInt8>) throws(Status) {
    switch name {
    case "host":
      hosts += 1
      request.host = Self.text(value)
    case "cookie":
      // Several fields are one (RFC 9113 section 8.2.3), of proxies from HTTP/2 too.
      request.cookie = (request.cookie.map { $0 + "; " } ?? "") + Self.text(value)
    case "origin": request.origin = request.origin == nil ? Self.text(value) : "several"
    case "sec-fetch-site": request.fetchSite = Self.text(value)
    case "connection":
      let options = Self.text(value).lowercased().split(separator: ",")
      if options.contains(where: { $0.trimmingBlanks == "close" }) {
        request.closesConnection = true
      }
    case "content-length":
      contentLengths += 1
      // 18 digits are far below 2^63; what is longer is no length of anything.
      guard (1...18).contains(value.count),
        value.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
      else { throw .badRequest }
      // Nearly no page takes a body: it is not read, so that nothing can be read behind it either.
      if value.contains(where: { $0 != UInt8(ascii: "0") }) { request.closesConnection = true }
      request.bodyLength = Int(Self.text(value))
    case "transfer-encoding":
      transferCodings += 1
      guard Self.text(value).lowercased() == "chunked" else { throw .badRequest }
      request.closesConnection = true
      request.bodyLength = nil
    case "accept":
      request.accept = (request.accept.map { $0 + "," } ?? "") + Self.text(value)
    case "authorization":
      guard request.authorization == nil else { throw .badRequest }
      request.authorization = Self.text(value)
    default: break
    }
  }

  /// What RFC 9112 sections 3.2 and 6.3 ask of the fields together.
  private func checkFields() throws(Status) {
    let needsHost = request.isHTTP11
    guard hosts <= 1, hosts == 1 || !needsHost else { throw .badRequest }
    guard contentLengths + transferCodings <= 1 else { throw .badRequest }
    guard transferCodings == 0 || request.isHTTP11 else { throw .badRequest }
  }

  /// tchar of RFC 9110 section 5.6.2.
  private static func isTokenByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "a")...UInt8(ascii: "z"):
      true
    default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
    }
  }

  private static func trimmed(_ value: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    var value = value
    while let byte = value.first, byte == UInt8(ascii: " ") || byte == 9 { value.removeFirst() }
    while let byte = value.last, byte == UInt8(ascii: " ") || byte == 9 { value.removeLast() }
    return value
  }

  private static func text(_ bytes: ArraySlice<UInt8>) -> String {
    String(decoding: bytes, as: UTF8.self)
  }

  private static let newline = UInt8(ascii: "\n")
  private static let carriageReturn = UInt8(ascii: "\r")
}

extension Substring {
  fileprivate var trimmingBlanks: Substring {
    var text = self
    while text.first == " " || text.first == "\t" { text.removeFirst() }
    while text.last == " " || text.last == "\t" { text.removeLast() }
    return text
  }
}
