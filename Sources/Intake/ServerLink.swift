// Batches on their way to whichever server decides, over as many connections as that takes.
internal import Client
internal import GRPC
internal import Messaging
internal import Posix

/// Used by one thread.
///
/// A connection is good once the server has refused an empty batch as one: then it takes batches, and lets this program
/// send them. Where it does not, no order has to find that out.
final class ServerLink {
  /// What becomes of a batch.
  enum Outcome {
    /// The response.
    case decided([UInt8])
    /// Nothing is known of any of its orders: the same again, once the link takes it.
    case again
    /// The server says of the whole batch what it would say of an order: it is one of them.
    case ofAnOrder(OrderFailure)
  }

  /// A server that does not even begin to speak.
  private static let connectNanoseconds: Int64 = 5_000_000_000
  /// A batch has its deadline at the server; behind that, the connection is no good.
  private static let silenceNanoseconds: Int64 = 15_000_000_000
  /// What somebody has to put right is looked at so often.
  private static let forbiddenNanoseconds: Int64 = 2_000_000_000
  private static let reportAgainNanoseconds: Int64 = 30_000_000_000

  private let clock: OutboxClock
  private let connect: (ServiceTarget) throws(CallFailure) -> any OrderServer
  private let report: (String) -> Void
  private var rotation: TargetRotation

  private var server: (any OrderServer)?
  private var connectedAt: Int64 = 0
  /// The empty batch.
  private var firstCall: UInt64?
  /// A response was none.
  private var isDistrusted = false
  private var began: [UInt64: Int64] = [:]
  private var pausedUntil: Int64 = .min
  private var isTold = false
  private var toldAt: Int64 = .min / 2

  /// The server takes batches, as far as is known.
  private(set) var isConnected = false
  /// Connections that were lost or given up, and calls for which all orders had to wait.
  private(set) var failures: UInt64 = 0

  init(
    _ targets: [ServiceTarget], clock: OutboxClock,
    connect: @escaping (ServiceTarget) throws(CallFailure) -> any OrderServer,
    report: @escaping (String) -> Void
  ) {
    rotation = TargetRotation(targets)
    self.clock = clock
    self.connect = connect
    self.report = report
  }

  /// Whether a batch may be sent now.
  var isOpen: Bool { isConnected && clock.now() >= pausedUntil }

  /// Batches on their way, and the empty one.
  var inFlight: Int { began.count }

  /// How long to wait for the server before somebody else is looked after, in milliseconds: the longer it takes, the
  /// longer. nil: nothing is on its way.
  func patience(now: Int64) -> Int32? {
    began.values.min().map { Int32(clamping: min(max((now - $0) / 8_000_000, 1), 20)) }
  }

  /// Nanoseconds until it has something to do by itself; 0: now.
  func wait(now: Int64) -> Int64 { now < pausedUntil ? pausedUntil - now : 0 }

  func send(_ request: [UInt8]) -> UInt64 {
    guard let server else { preconditionFailure("a batch for a server that is not there") }
    let call = server.send(request)
    began[call] = clock.now()
    return call
  }

  /// Connects if need be and if it is time, and takes what has come; waits for it for at most so long.
  /// - Parameter take: gets each batch that has ended.
  func step(milliseconds: Int32, _ take: (UInt64, Outcome) -> Void) {
    let now = clock.now()
    do throws(CallFailure) {
      guard let server = try connected(now) else { return }
      if !isConnected, firstCall == nil, now >= pausedUntil { sendFirst(server) }
      var failure: CallFailure?
      try server.receive(milliseconds: milliseconds) { call, end in
        guard began.removeValue(forKey: call) != nil else { return }
        let news = call == firstCall ? first(end) : ended(call, end, take)
        failure = failure ?? news
      }
      if isDistrusted {
        isDistrusted = false
        throw self.failure(.malformed, "what it answers is no BatchReserveResponse")
      }
      if let failure { fail(failure, take) }
      try requireLife(server)
    } catch {
      lose(take)
      fail(error, take)
    }
  }

  /// nil: it is not time yet.
  private func connected(_ now: Int64) throws(CallFailure) -> (any OrderServer)? {
    if let server { return server }
    if now < pausedUntil { return nil }
    let made = try connect(rotation.target)
    server = made
    connectedAt = now
    return made
  }

