// What a relay makes of a watch, and when it keeps a token.
import Client
import Messaging
import Metrics
import Relay
import Testing

/// A broker that confirms when it is told to.
private final class PatientBroker: BrokerConnection {
  private(set) var published: [BrokerMessage] = []
  private var confirmed = 0
  private(set) var isClosed = false
  /// What the next poll has to say.
  var notices: [BrokerNotice] = []
  /// How many of what was published are confirmed with the next poll.
  var confirms = 0
  var failure: BrokerError?

  func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError) {}

  func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError) {}

  func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    published.append(message)
    return UInt64(published.count)
  }

  func poll(milliseconds: Int32, _ take: (BrokerNotice) -> Void) throws(BrokerError) {
    if let failure { throw failure }
    for notice in notices { take(notice) }
    notices = []
    while confirms > 0, confirmed < published.count {
      confirmed += 1
      confirms -= 1
      take(.confirmed(UInt64(confirmed)))
    }
  }

  func accept(_ tags: [UInt64]) throws(BrokerError) {}

  func close() { isClosed = true }
}

/// A relay without a server: what it says is handed over.
private final class Rig {
  private(set) var brokers: [PatientBroker] = []
  private(set) var kept: [String] = []
  let metrics = RelayMetrics()
  var isStopped = false
  private var relay: Relay!
  private let watch: EventWatch

  init(
    _ options: RelayOptions = RelayOptions(), messagesMax: Int = 100, skipThrough: UInt64 = 0
  ) {
    watch = EventWatch(
      [ServiceTarget("127.0.0.1:1")!], program: "test", filter: .everything, from: .oldest
    ) { _ in }
    let address = BrokerAddress("amqp://127.0.0.1")!
    let outbox = Outbox(
      OutboxLimits(messagesMax: messagesMax), deadLetters: DeadLetters("dead", on: address),
      connect: { [unowned self] () throws(BrokerError) in
        brokers.append(PatientBroker())
        return brokers[brokers.count - 1]
      }, report: { _ in })
    relay = Relay(
      options, outbox: outbox, metrics: metrics, skipThrough: skipThrough,
      keep: { [unowned self] in kept.append($0) }, isStopped: { [unowned self] in isStopped })
  }

  var broker: PatientBroker { brokers[brokers.count - 1] }

  func read(_ events: [Wire], upTo lsn: UInt64) -> WatchReading {
    read(response(events, upTo: lsn))
  }

  func read(_ bytes: [UInt8]) -> WatchReading {
    unsafe bytes.withUnsafeBytes { unsafe relay.read($0) }
  }

  func pause() -> WatchPause { relay.pause(watch) }
  func drain() -> Int { relay.drain() }
  func beginAgain() { relay.beginAgain() }

  /// The messages of an event.
  static func messages(_ event: Wire, _ format: EventFormat = .protobuf) -> [BrokerMessage] {
    var options = RelayOptions()
    options.format = format
    let rig = Rig(options)
    guard case .taken = rig.read([event], upTo: 9) else { return [] }
    _ = rig.pause()
    return rig.broker.published
  }
}

extension WatchReading {
  fileprivate var word: String {
    switch self {
    case .taken: "taken"
    case .enough: "enough"
    case .malformed: "malformed"
    }
  }
}

extension WatchPause {
  fileprivate var word: String {
    switch self {
    case .wait(let milliseconds): "wait \(milliseconds)"
    case .hold: "hold"
    case .stop: "stop"
    }
  }
}

