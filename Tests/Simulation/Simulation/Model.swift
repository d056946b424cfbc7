// What the store must answer, by dictionaries and in a straight line. A value: a copy is a snapshot.
package import StockStore

package struct Model: Sendable {
  package struct Item: Equatable, Sendable {
    package var ordinal: UInt32
    package var onHand: Int64
    package var held: Int64 = 0
    package var committed: Int64 = 0
    package var safetyStock: Int64 = 0
    package var version: UInt64 = 0
    package var sale = TestSale()

    package var level: StockLevel {
      StockLevel(
        item: ItemHandle(ordinal: ordinal), onHand: onHand, held: held, committed: committed,
        safetyStock: safetyStock, version: version, sale: sale.window)
    }
  }

  package struct Reservation: Equatable, Sendable {
    /// Item and units, in the order of the command; each item once.
    package var lines: [TestLine]
    package var state = ReservationState.held
    package var createdAt: Int64
    package var expiresAt: Int64
    package var endedAt: Int64?
    package var key: DecisionKey
    /// Confirmed with fewer units than were held.
    package var isSoldInPart = false
    package var reference = ""
    package var limits: [TestLimit] = []
    package var revision: UInt64 = 1
    /// Confirmed, and the units stayed on hand.
    package var isCommitted = false

    mutating func sell(_ sold: [TestLine]) {
      for index in lines.indices {
        let quantity = sold.first { $0.sku == lines[index].sku }?.quantity ?? 0
        if quantity < lines[index].quantity { isSoldInPart = true }
        lines[index].quantity = quantity
      }
    }
  }

  /// Names a recorded decision.
  package struct DecisionKey: Hashable, Sendable {
    package enum Method: UInt8, Sendable {
      case reserve
      case adjust
      case replace
      case adjustTogether
      case importRows
      case remove
    }

    package var method: Method
    package var caller: String
    package var key: String

    /// Keys are rarely the same under different callers.
    package func hash(into hasher: inout Hasher) { hasher.combine(key) }
  }

  /// What came with a key. In a box of its own: snapshots copy it often.
  package indirect enum Payload: Equatable, Sendable {
    /// What was asked for and each alternative to it, each SKU once, in their order; nil: no ttl was sent.
    case reserve([[TestLine]], ttl: Int64?, reference: String, limits: [TestLimit])
    case adjust(Adjustment)
    case replace(Replacement)
    case adjustTogether(Batch)
    case importRows
    case remove(Removal)
  }

  package struct Removal: Equatable, Sendable {
    package var sku: String
    /// 0: any.
    package var expectedVersion: UInt64 = 0
    package var reason = "test"
  }

  /// What is left of an item that was removed.
  package struct Remains: Equatable, Sendable {
    package var ordinal: UInt32
    package var version: UInt64
  }

  package struct Adjustment: Equatable, Sendable {
    package var sku: String
    package var change: AdjustCommand.Change
    package var safetyStock: Int64?
    package var check: AdjustCommand.Check
    package var allowsShortage: Bool
    /// nil: as it is.
    package var sale: TestSale?
    package var reference = ""
    package var reason: String

    package init(
      sku: String, change: AdjustCommand.Change, safetyStock: Int64? = nil,
      sale: TestSale? = nil, check: AdjustCommand.Check = .none, allowsShortage: Bool = false,
      reason: String = "test"
    ) {
      self.sale = sale
      self.sku = sku
      self.change = change
      self.safetyStock = safetyStock
      self.check = check
      self.allowsShortage = allowsShortage
      self.reason = reason
    }
  }

  /// Several adjustments, all or none; those have no reference and reason of their own.
  package struct Batch: Equatable, Sendable {
    package var adjustments: [Adjustment]
    package var reference: String
    package var reason: String

    package init(_ adjustments: [Adjustment], reference: String = "", reason: String = "test") {
      self.adjustments = adjustments
      self.reference = reference
      self.reason = reason
    }
  }

  package struct Replacement: Equatable, Sendable {
    package var id: ReservationID
    package var lines: [TestLine]
    /// 0: any.
    package var expectedRevision: UInt64
    package var ttl: Int64?
    package var reference: String

    package init(
      _ id: ReservationID, _ lines: [TestLine], expectedRevision: UInt64 = 0, ttl: Int64? = nil,
      reference: String = ""
    ) {
      self.id = id
      self.lines = lines
      self.expectedRevision = expectedRevision
      self.ttl = ttl
      self.reference = reference
    }
  }

  /// A reservation right after its lines were replaced.
  package struct Replaced: Equatable, Sendable {
    package var id: ReservationID
    /// By item number.
    package var lines: [UInt32: Int64]
    package var createdAt: Int64
    package var expiresAt: Int64
    package var revision: UInt64
    package var reference: String

    package init(
      id: ReservationID, lines: [UInt32: Int64], createdAt: Int64, expiresAt: Int64,
      revision: UInt64, reference: String
    ) {
      self.id = id
      self.lines = lines
      self.createdAt = createdAt
      self.expiresAt = expiresAt
      self.revision = revision
      self.reference = reference
    }
  }

  /// Which alternative is held, and the lines by item number where the answer tells them.
  package struct Chosen: Equatable, Sendable {
    package var alternative = 0
    package var lines: [UInt32: Int64] = [:]

    package init(alternative: Int = 0, lines: [UInt32: Int64] = [:]) {
      self.alternative = alternative
      self.lines = lines
    }
  }

  package enum Answer: Equatable, Sendable {
    case hold(
      id: ReservationID, expiresAt: Int64, state: ReservationState, remaining: Int64,
      chosen: Chosen)
    case level(StockLevel)
    case removed
    case replaced(Replaced)
    /// In the order of the changes.
    case levels([StockLevel])
    /// The change that it is about; nil: none of them.
    case refusedTogether(Refusal, change: Int?)
    /// How far the import is; what became of each row; nil: none was looked at.
    case imported(next: UInt64, [Refusal?]?)
    /// The first is the one that is answered, the others are named besides; and how many alternatives were tried,
    /// where there were some.
    case refused([Refusal], alternatives: Int = 0)
  }

  package struct Recorded: Equatable, Sendable {
    package var payload: Payload
    /// As it was given at first.
    package var answer: Answer
    /// SKUs that are not known, if that is why it was refused; the one that was answered in front.
    package var unknown: [String] = []
    /// nil: a live hold.
    package var endedAt: Int64?
  }

  package var limits: StoreLimits
  /// The time of the commands that follow.
  package var now: Int64
  package private(set) var items: [String: Item] = [:]
  /// Numbers of names that were taken for items which were not made; the process knows them until it ends.
  private var taken: [String: UInt32] = [:]
  package private(set) var remains: [String: Remains] = [:]
  /// What was left of others, whose places were given up: a process may find it again.
  private var givenUp: [String: Remains] = [:]
  /// Numbers that no item has, and the next ones get.
  private var free: [UInt32] = []
  private var nextOrdinal: UInt32 = 0
  /// The version that an item is made with.
  package private(set) var firstVersion: UInt64 = 1
  package private(set) var reservations: [ReservationID: Reservation] = [:]
  package private(set) var decisions: [DecisionKey: Recorded] = [:]
  /// Keys of `decisions` that are no live holds, the one whose end was recorded first in front.
  private var ended: [DecisionKey] = []
  /// Units that were sold under limits, by subject and SKU.
  package private(set) var salesBySubject: [String: [String: Int64]] = [:]
  package private(set) var evictedEarly = 0
  /// Everything that was decided so far: what the journal numbers.
  package private(set) var decisionCount: UInt64 = 0
  /// No live hold is due before.
  private var nextDue = Int64.max

  package init(limits: StoreLimits, now: Int64) {
    self.limits = limits
    self.now = now
  }

  // MARK: Time

  /// Whether a hold may be due at `time`.
  package func hasDue(at time: Int64) -> Bool { nextDue <= time }

  /// Ends what is due, as a store must seem to do it, and forgets what is past its retention.
  /// - Parameter expiriesMax: a store that cannot write ends fewer holds than are due; those that
  ///   were due first.
  /// - Returns: how many holds it ended, and whether that is all that are due.
  @discardableResult
  package mutating func beginTurn(
    _ time: Int64, expiriesMax: Int = .max
  ) -> (expired: Int, isAll: Bool) {
    now = time
    var expired = 0
    var isAll = true
    if nextDue <= now {
      let due = reservations.filter { $0.value.state == .held && $0.value.expiresAt <= now }
      let inOrder = due.sorted {
        ($0.value.expiresAt, $0.key.slot) < ($1.value.expiresAt, $1.key.slot)
      }
      for (id, reservation) in inOrder {
        if expired == expiriesMax {
          isAll = false
          break
        }
        end(id, .expired, at: reservation.expiresAt)
        for line in reservation.lines { change(line.sku, held: -line.quantity) }
        expired += 1
      }
      nextDue =
        reservations.values.lazy.filter { $0.state == .held }.map(\.expiresAt).min() ?? .max
    }
    collect()
    return (expired, isAll)
  }

  /// The same, where holds that are due end one by one, when the store has recorded it (`expire`).
  package mutating func beginSweptTurn(_ time: Int64) {
    now = time
    if nextDue <= now {
      nextDue =
        reservations.values.lazy.filter { $0.state == .held }.map(\.expiresAt).min() ?? .max
    }
    collect()
  }

  /// The store has ended a hold that is due; false where it is none.
  package mutating func expire(_ id: ReservationID) -> Bool {
    guard let reservation = reservations[id], reservation.state == .held,
      reservation.expiresAt <= now
    else { return false }
    end(id, .expired, at: reservation.expiresAt)
    for line in reservation.lines { change(line.sku, held: -line.quantity) }
    return true
  }

  private mutating func collect() {
    while let key = ended.first, let endedAt = decisions[key]?.endedAt, isPastRetention(endedAt) {
      forget(key)
    }
  }

  private func isPastRetention(_ endedAt: Int64) -> Bool {
    endedAt <= now - limits.retentionNanoseconds
  }

  /// The reservation as anybody may see it now: also where a hold is due and was not ended yet.
  package func reservation(_ id: ReservationID) -> Reservation? {
    guard var reservation = reservations[id] else { return nil }
    if reservation.state == .held, reservation.expiresAt <= now {
      reservation.state = .expired
      reservation.endedAt = reservation.expiresAt
    }
    if let endedAt = reservation.endedAt, isPastRetention(endedAt) { return nil }
    return reservation
  }

  /// The decision under a key as anybody may see it now.
  package func decision(_ key: DecisionKey) -> Recorded? {
    guard let recorded = decisions[key] else { return nil }
    if case .hold(let id, _, _, _, _) = recorded.answer {
      return reservation(id) == nil ? nil : recorded
    }
    return recorded.endedAt.map(isPastRetention) == true ? nil : recorded
  }

  mutating func end(_ id: ReservationID, _ state: ReservationState, at time: Int64) {
    guard let reservation = reservations[id] else { return }
    reservations[id]?.state = state
    reservations[id]?.endedAt = time
    decisions[reservation.key]?.endedAt = time
    if reservation.state != .held { ended.removeAll { $0 == reservation.key } }
    ended.append(reservation.key)
    decisionCount += 1
  }

  private mutating func forget(_ key: DecisionKey) {
    if case .hold(let id, _, _, _, _) = decisions.removeValue(forKey: key)?.answer {
      reservations[id] = nil
    }
    ended.removeAll { $0 == key }
  }

  mutating func change(_ sku: String, onHand: Int64 = 0, held: Int64 = 0, committed: Int64 = 0) {
    items[sku]?.onHand += onHand
    items[sku]?.held += held
    items[sku]?.committed += committed
    items[sku]?.version += 1
  }

  /// Extends the hold; it is live.
  mutating func setExpiry(_ id: ReservationID, _ expiresAt: Int64) {
    reservations[id]?.expiresAt = expiresAt
    reservations[id]?.revision += 1
    nextDue = min(nextDue, expiresAt)
    decisionCount += 1
  }

  /// The hold has other lines; what that does to items is done already.
  mutating func replace(
    _ replacement: Replacement, merged: [TestLine], expiresAt: Int64, _ key: DecisionKey,
    _ payload: Payload
  ) -> Answer {
    let id = replacement.id
    reservations[id]?.lines = merged
    reservations[id]?.expiresAt = expiresAt
    reservations[id]?.revision += 1
    if !replacement.reference.isEmpty { reservations[id]?.reference = replacement.reference }
    nextDue = min(nextDue, expiresAt)
    let reservation = reservations[id]
    var lines: [UInt32: Int64] = [:]
    for line in merged { lines[ordinal(line.sku) ?? .max] = line.quantity }
    let answer = Answer.replaced(
      Replaced(
        id: id, lines: lines, createdAt: reservation?.createdAt ?? 0, expiresAt: expiresAt,
        revision: reservation?.revision ?? 0, reference: reservation?.reference ?? ""))
    record(key, payload, answer, live: false, endedAt: expiresAt)
    return answer
  }

  mutating func sell(_ id: ReservationID, _ sold: [TestLine], keepCommitted: Bool) {
    for limit in reservations[id]?.limits ?? [] {
      for line in sold {
        salesBySubject[limit.subject, default: [:]][line.sku, default: 0] += line.quantity
      }
    }
    reservations[id]?.sell(sold)
    reservations[id]?.isCommitted = keepCommitted
  }

  /// What a repair does to all items: a version that was shown before is none from here on.
  package mutating func liftVersions(by lift: UInt64) {
    firstVersion += lift
    for sku in items.keys { items[sku]?.version += lift }
    for sku in remains.keys { remains[sku]?.version += lift }
    for sku in givenUp.keys { givenUp[sku]?.version += lift }
  }

  /// The number of the item with this name, which is taken where nobody has it; nil where there is no room.
  mutating func takeOrdinal(_ sku: String) -> UInt32? {
    if let ordinal = items[sku]?.ordinal ?? remains[sku]?.ordinal ?? taken[sku] { return ordinal }
    if let ordinal = free.first {
      free.removeFirst()
      taken[sku] = ordinal
      return ordinal
    }
    guard nextOrdinal < limits.itemsMax else { return nil }
    taken[sku] = nextOrdinal
    nextOrdinal += 1
    return taken[sku]
  }

  mutating func put(_ item: Item, _ sku: String) {
    items[sku] = item
    taken[sku] = nil
    remains[sku] = nil
  }

  /// The number of an item, or of what is left of one.
  package func ordinal(_ sku: String) -> UInt32? { items[sku]?.ordinal ?? remains[sku]?.ordinal }

  /// The version that an item has, or had when it was removed.
  package func lastVersion(_ sku: String) -> UInt64? {
    items[sku]?.version ?? remains[sku]?.version
  }

  /// The version that a change of the item gives it.
  func nextVersion(_ sku: String) -> UInt64 { lastVersion(sku).map { $0 + 1 } ?? firstVersion }

  mutating func takeAway(_ sku: String) {
    guard let item = items.removeValue(forKey: sku) else { return }
    remains[sku] = Remains(ordinal: item.ordinal, version: item.version + 1)
    for subject in salesBySubject.keys { salesBySubject[subject]?[sku] = nil }
  }

  /// Another process: it knows the items that were made, and has found this of others. Places that nothing names
  /// any more it has given up: which, is its own affair.
  /// - Parameters:
  ///   - remains: by SKU.
  ///   - count: numbers are below.
  /// - Returns: what is wrong with it, in words; or what has lost its place.
  package mutating func settle(
    remains found: [String: Remains], count: UInt32
  ) -> (wrong: String?, lost: [String]) {
    for (sku, remains) in found where self.remains[sku] ?? givenUp[sku] != remains {
      return ("\(sku): \(remains), and not \(self.remains[sku] as Any)", [])
    }
    let lost = remains.keys.filter { found[$0] == nil }.sorted()
    for sku in lost { givenUp[sku] = remains[sku] }
    remains = found
    taken = [:]
    let used = Set(items.values.map(\.ordinal) + remains.values.map(\.ordinal))
    if let last = used.max(), last >= count { return ("\(count) numbers, and \(last)", []) }
    free = (0..<count).filter { !used.contains($0) }
    nextOrdinal = count
    return (nil, lost)
  }

  /// An import has come further: it is remembered from now on.
  mutating func keepProgress(_ key: DecisionKey, next: UInt64) {
    guard decisions[key] != nil else {
      return record(key, .importRows, .imported(next: next, nil), live: false)
    }
    decisions[key]?.answer = .imported(next: next, nil)
    decisions[key]?.endedAt = now
    ended.removeAll { $0 == key }
    ended.append(key)
    decisionCount += 1
  }

  // MARK: Decisions under a key

  /// A decision that is asked for when it is past its retention is forgotten there and then.
  package mutating func seek(_ key: DecisionKey) {
    if let recorded = decisions[key], recorded.endedAt != nil, decision(key) == nil { forget(key) }
  }

  /// Decisions past their retention that are not forgotten: those before them in the order are not.
  package var passed: [DecisionKey] {
    decisions.keys.filter { decisions[$0]?.endedAt != nil && decision($0) == nil }
  }

  /// The recorded answer; nil where it must be decided.
  func replay(
    _ key: DecisionKey, _ payload: Payload, _ lines: [TestLine] = []
  ) -> (Answer, replayed: Bool)? {
    guard decision(key) != nil else {
      return hasRoom ? nil : (.refused([.tableFull(.reservations)]), false)
    }
    return recordedAnswer(key, payload, lines)
  }

  /// Whether one more decision can be recorded.
  var hasRoom: Bool { decisions.count < limits.reservationsMax || !ended.isEmpty }

  /// nil where there is none.
  func recordedAnswer(
    _ key: DecisionKey, _ payload: Payload, _ lines: [TestLine]
  ) -> (Answer, replayed: Bool)? {
    guard let recorded = decision(key) else { return nil }
    if recorded.payload != payload { return (.refused([.idempotencyKeyReused]), false) }
    return (again(recorded, lines), true)
  }

  /// The recorded answer, as it is given to a command with these lines now.
  package func again(_ recorded: Recorded, _ lines: [TestLine]) -> Answer {
    switch recorded.answer {
    case .hold(let id, let expiresAt, _, _, let chosen):
      guard let reservation = reservation(id) else { return recorded.answer }
      let remaining = reservation.state == .held ? reservation.expiresAt - now : 0
      return .hold(
        id: id, expiresAt: expiresAt, state: reservation.state, remaining: remaining,
        chosen: chosen)
    case .refused where !recorded.unknown.isEmpty && !lines.isEmpty:
      return .refused(Self.refusals(unknown: recorded.unknown, lines))
    default: return recorded.answer
    }
  }

  /// The first unknown SKU's line, then the others', in the order of the lines.
  static func refusals(unknown: [String], _ lines: [TestLine]) -> [Refusal] {
    let places = unknown.map { sku in lines.firstIndex { $0.sku == sku } ?? .max }
    return [.itemNotFound(line: places[0])]
      + places.dropFirst().sorted().map { .itemNotFound(line: $0) }
  }

  /// - Parameter endedAt: from when on it is remembered, where it is no live hold; nil: from now on.
  mutating func record(
    _ key: DecisionKey, _ payload: Payload, _ answer: Answer, unknown: [String] = [], live: Bool,
    endedAt: Int64? = nil
  ) {
    if decisions.count >= limits.reservationsMax, let first = ended.first {
      if decisions[first]?.endedAt.map(isPastRetention) == false { evictedEarly += 1 }
      forget(first)
    }
    decisions[key] = Recorded(
      payload: payload, answer: answer, unknown: unknown, endedAt: live ? nil : endedAt ?? now)
    if !live { ended.append(key) }
    decisionCount += 1
  }

  /// - Parameter id: what the store answered, if it accepted: ids are its own affair.
  package mutating func reserve(
    _ key: String, _ lines: [TestLine], alternatives: [[TestLine]] = [], ttl: Int64?,
    reference: String = "", limits asked: [TestLimit] = [], caller: String = "",
    id: ReservationID?
  ) -> (Answer, replayed: Bool) {
    let key = DecisionKey(method: .reserve, caller: caller, key: key)
    seek(key)
    let all = [lines] + alternatives
    let payload = Payload.reserve(
      all.map { Self.merged($0).sorted { $0.sku < $1.sku } }, ttl: ttl, reference: reference,
      limits: asked.sorted { $0.subject < $1.subject })
    if decision(key) == nil, let ttl, ttl > limits.holdNanosecondsMax {
      return (.refused([.longerThanMaxHold]), false)
    }
    if let answer = replay(key, payload, lines) { return answer }
    guard let (number, merged) = firstThatFits(all, asked) else {
      let (answer, unknown) = refusal(of: all, asked)
      record(key, payload, answer, unknown: unknown, live: false)
      return (answer, false)
    }
    let id = id ?? ReservationID(slot: .max, generation: .max, tag: 0)
    let timeToLive = min(ttl ?? limits.ttlNanosecondsDefault, limits.holdNanosecondsMax)
    let expiresAt = now + timeToLive
    for line in merged { change(line.sku, held: line.quantity) }
    var chosen = Chosen(alternative: number)
    if all[number].contains(where: { $0.minimum > 0 }) {
      for line in merged { chosen.lines[items[line.sku]?.ordinal ?? .max] = line.quantity }
    }
    let answer = Answer.hold(
      id: id, expiresAt: expiresAt, state: .held, remaining: timeToLive, chosen: chosen)
    record(key, payload, answer, live: true)
    reservations[id] = Reservation(
      lines: merged, createdAt: now, expiresAt: expiresAt, key: key, reference: reference,
      limits: asked)
    nextDue = min(nextDue, expiresAt)
    return (answer, false)
  }

  /// The first of these that can be held as a whole, and what is held of it.
  private func firstThatFits(
    _ all: [[TestLine]], _ limits: [TestLimit]
  ) -> (Int, [TestLine])? {
    for (number, lines) in all.enumerated() {
      let merged = Self.merged(lines)
      guard merged.allSatisfy({ items[$0.sku] != nil }), lacking(merged).isEmpty else { continue }
      let held = taking(merged)
      if passing(limits, held).isEmpty { return (number, held) }
    }
    return nil
  }

  /// What these lines, of which none lacks units, get.
  private func taking(_ merged: [TestLine]) -> [TestLine] {
    merged.map { line in
      TestLine(
        sku: line.sku,
        quantity: line.minimum == 0
          ? line.quantity : min(line.quantity, items[line.sku]?.level.available ?? 0))
    }
  }

  /// The answer where none of these can be held: of the first whose items are known, else what is unknown in the first.
  private func refusal(
    of all: [[TestLine]], _ limits: [TestLimit]
  ) -> (Answer, unknown: [String]) {
    for lines in all {
      let merged = Self.merged(lines)
      if merged.contains(where: { items[$0.sku] == nil }) { continue }
      let lacking = lacking(merged)
      if lacking.isEmpty { return (.refused(passing(limits, taking(merged))), []) }
      guard case .insufficientStock = lacking[0] else { return (.refused(lacking), []) }
      return (.refused(lacking, alternatives: all.count == 1 ? 0 : all.count), [])
    }
    let unknown = Self.merged(all[0]).map(\.sku).filter { items[$0] == nil }
    return (.refused(Self.refusals(unknown: unknown, all[0])), unknown)
  }

  /// Why these lines cannot be had: the reason of the first that cannot, for it and all behind it.
  func lacking(_ merged: [TestLine]) -> [Refusal] {
    for (index, line) in merged.enumerated() {
      if closed(line) != nil { return merged[index...].compactMap(closed) }
      if lack(line) != nil { return merged[index...].compactMap(lack) }
    }
    return []
  }

  /// Why the item may not be reserved now; nil where it may.
  func closed(_ line: TestLine) -> Refusal? {
    guard let item = items[line.sku], !item.sale.admits(now) else { return nil }
    return .notOnSale(item: item.level.item, item.sale.window)
  }

  private func lack(_ line: TestLine) -> Refusal? {
    guard let level = items[line.sku]?.level, level.available < line.enough else { return nil }
    return .insufficientStock(
      item: level.item, requested: line.enough, available: level.available)
  }

  /// The first limit that these units would pass, item by item.
  func passing(_ limits: [TestLimit], _ added: [TestLine]) -> [Refusal] {
    for line in added {
      for limit in limits {
        let used = used(limit.subject, line.sku)
        guard used + line.quantity > limit.maxUnits, let item = items[line.sku]?.level.item else {
          continue
        }
        return [
          .limitExceeded(
            item: item, requested: line.quantity, used: used, maxUnits: limit.maxUnits)
        ]
      }
    }
    return []
  }

  /// What the subject holds of the item, and has bought.
  package func used(_ subject: String, _ sku: String) -> Int64 {
    var used = salesBySubject[subject]?[sku] ?? 0
    for reservation in reservations.values where reservation.state == .held {
      guard reservation.limits.contains(where: { $0.subject == subject }) else { continue }
      for line in reservation.lines where line.sku == sku { used += line.quantity }
    }
    return used
  }

  static func merged(_ lines: [TestLine]) -> [TestLine] {
    var merged: [TestLine] = []
    for line in lines {
      if let index = merged.firstIndex(where: { $0.sku == line.sku }) {
        merged[index].minimum =
          merged[index].minimum > 0 || line.minimum > 0 ? merged[index].enough + line.enough : 0
        merged[index].quantity += line.quantity
      } else {
        merged.append(line)
      }
    }
    return merged
  }
}
