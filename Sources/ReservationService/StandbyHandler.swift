// What a standby says: that it does not serve, and who does.
package import GRPC
package import Posix
package import StockStore
package import StorePersistence

/// What a standby needs to answer reads of its copy.
package struct StaleReads: Sendable {
  package let reads: StandbyReads
  package let storeLimits: StoreLimits
  package let serviceLimits: ServiceLimits

  package init(_ reads: StandbyReads, storeLimits: StoreLimits, serviceLimits: ServiceLimits) {
    self.reads = reads
    self.storeLimits = storeLimits
    self.serviceLimits = serviceLimits
  }
}

/// Refuses the product's methods on one loop while another process owns the store; where it is told to, all but reads,
/// which the copy answers. Health and reflection are answered. Who may not call is told that, and not where the owner
/// is.
@safe package final class StandbyHandler: CallHandler {
  private typealias Method = HoldfastHandler.Method

  package static let metadata = HoldfastHandler.metadata
  package static let methods = HoldfastHandler.methods

  private let owner: @Sendable () -> String?
  private let authorization: Authorization
  private let clock: any Clock
  private let errors = ErrorReplies()
  private let health: HealthService
  private let reflection: ReflectionService
  private let stale: StaleReads?
  /// Answers what the copy answers, as an owner would. Of one store: a copy that is made anew is another.
  private var reader: (store: StockStore, handler: HoldfastHandler)?

  /// The name by which health tells whether reads are answered.
  private static let staleService = "holdfast.stale-reads"
  /// Trailers of what the copy answers: behind which record it stands, and how long ago the log had no more.
  private static let lsnTrailer: StaticString = "holdfast-lsn"
  private static let ageTrailer: StaticString = "holdfast-age-ms"

  /// - Parameters:
  ///   - authorization: this loop's own.
  ///   - stale: answers reads; nil: they are refused.
  ///   - owner: where the owner is, as HOST:PORT; nil or empty where that is not known. Asked at every call.
  package init(
    authorization: Authorization = Authorization(file: nil), clock: any Clock,
    stale: StaleReads? = nil, owner: @escaping @Sendable () -> String?
  ) {
    self.stale = stale
    self.owner = owner
    self.authorization = authorization
    self.clock = clock
    health = HealthService(
      services: HoldfastHandler.services, errors: errors, isServing: false,
      apart: stale == nil ? nil : Self.staleService)
    reflection = ReflectionService(services: HoldfastHandler.services.sorted())
  }

  package func method(atPath path: Span<UInt8>) -> Int? { HoldfastHandler.method(atPath: path) }

  // MARK: The iteration

  package func beginTurn() {
    _ = authorization.refresh()
    guard let stale else { return }
    let isShown = stale.reads.isShown
    health.setApart(isShown)
    // It would keep what is of no use any more.
    if !isShown { reader = nil }
  }

  package func endTurn() {}

  package var hasBacklog: Bool { false }

  /// Nothing is recorded, and no response waits.
  package var durableLSN: UInt64 { 0 }

  package func deliver(to sink: any CallSink) { health.deliver(to: sink) }

  package func cancelled(_ call: CallID) { health.cancelled(call) }

  package func drain() { health.drain() }

  package func resumed(_ call: CallID) {}

  package func reject(_ rejection: Rejection, response: Response) {
    errors.reject(rejection, response: response)
  }

  // MARK: Calls

  package var authenticationGeneration: UInt64 {
    _ = authorization.refresh()
    return authorization.generation
  }

  package func start(method: Int, headers: RequestHeaders, response: Response) -> Principal? {
    guard let method = Method(rawValue: method) else { return nil }
    let principal = authorization.principal(
      of: headers, calling: method, now: clock.now().nanoseconds, errors, response)
    if principal == nil || method.isServedByStandby { return principal }
    if stale != nil, method.isStaleRead { return principal }
    // Here, not at a message: a stream may send none for long. What fails here is asked about at every call.
    refuse(response)
    return nil
  }

  private func refuse(_ response: Response, text: StaticString? = nil) {
    let owner = owner()
    errors.notOwner(owner == "" ? nil : owner, text: text, response: response)
  }

  package func renew(_ principal: Principal, method: Int, response: Response) -> Principal? {
    guard let method = Method(rawValue: method) else { return nil }
    do throws(AuthorizationFailure) {
      return try authorization.renew(principal, calling: method, now: clock.now().nanoseconds)
    } catch {
      errors.unauthorized(error, response: response)
      return nil
    }
  }

  package func expect(_ message: Span<UInt8>, of call: Call) {}

  package func handle(_ message: Span<UInt8>, of call: Call, response: Response) -> Completion {
    switch Method(rawValue: call.method) {
    case .healthCheck: health.check(message, response)
    case .healthWatch: health.watch(message, call.id, response)
    case .reflection, .reflectionAlpha:
      if !reflection.answer(message, response: response) { errors.malformed(response: response) }
    default: read(message, call, response)
    }
    return .respond(lsn: 0)
  }

  // MARK: Reads

  private func read(_ message: Span<UInt8>, _ call: Call, _ response: Response) {
    guard let stale else { preconditionFailure("start takes no call of this method") }
    if call.method == Method.getReservation.rawValue, Self.asksByKey(message) {
      return refuse(response, text: "this server is a standby and finds no reservation by its key")
    }
    let isAnswered = stale.reads.read { store, moment in
      let age = max(0, SystemClock.steadyNanoseconds() - moment.caughtUp)
      response.addTrailer(Self.lsnTrailer, moment.lsn)
      response.addTrailer(Self.ageTrailer, UInt64(age) / 1_000_000)
      let handler = handler(of: store, stale)
      handler.session.beginReading()
      _ = handler.handle(message, of: call, response: response)
      handler.session.endTurn()
    }
    if !isAnswered { refuse(response) }
  }

  private func handler(of store: StockStore, _ stale: StaleReads) -> HoldfastHandler {
    if let reader, reader.store === store { return reader.handler }
    let handler = HoldfastHandler(
      session: store.makeSession(), storeLimits: stale.storeLimits,
      serviceLimits: stale.serviceLimits)
    reader = (store, handler)
    return handler
  }

  /// Keys are found when the copy becomes a store.
  private static func asksByKey(_ message: Span<UInt8>) -> Bool {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var asks = false
    while let tag = reader.next() {
      if tag == .bytes(2) {
        asks = reader.bytes().count > 0
      } else {
        reader.other(tag, known: 1...1)
      }
    }
    return reader.isWhole && asks
  }

  package func halfClosed(_ call: Call, response: Response) -> Completion { .end }
}

extension HoldfastHandler.Method {
  fileprivate var isServedByStandby: Bool {
    switch self {
    case .healthCheck, .healthWatch, .reflection, .reflectionAlpha: true
    default: false
    }
  }

  /// Answered from a copy, where that is asked for.
  fileprivate var isStaleRead: Bool {
    switch self {
    case .getStock, .batchGetStock, .listStock, .getReservation, .listReservations: true
    default: false
    }
  }
}
