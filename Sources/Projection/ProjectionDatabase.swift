// The statements: all rows of a batch in one of each kind, and the position with them in one transaction.
internal import Client
internal import PostgresLog

/// Up to where the tables go.
struct Position: Equatable {
  /// Counts the transactions: whoever finds another number was not the only one to write.
  var changes: UInt64 = 0
  /// nil: the tables were never filled.
  var token: String?
  /// Where the token goes on; 0: unknown.
  var lsn: UInt64 = 0
  /// The end of the server's log, when it was last heard of.
  var head: UInt64 = 0
  /// From here on the tables hang together: the listing that they began with is not newer than they are.
  var complete: UInt64 = 0
  /// All that was decided until then is in the tables.
  var asOf: Moment?
}

final class ProjectionDatabase {
  private let connection: PostgresConnection
  private let schema: ProjectionSchema
  private let nanoseconds: Int64
  /// For what changes whole tables.
  private let longNanoseconds: Int64 = 3_600_000_000_000
  private let statements: Statements

  init(
    _ address: String, schema: ProjectionSchema, nanoseconds: Int64
  ) throws(ProjectionError) {
    self.schema = schema
    self.nanoseconds = nanoseconds
    statements = Statements(schema.quoted)
    do throws(PostgresError) {
      connection = try PostgresConnection(
        address, nanosecondsEach: min(nanoseconds, 10_000_000_000))
    } catch {
      throw .database(error)
    }
  }

  @discardableResult
  private func run(
    _ statement: String, _ values: [PostgresValue] = [], isKept: Bool = false, isLong: Bool = false
  ) throws(ProjectionError) -> PostgresRows {
    do throws(PostgresError) {
      return try connection.run(
        statement, values, isKept: isKept, nanoseconds: isLong ? longNanoseconds : nanoseconds
      ).rows
    } catch {
      throw .database(error)
    }
  }

  // MARK: The tables themselves

  /// Makes the tables where they are not there yet. Whether it did.
  func prepare() throws(ProjectionError) -> Bool {
    let found = try run(
      """
      select (select count(*) from pg_namespace where nspname = $1),
        (select count(*) from pg_tables where schemaname = $1 and tablename = 'version')
      """, [.text(schema.name)])
    guard found.number(0, 1) == 0 else {
      try checkVersion()
      return false
    }
    let schemaIfMissing = found.number(0, 0) == 0 ? "create schema \(schema.quoted);" : ""
    do throws(PostgresError) {
      try connection.run(
        script: "begin; \(schemaIfMissing) \(schema.tables) commit;", nanoseconds: nanoseconds)
    } catch {
      throw .database(error)
    }
    return true
  }

  private func checkVersion() throws(ProjectionError) {
    let rows = try run("select version from \(schema.quoted).version")
    let version = rows.count == 1 ? rows.number(0, 0) : 0
    if version == ProjectionSchema.version { return }
    throw .unsuitable(
      version > ProjectionSchema.version
        ? "the tables in schema \(schema.name) are of a newer holdfast (version \(version)), this "
          + "one knows \(ProjectionSchema.version)"
        : "the tables in schema \(schema.name) are of version \(version), this holdfast needs "
          + "\(ProjectionSchema.version): drop the schema, and it is filled again")
  }

  func position() throws(ProjectionError) -> Position {
    let rows = try run(
      """
      select changes, coalesce(resume_token, ''), lsn, head_lsn, complete_lsn
      from \(schema.quoted).position
      """)
    guard rows.count == 1 else {
      throw .unsuitable("schema \(schema.name) has no position: drop the schema, to begin anew")
    }
    let token = rows.text(0, 1)
    return Position(
      changes: rows.number(0, 0), token: token.isEmpty ? nil : token, lsn: rows.number(0, 2),
      head: rows.number(0, 3), complete: rows.number(0, 4))
  }

  // MARK: One transaction

  /// Writes a batch and moves the position, both or neither.
  /// - Parameters:
  ///   - position: the new one, but for `changes`, which are those before, and are counted up.
  ///   - oldest: events from before are left out.
  func apply(
    _ batch: Batch, _ position: inout Position, keepingFrom oldest: Moment?
  ) throws(ProjectionError) {
    let changes = position.changes
    try transaction { () throws(ProjectionError) in
      try move(from: changes, to: position)
      try write(batch, keepingFrom: oldest)
    }
    position.changes += 1
  }

