// Step functions over time: units that surely, or possibly, are somewhere.

/// Units over time, as a list of changes.
struct Steps {
  /// Units that arrive (above 0) or leave (below 0) at an instant.
  private(set) var changes: [(time: Int64, units: Int64)] = []

  /// Nothing happens at `Int64.max`, which stands for never.
  mutating func add(_ units: Int64, from start: Int64, until end: Int64) {
    add(units, at: start)
    add(-units, at: end)
  }

  mutating func add(_ units: Int64, at time: Int64) {
    if time != .max, units != 0 { changes.append((time, units)) }
  }

  var negated: Steps {
    var steps = Steps()
    steps.changes = changes.map { ($0.time, -$0.units) }
    return steps
  }

  /// The most units at once, and from when; at equal times what leaves goes first: the lower bound.
  func peak() -> (units: Int64, time: Int64) {
    var peak: (units: Int64, time: Int64) = (0, .min)
    var current: Int64 = 0
    for change in changes.sorted(by: { ($0.time, $0.units) < ($1.time, $1.units) }) {
      current += change.units
      if current > peak.units { peak = (current, change.time) }
    }
    return peak
  }

  /// The most units at an instant between two, both included; at equal times what arrives goes first:
  /// the upper bound. Linear: for one question. For many there is RangePeaks.
  func peak(from start: Int64, through end: Int64) -> Int64 {
    var before = changes.filter { $0.time < start }.reduce(Int64(0)) { $0 + $1.units }
    var peak = before
    let within = changes.filter { $0.time >= start && $0.time <= end }
    for change in within.sorted(by: { ($0.time, -$0.units) < ($1.time, -$1.units) }) {
      before += change.units
      peak = max(peak, before)
    }
    return peak
  }
}

/// Answers what `Steps.peak(from:through:)` answers in logarithmic time.
struct RangePeaks {
  private let times: [Int64]
  /// A binary tree over the sums after each change: leaf i stands at `leafCount + i`.
  private var tree: [Int64]
  private let leafCount: Int

  init(_ steps: Steps) {
    let changes = steps.changes.sorted { ($0.time, -$0.units) < ($1.time, -$1.units) }
    times = changes.map(\.time)
    var count = 1
    while count < changes.count { count *= 2 }
    leafCount = count
    tree = Array(repeating: .min, count: 2 * count)
    var current: Int64 = 0
    for (index, change) in changes.enumerated() {
      current += change.units
      tree[count + index] = current
    }
    for index in (1..<count).reversed() { tree[index] = max(tree[2 * index], tree[2 * index + 1]) }
  }

  func peak(from start: Int64, through end: Int64) -> Int64 {
    // Changes before `start` count with their sum alone; from the last of them on, every sum was true
    // at some instant of the interval.
    let first = times.partitioningIndex { $0 >= start }
    var low = max(0, first - 1) + leafCount
    var high = times.partitioningIndex { $0 > end } + leafCount
    var peak = first == 0 ? 0 : Int64.min
    while low < high {
      if low & 1 == 1 {
        peak = max(peak, tree[low])
        low += 1
      }
      if high & 1 == 1 {
        high -= 1
        peak = max(peak, tree[high])
      }
      low /= 2
      high /= 2
    }
    return peak
  }
}

/// A quantity that is known within bounds at every instant.
struct Bracket {
  var least = Steps()
  var most = Steps()

  /// What it can have been at some instant between two, both included.
  func range(from start: Int64, through end: Int64) -> ClosedRange<Int64> {
    Bracket.range(
      least.negated.peak(from: start, through: end), most.peak(from: start, through: end))
  }

  fileprivate static func range(_ negatedLeast: Int64, _ most: Int64) -> ClosedRange<Int64> {
    min(-negatedLeast, most)...max(-negatedLeast, most)
  }
}

/// A bracket that is asked often.
struct IndexedBracket {
  private let negatedLeast: RangePeaks
  private let most: RangePeaks

  init(_ bracket: Bracket) {
    negatedLeast = RangePeaks(bracket.least.negated)
    most = RangePeaks(bracket.most)
  }

  func range(from start: Int64, through end: Int64) -> ClosedRange<Int64> {
    Bracket.range(
      negatedLeast.peak(from: start, through: end), most.peak(from: start, through: end))
  }
}

/// What the calls for one SKU add up to over time. Where units were added to stock they count as below
/// zero.
struct SKUBounds {
  /// Units that are not to be had: held or sold, less what was added.
  private(set) var taken = Bracket()
  private(set) var held = Bracket()
  /// Units that left on hand, less what was added.
  private(set) var gone = Bracket()
  /// Units that were sold and are still on hand.
  private(set) var committed = Bracket()

  init(_ history: SKUHistory) {
    for hold in history.holds {
      if let sure = hold.surelyTaken {
        taken.least.add(hold.units, from: sure.from, until: sure.until)
      }
      let taking = hold.possiblyTaken
      taken.most.add(hold.units, from: taking.from, until: taking.until)
      if let sure = hold.surelyHeld {
        held.least.add(hold.units, from: sure.from, until: sure.until)
      }
      let holding = hold.possiblyHeld
      held.most.add(hold.units, from: holding.from, until: holding.until)
      let sold = history.keepsCommitted ? \SKUBounds.committed : \.gone
      if hold.fate != .returned { self[keyPath: sold].most.add(hold.units, at: hold.sellFrom) }
      if hold.fate == .sold { self[keyPath: sold].least.add(hold.units, at: hold.sellTo) }
    }
    for restock in history.restocks {
      for path in [\SKUBounds.taken, \.gone] {
        self[keyPath: path].least.add(-restock.units, at: restock.from)
        if restock.isCertain { self[keyPath: path].most.add(-restock.units, at: restock.to) }
      }
    }
    for change in history.changes { add(change) }
  }

  private mutating func add(_ change: StockChange) {
    switch change.kind {
    case .ship:
      rise(\.gone, change.units, change)
      fall(\.committed, change.units, change)
    case .uncommit:
      fall(\.taken, change.units, change)
      fall(\.committed, change.units, change)
    case .count:
      // It finds as many as it expects, or fewer.
      let missing = change.expected - change.units
      rise(\.gone, missing, change)
      rise(\.taken, missing, change)
    }
  }

  private mutating func rise(
    _ path: WritableKeyPath<SKUBounds, Bracket>, _ units: Int64, _ change: StockChange
  ) {
    self[keyPath: path].most.add(units, at: change.from)
    if change.isCertain { self[keyPath: path].least.add(units, at: change.to) }
  }

  private mutating func fall(
    _ path: WritableKeyPath<SKUBounds, Bracket>, _ units: Int64, _ change: StockChange
  ) {
    self[keyPath: path].least.add(-units, at: change.from)
    if change.isCertain { self[keyPath: path].most.add(-units, at: change.to) }
  }
}
