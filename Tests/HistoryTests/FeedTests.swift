import Testing

@testable import LoadHistory

/// Tells the feed of a story, as a server would that has decided it.
struct Teller {
  private(set) var events: [FeedEvent] = []
  private var levels: [FeedLevel] = []
  private var lsn: UInt64 = 100

  /// Puts `stock` behind the SKUs.
  init(stock: [Int64], safetyStock: Int64 = 0) {
    for (sku, units) in stock.enumerated() {
      levels.append(FeedLevel(sku: UInt32(sku)))
      tell(.adjusted, key: .stock(sku: sku)) {
        $0[sku].onHand = units
        $0[sku].safetyStock = safetyStock
      }
    }
  }

  /// - Parameter change: of the levels; those that differ then are in the event.
  mutating func tell(
    _ kind: FeedKind, key: FeedKey = .none, id: UInt64? = nil, _ lines: [FeedLine] = [],
    expires: Int64 = 0, at time: Int64 = 0, reason: RefusalReason = .unnamed,
    _ change: (inout [FeedLevel]) -> Void = { _ in }
  ) {
    lsn += 48
    var event = FeedEvent()
    event.lsn = lsn
    event.kind = kind
    event.key = key
    event.id = id.map { ReservationID(number: $0) }
    event.lines = lines
    event.expiresNanoseconds = expires * 1_000_000
    event.decidedNanoseconds = time * 1_000_000
    event.reason = reason
    let before = levels
    change(&levels)
    for sku in levels.indices where levels[sku] != before[sku] {
      levels[sku].version += 1
      levels[sku].available =
        levels[sku].onHand - levels[sku].held - levels[sku].committed - levels[sku].safetyStock
      event.stock.append(levels[sku])
    }
    events.append(event)
  }

  mutating func held(_ operation: Int, id: UInt64, _ lines: [FeedLine], expires: Int64) {
    tell(
      .held, key: .operation(worker: 0, operation: operation), id: id, lines, expires: expires
    ) { levels in
      for line in lines { levels[Int(line.sku)].held += line.units }
    }
  }

  mutating func ended(
    _ kind: FeedKind, id: UInt64, _ lines: [FeedLine], keeps: Bool = false, expires: Int64 = 0,
    at time: Int64 = 0
  ) {
    tell(kind, id: id, lines, expires: expires, at: time) { levels in
      for line in lines {
        levels[Int(line.sku)].held -= line.units
        if kind == .confirmed, keeps { levels[Int(line.sku)].committed += line.units }
        if kind == .confirmed, !keeps { levels[Int(line.sku)].onHand -= line.units }
      }
    }
  }

  /// - Parameter changes: units that are held more, by SKU.
  mutating func replaced(
    _ operation: Int, id: UInt64, _ lines: [FeedLine], _ changes: [FeedLine], expires: Int64
  ) {
    tell(
      .replaced, key: .operation(worker: 0, operation: operation), id: id, lines, expires: expires
    ) { levels in
      for change in changes { levels[Int(change.sku)].held += change.units }
    }
  }

  mutating func adjusted(_ operation: Int, _ change: (inout FeedLevel) -> Void) {
    tell(.adjusted, key: .operation(worker: 0, operation: operation)) { change(&$0[0]) }
  }

  mutating func refused(_ operation: Int, _ lines: [FeedLine], _ reason: RefusalReason) {
    tell(.refused, key: .operation(worker: 0, operation: operation), lines, reason: reason)
  }

  /// The decision that ends a watch.
  mutating func mark() {
    tell(.adjusted, key: .mark(number: 0)) { $0[0].version += 0 }
    var level = levels[0]
    level.version += 1
    levels[0] = level
    events[events.count - 1].stock = [level]
  }
}

@Suite struct FeedTests {
  private static let stock: [Int64] = [20, 10]
  private static let cart = [FeedLine(sku: 0, units: 2), FeedLine(sku: 1, units: 1)]
  private static let one = [FeedLine(sku: 0, units: 1)]
  private static let two = [FeedLine(sku: 1, units: 2)]

