// What commands do with a server: a request, its call, and its response as values.
internal import Bytes

/// The response to a change, and whether it was the first answer again.
package struct Changed<Value> {
  package let value: Value
  package let isReplayed: Bool
}

extension Changed: Sendable where Value: Sendable {}

extension ServiceCaller {
  /// The most of a page, and of the items of one call.
  private static var pageSize: Int { 500 }

  // MARK: Stock

  /// The balances of items, in their order; those that are not there are missing.
  package func stock(
    of items: [ItemName]
  ) throws(CallFailure) -> (levels: [StockLevel], missing: [ItemName]) {
    var (levels, missing): ([StockLevel], [ItemName]) = ([], [])
    for start in stride(from: 0, to: items.count, by: Self.pageSize) {
      let part = Array(items[start..<min(start + Self.pageSize, items.count)])
      let response = try whole(
        Response(try call(.getStock, Requests.getStock(part))) { StockLevel($0) })
      levels += response.entries
      missing += response.missing
    }
    return (levels, missing)
  }

  /// The balances of one item; nil where it is not there.
  package func stock(of item: ItemName) throws(CallFailure) -> StockLevel? {
    try stock(of: [item]).levels.first
  }

  /// Shows all items to `take`, page by page, until it answers false.
  package func listStock<Failure: Error>(
    pageSize: Int? = nil, _ take: ([StockLevel]) throws(Failure) -> Bool,
    failed: (CallFailure) -> Failure
  ) throws(Failure) {
    try pages(
      { token in
        (
          .listStock,
          Requests.listStock(pageSize: min(pageSize ?? .max, Self.pageSize), token: token)
        )
      },
      { StockLevel($0) }, take, failed: failed)
  }

  package func adjust(
    _ adjustment: Adjustment, _ note: ChangeNote
  ) throws(CallFailure) -> Changed<StockLevel> {
    try one(call(.adjustStock, Requests.adjust(adjustment, note), key: note.key)) { StockLevel($0) }
  }

  /// All or none.
  package func adjustTogether(
    _ changes: [Adjustment], _ note: ChangeNote
  ) throws(CallFailure) -> Changed<[StockLevel]> {
    let response = try whole(
      Response(
        try call(.adjustTogether, Requests.adjustTogether(changes, note), key: note.key)
      ) { StockLevel($0) })
    return Changed(value: response.entries, isReplayed: response.isReplayed)
  }

  /// - Parameter expectedVersion: 0: at any.
  /// - Returns: whether it was the first answer again.
  package func remove(
    _ item: ItemName, expectedVersion: UInt64, _ note: ChangeNote
  ) throws(CallFailure) -> Bool {
    let message = try call(
      .removeItem, Requests.removeItem(item, expectedVersion: expectedVersion, note), key: note.key)
    var isReplayed = false
    let isWhole = readFields(message) { field in
      if field.number == 1 { isReplayed = field.value != 0 }
      return true
    }
    return try whole(isWhole ? isReplayed : nil)
  }

  // MARK: Reservations

  package func reserve(
    _ lines: [ReservationLine], ttlNanoseconds: Int64?, reference: String, key: String,
    limits: [(subject: String, units: Int64)]
  ) throws(CallFailure) -> HeldReservation {
    try whole(
      HeldReservation(
        try call(
          .reserve,
          Requests.reserve(
            lines, ttlNanoseconds: ttlNanoseconds, reference: reference, key: key, limits: limits),
          key: key)))
  }

  /// By its id, or by the key of its Reserve.
  package func reservation(id: String, key: String = "") throws(CallFailure) -> Reservation {
    try one(call(.getReservation, Requests.getReservation(id: id, key: key))) { Reservation($0) }
      .value
  }

  /// Shows reservations to `take`, page by page, until it answers false.
  /// - Parameters:
  ///   - state: unspecified: all.
  ///   - reference: empty: all.
  package func listReservations<Failure: Error>(
    state: ReservationState, reference: String, pageSize: Int? = nil,
    _ take: ([Reservation]) throws(Failure) -> Bool, failed: (CallFailure) -> Failure
  ) throws(Failure) {
    try pages(
      { token in
        (
          .listReservations,
          Requests.listReservations(
            pageSize: min(pageSize ?? .max, Self.pageSize), token: token, state: state,
            reference: reference)
        )
      }, { Reservation($0) }, take, failed: failed)
  }

  /// - Parameter lines: empty: everything.
  package func confirm(
    id: String, _ lines: [ReservationLine], reacquires: Bool, keepsCommitted: Bool
  ) throws(CallFailure) -> Changed<Reservation> {
    try one(
      call(
        .confirm,
        Requests.confirm(id: id, lines, reacquires: reacquires, keepsCommitted: keepsCommitted))
    ) { Reservation($0) }
  }

  package func release(id: String) throws(CallFailure) -> Changed<Reservation> {
    try one(call(.release, Requests.release(id: id))) { Reservation($0) }
  }

  /// - Parameter ttlNanoseconds: from now; nil: the server's default.
  package func extend(
    id: String, ttlNanoseconds: Int64?, mayShorten: Bool
  ) throws(CallFailure) -> Changed<Reservation> {
    try one(
      call(
        .extend, Requests.extend(id: id, ttlNanoseconds: ttlNanoseconds, mayShorten: mayShorten))
    ) { Reservation($0) }
  }

  /// - Parameter expectedRevision: 0: at any.
  package func replace(
    id: String, _ lines: [ReservationLine], expectedRevision: UInt64, ttlNanoseconds: Int64?,
    reference: String, key: String
  ) throws(CallFailure) -> Changed<Reservation> {
    try one(
      call(
        .replace,
        Requests.replace(
          id: id, lines, expectedRevision: expectedRevision, ttlNanoseconds: ttlNanoseconds,
          reference: reference, key: key), key: key)
    ) { Reservation($0) }
  }

  // MARK: Responses

  /// The response with one entry.
  private func one<Entry>(
    _ message: [UInt8], _ read: (WireFields.Field) -> Entry?
  ) throws(CallFailure) -> Changed<Entry> {
    let response = try whole(Response(message, read))
    return Changed(value: try whole(response.entries.first), isReplayed: response.isReplayed)
  }

  private func whole<Value>(_ value: Value?) throws(CallFailure) -> Value {
    if let value { return value }
    throw CallFailure(
      .malformed, "the server has answered what is no response to that", server: server)
  }

  private func pages<Entry, Failure: Error>(
    _ request: (String) -> (ServiceMethod, [UInt8]), _ read: (WireFields.Field) -> Entry?,
    _ take: ([Entry]) throws(Failure) -> Bool, failed: (CallFailure) -> Failure
  ) throws(Failure) {
    var token = ""
    while true {
      let response: Response<Entry>
      do throws(CallFailure) {
        let (method, message) = request(token)
        response = try whole(Response(try call(method, message), read))
        // Pages that lead to themselves have no end.
        if !response.nextPage.isEmpty, response.nextPage == token {
          throw CallFailure(.malformed, "a page of the server's leads to itself", server: server)
        }
      } catch { throw failed(error) }
      guard try take(response.entries), !response.nextPage.isEmpty else { return }
      token = response.nextPage
    }
  }
}
