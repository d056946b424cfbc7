// Answers in both forms, and what each status means for an order.
import Bytes
import GRPC
import Messaging
import Testing

@testable import Intake

struct AnswerTests {
  private static func order(_ format: BodyFormat) -> Order {
    Order(id: "o-1", sku: "a", format: format, request: [])
  }

  private static func bytes(_ body: (ProtoWriter) -> Void) -> [UInt8] {
    let writer = ProtoWriter()
    defer { writer.destroy() }
    body(writer)
    return writer.array()
  }

  /// A BatchReserveResponse of one result.
  private static func response(_ number: Int, _ body: (ProtoWriter) -> Void) -> [UInt8] {
    bytes { writer in writer.nested(1) { writer.nested(number) { body(writer) } } }
  }

  private static func answer(_ format: BodyFormat, _ response: [UInt8]) -> Answer? {
    var answer: Answer?
    let writer = AnswerWriter()
    let isWhole = BatchResponse.read(response, count: 1) { _, outcome in
      switch outcome {
      case .held(let field): answer = unsafe writer.reserved(order(format), field)
      case .failed(let failure): answer = writer.rejected(order(format), failure)
      }
      return answer != nil
    }
    return isWhole ? answer : nil
  }

  private static let held = response(1) { writer in
    writer.field(1, "r-1")
    writer.field(2, seconds: 1_800_000_000_500_000_000)
    writer.field(3, true)
    writer.field(4, Int64(2))
    writer.nested(5) {
      writer.field(1, "a")
      writer.field(2, "x")
      writer.field(3, Int64(7))
    }
    writer.nested(5) {
      writer.field(1, "b")
      writer.field(3, Int64(1))
    }
    writer.field(6, Int64(2))
    writer.field(7, seconds: 1_000_000_000)
  }

  private static let refused = response(2) { writer in
    writer.field(1, Int64(9))
    writer.field(2, "INSUFFICIENT_STOCK")
    writer.field(3, "only 1 \"left\"")
    writer.nested(4) {
      writer.field(1, "sku")
      writer.field(2, "a")
    }
    writer.nested(4) {
      writer.field(1, "available")
      writer.field(2, "1")
    }
  }

  @Test func writesJSON() throws {
    let reserved = try #require(Self.answer(.json, Self.held))
    #expect(reserved.kind == .reserved)
    #expect(
      String(decoding: reserved.body, as: UTF8.self) == #"""
        {"orderId":"o-1","reservationId":"r-1","expiresAt":"2027-01-15T08:00:00.500Z","alternative":2,"lines":[{"sku":"a","location":"x","quantity":"7"},{"sku":"b","quantity":"1"}],"state":"RESERVATION_STATE_CONFIRMED"}
        """#)
    let rejected = try #require(Self.answer(.json, Self.refused))
    #expect(rejected.kind == .rejected)
    #expect(
      String(decoding: rejected.body, as: UTF8.self) == #"""
        {"orderId":"o-1","reason":"INSUFFICIENT_STOCK","message":"only 1 \"left\"","details":{"sku":"a","available":"1"}}
        """#)
  }

  @Test func writesProtobuf() throws {
    let reserved = try #require(Self.answer(.protobuf, Self.held))
    #expect(
      reserved.body
        == Self.bytes { writer in
          writer.field(1, "o-1")
          writer.field(2, "r-1")
          writer.field(3, seconds: 1_800_000_000_500_000_000)
          writer.field(4, Int64(2))
          writer.nested(5) {
            writer.field(1, "a")
            writer.field(2, "x")
            writer.field(3, Int64(7))
          }
          writer.nested(5) {
            writer.field(1, "b")
            writer.field(3, Int64(1))
          }
          writer.field(6, Int64(2))
        })
    let rejected = try #require(Self.answer(.protobuf, Self.refused))
    #expect(
      rejected.body
        == Self.bytes { writer in
          writer.field(1, "o-1")
          writer.field(2, "INSUFFICIENT_STOCK")
          writer.field(3, "only 1 \"left\"")
          for (name, value) in [("sku", "a"), ("available", "1")] as [(StaticString, StaticString)]
          {
            writer.nested(4) {
              writer.field(1, name)
              writer.field(2, value)
            }
          }
        })
  }

  @Test(arguments: [
    [], [0xff], [0x0a, 0], [0x0a, 2, 0x0a, 0x05], [0x0a, 2, 0x08, 1], [0x12, 0],
  ])
  func takesNoOtherResponse(_ bytes: [UInt8]) {
    #expect(Self.answer(.json, bytes) == nil)
    #expect(Self.answer(.protobuf, bytes) == nil)
    // One result too many.
    #expect(!BatchResponse.read(Self.held + Self.held, count: 1) { _, _ in true })
    #expect(!BatchResponse.read(Self.held, count: 2) { _, _ in true })
  }

  @Test(arguments: [
    (StatusCode.failedPrecondition, "INSUFFICIENT_STOCK", FailureFate.rejected),
    (.failedPrecondition, "NOT_ON_SALE", .rejected),
    (.failedPrecondition, "LIMIT_EXCEEDED", .rejected),
    (.notFound, "ITEM_NOT_FOUND", .rejected), (.failedPrecondition, "OF_A_NEWER_SERVER", .dead),
    (.notFound, "", .dead), (.invalidArgument, "INVALID_FIELD", .dead),
    (.invalidArgument, "IDEMPOTENCY_KEY_REUSED", .dead), (.outOfRange, "", .dead),
    (.alreadyExists, "", .dead), (.internal, "", .counted), (.unknown, "", .counted),
    (.dataLoss, "", .counted), (.unavailable, "OVERLOADED", .later),
    (.unavailable, "NOT_OWNER", .later),
    (.unavailable, "STORAGE_FULL", .later), (.resourceExhausted, "TABLE_FULL", .later),
    (.deadlineExceeded, "", .later), (.aborted, "", .later), (.cancelled, "", .later),
    (.unauthenticated, "TOKEN_EXPIRED", .forbidden),
    (.permissionDenied, "ROLE_REQUIRED", .forbidden),
    (.unimplemented, "UNKNOWN_METHOD", .forbidden),
  ])
  func knowsWhatBecomesOfAnOrder(_ code: StatusCode, _ reason: String, _ fate: FailureFate) {
    #expect(FailureFate(OrderFailure(code: code, reason: reason, text: "")) == fate)
  }
}
