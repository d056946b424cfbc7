// Reads topics as a member of a consumer group.
internal import CKafka
internal import Messaging
internal import Posix

/// What gives deliveries to a connection.
protocol KafkaReader: AnyObject {
  /// The client whose health is the connection's too.
  var client: KafkaClient { get }
  /// Deliveries that are not accepted.
  var unaccepted: Int { get }
  /// Takes what has come, at most `room` deliveries.
  /// - Returns: whether there was anything.
  func drain(room: Int, _ take: (BrokerNotice) -> Void) throws(BrokerError) -> Bool
  func accept(_ tag: UInt64)
  /// Ends within so long.
  func close(milliseconds: Int64)
}

/// A member of a group. Each partition has a queue of its own, from which no more is taken than the prefetch allows: what
/// is left there holds the library back from fetching. A partition that goes to another member is first given a moment
/// in which what is in hand may be accepted.
@safe final class KafkaGroup: KafkaReader {
  /// Positions are told this often.
  private static let commitNanoseconds: Int64 = 100_000_000
  /// How long a partition is kept that is to go to another member, for what is in hand.
  private static let partingNanoseconds: Int64 = 2_000_000_000
  /// Messages that are taken of one partition at a time.
  private static let batch = 256
  /// Deliveries of a partition that are remembered while the first of them is not accepted.
  private static let waitingMax = 200_000

  @safe private struct Source {
    let partition: TopicPartition
    let assignment: DeliveryLedger.Assignment
    let queue: OpaquePointer
  }

  /// A partition list to be given up, once what is in hand is done, or by `deadline`.
  @safe private struct Parting {
    let partitions: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>
    let assignments: Set<DeliveryLedger.Assignment>
    let deadline: Int64
  }

  let client: KafkaClient
  private var ledger = DeliveryLedger()
  private var sources: [Source] = []
  private var parting: Parting?
  /// The source that is looked at first, so that each has its turn.
  private var turn = 0
  private var isCommitting = false
  private var committedAt: Int64 = 0

  var unaccepted: Int { ledger.unaccepted }

  init(
    _ access: BrokerAccess, topics: [String], group: String, wakeup: Wakeup,
    log: KafkaLog
  ) throws(BrokerError) {
    client = try KafkaClient(
      .consumer, .consumer(access, group: group), wakeup: wakeup, log: log)
    // All events come to the main queue, which counts as the application's poll too.
    let redirected = unsafe rd_kafka_poll_set_consumer(client.handle)
    guard redirected == RD_KAFKA_RESP_ERR_NO_ERROR else {
      throw .unsuitable(KafkaErrors.text(redirected))
    }
    if let queue = unsafe rd_kafka_queue_get_consumer(client.handle) {
      unsafe client.watch(queue)
      unsafe rd_kafka_queue_destroy(queue)
    }
    guard let list = unsafe rd_kafka_topic_partition_list_new(Int32(topics.count)) else {
      throw .away("out of memory")
    }
    defer { unsafe rd_kafka_topic_partition_list_destroy(list) }
    for topic in topics {
      unsafe rd_kafka_topic_partition_list_add(list, topic, RD_KAFKA_PARTITION_UA)
    }
    let error = unsafe rd_kafka_subscribe(client.handle, list)
    guard error == RD_KAFKA_RESP_ERR_NO_ERROR else { throw .unsuitable(KafkaErrors.text(error)) }
  }

  deinit {
    for source in sources { unsafe rd_kafka_queue_destroy(source.queue) }
    if let parting = parting {
      unsafe rd_kafka_topic_partition_list_destroy(parting.partitions)
    }
  }

  // MARK: Reading

  func drain(room: Int, _ take: (BrokerNotice) -> Void) throws(BrokerError) -> Bool {
    var hasCome = false
    while let event = try unsafe client.nextEvent() {
      defer { unsafe rd_kafka_event_destroy(event) }
      hasCome = true
      try unsafe handle(event)
    }
    part(now: SystemClock.monotonicNanoseconds())
    if try read(room: room, take) { hasCome = true }
    try commit(now: SystemClock.monotonicNanoseconds())
    return hasCome
  }

