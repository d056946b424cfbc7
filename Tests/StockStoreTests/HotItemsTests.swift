import Log
import Posix
import Simulation
import Testing

@testable import StockStore

private let ticks: Int64 = 1 << Fading.tickLog2

/// Counts every item.
private struct ExactCounts {
  var counts: [UInt32: UInt64] = [:]
  var total: UInt64 = 0

  mutating func add(_ ordinal: UInt32, weight: UInt64 = 1) {
    counts[ordinal, default: 0] += weight
    total += weight
  }
}

/// A stream of items that anybody can make again.
private struct Draws {
  private var state: UInt64

  init(_ seed: UInt64) { state = seed &* 2 + 1 }

  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }

  /// From 0 up to 1.
  mutating func share() -> Double { Double(next() >> 11) / Double(1 << 53) }
}

private enum Streams {
  static let names = [
    "uniform", "zipf 1.0", "zipf 1.3", "one", "counting", "scan and a favourite", "pushing out",
  ]

  /// `count` items.
  static func items(_ name: String, _ count: Int) -> [UInt32] {
    var draws = Draws(7)
    switch name {
    case "uniform": return (0..<count).map { _ in UInt32(draws.next() >> 33) % 5000 }
    case "zipf 1.0", "zipf 1.3":
      let exponent = name == "zipf 1.0" ? 1.0 : 1.3
      var sums: [Double] = []
      for rank in 1...5000 { sums.append((sums.last ?? 0) + 1 / power(Double(rank), exponent)) }
      return (0..<count).map { _ in
        let wanted = draws.share() * (sums.last ?? 1)
        var (low, high) = (0, sums.count - 1)
        while low < high {
          let middle = (low + high) / 2
          if sums[middle] < wanted { low = middle + 1 } else { high = middle }
        }
        return UInt32(low)
      }
    case "one": return Array(repeating: 42, count: count)
    case "counting": return (0..<count).map { UInt32($0) }
    // Every item once, and one that comes a twentieth of the time.
    case "scan and a favourite": return (0..<count).map { $0 % 20 == 0 ? 1_000_000 : UInt32($0) }
    // As many items as there are counters and one more, by turns: each takes over another's counter.
    default: return (0..<count).map { UInt32($0 % (SpaceSaving.counters + 1)) }
    }
  }

  private static func power(_ base: Double, _ exponent: Double) -> Double {
    // 1.0 and 1.3 alone; a root by Newton is enough.
    if exponent == 1 { return base }
    var root = base
    for _ in 0..<200 { root -= (tenth(root) - base) / (10 * tenth(root) / root) }
    return base * root * root * root
  }

  private static func tenth(_ value: Double) -> Double {
    let square = value * value
    let fourth = square * square
    return fourth * fourth * square
  }
}

private func sums(_ sketches: [PaddedArray<SpaceSaving>], tick: Int64) -> HotSums {
  var sums = HotSums()
  for sketch in sketches { sketch[0].add(to: &sums, tick: tick) }
  return sums
}

private func makeSketches(_ count: Int) -> [PaddedArray<SpaceSaving>] {
  (0..<count).map { _ in PaddedArray(count: 1) { _ in SpaceSaving() } }
}

/// Events, from what a list calls events a second after one tick.
private func events(_ perSecond: Double) -> Double { perSecond * Fading.secondsCounted(ticks: 1) }

@Suite struct HotItemsTests {
  @Test(
    "No count is too low, none too high by more than it says, and what is frequent is there",
    arguments: Streams.names, [1, 3])
  func bounds(stream: String, sketchCount: Int) {
    let sketches = makeSketches(sketchCount)
    defer { for sketch in sketches { sketch.free() } }
    var exact = ExactCounts()
    for (index, item) in Streams.items(stream, 60_000).enumerated() {
      exact.add(item)
      sketches[index % sketchCount][0].add(item, weight: 1, tick: 5)
    }
    let list = sums(sketches, tick: 5).list(limit: .max, ticks: 1)
    #expect(abs(events(list.perSecond) - Double(exact.total)) < 0.5)
    var found: Set<UInt32> = []
    for entry in list.entries {
      found.insert(entry.item.ordinal)
      let truth = Double(exact.counts[entry.item.ordinal] ?? 0)
      #expect(events(entry.perSecond) >= truth - 0.5)
      #expect(events(entry.perSecond - entry.errorPerSecond) <= truth + 0.5)
      #expect(
        events(entry.errorPerSecond) <= Double(exact.total) / Double(SpaceSaving.counters) + 0.5)
    }
    let least = exact.total / UInt64(SpaceSaving.counters)
    for (item, count) in exact.counts where count > least { #expect(found.contains(item)) }
  }

  @Test("The first of a Zipf stream come in their order, with counts within 5 %")
  func order() {
    let sketches = makeSketches(2)
    defer { for sketch in sketches { sketch.free() } }
    var exact = ExactCounts()
    for (index, item) in Streams.items("zipf 1.3", 60_000).enumerated() {
      exact.add(item)
      sketches[index % 2][0].add(item, weight: 1, tick: 1)
    }
    let list = sums(sketches, tick: 1).list(limit: 5, ticks: 1)
    #expect(list.entries.map(\.item.ordinal) == [0, 1, 2, 3, 4])
    for entry in list.entries {
      let truth = Double(exact.counts[entry.item.ordinal] ?? 0)
      #expect(abs(events(entry.perSecond) - truth) < 0.05 * truth)
    }
  }

