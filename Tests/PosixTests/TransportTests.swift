import Foundation
import Glibc
import Posix
import Synchronization
import Testing

/// A server and a client that trust each other's certificates.
private struct Sides {
  let certificates: Certificates
  let server: TLSServerContext
  let client: TLSClientContext

  init(isMutual: Bool = false) throws {
    certificates = try Certificates()
    try certificates.make("server")
    try certificates.make("client", commonName: "shop")
    server = try TLSServerContext(
      certificates.files("server", clientAuthority: isMutual ? "ca" : nil))
    client = try TLSClientContext(
      authority: certificates.path("ca.pem"), files: isMutual ? certificates.files("client") : nil)
  }

  func pair(bufferBytes: Int32? = nil) throws -> TransportPair {
    let pair = try TransportPair(server: server, client: client, bufferBytes: bufferBytes)
    try pair.shakeHands()
    try #require(pair.clientHandshake == .done)
    try #require(pair.serverHandshake == .done)
    return pair
  }
}

private func noise(_ count: Int) -> [UInt8] {
  var state: UInt32 = 1
  return (0..<count).map { _ in
    state = state &* 1_664_525 &+ 1_013_904_223
    return UInt8(truncatingIfNeeded: state >> 24)
  }
}

private func firstBytes(_ bytes: [UInt8]) -> FirstBytes {
  unsafe bytes.withUnsafeBytes { unsafe FirstBytes($0) }
}

