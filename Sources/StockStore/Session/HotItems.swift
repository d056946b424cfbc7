// Which items are asked for most? Each session counts in sketches of its own, of a fixed size, and whoever
// wants to know adds them up.
//
// A sketch is Space-Saving (Metwally, Agrawal, El Abbadi 2005): so many counters, each for an item. An item
// without one takes over the least, and begins where that one stood. So nothing is counted too low; too high by
// what the least had when it was taken over, which is kept; and every item has a counter that has had more than
// a part of `SpaceSaving.counters` of all. Counts fade, by 1/32 a tick of 1.07 s: what was hot a few minutes
// ago is forgotten.
//
// Looking for a counter takes some 50 ns, so only some events are looked at (`HotSample`): about a thousand a
// second, however many there are. All others cost one decrement.
internal import Posix
internal import Synchronization

/// What is counted by item.
package enum HotKind: CaseIterable, Sendable {
  /// Lines that were held.
  case reserve
  /// Reserves and Replaces refused for lack of units, for a limit, or out of a sale: the item that was named first.
  case refusal
  /// Commits that were tried again because somebody else changed the item.
  case conflict
}

/// Items by how often they come, the most frequent first.
package struct HotList: Sendable, Equatable {
  package struct Entry: Sendable, Equatable {
    package var item: ItemHandle
    /// Events a second lately; at most `errorPerSecond` too high.
    package var perSecond: Double
    package var errorPerSecond: Double
  }

  package var entries: [Entry] = []
  /// Of all items together.
  package var perSecond = 0.0
}

/// The arithmetic of fading: whole numbers, so that writer and reader come to the same.
enum Fading {
  /// What one event adds. A power of two far above `part`, or small counts would fade in steps.
  static let unit: UInt64 = 256
  private static let partLog2: UInt64 = 5
  static let tickLog2: Int64 = 30
  static let tickSeconds = Double(1 << tickLog2) / 1e9
  /// After it, nothing is left of anything.
  private static let ticksMax: Int64 = 1024

  static func tick(_ nanoseconds: Int64) -> Int64 { nanoseconds >> tickLog2 }

  /// What is left of a count after one tick; in the end nothing.
  @inline(__always)
  static func next(_ count: UInt64) -> UInt64 {
    count == 0 ? 0 : count - max(1, count >> partLog2)
  }

  static func faded(_ count: UInt64, ticks: Int64) -> UInt64 {
    if ticks > ticksMax { return 0 }
    var count = count
    var left = ticks
    while left > 0, count > 0 {
      count = next(count)
      left -= 1
    }
    return count
  }

  /// By what a count that has grown for so many ticks, the running one included, is divided to get events a second.
  static func secondsCounted(ticks: Int64) -> Double {
    var weight = 0.0
    var share = 1.0
    for _ in 0..<min(max(1, ticks), ticksMax) {
      weight += share
      share *= 1 - 1 / Double(1 << partLog2)
    }
    return weight * tickSeconds
  }
}

/// Counters for items. One thread writes, any may read; what they read may be an event behind.
struct SpaceSaving: ~Copyable {
  static let counters = 64

  /// Number of the item + 1; 0: no item yet.
  private let keys = InlineArray<64, Atomic<UInt32>> { _ in Atomic(0) }
  private let counts = InlineArray<64, Atomic<UInt64>> { _ in Atomic(0) }
  /// By how much a count may be too high.
  private let errors = InlineArray<64, Atomic<UInt64>> { _ in Atomic(0) }
  private let total = Atomic<UInt64>(0)
  private let tick = Atomic<Int64>(0)

  /// Counts `weight` events of the item.
  borrowing func add(_ ordinal: UInt32, weight: UInt64, tick now: Int64) {
    if now > tick.load(ordering: .relaxed) { fade(to: now) }
    let units = weight * Fading.unit
    total.store(total.load(ordering: .relaxed) &+ units, ordering: .relaxed)
    var least = 0
    var leastCount = UInt64.max
    for index in 0..<Self.counters {
      let count = counts[index].load(ordering: .relaxed)
      if keys[index].load(ordering: .relaxed) == ordinal &+ 1 {
        return counts[index].store(count &+ units, ordering: .relaxed)
      }
      if count < leastCount { (least, leastCount) = (index, count) }
    }
    // A reader in between sees the new item with the count that it takes over.
    errors[least].store(leastCount, ordering: .relaxed)
    keys[least].store(ordinal &+ 1, ordering: .relaxed)
    counts[least].store(leastCount &+ units, ordering: .relaxed)
  }

