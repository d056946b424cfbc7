// ImportStock: a stream of messages of rows, each row changed by itself. The rows of a message are read twice: first
// all are checked, so that nothing is done of a message that has a bad one, then they go to the store in groups, as
// many as one record of the journal has. What a call has done is answered when its client has sent all.
internal import Bytes
internal import GRPC
internal import StockStore

/// What a call has done of its import.
@safe final class ImportOfCall {
  private let idBytes: UnsafeMutableBufferPointer<UInt8>
  /// The next row of the stream.
  fileprivate(set) var row: UInt64
  fileprivate var changed: UInt64 = 0
  fileprivate var failed: UInt64 = 0
  fileprivate var failures: [(row: UInt64, reason: StaticString)] = []
  /// Up to here the answer must be durable.
  fileprivate var lsn: UInt64 = 0

  fileprivate init(id: BorrowedBytes, row: UInt64) {
    let text = unsafe id.pointer
    unsafe idBytes = .allocate(capacity: text.count)
    // As long as what is copied.
    for index in 0..<text.count {
      unsafe idBytes.initializeElement(at: index, to: text[index])
    }
    self.row = row
  }

  deinit { unsafe idBytes.deallocate() }

  /// Good as long as this.
  var id: BorrowedBytes {
    unsafe BorrowedBytes(UnsafePointer(idBytes.baseAddress), count: idBytes.count)
  }
}

/// Imports on their way, by their calls.
final class ImportsOfCalls {
  private var imports: [CallID: ImportOfCall] = [:]

  subscript(call: CallID) -> ImportOfCall? { imports[call] }

  fileprivate func add(_ call: CallID, id: BorrowedBytes, row: UInt64) -> ImportOfCall {
    let begun = ImportOfCall(id: id, row: row)
    imports[call] = begun
    return begun
  }

  func remove(_ call: CallID) {
    // Asked of every call that is cancelled.
    if !imports.isEmpty { imports[call] = nil }
  }
}

extension HoldfastHandler {
  /// Rows of one message.
  private static let rowsMax = 500
  /// No row has this number, nor one behind it.
  private static let rowEnd: UInt64 = 1 << 62
  /// As much work as a reserve: rows that are changed, that are checked, and that are passed over.
  private static let changesPerUnit = 2
  private static let checksPerUnit = 8

  // Inlined into what handles batches, it would have them keep registers for it.
  @inline(never)
  func importStock(
    _ message: Span<UInt8>, part: inout MessagePart, _ call: Call, _ response: Response
  ) -> Completion {
    do throws(FieldViolation) {
      if part.offset == 0, try !beginRows(message, part: &part, call, response) {
        imports.remove(call.id)
        return .respond(lsn: 0)
      }
      guard let rows = imports[call.id] else { return .later }
      return try importRows(message, part: &part, rows, call, response)
    } catch {
      imports.remove(call.id)
      errors.badRequest(error.index == nil ? [error] : badEntries, response: response)
      badEntries.removeAll()
      return .respond(lsn: 0)
    }
  }

  // MARK: A message's beginning

