// A PostgreSQL server as a model: one row, batches, checkpoints; its write-ahead log, which standbys receive; and a
// commit that waits for one of them, and that somebody may cut off.
//
// What is modelled, since the rules of EngineLog live with it:
//   - a commit is in the write-ahead log before it waits, so that it survives what becomes of the wait; and nobody
//     sees it, and the row stays locked, until the wait ends;
//   - a statement that finds the row locked waits, and then looks at the row again, but at nothing else again;
//   - a wait that was cancelled ends in success with a notice; one whose session was ended ends without an answer;
//     both leave the commit to be seen, whether a standby has it or not;
//   - a session goes on with what was sent when its client is gone.
internal import Log

/// A batch in a server's table.
struct StoredBatch {
  var lsn: UInt64
  var byteCount: Int
  var epoch: UInt32
  var sequence: UInt64
  var offset: Int
  var mark: UInt64
  var bytes: [UInt8]

  init(_ batch: PlacedBatch) {
    lsn = batch.lsn
    byteCount = batch.byteCount
    epoch = batch.epoch
    sequence = batch.sequence
    offset = batch.offset
    mark = batch.mark
    bytes = unsafe Array(batch.bytes)
  }

  var endLSN: UInt64 { lsn &+ UInt64(truncatingIfNeeded: byteCount) }

  func withPlaced<Result>(
    isWhole: Bool, _ body: (PlacedBatch) throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    unsafe try (isWhole ? bytes : []).span.withUnsafeBytes { (bytes) throws(JournalError) in
      unsafe try body(
        PlacedBatch(
          lsn: lsn, byteCount: byteCount, epoch: epoch, sequence: sequence, offset: offset,
          mark: mark, bytes: bytes))
    }
  }
}

struct StoredCheckpoint {
  let checkpoint: KeptCheckpoint
  var parts: [Int: [UInt8]] = [:]
  /// How many it has; nil: it is not complete.
  var count: Int?
}

/// What a server's tables hold.
struct EngineTables {
  /// What a transaction changes.
  enum Change {
    case row(LogState)
    case put(StoredBatch)
    case remove(before: UInt64)
    case checkpoint(UInt64, StoredCheckpoint?)
  }

  var row = LogState(
    epoch: 0, beats: 0, endLSN: 0, trimmedLSN: 0, owner: "", address: "", lease: nil,
    hasBegun: false, isWanted: false)
  /// Ascending.
  var batches: [StoredBatch] = []
  var checkpoints: [UInt64: StoredCheckpoint] = [:]

  var complete: [KeptCheckpoint] {
    checkpoints.values.filter { $0.count != nil }.map(\.checkpoint)
      .sorted { ($0.lsn, $0.name) < ($1.lsn, $1.name) }
  }

  func has(_ name: BatchName) -> Bool {
    batches.contains { $0.lsn == name.lsn && $0.mark == name.mark }
  }

  mutating func apply(_ transaction: [Change]) {
    for change in transaction {
      switch change {
      case .row(let new): row = new
      case .put(let batch):
        batches.insert(batch, at: batches.firstIndex { $0.lsn > batch.lsn } ?? batches.endIndex)
      case .remove(let lsn): batches.removeAll { $0.lsn < lsn }
      case .checkpoint(let name, let new): checkpoints[name] = new
      }
    }
  }
}

/// A statement that was sent.
final class SentWrite {
  enum Change {
    case append(StoredBatch)
    case beat(epoch: UInt32, behind: BatchName?)
    case take(after: LogState, owner: String, address: String, lease: Int64)
    case release(epoch: UInt32)
    case begin(at: UInt64, epoch: UInt32, checkpoint: UInt64, parts: Int)
  }

  let change: Change
  let beats: UInt64
  let arrival: Int64
  /// What it saw of the batch that it asks for, when it began.
  var hasBatch: Bool?
  var answer: EngineAnswer?
  /// The session was ended: no answer comes.
  var isCut = false
  /// Its client waits for it no more.
  var isGivenUp = false

  init(_ change: EngineWrite, beats: UInt64, arrival: Int64) {
    self.change =
      switch change {
      case .append(let batch): .append(StoredBatch(batch))
      case .beat(let epoch, let last): .beat(epoch: epoch, behind: last)
      case .take(let seen, let owner, let address, let lease):
        .take(after: seen, owner: owner, address: address, lease: lease)
      case .release(let epoch): .release(epoch: epoch)
      case .begin(let lsn, let epoch, let checkpoint, let parts):
        .begin(at: lsn, epoch: epoch, checkpoint: checkpoint, parts: parts)
      }
    self.beats = beats
    self.arrival = arrival
  }

  var append: StoredBatch? { if case .append(let batch) = change { batch } else { nil } }
}

final class EngineServer {
  let number: Int
  var tables = EngineTables()
  struct Transaction {
    let id: UInt64
    let changes: [EngineTables.Change]
  }

