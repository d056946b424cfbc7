// BatchReserve and ReserveStream: many reserves in one message, each decided as if it had come alone, by the same
// code, and answered in-band. The loop asks for a message part by part (CallHandler).
internal import Bytes
package import GRPC
internal import StockStore

extension HoldfastHandler {
  package func handle(
    _ message: Span<UInt8>, part: inout MessagePart, of call: Call, response: Response
  ) -> Completion {
    if Method(rawValue: call.method) == .importStock {
      return importStock(message, part: &part, call, response)
    }
    if part.offset == 0, !beginBatch(message, response) { return .respond(lsn: 0) }
    // The name lives with the stream.
    let name = unsafe call.caller
    let caller = unsafe BorrowedBytes(name.baseAddress, count: name.count)
    let base = unsafe message.borrowed
    var reader = unsafe ProtoReader(base.dropping(part.offset), refusesUnknown: true)
    var lookahead = reader
    let before = session.hasLease ? session.lastLSN : 0
    var isBacked = true
    // `beginBatch` has seen that requests are all that there is.
    while part.budget > 0, let request = Self.nextRequest(&reader) {
      while ahead.hasRoom, let next = Self.nextRequest(&lookahead) {
        if ahead.isBehindAll(next) { ahead.prepare(next, caller, session, rules) }
      }
      ahead.use(request, session)
      let lsn = reserveInBand(request, caller, response)
      isBacked = isBacked && lsn > before
      part.lsn = max(part.lsn, lsn)
      part.offset = request.end(in: base)
      part.budget -= 1 + max(0, request.count - Self.usualBytes) / Self.bytesPerUnit
    }
    ahead.end(session)
    session.await(lsn: part.lsn)
    // What was decided is repeated to whoever asks again.
    if !isBacked, session.hasLease, !session.isLeaseLive {
      errors.leaseOver(response: response)
      return .respond(lsn: 0)
    }
    return reader.hasMore ? .more : .respond(lsn: part.lsn)
  }

  package func expectNothing() { ahead.removeAll() }

  /// A request of one line or two. What is longer has lines, and so many bytes of them are as much work as
  /// another request.
  private static let usualBytes = 96
  private static let bytesPerUnit = 32

  private static func nextRequest(_ reader: inout ProtoReader) -> BorrowedBytes? {
    reader.next() == nil ? nil : reader.bytes()
  }

  /// Whether the message is a list of requests, and of how many: nothing is decided of one that is not.
  private func beginBatch(_ message: Span<UInt8>, _ response: Response) -> Bool {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var count = 0
    while let tag = reader.next() {
      switch tag {
      case .bytes(1):
        _ = reader.bytes()
        count += 1
      default: reader.other(tag, known: 1...1)
      }
    }
    guard reader.isWhole else {
      _ = refuse(reader, response)
      return false
    }
    guard count >= 1, count <= rules.service.reservesPerMessageMax else {
      errors.badRequest([FieldViolation("requests", "1 to 8192 requests")], response: response)
      return false
    }
    return true
  }

  /// Decides one request, and writes its ReserveResult: results = 1, in it held = 1 or failure = 2. The log
  /// sequence number that it waits for.
  private func reserveInBand(
    _ request: BorrowedBytes, _ caller: BorrowedBytes, _ response: Response
  ) -> UInt64 {
    let writer = response.message
    let held = session.holdPrepared()
    if held.isMade {
      heldTail.writeResult(of: held, now: session.time, to: writer)
      return held.lsn
    }
    let prepared = session.reservePrepared()
    if let prepared, case .accepted(let hold) = prepared.result {
      heldTail.writeResult(hold, isReplay: prepared.replayed, to: writer)
      return prepared.lsn
    }
    let result = writer.begin(1)
    let outcome = writer.begin(1)
    errors.beginInBand()
    var lsn: UInt64 = 0
    do throws(FieldViolation) {
      if let prepared {
        lsn = prepared.lsn
        if case .refused(let refusal) = prepared.result {
          errors.refuse(
            refusal, isReplay: prepared.replayed, session: session, response: response
          ) { session.namedItem(line: $0) }
        }
      } else {
        let message = unsafe request.pointer.bindMemory(to: UInt8.self)
        lsn = try reserve(unsafe message.span, caller, response)
      }
    } catch {
      errors.badRequest(error.index == nil ? [error] : badEntries, response: response)
      badEntries.removeAll()
    }
    if errors.endInBand() { writer.renumber(outcome, 2) }
    writer.end(outcome)
    writer.end(result)
    return lsn
  }
}

/// Reserves of a batch that come next: what each looks up is fetched while those before it are decided. In the
/// order in which they come, named by where they lie: until `removeAll` nothing of them moves.
@safe final class BatchLookahead {
  private static let capacity = StoreSession.preparedMax

  // Behind a constant pointer: properties of a class are checked for exclusive access at every use.
  private let state: UnsafeMutablePointer<State>

