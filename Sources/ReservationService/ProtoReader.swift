// Protobuf's wire format (protobuf.dev, "Encoding"), read in one pass: a request's fields go straight to
// where they are used, and unknown fields are noticed on the way.
internal import StockStore

/// A field as its tag names it.
struct ProtoTag: Equatable {
  /// number << 3 | wire type.
  fileprivate let rawValue: UInt32

  /// A bool, an enum, an int32, an int64 or a uint64.
  @inline(__always)
  static func varint(_ number: UInt32) -> ProtoTag { ProtoTag(rawValue: number << 3) }

  /// A string or a submessage.
  @inline(__always)
  static func bytes(_ number: UInt32) -> ProtoTag { ProtoTag(rawValue: number << 3 | 2) }
}

/// A field that this server does not know.
struct UnknownField: Equatable {
  static let rule: StaticString = "not known to this server, so the change is refused"

  let number: UInt32
  /// Where it lies, such as "lines[2]"; empty in the request itself.
  let path: String
}

/// Reads one message. The first fault ends it: then `next` has no more fields, and what was read so far
/// is to be thrown away.
///
/// Takes what other readers take: fields in any order, tags and lengths of up to five bytes, varints of
/// up to ten, groups a hundred deep as unknown fields. A known field in a wire type that is not its own
/// is a fault, where other readers call it unknown: nobody who follows the .proto files sends it.
@safe struct ProtoReader {
  private enum Fault {
    case none, malformed, unknown
  }

  private static let groupDepthMax = 100

  // start of what is unread <= end, always; `end` is that of the submessage that is being read.
  private var at: UnsafePointer<UInt8>
  private var end: UnsafePointer<UInt8>
  private let refusesUnknown: Bool
  private var fault = Fault.none
  private var unknownNumber: UInt32 = 0
  /// The submessage that the unknown field lies in; `index` is -1 where it is not in a list.
  private var place: StaticString = ""
  private var index = -1
  /// The list entry that this submessage lies in; likewise.
  private var outerPlace: StaticString = ""
  private var outerIndex = -1

  /// - Parameter refusesUnknown: an unknown field is a fault. A field from a newer client may narrow what
  ///   a change is asked to do ("at most one per customer"): passing it over would do more than was
  ///   meant. Reads pass it over.
  /// - Safety: `message` stays as it is while it and what it gave are used.
  @inline(__always)
  @unsafe init(_ message: BorrowedBytes, refusesUnknown: Bool) {
    // An empty message may have no address; nothing is read where at == end.
    let start = unsafe message.pointer.baseAddress ?? UnsafeRawPointer(Self.nowhere)
    unsafe at = start.assumingMemoryBound(to: UInt8.self)
    unsafe end = at + message.count
    self.refusesUnknown = refusesUnknown
  }

  private static var nowhere: OpaquePointer {
    unsafe OpaquePointer(bitPattern: 1).unsafelyUnwrapped
  }

  /// The message followed its .proto file to the end.
  var isWhole: Bool {
    @inline(__always) get { fault == .none }
  }

  /// The unknown field that is the fault; nil where the message is whole or malformed.
  var unknownField: UnknownField? {
    guard fault == .unknown else { return nil }
    let outer = outerIndex < 0 ? "" : "\(outerPlace)[\(outerIndex)]."
    let path = "\(outer)\(place)" + (index < 0 ? "" : "[\(index)]")
    return UnknownField(number: unknownNumber, path: path)
  }

  /// The next field's tag; nil at the end of the message, and after a fault. The value must be read
  /// next, by the function for its kind, or by `other`.
  @inline(__always)
  mutating func next() -> ProtoTag? {
    guard unsafe at < end else { return nil }
    let first = unsafe at[0]
    // One byte, and a number that is not 0.
    if first < 0x80 && first >= 8 {
      unsafe at += 1
      return ProtoTag(rawValue: UInt32(first))
    }
    return longTag()
  }

