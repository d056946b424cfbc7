internal import HTTP2

/// Responses that are written and must not be seen yet, oldest first: each waits until the journal is
/// durable up to its log sequence number. The bytes lie in their streams already; what waits here is where
/// they end. One behind another that still waits, waits with it: numbers rise, so that costs one sync at
/// most.
@safe struct DurabilityGate: ~Copyable {
  struct Entry: BitwiseCopyable {
    let stream: StreamID
    let lsn: UInt64
    /// Where the response ends among the stream's outgoing bytes.
    let position: Int
  }

  private static let capacityAtFirst = 1024

  @unsafe private struct State {
    var entries: UnsafeMutablePointer<Entry>
    /// A power of two.
    var capacity: Int
    /// Entries that were ever taken and added; they lie at these numbers modulo the capacity.
    var taken = 0
    var added = 0
  }

  // Behind a constant pointer: properties of a class, the loop's calls, are checked for exclusive access
  // at every use.
  private let state: UnsafeMutablePointer<State>

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(
        entries: .allocate(capacity: Self.capacityAtFirst), capacity: Self.capacityAtFirst))
  }

  deinit {
    unsafe state.pointee.entries.deallocate()
    unsafe state.deallocate()
  }

  var isEmpty: Bool { unsafe state.pointee.taken == state.pointee.added }

  /// There are as many as streams and their queued messages: both have their limits.
  func append(_ entry: Entry) {
    if unsafe state.pointee.added - state.pointee.taken == state.pointee.capacity { grow() }
    let place = unsafe state.pointee.added & (state.pointee.capacity - 1)
    unsafe (state.pointee.entries + place).initialize(to: entry)
    unsafe state.pointee.added += 1
  }

  /// Takes out the oldest entry, if it may be seen.
  func next(durableLSN: UInt64) -> Entry? {
    if isEmpty { return nil }
    let place = unsafe state.pointee.taken & (state.pointee.capacity - 1)
    let entry = unsafe state.pointee.entries[place]
    guard entry.lsn <= durableLSN else { return nil }
    unsafe state.pointee.taken += 1
    return entry
  }

  private func grow() {
    let (old, capacity) = unsafe (state.pointee.entries, state.pointee.capacity)
    let larger = UnsafeMutablePointer<Entry>.allocate(capacity: capacity * 2)
    for offset in 0..<capacity {
      let from = unsafe (state.pointee.taken + offset) & (capacity - 1)
      unsafe (larger + offset).initialize(to: old[from])
    }
    unsafe old.deallocate()
    unsafe state.pointee.entries = larger
    unsafe state.pointee.capacity = capacity * 2
    unsafe state.pointee.added = capacity
    unsafe state.pointee.taken = 0
  }
}
