// Message compression (gRPC over HTTP/2, Message-Encoding; RFC 1950 zlib, RFC 1952 gzip). The message
// after the five bytes of its prefix is one whole compressed stream: no state outlives a message.
internal import CZlib

/// How a message is compressed, by the names of grpc-encoding.
package enum MessageEncoding: UInt8, CaseIterable, BitwiseCopyable, Sendable {
  case identity = 0
  case gzip
  /// The zlib format (RFC 1950), as in HTTP: not a bare deflate stream.
  case deflate

  /// The value of grpc-encoding.
  package var name: StaticString {
    switch self {
    case .identity: "identity"
    case .gzip: "gzip"
    case .deflate: "deflate"
    }
  }

  /// What a grpc-encoding field says: identity where the field is absent or empty, nil for a name
  /// that is not known here (UNIMPLEMENTED). Names are compared as they stand, as gRPC's own servers do.
  package init?(field value: Span<UInt8>) {
    let name = value.extracting(value.indicesWithoutBlanks)
    if name.isEmpty {
      self = .identity
      return
    }
    for encoding in MessageEncoding.allCases where name.equals(encoding.name) {
      self = encoding
      return
    }
    return nil
  }

  /// What a response is to be compressed with: what the request was compressed with, unless its
  /// grpc-accept-encoding leaves that out. A client that lists gzip and sends plain messages did not
  /// ask for it: the list is in every request of most clients, whatever they want.
  package static func response(
    toRequest encoding: MessageEncoding, accepting accepted: MessageEncodings?
  ) -> MessageEncoding {
    accepted?.contains(encoding) == false ? .identity : encoding
  }

  /// What zlib calls windowBits: the window's size and the format around the stream.
  fileprivate func windowBits(_ size: Int32) -> Int32 { self == .gzip ? size + 16 : size }
}

/// A set of encodings, such as those that a client accepts.
package struct MessageEncodings: Equatable, Sendable {
  private var bits: UInt8

  /// The encodings in the list; identity always belongs to it (RFC 9110 section 12.5.3).
  package init(_ encodings: MessageEncoding...) {
    bits = encodings.reduce(1) { $0 | 1 << $1.rawValue }
  }

  /// Reads a grpc-accept-encoding field: names between commas, blanks around them. Names that are not
  /// known here, and empty elements, say nothing.
  package init(field value: Span<UInt8>) {
    self.init()
    var start = 0
    while start < value.count {
      var end = start
      while end < value.count, value[end] != UInt8(ascii: ",") { end += 1 }
      if let encoding = MessageEncoding(field: value.extracting(start..<end)) {
        bits |= 1 << encoding.rawValue
      }
      start = end + 1
    }
  }

  package func contains(_ encoding: MessageEncoding) -> Bool { bits & 1 << encoding.rawValue != 0 }

  /// The value of grpc-accept-encoding that says what `Inflater` reads.
  package static let supportedField: StaticString = "identity,deflate,gzip"
}

