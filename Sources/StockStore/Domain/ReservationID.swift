/// Names a reservation: where its record lies, which use of that record it is, and a tag that only the
/// store that made it can compute. Finding the record needs no search; an id from another run of a
/// store without a journal, or a guessed one, names nothing.
package struct ReservationID: Hashable, Sendable {
  /// Where the record lies.
  package let slot: UInt32
  /// Counts the uses of the slot.
  package let generation: UInt32
  /// Keyed hash of the two above.
  package let tag: UInt32

  package init(slot: UInt32, generation: UInt32, tag: UInt32) {
    self.slot = slot
    self.generation = generation
    self.tag = tag
  }

  /// Bytes of the text form.
  package static let textLength = 20

  /// Writes the text form, 20 characters of [0-9a-v], five bits each, most significant first.
  /// Writes nothing where `text` is shorter.
  package func write(to text: inout MutableSpan<UInt8>) {
    guard text.count >= Self.textLength else { return }
    var high = UInt64(slot) << 32 | UInt64(generation)
    var low = tag
    for index in stride(from: Self.textLength - 1, through: 0, by: -1) {
      let digit = UInt8(truncatingIfNeeded: low & 31)
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
    for index in 0..<Self.textLength {
      let digit: UInt32
      switch text[index] {
      case 48...57: digit = UInt32(text[index]) - 48
      case 97...118: digit = UInt32(text[index]) - 87
      default: return nil
      }
      // 100 bits of text hold 96 of id: the first digit has only one of five bits to give.
      if index == 0 && digit > 1 { return nil }
      high = high << 5 | UInt64(low >> 27)
      low = low << 5 | digit
    }
    self.init(
      slot: UInt32(truncatingIfNeeded: high >> 32), generation: UInt32(truncatingIfNeeded: high),
      tag: low)
  }
}
