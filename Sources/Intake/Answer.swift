// What is answered to an order: OrderReserved or OrderRejected (order.proto), written as the order was.
internal import Bytes
internal import Client

/// A decision, as a broker carries it.
struct Answer {
  enum Kind: String, CaseIterable {
    case reserved = "StockReserved"
    case rejected = "StockRejected"
  }

  let kind: Kind
  let body: [UInt8]
}

/// Writes answers. One thread.
final class AnswerWriter {
  private let writer = ProtoWriter(capacity: 1024)

  deinit { writer.destroy() }

  /// - Safety: nothing of the answer refers to the response.
  @unsafe func reserved(_ order: Order, _ response: WireFields.Field) -> Answer? {
    switch order.format {
    case .protobuf: unsafe protobuf(order, response).map { Answer(kind: .reserved, body: $0) }
    case .json:
      unsafe HeldOrder(response).map { Answer(kind: .reserved, body: json(order, $0)) }
    }
  }

  func rejected(_ order: Order, _ failure: OrderFailure) -> Answer {
    let body =
      switch order.format {
      case .protobuf: protobuf(order, failure)
      case .json: json(order, failure)
      }
    return Answer(kind: .rejected, body: body)
  }

  // MARK: Protobuf

  /// The fields of a ReserveResponse, copied as they are; nil where it is none.
  @unsafe private func protobuf(_ order: Order, _ response: WireFields.Field) -> [UInt8]? {
    writer.reset()
    writer.field(1, order.id.utf8Span.span)
    var fields = unsafe WireFields(response.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1, 2, 5:
        let start = writer.begin(field.number == 5 ? 5 : field.number + 1)
        unsafe writer.text(field.bytes.bindMemory(to: UInt8.self).span)
        writer.end(start)
      case 4, 6: writer.field(field.number, field.value)
      default: break
      }
    }
    return fields.isMalformed ? nil : writer.array()
  }

  private func protobuf(_ order: Order, _ failure: OrderFailure) -> [UInt8] {
    writer.reset()
    writer.field(1, order.id.utf8Span.span)
    writer.field(2, failure.reason.utf8Span.span)
    writer.field(3, failure.text.utf8Span.span)
    for entry in failure.details {
      let start = writer.begin(4)
      writer.field(1, entry.name.utf8Span.span)
      writer.field(2, entry.value.utf8Span.span)
      writer.end(start)
    }
    return writer.array()
  }

  // MARK: JSON

  private func json(_ order: Order, _ held: HeldOrder) -> [UInt8] {
    var object = JSONObject()
    object.add("orderId", order.id)
    object.add("reservationId", held.reservationID)
    if let expires = held.expiresAt { object.add("expiresAt", expires.description) }
    if held.alternative != 0 { object.add("alternative", number: held.alternative) }
    if !held.lines.isEmpty {
      object.add(
        "lines",
        held.lines.map { line in
          var object = JSONObject()
          object.add("sku", line.item.sku)
          if !line.item.location.isEmpty { object.add("location", line.item.location) }
          // protobuf's JSON has numbers of 64 bits as strings.
          object.add("quantity", String(line.quantity))
          return object
        })
    }
    // One that this version does not know is a number there.
    if 1...4 ~= held.state.rawValue {
      object.add("state", "RESERVATION_STATE_" + held.state.name)
    } else if held.state != .unspecified {
      object.add("state", number: Int64(clamping: held.state.rawValue))
    }
    return object.text
  }

  private func json(_ order: Order, _ failure: OrderFailure) -> [UInt8] {
    var object = JSONObject()
    object.add("orderId", order.id)
    object.add("reason", failure.reason)
    if !failure.text.isEmpty { object.add("message", failure.text) }
    if !failure.details.isEmpty {
      var details = JSONObject()
      for entry in failure.details { details.add(entry.name, entry.value) }
      object.add("details", details)
    }
    return object.text
  }
}

/// A ReserveResponse.
private struct HeldOrder {
  var reservationID = ""
  var expiresAt: Instant?
  var alternative: Int64 = 0
  var lines: [ReservationLine] = []
  var state = ReservationState.unspecified

  /// - Safety: nothing of it refers to the field's bytes.
  @unsafe init?(_ response: WireFields.Field) {
    var fields = unsafe WireFields(response.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: reservationID = field.text
      case 2: expiresAt = Instant(field)
      case 4: alternative = field.signed
      case 5:
        guard let line = ReservationLine(field) else { return nil }
        lines.append(line)
      case 6: state = ReservationState(rawValue: field.value)
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// An object of JSON, written as its members come: an answer is small, and there are many.
private struct JSONObject {
  private var bytes: [UInt8] = [UInt8(ascii: "{")]

  var text: [UInt8] { bytes + [UInt8(ascii: "}")] }

  mutating func add(_ name: String, _ value: String) {
    begin(name)
    append(value)
  }

  mutating func add(_ name: String, number: Int64) {
    begin(name)
    bytes += String(number).utf8
  }

  mutating func add(_ name: String, _ object: JSONObject) {
    begin(name)
    bytes += object.text
  }

  mutating func add(_ name: String, _ objects: [JSONObject]) {
    begin(name)
    bytes.append(UInt8(ascii: "["))
    for (index, object) in objects.enumerated() {
      if index > 0 { bytes.append(UInt8(ascii: ",")) }
      bytes += object.text
    }
    bytes.append(UInt8(ascii: "]"))
  }

  private mutating func begin(_ name: String) {
    if bytes.count > 1 { bytes.append(UInt8(ascii: ",")) }
    append(name)
    bytes.append(UInt8(ascii: ":"))
  }

  private mutating func append(_ text: String) {
    let isPlain = text.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f && $0 != 0x22 && $0 != 0x5c }
    if isPlain {
      bytes.append(UInt8(ascii: "\""))
      bytes += text.utf8
      bytes.append(UInt8(ascii: "\""))
    } else {
      bytes += JSON.text(text).bytes
    }
  }
}
