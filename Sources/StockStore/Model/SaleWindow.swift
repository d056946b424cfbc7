// When an item may be reserved.

/// From `from` on, before `until`, and not while it is frozen. 20 bytes that are the same in memory, in journals and in
/// checkpoints; all of them 0: always.
package struct SaleWindow: Equatable, Sendable, BitwiseCopyable {
  /// A google.protobuf.Timestamp: finer and further than a clock's nanoseconds go.
  package struct Instant: Comparable, Sendable, BitwiseCopyable {
    /// Since the Unix epoch, in `secondsRange`.
    package let seconds: Int64
    /// 0 to 999,999,999.
    package let nanoseconds: Int64

    /// From the beginning of the year 1 to the end of the year 9999.
    package static let secondsRange: ClosedRange<Int64> = -62_135_596_800...253_402_300_799

    /// nil for what no Timestamp can be.
    package init?(seconds: Int64, nanoseconds: Int64) {
      guard Self.secondsRange.contains(seconds), 0..<1_000_000_000 ~= nanoseconds else {
        return nil
      }
      self.seconds = seconds
      self.nanoseconds = nanoseconds
    }

    /// - Parameter time: of the clock, in nanoseconds since the Unix epoch.
    package init(time: Int64) {
      let second: Int64 = 1_000_000_000
      // Rounded down, also before 1970.
      seconds = time / second - (time % second < 0 ? 1 : 0)
      nanoseconds = time % second + (time % second < 0 ? second : 0)
    }

    fileprivate init(word: UInt64, low: UInt32) {
      seconds = Int64(word >> 24) + Self.secondsRange.lowerBound
      nanoseconds = Int64(word & 0xff_ffff) << 6 | Int64(low & 0x3f)
    }

    /// Seconds since the beginning of the year 1, 40 bits, then the upper 24 of the 30 bits of nanoseconds.
    fileprivate var word: UInt64 {
      UInt64(seconds - Self.secondsRange.lowerBound) << 24 | UInt64(nanoseconds >> 6)
    }

    fileprivate var low: UInt32 { UInt32(nanoseconds & 0x3f) }

    package static func < (left: Instant, right: Instant) -> Bool {
      (left.seconds, left.nanoseconds) < (right.seconds, right.nanoseconds)
    }
  }

  /// As Instant has it; 0 where there is none.
  package let fromWord: UInt64
  package let untilWord: UInt64
  /// The lower six bits of the nanoseconds of `from`, those of `until`, and three flags: there is a `from`; there is
  /// an `until`; frozen.
  package let lowBits: UInt32

  private static let hasFrom: UInt32 = 1 << 12
  private static let hasUntil: UInt32 = 1 << 13
  private static let frozen: UInt32 = 1 << 14

  package init(from: Instant?, until: Instant?, isFrozen: Bool) {
    fromWord = from?.word ?? 0
    untilWord = until?.word ?? 0
    lowBits =
      (from.map { $0.low | Self.hasFrom } ?? 0) | (until.map { $0.low << 6 | Self.hasUntil } ?? 0)
      | (isFrozen ? Self.frozen : 0)
  }

  /// What was kept. Whether it can be one, `isPossible` says.
  package init(fromWord: UInt64, untilWord: UInt64, lowBits: UInt32) {
    self.fromWord = fromWord
    self.untilWord = untilWord
    self.lowBits = lowBits
  }

  package static var always: SaleWindow { SaleWindow(fromWord: 0, untilWord: 0, lowBits: 0) }

  package var isAlways: Bool { self == .always }

  /// nil: from ever.
  package var from: Instant? {
    lowBits & Self.hasFrom == 0 ? nil : Instant(word: fromWord, low: lowBits)
  }

  /// nil: for ever.
  package var until: Instant? {
    lowBits & Self.hasUntil == 0 ? nil : Instant(word: untilWord, low: lowBits >> 6)
  }

  package var isFrozen: Bool { lowBits & Self.frozen != 0 }

  /// Whether these are bytes that `init(from:until:isFrozen:)` makes, of two instants in their order.
  package var isPossible: Bool {
    for bound in [from, until] {
      guard let bound else { continue }
      if Instant(seconds: bound.seconds, nanoseconds: bound.nanoseconds) == nil { return false }
    }
    if let from, let until, until <= from { return false }
    return self == SaleWindow(from: from, until: until, isFrozen: isFrozen)
  }

  /// Whether the item may be reserved at this time, in nanoseconds since the Unix epoch.
  package func admits(_ time: Int64) -> Bool {
    if isFrozen { return false }
    let now = Instant(time: time)
    if let from, now < from { return false }
    if let until, now >= until { return false }
    return true
  }
}
