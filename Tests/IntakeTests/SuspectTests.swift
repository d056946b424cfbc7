// Orders that end the intake, again and again, and those that were in its hand with them.
import Messaging
import Testing

@testable import Intake

struct SuspectTests {
  /// They are found, each alone, and no other order comes to harm.
  @Test(arguments: [["o-7"], ["o-0", "o-13", "o-39"], ["o-38", "o-39"]] as [Set<String>])
  func buriesTheOrderThatEndsTheIntakeAndNoOther(_ killers: Set<String>) {
    for seed in UInt64(1)...4 {
      let rig = Rig(Faults(lateConfirmations: 20, killers: killers), seed: seed) {
        $0.deliveriesMax = 3
      }
      for number in 0..<40 { rig.put("o-\(number)", ["a", "b", "c", "d"][number % 4]) }
      #expect(rig.settle(), "\(rig.words.suffix(9))")
      #expect(Set(rig.broker.dead.map(\.id)) == killers)
      #expect(
        rig.broker.dead.allSatisfy { letter in
          letter.attributes.contains { $0.value == "DELIVERED_TOO_OFTEN" }
        })
      rig.checkAnswers(but: killers)
      rig.checkOrder()
      #expect(rig.words.contains { $0.contains("are tried one by one") })
      // And on as ever.
      rig.put("late")
      #expect(rig.settle())
      #expect(rig.server.decisions["late"] != nil)
    }
  }

  /// The intake ends for other reasons, too: what is decided alone is no culprit.
  @Test func anIntakeThatEndsOftenBuriesNothing() {
    let rig = Rig(stock: ["a": 1000, "b": 1000]) { $0.deliveriesMax = 3 }
    for round in 0..<12 {
      rig.put("o-\(round)", "a")
      rig.put("p-\(round)", "b")
      rig.turn(1)
      rig.kill()
    }
    #expect(rig.settle())
    rig.checkAnswers()
    rig.checkOrder()
    #expect(rig.broker.dead.isEmpty && rig.metric("holdfast_intake_suspects_total")! > 0)
  }

  /// They wait in their queue while no server decides: nothing that ends meanwhile counts against one.
  @Test func suspectsAreNotInHandWithoutAServer() {
    let rig = Rig { $0.deliveriesMax = 3 }
    for number in 0..<5 { rig.put("o-\(number)") }
    for _ in 0..<4 {
      rig.turn(1)
      rig.kill()
    }
    rig.server.faults.serverUnreachable = 100
    for _ in 0..<10 {
      rig.turn(50)
      #expect(rig.metric("holdfast_intake_in_hand") == 0)
      rig.kill()
    }
    rig.server.faults.serverUnreachable = 0
    #expect(rig.settle())
    rig.checkAnswers()
    #expect(rig.broker.dead.isEmpty)
  }

  /// An intake that ends for good leaves suspects: others, which know of none, take them.
  @Test func suspectsOfAnotherIntakeAreTaken() {
    let rig = Rig()
    rig.put("o-1")
    #expect(rig.settle())
    rig.putBody(Rig.json("o-2", "a", 1), id: "o-2", origin: OrderBroker.suspects)
    rig.turn(300)
    #expect(rig.server.decisions["o-2"] == nil)
    rig.metrics.publish(depths: [OrderBroker.suspects: 1], at: rig.time.now)
    #expect(rig.settle())
    #expect(rig.server.decisions["o-2"] != nil && rig.broker.dead.isEmpty)
    rig.put("o-3")
    #expect(rig.settle())
    rig.checkAnswers()
  }

  /// Another intake has them, and is their one consumer: this one goes on with orders.
  @Test func othersTrySuspectsMeanwhile() {
    let rig = Rig(Faults(keepsSuspects: true))
    rig.putBody(Rig.json("o-2", "a", 1), id: "o-2", origin: OrderBroker.suspects)
    rig.put("o-1")
    rig.turn { $0.server.decisions["o-1"] != nil }
    #expect(rig.broker.connections == 2)
    rig.broker.faults.keepsSuspects = false
    rig.metrics.publish(depths: [OrderBroker.suspects: 1], at: rig.time.now)
    #expect(rig.settle())
    #expect(rig.server.decisions["o-2"] != nil)
  }

  /// Where nobody has made that queue, they go to the dead letters as soon as they are suspects.
  @Test func withoutAQueueForSuspectsTheyAreBuried() {
    let rig = Rig(Faults(hasNoSuspects: true)) { $0.deliveriesMax = 3 }
    rig.put("o-1")
    for _ in 0..<3 {
      rig.turn(1)
      rig.kill()
    }
    #expect(rig.settle())
    #expect(rig.broker.dead.map(\.id) == ["o-1"])
    let text = rig.broker.dead[0].attributes.first { $0.name == "deadtext" }?.value
    #expect(text?.contains("without a queue orders.suspects") == true)
  }
}
