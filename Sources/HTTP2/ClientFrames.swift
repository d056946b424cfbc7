// HTTP/2 frames as the client writes and reads them (RFC 9113, section 4.1): a 24-bit length, the
// type, the flags, a 31-bit stream id, then the payload.

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
