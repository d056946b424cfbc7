// Header blocks, decoded (RFC 7541): by the server for requests, by the client for responses.

/// Why a header block cannot be decoded. All of them end the connection with COMPRESSION_ERROR, since the
/// two sides' tables no longer agree (RFC 9113 section 4.3).
package enum HPACKError: Error, Equatable, Sendable {
  /// The block ends within a field.
  case truncated
  /// An integer of more than 32 bits (section 5.1).
  case integerTooLarge
  /// Index 0, or one beyond both tables (section 2.3.3).
  case noSuchField
  /// See `HuffmanCode.decode`.
  case badHuffman
  /// A size update behind a field, or to more than was announced (section 4.2).
  case badSizeUpdate
}

/// Who is told of the fields of a block, in their order.
package protocol HPACKFieldSink: ~Copyable {
  /// A field. Its bytes are valid only during the call.
  mutating func field(_ name: Span<UInt8>, _ value: Span<UInt8>)
  /// A field with more text than the decoder was told to store: it was read and not kept.
  /// - Parameter listBytes: its share of the list (RFC 9113 section 6.5.2), in bytes; where its text was
  ///   skipped, Huffman-coded text counts as it was sent.
  mutating func skippedField(listBytes: Int)
}

/// Memory for the text of one field while it is decoded. One serves all decoders of a thread.
@safe package struct HPACKScratch: ~Copyable {
  /// Most bytes of one field's name and value.
  let capacity: Int
  private var bytes: UnsafeMutablePointer<UInt8>?

  /// Nothing is allocated before the first text that needs it.
  package init(capacity: Int) {
    self.capacity = capacity
    unsafe bytes = nil
  }

  deinit { unsafe bytes?.deallocate() }

  fileprivate mutating func start() -> UnsafeMutablePointer<UInt8> {
    if let bytes = unsafe bytes { return unsafe bytes }
    let made = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
    unsafe bytes = made
    return unsafe made
  }
}

