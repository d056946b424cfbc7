// What a broker says: to what cuts and reads its bytes alone, and to a whole connection.
internal import BrokerTesting
internal import Messaging
internal import Posix
internal import Synchronization

@testable internal import RabbitMQ

enum BrokerFuzz {
  // MARK: Bytes

  private enum Heard: Equatable {
    case method(ServerMethod)
    case header(ContentHeader)
    case content(kind: UInt8, channel: UInt16, byteCount: Int)
    case fault(BrokerError)
  }

  /// Frames, up to the first fault: the first byte of the input says in what pieces they come. What is made of them must not
  /// depend on it.
  static func frames(_ input: [UInt8]) {
    let bytes = input[1...]
    precondition(
      heard(bytes, step: 1 + Int(input[0])) == heard(bytes, step: .max),
      "frames that depend on how their bytes were cut")
  }

  private static func heard(_ bytes: ArraySlice<UInt8>, step: Int) -> [Heard] {
    var frames = FrameReader(
      payloadBytesMax: Link.frameBytesMax,
      capacity: 2 * Link.frameBytesMax + Transport.readBytesMin)
    defer { frames.free() }
    let codec = MethodCodec()
    var headers = HeaderReader()
    var heard: [Heard] = []
    var rest = bytes
    do throws(BrokerError) {
      while !rest.isEmpty {
        let room = unsafe frames.room()
        let count = min(step, room.count, rest.count)
        precondition(count > 0, "no room for the rest of a frame")
        unsafe room.copyBytes(from: rest.prefix(count))
        rest = rest.dropFirst(count)
        frames.received(count)
        while let frame = try frames.next() {
          heard.append(try what(frame, codec, &headers))
        }
      }
    } catch { heard.append(.fault(error)) }
    return heard
  }

  private static func what(
    _ frame: Frame, _ codec: MethodCodec, _ headers: inout HeaderReader
  ) throws(BrokerError) -> Heard {
    switch frame.kind {
    case .method: return .method(try unsafe codec.decode(frame.payload))
    case .header: return .header(try unsafe headers.read(frame.payload))
    case .body, .heartbeat:
      return unsafe .content(
        kind: frame.kind.rawValue, channel: frame.channel, byteCount: frame.payload.count)
    }
  }

  // MARK: A connection

  /// What the peer says next, all at once.
  private static let script = Mutex<[UInt8]>([])

  /// Says its bytes as soon as somebody connects, and no more; and lets him go only when he has heard all.
  private static let peer: ScriptedPeer = {
    let peer = try? ScriptedPeer { peer in
      try? peer.send(script.withLock { $0 })
      peer.endSending()
      peer.waitForEnd()
    }
    guard let peer else { preconditionFailure("no port to listen on") }
    return peer
  }()

  private static let prefetch = 4
  private static let answers: [[UInt8]] = [
    method(M.start, [0, 9] + long([]) + long("PLAIN") + long("en_US"), channel: 0),
    method(M.tune, u16(2047) + u32(4096) + u16(60), channel: 0),
    method(M.openOK, short(""), channel: 0), method(M.channelOpenOK, long("")),
    method(M.selectOK), method(M.exchangeDeclareOK),
    method(M.queueDeclareOK, short("dead") + u32(0) + u32(0)), method(M.qosOK),
    method(M.consumeOK, short("0")),
  ]

  /// A connection that publishes and consumes: the first byte of the input says how many of the right answers come before the
  /// rest. It ends, and of each message the end is told once.
  static func connection(_ input: [UInt8]) {
    let count = min(Int(input[0] & 15), answers.count)
    script.withLock { $0 = Array(answers.prefix(count).joined()) + input[1...] }
    let connection: RabbitMQConnection
    do throws(BrokerError) { connection = try RabbitMQConnection.connect(peer.access()) } catch {
      return
    }
    let failure = use(connection)
    do throws(BrokerError) {
      _ = try connection.publish(BrokerMessage(to: "events"))
      preconditionFailure("it goes on behind its end")
    } catch { precondition(error == failure, "another end than before") }
    connection.close()
  }

  private static func use(_ connection: RabbitMQConnection) -> BrokerError {
    var told: Set<UInt64> = []
    var last: UInt64 = 0
    var unaccepted: [UInt64] = []
    do throws(BrokerError) {
      try connection.declare([.destination("events"), .deadLetters("dead")])
      try connection.consume([.deadLetters("dead")], prefetch: prefetch, group: "")
      for (number, destination) in ["events", "", "events", ""].enumerated() {
        let message = BrokerMessage(to: destination, routingKey: "key", id: "id", body: [1, 2])
        let given = try connection.publish(message)
        precondition(given == UInt64(number) + 1, "messages are counted")
      }
      while true {
        try connection.poll(milliseconds: 1000) { notice in
          switch notice {
          case .confirmed(let number), .postponed(let number, _), .refused(let number, _, _):
            precondition(
              1...4 ~= number && told.insert(number).inserted, "told twice, or of nothing")
          case .delivery(let delivery):
            precondition(delivery.tag > last, "a tag that was there before")
            precondition(delivery.body.count <= RabbitMQConnection.bodyBytesMax)
            last = delivery.tag
            unaccepted.append(delivery.tag)
            precondition(unaccepted.count <= prefetch, "more than it was asked for")
          case .blocked: break
          }
        }
        if !unaccepted.isEmpty {
          try connection.accept([unaccepted.remove(at: Int(last) % unaccepted.count)])
        }
      }
    } catch { return error }
  }
}
