/// What a header block meant, remembered. A client's calls mostly repeat their fields, and then HPACK
/// sends nothing but references to the tables: the same bytes, as long as nobody changed the dynamic
/// table in between, are the same fields, and need be neither decoded nor checked again.
@safe struct HeaderMemo {
  static let blockBytesMax = 24
  /// Entries a connection has: clients switch between a few methods.
  static let entries = 4

  private var block = InlineArray<24, UInt8>(repeating: 0)
  private(set) var blockCount = 0
  /// What the owner made of the fields; Int32.min while it has not said.
  var head: Int32 = .min
  var timeout = InlineArray<16, UInt8>(repeating: 0)
  var timeoutCount: UInt8 = 0
  var hasTimeout = false
  var wantsData = false
  /// The stream whose head the owner decides for this entry.
  var stream: Int32 = 0

  /// Whether a block is references alone (RFC 7541 section 6.1, one byte each): reading it then does
  /// not change the dynamic table.
  static func isPure(_ block: UnsafeBufferPointer<UInt8>) -> Bool {
    guard block.count > 0, block.count <= blockBytesMax else { return false }
    for index in 0..<block.count {
      let byte = unsafe block[index]
      if byte < 0x81 || byte == 0xff { return false }
    }
    return true
  }

  /// Where a block is remembered.
  static func entry(of block: UnsafeBufferPointer<UInt8>) -> Int {
    unsafe Int(block[0] ^ block[block.count - 1] ^ UInt8(truncatingIfNeeded: block.count))
      & (entries - 1)
  }

  func matches(_ other: UnsafeBufferPointer<UInt8>) -> Bool {
    guard blockCount == other.count, head != .min else { return false }
    for index in 0..<blockCount where unsafe block[index] != other[index] { return false }
    return true
  }

  /// Begins an entry; it holds once the owner has said what the head is.
  init(_ block: UnsafeBufferPointer<UInt8>, stream: Int32) {
    for index in 0..<min(block.count, Self.blockBytesMax) {
      unsafe self.block[index] = block[index]
    }
    blockCount = block.count
    self.stream = stream
  }

  init() {}
}

extension SessionState {
  /// The dynamic table may have changed.
  mutating func forgetHeads() {
    for index in 0..<HeaderMemo.entries where memos[index].blockCount > 0 {
      memos[index] = HeaderMemo()
    }
  }

  /// The owner wants `data` events for `record`, and so for all streams with its header block.
  mutating func rememberWantsData(_ record: UnsafeMutablePointer<StreamRecord>) {
    for index in 0..<HeaderMemo.entries
    where unsafe memos[index].stream == record.pointee.number && memos[index].blockCount > 0 {
      memos[index].wantsData = true
    }
  }

  /// The owner said what the fields of `record` mean.
  mutating func rememberHead(_ head: Int32, _ record: UnsafeMutablePointer<StreamRecord>) {
    // A caller's name and a length would have to be remembered too; such calls are read each time.
    guard unsafe record.pointee.fieldCounts[StreamRecord.keptField] == 0,
      unsafe record.pointee.contentLength < 0
    else {
      return
    }
    for index in 0..<HeaderMemo.entries
    where unsafe memos[index].stream == record.pointee.number && memos[index].blockCount > 0 {
      unsafe memos[index].timeout = record.pointee.timeout
      unsafe memos[index].timeoutCount = record.pointee.timeoutCount
      unsafe memos[index].hasTimeout = record.pointee.flags.contains(.hasTimeout)
      memos[index].head = head
    }
  }
}
