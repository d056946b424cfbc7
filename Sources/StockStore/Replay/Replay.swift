// Puts the journal's records into tables that a checkpoint has filled and that nobody else uses yet.
//
// The pieces of a checkpoint stand at different moments, so of each record what is there already is left
// out: what it does to an item, if the item's last change is as late; what it does to a reservation, if
// the chunk was copied as late. Only items and slots are touched. A decision that was forgotten leaves no
// record: its slot is simply used again, or its key comes again in another slot. The second is sorted out
// when all is read (Assembly.swift), where keys, timers and queues are made, once for each.
internal import CPlatform
package import Log
internal import Synchronization

/// Up to where the journal is read: to the last moment at which every record lies before it.
package enum RecoveryTarget: Equatable, Sendable {
  /// No record ends behind this log sequence number.
  case lsn(UInt64)
  /// No record is later, in nanoseconds since the Unix epoch.
  case time(Int64)

  /// Whether a record, which ends at `lsn`, is beyond it.
  @inline(__always)
  func isBefore(_ record: JournalRecord, lsn: UInt64, _ fault: LogFault?) -> Bool {
    switch (self, fault) {
    case (.lsn(let last), .restoreTooFar): lsn - UInt64(record.byteCount) > last
    case (.lsn(let last), .restoreTooShort): lsn >= last
    case (.lsn(let last), _): lsn > last
    case (.time(let last), .restoreTooShort): record.time >= last
    case (.time(let last), _): record.time > last
    }
  }
}

