// From events to messages: one for each SKU that a decision touches (docs/EVENTS.md).
internal import Bytes
internal import Messaging

/// How bodies are written.
package enum EventFormat: String, CaseIterable, Sendable {
  case json, protobuf

  package var contentType: String {
    switch self {
    case .json: "application/json"
    case .protobuf: "application/protobuf"
    }
  }
}

/// Makes messages of the events of one watch. Used by one thread.
struct MessageMaker {
  /// RabbitMQ takes no longer routing key.
  private static let routingKeyBytesMax = 255
  /// By EventKind.
  private static let types = [
    "Kind0", "StockReserved", "ReservationReplaced", "ReservationExtended", "ReservationConfirmed",
    "ReservationReleased", "ReservationExpired", "StockAdjusted", "StockRejected", "ItemRemoved",
  ]
  private static let stockField = 8
  private static let sequenceDigits = 20

  private let destination: String
  private let source: String
  private let format: EventFormat
  private let contentType: String
  /// Written again for every message.
  private var text: [UInt8] = []

  init(destination: String, source: String, format: EventFormat) {
    self.destination = destination
    self.source = source
    self.format = format
    contentType = format.contentType
  }

  /// Shows the messages of an event to `take`, one at least.
  /// - Parameter store: names the store that decided it.
  mutating func make(
    _ event: EventOutline, of store: Substring.UTF8View, _ take: (BrokerMessage) -> Void
  ) {
    let touched = event.stock.isEmpty ? event.lines : event.stock
    // Nearly always there is one item.
    if touched.count == 1 {
      return take(message(event, store, unsafe Self.string(touched[0].sku), body: whole(event)))
    }
    var skus: [String] = []
    for item in touched {
      let sku = unsafe Self.string(item.sku)
      if !skus.contains(sku) { skus.append(sku) }
    }
    if skus.isEmpty {
      return take(message(event, store, "", body: whole(event)))
    }
    for sku in skus {
      let isNarrowed = skus.count > 1 && !event.stock.isEmpty
      take(message(event, store, sku, body: isNarrowed ? body(of: event, sku) : whole(event)))
    }
  }

  // MARK: The message

  private mutating func message(
    _ event: EventOutline, _ store: Substring.UTF8View, _ sku: String, body: [UInt8]
  ) -> BrokerMessage {
    let type = Self.type(event.kind)
    let reference = unsafe Self.string(event.reference)
    var attributes: [(name: String, value: String)] = []
    attributes.reserveCapacity(4)
    if !sku.isEmpty { attributes.append(("subject", sku)) }
    attributes.append(("sequence", sequence(event.lsn)))
    let reservation = unsafe Self.string(event.reservationID)
    if !reservation.isEmpty { attributes.append(("reservationid", reservation)) }
    if !reference.isEmpty { attributes.append(("reference", reference)) }
    // What is about no item that there is, and a hold that goes on for longer: whoever asked has its messages in order.
    let key =
      !sku.isEmpty
      ? sku
      : !reference.isEmpty
        ? reference
        : !reservation.isEmpty ? reservation : unsafe Self.string(event.idempotencyKey)
    return BrokerMessage(
      to: destination, routingKey: routingKey(type, sku), partitionKey: key,
      id: id(store, event.lsn), type: type, source: source, contentType: contentType,
      time: event.decidedAt, attributes: attributes, body: body)
  }

  private static func type(_ kind: UInt64) -> String {
    kind < UInt64(types.count) ? types[Int(kind)] : "Kind\(kind)"
  }

  private mutating func id(_ store: Substring.UTF8View, _ lsn: UInt64) -> String {
    text.removeAll(keepingCapacity: true)
    text.append(contentsOf: store)
    text.append(UInt8(ascii: "-"))
    EventJSON.append(decimal: lsn, to: &text)
    return String(decoding: text, as: UTF8.self)
  }

  /// In the order of numbers where it is compared as text.
  private mutating func sequence(_ lsn: UInt64) -> String {
    text.removeAll(keepingCapacity: true)
    EventJSON.append(decimal: lsn, to: &text)
    let missing = Self.sequenceDigits - text.count
    text.insert(contentsOf: repeatElement(UInt8(ascii: "0"), count: missing), at: 0)
    return String(decoding: text, as: UTF8.self)
  }

  /// `TYPE.SKU`, as far as a broker takes it.
  private mutating func routingKey(_ type: String, _ sku: String) -> String {
    text.removeAll(keepingCapacity: true)
    text.append(contentsOf: type.utf8)
    text.append(UInt8(ascii: "."))
    text.append(contentsOf: sku.utf8)
    if text.count > Self.routingKeyBytesMax {
      var end = Self.routingKeyBytesMax
      // Not within a character.
      while text[end] & 0xc0 == 0x80 { end -= 1 }
      text.removeLast(text.count - end)
    }
    return String(decoding: text, as: UTF8.self)
  }

  // MARK: The body

  private func whole(_ event: EventOutline) -> [UInt8] { unsafe body(event.bytes) }

  /// The event with the balances of one SKU alone.
  private func body(of event: EventOutline, _ sku: String) -> [UInt8] {
    var narrowed: [UInt8] = []
    unsafe narrowed.reserveCapacity(event.bytes.count)
    var fields = unsafe WireFields(event.bytes)
    var start = 0
    var level = 0
    while let field = fields.next() {
      let end = fields.offset
      var isKept = true
      if field.number == Self.stockField {
        isKept = unsafe event.stock[level].sku.elementsEqual(sku.utf8)
        level += 1
      }
      if isKept { unsafe narrowed.append(contentsOf: event.bytes[start..<end]) }
      start = end
    }
    return unsafe narrowed.withUnsafeBytes { unsafe body($0) }
  }

  private func body(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
    switch format {
    case .protobuf: return unsafe Array(bytes)
    case .json:
      var json: [UInt8] = []
      json.reserveCapacity(bytes.count * 3 + 128)
      unsafe EventJSON.append(bytes, to: &json)
      return json
    }
  }

  private static func string(_ bytes: UnsafeRawBufferPointer) -> String {
    unsafe String(decoding: bytes, as: UTF8.self)
  }
}
