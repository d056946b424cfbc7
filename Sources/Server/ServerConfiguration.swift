package import HTTP2

/// Limits of the server's connections. The values and the reasons for them stand in the executable's
/// Limits.swift.
package struct ServerLimits: Sendable {
  package var http2: HTTP2Limits
  /// Longest request message in bytes, and that of a batched method.
  package var messageBytesMax: Int
  package var batchMessageBytesMax = 1024 * 1024
  /// Connections of the whole server.
  package var connectionsMax: Int
  /// Answers that a connection may owe before it is no longer read, in bytes.
  package var unsentBytesMax: Int
  /// A new connection's time to send its HTTP/2 preface and SETTINGS, and a peer's to finish a frame or a
  /// header block that it began, in nanoseconds.
  package var handshakeNanosecondsMax: Int64
  /// A request's time from its header fields to its last byte, in nanoseconds.
  package var requestNanosecondsMax: Int64
  /// How long a peer may take no byte that waits for it before it is cut off, and give no credit to a
  /// stream before that is reset, in nanoseconds.
  package var stalledWriteNanosecondsMax: Int64
  /// Silence after which the kernel probes a peer, in seconds.
  package var keepaliveSeconds: Int32
  /// How long a shutdown waits for calls and connections to end, in nanoseconds.
  package var shutdownNanosecondsMax: Int64
  /// Bytes that one call's responses may have queued before its handler has to wait.
  package var streamQueuedBytesMax: Int
  /// Streaming calls of one connection, and of one loop.
  package var streamingCallsPerConnectionMax: Int
  package var streamingCallsMax: Int
  /// What each loop has of `http2.bufferedBytesMax` at least, in bytes: enough for its largest responses.
  package var bufferedBytesPerLoopMin = 0
  /// Evicted connections that are read on for a moment beside `connectionsMax`, of all loops; each loop has
  /// one at least.
  package var evictedConnectionsMax = 1
  /// Connections of one peer, and how long they live: without a limit unless it is set.
  package var connectionPolicy = ConnectionPolicy()

  package init(
    http2: HTTP2Limits, messageBytesMax: Int, connectionsMax: Int, unsentBytesMax: Int,
    handshakeNanosecondsMax: Int64, requestNanosecondsMax: Int64,
    stalledWriteNanosecondsMax: Int64, keepaliveSeconds: Int32, shutdownNanosecondsMax: Int64,
    streamQueuedBytesMax: Int, streamingCallsPerConnectionMax: Int, streamingCallsMax: Int
  ) {
    self.http2 = http2
    self.messageBytesMax = messageBytesMax
    self.connectionsMax = connectionsMax
    self.unsentBytesMax = unsentBytesMax
    self.handshakeNanosecondsMax = handshakeNanosecondsMax
    self.requestNanosecondsMax = requestNanosecondsMax
    self.stalledWriteNanosecondsMax = stalledWriteNanosecondsMax
    self.keepaliveSeconds = keepaliveSeconds
    self.shutdownNanosecondsMax = shutdownNanosecondsMax
    self.streamQueuedBytesMax = streamQueuedBytesMax
    self.streamingCallsPerConnectionMax = streamingCallsPerConnectionMax
    self.streamingCallsMax = streamingCallsMax
  }

  /// The limits of each of so many loops: what the server may keep is shared among them, so that it costs no
  /// loop a look at the others.
  func share(ofLoops loops: Int) -> ServerLimits {
    var share = self
    share.http2.bufferedBytesMax = max(
      http2.bufferedBytesMax / loops, min(bufferedBytesPerLoopMin, http2.bufferedBytesMax))
    share.evictedConnectionsMax = max(1, evictedConnectionsMax / loops)
    return share
  }

  var calls: CallLimits {
    CallLimits(
      messageBytesMax: messageBytesMax, batchMessageBytesMax: batchMessageBytesMax,
      requestNanosecondsMax: requestNanosecondsMax,
      queuedBytesMax: unsentBytesMax, streamQueuedBytesMax: streamQueuedBytesMax,
      streamingCallsPerConnectionMax: streamingCallsPerConnectionMax,
      streamingCallsMax: streamingCallsMax, streamWindowBytes: Int(http2.streamWindowBytes))
  }
}
