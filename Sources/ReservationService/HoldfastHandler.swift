// Every method that the server has, by number, and the way from a message to its answer: decode, check,
// execute, encode.
package import GRPC
package import StockStore

/// Serves the product's methods on one loop.
package final class HoldfastHandler: CallHandler {
  /// A method's number; the order is that of `methods`.
  enum Method: Int, CaseIterable {
    case reserve, confirm, release, extend, getReservation, listReservations
    case adjustStock, getStock, batchGetStock, listStock
    case healthCheck, healthWatch
    case reflection, reflectionAlpha

    var descriptor: MethodDescriptor {
      let reservations = "holdfast.v1.ReservationService"
      let stock = "holdfast.v1.StockService"
      let health = "grpc.health.v1.Health"
      func unary(_ service: String, _ name: String) -> MethodDescriptor {
        MethodDescriptor(service: service, method: name, type: .unary)
      }
      func reflection(_ version: String) -> MethodDescriptor {
        MethodDescriptor(
          service: "grpc.reflection.\(version).ServerReflection", method: "ServerReflectionInfo",
          type: .bidirectional)
      }
      switch self {
      case .reserve:
        return MethodDescriptor(
          service: reservations, method: "Reserve", type: .unary, isReservation: true)
      case .confirm: return unary(reservations, "Confirm")
      case .release: return unary(reservations, "Release")
      case .extend: return unary(reservations, "Extend")
      case .getReservation: return unary(reservations, "GetReservation")
      case .listReservations: return unary(reservations, "ListReservations")
      case .adjustStock: return unary(stock, "AdjustStock")
      case .getStock: return unary(stock, "GetStock")
      case .batchGetStock: return unary(stock, "BatchGetStock")
      case .listStock: return unary(stock, "ListStock")
      case .healthCheck: return unary(health, "Check")
      case .healthWatch:
        return MethodDescriptor(service: health, method: "Watch", type: .serverStreaming)
      case .reflection: return reflection("v1")
      case .reflectionAlpha: return reflection("v1alpha")
      }
    }
  }

  package static let methods: [MethodDescriptor] = Method.allCases.map(\.descriptor)
  private static let paths: [[UInt8]] = methods.map { Array($0.path.utf8) }

  let session: StoreSession
  let rules: FieldRules
  let writer = MessageWriter()
  let errors = ErrorReplies()
  /// Violations of the call in hand in the entries of a list: what is refused for one is refused for all.
  var badEntries: [FieldViolation] = []
  private let health: HealthService
  private let reflection: ReflectionService

  /// - Parameter session: this loop's own.
  package init(session: StoreSession, storeLimits: StoreLimits, serviceLimits: ServiceLimits) {
    self.session = session
    rules = FieldRules(store: storeLimits, service: serviceLimits)
    health = HealthService(services: Set(Self.methods.map(\.service)))
    reflection = ReflectionService(services: Array(Set(Self.methods.map(\.service))).sorted())
  }

  package func method(atPath path: Span<UInt8>) -> Int? {
    // Asked only where a connection's header fields change: a search is good enough.
    for (number, candidate) in Self.paths.enumerated() where candidate.count == path.count {
      if candidate.indices.allSatisfy({ candidate[$0] == path[$0] }) { return number }
    }
    return nil
  }

  // MARK: The turn

  package func beginTurn() { _ = session.beginTurn() }

  package func endTurn() { session.endTurn() }

  package var durableLSN: UInt64 { session.durableLSN }

  package func deliver(to sink: any CallSink) { health.deliver(to: sink) }

  package func cancelled(_ call: CallID) { health.cancelled(call) }

  package func drain() { health.drain() }

  package func reject(_ rejection: Rejection, reply: Reply) {
    errors.reject(rejection, reply: reply)
  }

  package func handle(
    method: Int, message: Span<UInt8>, caller: Span<UInt8>, call: CallID, reply: Reply
  ) -> Completion {
    guard let method = Method(rawValue: method) else { return .reply(lsn: 0) }
    do throws(FieldViolation) {
      // The span outlives the call.
      let caller = try rules.caller(unsafe caller.borrowed)
      return try execute(method, message, caller, call, reply)
    } catch {
      errors.badRequest(error.index == nil ? [error] : badEntries, reply: reply)
      badEntries.removeAll()
      return .reply(lsn: 0)
    }
  }

  private func execute(
    _ method: Method, _ message: Span<UInt8>, _ caller: BorrowedBytes, _ call: CallID,
    _ reply: Reply
  ) throws(FieldViolation) -> Completion {
    let lsn: UInt64
    switch method {
    case .reserve: lsn = try reserve(message, caller, reply)
    case .confirm: lsn = try confirm(message, reply)
    case .release: lsn = try release(message, reply)
    case .extend: lsn = try extend(message, reply)
    case .getReservation: lsn = try getReservation(message, reply)
    case .listReservations: lsn = try listReservations(message, reply)
    case .adjustStock: lsn = try adjustStock(message, caller, reply)
    case .getStock: lsn = try getStock(message, reply)
    case .batchGetStock: lsn = try batchGetStock(message, reply)
    case .listStock: lsn = try listStock(message, reply)
    case .healthCheck: lsn = healthCheck(message, reply)
    case .healthWatch: lsn = healthWatch(message, call, reply)
    case .reflection, .reflectionAlpha:
      let isAnswered = reflection.answer(message, writer: writer, reply: reply)
      lsn = isAnswered ? 0 : malformed(reply)
    }
    session.await(lsn: lsn)
    return .reply(lsn: lsn)
  }

  /// Answers a message that does not follow its .proto; 0, since nothing was decided.
  func malformed(_ reply: Reply) -> UInt64 {
    errors.malformed(reply: reply)
    return 0
  }

  /// Answers a message that was not read whole; 0, since nothing was decided.
  @inline(never)
  func refuse(_ reader: ProtoReader, _ reply: Reply) -> UInt64 {
    badEntries.removeAll()
    guard let unknown = reader.unknownField else { return malformed(reply) }
    errors.unknownField(unknown, reply: reply)
    return 0
  }

  /// Puts what was written into the reply.
  func finish(_ reply: Reply) { writer.withBytes { reply.append($0) } }

  // MARK: Health

  private func healthCheck(_ message: Span<UInt8>, _ reply: Reply) -> UInt64 {
    guard let service = healthRequest(message) else { return malformed(reply) }
    guard let status = health.status(of: service) else {
      errors.unknownService(reply: reply)
      return 0
    }
    reply.append(status)
    return 0
  }

  private func healthWatch(_ message: Span<UInt8>, _ call: CallID, _ reply: Reply) -> UInt64 {
    guard let service = healthRequest(message) else { return malformed(reply) }
    guard let status = health.watch(service, call) else {
      errors.tooManyWatches(reply: reply)
      return 0
    }
    reply.append(status)
    return 0
  }

  private func healthRequest(_ message: Span<UInt8>) -> String? {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var bytes = BorrowedBytes.empty
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): bytes = reader.bytes()
      default: reader.other(tag, known: 1...1)
      }
    }
    guard reader.isWhole else { return nil }
    return unsafe String(validating: bytes.pointer, as: UTF8.self)
  }
}

extension Span<UInt8> {
  /// The bytes as the store takes them.
  /// - Safety: whoever uses them must be done before the span's owner is.
  @unsafe var borrowed: BorrowedBytes {
    unsafe withUnsafeBufferPointer { unsafe BorrowedBytes($0.baseAddress, count: $0.count) }
  }
}
