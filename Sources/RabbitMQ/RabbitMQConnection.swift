// A connection to RabbitMQ: AMQP 0-9-1 with publisher confirms, on one channel.
internal import CRabbitMQ
package import Messaging
internal import Posix

/// A connection to RabbitMQ, which `connect` makes. Used by one thread.
///
/// Publishing never waits: what the socket does not take stays here, up to what the caller leaves unconfirmed. Whoever is
/// called by `poll` may publish and accept.
package final class RabbitMQConnection: BrokerConnection {
  /// A delivery's body of more bytes is not kept.
  package static let bodyBytesMax = 16 << 20
  /// Shorter ones are kept in any case: as many as are prefetched.
  package static let largeBodyBytes = 256 << 10
  /// Of larger ones, as many as fit into this are kept at once: a queue may be full of them.
  package static let largeBodiesBytesMax = 32 << 20
  /// What a body gets room for before it has come.
  private static let bodyBytesTrusted = 64 << 10
  private static let closeNanoseconds: Int64 = 2_000_000_000
  /// How often a broker may stop the channel's flow, or let it go on: each is owed an answer.
  private static let flowsMax = 1000
  /// What may come before a reply.
  private static let untoldMax = 1 << 18

  let channel: UInt16 = 1
  /// Where it is asked whether a queue is there: if not, that ends the channel.
  let secondChannel: UInt16 = 2
  let link: Link
  let codec = MethodCodec()
  private let writer: MessageWriter
  private var reader = HeaderReader()
  /// As the broker wants it, all around the payload included.
  var frameBytesMax = 4096
  /// Whether the broker allows a channel beside the first.
  var hasSecondChannel = true

  private var confirms = PendingConfirms()
  private var accepts = PendingAccepts()
  /// Bytes of the large bodies that are not accepted, by tag, and of all of them.
  private var largeBodies: [UInt64: Int] = [:]
  private var largeBodiesBytes = 0
  /// The number of the newest message.
  private var newest: UInt64 = 0
  /// What is to be told with the next `poll`.
  var untold: [BrokerNotice] = []

  /// The queues that are consumed: a consumer's tag is its place.
  var consumers: [String] = []
  /// Deliveries that may be unaccepted at once.
  var prefetch = 0
  /// The queues of subscriptions, by what they are bound to.
  var subscriptions: [[String]: String] = [:]

  /// What comes behind a method.
  private var content = Content.none
  /// Of the message that comes.
  private var body: [UInt8] = []
  /// Why the broker takes nothing; nil: it does.
  var blocked: String? { alarm ?? (isFlowing ? nil : "it has stopped the channel's flow") }
  /// What connection.blocked has said; nil: nothing, or that is over.
  private var alarm: String?
  /// Unless channel.flow has stopped it.
  private var isFlowing = true
  private var flows = 0
  /// What the broker is asked for just now, in words.
  var question: String?
  /// Of no more use, and why.
  private var failure: BrokerError?
  /// connection.close came.
  private var isEndedByBroker = false

  private enum Content {
    case none
    case header(Envelope)
    case body(Envelope, ContentHeader, left: UInt64, isKept: Bool)
  }

  private enum Envelope {
    case delivery(consumer: Int, tag: UInt64, isRedelivered: Bool)
    case returned(text: String, routingKey: String)
  }

  init(link: Link, program: String) {
    self.link = link
    writer = MessageWriter(program: program)
  }

  /// Runs `body`. An error of its ends the connection, and is thrown by everything from then on.
  func guarded<Result>(
    _ body: () throws(BrokerError) -> Result
  ) throws(BrokerError) -> Result {
    if let failure { throw failure }
    do throws(BrokerError) { return try body() } catch {
      failure = error
      link.sayLast { output in
        if isEndedByBroker {
          output.appendMethod(UInt32(AMQP_CONNECTION_CLOSE_OK_METHOD), channel: 0)
        } else {
          appendClose(to: &output)
        }
      }
      link.close()
      throw error
    }
  }

  /// For a thread that waits for others too: readable for a poller whenever `poll` has something to do. It polls now and
  /// then all the same, for heartbeats, and before it waits, to send.
  package var descriptor: Int32 { link.descriptor }

  package func close() {
    let deadline = SystemClock.monotonicNanoseconds() + Self.closeNanoseconds
    _ = try? guarded { () throws(BrokerError) in
      tellAccepted()
      appendClose(to: &link.output)
      // The broker has read all before it answers.
      while true {
        let left = deadline - SystemClock.monotonicNanoseconds()
        if left <= 0 { return }
        try link.flush()
        try link.receive(milliseconds: Int32(clamping: left / 1_000_000 + 1))
        while let frame = try link.nextFrame() {
          if case .closeOK = try handle(frame, { _ in }) { return }
        }
      }
    }
    if failure == nil { link.close() }
    failure = failure ?? .away("closed")
  }

  private func appendClose(to output: inout [UInt8]) {
    // Its texts are short.
    _ = unsafe codec.append(AMQP_CONNECTION_CLOSE_METHOD, channel: 0, to: &output) { texts in
      unsafe amqp_connection_close_t(
        reply_code: 200, reply_text: texts("done"), class_id: 0, method_id: 0)
    }
  }
}

