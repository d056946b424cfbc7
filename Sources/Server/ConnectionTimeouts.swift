internal import HTTP2
internal import Metrics

/// How long a connection may take for what only its peer can do.
struct ConnectionTimeouts {
  /// How long a peer has to end its side after we ended ours.
  private static let lingerNanoseconds: Int64 = 1_000_000_000

  enum Verdict: Equatable {
    case inTime
    /// The peer had its time, and did nothing wrong.
    case over
    /// The connection is cut off for what the peer did not do.
    case abuse(ConnectionAbuse)
    /// The same, and the peer is told why.
    case fault(ConnectionFault)
  }

  private let handshakeNanosecondsMax: Int64
  private let stalledWriteNanosecondsMax: Int64

  init(_ limits: ServerLimits) {
    handshakeNanosecondsMax = limits.handshakeNanosecondsMax
    stalledWriteNanosecondsMax = limits.stalledWriteNanosecondsMax
  }

  func verdict(_ connection: Connection, at nowNanoseconds: Int64) -> Verdict {
    if let since = connection.lingersSinceNanoseconds {
      return nowNanoseconds - since > Self.lingerNanoseconds ? .over : .inTime
    }
    if !(connection.session?.isEstablished ?? false),
      nowNanoseconds - connection.openedNanoseconds > handshakeNanosecondsMax
    {
      return .abuse(.handshakeTimeout)
    }
    if connection.isWatchedForWriting,
      nowNanoseconds - connection.progressNanoseconds > stalledWriteNanosecondsMax
    {
      return .abuse(.slowReader)
    }
    // While we do not read, nothing can become whole.
    if !connection.isReadingPaused, let since = connection.session?.unfinishedSinceNanoseconds,
      nowNanoseconds - max(since, connection.resumedNanoseconds) > handshakeNanosecondsMax
    {
      return .fault(.unfinishedFrame)
    }
    return .inTime
  }
}
