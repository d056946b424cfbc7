import Posix
import Synchronization
import Testing

@testable import Server

/// A socket that says and reads bytes, and waits for what it expects.
private final class Peer {
  private let socket: FileDescriptor
  private let poller: Poller

  init(_ socket: consuming FileDescriptor) throws {
    poller = try Poller(capacity: 1)
    try poller.add(socket.number, token: 0)
    self.socket = socket
  }

  convenience init(host: String = "127.0.0.1", port: UInt16) throws {
    try self.init(Socket.connect(host: host, port: port))
  }

  /// Sends what is taken until nothing was for so long. How many bytes.
  func send(_ bytes: [UInt8], patienceMilliseconds: Int32 = 10_000) throws -> Int {
    try poller.modify(socket.number, token: 0, readable: false, writable: true)
    defer { try? poller.modify(socket.number, token: 0, readable: true, writable: false) }
    var rest = bytes[...]
    while !rest.isEmpty, try poller.wait(timeoutMilliseconds: patienceMilliseconds) > 0 {
      let result = unsafe rest.withUnsafeBytes {
        unsafe FileDescriptor.send(socket.number, from: $0)
      }
      switch result {
      case .moved(let count): rest = rest.dropFirst(count)
      case .wouldBlock: continue
      case .failed: return bytes.count - rest.count
      }
    }
    return bytes.count - rest.count
  }

  func endSending() { Socket.endSending(socket.number) }

  /// Reads so many bytes, or to the end: nil where neither comes within ten seconds.
  func read(_ count: Int = .max) throws -> [UInt8]? {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 256 * 1024)
    while bytes.count < count {
      guard try poller.wait(timeoutMilliseconds: 10_000) > 0 else { return nil }
      let result = unsafe buffer.withUnsafeMutableBytes {
        unsafe FileDescriptor.read(
          socket.number,
          into: UnsafeMutableRawBufferPointer(rebasing: $0.prefix(count - bytes.count)))
      }
      switch result {
      case .moved(0), .failed: return bytes
      case .moved(let moved): bytes += buffer[..<moved]
      case .wouldBlock: continue
      }
    }
    return bytes
  }
}

/// Where an owner listens that does what a test says.
private final class Owner {
  let port: UInt16
  private let listener: FileDescriptor
  private let poller: Poller

  init(port: UInt16 = 0) throws {
    let listener = try Socket.listen(host: "127.0.0.1", port: port)
    self.port = try Socket.localPort(listener.number)
    poller = try Poller(capacity: 1)
    try poller.add(listener.number, token: 0)
    self.listener = listener
  }

  func accept() throws -> Peer {
    #expect(try poller.wait(timeoutMilliseconds: 10_000) == 1)
    guard case .connection(let number) = Socket.accept(listener.number) else {
      throw Errno.invalid
    }
    return try Peer(FileDescriptor(owning: number))
  }
}

/// A forwarder, and what it believes of the owner.
private final class Passage {
  let port: ReservedPort
  let forwarder: Forwarder
  private let address: Address

  private final class Address: Sendable {
    let text: Mutex<String?>
    init(_ text: String?) { self.text = Mutex(text) }
  }

  init(
    to owner: UInt16?, host: String = "127.0.0.1", sendsProxyHeader: Bool = false,
    keepsListening: Bool = false, _ adjust: (inout ForwarderLimits) -> Void = { _ in }
  ) throws {
    var limits = ForwarderLimits(connectionsMax: 2000)
    adjust(&limits)
    let address = Address(owner.map { "127.0.0.1:\($0)" })
    self.address = address
    port =
      host.hasPrefix("/")
      ? try ReservedPort(unixSocket: host) : try ReservedPort(host: host, port: 0)
    forwarder = try Forwarder.start(
      on: port, limits: limits, sendsProxyHeader: sendsProxyHeader, keepsListening: keepsListening
    ) { address.text.withLock { $0 } }
  }

  func setOwner(_ text: String?) { address.text.withLock { $0 = text } }

  func connect() throws -> Peer { try Peer(port: port.number) }

  /// Looks again and again; false after ten seconds.
  func eventually(_ condition: (ForwarderStatistics) -> Bool) -> Bool {
    let deadline = SystemClock.monotonicNanoseconds() + 10 * second
    while !condition(forwarder.statistics) {
      if SystemClock.monotonicNanoseconds() > deadline { return false }
      pause(milliseconds: 2)
    }
    return true
  }