  /// One of everything that a run does: 0 is confirmed, 1 extended and released, 2 falls due, 3 is a restock,
  /// 4 is refused, 5 was cut off and happened, 6 was cut off and did not, 7 is a read, 8 stays held.
  private func story() -> Story {
    var story = Story(stock: Self.stock)
    let cart = story.reserve(
      [
        CartLine(sku: 1, quantity: 1), CartLine(sku: 0, quantity: 1), CartLine(sku: 0, quantity: 1),
      ],
      at: 10)
    story.accepted(cart, sent: 10, at: 12, decided: 11)
    story.call(cart, .confirm, sent: 20, at: 21)
    let extended = story.sale(1, at: 30)
    story.call(
      extended, .extend, sent: 40, at: 41,
      .accepted(
        id: ReservationID(number: 0), expiresNanoseconds: (Story.offset + 60_040) * 1_000_000,
        isReplayed: false))
    story.call(extended, .release, sent: 50, at: 51)
    let due = story.open([CartLine(sku: 1, quantity: 2)], timeToLive: 1_000)
    story.send(due, .reserve, at: 60)
    story.accepted(due, sent: 60, at: 61, decided: 60)
    story.restock(5, sent: 70, at: 71)
    let refused = story.reserve(50, sku: 1, at: 80)
    story.refused(refused, sku: 1, sent: 80, at: 81)
    for time in [90, 95] as [Int64] {
      _ = story.reserve(1, at: time)
    }
    story.read(23, 1, sent: 100, at: 101)
    story.sale(2, sku: 1, at: 110)
    return story
  }

  private func teller() -> Teller {
    var teller = Teller(stock: Self.stock)
    let offset = Story.offset
    teller.held(0, id: 1, Self.cart, expires: offset + 60_011)
    teller.ended(.confirmed, id: 1, Self.cart)
    teller.held(1, id: 2, Self.one, expires: offset + 60_030)
    teller.tell(.extended, id: 2, expires: offset + 60_040)
    teller.ended(.released, id: 2, Self.one)
    teller.held(2, id: 3, Self.two, expires: offset + 1_060)
    teller.tell(.adjusted, key: .operation(worker: 0, operation: 3)) { $0[0].onHand += 5 }
    teller.tell(
      .refused, key: .operation(worker: 0, operation: 4), [FeedLine(sku: 1, units: 50)],
      reason: .insufficientStock)
    teller.held(5, id: 9, Self.one, expires: offset + 60_090)
    teller.held(8, id: 4, Self.two, expires: offset + 60_110)
    teller.ended(
      .expired, id: 3, Self.two, expires: offset + 1_060, at: offset + 1_061)
    teller.mark()
    return teller
  }

  /// What is found where the feed of the story is told so; the events come at `came` ms.
  private func violations(_ events: [FeedEvent], came: Int64 = 1_100, ends: Int64 = 10_000)
    -> [Violation]
  {
    let check = FeedCheck(run: RunID(1), stock: Self.stock, workers: 1, beganNanoseconds: 0)
    for event in events { check.take(event, at: came * 1_000_000) }
    let history = story().history([])
    check.compare(history, endNanoseconds: ends * 1_000_000)
    return check.violations
  }