  /// The first of all first.
  private(set) var writeAhead: [Transaction] = []
  /// Numbers of transactions, over all servers.
  private let nextID: () -> UInt64
  /// Takes writes: it knows of no other primary.
  var isPrimary: Bool
  var isUp = true
  /// Standbys receive nothing of it.
  var isCutOff = false
  /// It waits for no standby.
  var waitsForNone = false
  /// On their way or behind the one that waits.
  private(set) var sent: [SentWrite] = []
  /// Committed, and waiting: its number in the write-ahead log.
  private(set) var waiting: (write: SentWrite, changes: [EngineTables.Change], index: Int)?
  private let fault: EngineFault?

  init(number: Int, fault: EngineFault?, nextID: @escaping () -> UInt64) {
    self.number = number
    self.nextID = nextID
    self.fault = fault
    isPrimary = number == 0
  }

  func send(_ write: SentWrite) { sent.append(write) }

  /// A session that ends before its statement has come.
  func forget(_ write: SentWrite) { sent.removeAll { $0 === write } }

  /// Commits, and is seen at once.
  func commit(_ changes: [EngineTables.Change]) {
    writeAhead.append(Transaction(id: nextID(), changes: changes))
    tables.apply(changes)
  }

  /// Runs what has come, up to the first that waits. `ran` is told of each, and whether it has changed something.
  func run(now: Int64, _ ran: (SentWrite, Bool) -> Void) {
    for write in sent where write.arrival <= now && write.hasBatch == nil {
      if case .beat(_, let last?) = write.change {
        write.hasBatch = tables.has(last)
      } else {
        write.hasBatch = false
      }
    }
    while waiting == nil, let at = sent.firstIndex(where: { $0.arrival <= now }) {
      let write = sent.remove(at: at)
      let changes = changes(of: write)
      ran(write, changes != nil)
      guard let changes else {
        write.answer = .nothing
        continue
      }
      writeAhead.append(Transaction(id: nextID(), changes: changes))
      waiting = (write, changes, writeAhead.count)
      if waitsForNone { end("it has no synchronous standby") }
    }
  }

  /// Ends the wait: what was committed is seen from now on.
  /// - Parameter doubt: nil: a standby has it.
  func end(_ doubt: String?, isCut: Bool = false) {
    guard let (write, changes, _) = waiting else { return }
    waiting = nil
    tables.apply(changes)
    write.isCut = isCut
    if !isCut {
      write.answer = .changed(
        state: tables.row, hasBatch: write.hasBatch ?? false, doubt: doubt)
    }
  }

  private func changes(of write: SentWrite) -> [EngineTables.Change]? {
    var row = tables.row
    row.beats = fault == .countBeats ? row.beats + 1 : write.beats
    func own(_ epoch: UInt32) -> Bool { row.epoch == epoch }
    switch write.change {
    case .append(let batch):
      guard own(batch.epoch) || fault == .ignoreEpoch, row.endLSN == batch.lsn else { return nil }
      row.endLSN = batch.endLSN
      return [.row(row), .put(batch)]
    case .beat(let epoch, _): return own(epoch) ? [.row(row)] : nil
    case .take(let seen, let owner, let address, let lease):
      guard own(seen.epoch), tables.row.beats == seen.beats else { return nil }
      row.epoch += 1
      (row.owner, row.address, row.lease, row.isWanted) = (owner, address, lease, false)
      return [.row(row)]
    case .release(let epoch):
      (row.owner, row.address, row.lease) = ("", "", nil)
      return own(epoch) ? [.row(row)] : nil
    case .begin(let lsn, let epoch, let checkpoint, let parts):
      guard own(epoch), !row.hasBegun, var stored = tables.checkpoints[checkpoint],
        stored.parts.count == parts
      else { return nil }
      (row.endLSN, row.trimmedLSN, row.hasBegun) = (lsn, lsn, true)
      stored.count = parts
      return [.row(row), .checkpoint(checkpoint, stored)]
    }
  }

  // MARK: Roles

  /// Receives up to `count` transactions of a primary whose write-ahead log begins with this one.
  func receive(_ count: Int, from primary: EngineServer) {
    for transaction in primary.writeAhead.dropFirst(writeAhead.count).prefix(count) {
      writeAhead.append(transaction)
      tables.apply(transaction.changes)
    }
  }

  /// How many transactions, from the first, are the same.
  func shared(with other: EngineServer) -> Int {
    zip(writeAhead, other.writeAhead).prefix { $0.id == $1.id }.count
  }

  /// Sessions end; what is on the disk stays.
  func stop() {
    isUp = false
    end(nil, isCut: true)
    for write in sent { write.isCut = true }
    sent = []
  }

  /// Begins anew as a standby, with what it shares with `primary` alone (pg_rewind).
  func follow(_ primary: EngineServer) {
    stop()
    (isUp, isPrimary, isCutOff, waitsForNone) = (true, false, false, false)
    let shared = shared(with: primary)
    guard shared < writeAhead.count else { return }
    writeAhead.removeLast(writeAhead.count - shared)
    tables = EngineTables()
    for transaction in writeAhead { tables.apply(transaction.changes) }
  }
}
