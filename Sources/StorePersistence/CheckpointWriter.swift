// Writes a checkpoint beside the running store, a piece at a time, while commands go on.
//
// Items are copied without any lock, each as one version of it. Reservations are copied in chunks of 64,
// each under the lock of its shard, for a few microseconds. So every piece is a moment of its own: an
// item has the log sequence number of its last change, a chunk the end of the log when it was copied, and
// recovery leaves out what of the journal is in them already. What is made meanwhile need not be copied:
// the journal from the checkpoint's start on has it.
internal import Log
internal import Posix
internal import StockStore
internal import Synchronization

/// Used by one thread at a time: whoever hands it on sees to that. Call `step` until it returns false,
/// wait until the journal is durable up to `endLSN`, then call `finish`; or `abandon` at any time.
final class CheckpointWriter: CheckpointTask, @unchecked Sendable {
  /// How much one step copies at most.
  struct Piece {
    var items: UInt32 = 1024
    var chunks: UInt32 = 8
    /// Of the subjects' table.
    var places: UInt32 = 1024
  }

  /// A record, and its place in its chunk.
  private struct Copy {
    var record: ReservationRecord
    var index: UInt8
  }

  private enum Stage {
    case items(next: UInt32)
    case sales(next: UInt32)
    case reservations(nextChunk: UInt32)
    case written
  }

  /// The data is synced whenever so much of it was written: a sync of all at once would make the
  /// journal's own wait.
  private static let bytesPerSync = 1 << 20
  /// An item with the longest name.
  private static let itemBytesMax = 96 + 2 * 256
  /// Of lines, or of balances.
  private static let lineBytesMax = max(
    SavedLines.countMax * 16, StoreLimits.linesMax * levelBytesMax + 7)
  /// Item, version, and four balances.
  private static let levelBytesMax = 5 + 10 + 4 * 7
  private static let chunkBytesMax =
    24 + ReservationSlab.chunkRecords * (72 + choiceBytes + lineBytesMax + detailBytesMax)
  private static let choiceBytes = 8
  private static let detailBytesMax =
    8 + 1 + StoreLimits.referenceBytesMax + 2 + LimitReader.bytesMax + 7
  private static let salesBytes = 40

  private let core: StoreCore
  private let storage: any Storage
  private let file: any StorageFile
  private let fault: LogFault?
  private let piece: Piece
  private let time: @Sendable () -> Timestamp
  /// Every decision before it is in the checkpoint.
  let start: JournalPosition
  private let itemsEnd: UInt32
  private let chunksEnd: UInt32
  private var stage = Stage.items(next: 0)
  private var block = BlockBuilder()
  private let copies: FixedArray<Copy>
  /// Of one place.
  private var sales: [SubjectSales] = []
  /// Names that had no item yet when the items were copied.
  private var unmadeItems: Set<UInt32> = []
  private var fileBytes = 0
  private var syncedBytes = 0
  private var restNanoseconds: Int64 = 0
  private var end = CheckpointEnd()

  /// When `step` has returned false: the journal must be durable up to here before `finish`.
  var endLSN: UInt64 { end.endLSN }

  /// Begins a checkpoint of everything before `start`, which the journal has written, in the file
  /// checkpoint.tmp.
  init(
    core: StoreCore, storage: any Storage, identity: DirectoryIdentity, start: JournalPosition,
    time: @autoclosure @escaping @Sendable () -> Timestamp, fault: LogFault? = nil,
    piece: Piece = Piece(), capsOf older: CheckpointHeader? = nil
  ) throws(JournalError) {
    self.core = core
    self.storage = storage
    self.start = start
    self.fault = fault
    self.piece = piece
    self.time = time
    itemsEnd = core.items.count
    chunksEnd = core.slab.chunkCount
    file = try Self.attempt("create") { () throws(Errno) in
      try storage.create(FileNames.newCheckpoint)
    }
    copies = FixedArray(
      capacity: ReservationSlab.chunkRecords, repeating: Copy(record: .free, index: 0))
    var header = CheckpointHeader(
      identity: identity, start: start, time: time().nanoseconds, core: core)
    if let older {
      header.itemsMax = max(older.itemsMax, Int(core.items.count))
      header.reservationsMax = max(older.reservationsMax, Int(core.slab.slotCount))
      header.subjectEntriesMax = max(older.subjectEntriesMax, core.subjects.count)
    }
    header.write(to: &block)
    try write(.header)
  }

