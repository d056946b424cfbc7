internal import Log
// What a seed makes of a run: sizes, habits and mishaps.
internal import StockStore

struct RunSettings {
  var limits: StoreLimits
  var options: JournalOptions
  var concurrency: ConcurrencyControl
  var steps: Int
  var skus: Int
  /// Two shards and more: their turns overlap. With one, decisions are evicted in one order that the
  /// model knows.
  var hasShards: Bool

  // Of a hundred steps:
  var journalPercent: Int
  var maintenancePercent: Int
  /// Steps of maintenance at a time: a checkpoint may be written before the journal has moved.
  var maintenanceBurstMax: Int
  /// The same while a checkpoint is written: slow ones see segments change hands meanwhile.
  var checkpointPercent: Int
  /// Of a hundred commands that were not taken: those after which the journal catches up at once.
  var settlePercent: Int
  var timePercent: Int
  var restartPercent: Int

  /// Of a hundred starts: those that a crash, an error, or a full disk awaits.
  var crashPercent: Int
  var errorPercent: Int
  var fullPercent: Int
  /// Calls that it may take until then.
  var faultCallsMax: Int
  /// Texts that make records long.
  var reasonBytesMax: Int
  var keyBytesMin: Int
  /// Of a hundred changes: those of stock.
  var adjustPercent: Int
  /// Of a hundred of these: those of the sale window.
  var salePercent: Int
  /// Of a hundred of these: those that remove an item.
  var removePercent: Int
  /// Changes of a turn.
  var changesMax: Int
  /// Of a hundred reserves: those of many lines.
  var cartPercent: Int
  /// Some reserves have limits for their subjects.
  var hasLimits: Bool

  /// `journalPercent` and the three that follow it.
  private static let paces = [
    // Both keep up with the commands.
    (100, 100, 1, 50), (60, 30, 8, 50),
    // The journal lags behind: the ring fills, and whole checkpoints are written between two groups.
    (5, 100, 1, 50), (25, 100, 8, 5), (25, 5, 1, 50),
    // Maintenance lags behind: segments run short, and change hands while a checkpoint is written.
    (100, 5, 8, 50), (100, 25, 1, 5), (100, 40, 1, 5),
  ]

  /// Lines of any command. Few, so that records are short and a small segment has many.
  static let linesMax = 20

  /// - Parameter strategy: nil: as the seed says.
  init(
    seed: UInt64, _ random: inout SeededRandom, fault: Mutant?,
    strategy: ConcurrencyControl?
  ) {
    hasShards = random.chance(6) || fault == .store(.numberAfterUnlock)
    // The commands of that fault's gap have none.
    hasLimits = seed.isMultiple(of: 3) && fault != .store(.numberAfterUnlock)
    skus = random.number(2...6)
    limits = Self.limits(&random, hasShards: hasShards)
    options = Self.options(&random, fault: fault)
    let sound = ConcurrencyControl.sound
    concurrency =
      fault == .store(.numberAfterUnlock)
      ? .lateNumberForDemonstration : strategy ?? sound[Int(seed % UInt64(sound.count))]
    (journalPercent, maintenancePercent, maintenanceBurstMax, settlePercent) = random.pick(
      Self.paces)
    checkpointPercent = random.pick([15, 100])
    timePercent = random.pick([5, 15])
    restartPercent = random.pick([0, 1, 2])
    crashPercent = random.pick([0, 60, 100])
    errorPercent = random.pick([0, 0, 20])
    fullPercent = hasShards ? 0 : random.pick([0, 0, 40])
    faultCallsMax = random.pick([10, 50, 200])
    // Many long records make many segments and checkpoints.
    let isBulky = random.chance(settlePercent < 50 ? 80 : 20)
    steps = isBulky ? random.number(80...220) : random.number(40...120)
    reasonBytesMax = isBulky ? 500 : 60
    keyBytesMin = isBulky ? 64 : 0
    adjustPercent = isBulky ? 80 : 35
    // Drawn from nothing: the others are the runs that they were before there were sales.
    salePercent = seed % 7 == 1 ? 30 : 0
    // Likewise.
    removePercent = seed % 5 == 3 ? 25 : 0
    changesMax = isBulky ? 5 : 2
    cartPercent = random.pick([20, 80])
  }

  /// For a run whose every state is known: no mishaps but kills, and nothing is ever forgotten, so that
  /// digests do not depend on the time.
  init(history random: inout SeededRandom) {
    self.init(seed: 0, &random, fault: nil, strategy: .optimistic)
    hasShards = false
    limits = testLimits(items: 8, reservations: 4000)
    limits.retentionNanoseconds = seconds(1 << 30)
    options.durability = .fsync
    options.segmentBytes = 4096 * 8
    options.spareSegments = 2
    steps = 150
    journalPercent = 0
    maintenancePercent = 60
    restartPercent = 2
    crashPercent = 0
    errorPercent = 0
    fullPercent = 0
  }

  /// Long records and many changes: many segments.
  mutating func makeBulky() {
    steps = max(steps, 120)
    reasonBytesMax = 500
    keyBytesMin = 64
    adjustPercent = 80
    changesMax = 5
  }

  private static func limits(_ random: inout SeededRandom, hasShards: Bool) -> StoreLimits {
    var limits = testLimits(
      items: random.pick([3, 8]),
      reservations: hasShards ? 16_384 : random.pick([12, 40, 300]))
    limits.holdNanosecondsMax = seconds(random.pick([4000, 86_400]))
    limits.retentionNanoseconds = seconds(random.pick([100, 3000, 86_400]))
    limits.expiriesPerTurn = random.pick([1, 1, 2, 5, 1000])
    limits.linesPerReservation = linesMax
    return limits
  }

  private static func options(
    _ random: inout SeededRandom, fault: Mutant?
  ) -> JournalOptions {
    // The smallest segments in which a record of any size fits, and as many ready as are needed to take
    // changes at all.
    let (segmentBlocks, spareSegments) = random.pick([(5, 3), (6, 2), (8, 1), (9, 2)])
    return JournalOptions(
      durability: fault == nil && random.chance(10) ? .os : .fsync,
      segmentBytes: 4096 * segmentBlocks, ringBytes: 1 << 15,
      groupBytesMax: random.pick([1 << 12, 1 << 13, 1 << 14]), spareSegments: spareSegments,
      checkpointSegments: random.pick([2, 2, 2, 3]), fault: fault?.ofLog)
  }
}
