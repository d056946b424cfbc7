// First that fits: a reserve with alternatives holds the first that can be held as a whole, `lines` before all
// others; one with minimums takes what is available of an item, if that is at least so many.
//
// Each alternative is tried as a reserve of its own, under the key's shard lock: read, decide, commit, begin again
// where somebody was faster. What was found wanting is not looked at again: alternative 2 is held since 0 and 1
// lacked units, each at the moment at which it was looked at, and since 2 had them at its own. The moments differ.
// Nobody could tell from the answers, and to have them agree, all items of all alternatives would have to be locked
// for the one that is held.
//
// What is due of an alternative's items ends before it is tried, so that none is passed over, nor held in part, for
// units that are on their way back.
//
// If none can be held, the answer is the one that the first gets whose items are all known. An unknown item makes
// its alternative impossible, and no more: that it is unknown is the answer only where each has one, and then it
// names those of `lines`. Either is one recorded decision.
internal import Bytes
internal import Log

extension StoreSession {
  // MARK: The payload

  /// The minimums, and each alternative in its order: all that is asked for is another payload without.
  @inline(never)
  func absorbAlternatives(_ hasher: inout SipHasher) {
    absorbMinimums(&hasher)
    if scratch.alternatives.count == 0 { return }
    scratch.keepOwnLines()
    for number in 1...scratch.alternatives.count {
      scratch.load(number)
      hasher.absorb(PayloadField.alternative.rawValue)
      absorbLines(&hasher)
      absorbMinimums(&hasher)
    }
    load(0)
  }

  /// Of each item of which less would do: how much.
  private func absorbMinimums(_ hasher: inout SipHasher) {
    let hasAny = (0..<scratch.lineCount).contains { scratch.alternatives.minimum(ofLine: $0) > 0 }
    if !hasAny { return }
    hasher.absorb(PayloadField.minimum.rawValue)
    sortLines()
    var position = 0
    while position < scratch.lineCount {
      let hash = scratch.lines[Int(scratch.sortedLines[position])].hash
      var sum: Int64 = 0
      var isMinimum = false
      while position < scratch.lineCount {
        let line = Int(scratch.sortedLines[position])
        if scratch.lines[line].hash != hash { break }
        sum += enough(line)
        if scratch.alternatives.minimum(ofLine: line) > 0 { isMinimum = true }
        position += 1
      }
      if isMinimum {
        hasher.absorb(hash)
        hasher.absorb(UInt64(bitPattern: sum))
      }
    }
  }

  /// Units of the command's line that would do.
  private func enough(_ line: Int) -> Int64 {
    let minimum = scratch.alternatives.minimum(ofLine: line)
    return minimum > 0 ? minimum : scratch.lines[line].quantity
  }

  // MARK: One after the other

  /// The command's lines are those of alternative `number` from here on.
  @inline(never)
  func load(_ number: Int) {
    scratch.load(number)
    // As `absorbLines` has left them.
    if scratch.lineCount > 1 { sortLines() }
    prefetchItems()
  }

  /// What is tried cannot be held, for this reason: goes on to the next alternative. False where there is none.
  /// - Parameter line: of an unknown item, the line that names it.
  @inline(never)
  func moveOn(from refusal: RecordedRefusal, unknownLine line: Int = 0) -> Bool {
    if scratch.alternatives.keep(refusal, unknownLine: line) { scratch.swapShort() }
    scratch.further.removeAll()
    let next = scratch.alternatives.current + 1
    guard next <= scratch.alternatives.count else { return false }
    load(next)
    return true
  }

