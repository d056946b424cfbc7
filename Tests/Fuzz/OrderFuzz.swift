// Orders as a broker gives them to the intake, in both forms, and JSON's reader alone.
internal import Bytes
internal import Intake
internal import Messaging

/// What an order asks for, whichever way it was written.
private struct Asked: Equatable {
  struct Line: Equatable {
    var sku = ""
    var location = ""
    var quantity: Int64 = 0
    var minimum: Int64 = 0
  }

  struct Limit: Equatable {
    var subject = ""
    var units: Int64 = 0
  }

  struct Duration: Equatable {
    var seconds: Int64 = 0
    var nanos: Int64 = 0
  }

  var id = ""
  var lines: [Line] = []
  var ttl: Duration?
  var alternatives: [[Line]] = []
  var limits: [Limit] = []
}

enum OrderFuzz {
  private static let formats: [BodyFormat] = [.json, .protobuf]

  /// The first byte says the form. What is taken is what a second reader takes, and asks for the same, also when it is
  /// written in the other form and read again.
  static func orders(_ input: [UInt8]) {
    let format = formats[Int(input[0] & 1)]
    let body = Array(input[1...])
    let asked: Asked?
    do throws(OrderFault) {
      let order = try read(body, format)
      precondition(order.request.count <= Order.requestBytesMax, "a request that outgrows its body")
      asked = Asked(request: order.request)
      if let asked {
        precondition(asked.id == order.id && order.sku == asked.lines.first?.sku ?? "")
      }
    } catch {
      // It says so of each order alone.
      precondition(error.text.utf8.count < 1000, "a fault that tells the whole order")
      let isOfID = error.reason == "ORDER_ID_INVALID"
      precondition(
        format == .protobuf || isOfID || Asked(JSONText: body) == nil, "refused: \(error)")
      return
    }
    switch format {
    case .json: precondition(asked != nil && asked == Asked(JSONText: body), "not what it says")
    // What a submessage is, the server says.
    case .protobuf: if asked == nil { return }
    }
    guard let asked else { return }
    for form in formats {
      guard let written = asked.written(as: form) else { continue }
      let again = try? read(written, form)
      precondition(again.flatMap { Asked(request: $0.request) } == asked, "not the same as \(form)")
    }
  }

  private static func read(_ body: [UInt8], _ format: BodyFormat) throws(OrderFault) -> Order {
    try OrderReader().read(
      BrokerDelivery(
        tag: 1, origin: "orders.0", type: "OrderPlaced", contentType: format.contentType, body: body
      ))
  }

  /// A text that JSONReader takes front to back is JSON, with the same values; and the other way round, as far as its
  /// numbers are whole.
  static func json(_ input: [UInt8]) {
    let strict = StrictJSON(input)
    var reader = JSONReader(input)
    do throws(JSONError) {
      let value = try value(&reader, input, depth: 0)
      try reader.end()
      precondition(
        strict.map { $0.hasWholeNumbers ? $0.withWholeNumbers : nil } == value, "no such JSON")
    } catch {
      precondition(error.offset <= input.count)
      precondition(strict?.hasWholeNumbers != true, "refused: \(error)")
    }
  }

  private static func value(
    _ reader: inout JSONReader, _ bytes: [UInt8], depth: Int
  ) throws(JSONError) -> StrictJSON {
    guard depth < StrictJSON.depthMax else {
      throw JSONError(.malformed, "deep", at: reader.offset)
    }
    let first = bytes[reader.offset...].first { ![0x20, 0x09, 0x0a, 0x0d].contains($0) }
    switch first {
    case UInt8(ascii: "{"):
      var members: [StrictJSON.Member] = []
      try reader.beginObject()
      while let name = try reader.nextName() {
        let value = try value(&reader, bytes, depth: depth + 1)
        members.append(StrictJSON.Member(name: name, value: value))
      }
      return .object(members)
    case UInt8(ascii: "["):
      var elements: [StrictJSON] = []
      try reader.beginList()
      while try reader.nextElement() {
        elements.append(try value(&reader, bytes, depth: depth + 1))
      }
      return .list(elements)
    case UInt8(ascii: "\""): return .text(try reader.text())
    default:
      if reader.null() { return .null }
      return .number(String(try reader.int64()))
    }
  }
}

