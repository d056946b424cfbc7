// How much waits in the queues: what an operator wants to hear of, and nobody else counts.
internal import Messaging

/// Asks now and then, for one queue at a time: an answer is waited for. One thread.
final class QueueDepths {
  private static let roundNanoseconds: Int64 = 10_000_000_000

  private let queues: [String]
  private var next = 0
  private var nextAt: Int64 = .min
  /// The connection to ask on.
  var connection: (any BrokerConnection)?

  init(_ options: IntakeOptions) {
    queues = [options.deadLetters] + (0..<options.partitions).map { "\(options.orders).\($0)" }
  }

  func ask(_ now: Int64, _ counts: inout IntakeCounts) {
    guard now >= nextAt, let connection else { return }
    nextAt = now + Self.roundNanoseconds / Int64(queues.count)
    let queue = queues[next]
    next = (next + 1) % queues.count
    do throws(BrokerError) {
      counts.depths[queue] = try connection.depth(of: queue)
    } catch {
      // What is wrong with the connection shows when it is used next.
      counts.depths[queue] = nil
    }
  }
}
