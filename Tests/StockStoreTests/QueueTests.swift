import Log
import Posix
import Simulation
import Synchronization
import Testing

@testable import StockStore

/// The strategies in which commands wait for one another in a queue. Who waits is arranged, not hoped for:
/// a command stands still in its middle until the queue behind it looks as the test wants it.
@Suite(.serialized) struct QueueTests {
  private func makeStore(_ concurrency: ConcurrencyControl) -> StockStore {
    let store = StockStore(
      limits: testLimits(reservations: 1 << 20), clock: SystemClock(), concurrency: concurrency,
      secret: (1, 2))
    let session = store.makeSession()
    _ = session.beginTurn()
    for sku in 0..<2 { _ = session.adjust("make\(sku)", "sku\(sku)", .setOnHand(100)) }
    session.endTurn()
    return store
  }

  /// Reserves a unit with the first of `keys`. While that is in hand, a thread for each other key begins to
  /// reserve one too, one after the other: each begins when `waiting` counts the ones before.
  /// - Returns: the log sequence numbers, in the order of the keys; 0: refused.
  private func reserveInOrder(
    _ store: StockStore, _ keys: [String], waiting: @escaping @Sendable () -> Int
  ) throws -> [UInt64] {
    let numbers = Mutex([UInt64](repeating: 0, count: keys.count))
    let threads = Mutex<[Thread]>([])
    let failures = Mutex<[any Error]>([])
    let reserve: @Sendable (Int) -> Void = { index in
      let session = store.makeSession()
      _ = session.beginTurn()
      let decision = session.reserve(keys[index], "sku0", 1)
      if decision.value != nil { numbers.withLock { $0[index] = decision.lsn } }
      session.endTurn()
    }
    store.setDeliberateGap {
      do {
        for index in 1..<keys.count {
          let thread = try Thread(name: "waiter") { reserve(index) }
          threads.withLock { $0.append(thread) }
          var waitingNow = Waiting()
          while waiting() < index { waitingNow.once() }
        }
      } catch {
        failures.withLock { $0.append(error) }
      }
    }
    reserve(0)
    for thread in threads.withLock({ $0 }) { thread.join() }
    if let failure = failures.withLock({ $0.first }) { throw failure }
    return numbers.withLock { $0 }
  }

  @Test func firstComeFirstServed() throws {
    let store = makeStore(.queued)
    let numbers = try reserveInOrder(store, store.distinctKeys(5)) {
      // The one that is served is in the queue, too.
      store.core.tables.queues[0].count - 1
    }
    #expect(numbers.allSatisfy { $0 > 0 } && numbers == numbers.sorted())
    #expect(store.statistics().waits == 4)
    #expect(store.core.tables.queues[0].count == 0)
    #expect(store.audit() == [])
  }

  @Test func aQueueThatIsFullRefuses() throws {
    let store = makeStore(.queued)
    let queues = store.core.tables.queues
    for ticket in 0..<ItemQueue.waitersMax {
      // The numbers go on from the ticket that made the item.
      let taken = queues[1].takeTicket()
      #expect(taken == UInt32(ticket) + 1)
    }
    let session = store.makeSession()
    _ = session.beginTurn()
    let cart = [TestLine(sku: "sku0", quantity: 1), TestLine(sku: "sku1", quantity: 1)]
    #expect(session.reserve("k", cart).refusal == .conflictTooBusy(attempts: 16))
    let statistics = store.statistics()
    #expect(statistics.tooBusy == 1 && statistics.conflictsLocked == 16)
    // Nobody is left in the other item's queue, and a place that is free is taken.
    #expect(queues[0].count == 0 && session.level("sku0")?.held == 0)
    for _ in 0..<ItemQueue.waitersMax { queues[1].callNext() }
    #expect(session.reserve("k", cart).value != nil)
    #expect(store.audit() == [])
  }

  /// The tickets' numbers begin again after 2^32 of them.
  @Test func ticketsMayRunOver() {
    let queue = ItemQueue(first: .max - 1)
    for _ in 0..<4 {
      guard let ticket = queue.takeTicket() else {
        Issue.record("an empty queue is full")
        return
      }
      #expect((queue.isServing(ticket), queue.count) == (true, 1))
      queue.callNext()
    }
    #expect(queue.count == 0)
  }

  @Test func theSeatedWriterDoesWhatOthersPosted() throws {
    let store = makeStore(.singleWriter)
    let numbers = try reserveInOrder(store, store.distinctKeys(4)) {
      store.core.tables.writers.shards[0].postedCount
    }
    #expect(numbers.allSatisfy { $0 > 0 } && numbers[0] == numbers.min())
    let statistics = store.statistics()
    // Who waits for very long takes its bit back and posts again: then there are more waits.
    #expect(statistics.combined == 3 && statistics.waits >= 3)
    #expect(statistics.reservationsHeld == 4 && statistics.commitsByAttempts.reduce(0, +) == 6)
    #expect(store.audit() == [])
  }

  /// Who takes its bit back was not answered, and never is; who cannot, is.
  @Test func whatIsPostedIsTakenOnce() {
    let shard = WriterShard()
    shard.post(3)
    shard.post(63)
    #expect(shard.postedCount == 2)
    #expect((shard.takeBack(3), shard.takeBack(3)) == (true, false))
    #expect((shard.takePosted(), shard.takePosted()) == (1 << 63, 0))
    #expect((shard.takeBack(63), shard.postedCount) == (false, 0))
    #expect((shard.takeSeat(), shard.takeSeat()) == (true, false))
    shard.leaveSeat()
    #expect((shard.takeSeat(), shard.takeSeat()) == (true, false))
  }

  /// Carts over two shards and more sessions than there are mailboxes: they wait for the seats.
  @Test func withoutAMailbox() throws {
    let store = makeStore(.singleWriter)
    var sessions: [StoreSession] = []
    for number in 0..<WriterShards.mailboxesMax + 2 {
      let session = store.makeSession()
      sessions.append(session)
      _ = session.beginTurn()
      let cart = [TestLine(sku: "sku1", quantity: 1), TestLine(sku: "sku0", quantity: 1)]
      #expect(session.reserve("cart\(number)", cart).value != nil)
    }
    #expect(sessions.last?.mailbox == nil && sessions.first?.mailbox == 1)
    #expect(store.statistics().waits == 0)
    #expect(store.audit() == [])
  }
}
