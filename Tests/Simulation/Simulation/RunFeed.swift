internal import ChangeFeed
internal import Log
// The change feed beside a run: the server's own readers, encoder, and tokens, stepped by hand, and two
// consumers whose books are held against the model wherever they stand. They crash as well, and forget what
// they have not written down.
internal import Posix
internal import StockStore
internal import StorePersistence

/// What a run knows of the feed; lives as long as the run.
struct FeedOfRun {
  /// The feed of the process that runs.
  struct Process {
    let feed: ChangeFeed
    let steps: FeedSteps
    let port: WatchPort
  }

  private static let statesMax = 400

  var random: SeededRandom
  var process: Process?
  var consumers: [FeedConsumer]
  var watchesMade: UInt64 = 0
  /// The state at each number of the log at which one is known, oldest first; before a repair, as it was.
  private(set) var states: [SimulationRun.Snapshot] = []
  /// The repairs of this history: behind which number versions are higher, and by how much.
  var lifts: [(lsn: UInt64, lift: UInt64)] = []
  var lineage = Lineage()
  var lineages: UInt64 = 0
  /// Of a hundred steps of the run: those in which somebody reads.
  let percent: Int
  let blockBytes: Int
  /// Segments of history beyond any that a run makes: nothing may be called too old.
  let keepsAll: Bool
  /// Of an orderly copy.
  struct Copy {
    let states: [SimulationRun.Snapshot]
    let lifts: [(lsn: UInt64, lift: UInt64)]
    let lineage: Lineage
  }

  init(seed: UInt64) {
    // Numbers of its own: what else a seed does is the same with the feed and without.
    random = SeededRandom(seed: seed ^ 0x6665_6564)
    consumers = [FeedConsumer(sku: nil), FeedConsumer(sku: nil), FeedConsumer(sku: "sku0")]
    percent = random.pick([100, 40, 10])
    blockBytes = random.pick([1, 600, 1 << 16])
    keepsAll = random.chance(30)
  }

  mutating func historyBytes(_ segmentBytes: Int) -> Int {
    keepsAll ? 1 << 24 : random.pick([0, 0, 0, segmentBytes])
  }

  // MARK: States

  mutating func note(_ state: SimulationRun.Snapshot) {
    if let last = states.last, last.lsn >= state.lsn { return }
    states.append(state)
    if states.count > Self.statesMax { states.removeFirst(states.count - Self.statesMax) }
  }

  /// What is behind `lsn` was lost, or given up.
  mutating func forget(behind lsn: UInt64) { states.removeAll { $0.lsn > lsn } }

  /// The index of the newest state up to `lsn`; nil where none is known.
  func stateIndex(upTo lsn: UInt64) -> Int? {
    var (low, high) = (0, states.count)
    while low < high {
      let middle = (low + high) / 2
      if states[middle].lsn <= lsn { low = middle + 1 } else { high = middle }
    }
    return low > 0 ? low - 1 : nil
  }

  /// The state at `lsn`, where there is no doubt of it.
  func state(at lsn: UInt64) -> SimulationRun.Snapshot? {
    guard let index = stateIndex(upTo: lsn) else { return nil }
    let state = states[index]
    if state.lsn == lsn || index + 1 == states.count { return state }
    // Holds that fell due while a store was opened have numbers in between, and no states. Behind the last
    // decision there may be a record of the time: where one lies in between, nobody knows on which side.
    return states[index + 1].model.decisionCount == state.model.decisionCount ? state : nil
  }

  var copy: Copy { Copy(states: states, lifts: lifts, lineage: lineage) }

  mutating func restore(_ copy: Copy, at lsn: UInt64) {
    lineages += 1
    (states, lifts) = (copy.states, copy.lifts)
    lineage = copy.lineage.restored(at: lsn, lineages)
  }

