// What limits a change has to keep, and what becomes of what their subjects have.
//
// Like the balances, it is read before the items are locked, or under their locks, and is true if their words are
// still the same (SubjectTable.swift says why).
internal import Log
internal import Synchronization

extension StoreSession {
  /// Adds a limit for the next reserve, which leaves none; false where there are StoreLimits.subjectsMax already.
  /// Its subject is another than the others'. The bytes must stay until that command has returned.
  package func appendLimit(_ limit: SubjectLimit) -> Bool {
    guard scratch.limits.count < StoreLimits.subjectsMax else { return false }
    if scratch.limits.count == 0 { scratch.limitText.removeAll() }
    scratch.limits.append(entry(limit))
    scratch.limitText.append(limit)
    return true
  }

  /// Whether there is one for this subject already.
  package func hasLimit(_ subject: BorrowedBytes) -> Bool {
    (0..<scratch.limits.count).contains { scratch.limits[$0].limit.subject.isEqual(subject) }
  }

  /// Whom the last command was refused for as `limitExceeded`. Good until the next command.
  package var refusedSubject: BorrowedBytes {
    var reader = LimitReader(scratch.refusedLimit.bytes)
    return reader.next()?.subject ?? .empty
  }

  private func entry(_ limit: SubjectLimit) -> LimitSet.Entry {
    LimitSet.Entry(limit: limit, subject: core.keys.subjectHash(limit.subject))
  }

  /// Fetches what the command's limits lead to, of the items that `prefetchItems` has found.
  @inline(never)
  func prefetchLimits() {
    for line in 0..<scratch.lineCount {
      let candidate = scratch.lines[line].candidate
      if candidate == .max { continue }
      for place in 0..<scratch.limits.count {
        core.subjects.prefetch(scratch.limits[place].subject, candidate)
      }
    }
  }

  /// The changes that were gathered are of the reservation in `slot`: its limits count.
  @inline(__always)
  func takeLimits(of slot: UInt32) {
    if let node = core.slab[slot].referenceNode, node.limits.count > 0 { takeLimits(node.limits) }
  }

  @inline(never)
  private func takeLimits(_ text: BorrowedBytes) {
    scratch.changes.limits.removeAll()
    var reader = LimitReader(text)
    while let limit = reader.next() {
      let entry = entry(limit)
      scratch.changes.limits.append(entry)
      for index in 0..<scratch.changes.count {
        core.subjects.prefetch(entry.subject, scratch.changes[index].ordinal)
      }
    }
  }

  /// Why the changes, as the items were read, would pass a limit; nil where they do not. Of several, the first of the
  /// first item.
  @inline(never)
  func readLimits() -> Reading? {
    if scratch.replacement.isReplacing, core.fault == .limitUncheckedByReplace { return nil }
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      let added = change.heldChange + change.sold
      if added <= 0 { continue }
      for place in 0..<scratch.changes.limits.count {
        let entry = scratch.changes.limits[place]
        let used = core.subjects.used(
          entry.subject, change.ordinal, heldAlone: core.fault == .limitOfHeldAlone)
        if used == nil, core.subjects.isFull {
          return .refused(.tableFull(.limits), lsn: 0, index: index)
        }
        if (used ?? 0) + added > entry.limit.maxUnits {
          // An attempt before may have lacked units.
          scratch.further.removeAll()
          scratch.refusedLimit.removeAll()
          scratch.refusedLimit.append(entry.limit)
          return .refused(
            .limitExceeded(
              item: ItemHandle(ordinal: change.ordinal), requested: added, used: used ?? 0,
              maxUnits: entry.limit.maxUnits), lsn: 0, index: index)
        }
      }
    }
    return nil
  }

  /// Adds what the changes do to what the subjects have. The items are locked.
  @inline(never)
  func applyLimits(lsn: UInt64) {
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      for place in 0..<scratch.changes.limits.count {
        let isPossible = core.subjects.add(
          scratch.changes.limits[place].subject, change.ordinal, held: change.heldChange,
          sold: change.sold, lsn: lsn)
        if !isPossible { counters.invariantViolations.add() }
      }
    }
  }
}
