import Testing

@testable import LoadHistory

/// Histories of stock as it is on the shelf: those that a correct server can have answered, and doctored ones.
@Suite struct ShelfTests {
  private struct Case: Sendable {
    let name: String
    let kind: Violation.Kind?
    let findings: @Sendable () -> Findings

    /// - Parameters:
    ///   - kind: nil: it holds.
    ///   - level: on hand, held and committed at the end, of 10 units in the beginning.
    init(
      _ name: String, _ kind: Violation.Kind? = nil, _ level: (Int64, Int64, Int64),
      overcommit: Int64 = 0, tell: @escaping @Sendable (inout Story) -> Void
    ) {
      self.name = name
      self.kind = kind
      findings = {
        var story = Story(stock: [10], keepsCommitted: true)
        tell(&story)
        var history = story.history([(level.0, level.1)])
        history.levels = history.levels?.map {
          ReadLevel(
            level: StockLevel(onHand: level.0, held: level.1, committed: level.2),
            sentNanoseconds: $0.sentNanoseconds, answeredNanoseconds: $0.answeredNanoseconds)
        }
        history.safetyStock = -overcommit
        return history.check()
      }
    }
  }

  private static let cases: [Case] = [
    Case("sold and kept", nil, (10, 0, 4)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
    },
    Case("and shipped", nil, (6, 0, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(4, sent: 5, at: 6)
    },
    Case("and unsold, and sold again", nil, (10, 10, 0)) {
      $0.call($0.sale(10, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(10, isUnsold: true, sent: 5, at: 6)
      $0.sale(10, at: 7)
    },
    Case("counted while holds come and go", nil, (9, 3, 0)) {
      $0.sale(3, at: 1)
      $0.count(read: 10, missing: 1, sent: 3, at: 4)
    },
    Case("a count that something shipped beside", nil, (7, 0, 0)) {
      $0.call($0.sale(3, at: 1), .confirm, sent: 3, at: 4)
      $0.count(read: 10, missing: 2, sent: 6, at: 9, Story.refusal(.onHandMismatch))
      $0.ship(3, sent: 7, at: 8)
    },
    Case("a count below what is promised", nil, (10, 9, 0)) {
      $0.sale(9, at: 1)
      $0.count(read: 10, missing: 2, sent: 3, at: 4, Story.refusal(.insufficientStock))
    },
    Case("a ship of unknown outcome", nil, (6, 0, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(4, sent: 5, at: 6, nil)
    },
    Case("a count of unknown outcome", nil, (8, 0, 0)) {
      $0.count(read: 10, missing: 2, sent: 5, at: 6, nil)
    },
    Case("sold before it is there", nil, (10, 0, 15), overcommit: 5) {
      $0.call($0.sale(15, at: 1), .confirm, sent: 3, at: 4)
    },
    Case("what is committed is sold again", .oversold, (10, 8, 4)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.sale(8, at: 5)
    },
    Case("what is shipped is offered", .oversold, (6, 7, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(4, sent: 5, at: 6)
      $0.sale(7, at: 7)
    },
    Case("more than the cap is held", .oversold, (10, 16, 0), overcommit: 5) {
      $0.sale(16, at: 1)
    },
    Case("sold, and gone at once", .onHandDiffers, (6, 0, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
    },
    Case("shipped, and still on hand", .onHandDiffers, (10, 0, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(4, sent: 5, at: 6)
    },
    Case("unsold, and still committed", .onHandDiffers, (10, 0, 4)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(4, isUnsold: true, sent: 5, at: 6)
    },
    Case("a count that changed nothing", .onHandDiffers, (10, 0, 0)) {
      $0.count(read: 10, missing: 2, sent: 5, at: 6)
    },
    Case("a count that on hand was not right for", .notLinearizable, (4, 0, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.count(read: 10, missing: 2, sent: 5, at: 12)
      $0.ship(4, sent: 6, at: 7)
      $0.read(6, 0, sent: 8, at: 9)
    },
    Case("a mismatch that there was not", .unjustifiedRefusal, (10, 0, 0)) {
      $0.count(read: 10, missing: 2, sent: 5, at: 6, Story.refusal(.onHandMismatch))
    },
    Case("a shortage that there was not", .unjustifiedRefusal, (10, 3, 0)) {
      $0.sale(3, at: 1)
      $0.count(read: 10, missing: 2, sent: 5, at: 6, Story.refusal(.insufficientStock))
    },
    Case("a wrong number of committed", .wrongRead, (10, 0, 4)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.read(10, 0, committed: 3, sent: 6, at: 7)
    },
    Case("nothing to ship", .unjustifiedRefusal, (10, 0, 4)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      $0.ship(4, sent: 5, at: 6, Story.refusal(.insufficientCommitted))
    },
    Case("shipped twice under one key", .decidedTwice, (6, 0, 0)) {
      $0.call($0.sale(4, at: 1), .confirm, sent: 3, at: 4)
      let shipped = $0.ship(4, sent: 5, at: 6)
      $0.call(shipped, .adjustStock, sent: 7, at: 8)
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
