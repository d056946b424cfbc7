// The command line of the load generator. Exit status: 0 all is well, 1 an invariant is violated, 2 it
// could not be run or compared, 3 a requirement is broken, 4 a condition ended the run, and nothing worse; 128 + N after signal N.
internal import ArgumentParser
internal import Glibc
internal import LoadHistory
internal import LoadKit
internal import LoadReport
internal import Posix
internal import Version

@main
struct HoldfastLoad: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "holdfast-load",
    abstract: "Hammers a holdfast server, and proves that it sold nothing twice.",
    discussion: """
      A run puts stock behind SKUs of its own, reserves, confirms and releases, sends some calls \
      twice, and takes down every answer. Afterwards it compares its book with the server's \
      balances and prints a verdict.

        holdfast-load run --scenario carts --rate 5000 --html report.html
        holdfast-load find-knee --require 'p99<5ms'

      Exit status: 0 all is well, 1 an invariant is violated, 2 it could not be run or compared, 3 a \
      --require is broken, 4 an --abort-if ended the run.
      """,
    version: Build.text,
    subcommands: [
      RunCommand.self, FindKneeCommand.self, ScenariosCommand.self, CompareCommand.self,
      CheckCommand.self, AuditCommand.self, PrepareCommand.self,
      AgentCommand.self,
    ])

  static func main() {
    // A report that outgrows the limit of a file's size is told of like any that cannot be written.
    Signals.makeFailedWritesErrors()
    TLSLibrary.keepUntilTheEnd()
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch let error as LoadError {
      fail("\(error)")
    } catch let error as HistoryError {
      fail("\(error)")
    } catch {
      // --help and --version come here as well, with status 0.
      if exitCode(for: error) == .success { exit(withError: error) }
      if let status = error as? ExitCode { Glibc.exit(status.rawValue) }
      fail(message(for: error))
    }
  }

  private static func fail(_ message: String) -> Never {
    tell("holdfast-load: \(message)")
    Glibc.exit(2)
  }

  /// A line at once, on standard error or on another descriptor.
  static func tell(_ line: String, on descriptor: Int32 = 2) {
    let bytes = Array((line + "\n").utf8)
    // Nobody is told where it is closed.
    _ = unsafe bytes.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
  }
}

struct PrepareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "prepare",
    abstract: "Puts stock behind the SKUs sku-0000000, sku-0000001, …",
    discussion: "For tools that bring their own load. Repeating it sets the stock again.")

  @Option(
    help: """
      The server's gRPC address, a host and a port; of several servers of one store: h1:p1,h2:p2.
      """,
    transform: Endpoint.resolvingList)
  var target: Endpoint
  @Option(help: "How many SKUs.")
  var skus: Int
  @Option(help: "Units behind each. The default does not run out.")
  var units: Int64 = 1 << 40
  @OptionGroup var access: AccessFlags

  func run() throws {
    try access.check(usesTLS: access.tls)
    let target = try access.apply(to: target)
    try prepareStock(target: target, skus: skus, units: units, run: RunID(Machine.random64()))
    print("\(Text.counted(skus, "SKU")), \(Text.counted(units, "unit")) each")
  }
}