  private borrowing func fade(to now: Int64) {
    let before = tick.load(ordering: .relaxed)
    tick.store(now, ordering: .relaxed)
    // The first event of all: there is nothing to fade.
    if before == 0 { return }
    func fade(_ cell: borrowing Atomic<UInt64>) {
      let value = cell.load(ordering: .relaxed)
      if value > 0 { cell.store(Fading.faded(value, ticks: now - before), ordering: .relaxed) }
    }
    for index in 0..<Self.counters {
      fade(counts[index])
      fade(errors[index])
    }
    fade(total)
  }

  /// Adds what stands here by now to `sums`, from any thread.
  borrowing func add(to sums: inout HotSums, tick now: Int64) {
    let ticks = now - tick.load(ordering: .relaxed)
    var least = UInt64.max
    for index in 0..<Self.counters {
      let key = keys[index].load(ordering: .relaxed)
      let count = Fading.faded(counts[index].load(ordering: .relaxed), ticks: ticks)
      least = min(least, count)
      if key == 0 || count == 0 { continue }
      let error = Fading.faded(errors[index].load(ordering: .relaxed), ticks: ticks)
      sums.add(key - 1, count: count, error: min(error, count))
    }
    sums.finishSketch(
      least: least, total: Fading.faded(total.load(ordering: .relaxed), ticks: ticks))
  }
}

/// Which events are looked at: all while there are few, else one of so many. The gaps are drawn, or a client whose
/// calls repeat in step with them would be counted wrong.
struct HotSample: BitwiseCopyable {
  /// Looked at in a tick, about.
  static let samplesPerTick = 1024
  private static let shiftMax: UInt64 = 12

  /// Events to be passed over before the next that is looked at.
  private var skips = 0
  private var shift: UInt64 = 0
  private var tick: Int64 = 0
  /// Of this tick.
  private var samples = 0
  private var random: UInt64

  init(random: UInt64) { self.random = random | 1 }

  /// Whether this event is passed over. What is on every command's way: a decrement and a branch.
  @inline(__always)
  mutating func passesOver() -> Bool {
    skips &-= 1
    return skips >= 0
  }

  /// For how many events this one counts, which is not passed over. Draws the next.
  mutating func take(tick now: Int64) -> UInt64 {
    if now != tick { begin(now) }
    samples += 1
    // More than expected: a burst, or the first events of a server that was idle.
    if samples > 4 * Self.samplesPerTick, shift < Self.shiftMax {
      shift += 1
      samples = 0
    }
    let weight: UInt64 = 1 << shift
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    // From 0 to 2 * weight - 2: weight - 1 on the average.
    skips = Int(truncatingIfNeeded: (random >> 32) % (2 * weight - 1))
    return weight
  }

  /// As many as in the last tick are expected in this one.
  private mutating func begin(_ now: Int64) {
    let last = now == tick + 1 ? UInt64(samples) << shift : 0
    tick = now
    samples = 0
    shift = 0
    while shift < Self.shiftMax, last >> shift > 2 * UInt64(Self.samplesPerTick) { shift += 1 }
  }
}

/// A session's sketches, as other threads may read them.
struct HotItems: ~Copyable {
  let reserves = SpaceSaving()
  let refusals = SpaceSaving()
  let conflicts = SpaceSaving()

  borrowing func add(_ kind: HotKind, to sums: inout HotSums, tick: Int64) {
    switch kind {
    case .reserve: reserves.add(to: &sums, tick: tick)
    case .refusal: refusals.add(to: &sums, tick: tick)
    case .conflict: conflicts.add(to: &sums, tick: tick)
    }
  }
}

/// Several sketches added up.
struct HotSums {
  private struct Sum {
    var count: UInt64 = 0
    var error: UInt64 = 0
    var sketches = 0
    /// What sketches without the item may have dropped of it is at most their least; of those that have it, that sum.
    var leastSeen: UInt64 = 0
  }