  /// - Parameter cut: what is left, with the versions that it had.
  mutating func repair(at cut: SimulationRun.Snapshot, lift: UInt64) {
    lineages += 1
    lineage = .repaired(lineages)
    forget(behind: cut.lsn)
    note(cut)
    lifts.append((cut.lsn, lift))
  }

  /// - Parameter state: what was restored of a backup, likewise. There is no journal before it.
  mutating func restoreBackup(of state: SimulationRun.Snapshot, lift: UInt64) {
    (states, lifts) = ([], [])
    repair(at: state, lift: lift)
  }
}

extension SimulationRun {
  func append(_ snapshot: Snapshot) {
    snapshots.append(snapshot)
    feed?.note(snapshot)
    backups?.note(snapshot)
  }

  /// A process has begun.
  func openFeed() throws(Violation) {
    guard feed != nil, let store, let log = store.journal?.log else { return }
    let blockBytes = feed?.blockBytes ?? 1
    let opened: ChangeFeed
    do {
      opened = try ChangeFeed(
        store: store, log: log,
        limits: FeedLimits(
          watchesMax: 10, blockBytes: blockBytes, retainedBytesMax: 1 << 20), hasThreads: false
      ) { _ in }
    } catch {
      throw violation("a feed", "\(error)")
    }
    feed?.process = FeedOfRun.Process(
      feed: opened, steps: FeedSteps(opened), port: opened.makePort(wake: {}))
  }

  /// It has ended, and all watches with it.
  func closeFeed() {
    feed?.process?.feed.stop()
    feed?.process = nil
    for index in feed?.consumers.indices ?? 0..<0 { feed?.consumers[index].close() }
  }

  /// From the first of a start to its clock, in nanoseconds. Of one copy two histories can be made, and where
  /// both wrote the same at the same nanosecond, nobody could tell them apart, nor would need to.
  var timeToClock: Int64 { Int64(feed?.random.number(1...1_000_000) ?? 0) }

  // MARK: Steps

  /// Now and then somebody watches, and the feed's threads come to do something.
  func watch() throws(Violation) {
    guard let percent = feed?.percent, chance(percent) else { return }
    // Most are a little behind, and now and then somebody catches up.
    try stepFeed(times: chance(8) ? 50 : number(1...4))
  }

  func stepFeed(times count: Int) throws(Violation) {
    for _ in 0..<count { try stepFeed(beginPercent: 30) }
  }

  /// In the end everybody has seen everything.
  func finishFeed() throws(Violation) {
    guard feed != nil else { return }
    for _ in 0..<10_000 {
      try stepFeed(beginPercent: 100)
      guard let feed, let durable = sessions.first?.durableLSN, !storage.isDown else { return }
      if feed.consumers.allSatisfy({ $0.watch != nil && $0.books?.lsn == durable }) { return }
    }
    throw violation("consumers to come to the end of the log", "\(feed?.consumers as Any)")
  }

  private func stepFeed(beginPercent: Int) throws(Violation) {
    guard let process = feed?.process, store != nil, !storage.isDown else { return }
    for index in feed?.consumers.indices ?? 0..<0
    where feed?.consumers[index].watch == nil && chance(beginPercent) {
      try begin(index, process)
    }
    if chance(50) { process.steps.stepTail() } else { process.steps.stepCatchUp() }
    for (watch, delivery) in process.port.take() {
      guard let index = feed?.consumers.firstIndex(where: { $0.watch == watch }) else { continue }
      try take(delivery, index, process)
    }
  }

  private func chance(_ percent: Int) -> Bool { feed?.random.chance(percent) ?? false }

  private func number(_ range: ClosedRange<Int>) -> Int { feed?.random.number(range) ?? 0 }

