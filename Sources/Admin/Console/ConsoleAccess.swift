// Who may see the console, and how a browser shows that it is somebody who may.
//
// With a token file, whoever has the role admin: a program by `Authorization: Bearer`, a browser by a form that takes
// the token once and sets a cookie. The cookie names a session of this process, not the token: no script reads it
// (HttpOnly), no other site's request carries it (SameSite=Strict), and it ends with the token, with its time, or with
// the server. Without a token file, whoever reaches the port: then a page of another site, whose name was made to lead
// here (DNS rebinding), must not get through, so the request has to name an address or this host.
internal import Posix
internal import Synchronization

/// What the token of an administrator allows, for as long as it does.
package struct ConsoleGrant: Sendable {
  /// The name that the token file has for the caller.
  package let caller: String
  /// Whether it is still so. Any thread; must not wait.
  package let holds: @Sendable () -> Bool

  package init(caller: String, holds: @escaping @Sendable () -> Bool) {
    self.caller = caller
    self.holds = holds
  }
}

/// What came of a token.
package enum ConsoleAdmission: Sendable {
  case granted(ConsoleGrant)
  /// Why not, as a sentence for the person who has sent it.
  case refused(String)
}

/// Who may see the console.
package enum ConsoleRule: Sendable {
  /// Whoever reaches the port, under an address of it or one of these names.
  case anybody(hosts: [String])
  /// Nobody, and why.
  case nobody(String)
  /// Whose token this admits.
  case tokens(@Sendable (_ token: String) -> ConsoleAdmission)

  /// The rule where there is no token file: anybody, where what the console shows is open to whoever reaches the port
  /// anyway; else it would show strangers what nothing shows them now.
  /// - Parameters:
  ///   - isPortLocal: the admin port is reached from this machine alone.
  ///   - areCallsOpen: the port for calls is on a network, and asks nobody for a certificate.
  ///   - hosts: our names, besides addresses and localhost.
  package static func withoutTokens(
    isPortLocal: Bool, areCallsOpen: Bool, hosts: [String]
  ) -> ConsoleRule {
    guard isPortLocal || areCallsOpen else {
      return .nobody(
        """
        the console shows stock and reservations, and this port is open to a network: with --tokens it asks for a \
        token; without, it is there where --admin-host is a loopback address
        """)
    }
    return .anybody(hosts: hosts)
  }
}

/// Sessions of browsers. Any thread.
final class ConsoleSessions: Sendable {
  private struct Session {
    let grant: ConsoleGrant
    let ends: Int64
  }

  static let idLength = 48

  private let sessions = Mutex<[String: Session]>([:])
  private let sessionsMax: Int
  let lifetimeNanoseconds: Int64

  init(sessionsMax: Int, lifetimeNanoseconds: Int64) {
    self.sessionsMax = sessionsMax
    self.lifetimeNanoseconds = lifetimeNanoseconds
  }

  /// Begins one: its id, which nobody can guess. The oldest ends where there are too many.
  func begin(_ grant: ConsoleGrant, nowNanoseconds: Int64) -> String {
    let id = (0..<3).map { _ in Self.digits(Machine.random64()) }.joined()
    sessions.withLock { sessions in
      sessions = sessions.filter { $0.value.ends > nowNanoseconds && $0.value.grant.holds() }
      if sessions.count >= sessionsMax,
        let oldest = sessions.min(by: { $0.value.ends < $1.value.ends })
      {
        sessions[oldest.key] = nil
      }
      sessions[id] = Session(grant: grant, ends: nowNanoseconds + lifetimeNanoseconds)
    }
    return id
  }

  /// What a session's browser may, if the session goes on.
  func grant(_ id: String, nowNanoseconds: Int64) -> ConsoleGrant? {
    guard id.utf8.count == Self.idLength else { return nil }
    return sessions.withLock { sessions in
      guard let session = sessions[id] else { return nil }
      guard session.ends > nowNanoseconds, session.grant.holds() else {
        sessions[id] = nil
        return nil
      }
      return session.grant
    }
  }

  func end(_ id: String) { sessions.withLock { $0[id] = nil } }

  var count: Int { sessions.withLock { $0.count } }

  private static func digits(_ word: UInt64) -> String {
    let digits = String(word, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}

/// What a request says of where it was sent, and from where.
enum RequestOrigin {
  /// The name or address in a Host field, in lower case and without the port; nil where it is none.
  static func hostName(_ host: String?) -> String? {
    guard let host, !host.isEmpty else { return nil }
    let text = host.lowercased()
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { return nil }
      return String(text[text.index(after: text.startIndex)..<end])
    }
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard let name = parts.first, parts.count <= 2, !name.isEmpty else { return nil }
    // A full stop at the end means the same name.
    return name.hasSuffix(".") ? String(name.dropLast()) : String(name)
  }

  /// Whether the name can only be meant for this server: no other site's pages come under an address, and
  /// `localhost` and the names given are ours.
  static func isOurs(_ host: String?, names: [String]) -> Bool {
    guard let host, let name = hostName(host) else { return false }
    return host.hasPrefix("[") || isIPv4(name) || name == "localhost"
      || name.hasSuffix(".localhost") || names.contains { $0.lowercased() == name }
  }

  /// Whether a browser that names this host has sent nothing over a network.
  static func isLoopback(_ host: String?) -> Bool {
    guard let name = hostName(host) else { return false }
    return name == "localhost" || name.hasSuffix(".localhost") || name == "::1"
      || isIPv4(name) && name.hasPrefix("127.")
  }

  private static func isIPv4(_ name: String) -> Bool {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count == 4
      && parts.allSatisfy { part in
        (1...3).contains(part.utf8.count) && part.utf8.allSatisfy { (0x30...0x39).contains($0) }
      }
  }

  /// Whether a request that changes something comes from a page of ours, or from no page.
  static func isSameOrigin(_ request: AdminRequest) -> Bool {
    // A browser that says it knows; a proxy may have put another Host here.
    if let site = request.fetchSite { return site == "same-origin" || site == "none" }
    guard let origin = request.origin else { return true }
    guard let host = request.host, let end = origin.range(of: "://") else { return false }
    return origin[end...].lowercased() == host.lowercased()
  }
}

extension String {
  /// Where a text ends that is part of this one.
  fileprivate func range(of text: String) -> String.Index? {
    firstRange(of: text)?.upperBound
  }
}

/// The fields of a form (application/x-www-form-urlencoded) and of a query.
enum FormFields {
  /// The first value of a name; nil where there is none, or its percent signs mean nothing.
  static func value(_ name: String, in text: some StringProtocol) -> String? {
    for field in text.split(separator: "&") {
      let parts = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard let first = parts.first, decoded(first) == name else { continue }
      return parts.count == 2 ? decoded(parts[1]) : ""
    }
    return nil
  }

  /// What is no UTF-8 is nothing.
  private static func decoded(_ text: some StringProtocol) -> String? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      switch byte {
      case UInt8(ascii: "+"): bytes.append(UInt8(ascii: " "))
      case UInt8(ascii: "%"):
        guard rest.count >= 2,
          let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16),
          rest.prefix(2).allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") })
        else { return nil }
        bytes.append(value)
        rest = rest.dropFirst(2)
      default: bytes.append(byte)
      }
    }
    return String(validating: bytes, as: UTF8.self)
  }
}
