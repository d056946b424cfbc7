// What becomes of messages: confirmed, postponed, refused; and how connections end over them.
import BrokerTesting
import Messaging
import Posix
import Testing

@testable import RabbitMQ

struct PublishTests {
  private func message(
    _ id: String = "id", to destination: String = "events", body: [UInt8] = [1, 2, 3]
  ) -> BrokerMessage {
    BrokerMessage(
      to: destination, routingKey: "StockReserved.a", partitionKey: "a", id: id,
      type: "StockReserved", source: "holdfast", contentType: "application/json",
      time: 1_764_000_000_500_000_000, body: body)
  }

  /// Messages 1 to 4 are published. What the broker says, what that means.
  private static let answers: [([[UInt8]], [String])] = [
    (
      [method(M.ack, u64(1) + [0]), method(M.ack, u64(4) + [1])],
      ["confirmed 1", "confirmed 2", "confirmed 3", "confirmed 4"]
    ),
    ([method(M.ack, u64(0) + [1])], ["confirmed 1", "confirmed 2", "confirmed 3", "confirmed 4"]),
    (
      [
        method(M.ack, u64(3) + [0]), method(M.ack, u64(3) + [0]), method(M.ack, u64(2) + [1]),
        method(M.ack, u64(2) + [1]), method(M.ack, u64(4) + [1]),
      ],
      ["confirmed 3", "confirmed 1", "confirmed 2", "confirmed 4"]
    ),
    (
      [method(M.nack, u64(2) + [1]), method(M.ack, u64(4) + [1])],
      ["postponed 1", "postponed 2", "confirmed 3", "confirmed 4"]
    ),
    (
      [method(M.nack, u64(4) + [0]), method(M.ack, u64(3) + [1])],
      ["postponed 4", "confirmed 1", "confirmed 2", "confirmed 3"]
    ),
    (
      [
        method(M.blocked, short("low on disk"), channel: 0), method(M.ack, u64(4) + [1]),
        method(M.unblocked, channel: 0),
      ],
      [
        "blocked low on disk", "confirmed 1", "confirmed 2", "confirmed 3", "confirmed 4",
        "blocked no more",
      ]
    ),
  ]

  @Test(arguments: answers.indices)
  func tellsWhatBecameOfThem(_ index: Int) throws {
    let (sent, expected) = Self.answers[index]
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      for _ in 1...4 { _ = try peer.expectMessage() }
      for part in sent { try peer.send(part) }
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    for number in 1...4 { #expect(try connection.publish(message()) == UInt64(number)) }
    #expect(words(try told(connection, until: expected.count)) == expected)
    try connection.poll(milliseconds: 0) { Issue.record("\($0)") }
    connection.close()
    #expect(peer.finish() == [])
  }

  /// What names a queue comes back where there is none. A direct reply-to is no queue: it would come back in any case.
  @Test(
    arguments: [
      ("events", "a", 0), ("", "inbox", 1), ("", "amq.rabbitmq.reply-to.g1h.abc==", 0),
      ("", "amq.rabbitmq.reply-to", 1),
    ] as [(String, String, UInt8)])
  func asksForItsReturn(_ destination: String, _ key: String, _ isMandatory: UInt8) throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      let publish = try peer.expectMessage().publish
      guard publish == u16(0) + short(destination) + short(key) + [isMandatory] else {
        throw PeerError("\(publish)")
      }
      try peer.send(method(M.ack, u64(1) + [0]))
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    _ = try connection.publish(BrokerMessage(to: destination, routingKey: key, id: "id"))
    #expect(words(try told(connection)) == ["confirmed 1"])
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func tellsWhatComesBack() throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      var headers: [[UInt8]] = []
      for _ in 1...3 {
        let (publish, header, _) = try peer.expectMessage()
        // Ticket, exchange, routing key, mandatory.
        guard publish == u16(0) + short("") + short("StockReserved.a") + [1] else {
          throw PeerError("\(publish)")
        }
        headers.append(header)
      }
      let returned = u16(312) + short("NO_ROUTE") + short("") + short("StockReserved.a")
      try peer.send(method(M.return, returned) + frame(2, 1, headers[1]) + body([1, 2, 3]))
      // Of no message of ours.
      try peer.send(method(M.return, returned) + header(2) + body([1]) + body([1]))
      try peer.send(method(M.ack, u64(3) + [1]))
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    for id in ["a", "b", "c"] { _ = try connection.publish(message(id, to: "")) }
    let notices = try told(connection, until: 3)
    #expect(words(notices) == ["confirmed 1", "refused 2 UNROUTABLE", "confirmed 3"])
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func keepsWhatCannotBeWritten() throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      _ = try peer.expectMessage()
      _ = try peer.expectMessage()
      try peer.send(method(M.ack, u64(2) + [1]))
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    _ = try connection.publish(message())
    let long = String(repeating: "x", count: 256)
    var key = message()
    key.routingKey = long
    var type = message()
    type.type = long
    var name = message()
    name.attributes = [(long, "")]
    var attributes = message()
    attributes.attributes = (0..<600).map { ("a\($0)", long) }
    for bad in [message(long), key, type, name, attributes] { _ = try connection.publish(bad) }
    #expect(try connection.publish(message()) == 7)
    let expected = (2...5).map { "refused \($0) NAME_TOO_LONG" } + ["refused 6 MESSAGE_TOO_LARGE"]
    #expect(words(try told(connection, until: 7)) == expected + ["confirmed 1", "confirmed 7"])
    connection.close()
    #expect(peer.finish() == [])
  }

