// An order as it comes from a queue: OrderPlaced (order.proto), in protobuf's wire format or in its JSON form.
internal import Bytes
package import Messaging

/// How a body is written.
package enum BodyFormat: Equatable, Sendable {
  case protobuf, json

  package var contentType: String {
    switch self {
    case .protobuf: "application/protobuf"
    case .json: "application/json"
    }
  }
}

/// Why a delivery is no order, or an order comes to nothing: it is of no use to try it again.
package struct OrderFault: Error, Equatable {
  /// One word of [A-Z_]: of this program's, or the server's reason.
  package let reason: String
  /// For people.
  package let text: String

  package init(_ reason: String, _ text: String) {
    self.reason = reason
    self.text = text
  }

  /// Those that there are, but for those of a server that knows more.
  static let reasons = [
    "BODY_TOO_LARGE", "CONTENT_TYPE_UNKNOWN", "TYPE_UNKNOWN", "MALFORMED_BODY", "UNKNOWN_FIELD",
    "ORDER_ID_INVALID", "DELIVERED_TOO_OFTEN", "INVALID_FIELD", "MALFORMED_MESSAGE",
    "IDEMPOTENCY_KEY_REUSED", "TRIED_TOO_OFTEN", "ANSWER_REFUSED",
  ]
}

/// What is to be held, and how it is answered. Only what the intake itself needs is looked at: what lines, times and limits
/// may be, the server knows, and refuses with INVALID_ARGUMENT.
package struct Order: Equatable, Sendable {
  /// 1-64 bytes of printable ASCII without spaces.
  package let id: String
  /// Of the first line; empty where it has none. Orders of one SKU are decided in the order of their queue.
  package let sku: String
  package let format: BodyFormat
  /// A ReserveRequest whose key and reference are the order's id.
  package let request: [UInt8]

  /// No order of 128 lines is as long, however it is written.
  package static let bodyBytesMax = 256 << 10
  /// A request is a body and twice its id, with their tags.
  package static let requestBytesMax = bodyBytesMax + 256
}

/// Makes orders of deliveries. One thread.
package final class OrderReader {
  /// Of orders that have none, in nanoseconds; nil: the server's.
  private let ttlNanoseconds: Int64?
  /// lines, ttl, alternatives and limits of the order that is read, with the numbers that a ReserveRequest has for them.
  private let fields = ProtoWriter(capacity: 1024)
  private let whole = ProtoWriter(capacity: 1024)

  package init(ttlNanoseconds: Int64? = nil) { self.ttlNanoseconds = ttlNanoseconds }

  deinit {
    fields.destroy()
    whole.destroy()
  }

  package func read(_ delivery: BrokerDelivery) throws(OrderFault) -> Order {
    let byteCount = delivery.body.count + delivery.omittedBytes
    guard byteCount <= Order.bodyBytesMax else {
      throw OrderFault("BODY_TOO_LARGE", "\(byteCount) bytes; \(Order.bodyBytesMax) at most")
    }
    guard delivery.type.isEmpty || delivery.type == "OrderPlaced" else {
      throw OrderFault("TYPE_UNKNOWN", "type '\(Self.cut(delivery.type))'; OrderPlaced is taken")
    }
    let format = try Self.format(delivery)
    fields.reset()
    let parts =
      switch format {
      case .protobuf: try protobuf(delivery.body)
      case .json: try json(delivery.body)
      }
    guard 1...64 ~= parts.id.utf8.count, parts.id.utf8.allSatisfy({ 0x21...0x7e ~= $0 }) else {
      throw OrderFault(
        "ORDER_ID_INVALID", "order_id is not 1 to 64 bytes of printable ASCII without spaces")
    }
    if let ttlNanoseconds, !parts.hasTTL { fields.field(3, seconds: ttlNanoseconds) }
    whole.reset()
    whole.field(1, parts.id.utf8Span.span)
    fields.withBytes { whole.text($0) }
    whole.field(4, parts.id.utf8Span.span)
    return Order(id: parts.id, sku: parts.sku, format: format, request: whole.array())
  }

  /// What was found besides `fields`.
  private struct Parts {
    var id = ""
    var sku = ""
    var hasTTL = false
  }

  /// Some of a text of whoever has placed the order. Not by characters: one may have any number of marks.
  fileprivate static func cut(_ text: String) -> String { String(text.unicodeScalars.prefix(100)) }

  private static func format(_ delivery: BrokerDelivery) throws(OrderFault) -> BodyFormat {
    let type = delivery.contentType.prefix { $0 != ";" }.lowercased().filter { $0 != " " }
    switch type {
    case "application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf":
      return .protobuf
    case "application/json": return .json
    case "":
      // No field of an order begins with one of these bytes, and no JSON with another.
      let first = delivery.body.first { ![9, 10, 13, 32].contains($0) }
      return first == UInt8(ascii: "{") ? .json : .protobuf
    default:
      throw OrderFault(
        "CONTENT_TYPE_UNKNOWN",
        "content type '\(Self.cut(delivery.contentType))'; application/json or application/protobuf is taken"
      )
    }
  }
}

