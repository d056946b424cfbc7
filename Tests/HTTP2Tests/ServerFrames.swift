// Frames and header blocks for the tests of the server's connection: made and read here by other code
// than the code under test; libnghttp2 reads the header blocks.
import CNGHTTP2

/// One frame.
struct ServerFrame: Equatable {
  enum Kind {
    static let data: UInt8 = 0
    static let headers: UInt8 = 1
    static let priority: UInt8 = 2
    static let reset: UInt8 = 3
    static let settings: UInt8 = 4
    static let ping: UInt8 = 6
    static let goAway: UInt8 = 7
    static let windowUpdate: UInt8 = 8
    static let continuation: UInt8 = 9
  }

  static let endStream: UInt8 = 1
  static let acknowledgement: UInt8 = 1
  static let endHeaders: UInt8 = 4
  static let padded: UInt8 = 8

  var kind: UInt8
  var flags: UInt8 = 0
  var stream: UInt32 = 0
  var payload: [UInt8] = []

  var bytes: [UInt8] {
    let length = payload.count
    let head = [UInt8(length >> 16), UInt8(length >> 8 & 0xff), UInt8(length & 0xff), kind, flags]
    return head + bigEndian(stream) + payload
  }

  /// The number that a RST_STREAM, WINDOW_UPDATE or GOAWAY frame ends with.
  var code: UInt32 { payload.suffix(4).reduce(0) { $0 << 8 | UInt32($1) } }

  /// Takes bytes apart; nil where they are not whole frames.
  static func parse(_ bytes: [UInt8]) -> [ServerFrame]? {
    var frames: [ServerFrame] = []
    var at = 0
    while at < bytes.count {
      guard at + 9 <= bytes.count else { return nil }
      let length = Int(bytes[at]) << 16 | Int(bytes[at + 1]) << 8 | Int(bytes[at + 2])
      guard at + 9 + length <= bytes.count else { return nil }
      let stream = bytes[at + 5..<at + 9].reduce(0) { $0 << 8 | UInt32($1) }
      frames.append(
        ServerFrame(
          kind: bytes[at + 3], flags: bytes[at + 4], stream: stream,
          payload: Array(bytes[at + 9..<at + 9 + length])))
      at += 9 + length
    }
    return frames
  }

  // MARK: What clients send

  static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

  static func settings(_ pairs: [(UInt16, UInt32)] = []) -> [UInt8] {
    let payload = pairs.flatMap { [UInt8($0.0 >> 8), UInt8($0.0 & 0xff)] + bigEndian($0.1) }
    return ServerFrame(kind: Kind.settings, payload: payload).bytes
  }

  static func headers(
    _ stream: UInt32, _ block: [UInt8], endsStream: Bool = false, endsHeaders: Bool = true
  ) -> [UInt8] {
    let flags = (endsStream ? endStream : 0) | (endsHeaders ? endHeaders : 0)
    return ServerFrame(kind: Kind.headers, flags: flags, stream: stream, payload: block).bytes
  }

  static func continuation(_ stream: UInt32, _ block: [UInt8], endsHeaders: Bool) -> [UInt8] {
    let flags = endsHeaders ? endHeaders : 0
    return ServerFrame(kind: Kind.continuation, flags: flags, stream: stream, payload: block).bytes
  }

  static func data(_ stream: UInt32, _ bytes: [UInt8], endsStream: Bool = true) -> [UInt8] {
    let flags = endsStream ? endStream : 0
    return ServerFrame(kind: Kind.data, flags: flags, stream: stream, payload: bytes).bytes
  }

  static func ping(_ payload: [UInt8] = Array("8 bytes.".utf8)) -> [UInt8] {
    ServerFrame(kind: Kind.ping, payload: payload).bytes
  }

  static func reset(_ stream: UInt32, _ code: UInt32 = 8) -> [UInt8] {
    ServerFrame(kind: Kind.reset, stream: stream, payload: bigEndian(code)).bytes
  }

  static func windowUpdate(_ stream: UInt32, _ increment: UInt32) -> [UInt8] {
    ServerFrame(kind: Kind.windowUpdate, stream: stream, payload: bigEndian(increment)).bytes
  }

  static func priority(_ stream: UInt32) -> [UInt8] {
    ServerFrame(kind: Kind.priority, stream: stream, payload: [0, 0, 0, 0, 15]).bytes
  }
}

