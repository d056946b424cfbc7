import Testing

@testable import LoadHistory

/// Histories that a correct server can have made.
@Suite struct JustHistories {
  @Test func sellingOut() {
    var story = Story(stock: 3)
    let first = story.sale(at: 1)
    let second = story.sale(at: 2)
    story.sale(at: 3)
    let late = story.reserve(1, at: 5)
    story.refused(late, sent: 5, at: 6)
    story.call(first, .confirm, sent: 7, at: 8)
    story.call(second, .release, sent: 7, at: 8)
    let findings = story.check((2, 1))
    #expect(findings.holds, "\(findings.violations)")
    #expect(findings.accepted == 3)
    #expect(findings.confirmed == 1)
    #expect(findings.released == 1)
    #expect(findings.held == 1)
    #expect(findings.refusalsJustified == 1)
  }

  @Test func unitsThatWereReleasedAreSoldAgain() {
    var story = Story(stock: 1)
    let first = story.sale(at: 1)
    story.call(first, .release, sent: 3, at: 6)
    story.sale(at: 4)  // while the release was under way
    #expect(story.check((1, 1)).holds)
  }

  @Test func aRefusalWhileSomethingMayHaveBeenHeld() {
    var story = Story(stock: 2)
    let slow = story.reserve(2, at: 1)
    let refused = story.reserve(1, at: 2)
    story.refused(refused, sent: 2, at: 3)
    story.accepted(slow, sent: 1, at: 9, decided: 4)
    #expect(story.check((2, 2)).holds)
  }

  @Test func lostCallsWidenTheBounds() {
    for (levels, sold) in [((5, 0), 0), ((5, 2), 0), ((3, 0), 2)] as [((Int64, Int64), Int)] {
      var story = Story(stock: 5)
      // An accepted reserve whose confirm was cut off: held, or sold; a reserve that was cut off.
      if sold > 0 || levels.1 > 0 {
        let first = story.sale(2, at: 1)
        story.call(first, .confirm, sent: 3, at: 0, nil)
      } else {
        _ = story.reserve(2, at: 1)
      }
      let findings = story.check(levels)
      #expect(findings.holds, "\(levels): \(findings.violations)")
      #expect(findings.unknownOutcomes == 1)
    }
  }

  @Test func expiryFreesTheUnits() {
    var story = Story(stock: 1)
    story.sale(at: 1)
    story.sale(at: 60_100)
    let findings = story.check((1, 1), at: 60_200)
    #expect(findings.holds, "\(findings.violations)")
    #expect(findings.expired == 1)
  }

  @Test func confirmRefusedAfterExpiry() {
    var story = Story(stock: 1)
    let sale = story.sale(at: 1)
    story.call(sale, .confirm, sent: 60_050, at: 60_060, Story.refusal(.reservationExpired))
    let findings = story.check((1, 0), at: 60_100)
    #expect(findings.holds, "\(findings.violations)")
    #expect(findings.refusalsJustified == 1)
  }

  @Test func duplicatesThatAgree() {
    var story = Story(stock: 2)
    let sale = story.reserve(1, at: 1)
    story.send(sale, .reserve, at: 2)
    // the later send came first
    story.accepted(sale, sent: 2, at: 3, decided: 1, id: 7, replayed: true)
    story.accepted(sale, sent: 1, at: 4, decided: 1, id: 7)
    story.call(sale, .confirm, sent: 5, at: 6)
    story.call(sale, .confirm, sent: 7, at: 8, Story.doneAgain)
    let short = story.reserve(2, at: 9)
    story.send(short, .reserve, at: 10)
    story.refused(short, sent: 9, at: 11)
    story.refused(short, replayed: true, sent: 10, at: 12)
    let findings = story.check((1, 0))
    #expect(findings.holds, "\(findings.violations)")
    #expect(findings.duplicatesCompared == 3)
  }

  @Test func noEffectThenAccepted() {
    var story = Story(stock: 1)
    let sale = story.reserve(1, at: 1)
    story.answer(sale, .reserve, .noEffect, sent: 1, at: 2)
    story.send(sale, .reserve, at: 3)
    story.accepted(sale, sent: 3, at: 4, decided: 3)
    #expect(story.check((1, 1)).holds)
  }

