// Orders as they are read: what is taken, what is refused, and that nothing a body may be does more than that.
import BrokerTesting
import Bytes
import Messaging
import Testing

@testable import Intake

struct OrderTests {
  static func delivery(
    _ body: [UInt8], _ contentType: String = "application/json", type: String = "OrderPlaced"
  ) -> BrokerDelivery {
    BrokerDelivery(tag: 1, origin: "orders.0", type: type, contentType: contentType, body: body)
  }

  private static func json(_ text: String) throws(OrderFault) -> Order {
    try OrderReader().read(delivery(Array(text.utf8)))
  }

  private static func bytes(_ body: (ProtoWriter) -> Void) -> [UInt8] {
    let writer = ProtoWriter()
    defer { writer.destroy() }
    body(writer)
    return writer.array()
  }

  /// An order with everything, in JSON of either spelling and in protobuf, asks for the same.
  @Test func bothFormsAskForTheSame() throws {
    let camel = """
      {"orderId": "o-1", "lines": [{"sku": "a", "location": "x", "quantity": "3", "minQuantity": 2}, {"sku": "b",
      "quantity": 1e0}], "ttl": "90.5s", "alternatives": [{"lines": [{"sku": "c", "quantity": 1}]}, {}],
      "limits": [{"subject": "customer:1", "maxUnits": "4"}]}
      """
    let snake = """
      {"limits": [{"max_units": 4, "subject": "customer:1"}], "alternatives": [{"lines": [{"quantity": "1", "sku": "c"}]},
      {"lines": null}], "ttl": "90.500000000s", "lines": [{"min_quantity": 2.0, "location": "x", "sku": "\\u0061",
      "quantity": 3}, {"sku": "b", "quantity": 1, "location": null}], "order_id": "o-1"}
      """
    let wire = Self.bytes { writer in
      writer.field(1, "o-1")
      writer.nested(2) {
        writer.field(1, "a")
        writer.field(2, "x")
        writer.field(3, Int64(3))
        writer.field(4, Int64(2))
      }
      writer.nested(2) {
        writer.field(1, "b")
        writer.field(3, Int64(1))
      }
      writer.field(3, seconds: 90_500_000_000)
      writer.nested(4) {
        writer.nested(1) {
          writer.field(1, "c")
          writer.field(3, Int64(1))
        }
      }
      writer.nested(4) {}
      writer.nested(5) {
        writer.field(1, "customer:1")
        writer.field(2, Int64(4))
      }
    }
    let expected = Self.bytes { writer in
      writer.field(1, "o-1")
      writer.nested(2) {
        writer.field(1, "a")
        writer.field(2, "x")
        writer.field(3, Int64(3))
        writer.field(4, Int64(2))
      }
      writer.nested(2) {
        writer.field(1, "b")
        writer.field(3, Int64(1))
      }
      writer.field(3, seconds: 90_500_000_000)
      writer.nested(5) {
        writer.nested(1) {
          writer.field(1, "c")
          writer.field(3, Int64(1))
        }
      }
      writer.nested(5) {}
      writer.nested(6) {
        writer.field(1, "customer:1")
        writer.field(2, Int64(4))
      }
      writer.field(4, "o-1")
    }
    let first = try Self.json(camel)
    #expect(first.request == expected && first.id == "o-1" && first.sku == "a")
    let read = try OrderReader().read(Self.delivery(wire, "application/protobuf"))
    #expect(read.request == expected && read.sku == "a" && read.format == .protobuf)
    // Of the second, the fields come in another order.
    let second = try Self.json(snake)
    #expect(second.request.count == expected.count && second.sku == "a" && second.id == "o-1")
  }

  @Test(arguments: [
    ("application/json", BodyFormat.json), ("application/json; charset=utf-8", .json),
    ("Application/JSON", .json), ("", .json), ("application/protobuf", nil), ("text/json", nil),
    ("application/cloudevents+json", nil), ("application/octet-stream", nil),
  ])
  func looksAtTheContentType(_ type: String, _ format: BodyFormat?) {
    let delivery = Self.delivery(Rig.json("o", "a", 1), type)
    #expect((try? OrderReader().read(delivery))?.format == format)
  }

  @Test(arguments: [
    "application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf", "",
  ])
  func takesProtobuf(_ type: String) throws {
    let order = try OrderReader().read(Self.delivery(Rig.protobuf("o", "a", 1), type))
    #expect(order.format == .protobuf && order.sku == "a")
  }

