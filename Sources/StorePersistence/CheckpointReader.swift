internal import CPlatform
// Reads a checkpoint (CheckpointFormat.swift) into tables that nobody else uses yet. Its checksums say
// that the bytes are those that were written, and yet every number is checked before it is used.
internal import Log
internal import Posix
internal import StockStore
internal import Synchronization

/// One checkpoint file: its header and its end, and on demand what stands between.
struct CheckpointReader: Sendable {
  let header: CheckpointHeader
  let end: CheckpointEnd
  let name: String
  /// Newer ones that are damaged, for which this one stands in.
  var newerDamaged: [Damage] = []
  /// The journal is damaged where it ends before this.
  var mustReach: UInt64
  /// Of the whole file.
  let byteCount: Int
  private let file: any StorageFile
  /// Where the first block behind the header begins.
  private let itemsPlace: Int

  private static let endBlockBytes = BlockHeader.byteCount + CheckpointEnd.byteCount

  /// Reads header and end of the checkpoint with this number.
  init(storage: any Storage, lsn: UInt64) throws(JournalError) {
    let name = FileNames.checkpoint(lsn)
    self.name = name
    let file = try JournalError.attempt("open", name) { () throws(Errno) in try storage.open(name) }
    self.file = file
    byteCount = try JournalError.attempt("measure", name) { () throws(Errno) in
      try file.byteCount()
    }
    let endPlace = byteCount - Self.endBlockBytes
    let first = BlockReader(file: file, name: name, lsn: lsn, place: 0, end: byteCount)
    let header = try first.next(.header) { fields throws(JournalError) in
      var first = fields
      let version: UInt32 = first.next()
      if version > CheckpointHeader.version {
        throw .newer(file: name, format: version, upTo: CheckpointHeader.version)
      }
      return CheckpointHeader(&fields)
    }
    guard let header, header.start.lsn == lsn else {
      throw first.damage("not the header of this checkpoint")
    }
    self.header = header
    itemsPlace = first.place
    let last = BlockReader(
      file: file, name: name, lsn: lsn, place: max(first.place, endPlace), end: byteCount)
    guard let end = try last.next(.end, { CheckpointEnd(&$0) }), last.isAtEnd else {
      throw last.damage("no whole end of the checkpoint")
    }
    guard end.reservationsOffset >= UInt64(first.place), end.reservationsOffset <= UInt64(endPlace),
      end.endLSN >= lsn, end.endLSN <= JournalPosition.countMax, end.chunks <= UInt64(byteCount)
    else { throw last.damage("an end that does not fit the file") }
    self.end = end
    mustReach = end.endLSN
  }

  /// Reads every block and makes nothing of it.
  func check() throws(JournalError) {
    let reader = BlockReader(
      file: file, name: name, lsn: header.start.lsn, place: 0, end: byteCount)
    while !reader.isAtEnd { try reader.next(nil) { _ throws(JournalError) in } }
  }

  /// Puts everything into the tables of `core`, items and reservations at the same time, and in
  /// `stamps` when each chunk was copied. The tables must be as long as the header says, or longer.
  func load(into core: StoreCore, stamps: Region<UInt64>) throws(JournalError) {
    let (items, chunks) = try concurrently(
      isWorthIt: byteCount > Recovery.bytesWorthAThread,
      { () throws(JournalError) in try loadItems(into: core) },
      { () throws(JournalError) in try loadReservations(into: core, stamps: stamps) })
    guard items == end.items, chunks.count == end.chunks, chunks.records == end.records else {
      throw .damaged(
        Damage(
          file: name, offset: byteCount - Self.endBlockBytes, lsn: nil,
          finding: "\(items) items and \(chunks.records) decisions, but \(end.items) and "
            + "\(end.records) were written"))
    }
  }

