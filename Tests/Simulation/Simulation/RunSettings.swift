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
  /// Changes of a turn.
  var changesMax: Int
  /// Of a hundred reserves: those of many lines.
  var cartPercent: Int

  init(_ random: inout SeededRandom, fault: DeliberateFault?) {
    hasShards = random.chance(6) || fault == .numberAfterUnlock
    skus = random.number(2...6)
    limits = Self.limits(&random, hasShards: hasShards)
    options = Self.options(&random, fault: fault)
    concurrency = fault == .numberAfterUnlock ? .lateNumberForDemonstration : .optimistic
    steps = random.number(60...240)
    journalPercent = random.pick([5, 25, 60, 100])
    maintenancePercent = random.pick([5, 30, 100])
    timePercent = random.pick([5, 15])
    restartPercent = random.pick([0, 1, 2])
    // Unsynced writes are what `os` does not promise to keep: there, only processes die.
    crashPercent = random.pick([0, 60, 100])
    errorPercent = random.pick([0, 0, 20])
    fullPercent = hasShards ? 0 : random.pick([0, 0, 40])
    faultCallsMax = random.pick([10, 50, 200])
    // Many long records make many segments and checkpoints.
    let isBulky = random.chance(35)
    reasonBytesMax = isBulky ? 500 : 60
    keyBytesMin = isBulky ? 64 : 0
    adjustPercent = isBulky ? 80 : 35
    changesMax = isBulky ? 4 : 2
    cartPercent = random.pick([20, 80])
  }

  /// For a run whose every state is known: no mishaps but kills, and nothing is ever forgotten, so that
  /// digests do not depend on the time.
  init(history random: inout SeededRandom) {
    self.init(&random, fault: nil)
    hasShards = false
    limits = testLimits(items: 8, reservations: 4000)
    limits.retentionNanoseconds = seconds(1 << 30)
    options.durability = .fsync
    options.segmentBytes = 4096 * 8
    steps = 150
    journalPercent = 0
    maintenancePercent = 60
    restartPercent = 2
    crashPercent = 0
    errorPercent = 0
    fullPercent = 0
  }

  private static func limits(_ random: inout SeededRandom, hasShards: Bool) -> StoreLimits {
    var limits = testLimits(
      items: random.pick([3, 8]),
      reservations: hasShards ? 16_384 : random.pick([12, 40, 300]))
    limits.holdNanosecondsMax = seconds(random.pick([4000, 86_400]))
    limits.retentionNanoseconds = seconds(random.pick([100, 3000, 86_400]))
    return limits
  }

  private static func options(
    _ random: inout SeededRandom, fault: DeliberateFault?
  ) -> JournalOptions {
    // The smallest segments in which a record of any size fits, and as many ready as are needed to take
    // changes at all.
    let (segmentBlocks, spareSegments) = random.pick([(5, 3), (6, 2), (8, 1), (9, 2)])
    return JournalOptions(
      durability: fault == nil && random.chance(10) ? .os : .fsync,
      segmentBytes: 4096 * segmentBlocks, ringBytes: 1 << 15,
      groupBytesMax: random.pick([1 << 12, 1 << 13, 1 << 14]), spareSegments: spareSegments,
      checkpointSegments: random.pick([2, 2, 3]), fault: fault)
  }
}
