// How bytes become header values, and header values bytes: percent-encoding for grpc-message, base64 for headers ending in -bin.

/// grpc-message: percent-encoded UTF-8 (gRPC over HTTP/2, Status-Message).
package enum PercentEncoding {
  /// Appends `text` to `out` with every byte outside %x20-%x24 and %x26-%x7E as %XX. A text that is too long
  /// is cut off between two characters.
  package static func append(_ text: Span<UInt8>, to out: HeaderText) {
    let count = fitting(text, out.room)
    out.append(atMost: out.room) { write in
      for index in 0..<count {
        let byte = text[index]
        if stands(byte) {
          write(byte)
        } else {
          write(UInt8(ascii: "%"))
          write(hexadecimal(byte >> 4))
          write(hexadecimal(byte & 15))
        }
      }
    }
  }

  /// How many bytes of `text` come to at most `room`, and end where a character of UTF-8 does.
  private static func fitting(_ text: Span<UInt8>, _ room: Int) -> Int {
    if text.count * 3 <= room { return text.count }
    var used = 0
    var whole = 0
    for index in text.indices {
      // Any byte but one that continues a character begins one (RFC 3629 section 3).
      if text[index] & 0xc0 != 0x80 { whole = index }
      used += stands(text[index]) ? 1 : 3
      if used > room { return whole }
    }
    return text.count
  }

  private static func stands(_ byte: UInt8) -> Bool {
    byte >= 0x20 && byte <= 0x7e && byte != UInt8(ascii: "%")
  }

  private static func hexadecimal(_ digit: UInt8) -> UInt8 { digit < 10 ? 48 + digit : 55 + digit }

  /// What `text` stands for. A % without two digits stands for itself, and what is no UTF-8 is replaced, as
  /// gRPC wants it of clients.
  package static func decoded(_ text: Span<UInt8>) -> String {
    var bytes: [UInt8] = []
    var index = 0
    while index < text.count {
      if text[index] == UInt8(ascii: "%"), index + 2 < text.count,
        let high = digit(text[index + 1]), let low = digit(text[index + 2])
      {
        bytes.append(high << 4 | low)
        index += 3
      } else {
        bytes.append(text[index])
        index += 1
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func digit(_ letter: UInt8) -> UInt8? {
    switch letter {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): letter - UInt8(ascii: "0")
    case UInt8(ascii: "A")...UInt8(ascii: "F"): letter - UInt8(ascii: "A") + 10
    case UInt8(ascii: "a")...UInt8(ascii: "f"): letter - UInt8(ascii: "a") + 10
    default: nil
    }
  }
}

/// Base64 without padding (RFC 4648 section 4), as gRPC implementations send binary headers.
package enum Base64 {
  private static let alphabet: StaticString =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

  /// Appends `bytes` to `out`, or nothing where they do not fit: half of them mean nothing.
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

  /// Most bytes that `count` characters stand for.
  package static func decodedBytesMax(_ count: Int) -> Int { count / 4 * 3 + count % 4 }

  /// Appends what `text`, with or without padding, stands for to `out`, which has room for
  /// `decodedBytesMax`. Stops at the first character that is not of the alphabet.
  package static func decode(_ text: Span<UInt8>, to out: inout OutputSpan<UInt8>) {
    var bits: UInt32 = 0
    var bitCount = 0
    for index in text.indices {
      let digit: UInt8
      switch text[index] {
      case UInt8(ascii: "A")...UInt8(ascii: "Z"): digit = text[index] - UInt8(ascii: "A")
      case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = text[index] - UInt8(ascii: "a") + 26
      case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = text[index] - UInt8(ascii: "0") + 52
      case UInt8(ascii: "+"): digit = 62
      case UInt8(ascii: "/"): digit = 63
      default: return
      }
      bits = bits << 6 | UInt32(digit)
      bitCount += 6
      if bitCount >= 8 {
        bitCount -= 8
        out.append(UInt8(truncatingIfNeeded: bits >> UInt32(bitCount)))
      }
    }
  }
}

/// A header value while it is made, of bounded length.
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

  /// Bytes that still fit.
  fileprivate var room: Int { capacity - count }

  /// The value.
  package func withSpan<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = unsafe UnsafeBufferPointer(start: storage, count: count)
    return body(unsafe bytes.span)
  }

  /// Appends what `body` writes, at most `length` bytes that are allowed in a header value; nothing where
  /// there is no room for as many.
  @inline(__always)
  fileprivate func append(atMost length: Int, _ body: ((UInt8) -> Void) -> Void) {
    guard length <= room else { return }
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
