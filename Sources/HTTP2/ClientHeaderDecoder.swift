// The header blocks of responses: HPACK by libnghttp2's inflater, and of all fields only the few
// that gRPC needs.
internal import CNGHTTP2

/// What one header block said. -1 where a field was absent, -2 where it was not a number in range.
struct ClientResponseFields {
  var httpStatus: Int16 = -1
  var grpcStatus: Int16 = -1
  /// Bytes of grpc-message, as sent (percent-encoded), and of grpc-status-details-bin, decoded:
  /// both stand in the decoder's text, one behind the other, until the next block.
  var messageCount: Int32 = 0
  var detailsCount: Int32 = 0
}

@safe struct ClientHeaderDecoder: ~Copyable {
  /// Most bytes of names and values that one block may decode to: a block of one-byte indices may
  /// say a thousand times its own size.
  static let decodedMaximum = 256 * 1024
  /// Most bytes of one block that is remembered.
  private static let memoMaximum = 64

  private let inflater: OpaquePointer
  /// The last block that began a response, and the last that ended one. Servers send these two over
  /// and over, byte for byte; see `decode`.
  private var opening = Memo()
  private var closing = Memo()
  /// grpc-message and the details of the block decoded last.
  var text = ClientBytes()

  private struct Memo {
    var bytes: [UInt8] = []
    var fields = ClientResponseFields()
  }

  init() throws(ClientError) {
    var created: OpaquePointer?
    // nghttp2_hd_inflate_new: 0, or NGHTTP2_ERR_NOMEM.
    guard unsafe nghttp2_hd_inflate_new(&created) == 0, let created = unsafe created else {
      throw ClientError("out of memory")
    }
    unsafe inflater = created
  }

  deinit { unsafe nghttp2_hd_inflate_del(inflater) }

  /// Decodes one whole block. A block that neither enters anything into the dynamic table nor
  /// resizes it leaves the decoder as it was, and means the same until another block does; so the
  /// last such block and its meaning are kept, and a repetition costs one comparison.
  mutating func decode(_ block: Span<UInt8>, endsStream: Bool) throws(ClientError)
    -> ClientResponseFields
  {
    if ClientHeaderDecoder.equal(block, endsStream ? closing.bytes : opening.bytes) {
      return endsStream ? closing.fields : opening.fields
    }
    let isStateless = ClientHeaderDecoder.leavesTableAlone(block)
    if !isStateless {
      opening.bytes.removeAll(keepingCapacity: true)
      closing.bytes.removeAll(keepingCapacity: true)
    }
    let fields = try inflate(block)
    if isStateless, block.count <= ClientHeaderDecoder.memoMaximum,
      fields.messageCount == 0, fields.detailsCount == 0
    {
      var bytes: [UInt8] = []
      for index in block.indices { bytes.append(block[index]) }
      if endsStream {
        closing = Memo(bytes: bytes, fields: fields)
      } else {
        opening = Memo(bytes: bytes, fields: fields)
      }
    }
    return fields
  }

  private static func equal(_ block: Span<UInt8>, _ bytes: [UInt8]) -> Bool {
    let count = block.count
    guard count == bytes.count, count > 0 else { return false }
    let known = bytes.span
    for index in 0..<count where block[index] != known[index] { return false }
    return true
  }

  /// Whether a valid block consists of indexed fields and literals without indexing alone (RFC
  /// 7541, sections 6.1, 6.2.2 and 6.2.3), with lengths that fit their prefix. No is always safe.
  static func leavesTableAlone(_ block: Span<UInt8>) -> Bool {
    var at = 0
    func skipText(_ at: inout Int) -> Bool {
      guard at < block.count, block[at] & 0x7f < 0x7f else { return false }
      at += 1 + Int(block[at] & 0x7f)
      return true
    }
    while at < block.count {
      let first = block[at]
      at += 1
      if first >= 0x80 {
        if first == 0xff { return false }
        continue
      }
      if first >= 0x20 { return false }  // with indexing, or a size update
      if first & 0x0f == 0x0f {
        guard at < block.count, block[at] < 0x80 else { return false }
        at += 1
      } else if first & 0x0f == 0 {
        guard skipText(&at) else { return false }
      }
      guard skipText(&at) else { return false }
    }
    return at == block.count
  }

