import Testing

@testable import LoadHistory

/// Histories of reserves with alternatives, and of such that are content with less: those that a correct server can have
/// answered, and doctored ones.
@Suite struct ChoiceTests {
  private static func line(_ quantity: UInt32, sku: UInt32 = 0, least: UInt32 = 0) -> CartLine {
    CartLine(sku: sku, quantity: quantity, minimum: least)
  }
  /// Two of A, or else of B.
  private static let twoOfEither = [[line(2)], [line(2, sku: 1)]]
  /// One of A and one of B, or else of C and D.
  private static let pairs = [[line(1), line(1, sku: 1)], [line(1, sku: 2), line(1, sku: 3)]]

  private struct Case: Sendable {
    let name: String
    /// Of a server with 5, 3, 1 and 1 units of four SKUs.
    let findings: @Sendable () -> Findings
    /// nil: it holds.
    var kind: Violation.Kind?

    init(
      _ name: String, _ kind: Violation.Kind? = nil, held: [Int64] = [0, 0, 0, 0],
      tell: @escaping @Sendable (inout Story) -> Void
    ) {
      self.name = name
      self.kind = kind
      findings = {
        var story = Story(stock: 5, 3, 1, 1)
        tell(&story)
        let stock = story.stock
        return story.history(zip(stock, held).map { ($0, $1) }).check()
      }
    }
  }

