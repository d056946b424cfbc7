import Access
import Bytes
import GRPC
import Posix
import Simulation
import Synchronization
import Testing
import WireTesting

@testable import ReservationService
@testable import StockStore
@testable import StorePersistence

/// What a standby says to clients.
@Suite("Standby")
struct StandbyTests {
  private final class Owner: Sendable {
    let text = Mutex<String?>("127.0.0.1:7420")
  }

  private let response = Response()
  private let owner = Owner()

  private func handler(
    _ authorization: Authorization = Authorization(file: nil), stale: StaleReads? = nil
  ) -> StandbyHandler {
    StandbyHandler(
      authorization: authorization, clock: FixedClock(Timestamp(nanoseconds: 1)), stale: stale
    ) { [owner] in owner.text.withLock { $0 } }
  }

  private func start(_ handler: StandbyHandler, _ method: Int, caller: String = "") throws
    -> Principal?
  {
    response.begin()
    return try RequestHeaderBlocks().with(caller: Array(caller.utf8)) {
      handler.start(method: method, headers: $0, response: response)
    }
  }

  private func refusal() throws -> Answer.Refused {
    guard case .failure(let refused) = try Service.answer(in: response) else {
      throw Service.Unexpected(description: "no failure")
    }
    return refused
  }

  private func isServed(_ method: MethodDescriptor) -> Bool {
    method.service.hasPrefix("grpc.")
  }

  @Test("Every method of the product is refused at its start, with the owner where it is known")
  func refused() throws {
    let handler = handler()
    for (number, method) in StandbyHandler.methods.enumerated() where !isServed(method) {
      let path = Array(method.path.utf8)
      let found = handler.method(atPath: path.span)
      #expect(found == number)
      for owner in ["10.0.0.2:7420", nil, ""] {
        self.owner.text.withLock { $0 = owner }
        #expect(try start(handler, number) == nil)
        let refused = try refusal()
        #expect(refused.code == .unavailable)
        #expect(refused.reason == "NOT_OWNER")
        #expect(refused.domain == "holdfast")
        #expect(refused.metadata == (owner == "10.0.0.2:7420" ? ["owner": "10.0.0.2:7420"] : [:]))
        #expect(refused.retryNanoseconds == second / 4)
        #expect(refused.retryMilliseconds == 250)
      }
    }
    #expect(StandbyHandler.methods.count == HoldfastHandler.methods.count)
  }

  @Test("Who may not call is told that, and not where the owner is")
  func unauthorized() throws {
    let limits = AccessLimits(entriesMax: 10, fileBytesMax: 1 << 10, tokenBytesMax: 100)
    let list = AccessList(try TokenFile.parse([], limits: limits), limits: limits)
    let handler = handler(Authorization(list: list))
    for (number, method) in StandbyHandler.methods.enumerated() {
      let principal = try start(handler, number)
      if method.service == "grpc.health.v1.Health" {
        #expect(principal != nil)
        continue
      }
      #expect(principal == nil)
      let refused = try refusal()
      #expect(refused.reason == "CREDENTIALS_MISSING" && refused.metadata.isEmpty)
    }
    let open = self.handler()
    #expect(try start(open, 0, caller: String(repeating: "x", count: 65)) == nil)
    #expect(try refusal().reason == "INVALID_FIELD")
  }

  private func answer(
    _ handler: StandbyHandler, _ path: String, _ bytes: [UInt8] = []
  ) throws -> Answer {
    let bytesOfPath = Array(path.utf8)
    let found = handler.method(atPath: bytesOfPath.span)
    let method = try #require(found)
    let principal = try #require(try start(handler, method))
    handler.beginTurn()
    response.begin()
    var context = CallContext(
      method: method, type: StandbyHandler.methods[method].type, principal: principal)
    let completion = unsafe withUnsafeMutablePointer(to: &context) { context in
      let call = unsafe Call(id: CallID(rawValue: 1), context: context)
      return handler.handle(bytes.span, of: call, response: response)
    }
    handler.endTurn()
    #expect(completion == .respond(lsn: 0))
    return try Service.answer(in: response)
  }

