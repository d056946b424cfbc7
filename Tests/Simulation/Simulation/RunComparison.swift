// What can be read of the store, compared with the model.
internal import Log
internal import Posix
internal import StockStore

extension SimulationRun {
  /// Reads one item and one reservation, now and then all.
  func read(_ session: Int) throws(Violation) {
    let sku = "sku\(random.number(0...settings.skus - 1))"
    let decision = withName(sku, "") { sessions[session].stock($0) }
    try noteExpiries()
    // What cannot be recorded cannot end.
    let right = canEndHolds ? expected ?? model : model
    guard decision.value == right.items[sku]?.level else {
      throw violation(
        "\(sku): \(String(describing: right.items[sku]))", "\(String(describing: decision.value))")
    }
    askModel()
    try checkShown(decision.lsn, sku) { $0.items[sku] == $1.items[sku] }
    noteShown(sku, decision)
    if !ids.isEmpty, random.chance(30) {
      let id = random.pick(ids)
      let read = sessions[session].reservation(id)
      try noteExpiries()
      if let view = read.value {
        try compare(view, id, session)
        try checkShown(read.lsn, "reservation \(id.slot)") {
          $0.reservations[id] == $1.reservations[id]
        }
      } else if model.reservation(id) != nil {
        throw violation("reservation \(id)", "\(read.result)")
      }
    }
    if random.chance(20), let command = reserves.last { try lookUp(session, command) }
    if random.chance(5) { try compareLevels(session) }
    if random.chance(5) { try compareList(session) }
    if random.chance(5) { try compareList(session, reference: random.pick(Self.references)) }
    try noteState()
    askModel()
  }

  /// Whether there is room for the records: else balances are shown with what could not end.
  private var canEndHolds: Bool { store?.journalStatistics?.unavailable == nil }

  /// Somebody was shown this version, if its number is durable.
  func noteShown(_ sku: String, _ decision: Decision<StockLevel>) {
    guard let level = decision.value, decision.lsn <= sessions[0].durableLSN else { return }
    shownVersions[sku] = max(shownVersions[sku] ?? 0, level.version)
  }

  /// The view that the session's last command gave.
  func compare(_ view: ReservationView, _ id: ReservationID, _ session: Int) throws(Violation) {
    guard let expected = model.reservation(id) else {
      throw violation("no reservation \(id)", "\(view)")
    }
    var lines: [UInt32: Int64] = [:]
    for line in expected.lines where line.quantity > 0 {
      lines[model.ordinal(line.sku) ?? .max] = line.quantity
    }
    let seen = sessions[session].viewLines
    guard view.id == id, view.state == expected.state,
      view.createdAt.nanoseconds == expected.createdAt,
      view.expiresAt.nanoseconds == expected.expiresAt,
      view.endedAt?.nanoseconds == expected.endedAt, seen == lines,
      view.revision == expected.revision,
      sessions[session].referenceText == expected.reference
    else { throw violation("\(expected)", "\(view), lines \(seen)") }
  }

  private func compareLevels(_ session: Int) throws(Violation) {
    var levels: [StockLevel] = []
    _ = sessions[session].listStock(from: 0) {
      levels.append($0)
      return true
    }
    let before = self.expected
    try noteExpiries()
    let right = canEndHolds ? before ?? model : model
    let expected = right.items.values.map(\.level).sorted { $0.item.ordinal < $1.item.ordinal }
    if levels != expected { throw violation("\(expected)", "\(levels)") }
    for (sku, item) in model.items {
      let name = sessions[session].name(of: item.level.item)
      let isSame = withBytes(sku) { sku in
        unsafe name.sku.pointer.elementsEqual(sku.pointer) && name.location.count == 0
      }
      if !isSame { throw violation("\(sku) to be item \(item.ordinal)", "another name") }
    }
  }

