// RFC 9113 on the wire: frame headers, types, flags, error codes and settings.

/// The nine bytes before every frame (section 4.1).
struct FrameHeader {
  static let length = 9

  let payloadLength: Int
  let type: UInt8
  let flags: UInt8
  let stream: Int32

  init(_ bytes: UnsafePointer<UInt8>) {
    payloadLength = unsafe Int(bytes[0]) << 16 | Int(bytes[1]) << 8 | Int(bytes[2])
    type = unsafe bytes[3]
    flags = unsafe bytes[4]
    stream = unsafe Int32(truncatingIfNeeded: Wire.uint32(bytes + 5) & 0x7fff_ffff)
  }

  /// - Parameter bytes: nine at least.
  init(_ bytes: Span<UInt8>) {
    precondition(bytes.count >= Self.length)
    self = unsafe bytes.withUnsafeBufferPointer { unsafe FrameHeader($0.baseAddress!) }
  }

  /// The stream as the client counts them.
  var streamID: UInt32 { UInt32(bitPattern: stream) }

  func has(_ flag: UInt8) -> Bool { flags & flag != 0 }
}

/// Frame types (section 6). Others are ignored (section 5.5).
enum FrameType {
  static let data: UInt8 = 0
  static let headers: UInt8 = 1
  static let priority: UInt8 = 2
  static let resetStream: UInt8 = 3
  static let settings: UInt8 = 4
  static let pushPromise: UInt8 = 5
  static let ping: UInt8 = 6
  static let goAway: UInt8 = 7
  static let windowUpdate: UInt8 = 8
  static let continuation: UInt8 = 9
}

enum FrameFlag {
  static let endStream: UInt8 = 0x1
  static let acknowledgement: UInt8 = 0x1
  static let endHeaders: UInt8 = 0x4
  static let padded: UInt8 = 0x8
  static let priority: UInt8 = 0x20
}

/// Error codes (section 7).
package enum ErrorCode: UInt32, Sendable {
  case noError = 0
  case protocolError = 1
  case internalError = 2
  case flowControlError = 3
  case streamClosed = 5
  case frameSizeError = 6
  case refusedStream = 7
  case cancel = 8
  case compressionError = 9
  case enhanceYourCalm = 11
}

/// Settings (section 6.5.2).
enum Setting {
  static let headerTableSize: UInt16 = 1
  static let enablePush: UInt16 = 2
  static let maxConcurrentStreams: UInt16 = 3
  static let initialWindowSize: UInt16 = 4
  static let maxFrameSize: UInt16 = 5
  static let maxHeaderListSize: UInt16 = 6
}

/// The magic that opens every connection (section 3.4).
enum Preface {
  static let client: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
}

/// What both sides start with (sections 6.5.2 and 6.9.2).
enum Defaults {
  static let windowBytes: Int32 = 65_535
  static let frameBytesMax = 16_384
  static let headerTableBytes: UInt32 = 4_096
}

/// Big-endian numbers.
enum Wire {
  static func uint16(_ bytes: UnsafePointer<UInt8>) -> UInt16 {
    unsafe UInt16(bytes[0]) << 8 | UInt16(bytes[1])
  }

  static func uint32(_ bytes: UnsafePointer<UInt8>) -> UInt32 {
    unsafe UInt32(bigEndian: UnsafeRawPointer(bytes).loadUnaligned(as: UInt32.self))
  }

  static func put(_ value: UInt32, _ bytes: UnsafeMutablePointer<UInt8>) {
    unsafe UnsafeMutableRawPointer(bytes).storeBytes(of: value.bigEndian, as: UInt32.self)
  }

  /// Writes a frame header, nine bytes.
  static func putHeader(
    _ bytes: UnsafeMutablePointer<UInt8>, length: Int, type: UInt8, flags: UInt8, stream: Int32
  ) {
    unsafe bytes[0] = UInt8(truncatingIfNeeded: length >> 16)
    unsafe bytes[1] = UInt8(truncatingIfNeeded: length >> 8)
    unsafe bytes[2] = UInt8(truncatingIfNeeded: length)
    unsafe bytes[3] = type
    unsafe bytes[4] = flags
    unsafe put(UInt32(bitPattern: stream), bytes + 5)
  }
}

extension Span where Element == UInt8 {
  /// Four bytes in network order. The caller has checked that they are there.
  func bigEndian32(at offset: Int) -> UInt32 {
    precondition(offset >= 0 && offset + 4 <= count)
    return unsafe withUnsafeBufferPointer { unsafe Wire.uint32($0.baseAddress! + offset) }
  }
}
