// The strategies beside each other, in the store alone: what is left of their differences where a server
// adds its network is for `holdfast-load` to say. Interleaved, so that all see the same machine.
internal import StockStore

struct StrategyBenchmark {
  private static let items = 100_000
  private static let operations = 50_000
  private static let rounds = 7

  func run() throws {
    print(
      "\(Self.items) items; \(Self.rounds) rounds of \(Self.operations) lines each; with 2 threads, the "
        + "slower one's CPU time, waiting included")
    let hot = Picks(.hot, items: Self.items, count: Self.operations)
    let zipf = Picks(.zipf, items: Self.items, count: Self.operations)
    let uniform = Picks(.uniform, items: Self.items, count: Self.operations)
    let benches = ConcurrencyControl.sound.map { (strategy: $0, bench: makeBench($0)) }
    var table = Table()
    for _ in 0..<Self.rounds {
      for (strategy, bench) in benches {
        let name = strategy.rawValue
        table.add("\(name), 1 SKU", bench.reserve(hot))
        _ = bench.releaseAll()
        table.add("\(name), 5 lines", bench.reserve(uniform, lines: 5))
        _ = bench.releaseAll()
        table.add("\(name), 2×1 SKU", try bench.reserveOnTwoThreads(hot))
        table.add("\(name), 2×zipf", try bench.reserveOnTwoThreads(zipf))
        table.add("\(name), 2×5 lines zipf", try bench.reserveOnTwoThreads(zipf, lines: 5))
      }
    }
    table.print()
    for (strategy, bench) in benches {
      print("\n\(strategy.rawValue)")
      bench.printStatistics()
    }
  }

  private func makeBench(_ strategy: ConcurrencyControl) -> Bench {
    let bench = Bench(items: Self.items, concurrency: strategy)
    bench.fill(liveHolds: 0)
    return bench
  }
}
