// The header blocks of responses, and of all their fields only :status and those that the owner captures.

/// The captured fields of one block: where their values stand in its text.
struct CapturedFields {
  static let most = 4

  private var starts = InlineArray<4, UInt32>(repeating: 0)
  /// -1: the field is absent.
  private var counts = InlineArray<4, Int32>(repeating: -1)

  func range(_ field: Int) -> Range<Int>? {
    let count = Int(counts[field])
    guard count >= 0 else { return nil }
    let start = Int(starts[field])
    return start..<start + count
  }

  mutating func set(_ field: Int, start: Int, count: Int) {
    starts[field] = UInt32(clamping: start)
    counts[field] = Int32(clamping: count)
  }
}

/// What one header block said.
struct ResponseFields {
  /// -1 where it was absent, -2 where it is no number of three digits.
  var status: Int16 = -1
  var captured = CapturedFields()
}

/// Takes the fields of one block.
struct ResponseFieldSink: HPACKFieldSink, ~Copyable {
  private let names: [StaticString]
  private(set) var fields = ResponseFields()
  /// The values of the captured fields, one behind the other.
  private(set) var text = ByteBuffer()
  /// Bytes of names and values so far.
  private(set) var decodedBytes = 0

  init(captured names: [StaticString]) { self.names = names }

  mutating func reset() {
    fields = ResponseFields()
    text.removeAll()
    decodedBytes = 0
  }

  mutating func skippedField(listBytes: Int) { decodedBytes += listBytes }

  mutating func field(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    decodedBytes += name.count + value.count
    if name.says(":status") {
      fields.status = Self.status(value)
      return
    }
    // The first of two with the same name counts.
    for (index, captured) in names.enumerated()
    where name.says(captured) && fields.captured.range(index) == nil {
      fields.captured.set(index, start: text.count, count: value.count)
      text.append(value)
    }
  }

  private static func status(_ text: Span<UInt8>) -> Int16 {
    guard text.count == 3 else { return -2 }
    var number: Int16 = 0
    for index in text.indices {
      guard text[index] >= 0x30, text[index] <= 0x39 else { return -2 }
      number = number * 10 + Int16(text[index] - 0x30)
    }
    return number
  }
}

struct ResponseHeaderDecoder: ~Copyable {
  /// Most bytes of names and values that one block may decode to: a block of one-byte indices may
  /// say a thousand times its own size.
  static let decodedBytesMax = 256 * 1024
  /// Most bytes of one block that is remembered.
  private static let memoBytesMax = 64
  /// Most bytes of one field: as many as a block may have.
  private static let fieldBytesMax = 64 * 1024

  private var decoder = HPACKDecoder(tableBytesMax: Int(Defaults.headerTableBytes))
  private var scratch = HPACKScratch(capacity: ResponseHeaderDecoder.fieldBytesMax)
  /// The last block that began a response, and the last that ended one. Servers send these two over
  /// and over, byte for byte; see `decode`.
  private var opening = Memo()
  private var closing = Memo()
  private var sink: ResponseFieldSink

  private struct Memo: ~Copyable {
    var block: [UInt8] = []
    var fields = ResponseFields()
    var text = ByteBuffer()

    func isOf(_ block: Span<UInt8>) -> Bool {
      let count = block.count
      guard count == self.block.count, count > 0 else { return false }
      let known = self.block.span
      for index in 0..<count where block[index] != known[index] { return false }
      return true
    }

    mutating func forget() { block.removeAll(keepingCapacity: true) }

    mutating func set(_ block: Span<UInt8>, _ fields: ResponseFields, _ text: borrowing ByteBuffer)
    {
      self.block.removeAll(keepingCapacity: true)
      for index in block.indices { self.block.append(block[index]) }
      self.fields = fields
      self.text.removeAll()
      text.withSpan { self.text.append($0) }
    }
  }

  /// - Parameter names: the fields that are captured, four at most.
  init(captured names: [StaticString]) {
    precondition(names.count <= CapturedFields.most, "at most four fields")
    sink = ResponseFieldSink(captured: names)
  }

  /// Decodes one whole block. The values of the captured fields are put into `text`, if the block ends
  /// a response.
  ///
  /// A block that neither enters anything into the dynamic table nor resizes it leaves the decoder as
  /// it was, and means the same until another block does; so the last such block and its meaning are
  /// kept, and a repetition costs one comparison.
  mutating func decode(_ block: Span<UInt8>, endsStream: Bool, _ text: inout ByteBuffer)
    throws(ClientError) -> ResponseFields
  {
    text.removeAll()
    if endsStream {
      if closing.isOf(block) {
        closing.text.withSpan { text.append($0) }
        return closing.fields
      }
    } else if opening.isOf(block) {
      return opening.fields
    }
    let isStateless = !HPACKBlock.changesTable(block)
    if !isStateless {
      opening.forget()
      closing.forget()
    }
    let fields = try inflate(block)
    if endsStream { sink.text.withSpan { text.append($0) } }
    if isStateless, block.count <= ResponseHeaderDecoder.memoBytesMax {
      if endsStream {
        closing.set(block, fields, sink.text)
      } else {
        opening.set(block, fields, sink.text)
      }
    }
    return fields
  }

  private mutating func inflate(_ block: Span<UInt8>) throws(ClientError) -> ResponseFields {
    sink.reset()
    do throws(HPACKError) {
      _ = try decoder.decode(block, isLast: true, &scratch, &sink)
    } catch {
      throw ClientError("a header block that does not decode (\(error))")
    }
    if sink.decodedBytes > ResponseHeaderDecoder.decodedBytesMax {
      throw ClientError("a header block of more than 256 KiB")
    }
    return sink.fields
  }
}