  /// There is more of the message, or of the submessage: of a list of bare numbers, another one.
  var hasMore: Bool { unsafe at < end }

  /// A varint's 64 bits: what goes beyond them is dropped, as other readers do.
  @inline(__always)
  mutating func varint() -> UInt64 {
    if unsafe at < end, unsafe at[0] < 0x80 {
      let value = unsafe UInt64(at[0])
      unsafe at += 1
      return value
    }
    guard let (value, after) = unsafe Self.longVarint(at, end, bytesMax: 10) else {
      fail()
      return 0
    }
    unsafe at = after
    return value
  }

  @inline(__always)
  mutating func int64() -> Int64 { Int64(bitPattern: varint()) }

  @inline(__always)
  mutating func int32() -> Int32 { Int32(truncatingIfNeeded: varint()) }

  @inline(__always)
  mutating func bool() -> Bool { varint() != 0 }

  /// A string, in place: not checked for UTF-8.
  @inline(__always)
  mutating func bytes() -> BorrowedBytes {
    let count = length()
    let start = unsafe at
    unsafe at += count
    return unsafe BorrowedBytes(start, count: count)
  }

  /// A submessage that is being read, to be ended by `leave`.
  @safe struct Submessage {
    fileprivate let outerEnd: UnsafePointer<UInt8>
  }

  /// Begins a submessage: `next` gives its fields. A submessage that comes in parts is merged by reading
  /// each part over the one before.
  @inline(__always)
  mutating func enter() -> Submessage {
    let count = length()
    let outer = unsafe Submessage(outerEnd: end)
    if fault == .none { unsafe end = at + count }
    return outer
  }

  /// Ends a submessage whose fields were all read.
  /// - Parameter index: of the entry, where the field is a list.
  @inline(__always)
  mutating func leave(_ submessage: Submessage, _ name: StaticString, index: Int = -1) {
    unsafe end = submessage.outerEnd
    if fault == .none { return }
    if fault == .unknown { locate(name, index) }
    unsafe at = end
  }

  /// The unknown field lies in this submessage, or in one within it, which is named already: the innermost knows its
  /// path, and what it lies in adds its own where that is an entry of a list.
  @inline(never)
  private mutating func locate(_ name: StaticString, _ index: Int) {
    if place.utf8CodeUnitCount == 0 {
      place = name
      self.index = index
    } else if index >= 0 {
      outerPlace = name
      outerIndex = index
    }
  }

  /// Takes a field that the caller has no use for.
  /// - Parameter known: the numbers of the message's fields: such a field came in another wire type than
  ///   its own. Others are unknown.
  @inline(__always)
  mutating func other(_ tag: ProtoTag, known: ClosedRange<UInt32>) {
    let number = tag.rawValue >> 3
    guard !known.contains(number),
      let after = unsafe Self.passOver(tag.rawValue, at, end, depth: 0)
    else { return fail() }
    unsafe at = after
    if refusesUnknown {
      fault = .unknown
      unknownNumber = number
      unsafe at = end
    }
  }

  private mutating func fail() {
    fault = .malformed
    unsafe at = end
  }

  /// Reads a length that the rest of the message has room for; 0 after a fault.
  @inline(__always)
  private mutating func length() -> Int {
    if unsafe at < end, unsafe at[0] < 0x80 {
      let count = unsafe Int(at[0])
      if unsafe count < end - at {
        unsafe at += 1
        return count
      }
      fail()
      return 0
    }
    guard let (count, after) = unsafe Self.longLength(at, end) else {
      fail()
      return 0
    }
    unsafe at = after
    return count
  }

  private mutating func longTag() -> ProtoTag? {
    guard let (tag, after) = unsafe Self.tag(at, end) else {
      fail()
      return nil
    }
    unsafe at = after
    return ProtoTag(rawValue: tag)
  }

  // MARK: The rare forms; by value, so that the reader can stay in registers