  @Test func aRightFeedIsFoundRight() {
    let events = teller().events
    #expect(violations(events).map(\.description) == [])
    let check = FeedCheck(run: RunID(1), stock: Self.stock, workers: 1, beganNanoseconds: 0)
    for event in events {
      #expect(!check.hasSeen(mark: 0))
      check.take(event, at: 1_100_000_000)
    }
    #expect(check.hasSeen(mark: 0) && !check.hasSeen(mark: 1))
    #expect(check.counts.events == events.count && check.counts.others == 0)
    #expect(
      check.counts.byKind == [
        .held: 5, .extended: 1, .confirmed: 1, .released: 1, .expired: 1, .adjusted: 4, .refused: 1,
      ])
  }

  /// Index of the first event of a kind.
  private static func index(_ kind: FeedKind, _ events: [FeedEvent], key: Int? = nil) -> Int {
    events.firstIndex {
      $0.kind == kind
        && (key == nil || $0.key == .operation(worker: 0, operation: key ?? 0))
    } ?? 0
  }

  enum Fault: String, CaseIterable {
    case missingHold, missingConfirm, missingRelease, missingExpiry, missingExtension
    case missingRestock, missingRefusal, missingStock, twiceAtOnce, twiceLater
    case twiceUnderAnotherNumber, refusedTwice, swapped, swappedUnderRightNumbers, versionSkipped
    case versionRepeated, wrongOnHand, wrongHeld, wrongAvailable, wrongSafetyStock, onHandBelowHeld
    case wrongCommitted, committedOnOffer
    case releasedForConfirmed, confirmedForReleased, expiredForReleased, refusedForHeld
    case heldForRefused, unknownKey, unknownOperation, noKey, unknownReservation, endOfNoHold
    case ofARead, ofWhatWasNotSent, otherLines, otherLinesOfEnd, linesWithoutStock, otherID
    case otherExpiry, otherExtension, extendedTwice, expiryOfEarlierEnd, expiredBeforeItIsDue
    case restockOfOtherUnits, stockOfOtherUnits, noKind, endsTwice, reservationTwice,
      refusalTakesStock
  }

  private static func doctored(_ fault: Fault, _ events: [FeedEvent]) -> [FeedEvent] {
    var events = events
    func at(_ kind: FeedKind, _ key: Int? = nil) -> Int { index(kind, events, key: key) }
    func again(_ event: FeedEvent) -> FeedEvent {
      var event = event
      event.lsn = (events.last?.lsn ?? 0) + 8
      return event
    }
    switch fault {
    case .missingHold: events.remove(at: at(.held, 8))
    case .missingConfirm: events.remove(at: at(.confirmed))
    case .missingRelease: events.remove(at: at(.released))
    case .missingExpiry: events.remove(at: at(.expired))
    case .missingExtension: events.remove(at: at(.extended))
    case .missingRestock: events.remove(at: at(.adjusted, 3))
    case .missingRefusal: events.remove(at: at(.refused))
    case .missingStock: events.removeFirst()
    case .twiceAtOnce: events.insert(events[at(.held)], at: at(.held))
    case .twiceLater: events.append(events[at(.held, 1)])
    case .twiceUnderAnotherNumber: events.append(again(events[at(.held, 1)]))
    case .refusedTwice: events.append(again(events[at(.refused)]))
    case .swapped: events.swapAt(at(.extended), at(.released))
    case .swappedUnderRightNumbers:
      // Other items, so that no balance shows it.
      let (first, second) = (at(.refused), at(.held, 8))
      (events[first].lsn, events[second].lsn) = (events[second].lsn, events[first].lsn)
      events.swapAt(first, second)
      // Between the two is a call of unknown outcome.
      events.remove(at: at(.held, 5))
    case .versionSkipped: events[at(.held, 8)].stock[0].version += 1
    case .versionRepeated: events[at(.held, 8)].stock[0].version -= 1
    case .wrongOnHand:
      events[at(.held, 8)].stock[0].onHand += 1
      events[at(.held, 8)].stock[0].available += 1
    case .wrongHeld:
      events[at(.held, 8)].stock[0].held -= 1
      events[at(.held, 8)].stock[0].available += 1
    case .wrongAvailable: events[at(.held, 8)].stock[0].available -= 1
    case .wrongSafetyStock:
      events[at(.held, 8)].stock[0].safetyStock += 1
      events[at(.held, 8)].stock[0].available -= 1
    case .wrongCommitted:
      events[at(.held, 8)].stock[0].committed += 1
      events[at(.held, 8)].stock[0].available -= 1
    case .committedOnOffer: events[at(.held, 8)].stock[0].committed += 1
    case .onHandBelowHeld:
      events[at(.held, 8)].stock[0].onHand = 3
      events[at(.held, 8)].stock[0].available = -1
    case .releasedForConfirmed: events[at(.confirmed)].kind = .released
    case .confirmedForReleased: events[at(.released)].kind = .confirmed
    case .expiredForReleased:
      let index = at(.released)
      events[index].kind = .expired
      events[index].expiresNanoseconds = events[at(.extended)].expiresNanoseconds
      events[index].decidedNanoseconds = events[index].expiresNanoseconds
    case .refusedForHeld:
      events[at(.held, 8)].kind = .refused
    case .heldForRefused: events[at(.refused)].kind = .held
    case .unknownKey: events[at(.held, 8)].key = .other
    case .unknownOperation: events[at(.held, 5)].key = .operation(worker: 0, operation: 99)
    case .noKey: events[at(.held, 8)].key = .none
    case .unknownReservation: events[at(.released)].id = ReservationID(number: 77)
    case .endOfNoHold: events.append(again(events[at(.confirmed)]))
    case .ofARead: events[at(.held, 5)].key = .operation(worker: 0, operation: 7)
    case .ofWhatWasNotSent: events[at(.released)].id = ReservationID(number: 4)
    case .otherLines:
      let index = at(.held, 8)
      events[index].lines[0].units -= 1
      events[index].stock[0].held -= 1
      events[index].stock[0].available += 1
    case .otherLinesOfEnd: events[at(.confirmed)].lines.removeLast()
    case .linesWithoutStock: events[at(.held, 0)].stock.removeLast()
    case .otherID: events[at(.held, 8)].id = ReservationID(number: 88)
    case .otherExpiry: events[at(.held, 8)].expiresNanoseconds += 1
    case .otherExtension: events[at(.extended)].expiresNanoseconds += 1
    case .extendedTwice:
      var event = events[at(.extended)]
      event.lsn += 8
      events.insert(event, at: at(.released))
    case .expiryOfEarlierEnd: events[at(.expired)].expiresNanoseconds -= 1_000_000
    case .expiredBeforeItIsDue: events[at(.expired)].decidedNanoseconds -= 2_000_000
    case .restockOfOtherUnits:
      events[at(.adjusted, 3)].stock[0].onHand += 1
      events[at(.adjusted, 3)].stock[0].available += 1
    case .stockOfOtherUnits:
      events[0].stock[0].onHand += 1
      events[0].stock[0].available += 1
    case .noKind: events[at(.held, 8)].kind = nil
    case .endsTwice: events.append(again(events[at(.expired)]))
    case .reservationTwice: events[at(.held, 8)].id = ReservationID(number: 9)
    case .refusalTakesStock: events[at(.refused)].stock = events[at(.held, 8)].stock
    }
    return events
  }

  /// Which kinds of violation show a fault: each of them has to be among those found.
  private static func shown(_ fault: Fault) -> Set<Violation.Kind> {
    switch fault {
    case .missingHold: [.feedMissing, .feedGap]
    case .missingConfirm, .missingRelease, .missingRestock: [.feedMissing, .feedGap]
    case .missingExpiry: [.feedMissing]
    case .missingExtension, .missingRefusal: [.feedMissing]
    case .missingStock: [.feedGap]
    case .twiceAtOnce, .twiceLater, .twiceUnderAnotherNumber, .refusedTwice: [.feedRepeated]
    case .swapped, .swappedUnderRightNumbers: [.feedOrder]
    case .versionSkipped, .versionRepeated: [.feedGap]
    case .wrongOnHand, .wrongHeld, .wrongAvailable, .wrongSafetyStock, .onHandBelowHeld,
      .wrongCommitted, .committedOnOffer:
      [.feedBalance]
    case .releasedForConfirmed, .confirmedForReleased: [.feedBalance, .feedMissing, .feedUnknown]
    case .expiredForReleased: [.feedMissing, .feedWrongEvent]
    case .refusedForHeld: [.feedMissing, .feedUnknown, .feedWrongEvent]
    case .heldForRefused: [.feedMissing, .feedUnknown]
    case .unknownKey, .noKey: [.feedUnknown, .feedMissing]
    case .unknownOperation, .ofARead: [.feedUnknown]
    case .unknownReservation: [.feedUnknown, .feedMissing]
    case .endOfNoHold: [.feedUnknown]
    case .ofWhatWasNotSent: [.feedUnknown, .feedMissing]
    case .otherLines, .otherLinesOfEnd, .linesWithoutStock, .otherID, .otherExpiry:
      [.feedWrongEvent]
    case .otherExtension: [.feedWrongEvent]
    case .extendedTwice: [.feedUnknown]
    case .expiryOfEarlierEnd, .expiredBeforeItIsDue: [.feedWrongEvent]
    case .restockOfOtherUnits: [.feedWrongEvent]
    case .stockOfOtherUnits: [.feedBalance]
    case .noKind: [.feedWrongEvent]
    case .endsTwice: [.feedUnknown]
    case .reservationTwice, .refusalTakesStock: [.feedWrongEvent]
    }
  }

  @Test(arguments: Fault.allCases) func everyFaultIsFound(_ fault: Fault) {
    let found = violations(Self.doctored(fault, teller().events))
    #expect(
      Set(found.map(\.kind)).isSuperset(of: Self.shown(fault)),
      "\(fault): \(found.map(\.description))")
    // It says of what: an item, a key, a number.
    for violation in found { #expect(violation.text.contains { $0.isNumber }, "\(violation.text)") }
  }

  /// By the generator's clock the hold of a second cannot be due after half of one.
  @Test func anExpiryThatComesTooEarlyIsFound() {
    let found = violations(teller().events, came: 500)
    #expect(found.map(\.kind) == [.feedWrongEvent], "\(found.map(\.description))")
  }

  /// While it can be that the server has yet to get to it, no end is asked for.
  @Test func anExpiryMayTakeItsTime() {
    var events = teller().events
    events.remove(at: Self.index(.expired, events))
    #expect(violations(events, ends: 5_900).map(\.description) == [])
    #expect(violations(events, ends: 6_200).map(\.kind) == [.feedMissing])
  }

  /// What nobody was told may have happened, once.
  @Test func aCallOfUnknownOutcomeMayBeInTheFeedOrNot() {
    var without = Teller(stock: Self.stock)
    var with = without
    with.held(0, id: 1, Self.one, expires: Story.offset + 60_000)
    for (teller, isTwice) in [(without, false), (with, false), (with, true)] {
      var events = teller.events
      if isTwice, var event = events.last {
        event.lsn += 8
        event.id = ReservationID(number: 2)
        event.stock[0].version += 1
        event.stock[0].held += 1
        event.stock[0].available -= 1
        events.append(event)
      }
      let check = FeedCheck(run: RunID(1), stock: Self.stock, workers: 1, beganNanoseconds: 0)
      for event in events { check.take(event, at: 0) }
      var story = Story(stock: Self.stock)
      _ = story.reserve(1, at: 1)
      check.compare(story.history([]), endNanoseconds: 1_000_000_000)
      #expect(check.violations.map(\.kind) == (isTwice ? [.feedRepeated] : []))
    }
    without.mark()
  }

  /// Other clients' events are passed over, whatever is in them, as long as they come in order.
  @Test func othersAreLeftAlone() {
    var events = teller().events
    var other = FeedEvent()
    other.kind = .extended
    other.id = ReservationID(number: 1_000)
    other.othersItems = 3
    other.key = .other
    other.lsn = events[3].lsn + 1
    events.insert(other, at: 4)
    #expect(violations(events).map(\.description) == [])
    other.lsn = events[3].lsn - 1
    events[4] = other
    #expect(violations(events).map(\.kind) == [.feedOrder])
  }
}

