// Finds an order of one SKU's effects that explains every answer, by doing everything as late as it
// may be and as early as it must.
//
// Going through time, a window's beginning makes its effect available, and its end forces it. Between
// the two, effects are brought forward only where an answer needs them: gives and restocks for a take
// that has too little room, takes for a refusal that finds too much, whatever differs for balances
// that were read. Of several the one whose window ends first goes first: of equal quantities no other
// choice is better (whatever an order did with the later one, it can do with the earlier), and for
// unequal ones it is a good guess. An answer is met as soon as the counter comes by what it states.
//
// A guess can fail where another would not; it is then tried again with a detour around the answer
// that could not be met: there, effects are brought forward by chance. It cannot wrongly succeed: the order that is found is replayed by `StockModel.replays`, which knows nothing of this.

/// When answers are met for which effects have to be brought forward.
enum WitnessPolicy: CaseIterable {
  /// As soon as it can be done.
  case eager
  /// When the answer's window ends.
  case lazy
}

/// A stretch of time in which effects are brought forward by chance.
struct Detour {
  var from: Int64
  let to: Int64
  var seed: UInt64
}

struct WitnessScheduler {
  private let effects: [Effect]
  private let policy: WitnessPolicy
  private let detours: [Detour]
  private var random: UInt64 = 0
  /// The effect that could not happen when it had to, once `run` has failed.
  private(set) var failed: Int?
  private var model: StockModel
  private var isDone: [Bool]
  private var order: [Int] = []
  /// Effects whose windows have begun, by kind.
  private var open: [DeadlineList]
  private var openUnits: [Int64]
  private let keepsCommitted: Bool
  /// Takes and gives whose windows have begun, by subject.
  private var ofSubjects: [[Int]]
  /// Kinds that change the counter are below it.
  private static let kinds = Int(Effect.Kind.mismatch.rawValue)
  /// Where the take of each hold stands.
  private var takes: [Int]
  /// Refusals and reads whose windows have begun, and that are not met.
  private var watched: [Int] = []
  /// Takes of all that there is whose windows have begun, and that have not happened.
  private var partial: [Int] = []
  private var now = Int64.min
  /// What is left of the work that may be spent.
  private var workLeft: Int
  private let workMost: Int
  /// What `run` has cost, in steps.
  var workSpent: Int { workMost - workLeft + 4 * effects.count }

  /// Effects that a plan passes over because their units don't fit.
  private static let passedOver = 32
  /// Sums above this are not looked for among subsets.
  private static let subsetUnits: Int64 = 1_024
  private static let workPerEffect = 200

  init(_ effects: Effects, _ policy: WitnessPolicy, detours: [Detour] = []) {
    self.effects = effects.all
    self.policy = policy
    self.detours = detours
    model = StockModel(effects)
    isDone = Array(repeating: false, count: effects.all.count)
    open = Array(repeating: DeadlineList(), count: WitnessScheduler.kinds)
    openUnits = Array(repeating: 0, count: WitnessScheduler.kinds)
    keepsCommitted = effects.keepsCommitted
    ofSubjects = Array(repeating: [], count: effects.subjectCount)
    takes = Array(repeating: -1, count: effects.holdCount)
    workMost = 100_000 + effects.all.count * WitnessScheduler.workPerEffect
    workLeft = workMost
    for (index, effect) in effects.all.enumerated() where effect.kind == .take {
      takes[Int(effect.hold)] = index
    }
  }

  /// The order, by index; nil if none was found.
  mutating func run() -> [Int]? {
    for point in points() {
      now = point.time
      if point.isEnd {
        guard meet(point.effect) else {
          failed = point.effect
          return nil
        }
      } else {
        begin(point.effect)
      }
      if workLeft <= 0 { return nil }
    }
    return order
  }

  private struct Point {
    let time: Int64
    let effect: Int
    let isEnd: Bool
    /// At the same time beginnings come first, then answers, then what changes the counter.
    let rank: UInt8
  }