  /// What became of a Reserve, by its key.
  private func lookUp(_ session: Int, _ command: ReserveCommand) throws(Violation) {
    let key = command.decisionKey
    let read = sessions[session].reservation(key: command.key, caller: command.caller)
    try noteExpiries()
    model.seek(key)
    switch model.decision(key)?.answer {
    case .hold(let id, _, _, _, _)?:
      guard let view = read.value else { throw violation("reservation \(id)", "\(read.result)") }
      try compare(view, id, session)
    case .refused(let refusals, let alternatives)?:
      // The lines are not known, so nobody can say which of them names the item.
      let isSame =
        if case .itemNotFound = refusals[0] {
          read.refusal == .itemNotFound(line: 0)
        } else {
          sessions[session].refusals(of: read) == refusals
            && sessions[session].alternativesTried == alternatives
        }
      guard isSame, read.replayed else { throw violation("\(refusals)", "\(read)") }
    default:
      guard read.refusal == .reservationNotFound else {
        throw violation("nothing under \(command.key)", "\(read.result)")
      }
    }
  }

  private func compareList(_ session: Int, reference: String) throws(Violation) {
    if reference.isEmpty { return }
    var found: Violation?
    var listed: [ReservationID] = []
    var cursor: UInt64? = 0
    while let from = cursor {
      cursor = withBytes(reference) {
        sessions[session].listReservations(
          cursor: from, scanMax: 3, state: nil, reference: $0
        ) { view in
          listed.append(view.id)
          do throws(Violation) {
            try noteExpiries()
            try compare(view, view.id, session)
            return listed.count % 2 == 0
          } catch {
            found = error
            return false
          }
        }
      }
      if let found { throw found }
    }
    try noteExpiries()
    let expected = model.reservations.keys.filter {
      model.reservation($0)?.reference == reference
    }
    if listed != expected.sorted(by: { $0.slot < $1.slot }) {
      throw violation(
        "\(expected.count) reservations with \(reference)", "\(listed.count), or others")
    }
  }

  private func compareList(_ session: Int) throws(Violation) {
    let state: ReservationState? = random.chance(50) ? .held : nil
    var found: Violation?
    var listed: Set<ReservationID> = []
    var cursor: UInt64? = 0
    while let from = cursor {
      cursor = sessions[session].listReservations(cursor: from, scanMax: 64, state: state) { view in
        listed.insert(view.id)
        do throws(Violation) {
          try noteExpiries()
          try compare(view, view.id, session)
          return true
        } catch {
          found = error
          return false
        }
      }
      if let found { throw found }
    }
    try noteExpiries()
    let expected = model.reservations.keys.filter {
      guard let current = model.reservation($0)?.state else { return false }
      return state == nil || current == state
    }
    if listed != Set(expected) {
      throw violation(
        "\(expected.count) reservations listed", "\(listed.count), or others")
    }
  }

  /// Everything: items, reservations, and every recorded decision by asking for it again.
  func compareAll() throws(Violation) {
    guard let store else { return }
    let findings = store.audit()
    if !findings.isEmpty { throw violation("no findings of the audit", "\(findings)") }
    let session = 0
    try beginTurn(session)
    try compareLevels(session)
    for id in model.reservations.keys.sorted(by: { $0.slot < $1.slot })
    where model.reservation(id) != nil {
      let decision = sessions[session].reservation(id)
      try noteExpiries()
      guard let view = decision.value else {
        throw violation("reservation \(id)", "\(decision.result)")
      }
      try compare(view, id, session)
    }
    try compareList(session)
    for (key, recorded) in model.decisions.sorted(by: { $0.key.key < $1.key.key })
    where model.decision(key) != nil {
      try askAgain(session, key, recorded)
    }
    // The recorded answers need no records but of what is due.
    try noteState()
    try endTurn(session)
    // What is past its retention goes bit by bit, some every turn.
    for _ in 0..<8 where store.statistics().recordedDecisions > model.decisions.count {
      try beginTurn(session)
      try endTurn(session)
    }
    // Each shard has an order of its own, the model has one.
    if settings.hasShards { forgetPassed(store) }
    // One that was forgotten because it was asked for comes back with a crash, and then waits behind what is
    // kept for longer. Nobody sees it.
    let since = model.now - model.limits.retentionNanoseconds
    let recorded = store.statistics().recordedDecisions
    let kept = store.core.slab.decisions(endedAfter: since)
    let known = model.decisions.keys.count { model.decision($0) != nil }
    if recorded < model.decisions.count || kept != known {
      throw violation(
        "\(model.decisions.count) recorded decisions, \(known) not past their retention",
        "\(recorded), \(kept)")
    }
  }