  @Test(arguments: [
    ("", "MALFORMED_BODY"), ("null", "MALFORMED_BODY"), ("[]", "MALFORMED_BODY"),
    ("{", "MALFORMED_BODY"),
    ("{}", "ORDER_ID_INVALID"), (#"{"orderId":""}"#, "ORDER_ID_INVALID"),
    (#"{"orderId":null}"#, "ORDER_ID_INVALID"), (#"{"orderId":7}"#, "MALFORMED_BODY"),
    (#"{"orderId":"a b"}"#, "ORDER_ID_INVALID"), (#"{"orderId":"ä"}"#, "ORDER_ID_INVALID"),
    (#"{"orderId":"a\u0000"}"#, "ORDER_ID_INVALID"),
    ("{\"orderId\":\"\(String(repeating: "x", count: 65))\"}", "ORDER_ID_INVALID"),
    (#"{"orderId":"o","order_id":"o"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","orderId":"p"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","price":1}"#, "UNKNOWN_FIELD"), (#"{"OrderId":"o"}"#, "UNKNOWN_FIELD"),
    (#"{"orderid":"o"}"#, "UNKNOWN_FIELD"), (#"{"orderId_":"o"}"#, "UNKNOWN_FIELD"),
    (#"{"orderId":"o","lines":[{"sku":"a","price":2}]}"#, "UNKNOWN_FIELD"),
    (#"{"orderId":"o","lines":[{"sku":"a","quantity":1.5}]}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","lines":[{"sku":"a","quantity":"x"}]}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","lines":[{"sku":"a","quantity":9223372036854775808}]}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","lines":[null]}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","lines":{}}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","lines":[{"sku":"a"}],}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":600}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":"600"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":"1.s"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":".5s"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":"--1s"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":"315576000001s"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o","ttl":"1.0000000001s"}"#, "MALFORMED_BODY"),
    (#"{"orderId":"o"} {"orderId":"p"}"#, "MALFORMED_BODY"),
  ])
  func refusesJSON(_ text: String, _ reason: String) {
    let fault = #expect(throws: OrderFault.self) { try Self.json(text) }
    #expect(fault?.reason == reason, "\(fault?.text ?? "")")
    #expect(OrderFault.reasons.contains(reason))
  }

  @Test(arguments: [
    ([], "ORDER_ID_INVALID"), ([0x0a, 1, 0x20], "ORDER_ID_INVALID"), ([0xff], "MALFORMED_BODY"),
    ([0x0a, 2, 0x61], "MALFORMED_BODY"), ([0x0a, 1, 0x61, 0x30, 1], "UNKNOWN_FIELD"),
    ([0x0a, 1, 0x61, 0x72, 0], "UNKNOWN_FIELD"), ([0x0a, 1, 0x61, 0x10, 1], "MALFORMED_BODY"),
    ([0x08, 1], "MALFORMED_BODY"), ([0x0a, 1, 0x61, 0x13], "MALFORMED_BODY"),
    (
      [0x0a, 1, 0x61, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "MALFORMED_BODY"
    ),
    ([0x0a, 1, 0xff], "ORDER_ID_INVALID"), ([0x00], "MALFORMED_BODY"),
  ])
  func refusesProtobuf(_ body: [UInt8], _ reason: String) {
    let fault = #expect(throws: OrderFault.self) {
      try OrderReader().read(Self.delivery(body, "application/protobuf"))
    }
    #expect(fault?.reason == reason)
  }

  @Test func refusesWhatIsNoOrder() {
    let large = Self.delivery(Array(repeating: 0x20, count: Order.bodyBytesMax + 1))
    let other = Self.delivery(Rig.json("o", "a", 1), type: "OrderCancelled")
    let strange = Self.delivery(Rig.json("o", "a", 1), "text/plain")
    for (delivery, reason) in [
      (large, "BODY_TOO_LARGE"), (other, "TYPE_UNKNOWN"), (strange, "CONTENT_TYPE_UNKNOWN"),
    ] {
      let fault = #expect(throws: OrderFault.self) { try OrderReader().read(delivery) }
      #expect(fault?.reason == reason)
    }
  }

  /// An order's own time goes before the intake's.
  @Test func addsATimeToLive() throws {
    let reader = OrderReader(ttlNanoseconds: 5_000_000_000)
    let without = try reader.read(Self.delivery(Rig.json("o", "a", 1)))
    let zero: [UInt8] = [0x1a, 2, 8, 5]
    #expect(without.request.contains(zero))
    let with = try reader.read(
      Self.delivery(Array(#"{"orderId":"o","lines":[{"sku":"a","quantity":1}],"ttl":"7s"}"#.utf8)))
    #expect(with.request.contains([0x1a, 2, 8, 7]) && !with.request.contains(zero))
  }

  /// Bodies that were changed at random are read as orders or refused, in both forms; what is taken has the id that it says.
  @Test func mutatedBodiesDoNoHarm() {
    let reader = OrderReader()
    var random = Seeded(15)
    let json = Array(
      #"{"orderId":"o-1","lines":[{"sku":"a","quantity":"3","minQuantity":2}],"ttl":"1.5s","alternatives":[{"lines":[]}],"limits":[{"subject":"c","maxUnits":1}]}"#
        .utf8)
    guard let whole = try? reader.read(Self.delivery(json)) else {
      Issue.record("the order itself is not taken")
      return
    }
    let protobuf = Rig.protobuf("o-1", "a", 3)
    var (taken, refused) = (0, 0)
    for round in 0..<6000 {
      let isJSON = round % 2 == 0
      var body = isJSON ? json : protobuf
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        let place = Int.random(in: 0..<max(body.count, 1), using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0 where !body.isEmpty: body[place] = UInt8.random(in: .min ... .max, using: &random)
        case 1 where !body.isEmpty: body.remove(at: place)
        case 2: body.insert(body.randomElement(using: &random) ?? 0, at: min(place, body.count))
        default:
          body = Array(body.prefix(place)) + body.suffix(Int.random(in: 0...9, using: &random))
        }
      }
      let type = isJSON ? "application/json" : "application/protobuf"
      do throws(OrderFault) {
        let order = try reader.read(Self.delivery(body, type))
        taken += 1
        #expect(1...64 ~= order.id.utf8.count)
        let reserve = TestReserve(order.request)
        #expect(reserve.key == order.id && reserve.reference == order.id)
        #expect(order.request.count <= Order.requestBytesMax)
      } catch {
        refused += 1
        #expect(OrderFault.reasons.contains(error.reason))
      }
    }
    #expect(taken > 200 && refused > 2000)
    #expect(try! reader.read(Self.delivery(json)) == whole)
  }
}