  @Test func cartsAreAllOrNothing() {
    var story = Story(stock: 5, 1)
    let cart = [CartLine(sku: 0, quantity: 2), CartLine(sku: 1, quantity: 1)]
    let first = story.reserve(cart, at: 1)
    story.accepted(first, sent: 1, at: 2, decided: 1)
    let second = story.reserve(cart, at: 3)
    story.refused(second, sku: 1, sent: 3, at: 4)
    // Lines of one item count together.
    let third = story.reserve(
      [CartLine(sku: 0, quantity: 2), CartLine(sku: 0, quantity: 2)], at: 5)
    story.refused(third, sku: 0, sent: 5, at: 6)
    let findings = story.check((5, 2), (1, 1))
    #expect(findings.holds, "\(findings.violations)")
    #expect(findings.refusalsJustified == 2)
  }
}

/// Histories that no correct server can have made: each must be found, and named.
@Suite struct DoctoredHistories {
  private func expect(
    _ findings: Findings, _ kinds: Violation.Kind..., naming text: String,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(Set(findings.counts.keys) == Set(kinds), sourceLocation: sourceLocation)
    #expect(
      findings.violations.contains { $0.text.contains(text) },
      "\(findings.violations)", sourceLocation: sourceLocation)
    #expect(!findings.holds, sourceLocation: sourceLocation)
  }

  @Test func oversold() {
    var story = Story(stock: 1_000)
    for number in 0..<1_003 { story.sale(at: Int64(number)) }
    let findings = story.check((1_000, 1_003), at: 2_000)
    expect(findings, .oversold, naming: "SKU load-0000000001-0000000: 1003 units")
    #expect(findings.violations.map(\.count) == [3])
  }

  @Test func oversoldForAMoment() {
    var story = Story(stock: 1)
    let first = story.sale(at: 1)
    story.sale(at: 3)
    story.call(first, .release, sent: 5, at: 6)  // too late to have made room
    expect(story.check((1, 1)), .oversold, naming: "2 units surely held or sold at once, of 1")
  }

  @Test func oversoldAfterConfirm() {
    var story = Story(stock: 1)
    let first = story.sale(at: 1)
    story.call(first, .confirm, sent: 3, at: 4)
    story.sale(at: 70_000)  // long after the first would have expired
    expect(story.check((0, 1), at: 70_010), .oversold, naming: "load-0000000001-0000000")
  }

  @Test func unitsLost() {
    var story = Story(stock: 10)
    let first = story.sale(2, at: 1)
    story.call(first, .confirm, sent: 3, at: 4)
    expect(story.check((7, 0)), .onHandDiffers, naming: "7 on hand, but 10 − 2 confirmed is 8")
  }

  @Test func unitsInvented() {
    var story = Story(stock: 10)
    let first = story.sale(2, at: 1)
    story.call(first, .confirm, sent: 3, at: 4)
    expect(story.check((10, 0)), .onHandDiffers, naming: "10 on hand")
  }

  @Test(arguments: [0, 1, 3, -2] as [Int64])
  func heldDiffers(held: Int64) {
    var story = Story(stock: 10)
    story.sale(2, at: 1)
    let released = story.sale(3, at: 2)
    story.call(released, .release, sent: 3, at: 4)
    expect(
      story.check((10, held)), .heldDiffers, naming: "\(held) held, but by the answers it is 2")
  }

  @Test func heldPastExpiry() {
    var story = Story(stock: 10)
    story.sale(2, at: 1)
    expect(story.check((10, 2), at: 60_100), .heldDiffers, naming: "2 held")
  }

  @Test func itemMissing() {
    let story = Story(stock: 10)
    expect(story.check(nil), .itemMissing, naming: "load-0000000001-0000000")
  }

  @Test func decidedTwice() {
    var story = Story(stock: 10)
    let sale = story.reserve(1, at: 1)
    story.send(sale, .reserve, at: 1)
    story.accepted(sale, sent: 1, at: 2, decided: 1, id: 5)
    story.accepted(sale, sent: 1, at: 3, decided: 1, id: 5)
    expect(story.check((10, 1)), .decidedTwice, naming: "key 0000000001000000000000")
  }

  @Test func anotherReservationForTheSameKey() {
    var story = Story(stock: 10)
    let sale = story.reserve(1, at: 1)
    story.send(sale, .reserve, at: 1)
    story.accepted(sale, sent: 1, at: 2, decided: 1, id: 5)
    story.accepted(sale, sent: 1, at: 3, decided: 1, id: 6, replayed: true)
    expect(story.check((10, 1)), .answeredDifferently, naming: "key 0000000001000000000000")
  }

  @Test func anotherExpiryForTheSameKey() {
    var story = Story(stock: 10)
    let sale = story.reserve(1, at: 1)
    story.send(sale, .reserve, at: 1)
    story.accepted(sale, sent: 1, at: 2, decided: 1, id: 5)
    story.accepted(sale, sent: 1, at: 3, decided: 2, id: 5, replayed: true)
    expect(story.check((10, 1)), .answeredDifferently, naming: "until")
  }

  @Test func acceptedAndRefused() {
    var story = Story(stock: 1)
    let sale = story.reserve(1, at: 1)
    story.send(sale, .reserve, at: 1)
    story.accepted(sale, sent: 1, at: 2, decided: 1)
    story.refused(sale, replayed: true, sent: 1, at: 3)
    expect(story.check((1, 1)), .answeredDifferently, naming: "both accepted and refused")
  }

  @Test func refusedWithOtherValues() {
    var story = Story(stock: 1)
    story.sale(at: 1)
    let short = story.reserve(1, at: 3)
    story.send(short, .reserve, at: 3)
    story.refused(short, fingerprint: 1, sent: 3, at: 4)
    story.refused(short, fingerprint: 2, replayed: true, sent: 3, at: 5)
    expect(story.check((1, 1)), .answeredDifferently, naming: "INSUFFICIENT_STOCK")
  }

  @Test func replayOfNothing() {
    var story = Story(stock: 1)
    let sale = story.reserve(1, at: 1)
    story.accepted(sale, sent: 1, at: 2, decided: 1, replayed: true)
    expect(story.check((1, 1)), .replayWithoutFirst, naming: "key 0000000001000000000000")
  }

  @Test func oneIDForTwo() {
    var story = Story(stock: 9)
    for time in [1, 5] as [Int64] {
      let sale = story.reserve(1, at: time)
      story.accepted(sale, sent: time, at: time + 1, decided: time, id: 5)
    }
    expect(story.check((9, 2)), .idUsedTwice, naming: "key 0000000001000000000001")
  }

  @Test func refusedWithStockLeft() {
    var story = Story(stock: 2)
    story.sale(at: 1)
    let refused = story.reserve(1, at: 3)
    story.refused(refused, sent: 3, at: 4)
    expect(
      story.check((2, 1)), .unjustifiedRefusal,
      naming: "INSUFFICIENT_STOCK for 1, when at most 1 of 2")
  }

  @Test func refusedAfterTheRelease() {
    var story = Story(stock: 1)
    let first = story.sale(at: 1)
    story.call(first, .release, sent: 3, at: 4)
    let refused = story.reserve(1, at: 5)
    story.refused(refused, sent: 5, at: 6)
    expect(story.check((1, 0)), .unjustifiedRefusal, naming: "at most 0 of 1")
  }

  @Test func refusedBeforeAnythingWasSold() {
    var story = Story(stock: 1)
    let refused = story.reserve(1, at: 1)
    story.refused(refused, sent: 1, at: 2)
    story.sale(at: 3)
    expect(story.check((1, 1)), .unjustifiedRefusal, naming: "at most 0 of 1")
  }

  @Test(arguments: [RefusalReason.itemNotFound, .idempotencyKeyReused, .other, .unnamed])
  func refusedForAReasonThatCannotBe(reason: RefusalReason) {
    var story = Story(stock: 1)
    let refused = story.reserve(1, at: 1)
    story.refused(refused, reason, sent: 1, at: 2)
    expect(story.check((1, 0)), .unjustifiedRefusal, naming: "Reserve answered \(reason.name)")
  }

  @Test func refusalThatNamesAnotherSKU() {
    var story = Story(stock: 1, 1)
    let refused = story.reserve(2, sku: 0, at: 1)
    story.refused(refused, sku: 1, sent: 1, at: 2)
    expect(story.check((1, 0), (1, 0)), .unjustifiedRefusal, naming: "named no SKU of its cart")
  }

  @Test(arguments: [RefusalReason.reservationNotFound, .reservationReleased, .reservationExpired])
  func confirmRefusedForNothing(reason: RefusalReason) {
    var story = Story(stock: 1)
    let sale = story.sale(at: 1)
    story.call(sale, .confirm, sent: 3, at: 4, Story.refusal(reason))
    let findings = story.check((1, 1))
    #expect(findings.counts[.unjustifiedRefusal] == 1)
    #expect(findings.violations.contains { $0.text.contains("Confirm answered \(reason.name)") })
  }

  @Test func confirmedAfterExpiry() {
    var story = Story(stock: 1)
    let sale = story.sale(at: 1)
    story.call(sale, .confirm, sent: 60_050, at: 60_060)
    expect(story.check((0, 0), at: 60_100), .endedAfterExpiry, naming: "Confirm was OK")
  }

  @Test func confirmDecidedTwice() {
    var story = Story(stock: 1)
    let sale = story.sale(at: 1)
    story.call(sale, .confirm, sent: 3, at: 4)
    story.call(sale, .confirm, sent: 5, at: 6)
    expect(story.check((0, 0)), .decidedTwice, naming: "key 0000000001000000000000")
  }

  @Test func expiresAtIsNotWhatWasAsked() {
    var story = Story(stock: 9)
    let first = story.reserve(1, at: 1)
    story.accepted(first, sent: 1, at: 2, decided: 1)
    let second = story.reserve(1, at: 3)
    story.accepted(second, sent: 3, at: 4, decided: 30_000)
    let findings = story.check((9, 2))
    #expect(findings.counts[.wrongExpiry] == 1)
    let violation = findings.violations[0]
    for operation in [first, second] {
      let key = KeyNames(run: RunID(1)).name(worker: 0, operation: operation)
      #expect(violation.text.contains("SKU load-0000000001-0000000, key \(key)"))
      #expect(violation.calls.contains { $0.key == key && $0.call == "Reserve" })
    }
  }

  @Test func worstComeFirst() {
    var story = Story(stock: 1, 1, 1, 1, 1)
    for sku in 0..<5 as Range<UInt32> { for _ in 0...sku + 1 { story.sale(sku: sku, at: 1) } }
    let findings = story.check((1, 2), (1, 3), (1, 4), (1, 5), (1, 6))
    #expect(findings.counts == [.oversold: 5])
    #expect(findings.violations.count == 3)
    #expect(
      findings.violations.contains { $0.count == 5 && $0.text.contains("load-0000000001-0000004") })
  }
}