  deinit {
    forwarder.shutDown()
    do { try forwarder.wait() } catch { Issue.record("the thread ended early: \(error)") }
  }
}

@Suite("Forwarder")
struct ForwarderTests {
  private static let megabyte = (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }

  @Test("Bytes go both ways, and the end of each by itself")
  func bothWays() throws {
    let owner = try Owner()
    let passage = try Passage(to: owner.port)
    let client = try passage.connect()
    #expect(try client.send([1, 2, 3]) == 3)
    client.endSending()
    let peer = try owner.accept()
    #expect(try peer.read() == [1, 2, 3])
    for _ in 0..<32 {
      let chunk = Array(Self.megabyte[..<(1 << 17)])
      #expect(try peer.send(chunk) == 1 << 17)
      #expect(try client.read(1 << 17) == chunk)
    }
    peer.endSending()
    #expect(try client.read() == [])
    #expect(passage.eventually { $0.open == 0 })
    let statistics = passage.forwarder.statistics
    #expect(statistics.bytesToOwner == 3 && statistics.bytesToClients == 4 << 20)
    #expect(statistics.connections == 1 && statistics.unreachable == 0)
  }

  @Test("Who reads nothing is sent no more, and loses nothing")
  func neverReading() throws {
    let owner = try Owner()
    let passage = try Passage(to: owner.port)
    let client = try passage.connect()
    var sent = 0
    // Until the buffers of two sockets and the forwarder's are full.
    while sent < 256 << 20 {
      let count = try client.send(Self.megabyte, patienceMilliseconds: 300)
      sent += count
      if count < 1 << 20 { break }
    }
    #expect(sent < 256 << 20)
    client.endSending()
    let peer = try owner.accept()
    #expect(try peer.read()?.count == sent)
    // The other direction was open all the time.
    #expect(try peer.send([7]) == 1)
    #expect(try client.read(1) == [7])
  }

  @Test("Who takes nothing for too long is given up")
  func stalled() throws {
    let owner = try Owner()
    let passage = try Passage(to: owner.port) { $0.stalledWriteNanosecondsMax = 300 * millisecond }
    let client = try passage.connect()
    let peer = try owner.accept()
    while try client.send(Self.megabyte, patienceMilliseconds: 2_000) == 1 << 20 {}
    #expect(passage.eventually { $0.open == 0 })
    withExtendedLifetime(peer) {}
  }

  @Test("The owner goes away in the middle of a response", arguments: [true, false])
  func ownerGone(clientEnds: Bool) throws {
    let owner = try Owner()
    let passage = try Passage(to: owner.port) {
      if !clientEnds { $0.stalledWriteNanosecondsMax = 300 * millisecond }
    }
    let client = try passage.connect()
    do {
      let peer = try owner.accept()
      #expect(try peer.send([1, 2]) == 2)
      #expect(try client.read(2) == [1, 2])
    }
    #expect(try client.read() == [])
    // The client's side is open until it has ended it, or its time is over.
    if clientEnds {
      #expect(passage.forwarder.statistics.open == 1)
      client.endSending()
    }
    #expect(passage.eventually { $0.open == 0 })
  }

  @Test("Without an owner a connection waits, and is closed when none comes", arguments: [0, 1, 2])
  func nobody(kind: Int) throws {
    // A port on which nobody listens.
    let free = try ReservedPort(host: "127.0.0.1", port: 0)
    let passage = try Passage(to: kind == 0 ? nil : free.number) {
      $0.connectNanosecondsMax = 400 * millisecond
    }
    if kind == 2 { passage.setOwner("nonsense") }
    let begun = SystemClock.monotonicNanoseconds()
    let client = try passage.connect()
    #expect(try client.read() == [])
    #expect(SystemClock.monotonicNanoseconds() - begun >= 400 * millisecond)
    #expect(passage.eventually { $0.unreachable == 1 && $0.open == 0 })
  }