  private func begin(_ index: Int, _ process: FeedOfRun.Process) throws(Violation) {
    guard let consumer = feed?.consumers[index], let session = sessions.first else { return }
    var start = chance(50) ? WatchStart.oldest : .now
    if let token = consumer.books?.token {
      switch process.feed.tokens.read(token.span) {
      case .point(let point): start = .after(point)
      case .foreign: start = .foreign
      case .malformed: throw violation("a token of the feed's own", "none that it knows")
      }
    }
    feed?.watchesMade += 1
    let watch = feed?.watchesMade ?? 0
    guard process.feed.begin(watch, start, Self.filter(consumer, session), process.port) else {
      throw violation("one more watch", "too many")
    }
    log("consumer \(index) watches from \(start)")
    feed?.consumers[index].watch = watch
    feed?.consumers[index].start = start
  }

  private func close(_ index: Int, _ process: FeedOfRun.Process) {
    if let watch = feed?.consumers[index].watch { process.feed.end(watch, process.port) }
    feed?.consumers[index].close()
  }

  // MARK: Deliveries

  private func take(
    _ delivery: WatchDelivery, _ index: Int, _ process: FeedOfRun.Process
  ) throws(Violation) {
    switch delivery {
    case .begun(let point):
      guard try hasBegun(index, at: point.lsn, process) else { return }
      try setToken(index, point, process)
      request(index, process)
    case .passed(let point):
      let start = feed?.consumers[index].point?.lsn ?? 0
      if point.lsn < start { throw violation("to go on behind \(start)", "\(point.lsn)") }
      try setToken(index, point, process)
    case .block(let block):
      if feed?.consumers[index].point == nil {
        guard try hasBegun(index, at: block.start, process) else { return }
      }
      let start = feed?.consumers[index].point?.lsn ?? block.start
      // Where the block begins later, there was nothing for it before: the books show whether that is so.
      try take(block, behind: start, index, process)
    case .failed(let failure): try take(failure, index, process)
    }
  }

  private func request(_ index: Int, _ process: FeedOfRun.Process) {
    guard let consumer = feed?.consumers[index], let watch = consumer.watch,
      let point = consumer.point, let session = sessions.first
    else { return }
    process.feed.request(watch, behind: point, Self.filter(consumer, session), process.port)
  }

  /// The server has taken the token, or says where the watch begins. False where the run does not know the
  /// state there.
  private func hasBegun(
    _ index: Int, at lsn: UInt64, _ process: FeedOfRun.Process
  ) throws(Violation) -> Bool {
    guard let feed, let durable = sessions.first?.durableLSN else { return false }
    if lsn > durable { throw violation("a beginning up to \(durable)", "\(lsn)") }
    let consumer = feed.consumers[index]
    if let books = consumer.books {
      guard feed.lineage.has(books.lineage, upTo: books.lsn) else {
        throw violation("a foreign token", "that of \(books.lsn) is taken")
      }
      if books.lsn != lsn { throw violation("to go on behind \(books.lsn)", "\(lsn)") }
      counts.feedResumed += 1
      return true
    }
    guard let state = feed.state(at: lsn) else {
      close(index, process)
      return false
    }
    var books = FeedConsumer.Books(state, at: lsn, sku: consumer.sku, feed.lineage)
    books.lifts = feed.lifts.count { $0.lsn < state.lsn }
    self.feed?.consumers[index].books = books
    return true
  }

  private func take(
    _ failure: WatchFailure, _ index: Int, _ process: FeedOfRun.Process
  ) throws(Violation) {
    guard let feed else { return }
    log("consumer \(index): \(failure)")
    let books = feed.consumers[index].books
    let isOfHistory = books.map { feed.lineage.has($0.lineage, upTo: $0.lsn) } ?? true
    switch failure {
    case .foreign:
      if isOfHistory {
        throw violation("the token of \(books?.lsn ?? 0) to be taken", "it is foreign")
      }
      counts.feedForeign += 1
    case .tooOld(let oldest):
      // Right where the log begins, nothing tells a token's history from another.
      if let lsn = books?.lsn, lsn > oldest || lsn == oldest && feed.consumers[index].point != nil {
        throw violation("to go on behind \(lsn)", "too old: events are from \(oldest) on")
      }
      if feed.keepsAll, counts.fullDisks == 0 {
        throw violation("all history to be kept", "too old: events are from \(oldest) on")
      }
      counts.feedTooOld += 1
    case .unreadable: throw violation("the log to be read", "\(failure)")
    }
    close(index, process)
    // It begins anew: by the stock as it is.
    self.feed?.consumers[index].books = nil
    self.feed?.consumers[index].stored = nil
  }

