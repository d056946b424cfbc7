import GRPC
import ReservationService
import Testing

@Suite("Health")
struct HealthTests {
  private let service = Service()
  private static let serving: Int64 = 1
  private static let notServing: Int64 = 2
  private static let serviceUnknown: Int64 = 3
  private static let services = [
    "", "holdfast.v1.ReservationService", "holdfast.v1.StockService", "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
  ]

  /// Remembers what the handler sends late.
  private final class Sink: CallSink {
    var sent: [UInt64: [Answer]] = [:]
    func respond(
      to call: CallID, lsn: UInt64, ends: Bool, _ write: (Response) -> Void
    ) -> Delivery {
      #expect(!ends && lsn == 0)
      let response = Response()
      write(response)
      if let answer = try? Service.answer(in: response) {
        sent[call.rawValue, default: []].append(answer)
      }
      return .taken
    }
  }

  private func watch(_ name: String, _ call: UInt64) throws -> Int64 {
    let request = Message().with(1, name)
    guard
      case .message(let status) = try service.call(
        "/grpc.health.v1.Health/Watch", bytes: request.bytes, id: CallID(rawValue: call))
    else { return -1 }
    return status.number(1)
  }

  @Test("Every service is checked", arguments: services)
  func check(name: String) throws {
    #expect(try service.ok("Check", Message().with(1, name)).number(1) == Self.serving)
    service.handler.drain()
    #expect(try service.ok("Check", Message().with(1, name)).number(1) == Self.notServing)
    #expect(try watch(name, 1) == Self.notServing)
  }

  @Test(
    "A service that is unknown", arguments: ["nobody", "holdfast.v1", "holdfast.v1.StockServic"])
  func unknown(name: String) throws {
    let refused = try service.refused("Check", Message().with(1, name))
    #expect(refused.code == .notFound)
    #expect(refused.reason == "UNKNOWN_SERVICE")
    #expect(try watch(name, 1) == Self.serviceUnknown)
    service.handler.drain()
    #expect(try service.refused("Check", Message().with(1, name)).code == .notFound)
  }

  @Test("A name that is no UTF-8 is malformed")
  func malformed() throws {
    for method in ["Check", "/grpc.health.v1.Health/Watch"] {
      let refused = try service.refused(method, Message().with(1, [0xff]))
      #expect(refused.code == .invalidArgument)
      #expect(refused.reason == "MALFORMED_MESSAGE")
    }
  }

  @Test("Watchers are told of the drain once, and those who left are not")
  func watching() throws {
    let sink = Sink()
    for (index, name) in Self.services.enumerated() {
      #expect(try watch(name, UInt64(index)) == Self.serving)
    }
    #expect(try watch("nobody", 100) == Self.serviceUnknown)
    service.handler.deliver(to: sink)
    #expect(sink.sent.isEmpty)

    service.handler.cancelled(CallID(rawValue: 1))
    service.handler.cancelled(CallID(rawValue: 77))
    service.handler.drain()
    service.handler.deliver(to: sink)
    service.handler.deliver(to: sink)
    let told = Self.services.indices.map(UInt64.init).filter { $0 != 1 }
    #expect(sink.sent.keys.sorted() == told)
    let news = try #require(Fields([0x08, 0x02]))
    #expect(sink.sent.values.allSatisfy { $0 == [.message(news)] })
  }

  @Test("Watchers are bounded")
  func bounded() throws {
    for call in 0..<10_000 { #expect(try watch("", UInt64(call)) == Self.serving) }
    let refused = try service.refused("/grpc.health.v1.Health/Watch", Message())
    #expect(refused.code == .resourceExhausted)
    service.handler.cancelled(CallID(rawValue: 5))
    #expect(try watch("", 20_000) == Self.serving)
  }
}