extension StrictJSON {
  /// There are no other values in it than JSONReader reads.
  fileprivate var hasWholeNumbers: Bool {
    switch self {
    case .null, .text: true
    case .bool: false
    case .number(let text): Self.whole(text) != nil
    case .list(let elements): elements.allSatisfy(\.hasWholeNumbers)
    case .object(let members): members.allSatisfy { $0.value.hasWholeNumbers }
    }
  }

  /// The same with numbers in digits alone.
  fileprivate var withWholeNumbers: StrictJSON {
    switch self {
    case .number(let text): .number(Self.whole(text).map { String($0) } ?? text)
    case .list(let elements): .list(elements.map(\.withWholeNumbers))
    case .object(let members):
      .object(members.map { Member(name: $0.name, value: $0.value.withWholeNumbers) })
    default: self
    }
  }
}

// MARK: From JSON

extension Asked {
  /// nil: by protobuf's mapping it is no OrderPlaced.
  fileprivate init?(JSONText text: [UInt8]) {
    guard let value = StrictJSON(text),
      let fields = value.fields(["order_id", "lines", "ttl", "alternatives", "limits"])
    else { return nil }
    if let value = fields["order_id"] {
      guard case .text(let text) = value else { return nil }
      id = text
    }
    if let value = fields["ttl"] {
      guard case .text(let text) = value, let duration = Duration(text) else { return nil }
      ttl = duration
    }
    guard let lines = Self.lines(fields["lines"]),
      let alternatives = Self.elements(
        fields["alternatives"],
        { alternative in
          alternative.fields(["lines"]).flatMap { Self.lines($0["lines"]) }
        }), let limits = Self.elements(fields["limits"], { Limit($0) })
    else { return nil }
    (self.lines, self.alternatives, self.limits) = (lines, alternatives, limits)
  }

  private static func elements<Element>(
    _ value: StrictJSON?, _ element: (StrictJSON) -> Element?
  ) -> [Element]? {
    guard let value else { return [] }
    guard case .list(let values) = value else { return nil }
    let elements = values.compactMap(element)
    return elements.count == values.count ? elements : nil
  }

  private static func lines(_ value: StrictJSON?) -> [Line]? {
    elements(value) { line in
      guard let fields = line.fields(["sku", "location", "quantity", "min_quantity"]),
        let sku = text(fields["sku"]), let location = text(fields["location"]),
        let quantity = number(fields["quantity"]), let minimum = number(fields["min_quantity"])
      else { return nil }
      return Line(sku: sku, location: location, quantity: quantity, minimum: minimum)
    }
  }

  fileprivate static func text(_ value: StrictJSON?) -> String? {
    guard let value else { return "" }
    guard case .text(let text) = value else { return nil }
    return text
  }

  fileprivate static func number(_ value: StrictJSON?) -> Int64? {
    switch value {
    case nil: return 0
    case .number(let text): return StrictJSON.whole(text)
    case .text(let text):
      guard case .number(let number) = StrictJSON(Array(text.utf8)), number == text else {
        return nil
      }
      return StrictJSON.whole(number)
    default: return nil
    }
  }
}

extension Asked.Limit {
  fileprivate init?(_ value: StrictJSON) {
    guard let fields = value.fields(["subject", "max_units"]),
      let subject = Asked.text(fields["subject"]), let units = Asked.number(fields["max_units"])
    else { return nil }
    self.init(subject: subject, units: units)
  }
}