  private func points() -> [Point] {
    var points: [Point] = []
    points.reserveCapacity(2 * effects.count)
    for (index, effect) in effects.enumerated() {
      points.append(Point(time: effect.from, effect: index, isEnd: false, rank: 0))
      guard effect.isRequired else { continue }
      let rank: UInt8 = effect.isObservation ? 1 : 2
      points.append(Point(time: effect.to, effect: index, isEnd: true, rank: rank))
    }
    points.sort { ($0.time, $0.rank) < ($1.time, $1.rank) }
    return points
  }

  // MARK: Going through time

  private mutating func begin(_ index: Int) {
    let effect = effects[index]
    if effect.isObservation {
      if model.allows(effect) { happen(index) } else { watched.append(index) }
    } else {
      open[Int(effect.kind.rawValue)].insert(index, effect)
      openUnits[Int(effect.kind.rawValue)] += effect.units
      if effect.subject >= 0 { ofSubjects[Int(effect.subject)].append(index) }
      if effect.takesAll, policy == .eager {
        if model.allows(effect) { happen(index) } else { partial.append(index) }
      }
    }
    if let detour = detours.first(where: { $0.from <= now && now <= $0.to }) {
      wander(detour)
    } else if policy == .eager {
      meetWatched()
    }
  }

  /// Brings something forward, or nothing, by chance: the same for the same seed.
  private mutating func wander(_ detour: Detour) {
    random = (random ^ detour.seed) &* 0x9e37_79b9_7f4a_7c15 &+ UInt64(order.count)
    switch random >> 61 {
    case 0, 1: meetWatched()
    case 2: if let give = next(.give) { happen(give) }
    case 3, 4:
      guard let take = next(.take) else { return }
      if model.allows(effects[take]) { happen(take) }
    default: break
    }
  }

  /// The window of a required effect ends. False if it cannot happen.
  private mutating func meet(_ index: Int) -> Bool {
    if isDone[index] { return true }
    let effect = effects[index]
    switch effect.kind {
    case .take: return take(index)
    case .give, .sell:
      if !model.isLive(effect.hold), !take(takes[Int(effect.hold)]) { return false }
      if effect.kind == .give { meetWatched() }
      // What was watched may have brought it forward.
      if isDone[index] { return true }
    case .restock: meetWatched()
    case .ship, .uncommit:
      while !isDone[index], !model.allows(effect), let sold = next(.sell) { happen(sold) }
    case .count:
      guard let plan = planCount(effect) else { return false }
      for step in plan { happen(step) }
    case .refuse, .overLimit, .read, .mismatch, .shortCount:
      guard let plan = plan(for: effect) else { return false }
      for step in plan { happen(step) }
    }
    guard !isDone[index] else { return true }
    guard model.allows(effect) else { return false }
    happen(index)
    return true
  }

  private mutating func take(_ index: Int) -> Bool {
    guard index >= 0, !isDone[index] else { return index >= 0 }
    let effect = effects[index]
    if model.available < effect.units { meetWatched() }
    while !isDone[index], model.available < effect.units {
      guard let more = next(.give) ?? next(.restock) else { return false }
      happen(more)
    }
    if effect.takesAll, !isDone[index], model.available > effect.units {
      for step in planTakes(model.available - effect.units, but: index) ?? [] { happen(step) }
    }
    while !isDone[index], model.passesLimit(effect) {
      guard let back = ready(.give, of: effect).first else { return false }
      happen(back)
    }
    if isDone[index] { return true }
    guard model.allows(effect) else { return false }
    happen(index)
    return true
  }