// MARK: Protobuf

extension OrderReader {
  /// Submessages are copied as they are: whether they are messages the server sees.
  private func protobuf(_ body: [UInt8]) throws(OrderFault) -> Parts {
    var parts = Parts()
    var fault: OrderFault?
    unsafe body.withUnsafeBytes { bytes in
      var reader = unsafe WireFields(bytes)
      var hasLine = false
      while fault == nil, let field = reader.next() {
        guard field.isBytes || field.number > 5 else {
          fault = OrderFault("MALFORMED_BODY", "field \(field.number) is a number")
          break
        }
        switch field.number {
        case 1: parts.id = field.text
        case 2:
          if !hasLine { parts.sku = Self.sku(field) }
          hasLine = true
          copy(field, as: 2)
        case 3:
          parts.hasTTL = true
          copy(field, as: 3)
        case 4: copy(field, as: 5)
        case 5: copy(field, as: 6)
        default:
          fault = OrderFault(
            "UNKNOWN_FIELD", "field \(field.number) is unknown: it may narrow what is ordered")
        }
      }
      if reader.isMalformed, fault == nil {
        fault = OrderFault("MALFORMED_BODY", "not a protobuf message")
      }
    }
    if let fault { throw fault }
    return parts
  }

  private func copy(_ field: WireFields.Field, as number: Int) {
    let start = fields.begin(number)
    unsafe fields.text(field.bytes.bindMemory(to: UInt8.self).span)
    fields.end(start)
  }

  private static func sku(_ line: WireFields.Field) -> String {
    var reader = unsafe WireFields(line.bytes)
    var sku = ""
    while let field = reader.next() {
      if field.number == 1 { sku = field.text }
    }
    return sku
  }
}

// MARK: JSON

extension OrderReader {
  private func json(_ body: [UInt8]) throws(OrderFault) -> Parts {
    var reader = JSONReader(body)
    do throws(JSONError) {
      var parts = Parts()
      try readOrder(&reader, &parts)
      try reader.end()
      return parts
    } catch {
      let reason = error.kind == .unknownMember ? "UNKNOWN_FIELD" : "MALFORMED_BODY"
      throw OrderFault(reason, "JSON: \(error)")
    }
  }

  private func readOrder(_ reader: inout JSONReader, _ parts: inout Parts) throws(JSONError) {
    var names = Members(["order_id", "lines", "ttl", "alternatives", "limits"])
    try reader.beginObject()
    while let name = try names.next(&reader) {
      switch name {
      case 0: parts.id = try reader.text()
      case 1:
        var sku: String?
        try readLines(&reader, number: 2, firstSKU: &sku)
        parts.sku = sku ?? ""
      case 2:
        parts.hasTTL = true
        try readDuration(&reader, number: 3)
      case 3: try readAlternatives(&reader, number: 5)
      default: try readLimits(&reader, number: 6)
      }
    }
  }

  private func readLines(
    _ reader: inout JSONReader, number: Int, firstSKU: inout String?
  ) throws(JSONError) {
    try reader.beginList()
    while try reader.nextElement() {
      let start = fields.begin(number)
      let sku = try readLine(&reader)
      fields.end(start)
      if firstSKU == nil { firstSKU = sku }
    }
  }

  private func readLine(_ reader: inout JSONReader) throws(JSONError) -> String {
    var names = Members(["sku", "location", "quantity", "min_quantity"])
    var (sku, location) = ("", "")
    var (quantity, minimum) = (Int64(0), Int64(0))
    try reader.beginObject()
    while let name = try names.next(&reader) {
      switch name {
      case 0: sku = try reader.text()
      case 1: location = try reader.text()
      case 2: quantity = try reader.int64()
      default: minimum = try reader.int64()
      }
    }
    // In the order of their numbers: servers read that fastest.
    fields.field(1, sku.utf8Span.span)
    fields.field(2, location.utf8Span.span)
    fields.field(3, quantity)
    fields.field(4, minimum)
    return sku
  }