func bigEndian(_ value: UInt32) -> [UInt8] {
  [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
}

/// A gRPC message with its prefix.
func grpcMessage(_ bytes: [UInt8]) -> [UInt8] { [0] + bigEndian(UInt32(bytes.count)) + bytes }

/// A header field.
struct ServerField: Equatable, CustomStringConvertible {
  var name: String
  var value: String

  init(_ name: String, _ value: String) {
    self.name = name
    self.value = value
  }

  var description: String { "\(name): \(value)" }

  /// Its size in a header list or a table (RFC 7541 section 4.1).
  var listBytes: Int { name.utf8.count + value.utf8.count + 32 }

  /// HPACK literals without indexing (RFC 7541 section 6.2.2), which change no table.
  static func literals(_ fields: [ServerField]) -> [UInt8] {
    fields.flatMap { [0] + string($0.name) + string($0.value) }
  }

  private static func string(_ text: String) -> [UInt8] {
    let bytes = Array(text.utf8)
    if bytes.count < 127 { return [UInt8(bytes.count)] + bytes }
    var length: [UInt8] = [127]
    var rest = bytes.count - 127
    while rest >= 128 {
      length.append(UInt8(rest & 127) | 128)
      rest >>= 7
    }
    return length + [UInt8(rest)] + bytes
  }

  /// The fields of a gRPC call.
  static func call(
    _ path: String, timeout: String? = nil, caller: String? = nil
  ) -> [ServerField] {
    var fields = [
      ServerField(":method", "POST"), ServerField(":scheme", "http"), ServerField(":path", path),
      ServerField(":authority", "test"), ServerField("content-type", "application/grpc"),
      ServerField("te", "trailers"),
    ]
    if let timeout { fields.append(ServerField("grpc-timeout", timeout)) }
    if let caller { fields.append(ServerField("caller", caller)) }
    return fields
  }
}

/// A client's encoder that enters every field into its dynamic table, as gRPC clients do
/// (RFC 7541 sections 2.3.2, 4 and 6.2.1).
struct ServerTestEncoder {
  private var entries: [ServerField] = []
  private var tableBytes = 4096
  private var update: [UInt8] = []
  /// Refers to a name that the table has.
  private let refersToNames: Bool

  init(refersToNames: Bool = false) { self.refersToNames = refersToNames }

  /// The next block says that the table has another size: at most 4096.
  mutating func setTable(bytes: Int) {
    tableBytes = bytes
    evict()
    update += Self.integer(bytes, prefixBits: 5, first: 0x20)
  }

  mutating func encode(_ fields: [ServerField]) -> [UInt8] {
    defer { update = [] }
    return update + fields.flatMap { encode($0) }
  }

  private mutating func encode(_ field: ServerField) -> [UInt8] {
    if field == ServerField(":method", "POST") { return [0x83] }
    if field == ServerField(":scheme", "http") { return [0x86] }
    if let index = entries.firstIndex(of: field) {
      return Self.integer(62 + index, prefixBits: 7, first: 0x80)
    }
    let name = refersToNames ? entries.firstIndex { $0.name == field.name } : nil
    entries.insert(field, at: 0)
    evict()
    let texts = ServerField.literals([field])[1...]
    guard let name else { return [0x40] + texts }
    // All names of the tests are shorter than 127 bytes.
    return Self.integer(62 + name, prefixBits: 6, first: 0x40)
      + texts.dropFirst(1 + field.name.utf8.count)
  }

  private mutating func evict() {
    while entries.reduce(0, { $0 + $1.listBytes }) > tableBytes { entries.removeLast() }
  }

  /// Section 5.1.
  private static func integer(_ value: Int, prefixBits: Int, first: UInt8) -> [UInt8] {
    let most = (1 << prefixBits) - 1
    if value < most { return [first | UInt8(value)] }
    var bytes = [first | UInt8(most)]
    var rest = value - most
    while rest >= 128 {
      bytes.append(UInt8(rest & 127) | 128)
      rest >>= 7
    }
    return bytes + [UInt8(rest)]
  }
}

/// The client's decoder.
@safe final class ServerTestDecoder {
  private let inflater: OpaquePointer

  init() {
    var made: OpaquePointer?
    let code = unsafe nghttp2_hd_inflate_new(&made)
    guard code == 0, let made = unsafe made else { fatalError("no decoder") }
    unsafe inflater = made
  }

  deinit { unsafe nghttp2_hd_inflate_del(inflater) }

  func setTable(bytes: Int) { _ = unsafe nghttp2_hd_inflate_change_table_size(inflater, bytes) }

  /// The fields of a block; nil where it is not good.
  func decode(_ block: [UInt8]) -> [ServerField]? {
    var fields: [ServerField] = []
    var at = 0
    while true {
      var field = unsafe nghttp2_nv()
      var flags: Int32 = 0
      let read = unsafe block.withUnsafeBufferPointer { bytes in
        unsafe nghttp2_hd_inflate_hd2(
          inflater, &field, &flags, bytes.baseAddress.map { unsafe $0 + at }, bytes.count - at, 1)
      }
      if read < 0 { return nil }
      at += read
      if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) != 0 {
        let name = unsafe UnsafeBufferPointer(start: field.name, count: field.namelen)
        let value = unsafe UnsafeBufferPointer(start: field.value, count: field.valuelen)
        unsafe fields.append(
          ServerField(String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self))
        )
      }
      if flags & Int32(NGHTTP2_HD_INFLATE_FINAL.rawValue) != 0 {
        _ = unsafe nghttp2_hd_inflate_end_headers(inflater)
        return at == block.count ? fields : nil
      }
    }
  }
}