  /// Loads the items, and what was sold of them under limits: how many items there were.
  func loadItems(into core: StoreCore) throws(JournalError) -> UInt64 {
    let reader = BlockReader(
      file: file, name: name, lsn: header.start.lsn,
      place: itemsPlace, end: Int(end.reservationsOffset))
    var count: UInt64 = 0
    var sales: UInt64 = 0
    while !reader.isAtEnd {
      // Items come first.
      let isWhole = try reader.next(sales == 0 ? [.items, .sales] : [.sales]) {
        kind, fields throws(JournalError) in
        while !fields.isAtEnd {
          if kind == .items {
            guard try loadItem(&fields, core) else { return false }
            count += 1
          } else {
            guard try loadSales(&fields, core) else { return false }
            sales += 1
          }
        }
        return true
      }
      guard isWhole else { throw reader.damage("an impossible item") }
    }
    // Version 1 has another number there.
    guard sales == (header.version == 1 ? 0 : end.sales) else {
      throw reader.damage("\(sales) sales under limits, but \(end.sales) were written")
    }
    return count
  }

  private func loadSales(
    _ fields: inout FieldReader, _ core: StoreCore
  ) throws(JournalError) -> Bool {
    let sales = SubjectSales(
      subject: SubjectHash(low: fields.next(), high: fields.next()), ordinal: fields.next(),
      sold: 0, lsn: 0)
    let zero: UInt32 = fields.next()
    let sold: Int64 = fields.next()
    let lsn: UInt64 = fields.next()
    guard !fields.hasFailed, zero == 0, sales.ordinal < core.items.count,
      1...RecoveryLimits.unitsMax ~= sold, lsn > 0, lsn <= end.endLSN
    else { return false }
    guard !core.subjects.isBeyondCap else { throw .tooManyLimits(core.limits) }
    core.subjects.restore(
      SubjectSales(subject: sales.subject, ordinal: sales.ordinal, sold: sold, lsn: lsn))
    return true
  }

  private func loadItem(_ fields: inout FieldReader, _ core: StoreCore) throws(JournalError) -> Bool
  {
    let ordinal: UInt32 = fields.next()
    let skuLength: UInt8 = fields.next()
    let locationLength: UInt8 = fields.next()
    let flags: UInt16 = fields.next()
    let version: UInt64 = fields.next()
    let onHand: Int64 = fields.next()
    let held: Int64 = fields.next()
    let safetyStock: Int64 = fields.next()
    let lsn: UInt64 = fields.next()
    let committed: Int64 = flags & CheckpointFlags.itemHasCommitted != 0 ? fields.next() : 0
    let sale = flags & CheckpointFlags.itemHasSale != 0 ? Self.readSale(&fields) : .always
    let hasRemoval = flags & CheckpointFlags.itemHasRemoval != 0
    let removedAt: UInt64 = hasRemoval ? fields.next() : 0
    let name = ItemName(
      sku: fields.text(Int(skuLength)), location: fields.text(Int(locationLength)))
    fields.skipPadding()
    guard !fields.hasFailed, flags & ~CheckpointFlags.ofItem == 0, lsn <= end.endLSN, let sale,
      hasRemoval ? 1...max(1, lsn) ~= removedAt : flags & CheckpointFlags.itemIsRemoved == 0
    else { return false }
    let level = StockLevel(
      item: ItemHandle(ordinal: ordinal), onHand: onHand, held: held, committed: committed,
      safetyStock: safetyStock, version: version, sale: sale)
    guard try core.restore(level, name, lsn: lsn) else { return false }
    if hasRemoval { core.items.setRemovedAt(ordinal, removedAt) }
    if flags & CheckpointFlags.itemIsRemoved == 0 { return true }
    // Nothing is left of it but its version.
    guard removedAt == lsn, level == StockLevel(item: level.item, .none, version: version) else {
      return false
    }
    core.setRemoved(ordinal, at: lsn)
    return true
  }

  /// nil where the zeros are none.
  private static func readSale(_ fields: inout FieldReader) -> SaleWindow? {
    let lowBits: UInt32 = fields.next()
    let zero: UInt32 = fields.next()
    let sale = SaleWindow(fromWord: fields.next(), untilWord: fields.next(), lowBits: lowBits)
    return zero == 0 ? sale : nil
  }

