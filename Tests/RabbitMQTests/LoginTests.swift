// How a connection begins, and how it does not.
import BrokerTesting
import Messaging
import Posix
import Testing

@testable import RabbitMQ

struct LoginTests {
  private func failure(_ access: BrokerAccess) -> BrokerError? {
    do throws(BrokerError) {
      _ = try RabbitMQConnection.connect(access)
      return nil
    } catch { return error }
  }

  private enum Kind { case away, unsuitable, messageRefused }

  private func kind(_ error: BrokerError?) -> Kind? {
    switch error {
    case .away: .away
    case .unsuitable: .unsuitable
    case .messageRefused: .messageRefused
    case nil: nil
    }
  }

  private func text(_ error: BrokerError?) -> String {
    switch error {
    case .away(let text), .unsuitable(let text), .messageRefused(_, let text): text
    case nil: ""
    }
  }

  @Test func saysWhoItIs() throws {
    let peer = try ScriptedPeer { peer in
      let startOK = try peer.logIn(until: .startOK)
      let text = String(decoding: startOK, as: UTF8.self)
      guard text.contains("holdfast-test"), text.contains("connection.blocked"),
        text.contains("PLAIN"), text.contains("\u{0}shop\u{0}word")
      else { throw PeerError("no login: \(text)") }
      try peer.send(method(M.tune, u16(0) + u32(0) + u16(0), channel: 0))
      let tuneOK = try peer.expect(M.tuneOK, channel: 0)
      guard tuneOK == u16(8) + u32(131_072) + u16(10) else { throw PeerError("\(tuneOK)") }
      guard try peer.expect(M.open, channel: 0) == short("orders") + short("") + [0] else {
        throw PeerError("no virtual host")
      }
      try peer.send(method(M.openOK, short(""), channel: 0))
      try peer.expect(M.channelOpen)
      try peer.send(method(M.channelOpenOK, long("")))
      guard try peer.expect(M.select) == [0] else { throw PeerError("no confirms") }
      try peer.send(method(M.selectOK))
      try peer.expect(M.close, channel: 0)
      try peer.send(method(M.closeOK, channel: 0))
    }
    let connection = try peer.connect()
    connection.close()
    connection.close()
    #expect(peer.finish() == [])
    #expect(throws: BrokerError.away("closed")) { try connection.poll(milliseconds: 0) { _ in } }
    #expect(throws: BrokerError.away("closed")) {
      _ = try connection.publish(BrokerMessage(to: ""))
    }
  }

  @Test(arguments: Peer.Phase.allCases)
  func isAwayWhereTheBrokerHangsUp(_ phase: Peer.Phase) throws {
    let peer = try ScriptedPeer { try $0.logIn(until: phase) }
    #expect(kind(failure(peer.access())) == .away)
    #expect(peer.finish() == [])
  }

  @Test(
    arguments: [
      (.startOK, 403, "ACCESS_REFUSED - Login was refused", true),
      (.open, 530, "NOT_ALLOWED - vhost orders not found", true),
      (.open, 403, "ACCESS_REFUSED - access to vhost refused", true),
      (.startOK, 320, "CONNECTION_FORCED - Node was put into maintenance mode", false),
      (.channelOpen, 541, "INTERNAL_ERROR", false),
      (.select, 540, "NOT_IMPLEMENTED - no confirms", true),
    ] as [(Peer.Phase, UInt16, String, Bool)])
  func tellsWhyTheBrokerCloses(
    _ phase: Peer.Phase, _ code: UInt16, _ words: String, _ isUnsuitable: Bool
  ) throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn(until: phase)
      try peer.send(method(M.close, close(code, words), channel: 0))
      try peer.expect(M.closeOK, channel: 0)
    }
    let error = failure(peer.access())
    #expect(kind(error) == (isUnsuitable ? .unsuitable : .away))
    #expect(text(error).contains(words))
    #expect(!text(error).contains("word"))
    #expect(peer.finish() == [])
  }

  @Test(arguments: [
    ("AMQP\u{0}\u{0}\u{9}\u{0}", "does not speak AMQP 0-9-1"),
    ("\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}\u{28}", "TLS"),
    ("HTTP/1.1 400 Bad Request\r\n\r\n", "no AMQP"),
    ("SSH-2.0-OpenSSH\r\n", "no AMQP"),
  ])
  func noticesOtherProtocols(_ bytes: String, _ words: String) throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn(until: .header)
      try peer.send(Array(bytes.utf8))
      peer.waitForEnd()
    }
    let error = failure(peer.access())
    #expect(kind(error) == .unsuitable)
    #expect(text(error).contains(words))
    #expect(peer.finish() == [])
  }

  /// What a broker says instead of what has to come.
  private static let nonsense: [(Peer.Phase, [UInt8])] = [
    (.header, method(M.tune, u16(0) + u32(0) + u16(0), channel: 0)),
    (.header, method(M.start, [0, 9], channel: 0)),
    (.header, method(M.start, [0, 9] + u32(0xffff_ffff) + long("PLAIN") + long("x"), channel: 0)),
    // A table in a table, a thousand times: above what a method may have.
    (
      .header,
      method(
        M.start,
        [0, 9]
          + (0..<2000).reduce([UInt8]()) { table, _ in
            long([1, 97, 70] + (table.isEmpty ? u32(0) : table))
          }
          + long("PLAIN") + long("en_US"), channel: 0)
    ),
    (.header, frame(1, 0, [0, 10])),
    (.header, frame(1, 0, u32(0xffff_ffff))),
    (.startOK, method(M.tune, u16(0) + u32(100) + u16(0), channel: 0)),
    (.startOK, method(M.start, [0, 9] + long([]) + long("PLAIN") + long("x"), channel: 0)),
    (.startOK, method(M.channelOpenOK, long(""))),
    (.open, method(M.closeOK, channel: 0)),
    (.channelOpen, method(M.channelOpenOK, long(""), channel: 7)),
    (.select, [1, 0, 1, 0xff, 0xff, 0xff, 0xff]),
    (.select, method(M.selectOK).dropLast() + [0xcd]),
  ]

  @Test(arguments: nonsense.indices)
  func survivesNonsense(_ index: Int) throws {
    let (phase, bytes) = Self.nonsense[index]
    let peer = try ScriptedPeer { peer in
      try peer.logIn(until: phase)
      try peer.send(bytes)
      peer.waitForEnd()
    }
    let error = failure(peer.access())
    #expect(kind(error) == .away)
    #expect(text(error).hasPrefix("not AMQP"), "\(text(error))")
    #expect(peer.finish() == [])
  }

  /// Of two addresses one takes connections and says nothing, such as a machine that stands still.
  @Test func passesOverAnAddressThatSaysNothing() throws {
    let isOver = try Wakeup()
    let mute = try ScriptedPeer { _ in _ = isOver.wait(nanoseconds: 60_000_000_000) }
    let peer = try ScriptedPeer(host: "127.0.0.2", port: mute.port) { peer in
      try peer.logIn()
      peer.waitForEnd()
    }
    let access = mute.access()
    guard case .amqp(let address) = access.address else { return }
    let connection = try RabbitMQConnection.connect(
      access, address, at: ["127.0.0.1", "127.0.0.2"])
    connection.close()
    isOver.signal()
    #expect(mute.finish() == [] && peer.finish() == [])
  }

  @Test func wantsALoginThatItKnows() throws {
    var manners = Peer.Manners()
    manners.mechanisms = "SCRAM-SHA-256"
    let peer = try ScriptedPeer { [manners] peer in
      try peer.logIn(manners, until: .startOK)
    }
    #expect(kind(failure(peer.access())) == .unsuitable)
    _ = peer.finish()
    let second = try ScriptedPeer { peer in
      try peer.logIn(until: .startOK)
      try peer.send(method(M.secure, long("who?"), channel: 0))
      peer.waitForEnd()
    }
    #expect(kind(failure(second.access())) == .unsuitable)
    #expect(second.finish() == [])
  }

  @Test func tellsWhatCannotBe() throws {
    let nobody = try Socket.bind(host: "127.0.0.1", port: 0)
    let port = try Socket.localPort(nobody.number)
    func made(_ text: String, _ change: (inout BrokerAccess) -> Void = { _ in }) -> BrokerAccess {
      var access = BrokerAccess(BrokerAddress(text)!, program: "test")
      change(&access)
      return access
    }
    #expect(kind(failure(made("amqp://127.0.0.1:\(port)"))) == .away)
    #expect(kind(failure(made("amqp://no-such-host.invalid"))) == .away)
    #expect(kind(failure(made("kafka://127.0.0.1:\(port)"))) == .unsuitable)
    let options = made("amqp://127.0.0.1:\(port)") { $0.properties = [("a", "b")] }
    #expect(kind(failure(options)) == .unsuitable)
    let file = made("amqps://127.0.0.1:\(port)") { $0.authorityFile = "/none/ca.pem" }
    #expect(kind(failure(file)) == .unsuitable)
    let long = String(repeating: "p", count: 5000)
    let peer = try ScriptedPeer { peer in
      _ = try? peer.logIn(until: .startOK)
    }
    var access = peer.access()
    access.password = long
    #expect(kind(failure(access)) == .unsuitable)
    _ = peer.finish()
    // Until here the port is nobody else's.
    #expect(nobody.number >= 0)
  }

  @Test func refusesAPlainPortForTLS() throws {
    let peer = try ScriptedPeer { peer in
      try peer.send(Array("AMQP\u{0}\u{0}\u{9}\u{1}".utf8))
      peer.waitForEnd()
    }
    let access = BrokerAccess(BrokerAddress("amqps://127.0.0.1:\(peer.port)")!, program: "test")
    let error = failure(access)
    #expect(kind(error) == .unsuitable)
    #expect(text(error).hasPrefix("TLS: "))
    _ = peer.finish()
  }
}