  deinit { copies.free() }

  /// Copies and writes one piece; false when all is written and synced.
  func step() throws(JournalError) -> Bool {
    switch stage {
    case .items(let next):
      let copied = copyItems(from: next)
      if !block.isEmpty { try write(.items) }
      if copied < itemsEnd {
        stage = .items(next: copied)
      } else {
        stage = .sales(next: 0)
      }
      return true
    case .sales(let next):
      // Behind all items: whoever had one of them locked when the checkpoint began has added its sales by now.
      let copied = try copySales(from: next)
      if !block.isEmpty { try write(.sales) }
      if copied < core.subjects.placeEnd {
        stage = .sales(next: copied)
      } else {
        end.reservationsOffset = UInt64(fileBytes)
        stage = .reservations(nextChunk: 0)
      }
      return true
    case .reservations(let next):
      let copied = copyChunks(from: next)
      if !block.isEmpty { try write(.reservations) }
      stage = .reservations(nextChunk: copied)
      if copied < chunksEnd { return true }
      // What was copied last may be as new as this. Before the journal runs, its ring knows of nothing yet.
      end.endLSN = max(core.log.last, start.lsn)
      end.time = time().nanoseconds
      end.write(to: &block)
      try write(.end)
      try sync()
      stage = .written
      return false
    case .written: return false
    }
  }

  /// Puts the checkpoint in the place of all others, but for the one that starts at `lsn`. The journal must be
  /// durable up to `endLSN`.
  /// - Returns: the bytes of the file.
  @discardableResult
  func finish(keeping lsn: UInt64? = nil) throws(JournalError) -> Int {
    let name = FileNames.checkpoint(start.lsn)
    try Self.attempt("rename") { () throws(Errno) in
      try storage.rename(FileNames.newCheckpoint, to: name)
    }
    if fault != .skipDirectorySync {
      try Self.attempt("sync the directory of") { () throws(Errno) in try storage.syncDirectory() }
    }
    try Self.removeCheckpoints(except: [start.lsn, lsn ?? start.lsn], storage)
    return fileBytes
  }

  /// Removes what was written. The file stays where that fails: nobody ever reads it.
  func abandon() { try? storage.remove(FileNames.newCheckpoint) }

  /// Removes the checkpoints that others, which are safe on the disk, have replaced.
  static func removeCheckpoints(
    except kept: [UInt64], _ storage: any Storage
  ) throws(JournalError) {
    let names = try attempt("list the files beside") { () throws(Errno) in try storage.names() }
    for name in names {
      guard let lsn = FileNames.checkpointLSN(name), !kept.contains(lsn) else { continue }
      try JournalError.attempt("remove", name) { () throws(Errno) in try storage.remove(name) }
    }
  }

  // MARK: Copying

  /// Fills the block with items from number `first` on. The number to go on from.
  private func copyItems(from first: UInt32) -> UInt32 {
    var ordinal = first
    let pieceEnd = first + min(piece.items, itemsEnd - first)
    while ordinal < pieceEnd, block.room >= Self.itemBytesMax {
      copyItem(ordinal)
      ordinal += 1
    }
    return ordinal
  }

  /// Waits for whoever has the item locked: that takes a few dozen instructions.
  private func copyItem(_ ordinal: UInt32) {
    var waiting = Waiting()
    while true {
      let word = core.items[ordinal].word.load(ordering: .acquiring)
      // Only a name: whoever makes the item does so after the checkpoint's start. Not so while it is
      // locked: the journal may have written what made it.
      if word == 0 {
        unmadeItems.insert(ordinal)
        return
      }
      if word & 1 == 0 {
        let level = core.items.level(ordinal, version: ItemWord.version(word))
        let lsn = core.items[ordinal].lsn.load(ordering: .acquiring)
        let removedAt = core.items.removedAt(ordinal)
        if core.items[ordinal].word.load(ordering: .relaxed) == word {
          return append(
            level, lsn: lsn, removedAt: removedAt, isRemoved: ItemWord.isRemoved(word))
        }
      }
      waiting.once()
    }
  }

