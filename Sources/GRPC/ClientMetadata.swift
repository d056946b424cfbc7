// Metadata of a client's calls, as a command line has it.
package import HTTP2

/// A field that goes with every call; the name in lower case, both of HTTP's bytes.
package struct ClientMetadata: Equatable, Sendable {
  package let name: String
  package let value: String

  package init(name: String, value: String) {
    self.name = name
    self.value = value
  }

  /// Names that a call has by itself, or that HTTP/2 forbids (RFC 9113, section 8.2.2).
  private static let taken: Set = [
    "connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "user-agent",
  ]

  /// - Parameter text: NAME=VALUE. gRPC's names are of lower-case letters, digits, `_`, `-` and `.`; values
  ///   are visible ASCII with blanks between, or for a name that ends in `-bin` base64.
  /// - Throws: what is wrong; never the value, which may be a secret, and a name only if it is one: what
  ///   stands before a '=' may be a token without one.
  package init(parsing text: String) throws(ClientError) {
    guard let equals = text.firstIndex(of: "=") else {
      throw ClientError("metadata is NAME=VALUE; there is no '='")
    }
    let name = String(text[..<equals])
    let value = String(text[text.index(after: equals)...])
    guard Self.isName(name) else {
      throw ClientError(
        "what stands before '=' is no name of metadata: lower-case letters, digits, '_', '-' and '.'"
      )
    }
    if name.hasPrefix("grpc-") || Self.taken.contains(name) {
      throw ClientError("'\(name)' is not for metadata: the protocol has its own")
    }
    if name.hasSuffix("-bin") {
      guard Self.isBase64(value) else {
        throw ClientError("the value of '\(name)' is no base64")
      }
    } else {
      let bytes = Array(value.utf8)
      let isPlain = bytes.allSatisfy { (0x20...0x7e).contains($0) }
      guard !bytes.isEmpty, isPlain, bytes.first != 0x20, bytes.last != 0x20 else {
        throw ClientError("the value of '\(name)' is not visible ASCII with blanks between")
      }
    }
    self.init(name: name, value: value)
  }

  package static func isName(_ text: some StringProtocol) -> Bool {
    !text.isEmpty
      && text.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
          UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "."):
          true
        default: false
        }
      }
  }

  /// With or without padding, as gRPC allows it.
  private static func isBase64(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    let padding = bytes.reversed().prefix { $0 == UInt8(ascii: "=") }.count
    let digits = bytes.dropLast(padding)
    guard padding <= 2, padding == 0 || bytes.count % 4 == 0, digits.count % 4 != 1 else {
      return false
    }
    return digits.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "/"):
        true
      default: false
      }
    }
  }
}
