// AMQP's frames: what they are cut from, and what they are made of (AMQP 0-9-1, section 4.2).
internal import Messaging

extension BrokerError {
  /// What came is not AMQP.
  static func fault(_ text: String) -> BrokerError { .away("not AMQP: \(text)") }
}

/// A frame of a broker's. Its payload is in the link's buffer until the link receives again.
@safe struct Frame {
  enum Kind: UInt8 {
    case method = 1
    case header = 2
    case body = 3
    case heartbeat = 8
  }

  static let headerBytes = 7
  static let end: UInt8 = 0xce

  let kind: Kind
  let channel: UInt16
  let payload: UnsafeRawBufferPointer
}

extension [UInt8] {
  /// The first 7 bytes; payload and `Frame.end` follow.
  mutating func appendFrame(_ kind: Frame.Kind, channel: UInt16, byteCount: Int) {
    append(kind.rawValue)
    append(bigEndian: channel)
    append(bigEndian: UInt32(byteCount))
  }

  /// A frame with a method, in which `appendArguments` puts its arguments.
  /// - Parameter byteCount: of the arguments.
  mutating func appendMethod(
    _ number: UInt32, channel: UInt16, byteCount: Int = 0,
    _ appendArguments: (inout [UInt8]) -> Void = { _ in }
  ) {
    appendFrame(.method, channel: channel, byteCount: 4 + byteCount)
    append(bigEndian: number)
    appendArguments(&self)
    append(Frame.end)
  }

  mutating func append(bigEndian value: some FixedWidthInteger) {
    unsafe Swift.withUnsafeBytes(of: value.bigEndian) { unsafe append(contentsOf: $0) }
  }

  /// AMQP's short string: up to 255 bytes, with their count before them.
  mutating func appendShort(_ text: String) {
    let bytes = text.utf8
    append(UInt8(bytes.count))
    append(contentsOf: bytes)
  }

  /// AMQP's long string.
  mutating func appendLong(_ text: String) {
    let bytes = text.utf8
    append(bigEndian: UInt32(bytes.count))
    append(contentsOf: bytes)
  }
}

/// Cuts what came into frames.
@safe struct FrameReader {
  /// What a frame may have beside its payload.
  private static let aroundBytes = Frame.headerBytes + 1
  /// Of a method: those of brokers have less than 1 KiB. The library, which reads them, calls itself for every table
  /// in a table: so they are not many.
  private static let methodBytesMax = 8192

  private let buffer: UnsafeMutableRawBufferPointer
  private var start = 0
  private var end = 0
  private let payloadBytesMax: Int
  private var hasBegun = false

  /// - Parameters:
  ///   - payloadBytesMax: longer ones are a fault.
  ///   - capacity: of the buffer: that of the largest frame, and what a read takes.
  init(payloadBytesMax: Int, capacity: Int) {
    self.payloadBytesMax = payloadBytesMax
    unsafe buffer = .allocate(byteCount: capacity, alignment: 16)
  }

  /// To be called once.
  func free() { unsafe buffer.deallocate() }

  /// Where bytes are to be read into. Frames that were given out are gone.
  mutating func room() -> UnsafeMutableRawBufferPointer {
    if start > 0 {
      // What is left is part of one frame.
      unsafe buffer.baseAddress!.copyMemory(
        from: buffer.baseAddress! + start, byteCount: end - start)
      (start, end) = (0, end - start)
    }
    return unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[end...])
  }

  mutating func received(_ count: Int) { end += count }

  /// The next frame; nil: it has not come, or not all of it.
  mutating func next() throws(BrokerError) -> Frame? {
    guard end - start >= 1 else { return nil }
    let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer[start..<end])
    guard let kind = unsafe Frame.Kind(rawValue: bytes[0]) else { throw unsafe noFrame(bytes) }
    guard bytes.count >= Frame.headerBytes else { return nil }
    let channel = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt16.self))
    let count = unsafe Int(
      UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 3, as: UInt32.self)))
    let limit = kind == .method ? min(payloadBytesMax, Self.methodBytesMax) : payloadBytesMax
    guard count <= limit else {
      throw .fault("a frame of \(count) bytes, above the \(limit) that it may have")
    }
    guard bytes.count >= count + Self.aroundBytes else { return nil }
    guard unsafe bytes[Frame.headerBytes + count] == Frame.end else {
      throw .fault("a frame without its end")
    }
    start += count + Self.aroundBytes
    hasBegun = true
    let range = Frame.headerBytes..<(Frame.headerBytes + count)
    return unsafe Frame(
      kind: kind, channel: channel, payload: UnsafeRawBufferPointer(rebasing: bytes[range]))
  }

  @unsafe private func noFrame(_ bytes: UnsafeRawBufferPointer) -> BrokerError {
    if hasBegun { return .fault("a frame of a kind that is none (\(unsafe bytes[0]))") }
    // The first byte of TLS's alert, and of what a broker says to a version that it does not speak.
    switch unsafe bytes[0] {
    case 0x15: return .unsuitable("it speaks TLS (amqps://)")
    case UInt8(ascii: "A"): return .unsuitable("it does not speak AMQP 0-9-1")
    default: return .unsuitable("what it says is no AMQP")
    }
  }
}