// MARK: - Publishing and accepting

extension RabbitMQConnection {
  package func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    if let failure { throw failure }
    newest += 1
    if let text = writer.unwritable(message) {
      untold.append(.refused(newest, reason: "NAME_TOO_LONG", text: text))
      return newest
    }
    let isWritten = writer.append(
      message, channel: channel, frameBytesMax: frameBytesMax, to: &link.output)
    guard isWritten else {
      let text = "its attributes do not fit into a frame of \(frameBytesMax) bytes"
      untold.append(.refused(newest, reason: "MESSAGE_TOO_LARGE", text: text))
      return newest
    }
    confirms.append(
      number: newest,
      mark: message.isMandatory ? Self.mark(id: message.id, routingKey: message.routingKey) : 0)
    // Where that fails, `poll` finds out why.
    if link.isFull { try? link.flush() }
    return newest
  }

  /// A message that comes back does not say its tag: it is known by what it has. Never 0.
  private static func mark(id: String, routingKey: String) -> UInt64 {
    var hasher = Hasher()
    hasher.combine(id)
    hasher.combine(routingKey)
    return UInt64(bitPattern: Int64(hasher.finalize())) | 1
  }

  package func accept(_ tags: [UInt64]) throws(BrokerError) {
    if let failure { throw failure }
    for tag in tags {
      accepts.accept(tag)
      if !largeBodies.isEmpty, let count = largeBodies.removeValue(forKey: tag) {
        largeBodiesBytes -= count
      }
    }
  }

  private func tellAccepted() {
    accepts.tell { tag, multiple in
      link.output.appendMethod(UInt32(AMQP_BASIC_ACK_METHOD), channel: channel, byteCount: 8 + 1) {
        $0.append(bigEndian: tag)
        $0.append(multiple ? 1 : 0)
      }
    }
  }
}

// MARK: - Polling

extension RabbitMQConnection {
  package func poll(
    milliseconds: Int32, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) {
    try guarded { () throws(BrokerError) in
      var count = 0
      func counted(_ notice: BrokerNotice) {
        count += 1
        take(notice)
      }
      let notices = untold
      untold.removeAll(keepingCapacity: true)
      notices.forEach(counted)
      // Of before, while a reply was waited for.
      try takeFrames(counted)
      let deadline = SystemClock.monotonicNanoseconds() + Int64(milliseconds) * 1_000_000
      var left = count > 0 ? 0 : max(0, milliseconds)
      while true {
        tellAccepted()
        try link.flush()
        try link.receive(milliseconds: left)
        try takeFrames(counted)
        let rest = deadline - SystemClock.monotonicNanoseconds()
        if count > 0 || rest <= 0 { break }
        left = Int32(clamping: (rest + 999_999) / 1_000_000)
      }
      // What was published and accepted meanwhile.
      tellAccepted()
      try link.flush()
    }
  }