  private func loadReservations(
    into core: StoreCore, stamps: Region<UInt64>
  ) throws(JournalError) -> (count: UInt64, records: UInt64) {
    let reader = BlockReader(
      file: file, name: name, lsn: header.start.lsn, place: Int(end.reservationsOffset),
      end: byteCount - Self.endBlockBytes)
    var count: UInt64 = 0
    var records: UInt64 = 0
    while !reader.isAtEnd {
      let isWhole = try reader.next(.reservations) { fields throws(JournalError) in
        while !fields.isAtEnd {
          guard let used = try loadChunk(&fields, core, stamps) else { return false }
          count += 1
          records += UInt64(used)
        }
        return true
      }
      guard isWhole else { throw reader.damage("an impossible reservation") }
    }
    return (count, records)
  }

  /// How many slots of the chunk are in use; nil where something cannot be.
  private func loadChunk(
    _ fields: inout FieldReader, _ core: StoreCore, _ stamps: Region<UInt64>
  ) throws(JournalError) -> UInt32? {
    let chunk: UInt32 = fields.next()
    let shard: UInt32 = fields.next()
    let stamp: UInt64 = fields.next()
    let used: UInt32 = fields.next()
    let zero: UInt32 = fields.next()
    guard !fields.hasFailed, zero == 0, shard < core.shards.count,
      used <= UInt32(ReservationSlab.chunkRecords), stamp <= end.endLSN
    else { return nil }
    guard chunk < core.slab.chunkCapacity else { throw .tooManyReservations(core.limits) }
    guard UInt64(chunk) < end.chunks + UInt64(RecoveryLimits.chunksAhead) else { return nil }
    guard core.slab.owner(chunk * UInt32(ReservationSlab.chunkRecords)) == nil,
      core.slab.restoreChunk(chunk, shard: Int(shard))
    else { return nil }
    stamps[chunk] = stamp
    for _ in 0..<used {
      guard loadSlot(&fields, core, chunk, shard: Int(shard)) else { return nil }
    }
    return used
  }

  private func loadSlot(
    _ fields: inout FieldReader, _ core: StoreCore, _ chunk: UInt32, shard: Int
  ) -> Bool {
    let index: UInt8 = fields.next()
    let kind: UInt8 = fields.next()
    let lineCount: UInt8 = fields.next()
    let flags: UInt8 = fields.next()
    let generation: UInt32 = fields.next()
    let identity = Identity(low: fields.next(), high: fields.next())
    guard !fields.hasFailed, index < ReservationSlab.chunkRecords,
      let kind = RecordKind(rawValue: kind), core.shardNumber(identity) == shard,
      flags & ~CheckpointFlags.ofSlot == 0,
      flags & CheckpointFlags.slotHasLimits == 0 || flags & CheckpointFlags.slotHasDetails != 0
    else { return false }
    let slot = chunk * UInt32(ReservationSlab.chunkRecords) + UInt32(index)
    // Filled here, and put in its place at once: a look at the table is a call of another module.
    var record = ReservationRecord.free
    record.generation = generation
    record.identity = identity
    record.fingerprint = fields.next()
    record.createdAt = fields.next()
    record.restoreNumbers((first: fields.next(), second: fields.next()))
    record.restoreEnd(fields.next())
    record.lsn = fields.next()
    let hasChoice = flags & CheckpointFlags.slotHasChoice != 0
    let isWhole =
      (hasChoice
        ? record.readChosenLines(kind, Int(lineCount), &fields)
        : record.readLines(kind, Int(lineCount), &fields))
      && (flags & CheckpointFlags.slotHasDetails == 0
        || record.readDetails(
          slot, core.keys, hasLimits: flags & CheckpointFlags.slotHasLimits != 0, &fields))
      && record.hasLimitsOfItsKind && !fields.hasFailed
      && record.lsn <= end.endLSN && record.hasPossibleNumbers
    guard isWhole, core.slab.restore(record, slot) else {
      record.removeLines()
      return false
    }
    return true
  }
}

