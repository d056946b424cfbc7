internal import ChangeFeed
// The change feed's numbers as Prometheus metrics.
internal import Metrics

enum WatchMetrics {
  static func expose(_ feed: ChangeFeed, into page: inout Exposition) {
    page.gauge("holdfast_watches", help: "Watches that are open.", value: Double(feed.watchCount))
    page.counter(
      "holdfast_watch_events_total", help: "Events sent to watchers.", value: feed.eventsSent)
    let ended = feed.ended
    page.counter(
      "holdfast_watches_ended_total",
      help: "Watches that the server ended or refused, by why.",
      samples: [
        ([("reason", "too_old")], Double(ended.tooOld)),
        ([("reason", "foreign")], Double(ended.foreign)),
        ([("reason", "unreadable")], Double(ended.unreadable)),
        ([("reason", "too_many")], Double(ended.tooMany)),
      ])
    page.gauge(
      "holdfast_watch_lag_bytes",
      help: "Bytes of journal that the watcher that is furthest behind has yet to be sent.",
      value: Double(feed.lagBytes))
  }
}
