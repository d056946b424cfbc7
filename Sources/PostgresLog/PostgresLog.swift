// The statements of a log in PostgreSQL: a row for each batch, and one row that says where the log ends and whose it
// is. What their answers are worth is in EngineLog.
package import Log
package import Posix
internal import Synchronization

package typealias PostgresLog = EngineLog<PostgresEngine>

extension EngineLog where Engine == PostgresEngine {
  /// - Parameters:
  ///   - address: as libpq takes it; of several hosts, the one counts that can be written to.
  ///   - report: takes what the operator should hear of.
  package convenience init(
    address: String, options: EngineOptions = EngineOptions(),
    report: @escaping @Sendable (String) -> Void = { _ in }
  ) throws(Errno) {
    self.init(
      engine: try PostgresEngine(address: address, options: options, report: report),
      options: options)
  }

  /// Whether the engine is one that keeps the promise.
  /// - Throws: `unsuitable`, and what to do; `unreachable`.
  package func check() throws(JournalError) { try engine.check() }
}

package final class PostgresEngine: LogEngine {
  private let shard: UInt64 = 0
  private let options: EngineOptions
  /// For the owner's statements, one at a time.
  private let owner: PostgresLine
  /// For all that must not make an append wait.
  private let others: PostgresLine
  /// Ends a pause.
  private let closing: Wakeup

  init(
    address: String, options: EngineOptions, report: @escaping @Sendable (String) -> Void
  ) throws(Errno) {
    self.options = options
    closing = try Wakeup()
    owner = PostgresLine(address, timeout: options.timeoutNanoseconds, report)
    others = PostgresLine(address, timeout: options.timeoutNanoseconds, report)
  }

  package func close() { closing.signal() }
  package func pause() { closing.wait(nanoseconds: options.pauseNanoseconds) }
  package func now() -> Int64 { SystemClock.steadyNanoseconds() }
  package func uniqueNumber() -> UInt64 { .random(in: 1..<1 << 62) }

  package func note(_ trouble: String?) {
    if let trouble { owner.note(trouble) } else { owner.noteAllIsWell() }
  }

  // MARK: What is asked at a start

  func check() throws(JournalError) {
    let statement = """
      select (select count(*) from pg_namespace where nspname = 'holdfast'),
        current_setting('synchronous_standby_names') <> '', current_setting('fsync') = 'on',
        current_setting('full_page_writes') = 'on'
      """
    let rows = try once(others, statement)
    guard rows.number(0, 0) == 1 else {
      throw .unsuitable(
        "the engine has no tables for holdfast yet: holdfast engine init makes them")
    }
    guard rows.number(0, 1) == 1 else {
      throw .unsuitable(
        "the engine has no synchronous standby: set synchronous_standby_names, or what is "
          + "acknowledged is on one machine alone")
    }
    guard rows.number(0, 2) == 1, rows.number(0, 3) == 1 else {
      throw .unsuitable(
        "the engine runs with fsync or full_page_writes off: it may lose what it acknowledged")
    }
    let versions = try once(others, "select version from holdfast.version")
    guard versions.count == 1 else { throw .unsuitable("the engine's tables have no version") }
    let version = versions.number(0, 0)
    guard version == Schema.version else {
      throw .unsuitable(
        version > Schema.version
          ? "the engine's tables are of a newer holdfast (version \(version)), "
            + "this one knows \(Schema.version)"
          : "the engine's tables are of version \(version), this holdfast needs \(Schema.version)")
    }
  }

  /// What is read of the row `s`, whatever a statement does; nine columns.
  private static let row = """
    s.epoch, s.beats, s.end_lsn, s.trimmed_lsn, s.owner, s.address, s.has_begun, s.is_wanted,
    current_setting('synchronous_standby_names') <> ''
      and current_setting('synchronous_commit') in ('on', 'remote_apply')
    """

  private func state(_ rows: PostgresRows) throws(JournalError) -> LogState {
    guard rows.count > 0, let epoch = UInt32(exactly: rows.number(0, 0)) else {
      throw .lost("the engine has no row for shard \(shard)")
    }
    let owner = OwnerColumn(text: rows.text(0, 4))
    return LogState(
      epoch: epoch, beats: rows.number(0, 1), endLSN: rows.number(0, 2),
      trimmedLSN: rows.number(0, 3), owner: owner.name, address: rows.text(0, 5),
      lease: owner.lease, hasBegun: rows.number(0, 6) == 1, isWanted: rows.number(0, 7) == 1)
  }

  package func state(asOwner: Bool) throws(JournalError) -> LogState {
    try state(
      once(
        asOwner ? owner : others, "select \(Self.row) from holdfast.shard s where shard = $1",
        [.int8(shard)]))
  }

  /// Runs what waits for nobody.
  private func once(
    _ line: PostgresLine, _ statement: String, _ values: [PostgresValue] = []
  ) throws(JournalError) -> PostgresRows {
    do throws(PostgresError) {
      return try line.run(statement, values, nanoseconds: options.timeoutNanoseconds).rows
    } catch {
      throw .unreachable("the engine: \(error)")
    }
  }

  // MARK: What the owner writes

  private static let append = """
    with own as (
      update holdfast.shard s set end_lsn = end_lsn + $5, beats = $2
      where shard = $1 and epoch = $3 and end_lsn = $4 returning \(row)
    ), put as (
      insert into holdfast.log (shard, lsn, byte_count, epoch, sequence, place, mark, bytes)
      select $1, $4, $5, $3, $6, $7, $8, $9 from own
    )
    select * from own
    """
  private static let beat = """
    update holdfast.shard s set beats = $2 where shard = $1 and epoch = $3
    returning \(row), $4 = 1 and exists (
      select 1 from holdfast.log where shard = $1 and lsn = $5 and mark = $6)
    """
  private static let take = """
    update holdfast.shard s
    set epoch = epoch + 1, beats = $2, owner = $5, address = $6, is_wanted = false
    where shard = $1 and epoch = $3 and beats = $4 returning \(row)
    """
  private static let release = """
    update holdfast.shard s set owner = '', address = '', beats = $2
    where shard = $1 and epoch = $3 returning \(row)
    """
  private static let begin = """
    with own as (
      update holdfast.shard s set end_lsn = $4, trimmed_lsn = $4, beats = $2, has_begun = true
      where shard = $1 and epoch = $3 and not has_begun and $6 = (
        select count(*) from holdfast.checkpoint_part p
        join holdfast.checkpoint c on p.checkpoint = c.name where c.name = $5)
      returning \(row)
    ), done as (
      update holdfast.checkpoint set parts = $6, is_complete = true
      where name = $5 and exists (select 1 from own)
    )
    select * from own
    """

  package func write(_ change: EngineWrite, beats: UInt64) -> EngineAnswer {
    let statement: String
    var values: [PostgresValue] = [.int8(shard), .int8(beats)]
    switch change {
    case .append(let batch):
      statement = Self.append
      values += [
        .int8(UInt64(batch.epoch)), .int8(batch.lsn), .int8(UInt64(batch.byteCount)),
        .int8(batch.sequence), .int8(UInt64(batch.offset)), .int8(batch.mark),
        unsafe .bytes(batch.bytes),
      ]
    case .beat(let epoch, let last):
      statement = Self.beat
      values += [
        .int8(UInt64(epoch)), .int8(last == nil ? 0 : 1), .int8(last?.lsn ?? 0),
        .int8(last?.mark ?? 0),
      ]
    case .take(let seen, let name, let address, let lease):
      statement = Self.take
      let owner = OwnerColumn(name: name, lease: lease)
      values += [.int8(UInt64(seen.epoch)), .int8(seen.beats), .text(owner.text), .text(address)]
    case .release(let epoch):
      statement = Self.release
      values.append(.int8(UInt64(epoch)))
    case .begin(let endLSN, let epoch, let checkpoint, let parts):
      statement = Self.begin
      values += [
        .int8(UInt64(epoch)), .int8(endLSN), .int8(checkpoint), .int8(UInt64(parts)),
      ]
    }
    guard
      let (rows, notice) = try? owner.run(
        statement, values, isKept: true, nanoseconds: options.writeNanoseconds)
    else { return .none }
    guard rows.count == 1, let state = try? state(rows) else { return .nothing }
    return .changed(
      state: state, hasBatch: rows.columnCount > 9 && rows.number(0, 9) == 1,
      doubt: notice ?? (rows.number(0, 8) == 1 ? nil : "it has no synchronous standby"))
  }

  package func want() throws(JournalError) {
    _ = try once(
      others, "update holdfast.shard set is_wanted = true where shard = $1", [.int8(shard)])
  }
}

