// What there may be of what the other metrics count, so that a ratio says how near a limit is.
internal import ChangeFeed
internal import Metrics

enum LimitMetrics {
  static func expose(_ settings: Settings, into page: inout Exposition) {
    page.gauge(
      "holdfast_items_max", help: "--max-items: bounds holdfast_items + holdfast_removed_items.",
      value: Double(settings.maxItems))
    page.gauge(
      "holdfast_recorded_decisions_max",
      help: "--max-reservations: bounds holdfast_recorded_decisions and holdfast_live_holds.",
      value: Double(settings.maxReservations))
    page.gauge(
      "holdfast_limits_max", help: "--max-limits: bounds holdfast_limits.",
      value: Double(settings.maxLimits))
    page.gauge(
      "holdfast_connections_max", help: "--max-connections: bounds holdfast_connections.",
      value: Double(settings.maxConnections))
    page.gauge(
      "holdfast_watches_max", help: "Bounds holdfast_watches.",
      value: Double(Limits.feed.watchesMax))
    page.gauge(
      "holdfast_retention_seconds",
      help: "--retention: how long decisions should be remembered after their ends.",
      value: Double(settings.retentionNanoseconds) / 1e9)
    page.gauge(
      "holdfast_history_bytes",
      help: "--history: decisions that are kept for watchers; more as long as others need them.",
      value: Double(
        settings.durability == nil
          ? Limits.memoryHistory(settings) ?? 0 : settings.historyBytes ?? Limits.historyBytes))
  }
}
