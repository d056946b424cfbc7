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
    /// Of the state.
    var stateNumber: UInt8 = 0
    var isReplay = false
    /// What is kept was written of a hold that was just made.
    var isOfNewHold = false
    /// 0: nothing is kept.
    var count = 0
    var bytes = InlineArray<64, UInt8>(repeating: 0)
    /// A whole ReserveResult with it, as the loop's answers in a batch have it; 0: not made yet.
    var resultCount = 0
    var result = InlineArray<96, UInt8>(repeating: 0)
  }

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
  }

  deinit { unsafe state.deallocate() }

  /// expires_at = 2, replayed = 3, state = 6, remaining = 7.
  func write(_ hold: Hold, isReplay: Bool, to writer: ProtoWriter) {
    if keeps(hold, isReplay) {
      return unsafe writer.text(state.pointee.bytes.span.extracting(0..<state.pointee.count))
    }
    unsafe state.pointee.resultCount = 0
    let start = writer.count
    writer.field(2, hold.expiresAt)
    writer.field(3, isReplay)
    writer.field(6, UInt64(hold.state.rawValue))
    if case .held = hold.state { writer.field(7, seconds: hold.remainingNanoseconds) }
    unsafe state.pointee.expiresAt = hold.expiresAt.nanoseconds
    unsafe state.pointee.remaining = hold.remainingNanoseconds
    unsafe state.pointee.stateNumber = hold.state.rawValue
    unsafe state.pointee.isReplay = isReplay
    unsafe state.pointee.isOfNewHold = false
    writer.withBytes { bytes in
      let count = bytes.count - start
      unsafe state.pointee.count = count <= Self.bytesMax ? count : 0
      for index in 0..<min(count, Self.bytesMax) {
        unsafe state.pointee.bytes[index] = bytes[start + index]
      }
    }
  }

  @inline(__always)
  private func keeps(_ hold: Hold, _ isReplay: Bool) -> Bool {
    // By numbers: to compare the states themselves is a call through a table.
    unsafe state.pointee.count > 0 && state.pointee.expiresAt == hold.expiresAt.nanoseconds
      && state.pointee.remaining == hold.remainingNanoseconds
      && state.pointee.stateNumber == hold.state.rawValue && state.pointee.isReplay == isReplay
  }

  /// The same of a hold that was just made. Of one as before nothing but its numbers is looked at.
  func writeResult(of held: PreparedHold, now: Int64, to writer: ProtoWriter) {
    if unsafe state.pointee.isOfNewHold && state.pointee.expiresAt == held.expiresAt
      && state.pointee.remaining == held.expiresAt - now && state.pointee.resultCount > 0
    {
      return copyResult(held.id, to: writer)
    }
    let hold = Hold(
      id: held.id, expiresAt: Timestamp(nanoseconds: held.expiresAt), state: .held,
      remainingNanoseconds: held.expiresAt - now)
    writeResult(hold, isReplay: false, to: writer)
    unsafe state.pointee.isOfNewHold = state.pointee.count > 0
  }

  /// The result that is kept, with this id.
  @inline(__always)
  private func copyResult(_ id: ReservationID, to writer: ProtoWriter) {
    let count = unsafe state.pointee.resultCount
    let room = unsafe writer.room(count)
    // `room` has `count` bytes, and so much of `result` is there.
    unsafe withUnsafePointer(to: &state.pointee.result) {
      unsafe room.copyMemory(from: $0, byteCount: count)
    }
    let text = unsafe UnsafeMutableBufferPointer(
      start: (room + Self.idOffset).assumingMemoryBound(to: UInt8.self),
      count: ReservationID.textLength)
    var span = unsafe text.mutableSpan
    id.write(to: &span)
  }

  /// Writes a whole ReserveResult of a hold: results = 1, in it held = 1, in that the id = 1 and what `write`
  /// writes.
  func writeResult(_ hold: Hold, isReplay: Bool, to writer: ProtoWriter) {
    if unsafe keeps(hold, isReplay) && state.pointee.resultCount > 0 {
      return copyResult(hold.id, to: writer)
    }
    let start = writer.count
    let result = writer.begin(1)
    let held = writer.begin(1)
    writer.field(1, hold.id)
    write(hold, isReplay: isReplay, to: writer)
    writer.end(held)
    writer.end(result)
    writer.withBytes { bytes in
      let count = bytes.count - start
      // With lengths of more than a byte the id would stand elsewhere.
      guard unsafe state.pointee.count > 0 && count <= Self.resultBytesMax else { return }
      for index in 0..<count { unsafe state.pointee.result[index] = bytes[start + index] }
      unsafe state.pointee.resultCount = count
    }
  }

  private static let resultBytesMax = 96
  /// Behind three tags and three lengths of a byte each.
  private static let idOffset = 6
}
