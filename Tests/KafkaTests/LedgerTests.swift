// Which position of a partition may be told.
import Testing

@testable import Kafka

struct LedgerTests {
  private let partition = TopicPartition(topic: "orders", number: 3)

  private func positions(_ ledger: inout DeliveryLedger) -> [Int64] {
    ledger.positionsToTell().map(\.offset)
  }

  @Test func tellsAPositionWhenEverythingBeforeItIsAccepted() throws {
    var ledger = DeliveryLedger()
    let assignment = ledger.assign(partition)
    // Offsets have gaps, where a topic was compacted.
    let tags = [10, 11, 15, 16].map { ledger.deliver($0, of: assignment)! }
    #expect(Set(tags).count == 4)
    ledger.accept(tags[2])
    ledger.accept(tags[1])
    #expect(positions(&ledger) == [])
    #expect(ledger.unaccepted == 2)
    ledger.accept(tags[0])
    #expect(positions(&ledger) == [16])
    #expect(positions(&ledger) == [])
    ledger.accept(tags[3])
    ledger.accept(tags[3])
    #expect(positions(&ledger) == [17])
    #expect(ledger.unaccepted == 0 && ledger.waiting(in: assignment) == 0)
  }

  @Test func tellsAgainWhatWasNotTaken() throws {
    var ledger = DeliveryLedger()
    let assignment = ledger.assign(partition)
    let tags = (0..<3).map { ledger.deliver($0, of: assignment)! }
    ledger.accept(tags[0])
    #expect(positions(&ledger) == [1])
    ledger.told(partition, 1, isTaken: false)
    #expect(positions(&ledger) == [1])
    ledger.told(partition, 1, isTaken: true)
    #expect(positions(&ledger) == [])
    ledger.accept(tags[1])
    #expect(positions(&ledger) == [2])
    ledger.accept(tags[2])
    #expect(positions(&ledger) == [3])
    // An older attempt says nothing of a newer one.
    ledger.told(partition, 2, isTaken: false)
    #expect(positions(&ledger) == [])
  }

  @Test func forgetsAPartitionThatIsRevoked() throws {
    var ledger = DeliveryLedger()
    let (first, other) = (
      ledger.assign(partition), ledger.assign(TopicPartition(topic: "orders", number: 4))
    )
    let tag = ledger.deliver(5, of: first)!
    _ = ledger.deliver(9, of: other)!
    ledger.revoke(first)
    #expect(ledger.unaccepted == 1)
    #expect(ledger.deliver(6, of: first) == nil)
    // Assigned again, it delivers the same message under another tag; the old one is nobody's.
    let again = ledger.assign(partition)
    let second = ledger.deliver(5, of: again)!
    #expect(second != tag)
    ledger.accept(tag)
    #expect(positions(&ledger) == [] && ledger.unaccepted == 2)
    ledger.accept(second)
    #expect(positions(&ledger) == [6])
    for strange in [0, 1, UInt64.max, second + 1, second + 1 << 40] { ledger.accept(strange) }
    #expect(ledger.unaccepted == 1)
  }

  /// Against a list that is searched from its beginning.
  @Test func countsAsAListDoes() throws {
    var ledger = DeliveryLedger()
    let assignment = ledger.assign(partition)
    var random = Numbers(seed: 7)
    var open: [(tag: UInt64, offset: Int64)] = []
    var next: Int64 = 0
    var told: Int64?
    for _ in 0..<20_000 {
      if random.next() % 2 == 0 || open.isEmpty {
        next += Int64(random.next() % 3) + 1
        open.append((ledger.deliver(next, of: assignment)!, next))
      } else {
        // Near the beginning mostly, so that the prefix moves.
        let index = Int(random.next() % UInt64(min(open.count, 8)))
        ledger.accept(open.remove(at: index).tag)
      }
      #expect(ledger.unaccepted == open.count)
      if let position = ledger.positionsToTell().first?.offset { told = position }
      if let told {
        #expect(open.first.map { told <= $0.offset } ?? (told == next + 1))
      }
    }
    #expect(told != nil)
  }
}
