// ReservationService: from messages to commands and from decisions to messages.
internal import Bytes
internal import CHoldfastProto
internal import CProtobufC
internal import GRPC
internal import StockStore

extension HoldfastHandler {
  func reserve(
    _ message: Span<UInt8>, _ caller: BorrowedBytes, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__reserve_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let key = unsafe try rules.key(arena.bytes(request.pointee.idempotency_key))
    guard unsafe request.pointee.n_lines > 0 else { throw Self.tooFewLines }
    unsafe try readLines(request.pointee.n_lines, request.pointee.lines)
    let timeToLive = unsafe try readTimeToLive(request.pointee.ttl)
    let decision = session.reserve(
      IdempotencyScope(caller: caller, key: key), ttlNanoseconds: timeToLive)
    switch decision.result {
    case .accepted(let hold):
      let writer = response.message
      writer.field(1, hold.id)
      writer.field(2, hold.expiresAt)
      writer.field(3, decision.replayed)
      writer.field(6, UInt64(hold.state.rawValue))
      if hold.state == .held { writer.field(7, seconds: hold.remainingNanoseconds) }
    case .refused(let refusal):
      errors.refuse(refusal, isReplay: decision.replayed, session: session, response: response) { line in
        unsafe itemName(line, request.pointee.n_lines, request.pointee.lines)
      }
    }
    return decision.lsn
  }

  func confirm(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__confirm_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let id = unsafe try rules.reservationID(arena.bytes(request.pointee.reservation_id))
    unsafe try readLines(request.pointee.n_lines, request.pointee.lines)
    let reacquires = unsafe request.pointee.reacquire_if_expired != 0
    return answer(session.confirm(id, reacquireIfExpired: reacquires, by: requester), response)
  }

  func release(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__release_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let id = unsafe try rules.reservationID(arena.bytes(request.pointee.reservation_id))
    return answer(session.release(id, by: requester), response)
  }

  func extend(
    _ message: Span<UInt8>, _ requester: Requester, _ response: Response
  ) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__extend_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let id = unsafe try rules.reservationID(arena.bytes(request.pointee.reservation_id))
    let timeToLive = unsafe try readTimeToLive(request.pointee.ttl)
    // Extend has no key whose answer could have been recorded under another limit.
    if let timeToLive, timeToLive > rules.store.holdNanosecondsMax {
      throw FieldRules.timeToLiveViolation
    }
    let mayShorten = unsafe request.pointee.may_shorten != 0
    return answer(
      session.extend(
        id, ttlNanoseconds: timeToLive, mayShorten: mayShorten, by: requester), response)
  }

  func getReservation(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(message, with: holdfast__v1__get_reservation_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let id = unsafe try rules.reservationID(arena.bytes(request.pointee.reservation_id))
    return answer(session.reservation(id), response)
  }

  func listReservations(_ message: Span<UInt8>, _ response: Response) throws(FieldViolation) -> UInt64 {
    let request = unsafe arena.unpack(
      message, with: holdfast__v1__list_reservations_request__unpack)
    guard let request = unsafe request else { return malformed(response) }
    let size = unsafe try rules.pageSize(request.pointee.page_size)
    let filter = unsafe request.pointee.state.rawValue
    guard filter <= ReservationState.expired.rawValue else {
      throw FieldViolation("state", "a state that this server knows, or unspecified for all")
    }
    let state = ReservationState(rawValue: UInt8(truncatingIfNeeded: filter))
    let list = PageList.reservations(state)
    let cursor = unsafe try PageToken.position(
      arena.bytes(request.pointee.page_token), of: list, session)
    let writer = response.message
    var left = size
    // The work of one call is bounded, so that a sparse table does not stop the loop.
    let next = session.listReservations(
      cursor: cursor, scanMax: Self.scanMax, state: state
    ) { view in
      write(1, view, to: writer)
      left -= 1
      return left > 0 && writer.count < Self.pageBytesMax
    }
    if let next { PageToken.write(2, next, of: list, session, to: writer) }
    return session.lastLSN
  }

  /// Records that one ListReservations looks at: about 0.1 ms of work.
  private static let scanMax = 4096
  /// Clients take messages of 4 MiB; a reservation of 64 lines with long names has 9 KiB.
  static let pageBytesMax = 1024 * 1024
  private static var tooFewLines: FieldViolation { FieldViolation("lines", "1 to 64 lines") }

  // MARK: Requests

  typealias Line = UnsafeMutablePointer<Holdfast__V1__ReservationLine>

  /// Hands the lines of a request to the session.
  /// - Throws: the first bad line's violation; `badEntries` has those of all.
  private func readLines(
    _ count: Int, _ lines: UnsafeMutablePointer<Line?>?
  ) throws(FieldViolation) {
    session.clearLines()
    guard count <= rules.store.linesPerReservation else { throw Self.tooFewLines }
    var areGood = true
    for index in 0..<count {
      guard let line = unsafe lines?[index] else { continue }
      do throws(FieldViolation) {
        let item = unsafe try rules.item(
          sku: arena.bytes(line.pointee.sku), location: arena.bytes(line.pointee.location))
        let quantity = unsafe try rules.quantity(line.pointee.quantity)
        guard session.appendLine(LineRequest(item: item, quantity: quantity)) else {
          throw Self.tooFewLines
        }
      } catch {
        badEntries.append(error.inside("lines", at: index))
        areGood = false
      }
    }
    if !areGood { throw badEntries[0] }
  }

  private static var noItem: ItemName { ItemName(sku: .empty, location: .empty) }

  /// The name in line `index`.
  private func itemName(
    _ index: Int, _ count: Int, _ lines: UnsafeMutablePointer<Line?>?
  ) -> ItemName {
    guard index >= 0, index < count, let line = unsafe lines?[index] else { return Self.noItem }
    return unsafe ItemName(
      sku: arena.bytes(line.pointee.sku), location: arena.bytes(line.pointee.location))
  }

  /// nil where none was sent.
  private func readTimeToLive(
    _ duration: UnsafeMutablePointer<Google__Protobuf__Duration>?
  ) throws(FieldViolation) -> Int64? {
    guard let duration = unsafe duration else { return nil }
    return unsafe try rules.timeToLive(
      seconds: duration.pointee.seconds, nanos: duration.pointee.nanos)
  }

  // MARK: Answers

  /// Confirm, Release, Extend and GetReservation answer alike: reservation = 1, replayed = 2.
  private func answer(_ decision: Decision<ReservationView>, _ response: Response) -> UInt64 {
    switch decision.result {
    case .accepted(let view):
      let writer = response.message
      write(1, view, to: writer)
      writer.field(2, decision.replayed)
    case .refused(let refusal):
      errors.refuse(refusal, isReplay: decision.replayed, session: session, response: response) { _ in
        Self.noItem
      }
    }
    return decision.lsn
  }

  private func write(_ number: Int, _ view: ReservationView, to writer: ProtoWriter) {
    writer.nested(number) {
      writer.field(1, view.id)
      writer.field(2, UInt64(view.state.rawValue))
      for index in 0..<session.viewLineCount {
        let line = session.viewLine(index)
        let name = session.name(of: line.item)
        writer.nested(3) {
          writer.field(1, name.sku)
          writer.field(2, name.location)
          writer.field(3, line.quantity)
        }
      }
      writer.field(4, view.createdAt)
      writer.field(5, view.expiresAt)
      if let endedAt = view.endedAt { writer.field(6, endedAt) }
    }
  }
}
