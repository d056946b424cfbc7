// The header blocks of responses, and of all their fields only the few that gRPC needs.

/// What one header block said. -1 where a field was absent, -2 where it was not a number in range.
struct ClientResponseFields {
  var httpStatus: Int16 = -1
  var grpcStatus: Int16 = -1
  /// Bytes of grpc-message, as sent (percent-encoded), and of grpc-status-details-bin, decoded:
  /// both stand in the decoder's text, one behind the other, until the next block.
  var messageCount: Int32 = 0
  var detailsCount: Int32 = 0
}

/// Takes the fields of one block.
struct ClientResponseSink: HPACKFieldSink, ~Copyable {
  var fields = ClientResponseFields()
  /// grpc-message and the details.
  var text = ClientBytes()
  /// Bytes of names and values so far.
  private(set) var decodedBytes = 0

  mutating func reset() {
    fields = ClientResponseFields()
    text.removeAll()
    decodedBytes = 0
  }

  mutating func skippedField(listBytes: Int) { decodedBytes += listBytes }

  mutating func field(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    decodedBytes += name.count + value.count
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

struct ClientHeaderDecoder: ~Copyable {
  /// Most bytes of names and values that one block may decode to: a block of one-byte indices may
  /// say a thousand times its own size.
  static let decodedMaximum = 256 * 1024
  /// Most bytes of one block that is remembered.
  private static let memoMaximum = 64
  /// Most bytes of one field: as many as a block may have.
  private static let fieldMaximum = 64 * 1024

  private var decoder = HPACKDecoder(tableBytesMax: Int(Defaults.headerTableBytes))
  private var scratch = HPACKScratch(capacity: ClientHeaderDecoder.fieldMaximum)
  /// The last block that began a response, and the last that ended one. Servers send these two over
  /// and over, byte for byte; see `decode`.
  private var opening = Memo()
  private var closing = Memo()
  /// What the block that was decoded last said.
  private(set) var response = ClientResponseSink()

  private struct Memo {
    var bytes: [UInt8] = []
    var fields = ClientResponseFields()
  }

  /// Decodes one whole block. A block that neither enters anything into the dynamic table nor
  /// resizes it leaves the decoder as it was, and means the same until another block does; so the
  /// last such block and its meaning are kept, and a repetition costs one comparison.
  mutating func decode(_ block: Span<UInt8>, endsStream: Bool) throws(ClientError)
    -> ClientResponseFields
  {
    if ClientHeaderDecoder.equal(block, endsStream ? closing.bytes : opening.bytes) {
      return endsStream ? closing.fields : opening.fields
    }
    let isStateless = !HPACKBlock.changesTable(block)
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

  private mutating func inflate(_ block: Span<UInt8>) throws(ClientError) -> ClientResponseFields {
    response.reset()
    do throws(HPACKError) {
      _ = try decoder.decode(block, isLast: true, &scratch, &response)
    } catch {
      throw ClientError("a header block that does not decode (\(error))")
    }
    if response.decodedBytes > ClientHeaderDecoder.decodedMaximum {
      throw ClientError("a header block of more than 256 KiB")
    }
    return response.fields
  }
}

extension Span where Element == UInt8 {
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