  private func readAlternatives(_ reader: inout JSONReader, number: Int) throws(JSONError) {
    try reader.beginList()
    while try reader.nextElement() {
      var names = Members(["lines"])
      let start = fields.begin(number)
      try reader.beginObject()
      while try names.next(&reader) != nil {
        var ignored: String?
        try readLines(&reader, number: 1, firstSKU: &ignored)
      }
      fields.end(start)
    }
  }

  private func readLimits(_ reader: inout JSONReader, number: Int) throws(JSONError) {
    try reader.beginList()
    while try reader.nextElement() {
      var names = Members(["subject", "max_units"])
      var (subject, units) = ("", Int64(0))
      try reader.beginObject()
      while let name = try names.next(&reader) {
        if name == 0 { subject = try reader.text() } else { units = try reader.int64() }
      }
      let start = fields.begin(number)
      fields.field(1, subject.utf8Span.span)
      fields.field(2, units)
      fields.end(start)
    }
  }

  /// A google.protobuf.Duration: "600s", "1.5s".
  private func readDuration(_ reader: inout JSONReader, number: Int) throws(JSONError) {
    let offset = reader.offset
    let text = try reader.text()
    guard let (seconds, nanos) = Self.duration(text) else {
      throw JSONError(.malformed, "no duration such as \"600s\" or \"1.5s\"", at: offset)
    }
    let start = fields.begin(number)
    fields.field(1, seconds)
    fields.field(2, nanos)
    fields.end(start)
  }

  static func duration(_ text: String) -> (seconds: Int64, nanos: Int64)? {
    guard text.last == "s" else { return nil }
    let isNegative = text.first == "-"
    let parts = text.dropFirst(isNegative ? 1 : 0).dropLast()
      .split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    let isDigits = { (part: Substring) in
      !part.isEmpty && part.utf8.allSatisfy { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }
    }
    // protobuf's range: ten thousand years.
    guard parts.allSatisfy(isDigits), let seconds = Int64(parts[0]), seconds <= 315_576_000_000
    else { return nil }
    var nanos: Int64 = 0
    if parts.count == 2 {
      guard parts[1].utf8.count <= 9, var fraction = Int64(parts[1]) else { return nil }
      for _ in parts[1].utf8.count..<9 { fraction *= 10 }
      nanos = fraction
    }
    return isNegative ? (-seconds, -nanos) : (seconds, nanos)
  }

  /// The members that an object may have, each once, in lowerCamelCase or as the .proto file has them. null: not there.
  private struct Members {
    private let names: [StaticString]
    private var seen = 0

    init(_ names: [StaticString]) { self.names = names }

    /// The place of the next member's name in the list; nil: the object has ended.
    mutating func next(_ reader: inout JSONReader) throws(JSONError) -> Int? {
      while true {
        let offset = reader.offset
        guard let name = try reader.nextName() else { return nil }
        guard let index = names.firstIndex(where: { Self.isMatch(name, $0) }) else {
          throw JSONError(.unknownMember, "unknown field '\(OrderReader.cut(name))'", at: offset)
        }
        if seen & 1 << index != 0 {
          throw JSONError(.malformed, "'\(name)' stands there twice", at: offset)
        }
        seen |= 1 << index
        if !reader.null() { return index }
      }
    }

    /// Whether it is `field`, or the same without its underscores and with a capital behind each.
    private static func isMatch(_ name: String, _ field: StaticString) -> Bool {
      let field = unsafe UnsafeBufferPointer(start: field.utf8Start, count: field.utf8CodeUnitCount)
      let underscore = UInt8(ascii: "_")
      if unsafe name.utf8.elementsEqual(field) { return true }
      var letters = name.utf8.makeIterator()
      var isCapital = false
      for index in field.indices {
        let byte = unsafe field[index]
        if byte == underscore {
          isCapital = true
          continue
        }
        guard letters.next() == (isCapital ? byte & ~0x20 : byte) else { return false }
        isCapital = false
      }
      return letters.next() == nil
    }
  }
}

extension ProtoWriter {
  /// What was written.
  func array() -> [UInt8] {
    withBytes { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } }
  }
}