/// The messages, by a second way to write them.
@Suite struct FeedMessageTests {
  private static let names = SKUNames(run: RunID(7))
  private static let keys = KeyNames(run: RunID(7))

  private static func level(_ sku: String, location: String = "") -> [UInt8] {
    Fields.bytes(1, Array(sku.utf8)) + Fields.bytes(2, Array(location.utf8))
      + Fields.varint(3, 9) + Fields.varint(4, 2) + Fields.varint(5, 8)
      + Fields.varint(6, UInt64(bitPattern: -1)) + Fields.varint(7, 5)
  }

  private static func time(_ seconds: UInt64, _ nanoseconds: UInt64) -> [UInt8] {
    Fields.varint(1, seconds) + Fields.varint(2, nanoseconds)
  }

  private func read(_ message: [UInt8]) -> (isWhole: Bool, event: FeedEvent) {
    var event = FeedEvent()
    // What was read before leaves nothing behind.
    event.lines = [FeedLine(sku: 3, units: 3)]
    event.key = .mark(number: 1)
    let isWhole = event.read(message.span, 0..<message.count, Self.names, Self.keys)
    return (isWhole, event)
  }

  @Test func anEventIsReadWithAllItsParts() {
    let id = "abcdefghij0123456789"
    let line = Fields.bytes(1, Array(Self.names.name(4).utf8)) + Fields.varint(3, 2)
    let elsewhere =
      Fields.bytes(1, Array(Self.names.name(4).utf8)) + Fields.bytes(2, Array("north".utf8))
      + Fields.varint(3, 2)
    let message =
      Fields.varint(1, 1 << 40) + Fields.varint(2, 6) + Fields.bytes(3, Self.time(9, 8))
      + Fields.bytes(4, Array(id.utf8)) + Fields.bytes(6, line) + Fields.bytes(6, elsewhere)
      + Fields.bytes(7, Self.time(7, 6)) + Fields.bytes(8, Self.level(Self.names.name(4)))
      + Fields.bytes(8, Self.level("load-0000000008-0000004")) + Fields.bytes(9, [65])
      + Fields.bytes(10, Array(Self.keys.name(worker: 5, operation: 77).utf8))
      + Fields.bytes(11, Array("INSUFFICIENT_STOCK".utf8)) + Fields.varint(99, 1)
    var expected = FeedEvent()
    expected.lsn = 1 << 40
    expected.kind = .expired
    expected.decidedNanoseconds = 9_000_000_008
    expected.expiresNanoseconds = 7_000_000_006
    expected.id = ReservationID(Array(id.utf8).span)
    expected.lines = [FeedLine(sku: 4, units: 2)]
    var level = FeedLevel(sku: 4)
    (level.onHand, level.held, level.safetyStock, level.available) = (9, 2, 8, -1)
    level.version = 5
    expected.stock = [level]
    expected.key = .operation(worker: 5, operation: 77)
    expected.reason = .insufficientStock
    expected.othersItems = 2
    let (isWhole, event) = read(message)
    #expect(isWhole && event == expected)
    for length in 1..<message.count {
      // Cut anywhere, it is malformed, or has less of the same: never a trap.
      _ = read(Array(message[..<length]))
    }
    #expect(read(Fields.varint(2, 2)).event.kind == .replaced)
    #expect(read(Fields.varint(2, 9)).event.kind == nil)
    #expect(read(Fields.varint(2, 300)).event.kind == nil)
    #expect(!read(Fields.bytes(3, Self.time(1 << 60, 0))).isWhole)
  }

