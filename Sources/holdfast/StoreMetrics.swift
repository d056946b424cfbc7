// The store's numbers as Prometheus metrics.
internal import Metrics
internal import StockStore

enum StoreMetrics {
  static func expose(
    _ numbers: StoreStatistics, _ concurrency: ConcurrencyControl, into page: inout Exposition
  ) {
    exposeReservations(numbers, into: &page)
    exposeCommits(numbers, into: &page)
    exposeConcurrency(numbers, concurrency, into: &page)
    exposeTables(numbers, into: &page)
  }

  private static func exposeReservations(_ numbers: StoreStatistics, into page: inout Exposition) {
    page.counter(
      "holdfast_reservations_total", help: "Reservations by what became of them.",
      samples: [
        ([("outcome", "held")], Double(numbers.reservationsHeld)),
        ([("outcome", "replaced")], Double(numbers.reservationsReplaced)),
        ([("outcome", "confirmed")], Double(numbers.reservationsConfirmed)),
        ([("outcome", "released")], Double(numbers.reservationsReleased)),
        ([("outcome", "expired")], Double(numbers.reservationsExpired)),
        (
          [("outcome", "insufficient_stock")], Double(numbers.reservesRefusedInsufficientStock)
        ),
        ([("outcome", "limit_exceeded")], Double(numbers.reservesRefusedLimitExceeded)),
        ([("outcome", "refused")], Double(numbers.reservesRefusedOther)),
      ])
    page.gauge(
      "holdfast_live_holds",
      help: "Reservations that hold units; one that fell due counts until it is ended.",
      value: Double(numbers.liveHolds))
    page.counter(
      "holdfast_expired_holds_total", help: "Holds that fell due.",
      value: numbers.reservationsExpired)
    page.gauge(
      "holdfast_expiry_lag_seconds_max",
      help: "Longest time by which a hold was swept after its end. No call ever saw it live then.",
      value: Double(numbers.expiryLagNanosecondsMax) / 1e9)
    page.counter(
      "holdfast_expiry_lag_seconds_total",
      help: "Sum of the times by which holds were swept after their ends.",
      samples: [([], Double(numbers.expiryLagNanosecondsSum) / 1e9)])
    page.counter(
      "holdfast_replays_total", help: "Retries that got the first answer again.",
      value: numbers.replays)
    page.counter(
      "holdfast_idempotency_keys_reused_total",
      help: "Requests refused because their key came with another payload before.",
      value: numbers.keysReused)
    page.counter(
      "holdfast_adjustments_total",
      help: "Changes of stock by AdjustStock, BatchAdjustStock and ImportStock.",
      value: numbers.adjustments)
  }

  private static func exposeCommits(_ numbers: StoreStatistics, into page: inout Exposition) {
    page.counter(
      "holdfast_conflicts_total",
      help: "Commit attempts that failed because another command changed the same item.",
      samples: [
        ([("reason", "locked")], Double(numbers.conflictsLocked)),
        ([("reason", "version_changed")], Double(numbers.conflictsVersionChanged)),
      ])
    page.counter(
      "holdfast_too_busy_total", help: "Commands refused after the last attempt.",
      value: numbers.tooBusy)
    let attempts = numbers.commitsByAttempts
    // Cumulative per bound; attempts beyond the last bound stand in the last cell.
    var sum: UInt64 = 0
    var count: UInt64 = 0
    for (index, commits) in attempts.enumerated() {
      sum += commits * UInt64(index + 1)
      count += commits
    }
    page.histogram(
      "holdfast_commit_attempts", help: "Attempts that each commit took; more than 1 are retries.",
      upperBounds: (1...attempts.count).map(Double.init), counts: attempts + [0],
      sum: Double(sum))
    page.gauge(
      "holdfast_conflict_ratio", help: "Conflicts per commit since the start.",
      value: count == 0
        ? 0 : Double(numbers.conflictsLocked + numbers.conflictsVersionChanged) / Double(count))
    page.counter(
      "holdfast_rows_affected_total", help: "Items changed by commits.",
      value: numbers.rowsAffected)
    page.counter(
      "holdfast_invariant_violations_total",
      help: "Balances that a commit found or would have made impossible. Must stay 0.",
      value: numbers.invariantViolations)
  }

  private static func exposeConcurrency(
    _ numbers: StoreStatistics, _ concurrency: ConcurrencyControl, into page: inout Exposition
  ) {
    page.gauge(
      "holdfast_concurrency_info",
      help: "Constant 1, labelled with how commands on the same item are kept apart.",
      samples: [([("strategy", concurrency.rawValue)], 1)])
    page.counter(
      "holdfast_concurrency_waits_total",
      help: "Times that a command waited for another: for a locked item, its turn, or a writer.",
      value: numbers.waits)
    page.counter(
      "holdfast_fenced_total",
      help: "Commit attempts turned away since their lock had been taken over (locking).",
      value: numbers.fenced)
    page.counter(
      "holdfast_combined_total",
      help: "Commits that another thread, the shard's writer, did (single-writer).",
      value: numbers.combined)
  }

  private static func exposeTables(_ numbers: StoreStatistics, into page: inout Exposition) {
    page.gauge("holdfast_items", help: "Items.", value: Double(numbers.items))
    page.gauge(
      "holdfast_removed_items",
      help: "Items that were removed and have their places in the table still.",
      value: Double(numbers.removedItems))
    page.gauge(
      "holdfast_recorded_decisions", help: "Decisions kept for retries, live holds included.",
      value: Double(numbers.recordedDecisions))
    page.gauge(
      "holdfast_limits",
      help: "Subjects with a limit and items that they hold or have bought: at most --max-limits.",
      value: Double(numbers.subjectEntries))
    page.counter(
      "holdfast_decisions_evicted_early_total",
      help: "Decisions forgotten before their retention was over, for lack of room.",
      value: numbers.evictedEarly)
    page.gauge(
      "holdfast_table_bytes", help: "Memory in use, by table.",
      samples: [
        ([("table", "items")], Double(numbers.itemBytes)),
        ([("table", "item_index")], Double(numbers.itemIndexBytes)),
        ([("table", "reservations")], Double(numbers.reservationBytes)),
        ([("table", "keys")], Double(numbers.keyTableBytes)),
        ([("table", "timers")], Double(numbers.timerBytes)),
        ([("table", "limits")], Double(numbers.subjectBytes)),
      ])
  }
}
