// What an outbox promises: nothing is lost, in order by key, and nothing is called settled that the broker has not.
import BrokerTesting
import Messaging
import Testing

/// An outbox on a clock of its own.
private final class Rig {
  let broker: ScriptedBroker
  private(set) var now: Int64 = 1_000_000_000
  private(set) var words: [String] = []
  private(set) var settled: [UInt64] = []
  private(set) var deadNumbers: Set<UInt64> = []
  private(set) var others: [OutboxNotice] = []
  private var added: [BrokerMessage] = []
  private var outbox: Outbox!

  init(_ broker: ScriptedBroker, _ limits: OutboxLimits = OutboxLimits(messagesMax: 50)) {
    self.broker = broker
    let clock = OutboxClock(
      now: { [unowned self] in now }, wall: { 1_800_000_000_000_000_000 },
      sleep: { [unowned self] in now += Int64($0) * 1_000_000 })
    outbox = Outbox(
      limits, deadLetters: ScriptedBroker.letters, clock: clock, random: Seeded(7),
      connect: { () throws(BrokerError) in try broker.connect() },
      report: { [unowned self] in words.append($0) })
  }

  var box: Outbox { outbox }
  var connection: ScriptedConnection { broker.current! }

  func add(_ key: String, bytes: Int = 3) {
    let message = BrokerMessage(
      to: "events", routingKey: "T.\(key)", partitionKey: key, id: "m-\(added.count + 1)",
      type: "T", body: Array(repeating: 7, count: bytes))
    added.append(message)
    #expect(outbox.add(message) == UInt64(added.count))
  }

  func step(_ milliseconds: Int32 = 10) {
    outbox.step(milliseconds: milliseconds) { notice in
      if case .settled(let number, let isDead) = notice {
        settled.append(number)
        if isDead { deadNumbers.insert(number) }
      } else {
        others.append(notice)
      }
    }
    now += 1_000_000
    checkSettled()
  }

  /// Until everything is settled. False: it is not, after so many steps.
  func drain(_ steps: Int = 20_000) -> Bool {
    for _ in 0..<steps {
      if outbox.isSettled { return true }
      step()
    }
    return false
  }

  func pass(_ seconds: Int64) { now += seconds * 1_000_000_000 }

  /// What is called settled, the broker has.
  private var checked: UInt64 = 0
  private var has: Set<String> = []
  private var seen = (taken: 0, dead: 0)
  private func checkSettled() {
    has.formUnion(broker.taken.dropFirst(seen.taken).map(\.id))
    has.formUnion(broker.dead.dropFirst(seen.dead).map(\.id))
    seen = (broker.taken.count, broker.dead.count)
    while checked < outbox.settledThrough {
      #expect(has.contains(added[Int(checked)].id), "settled, and the broker does not have it")
      checked += 1
    }
  }

  /// Nothing is lost, every message is settled once, and after dropping doubles each key is in order.
  func check(inOrder: Bool = true) {
    #expect(outbox.settledThrough == UInt64(added.count))
    #expect(settled.sorted() == Array(1...UInt64(added.count)))
    let takenIDs = Set(broker.taken.map(\.id))
    let deadIDs = Set(broker.dead.map(\.id))
    for (index, message) in added.enumerated() {
      let isThere =
        deadNumbers.contains(UInt64(index + 1))
        ? deadIDs.contains(message.id) : takenIDs.contains(message.id)
      #expect(isThere, "lost: \(message.id)")
    }
    if !inOrder { return }
    var seen: Set<String> = []
    var last: [String: Int] = [:]
    for message in broker.taken where seen.insert(message.id).inserted {
      let number = Int(message.id.dropFirst(2))!
      #expect(last[message.partitionKey, default: 0] < number, "out of order: \(message.id)")
      last[message.partitionKey] = number
    }
  }
}

struct OutboxTests {
  @Test func publishesInOrderAndSettlesOnce() {
    let rig = Rig(ScriptedBroker())
    for number in 0..<200 { rig.add("k\(number % 3)") }
    #expect(!rig.box.hasRoom && rig.box.count == 200)
    #expect(rig.drain())
    rig.check()
    #expect(rig.broker.taken.count == 200 && rig.broker.inFlightMax == 50)
    #expect(rig.settled == Array(1...200))
    #expect(rig.box.counts.confirmed == 200 && rig.box.counts.resent == 0)
    #expect(rig.words.isEmpty)
  }