private func array(_ text: StaticString) -> [UInt8] {
  // A static string's bytes live for ever.
  unsafe Array(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
}

@Suite("Transports")
struct TransportTests {
  @Test("Plain: bytes, the end, a failure and blocking are told apart")
  func plain() throws {
    let pair = try TransportPair(server: nil, client: nil)
    #expect(!pair.client.isTLS && !pair.client.isHandshaking && pair.client.handshake() == .done)
    #expect(pair.read(\.server).result == .wouldBlock(.readable))
    #expect(pair.write(\.client, [1, 2, 3]) == .moved(3))
    #expect(try pair.await(\.server).bytes == [1, 2, 3])
    pair.client.endSending()
    #expect(try pair.await(\.server).result == .ended)
    #expect(pair.client.peerSubject == nil && pair.client.tlsVersion == nil)
    #expect(pair.write(\.client, [1]) == .failed(.socket(.brokenPipe)))
  }

  @Test("A handshake chooses TLS 1.3 and HTTP/2, and bytes go both ways")
  func handshake() throws {
    let sides = try Sides()
    let pair = try sides.pair()
    #expect(pair.server.tlsVersion == 0x0304)
    #expect(pair.server.hasChosenHTTP2 && pair.client.hasChosenHTTP2)
    #expect(!pair.server.isResumed)
    #expect(pair.server.peerSubject == nil)
    #expect(try pair.transfer([1, 2, 3], from: \.client, to: \.server) == [1, 2, 3])
    #expect(try pair.transfer([4], from: \.server, to: \.client) == [4])
    #expect(pair.read(\.server).result == .wouldBlock(.readable))
  }

  @Test("close_notify is the end, and both ways of leaving without it are not")
  func ends() throws {
    let sides = try Sides()
    let orderly = try sides.pair()
    #expect(orderly.write(\.client, [7]) == .moved(1))
    orderly.client.endSending()
    // The end comes right behind the byte, and is told although nothing more comes.
    #expect(try orderly.await(\.server).bytes == [7])
    #expect(try orderly.await(\.server).result == .ended)
    #expect(try orderly.await(\.server).result == .ended)
    // The other direction is still open.
    #expect(orderly.write(\.server, [8]) == .moved(1))
    #expect(try orderly.await(\.client).bytes == [8])
    #expect(orderly.write(\.client, [1]) == .failed(.socket(.brokenPipe)))

    let cut = try sides.pair()
    Socket.endSending(cut.client.descriptor)
    #expect(try cut.await(\.server).result == .failed(.truncated))

    let garbled = try sides.pair()
    #expect(garbled.write(\.client, [9]) == .moved(1))
    #expect(send([0x17, 3, 3, 0, 32] + noise(32), to: garbled.client.descriptor) == .moved(37))
    #expect(try garbled.await(\.server).bytes == [9])
    guard case .failed(.tls(let error)) = try garbled.await(\.server).result else {
      Issue.record("bytes that nobody encrypted were read")
      return
    }
    #expect("\(error)" == "decryption failed or bad record mac")
    #expect(garbled.write(\.server, [1]) != .moved(1))
  }

  @Test(
    "Sockets with little room: whatever moves at a time, all arrives", arguments: [2_048, 9_000])
  func partialWrites(bufferBytes: Int32) throws {
    let sides = try Sides()
    let pair = try sides.pair(bufferBytes: bufferBytes)
    let bytes = noise(300_000)
    #expect(try pair.transfer(bytes, from: \.client, to: \.server) == bytes)
    #expect(try pair.transfer(bytes, from: \.server, to: \.client) == bytes)
  }

  @Test("What was not written may move in memory and grow until it is written")
  func retries() throws {
    let sides = try Sides()
    let pair = try sides.pair(bufferBytes: 4_096)
    let bytes = noise(200_000)
    var sent = 0
    var blocked = 0
    while sent < 100_000 {
      // A copy at another place, and longer by the second try.
      let copy = Array(bytes[sent..<min(bytes.count, sent + 20_000 + blocked * 7)])
      switch pair.write(\.client, copy[...]) {
      case .moved(let count): sent += count
      case .wouldBlock(let readiness):
        blocked += 1
        #expect(readiness == .writable)
        try #require(blocked < 10_000)
        var received: [UInt8] = []
        repeat { received = pair.read(\.server).bytes } while !received.isEmpty
      default:
        Issue.record("the write failed")
        return
      }
    }
    #expect(blocked > 0)
  }

  @Test("Nothing stays hidden in TLS: a read takes every whole record")
  func nothingHidden() throws {
    let sides = try Sides()
    let pair = try sides.pair()
    // Less than a socket holds.
    let bytes = noise(50_000)
    try #require(pair.write(\.client, bytes[...]) == .moved(bytes.count))
    // All of it is at the other side's socket before the first read.
    var waiting: Int32 = 0
    let patience = ContinuousClock.now + .seconds(10)
    while waiting < bytes.count, ContinuousClock.now < patience {
      _ = unsafe ioctl(pair.server.descriptor, UInt(FIONREAD), &waiting)
    }
    #expect(pair.read(\.server).bytes == bytes)
    #expect(pair.read(\.server).result == .wouldBlock(.readable))
  }

  @Test("Big transfers both ways at once")
  func big() throws {
    let sides = try Sides()
    let pair = try sides.pair()
    let bytes = noise(2 << 20)
    #expect(try pair.transfer(bytes, from: \.client, to: \.server) == bytes)
    pair.server.releaseIdleBuffers()
    pair.client.releaseIdleBuffers()
    #expect(try pair.transfer(bytes, from: \.server, to: \.client) == bytes)
  }

  @Test("Memory for records is given back only between records")
  func releasing() throws {
    let sides = try Sides()
    let pair = try sides.pair(bufferBytes: 2_048)
    let bytes = noise(40_000)
    var sent = 0
    var received: [UInt8] = []
    while received.count < bytes.count {
      if sent < bytes.count, case .moved(let count) = pair.write(\.client, bytes[sent...]) {
        sent += count
      }
      pair.client.releaseIdleBuffers()
      pair.server.releaseIdleBuffers()
      received += pair.read(\.server).bytes
    }
    #expect(received == bytes)
  }

  @Test(
    "A client without TLS is told apart by its first bytes",
    arguments: [
      ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstBytes.http2),
      ("GET / HTTP/1.1\r\n\r\n", .http1), ("\u{0}\u{1}\u{2}", .unknown), ("\u{16}ab", .unknown),
    ])
  func plaintextClient(text: String, kind: FirstBytes) throws {
    let sides = try Sides()
    let pair = try TransportPair(server: sides.server, client: nil)
    #expect(pair.server.isHandshaking)
    #expect(pair.write(\.client, Array(text.utf8)[...]) == .moved(text.utf8.count))
    #expect(try waitFor(pair.server.descriptor))
    #expect(pair.server.handshake() == .failed(.notTLS(kind)))
    #expect(pair.read(\.server).result == .failed(.notTLS(kind)))
    #expect(pair.write(\.server, [1]) == .failed(.notTLS(kind)))
    // TLS said nothing by itself: the owner answers in the client's own words.
    pair.server.endSending()
    #expect(try pair.await(\.client).result == .ended)
  }

  @Test(
    "A TLS client is told that the server does not speak it",
    arguments: [
      (String(decoding: [0, 0, 0, 4, 0, 0, 0, 0, 0] as [UInt8], as: UTF8.self), FirstBytes.http2),
      ("HTTP/1.1 400 Bad Request\r\n\r\n", .http1),
    ])
  func plaintextServer(text: String, kind: FirstBytes) throws {
    let sides = try Sides()
    let pair = try TransportPair(server: nil, client: sides.client)
    #expect(pair.client.handshake() == .wouldBlock(.readable))
    let hello = try pair.await(\.server).bytes
    #expect(firstBytes(hello) == .tls)
    #expect(pair.write(\.server, Array(text.utf8)[...]) == .moved(text.utf8.count))
    #expect(try waitFor(pair.client.descriptor))
    #expect(pair.client.handshake() == .failed(.notTLS(kind)))
  }

  @Test("A plain port's alert ends a TLS client's handshake with a reason")
  func alertOfPlainPort() throws {
    let sides = try Sides()
    let pair = try TransportPair(server: nil, client: sides.client)
    _ = pair.client.handshake()
    let bytes = array(FirstBytes.answerOfPlainPort)
    #expect(pair.write(\.server, bytes[...]) == .moved(7))
    #expect(try waitFor(pair.client.descriptor))
    guard case .failed(.tls(let error)) = pair.client.handshake() else {
      Issue.record("the alert was not read")
      return
    }
    #expect("\(error)".contains("handshake failure"))
  }

  @Test("A peer that ends in the handshake, one that talks on and on, and one that breaks off")
  func unfinishedHandshakes() throws {
    let sides = try Sides()
    let ended = try TransportPair(server: sides.server, client: nil)
    #expect(ended.write(\.client, [0x16, 3, 1]) == .moved(3))
    ended.client.endSending()
    var result = Handshake.wouldBlock(.readable)
    while case .wouldBlock = result {
      try #require(try waitFor(ended.server.descriptor))
      result = ended.server.handshake()
    }
    #expect(result == .failed(.endedInHandshake))

    // A hello of 128 KiB, as OpenSSL would take it: its records are full.
    let long = try TransportPair(server: sides.server, client: nil)
    var hello: [UInt8] = [1, 1, 0xff, 0xff, 3, 3] + noise(32) + [0]
    hello += [UInt8](repeating: 0, count: 120_000)
    var records: [UInt8] = []
    for start in stride(from: 0, to: hello.count, by: 16_000) {
      let part = hello[start..<min(hello.count, start + 16_000)]
      records += [0x16, 3, 1, UInt8(part.count >> 8), UInt8(part.count & 255)] + part
    }
    var sent = 0
    result = .wouldBlock(.readable)
    while case .wouldBlock = result {
      if sent < records.count, case .moved(let count) = long.write(\.client, records[sent...]) {
        sent += count
      }
      result = long.server.handshake()
    }
    #expect(result == .failed(.handshakeTooLarge))
  }

  @Test("Garbage of every length ends a handshake, on both sides, without a trap")
  func garbage() throws {
    let sides = try Sides()
    for length in [1, 5, 6, 11, 100, 1_000, 20_000] {
      for isServer in [true, false] {
        let pair = try TransportPair(
          server: isServer ? sides.server : nil, client: isServer ? nil : sides.client)
        let victim: KeyPath<TransportPair, Transport> = isServer ? \.server : \.client
        let attacker: KeyPath<TransportPair, Transport> = isServer ? \.client : \.server
        if !isServer { _ = pair.client.handshake() }
        _ = pair.write(attacker, ([0x16, 3, 3] + noise(length))[...])
        pair[keyPath: attacker].endSending()
        var result = Handshake.wouldBlock(.readable)
        while case .wouldBlock = result {
          try #require(try waitFor(pair[keyPath: victim].descriptor))
          result = pair[keyPath: victim].handshake()
        }
        guard case .failed = result else {
          Issue.record("garbage shook hands")
          return
        }
      }
    }
  }
}

