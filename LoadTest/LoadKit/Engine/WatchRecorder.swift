// A worker's part in comparing balances while the load runs: it counts the units that its calls ask for
// and that answers say were given.
internal import LoadHistory

struct WatchRecorder {
  private let counters: WatchCounters

  init(_ counters: WatchCounters) { self.counters = counters }

  /// Counts what a call that is about to leave for the first time asks for.
  func sent(_ task: SendTask, _ ledger: borrowing Ledger) {
    switch task.method {
    case .reserve: count(task, .reserveSent, ledger)
    case .confirm: count(task, .confirmSent, ledger)
    case .release: count(task, .releaseSent, ledger)
    case .adjustStock: count(task, .restockSent, ledger)
    case .extend, .getStock, .batchGetStock, .batchReserve, .reserveStream: break
    }
  }

  /// Counts what a first answer says was done.
  func done(_ task: SendTask, _ reply: Reply, _ ledger: borrowing Ledger) {
    guard !reply.isReplayed else { return }
    switch (reply, task.method) {
    case (.accepted(_, let expires, _), .reserve):
      counters.noteExpiry(unixNanoseconds: expires)
      count(task, .reserveDone, ledger)
    case (.refused, .reserve): count(task, .reserveRefused, ledger)
    case (.accepted, .confirm): count(task, .confirmDone, ledger)
    case (.accepted, .release): count(task, .releaseDone, ledger)
    case (.accepted, .adjustStock): count(task, .restockDone, ledger)
    default: break
    }
  }

  private func count(
    _ task: SendTask, _ kind: WatchCounters.Kind, _ ledger: borrowing Ledger
  ) {
    for index in ledger.cart(of: task.operation) {
      let line = ledger.line(at: index)
      counters.add(line.quantity, kind, sku: line.sku)
    }
  }
}