// MARK: - Reading, and what the log no longer needs

extension PostgresEngine {
  /// Rows of one statement: batches are of 256 KiB at most, by the journal's groups.
  private static let rowsMax: UInt64 = 32

  package func read(
    from lsn: UInt64, whole: UInt64, asOwner: Bool,
    _ body: (PlacedBatch) throws(JournalError) -> Bool
  ) throws(JournalError) -> LogState {
    let rows = try once(
      asOwner ? owner : others,
      """
      select \(Self.row), l.lsn, l.byte_count, l.epoch, l.sequence, l.place, l.mark, l.bytes
      from holdfast.shard s left join (
        select lsn, byte_count, epoch, sequence, place, mark,
          case when lsn >= $3 then bytes else ''::bytea end as bytes
        from holdfast.log where shard = $1 and lsn >= $2 order by lsn limit $4
      ) l on true where s.shard = $1 order by l.lsn
      """,
      [.int8(shard), .int8(lsn), .int8(whole), .int8(Self.rowsMax)])
    // Without batches there is one row, and nothing in it for one.
    for row in 0..<rows.count where !rows.isNull(row, 9) {
      let goesOn = unsafe try rows.withBytes(row, 15) { (bytes) throws(JournalError) in
        unsafe try body(
          PlacedBatch(
            lsn: rows.number(row, 9), byteCount: Int(clamping: rows.number(row, 10)),
            epoch: UInt32(clamping: rows.number(row, 11)), sequence: rows.number(row, 12),
            offset: Int(clamping: rows.number(row, 13)), mark: rows.number(row, 14), bytes: bytes))
      }
      if !goesOn { break }
    }
    return try state(rows)
  }

