// The load generator's own book of every call and every answer, one per worker. Answers to
// duplicates are compared as they come; everything that needs the whole history is LedgerCheck's.
//
// Times are nanoseconds of the generator's monotonic clock: `sent` is taken before the bytes leave,
// `answered` after they came, so that what the server did lies between the two.

/// How a reservation was to be ended by us.
package enum Ending: UInt8, BitwiseCopyable, Sendable {
  case none, confirm, release
}

/// What is known of a decision.
package enum Decision: UInt8, BitwiseCopyable, Sendable {
  case unknown, accepted, refused
}

/// The attempts of one call: the first send and its duplicates. They share one decision.
package struct Attempts: BitwiseCopyable, Sendable {
  /// When the first of them was sent; `Int64.max` if none was.
  package var sentNanoseconds = Int64.max
  /// When the first decision arrived; `Int64.max` if none has.
  package var answeredNanoseconds = Int64.max
  package var decision = Decision.unknown
  /// Of a refusal.
  package var reason = RefusalReason.unnamed
  package var sent: UInt8 = 0
  /// Answers that say they are the first, and answers that say they repeat it.
  package var first: UInt8 = 0
  package var replayed: UInt8 = 0
  package var refused: UInt8 = 0
  /// Answers by which the server did nothing.
  package var withoutEffect: UInt8 = 0

  /// Attempts whose effect nobody knows: cut off, or never answered.
  package var unknown: Int {
    Int(sent) - Int(first) - Int(replayed) - Int(refused) - Int(withoutEffect)
  }
  /// Whether the server may have acted, or may still act, without our knowing.
  package var mayHaveActed: Bool { decision == .unknown && unknown > 0 }

  mutating func send(at time: Int64) {
    sent += 1
    if sent == 1 { sentNanoseconds = time }
  }

  /// Whether `reply` was a further decision, to be compared with the first.
  mutating func take(_ reply: Reply, at time: Int64) -> Bool {
    let isFurther = decision != .unknown
    switch reply {
    case .accepted(_, _, let isReplayed):
      if isReplayed { replayed += 1 } else { first += 1 }
      if !isFurther { decision = .accepted }
    case .refused(let refusal):
      refused += 1
      if !isFurther {
        decision = .refused
        reason = refusal.reason
      }
    case .noEffect:
      withoutEffect += 1
      return false
    case .unknown: return false
    }
    if !isFurther { answeredNanoseconds = time }
    return isFurther
  }
}

/// One reserve, and how its reservation was ended.
package struct ReserveRecord: BitwiseCopyable, Sendable {
  package var reserve = Attempts()
  package var end = Attempts()
  package var id = ReservationID(number: 0)
  /// By the server's clock, nanoseconds since the Unix epoch.
  package var expiresNanoseconds: Int64 = 0
  /// Of a refused reserve; see Refusal.
  package var fingerprint: UInt64 = 0
  /// The SKU that a refusal named; `UInt32.max` if it named none of ours.
  package var refusedSKU = UInt32.max
  package var firstLine: UInt32 = 0
  package var lineCount: UInt8 = 0
  package var ending = Ending.none
}

/// Something that a correct server cannot have done.
package struct Violation: Equatable, Sendable {
  package enum Kind: String, CaseIterable, Sendable {
    case oversold = "oversold"
    case onHandDiffers = "units lost or invented"
    case heldDiffers = "held units differ"
    case itemMissing = "item missing"
    case forgotten = "acknowledged decision forgotten"
    case decidedTwice = "decided twice"
    case answeredDifferently = "duplicate answered differently"
    case replayWithoutFirst = "replayed what was never answered"
    case idUsedTwice = "reservation id used twice"
    case unjustifiedRefusal = "refused without reason"
    case endedAfterExpiry = "confirmed or released after expiry"
    case wrongExpiry = "wrong expires_at"
  }

  package let kind: Kind
  /// Names the SKU, the key and the calls.
  package let text: String
  /// Units, where the kind counts in units; otherwise 1.
  package let count: Int64

  package init(_ kind: Kind, _ text: String, count: Int64 = 1) {
    self.kind = kind
    self.text = text
    self.count = count
  }
}

