// What a check says: which invariants are violated, by which calls, and what it has counted.

/// One call as a violation names it.
package struct CallLine: Equatable, Sendable, Encodable {
  /// The idempotency key; of a read, which has none, the operation that it would name.
  package var key = ""
  /// The method's name.
  package var call = ""
  /// Units of the SKU in question.
  package var units: Int64 = 0
  /// Since the run's start; no `answered` where no answer came.
  package var sentNanoseconds: Int64 = 0
  package var answeredNanoseconds: Int64?
  /// In words.
  package var answer = ""

  package init() {}

  /// One line: key, call, units, from when to when in milliseconds, what was answered.
  package var text: String {
    let to = answeredNanoseconds.map { CallLine.milliseconds($0) } ?? "…"
    let quantity = call == "GetStock" ? "" : " of \(units)"
    return
      "\(key) \(call)\(quantity), \(CallLine.milliseconds(sentNanoseconds))–\(to) ms: \(answer)"
  }

  /// With three digits behind the point.
  static func milliseconds(_ nanoseconds: Int64) -> String {
    let micro = nanoseconds / 1_000
    let digits = String(micro.magnitude % 1_000)
    let rest = String(repeating: "0", count: 3 - digits.count) + digits
    return "\(nanoseconds < 0 ? "-" : "")\(micro.magnitude / 1_000).\(rest)"
  }
}

/// Something that a correct server cannot have done.
package struct Violation: Equatable, Sendable {
  /// In the order of their weight.
  package enum Kind: String, CaseIterable, Sendable {
    case oversold = "oversold"
    case limitPassed = "more than a limit for one subject"
    case notLinearizable = "not linearizable"
    case onHandDiffers = "units lost or invented"
    case heldDiffers = "held units differ"
    case itemMissing = "item missing"
    case forgotten = "acknowledged decision forgotten"
    case feedMissing = "missing in the feed"
    case feedRepeated = "twice in the feed"
    case feedUnknown = "in the feed and never decided"
    case feedBalance = "wrong balance in the feed"
    case feedGap = "version missing in the feed"
    case feedOrder = "feed out of order"
    case feedWrongEvent = "wrong event in the feed"
    case outOfBounds = "balance out of bounds during the run"
    case wrongRead = "wrong balance read"
    case decidedTwice = "decided twice"
    case answeredDifferently = "duplicate answered differently"
    case replayWithoutFirst = "replayed what was never answered"
    case endedTwice = "ended twice"
    case idUsedTwice = "reservation id used twice"
    case unjustifiedRefusal = "refused without reason"
    case passedOver = "alternative passed over without reason"
    case wrongGrant = "wrong units granted"
    case endedAfterExpiry = "accepted after expiry"
    case wrongExpiry = "wrong expires_at"
  }

  package let kind: Kind
  /// Names the SKU and the key, and says what is wrong.
  package let text: String
  /// The SKU that it is about, where it is oversold.
  package let sku: String?
  /// Units, where the kind counts in units; otherwise 1.
  package let count: Int64
  /// The calls that show it, all of them.
  package let calls: [CallLine]

  package init(
    _ kind: Kind, _ text: String, sku: String? = nil, count: Int64 = 1, calls: [CallLine] = []
  ) {
    self.kind = kind
    self.text = text
    self.sku = sku
    self.count = count
    self.calls = calls
  }

  /// Calls that `description` shows.
  package static let callsShown = 5

  /// The kind, the text, and the first calls a line each.
  package var description: String {
    var lines = ["\(kind.rawValue): \(text)"]
    lines += calls.prefix(Violation.callsShown).map { "  " + $0.text }
    let more = calls.count - Violation.callsShown
    if more > 0 { lines.append("  and \(more) more like \(more == 1 ? "this" : "these")") }
    return lines.joined(separator: "\n")
  }
}

/// Whether there is an order of a SKU's calls that explains every answer.
package enum Linearizable: String, Sendable {
  case yes, no
  /// Neither an order nor a contradiction was found in time.
  case undecided
}

/// What the server stated about one SKU after the run.
package struct ReadLevel: Equatable, Sendable {
  /// nil if the server does not know the item.
  package let level: StockLevel?
  /// When it was asked and when the answer came, by the generator's clock.
  package let sentNanoseconds: Int64
  package let answeredNanoseconds: Int64

  package init(level: StockLevel?, sentNanoseconds: Int64, answeredNanoseconds: Int64) {
    self.level = level
    self.sentNanoseconds = sentNanoseconds
    self.answeredNanoseconds = answeredNanoseconds
  }
}

/// What the check found. Units are over all SKUs.
package struct Findings: Sendable {
  /// The first few of each kind; `counts` has them all.
  package internal(set) var violations: [Violation] = []
  package internal(set) var counts: [Violation.Kind: Int] = [:]
  /// `no` if any SKU's calls are not, `undecided` if that is not known of some.
  package internal(set) var linearizable = Linearizable.yes
  package internal(set) var skusUndecided = 0
  package internal(set) var skus = 0
  /// Operations: reserves, reads, restocks.
  package internal(set) var keys = 0
  package internal(set) var attempts = 0
  /// Put behind the SKUs before the run, and added during it.
  package internal(set) var stock: Int64 = 0
  package internal(set) var restocked: Int64 = 0
  package internal(set) var accepted: Int64 = 0
  package internal(set) var confirmed: Int64 = 0
  package internal(set) var released: Int64 = 0
  /// Neither confirmed nor released, and due before the balances were read.
  package internal(set) var expired: Int64 = 0
  /// Held at the end by the server's word.
  package internal(set) var held: Int64 = 0
  package internal(set) var refusalsJustified = 0
  package internal(set) var readsJustified = 0
  package internal(set) var duplicatesCompared = 0
  /// Calls whose outcome nobody knows.
  package internal(set) var unknownOutcomes = 0

  package var holds: Bool { counts.isEmpty }

  static let violationsKeptPerKind = 3

  /// The worst kinds first, of each the most units first.
  package var violationsByWeight: [Violation] {
    Violation.Kind.allCases.flatMap { kind in
      violations.filter { $0.kind == kind }.sorted { $0.count > $1.count }
    }
  }

  /// Whether a further violation of a kind that counts 1 each is kept, and not only counted: naming the
  /// calls of thousands that nobody will see takes minutes.
  func keepsAnother(_ kind: Violation.Kind) -> Bool {
    counts[kind, default: 0] < Findings.violationsKeptPerKind
  }

  /// Takes down a violation. Of those that count in units the worst are kept.
  package mutating func note(_ violation: Violation) {
    counts[violation.kind, default: 0] += 1
    let same = violations.indices.filter { violations[$0].kind == violation.kind }
    if same.count < Findings.violationsKeptPerKind {
      violations.append(violation)
    } else if let least = same.min(by: { violations[$0].count < violations[$1].count }),
      violations[least].count < violation.count
    {
      violations[least] = violation
    }
  }
}
