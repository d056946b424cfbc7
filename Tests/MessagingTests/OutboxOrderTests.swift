// What an outbox does for whoever answers orders: letters that are dead from the start, answers that nobody misses, and a
// fresh start between two connections.
import BrokerTesting
import Testing

@testable import Messaging

private final class Rig {
  let broker: ScriptedBroker
  private(set) var now: Int64 = 1_000_000_000
  private(set) var notices: [String] = []
  private(set) var box: Outbox!

  init(_ faults: Faults = Faults(), seed: UInt64 = 1) {
    broker = ScriptedBroker(faults, seed: seed)
    let clock = OutboxClock(
      now: { [unowned self] in now }, wall: { 1_800_000_000_000_000_000 },
      sleep: { [unowned self] in now += Int64($0) * 1_000_000 })
    box = Outbox(
      deadLetters: ScriptedBroker.letters, clock: clock, random: Seeded(7),
      connect: { [broker] () throws(BrokerError) in try broker.connect() }, report: { _ in })
  }

  static func message(_ id: String, to destination: String = "answers") -> BrokerMessage {
    BrokerMessage(to: destination, routingKey: "q", partitionKey: "k", id: id, body: [1, 2])
  }

  func step(_ count: Int = 1) {
    for _ in 0..<count {
      box.step(milliseconds: 10) { notice in
        switch notice {
        case .settled(let number, let isDead):
          notices.append("\(isDead ? "dead" : "sent") \(number)")
        case .dropped(let number): notices.append("dropped \(number)")
        case .delivery, .connected, .disconnected: break
        }
      }
      now += 50_000_000
    }
  }
}