  /// `index` happens, if it can, and with it whatever is watched and comes true.
  private mutating func happen(_ index: Int) {
    if isDone[index] { return }
    isDone[index] = true
    order.append(index)
    let effect = effects[index]
    if effect.isObservation { return }
    model.apply(effect)
    openUnits[Int(effect.kind.rawValue)] -= effect.units
    workLeft -= 1 + watched.count
    var left: [Int] = []
    for answer in watched where !isDone[answer] {
      if model.allows(effects[answer]) {
        isDone[answer] = true
        order.append(answer)
      } else {
        left.append(answer)
      }
    }
    watched = left
    partial.removeAll { isDone[$0] }
    workLeft -= partial.count
    // What was granted less than it asked for took all that there was.
    if let all = partial.first(where: { model.allows(effects[$0]) }) { happen(all) }
  }

  /// Meets every watched answer for which there is a plan.
  private mutating func meetWatched() {
    for index in watched where !isDone[index] {
      workLeft -= 1
      guard let plan = plan(for: effects[index]) else { continue }
      for step in plan { happen(step) }
      if !isDone[index], model.allows(effects[index]) { happen(index) }
    }
    watched.removeAll { isDone[$0] }
  }

  // MARK: Bringing forward

  /// Calls `body` with the open effects of `kind`, those whose windows end first at the front, and whether each may
  /// happen now, until it says that it has seen enough.
  private mutating func scan(
    _ kind: Effect.Kind, _ body: (_ index: Int, _ effect: Effect, _ isReady: Bool) -> Bool
  ) {
    var list = DeadlineList()
    swap(&list, &open[Int(kind.rawValue)])
    workLeft -= list.scan { index in
      let effect = effects[index]
      if isDone[index] || effect.to < now { return .over }
      let isReady = effect.hold < 0 || kind == .take || model.isLive(effect.hold)
      return body(index, effect, isReady) ? .enough : .more
    }
    swap(&list, &open[Int(kind.rawValue)])
  }

  /// The open effect of `kind` that may happen now and whose window ends first.
  private mutating func next(_ kind: Effect.Kind) -> Int? { ready(kind, atMost: 1).first }

  /// The first few open effects of `kind` that may happen now.
  private mutating func ready(
    _ kind: Effect.Kind, atMost most: Int = WitnessScheduler.passedOver
  ) -> [Int] {
    var ready: [Int] = []
    var passed = 0
    scan(kind) { index, _, isReady in
      if isReady { ready.append(index) } else { passed += 1 }
      return ready.count == most || passed > WitnessScheduler.passedOver
    }
    return ready
  }

  /// What has to happen first for `effect`, a refusal or read, to be allowed; nil if no way was found.
  private mutating func plan(for effect: Effect) -> [Int]? {
    if model.allows(effect) { return [] }
    switch effect.kind {
    case .read: return planRead(effect)
    case .overLimit: return planOverLimit(effect)
    case .mismatch: return planMismatch()
    case .shortCount:
      return fill(.take, model.held + model.committed - effect.units + 1, atMost: .max)
    default: break
    }
    if effect.stated >= effect.units { return nil }
    if effect.stated >= 0 {
      let surplus = model.available - effect.stated
      if surplus > 0 { return fill(.take, surplus) ?? exchange(surplus) }
      return fill(.give, -surplus) ?? fill(.restock, -surplus) ?? exchange(surplus)
    }
    // Any number below what was asked for will do.
    return fill(.take, model.available - effect.units + 1, atMost: model.available)
  }

  private mutating func planRead(_ effect: Effect) -> [Int]? {
    let left = model.onHand - effect.stated
    if keepsCommitted { return planRead(effect, left: left) }
    guard let sold = left > 0 ? fill(.sell, left) : fill(.restock, -left) else { return nil }
    guard let moved = planHeld(effect, held: model.held - max(0, left)) else { return nil }
    return sold + moved
  }