  // MARK: Events

  private func take(
    _ block: EventBlock, behind start: UInt64, _ index: Int, _ process: FeedOfRun.Process
  ) throws(Violation) {
    guard let feed, let session = sessions.first else { return }
    let filter = Self.filter(feed.consumers[index], session)
    var next = block.next(from: block.firstIndex(behind: start), filter)
    var point = block.end
    repeat {
      // A message has some of them.
      for _ in 0..<number(1...6) {
        guard let event = next else { break }
        try take(event, of: block, index)
        point = block.point(behind: event)
        next = block.next(from: event + 1, filter)
      }
      if next == nil { point = block.end }
      try setToken(index, point, process)
      if chance(60) { self.feed?.consumers[index].writeDown() }
      if chance(6) { return breakOff(index, process) }
    } while next != nil
    request(index, process)
  }

  private static func filter(_ consumer: FeedConsumer, _ session: StoreSession) -> EventFilter {
    guard let sku = consumer.sku else { return EventFilter(kinds: EventKind.allCases) }
    return EventFilter(items: [withName(sku, "") { session.itemHash($0) }])
  }

  private func take(
    _ number: Int, of block: EventBlock, _ index: Int
  ) throws(Violation) {
    var read: SeenEvent?
    block.withFields(number, isOpen: false) { read = SeenEvent($0) }
    guard let feed, let event = read, let durable = sessions.first?.durableLSN else { return }
    counts.feedEvents += 1
    if event.lsn > durable {
      throw violation("events up to \(durable), which are durable", "\(event)")
    }
    lift(index, before: event.lsn)
    if let wrong = self.feed?.consumers[index].apply(event) {
      throw violation("an event that follows from those before", "\(event): \(wrong)")
    }
    // Where the run knows the state right behind it, the event is what led there.
    guard let at = feed.stateIndex(upTo: event.lsn), feed.states[at].lsn == event.lsn else {
      return
    }
    let model = feed.states[at].model
    for level in event.stock {
      let item = model.items[level.sku]
      if event.kind == .removed {
        if item == nil, model.lastVersion(level.sku) == level.version { continue }
        throw violation("\(level.sku) to be gone", "\(event)")
      }
      let seen = FeedConsumer.Item(level, sale: item?.sale)
      if item.map(FeedConsumer.Item.init) == seen { continue }
      throw violation("\(level.sku): \(model.items[level.sku] as Any)", "\(event)")
    }
    if !Self.agrees(event, model) { throw violation("the decision as it was made", "\(event)") }
  }

