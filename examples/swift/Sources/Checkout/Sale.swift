import GRPCCore
import HoldfastV1
import SwiftProtobuf

/// From the first call to the last line.
struct Sale<Transport: ClientTransport> {
  /// Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy.
  private static var tries: Int { 3 }
  /// A hold that has less left than a payment takes is not worth one.
  private static var paymentTime: Duration { .milliseconds(500) }

  private let options: Options
  private let metadata: Metadata
  private let stock: Holdfast_V1_StockService.Client<Transport>
  private let reservations: Holdfast_V1_ReservationService.Client<Transport>
  private let events: Holdfast_V1_EventService.Client<Transport>

  init(client: GRPCClient<Transport>, options: Options, token: String?) {
    self.options = options
    metadata = token.map { ["authorization": "Bearer \($0)"] } ?? [:]
    stock = .init(wrapping: client)
    reservations = .init(wrapping: client)
    events = .init(wrapping: client)
  }

  func run() async throws -> Outcome {
    if let units = options.stock { try await setStock(units) }
    var seen = try await OrderEvents(events, metadata: metadata, order: options.order)
    defer { seen.stop() }
    say("watching \(options.order)")
    let held: Holdfast_V1_ReserveResponse
    do {
      held = try await reserve()
    } catch let refused as Refused where refused.isDecision {
      refused.explain()
      if !refused.isReplay { try await seen.printUntil(.refused) }
      return .notSold(refused.reason)
    }
    switch held.state {
    case .held: break
    case .confirmed: return .sold
    default: return .notSold("the hold is \(held.state.word)")
    }
    // By the server's clock: this machine's may be wrong, so expiresAt says nothing here.
    let remaining =
      Duration.seconds(held.remaining.seconds) + .nanoseconds(Int64(held.remaining.nanos))
    guard remaining >= Self.paymentTime, isPaid() else {
      try await seen.printUntil(release(held.reservationID))
      return .notSold("no payment")
    }
    do {
      try await confirm(held.reservationID)
    } catch let refused as Refused where refused.isDecision {
      refused.explain()
      say("refunded")
      try await seen.printUntil(.expired)
      return .notSold(refused.reason)
    }
    try await seen.printUntil(.confirmed)
    return .sold
  }

  /// A call with its deadline. What is sent has a key or an id, so that it may be sent again as it is.
  private func call<Response: Sendable>(
    _ name: String, _ send: @escaping @Sendable (Metadata, CallOptions) async throws -> Response
  ) async throws -> Response {
    let deadline = Duration.seconds(options.deadline)
    let call = {
      var call = CallOptions.defaults
      call.timeout = deadline
      call.waitForReady = true
      return call
    }()
    let metadata = metadata
    var tried = 0
    while true {
      tried += 1
      do {
        return try await within(deadline) {
          while true {
            do {
              return try await send(metadata, call)
            } catch let error as RPCError where error.code == .unavailable && !error.isOfTheServer {
              // The policy is for what the server refuses: what the channel itself gives up, such as a
              // connection that was lost before the call was on it, it does not retry.
              try await Task.sleep(for: .milliseconds(100))
            }
          }
        }
      } catch let error as RPCError {
        guard error.code == .deadlineExceeded, tried < Self.tries else {
          throw Refused(name, error)
        }
        say("again \(name): DEADLINE_EXCEEDED")
      }
    }
  }

  /// The library's own timeout does not end a call with a retry policy while it waits for a connection.
  private func within<Response: Sendable>(
    _ deadline: Duration, _ send: @escaping @Sendable () async throws -> Response
  ) async throws -> Response {
    try await withThrowingTaskGroup(of: Response.self) { group in
      group.addTask(operation: send)
      group.addTask {
        try await Task.sleep(for: deadline)
        throw RPCError(code: .deadlineExceeded, message: "no answer within \(deadline)")
      }
      defer { group.cancelAll() }
      guard let response = try await group.next() else { throw CancellationError() }
      return response
    }
  }

  private func setStock(_ units: Int64) async throws {
    let request = Holdfast_V1_AdjustStockRequest.with {
      $0.idempotencyKey = "\(options.order)/stock"
      $0.sku = options.sku
      $0.setOnHand = units
      $0.anyVersion = true
      $0.reason = "delivery"
    }
    let level = try await call("AdjustStock") { [stock] metadata, call in
      try await stock.adjustStock(request, metadata: metadata, options: call).stock
    }
    say("stock \(level.sku): \(level.onHand) on hand, \(level.available) available")
  }

  private func reserve() async throws -> Holdfast_V1_ReserveResponse {
    let request = Holdfast_V1_ReserveRequest.with {
      // The same on every retry of this attempt, another for the customer's next.
      $0.idempotencyKey = "\(options.order)/\(options.attempt)"
      $0.reference = options.order
      $0.lines = [
        .with {
          $0.sku = options.sku
          $0.quantity = options.units
        }
      ]
      $0.ttl = .with { $0.seconds = options.ttl }
    }
    let held = try await call("Reserve") { [reservations] metadata, call in
      try await reservations.reserve(request, metadata: metadata, options: call)
    }
    say("held \(options.units) \(options.sku) (\(held.state.word))\(replayed(held.replayed))")
    return held
  }

  /// True if the customer has paid. A real payment has an idempotency key of its own, too.
  private func isPaid() -> Bool {
    var answer = options.payment.rawValue
    if options.payment == .ask {
      say("payment? ok or declined")
      answer = readLine() ?? ""
    }
    say(answer == "ok" ? "payment ok" : "payment declined")
    return answer == "ok"
  }

  /// How the hold has ended: a refusal says that it fell due before.
  private func release(_ id: String) async throws -> Holdfast_V1_EventKind {
    do {
      let response = try await call("Release") { [reservations] metadata, call in
        try await reservations.release(
          .with { $0.reservationID = id }, metadata: metadata, options: call)
      }
      ended("released", response.reservation, isReplay: response.replayed)
      return .released
    } catch let refused as Refused where refused.reason == "RESERVATION_EXPIRED" {
      refused.explain()
      return .expired
    }
  }

  private func confirm(_ id: String) async throws {
    // The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
    let request = Holdfast_V1_ConfirmRequest.with {
      $0.reservationID = id
      $0.reacquireIfExpired = true
    }
    let response = try await call("Confirm") { [reservations] metadata, call in
      try await reservations.confirm(request, metadata: metadata, options: call)
    }
    ended("confirmed", response.reservation, isReplay: response.replayed)
  }

  private func ended(_ word: String, _ reservation: Holdfast_V1_Reservation, isReplay: Bool) {
    let units = reservation.lines.reduce(0) { $0 + $1.quantity }
    say("\(word) \(units) \(options.sku)\(replayed(isReplay))")
  }

  private func replayed(_ isReplay: Bool) -> String { isReplay ? ", replayed" : "" }
}

extension Holdfast_V1_ReservationState {
  fileprivate var word: String {
    switch self {
    case .held: "HELD"
    case .confirmed: "CONFIRMED"
    case .released: "RELEASED"
    case .expired: "EXPIRED"
    default: "\(rawValue)"
    }
  }
}