  /// The same where what is sold stays on hand until it is shipped.
  private mutating func planRead(_ effect: Effect, left: Int64) -> [Int]? {
    guard let onHand = planOnHand(left) else { return nil }
    let shipped = onHand.reduce(Int64(0)) {
      $0 + (effects[$1].kind == .ship ? effects[$1].units : 0)
    }
    let missing = effect.statedCommitted - (model.committed - shipped)
    guard let sold = missing > 0 ? fill(.sell, missing) : fill(.uncommit, -missing) else {
      return nil
    }
    guard let moved = planHeld(effect, held: model.held - max(0, missing)) else { return nil }
    return sold + onHand + moved
  }

  private mutating func planHeld(_ effect: Effect, held: Int64) -> [Int]? {
    let missing = effect.statedHeld - held
    return (missing > 0 ? fill(.take, missing) : fill(.give, -missing)) ?? exchange(missing)
  }

  /// What takes `left` units from on hand, or adds them where it is below zero.
  private mutating func planOnHand(_ left: Int64) -> [Int]? {
    if left <= 0 { return fill(.restock, -left) }
    if let shipped = fill(.ship, left) { return shipped }
    guard let count = next(.count) else { return nil }
    let effect = effects[count]
    return model.allows(effect) && effect.stated - effect.units == left ? [count] : nil
  }

  /// On hand has to be what the count expects, and what is promised no more than it has counted.
  private mutating func planCount(_ effect: Effect) -> [Int]? {
    guard let onHand = planOnHand(model.onHand - effect.stated) else { return nil }
    let promised = model.held + model.committed
    let over = promised - effect.units
    return over > 0 ? fill(.give, over).map { onHand + $0 } : onHand
  }

  /// Takes that leave exactly what a partial grant has found, itself not among them.
  private mutating func planTakes(_ units: Int64, but index: Int) -> [Int]? {
    let others = ready(.take).filter { $0 != index && !effects[$0].takesAll }
    return subset(of: others, adding: units)
  }

  /// The subject has to have as much as was stated, or too much, and the units have to be there.
  private mutating func planOverLimit(_ effect: Effect) -> [Int]? {
    let missing = effect.units - model.available
    let back = missing > 0 ? fill(.give, missing) ?? fill(.restock, missing) : []
    guard let back, effect.subject >= 0 else { return back }
    let used = model.used(by: effect)
    var change = effect.stated - used
    if effect.stated < 0 { change = max(0, effect.limit - effect.units + 1 - used) }
    if change == 0 { return back }
    var sum: Int64 = 0
    var chosen: [Int] = []
    for index in ready(change > 0 ? .take : .give, of: effect) where sum < abs(change) {
      let fits = effects[index].units <= abs(change) - sum || effect.stated < 0
      guard fits, !back.contains(index) else { continue }
      chosen.append(index)
      sum += effects[index].units
    }
    return sum >= abs(change) ? back + chosen : nil
  }

  /// The open effects of `kind` and of the subject of `effect` that may happen now, in the order in which their
  /// windows end.
  private mutating func ready(_ kind: Effect.Kind, of effect: Effect) -> [Int] {
    guard effect.subject >= 0 else { return [] }
    let subject = Int(effect.subject)
    workLeft -= ofSubjects[subject].count
    ofSubjects[subject].removeAll { isDone[$0] || effects[$0].to < now }
    return ofSubjects[subject].filter {
      effects[$0].kind == kind && (kind == .take || model.isLive(effects[$0].hold))
    }.sorted { effects[$0].to < effects[$1].to }
  }

  /// Anything that changes on hand.
  private mutating func planMismatch() -> [Int]? {
    for kind in [Effect.Kind.ship, .restock, .count, .sell] {
      guard kind != .sell || !keepsCommitted, let index = next(kind) else { continue }
      if model.allows(effects[index]) { return [index] }
    }
    return nil
  }

