import Glibc
import Posix
import Testing

@Suite("Sockets")
struct SocketTests {
  /// The loopback addresses of this machine.
  static let hosts: [String] = {
    let hasSix = (try? Socket.listen(host: "::1", port: 0)) != nil
    return hasSix ? ["127.0.0.1", "::1"] : ["127.0.0.1"]
  }()

  @Test("Bytes go both ways", arguments: hosts)
  func bothWays(host: String) throws {
    let connected = try Connected(host: host)
    #expect(Socket.connectError(connected.client.number) == nil)
    #expect(send([1, 2, 3], to: connected.client.number) == .moved(3))
    #expect(try waitFor(connected.server.number))
    #expect(receive(connected.server.number).bytes == [1, 2, 3])
    #expect(send([4], to: connected.server.number) == .moved(1))
    #expect(try waitFor(connected.client.number))
    #expect(receive(connected.client.number).bytes == [4])
  }

  @Test("Nothing to accept or to read is no error")
  func wouldBlock() throws {
    let listener = try Socket.listen(host: "127.0.0.1", port: 0)
    #expect(Socket.accept(listener.number) == .wouldBlock)
    let connected = try Connected()
    #expect(receive(connected.server.number).result == .wouldBlock)
    #expect(receive(connected.client.number).result == .wouldBlock)
  }

  @Test("Port 0 is a free port, another each time", arguments: hosts)
  func freePort(host: String) throws {
    let first = try Socket.listen(host: host, port: 0)
    let second = try Socket.listen(host: host, port: 0)
    let ports = [try Socket.localPort(first.number), try Socket.localPort(second.number)]
    #expect(!ports.contains(0))
    #expect(ports[0] != ports[1])
  }

  @Test("A port that somebody listens on is not unused", arguments: hosts)
  func used(host: String) throws {
    let listener = try Socket.listen(host: host, port: 0)
    let port = try Socket.localPort(listener.number)
    #expect(throws: Errno.alreadyInUse) { try Socket.checkUnused(host: host, port: port) }
    try Socket.checkUnused(host: host, port: 0)
  }

  @Test("The check leaves the port free for those who come after", arguments: hosts)
  func unused(host: String) throws {
    // Somebody else on the machine may be given the port in between: then another one will do.
    for _ in 0..<20 {
      guard let port = try? Self.portThatWasFree(host),
        (try? Socket.checkUnused(host: host, port: port)) != nil,
        (try? Socket.checkUnused(host: host, port: port)) != nil,
        let listener = try? Socket.listen(host: host, port: port)
      else { continue }
      #expect(try Socket.localPort(listener.number) == port)
      return
    }
    Issue.record("no port stayed free")
  }

  private static func portThatWasFree(_ host: String) throws -> UInt16 {
    let listener = try Socket.listen(host: host, port: 0)
    return try Socket.localPort(listener.number)
  }

  @Test("Two listeners share a port, and every connection reaches one of them", arguments: hosts)
  func shared(host: String) throws {
    let first = try Socket.listen(host: host, port: 0)
    let port = try Socket.localPort(first.number)
    let second = try Socket.listen(host: host, port: port)
    var clients: [Int32] = []
    defer { for number in clients { FileDescriptor.close(number: number) } }
    for _ in 0..<16 { clients.append(try Socket.connect(host: host, port: port).take()) }
    let poller = try Poller()
    try poller.add(first.number, token: 1)
    try poller.add(second.number, token: 2)
    var accepted = 0
    while accepted < clients.count {
      let ready = try poller.wait(timeoutMilliseconds: patienceMilliseconds)
      try #require(ready > 0)
      for listener in [first.number, second.number] {
        while case .connection(let number) = Socket.accept(listener) {
          accepted += 1
          FileDescriptor.close(number: number)
        }
      }
    }
    #expect(accepted == clients.count)
  }

  @Test(
    "What is not an IP address is refused", arguments: ["", "localhost", "1.2.3", "::g", "[::1]"])
  func addresses(host: String) {
    #expect(throws: Errno.invalid) { _ = try Socket.listen(host: host, port: 0) }
    #expect(throws: Errno.invalid) { _ = try Socket.connect(host: host, port: 1) }
  }

  @Test("Connecting where nobody listens is refused")
  func refused() throws {
    let connected = try Connected()
    let port = try Socket.localPort(connected.client.number)
    let lost: FileDescriptor
    do { lost = try Socket.connect(host: "127.0.0.1", port: port) } catch {
      #expect(error == Errno(code: ECONNREFUSED))
      return
    }
    #expect(try waitFor(lost.number, writable: true))
    #expect(Socket.connectError(lost.number) == Errno(code: ECONNREFUSED))
  }

