/// How often a peer may do something that costs us more than it costs the peer: `burst` at once, then
/// `perSecond`. A peer that spends more is told ENHANCE_YOUR_CALM and cut off.
package struct Budget: Sendable {
  package var burst: Int64
  package var perSecond: Int64

  package init(burst: Int64, perSecond: Int64) {
    self.burst = burst
    self.perSecond = perSecond
  }
}

/// The limits of a server's HTTP/2 side. The values and the reasons for them stand in the executable's
/// Limits.swift.
package struct HTTP2Limits: Sendable {
  /// SETTINGS_MAX_CONCURRENT_STREAMS.
  package var concurrentStreams: Int
  /// Decoded header list of one request, in bytes as RFC 9113 section 6.5.2 counts them.
  package var headerListBytesMax: Int
  /// One header block as it is sent, in bytes. A call whose list is too long is rejected; a block beyond
  /// this, or one that decodes to four times as much, ends the connection.
  package var headerBlockBytesMax: Int
  /// SETTINGS_HEADER_TABLE_SIZE: HPACK's dynamic table for what the peer sends, 4,096 to 65,535 bytes.
  package var headerTableBytes: Int
  /// Bodies and responses that one context keeps beside the inline buffers of its streams, in bytes.
  package var bufferedBytesMax: Int
  /// Receive windows of a connection and of a stream, in bytes (RFC 9113 section 6.9).
  package var connectionWindowBytes: Int32
  package var streamWindowBytes: Int32
  /// Streams reset, by either side: rapid reset (CVE-2023-44487) and MadeYouReset (CVE-2025-8671).
  package var resets: Budget
  /// PING frames; gRPC clients send them to measure bandwidth.
  package var pings: Budget
  /// SETTINGS frames.
  package var settings: Budget
  /// Frames without effect: empty DATA, PRIORITY.
  package var emptyFrames: Budget
  /// DATA and HEADERS frames on streams that we reset, which are read and dropped.
  package var lateFrames: Budget
  /// Requests that are answered before they are whole.
  package var drain: DrainLimits

  package init(
    concurrentStreams: Int, headerListBytesMax: Int, headerBlockBytesMax: Int,
    headerTableBytes: Int, bufferedBytesMax: Int,
    connectionWindowBytes: Int32, streamWindowBytes: Int32, resets: Budget, pings: Budget,
    settings: Budget, emptyFrames: Budget, lateFrames: Budget, drain: DrainLimits
  ) {
    self.concurrentStreams = concurrentStreams
    self.headerListBytesMax = headerListBytesMax
    self.headerBlockBytesMax = headerBlockBytesMax
    self.headerTableBytes = headerTableBytes
    self.bufferedBytesMax = bufferedBytesMax
    self.connectionWindowBytes = connectionWindowBytes
    self.streamWindowBytes = streamWindowBytes
    self.resets = resets
    self.pings = pings
    self.settings = settings
    self.emptyFrames = emptyFrames
    self.lateFrames = lateFrames
    self.drain = drain
  }
}

/// Why a connection is cut off.
package enum ConnectionFault: Error, Equatable, Sendable {
  case resetFlood
  case pingFlood
  case settingsFlood
  case emptyFrameFlood
  /// The peer goes on with streams that we reset, long after it must have heard of it.
  case lateFrameFlood
  /// A header list so far over the limit that reading on would only cost.
  case headerListFlood
  /// Acknowledgements and resets pile up, and the peer does not read them.
  case controlFlood
  /// A frame or a header block that was begun does not come to its end.
  case unfinishedFrame
  /// The peer breaks RFC 9113 in a way that concerns the whole connection.
  case protocolViolation(ErrorCode)

  /// What the GOAWAY frame says.
  var code: ErrorCode {
    if case .protocolViolation(let code) = self { return code }
    return .enhanceYourCalm
  }

  /// The debug data of the GOAWAY frame.
  var debugText: StaticString {
    switch self {
    // gRPC's clients look for exactly this, and then send fewer (gRFC A8).
    case .pingFlood: "too_many_pings"
    case .resetFlood: "too_many_resets"
    case .settingsFlood: "too_many_settings"
    case .emptyFrameFlood: "too_many_empty_frames"
    case .lateFrameFlood: "too_many_frames_on_streams_that_were_reset"
    case .headerListFlood: "header_list_too_large"
    case .controlFlood: "acknowledgements_not_read"
    case .unfinishedFrame: "frame_timeout"
    case .protocolViolation: ""
    }
  }
}

/// A budget while it is spent: a token bucket (clock injected, nanoseconds).
struct TokenBucket {
  private var tokens: Int64
  private var refilledNanoseconds: Int64

  init(_ budget: Budget, nowNanoseconds: Int64) {
    tokens = budget.burst
    refilledNanoseconds = nowNanoseconds
  }

  /// Takes one token; throws `fault` where there is none.
  mutating func spend(
    _ budget: Budget, nowNanoseconds: Int64, orFail fault: ConnectionFault
  ) throws(ConnectionFault) {
    guard spend(budget, nowNanoseconds: nowNanoseconds) else { throw fault }
  }

  /// Takes one token; false where there is none.
  mutating func spend(_ budget: Budget, nowNanoseconds: Int64) -> Bool {
    spend(1, budget, nowNanoseconds: nowNanoseconds)
  }

  /// Takes so many tokens; false where there are not as many, and then it takes none.
  mutating func spend(_ count: Int64, _ budget: Budget, nowNanoseconds: Int64) -> Bool {
    let second: Int64 = 1_000_000_000
    let interval = budget.perSecond > 0 ? max(1, second / budget.perSecond) : .max
    let fresh = max(0, nowNanoseconds - refilledNanoseconds) / interval
    if fresh > 0 {
      tokens = min(budget.burst, tokens + min(fresh, budget.burst))
      // What is left of the last interval counts for the next token.
      refilledNanoseconds += fresh * interval
    }
    guard tokens >= count else { return false }
    tokens -= count
    return true
  }

  /// Tokens that were taken were not needed.
  mutating func giveBack(_ count: Int64, _ budget: Budget) {
    tokens = min(budget.burst, tokens + count)
  }
}
