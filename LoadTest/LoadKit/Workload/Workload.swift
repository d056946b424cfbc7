// What is asked for: which SKUs, how many units, what becomes of the hold. All draws come from one
// seeded generator per worker.

internal import Glibc
internal import LoadHistory

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed gives the same draws everywhere.
package struct Random: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  /// 0 up to, not including, `bound`; 0 for a bound of 0.
  mutating func below(_ bound: UInt64) -> UInt64 { next().multipliedFullWidth(by: bound).high }

  /// True with probability `share` (0 to 1).
  mutating func chance(_ share: Double) -> Bool {
    share > 0 && Double(next() >> 11) * 0x1p-53 < share
  }
}

/// How SKUs are drawn.
package enum Distribution: Equatable, Sendable, CustomStringConvertible {
  /// Always SKU 0.
  case single
  case uniform
  /// SKU i with weight (i + 1)^-exponent.
  case zipf(exponent: Double)

  /// - Parameter text: single, uniform, or zipf:S with S from 0 to 10.
  package init?(_ text: String) {
    switch text {
    case "single": self = .single
    case "uniform": self = .uniform
    default:
      guard text.hasPrefix("zipf:"), let exponent = Double(text.dropFirst(5)),
        (0...10).contains(exponent)
      else { return nil }
      self = .zipf(exponent: exponent)
    }
  }

  package var description: String {
    switch self {
    case .single: "single"
    case .uniform: "uniform"
    case .zipf(let exponent): "zipf:\(exponent)"
    }
  }
}

/// Draws by any weights in constant time: Walker's alias method, exact to 2^-32.
package struct AliasTable: Sendable {
  private var keep: [UInt32]
  private var alias: [UInt32]

  /// Weights are above 0.
  package init(weights: [Double]) {
    let count = weights.count
    let sum = weights.reduce(0, +)
    var scaled = weights.map { $0 * Double(count) / sum }
    keep = Array(repeating: .max, count: count)
    alias = (0..<count).map { UInt32($0) }
    var small = scaled.indices.filter { scaled[$0] < 1 }
    var large = scaled.indices.filter { scaled[$0] >= 1 }
    while let low = small.popLast(), let high = large.last {
      keep[low] = UInt32(scaled[low] * 0xffff_ffff)
      alias[low] = UInt32(high)
      scaled[high] -= 1 - scaled[low]
      if scaled[high] < 1 {
        large.removeLast()
        small.append(high)
      }
    }
  }

  /// Weights of a zipf distribution.
  package init(zipf exponent: Double, count: Int) {
    self.init(weights: (0..<count).map { pow(Double($0 + 1), -exponent) })
  }

  package func draw(_ random: inout Random) -> Int {
    let index = Int(random.below(UInt64(keep.count)))
    return UInt32(truncatingIfNeeded: random.next()) <= keep[index] ? index : Int(alias[index])
  }
}

/// What a run asks for. Shares are 0 to 1.
package struct Workload: Sendable {
  package var skuCount = 1
  package var distribution = Distribution.uniform
  /// Share of lines for SKU 0, whatever the distribution says.
  package var hotShare = 0.0
  /// Lines of a cart, 1 to 64, uniformly.
  package var lines = 1...1
  /// Units of a line, uniformly.
  package var quantity = 1...1
  package var confirmShare = 0.6
  package var releaseShare = 0.3
  /// Share of calls that are sent a second time, byte for byte.
  package var duplicateShare = 0.01
  package var timeToLiveNanoseconds: Int64 = 600_000_000_000

  package init() {}
}

/// One worker's draws from a workload.
package struct Draws: Sendable {
  private let workload: Workload
  private let zipf: AliasTable?
  var random: Random

  package init(_ workload: Workload, zipf: AliasTable?, seed: UInt64) {
    self.workload = workload
    self.zipf = zipf
    random = Random(seed: seed)
  }

  mutating func lineCount() -> Int { within(workload.lines) }

  mutating func line() -> CartLine {
    CartLine(sku: UInt32(sku()), quantity: UInt32(within(workload.quantity)))
  }

  mutating func ending() -> Ending {
    if random.chance(workload.confirmShare) { return .confirm }
    let rest = 1 - workload.confirmShare
    return rest > 0 && random.chance(workload.releaseShare / rest) ? .release : .none
  }

  mutating func isDuplicated() -> Bool { random.chance(workload.duplicateShare) }

  private mutating func sku() -> Int {
    if random.chance(workload.hotShare) { return 0 }
    if let zipf { return zipf.draw(&random) }
    return workload.distribution == .single ? 0 : Int(random.below(UInt64(workload.skuCount)))
  }

  private mutating func within(_ range: ClosedRange<Int>) -> Int {
    guard range.count > 1 else { return range.lowerBound }
    return range.lowerBound + Int(random.below(UInt64(range.count)))
  }
}
