import Testing

@testable import LoadHistory

/// Histories of carts that were changed: those that a correct server can have answered, and doctored ones.
@Suite struct ReplaceTests {
  private static func line(_ quantity: UInt32, sku: UInt32 = 0) -> CartLine {
    CartLine(sku: sku, quantity: quantity)
  }

  private struct Case: Sendable {
    let name: String
    /// Of a server with 5 units of SKU 0 and 3 of SKU 1.
    let findings: @Sendable () -> Findings
    /// nil: it holds.
    var kind: Violation.Kind?

    init(
      _ name: String, _ kind: Violation.Kind? = nil, _ levels: (Int64, Int64)?...,
      tell: @escaping @Sendable (inout Story) -> Void
    ) {
      self.name = name
      self.kind = kind
      findings = {
        var story = Story(stock: 5, 3)
        tell(&story)
        return story.history(levels).check()
      }
    }
  }

  private static let cases: [Case] = [
    Case("down, up, and to another SKU", nil, (5, 4), (3, 2)) {
      let first = $0.sale(3, at: 1)
      $0.replace(first, [line(1)], sent: 3, at: 4)
      let second = $0.sale(2, at: 5)
      $0.replace(second, [line(3)], sent: 7, at: 8)
      let third = $0.sale(1, at: 9)
      $0.replace(third, [line(2, sku: 1)], sent: 11, at: 12)
    },
    Case("what is dropped is free at once", nil, (5, 5), (3, 0)) {
      let first = $0.sale(5, at: 1)
      $0.replace(first, [line(1)], sent: 3, at: 4)
      $0.sale(4, at: 5)
    },
    Case("what is kept is sold", nil, (3, 0), (3, 0)) {
      let first = $0.sale(4, at: 1)
      $0.replace(first, [line(2)], sent: 3, at: 4)
      $0.call(first, .confirm, sent: 5, at: 6)
    },
    Case("what is added is released", nil, (5, 0), (3, 0)) {
      let first = $0.sale(1, at: 1)
      $0.replace(first, [line(3), line(1, sku: 1)], sent: 3, at: 4)
      $0.call(first, .release, sent: 5, at: 6)
    },
    Case("a refusal leaves the hold as it was", nil, (5, 5), (3, 0)) {
      let first = $0.sale(2, at: 1)
      $0.sale(3, at: 3)
      $0.replace(first, [line(3)], sent: 5, at: 6, Story.short(0, available: 0))
    },
    Case("one of unknown outcome was done", nil, (5, 1), (3, 2)) {
      let first = $0.sale(3, at: 1)
      $0.replace(first, [line(1), line(2, sku: 1)], sent: 3, at: 4, nil)
    },
    Case("or was not", nil, (5, 3), (3, 0)) {
      let first = $0.sale(3, at: 1)
      $0.replace(first, [line(1), line(2, sku: 1)], sent: 3, at: 4, nil)
    },
    Case("one of unknown outcome, then sold", nil, (4, 0), (1, 0)) {
      let first = $0.sale(3, at: 1)
      $0.replace(first, [line(1), line(2, sku: 1)], sent: 3, at: 4, nil)
      $0.call(first, .confirm, sent: 5, at: 6)
    },
    Case("more is added than there is", .oversold, (5, 6), (3, 0)) {
      let first = $0.sale(2, at: 1)
      $0.sale(3, at: 3)
      $0.replace(first, [line(3)], sent: 5, at: 6)
    },
    Case("what is dropped stays held", .heldDiffers, (5, 4), (3, 0)) {
      let first = $0.sale(4, at: 1)
      $0.replace(first, [line(1)], sent: 3, at: 4)
    },
    Case("what is added is not held", .heldDiffers, (5, 0), (3, 0)) {
      let first = $0.sale(2, at: 1)
      $0.replace(first, [line(2, sku: 1)], sent: 3, at: 4)
    },
    Case("the lines before it are sold", .onHandDiffers, (1, 0), (3, 0)) {
      let first = $0.sale(4, at: 1)
      $0.replace(first, [line(2)], sent: 3, at: 4)
      $0.call(first, .confirm, sent: 5, at: 6)
    },
    Case("its own hold is in the way", .unjustifiedRefusal, (5, 3), (3, 0)) {
      let first = $0.sale(3, at: 1)
      $0.replace(first, [line(4)], sent: 3, at: 4, Story.short(0, available: 2))
    },
    Case("what it lowers is short", .unjustifiedRefusal, (5, 5), (3, 0)) {
      let first = $0.sale(5, at: 1)
      $0.replace(first, [line(2)], sent: 3, at: 4, Story.short(0, available: 0))
    },
    Case("a revision that it had", .unjustifiedRefusal, (5, 1), (3, 0)) {
      let first = $0.sale(1, at: 1)
      $0.replace(
        first, [line(2)], revision: 1, sent: 3, at: 4, Story.refusal(.revisionMismatch))
    },
    Case("a revision that an Extend has raised meanwhile", nil, (5, 1), (3, 0)) {
      let first = $0.sale(1, at: 1)
      $0.call(first, .extend, sent: 3, at: 6, $0.acceptance(first, 4, id: 0))
      $0.replace(
        first, [line(2)], revision: 1, sent: 4, at: 5, Story.refusal(.revisionMismatch))
    },
    Case("a revision that an Extend has raised, and expired by the next try", nil, (5, 0), (3, 0)) {
      let first = $0.open([line(1)], timeToLive: 100)
      $0.call(first, .reserve, sent: 1, at: 2, $0.acceptance(first, 1, id: 1))
      $0.call(first, .extend, sent: 3, at: 6, $0.acceptance(first, 4, id: 0))
      $0.replace(
        first, [line(2)], revision: 1, sent: 4, at: 5, Story.refusal(.revisionMismatch))
      $0.call(first, .replace, sent: 300, at: 301, Story.refusal(.reservationExpired))
    },
    Case("a revision that a later Extend has raised", .unjustifiedRefusal, (5, 1), (3, 0)) {
      let first = $0.sale(1, at: 1)
      $0.replace(
        first, [line(2)], revision: 1, sent: 3, at: 4, Story.refusal(.revisionMismatch))
      $0.call(first, .extend, sent: 5, at: 6, $0.acceptance(first, 5, id: 0))
    },
    Case("done twice", .decidedTwice, (5, 2), (3, 0)) {
      let first = $0.sale(1, at: 1)
      $0.replace(first, [line(2)], sent: 3, at: 4)
      $0.call(first, .replace, sent: 5, at: 6)
    },
    Case("done, then refused", .answeredDifferently, (5, 2), (3, 0)) {
      let first = $0.sale(1, at: 1)
      $0.replace(first, [line(2)], sent: 3, at: 4)
      $0.call(first, .replace, sent: 5, at: 6, Story.short(0))
    },
  ]

  @Test(arguments: cases.indices)
  func whatAServerCanHaveAnswered(index: Int) {
    let test = Self.cases[index]
    let findings = test.findings()
    if let kind = test.kind {
      #expect(findings.counts[kind] != nil, "\(test.name): \(findings.counts)")
    } else {
      #expect(findings.holds, "\(test.name): \(findings.violations)")
      #expect(findings.linearizable == .yes, "\(test.name)")
    }
  }
}
