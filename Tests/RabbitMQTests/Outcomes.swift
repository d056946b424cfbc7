// Connections to a scripted peer, and what becomes of them.
import BrokerTesting
import Messaging
import Posix
import RabbitMQ

extension ScriptedPeer {
  func connect() throws(BrokerError) -> RabbitMQConnection {
    try RabbitMQConnection.connect(access())
  }
}

/// What became of a test's connection.
func told(
  _ connection: RabbitMQConnection, until count: Int = 1
) throws(BrokerError) -> [BrokerNotice] {
  var notices: [BrokerNotice] = []
  let end = SystemClock.monotonicNanoseconds() + 20_000_000_000
  while notices.count < count, SystemClock.monotonicNanoseconds() < end {
    try connection.poll(milliseconds: 1000) { notices.append($0) }
  }
  return notices
}

/// The error that a connection ends with.
/// - Parameter take: is told what comes before.
func ending(
  _ connection: RabbitMQConnection, _ take: (BrokerNotice) -> Void = { _ in }
) -> BrokerError? {
  let end = SystemClock.monotonicNanoseconds() + 20_000_000_000
  while SystemClock.monotonicNanoseconds() < end {
    do throws(BrokerError) { try connection.poll(milliseconds: 1000, take) } catch {
      return error
    }
  }
  return nil
}

/// The same in words: of notices, what they are about.
func words(_ notices: [BrokerNotice]) -> [String] {
  notices.map { notice in
    switch notice {
    case .confirmed(let number): "confirmed \(number)"
    case .refused(let number, let reason, _): "refused \(number) \(reason)"
    case .postponed(let number, _): "postponed \(number)"
    case .delivery(let delivery): "delivery \(delivery.tag)"
    case .blocked(let reason): "blocked \(reason ?? "no more")"
    }
  }
}