  private func takeFrames(_ take: (BrokerNotice) -> Void) throws(BrokerError) {
    while let frame = try link.nextFrame() {
      if try handle(frame, take) != nil { throw .fault("a reply that nobody asked for") }
    }
  }

  /// Sends what waits, and waits for a method that answers it. Notices are kept for the next `poll`.
  /// - Parameter deadline: of the monotonic clock.
  func reply(by deadline: Int64) throws(BrokerError) -> ServerMethod {
    while true {
      try link.flush()
      while let frame = try link.nextFrame() {
        if let reply = try handle(frame, { untold.append($0) }) { return reply }
        guard untold.count <= Self.untoldMax else { throw .fault("no reply, but all else") }
      }
      let left = deadline - SystemClock.monotonicNanoseconds()
      guard left > 0 else {
        let reason = blocked.map { " (it is blocked: \($0))" } ?? ""
        throw .away("it does not answer\(reason)")
      }
      try link.receive(milliseconds: Int32(clamping: (left + 999_999) / 1_000_000))
    }
  }

  /// Takes a frame.
  /// - Returns: a method that answers one of ours.
  private func handle(
    _ frame: Frame, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) -> ServerMethod? {
    guard frame.channel == channel || frame.kind == .method else {
      throw .fault("content on channel \(frame.channel)")
    }
    switch frame.kind {
    case .method:
      let method = try unsafe codec.decode(frame.payload)
      if frame.channel == secondChannel, question != nil { return method }
      guard frame.channel == (method.isOfConnection ? 0 : channel) else {
        throw .fault("a method on channel \(frame.channel)")
      }
      return try handle(method, take)
    case .header: try unsafe takeHeader(frame.payload, take)
    case .body: try unsafe takeBody(frame.payload, take)
    case .heartbeat: break
    }
    return nil
  }

  private func handle(
    _ method: ServerMethod, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) -> ServerMethod? {
    if !method.isOfConnection {
      guard case .none = content else { throw .fault("a method where content has to come") }
    }
    switch method {
    case .deliver(let consumer, let tag, let isRedelivered):
      guard let place = Int(consumer), consumers.indices.contains(place) else {
        throw .fault("a delivery for nobody")
      }
      guard accepts.append(tag) else { throw .fault("delivery \(tag) out of turn") }
      guard accepts.unaccepted <= prefetch else {
        throw .fault("more deliveries than it was asked for")
      }
      content = .header(.delivery(consumer: place, tag: tag, isRedelivered: isRedelivered))
    case .return(let code, let text, let routingKey):
      content = .header(.returned(text: "\(code) \(plainWords(text))", routingKey: routingKey))
    case .ack(let tag, let multiple):
      try settle(tag, multiple, take) { .confirmed($0) }
    case .nack(let tag, let multiple):
      try settle(tag, multiple, take) {
        .postponed($0, text: "a queue that it goes to is full, and rejects")
      }
    case .cancel(let consumer):
      let queue = Int(consumer).flatMap { consumers.indices.contains($0) ? consumers[$0] : nil }
      throw .away(
        "the broker no longer delivers from queue \(queue ?? "?"): it was deleted or moved")
    case .blocked(let text):
      alarm = plainWords(text)
      take(.blocked(blocked))
    case .unblocked:
      alarm = nil
      take(.blocked(blocked))
    case .channelFlow(let isActive):
      flows += 1
      guard flows <= Self.flowsMax else { throw .fault("channel.flow, again and again") }
      isFlowing = isActive
      link.output.appendMethod(UInt32(AMQP_CHANNEL_FLOW_OK_METHOD), channel: channel, byteCount: 1)
      {
        $0.append(isActive ? 1 : 0)
      }
      take(.blocked(blocked))
    case .close(let reason):
      isEndedByBroker = true
      throw reason.errorOfConnection(asked: question)
    case .channelClose(let reason): throw reason.errorOfChannel(asked: question)
    default: return method
    }
    return nil
  }

