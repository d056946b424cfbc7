// What the pages of the console and the program that knows the numbers share. The program publishes what is shown once
// a second, and answers look-ups on a thread of its own; the admin port's thread waits for neither.
package import Bytes
internal import Posix
internal import Synchronization

/// What browsers can take of the server. holdfast's Limits.swift has the values.
package struct ConsoleLimits: Sendable {
  /// Open pages. One more is told to come back later.
  package var subscribersMax: Int
  /// Sessions of browsers, with a token file.
  package var sessionsMax: Int
  package var sessionNanosecondsMax: Int64
  /// Look-ups that wait; one more is refused.
  package var lookupsMax: Int
  /// After it, who waits for a look-up is told that there is none.
  package var lookupNanosecondsMax: Int64
  /// After so long without news, a page is sent a comment: so both ends know that the other is there.
  package var heartbeatNanoseconds: Int64
  /// Of a form.
  package var formBytesMax: Int

  package init(
    subscribersMax: Int, sessionsMax: Int, sessionNanosecondsMax: Int64, lookupsMax: Int,
    lookupNanosecondsMax: Int64, heartbeatNanoseconds: Int64, formBytesMax: Int
  ) {
    precondition(subscribersMax > 0 && sessionsMax > 0 && lookupsMax > 0, "no such limits")
    self.subscribersMax = subscribersMax
    self.sessionsMax = sessionsMax
    self.sessionNanosecondsMax = sessionNanosecondsMax
    self.lookupsMax = lookupsMax
    self.lookupNanosecondsMax = lookupNanosecondsMax
    self.heartbeatNanoseconds = heartbeatNanoseconds
    self.formBytesMax = formBytesMax
  }
}

/// What a person wants to know.
package enum ConsoleQuestion: Sendable, Equatable {
  case stock(sku: String, location: String)
  /// By its id, as text.
  case reservation(String)
}

/// A look-up on its way.
package final class ConsoleLookup: Sendable {
  package let question: ConsoleQuestion
  private let result = Mutex<[UInt8]?>(nil)
  private let isGivenUp = Atomic<Bool>(false)

  init(_ question: ConsoleQuestion) { self.question = question }

  /// Whether somebody still waits for the answer.
  package var isWanted: Bool { !isGivenUp.load(ordering: .relaxed) }

  /// Whoever asked has left.
  func giveUp() { isGivenUp.store(true, ordering: .relaxed) }

  /// The answer. Once, from any thread.
  package func finish(_ answer: JSON) { result.withLock { $0 = answer.bytes } }

  var answer: [UInt8]? { result.withLock { $0 } }
}

/// Any thread.
package final class Console: Sendable {
  /// What was published last.
  struct Published: Sendable {
    /// From 1.
    var number: UInt64 = 0
    var state = Array("{}".utf8)
    /// For pages without scripts: each line's name and value.
    var lines: [(name: String, value: String)] = []
    /// The past, as it was at `pastNumber`.
    var past: [UInt8] = []
    var pastNumber: UInt64 = 0
  }

  let rule: ConsoleRule
  let limits: ConsoleLimits
  let sessions: ConsoleSessions
  private let published = Mutex(Published())
  private let lookups = Mutex<[ConsoleLookup]>([])
  private let subscribers = Atomic<Int>(0)
  private let pastAsked = Atomic<UInt64>(0)
  private let wakeUps = Mutex<(state: @Sendable () -> Void, lookup: @Sendable () -> Void)>(({}, {}))

  package init(rule: ConsoleRule, limits: ConsoleLimits) {
    self.rule = rule
    self.limits = limits
    sessions = ConsoleSessions(
      sessionsMax: limits.sessionsMax, lifetimeNanoseconds: limits.sessionNanosecondsMax)
  }

  // MARK: For the program

  /// - Parameters:
  ///   - state: called, from any thread, when a page was opened that wants to be shown the past.
  ///   - lookup: when there is something to look up.
  package func onDemand(
    state: @escaping @Sendable () -> Void, lookup: @escaping @Sendable () -> Void
  ) {
    wakeUps.withLock { $0 = (state, lookup) }
  }

  /// How many pages are open.
  package var subscriberCount: Int { subscribers.load(ordering: .relaxed) }

  /// Whether a page waits for the past.
  package var wantsPast: Bool {
    pastAsked.load(ordering: .acquiring) > published.withLock { $0.pastNumber }
  }

  /// Shows the state to all pages, in the place of the one before.
  /// - Parameters:
  ///   - lines: the same for pages without scripts.
  ///   - past: nil: as it was.
  package func publish(_ state: JSON, lines: [(name: String, value: String)], past: JSON?) {
    let bytes = state.bytes
    let pastBytes = past?.bytes
    published.withLock { published in
      published.number += 1
      published.state = bytes
      published.lines = lines
      if let pastBytes {
        published.past = pastBytes
        published.pastNumber = published.number
      }
    }
  }

  /// What is to be looked up, the oldest first. By one thread.
  package func takeLookups() -> [ConsoleLookup] {
    lookups.withLock { lookups in
      let taken = lookups
      lookups = []
      return taken
    }
  }

  // MARK: For the pages

  var newest: Published { published.withLock { $0 } }
  var newestNumber: UInt64 { published.withLock { $0.number } }

  /// Takes the place of one more open page; false where there are too many.
  func subscribe() -> Bool {
    let count = subscribers.add(1, ordering: .relaxed).newValue
    if count > limits.subscribersMax {
      subscribers.subtract(1, ordering: .relaxed)
      return false
    }
    return true
  }

  func unsubscribe() { subscribers.subtract(1, ordering: .relaxed) }

  /// Has the past published with the next state: the number that it will have at least.
  func askForPast() -> UInt64 {
    let number = newestNumber + 1
    if number > pastAsked.load(ordering: .relaxed) {
      pastAsked.store(number, ordering: .releasing)
    }
    wakeUps.withLock { $0.state }()
    return number
  }

  /// nil where too many wait.
  func ask(_ question: ConsoleQuestion) -> ConsoleLookup? {
    let lookup = ConsoleLookup(question)
    let isTaken = lookups.withLock { lookups in
      lookups.removeAll { !$0.isWanted }
      if lookups.count >= limits.lookupsMax { return false }
      lookups.append(lookup)
      return true
    }
    guard isTaken else { return nil }
    wakeUps.withLock { $0.lookup }()
    return lookup
  }
}
