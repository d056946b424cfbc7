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

  private let entries = RingQueue<Entry>(capacity: 1024)

  var isEmpty: Bool { entries.count == 0 }

  /// There are as many as streams and their queued messages: both have their limits.
  func append(_ entry: Entry) { entries.append(entry) }

  /// Takes out the oldest entry, if it may be seen.
  func next(durableLSN: UInt64) -> Entry? {
    guard let entry = entries.first, entry.lsn <= durableLSN else { return nil }
    entries.removeFirst()
    return entry
  }
}