  @Test("A descriptor that does not listen is a failure, not a crash")
  func acceptFailure() throws {
    let connected = try Connected()
    #expect(Socket.accept(connected.client.number) == .failed(.invalid))
    #expect(Socket.accept(-1) == .failed(Errno(code: EBADF)))
    #expect(Socket.connectError(-1) == Errno(code: EBADF))
    #expect(throws: Errno(code: EBADF)) { try Socket.localPort(-1) }
  }

  @Test("Ending one's side leaves the other side open")
  func endSending() throws {
    let connected = try Connected()
    Socket.endSending(connected.client.number)
    #expect(try waitFor(connected.server.number))
    #expect(receive(connected.server.number).result == .moved(0))
    #expect(send([9], to: connected.server.number) == .moved(1))
    #expect(try waitFor(connected.client.number))
    #expect(receive(connected.client.number).bytes == [9])
  }

  @Test("A peer that does not read makes sending block, and go on once it reads")
  func fullBuffers() throws {
    let connected = try Connected()
    let chunk = [UInt8](repeating: 1, count: 1 << 16)
    var sent = 0
    sending: while true {
      switch send(chunk, to: connected.client.number) {
      case .moved(let count): sent += count
      case .wouldBlock: break sending
      case .failed(let error): throw error
      }
      try #require(sent < 1 << 30)
    }
    var received = 0
    while received < sent {
      try #require(try waitFor(connected.server.number))
      received += receive(connected.server.number, most: 1 << 20).bytes.count
    }
    #expect(received == sent)
    #expect(try waitFor(connected.client.number, writable: true))
    #expect(send([1], to: connected.client.number) == .moved(1))
  }

  @Test("Sending to a peer that is gone is an Errno and no SIGPIPE")
  func closedPeer() throws {
    let connected = try Connected()
    var pipe = sigset_t()
    var before = sigset_t()
    unsafe sigemptyset(&pipe)
    unsafe sigaddset(&pipe, SIGPIPE)
    // Blocked, a SIGPIPE stays pending on this thread, where it can be seen.
    unsafe pthread_sigmask(SIG_BLOCK, &pipe, &before)
    defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }
    // Closing with a byte unread resets the connection.
    #expect(send([1], to: connected.client.number) == .moved(1))
    #expect(try waitFor(connected.server.number))
    shutdownBothWays(connected.server.number)
    #expect(try waitFor(connected.client.number))
    var errors: [Errno] = []
    for _ in 0..<1_000_000 where errors.count < 2 {
      if case .failed(let error) = send([1], to: connected.client.number) { errors.append(error) }
    }
    #expect(errors.count == 2)
    #expect(errors.allSatisfy { $0 == .brokenPipe || $0 == .connectionReset })
    var pending = sigset_t()
    unsafe sigpending(&pending)
    #expect(unsafe sigismember(&pending, SIGPIPE) == 0)
  }

  /// Makes what the peer sends from here on meet a reset.
  private func shutdownBothWays(_ number: Int32) { _ = shutdown(number, Int32(SHUT_RDWR)) }

  @Test("Dead peers are looked for after the silence that was asked for")
  func deadPeers() throws {
    let connected = try Connected()
    try Socket.detectDeadPeers(connected.server.number, idleSeconds: 30)
    #expect(option(connected.server.number, SOL_SOCKET, SO_KEEPALIVE) == 1)
    #expect(option(connected.server.number, Int32(IPPROTO_TCP), TCP_KEEPIDLE) == 30)
    #expect(option(connected.server.number, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT) == 30_000)
    #expect(throws: Errno.self) { try Socket.detectDeadPeers(-1, idleSeconds: 30) }
  }

  @Test("Accepted and connecting sockets send without delay and close on exec")
  func options() throws {
    let connected = try Connected()
    for number in [connected.client.number, connected.server.number] {
      #expect(option(number, Int32(IPPROTO_TCP), TCP_NODELAY) == 1)
      #expect(fcntl(number, F_GETFD) & FD_CLOEXEC != 0)
      #expect(fcntl(number, F_GETFL) & O_NONBLOCK != 0)
    }
  }

  private func option(_ number: Int32, _ level: Int32, _ name: Int32) -> Int32 {
    var value: Int32 = -1
    var length = socklen_t(MemoryLayout<Int32>.size)
    unsafe getsockopt(number, level, name, &value, &length)
    return value
  }
}
