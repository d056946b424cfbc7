// One thread of the load generator: its own connections, its own ledger, one epoll loop.
internal import LoadHistory
internal import Posix
internal import Synchronization

/// One worker. Made by main, run on a thread of its own, read by main after that thread was joined.
final class Worker: @unchecked Sendable {
  let number: Int
  let options: RunOptions
  let control: RunControl
  private let weights: AliasTable?
  /// What came of it; set at the end of `run`.
  private var ledger: Ledger?
  private(set) var statistics = Statistics()
  private(set) var failure: LoadError?

  init(number: Int, options: RunOptions, control: RunControl, weights: AliasTable?) {
    self.number = number
    self.options = options
    self.control = control
    self.weights = weights
  }

  func run() {
    Machine.usePreciseTimers()
    do throws(LoadError) {
      var loop = try WorkerLoop(
        number: number, options: options, control: control, weights: weights)
      try loop.connect()
      control.ready.add(1, ordering: .acquiringAndReleasing)
      if try loop.awaitStart() { try loop.run() }
      statistics = loop.meter.statistics
      ledger = loop.takeLedger()
    } catch {
      failure = error
      control.ready.add(1, ordering: .acquiringAndReleasing)
    }
    control.intervals[number].finish()
    control.finished.add(1, ordering: .acquiringAndReleasing)
  }

  /// Hands the ledger over, once.
  func takeLedger() -> Ledger? { ledger.take() }
}