extension ReservationRecord {
  /// Reads `count` lines, as SavedLines has them, and becomes a record of this kind whose
  /// times are read already. False where that cannot be.
  fileprivate mutating func readLines(
    _ kind: RecordKind, _ count: Int, _ fields: inout FieldReader
  ) -> Bool {
    switch kind {
    case .free: return false
    case .held, .confirmed, .confirmedInPart, .confirmedCommitted, .confirmedInPartCommitted,
      .released, .expired:
      guard count >= 1, count <= StoreLimits.linesMax else { return false }
      setLineCount(count)
      for index in 0..<count {
        let (item, quantity) = Self.readLine(&fields)
        guard quantity >= 0, quantity <= RecoveryLimits.unitsMax else { return false }
        setLine(index, ViewLine(item: ItemHandle(ordinal: item), quantity: quantity))
      }
      self.kind = kind
    case .refusedInsufficientStock:
      guard count % 2 == 1, count < SavedLines.countMax else { return false }
      let (item, tried) = Self.readLine(&fields)
      guard tried == 0 || StoreLimits.areTried(tried) else { return false }
      setRefusal(
        .insufficientStock(
          item: ItemHandle(ordinal: item), requested: savedNumbers.first,
          available: savedNumbers.second))
      setAlternativesTried(Int(tried))
      setShortageCount(count / 2)
      for index in 0..<(count / 2) {
        let (requested, available) = (Self.readLine(&fields), Self.readLine(&fields))
        guard requested.item == available.item else { return false }
        setShortage(
          index,
          Shortage(
            item: ItemHandle(ordinal: requested.item), requested: requested.quantity,
            available: available.quantity))
      }
    case .refusedNotOnSale:
      guard count % 2 == 1, count < SavedLines.countMax else { return false }
      let (item, lowBits) = Self.readLine(&fields)
      guard let lowBits = UInt32(exactly: lowBits) else { return false }
      setRefusal(
        .notOnSale(
          item: ItemHandle(ordinal: item),
          SaleWindow(
            fromWord: UInt64(bitPattern: savedNumbers.first),
            untilWord: UInt64(bitPattern: savedNumbers.second), lowBits: lowBits)))
      setShortageCount(count / 2)
      for index in 0..<(count / 2) {
        let (first, second) = (Self.readLine(&fields), Self.readLine(&fields))
        let window = SaleWindow(
          fromWord: UInt64(bitPattern: first.quantity),
          untilWord: UInt64(bitPattern: second.quantity), lowBits: second.item)
        setClosedSale(
          index, ClosedSale(item: ItemHandle(ordinal: first.item), window: window))
      }
    case .refusedItemsNotFound:
      guard count == 1 else { return false }
      let line = Self.readLine(&fields)
      let places = UInt64(bitPattern: line.quantity)
      guard RecordedRefusal.arePlaces(first: Int(line.item), places) else { return false }
      setRefusal(.itemsNotFound(first: Int(line.item), places: places))
    case .refusedLineNotFound:
      guard count == 1 else { return false }
      setRefusal(.lineNotFound(Int(Self.readLine(&fields).item)))
    case .removed:
      guard count == 0 else { return false }
      self.kind = kind
    case .refusedItemNotEmpty:
      guard count == 1 else { return false }
      let line = Self.readLine(&fields)
      setRefusal(
        .itemNotEmpty(
          item: ItemHandle(ordinal: line.item), onHand: savedNumbers.first,
          held: savedNumbers.second, committed: line.quantity))
    case .refusedOnHandLimit:
      guard count <= 1 else { return false }
      let change = count == 0 ? 0 : Int(Self.readLine(&fields).item)
      guard change < StoreLimits.linesMax else { return false }
      setRefusal(.onHandLimit(change: change))
    case .refusedInsufficientCommitted:
      guard count == 1 else { return false }
      setRefusal(
        .insufficientCommitted(
          item: ItemHandle(ordinal: Self.readLine(&fields).item), requested: savedNumbers.first,
          committed: savedNumbers.second))
    case .refusedLimitExceeded:
      guard count == 1 else { return false }
      setRefusal(
        .limitExceeded(
          item: ItemHandle(ordinal: Self.readLine(&fields).item), requested: savedNumbers.first,
          used: savedNumbers.second))
    case .adjusted:
      guard count == 2 || count == 3 || count == 5 else { return false }
      let first = Self.readLine(&fields)
      let second = Self.readLine(&fields)
      let committed = count >= 3 ? Self.readLine(&fields).quantity : 0
      var sale = SaleWindow.always
      if count == 5 {
        let (from, until) = (Self.readLine(&fields), Self.readLine(&fields))
        sale = SaleWindow(
          fromWord: UInt64(bitPattern: from.quantity),
          untilWord: UInt64(bitPattern: until.quantity), lowBits: from.item)
        // Of a longer number the record keeps a part.
        guard sale.isPossible else { return false }
      }
      adjusted = StockLevel(
        item: ItemHandle(ordinal: first.item), onHand: savedNumbers.first,
        held: savedNumbers.second, committed: committed, safetyStock: first.quantity,
        version: UInt64(bitPattern: second.quantity), sale: sale)
      self.kind = kind
    case .imported:
      guard count == 0 else { return false }
      self.kind = kind
    case .adjustedTogether:
      guard 1...StoreLimits.linesMax ~= count else { return false }
      setAdjustedTogether(count) { _ in Self.readLevel(&fields) }
      fields.skipPadding()
    case .replaced:
      guard count >= 3, count <= 2 + StoreLimits.linesMax else { return false }
      let first = Self.readLine(&fields)
      let second = Self.readLine(&fields)
      guard first.quantity >= 0, first.quantity >> Int64(ReservationID.tagBits) == 0 else {
        return false
      }
      let (saved, end) = (savedNumbers, savedEnd)
      setReplaced(
        ReservationID(slot: first.item, generation: second.item, tag: UInt64(first.quantity)),
        expiresAt: saved.first, createdAt: saved.second, revision: 1, lineCount: count - 2
      ) { _ in
        let (item, quantity) = Self.readLine(&fields)
        return ViewLine(item: ItemHandle(ordinal: item), quantity: quantity)
      }
      return endedAt == end
        && (0..<lineCount).allSatisfy { 1...RecoveryLimits.unitsMax ~= line($0).quantity }
    }
    return true
  }

