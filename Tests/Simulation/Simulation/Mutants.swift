package import Log
package import StockStore

/// Runs seeds with a bug until one finds it: what it found; nil where none does.
/// - Parameter strategy: nil: as each seed says.
package func findMutant(
  _ fault: DeliberateFault, strategy: ConcurrencyControl? = nil, seeds: Range<UInt64>
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