  @Test(arguments: [
    ("", FeedKey.none), ("another", .other), ("stock-0000000007-12", .stock(sku: 12)),
    ("stock-0000000008-12", .other), ("stock-0000000007-", .other),
    ("stock-0000000007-1x", .other), ("watched-0000000007-0", .mark(number: 0)),
    ("watched-0000000007-72057594037927936", .mark(number: 1 << 56)),
    ("watched-0000000007-9999999999999999999999", .other),
    ("0000000007ff00000000ff", .operation(worker: 255, operation: 255)),
    ("0000000008ff00000000ff", .other), ("0000000007ff00000000fF", .other),
  ])
  func keysSayWhatTheyStandFor(text: String, key: FeedKey) {
    #expect(Self.keys.read(Array(text.utf8).span) == key)
  }

  @Test func keysThatAreWrittenAreRead() {
    for sku in [0, 9_999_999] {
      let text = KeyNames.stock(RunID(7), sku: sku)
      #expect(Self.keys.read(Array(text.utf8).span) == .stock(sku: sku))
    }
    let text = KeyNames.mark(RunID(7), number: 3)
    #expect(Self.keys.read(Array(text.utf8).span) == .mark(number: 3))
  }

  @Test func requestsSayWhereToBegin() {
    for (start, token, oldest) in [
      (FeedStart.now, "", 0), (.oldest, "", 1), (.behind(token: [65, 66]), "AB", 0),
    ] as [(FeedStart, String, UInt64)] {
      var message = MessageBuffer()
      message.writeWatch(start, heartbeatSeconds: 1)
      let fields = Fields(message.withSpan { array($0) })
      #expect(fields.text(1) == token && fields.number(2) == oldest)
      #expect(fields.text(3) == "\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}")
      #expect(fields.nested(6).first?.number(1) == 1)
    }
  }

  @Test func aResponseHasEventsAndAToken() {
    let message =
      Fields.bytes(1, Fields.varint(1, 5)) + Fields.bytes(2, [84]) + Fields.bytes(1, [])
    var ranges: [Range<Int>] = []
    #expect(readWatchResponse(message.span) { ranges.append($0) } == [84])
    #expect(ranges.map(\.count) == [2, 0])
    #expect(readWatchResponse([9 << 3 | 3].span) { _ in } == nil)
  }
}