  /// Empties the tables and fills them again, in one transaction: until its end everybody sees what was there before.
  /// - Parameters:
  ///   - withEvents: the events are not of this history.
  ///   - body: calls `write`, and says up to where the tables go then.
  func refill(
    _ position: inout Position, withEvents: Bool,
    _ body: () throws(ProjectionError) -> Position
  ) throws(ProjectionError) {
    let changes = position.changes
    var filled = position
    try run("begin")
    // Nobody else writes from here on.
    try move(from: changes, to: position)
    for table in ["item_balance", "reservation"] + (withEvents ? ["event", "event_item"] : []) {
      try run("delete from \(schema.quoted).\(table)", isLong: true)
    }
    filled = try body()
    filled.changes = changes + 1
    try move(from: changes + 1, to: filled)
    try run("update \(schema.quoted).position set begun_at = now()")
    try run("commit", isLong: true)
    filled.changes += 1
    position = filled
  }

  private func transaction(_ body: () throws(ProjectionError) -> Void) throws(ProjectionError) {
    try run("begin")
    // Where it fails the connection is given up, and with it the transaction.
    try body()
    try run("commit")
  }

  private func move(from changes: UInt64, to position: Position) throws(ProjectionError) {
    var asOf = ArrayColumn(.timestamptz)
    asOf.append(position.asOf)
    let moved = try run(
      statements.move,
      [
        .int8(changes), .text(position.token ?? ""), .int8(position.lsn), .int8(position.head),
        .int8(position.complete), asOf.value,
      ], isKept: true)
    if moved.count != 1 { throw .raced }
  }

  func write(_ batch: Batch, keepingFrom oldest: Moment?) throws(ProjectionError) {
    try writeEvents(batch.events, oldest)
    try writeItems(batch.items)
    try writeReservations(batch.reservations)
  }

  private func writeEvents(_ events: [Event], _ oldest: Moment?) throws(ProjectionError) {
    let kept = oldest.map { oldest in events.filter { $0.decidedMoment >= oldest } } ?? events
    if kept.isEmpty { return }
    let columns = EventColumns(kept)
    try run(statements.events, columns.events, isKept: true)
    if columns.hasItems { try run(statements.eventItems, columns.items, isKept: true) }
  }

  private func writeItems(_ changes: [ItemName: ItemChange]) throws(ProjectionError) {
    if changes.isEmpty { return }
    var removed = [ArrayColumn(.text), ArrayColumn(.text), ArrayColumn(.int8)]
    var hasRemoved = false
    // In one order, so that two transactions never wait for each other.
    let ordered = changes.sorted {
      ($0.key.sku, $0.key.location) < ($1.key.sku, $1.key.location)
    }
    for (item, change) in ordered {
      guard let version = change.removedVersion else { continue }
      removed[0].append(item.sku)
      removed[1].append(item.location)
      removed[2].append(version)
      hasRemoved = true
    }
    if hasRemoved { try run(statements.removeItems, removed.map(\.value), isKept: true) }
    let columns = ItemColumns(ordered)
    if columns.hasRows { try run(statements.items, columns.values, isKept: true) }
    if columns.hasSales { try run(statements.sales, columns.sales, isKept: true) }
  }

  private func writeReservations(
    _ changes: [String: ReservationChange]
  ) throws(ProjectionError) {
    if changes.isEmpty { return }
    try run(
      statements.reservations, ReservationColumns(changes.sorted { $0.key < $1.key }).values,
      isKept: true)
  }

  // MARK: What is old

  /// Deletes a piece of what is older. Whether there may be more.
  func deleteEvents(before oldest: Moment, rowsMax: Int) throws(ProjectionError) -> Bool {
    try deleted(statements.deleteEvents, oldest, rowsMax)
  }

  func deleteReservations(endedBefore oldest: Moment, rowsMax: Int) throws(ProjectionError) -> Bool
  {
    try deleted(statements.deleteReservations, oldest, rowsMax)
  }

