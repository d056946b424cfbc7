// One writer at a time for each shard of items, fed by a queue, without a thread of its own ("flat
// combining": Hendler, Incze, Shavit, Tzafrir, 2010). A shard has a seat. A session that finds the seat
// free takes it, and is the writer: it does its own transaction, then those that others have posted to the
// shard's queue meanwhile, and leaves. A session that finds the seat taken posts its transaction and waits
// for the answer; if the seat becomes free before that, it sits down itself.
//
// Why not a thread for each shard: a turn of an event loop is synchronous, so the loop would have to wait
// for the answer anyway, and pay for two hand-overs between threads. Whoever compares strategies should
// know that: here the queue is used only while the shard is busy, and an idle shard costs one exchange.
// What it shows of a single writer is what matters: no conflicts, balances that stay in one core's cache
// while it works off the queue, and that one slow writer stops its shard.
//
// The queue is a set of bits, one for each of the first 64 sessions: a session waits for one transaction
// at most, and the writer takes all that are posted at once, so nobody is passed over. Any later session
// posts nothing and waits for the seat. So does a transaction over several shards: it takes their seats in
// the order of the shards' numbers, and is the writer of all of them.
//
// What is posted is the session itself: all that a transaction needs lies in its scratch. It is handed over
// by setting the bit (release) and taking it (acquire), and back by `isAnswered` in the same way; between
// the two only the writer touches the session's scratch, its record and its counters. What the writer
// appends to the log is what the poster was admitted to append.
//
// A poster does not wait for ever for a writer that was descheduled: it takes its bit back. Where the bit
// is gone, the transaction is being done: what follows are a few hundred instructions.
internal import Posix

enum SingleWriter: ConcurrencyStrategy {
  /// How often a writer looks at the queue before it leaves: it has a caller of its own.
  private static let roundsMax = 4

  @inline(__always)
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    let shards = self.shards(session)
    if shards.nonzeroBitCount > 1 || session.mailbox == nil {
      return attempt(kind, session, seatedAt: shards)
    }
    let shard = shards.trailingZeroBitCount
    if session.core.tables.writers.shards[shard].takeSeat() {
      let attempt = session.executeSeated(kind)
      combine(shard, session)
      session.core.tables.writers.shards[shard].leaveSeat()
      return attempt
    }
    return post(kind, session, shard)
  }

  /// The shards of all items, as bits.
  @inline(__always)
  private static func shards(_ session: StoreSession) -> UInt64 {
    var shards: UInt64 = 0
    for index in 0..<session.scratch.changes.count {
      shards |= 1 << UInt64(WriterShards.shard(session.scratch.changes[index].ordinal))
    }
    return shards
  }

  /// Waits for the seats of all these shards, one after the other.
  private static func attempt(
    _ kind: TransactionKind, _ session: StoreSession, seatedAt shards: UInt64
  ) -> Attempt {
    let writers = session.core.tables.writers
    var taken: UInt64 = 0
    defer {
      for shard in Bits(taken) {
        combine(shard, session)
        writers.shards[shard].leaveSeat()
      }
    }
    for shard in Bits(shards) {
      guard
        writers.shards[shard].takeSeat()
          || session.wait(until: { writers.shards[shard].takeSeat() })
      else {
        session.counters.conflictsLocked.add()
        return .conflict
      }
      taken |= 1 << UInt64(shard)
    }
    return session.executeSeated(kind)
  }

  /// Leaves the transaction to the shard's writer, or becomes it.
  @inline(never)
  private static func post(
    _ kind: TransactionKind, _ session: StoreSession, _ shard: Int
  ) -> Attempt {
    let writers = session.core.tables.writers
    guard let number = session.mailbox else { return .conflict }
    writers.mailboxes[number].put(session, kind)
    writers.shards[shard].post(number)
    let isAnswered = session.wait {
      if writers.mailboxes[number].isAnswered { return true }
      guard writers.shards[shard].takeSeat() else { return false }
      // Now nobody else is at it: it was answered just before, or is still posted, and is done here.
      combine(shard, session)
      writers.shards[shard].leaveSeat()
      return writers.mailboxes[number].isAnswered
    }
    if !isAnswered {
      if writers.shards[shard].takeBack(number) {
        session.counters.conflictsLocked.add()
        return .conflict
      }
      var waiting = Waiting()
      while !writers.mailboxes[number].isAnswered { waiting.once() }
    }
    return writers.mailboxes[number].answer
  }

  /// Does what is posted to a shard whose seat this session has.
  @inline(__always)
  private static func combine(_ shard: Int, _ session: StoreSession) {
    let writers = session.core.tables.writers
    for _ in 0..<roundsMax {
      let posted = writers.shards[shard].takePosted()
      if posted == 0 { return }
      for number in Bits(posted) {
        if number != session.mailbox { session.counters.combined.add() }
        writers.mailboxes[number].answerPoster { poster, kind in
          // `post` puts nothing else there.
          unsafe unsafeDowncast(poster, to: StoreSession.self).executeSeated(kind)
        }
      }
    }
  }
}

extension StoreSession {
  /// The transaction of this session, done by whoever has the seats of its shards.
  @inline(__always)
  func executeSeated(_ kind: TransactionKind) -> Attempt {
    let reading = read(kind)
    store.runDeliberateGap()
    return finish(reading, kind)
  }

  /// The number of this session's mailbox; nil where it has none.
  var mailbox: Int? {
    @inline(__always) get { number <= WriterShards.mailboxesMax ? number - 1 : nil }
  }
}
