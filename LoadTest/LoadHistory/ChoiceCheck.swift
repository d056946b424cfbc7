// What a Reserve with alternatives, or that is content with less, was answered: by itself, and where an alternative of
// several SKUs was passed over, by what the check of each of them has found.

struct ChoiceCheck {
  private struct Key: Hashable {
    let ledger: Int
    let operation: Int
    let alternative: Int
  }

  /// Of an alternative that was passed over: SKUs that were looked at.
  private struct Tally {
    var looked = 0
    /// One of them can have lacked units.
    var isJustified = false
  }

  private var tallies: [Key: Tally] = [:]

  /// What is wrong with the answer of an accepted reserve, whatever others did; nil if nothing is.
  static func problem(_ operation: Int, _ ledger: borrowing Ledger) -> String? {
    let alternative = ledger.alternative(of: operation)
    if alternative > ledger[operation].alternativeCount {
      return
        "alternative \(alternative) is held, and there are \(ledger[operation].alternativeCount)"
    }
    let cart = ledger.cart(of: operation, alternative: alternative)
    let held = ledger.heldLines(of: operation)
    let isTold = held != cart
    guard cart.contains(where: { ledger.line(at: $0).minimum > 0 }) else {
      return isTold ? "it says what was granted, and nothing but all was asked for" : nil
    }
    if !isTold { return "it does not say what was granted" }
    var asked: [UInt32: (least: Int64, units: Int64)] = [:]
    for index in cart {
      let line = ledger.line(at: index)
      let before = asked[line.sku] ?? (0, 0)
      asked[line.sku] = (before.least + Int64(line.least), before.units + Int64(line.quantity))
    }
    for index in held {
      let line = ledger.line(at: index)
      let sku = line.sku == Ledger.none ? "an item of others" : ledger.names.name(Int(line.sku))
      guard let asked = asked.removeValue(forKey: line.sku) else {
        return "it grants \(line.quantity) of \(sku), for which it was not asked, or twice"
      }
      if Int64(line.quantity) < asked.least || Int64(line.quantity) > asked.units {
        return
          "it grants \(line.quantity) of \(sku), and was asked for \(asked.least) to \(asked.units)"
      }
    }
    return asked.isEmpty ? nil : "it grants nothing of a line"
  }

  /// Takes down whether one SKU of an alternative of several can have lacked units.
  mutating func take(_ passed: PassedOver, isJustified: Bool) {
    let key = Key(
      ledger: passed.reference.ledger, operation: passed.reference.operation,
      alternative: passed.alternative)
    var tally = tallies[key] ?? Tally()
    tally.looked += 1
    tally.isJustified = tally.isJustified || isJustified
    tallies[key] = tally
  }

  /// Tells of alternatives that were passed over although none of their SKUs can have lacked units. Where not all
  /// SKUs are checked, nothing is said of those that are left out.
  func conclude(
    _ names: SKUNames, _ describe: CallDescriber, _ books: borrowing Books,
    _ findings: inout Findings
  ) {
    for (key, tally) in tallies {
      if tally.isJustified {
        findings.refusalsJustified += 1
        continue
      }
      let reference = OperationReference(ledger: key.ledger, operation: key.operation)
      let skus = books.withLedger(key.ledger) { ledger in
        Set(
          ledger.cart(of: key.operation, alternative: key.alternative).map {
            ledger.line(at: $0).sku
          })
      }
      if tally.looked < skus.count { continue }
      let name = skus.sorted().map { names.name(Int($0)) }.joined(separator: ", ")
      let which = key.alternative == 0 ? "its lines" : "alternative \(key.alternative)"
      findings.note(
        Violation(
          .passedOver,
          "SKU \(name), key \(describe.key(reference, books)): \(which) could be held all the time",
          calls: findings.keepsAnother(.passedOver)
            ? describe.all(reference, units: 0, books) : []))
    }
  }
}
