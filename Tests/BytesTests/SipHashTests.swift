import Bytes
import Testing

@Suite struct SipHashTests {
  /// Key 00 01 … 0f, input 00 01 … Computed with a straight program that also gives the published
  /// vectors of SipHash-2-4 (64 and 128 bits) and CPython's siphash13.
  @Test(
    arguments: [
      (0, 0xabac_0158_050f_c4dc, 0xbea5_8827_b2bc_7ee7, 0x0130_30dd_6adb_62fd),
      (1, 0xc9f4_9bf3_7d57_ca93, 0xa8ed_d360_0437_6ffc, 0x63f0_2f2b_cc73_055e),
      (7, 0xd392_7d98_9bb1_1140, 0xc3e0_aaf2_23b9_8410, 0x77ab_4808_c82e_2fa6),
      (8, 0x3690_9511_8d29_9a8e, 0xb4da_e3d5_e1fe_12aa, 0x99c7_f935_ab16_4f72),
      (15, 0xd320_d86d_2a51_9956, 0x6c52_bdb2_0555_7ec1, 0x0901_7e1e_eccd_2129),
      (16, 0xcc4f_dd1a_7d90_8b66, 0xeb8e_5115_57d9_a8d0, 0x9317_9e3d_f8b0_13b5),
      (63, 0x9d19_9062_b7bb_b3a8, 0x6f42_fe4e_e300_584c, 0xad60_52a7_0a6b_9f07),
    ] as [(Int, UInt64, UInt64, UInt64)])
  func vectors(count: Int, narrow: UInt64, low: UInt64, high: UInt64) {
    let key = SipKey(low: 0x0706_0504_0302_0100, high: 0x0f0e_0d0c_0b0a_0908)
    var hasher = SipHasher(key)
    var wide = SipHasher(key, wide: true)
    var word: UInt64 = 0
    for index in 0..<count {
      word |= UInt64(index) << UInt64(index % 8 * 8)
      if index % 8 == 7 {
        hasher.absorb(word)
        wide.absorb(word)
        word = 0
      }
    }
    word |= UInt64(count) << 56
    #expect(hasher.finish(word) == narrow)
    #expect(wide.finish128(word) == (low, high))
  }

  /// A whole hash is that of its parts, one after the other; strings that are told apart by their lengths
  /// alone included.
  @Test(arguments: [0, 1, 3, 4, 7, 8, 9, 16, 63], [0, 5, 24])
  func wholeHashes(first: Int, second: Int) {
    let key = SipKey(low: 1, high: 2)
    let words: [UInt64] = [3, 4, 5]
    let texts = [first, second].map { count in (0..<count).map { UInt8($0) } }
    unsafe texts[0].withUnsafeBytes { first in
      unsafe texts[1].withUnsafeBytes { second in
        var hasher = SipHasher(key)
        unsafe hasher.absorb(bytes: first)
        unsafe hasher.absorb(bytes: second)
        #expect(unsafe key.hash(first, second, 6) == hasher.finish(6))
        var wide = SipHasher(key, wide: true)
        unsafe wide.absorb(bytes: first)
        unsafe wide.absorb(bytes: second)
        #expect(unsafe key.hash128(first, second, 6) == wide.finish128(6))
        var behindWords = SipHasher(key, wide: true)
        for word in words { behindWords.absorb(word) }
        unsafe behindWords.absorb(bytes: first)
        unsafe behindWords.absorb(bytes: second)
        let hash = unsafe words.withUnsafeBufferPointer {
          unsafe key.hash128($0, first, second, 6)
        }
        #expect(hash == behindWords.finish128(6))
      }
    }
    var hasher = SipHasher(key)
    #expect(key.hash(7) == hasher.finish(7))
  }

  @Test("Two hashes side by side are those of each alone", arguments: [0, 1, 11, 40])
  func pairs(count: Int) {
    let key = SipKey(low: 1, high: 2)
    let first = (0..<count).map { UInt64($0) &* 0x9e37_79b9_7f4a_7c15 }
    let second = first.map { ~$0 }
    func alone(_ words: [UInt64], _ last: UInt64) -> (low: UInt64, high: UInt64) {
      var hasher = SipHasher(key, wide: true)
      for word in words { hasher.absorb(word) }
      return hasher.finish128(last)
    }
    unsafe first.withUnsafeBufferPointer { one in
      unsafe second.withUnsafeBufferPointer { other in
        let hashes = unsafe key.hashes128(one, 5, other, 6)
        #expect(hashes.first == alone(first, 5))
        #expect(hashes.second == alone(second, 6))
      }
    }
  }
}