  /// Open gives and takes that together change the units held by `change`, the gives first.
  private mutating func exchange(_ change: Int64) -> [Int]? {
    let gives = ready(.give)
    let takes = ready(.take)
    let most = gives.reduce(Int64(0)) { $0 + effects[$1].units }
    guard abs(change) + most <= WitnessScheduler.subsetUnits else { return nil }
    for given in 1..<max(1, most + 1) where change + given >= 0 {
      guard let back = subset(of: gives, adding: given) else { continue }
      if change + given == 0 { return back }
      if let more = subset(of: takes, adding: change + given) { return back + more }
    }
    return nil
  }

  /// Open effects of `kind` that add up to `units`, rather those whose windows end first; nil if that is
  /// not found.
  /// - Parameter most: they may add up to more, but not to more than this.
  private mutating func fill(
    _ kind: Effect.Kind, _ units: Int64, atMost most: Int64? = nil
  ) -> [Int]? {
    if units == 0 { return [] }
    guard units > 0, openUnits[Int(kind.rawValue)] >= units else { return nil }
    let most = most ?? units
    var chosen: [Int] = []
    var ready: [Int] = []
    var seen = 0
    var sum: Int64 = 0
    scan(kind) { index, effect, isReady in
      seen += 1
      if isReady {
        ready.append(index)
        if effect.units <= most - sum {
          chosen.append(index)
          sum += effect.units
        }
      }
      return sum >= units || seen - chosen.count > WitnessScheduler.passedOver
    }
    return sum >= units ? chosen : subset(of: ready, adding: units)
  }

  /// Which of `ready` add up to exactly `units`, where taking the first that fit did not do.
  private mutating func subset(of ready: [Int], adding units: Int64) -> [Int]? {
    guard units <= WitnessScheduler.subsetUnits else { return nil }
    let units = Int(units)
    workLeft -= ready.count * units / 16
    // Of each sum that can be reached, the last effect that it takes; the earlier ones are preferred.
    var last = [Int32](repeating: -1, count: units + 1)
    var reached = [0]
    for (position, index) in ready.enumerated() {
      let more = Int(clamping: effects[index].units)
      for sum in reached where sum + more <= units && sum + more > 0 && last[sum + more] < 0 {
        last[sum + more] = Int32(truncatingIfNeeded: position)
        reached.append(sum + more)
      }
      if last[units] >= 0 { break }
    }
    var chosen: [Int] = []
    var sum = units
    while sum > 0 {
      if last[sum] < 0 { return nil }
      let index = ready[Int(last[sum])]
      chosen.append(index)
      sum -= Int(effects[index].units)
    }
    return chosen
  }
}

/// Effects, those that are required and whose window ends first at the front.
struct DeadlineList {
  /// What is said of an effect: it counts no more, look on, or stop.
  enum Verdict { case over, more, enough }

  /// Ascending, from `head` on.
  private var entries: [(key: Int64, index: Int)] = []
  private var head = 0

  mutating func insert(_ index: Int, _ effect: Effect) {
    let key = effect.isRequired ? effect.to : .max
    var (low, high) = (head, entries.count)
    // Most come with the latest end of all.
    if let last = entries.last, last.key <= key { low = high }
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].key <= key { low = middle + 1 } else { high = middle }
    }
    entries.insert((key, index), at: low)
  }

  /// Calls `judge` with one after the other, and forgets those that count no more.
  /// - Returns: how many it has seen.
  mutating func scan(_ judge: (Int) -> Verdict) -> Int {
    var (end, over) = (head, 0)
    while end < entries.count {
      let verdict = judge(entries[end].index)
      if verdict == .over {
        entries[end].index = -1
        over += 1
      }
      end += 1
      if verdict == .enough { break }
    }
    let seen = end - head
    if over > 0 {
      // Those before the end move up to it.
      var place = end
      for index in (head..<end).reversed() where entries[index].index >= 0 {
        place -= 1
        entries[place] = entries[index]
      }
      head = place
    }
    if head > entries.count / 2 {
      entries.removeFirst(head)
      head = 0
    }
    return seen
  }
}
