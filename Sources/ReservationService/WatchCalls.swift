// EventService: from a WatchRequest to a watch.
internal import ChangeFeed
internal import GRPC
internal import StockStore

extension HoldfastHandler {
  func watch(
    _ message: Span<UInt8>, _ call: Call, _ response: Response
  ) throws(FieldViolation) -> Completion {
    // A filter that is passed over would show more than was asked for.
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    var request = WatchRequest()
    while let tag = reader.next() {
      switch tag {
      case .bytes(4):
        let submessage = reader.enter()
        var item = ProtoItem()
        while let tag = reader.next() {
          if !item.read(tag, &reader) { reader.other(tag, known: 1...2) }
        }
        reader.leave(submessage, "items", index: request.itemCount)
        if reader.isWhole, request.itemCount < rules.service.batchMax { addItem(item, &request) }
        request.itemCount += 1
      default: request.read(tag, &reader)
      }
    }
    guard reader.isWhole else { return .respond(lsn: refuse(reader, response)) }
    var options = WatchService.Options()
    options.heartbeatNanoseconds = try heartbeat(request)
    guard request.itemCount <= rules.service.batchMax else {
      throw FieldViolation("items", "0 to 500 items")
    }
    if hasBadEntries { throw badEntries[0] }
    let prefix = try rules.reference(request.referencePrefix, "reference_prefix")
    options.filter = EventFilter(
      kinds: try kinds(request), items: request.items,
      referencePrefix: unsafe Array(prefix.pointer))
    options.isOpen = !Permissions(rawValue: call.permissions).seesCallers
    // Where there is no feed, no watch can be had.
    options.start =
      try watches.map { (it) throws(FieldViolation) in try start(request, it.tokens) } ?? .now
    guard let watches else {
      errors.historyOff(response: response)
      return .respond(lsn: 0)
    }
    guard watches.begin(call.id, options) else {
      errors.tooManyEventWatches(response: response)
      return .respond(lsn: 0)
    }
    return .later
  }

  private func addItem(_ entry: ProtoItem, _ request: inout WatchRequest) {
    do throws(FieldViolation) {
      let item = try rules.item(sku: entry.sku, location: entry.location)
      request.items.insert(session.itemHash(item))
    } catch {
      badEntries.append(error.inside("items", at: request.itemCount))
    }
  }

  private func start(
    _ request: WatchRequest, _ tokens: ResumeToken
  ) throws(FieldViolation) -> WatchStart {
    switch request.start {
    case .now: return .now
    case .oldest(true): return .oldest
    case .oldest(false): throw FieldViolation("oldest", "true, or unset")
    case .token(let text):
      let bytes = unsafe text.pointer.bindMemory(to: UInt8.self)
      switch tokens.read(unsafe bytes.span) {
      case .point(let point): return .after(point)
      case .foreign: return .foreign
      case .malformed:
        throw FieldViolation("resume_token", "the resume_token of a response, unchanged")
      }
    }
  }

  private func heartbeat(_ request: WatchRequest) throws(FieldViolation) -> Int64 {
    let heartbeat = request.heartbeat
    guard heartbeat.isSet else { return WatchService.heartbeatNanoseconds }
    let second: Int64 = 1_000_000_000
    guard (1...3600).contains(heartbeat.seconds), (0..<1_000_000_000).contains(heartbeat.nanos),
      heartbeat.seconds < 3600 || heartbeat.nanos == 0
    else { throw FieldViolation("heartbeat", "1 s to 1 h, with 0 to 999999999 nanos") }
    return heartbeat.seconds * second + Int64(heartbeat.nanos)
  }

  private func kinds(_ request: WatchRequest) throws(FieldViolation) -> [EventKind] {
    var kinds: [EventKind] = []
    guard request.hasKnownKinds else {
      throw FieldViolation("kinds", "kinds of events that this server knows")
    }
    for kind in EventKind.allCases where request.kinds & 1 << UInt32(kind.rawValue) != 0 {
      kinds.append(kind)
    }
    return kinds
  }
}

/// A WatchRequest as it came. Of a oneof, the member that came last counts.
private struct WatchRequest {
  enum Start {
    case now
    case token(BorrowedBytes)
    case oldest(Bool)
  }

  var start = Start.now
  /// Bits.
  var kinds: UInt32 = 0
  var hasKnownKinds = true
  var items: Set<UInt64> = []
  var itemCount = 0
  var referencePrefix = BorrowedBytes.empty
  var heartbeat = ProtoDuration()

  mutating func read(_ tag: ProtoTag, _ reader: inout ProtoReader) {
    switch tag {
    case .bytes(1): start = .token(reader.bytes())
    case .varint(2): start = .oldest(reader.bool())
    case .varint(3): addKind(reader.varint())
    case .bytes(3):
      // Packed, as proto3 has it.
      let submessage = reader.enter()
      while reader.hasMore { addKind(reader.varint()) }
      reader.leave(submessage, "kinds")
    case .bytes(5): referencePrefix = reader.bytes()
    case .bytes(6): heartbeat.read(&reader, "heartbeat")
    default: reader.other(tag, known: 1...6)
    }
  }

  private mutating func addKind(_ value: UInt64) {
    guard let number = UInt8(exactly: value), let kind = EventKind(rawValue: number) else {
      hasKnownKinds = false
      return
    }
    kinds |= 1 << UInt32(kind.rawValue)
  }
}
