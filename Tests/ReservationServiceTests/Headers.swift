// Header blocks for the tests of the handler: those that it is asked about, and those of its failures.
import GRPC
import HTTP2
import ReservationService
import Testing

/// Makes requests' header fields the way a client's come: as a header block of a connection.
final class HeaderBlocks {
  private let context: ServerContext
  private let http: ServerConnection
  private var stream: UInt32 = 1

  init() {
    let plenty = Budget(burst: 1 << 40, perSecond: 1)
    context = ServerContext(
      limits: HTTP2Limits(
        concurrentStreams: 10, headerListBytesMax: 16_384, headerBlockBytesMax: 1 << 20,
        headerTableBytes: 4096, bufferedBytesMax: 1 << 20,
        connectionWindowBytes: 1 << 20, streamWindowBytes: 1 << 16, resets: plenty, pings: plenty,
        settings: plenty, emptyFrames: plenty, lateFrames: plenty),
      captured: RequestField.allCases.map(\.name) + HoldfastHandler.metadata,
      header: ContentType.field, trailer: ConstantField("grpc-status", "0"))
    guard let http = context.open(token: 1) else { fatalError("no memory") }
    self.http = http
    receive(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + Self.frame(type: 4, flags: 0, 0, []))
  }

  deinit {
    http.close()
    releaseClosed()
  }

  /// Calls `body` with the fields of a call by `caller`; empty: says nothing of its name.
  func with<Result>(
    caller: [UInt8], _ body: (RequestHeaders) throws -> Result
  ) throws -> Result {
    var block =
      Self.field(":method", Array("POST".utf8)) + Self.field(":scheme", Array("http".utf8))
    block += Self.field(":path", Array("/a/b".utf8)) + Self.field(":authority", Array("a".utf8))
    if !caller.isEmpty { block += Self.field("holdfast-caller", caller) }
    receive(Self.frame(type: 1, flags: 5, stream, block))
    let isHead = context.eventCount > 0 && context.event(at: 0).kind == .head
    try #require(isHead, "the header block is malformed")
    let result = try body(RequestHeaders(context.event(at: 0).stream, certificate: nil))
    context.clearEvents()
    receive(Self.frame(type: 3, flags: 0, stream, [0, 0, 0, 8]))
    releaseClosed()
    stream += 2
    return result
  }

  private func receive(_ bytes: [UInt8]) {
    let fault = unsafe bytes.withUnsafeBytes { unsafe http.receive($0) }
    #expect(fault == nil)
  }

  private func releaseClosed() {
    for index in 0..<context.eventCount where context.event(at: index).kind == .closed {
      context.release(context.event(at: index).stream)
    }
    context.clearEvents()
  }

  private static func frame(
    type: UInt8, flags: UInt8, _ stream: UInt32, _ payload: [UInt8]
  ) -> [UInt8] {
    let number = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: stream >> $0) }
    return [0, UInt8(payload.count >> 8), UInt8(payload.count & 255), type, flags] + number
      + payload
  }

  /// A literal without indexing; the value has less than 254 bytes.
  private static func field(_ name: String, _ value: [UInt8]) -> [UInt8] {
    let length =
      value.count < 127 ? [UInt8(value.count)] : [127, UInt8(value.count - 127)]
    return [0, UInt8(name.utf8.count)] + Array(name.utf8) + length + value
  }
}

/// Reads the header block of a failure.
enum Trailers {
  /// Its fields; each comes once.
  static func fields(of response: Response) throws -> [String: String] {
    let block = response.withFailureBlock(asTrailers: true) { span in
      span.indices.map { span[$0] }
    }
    var rest = block[...]
    func string() throws -> String {
      let first = rest.popFirst()
      var length = Int(try #require(first))
      if length == 127 {
        var shift = 0
        while let byte = rest.popFirst() {
          length += Int(byte & 127) << shift
          shift += 7
          if byte < 128 { break }
        }
      }
      let isWhole = rest.count >= length
      try #require(isWhole)
      defer { rest = rest.dropFirst(length) }
      return String(decoding: rest.prefix(length), as: UTF8.self)
    }
    var fields: [String: String] = [:]
    while let first = rest.popFirst() {
      let isLiteral = first == 0
      try #require(isLiteral, "a literal without indexing")
      let name = try string()
      #expect(fields[name] == nil, "\(name) comes twice")
      fields[name] = try string()
    }
    return fields
  }

  static func percentDecoded(_ text: String) throws -> String {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      let code = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
      bytes.append(try #require(code))
      rest = rest.dropFirst(2)
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// RFC 4648 section 4 without padding.
  static func base64(_ text: String) throws -> [UInt8] {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var values = [Int?](repeating: nil, count: 256)
    for (value, letter) in alphabet.enumerated() { values[Int(letter)] = value }
    var bytes: [UInt8] = []
    var bits = 0
    var count = 0
    for letter in text.utf8 {
      bits = (bits << 6 | (try #require(values[Int(letter)]))) & 0xffff
      count += 6
      if count >= 8 {
        count -= 8
        bytes.append(UInt8(truncatingIfNeeded: bits >> count))
      }
    }
    return bytes
  }
}
