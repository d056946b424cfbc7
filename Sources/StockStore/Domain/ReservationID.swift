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

  static let tagBits: UInt64 = 36

  /// Writes the text form, 20 characters of [0-9a-v], five bits each, most significant first: the four
  /// upper bits of the tag, slot, generation, the other bits of the tag. (Ids of the first release had a
  /// tag of 32 bits; they read the same.) Writes nothing where `text` is shorter.
  package func write(to text: inout MutableSpan<UInt8>) {
    guard text.count >= Self.textLength else { return }
    var high = UInt64(slot) << 32 | UInt64(generation)
    var low = UInt32(truncatingIfNeeded: tag)
    // Behind the 64 bits of `high`, its place is empty by then: the first digit has the tag's rest.
    let rest = UInt8(truncatingIfNeeded: tag >> 32)
    for index in stride(from: Self.textLength - 1, through: 0, by: -1) {
      let digit = UInt8(truncatingIfNeeded: low & 31) | (index == 0 ? rest << 1 : 0)
      text[index] = digit < 10 ? 48 + digit : 87 + digit
      low = low >> 5 | UInt32(truncatingIfNeeded: high & 31) << 27
      high >>= 5
    }
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
