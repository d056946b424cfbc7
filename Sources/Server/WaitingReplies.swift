internal import GRPC
internal import HTTP2

/// Replies that wait until the journal is durable up to their log sequence number, oldest first. A
/// reply behind one that still waits, waits with it: numbers rise, so that costs one sync at most.
@safe struct WaitingReplies: ~Copyable {
  private struct Entry {
    let stream: StreamID
    let lsn: UInt64
    let ends: Bool
    /// nil: a message; otherwise the code of a failure.
    let failure: StatusCode?
    /// nil: a reply; otherwise the end of a streaming call.
    let end: StatusCode?
    let contentCount: Int
    let detailsCount: Int
  }

  /// The front is cut off when it is this long and more than half of all: amortised, a byte a byte.
  private static let compactionBytes = 64 * 1024

  private var entries: [Entry] = []
  private var firstEntry = 0
  private var bytes: [UInt8] = []
  private var firstByte = 0
  private let bytesMax: Int

  init(bytesMax: Int) { self.bytesMax = bytesMax }

  var isEmpty: Bool { firstEntry == entries.count }

  /// Keeps a copy of `reply`; false where the limit is reached.
  mutating func append(_ reply: Reply, for stream: StreamID, lsn: UInt64, ends: Bool) -> Bool {
    let before = bytes.count
    let bytesMax = bytesMax + firstByte
    var failure: StatusCode?
    if case .failure(let code) = reply.kind { failure = code }
    reply.withContent { content in
      for index in content.indices { bytes.append(content[index]) }
    }
    let contentCount = bytes.count - before
    reply.withDetails { details in
      for index in details.indices { bytes.append(details[index]) }
    }
    guard bytes.count <= bytesMax else {
      bytes.removeLast(bytes.count - before)
      return false
    }
    entries.append(
      Entry(
        stream: stream, lsn: lsn, ends: ends, failure: failure, end: nil,
        contentCount: contentCount,
        detailsCount: bytes.count - before - contentCount))
    return true
  }

  /// Keeps the end of a streaming call behind everything that waits; false where nothing does.
  mutating func appendEnd(of stream: StreamID, _ code: StatusCode) -> Bool {
    guard let last = entries.last, !isEmpty else { return false }
    entries.append(
      Entry(
        stream: stream, lsn: last.lsn, ends: true, failure: nil, end: code, contentCount: 0,
        detailsCount: 0))
    return true
  }

  /// What may be sent now.
  struct Next {
    let stream: StreamID
    /// The reply ends its call.
    let ends: Bool
    /// Not a reply but the end of a streaming call.
    let end: StatusCode?
  }

  /// Puts the oldest reply that may be sent into `reply`, and says what it is; nil where there is none.
  mutating func next(durableLSN: UInt64, into reply: Reply) -> Next? {
    guard !isEmpty, entries[firstEntry].lsn <= durableLSN else { return nil }
    let entry = entries[firstEntry]
    if let failure = entry.failure { reply.fail(failure) } else { reply.reset() }
    let middle = firstByte + entry.contentCount
    let end = middle + entry.detailsCount
    reply.append(bytes.span.extracting(firstByte..<middle))
    if entry.failure != nil {
      reply.beginDetails()
      reply.append(bytes.span.extracting(middle..<end))
    }
    firstEntry += 1
    firstByte = end
    // Capacity is kept: the queue fills again in the next turn.
    if isEmpty || firstByte > Self.compactionBytes && firstByte * 2 > bytes.count {
      entries.removeFirst(firstEntry)
      bytes.removeFirst(firstByte)
      firstEntry = 0
      firstByte = 0
    }
    return Next(stream: entry.stream, ends: entry.ends, end: entry.end)
  }
}
