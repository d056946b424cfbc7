// StockService: from messages to commands and from decisions to messages.
internal import Bytes
internal import CHoldfastProto
internal import CProtobufC
internal import GRPC
internal import StockStore

extension HoldfastHandler {
  func adjustStock(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__adjust_stock_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let key = unsafe try rules.key(arena.bytes(request.pointee.idempotency_key))
    let item = unsafe try rules.item(
      sku: arena.bytes(request.pointee.sku), location: arena.bytes(request.pointee.location))
    let safetyStock = unsafe try readSafetyStock(request)
    let change = unsafe try readChange(request)
    if case .none = change, safetyStock == nil {
      throw FieldViolation("change", "delta or set_on_hand, where safety_change is unset")
    }
    let command = unsafe AdjustCommand(
      scope: IdempotencyScope(caller: caller, key: key), item: item, change: change,
      safetyStock: safetyStock, expectedVersion: try readVersion(request),
      reason: try rules.reason(arena.bytes(request.pointee.reason)))
    let decision = session.adjust(command)
    return answer(decision, item, response) { level, writer in
      write(1, level, to: writer)
      writer.field(2, decision.replayed)
    }
  }

  func getStock(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__get_stock_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let item = unsafe try rules.item(
      sku: arena.bytes(request.pointee.sku), location: arena.bytes(request.pointee.location))
    let decision = session.stock(item)
    return answer(decision, item, response) { level, writer in write(1, level, to: writer) }
  }

  func batchGetStock(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__batch_get_stock_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let count = unsafe request.pointee.n_items
    guard count >= 1, count <= rules.service.batchMax else {
      throw FieldViolation("items", "1 to 500 items")
    }
    let writer = response.message
    var lsn: UInt64 = 0
    for index in 0..<count {
      guard let entry = unsafe request.pointee.items?[index] else { continue }
      do throws(FieldViolation) {
        let item = unsafe try rules.item(
          sku: arena.bytes(entry.pointee.sku), location: arena.bytes(entry.pointee.location))
        let decision = session.stock(item)
        lsn = max(lsn, decision.lsn)
        switch decision.result {
        case .accepted(let level): write(1, level, to: writer)
        case .refused: write(2, item, to: writer)
        }
      } catch {
        badEntries.append(error.inside("items", at: index))
      }
    }
    if let first = badEntries.first { throw first }
    return lsn
  }

  func listStock(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__list_stock_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    var left = unsafe try rules.pageSize(request.pointee.page_size)
    let position = unsafe try PageToken.position(
      arena.bytes(request.pointee.page_token), of: .stock, session)
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

  typealias Adjustment = UnsafeMutablePointer<Holdfast__V1__AdjustStockRequest>

  private func readChange(_ request: Adjustment) throws(FieldViolation) -> AdjustCommand.Change {
    let most = rules.store.quantityMax
    switch unsafe request.pointee.change_case {
    case HOLDFAST__V1__ADJUST_STOCK_REQUEST__CHANGE_DELTA:
      let delta = unsafe request.pointee.delta
      guard delta >= -most, delta <= most else {
        throw FieldViolation("delta", "-1099511627776 to 1099511627776 units")
      }
      return .delta(delta)
    case HOLDFAST__V1__ADJUST_STOCK_REQUEST__CHANGE_SET_ON_HAND:
      let units = unsafe request.pointee.set_on_hand
      guard units >= 0, units <= most else {
        throw FieldViolation("set_on_hand", "0 to 1099511627776 units")
      }
      return .setOnHand(units)
    default: return .none
    }
  }

  private func readSafetyStock(_ request: Adjustment) throws(FieldViolation) -> Int64? {
    guard
      unsafe request.pointee.safety_change_case
        == HOLDFAST__V1__ADJUST_STOCK_REQUEST__SAFETY_CHANGE_SET_SAFETY_STOCK
    else { return nil }
    let units = unsafe request.pointee.set_safety_stock
    guard units >= 0, units <= rules.store.quantityMax else {
      throw FieldViolation("set_safety_stock", "0 to 1099511627776 units")
    }
    return units
  }

  private func readVersion(_ request: Adjustment) throws(FieldViolation) -> UInt64? {
    switch unsafe request.pointee.version_check_case {
    case HOLDFAST__V1__ADJUST_STOCK_REQUEST__VERSION_CHECK_EXPECTED_VERSION:
      return unsafe request.pointee.expected_version
    case HOLDFAST__V1__ADJUST_STOCK_REQUEST__VERSION_CHECK_ANY_VERSION:
      guard unsafe request.pointee.any_version != 0 else {
        throw FieldViolation("any_version", "true, or expected_version instead")
      }
      return nil
    default: throw FieldViolation("version_check", "expected_version or any_version")
    }
  }

  // MARK: Answers

  private func answer(
    _ decision: Decision<StockLevel>, _ item: ItemName, _ response: Response,
    body: (StockLevel, ProtoWriter) -> Void
  ) -> UInt64 {
    switch decision.result {
    case .accepted(let level):
      body(level, response.message)
    case .refused(let refusal):
      errors.refuse(refusal, isReplay: decision.replayed, session: session, response: response) { _ in
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
    }
  }

  private func write(_ number: Int, _ item: ItemName, to writer: ProtoWriter) {
    writer.nested(number) {
      writer.field(1, item.sku)
      writer.field(2, item.location)
    }
  }
}
