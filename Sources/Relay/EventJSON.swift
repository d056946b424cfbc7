// Protobuf's JSON form of an Event (protobuf.dev, "ProtoJSON Format"), written straight from its bytes.
internal import Bytes

/// A message's fields, as its .proto file has them.
private struct MessageShape: Sendable {
  enum Form: Sendable {
    /// int64 and uint64: strings, since not every reader has integers of 64 bits.
    case signed, unsigned
    case bool, text, time
    /// By number; what has no name is a number.
    case names([StaticString])
    case message(MessageShape)
    case messages(MessageShape)
  }

  struct Field: Sendable {
    let number: Int
    /// The key, with quotes and colon.
    let key: StaticString
    let form: Form
  }

  /// By number: 64 at most.
  private let fields: [Field?]

  init(_ fields: [Field]) {
    let most = fields.map(\.number).max() ?? 0
    precondition(most < 64, "a set of fields is 64 bits")
    var places: [Field?] = Array(repeating: nil, count: most + 1)
    for field in fields { places[field.number] = field }
    self.fields = places
  }

  subscript(number: Int) -> Field? { number < fields.count ? fields[number] : nil }
}

/// Writes events as JSON: without spaces, in the order of the wire, default values left out, fields that this version
/// does not know too.
enum EventJSON {
  private static let line = MessageShape([
    .init(number: 1, key: "\"sku\":", form: .text),
    .init(number: 2, key: "\"location\":", form: .text),
    .init(number: 3, key: "\"quantity\":", form: .signed),
    .init(number: 4, key: "\"minQuantity\":", form: .signed),
  ])

  private static let sale = MessageShape([
    .init(number: 1, key: "\"sellableFrom\":", form: .time),
    .init(number: 2, key: "\"sellableUntil\":", form: .time),
    .init(number: 3, key: "\"frozen\":", form: .bool),
  ])

  private static let level = MessageShape([
    .init(number: 1, key: "\"sku\":", form: .text),
    .init(number: 2, key: "\"location\":", form: .text),
    .init(number: 3, key: "\"onHand\":", form: .signed),
    .init(number: 4, key: "\"held\":", form: .signed),
    .init(number: 5, key: "\"safetyStock\":", form: .signed),
    .init(number: 6, key: "\"available\":", form: .signed),
    .init(number: 7, key: "\"version\":", form: .unsigned),
    .init(number: 8, key: "\"committed\":", form: .signed),
    .init(number: 9, key: "\"sale\":", form: .message(sale)),
  ])

  private static let event = MessageShape([
    .init(number: 1, key: "\"lsn\":", form: .unsigned),
    .init(
      number: 2, key: "\"kind\":",
      form: .names([
        "\"EVENT_KIND_UNSPECIFIED\"", "\"EVENT_KIND_HELD\"", "\"EVENT_KIND_REPLACED\"",
        "\"EVENT_KIND_EXTENDED\"", "\"EVENT_KIND_CONFIRMED\"", "\"EVENT_KIND_RELEASED\"",
        "\"EVENT_KIND_EXPIRED\"", "\"EVENT_KIND_ADJUSTED\"", "\"EVENT_KIND_REFUSED\"",
        "\"EVENT_KIND_REMOVED\"",
      ])),
    .init(number: 3, key: "\"decidedAt\":", form: .time),
    .init(number: 4, key: "\"reservationId\":", form: .text),
    .init(number: 5, key: "\"reference\":", form: .text),
    .init(number: 6, key: "\"lines\":", form: .messages(line)),
    .init(number: 7, key: "\"expiresAt\":", form: .time),
    .init(number: 8, key: "\"stock\":", form: .messages(level)),
    .init(number: 9, key: "\"caller\":", form: .text),
    .init(number: 10, key: "\"idempotencyKey\":", form: .text),
    .init(number: 11, key: "\"reason\":", form: .text),
  ])

  /// - Parameter bytes: of an Event.
  static func append(_ bytes: UnsafeRawBufferPointer, to out: inout [UInt8]) {
    unsafe append(bytes, event, to: &out)
  }

