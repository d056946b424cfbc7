package import Log
package import StockStore

/// A bug that is made on purpose.
package enum Mutant: Equatable, Sendable, CaseIterable {
  case log(LogFault)
  case store(DeliberateFault)

  package static var allCases: [Mutant] {
    LogFault.allCases.map { .log($0) } + DeliberateFault.allCases.map { .store($0) }
  }

  package var name: String {
    switch self {
    case .log(let fault): fault.rawValue
    case .store(let fault): fault.rawValue
    }
  }

  var ofLog: LogFault? { if case .log(let fault) = self { fault } else { nil } }
  var ofStore: DeliberateFault? { if case .store(let fault) = self { fault } else { nil } }

  /// Found by who watches alone.
  var isOfFeed: Bool { name.hasPrefix("watch-") }

  /// Found by who makes backups and restores them.
  var isOfBackups: Bool {
    ["archive-", "backup-", "restore-"].contains { name.hasPrefix($0) }
  }
}

/// Runs seeds with a bug until one finds it: what it found; nil where none does.
/// - Parameter strategy: nil: as each seed says.
package func findMutant(
  _ fault: Mutant, strategy: ConcurrencyControl? = nil, seeds: Range<UInt64>
) -> Violation? {
  for seed in seeds {
    do throws(Violation) {
      try SimulationRun(seed: seed, fault: fault, strategy: strategy).run()
    } catch {
      return error
    }
  }
  return nil
}
