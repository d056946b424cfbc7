// How bytes become header values: percent-encoding for grpc-message, base64 for headers ending in -bin.

/// grpc-message: percent-encoded UTF-8 (gRPC over HTTP/2, Status-Message).
package enum PercentEncoding {
  /// Appends `text` to `out` with every byte outside %x20-%x24 and %x26-%x7E as %XX.
  package static func append(_ text: Span<UInt8>, to out: inout HeaderText) {
    for index in text.indices {
      let byte = text[index]
      if byte >= 0x20 && byte <= 0x7e && byte != UInt8(ascii: "%") {
        out.append(byte)
      } else {
        out.append(UInt8(ascii: "%"))
        out.append(hexadecimal(byte >> 4))
        out.append(hexadecimal(byte & 15))
      }
    }
  }

  private static func hexadecimal(_ digit: UInt8) -> UInt8 { digit < 10 ? 48 + digit : 55 + digit }
}

/// Base64 without padding (RFC 4648 section 4), as gRPC implementations send binary headers.
package enum Base64 {
  /// Appends `bytes` to `out`.
  package static func append(_ bytes: Span<UInt8>, to out: inout HeaderText) {
    var index = 0
    while index < bytes.count {
      let left = bytes.count - index
      let group =
        UInt32(bytes[index]) << 16 | (left > 1 ? UInt32(bytes[index + 1]) << 8 : 0)
        | (left > 2 ? UInt32(bytes[index + 2]) : 0)
      out.append(digit(group >> 18 & 63))
      out.append(digit(group >> 12 & 63))
      if left > 1 { out.append(digit(group >> 6 & 63)) }
      if left > 2 { out.append(digit(group & 63)) }
      index += 3
    }
  }

  private static func digit(_ value: UInt32) -> UInt8 {
    let value = UInt8(truncatingIfNeeded: value)
    switch value {
    case 0..<26: return value + 65
    case 26..<52: return value + 71
    case 52..<62: return value - 4
    case 62: return UInt8(ascii: "+")
    default: return UInt8(ascii: "/")
    }
  }
}

/// A header value while it is made, of bounded length: what does not fit is cut off. The bound keeps
/// the trailers below the 8 KiB that most clients accept.
@safe package struct HeaderText: ~Copyable {
  private let storage: UnsafeMutablePointer<UInt8>
  private let capacity: Int
  package private(set) var count = 0

  package init(capacity: Int) {
    self.capacity = capacity
    unsafe storage = .allocate(capacity: capacity)
  }

  deinit { unsafe storage.deallocate() }

  package mutating func reset() { count = 0 }

  /// Appends a byte that is allowed in a header value.
  package mutating func append(_ byte: UInt8) {
    guard count < capacity else { return }
    unsafe storage[count] = byte
    count += 1
  }

  /// The value.
  package func withSpan<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = unsafe UnsafeBufferPointer(start: storage, count: count)
    return body(unsafe bytes.span)
  }
}