@Suite("First bytes")
struct FirstBytesTests {
  @Test(
    "What a connection begins with",
    arguments: [
      ([], FirstBytes.unknown), ([0x16], .tls), ([0x16, 3], .tls), ([0x15, 3, 3], .tls),
      ([0x16, 4], .unknown), (Array("P".utf8), .http2), (Array("PRI * HTTP/2.0\r\n".utf8), .http2),
      (Array("PRI * HTTP/3.0".utf8), .http1), (Array("POST / HTTP/1.1".utf8), .http1),
      (Array("get /".utf8), .unknown), ([0, 0, 18, 4], .http2), ([0, 0, 18, 9], .unknown),
    ])
  func kinds(bytes: [UInt8], kind: FirstBytes) {
    #expect(firstBytes(bytes) == kind)
  }

  @Test("The answer to HTTP/2 is a whole GOAWAY; to HTTP/1 a whole response")
  func answers() {
    let http2 = array(FirstBytes.http2.answerOfTLSPort)
    #expect(http2.count == 9 + 28)
    #expect(Array(http2[..<9]) == [0, 0, 28, 7, 0, 0, 0, 0, 0])
    #expect(Array(http2[9..<17]) == [0, 0, 0, 0, 0, 0, 0, 12])
    #expect(http2[17...].elementsEqual("this port speaks TLS".utf8))
    let http1 = String(decoding: array(FirstBytes.http1.answerOfTLSPort), as: UTF8.self)
    let parts = http1.split(separator: "\r\n\r\n", maxSplits: 1)
    #expect(parts.count == 2 && parts[1].utf8.count == 21)
    #expect(FirstBytes.unknown.answerOfTLSPort.utf8CodeUnitCount == 0)
  }
}
