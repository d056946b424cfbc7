internal import GRPC
internal import HTTP2
internal import Posix

/// When things happened to the open unary calls of one loop. A call costs two readings of the clock, in the
/// processor's registers and memory alone (vdso(7)), and four stores.
final class SlowCallMeter {
  /// nil: nobody wants to hear of them.
  private let calls: SlowCalls?
  /// From so many nanoseconds on a call is slow.
  let thresholdNanoseconds: Int64
  private let times = CallTable(empty: CallTimes())

  init(_ calls: SlowCalls?) {
    self.calls = calls
    thresholdNanoseconds = calls?.thresholdNanoseconds ?? .max
  }

  func note(_ call: SlowCall) { calls?.note(call) }

  /// The handler gets the call's message, or the first part of it.
  func begin(_ stream: HTTP2.Stream) {
    let times = unsafe times.call(stream.index)
    if unsafe times.pointee.began > 0 { return }
    unsafe times.pointee.opened = stream.openedNanoseconds
    unsafe times.pointee.began = SystemClock.monotonicNanoseconds()
  }

  /// The handler is done with it.
  func decided(_ stream: HTTP2.Stream) {
    unsafe times.call(stream.index).pointee.decided = SystemClock.monotonicNanoseconds()
  }

  /// The response waits for nothing.
  func releasedAtOnce(_ stream: HTTP2.Stream) {
    let times = unsafe times.call(stream.index)
    unsafe times.pointee.released = times.pointee.decided
  }

  /// The journal has what the response waited for.
  func released(_ stream: HTTP2.Stream, at nanoseconds: Int64) {
    unsafe times.call(stream.index).pointee.released = nanoseconds
  }

  /// What is known of a call that has ended, which is forgotten.
  func take(_ stream: HTTP2.Stream) -> CallTimes {
    let times = unsafe times.call(stream.index)
    let taken = unsafe times.pointee
    unsafe times.pointee = CallTimes()
    return taken
  }
}

extension Calls {
  /// A call has ended: notes it, where it took so long that the operator wants to hear of it. Calls that
  /// stream last as long as their clients like.
  @inline(never)
  func tellIfSlow(
    _ stream: HTTP2.Stream, _ notes: UnsafeMutableRawPointer, code: Int, _ latency: Int64
  ) {
    let taken = times.take(stream)
    let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
    guard latency >= times.thresholdNanoseconds, case .unary = unsafe context.pointee.type
    else { return }
    var call = unsafe SlowCall(
      method: Int(context.pointee.method), code: code, total: latency, times: taken,
      principal: context.pointee.principal, traceParent: context.pointee.traceParent)
    unsafe describe(stream, context, &call)
    recordSlowCall()
    times.note(call)
  }

  /// Finds what the call was about in its message, which was not consumed.
  private func describe(
    _ stream: HTTP2.Stream, _ context: UnsafeMutablePointer<CallContext>, _ call: inout SlowCall
  ) {
    let bytes = stream.unreadBytes
    guard bytes > Framing.prefixLength else { return }
    let method = call.method
    var described = call
    let isCompressed = stream.withBody { $0[0] != 0 }
    if isCompressed {
      guard unsafe inflate(stream, context, Framing.prefixLength..<bytes) == nil else { return }
      inflater.withMessage {
        handler.describe($0, method: method) { described.setSubject($0, $1) }
      }
    } else {
      stream.withBody {
        handler.describe($0.extracting(Framing.prefixLength...), method: method) {
          described.setSubject($0, $1)
        }
      }
    }
    call = described
  }
}
