import Admin
import Foundation
import Metrics

/// A TCP client that sends any bytes and reads until the server closes. Every call blocks for at
/// most `timeoutSeconds`: use it inside `onThread`, never on a thread of the concurrency pool, which
/// the server needs.
final class RawClient: Sendable {
  private static let timeoutSeconds = 20

  private let descriptor: Int32

  /// Connects to 127.0.0.1; nil if nobody listens.
  init?(port: UInt16) {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var timeout = timeval(tv_sec: Self.timeoutSeconds, tv_usec: 0)
    let timeoutLength = socklen_t(MemoryLayout<timeval>.size)
    unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, timeoutLength)
    unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, timeoutLength)

    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
        unsafe connect(descriptor, pointer, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if result != 0 { return nil }
  }

  deinit { close(descriptor) }

  /// Sends all bytes; false if the server has closed.
  @discardableResult
  func send(_ bytes: [UInt8]) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
      let sent = unsafe rest.withUnsafeBytes { buffer in
        unsafe Glibc.send(
          descriptor, buffer.baseAddress, buffer.count, Int32(MSG_NOSIGNAL))
      }
      if sent <= 0 { return false }
      rest = rest.dropFirst(sent)
    }
    return true
  }

  /// Tells the server that nothing more comes, and still reads.
  func closeWriting() {
    shutdown(descriptor, Int32(SHUT_WR))
  }

  /// Makes the coming close a reset instead of an orderly end.
  func resetAtClose() {
    var option = linger(l_onoff: 1, l_linger: 0)
    unsafe setsockopt(
      descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
  }

  /// What arrives until `count` bytes are there, or the server closes; nil if neither happens within the
  /// time limit.
  func read(_ count: Int) -> String? {
    var received: [UInt8] = []
    while received.count < count {
      var buffer = [UInt8](repeating: 0, count: count - received.count)
      let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
      if count < 0, errno == EAGAIN { return nil }
      if count <= 0 { break }
      received += buffer[..<count]
    }
    return String(decoding: received, as: UTF8.self)
  }

  /// What arrives until the server closes; nil if it does not within the time limit.
  func readToEnd() -> String? {
    var received: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
      if count < 0, errno == EAGAIN { return nil }
      // A reset is an end too: the server closed without reading all.
      if count <= 0 { return String(decoding: received, as: UTF8.self) }
      received += buffer[..<count]
    }
  }

  /// The answer to a request such as "GET /livez", the only one of its connection.
  static func answer(port: UInt16, _ request: String) -> String? {
    exchange(port: port, "\(request) HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
  }

  /// One request in text, and all that the server answers before it closes.
  static func exchange(port: UInt16, _ request: String) -> String? {
    guard let client = RawClient(port: port) else { return nil }
    client.send(Array(request.utf8))
    return client.readToEnd()
  }
}

/// Runs blocking code on a thread of its own.
func onThread<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
  await withCheckedContinuation { continuation in
    Thread { continuation.resume(returning: body()) }.start()
  }
}

extension AdminLimits {
  static let test = AdminLimits(
    connectionsMax: 64, headBytesMax: 8_192, headNanosecondsMax: 5_000_000_000,
    idleNanosecondsMax: 5_000_000_000, sendNanosecondsMax: 5_000_000_000,
    lingerNanosecondsMax: 200_000_000, lingerBytesMax: 65_536, stopNanosecondsMax: 1_000_000_000)
}

/// Runs `body` against a server on a free port, and ends when the server has ended.
func withAdminServer(
  page: MetricsPage = MetricsPage(), readiness: ServingState = .ready,
  information: [(name: String, value: String)] = [], limits: AdminLimits = .test,
  isAllowed: (@Sendable (AdminRequest) -> Bool)? = nil,
  _ body: (UInt16) async throws -> Void
) async throws {
  let server = try AdminServer(
    limits: limits, page: page, readiness: { readiness }, information: { information },
    isAllowed: isAllowed)
  let running = Task { try await server.run() }
  let result: Result<Void, any Error>
  do { result = .success(try await body(server.port)) } catch { result = .failure(error) }
  running.cancel()
  try await running.value
  try result.get()
}
