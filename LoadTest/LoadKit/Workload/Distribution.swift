// How SKUs are drawn.

internal import Glibc

/// How the SKU of a line is drawn.
package enum Distribution: Equatable, Sendable, CustomStringConvertible {
  /// Always SKU 0.
  case single
  case uniform
  /// SKU i with weight (i + 1)^-exponent.
  case zipf(exponent: Double)
  /// `share` of the lines for the first `count` SKUs, the rest for the others; uniform in both.
  case hot(count: Int, share: Double)

  /// - Parameter text: single, uniform, zipf:S with S from 0 to 10, or hot:COUNT:SHARE with a COUNT
  ///   of at least 1 and a SHARE from 0 to 1.
  package init?(_ text: String) {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    switch (parts.first, parts.count) {
    case ("single", 1): self = .single
    case ("uniform", 1): self = .uniform
    case ("zipf", 2):
      guard let exponent = Double(parts[1]), (0...10).contains(exponent) else { return nil }
      self = .zipf(exponent: exponent)
    case ("hot", 3):
      guard let count = Int(parts[1]), count >= 1, let share = Double(parts[2]),
        (0...1).contains(share)
      else { return nil }
      self = .hot(count: count, share: share)
    default: return nil
    }
  }

  package var description: String {
    switch self {
    case .single: "single"
    case .uniform: "uniform"
    case .zipf(let exponent): "zipf:\(exponent)"
    case .hot(let count, let share): "hot:\(count):\(share)"
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

  /// What draws by weight need, made once for all workers; nil for the other distributions.
  package init?(_ workload: Workload) {
    if let weights = workload.catalogue?.weights {
      self.init(weights: weights)
      return
    }
    guard case .zipf(let exponent) = workload.distribution else { return nil }
    self.init(zipf: exponent, count: workload.skuCount)
  }

  package func draw(_ random: inout Random) -> Int {
    let index = Int(random.below(UInt64(keep.count)))
    return UInt32(truncatingIfNeeded: random.next()) <= keep[index] ? index : Int(alias[index])
  }
}