  private mutating func inflate(_ block: Span<UInt8>) throws(ClientError) -> ClientResponseFields {
    text.removeAll()
    var fields = ClientResponseFields()
    var decoded = 0
    var at = 0
    while true {
      var pair = unsafe nghttp2_nv()
      var flags: Int32 = 0
      let rest = block.extracting(at..<block.count)
      // The inflater reads `rest` only during the call; name and value of the pair live until the
      // next call. Answers bytes used, or below 0: NOMEM, HEADER_COMP, BUFFER_ERROR.
      let used = unsafe rest.withUnsafeBufferPointer { bytes in
        unsafe nghttp2_hd_inflate_hd2(inflater, &pair, &flags, bytes.baseAddress, bytes.count, 1)
      }
      if used < 0 { throw ClientError("a header block that does not decode") }
      at += Int(used)
      let emitted = flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) != 0
      if emitted {
        decoded += unsafe pair.namelen + pair.valuelen
        if decoded > ClientHeaderDecoder.decodedMaximum {
          throw ClientError("a header block of more than 256 KiB")
        }
        let name = unsafe UnsafeBufferPointer(start: pair.name, count: pair.namelen)
        let value = unsafe UnsafeBufferPointer(start: pair.value, count: pair.valuelen)
        unsafe take(name: name.span, value: value.span, into: &fields)
      }
      if flags & Int32(NGHTTP2_HD_INFLATE_FINAL.rawValue) != 0 {
        // Always 0.
        _ = unsafe nghttp2_hd_inflate_end_headers(inflater)
        return fields
      }
      if !emitted, at >= block.count { throw ClientError("a header block that ends too early") }
    }
  }

  private mutating func take(
    name: Span<UInt8>, value: Span<UInt8>, into fields: inout ClientResponseFields
  ) {
    // Lengths first: they tell the four names apart, and nearly all others from them.
    switch name.count {
    case 7 where name.says(":status"):
      fields.httpStatus = value.count == 3 ? value.smallNumber : -2
    case 11 where name.says("grpc-status"):
      let status = value.smallNumber
      fields.grpcStatus = status >= 0 && status <= 16 ? status : -2
    case 12 where name.says("grpc-message") && fields.messageCount == 0:
      // The message stands before the details, whichever came first.
      guard fields.detailsCount == 0 else { return }
      text.append(value)
      fields.messageCount = Int32(clamping: value.count)
    case 23 where name.says("grpc-status-details-bin") && fields.detailsCount == 0:
      let before = text.count
      text.appendBase64(value)
      fields.detailsCount = Int32(clamping: text.count - before)
    default: break
    }
  }
}

extension Span where Element == UInt8 {
  func says(_ text: StaticString) -> Bool {
    guard count == text.utf8CodeUnitCount else { return false }
    // A static string's bytes live for ever, and there are as many as it says.
    let wanted = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    for index in 0..<count where unsafe self[index] != wanted[index] { return false }
    return true
  }

  /// One to three decimal digits as a number, -2 for everything else.
  var smallNumber: Int16 {
    guard count >= 1, count <= 3 else { return -2 }
    var number: Int16 = 0
    for index in 0..<count {
      guard self[index] >= 0x30, self[index] <= 0x39 else { return -2 }
      number = number * 10 + Int16(self[index] - 0x30)
    }
    return number
  }
}

extension ClientBytes {
  /// Appends what base64 `text` (RFC 4648, with or without padding) stands for. Stops at the first
  /// character that is not of the alphabet.
  mutating func appendBase64(_ text: Span<UInt8>) {
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
        append(UInt8(truncatingIfNeeded: bits >> UInt32(bitCount)))
      }
    }
  }
}
