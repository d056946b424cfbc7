// Calls that a command makes: over whichever of its servers answers, again where that is harmless, until its time is up.
internal import GRPC
internal import Glibc
internal import Posix

/// A method that commands call.
package enum ServiceMethod: Int, CaseIterable, Sendable {
  case getStock, listStock, adjustStock, adjustTogether, removeItem, importStock
  case reserve, getReservation, listReservations, confirm, release, extend, replace
  case watch

  private var path: String {
    switch self {
    case .getStock: "StockService/BatchGetStock"
    case .listStock: "StockService/ListStock"
    case .adjustStock: "StockService/AdjustStock"
    case .adjustTogether: "StockService/BatchAdjustStock"
    case .removeItem: "StockService/RemoveItem"
    case .importStock: "StockService/ImportStock"
    case .reserve: "ReservationService/Reserve"
    case .getReservation: "ReservationService/GetReservation"
    case .listReservations: "ReservationService/ListReservations"
    case .confirm: "ReservationService/Confirm"
    case .release: "ReservationService/Release"
    case .extend: "ReservationService/Extend"
    case .replace: "ReservationService/Replace"
    case .watch: "EventService/Watch"
    }
  }

  private var type: MethodType {
    switch self {
    case .importStock: .clientStreaming
    case .watch: .serverStreaming
    default: .unary
    }
  }

  /// By `rawValue`.
  static let clientMethods = allCases.map {
    ClientMethod(path: "/holdfast.v1.\($0.path)", type: $0.type)
  }

  /// Whether repeating it may do more than was done: then its end matters to whoever does not hear it.
  var changesSomething: Bool {
    switch self {
    case .getStock, .listStock, .getReservation, .listReservations, .watch: false
    default: true
    }
  }
}

/// How long a command tries.
package struct CallPatience: Sendable {
  /// For a call with all its tries, in nanoseconds.
  package var total: Int64
  /// For one try, in nanoseconds; at most `total`.
  package var each: Int64

  package init(total: Int64, each: Int64 = .max) {
    self.total = total
    self.each = min(each, total)
  }
}

/// Which of several servers is called next, and after what wait: those of proto/retry-policy.json, or what the server asks
/// for.
package struct TargetRotation {
  private static let waitMin: Int64 = 50_000_000
  private static let waitMax: Int64 = 2_000_000_000

  let targets: [ServiceTarget]
  /// The place of the one that is called next.
  package private(set) var current = 0
  /// Servers that were tried since the last wait.
  private var tried = 0
  private var wait = waitMin

  /// - Parameter targets: one at least; the first is called first.
  package init(_ targets: [ServiceTarget]) {
    precondition(!targets.isEmpty, "no server")
    self.targets = targets
  }

  package var target: ServiceTarget { targets[current] }

  /// A call has succeeded.
  package mutating func succeeded() { (tried, wait) = (0, Self.waitMin) }

  /// A call has failed for now. How long to wait before the next, in nanoseconds.
  package mutating func failed(_ failure: CallFailure) -> Int64 {
    tried += 1
    let ownerIndex = failure.details.value("owner").flatMap { owner in
      targets.firstIndex { $0.description == owner }
    }
    if failure.details.reason == "NOT_OWNER", let ownerIndex, ownerIndex != current {
      current = ownerIndex
      if tried <= targets.count { return 0 }
    } else if leavesServer(failure) {
      current = (current + 1) % targets.count
      if tried < targets.count { return 0 }
    }
    tried = 0
    defer { wait = min(wait * 3, Self.waitMax) }
    // Many commands that fail at once should not come back at once.
    return max(failure.details.retryNanoseconds, wait / 10 * Int64.random(in: 8...12))
  }

  private func leavesServer(_ failure: CallFailure) -> Bool {
    if failure.isNotOwner || failure.details.reason == "SHUTTING_DOWN" { return true }
    switch failure.kind {
    case .connection, .timedOut, .broken: return true
    case .answered, .malformed, .interrupted: return false
    }
  }
}