  private static let closings: [([UInt8], BrokerError)] = [
    (
      method(M.channelClose, close(404, "NOT_FOUND - no exchange 'events'", about: M.publish)),
      .unsuitable("NOT_FOUND - no exchange 'events'")
    ),
    (
      method(M.channelClose, close(403, "ACCESS_REFUSED - no", about: M.publish)),
      .unsuitable("ACCESS_REFUSED - no")
    ),
    (
      method(
        M.channelClose,
        close(406, "PRECONDITION_FAILED - message size 9 is larger than 8", about: M.publish)),
      .messageRefused(
        reason: "MESSAGE_TOO_LARGE", text: "PRECONDITION_FAILED - message size 9 is larger than 8")
    ),
    (
      method(M.channelClose, close(311, "CONTENT_TOO_LARGE", about: M.publish)),
      .messageRefused(reason: "MESSAGE_TOO_LARGE", text: "CONTENT_TOO_LARGE")
    ),
    (
      method(M.channelClose, close(406, "PRECONDITION_FAILED - fast reply", about: M.publish)),
      .messageRefused(reason: "REJECTED", text: "PRECONDITION_FAILED - fast reply")
    ),
    (
      method(M.channelClose, close(406, "PRECONDITION_FAILED - acknowledgement timed out")),
      .away("the broker ends the channel: PRECONDITION_FAILED - acknowledgement timed out")
    ),
    (
      method(M.close, close(320, "CONNECTION_FORCED - \u{1b}[31mby\nhand"), channel: 0),
      .away("the broker ends the connection: CONNECTION_FORCED -  [31mby hand")
    ),
    (
      method(M.close, close(501, ""), channel: 0), .away("the broker ends the connection: code 501")
    ),
    ([], .away("the broker closed the connection")),
  ]

