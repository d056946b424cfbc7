// A worker's part in comparing balances while the load runs: it counts the units that its calls ask for
// and that answers say were given.
internal import LoadHistory

struct WatchRecorder {
  private let counters: WatchCounters

  init(_ counters: WatchCounters) { self.counters = counters }

  /// Counts what a call that is about to leave for the first time asks for.
  func sent(_ task: SendTask, _ ledger: borrowing Ledger) {
    switch task.method {
    case .reserve: countAll(task, .reserveSent, ledger)
    case .replace: countChange(task, added: .reserveSent, dropped: .releaseSent, ledger)
    case .confirm: countHeld(task, .confirmSent, ledger, atMost: true)
    case .release: countHeld(task, .releaseSent, ledger, atMost: true)
    case .adjustStock: countAdjusted(task, isDone: false, ledger)
    case .extend, .getStock, .batchGetStock, .batchReserve, .reserveStream: break
    }
  }

  /// Counts what a first answer says was done.
  func done(_ task: SendTask, _ reply: Reply, _ ledger: borrowing Ledger) {
    guard !reply.isReplayed else { return }
    switch (reply, task.method) {
    case (.accepted(_, let expires, _, _), .reserve):
      counters.noteExpiry(unixNanoseconds: expires)
      count(ledger.heldLines(of: task.operation), .reserveDone, ledger)
      if ledger.hasChoice(task.operation) { countLeft(task, ledger) }
    case (.refused, .reserve): countAll(task, .reserveRefused, ledger)
    case (.accepted, .replace):
      countChange(task, added: .reserveDone, dropped: .releaseDone, ledger)
    case (.accepted, .confirm): countHeld(task, .confirmDone, ledger, atMost: false)
    case (.accepted, .release): countHeld(task, .releaseDone, ledger, atMost: false)
    case (.accepted, .adjustStock): countAdjusted(task, isDone: true, ledger)
    default: break
    }
  }

  private func count(
    _ task: SendTask, _ kind: WatchCounters.Kind, _ ledger: borrowing Ledger
  ) {
    count(ledger.cart(of: task.operation), kind, ledger)
  }

  private func count(
    _ lines: Range<Int>, _ kind: WatchCounters.Kind, _ ledger: borrowing Ledger
  ) {
    for index in lines {
      let line = ledger.line(at: index)
      counters.add(line.quantity, kind, sku: line.sku)
    }
  }

  /// Counts what an AdjustStock adds, or takes from on hand and from committed.
  private func countAdjusted(_ task: SendTask, isDone: Bool, _ ledger: borrowing Ledger) {
    let line = ledger.line(of: task.operation)
    let gone: WatchCounters.Kind = isDone ? .goneDone : .goneSent
    let settled: WatchCounters.Kind = isDone ? .settledDone : .settledSent
    switch ledger[task.operation].kind {
    case .restock: counters.add(line.quantity, isDone ? .restockDone : .restockSent, sku: line.sku)
    case .ship:
      counters.add(line.quantity, gone, sku: line.sku)
      counters.add(line.quantity, settled, sku: line.sku)
    case .uncommit: counters.add(line.quantity, settled, sku: line.sku)
    case .count:
      // Below zero nothing is counted: then it finds fewer missing.
      let before = ledger[task.operation].expectedOnHand
      counters.add(
        UInt32(clamping: max(0, before - ledger.counted(task.operation))), gone, sku: line.sku)
    case .reserve, .read: break
    }
  }

  /// Counts the lines and all alternatives.
  private func countAll(
    _ task: SendTask, _ kind: WatchCounters.Kind, _ ledger: borrowing Ledger
  ) {
    for alternative in 0...Int(ledger[task.operation].alternativeCount) {
      count(ledger.cart(of: task.operation, alternative: alternative), kind, ledger)
    }
  }

  /// Counts as refused what was asked for, in its lines and all alternatives, and is not held.
  private func countLeft(_ task: SendTask, _ ledger: borrowing Ledger) {
    let held = ledger.heldLines(of: task.operation)
    var seen: [UInt32] = []
    let asked = ledger.everyLine(of: task.operation)
    for index in asked where !seen.contains(ledger.line(at: index).sku) {
      let sku = ledger.line(at: index).sku
      seen.append(sku)
      let left = ledger.units(of: sku, in: asked) - ledger.units(of: sku, in: held)
      counters.add(UInt32(clamping: max(0, left)), .reserveRefused, sku: sku)
    }
  }

  /// Counts what a Replace adds and what it drops.
  private func countChange(
    _ task: SendTask, added: WatchCounters.Kind, dropped: WatchCounters.Kind,
    _ ledger: borrowing Ledger
  ) {
    forEachSKU(of: task, ledger) { sku, before, after in
      counters.add(UInt32(clamping: max(0, after - before)), added, sku: sku)
      counters.add(UInt32(clamping: max(0, before - after)), dropped, sku: sku)
    }
  }

  /// Counts what a reservation holds as its end is sent or answered: where nobody knows whether its Replace was
  /// done, the most or the least that it can be.
  private func countHeld(
    _ task: SendTask, _ kind: WatchCounters.Kind, _ ledger: borrowing Ledger, atMost: Bool
  ) {
    let new = ledger.newCart(of: task.operation)
    guard !new.isEmpty else {
      return count(ledger.heldLines(of: task.operation), kind, ledger)
    }
    switch ledger.decidedAnswer(task.operation, .replace) {
    case .accepted: count(new, kind, ledger)
    case .refused: count(task, kind, ledger)
    default:
      forEachSKU(of: task, ledger) { sku, before, after in
        counters.add(
          UInt32(clamping: atMost ? max(before, after) : min(before, after)), kind, sku: sku)
      }
    }
  }

  private func forEachSKU(
    of task: SendTask, _ ledger: borrowing Ledger, _ body: (UInt32, Int64, Int64) -> Void
  ) {
    let old = ledger.cart(of: task.operation)
    let new = ledger.newCart(of: task.operation)
    var seen: [UInt32] = []
    for range in [old, new] {
      for index in range where !seen.contains(ledger.line(at: index).sku) {
        let sku = ledger.line(at: index).sku
        seen.append(sku)
        body(sku, ledger.units(of: sku, in: old), ledger.units(of: sku, in: new))
      }
    }
  }
}
