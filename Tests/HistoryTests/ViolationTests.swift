import Testing

@testable import LoadHistory

/// One doctored history for each kind of violation: the message has to name the SKU, the key and the
/// calls.
@Suite struct ViolationTests {
  private static let sku = "SKU load-0000000001-0000000"

  private static func key(_ operation: Int) -> String { Story.names.keyOfTests(operation) }

  /// Findings of a history with a violation of `kind`, and the lines of calls that it has to show.
  private func doctored(_ kind: Violation.Kind) -> (findings: Findings, lines: [String])? {
    switch kind {
    case .oversold: oversold()
    case .limitPassed: limitPassed()
    case .notLinearizable: notLinearizable()
    case .onHandDiffers: unitsLost()
    case .heldDiffers: heldDiffers()
    case .itemMissing: itemMissing()
    case .wrongRead: wrongRead()
    case .decidedTwice: decidedTwice()
    case .answeredDifferently: answeredDifferently()
    case .replayWithoutFirst: replayWithoutFirst()
    case .endedTwice: endedTwice()
    case .idUsedTwice: idUsedTwice()
    case .unjustifiedRefusal: unjustifiedRefusal()
    case .passedOver: passedOver()
    case .wrongGrant: wrongGrant()
    case .endedAfterExpiry: endedAfterExpiry()
    case .wrongExpiry: wrongExpiry()
    // Found by those who ask the server: the audit, and the samples of a run; and in the change feed.
    case .forgotten, .outOfBounds: nil
    case .feedMissing, .feedRepeated, .feedUnknown, .feedBalance, .feedGap, .feedOrder,
      .feedWrongEvent:
      nil
    }
  }

