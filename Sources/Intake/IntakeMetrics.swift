// What an intake has done, for the metrics page and for those who ask whether all is well.
internal import Messaging
package import Metrics
internal import Posix
internal import Synchronization

/// Why orders were tried again.
enum RetryReason: String, CaseIterable {
  /// The server or the connection was away, or told everybody to wait.
  case server
  /// The server told this order to wait.
  case later
  /// The server failed over this order.
  case counted
  /// The server failed over one order of a batch, which is looked for.
  case search
}

/// Counted by the intake's thread alone.
struct IntakeCounts {
  var reserved: UInt64 = 0
  var rejected: UInt64 = 0
  /// Deliveries that are no orders, and orders that can never be decided.
  var dead: UInt64 = 0
  /// Whose answers the broker has confirmed.
  var answers: [Answer.Kind: UInt64] = [:]
  var retries: [RetryReason: UInt64] = [:]
  var redelivered: UInt64 = 0
  /// Orders that went to the queue of suspects.
  var suspects: UInt64 = 0
  var inHand = 0
  var batches: UInt64 = 0
  var batchedOrders: UInt64 = 0
}

package final class IntakeMetrics: Sendable {
  private struct State {
    var counts = IntakeCounts()
    var outbox = OutboxCounts()
    var serverFailures: UInt64 = 0
    var isBrokerConnected = false
    var isServerConnected = false
    var isBlocked = false
    var isStuck = false
    var isEnding = false
    var hasSuspects = false
    /// By queue: messages that wait in it.
    var depths: [String: Int] = [:]
    /// When that was so; monotonic nanoseconds.
    var depthsAt: Int64 = .min
    func depth(of queue: String) -> Double { depths[queue].map { Double($0) } ?? .nan }

    /// When the intake's thread came round last, in monotonic nanoseconds.
    var lastRound = SystemClock.monotonicNanoseconds()
  }

  private static let secondsBounds: [Int64] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000,
  ].map { $0 * 1_000_000 }

  private let state = Mutex(State())
  private let seconds = HistogramCells(upperBounds: secondsBounds)

  /// Those that orders wait in; none: the broker does not say how many do.
  private let queues: [String]
  private let suspects: String
  private let deadLetters: String

  /// - Parameter hasQueues: orders wait in queues, not in a topic.
  package init(_ options: IntakeOptions, hasQueues: Bool) {
    queues = hasQueues ? options.queues + [options.suspects] : []
    suspects = options.suspects
    deadLetters = options.deadLetters
  }

  /// Both sides take what they are sent.
  package var isReady: Bool {
    state.withLock { $0.isBrokerConnected && $0.isServerConnected && !$0.isBlocked && !$0.isStuck }
  }

  /// It finishes what it has.
  package var isEnding: Bool { state.withLock { $0.isEnding } }

  /// When the intake's thread came round last, in monotonic nanoseconds.
  package var lastRound: Int64 { state.withLock { $0.lastRound } }

  /// One line on how it is, for an operator.
  package var status: String {
    let all = state.withLock { $0 }
    if all.isEnding { return "answers what the server has" }
    if !all.isServerConnected { return "waits for the server" }
    if !all.isBrokerConnected { return "waits for the broker" }
    if all.isBlocked { return "the broker takes nothing for now" }
    if all.isStuck { return "an answer or a dead letter does not get on" }
    return all.hasSuspects ? "tries suspects one by one" : "takes orders"
  }

  // MARK: The intake's thread

  /// From a delivery to the confirmation of what was made of it.
  func orderTook(_ nanoseconds: Int64) { seconds.record(nanoseconds) }

  func publish(
    _ counts: IntakeCounts, _ outbox: Outbox, _ link: ServerLink, _ mode: OrderSources.Mode,
    isEnding: Bool
  ) {
    state.withLock { state in
      state.counts = counts
      state.outbox = outbox.counts
      state.serverFailures = link.failures
      state.isBrokerConnected = outbox.isConnected
      state.isServerConnected = link.isConnected
      state.isBlocked = outbox.blocked != nil
      state.isStuck = outbox.stuck != nil
      state.isEnding = isEnding
      state.hasSuspects = mode != .all
      state.lastRound = SystemClock.monotonicNanoseconds()
    }
  }

  // MARK: The page

  /// From the thread that asks for them, with the monotonic time at which it began to.
  func publish(depths: [String: Int], at now: Int64) {
    state.withLock { ($0.depths, $0.depthsAt) = (depths, now) }
  }

  /// Suspects that waited in their queue, where that was found out after this time.
  func suspects(since time: Int64) -> Int {
    state.withLock { $0.depthsAt > time ? $0.depths[suspects] ?? 0 : 0 }
  }

  /// Adds its numbers to a page.
  package func add(to page: inout Exposition) {
    let all = state.withLock { $0 }
    addOrders(all.counts, to: &page)
    addBroker(all, to: &page)
    page.counter(
      "holdfast_intake_batches_total", help: "Batches that were sent to the server.",
      value: all.counts.batches)
    page.counter(
      "holdfast_intake_batched_orders_total", help: "Orders in these batches, each time.",
      value: all.counts.batchedOrders)
    page.gauge(
      "holdfast_intake_connected", help: "1 while this side takes what it is sent.",
      samples: [
        ([("side", "broker")], all.isBrokerConnected ? 1 : 0),
        ([("side", "server")], all.isServerConnected ? 1 : 0),
      ])
    page.counter(
      "holdfast_intake_troubles_total",
      help: "How often a side was lost or could not be used, and was tried again.",
      samples: [
        ([("side", "broker")], Double(all.outbox.failures)),
        ([("side", "server")], Double(all.serverFailures)),
      ])
    page.histogram(
      "holdfast_intake_order_seconds",
      help: "From an order's delivery until the broker has confirmed its answer or dead letter.",
      upperBounds: Self.secondsBounds, snapshot: seconds.snapshot(), unit: 1e-9)
  }

  private func addOrders(_ counts: IntakeCounts, to page: inout Exposition) {
    page.counter(
      "holdfast_intake_orders_total",
      help: "Orders by what came of them; those that came twice count twice.",
      samples: [
        ([("outcome", "reserved")], Double(counts.reserved)),
        ([("outcome", "rejected")], Double(counts.rejected)),
        ([("outcome", "dead")], Double(counts.dead)),
      ])
    page.counter(
      "holdfast_intake_answers_total", help: "Answers that the broker has confirmed, by type.",
      samples: Answer.Kind.allCases.map {
        ([("type", $0.rawValue)], Double(counts.answers[$0] ?? 0))
      })
    page.counter(
      "holdfast_intake_retries_total",
      help: "Orders that were not decided and are tried again, by why.",
      samples: RetryReason.allCases.map {
        ([("reason", $0.rawValue)], Double(counts.retries[$0] ?? 0))
      })
    page.counter(
      "holdfast_intake_redelivered_total",
      help: "Deliveries of which the broker says that they came before.",
      value: counts.redelivered)
    page.counter(
      "holdfast_intake_suspects_total",
      help: "Orders that came too often without an answer, and are tried alone.",
      value: counts.suspects)
    page.gauge(
      "holdfast_intake_in_hand", help: "Deliveries that are not accepted yet.",
      value: Double(counts.inHand))
  }

  private func addBroker(_ all: State, to page: inout Exposition) {
    page.gauge(
      "holdfast_intake_queue_messages",
      help: "Orders that wait in a queue, as the broker said within the last 10 s; NaN: unknown.",
      samples: queues.map { ([("queue", $0)], all.depth(of: $0)) })
    page.gauge(
      "holdfast_intake_dead_letter_queue_messages",
      help: "Dead letters in their queue or topic, within the last 10 s; NaN: unknown.",
      value: all.depth(of: deadLetters))
    page.counter(
      "holdfast_intake_dead_letters_total",
      help: "Messages that went to the dead letters, by reason.",
      // An alert sees no first one of a reason that was not there.
      samples: Set(OrderFault.reasons).union(all.outbox.dead.keys).sorted().map {
        ([("reason", $0)], Double(all.outbox.dead[$0] ?? 0))
      })
    page.counter(
      "holdfast_intake_answers_dropped_total",
      help: "Answers whose queue (reply_to) is not there.", value: all.outbox.dropped)
    page.counter(
      "holdfast_intake_resent_total",
      help: "Answers and dead letters that were published again.", value: all.outbox.resent)
    page.gauge(
      "holdfast_intake_blocked", help: "1 while the broker takes nothing (alarm).",
      value: all.isBlocked ? 1 : 0)
    page.gauge(
      "holdfast_intake_stuck",
      help: "1 while the broker does not take an answer or a dead letter, so that others wait.",
      value: all.isStuck ? 1 : 0)
  }
}
