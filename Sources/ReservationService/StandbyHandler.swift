// What a standby says: that it does not serve, and who does.
package import GRPC
package import Posix

/// Refuses the product's methods on one loop while another process owns the store. Health and reflection are
/// answered. Who may not call is told that, and not where the owner is.
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

  /// - Parameters:
  ///   - authorization: this loop's own.
  ///   - owner: where the owner is, as HOST:PORT; nil or empty where that is not known. Asked at every call.
  package init(
    authorization: Authorization = Authorization(file: nil), clock: any Clock,
    owner: @escaping @Sendable () -> String?
  ) {
    self.owner = owner
    self.authorization = authorization
    self.clock = clock
    health = HealthService(services: HoldfastHandler.services, errors: errors, isServing: false)
    reflection = ReflectionService(services: HoldfastHandler.services.sorted())
  }

  package func method(atPath path: Span<UInt8>) -> Int? { HoldfastHandler.method(atPath: path) }

  // MARK: The iteration

  package func beginTurn() { _ = authorization.refresh() }

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
    if method.isServedByStandby || principal == nil { return principal }
    // Here, not at a message: a stream may send none for long. What fails here is asked about at every call.
    let owner = owner()
    errors.notOwner(owner == "" ? nil : owner, response: response)
    return nil
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
    default: preconditionFailure("start takes no call of this method")
    }
    return .respond(lsn: 0)
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
}