  private func handle(_ event: OpaquePointer) throws(BrokerError) {
    switch unsafe rd_kafka_event_type(event) {
    case RD_KAFKA_EVENT_REBALANCE:
      guard let list = unsafe rd_kafka_event_topic_partition_list(event) else { return }
      if unsafe rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
        try unsafe assign(list)
      } else {
        unsafe revoke(list)
      }
    case RD_KAFKA_EVENT_OFFSET_COMMIT: try unsafe noteCommit(event)
    default: break
    }
  }

  /// Takes up to `room` messages, of each partition in its turn.
  private func read(room: Int, _ take: (BrokerNotice) -> Void) throws(BrokerError) -> Bool {
    guard !sources.isEmpty else { return false }
    turn += 1
    var left = room
    for index in sources.indices where left > 0 {
      let source = sources[(turn + index) % sources.count]
      let isParting = parting?.assignments.contains(source.assignment) ?? false
      guard !isParting, ledger.waiting(in: source.assignment) < Self.waitingMax else { continue }
      left -= try read(source, atMost: min(left, Self.batch), take)
    }
    return left < room
  }

  private func read(
    _ source: Source, atMost count: Int, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) -> Int {
    let origin = "\(source.partition.topic)[\(source.partition.number)]"
    return try unsafe KafkaMessages.taken(from: source.queue, atMost: count, of: client) {
      message in
      guard let tag = unsafe ledger.deliver(message.pointee.offset, of: source.assignment) else {
        return
      }
      take(.delivery(unsafe KafkaMessages.delivery(message, tag: tag, origin: origin)))
    }
  }

  // MARK: Partitions come and go

  private func assign(_ list: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>)
    throws(BrokerError)
  {
    // What is to go, goes first.
    part(now: .max)
    for index in 0..<Int(unsafe list.pointee.cnt) {
      let element = unsafe list.pointee.elems[index]
      guard
        let queue = unsafe rd_kafka_queue_get_partition(
          client.handle, element.topic, element.partition)
      else { throw .away("out of memory") }
      // Before it is assigned: what is fetched from now on comes to this queue.
      unsafe rd_kafka_queue_forward(queue, nil)
      unsafe client.watch(queue)
      let partition = TopicPartition(
        topic: unsafe String(cString: element.topic), number: unsafe element.partition)
      unsafe sources.append(
        Source(partition: partition, assignment: ledger.assign(partition), queue: queue))
    }
    if isCooperative {
      unsafe check(rd_kafka_incremental_assign(client.handle, list))
    } else {
      unsafe rd_kafka_assign(client.handle, list)
    }
  }

  /// Takes no more of these partitions, and gives them up when what is in hand is accepted.
  private func revoke(_ list: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>) {
    part(now: .max)
    var named: Set<TopicPartition> = []
    for index in 0..<Int(unsafe list.pointee.cnt) {
      let element = unsafe list.pointee.elems[index]
      named.insert(
        TopicPartition(
          topic: unsafe String(cString: element.topic), number: unsafe element.partition))
    }
    let assignments = Set(
      sources.filter { named.contains($0.partition) }.map(\.assignment))
    guard let copy = unsafe rd_kafka_topic_partition_list_copy(list) else { return }
    // Where the group has gone on without us, somebody else reads them already.
    let isLost = unsafe rd_kafka_assignment_lost(client.handle) != 0
    let now = SystemClock.monotonicNanoseconds()
    parting = unsafe Parting(
      partitions: copy, assignments: assignments,
      deadline: isLost ? now : now + Self.partingNanoseconds)
    part(now: now)
  }

  /// Gives partitions up that are to go, once nothing of them is in hand, or their time is over.
  private func part(now: Int64) {
    guard let leaving = parting else { return }
    let inHand = leaving.assignments.reduce(0) { $0 + ledger.unaccepted(in: $1) }
    guard inHand == 0 || now >= leaving.deadline else { return }
    parting = nil
    // The library sends this before it leaves the group's generation.
    if unsafe rd_kafka_assignment_lost(client.handle) == 0 {
      tell(ledger.positionsToTell(of: leaving.assignments))
    }
    for source in sources where leaving.assignments.contains(source.assignment) {
      ledger.revoke(source.assignment)
      unsafe rd_kafka_queue_io_event_enable(source.queue, -1, nil, 0)
      unsafe rd_kafka_queue_destroy(source.queue)
    }
    sources.removeAll { leaving.assignments.contains($0.assignment) }
    if isCooperative {
      unsafe check(rd_kafka_incremental_unassign(client.handle, leaving.partitions))
    } else {
      unsafe rd_kafka_assign(client.handle, nil)
    }
    unsafe rd_kafka_topic_partition_list_destroy(leaving.partitions)
  }

  private var isCooperative: Bool {
    guard let name = unsafe rd_kafka_rebalance_protocol(client.handle) else { return false }
    return unsafe String(cString: name) == "COOPERATIVE"
  }

  /// What an incremental assignment has to say is of the log: the next one is made from what is.
  private func check(_ error: OpaquePointer?) {
    guard let error = unsafe error else { return }
    unsafe client.log.note(String(cString: rd_kafka_error_string(error)))
    unsafe rd_kafka_error_destroy(error)
  }

  // MARK: Positions

  func accept(_ tag: UInt64) { ledger.accept(tag) }

  private func commit(now: Int64) throws(BrokerError) {
    guard !isCommitting, now - committedAt >= Self.commitNanoseconds else { return }
    committedAt = now
    isCommitting = tell(ledger.positionsToTell())
  }

  /// - Returns: false where there was nothing to tell, or it could not be.
  @discardableResult
  private func tell(_ positions: [(partition: TopicPartition, offset: Int64)]) -> Bool {
    guard !positions.isEmpty,
      let list = unsafe rd_kafka_topic_partition_list_new(Int32(positions.count))
    else { return false }
    defer { unsafe rd_kafka_topic_partition_list_destroy(list) }
    for (partition, offset) in positions {
      let element = unsafe rd_kafka_topic_partition_list_add(
        list, partition.topic, partition.number)
      unsafe element?.pointee.offset = offset
    }
    let error = unsafe rd_kafka_commit_queue(client.handle, list, client.queue, nil, nil)
    if error == RD_KAFKA_RESP_ERR_NO_ERROR { return true }
    for (partition, offset) in positions { ledger.told(partition, offset, isTaken: false) }
    return false
  }

  private func noteCommit(_ event: OpaquePointer) throws(BrokerError) {
    isCommitting = false
    let error = unsafe rd_kafka_event_error(event)
    guard let list = unsafe rd_kafka_event_topic_partition_list(event) else { return }
    for index in 0..<Int(unsafe list.pointee.cnt) {
      let element = unsafe list.pointee.elems[index]
      let partition = TopicPartition(
        topic: unsafe String(cString: element.topic), number: unsafe element.partition)
      let isTaken =
        unsafe error == RD_KAFKA_RESP_ERR_NO_ERROR
        && element.err == RD_KAFKA_RESP_ERR_NO_ERROR
      unsafe ledger.told(partition, element.offset, isTaken: isTaken)
    }
    if error == RD_KAFKA_RESP_ERR_NO_ERROR { return client.noteLife() }
    let text = "the group's positions were not taken: \(KafkaErrors.text(error))"
    if KafkaErrors.ofClient(error) == .unsuitable { throw .unsuitable(text) }
    // A group that is being put together takes none; what is not taken is delivered again.
    client.log.note(facility: "COMMIT", text, now: SystemClock.monotonicNanoseconds())
  }

  // MARK: The end

  func close(milliseconds: Int64) {
    let end = SystemClock.monotonicNanoseconds() + milliseconds * 1_000_000
    do throws(BrokerError) {
      if tell(ledger.positionsToTell()) { isCommitting = true }
      while isCommitting, SystemClock.monotonicNanoseconds() < end {
        guard let event = try unsafe client.nextEvent(waiting: 10) else { continue }
        defer { unsafe rd_kafka_event_destroy(event) }
        if unsafe rd_kafka_event_type(event) == RD_KAFKA_EVENT_OFFSET_COMMIT {
          try unsafe noteCommit(event)
        } else {
          try unsafe handle(event)
        }
      }
    } catch {
      client.log.note("closing: \(error)")
    }
    part(now: .max)
    leave(end)
  }

  /// Leaves the group, so that another member has the partitions at once, not when it is missed.
  private func leave(_ end: Int64) {
    // The main queue gets its events from the consumer's, which the library redirects into this one.
    guard let last = unsafe rd_kafka_queue_new(client.handle) else { return }
    defer { unsafe rd_kafka_queue_destroy(last) }
    if let error = unsafe rd_kafka_consumer_close_queue(client.handle, last) {
      return unsafe rd_kafka_error_destroy(error)
    }
    while unsafe rd_kafka_consumer_closed(client.handle) == 0,
      SystemClock.monotonicNanoseconds() < end
    {
      guard let event = unsafe rd_kafka_queue_poll(last, 10) else { continue }
      if unsafe rd_kafka_event_type(event) == RD_KAFKA_EVENT_REBALANCE {
        unsafe rd_kafka_assign(client.handle, nil)
      }
      unsafe rd_kafka_event_destroy(event)
    }
  }
}