  @unsafe private struct State {
    var requests = unsafe InlineArray<16, UnsafeRawPointer?>(repeating: nil)
    /// Requests that were ever taken and added; they lie at these numbers modulo the capacity.
    var taken = 0
    var added = 0
    /// Of these, the second step was done.
    var fetched = 0
  }

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
  }

  deinit { unsafe state.deallocate() }

  var hasRoom: Bool { unsafe state.pointee.added - state.pointee.taken < Self.capacity }

  func removeAll() { unsafe state.pointee.taken = state.pointee.added }

  /// Whether the request lies behind all that were prepared: it was not prepared itself.
  func isBehindAll(_ request: BorrowedBytes) -> Bool {
    guard unsafe state.pointee.added > state.pointee.taken,
      let start = unsafe request.pointer.baseAddress,
      let last = unsafe state.pointee.requests[(state.pointee.added - 1) % Self.capacity]
    else { return true }
    return unsafe start > last
  }

  /// The first step: the key and the first line's item are hashed, and what they lead to is fetched. A request
  /// that is not as encoders write it goes without.
  ///
  /// One of a key, a line, and a ttl or none, as nearly all are, is read whole, and not again. Whatever else it
  /// may be, right or wrong, the call of its own finds out.
  func prepare(
    _ request: BorrowedBytes, _ caller: BorrowedBytes, _ session: StoreSession,
    _ rules: FieldRules
  ) {
    guard hasRoom, let start = unsafe request.pointer.baseAddress else { return }
    var reader = unsafe ProtoReader(request, refusesUnknown: true)
    guard reader.next() == .bytes(1) else { return }
    let key = reader.bytes()
    guard reader.next() == .bytes(2) else { return }
    let line = reader.enter()
    var item = ProtoItem()
    var last = reader.next()
    while let tag = last, item.read(tag, &reader) { last = reader.next() }
    guard key.count <= Self.bytesMax, item.sku.count <= Self.bytesMax,
      item.location.count <= Self.bytesMax
    else { return }
    var whole: WholeReserve?
    if last == .varint(3) {
      let quantity = reader.int64()
      if !reader.hasMore {
        reader.leave(line, "lines")
        whole = Self.whole(quantity, &reader, key, item, rules)
      }
    }
    let place = unsafe state.pointee.added % Self.capacity
    session.prepareReserve(
      place, IdempotencyScope(caller: caller, key: key),
      ItemName(sku: item.sku, location: item.location), whole: whole)
    unsafe state.pointee.requests[place] = start
    unsafe state.pointee.added += 1
  }

  /// What the reserve asks for, if nothing is behind its line but a ttl, and every field follows its rule.
  @inline(__always)
  private static func whole(
    _ quantity: Int64, _ reader: inout ProtoReader, _ key: BorrowedBytes, _ item: ProtoItem,
    _ rules: FieldRules
  ) -> WholeReserve? {
    var ttl: Int64?
    do throws(FieldViolation) {
      if reader.hasMore {
        guard reader.next() == .bytes(3) else { return nil }
        var duration = ProtoDuration()
        duration.read(&reader, "ttl")
        if reader.hasMore { return nil }
        ttl = try rules.timeToLive(seconds: duration.seconds, nanos: duration.nanos)
      }
      guard reader.isWhole else { return nil }
      _ = try rules.key(key)
      _ = try rules.item(sku: item.sku, location: item.location)
      return WholeReserve(quantity: try rules.quantity(quantity), ttlNanoseconds: ttl)
    } catch {
      return nil
    }
  }

  /// The request is decided now.
  func use(_ request: BorrowedBytes, _ session: StoreSession) {
    session.usePrepared(nil)
    while unsafe state.pointee.taken < state.pointee.added {
      let place = unsafe state.pointee.taken % Self.capacity
      guard let start = unsafe state.pointee.requests[place],
        let wanted = unsafe request.pointer.baseAddress, unsafe start <= wanted
      else { break }
      unsafe state.pointee.taken += 1
      if unsafe start == wanted {
        session.usePrepared(place)
        break
      }
    }
    // The second step, for one that comes in a while: what the first has fetched leads to its item.
    let next = unsafe max(state.pointee.fetched, state.pointee.taken)
    let end = unsafe min(state.pointee.added, state.pointee.taken + Self.capacity / 2)
    for index in next..<max(next, end) { session.fetchPrepared(index % Self.capacity) }
    unsafe state.pointee.fetched = max(next, end)
  }

  /// No command that comes is a prepared one, until `use` says so.
  func end(_ session: StoreSession) { session.usePrepared(nil) }

  /// As long as keys, SKUs and locations may be.
  private static let bytesMax = 64
}

extension BorrowedBytes {
  /// Without the first `count` bytes, of which there are as many.
  func dropping(_ count: Int) -> BorrowedBytes {
    precondition(count <= self.count, "more than there are")
    return unsafe BorrowedBytes(
      pointer.baseAddress?.advanced(by: count).assumingMemoryBound(to: UInt8.self),
      count: self.count - count)
  }

  /// Where these bytes, which are some of `whole`, end in it.
  func end(in whole: BorrowedBytes) -> Int {
    guard let start = unsafe pointer.baseAddress, let base = unsafe whole.pointer.baseAddress else {
      return 0
    }
    return unsafe start + count - base
  }
}
