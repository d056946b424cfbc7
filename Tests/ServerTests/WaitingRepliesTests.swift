import GRPC
import HTTP2
import Testing

@testable import Server

/// The queue by itself, against a plain array.
@Suite("Waiting replies")
struct WaitingRepliesTests {
  private struct Kept: Equatable {
    var stream: UInt32
    var lsn: UInt64
    var ends: Bool
    var kind: Reply.Kind
    var content: [UInt8]
    var details: [UInt8]
    var retryMilliseconds: Int32 = 0
    var isEnd = false
  }

  @Test("What was kept comes back, in order, whatever the sizes", arguments: [1, 2, 3, 4])
  func model(seed: UInt64) {
    var random = SplitMix(state: seed)
    let waiting = WaitingReplies(bytesMax: 1 << 20)
    var expected: [Kept] = []
    let reply = Reply()
    var lsn: UInt64 = 0
    for step in 0..<20_000 {
      // Phases of growing and shrinking: the memory grows, slides and empties.
      let keeps = Int(random.next() % 100) < (step / 2_000 % 2 == 0 ? 60 : 40)
      if keeps {
        lsn += random.next() % 3
        let kept = Self.makeReply(reply, stream: UInt32(step), lsn: lsn, &random)
        let stream = StreamID(index: kept.stream, generation: 7)
        if kept.isEnd {
          var end = kept
          end.lsn = expected.last?.lsn ?? 0
          let isKept = waiting.appendEnd(of: stream)
          #expect(isKept == !expected.isEmpty)
          if isKept { expected.append(end) }
        } else if waiting.append(reply, for: stream, lsn: lsn, ends: kept.ends) {
          expected.append(kept)
        }
      } else {
        let durable = lsn - min(lsn, random.next() % 4)
        let next = waiting.next(durableLSN: durable, into: reply)
        guard let first = expected.first, first.lsn <= durable else {
          #expect(next?.stream == nil)
          continue
        }
        expected.removeFirst()
        let given = Kept(
          stream: next?.stream.index ?? .max, lsn: first.lsn, ends: next?.ends ?? false,
          kind: reply.kind, content: reply.withContent(Self.array),
          details: reply.withDetails(Self.array),
          retryMilliseconds: reply.kind == .message ? 0 : reply.retryMilliseconds,
          isEnd: next?.isEnd ?? false)
        #expect(given == first, "seed \(seed), step \(step)")
      }
      let isEmpty = waiting.isEmpty
      #expect(isEmpty == expected.isEmpty)
    }
  }

  @Test("The limit counts what waits now, not what has gone through")
  func limit() {
    let waiting = WaitingReplies(bytesMax: 100_000)
    let reply = Reply()
    reply.append(Array(repeating: 1, count: 1000).span)
    let stream = StreamID(index: 1, generation: 1)
    for _ in 0..<10 {
      var count = 0
      while waiting.append(reply, for: stream, lsn: 1, ends: true) { count += 1 }
      #expect(count == 96)
      while waiting.next(durableLSN: 1, into: reply) != nil { count -= 1 }
      #expect(count == 0)
    }
  }

  private static func makeReply(
    _ reply: Reply, stream: UInt32, lsn: UInt64, _ random: inout SplitMix
  ) -> Kept {
    var kept = Kept(
      stream: stream, lsn: lsn, ends: random.next() % 2 == 0, kind: .message, content: [],
      details: [])
    let size = random.next() % 10 == 0 ? random.next() % 5_000 : random.next() % 90
    kept.content = (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    reply.reset()
    switch random.next() % 8 {
    case 0:
      kept = Kept(
        stream: stream, lsn: lsn, ends: true, kind: .message, content: [], details: [], isEnd: true)
    case 1, 2:
      kept.kind = .failure(.aborted)
      kept.details = (0..<random.next() % 70).map { UInt8($0) }
      kept.retryMilliseconds = Int32(random.next() % 3) * 250
      reply.fail(.aborted)
      reply.retryMilliseconds = kept.retryMilliseconds
      reply.append(kept.content.span)
      reply.beginDetails()
      reply.append(kept.details.span)
    default: reply.append(kept.content.span)
    }
    return kept
  }

  private static func array(_ span: Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }

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
