// The header blocks of a client's requests. Requests of one kind have the same fields every time, so
// the first of them enters its fields into the peer's dynamic table (RFC 7541, section 6.2.1), and
// every later block is one byte for each field. What is entered never fills the table: nothing is ever
// evicted, and every index can be told.

/// A header field; the name in lower case, both of HTTP's bytes.
package struct HeaderField: Hashable, Sendable {
  package let name: String
  package let value: String

  package init(name: String, value: String) {
    self.name = name
    self.value = value
  }

  /// What it takes of a dynamic table (RFC 7541, section 4.1).
  fileprivate var tableBytes: Int { name.utf8.count + value.utf8.count + 32 }
}

struct RequestHeaderEncoder {
  private struct Field {
    let name: String
    let value: String
    /// Index of the whole field in the static table (RFC 7541, appendix A), 0 if it is not there.
    let staticIndex: Int
    /// Index of the name alone in the static table, 0 if it is not there.
    let nameIndex: Int
    /// Too large for the peer's table, or one too many for it: spelt out in every block.
    let isNeverEntered: Bool
    /// How many fields had been entered before this one; nil until it is entered.
    var entered: Int?
  }

  /// How the next block is written.
  private enum Mode {
    /// Fields go into the peer's dynamic table, and are named by their index from then on.
    case indexed
    /// The peer wants a smaller table than ours: the next block empties it, later ones do without.
    case emptying
    case literal
  }

  /// The index of the last of so many entries, 62 + 63, still fits one byte.
  private static let entriesMax = 64
  /// A single field that takes more of the table would leave too little to the others.
  private static let entryBytesMax = Int(Defaults.headerTableBytes) / 2

  /// All fields that differ.
  private var fields: [Field] = []
  /// The fields of each kind of request, by their place in `fields`.
  private var requests: [[Int]] = []
  private var enteredCount = 0
  private var mode = Mode.indexed

  /// - Parameter requests: the fields of each kind of request, in the order in which they are sent.
  init(_ requests: [[HeaderField]]) {
    var places: [HeaderField: Int] = [:]
    var room = Int(Defaults.headerTableBytes)
    var entriesLeft = Self.entriesMax
    for request in requests {
      var ofRequest: [Int] = []
      for field in request {
        if let place = places[field] {
          ofRequest.append(place)
          continue
        }
        let staticIndex = Self.staticIndex(field.name, field.value)
        let isEntered =
          staticIndex == 0 && entriesLeft > 0 && field.tableBytes <= min(room, Self.entryBytesMax)
        if isEntered {
          room -= field.tableBytes
          entriesLeft -= 1
        }
        places[field] = fields.count
        ofRequest.append(fields.count)
        fields.append(
          Field(
            name: field.name, value: field.value, staticIndex: staticIndex,
            nameIndex: Self.staticIndex(field.name, nil), isNeverEntered: !isEntered))
      }
      self.requests.append(ofRequest)
    }
  }

  /// The first entry of the static table with this name, and this value if one is given; 0: none.
  private static func staticIndex(_ name: String, _ value: String?) -> Int {
    for index in 1...HPACKStaticTable.count {
      let entry = HPACKStaticTable.entry(index)
      if "\(entry.name)" == name, value == nil || "\(entry.value)" == value { return index }
    }
    return 0
  }

  /// The peer's SETTINGS_HEADER_TABLE_SIZE. A table of the default size or more changes nothing.
  mutating func peerTableSizeChanged(to bytes: UInt32) {
    if bytes < Defaults.headerTableBytes, mode == .indexed { mode = .emptying }
  }

  /// Whether a block for `request` says the same, byte for byte, until another changes the table.
  func isSteady(_ request: Int) -> Bool {
    switch mode {
    case .indexed:
      requests[request].allSatisfy { place in
        let field = fields[place]
        return field.staticIndex > 0 || field.isNeverEntered || field.entered != nil
      }
    case .emptying: false
    case .literal: true
    }
  }

  /// The block for `request`, to be sent at once: it may change the peer's table, and with it all
  /// later blocks.
  mutating func nextBlock(_ request: Int) -> [UInt8] {
    var block: [UInt8] = []
    if mode == .emptying { block.append(0x20) }  // dynamic table size update to 0
    if mode != .indexed { mode = .literal }
    for place in requests[request] { write(place, to: &block) }
    return block
  }

  private mutating func write(_ place: Int, to block: inout [UInt8]) {
    let field = fields[place]
    if field.staticIndex > 0 {
      block.append(0x80 | UInt8(field.staticIndex))
    } else if mode == .literal || field.isNeverEntered {
      // Without indexing; a name's index above 14 would not fit its prefix, and is spelt out.
      let nameIndex = field.nameIndex < 15 ? field.nameIndex : 0
      block.append(UInt8(nameIndex))
      Self.writeText(of: field, spellsName: nameIndex == 0, to: &block)
    } else if let entered = field.entered {
      // The newest entry has index 62.
      block.append(0x80 | UInt8(62 + enteredCount - 1 - entered))
    } else {
      fields[place].entered = enteredCount
      enteredCount += 1
      block.append(0x40 | UInt8(field.nameIndex))
      Self.writeText(of: field, spellsName: field.nameIndex == 0, to: &block)
    }
  }

  private static func writeText(of field: Field, spellsName: Bool, to block: inout [UInt8]) {
    if spellsName {
      appendLength(field.name.utf8.count, to: &block)
      block.append(contentsOf: field.name.utf8)
    }
    appendLength(field.value.utf8.count, to: &block)
    block.append(contentsOf: field.value.utf8)
  }

  /// An integer with a prefix of seven bits (RFC 7541, section 5.1).
  private static func appendLength(_ length: Int, to block: inout [UInt8]) {
    guard length >= 127 else { return block.append(UInt8(length)) }
    block.append(127)
    var rest = length - 127
    while rest >= 128 {
      block.append(UInt8(rest & 127) | 128)
      rest >>= 7
    }
    block.append(UInt8(rest))
  }
}
