// The header block of a request. Its fields are the same for every call of one path, so the first
// call enters them into the peer's dynamic table (RFC 7541, section 6.2.1) and every later block is
// eight index bytes, as C-core sends it. The dynamic table never comes near its 4,096 bytes: it
// holds five shared fields and one per path.

struct ClientRequestHeaders {
  private struct Field {
    let name: String
    let value: String
    /// Index of the whole field in the static table (RFC 7541, appendix A), 0 if it is not there.
    var staticIndex = 0
    /// Index of the name alone in the static table, 0 if it is not there.
    var nameIndex = 0
    /// Too large for the peer's table, or one too many for it: spelt out in every block.
    var isNeverEntered = false
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

  private var shared: [Field]
  private var paths: [Field]
  private var enteredCount = 0
  private var mode = Mode.indexed

  /// - Parameters:
  ///   - paths: the calls' `:path`s; a call names its path by the position here.
  ///   - authority: HOST:PORT, at most 126 bytes are kept.
  ///   - scheme: http, or https over TLS.
  ///   - metadata: further fields of every call, in lower case; see `ClientConnection.metadataBytesMax`.
  init(
    paths: [String], authority: String, userAgent: String, scheme: String = "http",
    metadata: [ClientMetadata] = []
  ) {
    // The last entry's index, 62 + 4 shared fields + 60 paths, still fits one byte.
    precondition(paths.count <= 60, "at most 60 paths")
    func short(_ text: String) -> String { String(decoding: text.utf8.prefix(126), as: UTF8.self) }
    self.paths = paths.map { Field(name: ":path", value: short($0), nameIndex: 4) }
    shared = [
      Field(name: ":authority", value: short(authority), nameIndex: 1),
      Field(name: ":method", value: "POST", staticIndex: 3),
      Field(name: ":scheme", value: scheme, staticIndex: scheme == "https" ? 7 : 6),
      Field(name: "content-type", value: "application/grpc", nameIndex: 31),
      Field(name: "te", value: "trailers"),
      Field(name: "user-agent", value: short(userAgent), nameIndex: 58),
    ]
    // The table's other half is the fields' above.
    var room = 2_048
    var places = 60 - paths.count
    for entry in metadata {
      var field = Field(name: entry.name, value: entry.value)
      // RFC 7541, section 4.1.
      let size = entry.name.utf8.count + entry.value.utf8.count + 32
      if size <= room, places > 0 {
        room -= size
        places -= 1
      } else {
        field.isNeverEntered = true
      }
      shared.append(field)
    }
  }

  /// The peer's SETTINGS_HEADER_TABLE_SIZE. A table of the default size or more changes nothing.
  mutating func peerTableSize(is size: UInt32) {
    if size < 4096, mode == .indexed { mode = .emptying }
  }

  /// Whether a block for `path` says the same, byte for byte, however often it is sent.
  func isSteady(path: Int) -> Bool {
    switch mode {
    case .indexed: paths[path].entered != nil
    case .emptying: false
    case .literal: true
    }
  }

  /// The block for `path`, to be sent at once: it may change the peer's table, and with it all
  /// later blocks.
  mutating func nextBlock(path: Int) -> [UInt8] {
    var block: [UInt8] = []
    if mode == .emptying { block.append(0x20) }  // dynamic table size update to 0
    if mode != .indexed { mode = .literal }
    paths[path] = write(paths[path], to: &block)
    for index in shared.indices { shared[index] = write(shared[index], to: &block) }
    return block
  }

  /// Answers the field as it stands afterwards.
  private mutating func write(_ field: Field, to block: inout [UInt8]) -> Field {
    var field = field
    if field.staticIndex > 0 {
      block.append(0x80 | UInt8(field.staticIndex))
    } else if mode == .literal || field.isNeverEntered {
      // Without indexing; a name's index above 14 would not fit its prefix, and is spelt out.
      let nameIndex = field.nameIndex < 15 ? field.nameIndex : 0
      block.append(UInt8(nameIndex))
      ClientRequestHeaders.writeText(of: field, spellName: nameIndex == 0, to: &block)
    } else if let entered = field.entered {
      // The newest entry has index 62. See init for its bound.
      block.append(0x80 | UInt8(62 + enteredCount - 1 - entered))
    } else {
      field.entered = enteredCount
      enteredCount += 1
      block.append(0x40 | UInt8(field.nameIndex))
      ClientRequestHeaders.writeText(of: field, spellName: field.nameIndex == 0, to: &block)
    }
    return field
  }

  private static func writeText(of field: Field, spellName: Bool, to block: inout [UInt8]) {
    if spellName {
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