@Suite struct BoundsTests {
  /// RangePeaks against a plain walk over all instants.
  @Test func rangePeaksAgreeWithTheWalk() {
    var generator = Lehmer(state: 11)
    for _ in 0..<200 {
      var steps = Steps()
      for _ in 0..<generator.below(20) {
        let start = Int64(generator.below(30))
        steps.add(
          Int64(1 + generator.below(5)), from: start, until: start + Int64(generator.below(10)))
      }
      let peaks = RangePeaks(steps)
      for start in 0..<35 as Range<Int64> {
        let end = start + Int64(generator.below(6))
        // At an instant everything holds that begins at or before it and ends at or after it.
        let walk =
          (start...end).map { (instant: Int64) -> Int64 in
            steps.changes.reduce(Int64(0)) { sum, change in
              let counts = change.units > 0 ? change.time <= instant : change.time < instant
              return sum + (counts ? change.units : 0)
            }
          }.max() ?? 0
        #expect(peaks.peak(from: start, through: end) == walk)
      }
    }
  }

  @Test func attemptsCountWhatIsUnknown() {
    var story = Story(stock: 1)
    let sale = story.reserve(at: 5)
    story.send(sale, .reserve, at: 6)
    let isOpen = story.ledger.needsAnswer(sale, .reserve)
    #expect(isOpen)
    story.answer(sale, .reserve, .noEffect, sent: 5, at: 7)
    story.answer(sale, .reserve, .unknown, sent: 6, at: 8)
    let isStillOpen = story.ledger.needsAnswer(sale, .reserve)
    let awaitsConfirm = story.ledger.needsAnswer(sale, .confirm)
    #expect(isStillOpen && !awaitsConfirm)
    let call = CallSummary(story.ledger, sale, .reserve)
    #expect(call.mayHaveActed && call.unknown == 1 && call.sent == 2)
    #expect(call.sentNanoseconds == 5_000_000)
  }
}