  private static func tag(
    _ at: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>
  ) -> (UInt32, UnsafePointer<UInt8>)? {
    guard let (tag, after) = unsafe longVarint(at, end, bytesMax: 5),
      tag >> 3 > 0, tag <= UInt32.max
    else { return nil }
    return unsafe (UInt32(truncatingIfNeeded: tag), after)
  }

  private static func longLength(
    _ at: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>
  ) -> (Int, UnsafePointer<UInt8>)? {
    guard let (count, after) = unsafe longVarint(at, end, bytesMax: 5),
      unsafe count <= UInt64(end - after)
    else { return nil }
    return unsafe (Int(count), after)
  }

  /// A varint of 1 to `bytesMax` bytes, and the place behind it.
  @inline(never)
  private static func longVarint(
    _ at: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>, bytesMax: Int
  ) -> (UInt64, UnsafePointer<UInt8>)? {
    var value: UInt64 = 0
    for index in 0..<(unsafe min(bytesMax, end - at)) {
      let byte = unsafe at[index]
      value |= UInt64(byte & 0x7f) << UInt64(7 * index)
      if byte < 0x80 { return unsafe (value, at + index + 1) }
    }
    return nil
  }

  /// The place behind the value of a field with this tag; nil where there is no such value.
  @inline(never)
  private static func passOver(
    _ tag: UInt32, _ at: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>, depth: Int
  ) -> UnsafePointer<UInt8>? {
    switch tag & 7 {
    case 0: return unsafe longVarint(at, end, bytesMax: 10)?.1
    case 1: return unsafe end - at >= 8 ? at + 8 : nil
    case 2:
      guard let (count, after) = unsafe longLength(at, end) else { return nil }
      return unsafe after + count
    case 3:
      guard depth < groupDepthMax else { return nil }
      var at = unsafe at
      while let (inner, after) = unsafe Self.tag(at, end) {
        // The end of a group has the group's number.
        if inner & 7 == 4 { return unsafe inner >> 3 == tag >> 3 ? after : nil }
        guard let next = unsafe passOver(inner, after, end, depth: depth + 1) else { return nil }
        unsafe at = next
      }
      return nil
    case 5: return unsafe end - at >= 4 ? at + 4 : nil
    default: return nil
    }
  }
}

/// A google.protobuf.Duration: seconds = 1, nanos = 2.
struct ProtoDuration {
  private(set) var isSet = false
  private(set) var seconds: Int64 = 0
  private(set) var nanos: Int32 = 0

  /// Reads the field `name`, or one part more of it.
  @inline(__always)
  mutating func read(_ reader: inout ProtoReader, _ name: StaticString) {
    isSet = true
    let submessage = reader.enter()
    while let tag = reader.next() {
      switch tag {
      case .varint(1): seconds = reader.int64()
      case .varint(2): nanos = reader.int32()
      default: reader.other(tag, known: 1...2)
      }
    }
    reader.leave(submessage, name)
  }
}

/// What names an item in every message that does: a SKU and a location.
struct ProtoItem {
  private(set) var sku = BorrowedBytes.empty
  private(set) var location = BorrowedBytes.empty

  /// Reads the field with this tag, if it is sku = 1 or location = 2.
  @inline(__always)
  mutating func read(_ tag: ProtoTag, _ reader: inout ProtoReader) -> Bool {
    switch tag {
    case .bytes(1): sku = reader.bytes()
    case .bytes(2): location = reader.bytes()
    default: return false
    }
    return true
  }
}

/// A ReservationLine of a request.
struct ProtoLine {
  private(set) var item = ProtoItem()
  private(set) var quantity: Int64 = 0
  /// 0: none was sent.
  private(set) var minimum: Int64 = 0

  /// Reads all of it.
  @inline(__always)
  init(_ reader: inout ProtoReader) {
    while let tag = reader.next() {
      if item.read(tag, &reader) { continue }
      switch tag {
      case .varint(3): quantity = reader.int64()
      case .varint(4): minimum = reader.int64()
      default: reader.other(tag, known: 1...4)
      }
    }
  }
}