/// Inflates messages, one after the other, into a buffer of its own. For one thread. What it holds does
/// not depend on its input: the buffer of one message and zlib's 40 KiB, both made at the first message.
@safe package final class Inflater {
  /// What a compressed message was.
  package enum Result: Equatable {
    /// A message of `length` bytes; `withMessage` gives them until the next call.
    case inflated(length: Int)
    /// It goes on after the limit; inflating stopped there. RESOURCE_EXHAUSTED.
    case tooLarge
    /// Not one whole stream of that format: bad data, a wrong checksum, an end too early, or bytes
    /// behind the end. INTERNAL (gRPC's compression document).
    case malformed
    /// There was no memory for zlib's state. RESOURCE_EXHAUSTED.
    case noMemory
  }

  private let messageBytesMax: Int
  // zlib's state points back at its z_stream, which must not move.
  private let stream: UnsafeMutablePointer<z_stream>
  private let buffer: UnsafeMutablePointer<UInt8>
  private var isReady = false
  private var length = 0

  /// - Parameter messageBytesMax: of the longest inflated message of any method; below 2 GiB.
  package init(messageBytesMax: Int) {
    precondition(messageBytesMax >= 0 && messageBytesMax < Int(Int32.max), "no such limit")
    self.messageBytesMax = messageBytesMax
    // The pages that no message has reached cost nothing.
    let capacity = messageBytesMax + 1
    unsafe stream = .allocate(capacity: 1)
    unsafe stream.initialize(to: z_stream())
    unsafe buffer = .allocate(capacity: capacity)
  }

  deinit {
    // Z_OK, or Z_STREAM_ERROR where there is no state: freed either way.
    if isReady { _ = unsafe inflateEnd(stream) }
    unsafe stream.deallocate()
    unsafe buffer.deallocate()
  }

  /// Inflates a whole message. `encoding` is not identity.
  /// - Parameter messageBytesMax: of this one; that of all unless it is given.
  package func inflate(
    _ message: Span<UInt8>, _ encoding: MessageEncoding, messageBytesMax: Int? = nil
  ) -> Result {
    precondition(encoding != .identity, "nothing to inflate")
    length = 0
    // One more than the limit: a message that fills it is too large.
    let room = min(messageBytesMax ?? self.messageBytesMax, self.messageBytesMax) + 1
    guard prepare(encoding.windowBits(MAX_WBITS)) else { return .noMemory }
    guard let count = UInt32(exactly: message.count) else { return .tooLarge }
    let status = unsafe message.withUnsafeBufferPointer { input in
      // zlib does not write to next_in; it lacks the const for old compilers' sake.
      unsafe stream.pointee.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
      unsafe stream.pointee.avail_in = count
      unsafe stream.pointee.next_out = buffer
      unsafe stream.pointee.avail_out = UInt32(room)
      return unsafe CZlib.inflate(stream, Z_FINISH)
    }
    let left = unsafe Int(stream.pointee.avail_out)
    let rest = unsafe stream.pointee.avail_in
    // Neither pointer is good after this call.
    unsafe stream.pointee.next_in = nil
    unsafe stream.pointee.next_out = nil
    switch status {
    case Z_STREAM_END:
      guard left > 0 else { return .tooLarge }
      guard rest == 0 else { return .malformed }
      length = room - left
      return .inflated(length: length)
    // With Z_FINISH: the output is full, or the input ended before the stream did.
    case Z_BUF_ERROR: return left == 0 ? .tooLarge : .malformed
    case Z_MEM_ERROR: return .noMemory
    // Z_DATA_ERROR: not the format, or a checksum that is wrong. Z_NEED_DICT: a preset dictionary, which
    // gRPC has none of. Z_STREAM_ERROR: no state, which prepare excludes. Z_OK cannot be with Z_FINISH.
    default: return .malformed
    }
  }

  /// The message that `inflate` made.
  package func withMessage<R>(_ body: (Span<UInt8>) -> R) -> R {
    let message = unsafe UnsafeBufferPointer(start: buffer, count: length)
    return body(unsafe message.span)
  }

  /// Makes zlib ready for a new stream.
  private func prepare(_ windowBits: Int32) -> Bool {
    if isReady {
      // Z_OK, or Z_STREAM_ERROR for no state or bad windowBits. The window stays: its size does.
      return unsafe inflateReset2(stream, windowBits) == Z_OK
    }
    // Z_OK, Z_MEM_ERROR, Z_VERSION_ERROR for another library than the header's, Z_STREAM_ERROR for bad
    // arguments.
    let status = unsafe inflateInit2_(
      stream, windowBits, zlibVersion(), Int32(MemoryLayout<z_stream>.size))
    isReady = status == Z_OK
    return isReady
  }
}

