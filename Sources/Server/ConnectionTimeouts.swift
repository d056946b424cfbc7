// How long a connection may take for what only its peer can do, and how long it lives.
internal import HTTP2
internal import Metrics

/// Judges by the clock alone; the loop does what is to be done.
struct ConnectionTimeouts {
  /// How long a peer has to end its side after we ended ours.
  private static let lingerNanoseconds: Int64 = 1_000_000_000
  /// A round trip's worth of time between the two GOAWAY frames (RFC 9113 section 6.8).
  static let noticeNanoseconds: Int64 = 100_000_000

  enum Verdict: Equatable {
    case inTime
    /// The peer had its time, and did nothing wrong.
    case over
    /// The connection is cut off for what the peer did not do.
    case abuse(ConnectionAbuse)
    /// The same, and the peer is told why.
    case fault(ConnectionFault)
    /// Nothing has come for long: ask whether the peer is there.
    case ping
    /// It is old or idle: tell the peer to go elsewhere.
    case drain
    /// The peer has had time to read that.
    case refuseNewStreams
    /// Calls have had their time since then.
    case cutOff
  }

  private let handshakeNanosecondsMax: Int64
  private let stalledWriteNanosecondsMax: Int64
  private let policy: ConnectionPolicy

  init(_ limits: ServerLimits) {
    handshakeNanosecondsMax = limits.handshakeNanosecondsMax
    stalledWriteNanosecondsMax = limits.stalledWriteNanosecondsMax
    policy = limits.connectionPolicy
  }

  /// When a connection that is opened now is to be ended; `.max`: never. `random` is any number.
  func end(openedNanoseconds now: Int64, random: UInt64) -> Int64 {
    let age = policy.ageNanoseconds
    guard age > 0 else { return .max }
    let span = UInt64(age / 5)
    return now + age - Int64(span / 2) + Int64(span > 0 ? random % span : 0)
  }

  func verdict(_ connection: Connection, at now: Int64) -> Verdict {
    if let since = connection.lingersSinceNanoseconds {
      return now - since > Self.lingerNanoseconds ? .over : .inTime
    }
    guard let http = connection.http, http.isEstablished else {
      return now - connection.openedNanoseconds > handshakeNanosecondsMax
        ? .abuse(.handshakeTimeout) : .inTime
    }
    if connection.isWatchedForWriting,
      now - connection.progressNanoseconds > stalledWriteNanosecondsMax
    {
      return .abuse(.slowReader)
    }
    // While we do not read, nothing can become whole.
    if !connection.isReadingPaused, let since = http.unfinishedSinceNanoseconds,
      now - max(since, connection.resumedNanoseconds) > handshakeNanosecondsMax
    {
      return .fault(.unfinishedFrame)
    }
    return life(of: connection, isIdle: http.streamCount == 0, at: now)
  }

  private func life(of connection: Connection, isIdle: Bool, at now: Int64) -> Verdict {
    if let since = connection.drainsSinceNanoseconds {
      if !connection.refusesStreams && now - since >= Self.noticeNanoseconds {
        return .refuseNewStreams
      }
      // A connection without calls ends by itself.
      let grace = max(policy.ageGraceNanoseconds, Self.noticeNanoseconds)
      return connection.refusesStreams && now - since >= grace ? .cutOff : .inTime
    }
    if now >= connection.endNanoseconds { return .drain }
    if policy.idleNanoseconds > 0, isIdle,
      now - connection.idleSinceNanoseconds >= policy.idleNanoseconds
    {
      return .drain
    }
    return silence(of: connection, at: now)
  }

  private func silence(of connection: Connection, at now: Int64) -> Verdict {
    guard policy.keepaliveNanoseconds > 0, !connection.isReadingPaused else { return .inTime }
    let heard = max(connection.readNanoseconds, connection.resumedNanoseconds)
    if connection.pingedNanoseconds > heard {
      return now - connection.pingedNanoseconds >= policy.keepaliveTimeoutNanoseconds
        ? .abuse(.keepaliveTimeout) : .inTime
    }
    return now - heard >= policy.keepaliveNanoseconds ? .ping : .inTime
  }
}