extension Asked.Duration {
  fileprivate init?(_ text: String) {
    let number = String(text.dropLast())
    guard text.utf8.last == UInt8(ascii: "s"), text == number + "s" else { return nil }
    let isNegative = number.hasPrefix("-")
    let parts = number.dropFirst(isNegative ? 1 : 0).split(
      separator: ".", omittingEmptySubsequences: false)
    let areDigits = parts.allSatisfy { part in
      !part.isEmpty && part.utf8.allSatisfy { (0x30...0x39).contains($0) }
    }
    guard areDigits, parts.count < 3, let seconds = Int64(parts[0]), seconds <= 315_576_000_000
    else { return nil }
    var nanos: Int64 = 0
    if parts.count == 2 {
      guard parts[1].utf8.count < 10,
        let fraction = Int64(parts[1] + String(repeating: "0", count: 9 - parts[1].utf8.count))
      else { return nil }
      nanos = fraction
    }
    self.init(seconds: isNegative ? -seconds : seconds, nanos: isNegative ? -nanos : nanos)
  }

  /// nil: protobuf's JSON cannot say it.
  fileprivate var text: String? {
    guard abs(nanos) < 1_000_000_000, seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0),
      (-315_576_000_000...315_576_000_000).contains(seconds)
    else { return nil }
    let fraction = String(abs(nanos))
    let zeros = String(repeating: "0", count: 9 - fraction.utf8.count)
    return "\(seconds < 0 || nanos < 0 ? "-" : "")\(abs(seconds)).\(zeros)\(fraction)s"
  }
}

extension StrictJSON {
  /// The members of an object by their names in the .proto file, without those that are null; nil: it is no object, or has
  /// others, or one twice.
  fileprivate func fields(_ known: [String]) -> [String: StrictJSON]? {
    guard case .object(let members) = self else { return nil }
    var names: [String: String] = [:]
    for name in known {
      let words = name.split(separator: "_")
      let capitals = words.dropFirst().map { $0.prefix(1).uppercased() + $0.dropFirst() }
      names[name] = name
      names[words[0] + capitals.joined()] = name
    }
    var fields: [String: StrictJSON] = [:]
    for member in members {
      guard let name = names.first(where: { $0.key.utf8.elementsEqual(member.name.utf8) })?.value,
        fields.updateValue(member.value, forKey: name) == nil
      else { return nil }
    }
    return fields.filter { $0.value != .null }
  }
}

// MARK: From protobuf

extension Asked {
  /// nil: it is no ReserveRequest in every part, or has something that an order has not.
  fileprivate init?(request: [UInt8]) {
    var keys: [String] = []
    var isWhole = true
    unsafe request.withUnsafeBytes { bytes in
      var fields = unsafe WireFields(bytes)
      while isWhole, let field = fields.next() {
        switch field.number {
        case 1, 4: isWhole = Self.text(field).map { keys.append($0) } != nil
        case 2: isWhole = unsafe Self.line(field).map { lines.append($0) } != nil
        case 3: isWhole = unsafe merge(field)
        case 5: isWhole = unsafe Self.alternative(field).map { alternatives.append($0) } != nil
        case 6: isWhole = unsafe Self.limit(field).map { limits.append($0) } != nil
        default: isWhole = false
        }
      }
      isWhole = isWhole && !fields.isMalformed
    }
    guard isWhole else { return nil }
    precondition(keys.count == 2 && keys[0] == keys[1], "key and reference are the order's id")
    id = keys[0]
  }

  /// Where a message stands twice, both count.
  @unsafe private mutating func merge(_ field: WireFields.Field) -> Bool {
    guard field.isBytes else { return false }
    var ttl = ttl ?? Duration()
    var fields = unsafe WireFields(field.bytes)
    while let field = fields.next() {
      if field.isBytes || field.number > 2 { return false }
      if field.number == 1 { ttl.seconds = field.signed } else { ttl.nanos = field.signed }
    }
    self.ttl = ttl
    return !fields.isMalformed
  }