  private func settle(
    _ tag: UInt64, _ multiple: Bool, _ take: (BrokerNotice) -> Void,
    _ notice: (UInt64) -> BrokerNotice
  ) throws(BrokerError) {
    // 0 with `multiple`: all.
    let tag = tag == 0 && multiple ? confirms.newest : tag
    guard tag <= confirms.newest, tag > 0 || multiple else {
      throw .fault("an answer to message \(tag), which was not sent")
    }
    while let answered = confirms.next(tag, multiple: multiple) {
      if let text = answered.returned {
        take(.refused(answered.number, reason: "UNROUTABLE", text: text))
      } else {
        take(notice(answered.number))
      }
    }
  }

  // MARK: Content

  private func takeHeader(
    _ payload: UnsafeRawBufferPointer, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) {
    guard case .header(let envelope) = content else { throw .fault("a header where none belongs") }
    let header = try unsafe reader.read(payload)
    body = []
    guard header.bodyBytes > 0 else { return finish(envelope, header, isKept: true, take) }
    let isKept = keeps(envelope, header)
    if isKept { body.reserveCapacity(min(Int(header.bodyBytes), Self.bodyBytesTrusted)) }
    content = .body(envelope, header, left: header.bodyBytes, isKept: isKept)
  }

  private func takeBody(
    _ payload: UnsafeRawBufferPointer, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) {
    guard case .body(let envelope, let header, let left, let isKept) = content,
      UInt64(payload.count) <= left
    else {
      throw .fault("a body where none belongs")
    }
    if isKept { unsafe body.append(contentsOf: payload) }
    let rest = left - UInt64(payload.count)
    if rest == 0 { return finish(envelope, header, isKept: isKept, take) }
    content = .body(envelope, header, left: rest, isKept: isKept)
  }

  /// Whether the body that comes is kept: from now on there is room for it. Of a message of ours that came back it is not.
  private func keeps(_ envelope: Envelope, _ header: ContentHeader) -> Bool {
    guard case .delivery(_, let tag, _) = envelope else { return false }
    guard header.bodyBytes > Self.largeBodyBytes else { return true }
    guard header.bodyBytes <= Self.bodyBytesMax,
      largeBodiesBytes + Int(header.bodyBytes) <= Self.largeBodiesBytesMax
    else { return false }
    largeBodies[tag] = Int(header.bodyBytes)
    largeBodiesBytes += Int(header.bodyBytes)
    return true
  }

  private func finish(
    _ envelope: Envelope, _ header: ContentHeader, isKept: Bool, _ take: (BrokerNotice) -> Void
  ) {
    content = .none
    switch envelope {
    case .delivery(let consumer, let tag, let isRedelivered):
      let body = body
      self.body = []
      take(
        .delivery(
          BrokerDelivery(
            tag: tag, origin: consumers[consumer], id: header.id, type: header.type,
            contentType: header.contentType, partitionKey: header.partitionKey,
            correlationID: header.correlationID, replyTo: header.replyTo,
            // Of what is delivered for the first time, the number is its sender's.
            earlierDeliveries: isRedelivered ? max(header.earlierDeliveries, 1) : 0, body: body,
            omittedBytes: isKept ? 0 : Int(clamping: header.bodyBytes))))
    case .returned(let text, let routingKey):
      // Its answer comes right behind it. Without a message of ours like it, it is not ours.
      confirms.markReturned(Self.mark(id: header.id, routingKey: routingKey), because: text)
    }
  }
}