/// One direction of one connection.
package struct HPACKDecoder: ~Copyable {
  var table: HPACKDynamicTable
  /// Nothing but size updates has come in this block.
  private var isAtStart = true
  /// Bytes to drop of a text that is too long to be of use, and whether the field's value follows it.
  private var skipLeft = 0
  private var skipsValue = false
  private var skippedBytes = 0

  /// - Parameter tableBytesMax: the SETTINGS_HEADER_TABLE_SIZE that the peer is told: 4,096 to 65,535
  ///   bytes. Memory for the table comes as the peer fills it.
  package init(tableBytesMax: Int) { table = HPACKDynamicTable(sizeLimit: tableBytesMax) }

  /// Bytes of memory that the dynamic table holds.
  package var tableMemoryBytes: Int { table.memoryBytes }
  /// The fields in the dynamic table, and their size as section 4.1 counts it.
  package var tableCount: Int { table.count }
  package var tableBytes: Int { table.size }

  /// Decodes the next part of a header block and tells `sink` of its fields. A part may end anywhere.
  ///
  /// Returns the bytes that were used. What is left is the beginning of a field, and must be given again in
  /// front of the next part; it is never longer than eight times the scratch's capacity and 32 bytes.
  ///
  /// A field whose text is longer than the scratch is read and dropped; the tables agree all the same. The
  /// scratch must be able to hold any field of the dynamic table.
  package mutating func decode<Sink: HPACKFieldSink & ~Copyable>(
    _ part: Span<UInt8>, isLast: Bool, _ scratch: inout HPACKScratch, _ sink: inout Sink
  ) throws(HPACKError) -> Int {
    precondition(scratch.capacity >= table.sizeLimit)
    var at = 0
    while at < part.count {
      let isWhole: Bool
      if skipLeft > 0 || skipsValue {
        isWhole = try skip(part, &at, &sink)
      } else if part[at] >= 0x80 {
        isWhole = try indexed(part, &at, &sink)
      } else if part[at] & 0xe0 == 0x20 {
        isWhole = try sizeUpdate(part, &at)
      } else {
        isWhole = try literal(part, &at, &scratch, &sink)
      }
      if !isWhole { break }
    }
    if isLast {
      if at < part.count || skipLeft > 0 || skipsValue { throw .truncated }
      isAtStart = true
    }
    return at
  }

  // MARK: Representations (section 6). Each returns whether there was a whole one, and moves on if so.

  private mutating func indexed<Sink: HPACKFieldSink & ~Copyable>(
    _ part: Span<UInt8>, _ at: inout Int, _ sink: inout Sink
  ) throws(HPACKError) -> Bool {
    var next = at
    guard let index = try HPACKInteger.read(part, &next, prefixBits: 7) else { return false }
    isAtStart = false
    if index > HPACKStaticTable.count {
      let place = index - HPACKStaticTable.count - 1
      if place >= table.count { throw .noSuchField }
      // The table does not change before the sink has returned.
      unsafe sink.field(table.name(place).span, table.value(place).span)
    } else {
      if index == 0 { throw .noSuchField }
      let entry = HPACKStaticTable.entry(index)
      unsafe sink.field(entry.name.bytes.span, entry.value.bytes.span)
    }
    at = next
    return true
  }

  private mutating func sizeUpdate(_ part: Span<UInt8>, _ at: inout Int) throws(HPACKError) -> Bool
  {
    if !isAtStart { throw .badSizeUpdate }
    guard let size = try HPACKInteger.read(part, &at, prefixBits: 5) else { return false }
    if size > table.sizeLimit { throw .badSizeUpdate }
    table.setSizeMax(size)
    return true
  }

  private mutating func literal<Sink: HPACKFieldSink & ~Copyable>(
    _ part: Span<UInt8>, _ at: inout Int, _ scratch: inout HPACKScratch, _ sink: inout Sink
  ) throws(HPACKError) -> Bool {
    let entersTable = part[at] & 0x40 != 0
    var next = at
    guard let index = try HPACKInteger.read(part, &next, prefixBits: entersTable ? 6 : 4) else {
      return false
    }
    isAtStart = false
    if index > HPACKStaticTable.count + table.count { throw .noSuchField }
    var name: HPACKText?
    if index == 0 {
      guard let text = try HPACKText.read(part, &next) else { return false }
      if text.isTooLong(scratch.capacity) {
        beginSkip(text, skipsValue: true, entersTable, before: 0)
        at = text.start
        return true
      }
      guard text.end <= part.count else { return false }
      name = text
    }
    guard let value = try HPACKText.read(part, &next) else { return false }
    if value.isTooLong(scratch.capacity) {
      let nameCount = name?.count ?? 0
      beginSkip(value, skipsValue: false, entersTable, before: nameCount)
      at = value.start
      return true
    }
    guard value.end <= part.count else { return false }
    try literal(part, name, index, value, entersTable, &scratch, &sink)
    at = value.end
    return true
  }

  /// A literal whose texts are there, and short enough to be decoded.
  private mutating func literal<Sink: HPACKFieldSink & ~Copyable>(
    _ part: Span<UInt8>, _ nameText: HPACKText?, _ index: Int, _ valueText: HPACKText,
    _ entersTable: Bool, _ scratch: inout HPACKScratch, _ sink: inout Sink
  ) throws(HPACKError) {
    let capacity = scratch.capacity
    var used = 0
    var name = unsafe UnsafeBufferPointer<UInt8>(start: nil, count: 0)
    var length = 0
    if let nameText {
      unsafe name = try Self.text(nameText, part, &scratch, &used, &length)
    } else if index <= HPACKStaticTable.count {
      unsafe name = HPACKStaticTable.entry(index).name.bytes
      length = name.count
    } else {
      unsafe name = table.name(index - HPACKStaticTable.count - 1)
      length = name.count
      // The entry may be evicted to make room for this very field (section 4.4).
      if entersTable { unsafe name = Self.keep(name, &scratch, &used) }
    }
    var valueLength = 0
    let value = try unsafe Self.text(valueText, part, &scratch, &used, &valueLength)
    length += valueLength
    if length > capacity {
      // Larger than the table, then, too.
      if entersTable { table.removeAll() }
      return sink.skippedField(listBytes: length + HPACKDynamicTable.fieldOverhead)
    }
    unsafe sink.field(name.span, value.span)
    if entersTable { unsafe table.insert(name.span, value.span) }
  }

  /// The bytes of a text: where they stand, or decoded into the scratch behind its `used` bytes. They are
  /// cut where the scratch ends; `length` says how many there were.
  private static func text(
    _ text: HPACKText, _ part: Span<UInt8>, _ scratch: inout HPACKScratch, _ used: inout Int,
    _ length: inout Int
  ) throws(HPACKError) -> UnsafeBufferPointer<UInt8> {
    let coded = part.extracting(text.start..<text.end)
    if !text.isHuffman {
      length = text.count
      // It stays where it is for as long as the part does.
      return unsafe coded.withUnsafeBufferPointer { unsafe $0 }
    }
    let room = unsafe UnsafeMutableBufferPointer(
      start: scratch.start() + used, count: scratch.capacity - used)
    var output = unsafe OutputSpan(buffer: room, initializedCount: 0)
    guard let decoded = HuffmanCode.decode(coded, into: &output) else { throw .badHuffman }
    length = decoded
    let kept = unsafe output.finalize(for: room)
    used += kept
    return unsafe UnsafeBufferPointer(start: room.baseAddress, count: kept)
  }

  /// Copies a name into the scratch, which has room for any field of the table.
  private static func keep(
    _ name: UnsafeBufferPointer<UInt8>, _ scratch: inout HPACKScratch, _ used: inout Int
  ) -> UnsafeBufferPointer<UInt8> {
    let start = unsafe scratch.start()
    if let base = name.baseAddress { unsafe start.update(from: base, count: name.count) }
    used = name.count
    return unsafe UnsafeBufferPointer(start: start, count: name.count)
  }

  // MARK: Texts that are too long

  private mutating func beginSkip(
    _ text: HPACKText, skipsValue: Bool, _ entersTable: Bool, before: Int
  ) {
    // Section 4.4: a field larger than the table empties it.
    if entersTable { table.removeAll() }
    skipLeft = text.count
    self.skipsValue = skipsValue
    skippedBytes = before + text.count + HPACKDynamicTable.fieldOverhead
  }

  private mutating func skip<Sink: HPACKFieldSink & ~Copyable>(
    _ part: Span<UInt8>, _ at: inout Int, _ sink: inout Sink
  ) throws(HPACKError) -> Bool {
    let dropped = min(skipLeft, part.count - at)
    at += dropped
    skipLeft -= dropped
    if skipLeft > 0 { return false }
    if skipsValue {
      guard at < part.count, let value = try HPACKText.read(part, &at) else { return false }
      skipsValue = false
      at = value.start
      skipLeft = value.count
      skippedBytes += value.count
      if skipLeft > 0 { return true }
    }
    sink.skippedField(listBytes: skippedBytes)
    return true
  }
}
