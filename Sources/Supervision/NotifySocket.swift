// Words to the service manager that started this process: the protocol of sd_notify(3), without its library.
package import Posix

/// The socket that NOTIFY_SOCKET names: each message is one datagram of lines NAME=VALUE.
package final class NotifySocket: Sendable {
  private let socket: UnixDatagramSocket

  /// - Parameter address: a path from the root, or `@` and an abstract name (unix(7)); nil where there is none.
  /// - Throws: EINVAL for an address of another kind, ENAMETOOLONG, or what socket(2) says.
  package init?(address: String?) throws(Errno) {
    guard let address, !address.isEmpty else { return nil }
    socket = try UnixDatagramSocket(to: address)
  }

  /// Sends a message, if the manager takes it now: it is never waited for. False where it was lost, such as while the
  /// manager is started anew.
  @discardableResult
  package func send(_ lines: [String]) -> Bool {
    socket.send(Array(lines.joined(separator: "\n").utf8))
  }

  /// What is told, as the manager takes it: a line has an end of its own.
  static func line(_ name: String, _ value: String) -> String {
    "\(name)=\(String(value.map { $0.isNewline ? " " : $0 }))"
  }
}