  @Test("Health says that it does not serve, and goes on saying it")
  func health() throws {
    final class Sink: CallSink {
      var count = 0
      func respond(
        to call: CallID, lsn: UInt64, ends: Bool, _ write: (Response) -> Void
      ) -> Delivery {
        count += 1
        return .taken
      }
    }
    let handler = handler()
    let sink = Sink()
    let notServing = Answer.message(try #require(Fields([0x08, 0x02])))
    for method in ["Check", "Watch"] {
      for service in ["", "holdfast.v1.StockService"] {
        let request = Message().with(1, service).bytes
        #expect(try answer(handler, "/grpc.health.v1.Health/\(method)", request) == notServing)
      }
    }
    // Nothing changes when it is over: the end of the stream says that.
    handler.drain()
    handler.deliver(to: sink)
    #expect(sink.count == 0)
    let unknown = try answer(
      handler, "/grpc.health.v1.Health/Check", Message().with(1, "nobody").bytes)
    guard case .failure(let refused) = unknown else {
      Issue.record("no failure")
      return
    }
    #expect(refused.reason == "UNKNOWN_SERVICE")
  }

  // MARK: Reads of the copy

  /// Of each method that a copy answers, a request.
  private static func reads(_ id: String) -> [(path: String, request: [UInt8])] {
    [
      ("/holdfast.v1.StockService/GetStock", Message().with(1, "a").bytes),
      ("/holdfast.v1.StockService/BatchGetStock", Message().with(1, Message().with(1, "a")).bytes),
      ("/holdfast.v1.StockService/ListStock", []),
      ("/holdfast.v1.ReservationService/GetReservation", Message().with(1, id).bytes),
      ("/holdfast.v1.ReservationService/ListReservations", []),
      (
        "/holdfast.v1.ReservationService/ListReservations",
        Message().with(4, "order-1").bytes
      ),
    ]
  }

  private func text(_ id: ReservationID) -> String {
    var bytes = [UInt8](repeating: 0, count: ReservationID.textLength)
    var span = bytes.mutableSpan
    id.write(to: &span)
    return String(decoding: bytes, as: UTF8.self)
  }

  private func stale(_ reads: StandbyReads, _ limits: StoreLimits) -> StaleReads {
    StaleReads(reads, storeLimits: limits, serviceLimits: Service.limits)
  }

  /// The number in a trailer of the response; nil without it.
  private func trailer(_ name: String) throws -> String? {
    try Trailers.fields(of: response)[name]
  }

  @Test("Reads are answered from the copy while it is shown, with its place in the log")
  func staleReads() throws {
    let it = Fixture()
    _ = it.session.adjust("stock", "a", .setOnHand(5))
    let line = [TestLine(sku: "a", quantity: 2)]
    let id = try #require(it.session.reserve("key", line, reference: "order-1").value?.id)
    let reads = StandbyReads()
    let handler = handler(stale: stale(reads, it.store.core.limits))
    let requests = Self.reads(text(id))
    let health = Message().with(1, "holdfast.stale-reads").bytes
    func expectRefused() throws {
      for (path, request) in requests {
        guard case .failure(let refused) = try answer(handler, path, request) else {
          Issue.record("\(path) is answered")
          continue
        }
        #expect(refused.code == .unavailable && refused.reason == "NOT_OWNER")
        #expect(refused.metadata == ["owner": "127.0.0.1:7420"])
        #expect(try trailer("holdfast-lsn") == nil)
      }
      let notServing = Answer.message(try #require(Fields([0x08, 0x02])))
      #expect(try answer(handler, "/grpc.health.v1.Health/Check", health) == notServing)
    }
    try expectRefused()
    for lsn in [1000, .max] as [UInt64] {
      reads.show(StockStore(showing: it.store.core, clock: it.clock), at: lsn)
      try expectRefused()
      reads.caughtUp(at: SystemClock.steadyNanoseconds() - 5 * second)
      for (path, request) in requests {
        guard case .message(let fields) = try answer(handler, path, request) else {
          Issue.record("\(path) is refused")
          continue
        }
        #expect(fields.message(1) != nil, "\(path)")
        #expect(try trailer("holdfast-lsn") == "\(lsn)")
        let age = try #require(try trailer("holdfast-age-ms").flatMap { Int64($0) })
        #expect(age >= 5000 && age < 500_000)
      }
      // Refusals stand there, too, each at its own place.
      for further: UInt64 in [0, 8] where lsn < .max {
        reads.change(to: lsn + further) {}
        for sku in ["unknown", ""] {
          let request = Message().with(1, sku).bytes
          guard
            case .failure(let refused) = try answer(
              handler, "/holdfast.v1.StockService/GetStock", request)
          else {
            Issue.record("\(sku) is there")
            continue
          }
          #expect(refused.code == (sku.isEmpty ? .invalidArgument : .notFound))
          #expect(try trailer("holdfast-lsn") == "\(lsn + further)")
        }
      }
      let serving = Answer.message(try #require(Fields([0x08, 0x01])))
      #expect(try answer(handler, "/grpc.health.v1.Health/Check", health) == serving)
      reads.hide()
      try expectRefused()
    }
  }

  @Test("What a copy cannot find, and what is decided, is the owner's")
  func notOfACopy() throws {
    let it = Fixture()
    _ = it.session.reserve("key", [TestLine(sku: "a", quantity: 2)])
    let reads = StandbyReads()
    reads.show(StockStore(showing: it.store.core, clock: it.clock), at: 8)
    reads.caughtUp(at: 1)
    let handler = handler(stale: stale(reads, it.store.core.limits))
    let byKey = Message().with(2, "key").bytes
    guard
      case .failure(let refused) = try answer(
        handler, "/holdfast.v1.ReservationService/GetReservation", byKey)
    else {
      Issue.record("a key is found")
      return
    }
    #expect(refused.reason == "NOT_OWNER" && refused.metadata["owner"] != nil)
    let answered = Set(Self.reads("").map(\.path))
    for (number, method) in StandbyHandler.methods.enumerated()
    where !isServed(method) && !answered.contains(method.path) {
      #expect(try start(handler, number) == nil, "\(method.path)")
      #expect(try refusal().reason == "NOT_OWNER")
    }
  }

  @Test("Who may not read does not read a copy either")
  func unauthorizedRead() throws {
    let limits = AccessLimits(entriesMax: 10, fileBytesMax: 1 << 10, tokenBytesMax: 100)
    let list = AccessList(try TokenFile.parse([], limits: limits), limits: limits)
    let handler = handler(
      Authorization(list: list), stale: stale(StandbyReads(), testLimits()))
    for number in StandbyHandler.methods.indices
    where StandbyHandler.methods[number].service.hasPrefix("holdfast.") {
      #expect(try start(handler, number) == nil)
      #expect(try refusal().reason == "CREDENTIALS_MISSING")
    }
  }

  @Test("Reflection works", arguments: ["v1", "v1alpha"])
  func reflection(version: String) throws {
    let path = "/grpc.reflection.\(version).ServerReflection/ServerReflectionInfo"
    let answer = try answer(handler(), path, Message().with(7, "").bytes)
    guard case .message(let fields) = answer else {
      Issue.record("no message")
      return
    }
    let services = Set(StandbyHandler.methods.map(\.service))
    #expect(fields.message(6)?.messages(1).count == services.count)
  }

  @Test("LEASE_OVER, alone and in a batch, made and kept")
  func leaseOver() throws {
    let errors = ErrorReplies()
    for _ in 0..<2 {
      response.begin()
      errors.leaseOver(response: response)
      let refused = try refusal()
      #expect(refused.code == .unavailable && refused.reason == "LEASE_OVER")
      #expect(refused.retryNanoseconds == second / 4 && refused.retryMilliseconds == 250)
    }
    var inBand: [[UInt8]] = []
    for _ in 0..<2 {
      response.begin()
      errors.beginInBand()
      errors.leaseOver(response: response)
      let hasFailed = errors.endInBand()
      #expect(hasFailed)
      inBand.append(response.message.withBytes { bytes in bytes.indices.map { bytes[$0] } })
    }
    #expect(inBand[0] == inBand[1])
    let failure = try #require(Fields(inBand[0]))
    #expect(failure.number(1) == 14 && failure.text(2) == "LEASE_OVER")
  }
}