  private var sums: [UInt32: Sum] = [:]
  private var touched: [UInt32] = []
  private var leastOfAll: UInt64 = 0
  private(set) var total: UInt64 = 0

  mutating func add(_ ordinal: UInt32, count: UInt64, error: UInt64) {
    sums[ordinal, default: Sum()].count += count
    sums[ordinal, default: Sum()].error += error
    touched.append(ordinal)
  }

  /// - Parameters:
  ///   - least: the sketch's lowest count; 0 while it has free counters.
  mutating func finishSketch(least: UInt64, total: UInt64) {
    for ordinal in touched { sums[ordinal]?.leastSeen += least }
    touched.removeAll(keepingCapacity: true)
    leastOfAll += least
    self.total += total
  }

  /// The first `limit` of them. A count of several sketches may be too low where one has dropped the item: what that
  /// may be is counted in, so that a sum, as a count, is never too low, and in its error.
  func list(limit: Int, ticks: Int64) -> HotList {
    let seconds = Fading.secondsCounted(ticks: ticks) * Double(Fading.unit)
    let entries = sums.map { ordinal, sum in
      let dropped = leastOfAll - min(leastOfAll, sum.leastSeen)
      return HotList.Entry(
        item: ItemHandle(ordinal: ordinal), perSecond: Double(sum.count + dropped) / seconds,
        errorPerSecond: Double(sum.error + dropped) / seconds)
    }
    let sorted = entries.sorted {
      $0.perSecond == $1.perSecond
        ? $0.item.ordinal < $1.item.ordinal : $0.perSecond > $1.perSecond
    }
    return HotList(entries: Array(sorted.prefix(limit)), perSecond: Double(total) / seconds)
  }
}

// MARK: The way of a command

/// A session's draws, for each kind its own.
struct HotSamples: BitwiseCopyable {
  var reserves: HotSample
  var refusals: HotSample
  var conflicts: HotSample

  init(random: UInt64) {
    reserves = HotSample(random: random)
    refusals = HotSample(random: random &* 0x9e37_79b9_7f4a_7c15)
    conflicts = HotSample(random: random &* 0xbf58_476d_1ce4_e5b9)
  }
}

extension StoreSession {
  @inline(__always)
  func noteReserve(_ ordinal: UInt32) {
    if !scratch.hotSamples.reserves.passesOver() { countReserve(ordinal) }
  }

  @inline(never)
  private func countReserve(_ ordinal: UInt32) {
    let tick = Fading.tick(now)
    hot.reserves.add(ordinal, weight: scratch.hotSamples.reserves.take(tick: tick), tick: tick)
  }

  /// Counts the item that a refusal is about, where it is about what the item has.
  func noteRefusal(_ refusal: Refusal) {
    switch refusal {
    case .insufficientStock(let item, _, _), .notOnSale(let item, _),
      .limitExceeded(let item, _, _, _):
      noteRefusal(of: item.ordinal)
    default: break
    }
  }

  @inline(never)
  func noteRefusal(of ordinal: UInt32) {
    if scratch.hotSamples.refusals.passesOver() { return }
    let tick = Fading.tick(now)
    hot.refusals.add(
      ordinal, weight: scratch.hotSamples.refusals.take(tick: tick), tick: tick)
  }

  @inline(never)
  func noteConflict(_ ordinal: UInt32) {
    if scratch.hotSamples.conflicts.passesOver() { return }
    let tick = Fading.tick(now)
    hot.conflicts.add(
      ordinal, weight: scratch.hotSamples.conflicts.take(tick: tick), tick: tick)
  }
}

extension StockStore {
  /// The items that were held, refused or fought for most, lately: of the last half minute mostly. Any thread; nobody waits.
  package func hotItems(_ kind: HotKind, limit: Int) -> HotList {
    let tick = Fading.tick(clock.now().nanoseconds)
    var sums = HotSums()
    forEachSession { $0.hot.add(kind, to: &sums, tick: tick) }
    return sums.list(limit: limit, ticks: tick - Fading.tick(madeAt) + 1)
  }
}