  private func deleted(
    _ statement: String, _ oldest: Moment, _ rowsMax: Int
  ) throws(ProjectionError) -> Bool {
    var column = ArrayColumn(.timestamptz)
    column.append(oldest)
    let rows = try run(statement, [column.value, .int8(UInt64(rowsMax))], isKept: true)
    return rows.number(0, 0) >= UInt64(rowsMax)
  }
}

// MARK: Columns

private struct EventColumns {
  let events: [PostgresValue]
  let items: [PostgresValue]
  let hasItems: Bool

  init(_ list: [Event]) {
    var (lsn, kind, decided) = (ArrayColumn(.int8), ArrayColumn(.text), ArrayColumn(.timestamptz))
    var (id, reference, expires) = (
      ArrayColumn(.text), ArrayColumn(.text), ArrayColumn(.timestamptz)
    )
    var (caller, key, reason) = (ArrayColumn(.text), ArrayColumn(.text), ArrayColumn(.text))
    var rows = EventItemColumns()
    for event in list {
      lsn.append(event.lsn)
      kind.append(event.kind.name)
      decided.append(event.decidedMoment)
      id.append(ifAny: event.reservationID)
      reference.append(ifAny: event.reference)
      expires.append(event.expiresAt.map(Moment.init))
      caller.append(ifAny: event.caller)
      key.append(ifAny: event.idempotencyKey)
      reason.append(ifAny: event.reason)
      rows.append(event)
    }
    events = [lsn, kind, decided, id, reference, expires, caller, key, reason].map(\.value)
    items = rows.values
    hasItems = rows.hasRows
  }
}

/// Lines and balances of an event, by item: at most some hundred of them, mostly one.
private struct EventItemColumns {
  private var lsn = ArrayColumn(.int8)
  private var sku = ArrayColumn(.text)
  private var location = ArrayColumn(.text)
  private var numbers = [ArrayColumn](repeating: ArrayColumn(.int8), count: 6)
  private(set) var hasRows = false

  mutating func append(_ event: Event) {
    for level in event.stock {
      let line = event.lines.first { $0.item == level.item }
      append(event.lsn, level.item, line?.quantity, level)
    }
    for line in event.lines where !event.stock.contains(where: { $0.item == line.item }) {
      append(event.lsn, line.item, line.quantity, nil)
    }
  }

  private mutating func append(
    _ number: UInt64, _ item: ItemName, _ quantity: Int64?, _ level: StockLevel?
  ) {
    hasRows = true
    lsn.append(number)
    sku.append(item.sku)
    location.append(item.location)
    numbers[0].append(quantity)
    numbers[1].append(level?.onHand)
    numbers[2].append(level?.held)
    numbers[3].append(level?.committed)
    numbers[4].append(level?.safetyStock)
    numbers[5].append(level.map { Int64(bitPattern: $0.version) })
  }

  var values: [PostgresValue] { ([lsn, sku, location] + numbers).map(\.value) }
}

private struct ItemColumns {
  private var names = [ArrayColumn](repeating: ArrayColumn(.text), count: 2)
  private var numbers = [ArrayColumn](repeating: ArrayColumn(.int8), count: 6)
  private(set) var hasRows = false
  private var sold = [ArrayColumn](repeating: ArrayColumn(.text), count: 2)
  private var soldVersion = ArrayColumn(.int8)
  private var times = [ArrayColumn](repeating: ArrayColumn(.timestamptz), count: 2)
  private var frozen = ArrayColumn(.bool)
  private(set) var hasSales = false

  init(_ changes: [(key: ItemName, value: ItemChange)]) {
    for (item, change) in changes {
      guard let level = change.level else { continue }
      hasRows = true
      names[0].append(item.sku)
      names[1].append(item.location)
      numbers[0].append(level.onHand)
      numbers[1].append(level.held)
      numbers[2].append(level.committed)
      numbers[3].append(level.safetyStock)
      numbers[4].append(level.version)
      numbers[5].append(change.lsn)
      guard let sale = change.sale else { continue }
      hasSales = true
      sold[0].append(item.sku)
      sold[1].append(item.location)
      soldVersion.append(level.version)
      times[0].append(sale.from.map(Moment.init))
      times[1].append(sale.until.map(Moment.init))
      frozen.append(sale.isFrozen)
    }
  }

