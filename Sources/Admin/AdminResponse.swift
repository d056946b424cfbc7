// What the pages answer, and its bytes.

/// A status code of RFC 9110 section 15 that the admin port answers with.
package enum Status: Int, Error, Sendable {
  case ok = 200
  case seeOther = 303
  case badRequest = 400
  case unauthorized = 401
  case forbidden = 403
  case notFound = 404
  case methodNotAllowed = 405
  case requestTimeout = 408
  case misdirectedRequest = 421
  case headerFieldsTooLarge = 431
  case serviceUnavailable = 503
  case versionNotSupported = 505

  var phrase: String {
    switch self {
    case .ok: "OK"
    case .seeOther: "See Other"
    case .badRequest: "Bad Request"
    case .unauthorized: "Unauthorized"
    case .forbidden: "Forbidden"
    case .notFound: "Not Found"
    case .methodNotAllowed: "Method Not Allowed"
    case .requestTimeout: "Request Timeout"
    case .misdirectedRequest: "Misdirected Request"
    case .headerFieldsTooLarge: "Request Header Fields Too Large"
    case .serviceUnavailable: "Service Unavailable"
    case .versionNotSupported: "HTTP Version Not Supported"
    }
  }
}

/// A response to one request.
package struct AdminResponse: Sendable {
  package enum Body: Sendable {
    case bytes([UInt8])
    /// Goes on until the stream, the client or the server ends it.
    case stream(any ResponseStream)
  }

  package var status: Status
  package var contentType: String
  /// Beside those that every response has.
  package var fields: [(name: String, value: String)] = []
  package var body: Body
  /// What a browser may do with the page (Content-Security-Policy).
  var policy = "default-src 'none'; style-src 'unsafe-inline'"

  package init(_ status: Status, _ body: Body, contentType: String) {
    self.status = status
    self.contentType = contentType
    self.body = body
  }

  /// A line of plain text.
  static func text(_ status: Status, _ line: String) -> AdminResponse {
    AdminResponse(
      status, .bytes(Array("\(line)\n".utf8)), contentType: "text/plain; charset=utf-8")
  }

  /// The answer to what is no request, or to one that does not end.
  static func rejection(_ status: Status) -> AdminResponse {
    text(status, status.phrase.lowercased())
  }

  /// The status line and the fields, with the empty line.
  /// - Parameter framing: The field that says where the body ends; nil where the connection's end says
  ///   it.
  func head(framing: (name: String, value: String)?, closes: Bool) -> [UInt8] {
    var fields = fields
    fields.append(("Content-Type", contentType))
    fields.append(("Cache-Control", "no-store"))
    fields.append(("Content-Security-Policy", policy))
    fields.append(("X-Content-Type-Options", "nosniff"))
    if closes { fields.append(("Connection", "close")) }
    if let framing { fields.append(framing) }
    fields.sort { $0.name < $1.name }
    var head = "HTTP/1.1 \(status.rawValue) \(status.phrase)\r\n"
    for (name, value) in fields { head += "\(name): \(value)\r\n" }
    return Array("\(head)\r\n".utf8)
  }
}

/// The body of a response that goes on, such as server-sent events. The server asks for bytes when the
/// client has taken those before: a slow client gets fewer and newer ones, and none wait for it.
package protocol ResponseStream: AnyObject, Sendable {
  /// The next bytes, or when to ask again. Runs on the server's thread and must not wait for anything.
  /// - Parameter nowNanoseconds: Monotonic.
  func next(nowNanoseconds: Int64) -> ResponsePart
}

/// What a stream has to say when it is asked.
package enum ResponsePart: Sendable {
  /// At most some 64 KiB. Ask again once they are sent.
  case bytes([UInt8])
  /// Nothing before that time; it is asked within a tenth of a second of it.
  case later(nanoseconds: Int64)
  case end
}