  /// Every kind of fault alone, and all of them at once, over many seeds.
  @Test(arguments: [
    (Faults(lost: 20), true),
    (Faults(lost: 20, lateConfirmations: 50), true),
    (Faults(lateConfirmations: 80, blocked: 20), true),
    (Faults(lost: 30, unreachable: 60), true),
    (Faults(refusedLetters: 50, poison: ["m-1", "m-40", "m-41", "m-300"]), true),
    (Faults(lost: 10, poison: ["m-7", "m-8", "m-9"], bodyMax: 100), true),
    (Faults(postponed: 10), false),
    (
      Faults(
        lost: 15, lateConfirmations: 40, postponed: 5, blocked: 10, unreachable: 30,
        refusedLetters: 40, poison: ["m-2", "m-3", "m-77", "m-150"], bodyMax: 100), false
    ),
  ])
  func losesNothing(_ faults: Faults, inOrder: Bool) {
    for seed in UInt64(1)...25 {
      let rig = Rig(ScriptedBroker(faults, seed: seed))
      var random = Seeded(seed &* 31)
      var count = 0
      while count < 300 {
        for _ in 0..<Int.random(in: 0...30, using: &random) where rig.box.hasRoom && count < 300 {
          count += 1
          let isLarge = faults.bodyMax < .max && Int.random(in: 0..<40, using: &random) == 0
          rig.add("k\(Int.random(in: 0..<5, using: &random))", bytes: isLarge ? 200 : 3)
        }
        rig.step(Int32.random(in: 0...20, using: &random))
        #expect(rig.box.count <= 51)
      }
      #expect(rig.drain(), "seed \(seed) does not come to an end")
      rig.check(inOrder: inOrder)
      #expect(rig.broker.inFlightMax <= 50)
      let late = rig.broker.taken.contains { faults.poison.contains($0.id) || $0.body.count > 100 }
      #expect(!late, "what the broker refuses was taken")
    }
  }

  // MARK: Lost connections

  @Test func publishesAgainWhatWasNotConfirmed() {
    let rig = Rig(ScriptedBroker())
    for _ in 0..<5 { rig.add("a") }
    rig.step()
    #expect(rig.box.isSettled)
    rig.add("a")
    rig.add("a")
    rig.connection.failure = .away("reset by peer")
    rig.step()
    #expect(!rig.box.isConnected && rig.box.trouble == .away("reset by peer"))
    #expect(rig.words == ["the broker is away: reset by peer; trying again"])
    #expect(rig.drain())
    #expect(rig.box.counts.resent == 2 && rig.box.counts.connections == 2)
    #expect(rig.words.last == "the broker takes messages again: going on")
    #expect(rig.box.trouble == nil)
    rig.check()
  }

