// The process's numbers as Prometheus metrics, by the names that client libraries give them.
internal import Metrics
internal import Posix
internal import Version

enum ProcessMetrics {
  private static let startSeconds = Double(SystemClock.wall().nanoseconds) / 1e9

  static func expose(into page: inout Exposition) {
    var build = [("version", Build.version), ("configuration", Build.configuration)]
    if let commit = Build.commit { build.append(("commit", commit)) }
    page.gauge(
      "holdfast_build_info", help: "Constant 1, labelled with what this build is.",
      samples: [(build, 1)])
    page.counter(
      "process_cpu_seconds_total", help: "CPU time of the process, user and system.",
      samples: [([], Double(Machine.processCPUNanoseconds()) / 1e9)])
    page.gauge(
      "process_start_time_seconds", help: "When the process started, since the Unix epoch.",
      value: startSeconds)
    guard let status = ProcessStatus() else { return }
    page.gauge(
      "process_resident_memory_bytes", help: "Memory of the process that is in use.",
      value: Double(status.residentBytes))
    page.gauge(
      "process_virtual_memory_bytes", help: "Address space of the process, used or only reserved.",
      value: Double(status.virtualBytes))
    page.gauge(
      "process_threads", help: "Threads of the process.", value: Double(status.threads))
    page.gauge(
      "process_open_fds", help: "Open descriptors: sockets and files.",
      value: Double(status.openDescriptors))
    page.gauge(
      "process_max_fds", help: "Descriptors that the process may have open (ulimit -n).",
      value: Double(status.openDescriptorsMax))
  }

  /// Since the start.
  static var uptimeSeconds: Double { Double(SystemClock.wall().nanoseconds) / 1e9 - startSeconds }

  /// Fixes the start time; call it early.
  static func begin() { _ = startSeconds }
}