  /// Whether the event is the decision that has led to `model`.
  private static func agrees(_ event: SeenEvent, _ model: Model) -> Bool {
    switch event.kind {
    case nil: return false
    case .adjusted:
      // A key may have been used with both methods.
      return [Model.DecisionKey.Method.adjust, .adjustTogether].contains { method in
        let key = Model.DecisionKey(method: method, caller: event.caller, key: event.key)
        switch model.decisions[key]?.payload {
        case .adjust(let adjustment):
          return adjustment.reason == event.reason
            && [adjustment.sku] == event.stock.map(\.sku)
        case .adjustTogether(let batch):
          return batch.reason == event.reason && batch.reference == event.reference
            && batch.adjustments.map(\.sku) == event.stock.map(\.sku)
        default: return false
        }
      } || agreesWithImport(event, model)
    case .removed:
      let key = Model.DecisionKey(method: .remove, caller: event.caller, key: event.key)
      guard case .remove(let removal) = model.decisions[key]?.payload else { return false }
      return removal.reason == event.reason && [removal.sku] == event.stock.map(\.sku)
    case .refused:
      let methods: [Model.DecisionKey.Method] = [
        .reserve, .adjust, .replace, .adjustTogether, .remove,
      ]
      return methods.contains { method in
        let key = Model.DecisionKey(method: method, caller: event.caller, key: event.key)
        switch model.decisions[key]?.answer {
        case .refused, .refusedTogether: return true
        default: return false
        }
      }
    default:
      guard let id = event.id else { return false }
      guard let reservation = model.reservations[id] else {
        // What ended long ago, while nobody was there to end it, is forgotten at once.
        return ![.held, .extended, .replaced].contains(event.kind)
      }
      let isSame =
        event.kind == .confirmed || event.kind == .released
        || reservation.expiresAt == event.expiresAt
      let state: ReservationState =
        switch event.kind {
        case .confirmed: .confirmed
        case .released: .released
        case .expired: .expired
        default: .held
        }
      let isOfKey =
        event.kind != .held
        || reservation.key.key == event.key && reservation.key.caller == event.caller
      return isSame && isOfKey && reservation.state == state
        && reservation.reference == event.reference
    }
  }

  /// Whether the event may be of rows of an import, of which the model knows how far it is.
  private static func agreesWithImport(_ event: SeenEvent, _ model: Model) -> Bool {
    let key = Model.DecisionKey(method: .importRows, caller: event.caller, key: event.key)
    return event.reason == "import " + event.key && model.decisions[key] != nil
  }

  /// What repairs have done to the versions before the decision `lsn`.
  private func lift(_ index: Int, before lsn: UInt64) {
    while let feed, let books = feed.consumers[index].books, books.lifts < feed.lifts.count,
      feed.lifts[books.lifts].lsn < lsn
    {
      self.feed?.consumers[index].books?.lift(by: feed.lifts[books.lifts].lift)
      self.feed?.consumers[index].books?.lifts += 1
    }
  }

  // MARK: Tokens

  /// A message has brought this token: everything up to there was told.
  private func setToken(
    _ index: Int, _ point: LogPoint, _ process: FeedOfRun.Process
  ) throws(Violation) {
    guard let feed else { return }
    var token = [UInt8](repeating: 0, count: ResumeToken.textLength)
    var text = token.mutableSpan
    process.feed.tokens.write(point, to: &text)
    self.feed?.consumers[index].point = point
    self.feed?.consumers[index].books?.token = token
    self.feed?.consumers[index].books?.lsn = point.lsn
    self.feed?.consumers[index].books?.lineage = feed.lineage
    guard let state = feed.state(at: point.lsn) else { return }
    lift(index, before: state.lsn)
    guard let books = self.feed?.consumers[index].books else { return }
    let sku = feed.consumers[index].sku
    if sku == nil, books.decisions != state.model.decisionCount {
      throw violation(
        "\(state.model.decisionCount) decisions up to \(point.lsn), each told once",
        "\(books.decisions)")
    }
    var items: [String: FeedConsumer.Item] = [:]
    for (name, item) in state.model.items where sku ?? name == name {
      items[name] = FeedConsumer.Item(item)
    }
    if items != books.items {
      throw violation("at \(point.lsn), by the events: \(items)", "\(books.items)")
    }
    if sku == nil, chance(30) {
      let holds = FeedConsumer.Books.holds(state.model)
      if holds != books.holds {
        throw violation("at \(point.lsn), held by the events: \(holds)", "\(books.holds)")
      }
    }
  }

  /// The consumer goes away, half of the times without what it has not written down.
  private func breakOff(_ index: Int, _ process: FeedOfRun.Process) {
    let isCrash = chance(50)
    log("consumer \(index) \(isCrash ? "crashes" : "breaks off")")
    if isCrash { feed?.consumers[index].crash() }
    close(index, process)
  }
}