  /// - Parameter removedAt: 0: it never was.
  private func append(_ level: StockLevel, lsn: UInt64, removedAt: UInt64, isRemoved: Bool) {
    let name = core.items.name(level.item.ordinal)
    block.append(level.item.ordinal)
    block.append(UInt8(truncatingIfNeeded: name.sku.count))
    block.append(UInt8(truncatingIfNeeded: name.location.count))
    let hasCommitted = level.committed != 0
    let hasSale = !level.sale.isAlways
    block.append(
      (hasCommitted ? CheckpointFlags.itemHasCommitted : 0)
        | (hasSale ? CheckpointFlags.itemHasSale : 0)
        | (isRemoved ? CheckpointFlags.itemIsRemoved : 0)
        | (removedAt != 0 ? CheckpointFlags.itemHasRemoval : 0))
    block.append(level.version)
    block.append(level.onHand)
    block.append(level.held)
    block.append(level.safetyStock)
    block.append(lsn)
    if hasCommitted { block.append(level.committed) }
    if hasSale {
      block.append(level.sale.lowBits)
      block.append(UInt32(0))
      block.append(level.sale.fromWord)
      block.append(level.sale.untilWord)
    }
    if removedAt != 0 { block.append(removedAt) }
    block.append(name.sku)
    block.append(name.location)
    block.pad()
    end.items += 1
  }

  /// Fills blocks with what was sold under limits, from a place of the subjects' table on. The place to go on from.
  private func copySales(from first: UInt32) throws(JournalError) -> UInt32 {
    let pieceEnd = min(first + piece.places, core.subjects.placeEnd)
    for place in first..<max(first, pieceEnd) {
      sales.removeAll(keepingCapacity: true)
      core.subjects.forEachSales(at: place) { sales.append($0) }
      // Of an item that was made since all are: the journal has them.
      for sale in sales where sale.ordinal < itemsEnd && !unmadeItems.contains(sale.ordinal) {
        if block.room < Self.salesBytes { try write(.sales) }
        block.append(sale.subject.low)
        block.append(sale.subject.high)
        block.append(sale.ordinal)
        block.append(UInt32(0))
        block.append(sale.sold)
        block.append(sale.lsn)
        end.sales += 1
      }
    }
    return pieceEnd
  }

  /// Fills the block with chunks from number `first` on. The number to go on from.
  private func copyChunks(from first: UInt32) -> UInt32 {
    var chunk = first
    let pieceEnd = first + min(piece.chunks, chunksEnd - first)
    while chunk < pieceEnd, block.room >= Self.chunkBytesMax {
      copyChunk(chunk)
      chunk += 1
    }
    return chunk
  }

  private func copyChunk(_ chunk: UInt32) {
    let firstSlot = chunk * UInt32(ReservationSlab.chunkRecords)
    // Nobody's yet: a shard is just taking it, and what it puts there comes after the start.
    guard let number = core.slab.owner(firstSlot) else { return }
    for index in 0..<UInt32(ReservationSlab.chunkRecords) {
      core.slab.records.prefetchToRead(firstSlot + index)
    }
    block.append(chunk)
    block.append(UInt32(truncatingIfNeeded: number))
    let stampOffset = block.end
    block.append(UInt64(0))
    let countOffset = block.end
    block.append(UInt32(0))
    block.append(UInt32(0))
    let (stamp, copied, appended) = copyRecords(from: firstSlot, number)
    for index in 0..<copied { append(copies[index].record, index: copies[index].index) }
    block.replace(at: stampOffset, with: stamp)
    block.replace(at: countOffset, with: UInt32(truncatingIfNeeded: copied + appended))
    end.records += UInt64(copied + appended)
    end.chunks += 1
  }