  /// Records and answers that none can be held.
  @inline(never)
  func refuseAll(
    _ scope: IdempotencyScope, _ identity: Identity, _ fingerprint: UInt64, _ number: Int
  ) -> Decision<Hold> {
    guard let refusal = scratch.alternatives.refusal else {
      preconditionFailure("all were refused, the command's own lines first")
    }
    if scratch.alternatives.current > 0 { load(0) }
    scratch.swapShort()
    var name: ItemName?
    switch refusal {
    case .insufficientStock(let item, _, _):
      counters.refusedInsufficientStock.add()
      noteRefusal(of: item.ordinal)
      let count = scratch.alternatives.count
      scratch.further.alternativesTried = count == 0 ? 0 : count + 1
    case .limitExceeded(let item, _, _):
      counters.refusedLimitExceeded.add()
      noteRefusal(of: item.ordinal)
    case .notOnSale(let item, _):
      counters.refusedOther.add()
      noteRefusal(of: item.ordinal)
    default:
      counters.refusedOther.add()
      name = scratch.lines[scratch.alternatives.unknownLine].item
    }
    return refuse(refusal, .reserve, scope, identity, fingerprint, number, name: name)
  }

  // MARK: Committing one

  /// Commits the changes that were gathered of the lines, where less than they ask for may do.
  @inline(never)
  func commitChoice() -> CommitResult {
    if core.fault == .alternativeNotFirst, scratch.alternatives.current == 0,
      scratch.alternatives.count > 0
    {
      return passOver()
    }
    let tellsLines = gatherMinimums()
    scratch.alternatives.choice = HoldChoice(
      alternative: scratch.alternatives.current, tellsLines: tellsLines)
    scratch.alternatives.takesLess = tellsLines
    // What else commits under this lock asks for all it needs.
    defer { scratch.alternatives.takesLess = false }
    let result = commit()
    if tellsLines, case .refused = result { askForAllAgain() }
    return result
  }

  /// Of `DeliberateFault.alternativeNotFirst`.
  private func passOver() -> CommitResult {
    let change = scratch.changes[0]
    return .refused(
      .insufficientStock(
        item: ItemHandle(ordinal: change.ordinal), requested: change.required, available: 0),
      lsn: 0)
  }

  /// What would do of each change. Whether a line says that less than all would.
  private func gatherMinimums() -> Bool {
    for index in 0..<scratch.changes.count {
      scratch.alternatives.changeMinimums[index] = 0
      scratch.alternatives.changeQuantities[index] = scratch.changes[index].heldChange
    }
    var withMinimum: UInt64 = 0
    for line in 0..<scratch.lineCount {
      guard let ordinal = fetchedOrdinal(line: line), let index = scratch.changes.index(ordinal)
      else { continue }
      scratch.alternatives.changeMinimums[index] += enough(line)
      if scratch.alternatives.minimum(ofLine: line) > 0 { withMinimum |= 1 << UInt64(index) }
    }
    for index in 0..<scratch.changes.count where withMinimum >> UInt64(index) & 1 == 0 {
      scratch.alternatives.changeMinimums[index] = 0
    }
    return withMinimum != 0
  }

  // MARK: What is kept and told

  /// The hold that was made in `slot` keeps what was chosen, and the answer tells it.
  @inline(never)
  func keepChoice(_ slot: UInt32) -> HoldChoice {
    let choice = scratch.alternatives.choice
    core.slab[slot].setChoice(choice)
    if choice.tellsLines { showToldLines(slot) }
    return choice
  }

  /// Puts the lines of the first answer into the view.
  @inline(never)
  func showToldLines(_ slot: UInt32) {
    let count = core.slab[slot].toldLineCount
    for index in 0..<count { scratch.view[index] = core.slab[slot].toldLine(index) }
    scratch.viewCount = count
  }
}

extension SessionScratch {
  mutating func keepOwnLines() { alternatives.keepOwn(lines, count: lineCount) }

  mutating func load(_ number: Int) { lineCount = alternatives.load(number, into: lines) }

  /// Puts by what lacked units, or takes it back.
  mutating func swapShort() {
    swap(&changes, &alternatives.shortChanges)
    swap(&further, &alternatives.shortOthers)
    swap(&refusedLimit, &alternatives.passedLimit)
  }
}
