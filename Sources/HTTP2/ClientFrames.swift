// HTTP/2 frames as the client writes and reads them (RFC 9113, section 4.1): a 24-bit length, the
// type, the flags, a 31-bit stream id, then the payload.

enum ClientFrame {
  static let headerLength = 9
  /// SETTINGS_MAX_FRAME_SIZE as both sides leave it.
  static let payloadMaximum = 16_384

  static let data: UInt8 = 0
  static let headers: UInt8 = 1
  static let resetStream: UInt8 = 3
  static let settings: UInt8 = 4
  static let pushPromise: UInt8 = 5
  static let ping: UInt8 = 6
  static let goAway: UInt8 = 7
  static let windowUpdate: UInt8 = 8
  static let continuation: UInt8 = 9

  static let flagEndStream: UInt8 = 0x1
  static let flagAcknowledge: UInt8 = 0x1
  static let flagEndHeaders: UInt8 = 0x4
  static let flagPadded: UInt8 = 0x8
  static let flagPriority: UInt8 = 0x20

  static let settingHeaderTableSize = 1
  static let settingEnablePush = 2
  static let settingConcurrentStreams = 3
  static let settingInitialWindow = 4

  static let errorCancel: UInt32 = 8

  /// The magic that opens every connection (RFC 9113, section 3.4).
  static let preface: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
}

/// One frame's header, as it came.
struct ClientFrameHeader {
  let length: Int
  let type: UInt8
  let flags: UInt8
  let stream: UInt32

  /// `bytes` holds at least nine bytes.
  init(_ bytes: Span<UInt8>) {
    length = Int(bytes[0]) << 16 | Int(bytes[1]) << 8 | Int(bytes[2])
    type = bytes[3]
    flags = bytes[4]
    stream = bytes.bigEndian32(at: 5) & 0x7fff_ffff
  }

  func has(_ flag: UInt8) -> Bool { flags & flag != 0 }
}

extension Span where Element == UInt8 {
  /// Four bytes in network order. The caller has checked that they are there.
  func bigEndian32(at offset: Int) -> UInt32 {
    UInt32(self[offset]) << 24 | UInt32(self[offset + 1]) << 16 | UInt32(self[offset + 2]) << 8
      | UInt32(self[offset + 3])
  }
}

extension ClientBytes {
  mutating func appendBigEndian32(_ value: UInt32) {
    append(UInt8(truncatingIfNeeded: value >> 24))
    append(UInt8(truncatingIfNeeded: value >> 16))
    append(UInt8(truncatingIfNeeded: value >> 8))
    append(UInt8(truncatingIfNeeded: value))
  }

  mutating func appendFrameHeader(length: Int, type: UInt8, flags: UInt8, stream: UInt32) {
    append(UInt8(truncatingIfNeeded: length >> 16))
    append(UInt8(truncatingIfNeeded: length >> 8))
    append(UInt8(truncatingIfNeeded: length))
    append(type)
    append(flags)
    appendBigEndian32(stream)
  }
}
