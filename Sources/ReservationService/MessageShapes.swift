// Whether a call that changes something says only what this server understands. A field from a newer
// client may narrow what is asked for ("at most one per customer"): to pass it over would do more than
// was meant. protobuf-c keeps unknown fields, but not those of a submessage that comes twice, and it
// takes a bool in any wire type; so the bytes are walked once, by the descriptors, before they are
// unpacked.
internal import CHoldfastProto
internal import CProtobufC
internal import GRPC

/// A field that this server does not know.
struct UnknownField: Equatable {
  static let rule: StaticString = "not known to this server, so the change is refused"

  let number: UInt32
  /// Where it lies, such as "lines[2]"; empty in the request itself.
  var path: String
}

/// What the requests of calls that change something may hold. Made once; lives as long as the process.
@safe struct MessageShapes: @unchecked Sendable {
  static let shared = MessageShapes()

  /// By method number; nil for methods that change nothing: a read may be asked by a newer client.
  private let roots: UnsafeMutablePointer<UnsafePointer<MessageShape>?>

  private init() {
    let methods = HoldfastHandler.Method.allCases
    unsafe roots = .allocate(capacity: methods.count)
    for method in methods {
      let shape = unsafe Self.request(of: method).map { unsafe MessageShape.make($0) }
      unsafe (roots + method.rawValue).initialize(to: shape)
    }
  }

  private static func request(
    of method: HoldfastHandler.Method
  ) -> ProtobufCMessageDescriptor? {
    switch method {
    case .reserve: unsafe holdfast__v1__reserve_request__descriptor
    case .confirm: unsafe holdfast__v1__confirm_request__descriptor
    case .release: unsafe holdfast__v1__release_request__descriptor
    case .extend: unsafe holdfast__v1__extend_request__descriptor
    case .adjustStock: unsafe holdfast__v1__adjust_stock_request__descriptor
    case .getReservation, .listReservations, .getStock, .batchGetStock, .listStock, .healthCheck,
      .healthWatch, .reflection, .reflectionAlpha:
      nil
    }
  }

  /// What a walk over a message finds first.
  enum Finding {
    case known
    /// A field that the message's descriptor does not have.
    case unknown
    /// What no protobuf reader may take, or a field in another wire type than its own.
    case malformed
  }

  @inline(__always)
  func check(_ message: Span<UInt8>, of method: HoldfastHandler.Method) -> Finding {
    guard let shape = unsafe roots[method.rawValue] else { return .known }
    return unsafe MessageShape.check(message, shape)
  }

  /// The field that `check` found.
  func unknownField(
    in message: Span<UInt8>, of method: HoldfastHandler.Method
  ) -> UnknownField? {
    guard let shape = unsafe roots[method.rawValue] else { return nil }
    return unsafe MessageShape.unknownField(in: message, shape)
  }
}

/// The fields of one message, by number.
@safe private struct MessageShape {
  @safe struct Field {
    /// Bit n: it may come in wire type n. 0: there is no such field.
    var wireTypes: UInt8 = 0
    var isRepeated = false
    var name: UnsafePointer<CChar>?
    /// Of a submessage.
    var message: UnsafePointer<MessageShape>?
  }

  /// Numbers are small; a table by number needs no search.
  private static let numberMax: UInt32 = 255
  /// Requests do not nest without end.
  private static let depthMax = 8
  private static let varintBytesMax = 10

  /// What a known field with a tag of one byte is, by that byte; nearly all are. `otherwise` is looked
  /// at more closely.
  private enum Short: UInt8 {
    case otherwise, varint, bytes, message
  }

  let fields: UnsafeMutablePointer<Field>
  let count: UInt32
  private let short: UnsafeMutablePointer<Short>