  var values: [PostgresValue] { (names + numbers).map(\.value) }
  var sales: [PostgresValue] { (sold + [soldVersion] + times + [frozen]).map(\.value) }
}

private struct ReservationColumns {
  let values: [PostgresValue]

  init(_ changes: [(key: String, value: ReservationChange)]) {
    var texts = [ArrayColumn](repeating: ArrayColumn(.text), count: 5)
    var times = [ArrayColumn](repeating: ArrayColumn(.timestamptz), count: 3)
    var lsn = ArrayColumn(.int8)
    for (id, change) in changes {
      texts[0].append(id)
      texts[1].append(change.state)
      texts[2].append(change.reference)
      texts[3].append(ifAny: change.caller ?? "")
      texts[4].append(change.lines.map(ReservationLine.json))
      times[0].append(change.createdAt)
      times[1].append(change.expiresAt)
      times[2].append(change.endedAt)
      lsn.append(change.lsn)
    }
    values = (texts + times + [lsn]).map(\.value)
  }
}

// MARK: SQL

private struct Statements {
  let move: String
  let events: String
  let eventItems: String
  let removeItems: String
  let items: String
  let sales: String
  let reservations: String
  let deleteEvents: String
  let deleteReservations: String

  init(_ schema: String) {
    move = """
      update \(schema).position set changes = changes + 1, resume_token = nullif($2, ''), lsn = $3,
        head_lsn = $4, complete_lsn = $5, as_of = coalesce(($6)[1], as_of)
      where changes = $1 returning 1
      """
    events = """
      insert into \(schema).event select * from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
      on conflict (lsn) do nothing
      """
    eventItems = """
      insert into \(schema).event_item select * from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
      on conflict (lsn, sku, location) do nothing
      """
    removeItems = """
      delete from \(schema).item_balance i using unnest($1, $2, $3) as r(sku, location, version)
      where i.sku = r.sku and i.location = r.location and i.version < r.version
      """
    items = """
      insert into \(schema).item_balance as i (sku, location, on_hand, held, committed, safety_stock,
        version, lsn)
      select * from unnest($1, $2, $3, $4, $5, $6, $7, $8)
      on conflict (sku, location) do update set on_hand = excluded.on_hand, held = excluded.held,
        committed = excluded.committed, safety_stock = excluded.safety_stock,
        version = excluded.version, lsn = excluded.lsn
      where excluded.version > i.version
      """
    sales = """
      update \(schema).item_balance i
      set sellable_from = n.from_, sellable_until = n.until, is_frozen = n.frozen
      from unnest($1, $2, $3, $4, $5, $6) as n(sku, location, version, from_, until, frozen)
      where i.sku = n.sku and i.location = n.location and i.version = n.version
      """
    reservations = """
      insert into \(schema).reservation as r (reservation_id, state, reference, caller, lines,
        created_at, expires_at, ended_at, lsn)
      select id, state, reference, caller, lines::jsonb, created, expires, ended, lsn
      from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
        as n(id, state, reference, caller, lines, created, expires, ended, lsn)
      on conflict (reservation_id) do update set state = excluded.state,
        reference = excluded.reference, caller = coalesce(r.caller, excluded.caller),
        lines = coalesce(excluded.lines, r.lines),
        created_at = coalesce(r.created_at, excluded.created_at),
        expires_at = coalesce(excluded.expires_at, r.expires_at),
        ended_at = excluded.ended_at, lsn = excluded.lsn
      where excluded.lsn > r.lsn
      """
    deleteEvents = """
      with old as (select lsn from \(schema).event where decided_at < ($1)[1]
        order by decided_at limit $2),
      gone as (delete from \(schema).event e using old where e.lsn = old.lsn returning e.lsn),
      items as (delete from \(schema).event_item i using gone where i.lsn = gone.lsn)
      select count(*) from gone
      """
    deleteReservations = """
      with old as (select reservation_id from \(schema).reservation where ended_at < ($1)[1]
        order by ended_at limit $2),
      gone as (delete from \(schema).reservation r using old
        where r.reservation_id = old.reservation_id returning 1)
      select count(*) from gone
      """
  }
}