  /// A broker that comes back and refuses the password is not "away" any more.
  @Test func tellsSoonWhatElseGoesWrong() {
    let rig = Rig(ScriptedBroker())
    rig.step()
    for error in [BrokerError.away("one"), .away("two"), .unsuitable("three"), .unsuitable("four")]
    {
      rig.pass(2)
      rig.step()
      rig.connection.failure = error
      rig.add("a")
      rig.step()
    }
    #expect(
      rig.words.filter { $0.hasSuffix("trying again") } == [
        "the broker is away: one; trying again",
        "the broker cannot be used as it is: three; trying again",
      ])
  }

  @Test func waitsLongerEachTimeAndTellsSometimes() {
    let rig = Rig(ScriptedBroker(Faults(unreachable: 100)))
    rig.add("a")
    var attempts: [Int64] = []
    var failures: UInt64 = 0
    let start = rig.now
    while rig.now - start < 120_000_000_000 {
      rig.step(1000)
      if rig.box.counts.failures > failures { attempts.append(rig.now) }
      failures = rig.box.counts.failures
    }
    // An attempt is seen once its wait is over: the first one here is the second.
    let waits = zip(attempts, attempts.dropFirst()).map { ($1 - $0) / 1_000_000 }
    #expect(50...110 ~= (attempts[0] - start) / 1_000_000)
    #expect(100...210 ~= waits[0] && 200...410 ~= waits[1] && 400...810 ~= waits[2])
    #expect(waits.allSatisfy { $0 <= 10_010 } && waits.suffix(3).allSatisfy { $0 >= 5000 })
    #expect(3...5 ~= rig.words.count)
    rig.broker.faults.unreachable = 0
    #expect(rig.drain())
    #expect(rig.words.last == "the broker takes messages again: going on")
  }

  @Test func waitsForSomebodyToMendIt() {
    let rig = Rig(ScriptedBroker())
    rig.add("a")
    rig.step(0)
    rig.connection.failure = .unsuitable("ACCESS_REFUSED")
    rig.add("a")
    rig.step()
    #expect(rig.box.trouble == .unsuitable("ACCESS_REFUSED"))
    #expect(rig.words.first?.contains("cannot be used as it is: ACCESS_REFUSED") == true)
    #expect(rig.drain())
    rig.check()
  }

  // MARK: Refused messages

  @Test func sendsARefusedMessageToTheDeadLettersWithItsReason() {
    let rig = Rig(ScriptedBroker(Faults(poison: ["m-2"])))
    for _ in 0..<3 { rig.add("a") }
    #expect(rig.drain())
    rig.check()
    #expect(rig.deadNumbers == [2] && rig.box.counts.dead["REJECTED"] == 1)
    let letter = rig.broker.dead[0]
    #expect(letter.destination.isEmpty && letter.routingKey == "dead")
    #expect(letter.id == "m-2" && letter.partitionKey == "a" && letter.body == [7, 7, 7])
    let attributes = Dictionary(uniqueKeysWithValues: letter.attributes.map { ($0.name, $0.value) })
    #expect(
      attributes == [
        "deadreason": "REJECTED", "deadtext": "poison", "deaddestination": "events",
        "deadtime": "2027-01-15T08:00:00Z",
      ])
    #expect(rig.words.count == 1 && rig.words[0].contains("m-2"))
  }

  @Test func findsTheMessageThatEndsTheChannel() {
    let rig = Rig(ScriptedBroker(Faults(bodyMax: 100)))
    for number in 1...50 { rig.add("a", bytes: number == 31 ? 500 : 3) }
    #expect(rig.drain())
    rig.check()
    #expect(rig.deadNumbers == [31])
    #expect(rig.broker.dead.map(\.id) == ["m-31"] && rig.broker.dead[0].body.isEmpty)
    #expect(rig.broker.dead[0].attributes.contains { $0 == ("deadbody", "omitted") })
    // By halves: 50, 25, 12, 6, 3, 1.
    #expect(rig.broker.connectionCount <= 8 && rig.broker.publishedCount < 250)
    // It is fast again.
    for _ in 0..<200 where rig.box.hasRoom { rig.add("a") }
    #expect(rig.drain(12))
  }

  @Test func waitsForThePlaceOfDeadLetters() {
    let rig = Rig(ScriptedBroker(Faults(refusedLetters: 100, poison: ["m-1"])))
    for _ in 0..<10 { rig.add("a") }
    #expect(!rig.drain(3000))
    #expect(rig.box.stuck?.contains("UNROUTABLE") == true)
    #expect(rig.box.settledThrough == 0 && rig.broker.dead.isEmpty)
    // The wait between two attempts grows to ten seconds: no flood of them.
    #expect(rig.broker.publishedCount < 60)
    rig.broker.faults.refusedLetters = 0
    rig.pass(20)
    #expect(rig.drain())
    rig.check()
    #expect(rig.box.stuck == nil && rig.broker.dead[0].body == [7, 7, 7])
  }

  @Test func leavesOutABodyThatTheDeadLetterCannotHave() {
    let broker = ScriptedBroker(Faults(poison: ["m-1"]))
    let rig = Rig(broker)
    rig.add("a", bytes: 50)
    // Refused as poison; its letter then is what is too large.
    broker.faults.bodyMax = 100
    rig.step(0)
    broker.faults.bodyMax = 10
    #expect(rig.drain())
    rig.check()
    #expect(broker.dead.count == 1 && broker.dead[0].body.isEmpty)
    #expect(broker.dead[0].attributes.contains { $0 == ("deadreason", "REJECTED") })
  }

  @Test func triesAgainWhatIsPostponed() {
    let rig = Rig(ScriptedBroker(Faults(postponed: 100)))
    for _ in 0..<5 { rig.add("a") }
    #expect(!rig.drain(500))
    #expect(rig.box.stuck?.contains("the queue is full") == true && rig.broker.dead.isEmpty)
    rig.broker.faults.postponed = 0
    rig.pass(20)
    #expect(rig.drain())
    rig.check()
  }

  /// What was on its way when the first one was postponed may pass it; nothing does later, however often one is.
  @Test(arguments: UInt64(1)...20)
  func isOvertakenOnce(_ seed: UInt64) {
    let rig = Rig(ScriptedBroker(Faults(postponed: 30), seed: seed))
    for number in 0..<400 { rig.add(number % 4 == 0 ? "b" : "a") }
    for _ in 0..<5000 where !rig.box.isSettled {
      rig.step()
      rig.pass(10)
    }
    rig.check(inOrder: false)
    var seen: Set<String> = []
    var last: [String: Int] = [:]
    for message in rig.broker.taken where seen.insert(message.id).inserted {
      let number = Int(message.id.dropFirst(2))!
      if number <= 50 { continue }
      #expect(last[message.partitionKey, default: 0] < number, "overtaken: \(message.id)")
      last[message.partitionKey] = number
    }
  }

  @Test func goesFastAgainOnceManyWereTaken() {
    let rig = Rig(ScriptedBroker(Faults(postponed: 100)))
    for _ in 0..<1000 { rig.add("a") }
    rig.step()
    rig.step()
    rig.broker.faults.postponed = 0
    rig.pass(20)
    // 64 one by one, and then ever more at once.
    #expect(!rig.drain(60))
    #expect(rig.drain(60))
    rig.check()
  }

  /// A queue without a majority of its machines says nothing, and its broker sends heartbeats.
  @Test func tellsThatNothingIsConfirmed() {
    let rig = Rig(ScriptedBroker())
    rig.step()
    rig.pass(100)
    rig.add("a")
    rig.broker.isSilent = true
    for _ in 0..<3 { rig.step() }
    #expect(rig.box.stuck == nil && rig.words.isEmpty)
    rig.pass(31)
    rig.step()
    #expect(rig.box.stuck?.contains("confirmed nothing for 31 s") == true && rig.words.count == 1)
    rig.broker.isSilent = false
    #expect(rig.drain(3))
    #expect(rig.box.stuck == nil && rig.words.count == 2)
    // An alarm is told as one.
    rig.add("a")
    rig.broker.isSilent = true
    rig.step(0)
    rig.connection.notices = [.blocked("low on disk")]
    rig.step()
    rig.pass(100)
    rig.step()
    #expect(rig.box.stuck == nil && rig.box.blocked != nil)
  }

  // MARK: The rest

  @Test func sendsNothingWhileItIsBlocked() {
    let rig = Rig(ScriptedBroker())
    rig.step()
    rig.connection.notices = [.blocked("low on disk")]
    rig.step()
    #expect(rig.box.blocked == "low on disk")
    rig.add("a")
    for _ in 0..<5 { rig.step() }
    #expect(rig.broker.publishedCount == 0)
    rig.connection.notices = [.blocked(nil)]
    #expect(rig.drain(3))
    #expect(rig.box.blocked == nil && rig.words.count == 2)
  }

  @Test func handsDeliveriesOnAndSaysWhenTheirTagsAreOfNoMoreUse() {
    let rig = Rig(ScriptedBroker())
    rig.step()
    rig.connection.notices = [.delivery(BrokerDelivery(tag: 9, origin: "orders.0"))]
    rig.step()
    rig.box.accept([9])
    #expect(rig.connection.accepted == [9])
    rig.connection.failure = .away("gone")
    rig.step()
    // There is nobody to tell.
    rig.box.accept([9])
    rig.pass(1)
    rig.step()
    let words = rig.others.map { notice in
      switch notice {
      case .settled: "settled"
      case .delivery(let delivery): "delivery \(delivery.tag)"
      case .connected: "connected"
      case .disconnected: "disconnected"
      case .dropped: "dropped"
      }
    }
    #expect(words == ["connected", "delivery 9", "disconnected", "connected"])
  }

  @Test func takesNoMoreBytesThanItMay() {
    let rig = Rig(ScriptedBroker(), OutboxLimits(messagesMax: 1000, bytesMax: 10_000))
    var count = 0
    while rig.box.hasRoom {
      rig.add("a", bytes: 1500)
      count += 1
    }
    #expect(count == 5)
    #expect(rig.drain())
    #expect(rig.box.hasRoom)
    rig.check()
  }

  @Test func heedsNoWordOfWhatItHasNotSent() {
    let rig = Rig(ScriptedBroker())
    rig.add("a")
    rig.step(0)
    rig.connection.notices = [
      .confirmed(1), .confirmed(99), .confirmed(0), .refused(77, reason: "X", text: ""),
      .postponed(5, text: ""),
    ]
    rig.step()
    #expect(rig.settled == [1] && rig.box.isSettled && rig.box.stuck == nil)
  }
}