  static func make(
    _ descriptor: ProtobufCMessageDescriptor, depth: Int = 0
  ) -> UnsafePointer<MessageShape> {
    precondition(depth < depthMax, "a request that contains itself")
    let known = unsafe UnsafeBufferPointer(
      start: descriptor.fields, count: Int(descriptor.n_fields))
    let count = unsafe known.reduce(0) { unsafe max($0, $1.id) } + 1
    precondition(count <= numberMax + 1, "a request with a large field number")
    let fields = UnsafeMutablePointer<Field>.allocate(capacity: Int(count))
    unsafe fields.initialize(repeating: Field(), count: Int(count))
    for index in known.indices {
      let each = unsafe known[index]
      let isRepeated = unsafe each.label == PROTOBUF_C_LABEL_REPEATED
      let nested =
        unsafe each.type == PROTOBUF_C_TYPE_MESSAGE
        ? each.descriptor?.assumingMemoryBound(to: ProtobufCMessageDescriptor.self) : nil
      unsafe fields[Int(each.id)] = Field(
        wireTypes: wireTypes(each.type, isRepeated: isRepeated), isRepeated: isRepeated,
        name: each.name, message: nested.map { unsafe make($0.pointee, depth: depth + 1) })
    }
    let short = UnsafeMutablePointer<Short>.allocate(capacity: 256)
    unsafe short.initialize(repeating: .otherwise, count: 256)
    for number in 1..<min(Int(count), 16) {
      let wireTypes = unsafe fields[number].wireTypes
      let isMessage = unsafe fields[number].message != nil
      if wireTypes & 1 << 0 != 0 { unsafe short[number << 3] = .varint }
      if wireTypes & 1 << 2 != 0 { unsafe short[number << 3 | 2] = isMessage ? .message : .bytes }
    }
    let shape = UnsafeMutablePointer<MessageShape>.allocate(capacity: 1)
    unsafe shape.initialize(to: MessageShape(fields: fields, count: count, short: short))
    return unsafe UnsafePointer(shape)
  }

  private static func wireTypes(_ type: ProtobufCType, isRepeated: Bool) -> UInt8 {
    let lengthPrefixed: UInt8 = 1 << 2
    let own: UInt8
    switch type {
    case PROTOBUF_C_TYPE_STRING, PROTOBUF_C_TYPE_BYTES, PROTOBUF_C_TYPE_MESSAGE:
      return lengthPrefixed
    case PROTOBUF_C_TYPE_FIXED64, PROTOBUF_C_TYPE_SFIXED64, PROTOBUF_C_TYPE_DOUBLE: own = 1 << 1
    case PROTOBUF_C_TYPE_FIXED32, PROTOBUF_C_TYPE_SFIXED32, PROTOBUF_C_TYPE_FLOAT: own = 1 << 5
    default: own = 1 << 0
    }
    // Repeated numbers may come packed.
    return isRepeated ? own | lengthPrefixed : own
  }

  static func check(
    _ message: Span<UInt8>, _ shape: UnsafePointer<MessageShape>
  ) -> MessageShapes.Finding {
    unsafe message.withUnsafeBufferPointer { bytes in
      guard let start = bytes.baseAddress else { return .known }
      return unsafe check(start, start + bytes.count, shape)
    }
  }

  /// The short forms by themselves: this is on the way of every Reserve. Never reads at `end` or beyond.
  private static func check(
    _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>,
    _ shape: UnsafePointer<MessageShape>
  ) -> MessageShapes.Finding {
    let short = unsafe shape.pointee.short
    var at = unsafe start
    while unsafe end - at >= 2 {
      let kind = unsafe short[Int(at[0])]
      if kind == .varint {
        let most = unsafe min(end, at + 1 + varintBytesMax)
        unsafe at += 1
        while unsafe at < most && at[0] >= 0x80 { unsafe at += 1 }
        guard unsafe at < most else { return .malformed }
        unsafe at += 1
        continue
      }
      let length = unsafe Int(at[1])
      guard kind != .otherwise, length < 0x80 else {
        let finding = unsafe checkField(&at, end, shape)
        if finding != .known { return finding }
        continue
      }
      let value = unsafe at + 2
      guard unsafe end - value >= length else { return .malformed }
      if kind == .message, let nested = unsafe shape.pointee.fields[Int(at[0] >> 3)].message {
        let finding = unsafe check(value, value + length, nested)
        if finding != .known { return finding }
      }
      unsafe at = value + length
    }
    return unsafe at == end ? .known : .malformed
  }

