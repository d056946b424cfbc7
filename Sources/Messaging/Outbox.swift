// Messages on their way to a broker, which are kept until it has them.
internal import Posix

/// Publishes at least once and in order, over as many connections as that takes. Used by one thread.
///
/// A message is settled once the broker has confirmed it, or its dead letter. What is not settled is in `entries`, oldest
/// first, and `cursor` is the next one to hand to this connection. Everything that goes wrong ends in the same step: the
/// cursor goes back to the oldest one that is not settled, and what follows is published again in its order. After a lost
/// connection that is at once; where the broker has refused messages, it is once everything in flight has got its answer,
/// for only then is it known what has to come again. A consumer that drops doubles by their ids sees the messages of a
/// key in order, with one exception: behind a message that the broker has postponed, later ones that were on their way at
/// the time may be taken before it. That is not to happen again and again: from then on one message of that key is in
/// flight at a time, until the broker has taken many of them in a row.
///
/// A broker that ends the channel over a message does not say which. So ever fewer are sent at once, down to one: that
/// one is it, and goes to the dead letters.
package final class Outbox {
  /// What goes wrong is told, and told again after so long.
  private static let reportAgainNanoseconds: Int64 = 30_000_000_000
  /// Another kind of trouble is told sooner: a broker that comes back may refuse the password.
  private static let reportOtherNanoseconds: Int64 = 1_000_000_000
  /// Refused messages are told this often.
  private static let refusalNanoseconds: Int64 = 1_000_000_000
  /// A connection that lasts so long was a good one.
  private static let goodConnectionNanoseconds: Int64 = 10_000_000_000
  /// A queue that somebody has named as his own, and that is full, is waited for so many times. Then its messages go to the
  /// dead letters, as long as it stays full: nobody else waits for it.
  private static let ownWaitsMax = 3
  /// Such queues are remembered.
  private static let ownQueuesMax = 1000
  /// So many messages of a key have to be taken in a row, one by one, after one was postponed.
  private static let carefulMessages = 64
  /// Such keys are remembered.
  private static let carefulKeysMax = 10_000
  /// A broker that has confirmed nothing for so long is told of.
  private static let silenceNanoseconds: Int64 = 30_000_000_000
  /// Counted for what a message has beside its body.
  private static let overheadBytes = 512

  /// A key of which a message was postponed.
  private struct Care {
    /// Messages that are still to go one by one.
    var left = Outbox.carefulMessages
    var isInFlight = false
  }

  private struct Entry {
    /// Empty once it is settled.
    var message: BrokerMessage?
    /// Where nobody has such a queue, it is of no use to anybody.
    var isDroppable = false
    var wasPublished = false
  }

  private let limits: OutboxLimits
  private let deadLetters: DeadLetters
  private let clock: OutboxClock
  private let connect: () throws(BrokerError) -> any BrokerConnection
  private let report: (String) -> Void
  private var random: any RandomNumberGenerator

  private var entries = NumberedQueue<Entry>()
  /// Of those in `entries`, by number: their dead letters are sent in their place.
  private var refusals: [UInt64: Refusal] = [:]
  private var unsettledBytes = 0
  /// How often a message to a queue that somebody has named was postponed since that took one, by the queue's name.
  private var ownWaits: [String: Int] = [:]
  /// Keys whose messages go one by one.
  private var careful: [String: Care] = [:]

  private var connection: (any BrokerConnection)?
  private var connectedAt: Int64 = 0
  /// By the numbers of this connection: which entry it was; 0: its fate is known.
  private var sent = NumberedQueue<UInt64>()
  private var inFlight = 0
  /// Since when nothing was said of what is in flight; nil: something was since it was last asked.
  private var silentSince: Int64?
  private var cursor: UInt64 = 1
  /// Something came back: nothing is sent until the fate of all in flight is known.
  private var awaitsRewind = false
  /// What was said outside of `step` of a connection that is broken.
  private var brokenBy: BrokerError?

  /// How many may be in flight: grows with every confirmation, up to the limit.
  private var window: Int
  /// One of the messages below this number has made the broker end the channel: the window does not grow until they are
  /// settled. 0: none has.
  private var suspectsEnd: UInt64 = 0
  private var backoff = Backoff()
  private var pausedUntil: Int64 = .min

  private var isTold = false
  private var toldAt: Int64 = .min / 2
  private var toldKind = Trouble.away
  private var refusalToldAt: Int64 = .min / 2

  package private(set) var counts = OutboxCounts()
  /// Why the broker takes nothing for now; nil: it takes messages, or there is no connection.
  package private(set) var blocked: String?
  /// Why the oldest message does not get on, though there is a connection: dead letters are refused too, it is
  /// postponed, or nothing has been confirmed for half a minute.
  package private(set) var stuck: String?
  /// Why there is no connection; nil where there is one, or the first was not tried yet.
  package private(set) var trouble: BrokerError?

  /// - Parameters:
  ///   - connect: makes a connection, with what has to be declared and consumed.
  ///   - report: is told, in words, of what goes wrong and when it goes on.
  package init(
    _ limits: OutboxLimits = OutboxLimits(), deadLetters: DeadLetters,
    clock: OutboxClock = .system,
    random: any RandomNumberGenerator = SystemRandomNumberGenerator(),
    connect: @escaping () throws(BrokerError) -> any BrokerConnection,
    report: @escaping (String) -> Void
  ) {
    self.limits = limits
    self.deadLetters = deadLetters
    self.clock = clock
    self.random = random
    self.connect = connect
    self.report = report
    window = limits.messagesMax
  }

  // MARK: Messages

  /// Whether it takes another message now. One more than that is taken too, so that what belongs together may stay
  /// together.
  package var hasRoom: Bool {
    entries.count < limits.messagesMax && unsettledBytes < limits.bytesMax
  }

  /// Takes a message. It leaves with the next `step`.
  /// - Parameter isDroppable: it is settled too where there is no queue for it.
  /// - Returns: its number: one more than the last one's, the first 1.
  @discardableResult
  package func add(_ message: BrokerMessage, isDroppable: Bool = false) -> UInt64 {
    unsettledBytes += Self.byteCount(message)
    entries.append(Entry(message: message, isDroppable: isDroppable))
    return entries.end - 1
  }

  /// Takes a message that goes to the dead letters, as if the broker had refused it.
  /// - Parameters:
  ///   - reason: one word of [A-Z_].
  ///   - omitsBody: it had a body that is not here.
  @discardableResult
  package func addDead(
    _ message: BrokerMessage, reason: String, text: String, omitsBody: Bool = false
  ) -> UInt64 {
    let number = add(message)
    refusals[number] = Refusal(
      reason: reason, text: text, time: clock.wall(), omitsBody: omitsBody)
    return number
  }

  /// Forgets all messages, while there is no connection.
  package func removeAll() {
    precondition(connection == nil, "what is in flight has a number")
    while !entries.isEmpty { entries.removeFirst() }
    refusals.removeAll()
    careful.removeAll()
    (unsettledBytes, suspectsEnd, cursor, awaitsRewind) = (0, 0, entries.first, false)
    stuck = nil
  }

  /// All messages up to this number are settled; 0: none.
  package var settledThrough: UInt64 { entries.first - 1 }
  /// The number of the newest message; 0: there was none.
  package var newest: UInt64 { entries.end - 1 }
  /// Whether the broker has everything.
  package var isSettled: Bool { entries.isEmpty }
  /// Messages that are kept.
  package var count: Int { entries.count }
  package var isConnected: Bool { connection != nil }
  /// The time of the oldest message that is not settled; nil: there is none.
  package var oldestTime: Int64? { entries.isEmpty ? nil : entries[entries.first].message?.time }

  /// The broker may forget these deliveries, which are of this connection.
  package func accept(_ tags: [UInt64]) {
    use { (connection) throws(BrokerError) in try connection.accept(tags) }
  }

  /// Asks something else of the connection, if there is one. Where that fails, it is of no more use: the next step says so.
  package func use(_ body: (any BrokerConnection) throws(BrokerError) -> Void) {
    guard let connection, brokenBy == nil else { return }
    do throws(BrokerError) { try body(connection) } catch { brokenBy = error }
  }

  /// Ends the connection in order, and makes no other.
  package func close() {
    connection?.close()
    connection = nil
    // Of that connection: another one is told by itself.
    (blocked, brokenBy) = (nil, nil)
  }

  // MARK: Steps

  /// Connects if need be and if it is time, sends, and takes what has come; waits for it for at most so long.
  /// - Parameter take: must not call `step`.
  package func step(milliseconds: Int32, _ take: (OutboxNotice) -> Void) {
    guard let connection = connection ?? connectAgain(take) else {
      clock.sleep(pause(atMost: milliseconds))
      return
    }
    do throws(BrokerError) {
      if let brokenBy { throw brokenBy }
      try send(connection)
      // A pause of sending ends it too.
      let longest = awaitsRewind || inFlight > 0 ? milliseconds : pause(atMost: milliseconds)
      try connection.poll(milliseconds: longest) { receive($0, take) }
      if awaitsRewind, inFlight == 0 { rewind() }
      tellSilence()
      try send(connection)
    } catch {
      lose(connection, error, take)
    }
  }

  /// So much of a wait as there is of the pause.
  private func pause(atMost milliseconds: Int32) -> Int32 {
    let left = pausedUntil == .min ? 0 : pausedUntil - clock.now()
    if left <= 0 { return milliseconds }
    return min(milliseconds, Int32(clamping: left / 1_000_000 + 1))
  }

  private var isPaused: Bool { pausedUntil != .min && clock.now() < pausedUntil }

  private func rewind() {
    awaitsRewind = false
    cursor = entries.first
  }

  private func send(_ connection: any BrokerConnection) throws(BrokerError) {
    guard blocked == nil, !awaitsRewind, cursor < entries.end, !isPaused else { return }
    // What comes next may have been settled before what was sent again.
    cursor = max(cursor, entries.first)
    while inFlight < window, cursor < entries.end {
      let number = cursor
      if let message = entries[number].message {
        // What comes behind it waits too: to step over it would cost a second list of what is to be sent.
        if !careful.isEmpty {
          if careful[message.partitionKey]?.isInFlight == true { return }
          careful[message.partitionKey]?.isInFlight = true
        }
        // Before it is handed over: a connection may break over it.
        cursor = number + 1
        sent.append(number)
        inFlight += 1
        counts.published += 1
        if entries[number].wasPublished { counts.resent += 1 }
        entries[number].wasPublished = true
        let letter = refusals.isEmpty ? nil : refusals[number]
        let given = try connection.publish(
          letter.map { deadLetters.letter(message, $0) } ?? message)
        precondition(given == sent.end - 1, "a connection counts what it publishes")
      } else {
        cursor = number + 1
      }
    }
  }

  // MARK: What the broker says

  private func receive(_ notice: BrokerNotice, _ take: (OutboxNotice) -> Void) {
    switch notice {
    case .confirmed(let place):
      if let number = fate(of: place) { settle(number, take) }
    case .refused(let place, let reason, let text):
      guard let number = fate(of: place) else { return }
      if reason == Refusal.unroutable, entries[number].isDroppable, refusals[number] == nil {
        return settle(number, isDropped: true, take)
      }
      refuse(number, reason, text, isOverBody: reason == Refusal.tooLarge)
      awaitsRewind = true
    case .postponed(let place, let text):
      guard let number = fate(of: place) else { return }
      counts.postponed += 1
      awaitsRewind = true
      if isGivenUp(number) {
        return refuse(number, Refusal.postponed, text, isOverBody: false)
      }
      takeCare(of: number)
      waitAWhile("the broker does not take a message for now: \(text)")
    case .delivery(let delivery): take(.delivery(delivery))
    case .blocked(let reason):
      if let reason, blocked == nil { tell(.stuck, "the broker takes nothing for now: \(reason)") }
      if reason == nil, blocked != nil { tellGoingOn() }
      blocked = reason
    }
  }

  /// The entry that a number of this connection stands for, whose fate is known from now on; nil where it was already.
  private func fate(of place: UInt64) -> UInt64? {
    guard sent.contains(place), sent[place] != 0 else { return nil }
    let number = sent[place]
    sent[place] = 0
    inFlight -= 1
    silentSince = nil
    if !careful.isEmpty, let key = entries[number].message?.partitionKey {
      careful[key]?.isInFlight = false
    }
    while !sent.isEmpty, sent[sent.first] == 0 { sent.removeFirst() }
    return number
  }

  /// From now on the messages of its key go one by one. Those to somebody's own queue have no order to keep with others.
  private func takeCare(of number: UInt64) {
    guard !entries[number].isDroppable, let key = entries[number].message?.partitionKey,
      !key.isEmpty
    else { return }
    if careful.count >= Self.carefulKeysMax { careful.removeAll() }
    careful[key] = Care()
  }

  /// Whether a message that is postponed is one of somebody's own queue, which others have waited for long enough.
  private func isGivenUp(_ number: UInt64) -> Bool {
    guard entries[number].isDroppable, refusals[number] == nil,
      let queue = entries[number].message?.routingKey
    else { return false }
    if ownWaits.count >= Self.ownQueuesMax { ownWaits.removeAll() }
    // Once for all that come back together.
    if !isPaused { ownWaits[queue, default: 0] += 1 }
    return ownWaits[queue, default: 0] > Self.ownWaitsMax
  }

  private func settle(
    _ number: UInt64, isDropped: Bool = false, _ take: (OutboxNotice) -> Void
  ) {
    guard let message = entries[number].message else { return }
    unsettledBytes -= Self.byteCount(message)
    entries[number].message = nil
    let refusal = refusals.removeValue(forKey: number)
    if !ownWaits.isEmpty, refusal == nil, entries[number].isDroppable {
      ownWaits[message.routingKey] = nil
    }
    switch refusal {
    case let refusal?: counts.addDead(refusal.reason)
    case nil where isDropped: counts.dropped += 1
    case nil: counts.confirmed += 1
    }
    while !entries.isEmpty, entries[entries.first].message == nil { entries.removeFirst() }
    if entries.first >= suspectsEnd { suspectsEnd = 0 }
    // What was on its way when something came back says nothing of what comes next.
    if !awaitsRewind {
      if !careful.isEmpty { relax(message.partitionKey) }
      if window < limits.messagesMax, suspectsEnd == 0 { window += 1 }
      backoff.reset()
      pausedUntil = .min
      stuck = nil
      tellGoingOn()
    }
    take(isDropped ? .dropped(number) : .settled(number, isDead: refusal != nil))
  }

  /// A message of this key was taken.
  private func relax(_ key: String) {
    careful[key]?.left -= 1
    if let care = careful[key], care.left <= 0 { careful[key] = nil }
  }

  /// The broker does not take a message, or its dead letter.
  private func refuse(_ number: UInt64, _ reason: String, _ text: String, isOverBody: Bool) {
    suspectsEnd = 0
    window = 1
    guard var refusal = refusals[number] else {
      refusals[number] = Refusal(
        reason: reason, text: text, time: clock.wall(), omitsBody: reason == Refusal.tooLarge)
      tellRefusal(number, reason, text)
      return
    }
    if isOverBody, !refusal.omitsBody {
      refusal.omitsBody = true
      refusals[number] = refusal
      return
    }
    // Nobody takes it, and it must not be lost.
    let queue = deadLetters.routingKey
    waitAWhile(
      "a dead letter is refused too, by \(queue) (\(reason): \(text)); messages wait until it is taken"
    )
  }

  // MARK: The connection

  private func connectAgain(_ take: (OutboxNotice) -> Void) -> (any BrokerConnection)? {
    if isPaused { return nil }
    do throws(BrokerError) {
      let made = try connect()
      connection = made
      connectedAt = clock.now()
      counts.connections += 1
      trouble = nil
      sent.restart()
      inFlight = 0
      for key in careful.keys { careful[key]?.isInFlight = false }
      rewind()
      take(.connected)
      // With something to send, the first confirmation says that it goes on.
      if entries.isEmpty { tellGoingOn() }
      return made
    } catch {
      counts.failures += 1
      trouble = error
      pauseNow()
      tell(error)
      return nil
    }
  }

  /// The connection is of no more use.
  private func lose(
    _ connection: any BrokerConnection, _ error: BrokerError, _ take: (OutboxNotice) -> Void
  ) {
    counts.failures += 1
    connection.close()
    self.connection = nil
    trouble = error
    brokenBy = nil
    blocked = nil
    if clock.now() - connectedAt > Self.goodConnectionNanoseconds { backoff.reset() }
    // What has come back already waits with the rest.
    if case .messageRefused(let reason, let text) = error, inFlight > 0 {
      blame(reason, text)
    } else {
      pauseNow()
      tell(error)
    }
    take(.disconnected)
  }

  /// The broker has ended the channel over one of the messages in flight.
  private func blame(_ reason: String, _ text: String) {
    if inFlight > 1 {
      window = inFlight / 2
      suspectsEnd = max(suspectsEnd, cursor)
      return
    }
    guard let place = (sent.first..<sent.end).first(where: { sent[$0] != 0 }) else { return }
    refuse(sent[place], reason, text, isOverBody: true)
  }

  private func pauseNow() { pausedUntil = clock.now() + backoff.wait(&random) }

  /// A broker may be there and well, and a queue of its not: one without a majority of its machines confirms nothing, and
  /// says so to nobody.
  private func tellSilence() {
    guard inFlight > 0, blocked == nil, stuck == nil else {
      silentSince = nil
      return
    }
    let now = clock.now()
    let since = silentSince ?? now
    silentSince = since
    guard now - since > Self.silenceNanoseconds else { return }
    let seconds = (now - since) / 1_000_000_000
    let text = "the broker is there, and has confirmed nothing for \(seconds) s"
    stuck = text
    tell(.stuck, text)
  }

  /// The broker is there, and the oldest message does not get on.
  private func waitAWhile(_ text: String) {
    window = 1
    stuck = text
    if !isPaused { pauseNow() }
    tell(.stuck, text)
  }

  // MARK: Words

  private enum Trouble {
    case away, unsuitable, refusing, stuck
  }

  private func tell(_ error: BrokerError) {
    switch error {
    case .away(let text): tell(.away, "the broker is away: \(text); trying again")
    case .unsuitable(let text):
      tell(.unsuitable, "the broker cannot be used as it is: \(text); trying again")
    case .messageRefused(let reason, let text):
      tell(.refusing, "the broker has ended the channel (\(reason): \(text)); trying again")
    }
  }

  private func tell(_ kind: Trouble, _ text: String) {
    let now = clock.now()
    let pause = kind == toldKind ? Self.reportAgainNanoseconds : Self.reportOtherNanoseconds
    guard now - toldAt > pause else { return }
    (isTold, toldAt, toldKind) = (true, now, kind)
    report(text)
  }

  private func tellGoingOn() {
    if isTold { report("the broker takes messages again: going on") }
    isTold = false
  }

  private func tellRefusal(_ number: UInt64, _ reason: String, _ text: String) {
    let now = clock.now()
    guard now - refusalToldAt > Self.refusalNanoseconds else { return }
    refusalToldAt = now
    let id = entries[number].message?.id ?? ""
    report("the broker refuses message \(id) (\(reason): \(text)): it goes to the dead letters")
  }

  private static func byteCount(_ message: BrokerMessage) -> Int {
    message.body.count + overheadBytes
  }
}