  /// Forgets decisions past their retention that the store has forgotten: where it was asked for them, at
  /// once, of which a journal says nothing and a checkpoint may.
  func forgetPassed(_ store: StockStore) {
    for key in model.passed {
      let isKept = withScope(key.key, caller: key.caller) { scope in
        switch key.method {
        case .reserve: store.keeps(reserve: scope)
        case .adjust: store.keeps(adjust: scope)
        case .replace: store.keeps(replace: scope)
        case .adjustTogether: store.keeps(adjustTogether: scope)
        case .importRows: store.keeps(importRows: scope)
        case .remove: store.keeps(remove: scope)
        }
      }
      if !isKept { model.seek(key) }
    }
  }

  private func askAgain(
    _ session: Int, _ key: Model.DecisionKey, _ recorded: Model.Recorded
  ) throws(Violation) {
    let seen: (answer: Model.Answer, replayed: Bool, lsn: UInt64)
    var expected = recorded.answer
    switch recorded.payload {
    case .reserve(let all, let ttl, let reference, let limits):
      let lines = all[0]
      let decision = sessions[session].reserve(
        key.key, lines, alternatives: Array(all.dropFirst()), ttl: ttl, reference: reference,
        limits: limits, caller: key.caller)
      seen = (sessions[session].answer(decision), decision.replayed, decision.lsn)
      try noteExpiries()
      expected = model.again(recorded, lines)
    case .adjust(let adjustment):
      let decision = sessions[session].adjust(key.key, adjustment, caller: key.caller)
      try noteExpiries()
      seen = (sessions[session].answer(decision), decision.replayed, decision.lsn)
    case .importRows:
      let (rows, lsn) = sessions[session].importedRows(key.key, caller: key.caller)
      seen = (.imported(next: rows, nil), true, lsn)
    case .remove(let removal):
      let decision = sessions[session].remove(key.key, removal, caller: key.caller)
      try noteExpiries()
      seen = (sessions[session].answer(decision), decision.replayed, decision.lsn)
    case .adjustTogether(let batch):
      let decision = sessions[session].adjustTogether(key.key, batch, caller: key.caller)
      try noteExpiries()
      seen = (sessions[session].answerTogether(decision), decision.replayed, decision.lsn)
    case .replace(let replacement):
      let decision = sessions[session].replace(
        key.key, replacement, by: TestRequester(key.caller))
      try noteExpiries()
      seen = (sessions[session].answer(decision), decision.replayed, decision.lsn)
      expected = model.again(recorded, replacement.lines)
    }
    guard seen.answer == expected, seen.replayed else {
      throw violation("\(key) again: \(expected)", "\(seen)")
    }
    if seen.lsn > sessions[session].lastLSN {
      throw violation("\(key) again: a number of the log", "\(seen.lsn)")
    }
  }
}

extension ReservationSlab {
  /// Decisions that are not past their retention.
  fileprivate func decisions(endedAfter since: Int64) -> Int {
    (0..<slotCount).count { slot in
      switch self[slot].kind {
      case .free: false
      case .held: self[slot].expiresAt > since
      default: self[slot].endedAt > since
      }
    }
  }
}