  private static let cases: [Case] = [
    Case("the first that fits", held: [2, 0, 0, 0]) { $0.choice(twoOfEither, at: 1) },
    Case("the second, for the first is short", held: [4, 2, 0, 0]) {
      $0.sale(4, at: 1)
      $0.choice(twoOfEither, held: 1, at: 3)
    },
    Case("none fits", held: [4, 2, 0, 0]) {
      $0.sale(4, at: 1)
      $0.sale(2, sku: 1, at: 3)
      let refused = $0.choose(twoOfEither, at: 5)
      $0.refused(refused, sku: 0, available: 1, sent: 5, at: 6)
    },
    Case("the first was short for a moment of the call", held: [0, 2, 0, 0]) {
      let first = $0.sale(4, at: 1)
      $0.call(first, .release, sent: 6, at: 7)
      $0.choice(twoOfEither, held: 1, at: 5, until: 9)
    },
    Case("one that was cut off may have the first", held: [4, 2, 0, 0]) {
      _ = $0.reserve(4, at: 1)
      $0.choice(twoOfEither, held: 1, at: 3)
    },
    Case("one of unknown outcome has the second", held: [4, 2, 0, 0]) {
      $0.sale(4, at: 1)
      _ = $0.choose(twoOfEither, at: 3)
    },
    Case("what is held is sold", held: [4, 0, 0, 0]) {
      $0.sale(4, at: 1)
      $0.stock[1] = 3
      let second = $0.choice(twoOfEither, held: 1, at: 3)
      $0.call(second, .release, sent: 5, at: 6)
    },
    Case("one line of the first is short", held: [0, 3, 1, 1]) {
      $0.sale(3, sku: 1, at: 1)
      $0.choice(pairs, held: 1, at: 3)
    },
    Case("as much as there is", held: [5, 0, 0, 0]) {
      $0.sale(3, at: 1)
      $0.choice([[line(4, least: 2)]], granted: [line(2)], at: 3)
    },
    Case("all of it", held: [4, 0, 0, 0]) {
      $0.choice([[line(4, least: 2)]], granted: [line(4)], at: 3)
    },
    Case("less than will do is refused", held: [4, 0, 0, 0]) {
      $0.sale(4, at: 1)
      let refused = $0.choose([[line(4, least: 2)]], at: 3)
      $0.refused(refused, sku: 0, available: 1, sent: 3, at: 4)
    },
    Case("as much as there is of the second", held: [4, 3, 0, 0]) {
      $0.sale(4, at: 1)
      $0.sale(1, sku: 1, at: 3)
      $0.choice(
        [[line(3, least: 2)], [line(3, sku: 1, least: 2)]], held: 1, granted: [line(2, sku: 1)],
        at: 5)
    },
    Case("some of unknown outcome", held: [3, 0, 0, 0]) {
      _ = $0.choose([[line(4, least: 2)]], at: 3)
    },
    Case("two lines of one item add up", held: [5, 0, 0, 0]) {
      $0.choice([[line(4, least: 2), line(2, least: 1)]], granted: [line(5)], at: 3)
    },
    Case("the second, though the first had room", .passedOver, held: [3, 2, 0, 0]) {
      $0.sale(3, at: 1)
      $0.choice(twoOfEither, held: 1, at: 3)
    },
    Case("refused, though the second had room", .passedOver, held: [4, 1, 0, 0]) {
      $0.sale(4, at: 1)
      $0.sale(1, sku: 1, at: 3)
      let refused = $0.choose(twoOfEither, at: 5)
      $0.refused(refused, sku: 0, available: 1, sent: 5, at: 6)
    },
    Case("refused, though its lines had room", .unjustifiedRefusal, held: [3, 3, 0, 0]) {
      $0.sale(3, at: 1)
      $0.sale(3, sku: 1, at: 3)
      let refused = $0.choose(twoOfEither, at: 5)
      $0.refused(refused, sku: 0, sent: 5, at: 6)
    },
    Case("no line of the first was short", .passedOver, held: [4, 2, 1, 1]) {
      $0.sale(4, at: 1)
      $0.sale(2, sku: 1, at: 3)
      $0.choice(pairs, held: 1, at: 5)
    },
    Case("no line of the second was short", .passedOver, held: [0, 3, 0, 0]) {
      $0.sale(3, sku: 1, at: 1)
      let refused = $0.choose(pairs, at: 3)
      $0.refused(refused, sku: 1, available: 0, sent: 3, at: 4)
    },
    Case("the other is held than it says", .heldDiffers, held: [2, 0, 0, 0]) {
      $0.sale(4, at: 1)
      $0.choice(twoOfEither, held: 1, at: 3)
      $0.stock[0] = 9
    },
    Case("more of the second than there is", .oversold, held: [4, 4, 0, 0]) {
      $0.sale(4, at: 1)
      $0.sale(2, sku: 1, at: 3)
      $0.choice(twoOfEither, held: 1, at: 5)
    },
    Case("an alternative that it does not have", .wrongGrant, held: [2, 0, 0, 0]) {
      $0.choice(twoOfEither, held: 2, at: 1)
    },
    Case("less than there was", .wrongGrant, held: [5, 0, 0, 0]) {
      $0.sale(2, at: 1)
      $0.sale(1, at: 2)
      $0.choice([[line(4, least: 1)]], granted: [line(1)], at: 3)
    },
    Case("less than will do", .wrongGrant, held: [5, 0, 0, 0]) {
      $0.sale(4, at: 1)
      $0.choice([[line(4, least: 2)]], granted: [line(1)], at: 3)
    },
    Case("more than was asked for", .wrongGrant, held: [5, 0, 0, 0]) {
      $0.choice([[line(4, least: 2)]], granted: [line(5)], at: 3)
    },
    Case("more than there is", .oversold, held: [6, 0, 0, 0]) {
      $0.sale(3, at: 1)
      $0.choice([[line(4, least: 2)]], granted: [line(3)], at: 3)
    },
    Case("of an item that was not asked for", .wrongGrant, held: [0, 0, 1, 0]) {
      $0.choice([[line(4, least: 1)]], granted: [line(1, sku: 2)], at: 3)
    },
    Case("it does not say how much", .wrongGrant, held: [4, 0, 0, 0]) {
      $0.choice([[line(4, least: 1)]], at: 3)
    },
    Case("it says how much where all or nothing was asked for", .wrongGrant, held: [4, 0, 0, 0]) {
      $0.choice([[line(4)]], granted: [line(4)], at: 3)
    },
    Case("refused with as much as will do", .unjustifiedRefusal, held: [3, 0, 0, 0]) {
      $0.sale(3, at: 1)
      let refused = $0.choose([[line(4, least: 2)]], at: 3)
      $0.refused(refused, sku: 0, available: 2, sent: 3, at: 4)
    },
    Case("first one alternative, then the other", .answeredDifferently, held: [4, 2, 0, 0]) {
      $0.sale(4, at: 1)
      let second = $0.choice(twoOfEither, held: 1, at: 3)
      $0.send(second, .reserve, at: 5)
      $0.granted(second, 0, sent: 3, at: 6)
      $0.granted(second, 0, sent: 5, at: 6, id: 2, isReplayed: true)
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

  /// No bound shows it: five were there, or one, and never two.
  @Test func whatNoBoundShowsIsFoundByLookingForAnOrder() {
    var story = Story(stock: 5)
    let other = story.reserve(4, at: 1)
    let partial = story.choose([[Self.line(4, least: 1)]], at: 1)
    story.accepted(other, sent: 1, at: 20, decided: 2)
    story.call(other, .release, sent: 21, at: 22)
    story.granted(partial, 0, [Self.line(2)], sent: 1, at: 30)
    let findings = story.check((5, 2))
    #expect(findings.counts == [.notLinearizable: 1], "\(findings.violations)")
  }
}
