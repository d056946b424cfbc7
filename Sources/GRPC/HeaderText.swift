// How bytes become header values: percent-encoding for grpc-message, base64 for headers ending in -bin.

/// grpc-message: percent-encoded UTF-8 (gRPC over HTTP/2, Status-Message).
package enum PercentEncoding {
  /// Appends `text` to `out` with every byte outside %x20-%x24 and %x26-%x7E as %XX.
  package static func append(_ text: Span<UInt8>, to out: HeaderText) {
    out.append(atMost: text.count * 3) { write in
      for index in text.indices {
        let byte = text[index]
        if byte >= 0x20 && byte <= 0x7e && byte != UInt8(ascii: "%") {
          write(byte)
        } else {
          write(UInt8(ascii: "%"))
          write(hexadecimal(byte >> 4))
          write(hexadecimal(byte & 15))
        }
      }
    }
  }

  private static func hexadecimal(_ digit: UInt8) -> UInt8 { digit < 10 ? 48 + digit : 55 + digit }
}

/// Base64 without padding (RFC 4648 section 4), as gRPC implementations send binary headers.
package enum Base64 {
  private static let alphabet: StaticString =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

  /// Appends `bytes` to `out`.
  package static func append(_ bytes: Span<UInt8>, to out: HeaderText) {
    // 64 bytes, and every index below has six bits.
    let digits = unsafe alphabet.utf8Start
    out.append(atMost: (bytes.count + 2) / 3 * 4) { write in
      var index = 0
      while index < bytes.count {
        let left = bytes.count - index
        let group =
          UInt32(bytes[index]) << 16 | (left > 1 ? UInt32(bytes[index + 1]) << 8 : 0)
          | (left > 2 ? UInt32(bytes[index + 2]) : 0)
        write(unsafe digits[Int(group >> 18 & 63)])
        write(unsafe digits[Int(group >> 12 & 63)])
        if left > 1 { write(unsafe digits[Int(group >> 6 & 63)]) }
        if left > 2 { write(unsafe digits[Int(group & 63)]) }
        index += 3
      }
    }
  }
}

/// A header value while it is made, of bounded length: what does not fit is left out whole.
@safe package final class HeaderText {
  private let storage: UnsafeMutablePointer<UInt8>
  private let capacity: Int
  package private(set) var count = 0

  package init(capacity: Int) {
    self.capacity = capacity
    unsafe storage = .allocate(capacity: capacity)
  }

  deinit { unsafe storage.deallocate() }

  package func reset() { count = 0 }

  /// The value.
  package func withSpan<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = unsafe UnsafeBufferPointer(start: storage, count: count)
    return body(unsafe bytes.span)
  }

  /// Appends what `body` writes, at most `length` bytes that are allowed in a header value.
  @inline(__always)
  fileprivate func append(atMost length: Int, _ body: ((UInt8) -> Void) -> Void) {
    guard length <= capacity - count else { return }
    var next = unsafe storage + count
    let end = unsafe next + length
    body { byte in
      guard unsafe next < end else { return }
      unsafe next.pointee = byte
      unsafe next += 1
    }
    count = unsafe next - storage
  }
}