struct MessageTests {
  @Test func anEventIsACloudEvent() {
    let event = held(77, "ticket")
    let messages = Rig.messages(event)
    #expect(
      messages == [
        BrokerMessage(
          to: "holdfast.events", routingKey: "StockReserved.ticket", partitionKey: "ticket",
          id: "00c0ffee00c0ffee-77", type: "StockReserved", source: "holdfast",
          contentType: "application/protobuf", time: 1_795_921_200_500_000_000,
          attributes: [
            ("subject", "ticket"), ("sequence", "00000000000000000077"), ("reservationid", "r-77"),
            ("reference", "order-77"),
          ], body: event.bytes)
      ])
  }

  @Test(
    arguments: [
      (1, "StockReserved"), (2, "ReservationReplaced"), (3, "ReservationExtended"),
      (4, "ReservationConfirmed"), (5, "ReservationReleased"), (6, "ReservationExpired"),
      (7, "StockAdjusted"), (8, "StockRejected"), (9, "ItemRemoved"), (10, "Kind10"),
      (4_000_000_000, "Kind4000000000"),
    ] as [(Int64, String)])
  func aKindIsAType(_ kind: Int64, _ type: String) {
    let message = Rig.messages(held(1, "a", kind: kind))[0]
    #expect(message.type == type && message.routingKey == "\(type).a")
  }

  @Test func eachSKUHasAMessageWithItsOwnBalances() {
    let head = Wire().adding(1, 5).adding(2, 7).adding(3, decidedAt)
    let event = head.adding(8, level("b")).adding(8, level("a", at: "oslo")).adding(11, "why")
      .adding(8, level("b", at: "rome"))
    let messages = Rig.messages(event)
    #expect(messages.map(\.partitionKey) == ["b", "a"])
    #expect(messages.map(\.id) == ["00c0ffee00c0ffee-5", "00c0ffee00c0ffee-5"])
    #expect(
      messages[0].body
        == head.adding(8, level("b")).adding(11, "why").adding(8, level("b", at: "rome")).bytes)
    #expect(messages[1].body == head.adding(8, level("a", at: "oslo")).adding(11, "why").bytes)
    let json = Rig.messages(event, .json)
    #expect(String(decoding: json[1].body, as: UTF8.self).contains("\"location\":\"oslo\""))
    #expect(!String(decoding: json[1].body, as: UTF8.self).contains("\"sku\":\"b\""))
  }

  @Test func oneSKUAtTwoLocationsIsOneMessage() {
    let event = Wire().adding(1, 5).adding(2, 7).adding(8, level("a")).adding(
      8, level("a", at: "x"))
    let messages = Rig.messages(event)
    #expect(messages.count == 1 && messages[0].body == event.bytes)
  }

  /// What is about no item, as a hold that goes on for longer, has the key of whoever asked.
  @Test(arguments: [
    (Wire().adding(4, "r-1").adding(5, "order-1"), ["order-1"], "StockRejected."),
    (Wire().adding(4, "r-1").adding(10, "key"), ["r-1"], "StockRejected."),
    (Wire().adding(6, line("a", 1)).adding(6, line("b", 2)), ["a", "b"], "StockRejected.a"),
    (Wire().adding(5, "order-1").adding(10, "key"), ["order-1"], "StockRejected."),
    (Wire().adding(10, "key"), ["key"], "StockRejected."),
    (Wire(), [""], "StockRejected."),
  ])
  func aRefusalHasAKey(_ rest: Wire, _ keys: [String], _ routingKey: String) {
    let event = Wire().adding(1, 5).adding(2, 8).bytes + rest.bytes
    let rig = Rig()
    let bytes = Wire().adding(1, event).adding(2, token(9)).bytes
    #expect(rig.read(bytes).word == "taken")
    _ = rig.pause()
    #expect(rig.broker.published.map(\.partitionKey) == keys)
    #expect(rig.broker.published[0].routingKey == routingKey)
  }

  @Test func aRoutingKeyIsAsLongAsABrokerTakesIt() {
    let sku = String(repeating: "ä", count: 200)
    let message = Rig.messages(held(1, sku))[0]
    #expect(message.routingKey.utf8.count == 254 && message.routingKey.hasSuffix("ä"))
    #expect(message.partitionKey == sku)
  }

  @Test func whatIsNoEventIsNotTaken() {
    let whole = response([held(1, "a")], upTo: 1)
    let cases: [[UInt8]] = [
      [], [0xff], Array(whole.dropLast(3)), Wire().adding(1, held(1, "a")).bytes,
      Wire().adding(2, "short").bytes, Wire().adding(2, String(repeating: "z", count: 65)).bytes,
      // An event without a number: its doubles could not be told.
      response([Wire().adding(2, 1)], upTo: 1),
      Wire().adding(1, [0x08]).adding(2, token(1)).bytes,
      // A time beyond all times.
      response([Wire().adding(1, 1).adding(3, Wire().adding(1, .max))], upTo: 1),
    ]
    for bytes in cases { #expect(Rig().read(bytes).word == "malformed", "\(bytes)") }
    for count in 0..<whole.count { _ = Rig().read(Array(whole.prefix(count))) }
  }
}

struct JSONTests {
  private static func json(_ event: Wire) -> String {
    String(decoding: Rig.messages(event, .json)[0].body, as: UTF8.self)
  }