struct OutboxOrderTests {
  @Test func aDeadLetterSaysWhy() {
    let rig = Rig()
    #expect(
      rig.box.addDead(Rig.message("m-1", to: "orders.0"), reason: "POISON", text: "no order") == 1)
    rig.box.addDead(Rig.message("m-2"), reason: "TOO_LARGE", text: "", omitsBody: true)
    rig.box.add(Rig.message("m-3"))
    rig.step(3)
    #expect(rig.notices == ["dead 1", "dead 2", "sent 3"] && rig.box.isSettled)
    #expect(rig.broker.taken.map(\.id) == ["m-3"])
    let letters = rig.broker.dead
    #expect(letters.map(\.routingKey) == ["dead", "dead"] && letters.map(\.body) == [[1, 2], []])
    for (name, value) in [
      ("deadreason", "POISON"), ("deadtext", "no order"), ("deaddestination", "orders.0"),
      ("deadtime", "2027-01-15T08:00:00Z"),
    ] {
      #expect(letters[0].attributes.first { $0.name == name }?.value == value)
    }
    #expect(rig.box.counts.dead.filter { $0.value > 0 } == ["POISON": 1, "TOO_LARGE": 1])
    #expect(rig.box.counts.confirmed == 1)
  }

  /// A record of Kafka's whose time is refused has a letter whose time is not: it is the broker's own.
  @Test(
    arguments: [
      ("amqp://a", 1_900_000_000_000_000_000, []),
      ("kafka://a", 0, ["2030-03-17T17:46:40Z"]),
    ] as [(String, Int64, [String])])
  func aDeadLetterHasATimeThatIsTaken(_ address: String, _ time: Int64, _ attributes: [String]) {
    var message = Rig.message("m-1")
    message.time = 1_900_000_000_000_000_000
    let letter = DeadLetters("dead", on: BrokerAddress(address)!).letter(
      message, Refusal(reason: "REJECTED", text: "", time: 0, omitsBody: false))
    #expect(letter.time == time)
    #expect(letter.attributes.filter { $0.name == "time" }.map(\.value) == attributes)
  }

  /// A producer of orders sets names as it likes, and they are no reason to refuse its letter.
  @Test(arguments: [
    ("x", 256, 255), ("x", 100_000, 255), ("\u{fffd}", 120, 255), ("ä", 200, 254), ("x", 255, 255),
    ("\u{301}", 500, 254), ("", 0, 0),
  ])
  func aDeadLetterHasNoLongerNamesThanABrokerTakes(_ part: String, _ times: Int, _ count: Int) {
    let name = String(repeating: part, count: times)
    let rig = Rig()
    let long = String(repeating: "y", count: 5000)
    let message = BrokerMessage(
      to: "orders.0", partitionKey: name, id: name, type: name, contentType: name,
      correlationID: name, replyTo: name, attributes: [("reference", long)], body: [1])
    rig.box.addDead(message, reason: "POISON", text: long + name)
    rig.step(2)
    let letter = rig.broker.dead[0]
    for text in [
      letter.id, letter.type, letter.contentType, letter.partitionKey, letter.correlationID,
      letter.replyTo,
    ] {
      #expect(text.utf8.count == count && name.utf8.starts(with: text.utf8))
    }
    #expect(letter.attributes.allSatisfy { $0.value.utf8.count <= 1024 })
    #expect(letter.attributes.first { $0.name == "deadtext" }?.value.utf8.count == 1024)
  }

  /// Somebody's own queue is full, and stays so: others wait for it a few times, and no longer.
  @Test func aFullQueueOfSomebodysOwnHoldsNobodyUp() {
    let rig = Rig(Faults(fullQueues: ["full"]))
    func add(_ id: String, _ queue: String) {
      var message = Rig.message(id)
      message.routingKey = queue
      rig.box.add(message, isDroppable: true)
    }
    for number in 1...20 { add("m-\(number)", number % 2 == 0 ? "full" : "q") }
    for _ in 0..<200 where !rig.box.isSettled { rig.step() }
    #expect(rig.box.isSettled)
    #expect(rig.broker.dead.map(\.id) == (1...10).map { "m-\($0 * 2)" })
    #expect(Set(rig.broker.taken.map(\.id)) == Set((0..<10).map { "m-\($0 * 2 + 1)" }))
    #expect(rig.box.counts.dead["QUEUE_FULL"] == 10 && rig.box.counts.postponed < 30)
    // Once it has room again, it is waited for again.
    rig.broker.faults.fullQueues = []
    add("m-21", "full")
    rig.step(2)
    rig.broker.faults.fullQueues = ["full"]
    add("m-22", "full")
    rig.step(2)
    #expect(rig.box.counts.dead["QUEUE_FULL"] == 10 && rig.box.stuck != nil)
    rig.broker.faults.fullQueues = []
    for _ in 0..<100 where !rig.box.isSettled { rig.step() }
    #expect(rig.broker.taken.suffix(2).map(\.id) == ["m-21", "m-22"])
  }

  /// Another connection says by itself that it takes nothing.
  @Test func anAlarmEndsWithItsConnection() {
    let rig = Rig()
    rig.step()
    rig.broker.current?.notices = [.blocked("low on disk")]
    rig.step()
    rig.box.add(Rig.message("m-1"))
    rig.step(3)
    #expect(rig.box.blocked == "low on disk" && rig.notices.isEmpty)
    rig.box.close()
    rig.step(3)
    #expect(rig.box.blocked == nil && rig.notices == ["sent 1"])
  }

  /// A dead letter that is refused too waits, over connections, and is not lost.
  @Test func aDeadLetterIsNotLost() {
    for seed in UInt64(1)...20 {
      let rig = Rig(Faults(lost: 10, refusedLetters: 60), seed: seed)
      for number in 1...20 {
        rig.box.addDead(Rig.message("m-\(number)"), reason: "POISON", text: "")
      }
      for _ in 0..<20_000 where !rig.box.isSettled { rig.step() }
      #expect(rig.box.isSettled && Set(rig.broker.dead.map(\.id)).count == 20)
    }
  }

  @Test func anAnswerWithoutAQueueIsDropped() {
    let rig = Rig()
    rig.step()
    rig.box.add(Rig.message("m-1"), isDroppable: true)
    rig.box.add(Rig.message("m-2"), isDroppable: true)
    rig.box.add(Rig.message("m-3"))
    rig.step(1)
    // The broker has taken all, and says of three more that it has no queue.
    for id in ["m-4", "m-5", "m-6"] { rig.box.add(Rig.message(id), isDroppable: id != "m-6") }
    rig.broker.current?.notices = []
    let refused: [BrokerNotice] = [
      .refused(4, reason: "UNROUTABLE", text: "no queue"),
      .refused(5, reason: "REJECTED", text: "no"),
      .refused(6, reason: "UNROUTABLE", text: "no queue"),
    ]
    rig.broker.isSilent = true
    rig.step()
    rig.broker.current?.notices = refused
    rig.step()
    rig.broker.isSilent = false
    rig.step(3)
    #expect(rig.notices == ["sent 1", "sent 2", "sent 3", "dropped 4", "dead 5", "dead 6"])
    #expect(rig.box.counts.dropped == 1 && rig.box.stuck == nil)
    #expect(rig.broker.dead.map(\.id) == ["m-5", "m-6"])
  }

  @Test func forgetsWhatIsNotSettled() {
    let rig = Rig()
    rig.step()
    rig.box.add(Rig.message("m-1"))
    rig.box.addDead(Rig.message("m-2"), reason: "POISON", text: "")
    rig.broker.isSilent = true
    rig.step()
    rig.broker.current?.failure = .away("reset")
    rig.step()
    rig.broker.isSilent = false
    #expect(!rig.box.isConnected && rig.box.count == 2)
    rig.box.removeAll()
    #expect(rig.box.isSettled && rig.box.count == 0)
    #expect(rig.box.add(Rig.message("m-3")) == 3)
    for _ in 0..<100 where !rig.box.isSettled { rig.step() }
    #expect(
      rig.notices == ["sent 3"] && rig.broker.taken.map(\.id) == ["m-3"] && rig.broker.dead.isEmpty)
  }
}