  /// Whether the message follows its rules, and goes on where the one before ended: then its import is known.
  private func beginRows(
    _ message: Span<UInt8>, part: inout MessagePart, _ call: Call, _ response: Response
  ) throws(FieldViolation) -> Bool {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var id = BorrowedBytes.empty
    var firstRow: UInt64 = 0
    var count = 0
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): id = reader.bytes()
      case .varint(2): firstRow = reader.varint()
      case .bytes(3):
        let submessage = reader.enter()
        var request = AdjustStockRequest()
        while let tag = reader.next() { request.read(tag, &reader) }
        reader.leave(submessage, "rows", index: count)
        if reader.isWhole, count < Self.rowsMax { check(request, count) }
        count += 1
      default: reader.other(tag, known: 1...3)
      }
    }
    guard reader.isWhole else {
      _ = refuse(reader, response)
      return false
    }
    guard count >= 1, count <= Self.rowsMax else {
      badEntries.removeAll()
      throw FieldViolation("rows", "1 to 500 rows")
    }
    if let entry = badEntries.first { throw entry }
    part.budget -= count / Self.checksPerUnit
    id = try rules.importID(id)
    guard firstRow <= Self.rowEnd - UInt64(count) else {
      throw FieldViolation("first_row", "below 2^62, as all rows")
    }
    guard let known = imports[call.id] else {
      _ = imports.add(call.id, id: id, row: firstRow)
      return true
    }
    guard id.isEqual(known.id) else {
      throw FieldViolation("import_id", "the same in every message of a stream")
    }
    guard firstRow == known.row else {
      throw FieldViolation("first_row", "where the message before it ended")
    }
    return true
  }

  private func check(_ request: AdjustStockRequest, _ index: Int) {
    do throws(FieldViolation) {
      _ = try part(request)
    } catch {
      badEntries.append(error.inside("rows", at: index))
    }
  }

  // MARK: Its rows

  private func importRows(
    _ message: Span<UInt8>, part: inout MessagePart, _ rows: ImportOfCall, _ call: Call,
    _ response: Response
  ) throws(FieldViolation) -> Completion {
    // The name lives with the stream, and the id with what is known of the call.
    let name = unsafe call.caller
    let caller = unsafe BorrowedBytes(name.baseAddress, count: name.count)
    let scope = IdempotencyScope(caller: caller, key: rows.id)
    let base = unsafe message.borrowed
    var done = session.importedRows(scope).rows
    repeat {
      var reader = unsafe ProtoReader(base.dropping(part.offset), refusesUnknown: true)
      passOver(until: done, &reader, base, part: &part, rows)
      let (count, end) = try gather(&reader, base)
      if count == 0 { return reader.hasMore ? .more : .later }
      let decision = session.importRows(ImportCommand(scope: scope, firstRow: rows.row))
      rows.lsn = max(rows.lsn, decision.lsn)
      switch decision.result {
      case .refused(let refusal):
        errors.refuse(refusal, isReplay: false, session: session, response: response) { _ in
          ItemName(sku: .empty, location: .empty)
        }
        imports.remove(call.id)
        let lsn = leased(decision.lsn, since: .max, response)
        session.await(lsn: lsn)
        return .respond(lsn: lsn)
      case .accepted(let progress):
        done = progress.nextRow
        // Another stream of the import was quicker.
        guard let changed = progress.changed else { continue }
        note(rows, count, changed)
        rows.row += UInt64(count)
        part.offset = end
        part.budget -= 1 + count / Self.changesPerUnit
        if end == base.count { return .later }
      }
    } while part.budget > 0
    return .more
  }

  /// Passes over rows that are done already.
  private func passOver(
    until done: UInt64, _ reader: inout ProtoReader, _ base: BorrowedBytes,
    part: inout MessagePart, _ rows: ImportOfCall
  ) {
    var count = 0
    while rows.row < done, let row = Self.nextRow(&reader) {
      rows.row += 1
      part.offset = row.end(in: base)
      count += 1
    }
    part.budget -= count / Self.checksPerUnit
  }

  /// Appends rows to the store's changes, as many as it takes: how many, and where they end.
  private func gather(
    _ reader: inout ProtoReader, _ base: BorrowedBytes
  ) throws(FieldViolation) -> (count: Int, end: Int) {
    var count = 0
    var end = 0
    session.clearChanges()
    while let row = Self.nextRow(&reader) {
      var fields = unsafe ProtoReader(row, refusesUnknown: true)
      var request = AdjustStockRequest()
      while let tag = fields.next() { request.read(tag, &fields) }
      // `beginRows` has checked it.
      guard session.appendChange(try part(request)) == .appended else { break }
      count += 1
      end = row.end(in: base)
    }
    return (count, end)
  }

  /// `beginRows` has seen what fields there are.
  private static func nextRow(_ reader: inout ProtoReader) -> BorrowedBytes? {
    while let tag = reader.next() {
      switch tag {
      case .bytes(3): return reader.bytes()
      case .bytes(1): _ = reader.bytes()
      default: _ = reader.varint()
      }
    }
    return nil
  }

  private func note(_ rows: ImportOfCall, _ count: Int, _ changed: Int) {
    rows.changed += UInt64(changed)
    rows.failed += UInt64(count - changed)
    if changed == count { return }
    for index in 0..<count where rows.failures.count < rules.service.importFailuresMax {
      guard let refusal = session.importRefusal(index) else { continue }
      rows.failures.append((rows.row + UInt64(index), ErrorReplies.reason(refusal)))
    }
  }

  // MARK: The end

  /// ImportStockResponse: next_row = 1, changed = 2, failures = 3 (row = 1, reason = 2), failed = 4.
  func endImport(_ call: Call, _ response: Response) -> Completion {
    guard let rows = imports[call.id] else {
      errors.badRequest([FieldViolation("rows", "1 to 500 rows")], response: response)
      return .respond(lsn: 0)
    }
    imports.remove(call.id)
    let name = unsafe call.caller
    let caller = unsafe BorrowedBytes(name.baseAddress, count: name.count)
    let known = session.importedRows(
      IdempotencyScope(caller: caller, key: rows.id))
    let writer = response.message
    writer.field(1, max(rows.row, known.rows))
    writer.field(2, rows.changed)
    for failure in rows.failures {
      writer.nested(3) {
        writer.field(1, failure.row)
        writer.field(2, failure.reason)
      }
    }
    writer.field(4, rows.failed)
    let lsn = leased(max(rows.lsn, known.lsn), since: .max, response)
    session.await(lsn: lsn)
    return .respond(lsn: lsn)
  }
}