  @Test func allFields() {
    let sale = Wire().adding(1, Wire().adding(1, 1)).adding(2, Wire().adding(2, 1000)).adding(3, 1)
    let stock = Wire().adding(1, "a").adding(2, "oslo").adding(3, 10).adding(4, 2).adding(5, -3)
      .adding(6, 1_099_511_627_776).adding(7, -1).adding(8, 4).adding(9, sale)
    let event = Wire().adding(1, 77).adding(2, 1).adding(3, decidedAt).adding(4, "r").adding(
      5, "o"
    )
    .adding(6, line("a", 2).adding(4, 1)).adding(7, Wire().adding(1, 1_795_921_260))
    .adding(8, stock).adding(9, "shop").adding(10, "k").adding(11, "why")
    #expect(
      Self.json(event) == """
        {"lsn":"77","kind":"EVENT_KIND_HELD","decidedAt":"2026-11-29T03:00:00.500Z","reservationId":"r",\
        "reference":"o","lines":[{"sku":"a","quantity":"2","minQuantity":"1"}],\
        "expiresAt":"2026-11-29T03:01:00Z","stock":[{"sku":"a","location":"oslo","onHand":"10","held":"2",\
        "safetyStock":"-3","available":"1099511627776","version":"18446744073709551615","committed":"4",\
        "sale":{"sellableFrom":"1970-01-01T00:00:01Z","sellableUntil":"1970-01-01T00:00:00.000001Z",\
        "frozen":true}}],"caller":"shop","idempotencyKey":"k","reason":"why"}
        """)
  }

  /// Default values are left out, but a message that is there is not; fields that are not known are.
  @Test(arguments: [
    (Wire().adding(1, 1), "{\"lsn\":\"1\"}"),
    (Wire().adding(1, 1).adding(zeroToo: 2, 0).adding(5, ""), "{\"lsn\":\"1\"}"),
    (Wire().adding(1, 1).adding(2, 99), "{\"lsn\":\"1\",\"kind\":99}"),
    (
      Wire().adding(1, 1).adding(40, "new").adding(90, 5).adding(5, "o"),
      "{\"lsn\":\"1\",\"reference\":\"o\"}"
    ),
    (
      Wire().adding(1, 1).adding(3, Wire()),
      "{\"lsn\":\"1\",\"decidedAt\":\"1970-01-01T00:00:00Z\"}"
    ),
    (
      Wire().adding(1, 1).adding(8, Wire().adding(1, "a").adding(9, Wire())),
      "{\"lsn\":\"1\",\"stock\":[{\"sku\":\"a\",\"sale\":{}}]}"
    ),
    (
      Wire().adding(6, line("a", 1)).adding(1, 1).adding(6, line("b", 2)).adding(
        8, level("c", onHand: 0, version: 1)),
      """
      {"lines":[{"sku":"a","quantity":"1"},{"sku":"b","quantity":"2"}],"lsn":"1",\
      "stock":[{"sku":"c","version":"1"}]}
      """
    ),
    (
      Wire().adding(1, 1).adding(11, "say \"hi\" \\ \u{1}\n\u{7f}ä</script>"),
      "{\"lsn\":\"1\",\"reason\":\"say \\\"hi\\\" \\\\ \\u0001\\u000a\\u007fä</script>\"}"
    ),
  ])
  func whatIsLeftOut(_ event: Wire, _ json: String) { #expect(Self.json(event) == json) }

  @Test func whatIsNoTextIsReplaced() {
    let event = Wire().adding(1, 1).adding(11, [0x61, 0xff, 0x62])
    #expect(Self.json(event) == "{\"lsn\":\"1\",\"reason\":\"a\u{fffd}b\"}")
  }
}

struct RelayTests {
  @Test func keepsATokenOnceEverythingIsConfirmed() {
    let rig = Rig()
    #expect(rig.read([held(1, "a"), held(2, "b")], upTo: 2).word == "taken")
    #expect(rig.read([held(5, "a")], upTo: 6).word == "taken")
    #expect(rig.read([], upTo: 8).word == "taken")
    #expect(rig.pause().word == "wait 1" && rig.kept.isEmpty)
    rig.broker.confirms = 1
    _ = rig.pause()
    #expect(rig.kept.isEmpty)
    rig.broker.confirms = 1
    _ = rig.pause()
    #expect(rig.kept == [token(2)])
    rig.broker.confirms = 1
    #expect(rig.pause().word == "wait 50")
    // The message without events has moved it on.
    #expect(rig.kept == [token(2), token(8)])
    #expect(rig.read([], upTo: 9).word == "taken")
    _ = rig.pause()
    #expect(rig.kept.last == token(9))
  }

  @Test func waitsForTheOldest() {
    let rig = Rig()
    _ = rig.read([held(1, "a")], upTo: 1)
    _ = rig.read([held(2, "b")], upTo: 2)
    _ = rig.pause()
    rig.broker.notices = [.confirmed(2)]
    _ = rig.pause()
    #expect(rig.kept.isEmpty)
    rig.broker.notices = [.confirmed(1)]
    _ = rig.pause()
    #expect(rig.kept == [token(2)])
  }

