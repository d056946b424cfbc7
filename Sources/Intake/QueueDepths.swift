// How much waits in the queues, and whether they are there: what an operator wants to hear of, and nobody else looks at.
package import Messaging
internal import Posix

/// Asks now and then, on a connection of its own: an answer is waited for, and may not come while the broker takes no
/// messages of the one that publishes. What somebody has deleted is made again: of an exchange that shops publish to, the
/// intake's own connection hears nothing. One thread.
package final class QueueDepths {
  private static let roundNanoseconds: Int64 = 10_000_000_000
  /// Where a queue is not there yet.
  private static let soonNanoseconds: Int64 = 1_000_000_000
  private static let pollMilliseconds: Int32 = 500

  /// What has to be there; empty: others see to it.
  private let declarations: [BrokerDeclaration]
  private let queues: [String]
  /// May be missing.
  private let suspects: String?
  private let metrics: IntakeMetrics
  private let clock: OutboxClock
  private let connect: () throws(BrokerError) -> any BrokerConnection
  private var connection: (any BrokerConnection)?
  private var nextAt: Int64 = .min

  /// - Parameters:
  ///   - hasQueues: orders wait in queues. How far a group is behind in a topic, Kafka's own tools say.
  ///   - connect: makes a connection, which is used for this alone.
  package init(
    _ options: IntakeOptions, hasQueues: Bool, metrics: IntakeMetrics,
    clock: OutboxClock = .system,
    connect: @escaping () throws(BrokerError) -> any BrokerConnection
  ) {
    declarations = options.declares && hasQueues ? options.declarations(hasQueues: true) : []
    queues = [options.deadLetters] + (hasQueues ? options.queues : [])
    suspects = hasQueues ? options.suspects : nil
    self.metrics = metrics
    self.clock = clock
    self.connect = connect
  }

  /// Until `isStopped`.
  package func run(isStopped: () -> Bool) {
    while !isStopped() { step() }
    connection?.close()
  }

  /// Asks if it is time, and else waits a little.
  package func step() {
    do throws(BrokerError) {
      let now = clock.now()
      if now >= nextAt {
        nextAt = now + Self.roundNanoseconds
        let connection = try connected()
        if !declarations.isEmpty { try connection.declare(declarations) }
        var depths: [String: Int] = [:]
        for queue in queues { depths[queue] = try connection.depth(of: queue) }
        if depths.count < queues.count { nextAt = now + Self.soonNanoseconds }
        if let suspects { depths[suspects] = try connection.depth(of: suspects) }
        metrics.publish(depths: depths, at: now)
      }
      if let connection {
        // It has to show that it is there.
        try connection.poll(milliseconds: Self.pollMilliseconds) { _ in }
      } else {
        clock.sleep(Self.pollMilliseconds)
      }
    } catch {
      // The intake's own connection tells what is wrong.
      connection?.close()
      connection = nil
      metrics.publish(depths: [:], at: clock.now())
    }
  }

  private func connected() throws(BrokerError) -> any BrokerConnection {
    if let connection { return connection }
    let made = try connect()
    connection = made
    return made
  }
}
