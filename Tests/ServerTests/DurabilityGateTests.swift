import HTTP2
import Testing

@testable import Server

/// The queue by itself, against a plain array.
@Suite("Durability gate")
struct DurabilityGateTests {
  private struct Kept: Equatable {
    var index: UInt32
    var generation: UInt32
    var lsn: UInt64
    var position: Int

    init(_ entry: DurabilityGate.Entry) {
      index = entry.stream.index
      generation = entry.stream.generation
      lsn = entry.lsn
      position = entry.position
    }

    init(_ step: Int, lsn: UInt64, _ random: inout SplitMix) {
      index = UInt32(step)
      generation = UInt32(truncatingIfNeeded: random.next())
      self.lsn = lsn
      position = Int(random.next() >> 1)
    }

    var entry: DurabilityGate.Entry {
      DurabilityGate.Entry(
        stream: StreamID(index: index, generation: generation), lsn: lsn, position: position)
    }
  }

  @Test("What was kept comes back, in order, as far as it is durable", arguments: 0..<8)
  func model(seed: UInt64) {
    var random = SplitMix(state: seed)
    let gate = DurabilityGate()
    var expected: [Kept] = []
    var head = 0
    var lsn: UInt64 = 0
    for step in 0..<60_000 {
      // Phases of growing and shrinking: it wraps around, grows with its front anywhere, and empties.
      let keeps = Int(random.next() % 100) < (step / 10_000 % 2 == 0 ? 70 : 20)
      if keeps {
        // Mostly rising; one that is lower waits behind those before it all the same.
        lsn += random.next() % 3
        let own = random.next() % 10 == 0 ? lsn - min(lsn, random.next() % 5) : lsn
        let kept = Kept(step, lsn: own, &random)
        gate.append(kept.entry)
        expected.append(kept)
      } else {
        let durable = lsn - min(lsn, random.next() % 4)
        let next = gate.next(durableLSN: durable).map { Kept($0) }
        let first = head < expected.count ? expected[head] : nil
        if let first, first.lsn <= durable {
          #expect(next == first, "seed \(seed), step \(step)")
          head += 1
        } else {
          #expect(next == nil, "seed \(seed), step \(step)")
        }
      }
      let isEmpty = gate.isEmpty
      #expect(isEmpty == (head == expected.count))
    }
    while let next = gate.next(durableLSN: .max) {
      #expect(Kept(next) == expected[head])
      head += 1
    }
    #expect(head == expected.count)
  }

  @Test("It grows with its front at any place", arguments: [0, 1, 1023, 1024, 1500])
  func growth(front: Int) {
    let gate = DurabilityGate()
    for number in 0..<front {
      gate.append(Self.entry(number))
      let taken = gate.next(durableLSN: .max)?.position
      #expect(taken == number)
    }
    for number in 0..<5000 { gate.append(Self.entry(number)) }
    let before = gate.next(durableLSN: 6)?.position
    #expect(before == nil)
    for number in 0..<5000 {
      let taken = gate.next(durableLSN: 7)?.position
      #expect(taken == number)
    }
    let isEmpty = gate.isEmpty
    #expect(isEmpty)
  }

  private static func entry(_ position: Int) -> DurabilityGate.Entry {
    DurabilityGate.Entry(stream: StreamID(index: 1, generation: 1), lsn: 7, position: position)
  }
}

/// The same numbers for the same seed.
private struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}
