// Header blocks that differ in one field only. A deadline is another number in every call, and clients enter
// it into the dynamic table: the block has other bytes each time, every entry moves the indexes of all fields
// before it, and when the table is full they are entered again. What such a block means is the same all the
// same. So it is resolved: each reference to the table is replaced by what the entry says, and the field that
// changes is left out.
internal import Bytes

/// A header block without the field that changes in every call.
struct ResolvedBlock {
  /// Where that field's literal stands in the block.
  let literal: Range<Int>
  /// The oldest entry that is referred to behind the literal: entering that may evict others.
  fileprivate let oldest: UInt64
}

/// The resolved bytes of one block, for comparison. One serves all connections of a thread.
@safe struct ResolvedKey: ~Copyable {
  private static let capacity = HeaderBlockEntry.blockBytesMax
  private var memory: UnsafeMutablePointer<UInt8>?
  private var count = 0

  init() { unsafe memory = nil }

  /// Frees the memory.
  mutating func destroy() {
    unsafe memory?.deallocate()
    unsafe memory = nil
  }

  /// The bytes, until the next block is resolved.
  var bytes: UnsafeBufferPointer<UInt8> { unsafe UnsafeBufferPointer(start: memory, count: count) }

  fileprivate mutating func removeAll() {
    if unsafe memory == nil { unsafe memory = .allocate(capacity: Self.capacity) }
    count = 0
  }

  /// False where there is no room.
  fileprivate mutating func append(_ word: UInt64) -> Bool {
    guard let memory = unsafe memory, count + 8 <= Self.capacity else { return false }
    // Within the memory, by the line above.
    unsafe UnsafeMutableRawPointer(memory + count).storeBytes(of: word, as: UInt64.self)
    count += 8
    return true
  }

  fileprivate mutating func append(_ text: Span<UInt8>) -> Bool {
    guard let memory = unsafe memory, count + text.count <= Self.capacity else { return false }
    unsafe text.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (memory + count).update(from: base, count: source.count)
    }
    count += text.count
    return true
  }
}

extension HPACKDecoder {
  /// Longest value of the field that changes, as it is sent.
  private static let changingBytesMax = 64

  /// What a reference stands for in a key. The lowest two bits tell the kinds apart.
  private enum Word {
    /// The two words of an entry's identity follow.
    static let entry: UInt64 = 0
    static func ofStaticTable(_ index: Int) -> UInt64 { UInt64(index) << 2 | 1 }
    /// A literal that is not entered: then come its name (a reference, or that to index 0 where it stands in
    /// the literal) and the bytes behind the reference, with their number in front.
    static let literal: UInt64 = 2
    /// The field that changes.
    static let changing: UInt64 = 3
  }

  /// Resolves a whole block that enters one field, whose name is `changing`. nil where it is another block,
  /// or one that is not good. Nothing is decoded, and the tables stay as they are.
  /// - Parameter hashKey: always the same one.
  mutating func resolve(
    _ block: Span<UInt8>, changing name: StaticString, hashKey: SipKey, into key: inout ResolvedKey
  ) -> ResolvedBlock? {
    key.removeAll()
    var at = 0
    var literal: Range<Int>?
    var oldest = UInt64.max
    do throws(HPACKError) {
      while at < block.count {
        let first = block[at]
        if first >= 0x80 {
          guard let index = try HPACKInteger.read(block, &at, prefixBits: 7), index > 0,
            reference(index, isBehind: literal != nil, &oldest, hashKey, &key)
          else { return nil }
        } else if first >= 0x40 {
          guard literal == nil, let found = try changingLiteral(block, &at, name),
            key.append(Word.changing)
          else { return nil }
          literal = found
        } else if first >= 0x20 {
          return nil
        } else {
          guard let index = try HPACKInteger.read(block, &at, prefixBits: 4),
            key.append(Word.literal),
            reference(index, isBehind: literal != nil, &oldest, hashKey, &key),
            let text = try textsOfLiteral(block, &at, hasName: index == 0),
            key.append(UInt64(text.count)), key.append(block.extracting(text))
          else { return nil }
        }
      }
    } catch {
      return nil
    }
    return literal.map { ResolvedBlock(literal: $0, oldest: oldest) }
  }

  /// Appends what index `index` stands for; false where it is that of no field, or of the one that changes.
  private mutating func reference(
    _ index: Int, isBehind: Bool, _ oldest: inout UInt64, _ hashKey: SipKey,
    _ key: inout ResolvedKey
  ) -> Bool {
    if index <= HPACKStaticTable.count { return key.append(Word.ofStaticTable(index)) }
    // Behind the field that changes, all others stand one place further back.
    let place = index - HPACKStaticTable.count - 1 - (isBehind ? 1 : 0)
    guard place >= 0, place < table.count else { return false }
    if isBehind { oldest = min(oldest, table.number(place)) }
    let identity = table.identity(place, hashKey)
    return key.append(Word.entry) && key.append(identity.low) && key.append(identity.high)
  }

  /// The literal at `at`, if it enters the field `name` by a reference to its name.
  private func changingLiteral(
    _ block: Span<UInt8>, _ at: inout Int, _ name: StaticString
  ) throws(HPACKError) -> Range<Int>? {
    let start = at
    guard let index = try HPACKInteger.read(block, &at, prefixBits: 6),
      index > HPACKStaticTable.count, index - HPACKStaticTable.count <= table.count,
      unsafe table.name(index - HPACKStaticTable.count - 1).span.says(name),
      let value = try HPACKText.read(block, &at), value.count <= Self.changingBytesMax,
      value.end <= block.count
    else { return nil }
    return start..<at
  }

  /// Name, where it stands in the literal, and value of a literal whose index was read.
  private func textsOfLiteral(
    _ block: Span<UInt8>, _ at: inout Int, hasName: Bool
  ) throws(HPACKError) -> Range<Int>? {
    let start = at
    if hasName, try HPACKText.read(block, &at) == nil { return nil }
    guard at <= block.count, try HPACKText.read(block, &at) != nil, at <= block.count else {
      return nil
    }
    return start..<at
  }

  /// Enters the field that changes, of a block that was just resolved, and tells `sink` of it.
  mutating func enter<Sink: HPACKFieldSink & ~Copyable>(
    _ resolved: ResolvedBlock, of block: Span<UInt8>, _ scratch: inout HPACKScratch,
    _ sink: inout Sink
  ) throws(HPACKError) {
    _ = try decode(block.extracting(resolved.literal), isLast: true, &scratch, &sink)
    // Whether the references behind it still stand for a field is known only now.
    if resolved.oldest < table.oldestNumber { throw .noSuchField }
  }
}
