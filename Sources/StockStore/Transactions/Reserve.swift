internal import Bytes
internal import Log
internal import Posix

extension StoreSession {
  /// Holds every line that was appended, or none, within the limits that were appended; of alternatives that were
  /// appended, the first that can be held (FirstThatFits.swift).
  /// - Parameters:
  ///   - ttlNanoseconds: above 0; nil, which is another payload than any number: the default.
  ///   - reference: empty for none.
  /// - Returns: the hold, whose lines are in the view where its choice tells them; or `insufficientStock`,
  ///   `notOnSale`, `limitExceeded`, `itemNotFound` (all recorded), `conflictTooBusy`, `idempotencyKeyReused`,
  ///   `longerThanMaxHold`, `tableFull`, `unavailable`.
  package func reserve(
    _ scope: IdempotencyScope, ttlNanoseconds: Int64?, reference: BorrowedBytes = .empty
  ) -> Decision<Hold> {
    let isChoice = scratch.alternatives.isAsked
    let isLimited = scratch.limits.count > 0
    defer {
      scratch.lineCount = 0
      if isChoice { scratch.alternatives.removeAll() }
      if isLimited { scratch.limits.removeAll() }
    }
    scratch.further.removeAll()
    scratch.reference = reference
    let identity = identity(.reserve, scope)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    // What lies in memory comes while the payload is hashed.
    core.shards[number].prefetch(identity)
    prefetchItems()
    if isLimited { prefetchLimits() }
    let fingerprint = reserveFingerprint(ttlNanoseconds, isChoice: isChoice, isLimited: isLimited)
    var mayFinish = true
    while true {
      if let slot = recorded(identity, number) {
        let isSamePayload =
          core.slab[slot].fingerprint == fingerprint
          || reference.count == 0 && !isChoice && !isLimited
            && isSamePayloadOfFirstRelease(slot, ttlNanoseconds)
        // What was refused is told of the command's own lines.
        if isChoice, scratch.alternatives.current > 0 { load(0) }
        return replay(slot, isSamePayload: isSamePayload, accepted: recordedHold)
      }
      // Only now: a decision that was recorded under a higher limit is answered again.
      if let ttlNanoseconds, ttlNanoseconds > core.limits.holdNanosecondsMax {
        return rejectReserve(.longerThanMaxHold)
      }
      guard hasRoom(number) else { return rejectReserve(.tableFull(.reservations)) }
      if let unavailable { return rejectReserve(.unavailable(unavailable)) }
      if let line = gatherHolds() {
        if isChoice {
          mayFinish = true
          if moveOn(from: unknownItems(from: line), unknownLine: line) { continue }
          return refuseAll(scope, identity, fingerprint, number)
        }
        counters.refusedOther.add()
        return refuse(
          unknownItems(from: line), .reserve, scope, identity, fingerprint, number,
          name: scratch.lines[line].item)
      }
      if isLimited { scratch.changes.limits = scratch.limits }
      if isChoice, scratch.hasBacklog, mayFinish {
        // Before it is passed over, or held in part. As below.
        mayFinish = false
        finishDueOfLines(unlocking: number)
        continue
      }
      let expiresAt = Timestamp(nanoseconds: now)
        .advanced(
          byNanoseconds: min(
            ttlNanoseconds ?? core.limits.ttlNanosecondsDefault, core.limits.holdNanosecondsMax))
      if core.log.isKeeping {
        let next = core.shards[number].nextSlot()
        scratch.holdToRecord = HoldToRecord(
          slot: next.slot, generation: next.generation, fingerprint: fingerprint,
          expiresAt: expiresAt.nanoseconds, scope: scope)
      }
      let result = isChoice ? commitChoice() : commit()
      scratch.holdToRecord = nil
      switch result {
      case .refused(let refusal, _):
        if refusal.mayPassWithExpiry, scratch.hasBacklog, mayFinish {
          // Some of it may be due. Another session may have the same key meanwhile: begin again.
          mayFinish = false
          finishDueOfLines(unlocking: number)
          continue
        }
        if case .itemNotFound = refusal {
          // Removed since its name was looked up: that is done again.
          scratch.further.removeAll()
          continue
        }
        if isChoice, let refusal = refusal.ofAlternative {
          mayFinish = true
          if moveOn(from: refusal) { continue }
          return refuseAll(scope, identity, fingerprint, number)
        }
        count(refusal)
        return refuse(refusal, .reserve, scope, identity, fingerprint, number)
      case .committed(let lsn):
        let slot = record(identity, fingerprint, lsn: lsn, number)
        assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
        return hold(
          slot, number, core.keys.owner(scope.caller), expiresAt: expiresAt, isChoice: isChoice,
          isLimited: isLimited,
          lsn: lsn)
      }
    }
  }

