// Unary calls that took longer than the operator wants to hear of. The loops write no log: they leave a note
// here, and another thread takes them now and then.
package import GRPC
internal import Synchronization

/// One such call, and where its time went.
package struct SlowCall: BitwiseCopyable, Sendable {
  /// Longest name of what it is about, in bytes; what is longer is cut.
  package static let subjectBytesMax = 64

  /// By the handler's number; -1 where it means none.
  package let method: Int
  /// The gRPC status.
  package let code: Int
  /// From its header block to the last byte of its response, all in nanoseconds.
  package let total: Int64
  /// Until the handler had it: the rest of its message came, and calls before it were executed.
  package let queue: Int64
  /// In the handler.
  package let decide: Int64
  /// Until the journal had what it decided, or had seen.
  package let durability: Int64
  package let principal: Principal
  package let traceParent: TraceParent
  package fileprivate(set) var subjectKind = CallSubject.sku
  private var subjectBytes = InlineArray<64, UInt8>(repeating: 0)
  private var subjectCount = 0

  init(
    method: Int, code: Int, total: Int64, times: CallTimes, principal: Principal,
    traceParent: TraceParent
  ) {
    self.method = method
    self.code = code
    self.total = total
    queue = times.isExecuted ? max(0, times.began - times.opened) : total
    decide = times.isExecuted ? max(0, times.decided - times.began) : 0
    durability = times.released > 0 ? max(0, times.released - times.decided) : 0
    self.principal = principal
    self.traceParent = traceParent
  }

  mutating func setSubject(_ kind: CallSubject, _ bytes: Span<UInt8>) {
    subjectKind = kind
    subjectCount = min(bytes.count, Self.subjectBytesMax)
    for index in 0..<subjectCount { subjectBytes[index] = bytes[index] }
  }

  /// What it is about, as the client sent it; empty where that is not known.
  package var subject: [UInt8] { (0..<subjectCount).map { subjectBytes[$0] } }
}

/// When things happened to one call, in monotonic nanoseconds; 0: not yet.
struct CallTimes: BitwiseCopyable {
  var opened: Int64 = 0
  var began: Int64 = 0
  var decided: Int64 = 0
  var released: Int64 = 0

  var isExecuted: Bool { decided > 0 }
}

/// Collects what all loops note.
package final class SlowCalls: Sendable {
  /// So many are kept between two calls of `take`; of the others it is only known that they were.
  package static let keptMax = 10

  /// From so many nanoseconds on a call is slow.
  package let thresholdNanoseconds: Int64

  private struct Notes {
    var calls: [SlowCall] = []
    var suppressed = 0
  }

  private let notes: Mutex<Notes>

  package init(thresholdNanoseconds: Int64) {
    self.thresholdNanoseconds = thresholdNanoseconds
    var empty = Notes()
    empty.calls.reserveCapacity(Self.keptMax)
    notes = Mutex(empty)
  }

  /// Any thread; does not allocate, and waits for no more than a copy of ten notes.
  func note(_ call: SlowCall) {
    notes.withLock { notes in
      if notes.calls.count < Self.keptMax {
        notes.calls.append(call)
      } else {
        notes.suppressed += 1
      }
    }
  }

  /// What was noted since the last call, and how many calls more there were.
  package func take() -> (calls: [SlowCall], suppressed: Int) {
    // Made before the lock is taken.
    var fresh: [SlowCall] = []
    fresh.reserveCapacity(Self.keptMax)
    return notes.withLock { notes in
      let taken = (notes.calls, notes.suppressed)
      notes.calls = fresh
      notes.suppressed = 0
      return taken
    }
  }
}