  package func trim(before lsn: UInt64) throws(JournalError) {
    _ = try once(
      others,
      """
      update holdfast.shard set trimmed_lsn = $2 where shard = $1 and trimmed_lsn < $2 and exists (
        select 1 from holdfast.checkpoint where shard = $1 and lsn >= $2 and is_complete)
      """, [.int8(shard), .int8(lsn)])
    // In pieces: none of them takes long.
    while true {
      let rows = try once(
        others,
        """
        delete from holdfast.log where shard = $1 and lsn in (
          select lsn from holdfast.log where shard = $1
            and lsn < (select trimmed_lsn from holdfast.shard where shard = $1)
          order by lsn limit 200)
        returning 1
        """, [.int8(shard)])
      if rows.count == 0 { return }
    }
  }

  package func checkpoints() throws(JournalError) -> [KeptCheckpoint] {
    let rows = try once(
      others,
      """
      select name, lsn from holdfast.checkpoint where shard = $1 and is_complete order by lsn, name
      """, [.int8(shard)])
    return (0..<rows.count).map {
      KeptCheckpoint(name: rows.number($0, 0), lsn: rows.number($0, 1))
    }
  }

  package func addCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) {
    // What was not completed in a day was given up.
    _ = try once(
      others,
      """
      delete from holdfast.checkpoint
      where shard = $1 and not is_complete and made_at < now() - interval '1 day'
      """, [.int8(shard)])
    _ = try once(
      others, "insert into holdfast.checkpoint (name, shard, lsn) values ($1, $2, $3)",
      [.int8(checkpoint.name), .int8(shard), .int8(checkpoint.lsn)])
  }

  package func addPart(
    _ part: Int, of checkpoint: KeptCheckpoint, _ bytes: [UInt8]
  ) throws(JournalError) {
    do throws(PostgresError) {
      unsafe try bytes.span.withUnsafeBytes { (bytes) throws(PostgresError) in
        _ = unsafe try others.run(
          "insert into holdfast.checkpoint_part values ($1, $2, $3)",
          [.int8(checkpoint.name), .int8(UInt64(part)), .bytes(bytes)],
          nanoseconds: options.writeNanoseconds)
      }
    } catch {
      throw .unreachable("the engine: \(error)")
    }
  }

  package func completeCheckpoint(
    _ checkpoint: KeptCheckpoint, parts: Int
  ) throws(JournalError) -> Bool {
    try once(
      others,
      """
      update holdfast.checkpoint set parts = $2, is_complete = true where name = $1
        and $2 = (select count(*) from holdfast.checkpoint_part where checkpoint = $1)
      returning 1
      """, [.int8(checkpoint.name), .int8(UInt64(parts))]
    ).count == 1
  }

  package func part(
    _ part: Int, of checkpoint: KeptCheckpoint,
    _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> Int? {
    let rows = try once(
      others,
      """
      select c.parts, p.bytes from holdfast.checkpoint c
      left join holdfast.checkpoint_part p on p.checkpoint = c.name and p.part = $2
      where c.name = $1 and c.is_complete
      """,
      [.int8(checkpoint.name), .int8(UInt64(part))])
    if rows.count == 0 { return nil }
    if !rows.isNull(0, 1) { try unsafe rows.withBytes(0, 1, body) }
    return Int(clamping: rows.number(0, 0))
  }

  /// The newest stays for certain, also where two do this at the same time.
  package func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) {
    _ = try once(
      others,
      """
      delete from holdfast.checkpoint c where name = $1 and exists (
        select 1 from holdfast.checkpoint n
        where n.shard = c.shard and n.is_complete and (n.lsn, n.name) > (c.lsn, c.name))
      """, [.int8(checkpoint.name)])
  }
}
