// A watch that goes on by itself: connects again where the connection or the server is lost, behind the last token.
internal import GRPC
internal import Posix

/// What is watched.
package struct WatchFilter: Sendable, Equatable {
  package var kinds: [EventKind] = []
  package var items: [ItemName] = []
  package var referencePrefix = ""

  package init() {}

  /// All kinds: those that there are, for a watch that names none gets no REFUSED.
  package static var everything: WatchFilter {
    var filter = WatchFilter()
    filter.kinds = EventKind.all
    return filter
  }
}

/// How far a watch was printed: what a resume file has in its line.
package struct WatchPosition: Equatable, Sendable {
  /// Not now.
  package let start: WatchStart
  /// Of what comes from there, events up to this number were printed; 0: none.
  package let printed: UInt64

  package init(_ start: WatchStart, printed: UInt64 = 0) {
    self.start = start
    self.printed = printed
  }

  /// `TOKEN`; or `TOKEN LSN` or `oldest LSN`, where a message was printed in part. nil for anything else.
  package init?(_ text: String) {
    let words = text.split(separator: " ", omittingEmptySubsequences: false)
    guard let place = words.first, words.count <= 2, 1...512 ~= place.utf8.count,
      place.utf8.allSatisfy({ 0x21...0x7e ~= $0 })
    else { return nil }
    start = place == "oldest" ? .oldest : .after(String(place))
    guard words.count == 2 else {
      printed = 0
      return
    }
    guard let lsn = UInt64(words[1]) else { return nil }
    printed = lsn
  }

  package var text: String {
    let place =
      switch start {
      case .now, .oldest: "oldest"
      case .after(let token): token
      }
    return printed == 0 ? place : "\(place) \(printed)"
  }
}

/// What became of a message of a watch.
package enum WatchReading {
  /// It was taken, and the next watch begins behind it.
  case taken(token: String)
  /// It was not, and no more is wanted.
  case enough
  /// It is none.
  case malformed
}

/// What a watch is to do next.
package enum WatchPause {
  /// Wait for the server, for so many milliseconds at most.
  case wait(Int32)
  /// Give the connection up and ask again: nothing more can be taken for a while. A server ends a connection that is
  /// not read from.
  case hold
  /// End.
  case stop
}