/// Used by one thread, which it keeps while a call is on its way.
package final class ServiceCaller {
  private static let pollMilliseconds: Int32 = 100
  /// A server that does not even begin to speak.
  private static let connectNanoseconds: Int64 = 3_000_000_000
  /// What a call on its way gets after an interruption.
  private static let farewellNanoseconds: Int64 = 1_000_000_000
  /// What goes wrong is told from then on, and so often.
  private static let reportNanoseconds: Int64 = 1_000_000_000
  private static let reportAgainNanoseconds: Int64 = 10_000_000_000

  private let program: String
  private let patience: CallPatience
  private let report: (String) -> Void
  private var rotation: TargetRotation
  private var client: ServiceClient?

  /// - Parameters:
  ///   - targets: one at least; the first is called first.
  ///   - program: what servers hear as user agent.
  ///   - report: is told, in words, what it waits for.
  package init(
    _ targets: [ServiceTarget], program: String, patience: CallPatience,
    report: @escaping (String) -> Void
  ) {
    rotation = TargetRotation(targets)
    self.program = program
    self.patience = patience
    self.report = report
  }

  /// The server that answered last, or will be asked first.
  package var server: String { rotation.target.description }

  /// Calls until the server answers, or time is up.
  /// - Parameters:
  ///   - message: the request.
  ///   - key: the call's idempotency key; only to name it where the outcome is unknown.
  /// - Returns: the response.
  package func call(
    _ method: ServiceMethod, _ message: [UInt8], key: String = ""
  ) throws(CallFailure) -> [UInt8] {
    try call(method, messages: [message], key: key)
  }

  /// The same of a method that streams its request: the messages are all of it, one at least.
  package func call(
    _ method: ServiceMethod, messages: [[UInt8]], key: String = ""
  ) throws(CallFailure) -> [UInt8] {
    let began = SystemClock.monotonicNanoseconds()
    let deadline = began + patience.total
    var toldAt: Int64?
    var isOutcomeUnknown = false
    var earlier: CallFailure?
    while true {
      var failure: CallFailure
      do throws(CallFailure) {
        let response = try attempt(method, messages, until: deadline)
        rotation.succeeded()
        if toldAt != nil { report("\(server) answers") }
        return response
      } catch { failure = error }
      isOutcomeUnknown = isOutcomeUnknown || failure.isOutcomeUnknown
      // A try for which there was hardly time says less than the one before.
      if failure.kind == .connection(.unreachable), let earlier,
        SystemClock.monotonicNanoseconds() >= deadline
      {
        failure = earlier
      }
      earlier = failure
      if failure.saysWhatWasDecided { isOutcomeUnknown = false }
      failure.isOutcomeUnknown = isOutcomeUnknown && method.changesSomething
      failure.idempotencyKey = key
      guard failure.isTemporary, !isHopeless(failure), !Signals.isInterrupted else { throw failure }
      let before = rotation.current
      let wait = rotation.failed(failure)
      if rotation.current != before { client = nil }
      let now = SystemClock.monotonicNanoseconds()
      if now + wait >= deadline { throw failure }
      if now - began > Self.reportNanoseconds,
        now - (toldAt ?? .min / 2) > Self.reportAgainNanoseconds
      {
        report("\(failure.server): \(failure.text) (\(failure.label)); trying again")
        toldAt = now
      }
      Self.sleep(wait)
    }
  }

  /// The only server that there is says that another one decides, and which.
  private func isHopeless(_ failure: CallFailure) -> Bool {
    guard failure.details.reason == "NOT_OWNER", let owner = failure.details.value("owner") else {
      return false
    }
    return rotation.targets.count == 1 && owner != rotation.target.description
  }

  /// One try.
  private func attempt(
    _ method: ServiceMethod, _ messages: [[UInt8]], until deadline: Int64
  ) throws(CallFailure) -> [UInt8] {
    let began = SystemClock.monotonicNanoseconds()
    let end = min(deadline, began + patience.each)
    let client = try connected()
    let call = client.start(method.rawValue, messages: messages)
    var farewell = Int64.max
    while true {
      if let ended = try wait(client, call) {
        if ended.isAnswered, ended.status == .ok { return ended.message }
        let failure = CallFailure(ended, server: server)
        // A server that breaks off a call may do so with the next on the same connection.
        if case .broken = failure.kind { self.client = nil }
        throw failure
      }
      let now = SystemClock.monotonicNanoseconds()
      let hasBegun = client.hasBegun(call)
      if Signals.isInterrupted {
        farewell = min(farewell, now + Self.farewellNanoseconds)
        if !hasBegun || now > farewell { throw failure(.interrupted, "interrupted", hasBegun) }
      }
      if !client.isReady, now > min(end, began + Self.connectNanoseconds) {
        throw failure(.connection(.unreachable), "nobody answers there", false)
      }
      if now > end {
        let kind = end < deadline ? CallFailure.Kind.connection(.lost) : .timedOut
        throw failure(kind, "no answer in \((end - began) / 1_000_000) ms", hasBegun)
      }
    }
  }

  /// Waits a little. The end of the call, if it has come.
  private func wait(
    _ client: ServiceClient, _ call: UInt64
  ) throws(CallFailure) -> ServiceCallEnd? {
    var ended: ServiceCallEnd?
    do throws(ServiceClientError) {
      _ = try unsafe client.wait(milliseconds: Self.pollMilliseconds) { _, _ in
      } end: {
        if $0.callID == call { ended = $0 }
      }
    } catch {
      if let ended { return ended }
      throw failure(.connection(error.kind), error.description, client.hasBegun(call))
    }
    return ended
  }

  private func connected() throws(CallFailure) -> ServiceClient {
    if let client { return client }
    do throws(ServiceClientError) {
      let made = try ServiceClient(
        rotation.target, methods: ServiceMethod.clientMethods, program: program,
        timeoutNanoseconds: patience.each)
      client = made
      return made
    } catch {
      throw failure(.connection(error.kind), error.description, false)
    }
  }

  private func failure(
    _ kind: CallFailure.Kind, _ text: String, _ isOutcomeUnknown: Bool
  ) -> CallFailure {
    // What is on its way there is of no more use.
    client = nil
    var failure = CallFailure(kind, text, server: server)
    failure.isOutcomeUnknown = isOutcomeUnknown
    return failure
  }

  /// Ends early where the process is interrupted.
  static func sleep(_ nanoseconds: Int64) {
    let end = SystemClock.monotonicNanoseconds() + nanoseconds
    while !Signals.isInterrupted {
      let left = end - SystemClock.monotonicNanoseconds()
      if left <= 0 { return }
      // Nothing but time, or a signal, ends the wait.
      _ = poll(nil, 0, Int32(min(100, left / 1_000_000 + 1)))
    }
  }
}
