// A watch that goes on by itself: connects again where the connection or the server is lost, behind the last token.
internal import GRPC
internal import Posix

/// What is watched.
package struct WatchFilter: Sendable, Equatable {
  package var kinds: [EventKind] = []
  package var items: [ItemName] = []
  package var referencePrefix = ""

  package init() {}
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

/// Follows the events of a store. Used by one thread.
package final class EventWatch {
  private static let pollMilliseconds: Int32 = 200
  private static let heartbeatNanoseconds: Int64 = 5_000_000_000
  /// A server that is well says something at every heartbeat.
  private static let silenceNanoseconds: Int64 = 20_000_000_000
  private static let connectNanoseconds: Int64 = 5_000_000_000
  /// From then on a wait is told, and so often.
  private static let reportAgainNanoseconds: Int64 = 30_000_000_000

  private let program: String
  private let filter: WatchFilter
  private let report: (String) -> Void
  private var rotation: TargetRotation
  private var start: WatchStart
  /// Whether a server has ever taken the watch: what does not end it then.
  private var hasBegun = false

  /// - Parameters:
  ///   - targets: one at least.
  ///   - program: what servers hear as user agent.
  ///   - report: is told, in words, of lost and found servers.
  package init(
    _ targets: [ServiceTarget], program: String, filter: WatchFilter, from start: WatchStart,
    report: @escaping (String) -> Void
  ) {
    rotation = TargetRotation(targets)
    self.program = program
    self.filter = filter
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
    var reportedAt: Int64?
    while true {
      let failure: CallFailure
      do throws(CallFailure) {
        return try follow(
          take: take, isStopped: isStopped,
          began: {
            if reportedAt != nil { report("\(rotation.target) answers: going on") }
            reportedAt = nil
            rotation.succeeded()
            hasBegun = true
          })
      } catch { failure = error }
      if !goesOn(after: failure) { throw failure }
      let now = SystemClock.monotonicNanoseconds()
      if now - (reportedAt ?? .min / 2) > Self.reportAgainNanoseconds {
        report("\(failure.server): \(failure.text) (\(failure.label)); trying again")
        reportedAt = now
      }
      let end = now + rotation.failed(failure)
      while SystemClock.monotonicNanoseconds() < end {
        if isStopped() || Signals.isInterrupted { return }
        ServiceCaller.sleep(50_000_000)
      }
    }
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
    default: return false
    }
  }

  /// One connection. Returns where enough was seen.
  private func follow(
    take: (WatchMessage) -> Bool, isStopped: () -> Bool, began: () -> Void
  ) throws(CallFailure) {
    let server = rotation.target.description
    func failure(_ error: ServiceClientError) -> CallFailure {
      CallFailure(.connection(error.kind), error.description, server: server)
    }
    let client: ServiceClient
    do throws(ServiceClientError) {
      client = try ServiceClient(
        rotation.target, methods: ServiceMethod.clientMethods, program: program)
    } catch { throw failure(error) }
    let call = client.start(
      ServiceMethod.watch.rawValue,
      Requests.watch(
        start, kinds: filter.kinds, items: filter.items, referencePrefix: filter.referencePrefix,
        heartbeatNanoseconds: Self.heartbeatNanoseconds))
    let connectedAt = SystemClock.monotonicNanoseconds()
    var heardAt = connectedAt
    var (isFirst, isEnough, isMalformed) = (true, false, false)
    while !isStopped(), !Signals.isInterrupted {
      var ended: ServiceCallEnd?
      do throws(ServiceClientError) {
        let hasCome = try unsafe client.wait(milliseconds: Self.pollMilliseconds) { _, bytes in
          if isEnough || isMalformed { return }
          guard let message = unsafe WatchMessage(bytes) else {
            isMalformed = true
            return
          }
          if isFirst { began() }
          isFirst = false
          start = .after(message.token)
          isEnough = !take(message)
        } end: {
          if $0.callID == call { ended = $0 }
        }
        if hasCome { heardAt = SystemClock.monotonicNanoseconds() }
      } catch { throw failure(error) }
      if isEnough { return }
      if isMalformed {
        throw CallFailure(.malformed, "the server has sent what are no events", server: server)
      }
      if let ended {
        var failure = CallFailure(ended, server: server)
        if ended.status == .ok { failure.text = "the watch was ended" }
        throw failure
      }
      let now = SystemClock.monotonicNanoseconds()
      if !client.isReady, now - connectedAt > Self.connectNanoseconds {
        throw failure(ServiceClientError(.unreachable, "nobody answers there"))
      }
      if now - heardAt > Self.silenceNanoseconds {
        throw failure(ServiceClientError(.lost, "the server is silent"))
      }
    }
  }
}
