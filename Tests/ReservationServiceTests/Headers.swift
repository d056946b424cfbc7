// Header blocks for the tests of the handler: those that it is asked about, and those of its failures.
import GRPC
import HTTP2
import ReservationService
import Testing
import WireTesting

extension RequestHeaderBlocks {
  /// Those of the handler's methods.
  convenience init() { self.init(metadata: HoldfastHandler.metadata) }

  /// Calls `body` with the fields of a call by `caller`; empty: says nothing of its name.
  func with<Result>(
    caller: [UInt8], _ body: (RequestHeaders) throws -> Result
  ) throws -> Result {
    let fields: [(String, String)] = [
      (":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "a"),
    ]
    var block = fields.map { ($0.0, Array($0.1.utf8)) }
    if !caller.isEmpty { block.append(("holdfast-caller", caller)) }
    return try with(block, body)
  }
}

/// Reads the header block of a failure.
enum Trailers {
  /// Its fields; each comes once.
  static func fields(of response: Response) throws -> [String: String] {
    let block =
      response.kind == .message
      ? response.trailers?.withBlock(array) ?? []
      : response.withFailureBlock(asTrailers: true, array)
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
