import Testing

@testable import LoadHistory

/// Histories of two per person: those that a correct server can have answered, and doctored ones.
@Suite struct LimitTests {
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
    Case("two each", nil, (5, 4), (3, 0)) {
      $0.sale(2, at: 1, subject: 7)
      $0.sale(1, at: 3, subject: 8)
      $0.sale(1, at: 5, subject: 8)
    },
    Case("two of each item", nil, (5, 2), (3, 2)) {
      $0.sale(2, at: 1, subject: 7)
      $0.sale(2, sku: 1, at: 3, subject: 7)
    },
    Case("a third is refused", nil, (5, 2), (3, 0)) {
      $0.sale(2, at: 1, subject: 7)
      $0.overLimit(1, used: 2, at: 3, subject: 7)
    },
    Case("what was bought counts", nil, (3, 0), (3, 0)) {
      $0.call($0.sale(2, at: 1, subject: 7), .confirm, sent: 3, at: 4)
      $0.overLimit(1, used: 2, at: 5, subject: 7)
    },
    Case("what was given back does not", nil, (5, 2), (3, 0)) {
      $0.call($0.sale(2, at: 1, subject: 7), .release, sent: 3, at: 4)
      $0.sale(2, at: 5, subject: 7)
    },
    Case("what a Replace drops is free, what it adds counts", nil, (5, 1), (3, 2)) {
      let first = $0.sale(2, at: 1, subject: 7)
      $0.replace(first, [CartLine(sku: 1, quantity: 2)], sent: 3, at: 4)
      $0.sale(1, at: 5, subject: 7)
      $0.overLimit(1, sku: 1, used: 2, at: 7, subject: 7)
    },
    Case("two at once, of which one may", nil, (5, 2), (3, 0)) {
      let (first, second) = (
        $0.reserve(2, at: 1, subject: 7), $0.reserve(2, at: 1, subject: 7)
      )
      $0.accepted(first, sent: 1, at: 9, decided: 2)
      $0.answer(second, .reserve, Story.overLimit(used: 2), sent: 1, at: 8)
    },
    Case("one that was cut off may have had it", nil, (5, 2), (3, 0)) {
      _ = $0.reserve(2, at: 1, subject: 7)
      $0.overLimit(1, used: 2, at: 3, subject: 7)
    },
    Case("one hold of more than it may", .limitPassed, (5, 3), (3, 0)) {
      $0.sale(3, at: 1, subject: 7)
    },
    Case("two holds of more than it may", .limitPassed, (5, 3), (3, 0)) {
      $0.sale(2, at: 1, subject: 7)
      $0.sale(1, at: 3, subject: 7)
    },
    Case("a sale does not give back", .limitPassed, (3, 1), (3, 0)) {
      $0.call($0.sale(2, at: 1, subject: 7), .confirm, sent: 3, at: 4)
      $0.sale(1, at: 5, subject: 7)
    },
    Case("a Replace adds more than it may", .limitPassed, (5, 3), (3, 0)) {
      let first = $0.sale(2, at: 1, subject: 7)
      $0.replace(first, [CartLine(sku: 0, quantity: 3)], sent: 3, at: 4)
    },
    Case("refused with room", .unjustifiedRefusal, (5, 1), (3, 0)) {
      $0.sale(1, at: 1, subject: 7)
      $0.overLimit(1, used: 2, at: 3, subject: 7)
    },
    Case("refused with room, and no number", .unjustifiedRefusal, (5, 1), (3, 0)) {
      $0.sale(1, at: 1, subject: 7)
      $0.overLimit(1, used: nil, at: 3, subject: 7)
    },
    Case("refused for what another has", .unjustifiedRefusal, (5, 2), (3, 0)) {
      $0.sale(2, at: 1, subject: 8)
      $0.overLimit(1, used: 2, at: 3, subject: 7)
    },
    Case("refused for what was given back", .unjustifiedRefusal, (5, 0), (3, 0)) {
      $0.call($0.sale(2, at: 1, subject: 7), .release, sent: 3, at: 4)
      $0.overLimit(1, used: 2, at: 5, subject: 7)
    },
    Case("another number than it has", .unjustifiedRefusal, (5, 2), (3, 0)) {
      $0.sale(2, at: 1, subject: 7)
      $0.overLimit(1, used: 3, at: 3, subject: 7)
    },
    Case("a number with room", .unjustifiedRefusal, (5, 1), (3, 0)) {
      $0.sale(1, at: 1, subject: 7)
      $0.overLimit(2, used: 0, at: 3, subject: 7)
    },
    Case("units are lacking, which comes first", .unjustifiedRefusal, (5, 5), (3, 0)) {
      $0.sale(2, at: 1, subject: 7)
      $0.sale(2, at: 3, subject: 8)
      $0.sale(1, at: 5, subject: 9)
      $0.overLimit(1, used: 2, at: 7, subject: 7)
    },
    Case("units of another line are lacking", .unjustifiedRefusal, (5, 2), (3, 3)) {
      $0.sale(2, at: 1, subject: 7)
      $0.sale(2, sku: 1, at: 3, subject: 8)
      $0.sale(1, sku: 1, at: 5, subject: 9)
      let cart = $0.open(
        [CartLine(sku: 0, quantity: 1), CartLine(sku: 1, quantity: 1)], subject: 7)
      $0.call(cart, .reserve, sent: 7, at: 8, Story.overLimit(used: 2))
    },
    Case("for one that has no limit", .unjustifiedRefusal, (5, 2), (3, 0)) {
      $0.sale(2, at: 1)
      $0.call(
        $0.open([CartLine(sku: 0, quantity: 1)]), .reserve, sent: 3, at: 4,
        Story.overLimit(used: 2))
    },
    Case("first one number, then another", .answeredDifferently, (5, 2), (3, 0)) {
      $0.sale(2, at: 1, subject: 7)
      let refused = $0.overLimit(1, used: 2, at: 3, subject: 7)
      $0.call(refused, .reserve, sent: 5, at: 6, Story.overLimit(used: 1, isReplayed: true))
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

  /// Each answer by itself can be right: the subject had none, then two. It never had one.
  @Test func whatNoBoundShowsIsFoundByLookingForAnOrder() {
    var story = Story(stock: 9)
    let (held, refused) = (
      story.reserve(2, at: 1, subject: 7), story.reserve(2, at: 1, subject: 7)
    )
    story.accepted(held, sent: 1, at: 20, decided: 2)
    story.answer(refused, .reserve, Story.overLimit(used: 1), sent: 1, at: 20)
    let findings = story.check((9, 2))
    #expect(findings.counts == [.notLinearizable: 1])
    #expect(findings.violations.first?.calls.map(\.call) == ["Reserve"])
  }
}