/// Compresses messages, one after the other, into a buffer of its own. For one thread. zlib's state, 70
/// KiB for each of the two formats, is made at the first message of the format.
@safe package final class Deflater {
  /// Shorter messages are sent as they are: they fit in one packet either way.
  package static let messageBytesMin = 512

  /// The fastest level: responses are small, and the next levels cost twice the time for a tenth.
  private static let level: Int32 = 1
  /// A window of 8 KiB (2^13), and hash tables to match (memLevel 6): resetting clears 16 KiB rather
  /// than 64 KiB for every message, and few responses are longer.
  private static let windowBits: Int32 = 13
  private static let memoryLevel: Int32 = 6

  private let gzipStream = ZlibStream()
  private let zlibStream = ZlibStream()
  private var buffer = UnsafeMutablePointer<UInt8>.allocate(capacity: 0)
  private var capacity = 0
  private var length = 0

  package init() {}

  deinit { unsafe buffer.deallocate() }

  /// Compresses a whole message. False where that is not worth it, because it is short or would shrink
  /// by less than an eighth: then it is to be sent as it is, with the flag 0, which every client takes.
  /// The bytes are with `withMessage` until the next call.
  package func deflate(_ message: Span<UInt8>, _ encoding: MessageEncoding) -> Bool {
    precondition(encoding != .identity, "nothing to deflate")
    length = 0
    guard message.count >= Self.messageBytesMin, let count = UInt32(exactly: message.count) else {
      return false
    }
    let room = message.count - message.count / 8
    reserve(room)
    let zlib = encoding == .gzip ? gzipStream : zlibStream
    guard
      zlib.prepare(Self.level, encoding.windowBits(Self.windowBits), Self.memoryLevel)
    else { return false }
    let status = unsafe message.withUnsafeBufferPointer { input in
      // zlib does not write to next_in; it lacks the const for old compilers' sake.
      unsafe zlib.stream.pointee.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
      unsafe zlib.stream.pointee.avail_in = count
      unsafe zlib.stream.pointee.next_out = buffer
      unsafe zlib.stream.pointee.avail_out = UInt32(room)
      return unsafe CZlib.deflate(zlib.stream, Z_FINISH)
    }
    let left = unsafe Int(zlib.stream.pointee.avail_out)
    // Neither pointer is good after this call.
    unsafe zlib.stream.pointee.next_in = nil
    unsafe zlib.stream.pointee.next_out = nil
    // Z_STREAM_END: all of it is there. Z_OK: the room is full. Z_BUF_ERROR: no progress, which takes
    // room 0. Z_STREAM_ERROR: no state, which prepare excludes.
    guard status == Z_STREAM_END else { return false }
    length = room - left
    return true
  }

  /// The compressed message that `deflate` made.
  package func withMessage<R>(_ body: (Span<UInt8>) -> R) -> R {
    let message = unsafe UnsafeBufferPointer(start: buffer, count: length)
    return body(unsafe message.span)
  }

  private func reserve(_ count: Int) {
    guard count > capacity else { return }
    unsafe buffer.deallocate()
    capacity = max(count, 2 * capacity)
    unsafe buffer = .allocate(capacity: capacity)
  }
}

/// A deflate stream of zlib's at an address that stays: its state points back at it.
@safe private final class ZlibStream {
  let stream: UnsafeMutablePointer<z_stream>
  private var isReady = false

  init() {
    unsafe stream = .allocate(capacity: 1)
    unsafe stream.initialize(to: z_stream())
  }

  deinit {
    // Z_OK, Z_STREAM_ERROR where there is no state, Z_DATA_ERROR where output was left: freed either way.
    if isReady { _ = unsafe deflateEnd(stream) }
    unsafe stream.deallocate()
  }

  /// Makes it ready for a new message; false where there is no memory. Always with the same arguments.
  func prepare(_ level: Int32, _ windowBits: Int32, _ memoryLevel: Int32) -> Bool {
    // Z_OK, or Z_STREAM_ERROR where there is no state.
    if isReady { return unsafe deflateReset(stream) == Z_OK }
    // Z_OK, Z_MEM_ERROR, Z_VERSION_ERROR for another library than the header's, Z_STREAM_ERROR for bad
    // arguments.
    let status = unsafe deflateInit2_(
      stream, level, Z_DEFLATED, windowBits, memoryLevel, Z_DEFAULT_STRATEGY, zlibVersion(),
      Int32(MemoryLayout<z_stream>.size))
    isReady = status == Z_OK
    return isReady
  }
}

extension Span<UInt8> {
  /// What lies between the blanks and tabs at both ends (RFC 9110 section 5.6.3, OWS).
  fileprivate var indicesWithoutBlanks: Range<Int> {
    var start = 0
    var end = count
    while start < end, isBlank(self[start]) { start += 1 }
    while end > start, isBlank(self[end - 1]) { end -= 1 }
    return start..<end
  }

  private func isBlank(_ byte: UInt8) -> Bool { byte == UInt8(ascii: " ") || byte == 9 }
}