  /// Any field, which `at` is then behind.
  @inline(never)
  private static func checkField(
    _ at: inout UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>,
    _ shape: UnsafePointer<MessageShape>
  ) -> MessageShapes.Finding {
    let rest = unsafe UnsafeBufferPointer(start: at, count: end - at).span
    var length = 0
    guard let field = WireField(rest, &length) else { return .malformed }
    guard unsafe field.number < shape.pointee.count else { return .unknown }
    // The table has `count` entries.
    let known = unsafe shape.pointee.fields[Int(field.number)]
    if known.wireTypes == 0 { return .unknown }
    if known.wireTypes >> field.wireType & 1 == 0 { return .malformed }
    let value = unsafe at + field.start
    unsafe at += length
    guard let nested = unsafe known.message else { return .known }
    return unsafe check(value, at, nested)
  }

  static func unknownField(
    in message: Span<UInt8>, _ shape: UnsafePointer<MessageShape>
  ) -> UnknownField? {
    var at = 0
    while at < message.count {
      let before = at
      guard let field = WireField(message, &at) else { return nil }
      guard unsafe field.number < shape.pointee.count else {
        return UnknownField(number: field.number, path: "")
      }
      let known = unsafe shape.pointee.fields[Int(field.number)]
      if known.wireTypes == 0 { return UnknownField(number: field.number, path: "") }
      guard let nested = unsafe known.message,
        var inner = unsafe unknownField(in: message.extracting(field.start..<at), nested)
      else { continue }
      var path = unsafe known.name.map { unsafe String(cString: $0) } ?? ""
      if known.isRepeated {
        path += "[\(count(of: field.number, in: message.extracting(0..<before)))]"
      }
      inner.path = inner.path.isEmpty ? path : "\(path).\(inner.path)"
      return inner
    }
    return nil
  }

  private static func count(of number: UInt32, in message: Span<UInt8>) -> Int {
    var at = 0
    var count = 0
    while let field = WireField(message, &at) {
      if field.number == number { count += 1 }
    }
    return count
  }
}

/// One field of a message as it stands in the bytes.
private struct WireField {
  let number: UInt32
  let wireType: UInt8
  /// Where the value begins; of a length-prefixed one, behind the length.
  let start: Int

  /// Reads the field at `at`, which is then behind it; nil where there is none.
  @inline(__always)
  init?(_ bytes: Span<UInt8>, _ at: inout Int) {
    guard let tag = Self.varint(bytes, &at), tag >> 3 > 0, tag >> 3 < 1 << 29 else { return nil }
    number = UInt32(truncatingIfNeeded: tag >> 3)
    wireType = UInt8(truncatingIfNeeded: tag & 7)
    let length: UInt64
    switch wireType {
    case 0:
      start = at
      guard Self.varint(bytes, &at) != nil else { return nil }
      return
    case 1: length = 8
    case 2:
      guard let count = Self.varint(bytes, &at) else { return nil }
      length = count
    case 5: length = 4
    // Groups are not part of proto3.
    default: return nil
    }
    start = at
    guard length <= UInt64(bytes.count - at) else { return nil }
    at += Int(length)
  }

  @inline(__always)
  private static func varint(_ bytes: Span<UInt8>, _ at: inout Int) -> UInt64? {
    guard at < bytes.count else { return nil }
    let first = bytes[at]
    if first < 0x80 {
      at += 1
      return UInt64(first)
    }
    return longVarint(bytes, &at)
  }

  @inline(never)
  private static func longVarint(_ bytes: Span<UInt8>, _ at: inout Int) -> UInt64? {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 70, by: 7) {
      guard at < bytes.count else { return nil }
      let byte = bytes[at]
      at += 1
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
    }
    return nil
  }
}
