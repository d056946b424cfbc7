// A broker in memory whose faults are drawn from a seed: what it has taken outlives its connections.
import BrokerTesting
import Messaging

/// What goes wrong, in hundredths of polls or messages.
struct Faults {
  /// Polls that end with a lost connection, before which a part of what was published is taken.
  var lost = 0
  /// Confirmations that come later and in any order.
  var lateConfirmations = 0
  /// Messages that are postponed.
  var postponed = 0
  /// Polls at which the broker blocks or unblocks.
  var blocked = 0
  /// Attempts to connect that fail.
  var unreachable = 0
  /// Dead letters that are refused.
  var refusedLetters = 0
  /// Ids of messages that are refused for good.
  var poison: Set<String> = []
  /// Routing keys of messages that are postponed.
  var fullQueues: Set<String> = []
  /// Messages with longer bodies make the broker end the channel.
  var bodyMax = Int.max
}

final class ScriptedBroker {
  static let letters = DeadLetters(
    "dead",
    on: .amqp(
      AMQPAddress(
        host: "a", port: 1, user: "u", password: nil, virtualHost: "/", isTLS: false)))

  var faults: Faults
  var random: Seeded
  /// It looks at nothing that it is sent.
  var isSilent = false
  /// As they were taken, doubles too.
  private(set) var taken: [BrokerMessage] = []
  private(set) var dead: [BrokerMessage] = []
  private(set) var connectionCount = 0
  private(set) var inFlightMax = 0
  /// Handed over to any connection.
  private(set) var publishedCount = 0
  weak var current: ScriptedConnection?

  init(_ faults: Faults = Faults(), seed: UInt64 = 1) {
    self.faults = faults
    random = Seeded(seed)
  }

  func connect() throws(BrokerError) -> any BrokerConnection {
    if random.chance(faults.unreachable) { throw .away("nobody listens") }
    connectionCount += 1
    let connection = ScriptedConnection(self)
    current = connection
    return connection
  }

  fileprivate func published(inFlight: Int) {
    publishedCount += 1
    inFlightMax = max(inFlightMax, inFlight)
  }

  fileprivate func take(_ message: BrokerMessage) {
    if message.destination.isEmpty { dead.append(message) } else { taken.append(message) }
  }
}

final class ScriptedConnection: BrokerConnection {
  private let broker: ScriptedBroker
  private var published = Published()
  private var unknown = 0
  private var isBlocked = false
  private(set) var isClosed = false
  private(set) var accepted: [UInt64] = []
  /// Said by the next poll, before anything else.
  var notices: [BrokerNotice] = []
  /// Thrown by the next poll.
  var failure: BrokerError?

  init(_ broker: ScriptedBroker) { self.broker = broker }

  func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError) {}

  func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError) {}

  func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    precondition(!isClosed, "used after its end")
    unknown += 1
    broker.published(inFlight: unknown)
    return published.append(message)
  }

  func accept(_ tags: [UInt64]) throws(BrokerError) {
    precondition(!isClosed, "used after its end")
    accepted += tags
  }

  func poll(milliseconds: Int32, _ take: (BrokerNotice) -> Void) throws(BrokerError) {
    precondition(!isClosed, "used after its end")
    for notice in notices { take(notice) }
    notices = []
    if let failure { throw failure }
    if broker.random.chance(broker.faults.blocked) || isBlocked && broker.random.chance(30) {
      isBlocked.toggle()
      take(.blocked(isBlocked ? "low on disk" : nil))
    }
    let isLost = broker.random.chance(broker.faults.lost)
    let count = published.unseenCount
    let looks = isLost ? Int.random(in: 0...count, using: &broker.random) : count
    if broker.isSilent { return }
    try published.look(atMost: looks) { (place, message) throws(BrokerError) in
      try look(place, message, take)
    }
    published.confirm(late: broker.faults.lateConfirmations, &broker.random) { place, _ in
      unknown -= 1
      take(.confirmed(place))
    }
    if isLost { throw .away("the connection broke") }
  }

  private func look(
    _ place: UInt64, _ message: BrokerMessage, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) -> Bool {
    if message.body.count > broker.faults.bodyMax {
      // The channel ends: what was confirmed and not told yet is not told, and what comes behind is not looked at.
      throw .messageRefused(reason: "MESSAGE_TOO_LARGE", text: "\(message.body.count) bytes")
    }
    guard let refusal = refusal(of: message, place) else {
      broker.take(message)
      return true
    }
    unknown -= 1
    take(refusal)
    return false
  }

  private func refusal(of message: BrokerMessage, _ place: UInt64) -> BrokerNotice? {
    if message.destination.isEmpty {
      return broker.random.chance(broker.faults.refusedLetters)
        ? .refused(place, reason: "UNROUTABLE", text: "no such queue") : nil
    }
    if broker.faults.poison.contains(message.id) {
      return .refused(place, reason: "REJECTED", text: "poison")
    }
    let isFull = broker.faults.fullQueues.contains(message.routingKey)
    return isFull || broker.random.chance(broker.faults.postponed)
      ? .postponed(place, text: "the queue is full") : nil
  }

  func close() { isClosed = true }
}
