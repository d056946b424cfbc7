// What a command costs inside the store: no network, no protobuf, no journal. One thread unless it says
// otherwise, turns of 16 commands, the system's clock read once a turn. Keys and names are ready before
// the clock runs: what is measured is hashing them, the idempotency probe, the lookup of the item, the
// commit, the record of the hold, its timer and the log sequence number.
internal import Glibc
internal import Posix
internal import StockStore

@main
struct StoreBenchmark {
  static let items = 1_000_000
  static let liveHolds = 1_000_000
  static let growingHolds = 5_000_000
  static let operations = 100_000
  static let rounds = 7

  static func main() throws {
    #if DEBUG
      print("This is a debug build: the figures mean nothing. Use swift run -c release.")
    #endif
    if CommandLine.arguments.count == 3, CommandLine.arguments[1] == "recovery" {
      return try RecoveryBenchmark(path: CommandLine.arguments[2]).run()
    }
    if CommandLine.arguments.count == 3, CommandLine.arguments[1] == "recover" {
      return try RecoveryBenchmark(path: CommandLine.arguments[2]).runOnce()
    }
    if CommandLine.arguments.count == 2, CommandLine.arguments[1] == "strategies" {
      return try StrategyBenchmark().run()
    }
    if CommandLine.arguments.count == 2, CommandLine.arguments[1] == "bars" {
      guard printBars() else { exit(1) }
      return
    }
    if CommandLine.arguments.count == 2, CommandLine.arguments[1] == "pauses" {
      return printPauses()
    }
    if CommandLine.arguments.count >= 4, CommandLine.arguments[1] == "count",
      let commands = CountedCommands(rawValue: CommandLine.arguments[2]),
      let rounds = Int(CommandLine.arguments[3])
    {
      let strategy = ConcurrencyControl(rawValue: CommandLine.arguments.last ?? "")
      return commands.run(rounds: rounds, strategy ?? .optimistic)
    }
    print(
      "\(items) items, \(liveHolds) live holds; \(rounds) rounds of \(operations) commands each")
    print(
      "In turns of \(Bench.commandsPerTurn), by the thread's CPU time. Not in it: network, HTTP/2, "
        + "protobuf, journal. A release is timed with forgetting what it ended.")
    let bench = Bench(items: items)
    bench.fill(liveHolds: liveHolds)
    bench.printMemory()
    let hot = Picks(.hot, items: items, count: operations)
    let zipf = Picks(.zipf, items: items, count: operations)
    let uniform = Picks(.uniform, items: items, count: operations)
    var table = Table()
    for _ in 0..<rounds {
      table.add("reserve, 1 SKU", bench.reserve(hot))
      table.add("release, 1 SKU", bench.releaseAll())
      table.add("reserve, 1 SKU, 1 limit", bench.reserve(hot, isLimited: true))
      table.add("release, 1 SKU, 1 limit", bench.releaseAll())
      table.add("reserve, zipf 0.99", bench.reserve(zipf))
      table.add("confirm, zipf 0.99", bench.confirmAll())
      table.add("reserve, uniform", bench.reserve(uniform))
      table.add("release, uniform", bench.releaseAll())
      table.add("reserve, uniform, 1 limit", bench.reserve(uniform, isLimited: true))
      table.add("confirm, uniform, 1 limit", bench.confirmAll())
      table.add("reserve, 5 lines uniform", bench.reserve(uniform, lines: 5))
      table.add("release, 5 lines uniform", bench.releaseAll())
      table.add("reserve, sold out", bench.reserveSoldOut(count: operations))
      table.add("replay of a reserve, uniform", bench.replay(uniform))
      _ = bench.releaseAll()
      table.add("read of an item, uniform", bench.read(uniform))
      table.add("2 threads: reserve, 1 SKU", try bench.reserveOnTwoThreads(hot))
      table.add("2 threads: reserve, uniform", try bench.reserveOnTwoThreads(uniform))
    }
    table.print()
    bench.printStatistics()
    printPauses()
  }