  /// Reads the choice and the lines of a reservation, `count` with those of its first answer, likewise.
  fileprivate mutating func readChosenLines(
    _ kind: RecordKind, _ count: Int, _ fields: inout FieldReader
  ) -> Bool {
    let choice = HoldChoice(rawValue: fields.next())
    let firstCount = Int(fields.next() as UInt8)
    fields.skipPadding()
    guard !fields.hasFailed, let choice, choice != .asAsked,
      firstCount <= min(count, StoreLimits.linesMax), firstCount == 0 || choice.tellsLines,
      readLines(kind, count - firstCount, &fields), state != nil
    else { return false }
    setChoice(choice)
    if firstCount == 0 { return true }
    setFirstLines(firstCount) { _, _ in
      let (item, quantity) = Self.readLine(&fields)
      return ViewLine(item: ItemHandle(ordinal: item), quantity: quantity)
    }
    return (0..<firstCount).allSatisfy { 1...RecoveryLimits.unitsMax ~= toldLine($0).quantity }
  }

  /// Reads the details of a record that has its lines.
  fileprivate mutating func readDetails(
    _ slot: UInt32, _ keys: StoreKeys, hasLimits: Bool, _ fields: inout FieldReader
  ) -> Bool {
    let revision: UInt64 = fields.next()
    let referenceLength: UInt8 = fields.next()
    let reference = fields.text(Int(referenceLength))
    let limitBytes: UInt16 = hasLimits ? fields.next() : 0
    let limits = fields.text(Int(limitBytes))
    fields.skipPadding()
    guard !fields.hasFailed, 1..<(1 << 62) ~= revision,
      reference.count <= StoreLimits.referenceBytesMax, !hasLimits || limits.count > 0,
      state != nil || kind == .replaced
        || kind == .refusedLimitExceeded && revision == 1 && reference.count == 0
    else { return false }
    self.revision = revision
    if reference.count > 0 || limits.count > 0 {
      referenceNode = ReferenceNode(
        reference, hash: keys.referenceHash(reference), slot: slot, limits: limits)
    }
    return true
  }

  /// An item's number that is too large becomes one that no item has.
  private static func readLevel(_ fields: inout FieldReader) -> StockLevel {
    let item = ItemHandle(ordinal: UInt32(clamping: fields.nextVarint()))
    let version = fields.nextVarint()
    return StockLevel(
      item: item, onHand: Int64(bitPattern: fields.nextVarint()),
      held: Int64(bitPattern: fields.nextVarint()),
      committed: Int64(bitPattern: fields.nextVarint()), safetyStock: fields.nextSignedVarint(),
      version: version)
  }

