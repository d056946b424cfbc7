internal import Glibc

/// Which items the commands name: their names in the order of use, ready to be passed.
struct Picks {
  enum Distribution {
    case hot
    case uniform
    case zipf
  }

  /// Bytes of a name, all alike: "item-0000000".
  static let nameLength = 12

  let names: [UInt8]
  let count: Int

  init(_ distribution: Distribution, items: Int, count: Int) {
    var random = SplitMix(state: 42)
    var cumulated: [Double] = []
    if distribution == .zipf {
      var sum = 0.0
      for rank in 1...items {
        sum += 1 / pow(Double(rank), 0.99)
        cumulated.append(sum)
      }
    }
    var names: [UInt8] = []
    names.reserveCapacity(count * Self.nameLength)
    for _ in 0..<count {
      let item: Int
      switch distribution {
      case .hot: item = 0
      case .uniform: item = Int(random.next() % UInt64(items))
      case .zipf:
        let target = Double(random.next() >> 11) / Double(1 << 53) * (cumulated.last ?? 1)
        let rank = Self.firstIndex(in: cumulated, above: target)
        // Ranks are strewn over the items: neighbours in popularity are no neighbours in memory.
        item = rank * 7919 % items
      }
      names += Self.name(item)
    }
    self.names = names
    self.count = count
  }

  /// Always the same name, of nameLength bytes.
  init(name: [UInt8], count: Int) {
    names = (0..<count).flatMap { _ in name }
    self.count = count
  }

  static func name(_ item: Int) -> [UInt8] {
    var digits = Array("item-0000000".utf8)
    var rest = item
    var index = digits.count - 1
    while rest > 0 && index >= 5 {
      digits[index] = 48 + UInt8(rest % 10)
      rest /= 10
      index -= 1
    }
    return digits
  }

  private static func firstIndex(in sums: [Double], above target: Double) -> Int {
    var low = 0
    var high = sums.count - 1
    while low < high {
      let middle = (low + high) / 2
      if sums[middle] <= target { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

/// A small generator with a seed (Steele, Lea, Flood).
struct SplitMix: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
}