  @Test("A count fades by a 32nd a tick, also where nobody comes, until nothing is left")
  func fading() {
    let sketches = makeSketches(1)
    defer { sketches[0].free() }
    sketches[0][0].add(3, weight: 1000, tick: 10)
    func counted(_ tick: Int64) -> Double {
      let list = sums(sketches, tick: tick).list(limit: 1, ticks: 1)
      return list.entries.first.map { events($0.perSecond) } ?? 0
    }
    #expect(abs(counted(10) - 1000) < 0.01)
    #expect(abs(counted(11) - 1000 * 31 / 32) < 0.1)
    // Half of it after 22 ticks.
    #expect(abs(counted(32) - 497.3) < 1)
    #expect(counted(400) == 0 && counted(5000) == 0 && counted(.max) == 0)
    // Reading has changed nothing; writing fades the same.
    sketches[0][0].add(4, weight: 1, tick: 11)
    #expect(abs(counted(11) - 1000 * 31 / 32) < 0.1)
  }

  @Test(
    "A steady rate is told as what it is, from the first seconds on",
    arguments: [1, 3, 10, 100, 400])
  func rates(seconds: Int64) throws {
    let sketches = makeSketches(1)
    defer { sketches[0].free() }
    let first: Int64 = 7
    for tick in first..<(first + seconds) {
      for _ in 0..<100 { sketches[0][0].add(9, weight: 1, tick: tick) }
    }
    let list = sums(sketches, tick: first + seconds - 1).list(limit: 1, ticks: seconds)
    let entry = try #require(list.entries.first)
    #expect(abs(entry.perSecond * Fading.tickSeconds - 100) < 1)
  }

  @Test("A new favourite takes the place of an old one")
  func newFavourite() {
    let sketches = makeSketches(1)
    defer { sketches[0].free() }
    for tick in Int64(1)...60 { sketches[0][0].add(1, weight: 1000, tick: tick) }
    for tick in Int64(61)...90 { sketches[0][0].add(2, weight: 1000, tick: tick) }
    let list = sums(sketches, tick: 90).list(limit: 2, ticks: 90)
    #expect(list.entries.map(\.item.ordinal) == [2, 1])
  }

  @Test(
    "Few events are all looked at, of many some, which count for all",
    arguments: [(10, 1), (1000, 1), (50_000, 20), (2_000_000, 400)])
  func sampling(perTick: Int, atLeastPassedOver: Int) {
    var sample = HotSample(random: 99)
    var (looked, weight, events) = (0, UInt64(0), 0)
    for tick in Int64(1)...5 {
      let isCounted = tick > 2
      for _ in 0..<perTick {
        if isCounted { events += 1 }
        if sample.passesOver() { continue }
        let counted = sample.take(tick: tick)
        if isCounted {
          looked += 1
          weight += counted
        }
      }
    }
    #expect(looked <= events / atLeastPassedOver)
    #expect(looked <= 3 * 5 * HotSample.samplesPerTick)
    // The draw's deviation: below a twentieth with a thousand looks and more.
    #expect(abs(Double(weight) - Double(events)) <= 0.05 * Double(events))
  }

  @Test("A stream that repeats in step with the sampling is counted right")
  func inStep() {
    var sample = HotSample(random: 5)
    let sketches = makeSketches(1)
    defer { sketches[0].free() }
    // Every 64th is another item than all others.
    var index = 0
    for tick in Int64(1)...4 {
      for _ in 0..<200_000 {
        let item: UInt32 = index % 64 == 0 ? 1 : 0
        index += 1
        if sample.passesOver() { continue }
        sketches[0][0].add(item, weight: sample.take(tick: tick), tick: tick)
      }
    }
    let list = sums(sketches, tick: 4).list(limit: 2, ticks: 4)
    let share = (list.entries.last?.perSecond ?? 0) / list.perSecond
    #expect(list.entries.map(\.item.ordinal) == [0, 1])
    #expect(abs(share - 1.0 / 64) < 0.006)
  }

  @Test(
    "A store tells its hot items by what became of their reserves",
    arguments: ConcurrencyControl.sound)
  func store(_ concurrency: ConcurrencyControl) {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    for (sku, units) in [("hot", Int64(1000)), ("cold", 1000), ("scarce", 0)] {
      _ = session.adjust(sku, sku, .setOnHand(units))
    }
    for index in 0..<60 {
      _ = session.reserve(
        "\(index)", index % 3 == 0 ? "scarce" : index % 10 == 1 ? "cold" : "hot", 1)
    }
    // Neither a retry nor an item that there is not.
    _ = session.reserve("1", "cold", 1)
    _ = session.reserve("0", "scarce", 1)
    _ = session.reserve("unknown", "unknown", 1)
    #expect(names(fixture, .reserve) == ["hot", "cold"])
    #expect(names(fixture, .refusal) == ["scarce"])
    #expect(names(fixture, .conflict).isEmpty)
    let reserves = fixture.store.hotItems(.reserve, limit: 1)
    #expect(reserves.entries.count == 1 && reserves.entries.first?.errorPerSecond == 0)
    #expect(abs(reserves.perSecond * Fading.tickSeconds - 40) < 0.5)
    fixture.advance(seconds(600))
    #expect(fixture.store.hotItems(.reserve, limit: 1) == HotList())
  }

  @Test("An item that another thread has changed meanwhile is fought for")
  func conflict() {
    let fixture = Fixture(testLimits(), .optimistic)
    let session = fixture.session
    _ = session.adjust("a", "a", .setOnHand(10))
    let ordinal: UInt32 = 0
    #expect(!session.isUnchanged(ordinal, 1 << 40))
    #expect(names(fixture, .conflict) == ["a"])
  }

  private func names(_ fixture: Fixture, _ kind: HotKind) -> [String] {
    fixture.store.hotItems(kind, limit: 10).entries.map { entry in
      let name = fixture.session.name(of: entry.item)
      return unsafe String(decoding: name.sku.pointer, as: UTF8.self)
    }
  }
}