  @Test(arguments: closings.indices)
  func tellsWhyItEnds(_ index: Int) throws {
    let (sent, expected) = Self.closings[index]
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      _ = try peer.expectMessage()
      // What was said before that counts.
      try peer.send(method(M.ack, u64(1) + [0]) + sent)
      if !sent.isEmpty { peer.waitForEnd() }
    }
    let connection = try peer.connect()
    _ = try connection.publish(message())
    var notices: [BrokerNotice] = []
    #expect(ending(connection) { notices.append($0) } == expected)
    #expect(words(notices) == ["confirmed 1"])
    #expect(throws: expected) { try connection.poll(milliseconds: 0) { _ in } }
    #expect(throws: expected) { _ = try connection.publish(message()) }
    connection.close()
    #expect(peer.finish() == [])
  }

  /// Behind a login, and with one message published.
  private static let faults: [[UInt8]] = [
    [9, 0, 0, 0, 0, 0, 0, 0xce],
    [1, 0, 1, 0, 2, 0, 1],
    [3, 0, 1, 0x7f, 0xff, 0xff, 0xff],
    frame(1, 1, [0, 60, 0, 80, 0]).dropLast() + [0],
    frame(1, 1, []),
    frame(1, 1, u32(M.ack)),
    method(0x003c_7777),
    method(0x7777_0001),
    method(M.ack, u64(1) + [0], channel: 2),
    method(M.ack, u64(1) + [0], channel: 0),
    method(M.blocked, short("x"), channel: 1),
    method(M.ack, u64(2) + [0]),
    method(M.ack, u64(.max) + [1]),
    method(M.ack, u64(0) + [0]),
    method(M.nack, u64(7) + [0]),
    method(M.channelOpenOK, long("")),
    method(M.openOK, short(""), channel: 0),
    method(M.start, [0, 9] + long([]) + long("PLAIN") + long("x"), channel: 0),
    deliver(1),
    header(1),
    body([1]),
    frame(2, 0, u16(60) + u16(0) + u64(0) + u16(0)),
    frame(3, 9, [1]),
    method(M.return, u16(312) + short("") + short("") + short("")) + body([1]),
    method(M.return, u16(312) + short("") + short("") + short("")) + method(M.ack, u64(1) + [0]),
    method(M.return, u16(312) + short("") + short("") + short("")) + frame(2, 1, u16(60)),
    method(M.return, u16(312) + short("") + short("") + short("")) + header(1) + body([1, 2]),
    method(M.return, u16(312) + short("") + short("") + short("")) + header(1) + header(1),
    method(M.return, u16(312) + [200, 1]),
  ]

  @Test(arguments: faults.indices)
  func endsAtWhatIsNotAMQP(_ index: Int) throws {
    let bytes = Self.faults[index]
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      _ = try peer.expectMessage()
      try peer.send(bytes)
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    _ = try connection.publish(message())
    guard case .away(let text) = ending(connection) else {
      Issue.record("it goes on")
      return
    }
    #expect(text.hasPrefix("not AMQP: "), "\(text)")
    connection.close()
    #expect(peer.finish() == [])
  }

  /// Whatever comes, in whatever pieces, it ends or goes on: it neither traps nor waits.
  @Test func survivesRandomBytes() throws {
    let peer = try ScriptedPeer { peer in
      var random = SystemRandomNumberGenerator()
      try peer.logIn()
      let parts = [
        method(M.ack, u64(1) + [0]), method(M.deliver, short("0") + u64(1) + [0]), header(3),
      ]
      for _ in 0..<20 {
        var bytes = parts.randomElement(using: &random)!
        for _ in 0..<Int.random(in: 1...4, using: &random) {
          bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(
            in: 0...255, using: &random)
        }
        try? peer.send(bytes)
      }
      peer.waitForEnd()
    }
    for _ in 0..<50 {
      let connection = try peer.connect()
      _ = try connection.publish(message())
      for _ in 0..<3 where (try? connection.poll(milliseconds: 5, { _ in })) == nil { break }
      connection.close()
    }
    #expect(peer.finish() == [])
  }

  @Test func waitsForNobodyToRead() throws {
    let isOver = try Wakeup()
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      // Half a frame, and no more; and nothing is read until the client has given up.
      try peer.send([1, 0, 1, 0, 0])
      _ = isOver.wait(nanoseconds: 60_000_000_000)
    }
    let connection = try peer.connect()
    let large = message(body: [UInt8](repeating: 7, count: 1 << 20))
    // More than any socket's buffers.
    for _ in 0..<40 { _ = try connection.publish(large) }
    let start = SystemClock.monotonicNanoseconds()
    for _ in 0..<5 { try connection.poll(milliseconds: 10) { Issue.record("\($0)") } }
    #expect(SystemClock.monotonicNanoseconds() - start < 10_000_000_000)
    connection.close()
    isOver.signal()
    #expect(peer.finish() == [])
  }

  @Test func noticesADeadPeer() throws {
    var manners = Peer.Manners()
    manners.heartbeatSeconds = 1
    let peer = try ScriptedPeer { [manners] peer in
      try peer.logIn(manners)
      // It has to say that it is alive while it has nothing to say.
      guard try peer.anyFrame().kind == 8 else { throw PeerError("no heartbeat") }
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    #expect(ending(connection) == .away("nothing came from the broker for 2 s"))
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func writesWhatOthersRead() throws {
    let peer = try ScriptedPeer { peer in
      var manners = Peer.Manners()
      manners.frameBytesMax = 4096
      try peer.logIn(manners)
      let (publish, header, body) = try peer.expectMessage()
      guard publish == u16(0) + short("events") + short("StockReserved.a") + [0],
        body == [UInt8](repeating: 7, count: 10_000)
      else { throw PeerError("\(publish)") }
      func row(_ name: String, _ value: String) -> [UInt8] { short(name) + [0x53] + long(value) }
      let table =
        row("cloudEvents_specversion", "1.0") + row("cloudEvents_id", "id")
        + row("cloudEvents_source", "holdfast") + row("cloudEvents_type", "StockReserved")
        + row("cloudEvents_partitionkey", "a")
        + row("cloudEvents_time", "2025-11-24T16:00:00.500Z") + row("cloudEvents_subject", "a")
      // Content type, headers, delivery mode, correlation id, reply-to, message id, timestamp, type, app id.
      let expected =
        u16(60) + u16(0) + u64(10_000) + u16(0b1011_0110_1110_1000) + short("application/json")
        + long(table) + [2] + short("other") + short("answers") + short("id") + u64(1_764_000_000)
        + short("StockReserved") + short("holdfast-test/1.0")
      guard header == expected else { throw PeerError("\(header) \(expected)") }
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    var message = message(body: [UInt8](repeating: 7, count: 10_000))
    message.correlationID = "other"
    message.replyTo = "answers"
    message.attributes = [("subject", "a")]
    _ = try connection.publish(message)
    connection.close()
    #expect(peer.finish() == [])
  }
}