  @Test("A connection that waits is taken by the owner that comes")
  func ownerComes() throws {
    let passage = try Passage(to: nil) { $0.connectNanosecondsMax = 10 * second }
    let client = try passage.connect()
    #expect(try client.send([5]) == 1)
    #expect(passage.eventually { $0.open == 1 })
    let owner = try Owner()
    passage.setOwner("localhost:\(owner.port)")
    #expect(try owner.accept().read(1) == [5])
  }

  @Test("Silence ends a connection to who is the owner no more, and no other")
  func formerOwner() throws {
    let first = try Owner()
    let second = try Owner()
    let passage = try Passage(to: first.port) { $0.formerOwnerNanosecondsMax = 200 * millisecond }
    let old = try passage.connect()
    let oldPeer = try first.accept()
    #expect(try oldPeer.send([1]) == 1)
    #expect(try old.read(1) == [1])
    passage.setOwner("127.0.0.1:\(second.port)")
    let new = try passage.connect()
    let newPeer = try second.accept()
    #expect(try old.read() == [])
    pause(milliseconds: 400)
    #expect(try newPeer.send([2]) == 1)
    #expect(try new.read(1) == [2])
  }

  @Test("There are as many as there may be")
  func limit() throws {
    let owner = try Owner()
    let passage = try Passage(to: owner.port) { $0.connectionsMax = 2 }
    let clients = try (0..<2).map { _ in try passage.connect() }
    let peers = try (0..<2).map { _ in try owner.accept() }
    #expect(try passage.connect().read() == [])
    #expect(passage.eventually { $0.refused == 1 })
    #expect(try clients[0].send([1]) == 1 && clients[1].send([1]) == 1)
    for peer in peers { #expect(try peer.read(1) == [1]) }
  }

  @Test("A thousand connections")
  func thousand() throws {
    try #require(Machine.raiseDescriptorLimit() > 5_000)
    let owner = try Fixture { $0.connectionsMax = 1100 }
    let passage = try Passage(to: owner.server.port)
    let clients = try (0..<1000).map { _ in try Client(port: passage.port.number) }
    for (index, client) in clients.enumerated() { try client.start("echo", [UInt8(index & 255)]) }
    for (index, client) in clients.enumerated() {
      #expect(try client.answer(1).messages == [[UInt8(index & 255)]])
    }
    #expect(passage.forwarder.statistics.open == 1000)
    // The owner ends in order: its clients are told through the forwarder.
    owner.stop()
    for client in clients {
      #expect(try !client.read { _ in false } && !client.goAways.isEmpty && client.isClosed)
    }
  }

  @Test("A server follows on the forwarder's port")
  func followed() throws {
    let owner = try Owner()
    let passage = try Passage(to: owner.port, keepsListening: true)
    let old = try passage.connect()
    let peer = try owner.accept()
    passage.forwarder.shutDown()
    // Its time is over, and nothing has ended it before.
    #expect(try old.read() == [])
    #expect(try peer.read() == [])
    let between = try Client(port: passage.port.number)
    let server = try Fixture(port: passage.port)
    #expect(try between.call("echo").code == 0)
    server.stop()
  }

  @Test("A header names the client", arguments: ["127.0.0.1", "::1", "unix"])
  func proxyHeader(host: String) throws {
    let folder = try SocketFolder()
    let owner = try Owner()
    let passage = try Passage(
      to: owner.port, host: host == "unix" ? folder.socket : host, sendsProxyHeader: true)
    let client = try Peer(host: passage.port.host, port: passage.port.number)
    #expect(try client.send([9, 8]) == 2)
    let peer = try owner.accept()
    var header = ProxyHeader()
    while case .needs(let count) = header.progress {
      let bytes = try #require(try peer.read(count))
      if bytes.isEmpty { break }
      _ = header.take(bytes.span)
    }
    let expected =
      host == "unix"
      ? nil : host == "::1" ? PeerAddress(high: 0, low: 1) : PeerAddress(ipv4: 0x7f00_0001)
    #expect(header.progress == .whole(expected))
    #expect(try peer.read(2) == [9, 8])
  }

  @Test("An owner that reads such headers serves the client")
  func proxyHeaderServed() throws {
    let owner = try Fixture { $0.connectionPolicy.readsProxyHeaders = true }
    let passage = try Passage(to: owner.server.port, sendsProxyHeader: true)
    #expect(try Client(port: passage.port.number).call("echo", [3]).messages == [[3]])
  }
}
