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
    let tables = unsafe Self.tables
    /// Bits that were not decoded yet, the first of them on top; `held` of them are real.
    var bits: UInt64 = 0
    var held = 0
    var next = 0
    var count = 0
    let length = text.count
    while true {
      while held <= 56, next < length {
        bits |= UInt64(text[next]) << UInt64(56 - held)
        held += 8
        next += 1
      }
      // Behind the end stand ones, as the padding would go on.
      let window = next < length ? bits : bits | (held < 64 ? UInt64.max >> UInt64(held) : 0)
      var entry = unsafe tables.pointee.short[Int(window >> 56)]
      if entry == 0 {
        entry = unsafe tables.pointee.long(UInt32(truncatingIfNeeded: window >> 32))
      }
      let codeBits = Int(entry >> 9)
      if codeBits > held { break }
      let symbol = Int(entry & 0x1ff)
      if symbol == endOfString { return nil }
      if output.freeCapacity > 0 { output.append(UInt8(truncatingIfNeeded: symbol)) }
      count += 1
      bits <<= UInt64(codeBits)
      held -= codeBits
    }
    // What is left is padding.
    let isPadding = held < 8 && bits >> UInt64(64 - 8) == UInt64(0xff << (8 - held) & 0xff)
    return isPadding ? count : nil
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
    func long(_ window: UInt32) -> UInt16 {
      var length = 9
      while unsafe length < bitsMax && UInt64(window) >= limits[length] { length += 1 }
      let place = unsafe Int(window >> UInt32(32 - length)) - offsets[length]
      return unsafe UInt16(length) << 9 | symbols[place]
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