  private static func text(_ field: WireFields.Field) -> String? {
    guard field.isBytes else { return nil }
    return unsafe String(validating: field.bytes, as: UTF8.self)
  }

  @unsafe private static func line(_ field: WireFields.Field) -> Line? {
    guard field.isBytes else { return nil }
    var line = Line()
    var fields = unsafe WireFields(field.bytes)
    while let field = fields.next() {
      switch (field.number, field.isBytes) {
      case (1, true), (2, true):
        guard let text = text(field) else { return nil }
        if field.number == 1 { line.sku = text } else { line.location = text }
      case (3, false): line.quantity = field.signed
      case (4, false): line.minimum = field.signed
      default: return nil
      }
    }
    return fields.isMalformed ? nil : line
  }

  @unsafe private static func alternative(_ field: WireFields.Field) -> [Line]? {
    guard field.isBytes else { return nil }
    var lines: [Line] = []
    var fields = unsafe WireFields(field.bytes)
    while let field = fields.next() {
      guard field.number == 1, let line = unsafe line(field) else { return nil }
      lines.append(line)
    }
    return fields.isMalformed ? nil : lines
  }

  @unsafe private static func limit(_ field: WireFields.Field) -> Limit? {
    guard field.isBytes else { return nil }
    var limit = Limit()
    var fields = unsafe WireFields(field.bytes)
    while let field = fields.next() {
      switch (field.number, field.isBytes) {
      case (1, true):
        guard let text = text(field) else { return nil }
        limit.subject = text
      case (2, false): limit.units = field.signed
      default: return nil
      }
    }
    return fields.isMalformed ? nil : limit
  }
}

// MARK: Written

extension Asked {
  /// An OrderPlaced; nil: that form cannot say it.
  fileprivate func written(as format: BodyFormat) -> [UInt8]? {
    switch format {
    case .json: json
    case .protobuf: protobuf
    }
  }

  private var json: [UInt8]? {
    var members = [("orderId", JSON.text(id)), ("lines", JSON.list(lines.map(Self.json)))]
    if let ttl {
      guard let text = ttl.text else { return nil }
      members.append(("ttl", .text(text)))
    }
    members.append(
      (
        "alternatives",
        .list(alternatives.map { .object([("lines", .list($0.map(Self.json)))]) })
      ))
    members.append(
      (
        "limits",
        .list(
          limits.map { .object([("subject", .text($0.subject)), ("max_units", .int($0.units))]) })
      ))
    let bytes = JSON.object(members).bytes
    return bytes.count <= Order.bodyBytesMax ? bytes : nil
  }

  private static func json(_ line: Line) -> JSON {
    .object([
      ("sku", .text(line.sku)), ("location", .text(line.location)),
      ("quantity", .text(String(line.quantity))), ("minQuantity", .int(line.minimum)),
    ])
  }

  private var protobuf: [UInt8] {
    let writer = ProtoWriter()
    defer { writer.destroy() }
    writer.field(1, id.utf8Span.span)
    Self.write(lines, 2, writer)
    if let ttl {
      writer.nested(3) {
        writer.field(1, ttl.seconds)
        writer.field(2, ttl.nanos)
      }
    }
    for lines in alternatives { writer.nested(4) { Self.write(lines, 1, writer) } }
    for limit in limits {
      writer.nested(5) {
        writer.field(1, limit.subject.utf8Span.span)
        writer.field(2, limit.units)
      }
    }
    return writer.withBytes { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } }
  }

  private static func write(_ lines: [Line], _ number: Int, _ writer: ProtoWriter) {
    for line in lines {
      writer.nested(number) {
        writer.field(1, line.sku.utf8Span.span)
        writer.field(2, line.location.utf8Span.span)
        writer.field(3, line.quantity)
        writer.field(4, line.minimum)
      }
    }
  }
}
