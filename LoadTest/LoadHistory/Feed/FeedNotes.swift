// What the feed has said of each operation of a run, to be held against the ledgers at the end. 80 bytes for
// an operation: about half of what its ledger keeps of it.

/// Of one operation.
struct FeedNote: BitwiseCopyable {
  /// Of the decision on the Reserve or AdjustStock, and of what ended the reservation; 0: none was told.
  var lsn: UInt64 = 0
  var endLSN: UInt64 = 0
  /// HELD: expires_at. ADJUSTED: the units that on hand rose by.
  var value: Int64 = 0
  /// When the hold ends by the newest of HELD and EXTENDED. ADJUSTED: the units that committed rose by.
  var expiresNanoseconds: Int64 = 0
  /// Of REPLACED.
  var replaceLSN: UInt64 = 0
  /// Of EXTENDED: the sum of their expires_at, mixed, so that two sets of them are told apart.
  var extensions: UInt64 = 0
  /// Of HELD and REFUSED.
  var id: UInt32 = 0
  var lines: UInt32 = 0
  /// Of REPLACED: what is held since.
  var newLines: UInt32 = 0
  /// When EXPIRED came, in milliseconds since the watch began.
  var expiredMilliseconds: UInt32 = 0
  /// How often each was told, up to 255.
  var held: UInt8 = 0
  var refused: UInt8 = 0
  var replaced: UInt8 = 0
  /// REFUSED of what is held.
  var refusedReplaces: UInt8 = 0
  var adjusted: UInt8 = 0
  var extended: UInt8 = 0
  var confirmed: UInt8 = 0
  var released: UInt8 = 0
  var expired: UInt8 = 0

  var isEmpty: Bool {
    held == 0 && refused == 0 && replaced == 0 && adjusted == 0 && extended == 0 && confirmed == 0
      && released == 0 && expired == 0
  }

  /// What is held by the newest of HELD and REPLACED.
  var heldLines: UInt32 { replaced > 0 ? newLines : lines }

  static func count(_ counter: inout UInt8) { counter += counter == .max ? 0 : 1 }
}

/// The notes of one worker's operations, by their numbers.
final class FeedNotes {
  private var notes = ChunkedArray<FeedNote>()

  /// Operations are told in about the order in which they are opened. A number far beyond them is none that
  /// the run has given, and no reason to take all the memory.
  private static let aheadMost = 1 << 22

  var count: Int { notes.count }

  /// False where there can be no such operation.
  func makeRoom(for operation: Int) -> Bool {
    if operation < notes.count { return true }
    guard operation - notes.count < Self.aheadMost else { return false }
    while notes.count <= operation { notes.append(FeedNote()) }
    return true
  }

  subscript(operation: Int) -> FeedNote {
    get { operation < notes.count ? notes[operation] : FeedNote() }
    set { notes[operation] = newValue }
  }
}

/// Fingerprints by which notes and ledgers are compared.
enum FeedFingerprint {
  /// splitmix64's last step: every bit of the result depends on every bit of the number.
  static func mix(_ number: UInt64) -> UInt64 {
    var z = number &+ 0x9e37_79b9_7f4a_7c15
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  /// Of lines in any order, each SKU once.
  static func lines(_ lines: [FeedLine]) -> UInt32 {
    var sum: UInt64 = 0
    for line in lines { sum &+= mix(mix(UInt64(line.sku)) ^ UInt64(bitPattern: line.units)) }
    return UInt32(truncatingIfNeeded: sum >> 16)
  }

  static func expiry(_ nanoseconds: Int64) -> UInt64 { mix(UInt64(bitPattern: nanoseconds)) }
}

extension ReservationID {
  var fingerprint: UInt32 { UInt32(truncatingIfNeeded: FeedFingerprint.mix(bits) >> 16) }
}