  @Test(arguments: Violation.Kind.allCases)
  func eachKindNamesWhatShowsIt(kind: Violation.Kind) throws {
    guard let (findings, lines) = doctored(kind) else { return }
    #expect(!findings.holds)
    let violation = try #require(
      findings.violations.first { $0.kind == kind }, "\(findings.violations)")
    #expect(violation.description.hasPrefix(kind.rawValue))
    #expect(violation.text.contains(Self.sku), "\(violation.text)")
    for line in lines {
      #expect(violation.calls.map(\.text).contains(line), "\(violation.description)")
    }
    #expect(findings.counts.keys.allSatisfy { $0 == kind }, "\(findings.counts)")
  }

  private func oversold() -> (Findings, [String]) {
    var story = Story(stock: 4)
    story.sale(1, at: 1)
    story.sale(3, at: 3)
    let last = story.sale(2, at: 5)
    story.call(last, .confirm, sent: 7, at: 9)
    return (
      story.check((2, 4)),
      [
        "\(Self.key(1)) Reserve of 3, 3.000–4.000 ms: OK \(id(2)) until 1060003.000 ms by its clock",
        "\(Self.key(2)) Reserve of 2, 5.000–6.000 ms: OK \(id(3)) until 1060005.000 ms by its clock",
        "\(Self.key(2)) Confirm of 2, 7.000–9.000 ms: OK",
      ]
    )
  }

  private func passedOver() -> (Findings, [String]) {
    var story = Story(stock: 3, 3)
    story.choice(
      [[CartLine(sku: 0, quantity: 2)], [CartLine(sku: 1, quantity: 2)]], held: 1, at: 1)
    return (
      story.check((3, 0), (3, 2)),
      [
        "\(Self.key(0)) Reserve of 2, 1.000–2.000 ms: OK \(id(1)) until 1060001.000 ms by its clock, alternative 1"
      ]
    )
  }

  private func wrongGrant() -> (Findings, [String]) {
    var story = Story(stock: 5)
    story.choice(
      [[CartLine(sku: 0, quantity: 6, minimum: 3)]], granted: [CartLine(sku: 0, quantity: 4)], at: 1
    )
    return (
      story.check((5, 4)),
      [
        "\(Self.key(0)) Reserve of 4, 1.000–2.000 ms: OK \(id(1)) until 1060001.000 ms by its clock, 4 granted"
      ]
    )
  }

  private func limitPassed() -> (Findings, [String]) {
    var story = Story(stock: 9)
    story.sale(2, at: 1, subject: 7)
    story.sale(1, at: 3, subject: 7)
    return (
      story.check((9, 3)),
      [
        "\(Self.key(0)) Reserve of 2, 1.000–2.000 ms: OK \(id(1)) until 1060001.000 ms by its clock",
        "\(Self.key(1)) Reserve of 1, 3.000–4.000 ms: OK \(id(2)) until 1060003.000 ms by its clock",
      ]
    )
  }

  /// Two refusals of two, with one available and with three; between them only two can have moved.
  private func notLinearizable() -> (Findings, [String]) {
    var story = Story(stock: 3)
    let slow = story.reserve(1, at: 1)
    let other = story.reserve(1, at: 1)
    let refused = story.reserve(9, at: 2)
    story.refused(refused, available: 1, sent: 2, at: 3)
    let again = story.reserve(9, at: 4)
    story.refused(again, available: 2, sent: 4, at: 5)
    story.accepted(slow, sent: 1, at: 6, decided: 2)
    story.accepted(other, sent: 1, at: 6, decided: 2)
    return (
      story.check((3, 2)),
      [
        "\(Self.key(2)) Reserve of 9, 2.000–3.000 ms: INSUFFICIENT_STOCK, 1 available",
        "\(Self.key(3)) Reserve of 9, 4.000–5.000 ms: INSUFFICIENT_STOCK, 2 available",
      ]
    )
  }

  private func unitsLost() -> (Findings, [String]) {
    var story = Story(stock: 10)
    let first = story.sale(2, at: 1)
    story.call(first, .confirm, sent: 3, at: 4)
    return (story.check((7, 0)), ["\(Self.key(0)) Confirm of 2, 3.000–4.000 ms: OK"])
  }

  private func heldDiffers() -> (Findings, [String]) {
    var story = Story(stock: 10)
    let released = story.sale(3, at: 1)
    story.call(released, .release, sent: 3, at: 4)
    story.sale(2, at: 5)
    return (
      story.check((10, 5)),
      ["\(Self.key(1)) Reserve of 2, 5.000–6.000 ms: OK \(id(2)) until 1060005.000 ms by its clock"]
    )
  }

  private func itemMissing() -> (Findings, [String]) {
    (Story(stock: 10).check(nil), [])
  }

  private func wrongRead() -> (Findings, [String]) {
    var story = Story(stock: 10)
    story.sale(2, at: 1)
    story.read(10, 3, sent: 3, at: 4)
    return (
      story.check((10, 2)),
      [
        "\(Self.key(1)) GetStock, 3.000–4.000 ms: 10 on hand, 3 held",
        "\(Self.key(0)) Reserve of 2, 1.000–2.000 ms: OK \(id(1)) until 1060001.000 ms by its clock",
      ]
    )
  }

  private func decidedTwice() -> (Findings, [String]) {
    var story = Story(stock: 10)
    let sale = story.sale(2, at: 1)
    story.call(sale, .confirm, sent: 3, at: 4)
    story.call(sale, .confirm, sent: 5, at: 6)
    return (
      story.check((8, 0)),
      [
        "\(Self.key(0)) Confirm of 2, 3.000–4.000 ms: OK",
        "\(Self.key(0)) Confirm of 2, 5.000–6.000 ms: OK",
      ]
    )
  }

  private func answeredDifferently() -> (Findings, [String]) {
    var story = Story(stock: 1)
    story.sale(at: 1)
    let refused = story.reserve(5, at: 3)
    story.send(refused, .reserve, at: 4)
    story.refused(refused, available: 0, fingerprint: 1, sent: 3, at: 5)
    story.refused(refused, available: 1, fingerprint: 2, replayed: true, sent: 4, at: 6)
    return (
      story.check((1, 1)),
      [
        "\(Self.key(1)) Reserve of 5, 3.000–5.000 ms: INSUFFICIENT_STOCK, 0 available",
        "\(Self.key(1)) Reserve of 5, 4.000–6.000 ms: INSUFFICIENT_STOCK, 1 available, replayed",
      ]
    )
  }

  private func replayWithoutFirst() -> (Findings, [String]) {
    var story = Story(stock: 10)
    story.restock(3, sent: 1, at: 2, Story.doneAgain)
    return (
      story.check((13, 0)), ["\(Self.key(0)) AdjustStock of 3, 1.000–2.000 ms: OK, replayed"]
    )
  }

  private func endedTwice() -> (Findings, [String]) {
    var story = Story(stock: 10)
    let sale = story.sale(2, at: 1)
    story.call(sale, .confirm, sent: 3, at: 4)
    story.call(sale, .release, sent: 5, at: 6)
    return (story.check((8, 0)), ["\(Self.key(0)) Release of 2, 5.000–6.000 ms: OK"])
  }

  private func idUsedTwice() -> (Findings, [String]) {
    var story = Story(stock: 9)
    for time in [1, 5] as [Int64] {
      let sale = story.reserve(1, at: time)
      story.accepted(sale, sent: time, at: time + 1, decided: time, id: 5)
    }
    return (
      story.check((9, 2)),
      ["\(Self.key(1)) Reserve of 1, 5.000–6.000 ms: OK \(id(5)) until 1060005.000 ms by its clock"]
    )
  }

  private func unjustifiedRefusal() -> (Findings, [String]) {
    var story = Story(stock: 3)
    story.sale(2, at: 1)
    let refused = story.reserve(1, at: 3)
    story.refused(refused, sent: 3, at: 4)
    return (
      story.check((3, 2)),
      [
        "\(Self.key(1)) Reserve of 1, 3.000–4.000 ms: INSUFFICIENT_STOCK",
        "\(Self.key(0)) Reserve of 2, 1.000–2.000 ms: OK \(id(1)) until 1060001.000 ms by its clock",
      ]
    )
  }

  private func endedAfterExpiry() -> (Findings, [String]) {
    var story = Story(stock: 3)
    let sale = story.sale(2, at: 1)
    story.call(sale, .extend, sent: 60_050, at: 60_060, story.acceptance(sale, 60_055, id: 0))
    return (
      story.check((3, 2), at: 60_100),
      ["\(Self.key(0)) Extend of 2, 60050.000–60060.000 ms: OK until 1120055.000 ms by its clock"]
    )
  }

  private func wrongExpiry() -> (Findings, [String]) {
    var story = Story(stock: 3)
    let sale = story.sale(2, at: 10)
    story.call(sale, .extend, sent: 13, at: 14, story.acceptance(sale, 0, id: 0))
    return (
      story.check((3, 2)),
      ["\(Self.key(0)) Extend of 2, 13.000–14.000 ms: OK until 1060000.000 ms by its clock"]
    )
  }

  private func id(_ number: UInt64) -> String { ReservationID(number: number).text }

  /// A hold that is long over holds nothing, though only a later call finds that out.
  @Test(arguments: [(5_000 as Int64, Violation.Kind.unjustifiedRefusal), (1_000, nil)])
  func aHoldIsOverWhenItFallsDue(refusedAt time: Int64, kind: Violation.Kind?) {
    var story = Story(stock: 1)
    let first = story.open([CartLine(sku: 0, quantity: 1)], timeToLive: 1_000)
    story.send(first, .reserve, at: 1)
    story.accepted(first, sent: 1, at: 2, decided: 1)
    let refused = story.reserve(1, at: time)
    story.refused(refused, available: 0, sent: time, at: time + 1)
    story.call(
      first, .confirm, sent: 10_000, at: 10_001, Story.refusal(.reservationExpired))
    let findings = story.check((1, 0), at: 11_000)
    #expect(Array(findings.counts.keys) == (kind.map { [$0] } ?? []), "\(findings.violations)")
    #expect(findings.linearizable == (kind == nil ? .yes : .no))
    for violation in findings.violations {
      #expect(violation.text.contains("\(Self.sku), key \(Self.key(1))"), "\(violation.text)")
    }
  }

  /// A refusal is a decision too: made once, and repeated as such.
  @Test(arguments: [
    ([false, false], Violation.Kind.decidedTwice), ([false, true, false], .decidedTwice),
    ([true], .replayWithoutFirst), ([false, true, true], nil),
  ])
  func refusalsAreDecidedOnce(replayed: [Bool], kind: Violation.Kind?) {
    var story = Story(stock: 1)
    story.sale(at: 1)
    let refused = story.reserve(5, at: 3)
    for _ in replayed.dropFirst() { story.send(refused, .reserve, at: 3) }
    for (index, isReplayed) in replayed.enumerated() {
      story.refused(refused, available: 0, replayed: isReplayed, sent: 3, at: 5 + Int64(index))
    }
    let findings = story.check((1, 1))
    #expect(Array(findings.counts.keys) == (kind.map { [$0] } ?? []), "\(findings.violations)")
    for violation in findings.violations {
      #expect(violation.text.contains("\(Self.sku), key \(Self.key(1))"), "\(violation.text)")
      #expect(violation.calls.count == replayed.count)
    }
  }

  @Test func longListsAreCut() {
    var story = Story(stock: 20)
    for time in 0..<25 as Range<Int64> { story.sale(at: time) }
    let findings = story.check((20, 25))
    let lines = findings.violations[0].description.split(separator: "\n")
    #expect(findings.violations[0].calls.count == 21)
    #expect(lines.count == 7 && lines[6] == "  and 16 more like these")
  }

  /// A server may let a hold live for less than was asked for, here for 2 s of 60: some of its holds,
  /// or all. What is given back then may be held by others.
  @Test(arguments: [true, false]) func holdsThatTheServerMadeShorter(isAnchorKnown: Bool) {
    var story = Story(stock: 1)
    for time in [1, 2_100] as [Int64] {
      let hold = story.reserve(1, at: time)
      story.accepted(hold, sent: time, at: time + 1, decided: time - 58_000)
    }
    let lost = story.reserve(1, at: 5_000)
    story.answer(lost, .reserve, .unknown, sent: 5_000, at: 5_001)
    story.sale(1, at: 7_200)
    let findings = story.check((1, 1), at: 8_000, isAnchorKnown: isAnchorKnown)
    #expect(findings.holds == isAnchorKnown, "\(findings.violations.map(\.description))")
    #expect(!isAnchorKnown || findings.linearizable == .yes)
  }

  /// Shorter is allowed; longer, and sold twice within what was stated, is not.
  @Test(arguments: [(2_000 as Int64, true), (1_900, false)])
  func aShortenedHoldHoldsUntilItFallsDue(secondAt time: Int64, isRight: Bool) {
    var story = Story(stock: 1)
    for (sent, decided) in [(1, 1 - 58_000), (time, time - 58_000)] as [(Int64, Int64)] {
      let hold = story.reserve(1, at: sent)
      story.accepted(hold, sent: sent, at: sent + 1, decided: decided)
    }
    let findings = story.check((1, 1), at: 3_000, isAnchorKnown: true)
    #expect(findings.counts[.oversold] == (isRight ? nil : 1))
  }

  @Test func aHoldThatWasMadeLonger() {
    var story = Story(stock: 2)
    story.sale(at: 1)
    let long = story.reserve(1, at: 2)
    story.accepted(long, sent: 2, at: 3, decided: 10_000)
    let findings = story.check((2, 2), isAnchorKnown: true)
    #expect(Array(findings.counts.keys) == [.wrongExpiry])
    #expect(findings.violations[0].text.contains("key \(Self.key(long))"))
  }

  /// A server may state anything.
  @Test(arguments: [Int64.max, .min]) func balancesThatNoSumHolds(held: Int64) {
    let findings = Story(stock: [1, 1]).history([(1, held), (1, held)]).check()
    #expect(findings.counts[.heldDiffers] == 2)
    #expect(findings.held == held)
  }

  @Test func aSampleIsToldWithTheCallsAroundIt() {
    var story = Story(stock: 5, 5)
    story.sale(2, at: 1)
    story.sale(1, at: 100)
    story.sale(1, sku: 1, at: 100)
    var history = story.history([(5, 3), (5, 1)])
    history.note(
      SampleFault(
        sku: 0, sentNanoseconds: 102_000_000, answeredNanoseconds: 103_000_000,
        text: "held 9, where only 3 to 3 can be"))
    let violation = history.check().violations[0]
    #expect(violation.kind == .outOfBounds)
    #expect(violation.text.hasPrefix("\(Self.sku), read at 102.000 ms: the server stated held 9"))
    #expect(violation.calls.map(\.key) == [Self.key(1)])
  }

  // MARK: What must not be accused

  @Test func extendsReadsAndRestocksOfACorrectServer() {
    var story = Story(stock: 2)
    let first = story.sale(2, at: 1)
    story.call(first, .extend, sent: 30_000, at: 30_001, story.acceptance(first, 30_000, id: 0))
    // Past the first expiry, before the second.
    let refused = story.reserve(1, at: 70_000)
    story.refused(refused, available: 0, sent: 70_000, at: 70_001)
    story.restock(3, sent: 70_002, at: 70_004)
    story.read(5, 2, sent: 70_003, at: 70_005)
    story.sale(3, at: 70_006)
    story.read(5, 5, sent: 70_008, at: 70_009)
    story.call(first, .confirm, sent: 80_000, at: 80_001)
    let findings = story.check((3, 3), at: 90_000)
    #expect(findings.holds, "\(findings.violations.map(\.description))")
    #expect(findings.linearizable == .yes)
    #expect(findings.restocked == 3)
    #expect(findings.readsJustified == 2)
  }

  /// A reserve that was under way when a hold fell due was decided by a clock read before.
  @Test func aCallThatBeganBeforeAnExpiryMayHaveSeenTheHold() {
    var story = Story(stock: 1)
    story.sale(at: 1)
    let refused = story.reserve(1, at: 60_000)
    story.refused(refused, available: 0, sent: 60_000, at: 60_900)
    let findings = story.check((1, 0), at: 61_000)
    #expect(findings.holds, "\(findings.violations.map(\.description))")
    #expect(findings.linearizable == .yes)
  }

  @Test func aServerThatIsGoneLeavesTheRest() {
    var story = Story(stock: 1)
    story.sale(at: 1)
    let findings = story.history([]).check()
    #expect(findings.holds && findings.linearizable == .yes)
    #expect(findings.held == 0)
  }
}

extension SKUNames {
  /// The key of an operation of a Story.
  fileprivate func keyOfTests(_ operation: Int) -> String {
    KeyNames(run: RunID(1)).name(worker: 0, operation: operation)
  }
}
