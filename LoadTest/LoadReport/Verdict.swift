// What a run, or a check of its history, says of the server. It is data: the sentence, the banner of the
// page and its colour are made from it, and nobody has to take a sentence apart.

package struct Verdict: Equatable, Sendable {
  /// Units over all SKUs.
  package struct Balance: Codable, Equatable, Sendable {
    /// Put behind the SKUs before the run.
    package var stock: Int64 = 0
    /// Of accepted reservations.
    package var accepted: Int64 = 0
    package var confirmed: Int64 = 0
    package var released: Int64 = 0
    package var expired: Int64 = 0
    /// Held at the end.
    package var held: Int64 = 0

    package init() {}
  }

  /// The SKU that was oversold by the most units.
  package struct Oversold: Codable, Equatable, Sendable {
    package var sku = ""
    package var units: Int64 = 0
    /// How many SKUs were oversold, this one included.
    package var skus = 0

    package init() {}
  }

  package var result = Report.Result.unknown
  /// Why nothing can be said; only where `result` is unknown or not_checked.
  package var reason: String?
  package var oversold: Oversold?
  /// How many violations of each kind.
  package var violations: [String: Int] = [:]
  package var skusUndecided = 0
  /// Events of the change feed that were held against the calls; absent where it was not followed to its end.
  package var feedEvents: Int?
  /// Absent where nothing was compared.
  package var balance: Balance?

  package init() {}

  /// That nothing can be said of the server.
  package init(_ result: Report.Result, reason: String) {
    self.result = result
    self.reason = reason
  }

  // MARK: In words

  /// What is so, in a few words that begin with a small letter.
  package var headline: String {
    switch result {
    case .unknown, .notChecked: return reason ?? "nothing is known"
    case .violated:
      if let oversold {
        let more = Text.counted(oversold.skus - 1, "more SKU")
        let others = oversold.skus > 1 ? " (and \(more))" : ""
        return "OVERSOLD by \(Text.counted(oversold.units, "unit")) on SKU \(oversold.sku)\(others)"
      }
      let kinds = violations.sorted { $0.key < $1.key }.map {
        "\($0.key) (\(Text.count(Int64($0.value))))"
      }
      return "VIOLATED: " + kinds.joined(separator: ", ")
    case .good:
      let undecided = skusUndecided > 0 ? ", \(Text.counted(skusUndecided, "SKU")) undecided" : ""
      let feed = feedEvents.map { ", each of \(Text.counted($0, "event")) once in the feed" } ?? ""
      return "nothing oversold, nothing lost" + feed + undecided
    }
  }

  /// What became of the units; empty where nothing was compared.
  package var detail: String {
    guard let balance else { return "" }
    let count = Text.count
    return "\(Text.counted(balance.stock, "unit")) in stock, "
      + "\(Text.counted(balance.accepted, "unit")) accepted: \(count(balance.confirmed)) confirmed, "
      + "\(count(balance.released)) released, \(count(balance.expired)) expired, "
      + "\(count(balance.held)) held"
  }

  /// One line that begins with VERDICT or NO VERDICT.
  package var sentence: String {
    let beginning = result == .good || result == .violated ? "VERDICT" : "NO VERDICT"
    return "\(beginning): \(headline)" + (detail.isEmpty ? "" : " — \(detail)")
  }
}

extension Verdict: Codable {
  private enum CodingKeys: String, CodingKey {
    case result, reason, oversold, violations, skusUndecided, feedEvents, balance
    /// For who reads the JSON: derived from the others, and not read.
    case sentence
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    result = try container.decodeIfPresent(Report.Result.self, forKey: .result) ?? .unknown
    reason = try container.decodeIfPresent(String.self, forKey: .reason)
    oversold = try container.decodeIfPresent(Oversold.self, forKey: .oversold)
    violations = try container.decodeIfPresent([String: Int].self, forKey: .violations) ?? [:]
    skusUndecided = try container.decodeIfPresent(Int.self, forKey: .skusUndecided) ?? 0
    feedEvents = try container.decodeIfPresent(Int.self, forKey: .feedEvents)
    balance = try container.decodeIfPresent(Balance.self, forKey: .balance)
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(result, forKey: .result)
    try container.encodeIfPresent(reason, forKey: .reason)
    try container.encodeIfPresent(oversold, forKey: .oversold)
    try container.encode(violations, forKey: .violations)
    try container.encode(skusUndecided, forKey: .skusUndecided)
    try container.encodeIfPresent(feedEvents, forKey: .feedEvents)
    try container.encodeIfPresent(balance, forKey: .balance)
    try container.encode(sentence, forKey: .sentence)
  }
}

extension Report.Check {
  package var verdict: Verdict {
    var verdict = Verdict()
    verdict.result = holds ? .good : .violated
    verdict.oversold = oversold
    verdict.violations = violations
    verdict.skusUndecided = skusUndecided
    if let feed, feed.isWhole { verdict.feedEvents = feed.events }
    var balance = Verdict.Balance()
    balance.stock = stock
    balance.accepted = accepted
    balance.confirmed = confirmed
    balance.released = released
    balance.expired = expired
    balance.held = held
    verdict.balance = balance
    return verdict
  }
}

// MARK: Everything that was asked for

/// Whether everything that was asked of a run held: what its banner is coloured by.
package enum Standing: String, Codable, Sendable {
  /// All of it.
  case held
  /// Nothing is known to be wrong, but not all of it is known to hold.
  case partly
  /// An invariant or a requirement is broken.
  case broken
}

extension Report {
  package var standing: Standing {
    if result == .violated || !brokenRequirements.isEmpty { return .broken }
    if (server?.invariantViolations ?? 0) > 0 { return .broken }
    return result == .good && shortcomings.isEmpty ? .held : .partly
  }

  var brokenRequirements: [ThresholdResult] { thresholds.filter { !$0.isPassed } }

  /// What keeps a run without a violation from having held in full, beside what the headline says.
  var shortcomings: [String] {
    var shortcomings: [String] = []
    if !brokenRequirements.isEmpty {
      shortcomings.append(
        "\(brokenRequirements.count) of \(Text.counted(thresholds.count, "requirement")) broken")
    }
    if let count = server?.invariantViolations, count > 0 {
      shortcomings.append("the server counts \(Text.counted(count, "invariant violation"))")
    }
    if isPartial { shortcomings.append("the run ended before it was to") }
    if unsent > 0 { shortcomings.append("\(Text.counted(unsent, "call")) never sent") }
    // The headline says it as well.
    if verdict.skusUndecided > 0, result == .good {
      shortcomings.append("\(Text.counted(verdict.skusUndecided, "SKU")) undecided")
    }
    return shortcomings
  }
}
