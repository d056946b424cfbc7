internal import ArgumentParser
internal import FoundationEssentials
internal import Glibc
internal import LoadHistory
internal import LoadKit
internal import LoadReport
internal import Posix

struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Runs a load, and compares every answer with the server's balances.")

  @Option(help: "The server's gRPC address, an IP address and a port.")
  var target: Endpoint
  @Flag(
    help: """
      Two runs that show what this is about: a flash sale of 1,000 units, then a mixed load. Only \
      --target, --admin, --server-pid and --seed count beside it.
      """)
  var demo = false

  @OptionGroup(title: "Load") var load: LoadFlags
  @OptionGroup(title: "Workload") var workload: WorkloadFlags
  @OptionGroup(title: "Report") var report: ReportFlags

  struct LoadFlags: ParsableArguments {
    @Option(help: "Connections.")
    var connections = 8
    @Option(help: "Calls in flight on each connection.")
    var streams = 10
    @Option(help: "Threads of the generator; each has its own connections.")
    var threads = 1
    @Option(help: "Seconds measured.")
    var duration = 10.0
    @Option(help: "Seconds of load before the measurement.")
    var warmUp = 1.0
    @Option(help: "Calls in all, in place of --duration and --warm-up.")
    var operations: Int?
    @Option(
      help: """
        Open loop: calls per second over all connections, sent on schedule; latency counts from \
        the scheduled time. Without it every stream waits for its answer.
        """)
    var rate: Double?
    @Option(help: "The same seed makes the same draws. Default: random; the report names it.")
    var seed: UInt64?
  }

  struct WorkloadFlags: ParsableArguments {
    @Option(help: "SKUs, under a prefix of this run's own.")
    var skus = 1
    @Option(help: "Units put behind each SKU.")
    var units: Int64 = 1_000_000
    @Option(help: "Units behind SKU 0, where that differs.")
    var hotUnits: Int64?
    @Option(help: "How SKUs are drawn: single, uniform, or zipf:S.")
    var distribution = Distribution.uniform
    @Option(help: "Share of lines for SKU 0, whatever the distribution.")
    var hotShare = 0.0
    @Option(help: "Lines of a cart: N or A-B.")
    var lines = CountRange(1)
    @Option(help: "Units of a line: N or A-B.")
    var quantity = CountRange(1)
    @Option(help: "Share of reservations that are confirmed.")
    var confirmShare = 0.6
    @Option(help: "Share that is released. The rest is abandoned, and expires.")
    var releaseShare = 0.3
    @Option(
      help: """
        Share of calls that are sent twice, byte for byte: half at once by any connection, half \
        later.
        """)
    var duplicateShare = 0.01
    @Option(help: "Seconds that a hold lasts.")
    var ttl = 600.0
  }

  struct ReportFlags: ParsableArguments {
    @Option(help: "Write the report as JSON to this file; - is standard output.")
    var json: String?
    @Option(help: "The server's admin address, to read conflicts and retries from /metrics.")
    var admin: Endpoint?
    @Option(help: "The server's process id, to read its CPU time per request.")
    var serverPid: Int32?
    @Flag(
      name: .customLong("no-verify"),
      help: "Prepare no stock and compare nothing: for servers that only answer.")
    var noVerify = false
    @Option(
      help: ArgumentHelp(
        """
        Write every call and its answer to this file in place of comparing: `audit` does that, also \
        after the server has died.
        """, valueName: "file"))
    var saveLedger: String?
  }

  func run() throws {
    let runs = demo ? demoRuns() : [options()]
    var status: Int32 = 0
    for (number, options) in runs.enumerated() {
      if demo { print(RunCommand.demoTitles[number]) }
      var line = ProgressLine()
      let result: RunResult
      do {
        result = try LoadKit.run(options) { line.show($0) }
      } catch {
        line.clear()
        throw error
      }
      line.clear()
      try write(result.report)
      if let path = report.saveLedger, let ledger = result.ledger { try save(ledger, to: path) }
      status = max(status, result.exitStatus)
    }
    if status != 0 { throw ExitCode(status) }
  }

  private func options() -> RunOptions {
    var options = common()
    options.connections = load.connections
    options.streams = load.streams
    options.threads = load.threads
    options.durationSeconds = load.duration
    options.warmUpSeconds = load.warmUp
    options.operations = load.operations
    options.profile = load.rate.map { LoadProfile(ratePerSecond: $0) }
    options.workload.units = workload.units
    options.workload.hotUnits = workload.hotUnits
    options.workload.skuCount = workload.skus
    options.workload.distribution = workload.distribution
    options.workload.hotShare = workload.hotShare
    options.workload.lines = workload.lines.range
    options.workload.quantity = workload.quantity.range
    options.workload.confirmShare = workload.confirmShare
    options.workload.releaseShare = workload.releaseShare
    options.workload.duplicateShare = workload.duplicateShare
    let timeToLive = Int64(min(max(0, workload.ttl), 1e9) * 1e9)
    options.workload.timeToLiveNanoseconds = timeToLive...timeToLive
    if report.noVerify { options.workload.confirmShare = 0 }
    if report.noVerify { options.workload.releaseShare = 0 }
    options.verifies = !report.noVerify
    options.savesHistory = report.saveLedger != nil
    options.compares = report.saveLedger == nil
    return options
  }

  private func common() -> RunOptions {
    var options = RunOptions(target: target)
    options.admin = report.admin
    options.serverPID = report.serverPid
    options.seed = load.seed ?? Machine.random64() >> 32
    options.run = RunID(Machine.random64())
    return options
  }

  // MARK: Demo

  private static let demoTitles = [
    "\nFlash sale: one SKU, 1,000 units, everybody at once\n",
    "\nMixed load: a hot SKU and 999 others, carts of 1 to 3 lines, retries, releases\n",
  ]

  private func demoRuns() -> [RunOptions] {
    var sale = common()
    sale.durationSeconds = 2.5
    sale.warmUpSeconds = 0
    sale.workload.units = 1_000
    // What is sold stays sold: exactly 1,000 can win.
    sale.workload.confirmShare = 0.9
    sale.workload.releaseShare = 0
    sale.workload.duplicateShare = 0.05
    var mixed = common()
    mixed.durationSeconds = 5
    mixed.workload.units = 1_000_000
    mixed.workload.hotUnits = 1_000
    mixed.workload.skuCount = 1_000
    mixed.workload.distribution = .zipf(exponent: 0.9)
    mixed.workload.hotShare = 0.1
    mixed.workload.lines = 1...3
    mixed.workload.duplicateShare = 0.05
    return [sale, mixed]
  }

  // MARK: Output

  private func write(_ report: Report) throws {
    guard let path = self.report.json else {
      print(report.text, terminator: "")
      return
    }
    let json = try JSONReport.encode(report)
    if path == "-" {
      print(String(decoding: json, as: UTF8.self), terminator: "")
      return
    }
    print(report.text, terminator: "")
    // Not replaced as a whole: it may be a pipe.
    do {
      try json.write(to: URL(filePath: path))
    } catch {
      throw LoadError("cannot write the report to \(path): \(error)")
    }
  }
}
