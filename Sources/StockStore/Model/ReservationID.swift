/// Names a reservation: where its record lies, which use of that record it is, and a tag that only the
/// store that made it can compute. Finding the record needs no search. An id that was guessed, or that
/// was given after the directory was copied or before it was repaired, names nothing: with two histories
/// of one directory, generation and tag are 68 bits by which an id of the one differs from all of the
/// other.
package struct ReservationID: Hashable, Sendable {
  /// Where the record lies.
  package let slot: UInt32
  /// The use of the slot: from one to the next goes a step that each opening draws anew.
  package let generation: UInt32
  /// Keyed hash of the two above, and of who reserved under which key and when: 36 bits.
  package let tag: UInt64

  /// - Parameter tag: below 2^36.
  package init(slot: UInt32, generation: UInt32, tag: UInt64) {
    precondition(tag >> Self.tagBits == 0, "a tag of more bits than the text has")
    self.slot = slot
    self.generation = generation
    self.tag = tag
  }

  /// Bytes of the text form.
  package static let textLength = 20

  package static let tagBits: UInt64 = 36

  /// Writes the text form, 20 characters of [0-9a-v], five bits each, most significant first: the four
  /// upper bits of the tag, slot, generation, the other bits of the tag. (Ids of the first release had a
  /// tag of 32 bits; they read the same.) Writes nothing where `text` is shorter.
  package func write(to text: inout MutableSpan<UInt8>) {
    guard text.count >= Self.textLength else { return }
    let low = tag & 0xffff_ffff
    let first = (tag >> 32) << 36 | UInt64(slot) << 4 | UInt64(generation) >> 28
    let second = UInt64(generation & 0x0fff_ffff) << 12 | low >> 20
    let last = UInt32(truncatingIfNeeded: Self.characters(low & 0xf_ffff))
    var bytes = unsafe text.mutableBytes
    // Any bits are characters.
    bytes.storeBytes(of: Self.characters(first).bigEndian, toByteOffset: 0, as: UInt64.self)
    bytes.storeBytes(of: Self.characters(second).bigEndian, toByteOffset: 8, as: UInt64.self)
    bytes.storeBytes(of: last.bigEndian, toByteOffset: 16, as: UInt32.self)
  }

  /// Eight digits of five bits each, as characters in the eight bytes of a word: all at once, since every
  /// Reserve writes an id.
  @inline(__always)
  private static func characters(_ digits: UInt64) -> UInt64 {
    var lanes = (digits >> 20) << 32 | digits & 0xf_ffff
    lanes = (lanes & 0x000f_fc00_000f_fc00) << 6 | lanes & 0x0000_03ff_0000_03ff
    lanes = (lanes & 0x03e0_03e0_03e0_03e0) << 3 | lanes & 0x001f_001f_001f_001f
    // A digit of 10 or more reaches the lane's highest bit: it is a letter, 39 behind the numerals.
    let letters = ((lanes &+ 0x7676_7676_7676_7676) >> 7) & 0x0101_0101_0101_0101
    return lanes &+ 0x3030_3030_3030_3030 &+ letters &* 39
  }

  /// Reads the text form; nil where it is not one.
  package init?(text: Span<UInt8>) {
    guard text.count == Self.textLength else { return nil }
    var high: UInt64 = 0
    var low: UInt32 = 0
    var rest: UInt64 = 0
    for index in 0..<Self.textLength {
      let digit: UInt32
      switch text[index] {
      case 48...57: digit = UInt32(text[index]) - 48
      case 97...118: digit = UInt32(text[index]) - 87
      default: return nil
      }
      if index == 0 { rest = UInt64(digit >> 1) }
      high = high << 5 | UInt64(low >> 27)
      low = low << 5 | digit
    }
    self.init(
      slot: UInt32(truncatingIfNeeded: high >> 32), generation: UInt32(truncatingIfNeeded: high),
      tag: rest << 32 | UInt64(low))
  }
}
