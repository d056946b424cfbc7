// Commands for a tool that counts instructions, where clocks are too coarse: one thread, no clock is read.
// Two runs that differ in `rounds` alone differ by the commands of so many rounds:
//   valgrind --tool=callgrind .build/release/store-benchmark count reserve 1000 [locking]
internal import StockStore

enum CountedCommands: String, CaseIterable {
  /// Reserve one unit of one SKU, then release it.
  case reserve
  /// The same with a limit for a customer of its own each.
  case limited
  /// Reserve one unit of some SKU, put another SKU in its place, then release it.
  case replace
  /// The same by a release and another reserve.
  case swap
  /// Reserve carts of five lines, then confirm them.
  case cart
  /// Reserve what is sold out.
  case soldOut = "sold-out"
  /// Make new items by AdjustStock.
  case adjust

  private static let commandsPerRound = 16

  /// Gives so many rounds of 16 commands to a small store; each hold is ended as well.
  func run(rounds: Int, _ concurrency: ConcurrencyControl) {
    let count = rounds * Self.commandsPerRound
    let items = self == .adjust ? count : 100
    let bench = Bench(items: items, concurrency: concurrency)
    bench.fill(liveHolds: 0)
    switch self {
    case .reserve:
      _ = bench.reserve(Picks(.hot, items: items, count: count))
      _ = bench.releaseAll()
    case .limited:
      _ = bench.reserve(Picks(.hot, items: items, count: count), isLimited: true)
      _ = bench.releaseAll()
    case .replace, .swap:
      _ = bench.reserve(Picks(.uniform, items: items, count: count))
      let others = Picks(.zipf, items: items, count: count)
      _ = self == .replace ? bench.replaceAll(others) : bench.swapAll(others)
      _ = bench.releaseAll()
    case .cart:
      _ = bench.reserve(Picks(.uniform, items: items, count: count * 5), lines: 5)
      _ = bench.confirmAll()
    case .soldOut: _ = bench.reserveSoldOut(count: count)
    case .adjust: break
    }
  }
}
