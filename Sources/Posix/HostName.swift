internal import Glibc

/// Names of hosts and their addresses.
package enum HostName {
  /// Nothing has that name.
  package struct Unknown: Error, Equatable, CustomStringConvertible {
    package let host: String
    /// The resolver's words (gai_strerror(3)).
    package let reason: String

    package var description: String { "'\(host)' is no address or name of a host (\(reason))" }
  }

  /// This machine's name, as gethostname(2) tells it; `localhost` where it has none.
  package static var own: String {
    // 64 bytes and the zero at their end are all that Linux keeps.
    var buffer = [CChar](repeating: 0, count: 65)
    guard unsafe gethostname(&buffer, buffer.count - 1) == 0, buffer[0] != 0 else {
      return "localhost"
    }
    return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }

  /// The addresses of `host`, a name or an address itself, as text: those of IPv4 before those of IPv6,
  /// so that a server and its client that both say localhost mean the same. At least one. Asks the
  /// system's resolver, which may take seconds: for the start of a program.
  package static func addresses(_ host: String) throws(Unknown) -> [String] {
    guard !host.isEmpty, !host.utf8.contains(0) else {
      throw Unknown(host: host, reason: "no name at all")
    }
    // As a part of a URL has it.
    let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
    let name = isBracketed ? String(host.dropFirst().dropLast()) : host
    var hints = unsafe addrinfo()
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let code = unsafe getaddrinfo(name, nil, &hints, &list)
    guard code == 0 else {
      let reason =
        code == EAI_SYSTEM ? Errno.current.description : unsafe String(cString: gai_strerror(code))
      throw Unknown(host: host, reason: reason)
    }
    defer { unsafe freeaddrinfo(list) }
    var four: [String] = []
    var six: [String] = []
    var next = unsafe list
    while let entry = unsafe next {
      let family = unsafe entry.pointee.ai_family
      if let text = unsafe text(entry.pointee.ai_addr, entry.pointee.ai_addrlen) {
        if family == AF_INET && !four.contains(text) { four.append(text) }
        if family == AF_INET6 && !six.contains(text) { six.append(text) }
      }
      unsafe next = entry.pointee.ai_next
    }
    guard !four.isEmpty || !six.isEmpty else { throw Unknown(host: host, reason: "no IP address") }
    return four + six
  }

  /// Whether only this machine reaches what listens there: every address of the host is in 127.0.0.0/8 or
  /// ::1, or it is a unix socket. False for what has no address.
  package static func isLoopback(_ host: String) -> Bool {
    if UnixSocket.path(ofHost: host) != nil { return true }
    guard let addresses = try? addresses(host) else { return false }
    return addresses.allSatisfy { $0.hasPrefix("127.") || $0 == "::1" || $0 == "::ffff:127.0.0.1" }
  }

  /// - Safety: `address` must be a socket address of `length` bytes, or nil.
  @unsafe private static func text(
    _ address: UnsafeMutablePointer<sockaddr>?, _ length: socklen_t
  ) -> String? {
    var buffer = [CChar](repeating: 0, count: Int(NI_MAXHOST))
    let code = unsafe getnameinfo(
      address, length, &buffer, socklen_t(buffer.count), nil, 0, NI_NUMERICHOST)
    guard code == 0 else { return nil }
    return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}
