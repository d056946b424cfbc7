// The log in PostgreSQL: a row for each batch, and one row that says where the log ends and whose it is. Consensus,
// failure detection and promotion are PostgreSQL's and its manager's; here is only what makes an append certain.
//
// An append is one statement, which compares epoch and end, moves the end and puts the batch there. Its answer
// comes when a quorum of standbys has it. Everything else is about answers that do not come:
//
// - A statement that changes no row does not say that somebody else is the owner: it may have waited behind the
//   one before, whose answer was lost. Fenced is who finds a later epoch, and nobody else.
// - A wait for the standbys that was cancelled ends in success, with a notice. So does one for a primary that has
//   no standbys any more. Neither is an answer.
// - What a primary says that was cut off proves nothing. A write that it acknowledges proves what was before it.
//
// So after a doubt: look until it is clear whether the batch is there; then beat, and only then it is durable.
internal import CPlatform
package import Log
package import Posix
internal import Synchronization

package final class PostgresLog: ReplicatedLog {
  package struct Options: Sendable {
    /// Nobody takes a log for so long after its owner was heard of.
    package var leaseNanoseconds: Int64 = 2_500_000_000
    /// By so much earlier the owner ends its lease: the clocks of two machines do not drift apart by more meanwhile.
    package var marginNanoseconds: Int64 = 500_000_000
    /// For a host to be reached, and for a statement that waits for nobody.
    package var timeoutNanoseconds: Int64 = 3_000_000_000
    /// For what waits for standbys: then the connection is given up, and the doubt begins.
    package var writeNanoseconds: Int64 = 10_000_000_000
    /// Between tries.
    package var pauseNanoseconds: Int64 = 200_000_000

    package init() {}
  }

  private let shard: UInt64 = 0
  private let options: Options
  /// For the owner's statements, one at a time.
  private let owner: PostgresLine
  /// For all that must not make an append wait.
  private let others: PostgresLine
  /// When the newest write that was acknowledged had been sent; Int64.min: none.
  private let renewed = Atomic<Int64>(.min)
  private let isClosed = Atomic<Bool>(false)
  /// Ends a pause.
  private let closing: Wakeup
  private let doubtCount = Atomic<UInt64>(0)

  /// - Parameters:
  ///   - address: as libpq takes it; of several hosts, the one counts that can be written to.
  ///   - report: takes what the operator should hear of.
  package init(
    address: String, options: Options = Options(),
    report: @escaping @Sendable (String) -> Void = { _ in }
  ) throws(Errno) {
    self.options = options
    closing = try Wakeup()
    owner = PostgresLine(address, timeout: options.timeoutNanoseconds, report)
    others = PostgresLine(address, timeout: options.timeoutNanoseconds, report)
  }

  /// Writes whose answer was lost, and which were cleared up.
  package var doubts: UInt64 { doubtCount.load(ordering: .relaxed) }

  package var leaseEnd: Int64 {
    let sent = renewed.load(ordering: .acquiring)
    return sent == .min ? .min : sent + options.leaseNanoseconds - options.marginNanoseconds
  }

  package func close() {
    isClosed.store(true, ordering: .releasing)
    closing.signal()
  }

  // MARK: What is asked at a start

  /// Whether the engine is one that keeps the promise.
  /// - Throws: `unsuitable`, and what to do; `unreachable`.
  package func check() throws(JournalError) {
    let statement = """
      select (select count(*) from pg_namespace where nspname = 'holdfast'),
        current_setting('synchronous_standby_names') <> '', current_setting('fsync') = 'on',
        current_setting('full_page_writes') = 'on'
      """
    let rows = try once(others, statement)
    guard rows.number(0, 0) == 1 else {
      throw .unsuitable("the engine has no tables for holdfast yet")
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
    let version = try once(others, "select version from holdfast.version").number(0, 0)
    guard version == Schema.version else {
      throw .unsuitable(
        version > Schema.version
          ? "the engine's tables are of a newer holdfast (version \(version)), "
            + "this one knows \(Schema.version)"
          : "the engine's tables are of version \(version), this holdfast needs \(Schema.version)")
    }
  }

  package func state() throws(JournalError) -> LogState { try state(others) }

  private func state(_ line: PostgresLine) throws(JournalError) -> LogState {
    let rows = try once(
      line,
      """
      select epoch, beats, end_lsn, trimmed_lsn, owner, address, has_begun, is_wanted
      from holdfast.shard where shard = $1
      """,
      [.int8(shard)])
    guard rows.count == 1, let epoch = UInt32(exactly: rows.number(0, 0)) else {
      throw .lost("the engine has no row for shard \(shard)")
    }
    return LogState(
      epoch: epoch, beats: rows.number(0, 1), endLSN: rows.number(0, 2),
      trimmedLSN: rows.number(0, 3), owner: rows.text(0, 4), address: rows.text(0, 5),
      hasBegun: rows.number(0, 6) == 1, isWanted: rows.number(0, 7) == 1)
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

  /// What a write has come to.
  private enum Written {
    /// A quorum has it, and all before.
    case acknowledged(PostgresRows)
    /// It has changed nothing.
    case nothing
    /// Nobody knows.
    case doubtful
  }

  private static let append = """
    with own as (
      update holdfast.shard set end_lsn = end_lsn + $4, beats = beats + 1
      where shard = $1 and epoch = $2 and end_lsn = $3 returning 1
    ), put as (
      insert into holdfast.log (shard, lsn, byte_count, epoch, sequence, place, mark, bytes)
      select $1, $3, $4, $2, $5, $6, $7, $8 from own returning 1
    )
    select count(*), current_setting('synchronous_standby_names') <> '' from put
    """
  private static let beat = """
    update holdfast.shard set beats = beats + 1 where shard = $1 and epoch = $2
    returning 1, current_setting('synchronous_standby_names') <> '', end_lsn
    """
  private static let take = """
    update holdfast.shard
    set epoch = epoch + 1, beats = beats + 1, owner = $4, address = $5, is_wanted = false
    where shard = $1 and epoch = $2 and beats = $3
    returning 1, current_setting('synchronous_standby_names') <> '',
      epoch, beats, end_lsn, trimmed_lsn, has_begun
    """
  private static let release = """
    update holdfast.shard set owner = '', address = '', beats = beats + 1
    where shard = $1 and epoch = $2
    returning 1, current_setting('synchronous_standby_names') <> ''
    """
  private static let begin = """
    with own as (
      update holdfast.shard
      set end_lsn = $3, trimmed_lsn = $3, beats = beats + 1, has_begun = true
      where shard = $1 and epoch = $2 and not has_begun returning 1
    ), done as (
      update holdfast.checkpoint set is_complete = true
      where name = $4 and exists (select 1 from own) returning 1
    )
    select count(*), current_setting('synchronous_standby_names') <> '' from done
    """

  /// Writes once. The first two columns say whether it has, and whether a standby had to have it.
  private func write(_ statement: String, _ values: [PostgresValue]) -> Written {
    let sent = SystemClock.steadyNanoseconds()
    do throws(PostgresError) {
      let (rows, notice) = try owner.run(
        statement, values, isKept: true, nanoseconds: options.writeNanoseconds)
      guard rows.count == 1, rows.number(0, 0) == 1 else { return .nothing }
      guard notice == nil, rows.number(0, 1) == 1 else {
        owner.note(notice ?? "it has no synchronous standby")
        return .doubtful
      }
      renewed.store(max(sent, renewed.load(ordering: .relaxed)), ordering: .releasing)
      return .acknowledged(rows)
    } catch {
      return .doubtful
    }
  }

  package func append(_ batch: PlacedBatch) throws(JournalError) {
    let values: [PostgresValue] = [
      .int8(shard), .int8(UInt64(batch.epoch)), .int8(batch.lsn), .int8(UInt64(batch.byteCount)),
      .int8(batch.sequence), .int8(UInt64(batch.offset)), .int8(batch.mark),
      unsafe .bytes(batch.bytes),
    ]
    if case .acknowledged = write(Self.append, values) { return }
    try clearUp(batch.epoch) { (state) throws(JournalError) in
      if state.endLSN == batch.endLSN { return true }
      guard state.endLSN == batch.lsn else {
        throw .lost(
          "the engine's log ends at \(state.endLSN), and should at \(batch.lsn) or \(batch.endLSN)")
      }
      if case .acknowledged = self.write(Self.append, values) { return true }
      return false
    }
  }

  package func beat(epoch: UInt32) throws(JournalError) {
    if case .acknowledged = write(Self.beat, [.int8(shard), .int8(UInt64(epoch))]) { return }
    try clearUp(epoch) { _ in true }
  }

  /// Tries until `isDone` says that what was written is there, and the engine has acknowledged a beat behind that.
  /// - Parameter isDone: asked with where the log stands, of a primary that has acknowledged a beat before.
  private func clearUp(
    _ epoch: UInt32, _ isDone: (LogState) throws(JournalError) -> Bool
  ) throws(JournalError) {
    doubtCount.add(1, ordering: .relaxed)
    while true {
      if isClosed.load(ordering: .acquiring) {
        throw .unreachable("the engine had not answered when the server ended")
      }
      // A primary whose beats are acknowledged is the one, and what it says is so.
      let state: LogState
      switch write(Self.beat, [.int8(shard), .int8(UInt64(epoch))]) {
      case .acknowledged:
        guard let found = try? self.state(owner) else { continue }
        state = found
      case .nothing, .doubtful:
        // Whoever sees a later epoch is fenced, whomever it asked: nobody makes up an epoch.
        if let found = try? self.state(owner), found.epoch > epoch {
          throw .fenced(by: found.epoch)
        }
        pause()
        continue
      }
      guard state.epoch == epoch else { throw .fenced(by: state.epoch) }
      if try isDone(state),
        case .acknowledged = write(Self.beat, [.int8(shard), .int8(UInt64(epoch))])
      {
        owner.noteAllIsWell()
        return
      }
    }
  }

  package func release(epoch: UInt32) throws(JournalError) {
    if case .acknowledged = write(Self.release, [.int8(shard), .int8(UInt64(epoch))]) { return }
    // Once is enough: whoever wants it takes it a little later where this was in vain.
    let found = try state(owner)
    if found.epoch > epoch { throw .fenced(by: found.epoch) }
  }

  package func want() throws(JournalError) {
    _ = try once(
      others, "update holdfast.shard set is_wanted = true where shard = $1", [.int8(shard)])
  }

  package func begin(
    at endLSN: UInt64, epoch: UInt32, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError) {
    let name = try put(endLSN, nextPart)
    let values: [PostgresValue] = [
      .int8(shard), .int8(UInt64(epoch)), .int8(endLSN), .int8(name),
    ]
    if case .acknowledged = write(Self.begin, values) { return }
    try clearUp(epoch) { (state) throws(JournalError) in
      if state.hasBegun { return true }
      if case .acknowledged = self.write(Self.begin, values) { return true }
      return false
    }
  }

  private static let end = """
    update holdfast.shard set beats = beats + 1
    where shard = $1 and epoch = $2 and end_lsn = $3 and ($5 = 0 or exists (
      select 1 from holdfast.log where shard = $1 and lsn = $4 and mark = $5))
    returning 1, current_setting('synchronous_standby_names') <> ''
    """

  package func ends(
    at lsn: UInt64, behind last: BatchName?, epoch: UInt32
  ) throws(JournalError) -> Bool {
    let values: [PostgresValue] = [
      .int8(shard), .int8(UInt64(epoch)), .int8(lsn), .int8(last?.lsn ?? 0), .int8(last?.mark ?? 0),
    ]
    var noes = 0
    while noes < 2 {
      switch write(Self.end, values) {
      case .acknowledged: return true
      // Behind a beat it counts: that one was not said by a primary of the past.
      case .nothing: noes += 1
      case .doubtful: noes = 0
      }
      try beat(epoch: epoch)
    }
    return false
  }

  private func pause() { closing.wait(nanoseconds: options.pauseNanoseconds) }

  package func take(
    after seen: LogState, owner name: String, address: String
  ) throws(JournalError) -> LogState? {
    let values: [PostgresValue] = [
      .int8(shard), .int8(UInt64(seen.epoch)), .int8(seen.beats), .text(name), .text(address),
    ]
    switch write(Self.take, values) {
    case .acknowledged(let rows):
      return LogState(
        epoch: UInt32(clamping: rows.number(0, 2)), beats: rows.number(0, 3),
        endLSN: rows.number(0, 4), trimmedLSN: rows.number(0, 5), owner: name, address: address,
        hasBegun: rows.number(0, 6) == 1, isWanted: false)
    case .nothing: return nil
    case .doubtful:
      // It may be ours, or become so yet: the name is no other's.
      let found = try state(owner)
      guard found.epoch == seen.epoch + 1, found.owner == name else { return nil }
      try beat(epoch: found.epoch)
      return try state(owner)
    }
  }
}

// MARK: - Reading, and what the log no longer needs

extension PostgresLog {
  /// Rows of one statement: batches are of 256 KiB at most, by the journal's groups.
  private static let rowsMax: UInt64 = 32

  package func read(
    from lsn: UInt64, behind last: BatchName?, bytesMax: Int,
    _ body: (PlacedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64 {
    // The batch before in the same statement: both of one moment of one primary. An owner asks the primary that
    // acknowledges what it writes.
    let rows = try once(
      renewed.load(ordering: .relaxed) == .min ? others : owner,
      """
      select lsn, byte_count, epoch, sequence, place, mark,
        case when lsn >= $2 then bytes else ''::bytea end from holdfast.log
      where shard = $1 and lsn >= $4 order by lsn limit $3
      """,
      [.int8(shard), .int8(lsn), .int8(Self.rowsMax), .int8(last?.lsn ?? lsn)])
    var (next, bytesRead, row) = (lsn, 0, 0)
    if let last {
      guard rows.count > 0, rows.number(0, 0) == last.lsn, rows.number(0, 5) == last.mark,
        rows.number(0, 0) &+ rows.number(0, 1) == lsn
      else {
        let oldest = try state().trimmedLSN
        if last.lsn < oldest { throw .trimmed(oldest: oldest) }
        throw .takenBack(before: lsn)
      }
      row = 1
    }
    while row < rows.count, bytesRead < bytesMax {
      guard rows.number(row, 0) == next else {
        let oldest = try state().trimmedLSN
        if next < oldest { throw .trimmed(oldest: oldest) }
        throw .lost("the engine has no batch at \(next)")
      }
      bytesRead += unsafe try rows.withBytes(row, 6) { (bytes) throws(JournalError) in
        let batch = unsafe PlacedBatch(
          lsn: next, byteCount: Int(clamping: rows.number(row, 1)),
          epoch: UInt32(clamping: rows.number(row, 2)), sequence: rows.number(row, 3),
          offset: Int(clamping: rows.number(row, 4)), mark: rows.number(row, 5), bytes: bytes)
        try body(batch)
        next = batch.endLSN
        return bytes.count
      }
      row += 1
    }
    if rows.count == 0 {
      let oldest = try state().trimmedLSN
      if lsn < oldest { throw .trimmed(oldest: oldest) }
    }
    return next
  }

  /// Only where a whole checkpoint is there that begins at `lsn` or behind it.
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

  package func putCheckpoint(
    _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError) {
    let name = try put(lsn, nextPart)
    _ = try once(
      others, "update holdfast.checkpoint set is_complete = true where name = $1", [.int8(name)])
  }

  /// Puts it there; it is not complete yet. Its name.
  private func put(
    _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError) -> UInt64 {
    // What was not completed in a day was given up.
    _ = try once(
      others,
      """
      delete from holdfast.checkpoint
      where shard = $1 and not is_complete and made_at < now() - interval '1 day'
      """, [.int8(shard)])
    let made = try once(
      others, "insert into holdfast.checkpoint (shard, lsn) values ($1, $2) returning name",
      [.int8(shard), .int8(lsn)])
    let name = made.number(0, 0)
    var part: UInt64 = 0
    while let bytes = try nextPart() {
      do throws(PostgresError) {
        unsafe try bytes.span.withUnsafeBytes { (bytes) throws(PostgresError) in
          _ = unsafe try others.run(
            "insert into holdfast.checkpoint_part values ($1, $2, $3)",
            [.int8(name), .int8(part), .bytes(bytes)], nanoseconds: options.writeNanoseconds)
        }
      } catch {
        throw .unreachable("the engine: \(error)")
      }
      part += 1
    }
    return name
  }

  package func getCheckpoint(
    _ checkpoint: KeptCheckpoint, _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) {
    var part: UInt64 = 0
    while true {
      let rows = try once(
        others, "select bytes from holdfast.checkpoint_part where checkpoint = $1 and part = $2",
        [.int8(checkpoint.name), .int8(part)])
      if rows.count == 0 { break }
      try unsafe rows.withBytes(0, 0, body)
      part += 1
    }
    // Its parts are removed with it.
    guard try checkpoints().contains(checkpoint) else {
      throw .trimmed(oldest: try state().trimmedLSN)
    }
  }

  package func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) {
    _ = try once(
      others, "delete from holdfast.checkpoint where name = $1", [.int8(checkpoint.name)])
  }
}
