package import StockStore

/// Runs seeds with a bug until one finds it: what it found; nil where none does.
package func findMutant(_ fault: DeliberateFault, seeds: Range<UInt64>) -> Violation? {
  for seed in seeds {
    do throws(Violation) {
      try SimulationRun(seed: seed, fault: fault).run()
    } catch {
      return error
    }
  }
  return nil
}
