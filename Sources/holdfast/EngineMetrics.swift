// What a server knows of the log in an engine as Prometheus metrics, whether it owns it or follows it.
// deploy/prometheus/holdfast-ha.rules.yml has an alert for each that can be bad.
internal import Metrics

struct EngineNumbers {
  var isOwner: Bool
  var epoch: UInt32
  /// In seconds.
  var leaseLeft = 0.0
  var leaseAge = 0.0
  var takeovers: UInt64 = 0
  var doubts: UInt64 = 0
  var standbys = 0
  var logBytes: UInt64 = 0
  var checkpointLSN: UInt64 = 0
  var checkpointFailures: UInt64 = 0
  var copiesMadeAnew: UInt64 = 0
  var standbyLagBytes: UInt64 = 0
  var standbyLagSeconds = 0.0

  init(isOwner: Bool, epoch: UInt32) {
    self.isOwner = isOwner
    self.epoch = epoch
  }

  func expose(into page: inout Exposition) {
    exposeOwnership(into: &page)
    exposeEngine(into: &page)
    exposeCopy(into: &page)
  }

  private func exposeOwnership(into page: inout Exposition) {
    page.gauge(
      "holdfast_engine_owner", help: "1 while this server owns the log in the engine.",
      value: isOwner ? 1 : 0)
    page.gauge(
      "holdfast_engine_epoch",
      help: "This owner's epoch; of a standby, that of the owner it has last seen.",
      value: Double(epoch))
    page.gauge(
      "holdfast_engine_lease_seconds",
      help:
        "What is left of this owner's lease; below 0 it answers nothing that it has not recorded.",
      value: leaseLeft)
    page.gauge(
      "holdfast_engine_lease_age_seconds",
      help: "Time since this owner had sent the newest write that the engine has acknowledged.",
      value: leaseAge)
    page.counter(
      "holdfast_engine_takeovers_total", help: "Times that this server has taken the log.",
      value: takeovers)
    page.counter(
      "holdfast_engine_doubts_total",
      help: "Writes to the engine whose answer was lost: each is cleared up before anything else.",
      value: doubts)
  }

  private func exposeEngine(into page: inout Exposition) {
    page.gauge(
      "holdfast_engine_standbys", help: "Standbys that this owner has lately heard of.",
      value: Double(standbys))
    page.gauge(
      "holdfast_engine_log_bytes", help: "Bytes of decisions in the engine's log.",
      value: Double(logBytes))
    page.gauge(
      "holdfast_engine_checkpoint_lsn",
      help: "Where the newest checkpoint begins that this owner knows to be in the engine.",
      value: Double(checkpointLSN))
    page.counter(
      "holdfast_engine_checkpoint_failures_total",
      help: "Times that the engine did not take a checkpoint of this owner; it is tried again.",
      value: checkpointFailures)
  }

  private func exposeCopy(into page: inout Exposition) {
    page.gauge(
      "holdfast_standby_lag_bytes",
      help: "Bytes of decisions in the engine's log that this standby has not copied yet.",
      value: Double(standbyLagBytes))
    page.gauge(
      "holdfast_standby_lag_seconds",
      help: "Time since this standby last had all that it could read in the engine's log.",
      value: standbyLagSeconds)
    page.counter(
      "holdfast_standby_copies_made_anew_total",
      help: "Copies of the log that were given up, and made anew from the engine's checkpoint.",
      value: copiesMadeAnew)
  }
}
