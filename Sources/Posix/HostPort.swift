// HOST:PORT, as flags and messages have it.

/// A host, by name or address, and a port.
package struct HostPort: Equatable, Sendable {
  /// An address of IPv6 is without its brackets.
  package let host: String
  package let port: UInt16

  package init(host: String, port: UInt16) {
    self.host = host
    self.port = port
  }

  /// `HOST:PORT`, or `[ADDRESS]:PORT` where the address has colons of its own; nil for anything else. Whether there is such a host is not
  /// asked.
  /// - Parameters:
  ///   - standard: of a text that has no port; nil: it must have one.
  ///   - ports: those that there may be.
  package init?(
    _ text: some StringProtocol, standard: UInt16? = nil, ports: ClosedRange<UInt16> = 1...65_535
  ) {
    var host = text[...]
    var port = standard
    if let colon = text.lastIndex(of: ":"), text.last != "]" {
      host = text[..<colon]
      let digits = text[text.index(after: colon)...]
      guard digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }), let number = UInt16(digits),
        ports.contains(number)
      else { return nil }
      port = number
    }
    let isBracketed = host.first == "[" && host.last == "]"
    if isBracketed { host = host.dropFirst().dropLast() }
    // Without brackets and a port of its own, the end of an address would be taken for a port.
    guard let port, !host.isEmpty, !host.contains(where: { "[]/".contains($0) }),
      isBracketed ? host.contains(":") : standard == nil || !host.contains(":"),
      host.utf8.count <= 255, host.utf8.allSatisfy({ 0x21...0x7e ~= $0 })
    else { return nil }
    self.host = String(host)
    self.port = port
  }
}

extension HostPort: CustomStringConvertible {
  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
