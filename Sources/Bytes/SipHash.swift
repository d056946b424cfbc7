// SipHash-1-3 (Aumasson, Bernstein), keyed: whoever does not know the key can aim neither at the
// buckets of a table nor at another caller's recorded answers. Bytes are taken as little endian on every machine.

/// A SipHash key.
package struct SipKey: Sendable {
  package let low: UInt64
  package let high: UInt64

  package init(low: UInt64, high: UInt64) {
    self.low = low
    self.high = high
  }

  /// A key for one purpose, made from the store's secret.
  package func derived(_ purpose: UInt64) -> SipKey {
    var hasher = SipHasher(self, wide: true)
    hasher.absorb(purpose)
    let (low, high) = hasher.finish128(0)
    return SipKey(low: low, high: high)
  }
}

// Whole hashes, each in one call: nothing of this module is inlined in others, and a call a word would cost
// more than the word.
extension SipKey {
  /// Of one word.
  package func hash(_ word: UInt64) -> UInt64 {
    var hasher = SipHasher(self)
    return hasher.finish(word)
  }

  /// Of two strings, whose lengths are in `last`.
  package func hash(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer, _ last: UInt64
  ) -> UInt64 {
    var hasher = SipHasher(self)
    unsafe hasher.absorb(bytes: first)
    unsafe hasher.absorb(bytes: second)
    return hasher.finish(last)
  }

  /// The same in 128 bits.
  package func hash128(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer, _ last: UInt64
  ) -> (low: UInt64, high: UInt64) {
    unsafe hash128(UnsafeBufferPointer(start: nil, count: 0), first, second, last)
  }

  /// The same behind words, whose number is known or in `last` too.
  @inline(__always)
  package func hash128(
    _ words: UnsafeBufferPointer<UInt64>, _ first: UnsafeRawBufferPointer,
    _ second: UnsafeRawBufferPointer, _ last: UInt64
  ) -> (low: UInt64, high: UInt64) {
    var hasher = SipHasher(self, wide: true)
    for index in 0..<words.count { unsafe hasher.absorb(words[index]) }
    unsafe hasher.absorb(bytes: first)
    unsafe hasher.absorb(bytes: second)
    return hasher.finish128(last)
  }
}

extension SipKey {
  /// Of two lists of as many words, side by side: in one alone, each step waits for the one before.
  package func hashes128(
    _ first: UnsafeBufferPointer<UInt64>, _ firstLast: UInt64,
    _ second: UnsafeBufferPointer<UInt64>, _ secondLast: UInt64
  ) -> (first: (low: UInt64, high: UInt64), second: (low: UInt64, high: UInt64)) {
    precondition(first.count == second.count, "lists of different lengths")
    var one = SipHasher(self, wide: true)
    var other = one
    for index in 0..<first.count {
      unsafe one.absorb(first[index])
      unsafe other.absorb(second[index])
    }
    return (one.finish128(firstLast), other.finish128(secondLast))
  }
}

/// Takes 64-bit words and gives 64 or 128 bits. Whoever feeds it makes sure that no two different
/// inputs feed the same words: strings are fed by `absorb(bytes:)`, their lengths in the last word.
package struct SipHasher {
  private var v0: UInt64
  private var v1: UInt64
  private var v2: UInt64
  private var v3: UInt64

  /// - Parameter wide: for `finish128`; else for `finish`.
  @inline(__always)
  package init(_ key: SipKey, wide: Bool = false) {
    v0 = key.low ^ 0x736f_6d65_7073_6575
    v1 = key.high ^ 0x646f_7261_6e64_6f6d ^ (wide ? 0xee : 0)
    v2 = key.low ^ 0x6c79_6765_6e65_7261
    v3 = key.high ^ 0x7465_6462_7974_6573
  }

  @inline(__always)
  package mutating func absorb(_ word: UInt64) {
    v3 ^= word
    round()
    v0 ^= word
  }

  /// Feeds a string whose length the caller feeds too. The last word overlaps the one before it, or
  /// holds all of a short string: with the length known, that still tells any two strings apart.
  @inline(__always)
  package mutating func absorb(bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress, bytes.count > 0 else { return }
    let count = bytes.count
    // All loads lie within [base, base + count).
    if count >= 8 {
      var offset = 0
      while offset + 8 < count {
        absorb(
          unsafe UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
        offset += 8
      }
      absorb(
        unsafe UInt64(littleEndian: base.loadUnaligned(fromByteOffset: count - 8, as: UInt64.self)))
    } else if count >= 4 {
      let first = unsafe UInt32(littleEndian: base.loadUnaligned(as: UInt32.self))
      let last = unsafe UInt32(
        littleEndian: base.loadUnaligned(fromByteOffset: count - 4, as: UInt32.self))
      absorb(UInt64(first) | UInt64(last) << 32)
    } else {
      let first = unsafe UInt64(bytes[0])
      let middle = unsafe UInt64(bytes[count >> 1])
      let last = unsafe UInt64(bytes[count - 1])
      absorb(first | middle << 8 | last << 16)
    }
  }

  /// Feeds the last word and gives 64 bits.
  @inline(__always)
  package mutating func finish(_ word: UInt64) -> UInt64 {
    absorb(word)
    v2 ^= 0xff
    return squeeze()
  }

  /// Feeds the last word and gives 128 bits.
  @inline(__always)
  package mutating func finish128(_ word: UInt64) -> (low: UInt64, high: UInt64) {
    absorb(word)
    v2 ^= 0xee
    let low = squeeze()
    v1 ^= 0xdd
    return (low, squeeze())
  }

  @inline(__always)
  private mutating func squeeze() -> UInt64 {
    round()
    round()
    round()
    return v0 ^ v1 ^ v2 ^ v3
  }

  @inline(__always)
  private mutating func round() {
    v0 &+= v1
    v1 = v1 << 13 | v1 >> 51
    v1 ^= v0
    v0 = v0 << 32 | v0 >> 32
    v2 &+= v3
    v3 = v3 << 16 | v3 >> 48
    v3 ^= v2
    v0 &+= v3
    v3 = v3 << 21 | v3 >> 43
    v3 ^= v0
    v2 &+= v1
    v1 = v1 << 17 | v1 >> 47
    v1 ^= v2
    v2 = v2 << 32 | v2 >> 32
  }
}