  /// Whether it has as many limits as its kind can have.
  fileprivate var hasLimitsOfItsKind: Bool {
    let count = LimitReader.count(limits)
    if kind == .refusedLimitExceeded { return count == 1 }
    return count == 0 || state != nil && count != nil
  }

  private static func readLine(_ fields: inout FieldReader) -> (item: UInt32, quantity: Int64) {
    let item: UInt32 = fields.next()
    let zero: UInt32 = fields.next()
    let quantity: Int64 = fields.next()
    return (item, zero == 0 ? quantity : -1)
  }
}

/// Reads the blocks of a checkpoint from one place to another, many with one read.
@safe private final class BlockReader {
  private static let windowBytes = 1 << 20

  private let file: any StorageFile
  private let name: String
  private let lsn: UInt64
  private let end: Int
  private let window: UnsafeMutableRawBufferPointer
  /// What of the file is in the window.
  private var windowRange = 0..<0
  /// Where the next block begins.
  private(set) var place: Int

  init(file: any StorageFile, name: String, lsn: UInt64, place: Int, end: Int) {
    self.file = file
    self.name = name
    self.lsn = lsn
    self.place = place
    self.end = end
    unsafe window = .allocate(byteCount: Self.windowBytes, alignment: 64)
  }

  deinit { unsafe window.deallocate() }

  var isAtEnd: Bool { place == end }

  /// Calls `body` with the payload of the next block, which must be whole and of this kind; nil: of any.
  func next<Result>(
    _ kind: BlockKind?, _ body: (inout FieldReader) throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    try next(kind.map { [$0] }) { _, fields throws(JournalError) in try body(&fields) }
  }

  /// The same of a block of one of these kinds, which `body` is told.
  func next<Result>(
    _ kinds: [BlockKind]?, _ body: (BlockKind, inout FieldReader) throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    let bytes = try unsafe nextBytes()
    var fields = unsafe FieldReader(bytes)
    guard let header = BlockHeader(&fields), kinds?.contains(header.kind) ?? true,
      header.place == UInt64(place),
      header.checkpointLSN == lsn
    else { throw damage("not the block that belongs there") }
    let blockBytes = BlockHeader.byteCount + header.payloadBytes
    guard blockBytes <= bytes.count else { throw damage("a block without its end") }
    // Both ranges end where the block ends, within the bytes.
    let checked = unsafe UnsafeRawBufferPointer(
      rebasing: bytes[BlockHeader.checkedOffset..<blockBytes])
    guard unsafe hf_crc32c(0, checked.baseAddress, checked.count) == header.checksum else {
      throw damage("a block with another checksum")
    }
    var payload = unsafe FieldReader(
      UnsafeRawBufferPointer(rebasing: bytes[BlockHeader.byteCount..<blockBytes]))
    let result = try body(header.kind, &payload)
    place += blockBytes
    return result
  }

  /// As many bytes as the longest block has, from the present place on; fewer at the end.
  private func nextBytes() throws(JournalError) -> UnsafeRawBufferPointer {
    let wanted = min(BlockHeader.byteCount + BlockBuilder.payloadBytesMax, max(0, end - place))
    if place + wanted > windowRange.upperBound {
      let count = unsafe min(window.count, max(0, end - place))
      let part = unsafe UnsafeMutableRawBufferPointer(rebasing: window[..<count])
      let read = try JournalError.attempt("read", name) { () throws(Errno) in
        try unsafe file.read(into: part, at: place)
      }
      windowRange = place..<(place + min(read, count))
    }
    let start = place - windowRange.lowerBound
    let count = min(wanted, windowRange.count - start)
    return unsafe UnsafeRawBufferPointer(rebasing: window[start..<(start + count)])
  }

  /// Damage of the block at the present place.
  func damage(_ finding: String) -> JournalError {
    .damaged(Damage(file: name, offset: place, lsn: nil, finding: finding))
  }
}