/// Follows the events of a store. Used by one thread.
package final class EventWatch {
  private static let pollMilliseconds: Int32 = 200
  private static let heartbeatNanoseconds: Int64 = 5_000_000_000
  /// A server that is well says something at every heartbeat.
  private static let silenceNanoseconds: Int64 = 20_000_000_000
  private static let connectNanoseconds: Int64 = 5_000_000_000
  /// From then on a wait is told, and so often.
  private static let reportAgainNanoseconds: Int64 = 30_000_000_000
  /// How often the server is asked how far it is.
  private static let headNanoseconds: Int64 = 5_000_000_000

  private let program: String
  private let filter: WatchFilter
  private let endures: Bool
  private let report: (String) -> Void
  private var rotation: TargetRotation
  private var start: WatchStart
  /// Whether a server has ever taken the watch: what does not end it then.
  private var hasBegun = false
  private var reportedAt: Int64?

  /// Whether a server tells its events now.
  package private(set) var isConnected = false
  /// Whether its user has the connection given up for now.
  package private(set) var isHeld = false
  /// Watches that were begun.
  package private(set) var connections: UInt64 = 0
  /// When the server said something last, in monotonic nanoseconds.
  package private(set) var heardAt = SystemClock.monotonicNanoseconds()
  /// A token of the newest decision, as the server said it a few seconds ago; nil: nobody asked, or it did not say.
  package private(set) var headToken: String?

  /// - Parameters:
  ///   - targets: one at least.
  ///   - program: what servers hear as user agent.
  ///   - endures: credentials and certificates that are of no use any more are waited for, and `headToken` is asked for:
  ///     as somebody wants it who follows for years.
  ///   - report: is told, in words, of lost and found servers.
  package init(
    _ targets: [ServiceTarget], program: String, filter: WatchFilter, from start: WatchStart,
    endures: Bool = false, report: @escaping (String) -> Void
  ) {
    rotation = TargetRotation(targets)
    self.program = program
    self.filter = filter
    self.endures = endures
    self.start = start
    self.report = report
  }

  /// Follows until `take` or `isStopped` says so, or the process is interrupted.
  /// - Parameters:
  ///   - take: gets every message; false: enough. A message that was not taken wholly comes again with the next watch.
  ///   - isStopped: asked several times a second.
  /// - Throws: what waiting does not mend.
  package func run(
    take: (WatchMessage) -> Bool, isStopped: () -> Bool
  ) throws(CallFailure) {
    try unsafe run(
      read: { bytes in
        guard let message = unsafe WatchMessage(bytes) else { return .malformed }
        // Also where it was not taken wholly: nothing is watched after that.
        start = .after(message.token)
        return take(message) ? .taken(token: message.token) : .enough
      },
      pause: {
        isStopped() || Signals.isInterrupted ? .stop : .wait(Self.pollMilliseconds)
      })
  }

  /// Follows until `read` or `pause` says so.
  /// - Parameters:
  ///   - read: gets the bytes of every WatchResponse.
  ///   - pause: asked before every wait, also while there is no server.
  /// - Throws: what waiting does not mend.
  package func run(
    read: (UnsafeRawBufferPointer) -> WatchReading, pause: () -> WatchPause
  ) throws(CallFailure) {
    while true {
      var failure: CallFailure?
      do throws(CallFailure) {
        if try unsafe follow(read, pause) { return }
      } catch { failure = error }
      isConnected = false
      if let failure {
        guard try wait(after: failure, pause) else { return }
      } else {
        isHeld = true
        while isHeld {
          switch pause() {
          case .stop: return
          case .hold: break
          case .wait: isHeld = false
          }
        }
      }
    }
  }

  /// False: it is to end.
  private func wait(
    after failure: CallFailure, _ pause: () -> WatchPause
  ) throws(CallFailure) -> Bool {
    if !goesOn(after: failure) { throw failure }
    let now = SystemClock.monotonicNanoseconds()
    if now - (reportedAt ?? .min / 2) > Self.reportAgainNanoseconds {
      report("\(failure.server): \(failure.text) (\(failure.label)); trying again")
      reportedAt = now
    }
    let end = now + rotation.failed(failure)
    while SystemClock.monotonicNanoseconds() < end {
      switch pause() {
      case .stop: return false
      case .hold: break
      case .wait(let milliseconds):
        ServiceCaller.sleep(min(Int64(milliseconds), 50) * 1_000_000)
      }
    }
    return true
  }

  private func goesOn(after failure: CallFailure) -> Bool {
    if failure.isTemporary { return true }
    // A stream that was cut off on the way, by a proxy or the like.
    if failure.isOutcomeUnknown { return hasBegun }
    switch failure.kind {
    // A name that has no address now, and had one.
    case .connection(.unknownHost): return hasBegun
    // A table is full, now.
    case .answered(.resourceExhausted): return hasBegun
    // No watch of ours ends so.
    case .answered(.ok): return hasBegun
    // Somebody changes a token or a certificate, and the other side a little later.
    case .answered(.unauthenticated), .answered(.permissionDenied), .connection(.credentials),
      .connection(.untrusted), .connection(.malformed), .connection(.system), .malformed:
      return endures && hasBegun
    default: return false
    }
  }

  private func began() {
    if reportedAt != nil { report("\(rotation.target) answers: going on") }
    reportedAt = nil
    rotation.succeeded()
    hasBegun = true
    isConnected = true
    connections += 1
  }

  private func failure(_ error: ServiceClientError) -> CallFailure {
    CallFailure(.connection(error.kind), error.description, server: rotation.target.description)
  }

  /// One connection. Whether it is to end: else it is held.
  private func follow(
    _ read: (UnsafeRawBufferPointer) -> WatchReading, _ pause: () -> WatchPause
  ) throws(CallFailure) -> Bool {
    let server = rotation.target.description
    let client: ServiceClient
    do throws(ServiceClientError) {
      client = try ServiceClient(
        rotation.target, methods: ServiceMethod.clientMethods, program: program, callsMax: 2)
    } catch { throw failure(error) }
    let call = begin(client, from: start)
    heardAt = SystemClock.monotonicNanoseconds()
    // Up to when it has to answer.
    var readyBy = heardAt + Self.connectNanoseconds
    var head = HeadCall()
    var (isFirst, isEnough, isMalformed) = (true, false, false)
    while true {
      let milliseconds: Int32
      let asked = SystemClock.monotonicNanoseconds()
      switch pause() {
      case .stop: return true
      case .hold: return false
      case .wait(let most): milliseconds = most
      }
      // A broker may have been waited for meanwhile, which is not the server's doing.
      readyBy += SystemClock.monotonicNanoseconds() - asked
      var ended: ServiceCallEnd?
      do throws(ServiceClientError) {
        let hasCome = try unsafe client.wait(milliseconds: milliseconds) { id, bytes in
          if id == head.id { return unsafe head.take(bytes) }
          if id != call || isEnough || isMalformed { return }
          switch unsafe read(bytes) {
          case .taken(let token):
            if isFirst { began() }
            isFirst = false
            start = .after(token)
          case .enough: isEnough = true
          case .malformed: isMalformed = true
          }
        } end: {
          if $0.callID == call { ended = $0 }
        }
        if hasCome { heardAt = SystemClock.monotonicNanoseconds() }
      } catch { throw failure(error) }
      if isEnough { return true }
      if isMalformed {
        throw CallFailure(.malformed, "the server has sent what are no events", server: server)
      }
      if let ended {
        var failure = CallFailure(ended, server: server)
        if ended.status == .ok { failure.text = "the watch was ended" }
        throw failure
      }
      let now = SystemClock.monotonicNanoseconds()
      if !client.isReady, now > readyBy {
        throw failure(ServiceClientError(.unreachable, "nobody answers there"))
      }
      if now - heardAt > Self.silenceNanoseconds {
        throw failure(ServiceClientError(.lost, "the server is silent"))
      }
      if endures, !isFirst { ask(client, &head, now) }
    }
  }

  private func begin(_ client: ServiceClient, from start: WatchStart) -> UInt64 {
    client.start(
      ServiceMethod.watch.rawValue,
      Requests.watch(
        start, kinds: filter.kinds, items: filter.items, referencePrefix: filter.referencePrefix,
        heartbeatNanoseconds: Self.heartbeatNanoseconds))
  }

  /// Asks how far the server is now and then: a watch from now says it in its first message.
  private func ask(_ client: ServiceClient, _ head: inout HeadCall, _ now: Int64) {
    if let id = head.id, head.token != nil || now - head.askedAt > Self.headNanoseconds {
      client.cancel(id)
      headToken = head.token ?? headToken
      (head.id, head.token) = (nil, nil)
    }
    if head.id == nil, now - head.askedAt > Self.headNanoseconds {
      (head.id, head.askedAt) = (begin(client, from: .now), now)
    }
  }
}

/// A second watch, of which only the first message is wanted.
private struct HeadCall {
  var id: UInt64?
  var askedAt: Int64 = .min / 2
  var token: String?

  mutating func take(_ bytes: UnsafeRawBufferPointer) {
    if token == nil { token = unsafe WatchMessage(bytes)?.token }
  }
}