/// One worker's book.
package struct Ledger: ~Copyable {
  package let worker: Int
  package let names: SKUNames
  let keys: KeyNames
  package private(set) var records = ChunkedArray<ReserveRecord>()
  private var lines = ChunkedArray<CartLine>()
  /// What comparing duplicates found, the first `violationsKept` of them, and how many in all.
  package private(set) var violations: [Violation] = []
  package private(set) var violationCount = 0
  /// Duplicates whose answer was compared with the first.
  package private(set) var duplicatesCompared = 0

  static let violationsKept = 100
  /// Most attempts of one call.
  static let attemptsMaximum = 250

  package init(worker: Int, names: SKUNames, keys: KeyNames) {
    self.worker = worker
    self.names = names
    self.keys = keys
  }

  package var count: Int { records.count }

  func cart(of operation: Int) -> Range<Int> {
    let record = records[operation]
    return Int(record.firstLine)..<Int(record.firstLine) + Int(record.lineCount)
  }

  func line(_ index: Int) -> CartLine { lines[index] }

  package func key(of operation: Int) -> String { keys.name(worker: worker, operation: operation) }

  /// Takes over a call from a ledger that was saved. Calls keep their numbers, and so their keys.
  mutating func restore(_ record: ReserveRecord, lines: [CartLine]) {
    for line in lines { addLine(line) }
    let operation = openReserve(lineCount: lines.count)
    let opened = records[operation]
    records[operation] = record
    records[operation].firstLine = opened.firstLine
    records[operation].lineCount = opened.lineCount
  }

  // MARK: Sending

  /// Takes down a line of the cart that the next `openReserve` will name.
  package mutating func addLine(_ line: CartLine) { lines.append(line) }

  /// Opens a reserve of the last `lineCount` lines. Its number, which also makes its key.
  package mutating func openReserve(lineCount: Int) -> Int {
    var record = ReserveRecord()
    record.firstLine = UInt32(truncatingIfNeeded: lines.count - lineCount)
    record.lineCount = UInt8(truncatingIfNeeded: lineCount)
    return records.append(record)
  }

  /// Writes the request of a call. It depends on the ledger alone, so that a duplicate is the same
  /// bytes.
  package func writeRequest(
    _ operation: Int, _ method: Method, timeToLiveNanoseconds: Int64,
    to message: inout MessageBuffer
  ) {
    if method != .reserve {
      message.writeEndRequest(records[operation].id)
      return
    }
    message.writeReserveKey(keys, worker: worker, operation: operation)
    for index in cart(of: operation) { message.appendReserveLine(lines[index], names) }
    message.appendTimeToLive(nanoseconds: timeToLiveNanoseconds)
  }

  package mutating func reserveSent(_ operation: Int, at time: Int64) {
    records[operation].reserve.send(at: time)
  }

  package mutating func endSent(_ operation: Int, _ ending: Ending, at time: Int64) {
    records[operation].ending = ending
    records[operation].end.send(at: time)
  }

  // MARK: Answers

  /// Answers true for the first acceptance, upon which the reservation may be ended.
  @discardableResult
  package mutating func reserveAnswered(_ operation: Int, _ reply: Reply, at time: Int64) -> Bool {
    let before = records[operation].reserve.decision
    if records[operation].reserve.take(reply, at: time) {
      compare(records[operation].reserve, operation)
    }
    switch reply {
    case .accepted(let id, let expires, _):
      if before == .unknown {
        records[operation].id = id
        records[operation].expiresNanoseconds = expires
        return true
      }
      let first = records[operation]
      if before == .accepted, first.id != id || first.expiresNanoseconds != expires {
        note(
          .answeredDifferently,
          """
          key \(key(of: operation)): \(first.id.text) until \(first.expiresNanoseconds), \
          then \(id.text) until \(expires)
          """)
      }
    case .refused(let refusal):
      if before == .unknown {
        records[operation].fingerprint = refusal.fingerprint
        records[operation].refusedSKU = refusal.sku ?? .max
      } else if before == .refused, records[operation].fingerprint != refusal.fingerprint {
        note(
          .answeredDifferently,
          """
          key \(key(of: operation)): refused \(records[operation].reserve.reason.name), \
          then \(refusal.reason.name) or with other values
          """)
      }
    case .noEffect, .unknown: break
    }
    return false
  }

  package mutating func endAnswered(_ operation: Int, _ reply: Reply, at time: Int64) {
    let reason = records[operation].end.reason
    let before = records[operation].end.decision
    if records[operation].end.take(reply, at: time) { compare(records[operation].end, operation) }
    if case .refused(let refusal) = reply, before == .refused, refusal.reason != reason {
      note(
        .answeredDifferently,
        "reservation \(records[operation].id.text): \(reason.name), then \(refusal.reason.name)")
    }
  }

  /// Two decisions on one call: they have to be one.
  private mutating func compare(_ attempts: Attempts, _ operation: Int) {
    duplicatesCompared += 1
    if attempts.first > 1 {
      note(
        .decidedTwice,
        "key \(key(of: operation)): \(attempts.first) answers say that they are the first")
    }
    if attempts.refused > 0, attempts.first + attempts.replayed > 0 {
      note(.answeredDifferently, "key \(key(of: operation)): both accepted and refused")
    }
  }

  /// Takes down a violation that was found on the way.
  package mutating func note(_ kind: Violation.Kind, _ text: String) {
    violationCount += 1
    if violations.count < Ledger.violationsKept { violations.append(Violation(kind, text)) }
  }
}
