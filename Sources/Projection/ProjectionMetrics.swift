// How far the tables are, for the metrics page and for those who ask whether all is well.
package import Metrics
internal import Posix
internal import Synchronization

package final class ProjectionMetrics: Sendable {
  struct Counters {
    var events: UInt64 = 0
    var transactions: UInt64 = 0
    var restarts: UInt64 = 0
    var troubles: UInt64 = 0
    var unknownEvents: UInt64 = 0
    /// Nanoseconds of the wall clock; nil: not known yet.
    var asOf: Int64?
    var lsn: UInt64 = 0
    var head: UInt64 = 0
    var isFollowing = false
  }

  private let counters = Mutex(Counters())

  package init() {}

  func change(_ body: (inout Counters) -> Void) { counters.withLock { body(&$0) } }
  func snapshot() -> Counters { counters.withLock { $0 } }

  /// Whether the tables follow the server at this time.
  package var isFollowing: Bool { snapshot().isFollowing }

  /// Adds its numbers to a page.
  package func add(to page: inout Exposition) {
    let now = SystemClock.wall().nanoseconds
    let all = snapshot()
    page.gauge(
      "holdfast_projection_lag_seconds",
      help: "By how much the tables are behind the server; NaN until that is known.",
      value: all.asOf.map { Double(max(0, now - $0)) / 1e9 } ?? .nan)
    page.gauge(
      "holdfast_projection_lag_lsns",
      help: "By how many log sequence numbers the tables are behind the server.",
      value: Double(all.head - min(all.head, all.lsn)))
    page.gauge(
      "holdfast_projection_lsn", help: "Up to where the tables go.", value: Double(all.lsn))
    page.gauge(
      "holdfast_projection_following",
      help: "1 while server and database answer, and the tables were filled.",
      value: all.isFollowing ? 1 : 0)
    page.counter(
      "holdfast_projection_events_total", help: "Events that were applied to the tables.",
      value: all.events)
    page.counter(
      "holdfast_projection_transactions_total", help: "Transactions with the database.",
      value: all.transactions)
    page.counter(
      "holdfast_projection_restarts_total",
      help: "How often the tables were filled from the beginning.", value: all.restarts)
    page.counter(
      "holdfast_projection_troubles_total",
      help: "How often server or database failed, and was tried again.", value: all.troubles)
    page.counter(
      "holdfast_projection_unknown_events_total",
      help: "Events of a kind that this version does not know.", value: all.unknownEvents)
  }
}
