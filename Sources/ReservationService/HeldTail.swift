// What a ReserveResponse says beside the id: in one iteration the same to all whose ttl is the same.
internal import Bytes
internal import Posix
internal import StockStore

/// Writes it, and copies it where the hold before had the same.
@safe final class HeldTail {
  private static let bytesMax = 64

  // Behind a constant pointer: properties of a class are checked for exclusive access at every use.
  private let state: UnsafeMutablePointer<State>

  private struct State {
    var expiresAt: Int64 = 0
    var remaining: Int64 = 0
    var state = ReservationState.held
    var isReplay = false
    /// 0: nothing is kept.
    var count = 0
    var bytes = InlineArray<64, UInt8>(repeating: 0)
  }

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
  }

  deinit { unsafe state.deallocate() }

  /// expires_at = 2, replayed = 3, state = 6, remaining = 7.
  func write(_ hold: Hold, isReplay: Bool, to writer: ProtoWriter) {
    if unsafe state.pointee.count > 0 && state.pointee.expiresAt == hold.expiresAt.nanoseconds
      && state.pointee.remaining == hold.remainingNanoseconds
      && state.pointee.state == hold.state && state.pointee.isReplay == isReplay
    {
      return unsafe writer.text(state.pointee.bytes.span.extracting(0..<state.pointee.count))
    }
    let start = writer.count
    writer.field(2, hold.expiresAt)
    writer.field(3, isReplay)
    writer.field(6, UInt64(hold.state.rawValue))
    if case .held = hold.state { writer.field(7, seconds: hold.remainingNanoseconds) }
    unsafe state.pointee.expiresAt = hold.expiresAt.nanoseconds
    unsafe state.pointee.remaining = hold.remainingNanoseconds
    unsafe state.pointee.state = hold.state
    unsafe state.pointee.isReplay = isReplay
    writer.withBytes { bytes in
      let count = bytes.count - start
      unsafe state.pointee.count = count <= Self.bytesMax ? count : 0
      for index in 0..<min(count, Self.bytesMax) {
        unsafe state.pointee.bytes[index] = bytes[start + index]
      }
    }
  }
}