  private static func append(
    _ bytes: UnsafeRawBufferPointer, _ shape: MessageShape, to out: inout [UInt8]
  ) {
    out.append(UInt8(ascii: "{"))
    let start = out.count
    var written: UInt64 = 0
    var fields = unsafe WireFields(bytes)
    while let field = fields.next() {
      guard let known = shape[field.number], written >> UInt64(field.number) & 1 == 0 else {
        continue
      }
      let before = out.count
      if before > start { out.append(UInt8(ascii: ",")) }
      append(known.key, to: &out)
      var isWritten = true
      if case .messages(let shape) = known.form {
        // All of them, also those that come behind other fields.
        append(list: field, behind: fields, shape, to: &out)
      } else {
        isWritten = append(field, known.form, to: &out)
      }
      if isWritten {
        written |= 1 << UInt64(field.number)
      } else {
        out.removeLast(out.count - before)
      }
    }
    out.append(UInt8(ascii: "}"))
  }

  private static func append(
    list first: WireFields.Field, behind rest: WireFields, _ shape: MessageShape,
    to out: inout [UInt8]
  ) {
    out.append(UInt8(ascii: "["))
    unsafe append(first.bytes, shape, to: &out)
    var rest = rest
    while let field = rest.next() {
      if field.number != first.number { continue }
      out.append(UInt8(ascii: ","))
      unsafe append(field.bytes, shape, to: &out)
    }
    out.append(UInt8(ascii: "]"))
  }

  /// False where it is a default value, or none that JSON has.
  private static func append(
    _ field: WireFields.Field, _ form: MessageShape.Form, to out: inout [UInt8]
  ) -> Bool {
    switch form {
    case .signed:
      if field.value == 0 { return false }
      out.append(UInt8(ascii: "\""))
      if field.signed < 0 { out.append(UInt8(ascii: "-")) }
      append(decimal: field.signed.magnitude, to: &out)
      out.append(UInt8(ascii: "\""))
    case .unsigned:
      if field.value == 0 { return false }
      out.append(UInt8(ascii: "\""))
      append(decimal: field.value, to: &out)
      out.append(UInt8(ascii: "\""))
    case .bool:
      if field.value == 0 { return false }
      append("true", to: &out)
    case .names(let names):
      if field.value == 0 { return false }
      if field.value < UInt64(names.count) {
        append(names[Int(field.value)], to: &out)
      } else {
        append(decimal: UInt64(UInt32(truncatingIfNeeded: field.value)), to: &out)
      }
    case .text:
      if unsafe field.bytes.isEmpty { return false }
      unsafe append(text: field.bytes, to: &out)
    case .time: return append(time: field, to: &out)
    case .message(let shape): unsafe append(field.bytes, shape, to: &out)
    case .messages: return false
    }
    return true
  }

  private static func append(time message: WireFields.Field, to out: inout [UInt8]) -> Bool {
    var fields = unsafe WireFields(message.bytes)
    var (seconds, nanos) = (Int64(0), Int64(0))
    while let field = fields.next() {
      if field.number == 1 { seconds = field.signed }
      if field.number == 2 { nanos = field.signed }
    }
    // The years 1 to 9999: JSON has no others.
    guard !fields.isMalformed, -62_135_596_800...253_402_300_799 ~= seconds,
      0..<1_000_000_000 ~= nanos
    else { return false }
    out.append(UInt8(ascii: "\""))
    TimeText.append(seconds: seconds, nanos: Int32(nanos), to: &out)
    out.append(UInt8(ascii: "\""))
    return true
  }

  /// A string, with its quotes.
  private static func append(text bytes: UnsafeRawBufferPointer, to out: inout [UInt8]) {
    out.append(UInt8(ascii: "\""))
    if unsafe bytes.allSatisfy({ 0x20...0x7e ~= $0 && $0 != 0x22 && $0 != 0x5c }) {
      unsafe out.append(contentsOf: bytes)
    } else {
      for byte in unsafe String(decoding: bytes, as: UTF8.self).utf8 {
        append(escaped: byte, to: &out)
      }
    }
    out.append(UInt8(ascii: "\""))
  }

  private static func append(escaped byte: UInt8, to out: inout [UInt8]) {
    switch byte {
    case 0x22, 0x5c:
      out.append(UInt8(ascii: "\\"))
      out.append(byte)
    case 0..<0x20, 0x7f:
      append("\\u00", to: &out)
      out.append(48 + byte >> 4)
      let low = byte & 15
      out.append(low < 10 ? 48 + low : 87 + low)
    default: out.append(byte)
    }
  }

  static func append(decimal value: UInt64, to out: inout [UInt8]) {
    if value >= 10 { append(decimal: value / 10, to: &out) }
    out.append(UInt8(truncatingIfNeeded: 48 + value % 10))
  }

  private static func append(_ text: StaticString, to out: inout [UInt8]) {
    // A literal: its bytes are there for good.
    unsafe out.append(
      contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }
}
