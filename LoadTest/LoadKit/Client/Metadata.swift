// Metadata from the command line.
package import GRPC

package enum Metadata {
  /// Names that a call has by itself, or that HTTP/2 forbids (RFC 9113, section 8.2.2).
  private static let taken: Set = [
    "connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "user-agent",
  ]

  /// - Parameter text: NAME=VALUE. gRPC's names are of lower-case letters, digits, `_`, `-` and `.`; values
  ///   are visible ASCII with blanks between, or for a name that ends in `-bin` base64.
  /// - Throws: what is wrong; never the value, which may be a secret, and a name only if it is one: what
  ///   stands before a '=' may be a token without one.
  package static func parse(_ text: String) throws(LoadError) -> ClientMetadata {
    guard let equals = text.firstIndex(of: "=") else {
      throw LoadError("metadata is NAME=VALUE; there is no '='")
    }
    let name = String(text[..<equals])
    let value = String(text[text.index(after: equals)...])
    guard isName(name) else {
      throw LoadError(
        "what stands before '=' is no name of metadata: lower-case letters, digits, '_', '-' and '.'"
      )
    }
    if name.hasPrefix("grpc-") || taken.contains(name) {
      throw LoadError("'\(name)' is not for metadata: the protocol has its own")
    }
    if name.hasSuffix("-bin") {
      guard isBase64(value) else { throw LoadError("the value of '\(name)' is no base64") }
    } else {
      let bytes = Array(value.utf8)
      let isPlain = bytes.allSatisfy { (0x20...0x7e).contains($0) }
      guard !bytes.isEmpty, isPlain, bytes.first != 0x20, bytes.last != 0x20 else {
        throw LoadError("the value of '\(name)' is not visible ASCII with blanks between")
      }
    }
    return ClientMetadata(name: name, value: value)
  }

  private static func isName(_ text: some StringProtocol) -> Bool {
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

  /// The values of `--metadata`, each NAME=VALUE. A flag's own transform must not do this: where it fails,
  /// the argument parser repeats the value.
  package static func parse(all texts: [String]) throws(LoadError) -> [ClientMetadata] {
    var metadata: [ClientMetadata] = []
    for (index, text) in texts.enumerated() {
      do {
        metadata.append(try parse(text))
      } catch {
        throw LoadError("--metadata (\(index + 1) of \(texts.count)): \(error)")
      }
    }
    try check(metadata)
    return metadata
  }

  /// Throws where there is too much of it for one header block.
  package static func check(_ metadata: [ClientMetadata]) throws(LoadError) {
    let bytes = metadata.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count + 8 }
    guard bytes <= ClientCalls.metadataBytesMax else {
      throw LoadError("--metadata: more than \(ClientCalls.metadataBytesMax) bytes")
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

  /// The words of a command line, without the values of `--metadata`.
  package static func hidingValues(_ arguments: [String]) -> [String] {
    var isValue = false
    return arguments.map { argument in
      let flag = "--metadata="
      if argument.hasPrefix(flag) {
        return flag + hidden(argument.dropFirst(flag.count))
      }
      defer { isValue = argument == "--metadata" }
      return isValue ? hidden(Substring(argument)) : argument
    }
  }

  private static func hidden(_ text: Substring) -> String {
    // Without a name, all of it may be a secret.
    let name = text.prefix { $0 != "=" }
    return name.count < text.count && isName(name) ? "\(name)=..." : "..."
  }
}
