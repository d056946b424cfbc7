// What an Outbox is told, and what it tells.
internal import Bytes
internal import Glibc
internal import Posix

/// How many messages may wait for the broker.
package struct OutboxLimits: Sendable {
  /// Messages that are not settled, or are and come behind one that is not.
  package var messagesMax: Int
  /// Of the messages that are not settled, with their attributes.
  package var bytesMax: Int

  package init(messagesMax: Int = 20_000, bytesMax: Int = 64 << 20) {
    precondition(messagesMax > 0 && bytesMax > 0, "an outbox that takes nothing")
    self.messagesMax = messagesMax
    self.bytesMax = bytesMax
  }
}

/// Where a message goes that the broker refuses for good.
package struct DeadLetters: Sendable {
  package let destination: String
  package let routingKey: String
  /// Kafka refuses records whose time is too far from its own, and would refuse their letters.
  private let hasOwnTime: Bool

  /// - Parameter name: a queue; with Kafka a topic.
  package init(_ name: String, on address: BrokerAddress) {
    routingKey = name
    switch address {
    // The default exchange, which says where there is no such queue.
    case .amqp: (destination, hasOwnTime) = ("", false)
    case .kafka: (destination, hasOwnTime) = (name, true)
    }
  }

  /// Longer words and attributes are cut.
  private static let textBytesMax = 1024
  /// RabbitMQ has no room for longer names.
  private static let nameBytesMax = 255

  /// A refused message, as it goes there. What makes a message too long for a broker must not keep its letter from being
  /// taken: an order's producer sets what it likes, and text that was no UTF-8 has grown.
  func letter(_ message: BrokerMessage, _ refusal: Refusal) -> BrokerMessage {
    var letter = message
    letter.destination = destination
    letter.routingKey = routingKey
    for name in [\.id, \.type, \.contentType, \.partitionKey, \.correlationID, \.replyTo]
      as [WritableKeyPath<BrokerMessage, String>]
    {
      letter[keyPath: name] = Self.cut(letter[keyPath: name], to: Self.nameBytesMax)
    }
    for index in letter.attributes.indices {
      letter.attributes[index].value = Self.cut(
        letter.attributes[index].value, to: Self.textBytesMax)
    }
    if hasOwnTime, message.time != 0 {
      letter.attributes.append(("time", TimeText.text(nanoseconds: message.time)))
      letter.time = 0
    }
    letter.attributes += [
      ("deadreason", refusal.reason),
      ("deadtext", Self.cut(refusal.text, to: Self.textBytesMax)),
      ("deadtime", TimeText.text(nanoseconds: refusal.time)),
      // Of a queue that is named by itself, its name.
      (
        "deaddestination",
        Self.cut(
          message.destination.isEmpty ? message.routingKey : message.destination,
          to: Self.nameBytesMax)
      ),
    ]
    if refusal.omitsBody {
      letter.body = []
      letter.attributes.append(("deadbody", "omitted"))
    }
    return letter
  }

  private static func cut(_ text: String, to count: Int) -> String {
    let bytes = text.utf8
    if bytes.count <= count { return text }
    var end = bytes.index(bytes.startIndex, offsetBy: count)
    // Not within a character.
    while UTF8.isContinuation(bytes[end]) { end = bytes.index(before: end) }
    return String(text[..<end])
  }
}

/// Why a message goes to the dead letters.
struct Refusal {
  static let tooLarge = "MESSAGE_TOO_LARGE"
  static let unroutable = "UNROUTABLE"
  static let postponed = "QUEUE_FULL"

  let reason: String
  let text: String
  /// Nanoseconds since 1970.
  let time: Int64
  /// The body is what is too large.
  var omitsBody: Bool
}

/// What an outbox has to tell.
package enum OutboxNotice: Sendable {
  /// The message of this number is the broker's; `isDead`: in the queue for dead letters.
  case settled(UInt64, isDead: Bool)
  /// There is no queue for the message of this number, which was added as one that is settled then too.
  case dropped(UInt64)
  case delivery(BrokerDelivery)
  /// There is a connection. What an earlier one has delivered, and was not accepted, comes again.
  case connected
  /// There is none: tags of deliveries are of no more use.
  case disconnected
}

/// What an outbox has done so far, for metrics.
package struct OutboxCounts: Equatable, Sendable {
  /// Messages handed to a connection, each time.
  package var published: UInt64 = 0
  /// Those of them that had been before.
  package var resent: UInt64 = 0
  /// Messages that the broker has confirmed where they belong.
  package var confirmed: UInt64 = 0
  /// Messages that went to the dead letters, by reason. Those that our connections give are there from the beginning: an
  /// alert sees no first one of a reason that was not.
  package var dead: [String: UInt64] = [
    Refusal.tooLarge: 0, "NAME_TOO_LONG": 0, "REJECTED": 0, Refusal.unroutable: 0,
    Refusal.postponed: 0,
  ]
  /// Messages for which there was no queue, and nobody missed it.
  package var dropped: UInt64 = 0
  /// Messages that the broker did not take at the time.
  package var postponed: UInt64 = 0
  /// Connections that were made.
  package var connections: UInt64 = 0
  /// Connections that were lost, and attempts at one that failed.
  package var failures: UInt64 = 0

  package init() {}

  /// Reasons are a broker's words: so many of them are told apart.
  private static let reasonsMax = 32

  mutating func addDead(_ reason: String) {
    let isKnown = dead[reason] != nil || dead.count < Self.reasonsMax
    dead[isKnown ? reason : "OTHER", default: 0] += 1
  }
}

/// Where an outbox has its time from.
package struct OutboxClock {
  /// Monotonic nanoseconds.
  package let now: () -> Int64
  /// Nanoseconds since 1970.
  package let wall: () -> Int64
  /// Lets so many milliseconds pass, or fewer.
  package let sleep: (Int32) -> Void

  package init(
    now: @escaping () -> Int64, wall: @escaping () -> Int64, sleep: @escaping (Int32) -> Void
  ) {
    self.now = now
    self.wall = wall
    self.sleep = sleep
  }

  package static var system: OutboxClock {
    OutboxClock(
      now: { SystemClock.monotonicNanoseconds() }, wall: { SystemClock.wall().nanoseconds },
      sleep: { _ = poll(nil, 0, $0) })
  }
}
