internal import Log
// The journal's numbers as Prometheus metrics.
internal import Metrics
internal import StockStore

enum JournalMetrics {
  /// - Parameter numbers: nil without a journal: then there is nothing to show.
  static func expose(_ numbers: JournalStatistics?, into page: inout Exposition) {
    guard let numbers else { return }
    exposeWriting(numbers, into: &page)
    exposeProgress(numbers, into: &page)
    exposeCheckpoints(numbers, into: &page)
    if let archive = numbers.archive { expose(archive, into: &page) }
    if let replica = numbers.replica { expose(replica, into: &page) }
  }

  private static func expose(_ archive: ArchiveStatistics, into page: inout Exposition) {
    page.counter(
      "holdfast_archive_segments_total", help: "Segments archived since the start.",
      value: archive.segments)
    page.gauge(
      "holdfast_archive_waiting_segments",
      help: "Segments that have come to their end and are not archived yet.",
      value: Double(archive.waiting))
    page.gauge(
      "holdfast_archive_lag_bytes", help: "Bytes of durable decisions that the archive lacks.",
      value: Double(archive.lagBytes))
    page.counter(
      "holdfast_archive_failures_total",
      help: "Times that the archive did not take a segment; it is tried again.",
      value: archive.failures)
    page.counter(
      "holdfast_archive_lost_segments_total",
      help:
        "Segments given up before they were archived: backups from before cannot be brought past them.",
      value: archive.lost)
  }

  private static func expose(_ replica: ReplicaStatistics, into page: inout Exposition) {
    let appends = replica.appendNanoseconds
    page.histogram(
      "holdfast_engine_append_seconds",
      help: "Time that the engine took to acknowledge a group, doubts included.",
      upperBounds: appends.upperBounds.map { Double($0) / 1e9 }, counts: appends.counts,
      sum: Double(appends.sum) / 1e9)
    page.counter(
      "holdfast_engine_bytes_total", help: "Bytes of decisions that the engine has acknowledged.",
      value: replica.bytes)
  }

  private static func exposeWriting(_ numbers: JournalStatistics, into page: inout Exposition) {
    let syncs = numbers.syncNanoseconds
    page.histogram(
      "holdfast_journal_sync_seconds",
      help:
        "Time that the disk took to make a group durable (os: to take it; quorum: the engine and the disk).",
      upperBounds: syncs.upperBounds.map { Double($0) / 1e9 }, counts: syncs.counts,
      sum: Double(syncs.sum) / 1e9)
    let groups = numbers.groupRecords
    page.histogram(
      "holdfast_journal_group_records", help: "Decisions that one write made durable.",
      upperBounds: groups.upperBounds.map(Double.init), counts: groups.counts,
      sum: Double(groups.sum))
    page.counter(
      "holdfast_journal_bytes_total", help: "Bytes written to the journal.",
      value: numbers.bytesWritten)
  }

  private static func exposeProgress(_ numbers: JournalStatistics, into page: inout Exposition) {
    page.gauge(
      "holdfast_journal_decisions", help: "Decisions recorded since the data directory was made.",
      value: Double(numbers.counted))
    page.gauge(
      "holdfast_journal_lsn", help: "Log sequence number of the newest decision.",
      value: Double(numbers.lsn))
    page.gauge(
      "holdfast_journal_durable_lsn", help: "Log sequence number up to which all is durable.",
      value: Double(numbers.durableLSN))
    page.gauge(
      "holdfast_journal_lag_bytes", help: "Decisions that wait in memory for the disk, in bytes.",
      value: Double(numbers.lsn - min(numbers.lsn, numbers.durableLSN)))
    page.gauge(
      "holdfast_journal_lag_bytes_max",
      help: "Bounds holdfast_journal_lag_bytes: beyond it changes are refused.",
      value: Double(numbers.lagBytesMax))
    page.gauge(
      "holdfast_journal_disk_bytes",
      help: "Segment files on the disk, those that are ready for use included.",
      value: Double(numbers.segmentBytesOnDisk))
    page.gauge(
      "holdfast_journal_accepting",
      help: "1 while changes are taken; 0 while they are refused, for lack of room or on failure.",
      value: numbers.unavailable == nil ? 1 : 0)
    page.counter(
      "holdfast_journal_out_of_space_total",
      help: "Times that a segment or a checkpoint could not be made for lack of disk space.",
      value: numbers.outOfSpace)
  }

  private static func exposeCheckpoints(_ numbers: JournalStatistics, into page: inout Exposition) {
    page.counter(
      "holdfast_checkpoints_total", help: "Checkpoints made since the start.",
      value: numbers.checkpoints)
    page.gauge(
      "holdfast_checkpoint_age_seconds",
      help: "Time since the newest checkpoint was begun, or since the start.",
      value: numbers.checkpointAgeSeconds)
    page.gauge(
      "holdfast_checkpoint_duration_seconds", help: "How long the newest checkpoint took.",
      value: numbers.checkpointSecondsLast)
    page.gauge(
      "holdfast_checkpoint_bytes", help: "Size of the newest checkpoint.",
      value: Double(numbers.checkpointBytesLast))
    page.gauge(
      "holdfast_recovery_seconds", help: "How long the start took to read the data directory.",
      value: numbers.recoverySeconds)
    page.gauge(
      "holdfast_recovery_records", help: "Records of the journal that the start read.",
      value: Double(numbers.recoveredRecords))
  }
}
