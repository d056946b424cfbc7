// How far a relay is, for the metrics page and for those who ask whether all is well.
internal import Messaging
package import Metrics
internal import Posix
internal import Synchronization

package final class RelayMetrics: Sendable {
  struct State {
    /// Events that came, and messages that were made of them.
    var events: UInt64 = 0
    var messages: UInt64 = 0
    /// Everything up to this log sequence number is the broker's.
    var lsn: UInt64 = 0
    /// The server's newest; 0: not known.
    var head: UInt64 = 0
    /// When the oldest event was decided that is not confirmed, in nanoseconds since 1970; nil: there is none.
    var oldestDecidedAt: Int64?
    /// When the server said something last, in nanoseconds since 1970.
    var heardAt: Int64 = 0
    var isServerConnected = false
    var serverConnections: UInt64 = 0
    var isBrokerConnected = false
    var unconfirmed = 0
    var blocked = false
    var isStuck = false
    var outbox = OutboxCounts()
    var savesFailed: UInt64 = 0
    var isEnding = false
    /// When the relay's thread came round last, in monotonic nanoseconds.
    var lastRound = SystemClock.monotonicNanoseconds()
  }

  private let state = Mutex(State())

  package init() {}

  func change(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }
  func snapshot() -> State { state.withLock { $0 } }

  /// Both sides are there, and messages get on.
  package var isReady: Bool {
    let all = snapshot()
    return all.isServerConnected && all.isBrokerConnected && !all.blocked && !all.isStuck
  }

  /// It finishes what it has.
  package var isEnding: Bool { snapshot().isEnding }

  /// When the relay's thread came round last, in monotonic nanoseconds.
  package var lastRound: Int64 { snapshot().lastRound }

  /// One line on how it is, for an operator.
  package var status: String {
    let all = snapshot()
    if all.isEnding { return "waits for the broker's last confirmations" }
    if !all.isServerConnected { return "waits for the server" }
    if !all.isBrokerConnected { return "waits for the broker" }
    if all.blocked { return "the broker takes nothing for now" }
    return all.isStuck ? "the oldest message does not get on" : "relays"
  }

  /// A server that is well says something within this, in nanoseconds: only then nothing came.
  private static let silence: Int64 = 10_000_000_000

  /// By how much the broker is behind the server, in seconds.
  /// - Parameter now: nanoseconds since 1970.
  func lagSeconds(_ now: Int64) -> Double {
    let all = snapshot()
    if let oldest = all.oldestDecidedAt { return Double(max(0, now - oldest)) / 1e9 }
    let silent = max(0, now - all.heardAt)
    return all.isServerConnected && silent < Self.silence ? 0 : Double(silent) / 1e9
  }

  /// Adds its numbers to a page.
  package func add(to page: inout Exposition) {
    let all = snapshot()
    addProgress(all, to: &page)
    addSides(all, to: &page)
    page.counter(
      "holdfast_relay_dead_letters_total",
      help: "Messages that the broker refused, by reason; they are in the queue of dead letters.",
      samples: all.outbox.dead.sorted { $0.key < $1.key }.map { entry in
        ([("reason", entry.key)], Double(entry.value))
      })
    page.counter(
      "holdfast_relay_postponed_total",
      help: "Messages that the broker did not take at the time.", value: all.outbox.postponed)
    page.counter(
      "holdfast_relay_resent_total", help: "Messages that were published again.",
      value: all.outbox.resent)
    page.counter(
      "holdfast_relay_resume_saves_failed_total",
      help: "How often the resume file could not be written.", value: all.savesFailed)
  }

  private func addProgress(_ all: State, to page: inout Exposition) {
    page.gauge(
      "holdfast_relay_lag_seconds",
      help:
        "Age of the oldest decision that is not confirmed; without the server, since it was heard last.",
      value: lagSeconds(SystemClock.wall().nanoseconds))
    page.gauge(
      "holdfast_relay_lag_lsns",
      help: "By how many log sequence numbers the broker is behind the server.",
      value: Double(all.head - min(all.head, all.lsn)))
    page.gauge(
      "holdfast_relay_lsn", help: "Up to where the broker has everything.", value: Double(all.lsn))
    page.counter(
      "holdfast_relay_events_total", help: "Events that came from the server.", value: all.events)
    page.counter(
      "holdfast_relay_messages_total",
      help: "Messages that were made of them: one for each SKU.", value: all.messages)
    page.counter(
      "holdfast_relay_confirmed_total", help: "Messages that the broker has confirmed.",
      value: all.outbox.confirmed)
    page.gauge(
      "holdfast_relay_unconfirmed", help: "Messages that are kept until the broker has them.",
      value: Double(all.unconfirmed))
  }

  private func addSides(_ all: State, to page: inout Exposition) {
    let sides: [(String, Bool, UInt64)] = [
      ("server", all.isServerConnected, all.serverConnections),
      ("broker", all.isBrokerConnected, all.outbox.connections),
    ]
    page.gauge(
      "holdfast_relay_connected", help: "1 while that side answers.",
      samples: sides.map { ([("side", $0.0)], $0.1 ? 1 : 0) })
    page.counter(
      "holdfast_relay_reconnects_total", help: "Connections after the first.",
      samples: sides.map { ([("side", $0.0)], Double($0.2 - min(1, $0.2))) })
    page.gauge(
      "holdfast_relay_blocked", help: "1 while the broker takes nothing (its memory or disk).",
      value: all.blocked ? 1 : 0)
    page.gauge(
      "holdfast_relay_stuck",
      help:
        "1 while the oldest message does not get on: its letter is refused, a queue full, or nothing confirmed.",
      value: all.isStuck ? 1 : 0)
  }
}
