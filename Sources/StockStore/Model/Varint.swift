// Numbers in as few bytes as they need: seven bits a byte, the lowest first, the highest bit set where more follow.

/// The bytes of a number.
package struct VarintBytes: Sequence, IteratorProtocol {
  private var rest: UInt64
  private var isDone = false

  @inline(__always)
  package init(_ value: UInt64) { rest = value }

  /// Of a number that may be below zero: small ones have few bytes on either side.
  @inline(__always)
  package init(signed value: Int64) { self.init(UInt64(bitPattern: value << 1 ^ value >> 63)) }

  @inline(__always)
  package mutating func next() -> UInt8? {
    if isDone { return nil }
    let byte = UInt8(truncatingIfNeeded: rest & 0x7f)
    rest >>= 7
    isDone = rest == 0
    return isDone ? byte : byte | 0x80
  }

  /// The number whose bytes `next` gives; nil where they end before it does, or it has more than 64 bits.
  @inline(__always)
  package static func value(_ next: () -> UInt8?) -> UInt64? {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while shift < 64, let byte = next() {
      if shift == 63, byte > 1 { return nil }
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
      shift += 7
    }
    return nil
  }

  @inline(__always)
  package static func signedValue(_ next: () -> UInt8?) -> Int64? {
    value(next).map { Int64(bitPattern: $0 >> 1) ^ -Int64(bitPattern: $0 & 1) }
  }
}
