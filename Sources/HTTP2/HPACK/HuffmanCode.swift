// HPACK's Huffman code (RFC 7541 section 5.2 and appendix B).
//
// The code is canonical: codes are given out by length, and among codes of one length by symbol. So the
// lengths are the whole table, and the decoder's tables are made from them.

package enum HuffmanCode {
  /// The symbol that ends a string; it never stands in one.
  private static let endOfString = 256
  private static let bitsMax = 30

  // One per process, never freed: decoders of all threads read it.
  nonisolated(unsafe) private static let tables: UnsafePointer<Tables> = unsafe Tables.make()

  /// Decodes `text` and appends as much of it as `output` has room for.
  ///
  /// Returns the bytes of the whole decoded text, which may be more than were appended. nil where the text
  /// is not good: the end-of-string symbol stands in it, or its padding is longer than 7 bits or has a
  /// zero in it (section 5.2).
  package static func decode(_ text: Span<UInt8>, into output: inout OutputSpan<UInt8>) -> Int? {
    unsafe output.withUnsafeMutableBufferPointer { buffer, initializedCount in
      let room = unsafe UnsafeMutableBufferPointer(rebasing: buffer[initializedCount...])
      guard let count = unsafe decode(text, room) else { return nil }
      initializedCount += min(count, room.count)
      return count
    }
  }

  private static func decode(
    _ text: Span<UInt8>, _ room: UnsafeMutableBufferPointer<UInt8>
  ) -> Int? {
    var reader = unsafe Reader(tables: Self.tables)
    var next = 0
    var count = 0
    let length = text.count
    // Eight bytes at a time. 30 bits hold any code, so that each look finds a whole one.
    unsafe text.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress, let out = room.baseAddress else { return }
      while next + 8 <= length, count + 8 <= room.count, unsafe reader.isGood {
        // The eight bytes are there.
        let word = unsafe UnsafeRawPointer(base + next).loadUnaligned(as: UInt64.self).bigEndian
        next += unsafe reader.fill(word)
        // 63 bits have at most eight symbols before fewer than 30 are left.
        while unsafe reader.held >= bitsMax {
          unsafe out[count] = reader.wholeSymbol()
          count += 1
        }
      }
    }
    while unsafe reader.isGood {
      while unsafe reader.held <= 56 && next < length {
        unsafe reader.append(text[next])
        next += 1
      }
      if next == length, unsafe reader.isAtPadding { return count }
      let symbol = unsafe reader.symbol()
      // The code goes on beyond the end.
      if unsafe reader.held < 0 { return nil }
      if count < room.count { unsafe room[count] = symbol }
      count += 1
    }
    return nil
  }

  /// The bits that were not decoded yet.
  @unsafe private struct Reader {
    let tables: UnsafePointer<Tables>
    /// The first of them on top, zeros behind the last.
    private var bits: UInt64 = 0
    private(set) var held = 0
    /// No end-of-string symbol stood among them.
    private(set) var isGood = true

    init(tables: UnsafePointer<Tables>) { unsafe self.tables = tables }

    /// Takes as many whole bytes of `word` as there is room for, and returns their number.
    mutating func fill(_ word: UInt64) -> Int {
      let bytes = unsafe (63 - held) >> 3
      // The bits of a byte that only fits in part are the same when it is filled in again.
      let mask = UInt64.max << UInt64(64 - bytes * 8)
      unsafe bits |= (word & mask) >> UInt64(held)
      unsafe held += bytes * 8
      return bytes
    }

    mutating func append(_ byte: UInt8) {
      unsafe bits |= UInt64(byte) << UInt64(56 - held)
      unsafe held += 8
    }

    /// Takes the next symbol, where at least 30 bits are held.
    @inline(__always)
    mutating func wholeSymbol() -> UInt8 {
      let entry = unsafe tables.pointee.short[Int(bits >> 56)]
      if entry == 0 { return unsafe symbol() }
      unsafe bits &<<= UInt64(entry >> 9)
      unsafe held -= Int(entry >> 9)
      return UInt8(truncatingIfNeeded: entry)
    }

    /// Takes the next symbol. Behind the end stand ones, as the padding would go on; `held` is below 0 once
    /// some of those were taken.
    @inline(__always)
    mutating func symbol() -> UInt8 {
      let window = unsafe held >= bitsMax ? bits : bits | UInt64.max >> UInt64(held)
      var entry = unsafe tables.pointee.short[Int(window >> 56)]
      if entry == 0 {
        entry = unsafe Tables.long(UInt32(truncatingIfNeeded: window >> 32), tables)
        if Int(entry & 0x1ff) == endOfString, unsafe held >= bitsMax { unsafe isGood = false }
      }
      let codeBits = Int(entry >> 9)
      unsafe bits &<<= UInt64(codeBits)
      unsafe held -= codeBits
      return UInt8(truncatingIfNeeded: entry)
    }

    /// Whether what is left is padding: fewer than eight bits, all ones. No code is like that.
    var isAtPadding: Bool {
      unsafe held < 8 && bits >> 56 == UInt64(0xff << (8 - held) & 0xff)
    }
  }

  /// What finds a symbol. An entry is its code's length in bits, times 512, plus the symbol.
  @unsafe private struct Tables {
    /// By the first eight bits; 0: the code is longer than that.
    var short = InlineArray<256, UInt16>(repeating: 0)
    /// By length: the first code above those of this length, as 32 bits with the code on top.
    var limits = InlineArray<31, UInt64>(repeating: 0)
    /// By length: what leads from a code to its place among the symbols in order.
    var offsets = InlineArray<31, Int>(repeating: 0)
    /// The symbols in the order of their codes.
    var symbols = InlineArray<257, UInt16>(repeating: 0)

    /// The entry of a code of more than eight bits.
    static func long(_ window: UInt32, _ tables: UnsafePointer<Tables>) -> UInt16 {
      // None has nine.
      var length = 10
      while unsafe length < bitsMax && UInt64(window) >= tables.pointee.limits[length] {
        length += 1
      }
      let place = unsafe Int(window >> UInt32(32 - length)) - tables.pointee.offsets[length]
      return unsafe UInt16(length) << 9 | tables.pointee.symbols[place]
    }

    static func make() -> UnsafePointer<Tables> {
      var tables = unsafe Tables()
      var code = 0
      var place = 0
      for length in 1...bitsMax {
        code <<= 1
        unsafe tables.offsets[length] = code - place
        for symbol in lengths.indices where lengths[symbol] == length {
          unsafe tables.symbols[place] = UInt16(symbol)
          if length <= 8 {
            let first = code << (8 - length)
            for index in first..<first + 1 << (8 - length) {
              unsafe tables.short[index] = UInt16(length) << 9 | UInt16(symbol)
            }
          }
          code += 1
          place += 1
        }
        unsafe tables.limits[length] = UInt64(code) << UInt64(32 - length)
      }
      precondition(code == 1 << bitsMax && place == lengths.count, "the code is complete")
      let made = UnsafeMutablePointer<Tables>.allocate(capacity: 1)
      unsafe made.initialize(to: tables)
      return unsafe UnsafePointer(made)
    }
  }

  /// The length of each symbol's code, in bits (appendix B).
  private static let lengths: [UInt8] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
  ]
}
