// Frames about the connection as a whole: SETTINGS, PING, GOAWAY, WINDOW_UPDATE (RFC 9113 section 6).

enum ServerConnectionFrames {
  /// Largest window (section 6.9.1).
  private static let windowMax: Int64 = (1 << 31) - 1

  /// Entries of one SETTINGS frame: there are six settings, and each window size walks all streams
  /// (CVE-2020-11080).
  private static let settingsMax = 32

  // MARK: SETTINGS (section 6.5)

  static func settings(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if header.stream != 0 { throw .protocolViolation(.protocolError) }
    let context = unsafe state.pointee.context
    try unsafe state.pointee.settings.spend(
      context.pointee.limits.settings, nowNanoseconds: context.pointee.nowNanoseconds,
      orFail: .settingsFlood)
    if header.has(FrameFlag.acknowledgement) {
      if header.payloadLength != 0 { throw .protocolViolation(.frameSizeError) }
      return
    }
    if header.payloadLength % 6 != 0 { throw .protocolViolation(.frameSizeError) }
    if header.payloadLength > settingsMax * 6 { throw .settingsFlood }
    for offset in stride(from: 0, to: header.payloadLength, by: 6) {
      let name = unsafe Wire.uint16(payload + offset)
      let value = unsafe Wire.uint32(payload + offset + 2)
      try unsafe apply(name, value, state)
    }
    unsafe state.pointee.settingsReceived = true
    unsafe state.pointee.sendControl(
      type: FrameType.settings, flags: FrameFlag.acknowledgement, 0
    ) { _ in }
  }

  private static func apply(
    _ name: UInt16, _ value: UInt32, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    switch name {
    case Setting.headerTableSize:
      unsafe state.pointee.encoder.peerTableSizeChanged(to: value)
    case Setting.enablePush:
      if value > 1 { throw .protocolViolation(.protocolError) }
    case Setting.initialWindowSize:
      if Int64(value) > windowMax { throw .protocolViolation(.flowControlError) }
      try unsafe changeInitialWindow(Int64(value), state)
    case Setting.maxFrameSize:
      guard value >= Defaults.frameBytesMax, value < 1 << 24 else {
        throw .protocolViolation(.protocolError)
      }
    // Larger frames than the default gain nothing: the output buffer is filled either way.
    default: break
    }
  }

  /// Section 6.9.2: open streams' windows move by the difference, below zero if need be.
  private static func changeInitialWindow(
    _ value: Int64, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    let change = unsafe value - state.pointee.peerInitialWindow
    unsafe state.pointee.peerInitialWindow = value
    var next = unsafe state.pointee.firstStream
    while let record = unsafe next {
      unsafe next = record.pointee.next
      unsafe record.pointee.sendWindow += change
      if unsafe record.pointee.sendWindow > windowMax {
        throw .protocolViolation(.flowControlError)
      }
    }
    if change > 0 { unsafe state.pointee.streamWindowsOpened() }
  }

  // MARK: PING (section 6.7) and GOAWAY (section 6.8)

  static func ping(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if header.stream != 0 { throw .protocolViolation(.protocolError) }
    if header.payloadLength != 8 { throw .protocolViolation(.frameSizeError) }
    let context = unsafe state.pointee.context
    try unsafe state.pointee.pings.spend(
      context.pointee.limits.pings, nowNanoseconds: context.pointee.nowNanoseconds,
      orFail: .pingFlood)
    if header.has(FrameFlag.acknowledgement) { return }
    unsafe state.pointee.sendControl(
      type: FrameType.ping, flags: FrameFlag.acknowledgement, 8
    ) { unsafe $0.update(from: payload, count: 8) }
  }

  /// The peer will open no more streams, and closes the connection itself when it is done.
  static func goAway(_ header: FrameHeader) throws(ConnectionFault) {
    if header.stream != 0 { throw .protocolViolation(.protocolError) }
    if header.payloadLength < 8 { throw .protocolViolation(.frameSizeError) }
  }

  // MARK: WINDOW_UPDATE (section 6.9)

  static func windowUpdate(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if header.payloadLength != 4 { throw .protocolViolation(.frameSizeError) }
    let increment = unsafe Int64(Wire.uint32(payload) & 0x7fff_ffff)
    if header.stream == 0 {
      if increment == 0 { throw .protocolViolation(.protocolError) }
      let wasEmpty = unsafe state.pointee.sendWindow <= 0
      unsafe state.pointee.sendWindow += increment
      if unsafe state.pointee.sendWindow > windowMax { throw .protocolViolation(.flowControlError) }
      if wasEmpty { unsafe state.pointee.connectionWindowOpened() }
      return
    }
    guard let record = unsafe state.pointee.streams.find(header.stream) else {
      // Section 5.1: only an idle stream makes this an error.
      if unsafe header.stream > state.pointee.lastStream || header.stream & 1 == 0 {
        throw .protocolViolation(.protocolError)
      }
      return
    }
    if increment == 0 { return try unsafe ServerFrameReader.reset(record, .protocolError) }
    unsafe record.pointee.sendWindow += increment
    if unsafe record.pointee.sendWindow > windowMax {
      return try unsafe ServerFrameReader.reset(record, .flowControlError)
    }
    if unsafe record.pointee.flags.contains(.blocked) {
      unsafe state.pointee.listToSend(record)
    }
  }
}