  /// Ends what is due of the command's items, while the shard is unlocked.
  @inline(never)
  private func finishDueOfLines(unlocking number: Int) {
    core.shards[number].lock.unlock()
    finishDueOfLines()
    core.shards[number].lock.lock()
  }

  /// Counts a refusal by its reason.
  @inline(never)
  func count(_ refusal: Refusal) {
    noteRefusal(refusal)
    switch refusal {
    case .insufficientStock: counters.refusedInsufficientStock.add()
    case .limitExceeded: counters.refusedLimitExceeded.add()
    default: counters.refusedOther.add()
    }
  }

  /// The answer where nothing is decided.
  @inline(never)
  private func rejectReserve(_ refusal: Refusal) -> Decision<Hold> {
    counters.refusedOther.add()
    return Decision(.refused(refusal), replayed: false, lsn: 0)
  }

  /// Writes the hold of the units that were just committed into `slot`.
  @inline(__always)
  private func hold(
    _ slot: UInt32, _ number: Int, _ owner: HoldOwner, expiresAt: Timestamp, isChoice: Bool,
    isLimited: Bool,
    lsn: UInt64
  ) -> Decision<Hold> {
    core.slab[slot].kind = .held
    core.slab[slot].owner = owner
    core.slab[slot].expiresAt = expiresAt.nanoseconds
    core.slab[slot].firstExpiresAt = expiresAt.nanoseconds
    core.slab[slot].setLineCount(scratch.changes.count)
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      core.slab[slot].setLine(
        index,
        ViewLine(item: ItemHandle(ordinal: change.ordinal), quantity: change.heldChange))
      noteReserve(change.ordinal)
    }
    let choice = isChoice ? keepChoice(slot) : .asAsked
    if isLimited {
      keepLimits(slot, number)
    } else if scratch.reference.count > 0 {
      keepReference(slot, number)
    }
    startTimer(slot, number)
    counters.held.add()
    counters.liveHolds.add()
    let hold = Hold(
      id: core.id(slot), expiresAt: expiresAt, state: .held, choice: choice,
      remainingNanoseconds: expiresAt.nanoseconds - now)
    return Decision(.accepted(hold), replayed: false, lsn: lsn)
  }

  /// Gives the reservation in `slot` the command's reference.
  @inline(never)
  func keepReference(_ slot: UInt32, _ number: Int) {
    let reference = scratch.reference
    core.shards[number].setReference(
      slot, reference, hash: core.keys.referenceHash(reference))
  }

  /// Gives the reservation in `slot` the command's limits, and its reference if it has one.
  @inline(never)
  private func keepLimits(_ slot: UInt32, _ number: Int) {
    let reference = scratch.reference
    let hash = reference.count > 0 ? core.keys.referenceHash(reference) : 0
    core.shards[number].setNode(
      slot, ReferenceNode(reference, hash: hash, slot: slot, limits: scratch.limitText.bytes))
  }

  /// The hold that is recorded in `slot`, as a replay tells it.
  private func recordedHold(_ slot: UInt32) -> Hold {
    let state = core.slab[slot].state(at: now) ?? .expired
    let choice = core.slab[slot].choice
    if choice.tellsLines { showToldLines(slot) }
    return Hold(
      id: core.id(slot), expiresAt: Timestamp(nanoseconds: core.slab[slot].firstExpiresAt),
      state: state, choice: choice,
      remainingNanoseconds: state == .held ? core.slab[slot].expiresAt - now : 0)
  }

  /// Sets the timer of the hold in `slot` by its `expiresAt`.
  @inline(__always)
  func startTimer(_ slot: UInt32, _ number: Int) {
    // A shard where nothing was due for long: its wheel must not stand far behind.
    core.shards[number].wheel.catchUp(now)
    let time = core.shards[number].wheel.insert(slot)
    if time < core.workTimes[number] { core.workTimes[number] = time }
  }

  /// Turns the command's lines into changes, lines of the same item summed. The first line whose item
  /// is unknown, if there is one.
  @inline(__always)
  func gatherHolds() -> Int? {
    scratch.changes.removeAll()
    for line in 0..<scratch.lineCount {
      guard let ordinal = fetchedOrdinal(line: line) else { return line }
      let quantity = scratch.lines[line].quantity
      if let index = scratch.changes.index(ordinal) {
        scratch.changes[index].required += quantity
        scratch.changes[index].heldChange += quantity
      } else {
        scratch.changes.append(
          ItemChange(ordinal: ordinal, required: quantity, heldChange: quantity))
      }
    }
    return nil
  }

  // MARK: The payload

  /// Two payloads are the same if they ask for the same units of the same items, in whatever lines, for
  /// the same ttl, or both for none, and for the same reference, minimums, alternatives and limits. A field that is added
  /// later is hashed before
  /// the ttl, where it is set, and not at all where it is not: what was recorded before stays the same payload.
  @inline(__always)
  private func reserveFingerprint(_ ttlNanoseconds: Int64?, isChoice: Bool, isLimited: Bool)
    -> UInt64
  {
    var hasher = core.keys.reserveFingerprintHasher()
    absorbLines(&hasher)
    if scratch.reference.count > 0 { absorbReference(&hasher) }
    if isChoice { absorbAlternatives(&hasher) }
    if isLimited { absorbLimits(&hasher) }
    // No ttl that is asked for is 0.
    return hasher.finish(UInt64(bitPattern: ttlNanoseconds ?? 0))
  }

  /// What it is, and which. No hash of an item is the first, but by a chance of 2^-64.
  @inline(never)
  func absorbReference(_ hasher: inout SipHasher) {
    hasher.absorb(PayloadField.reference.rawValue)
    hasher.absorb(core.keys.referenceHash(scratch.reference))
  }

  /// Likewise, in whatever order they came.
  @inline(never)
  private func absorbLimits(_ hasher: inout SipHasher) {
    hasher.absorb(PayloadField.limits.rawValue)
    hasher.absorb(UInt64(scratch.limits.count))
    scratch.limits.forEachByHash { entry in
      hasher.absorb(entry.subject.low)
      hasher.absorb(entry.subject.high)
      hasher.absorb(UInt64(bitPattern: entry.limit.maxUnits))
    }
  }

  /// The items and their units, whatever the lines.
  @inline(__always)
  func absorbLines(_ hasher: inout SipHasher) {
    if scratch.lineCount == 1 {
      hasher.absorb(scratch.lines[0].hash)
      hasher.absorb(UInt64(bitPattern: scratch.lines[0].quantity))
    } else {
      sortLines()
      forEachItem { hash, quantity, _ in
        hasher.absorb(hash)
        hasher.absorb(UInt64(bitPattern: quantity))
      }
    }
  }

  /// Whether the record is the first release's and has this payload: that one hashed the lines as they
  /// came, and the default where no ttl was asked for.
  @inline(never)
  private func isSamePayloadOfFirstRelease(_ slot: UInt32, _ ttlNanoseconds: Int64?) -> Bool {
    if core.slab[slot].createdAt > core.firstReleaseUntil { return false }
    // Where none was sent: the default of now, that of the first release, or, since a hold tells what its
    // ttl was, whatever the default was then.
    var candidates = [ttlNanoseconds ?? core.limits.ttlNanosecondsDefault]
    if ttlNanoseconds == nil {
      candidates.append(600_000_000_000)
      if core.slab[slot].state != nil {
        candidates.append(core.slab[slot].firstExpiresAt &- core.slab[slot].createdAt)
      }
    }
    var hasher = core.keys.fingerprintHasher()
    for line in 0..<scratch.lineCount {
      hasher.absorb(scratch.lines[line].hash)
      hasher.absorb(UInt64(bitPattern: scratch.lines[line].quantity))
    }
    let recorded = core.slab[slot].fingerprint
    return candidates.contains { candidate in
      var whole = hasher
      return whole.finish(UInt64(bitPattern: candidate)) == recorded
    }
  }

  /// Sorts the command's lines by the hashes of their items: an order that does not depend on how they came.
  func sortLines() {
    for line in 0..<scratch.lineCount {
      var position = line
      while position > 0,
        scratch.lines[Int(scratch.sortedLines[position - 1])].hash > scratch.lines[line].hash
      {
        scratch.sortedLines[position] = scratch.sortedLines[position - 1]
        position -= 1
      }
      scratch.sortedLines[position] = UInt8(truncatingIfNeeded: line)
    }
  }

  /// Calls `body` for each item of the command, in the order of their hashes, with its units and the first
  /// line that names it. There are several lines, and they are sorted.
  @inline(__always)
  private func forEachItem(_ body: (_ hash: UInt64, _ quantity: Int64, _ line: Int) -> Void) {
    var position = 0
    while position < scratch.lineCount {
      let first = Int(scratch.sortedLines[position])
      let hash = scratch.lines[first].hash
      var quantity: Int64 = 0
      while position < scratch.lineCount,
        scratch.lines[Int(scratch.sortedLines[position])].hash == hash
      {
        quantity += scratch.lines[Int(scratch.sortedLines[position])].quantity
        position += 1
      }
      body(hash, quantity, first)
    }
  }

  /// The refusal of all items of the command that are unknown, of which line `first` names the first.
  func unknownItems(from first: Int) -> RecordedRefusal {
    if scratch.lineCount == 1 { return .itemsNotFound(first: 0, places: 1) }
    var places: UInt64 = 0
    var place = 0
    var firstPlace = 0
    forEachItem { hash, _, line in
      // The first is unknown by decision: another session may have made the item since.
      let isFirst = hash == scratch.lines[first].hash
      if isFirst { firstPlace = place }
      if isFirst || ordinal(line: line) == nil { places |= 1 << UInt64(place) }
      place += 1
    }
    return .itemsNotFound(first: firstPlace, places: places)
  }

  /// The first line that names the item at `place`, and in `further` the lines of the other items in
  /// `places`, in the order in which the command names them. `places` are of this payload.
  func tellUnknownItems(first: Int, places: UInt64) -> Refusal {
    if scratch.lineCount <= 1 { return .itemNotFound(line: 0) }
    var unknownLines: UInt64 = 0
    var firstLine = 0
    var place = 0
    forEachItem { _, _, line in
      if place == first {
        firstLine = line
      } else if places >> UInt64(place) & 1 == 1 {
        unknownLines |= 1 << UInt64(line)
      }
      place += 1
    }
    for line in Bits(unknownLines) { scratch.further.append(.itemNotFound(line: line)) }
    return .itemNotFound(line: firstLine)
  }
}

/// What stands before the value of a field that was added later, in a payload's hash.
enum PayloadField: UInt64 {
  case reference = 1
  case expectedRevision = 2
  case minimum = 5
  case alternative = 6
  case limits = 8
}

extension Refusal {
  /// Whether the command may pass once holds that are due have ended.
  var mayPassWithExpiry: Bool {
    switch self {
    case .insufficientStock, .limitExceeded: true
    default: false
    }
  }

  /// Where an alternative is passed over for it: as it is recorded if none can be held.
  var ofAlternative: RecordedRefusal? {
    switch self {
    case .insufficientStock(let item, let requested, let available):
      .insufficientStock(item: item, requested: requested, available: available)
    case .limitExceeded(let item, let requested, let used, _):
      .limitExceeded(item: item, requested: requested, used: used)
    case .notOnSale(let item, let window): .notOnSale(item: item, window)
    default: nil
    }
  }
}
