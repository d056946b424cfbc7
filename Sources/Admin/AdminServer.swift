internal import FlyingFox
internal import FlyingSocks
internal import Foundation
package import Metrics

/// Serves the operator's pages (see `AdminPages`) over HTTP/1.1 on a port of their own.
///
/// Sockets, requests and responses are FlyingFox's. The loop from connection to answer is
/// ours, because FlyingFox's own server (0.27) reads request heads of any length, keeps any number
/// of connections and lets them idle for ever. Here a connection carries one request with a short
/// head and no body, and is closed after the answer or after a few seconds, whatever its peer does.
package final class AdminServer: Sendable {
  /// Connections served at a time. The next ones wait in the kernel's queue until one ends.
  package static let connectionsMax = 64
  /// From accept to the last byte of the answer.
  package static let exchangeDurationMax = Duration.seconds(5)
  /// Of the request line and the header fields together.
  package static let requestHeadBytesMax = 8_192

  /// How long accepting rests after it failed, such as for want of descriptors.
  private static let acceptRest = Duration.milliseconds(100)

  /// The address that it listens on.
  package let host: String
  /// The port that it listens on; the one that the kernel chose if 0 was asked for.
  package let port: UInt16

  private let listener: Socket
  private let pages: AdminPages
  private let exchangeDurationMax: Duration

  /// Binds the port and listens: connections queue from now on, and are answered by `run`.
  ///
  /// - Parameters:
  ///   - host: The IP address to listen on, such as 127.0.0.1 or ::1.
  ///   - port: The port; 0 for a free one.
  ///   - page: What `/metrics` answers.
  ///   - readiness: What `/readyz` answers; asked at every request, on any thread.
  ///   - information: Lines for the front page, such as "Version" and "1.0", in this order.
  ///   - exchangeDurationMax: For tests that cannot wait for the real limit.
  /// - Throws: `AdminServerError`, where that address cannot be had.
  package init(
    host: String = "127.0.0.1", port: UInt16 = 0, page: MetricsPage,
    readiness: @escaping @Sendable () -> Readiness,
    information: [(name: String, value: String)] = [],
    exchangeDurationMax: Duration = AdminServer.exchangeDurationMax
  ) throws {
    self.exchangeDurationMax = exchangeDurationMax
    self.host = host
    pages = AdminPages(page: page, readiness: readiness, information: information)
    do {
      listener = try Self.listen(host: host, port: port)
      self.port = try Self.port(of: listener.sockname())
    } catch {
      throw AdminServerError(host: host, port: port, cause: error)
    }
  }

  /// Serves until the task is cancelled, then closes the port and all connections, and returns. To
  /// be called once.
  ///
  /// - Throws: What made the event pool fail; the kernel gives no cause for it in practice.
  package func run() async throws {
    defer { try? listener.close() }
    let pool = HTTPServer.defaultPool()
    try await pool.prepare()
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await pool.run() }
      group.addTask { try await self.acceptConnections(on: pool) }
      defer { group.cancelAll() }
      do {
        try await group.next()
      } catch {
        // A cancelled task was asked to end: that is no failure.
        guard Task.isCancelled else { throw error }
      }
    }
  }

  private func acceptConnections(on pool: some AsyncSocketPool) async throws {
    let listener = try AsyncSocket(socket: listener, pool: pool)
    await withTaskGroup(of: Void.self) { group in
      // Tasks not yet collected, so never fewer than there are connections.
      var connections = 0
      while !Task.isCancelled {
        if connections == Self.connectionsMax {
          await group.next()
          connections -= 1
        }
        do {
          let connection = try await listener.accept()
          group.addTask { await self.serve(connection, pool: pool) }
          connections += 1
        } catch {
          // No descriptor left, or the peer was gone already: neither is a reason to stop.
          try? await Task.sleep(for: Self.acceptRest)
        }
      }
      group.cancelAll()
    }
  }

  /// One connection: one request, one answer, within the time limit.
  private func serve(_ connection: AsyncSocket, pool: some AsyncSocketPool) async {
    await withTaskGroup(of: Void.self) { group in
      group.addTask {
        // A peer that vanishes or is too slow gets no answer, and there is nobody to tell.
        try? await self.answer(connection)
      }
      group.addTask { try? await Task.sleep(for: self.exchangeDurationMax) }
      await group.next()
      group.cancelAll()
    }
    await Self.settle(pool as? any Actor)
    try? connection.close()
  }

  private func answer(_ connection: AsyncSocket) async throws {
    var head: [UInt8] = []
    var request = HTTPExchange.Received.incomplete
    while case .incomplete = request {
      head += try await connection.read(atMost: 4_096)
      request = HTTPExchange.parse(head, bytesMax: Self.requestHeadBytesMax)
    }
    switch request {
    case .incomplete: break
    case .refused(let status):
      let response = AdminPages.text(status, status.phrase.lowercased())
      try await connection.write(HTTPExchange.encode(response, withBody: true))
    case .request(let request):
      let response = pages.response(to: request)
      try await connection.write(HTTPExchange.encode(response, withBody: request.method != .HEAD))
    }
  }

  /// Returns when the pool, an actor, is done with what it was doing.
  ///
  /// FlyingFox's pool resumes a waiting task first and takes the descriptor out of epoll after that.
  /// Closing in between would leave the pool believing that the number is registered, and the next
  /// connection with that number would never be woken.
  private static func settle(_ pool: isolated (any Actor)?) {}

  private static func listen(host: String, port: UInt16) throws -> Socket {
    if let address = try? sockaddr_in.inet(ip4: host, port: port) {
      return try listen(on: address, family: AF_INET)
    }
    return try listen(on: sockaddr_in6.inet6(ip6: host, port: port), family: AF_INET6)
  }

  private static func listen(on address: some SocketAddress, family: Int32) throws -> Socket {
    let socket = try Socket(domain: family)
    do {
      try socket.setValue(true, for: .localAddressReuse)
      try socket.bind(to: address)
    } catch {
      try? socket.close()
      throw error
    }
    // Closes the socket itself where it fails.
    try socket.listen()
    return socket
  }

  private static func port(of address: Socket.Address) -> UInt16 {
    switch address {
    case .ip4(_, let port), .ip6(_, let port): port
    case .unix: 0
    }
  }
}

/// The admin pages cannot be served at the address that was asked for.
package struct AdminServerError: Error, CustomStringConvertible {
  /// The address that cannot be had.
  package let address: String
  /// Why, in the system's words.
  package let reason: String

  package var description: String { "cannot listen on \(address) for the admin pages (\(reason))" }

  init(host: String, port: UInt16, cause: any Error) {
    reason =
      if case SocketError.failed(_, _, let message) = cause { message } else { "\(cause)" }
    address = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}
