// Responses that go on: the state, once a second, and the answer to a look-up.
internal import Bytes
internal import Posix

/// Server-sent events (WHATWG HTML, section 9.2): the past once, then each state. A slow reader gets the newest state when it has
/// taken the one before, and none in between; one that takes nothing is dropped by the connection's time limit.
final class ConsoleEvents: ResponseStream, @unchecked Sendable {
  private static let askAgainNanoseconds: Int64 = 100_000_000
  /// Between two looks whether the page may still be shown.
  private static let holdsNanoseconds: Int64 = 1_000_000_000

  private let console: Console
  /// nil: everybody may.
  private let grant: ConsoleGrant?
  // Used by the admin port's thread alone.
  private let past: UInt64
  private var hasBegun = false
  private var hasSentPast = false
  private var sent: UInt64 = 0
  private var spokeAt: Int64
  private var checkedAt: Int64

  /// nil where there are too many.
  init?(_ console: Console, _ grant: ConsoleGrant?, nowNanoseconds: Int64) {
    guard console.subscribe() else { return nil }
    self.console = console
    self.grant = grant
    spokeAt = nowNanoseconds
    checkedAt = nowNanoseconds
    past = console.askForPast()
  }

  deinit { console.unsubscribe() }

  func next(nowNanoseconds now: Int64) -> ResponsePart {
    if let grant, now - checkedAt >= Self.holdsNanoseconds {
      checkedAt = now
      if !grant.holds() { return .end }
    }
    if !hasBegun {
      hasBegun = true
      // Milliseconds after which the browser comes back when the connection is lost.
      return speak("retry: 2000\n\n", now)
    }
    let newest = console.newest
    if !hasSentPast, newest.pastNumber >= past {
      hasSentPast = true
      return speak(Self.event("past", newest.number, newest.past), now)
    }
    if hasSentPast, newest.number > sent {
      sent = newest.number
      return speak(Self.event("state", newest.number, newest.state), now)
    }
    if now - spokeAt >= console.limits.heartbeatNanoseconds {
      return speak(": still here\n\n", now)
    }
    return .later(nanoseconds: now + Self.askAgainNanoseconds)
  }

  private func speak(_ text: String, _ now: Int64) -> ResponsePart { speak(Array(text.utf8), now) }

  private func speak(_ bytes: [UInt8], _ now: Int64) -> ResponsePart {
    spokeAt = now
    return .bytes(bytes)
  }

  /// - Parameter data: in one line.
  private static func event(_ name: String, _ number: UInt64, _ data: [UInt8]) -> [UInt8] {
    Array("event: \(name)\nid: \(number)\ndata: ".utf8) + data + Array("\n\n".utf8)
  }
}

/// The answer to a look-up, once it is there.
final class LookupAnswer: ResponseStream, @unchecked Sendable {
  private static let askAgainNanoseconds: Int64 = 20_000_000

  private let lookup: ConsoleLookup
  private let deadline: Int64
  // Used by the admin port's thread alone.
  private var isDone = false

  init(_ lookup: ConsoleLookup, deadlineNanoseconds: Int64) {
    self.lookup = lookup
    deadline = deadlineNanoseconds
  }

  // The connection's end is the stream's, too: nothing is searched for who has left.
  deinit { lookup.giveUp() }

  func next(nowNanoseconds now: Int64) -> ResponsePart {
    if isDone { return .end }
    if let answer = lookup.answer {
      isDone = true
      return .bytes(answer + Array("\n".utf8))
    }
    if now < deadline { return .later(nanoseconds: now + Self.askAgainNanoseconds) }
    isDone = true
    let failure = JSON.object([("error", .text("the server did not look it up in time"))])
    return .bytes(failure.bytes + Array("\n".utf8))
  }
}