  @Test func publishesAgainOverAnotherConnection() throws {
    let rig = Rig()
    _ = rig.read([held(1, "a"), held(2, "b")], upTo: 2)
    _ = rig.pause()
    rig.broker.notices = [.confirmed(1)]
    _ = rig.pause()
    rig.broker.failure = .away("gone")
    _ = rig.pause()
    #expect(rig.broker.isClosed && rig.kept.isEmpty)
    // After the back-off: a tenth of a second at most.
    while rig.brokers.count == 1 { _ = rig.pause() }
    _ = rig.pause()
    #expect(rig.broker.published.map(\.id) == ["00c0ffee00c0ffee-2"])
    rig.broker.confirms = 1
    _ = rig.pause()
    #expect(rig.kept == [token(2)])
  }

  @Test func leavesOutWhatWasPublished() {
    let rig = Rig(skipThrough: 2)
    _ = rig.read([held(1, "a"), held(2, "b"), held(3, "c")], upTo: 3)
    _ = rig.pause()
    #expect(rig.broker.published.map(\.id) == ["00c0ffee00c0ffee-3"])
    rig.beginAgain()
    _ = rig.read([held(1, "a")], upTo: 1)
    _ = rig.pause()
    #expect(rig.broker.published.map(\.id).last == "00c0ffee00c0ffee-1")
  }

  @Test func readsNoMoreThanThereIsRoomFor() {
    var options = RelayOptions()
    options.holdNanoseconds = 0
    let rig = Rig(options, messagesMax: 2)
    _ = rig.read([held(1, "a"), held(2, "b"), held(3, "c")], upTo: 3)
    #expect(rig.pause().word == "hold")
    #expect(rig.broker.published.count == 2)
    rig.broker.confirms = 1
    #expect(rig.pause().word == "hold")
    rig.broker.confirms = 1
    #expect(rig.pause().word == "wait 1")
    #expect(rig.broker.published.count == 3)
    rig.isStopped = true
    #expect(rig.pause().word == "stop")
  }

  @Test func drainsAndSaysWhatIsLeft() {
    var options = RelayOptions()
    let rig = Rig(options)
    _ = rig.read([held(1, "a"), held(2, "b")], upTo: 2)
    _ = rig.pause()
    rig.broker.confirms = 2
    #expect(rig.drain() == 0 && rig.broker.isClosed)
    #expect(rig.kept == [token(2)] && rig.metrics.isEnding)

    options.drainNanoseconds = 0
    let other = Rig(options)
    _ = other.read([held(1, "a"), held(2, "b")], upTo: 2)
    _ = other.pause()
    #expect(other.drain() == 2 && other.kept.isEmpty)
  }

  /// A minute for a broker that is not there would be a minute for nothing: what it has not confirmed comes again.
  @Test func doesNotWaitForABrokerThatIsAway() {
    var options = RelayOptions()
    options.drainNanoseconds = .max / 2
    let rig = Rig(options)
    _ = rig.read([held(1, "a"), held(2, "b")], upTo: 2)
    _ = rig.pause()
    rig.broker.failure = .away("gone")
    _ = rig.pause()
    #expect(rig.drain() == 2 && rig.kept.isEmpty)
  }

  @Test func tellsHowFarItIs() {
    let rig = Rig()
    _ = rig.read([held(1, "a"), held(2, "b")], upTo: 2)
    _ = rig.pause()
    var page = Exposition()
    rig.metrics.add(to: &page)
    let lines = Set(page.text.split(separator: "\n").map(String.init))
    let expected = [
      "holdfast_relay_events_total 2", "holdfast_relay_messages_total 2",
      "holdfast_relay_unconfirmed 2", "holdfast_relay_connected{side=\"server\"} 0",
      "holdfast_relay_connected{side=\"broker\"} 1", "holdfast_relay_confirmed_total 0",
      "holdfast_relay_blocked 0", "holdfast_relay_stuck 0", "holdfast_relay_lsn 0",
      "holdfast_relay_reconnects_total{side=\"broker\"} 0",
    ]
    for line in expected { #expect(lines.contains(line), "\(line)") }
    // The oldest decision is of another year.
    let lag = lines.first { $0.hasPrefix("holdfast_relay_lag_seconds ") }
    #expect(lag.flatMap { Double($0.split(separator: " ")[1]) } ?? -1 >= 0)
    #expect(!rig.metrics.isReady && rig.metrics.status == "waits for the server")
  }
}