  /// What the store has to keep, with its bars. False where one is missed.
  static func printBars() -> Bool {
    let bytes = { () -> (item: Double, hold: Double) in
      let bench = Bench(items: items)
      bench.fill(liveHolds: liveHolds)
      return bench.bytes
    }()
    let figures = [
      ("Replace beside Release + Reserve, CPU", replaceRatio(), 0.7),
      ("bytes per item", bytes.item.rounded(.up), 81),
      ("bytes per live hold", bytes.hold.rounded(.up), 146),
    ]
    for (name, value, bar) in figures {
      let text = "\((value * 100).rounded() / 100)"
      print("\(name): \(text) (bar \(bar))\(value <= bar ? "" : "  MISSED")")
    }
    return figures.allSatisfy { $0.1 <= $0.2 }
  }

  /// What a Replace costs beside a Release and a Reserve that do the same to the items. Decisions are remembered as
  /// servers do it: else the two would find the record of what they have just ended in the cache, and fill that again,
  /// while the answer to a Replace stays until its hold was to end.
  private static func replaceRatio() -> Double {
    let bench = Bench(items: items, retentionNanoseconds: 86_400_000_000_000)
    bench.fill(liveHolds: liveHolds)
    let picks = Picks(.uniform, items: items, count: operations / 2)
    let others = Picks(.zipf, items: items, count: operations / 2)
    var ratios: [Double] = []
    for _ in 0..<rounds {
      _ = bench.reserve(picks)
      let swapped = bench.swapAll(others)
      _ = bench.releaseAll()
      _ = bench.reserve(picks)
      let replaced = bench.replaceAll(others)
      _ = bench.releaseAll()
      ratios.append(replaced / swapped)
    }
    return ratios.sorted()[rounds / 2]
  }

  /// The longest turns: what calls may have to wait for.
  static func printPauses() {
    let sweep = expirySweep()
    print(
      "expiry, 1M holds due at one moment: \(sweep.nanosecondsPerHold) ns a hold; of \(sweep.turns) "
        + "turns \(sweep.longest)")
    let growth = growth()
    print("tables grow: \(growth.items), while \(items) items are made")
    print("tables grow: \(growth.holds), while \(growingHolds) holds are")
  }

  /// A million holds that fall due together, from before they are staged until all have ended.
  static func expirySweep() -> (nanosecondsPerHold: Int, turns: Int, longest: String) {
    let clock = ManualClock()
    let bench = Bench(items: 1000, clock: clock)
    bench.fill(liveHolds: 1_000_000)
    bench.timeTurns()
    var turns = 0
    let start = Machine.threadCPUNanoseconds()
    for wait in [Bench.fillTTL - 1_000_000_000, 1_000_000_000] {
      clock.advance(byNanoseconds: wait)
      repeat {
        bench.turn()
        turns += 1
      } while bench.hasBacklog
    }
    let elapsed = Int(Machine.threadCPUNanoseconds() - start)
    bench.turn()
    return (elapsed / liveHolds, turns, bench.longestTurns)
  }

  /// Tables grow while so many items, then holds, are made.
  static func growth() -> (items: String, holds: String) {
    let bench = Bench(items: items)
    bench.timeTurns()
    bench.fill(liveHolds: 0)
    let itemTurns = bench.longestTurns
    let picks = Picks(.uniform, items: items, count: liveHolds)
    bench.timeTurns()
    for _ in 0..<growingHolds / liveHolds { bench.addHolds(picks) }
    return (itemTurns, bench.longestTurns)
  }
}

/// Results, printed as medians.
struct Table {
  private var names: [String] = []
  private var results: [String: [Double]] = [:]

  mutating func add(_ name: String, _ nanoseconds: Double) {
    if results[name] == nil { names.append(name) }
    results[name, default: []].append(nanoseconds)
  }

  func print() {
    Swift.print("ns per command                    median     least      most")
    for name in names {
      let sorted = (results[name] ?? []).sorted()
      guard let least = sorted.first, let most = sorted.last else { continue }
      let cells = [sorted[sorted.count / 2], least, most].map { value in
        let text = String(Int(value.rounded()))
        return String(repeating: " ", count: max(0, 10 - text.count)) + text
      }
      Swift.print(name + String(repeating: " ", count: max(0, 30 - name.count)) + cells.joined())
    }
  }
}