  /// Copies the chunk's records under the lock of its shard, as fast as can be: commands wait meanwhile.
  /// - Returns: the log's end, how many are in `copies`, and how many were appended at once.
  private func copyRecords(
    from firstSlot: UInt32, _ number: Int
  ) -> (stamp: UInt64, copied: Int, appended: Int) {
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    var copied = 0
    var appended = 0
    for index in 0..<UInt32(ReservationSlab.chunkRecords) {
      let slot = firstSlot + index
      if core.slab[slot].kind == .free { continue }
      let place = UInt8(truncatingIfNeeded: index)
      if core.slab[slot].liesElsewhere {
        // What lies elsewhere may be gone once the lock is.
        append(core.slab[slot], index: place)
        appended += 1
      } else {
        copies[copied] = Copy(record: core.slab[slot], index: place)
        copied += 1
      }
    }
    // Under the lock: of this shard's decisions all up to here are in the chunk, and none after.
    return (core.log.last, copied, appended)
  }

  private func append(_ record: ReservationRecord, index: UInt8) {
    let numbers = SavedLines.numbers(record)
    let (reference, limits) = (record.reference, record.limits)
    var details: UInt8 = 0
    if record.revision != 1 || reference.count > 0 { details = CheckpointFlags.slotHasDetails }
    if limits.count > 0 { details = CheckpointFlags.slotHasDetails | CheckpointFlags.slotHasLimits }
    block.append(index)
    block.append(record.kind.rawValue)
    block.append(UInt8(truncatingIfNeeded: numbers.lineCount + record.levelCount))
    let choice = record.choice
    block.append(details | (choice == .asAsked ? 0 : CheckpointFlags.slotHasChoice))
    block.append(record.generation)
    block.append(record.identity.low)
    block.append(record.identity.high)
    block.append(record.fingerprint)
    block.append(record.createdAt)
    block.append(numbers.first)
    block.append(numbers.second)
    block.append(record.savedEnd)
    block.append(record.lsn)
    if choice != .asAsked {
      block.append(choice.rawValue)
      block.append(UInt8(truncatingIfNeeded: record.firstLineCount))
      block.pad()
    }
    for index in 0..<numbers.lineCount {
      let line = SavedLines.line(record, index)
      block.append(line.item)
      block.append(UInt32(0))
      block.append(line.quantity)
    }
    for index in 0..<record.levelCount {
      let level = record.level(index)
      block.append(VarintBytes(UInt64(level.item.ordinal)))
      block.append(VarintBytes(level.version))
      block.append(VarintBytes(UInt64(bitPattern: level.onHand)))
      block.append(VarintBytes(UInt64(bitPattern: level.held)))
      block.append(VarintBytes(UInt64(bitPattern: level.committed)))
      block.append(VarintBytes(signed: level.safetyStock))
    }
    if record.levelCount > 0 { block.pad() }
    if details == 0 { return }
    block.append(record.revision)
    block.append(UInt8(truncatingIfNeeded: reference.count))
    block.append(reference)
    if limits.count > 0 {
      block.append(UInt16(truncatingIfNeeded: limits.count))
      block.append(limits)
    }
    block.pad()
  }

  // MARK: Writing

  private func write(_ kind: BlockKind) throws(JournalError) {
    let bytes = unsafe block.close(kind, place: fileBytes, checkpointLSN: start.lsn)
    let place = fileBytes
    try Self.attempt("write") { () throws(Errno) in try unsafe file.write(bytes, at: place) }
    fileBytes += bytes.count
    if fileBytes - syncedBytes >= Self.bytesPerSync { try sync() }
  }

  private func sync() throws(JournalError) {
    let began = SystemClock.monotonicNanoseconds()
    try Self.attempt("sync") { () throws(Errno) in try file.sync() }
    syncedBytes = fileBytes
    restNanoseconds = 2 * (SystemClock.monotonicNanoseconds() - began)
  }

  /// How long to leave the disk to others before the next step: twice as long as the last sync had it,
  /// so that callers find it busy with a checkpoint a third of the time at most.
  func takeRest() -> Int64 {
    defer { restNanoseconds = 0 }
    return restNanoseconds
  }

  private static func attempt<Result>(
    _ operation: String, _ body: () throws(Errno) -> Result
  ) throws(JournalError) -> Result {
    try JournalError.attempt(operation, FileNames.newCheckpoint, body)
  }
}
