// The streams that we reset, as far as their late frames must be told from a peer's mistakes.

/// Which of a connection's latest streams we reset. Frames that were on their way by then are no error
/// (RFC 9113 section 5.1: they MUST be read as far as the connection's state needs it, and discarded).
/// Exact for the latest 1,024 streams, a bit each: as many as a peer may have open. Of older ones it
/// knows nothing, and gives them the benefit of the doubt: section 5.1 allows that for all closed streams.
struct ResetStreams {
  /// Streams that are remembered.
  static let window = 1024

  private var bits = InlineArray<16, UInt64>(repeating: 0)
  /// The place of the highest stream that the peer opened.
  private var newest: Int32 = -1

  private static func place(_ stream: Int32) -> Int32 { stream >> 1 }

  /// The peer opened a stream, higher than any before. Those that it skipped are closed, and not by us
  /// (section 5.1.1).
  mutating func opened(_ stream: Int32) {
    let place = Self.place(stream)
    // More would clear bits twice.
    let first = max(newest + 1, place - Int32(Self.window) + 1)
    newest = place
    guard first <= place else { return }
    for skipped in first...place { bits[Self.word(skipped)] &= ~Self.bit(skipped) }
  }

  /// We reset a stream that the peer opened.
  mutating func insert(_ stream: Int32) {
    let place = Self.place(stream)
    guard newest - place < Int32(Self.window), place <= newest else { return }
    bits[Self.word(place)] |= Self.bit(place)
  }

  /// Whether a frame on a closed stream may be one that was on its way when we reset it.
  func mayBeLate(_ stream: Int32) -> Bool {
    let place = Self.place(stream)
    if newest - place >= Int32(Self.window) { return true }
    return bits[Self.word(place)] & Self.bit(place) != 0
  }

  private static func word(_ place: Int32) -> Int { Int(place) >> 6 & 15 }

  private static func bit(_ place: Int32) -> UInt64 { 1 << UInt64(place & 63) }
}
