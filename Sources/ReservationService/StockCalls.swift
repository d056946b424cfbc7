// StockService: from messages to commands and from decisions to messages.
internal import Bytes
internal import GRPC
internal import StockStore

extension HoldfastHandler {
  func adjustStock(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var request = AdjustStockRequest()
    while let tag = reader.next() { request.read(tag, &reader) }
    guard reader.isWhole else { return refuse(reader, response) }
    let key = try rules.key(request.key)
    let command = try command(
      request, IdempotencyScope(caller: caller, key: key),
      reference: try rules.reference(request.reference), reason: try rules.reason(request.reason))
    let decision = session.adjust(command)
    return answer(decision, command.item, response) { level, writer in
      write(1, level, to: writer)
      writer.field(2, decision.replayed)
    }
  }

  func batchAdjustStock(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var key = BorrowedBytes.empty
    var reason = BorrowedBytes.empty
    var reference = BorrowedBytes.empty
    var count = 0
    session.clearChanges()
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): key = reader.bytes()
      case .bytes(2):
        let submessage = reader.enter()
        var request = AdjustStockRequest()
        while let tag = reader.next() { request.read(tag, &reader) }
        reader.leave(submessage, "changes", index: count)
        if reader.isWhole, count < StoreLimits.linesMax { append(request, count) }
        count += 1
      case .bytes(3): reason = reader.bytes()
      case .bytes(4): reference = reader.bytes()
      default: reader.other(tag, known: 1...4)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    guard count >= 1, count <= StoreLimits.linesMax else {
      badEntries.removeAll()
      throw FieldViolation("changes", "1 to 64 changes")
    }
    if let entry = badEntries.first { throw entry }
    let command = BatchAdjustCommand(
      scope: IdempotencyScope(caller: caller, key: try rules.key(key)),
      reference: try rules.reference(reference), reason: try rules.reason(reason))
    let decision = session.adjustTogether(command)
    switch decision.result {
    case .accepted(let count):
      for index in 0..<count { write(1, session.changedLevel(index), to: response.message) }
      response.message.field(2, decision.replayed)
    case .refused(let refusal):
      let change = session.refusedChange
      errors.refuse(
        refusal, isReplay: decision.replayed, session: session, response: response,
        change: change.map { ($0, session.item(ofChange: $0)) }
      ) { session.item(ofChange: $0) }
    }
    return decision.lsn
  }

  func removeItem(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var (key, reason) = (BorrowedBytes.empty, BorrowedBytes.empty)
    var (sku, location) = (BorrowedBytes.empty, BorrowedBytes.empty)
    var expectedVersion: UInt64 = 0
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): key = reader.bytes()
      case .bytes(2): sku = reader.bytes()
      case .bytes(3): location = reader.bytes()
      case .varint(4): expectedVersion = reader.varint()
      case .bytes(5): reason = reader.bytes()
      default: reader.other(tag, known: 1...5)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    key = try rules.key(key)
    let item = try rules.item(sku: sku, location: location)
    let command = RemoveCommand(
      scope: IdempotencyScope(caller: caller, key: key), item: item,
      expectedVersion: expectedVersion, reason: try rules.reason(reason))
    let decision = session.remove(command)
    return answer(decision, item, response) { _, writer in writer.field(1, decision.replayed) }
  }

  /// Adds change `index` to those that are made together, or notes what is wrong with it.
  private func append(_ request: AdjustStockRequest, _ index: Int) {
    do throws(FieldViolation) {
      switch session.appendChange(try part(request)) {
      case .appended, .full: break
      case .sameItem: throw FieldViolation("sku", "another item than in all other changes")
      case .namesTooLong:
        throw FieldViolation("sku", "with all SKUs and locations, 3072 bytes at most")
      }
    } catch {
      badEntries.append(error.inside("changes", at: index))
    }
  }

  /// A change that is one of several: what all have in common stands beside them.
  func part(_ request: AdjustStockRequest) throws(FieldViolation) -> AdjustCommand {
    let rule: StaticString = "empty: it stands beside the list"
    if request.key.count > 0 { throw FieldViolation("idempotency_key", rule) }
    if request.reason.count > 0 { throw FieldViolation("reason", rule) }
    if request.reference.count > 0 { throw FieldViolation("reference", rule) }
    if request.sale.isSet { throw FieldViolation("set_sale", "unset: AdjustStock sets it") }
    return try command(
      request, IdempotencyScope(caller: .empty, key: .empty), reference: .empty, reason: .empty)
  }

  private func command(
    _ request: AdjustStockRequest, _ scope: IdempotencyScope, reference: BorrowedBytes,
    reason: BorrowedBytes
  ) throws(FieldViolation) -> AdjustCommand {
    let item = try rules.item(sku: request.sku, location: request.location)
    let safetyStock = try safetyStock(request)
    let change = try change(request)
    let sale = try request.sale.window()
    if case .none = change, safetyStock == nil, sale == nil {
      throw FieldViolation(
        "change",
        "delta, set_on_hand, ship or uncommit, where safety_change and set_sale are unset")
    }
    return AdjustCommand(
      scope: scope, item: item, change: change, safetyStock: safetyStock, sale: sale,
      check: try check(request), allowsShortage: request.allowsShortage, reference: reference,
      reason: reason)
  }

  func getStock(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    let request = readItem(&reader)
    guard reader.isWhole else { return refuse(reader, response) }
    let item = try rules.item(sku: request.sku, location: request.location)
    let decision = session.stock(item)
    return answer(decision, item, response) { level, writer in write(1, level, to: writer) }
  }

  func batchGetStock(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64
  {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var count = 0
    var lsn: UInt64 = 0
    while let tag = reader.next() {
      switch tag {
      case .bytes(1):
        let submessage = reader.enter()
        let entry = readItem(&reader)
        reader.leave(submessage, "items", index: count)
        if reader.isWhole, count < rules.service.batchMax {
          lsn = max(lsn, writeStock(entry, count, response.message))
        }
        count += 1
      default: reader.other(tag, known: 1...1)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    guard count >= 1, count <= rules.service.batchMax else {
      throw FieldViolation("items", "1 to 500 items")
    }
    if hasBadEntries { throw badEntries[0] }
    return lsn
  }

  /// Writes what a BatchGetStock answers to item `index`, or notes what is wrong with it.
  /// - Returns: the log sequence number that the answer rests on.
  private func writeStock(
    _ entry: ProtoItem, _ index: Int, _ writer: ProtoWriter
  ) -> UInt64 {
    do throws(FieldViolation) {
      let item = try rules.item(sku: entry.sku, location: entry.location)
      let decision = session.stock(item)
      switch decision.result {
      case .accepted(let level): write(1, level, to: writer)
      case .refused: write(2, item, to: writer)
      }
      return decision.lsn
    } catch {
      badEntries.append(error.inside("items", at: index))
      return 0
    }
  }

  func listStock(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var pageSize: Int32 = 0
    var pageToken = BorrowedBytes.empty
    while let tag = reader.next() {
      switch tag {
      case .varint(1): pageSize = reader.int32()
      case .bytes(2): pageToken = reader.bytes()
      default: reader.other(tag, known: 1...2)
      }
    }
    guard reader.isWhole else { return refuse(reader, response) }
    var left = try rules.pageSize(pageSize)
    let position = try PageToken.position(pageToken, of: .stock, session)
    let writer = response.message
    let next = session.listStock(from: UInt32(clamping: position)) { level in
      write(1, level, to: writer)
      left -= 1
      return left > 0 && writer.count < Self.pageBytesMax
    }
    if let next { PageToken.write(2, UInt64(next), of: .stock, session, to: writer) }
    return session.lastLSN
  }

  // MARK: Requests

  /// Reads a message of which sku = 1 and location = 2 are all.
  @inline(__always)
  private func readItem(_ reader: inout ProtoReader) -> ProtoItem {
    var item = ProtoItem()
    while let tag = reader.next() {
      if !item.read(tag, &reader) { reader.other(tag, known: 1...2) }
    }
    return item
  }

  private func change(
    _ request: AdjustStockRequest
  ) throws(FieldViolation) -> AdjustCommand.Change {
    let most = rules.store.quantityMax
    switch request.change {
    case .delta(let delta):
      guard delta >= -most, delta <= most else {
        throw FieldViolation("delta", "-1099511627776 to 1099511627776 units")
      }
    case .setOnHand(let units):
      guard units >= 0, units <= most else {
        throw FieldViolation("set_on_hand", "0 to 1099511627776 units")
      }
    case .ship(let units):
      guard units >= 1, units <= most else {
        throw FieldViolation("ship", "1 to 1099511627776 units")
      }
    case .uncommit(let units):
      guard units >= 1, units <= most else {
        throw FieldViolation("uncommit", "1 to 1099511627776 units")
      }
    case .none: break
    }
    return request.change
  }

  private func safetyStock(_ request: AdjustStockRequest) throws(FieldViolation) -> Int64? {
    guard let units = request.safetyStock else { return nil }
    let most = rules.store.quantityMax
    guard units >= -most, units <= most else {
      throw FieldViolation("set_safety_stock", "-1099511627776 to 1099511627776 units")
    }
    return units
  }

  private func check(
    _ request: AdjustStockRequest
  ) throws(FieldViolation) -> AdjustCommand.Check {
    switch request.versionCheck {
    case .expected(.onHand(let units)) where units < 0 || units > rules.store.quantityMax:
      throw FieldViolation("expected_on_hand", "0 to 1099511627776 units")
    case .expected(let check): return check
    case .any(true): return .none
    case .any(false): throw FieldViolation("any_version", "true, or expected_version instead")
    case .none:
      throw FieldViolation("version_check", "expected_version, expected_on_hand or any_version")
    }
  }

  // MARK: Answers

  private func answer<Value>(
    _ decision: Decision<Value>, _ item: ItemName, _ response: Response,
    body: (Value, ProtoWriter) -> Void
  ) -> UInt64 {
    switch decision.result {
    case .accepted(let value):
      body(value, response.message)
    case .refused(let refusal):
      errors.refuse(refusal, isReplay: decision.replayed, session: session, response: response) {
        _ in
        item
      }
    }
    return decision.lsn
  }

  private func write(_ number: Int, _ level: StockLevel, to writer: ProtoWriter) {
    let name = session.name(of: level.item)
    writer.nested(number) {
      writer.field(1, name.sku)
      writer.field(2, name.location)
      writer.field(3, level.onHand)
      writer.field(4, level.held)
      writer.field(5, level.safetyStock)
      writer.field(6, level.available)
      writer.field(7, level.version)
      writer.field(8, level.committed)
      writer.field(9, level.sale)
    }
  }

  private func write(_ number: Int, _ item: ItemName, to writer: ProtoWriter) {
    writer.nested(number) {
      writer.field(1, item.sku)
      writer.field(2, item.location)
    }
  }
}

/// An AdjustStockRequest as it came. Of a oneof, the member that came last counts.
struct AdjustStockRequest {
  enum VersionCheck {
    case none
    case expected(AdjustCommand.Check)
    case any(Bool)
  }

  var key = BorrowedBytes.empty
  var sku = BorrowedBytes.empty
  var location = BorrowedBytes.empty
  var change = AdjustCommand.Change.none
  var versionCheck = VersionCheck.none
  var safetyStock: Int64?
  var reason = BorrowedBytes.empty
  var allowsShortage = false
  var reference = BorrowedBytes.empty
  var sale = ProtoSaleWindow()

  @inline(__always)
  mutating func read(_ tag: ProtoTag, _ reader: inout ProtoReader) {
    switch tag {
    case .bytes(1): key = reader.bytes()
    case .bytes(2): sku = reader.bytes()
    case .bytes(3): location = reader.bytes()
    case .varint(4): change = .delta(reader.int64())
    case .varint(5): change = .setOnHand(reader.int64())
    case .varint(6): versionCheck = .expected(.version(reader.varint()))
    case .varint(7): versionCheck = .any(reader.bool())
    case .varint(8): safetyStock = reader.int64()
    case .bytes(9): reason = reader.bytes()
    case .varint(10): change = .ship(reader.int64())
    case .varint(11): change = .uncommit(reader.int64())
    case .varint(12): versionCheck = .expected(.onHand(reader.int64()))
    case .varint(13): allowsShortage = reader.bool()
    case .bytes(14): reference = reader.bytes()
    case .bytes(15): sale.read(&reader)
    default: reader.other(tag, known: 1...15)
    }
  }
}
