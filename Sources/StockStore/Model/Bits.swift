/// The places of the bits that are set, the lowest first.
struct Bits: Sequence, IteratorProtocol {
  private var rest: UInt64

  init(_ bits: UInt64) { rest = bits }

  @inline(__always)
  mutating func next() -> Int? {
    if rest == 0 { return nil }
    let place = rest.trailingZeroBitCount
    rest &= rest - 1
    return place
  }
}
