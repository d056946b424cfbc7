/// What of a Reserve is held, where that is not simply its lines: part of the answer, and kept with the hold.
package struct HoldChoice: Equatable, Sendable, BitwiseCopyable {
  private static let alternativeBits: UInt8 = 0x0f
  private static let tellsLinesBit: UInt8 = 0x10

  /// Journals and checkpoints have it: which alternative, plus 16 where the answer says what is held.
  package let rawValue: UInt8

  /// The lines as they were asked for.
  package static var asAsked: HoldChoice { HoldChoice(alternative: 0, tellsLines: false) }

  /// - Parameters:
  ///   - alternative: from 1; 0: the lines.
  ///   - tellsLines: the answer says what is held, since less than was asked for would have done.
  package init(alternative: Int, tellsLines: Bool) {
    precondition(0...StoreLimits.alternativesMax ~= alternative, "no such alternative")
    rawValue = UInt8(truncatingIfNeeded: alternative) | (tellsLines ? Self.tellsLinesBit : 0)
  }

  /// nil where it is none: numbers from a disk may be anything.
  package init?(rawValue: UInt8) {
    guard rawValue & ~(Self.alternativeBits | Self.tellsLinesBit) == 0,
      rawValue & Self.alternativeBits <= UInt8(StoreLimits.alternativesMax)
    else { return nil }
    self.rawValue = rawValue
  }

  package var alternative: Int { Int(rawValue & Self.alternativeBits) }
  package var tellsLines: Bool { rawValue & Self.tellsLinesBit != 0 }
}