  /// The empty batch.
  private func sendFirst(_ server: any OrderServer) {
    let call = server.send([])
    firstCall = call
    began[call] = clock.now()
  }

  private func requireLife(_ server: any OrderServer) throws(CallFailure) {
    if self.server == nil { return }
    let now = clock.now()
    if !server.isReady, now - connectedAt > Self.connectNanoseconds {
      throw failure(.connection(.unreachable), "nobody answers there")
    }
    if let oldest = began.values.min(), now - oldest > Self.silenceNanoseconds {
      throw failure(.connection(.lost), "it is silent")
    }
  }

  /// The answer to the empty batch; what is wrong with it.
  private func first(_ end: BatchEnd) -> CallFailure? {
    firstCall = nil
    switch end {
    case .failure(let failure) where failure.kind == .answered(.invalidArgument):
      if !failure.details.reason.isEmpty {
        isConnected = true
        rotation.succeeded()
        tellGoingOn()
        return nil
      }
      return failure
    case .failure(let failure): return failure
    case .response: return failure(.malformed, "it takes a batch of nothing: no holdfast server")
    }
  }

  /// What all orders have to wait for, if anything.
  private func ended(
    _ call: UInt64, _ end: BatchEnd, _ take: (UInt64, Outcome) -> Void
  ) -> CallFailure? {
    switch end {
    case .response(let message):
      rotation.succeeded()
      tellGoingOn()
      take(call, .decided(message))
      return nil
    case .failure(let failure):
      if let ofOrder = failure.ofOrder {
        take(call, .ofAnOrder(ofOrder))
        return nil
      }
      take(call, .again)
      return failure
    }
  }

  /// The link has failed for now, or for good until somebody helps.
  private func fail(_ failure: CallFailure, _ take: (UInt64, Outcome) -> Void) {
    failures += 1
    isConnected = false
    let before = rotation.current
    var wait = rotation.failed(failure)
    if failure.isForbidden { wait = max(wait, Self.forbiddenNanoseconds) }
    pausedUntil = clock.now() + wait
    // A connection that says no may have old credentials, and what breaks one call may break the next.
    if rotation.current != before || !failure.isOfSoundConnection { lose(take) }
    let now = clock.now()
    guard now - toldAt > Self.reportAgainNanoseconds else { return }
    (isTold, toldAt) = (true, now)
    let server = failure.server.isEmpty ? "the server" : failure.server
    report("\(server): \(failure.text) (\(failure.label)); orders wait, trying again")
  }

  /// Nothing on this connection is heard of any more.
  private func lose(_ take: (UInt64, Outcome) -> Void) {
    server = nil
    isConnected = false
    let calls = began.keys.sorted()
    began.removeAll()
    for call in calls where call != firstCall { take(call, .again) }
    firstCall = nil
  }

  /// What a batch was answered is no BatchReserveResponse: whoever answers is no good.
  func distrust() { isDistrusted = true }

  private func failure(_ kind: CallFailure.Kind, _ text: String) -> CallFailure {
    CallFailure(kind, text, server: rotation.target.description)
  }

  private func tellGoingOn() {
    if isTold { report("\(rotation.target) takes orders: going on") }
    isTold = false
  }
}

extension CallFailure {
  /// What it says of an order, if the server says it of an order; nil: of the server, the way there, or this program.
  fileprivate var ofOrder: OrderFailure? {
    guard case .answered(let code) = kind, !details.reason.isEmpty else { return nil }
    let failure = OrderFailure(
      code: code, reason: details.reason, text: text, details: details.metadata,
      retryNanoseconds: details.retryNanoseconds)
    switch FailureFate(failure) {
    case .rejected, .dead, .counted: return failure
    case .later, .forbidden: return nil
    }
  }

  fileprivate var isForbidden: Bool {
    switch kind {
    case .answered(let code), .broken(let code):
      code == .unauthenticated || code == .permissionDenied || code == .unimplemented
    case .connection(let kind): kind == .credentials || kind == .untrusted
    case .malformed: true
    case .timedOut, .interrupted: false
    }
  }

  /// The server has said it, with a reason, and would say something else to the next call on the same connection.
  fileprivate var isOfSoundConnection: Bool {
    if case .answered = kind { return !details.reason.isEmpty && !isForbidden }
    return false
  }
}