package final class Replay {
  /// So many records ahead of the one that is applied, what it will touch is fetched.
  private static let recordsAhead = 12
  /// A power of two, of no less.
  private static let aheadCapacity = 16
  /// So many bytes ahead of the record that is read next, the journal is fetched: another thread, on another
  /// processor, has just written it there.
  private static let bytesAhead = 1024

  private let core: StoreCore
  /// Records that were fetched and are not applied yet, by their places in the batch: each is taken apart and
  /// checked once.
  private let ahead = FixedArray<JournalRecord?>(capacity: Replay.aheadCapacity, repeating: nil)
  /// The log's end when each chunk of slots was copied; 0 where it was not.
  private let stamps: Region<UInt64>
  /// Everything before is whole: the end of the batch before.
  private var batchLSN: UInt64 = 0
  private let target: RecoveryTarget?
  private let fault: LogFault?
  /// There is a record that the target leaves out; it and all behind it are not applied.
  package private(set) var isPastTarget = false
  /// Places of items that were removed, and where in the log another item has got them.
  package private(set) var givenAway: [UInt32: UInt64] = [:]
  /// Behind the newest record that was applied.
  package private(set) var endLSN: UInt64

  /// The tables as a store shows them between two batches: it finds every name.
  package var shown: StoreCore?

  /// Decisions before the journal's end, since the directory was made.
  package private(set) var decisions: UInt64
  /// Decisions applied.
  package private(set) var recordCount: UInt64 = 0
  /// The newest time seen, in nanoseconds since the Unix epoch.
  package private(set) var newestTime: Int64

  /// - Parameters:
  ///   - startLSN: where the journal begins that is applied.
  ///   - decisions: how many the checkpoint comes after.
  ///   - newestTime: of the checkpoint.
  ///   - target: where to stop; nil: where the journal ends.
  package init(
    core: StoreCore, stamps: Region<UInt64>, startLSN: UInt64, decisions: UInt64, newestTime: Int64,
    target: RecoveryTarget?, fault: LogFault? = nil
  ) {
    self.fault = fault
    self.core = core
    self.stamps = stamps
    self.decisions = decisions
    self.newestTime = newestTime
    self.target = target
    endLSN = startLSN
  }

  deinit { ahead.free() }

  /// Applies the records of one batch. A whole batch, since the caller is of another module: what is called
  /// for each record is all in this one, where the compiler sees through it.
  package func apply(_ batch: BatchHeader, _ payload: UnsafeRawBufferPointer) throws(JournalError) {
    batchLSN = batch.lsn
    guard RecoveryLimits.isPossible(time: batch.time), batch.run < UInt32.max else {
      throw impossible("a time or an epoch that is none")
    }
    if isPastTarget { return }
    var offset = 0
    var count = 0
    var aheadOffset = 0
    var aheadCount = 0
    while offset < payload.count {
      while aheadCount < count + Self.recordsAhead, aheadOffset < payload.count {
        let record = try unsafe record(payload, aheadOffset)
        fetch(record)
        ahead[aheadCount & (Self.aheadCapacity - 1)] = record
        aheadOffset += record.byteCount
        aheadCount += 1
      }
      guard let record = ahead[count & (Self.aheadCapacity - 1)] else { break }
      let lsn = batch.lsn &+ UInt64(offset + record.byteCount)
      if let target, target.isBefore(record, lsn: lsn, fault) {
        isPastTarget = true
        return
      }
      offset += record.byteCount
      count += 1
      try apply(record, lsn: lsn)
      endLSN = lsn
    }
    guard count == batch.recordCount else { throw impossible("another number of records") }
    newestTime = max(newestTime, batch.time)
  }

  @inline(__always)
  private func record(
    _ payload: UnsafeRawBufferPointer, _ offset: Int
  ) throws(JournalError) -> JournalRecord {
    // The offset is where the record before ended: within the payload. What is fetched may lie behind it: that
    // is only hinted at.
    let base = UInt(bitPattern: payload.baseAddress)
    let address = base &+ UInt(offset + Self.bytesAhead)
    unsafe hf_prefetch_read(UnsafeRawPointer(bitPattern: address))
    unsafe hf_prefetch_read(UnsafeRawPointer(bitPattern: address &+ 64))
    guard let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: payload[offset...]))
    else { throw impossible("a malformed record") }
    return record
  }

  private func fetch(_ record: JournalRecord) {
    core.slab.records.prefetch(record.slot)
    switch record.kind {
    case .held, .replaced, .confirmed, .released, .expired:
      for index in 0..<record.lineCount { core.items.prefetchIfThere(record.line(index).ordinal) }
    case .adjusted, .removed: core.items.prefetchIfThere(record.level.item.ordinal)
    case .adjustedTogether, .imported:
      record.forEachChange { core.items.prefetchIfThere($0.level.item.ordinal) }
    case .refused, .extended, .clock: break
    }
  }

  private func apply(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard RecoveryLimits.isPossible(time: record.time) else {
      throw impossible("an impossible time")
    }
    newestTime = max(newestTime, record.time)
    if record.kind == .clock { return }
    decisions += 1
    recordCount += 1
    switch record.kind {
    case .held:
      try applyLines(record, lsn: lsn)
      try hold(record, lsn: lsn)
    case .replaced:
      try applyLines(record, lsn: lsn)
      try replaceLines(record, lsn: lsn)
      try answerReplace(record, lsn: lsn)
    case .refused: try refuse(record, lsn: lsn)
    case .adjusted:
      try adjustItem(record.level, record.name, tellsSale: true, lsn: lsn)
      try adjust(record, lsn: lsn)
    case .adjustedTogether:
      try adjustItems(record, lsn: lsn)
      try adjustTogether(record, lsn: lsn)
    case .imported:
      try adjustItems(record, lsn: lsn)
      if core.fault != .importProgressLost { try importRows(record, lsn: lsn) }
    case .removed:
      if core.fault != .loseRemoval { try removeItem(record, lsn: lsn) }
      try remove(record, lsn: lsn)
    case .confirmed, .released, .expired:
      try applyLines(record, lsn: lsn)
      if record.kind == .confirmed, record.limits.count > 0 { try sell(record, lsn: lsn) }
      try change(record, lsn: lsn)
    case .extended: try change(record, lsn: lsn)
    case .clock: break
    }
  }

  // MARK: Items

  private func applyLines(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    for index in 0..<record.lineCount {
      let line = record.line(index)
      guard line.ordinal < core.items.count else { throw impossible("an item that is not there") }
      // It keeps what was held of it.
      if record.kind == .replaced, line.version == 0 { continue }
      if lsn <= core.items[line.ordinal].lsn.load(ordering: .relaxed) { continue }
      let level = StockLevel(
        item: ItemHandle(ordinal: line.ordinal), onHand: line.onHand, held: line.held,
        committed: core.fault == .loseCommitted ? 0 : line.committed,
        safetyStock: core.items[line.ordinal].safetyStock, version: line.version)
      guard line.version > 1, !core.isRemoved(line.ordinal) else {
        throw impossible("an item made by a reservation")
      }
      try setNext(level, lsn: lsn)
    }
  }

  private func adjustItems(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    var isFirst = true
    try record.forEachChange { change throws(JournalError) in
      if core.fault == .batchHalfReplayed, record.kind == .adjustedTogether, !isFirst { return }
      isFirst = false
      try adjustItem(
        change.level, change.name ?? ItemName(sku: .empty, location: .empty), tellsSale: false,
        lsn: lsn)
    }
  }

  /// - Parameters:
  ///   - name: empty where the item was there.
  ///   - tellsSale: the sale window is that of `level`; else it stays.
  private func adjustItem(
    _ level: StockLevel, _ name: ItemName, tellsSale: Bool, lsn: UInt64
  ) throws(JournalError) {
    let ordinal = level.item.ordinal
    if ordinal < core.items.count {
      if lsn <= core.items[ordinal].lsn.load(ordering: .relaxed) { return }
      let isRemoved = core.isRemoved(ordinal)
      // Made again where it was, or as it was.
      if name.sku.count == 0 ? !isRemoved : isRemoved && isNext(level, name) {
        return tellsSale ? try setAdjusted(level, lsn: lsn) : try setNext(level, lsn: lsn)
      }
      // Another has the place: a server that was started in between knew of nothing that named the first.
      if isRemoved, name.sku.count > 0 { giveAway(ordinal, lsn: lsn) }
    }
    guard level.version == core.firstVersion, try core.restore(level, name, lsn: lsn) else {
      throw impossible("an item that cannot be made")
    }
    shown?.insert(ordinal)
  }

  /// Whether this goes on with what is left of the item that has the place.
  private func isNext(_ level: StockLevel, _ name: ItemName) -> Bool {
    let word = core.items[level.item.ordinal].word.load(ordering: .relaxed)
    return level.version == ItemWord.version(word) &+ 1
      && core.items.hasName(level.item.ordinal, name)
  }

  /// What was decided before and names the item in this place was forgotten when another got it.
  private func giveAway(_ ordinal: UInt32, lsn: UInt64) {
    core.items.clear(ordinal)
    core.items.setRemovedAt(ordinal, lsn &- 1)
    givenAway[ordinal] = lsn
  }

  private func removeItem(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    let before = record.level
    let ordinal = before.item.ordinal
    guard ordinal < core.items.count else { throw impossible("an item that is not there") }
    if lsn <= core.items[ordinal].lsn.load(ordering: .relaxed) { return }
    guard !core.isRemoved(ordinal) else { throw impossible("an item that is removed twice") }
    try setNext(StockLevel(item: before.item, .none, version: before.version), lsn: lsn)
    core.setRemoved(ordinal, at: lsn)
  }

  private func remove(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard try beginUse(record, .remove, lsn: lsn) else { return }
    core.slab[record.slot].kind = .removed
    core.slab[record.slot].endedAt = record.time
    try requirePossible(record.slot)
  }

  /// The item's next version, which must be the one after its last.
  @inline(__always)
  private func setNext(_ level: StockLevel, lsn: UInt64) throws(JournalError) {
    let version = ItemWord.version(core.items[level.item.ordinal].word.load(ordering: .relaxed))
    guard version > 0, level.version == version &+ 1, level.isPossible else {
      throw impossible("version \(level.version) of an item after its version \(version)")
    }
    core.setLevel(level, lsn: lsn)
  }

  /// The same, of an adjustment, which says what the sale window is.
  private func setAdjusted(_ level: StockLevel, lsn: UInt64) throws(JournalError) {
    try setNext(level, lsn: lsn)
    if core.fault != .loseSaleWindow { core.items.setSale(level.item.ordinal, level.sale) }
  }

  /// Adds what is sold to what the subjects have: the checkpoint has it in places of their own, each with the number
  /// of its last sale.
  private func sell(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    try requireLimits(record, 1...StoreLimits.subjectsMax)
    if core.fault == .limitLosesSales { return }
    var reader = LimitReader(record.limits)
    while let limit = reader.next() {
      let subject = core.keys.subjectHash(limit.subject)
      for index in 0..<record.lineCount where record.line(index).quantity != 0 {
        let line = record.line(index)
        guard 0...RecoveryLimits.unitsMax ~= line.quantity else {
          throw impossible("a sale of \(line.quantity) units")
        }
        guard !core.subjects.isBeyondCap else { throw .tooManyLimits(core.limits) }
        core.subjects.replay(
          SubjectSales(
            subject: subject, ordinal: line.ordinal, sold: line.quantity, lsn: lsn))
      }
    }
  }

  private func requireLimits(
    _ record: JournalRecord, _ counts: ClosedRange<Int>
  ) throws(JournalError) {
    guard let count = LimitReader.count(record.limits), counts ~= count else {
      throw impossible("limits that are none")
    }
  }

  // MARK: Reservations

  private func hold(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard try beginUse(record, .reserve, lsn: lsn) else { return }
    let slot = record.slot
    guard record.lineCount >= 1, record.lineCount <= StoreLimits.linesMax else {
      throw impossible("a reservation of \(record.lineCount) lines")
    }
    core.slab[slot].setLineCount(record.lineCount)
    for index in 0..<record.lineCount {
      let line = record.line(index)
      guard line.quantity > 0, line.quantity <= RecoveryLimits.unitsMax else {
        throw impossible("a hold of \(line.quantity) units")
      }
      core.slab[slot].setLine(
        index, ViewLine(item: ItemHandle(ordinal: line.ordinal), quantity: line.quantity))
    }
    core.slab[slot].kind = .held
    core.slab[slot].owner = core.keys.owner(record.caller)
    core.slab[slot].expiresAt = record.expiresAt
    core.slab[slot].firstExpiresAt = record.expiresAt
    try requireLimits(record, 0...StoreLimits.subjectsMax)
    if let choice = record.choice {
      guard let choice = HoldChoice(rawValue: choice), choice != .asAsked else {
        throw impossible("a choice of lines that is none")
      }
      if core.fault != .loseAlternative { core.slab[slot].setChoice(choice) }
    }
    setReference(slot, record.reference, limits: record.limits)
    try requirePossible(slot)
  }

  /// It comes into the index when all is read.
  private func setReference(
    _ slot: UInt32, _ reference: BorrowedBytes, limits: BorrowedBytes = .empty
  ) {
    if reference.count == 0, limits.count == 0 { return }
    let before = core.slab[slot].referenceNode
    core.slab[slot].referenceNode = ReferenceNode(
      reference, hash: core.keys.referenceHash(reference), slot: slot, limits: limits)
    before?.free()
  }

  /// The reservation of a Replace has its new lines.
  private func replaceLines(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    let id = record.replacedID
    let slot = id.slot
    let lineCount = heldCount(record)
    guard lineCount >= 1, lineCount <= StoreLimits.linesMax else {
      throw impossible("a reservation of \(lineCount) lines")
    }
    for index in 0..<lineCount {
      guard 1...RecoveryLimits.unitsMax ~= record.line(index).quantity else {
        throw impossible("a hold of \(record.line(index).quantity) units")
      }
    }
    guard core.slab.owner(slot) != nil else { throw impossible("a change of no reservation") }
    if lsn <= stamps[slot / UInt32(ReservationSlab.chunkRecords)] { return }
    guard core.slab[slot].generation == id.generation, core.slab[slot].kind == .held,
      let revision = record.revision
    else { throw impossible("a change that the reservation cannot have seen") }
    core.slab[slot].lsn = lsn
    core.slab[slot].replaceLines(lineCount) { Self.viewLine(record, $0) }
    core.slab[slot].expiresAt = record.expiresAt
    try setRevision(slot, revision)
    setReference(slot, record.reference, limits: core.slab[slot].limits)
    try requirePossible(slot)
  }

  /// The key of a Replace has its answer.
  private func answerReplace(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard try beginUse(record, .replace, lsn: lsn) else { return }
    guard let revision = record.revision, 1..<(1 << 62) ~= revision else {
      throw impossible("a revision that is none")
    }
    core.slab[record.slot].setReplaced(
      record.replacedID, expiresAt: record.expiresAt, createdAt: record.reservationCreatedAt,
      revision: revision, lineCount: heldCount(record)
    ) { Self.viewLine(record, $0) }
    setReference(record.slot, record.reference)
    try requirePossible(record.slot)
  }

  /// Lines of a replaced record with units that are held; those without stand behind them.
  private func heldCount(_ record: JournalRecord) -> Int {
    (0..<record.lineCount).first { record.line($0).quantity == 0 } ?? record.lineCount
  }

  private static func viewLine(_ record: JournalRecord, _ index: Int) -> ViewLine {
    let line = record.line(index)
    return ViewLine(item: ItemHandle(ordinal: line.ordinal), quantity: line.quantity)
  }

  private func requirePossible(_ slot: UInt32) throws(JournalError) {
    guard core.slab[slot].hasPossibleNumbers else {
      throw impossible("a decision with impossible numbers")
    }
  }

  private func refuse(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard let refusal = record.refusal, let method = record.refusedMethod else {
      throw impossible("a refusal without its reason")
    }
    if case .itemsNotFound(let first, let places) = refusal,
      !RecordedRefusal.arePlaces(first: first, places)
    {
      throw impossible("a refusal of items that are none")
    }
    var limits = BorrowedBytes.empty
    if case .limitExceeded = refusal {
      try requireLimits(record, 1...1)
      limits = record.limits
    }
    guard record.shortageCount < StoreLimits.linesMax,
      record.closedSaleCount <= StoreLimits.linesMax
    else {
      throw impossible("a refusal of more items than a reservation has")
    }
    guard try beginUse(record, method, lsn: lsn) else { return }
    core.slab[record.slot].setRefusal(refusal)
    setReference(record.slot, .empty, limits: limits)
    if let tried = record.choice {
      guard case .insufficientStock = refusal, StoreLimits.areTried(Int64(tried)) else {
        throw impossible("a refusal of alternatives that are none")
      }
      core.slab[record.slot].setAlternativesTried(Int(tried))
    }
    if record.shortageCount > 0 { core.slab[record.slot].setShortageCount(record.shortageCount) }
    for index in 0..<record.shortageCount {
      core.slab[record.slot].setShortage(index, record.shortage(index))
    }
    if record.closedSaleCount > 1 {
      core.slab[record.slot].setShortageCount(record.closedSaleCount - 1)
    }
    for index in 1..<max(1, record.closedSaleCount) {
      core.slab[record.slot].setClosedSale(index - 1, record.closedSale(index))
    }
    core.slab[record.slot].endedAt = record.time
    try requirePossible(record.slot)
  }

  private func adjust(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard try beginUse(record, .adjust, lsn: lsn) else { return }
    core.slab[record.slot].adjusted = record.level
    core.slab[record.slot].kind = .adjusted
    core.slab[record.slot].endedAt = record.time
    try requirePossible(record.slot)
  }

  private func adjustTogether(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    guard try beginUse(record, .adjustTogether, lsn: lsn) else { return }
    var levels: [StockLevel] = []
    record.forEachChange { levels.append($0.level) }
    core.slab[record.slot].setAdjustedTogether(levels.count) { levels[$0] }
    core.slab[record.slot].endedAt = record.time
    try requirePossible(record.slot)
  }

  /// An import has come further, or begins.
  private func importRows(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    let slot = record.slot
    let (done, here) = record.importedRows
    guard here <= done, done <= RecoveryLimits.rowsMax else {
      throw impossible("rows of no import")
    }
    if core.slab.owner(slot) != nil, core.slab[slot].kind == .imported,
      core.slab[slot].generation == record.generation,
      core.slab[slot].identity
        == core.keys.identity(
          .importRows, IdempotencyScope(caller: record.caller, key: record.key))
    {
      if lsn <= stamps[slot / UInt32(ReservationSlab.chunkRecords)] { return }
      guard core.slab[slot].importedRows == done - here else {
        throw impossible("rows of an import that it has not come to")
      }
      core.slab[slot].lsn = lsn
    } else {
      guard try beginUse(record, .importRows, lsn: lsn) else { return }
      guard done == here else { throw impossible("an import that begins in its middle") }
      core.slab[slot].kind = .imported
    }
    core.slab[slot].importedRows = done
    core.slab[slot].endedAt = record.time
    try requirePossible(slot)
  }

  /// Empties the record's slot for a new decision. False where the slot holds it, or a later one.
  private func beginUse(
    _ record: JournalRecord, _ method: StoreKeys.Method, lsn: UInt64
  ) throws(JournalError) -> Bool {
    let slot = record.slot
    let chunk = slot / UInt32(ReservationSlab.chunkRecords)
    guard chunk < core.slab.chunkCapacity else { throw .tooManyReservations(core.limits) }
    guard Int(chunk) < Int(core.slab.chunkCount) + RecoveryLimits.chunksAhead else {
      throw impossible("a decision far from all others")
    }
    if lsn <= stamps[chunk] { return false }
    let identity = core.keys.identity(
      method, IdempotencyScope(caller: record.caller, key: record.key))
    guard core.slab.restoreChunk(chunk, shard: core.shardNumber(identity)) else {
      throw impossible("a decision in the place of others")
    }
    // What has ended may have been forgotten.
    if core.slab[slot].kind == .held { throw impossible("a decision in the place of a hold") }
    core.slab[slot].removeLines()
    core.slab[slot].identity = identity
    core.slab[slot].generation = record.generation
    core.slab[slot].fingerprint = record.fingerprint
    core.slab[slot].createdAt = record.time
    core.slab[slot].lsn = lsn
    return true
  }

  /// A transition of the reservation in the record's slot.
  private func change(_ record: JournalRecord, lsn: UInt64) throws(JournalError) {
    let slot = record.slot
    guard core.slab.owner(slot) != nil else { throw impossible("a change of no reservation") }
    if lsn <= stamps[slot / UInt32(ReservationSlab.chunkRecords)] { return }
    guard core.slab[slot].generation == record.generation,
      core.slab[slot].kind == (record.isTakenAgain ? .expired : .held)
    else {
      throw impossible("a change that the reservation cannot have seen")
    }
    core.slab[slot].lsn = lsn
    switch record.kind {
    case .extended:
      core.slab[slot].expiresAt = record.expiresAt
      if let revision = record.revision { try setRevision(slot, revision) }
      return try requirePossible(slot)
    case .confirmed: core.slab[slot].kind = try keepSoldQuantities(record)
    case .released: core.slab[slot].kind = .released
    default: core.slab[slot].kind = .expired
    }
    if record.kind == .expired { return }
    core.slab[slot].endedAt = record.time
  }

  /// The reservation's next revision, which must be the one after its last.
  private func setRevision(_ slot: UInt32, _ revision: UInt64) throws(JournalError) {
    guard revision == core.slab[slot].revision &+ 1, revision > 1 else {
      throw impossible(
        "revision \(revision) of a reservation after its revision \(core.slab[slot].revision)")
    }
    core.slab[slot].revision = revision
  }

  /// Each line keeps what was sold of it; an item that the record does not name was not sold at all.
  private func keepSoldQuantities(_ record: JournalRecord) throws(JournalError) -> RecordKind {
    let slot = record.slot
    var isInPart = false
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      var sold: Int64 = 0
      // Mostly the record has the same lines in the same order.
      if index < record.lineCount, record.line(index).ordinal == line.item.ordinal {
        sold = record.line(index).quantity
      } else {
        for other in 0..<record.lineCount where record.line(other).ordinal == line.item.ordinal {
          sold = record.line(other).quantity
        }
      }
      guard sold >= 0, sold <= line.quantity else { throw impossible("more sold than was held") }
      if sold < line.quantity {
        isInPart = true
        core.slab[slot].keepToldLines()
      }
      core.slab[slot].setLine(index, ViewLine(item: line.item, quantity: sold))
    }
    return .confirmed(inPart: isInPart, committed: record.keepsCommitted)
  }

  @inline(never)
  private func impossible(_ finding: String) -> JournalError {
    .damaged(
      Damage(
        file: "the journal", offset: Int(clamping: batchLSN), lsn: batchLSN, finding: finding))
  }
}
